//! Logs of task instances.

use std::sync::Arc;

use crate::attempt::LogReader;
use crate::id::{DagId, MapIndex, RunId, TaskId};

use super::{Airflow, OpError};

impl Airflow {
    /// Reads the log of a task instance, on whatever machine it runs or ran: see [`LogReader`].
    ///
    /// # Errors
    ///
    /// [`OpError::UnknownRun`].
    pub async fn task_log(
        &self,
        dag_id: &DagId,
        run_id: &RunId,
        task_id: &TaskId,
        map_index: MapIndex,
    ) -> Result<LogReader, OpError> {
        let run = self.run(dag_id, run_id).await?;
        let reader = LogReader::new(Arc::clone(self.store()), run, task_id.clone(), map_index);
        let config = self.runner_config();
        let reader = match &config.log_folder {
            Some(folder) => reader.or_files(folder.clone(), config.log_template.clone()),
            None => reader,
        };
        Ok(match &self.0.worker_logs {
            Some(workers) => reader.or_workers(Arc::clone(workers)),
            None => reader,
        })
    }
}
