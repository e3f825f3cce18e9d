//! Watchers of assets as they are stored: who runs them, and how far they have come.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::asset::{AssetEvent, WatcherKey};
use crate::id::IncarnationId;

/// A watcher of an asset.
#[derive(Debug, Clone, PartialEq)]
pub struct WatcherRow {
    /// What tells it from all others.
    pub key: WatcherKey,
    /// The name of its asset.
    pub asset: String,
    /// Whether a dag names it. One that no dag names any more keeps its cursor until it is cleaned away.
    pub is_named: bool,
    /// Whether it is to run: a dag names it, and one that is not paused has a schedule that names its asset.
    pub is_wanted: bool,
    /// The process that runs it, if that has not ended.
    pub owner: Option<IncarnationId>,
    /// How far it has come; `None` before its first event.
    pub cursor: Option<Value>,
    /// How many of its events were written.
    pub events: u64,
    /// When the newest was.
    pub last_event: Option<DateTime<Utc>>,
    /// How often in a row it has failed; 0 if it works.
    pub failures: u32,
    /// What went wrong last, also if it works by now.
    pub error: Option<String>,
    /// When that was.
    pub failed_at: Option<DateTime<Utc>>,
    /// When it was named, brought an event or failed last.
    pub updated_at: DateTime<Utc>,
}

/// An event that a watcher brings.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchedEvent {
    /// The watcher.
    pub key: WatcherKey,
    /// How many of its events were written before this one: nobody else may have written one since.
    pub after: u64,
    /// How far the watcher has come with it.
    pub cursor: Value,
    /// The event.
    pub event: AssetEvent,
}
