//! Runs of versions that nobody carries any more.

use crate::id::DagId;
use crate::scheduler::Wake;
use crate::state::RunState;
use crate::store::{RunFilter, RunRow};

use super::{Airflow, OpError};

impl Airflow {
    /// Moves active runs of a dag, or one of them, to the version of the dag that this process has, if no scheduler that
    /// is alive has their own. Tasks that are gone are passed over, new ones are added; task instances keep their states
    /// by task id. Returns the runs that were moved.
    ///
    /// ```
    /// # use airflow_core::app::Airflow;
    /// # async fn example(airflow: Airflow) -> Result<(), Box<dyn std::error::Error>> {
    /// for run in airflow.adopt_runs(&"sales".into(), None, "me").await? {
    ///     println!("{} goes on with the code that is there now", run.run_id);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If this process has no such dag, or the store fails.
    pub async fn adopt_runs(
        &self,
        dag_id: &DagId,
        run_id: Option<&str>,
        actor: &str,
    ) -> Result<Vec<RunRow>, OpError> {
        let dag = self.dag(dag_id)?;
        let filter = RunFilter {
            dag_id: Some(dag_id.clone()),
            run_id: run_id.map(Into::into),
            states: vec![RunState::Queued, RunState::Running],
            ..RunFilter::default()
        };
        let mut moved = Vec::new();
        for run in self.store().runs(&filter).await? {
            if self.adopt(&run, &dag.fingerprint).await? {
                self.note(actor, "adopt", dag_id, Some(&run.run_id), Some(run.fingerprint.clone())).await?;
                moved.push(run);
            }
        }
        if !moved.is_empty()
            && let Some(scheduler) = self.scheduler()
        {
            scheduler.wake(Wake::Refresh);
        }
        Ok(moved)
    }

    /// Moves a run to a version, unless it is of that one or a scheduler has its own.
    pub(super) async fn adopt(&self, run: &RunRow, fingerprint: &str) -> Result<bool, OpError> {
        if run.fingerprint == fingerprint {
            return Ok(false);
        }
        Ok(self.store().move_run(run.pk, &run.fingerprint, fingerprint).await?)
    }
}
