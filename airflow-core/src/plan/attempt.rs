//! One attempt: what an executor gets, and what it reports.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::asset::OutletEvent;
use crate::compile::CompiledTask;
use crate::dag::Isolation;
use crate::id::{AttemptId, RunPk, TaskIdx, TiKey};
use crate::operator::{Deferral, RunInfo, TaskError, TiInfo, Wait};
use crate::store::LogChunk;
use crate::xcom::XComValue;

/// An attempt to be made. The database knows of it already.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attempt {
    /// The run.
    pub run: Arc<RunInfo>,
    /// The version of the dag it needs.
    pub fingerprint: String,
    /// The task, in that version.
    pub task: TaskIdx,
    /// The instance, the try, the attempt id and the epoch.
    pub ti: TiInfo,
    /// The queue.
    pub queue: String,
    /// What its task says to whoever runs it.
    pub terms: Terms,
    /// When it was dispatched.
    pub at: DateTime<Utc>,
    /// When the first attempt of this try was.
    pub try_started_at: DateTime<Utc>,
    /// What the instance waits for, or goes on with.
    pub wait: Option<Box<Wait>>,
    /// Results of tasks directly upstream that were at hand, as the store has them; the others are read. They do not
    /// leave the process.
    #[serde(skip)]
    pub given: Vec<(TiKey, Arc<XComValue>)>,
    /// Changes whenever a value that something is mapped over may have changed: values read under one stamp of this
    /// process may be kept.
    pub source_stamp: u64,
}

impl Attempt {
    /// Which instance of which task.
    pub fn key(&self) -> TiKey {
        TiKey { task: self.task, map: self.ti.map_index }
    }
}

/// What a task says to whoever runs its attempts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Terms {
    /// Whether it is to run in a process of its own; if it does not say, as the executor is set.
    pub isolation: Option<Isolation>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// What the executor is to know: Airflow's `executor_config`.
    pub executor_config: Option<Arc<Value>>,
}

impl Terms {
    /// Those of a task.
    pub fn of(task: &CompiledTask) -> Self {
        let settings = &task.settings;
        Self {
            isolation: settings.isolation,
            timeout: settings.timeout,
            executor_config: settings.executor_config.clone(),
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// With this result.
    Success(Option<Arc<XComValue>>),
    /// With an error.
    Failed {
        /// What went wrong.
        error: String,
        /// Whether another try makes sense.
        retryable: bool,
        /// How long to wait before it, instead of the configured time.
        after: Option<Duration>,
    },
    /// It asked to be skipped.
    Skipped(String),
    /// It asked to be run again at this time.
    Rescheduled(DateTime<Utc>),
    /// It waits for this without a slot.
    Deferred(Box<Deferral>),
    /// What it waited for has happened: it goes on with this event.
    Fired(Value),
    /// It was asked to stop, and did.
    Cancelled,
    /// Its process died.
    Lost,
    /// Its process gives it back while it stops.
    HandedBack,
}

impl From<TaskError> for Outcome {
    fn from(error: TaskError) -> Self {
        let failed = |error: String, retryable, after| Self::Failed { error, retryable, after };
        match error {
            TaskError::Skip(reason) => Self::Skipped(reason),
            TaskError::Fail(reason) => failed(reason, false, None),
            TaskError::Retry { after, reason } => failed(reason, true, Some(after)),
            TaskError::Reschedule(at) => Self::Rescheduled(at),
            TaskError::Defer(deferral) => Self::Deferred(deferral),
            error @ TaskError::Error(_) => failed(error.to_string(), true, None),
        }
    }
}

impl Report {
    /// An attempt that is given back: it costs no retry.
    pub fn handed_back(run: RunPk, key: TiKey, attempt_id: AttemptId, at: DateTime<Utc>) -> Self {
        let (pushed, asset_events) = (Vec::new(), Vec::new());
        let (outcome, rendered, log) = (Outcome::HandedBack, None, None);
        Self { run, key, attempt_id, outcome, pushed, asset_events, rendered, log, at }
    }
}

/// What an executor says at the end of an attempt, or who waits at the end of a wait.
#[derive(Debug, Clone)]
pub struct Report {
    /// The run.
    pub run: RunPk,
    /// The instance.
    pub key: TiKey,
    /// The attempt.
    pub attempt_id: AttemptId,
    /// How it ended.
    pub outcome: Outcome,
    /// Values it pushed beside its result.
    pub pushed: Vec<(String, Arc<XComValue>)>,
    /// What it says of assets it has made.
    pub asset_events: Vec<OutletEvent>,
    /// Its template fields as rendered, by name; `None` if it has none.
    pub rendered: Option<Value>,
    /// The end of its log, if that goes to the store and is not there yet: it is written with the end of the attempt.
    pub log: Option<LogChunk>,
    /// When it ended.
    pub at: DateTime<Utc>,
}
