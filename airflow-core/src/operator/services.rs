//! What a task can ask the outside world for, and what it asks with.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::asset::{AssetEvent, AssetEventFilter};
use crate::connection::Connection;
use crate::id::{DagId, MapIndex, RunId, RunPk, TaskId};
use crate::state::{RunState, TaskState};
use crate::xcom::XComValue;

use super::context::RunInfo;
use super::error::BoxError;

/// Which stored values to read. Fields that are `None` do not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XComQuery {
    /// The tasks, in the order of the answer.
    pub task_ids: Vec<TaskId>,
    /// The key.
    pub key: String,
    /// One instance of a mapped task.
    pub map_index: Option<MapIndex>,
    /// Another dag than the own.
    pub dag_id: Option<DagId>,
    /// Another run than the own.
    pub run_id: Option<RunId>,
    /// Look into earlier runs if this one has none.
    pub include_prior_dates: bool,
}

/// What a task can ask the outside world for while it runs.
#[async_trait]
pub trait TaskServices: Send + Sync + 'static {
    /// Reads stored values: one list for each task of the query, by map index.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    async fn xcoms(&self, run: &RunInfo, query: XComQuery) -> Result<Vec<Vec<Arc<XComValue>>>, BoxError>;

    /// Reads a variable.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    async fn variable(&self, key: &str) -> Result<Option<String>, BoxError>;

    /// Writes a variable.
    ///
    /// # Errors
    ///
    /// If the store cannot be written.
    async fn set_variable(&self, key: &str, value: &str) -> Result<(), BoxError>;

    /// Reads a connection; its secrets are hidden in logs from now on.
    ///
    /// # Errors
    ///
    /// If no place that may have it can be asked.
    async fn connection(&self, conn_id: &str) -> Result<Option<Connection>, BoxError>;

    /// Hides a text in logs and rendered fields from now on.
    fn mask_secret(&self, secret: &str);

    /// Events of assets that match.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    async fn asset_events(&self, filter: &AssetEventFilter) -> Result<Vec<AssetEvent>, BoxError> {
        let _ = filter;
        Err("events of assets cannot be looked at here".into())
    }

    /// Runs of a dag that match, by logical date and number.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    async fn find_runs(&self, query: &RunsQuery) -> Result<Vec<FoundRun>, BoxError> {
        let _ = query;
        Err("runs cannot be looked at here".into())
    }

    /// The states of the task instances of a run that have begun.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    async fn task_states(&self, run: RunPk) -> Result<Vec<(TaskId, MapIndex, TaskState)>, BoxError> {
        let _ = run;
        Err("runs cannot be looked at here".into())
    }

    /// The tasks that each of `names`, which is a task or a group, stands for: none if the dag has no such. Nothing if
    /// there is no such dag.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    async fn dag_tasks(
        &self,
        dag_id: &DagId,
        names: &[String],
    ) -> Result<Option<Vec<Vec<TaskId>>>, BoxError> {
        let _ = (dag_id, names);
        Err("dags cannot be looked at here".into())
    }

    /// Makes a run of a dag, or finds the one that the same requester has made.
    ///
    /// # Errors
    ///
    /// If the dag is unknown, the run does not fit it, or the store fails.
    async fn make_run(&self, request: &RunRequest) -> Result<MadeRun, BoxError> {
        let _ = request;
        Err("runs cannot be made here".into())
    }
}

/// Which runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunsQuery {
    /// Of this dag.
    pub dag_id: DagId,
    /// Of this name.
    pub run_id: Option<RunId>,
    /// About this date.
    pub logical_date: Option<DateTime<Utc>>,
}

/// A run that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRun {
    /// Its number.
    pub pk: RunPk,
    /// Its name.
    pub run_id: RunId,
    /// How it stands.
    pub state: RunState,
    /// What it is about.
    pub logical_date: DateTime<Utc>,
}

/// A run that a task asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRequest {
    /// The dag.
    pub dag_id: DagId,
    /// Its name.
    pub run_id: RunId,
    /// What it is about; now if it is not given.
    pub logical_date: Option<DateTime<Utc>>,
    /// What it gets.
    pub conf: Option<Value>,
    /// Who asks: the same for all tries of a task instance.
    pub by: String,
    /// Whether a run that is there already is to run again.
    pub reset: bool,
    /// Whether to refuse it while the dag is paused.
    pub fail_if_paused: bool,
}

/// What became of a request for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeRun {
    /// Whether somebody else had made a run of this name before.
    pub is_foreign: bool,
}
