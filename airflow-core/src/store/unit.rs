//! What a store writes at once: the decisions of one run, with all they were decided on.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::id::{DagId, MapIndex, RunPk, TaskId};
use crate::state::{RunTransition, Transition};
use crate::xcom::XComValue;

use super::model::{AttemptEnd, AttemptStart, Expansion, RunRow, TiData};
use super::{AssetEvent, LogChunk, Notice};

/// A change that is written as a whole or not at all. Of one run, and of each task instance at most one change.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// The run.
    pub run: RunPk,
    /// What the run's generation must be.
    pub generation: u32,
    /// Whether the generation grows by one: a user's change.
    pub by_user: bool,
    /// Who decided: `scheduler`, or a user.
    pub actor: String,
    /// When it was decided.
    pub at: DateTime<Utc>,
    /// The change of the run's state.
    pub run_change: Option<RunChange>,
    /// The changes of task instances.
    pub tis: Vec<TiChange>,
    /// Lengths of mappings; an existing one is replaced.
    pub expansions: Vec<Expansion>,
    /// Instances whose values are deleted, before `xcoms` are written.
    pub xcom_clears: Vec<(TaskId, MapIndex)>,
    /// Values to write.
    pub xcoms: Vec<XComWrite>,
    /// Attempts that start. One that is stored as queued under the same id, instance and number is claimed: it is
    /// running from now on, in the process that is named. Any other that exists makes the unit stale.
    pub started: Vec<AttemptStart>,
    /// Attempts that end. One that has ended already, or is no attempt of this run, is left as it is.
    pub ended: Vec<AttemptEnd>,
    /// What it takes of limits, and gives back. Changes of one limit are added up first; giving back more than is taken
    /// in one unit never fails.
    pub slots: Vec<SlotChange>,
    /// What callbacks are to be told of these changes.
    pub notices: Vec<Notice>,
    /// Assets that are new by these changes.
    pub asset_events: Vec<AssetEvent>,
    /// The ends of the logs of attempts that end, written as
    /// [`add_log_chunks`](super::Store::add_log_chunks) does it.
    pub logs: Vec<LogChunk>,
}

impl Unit {
    /// A unit that changes nothing yet.
    pub fn new(run: &RunRow, actor: &str, at: DateTime<Utc>) -> Self {
        Self {
            run: run.pk,
            generation: run.generation,
            by_user: false,
            actor: actor.to_owned(),
            at,
            run_change: None,
            tis: Vec::new(),
            expansions: Vec::new(),
            xcom_clears: Vec::new(),
            xcoms: Vec::new(),
            started: Vec::new(),
            ended: Vec::new(),
            slots: Vec::new(),
            notices: Vec::new(),
            asset_events: Vec::new(),
            logs: Vec::new(),
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.run_change.is_none()
            && self.tis.is_empty()
            && self.expansions.is_empty()
            && self.xcom_clears.is_empty()
            && self.xcoms.is_empty()
            && self.started.is_empty()
            && self.ended.is_empty()
            && self.slots.is_empty()
            && self.notices.is_empty()
            && self.asset_events.is_empty()
            && self.logs.is_empty()
            && !self.by_user
    }
}

/// A change of a run's state. Refused unless the run is in the state before.
#[derive(Debug, Clone, PartialEq)]
pub struct RunChange {
    /// From where to where.
    pub transition: RunTransition,
    /// The start after the change.
    pub started_at: Option<DateTime<Utc>>,
    /// The end after the change.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it failed.
    pub reason: Option<String>,
}

/// A change of a task instance. Refused unless it is in the state before, with this epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct TiChange {
    /// The task.
    pub task_id: TaskId,
    /// The instance.
    pub map_index: MapIndex,
    /// From where to where.
    pub transition: Transition,
    /// The epoch before; after it, it is one more.
    pub epoch: u32,
    /// All else after the change.
    pub data: TiData,
}

/// A value to write. One that exists under the same key is replaced.
#[derive(Debug, Clone)]
pub struct XComWrite {
    /// The task.
    pub task_id: TaskId,
    /// The instance.
    pub map_index: MapIndex,
    /// The key.
    pub key: String,
    /// The value.
    pub value: Arc<XComValue>,
}

impl PartialEq for XComWrite {
    fn eq(&self, other: &Self) -> bool {
        (&self.task_id, self.map_index, &self.key, self.value.text())
            == (&other.task_id, other.map_index, &other.key, other.value.text())
    }
}

/// What became of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitResult {
    /// It is written.
    Committed,
    /// It was decided on an old view: nothing of it is written.
    Stale,
    /// A limit has no room: nothing of it is written. If the units of one call together do not fit, all of them that
    /// take from this limit may be refused.
    Full(SlotKey),
}

/// A limit on how much may be active at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SlotKey {
    /// The slots of a pool.
    Pool(String),
    /// The active task instances of a dag.
    Dag(DagId),
    /// The active instances of a task over all runs.
    Task(DagId, TaskId),
    /// The running runs of a dag.
    Runs(DagId),
    /// The slots that deferred instances would take of a pool: never full by itself, but part of what is taken of the
    /// pool if that says `include_deferred`.
    Deferred(String),
}

impl fmt::Display for SlotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(name) => write!(f, "pool:{name}"),
            Self::Dag(dag) => write!(f, "dag:{dag}"),
            Self::Task(dag, task) => write!(f, "task:{dag}:{task}"),
            Self::Runs(dag) => write!(f, "runs:{dag}"),
            Self::Deferred(pool) => write!(f, "deferred:{pool}"),
        }
    }
}

/// What is taken of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotChange {
    /// The limit.
    pub key: SlotKey,
    /// How much is taken; negative if it is given back. Giving back never fails, and never goes below zero.
    pub delta: i64,
    /// How much may be taken in all; `None` or negative if there is no limit. A pool's size is what the store says, and
    /// a pool that it does not know has no room; this is not looked at.
    pub limit: Option<i64>,
}
