//! What callbacks are to be told, kept with the change that they are told of.

use chrono::{DateTime, Utc};

use crate::id::{DagId, IncarnationId, MapIndex, RunId, RunPk, TaskId};

/// Something that callbacks wait for: written in the transaction of the change itself, deleted once they have returned. What
/// is still there when its owner is dead is taken over and told by another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The task; `None` if it is of the run.
    pub task_id: Option<TaskId>,
    /// The instance of the task.
    pub map_index: MapIndex,
    /// The epoch of the instance after the change; of a run, its generation. With the task and the index it tells one
    /// notice of a run from another.
    pub epoch: u32,
    /// The event: `success`, `failure`, `retry` or `skipped`.
    pub event: String,
    /// The number of the try; 0 for a run.
    pub try_number: u32,
    /// Why it happened.
    pub reason: Option<String>,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The process that calls the callbacks.
    pub owner: IncarnationId,
}

/// Which notice of all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NoticeKey {
    /// The run.
    pub run: RunPk,
    /// The task; `None` if it is of the run.
    pub task_id: Option<TaskId>,
    /// The instance of the task.
    pub map_index: MapIndex,
    /// As in [`Notice::epoch`].
    pub epoch: u32,
}

/// A notice that waits, with what callbacks want to know of its run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeRow {
    /// The run.
    pub run: RunPk,
    /// Its dag.
    pub dag_id: DagId,
    /// Its id.
    pub run_id: RunId,
    /// Its logical date.
    pub logical_date: DateTime<Utc>,
    /// What happened.
    pub notice: Notice,
}

impl Notice {
    /// Its key among all notices.
    pub fn key(&self, run: RunPk) -> NoticeKey {
        NoticeKey { run, task_id: self.task_id.clone(), map_index: self.map_index, epoch: self.epoch }
    }
}

impl NoticeRow {
    /// Its key.
    pub fn key(&self) -> NoticeKey {
        self.notice.key(self.run)
    }
}
