//! Runs that tasks ask for.

use std::sync::{Arc, Weak};

use async_trait::async_trait;

use crate::attempt::RunMaker;
use crate::operator::{BoxError, MadeRun, RunRequest, TaskError};
use crate::state::RunState;

use super::ops::{ClearOptions, OpError};
use super::runs::TriggerError;
use super::{Airflow, Parts};

/// Makes them with the operations of the application. Holds it weakly: its executor holds this.
#[derive(Debug)]
pub(super) struct AppRuns(Weak<Parts>);

impl AppRuns {
    pub(super) fn of(airflow: &Airflow) -> Self {
        Self(Arc::downgrade(&airflow.0))
    }
}

#[async_trait]
impl RunMaker for AppRuns {
    async fn make_run(&self, request: &RunRequest) -> Result<MadeRun, BoxError> {
        let airflow = Airflow(self.0.upgrade().ok_or("the application is being taken down")?);
        let (dag_id, run_id) = (&request.dag_id, &request.run_id);
        if request.fail_if_paused {
            let row = airflow.store().dag(dag_id).await?;
            if row.is_some_and(|row| row.is_paused) {
                return Err(TaskError::fail(format_args!("dag `{dag_id}` is paused")).into());
            }
        }
        let mut trigger = airflow.trigger(dag_id.clone()).run_id(run_id.clone()).actor(&request.by);
        if let Some(date) = request.logical_date {
            trigger = trigger.logical_date(date);
        }
        if let Some(conf) = &request.conf {
            trigger = trigger.conf(conf);
        }
        match trigger.await {
            Ok(_) => Ok(MadeRun { is_foreign: false }),
            Err(TriggerError::Exists(..)) => {
                let row = airflow.run(dag_id, run_id).await?;
                let is_foreign = row.triggered_by != request.by;
                // One of its own that failed is what a retry is for.
                if request.reset && (is_foreign || row.state == RunState::Failed) {
                    airflow.clear(dag_id, run_id, &ClearOptions::default(), &request.by).await?;
                }
                Ok(MadeRun { is_foreign })
            }
            // The store may be back with the next try.
            Err(TriggerError::Op(error @ OpError::Store(_))) => Err(error.into()),
            Err(error) => Err(TaskError::fail(error).into()),
        }
    }
}
