//! Assets as they are stored: what dags say of them, their events, and what waits for a dag to run.

use chrono::{DateTime, Utc};
use serde_json::Value;

pub use crate::asset::{AssetEvent, AssetEventFilter};
use crate::asset::{AssetEventId, AssetKey, AssetRef};
use crate::id::{DagId, TaskId};
use crate::state::task::words;

words! {
    /// What a dag has to do with an asset.
    AssetRole {
        /// Its schedule names it: an event may make a run.
        Schedule = "schedule",
        /// A task makes it.
        Outlet = "outlet",
        /// A task reads it.
        Inlet = "inlet",
        /// It names a watcher of it.
        Watcher = "watcher",
    }
}

/// An asset or alias that a dag names, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct DagAsset {
    /// The asset or alias.
    pub asset: AssetRef,
    /// What the dag has to do with it.
    pub role: AssetRole,
    /// The task; `None` in a schedule; the name of the watcher if it is one.
    pub task_id: Option<TaskId>,
}

/// A known asset or alias.
#[derive(Debug, Clone, PartialEq)]
pub struct AssetRow {
    /// What tells it from all others.
    pub key: AssetKey,
    /// Whether it is an alias; then it has no URI.
    pub is_alias: bool,
    /// Its name.
    pub name: String,
    /// Its URI.
    pub uri: String,
    /// Its group.
    pub group: String,
    /// Facts about it; null if there are none.
    pub extra: Value,
    /// Dags whose schedules name it, by id.
    pub consumers: Vec<DagId>,
    /// Tasks that make it, by dag and id.
    pub producers: Vec<(DagId, TaskId)>,
    /// Tasks that read it, by dag and id.
    pub readers: Vec<(DagId, TaskId)>,
    /// The names of its watchers, in order.
    pub watchers: Vec<String>,
    /// How many events it has; of an alias none are counted.
    pub events: u64,
    /// When the newest was.
    pub last_event: Option<DateTime<Utc>>,
}

impl AssetRow {
    /// Whether any dag names it.
    pub fn is_active(&self) -> bool {
        !(self.consumers.is_empty() && self.producers.is_empty() && self.readers.is_empty())
    }
}

/// What waits for a dag to run: events of one asset or alias since its last run by assets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueuedAsset {
    /// The dag.
    pub dag_id: DagId,
    /// The asset or alias.
    pub asset: AssetKey,
    /// How many events.
    pub events: u64,
}

/// An event that waits for a dag to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedEvent {
    /// The dag.
    pub dag_id: DagId,
    /// The asset or alias that its schedule names.
    pub asset: AssetKey,
    /// The event.
    pub event: AssetEventId,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// Whether it can make a run; an event of the time when the dag was paused only becomes part of one.
    pub counts: bool,
}

/// Which of the events that wait are meant; all that fit everything that is said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueFilter {
    /// Those that wait for this dag.
    pub dag_id: Option<DagId>,
    /// Those of this asset or alias.
    pub asset: Option<AssetKey>,
    /// Those of this time and before.
    pub until: Option<DateTime<Utc>>,
}

/// On what a run by assets was decided: it is made only if events of all of these still wait for its dag. All that
/// wait are then its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AssetTrigger {
    /// Assets and aliases.
    pub needs: Vec<AssetKey>,
}
