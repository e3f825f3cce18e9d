//! What a run left: its end, the states of its task instances, the results of its tasks.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use crate::id::MapIndex;
use crate::state::TaskState;
use crate::store::{RunRow, XComFilter, XComRow};
use crate::xcom::RETURN_VALUE;

use super::Airflow;
use super::ops::OpError;

impl Airflow {
    /// Waits until a run has ended, whoever executes it, and returns it as it is then.
    ///
    /// # Errors
    ///
    /// If the run was deleted, or the store fails.
    pub async fn wait(&self, run: &RunRow) -> Result<RunRow, OpError> {
        self.wait_for(&run.dag_id, &run.run_id).await
    }

    /// The states of the task instances of a run, by `task` or, for an instance of a mapped task, `task[2]`. What has
    /// not been decided yet is missing.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn states(&self, run: &RunRow) -> Result<BTreeMap<String, TaskState>, OpError> {
        let tis = self.store().task_instances(run.pk).await?;
        let name = |task: &str, map: MapIndex| match map.get() {
            Some(index) => format!("{task}[{index}]"),
            None => task.to_owned(),
        };
        Ok(tis.iter().map(|ti| (name(ti.task_id.as_str(), ti.map_index), ti.state)).collect())
    }

    /// What a task of a run returned.
    ///
    /// # Errors
    ///
    /// [`OpError::NoResult`] if it returned nothing (yet), or is mapped; [`OpError::Unreadable`] if it is no `T`; or if
    /// the store fails.
    pub async fn result<T: DeserializeOwned>(&self, run: &RunRow, task: &str) -> Result<T, OpError> {
        let found = self.returned(run, task, Some(MapIndex::UNMAPPED)).await?;
        match found.first() {
            Some(row) => decode(run, row),
            None => Err(OpError::NoResult(task.to_owned(), run.run_id.to_string())),
        }
    }

    /// What the instances of a mapped task returned, in their order; those that returned nothing are left out.
    ///
    /// # Errors
    ///
    /// [`OpError::Unreadable`] if one of them is no `T`, or if the store fails.
    pub async fn results<T: DeserializeOwned>(&self, run: &RunRow, task: &str) -> Result<Vec<T>, OpError> {
        let found = self.returned(run, task, None).await?;
        found.iter().map(|row| decode(run, row)).collect()
    }

    async fn returned(
        &self,
        run: &RunRow,
        task: &str,
        map_index: Option<MapIndex>,
    ) -> Result<Vec<XComRow>, OpError> {
        let (tasks, key) = (vec![task.into()], Some(RETURN_VALUE.to_owned()));
        Ok(self.store().xcoms(&XComFilter { run: run.pk, tasks, map_index, key }).await?)
    }
}

fn decode<T: DeserializeOwned>(run: &RunRow, row: &XComRow) -> Result<T, OpError> {
    row.value.decode().map_err(|error| OpError::Unreadable {
        task: row.task_id.to_string(),
        run: run.run_id.to_string(),
        wanted: std::any::type_name::<T>(),
        why: error.to_string(),
    })
}
