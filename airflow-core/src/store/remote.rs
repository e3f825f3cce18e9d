//! Rows of attempts that run in other processes, and of the workers that run them.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::id::{AttemptId, DagId, IncarnationId, MapIndex, RunPk, TaskId};

use super::{AttemptStart, AttemptState, LogChunk, RunRow, TiRow};

/// An attempt that was looked up by its id, with the instance and the run that it is of, all of one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundAttempt {
    /// The run.
    pub run: RunRow,
    /// The instance. Its current attempt may be another one by now.
    pub ti: TiRow,
    /// The attempt.
    pub start: AttemptStart,
    /// How it stands.
    pub state: AttemptState,
}

/// How an attempt ended, as the process that ran it has written it down for whoever decides about the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReport {
    /// The attempt.
    pub attempt_id: AttemptId,
    /// Its run.
    pub run: RunPk,
    /// Its task.
    pub task_id: TaskId,
    /// Its instance.
    pub map_index: MapIndex,
    /// When it ended.
    pub at: DateTime<Utc>,
    /// The outcome, the values and the rendered fields, as JSON.
    pub body: String,
    /// The end of its log, which is kept with the other pieces of it and not with the report.
    pub log: Option<LogChunk>,
}

/// What waits in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedAttempts {
    /// The queue.
    pub queue: String,
    /// How many attempts nobody has claimed.
    pub count: u64,
    /// When the oldest of them was queued.
    pub oldest: DateTime<Utc>,
}

/// A worker as it describes itself.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerRow {
    /// Its name, at most 250 characters, unique among those that live.
    pub name: String,
    /// The process that has the name, or had it last.
    pub process: IncarnationId,
    /// Its queues, slots, what it runs, what it has done.
    pub info: Value,
    /// When it last said so, by the store's clock.
    pub at: DateTime<Utc>,
    /// Whether that process has ended: it said goodbye, or was declared dead.
    pub has_ended: bool,
}

/// What waits for a version of a dag that no process of a kind carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingVersion {
    /// Which processes do not: `scheduler` of active runs, `worker` of queued attempts.
    pub kind: String,
    /// The dag.
    pub dag_id: DagId,
    /// The version.
    pub fingerprint: String,
    /// How many runs or attempts wait.
    pub waiting: u64,
    /// Since when the oldest does.
    pub since: DateTime<Utc>,
}

/// A version of a dag, and a process that carries it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Carrier {
    /// The dag.
    pub dag_id: DagId,
    /// The version.
    pub fingerprint: String,
    /// The process.
    pub process: IncarnationId,
    /// `scheduler`, `worker`, …
    pub kind: String,
}
