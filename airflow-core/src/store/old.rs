//! What may be deleted because it is old, and how it is named.

use chrono::{DateTime, Utc};

use crate::asset::{AssetEvent, AssetEventId, WatcherKey};
use crate::id::{AttemptId, DagId, IncarnationId, MapIndex, RunId, RunPk, TaskId};
use crate::state::task::words;

use super::{AuditEntry, DagVersion, LogChunk, RunRow, WatcherRow, XComRow};

words! {
    /// Rows that grow old, by the names that Airflow has for them.
    OldTable {
        /// Values of runs that have ended; what branches decided stays.
        XComs = "xcom",
        /// Pieces of the logs of attempts.
        TaskLogs = "task_log",
        /// Runs that have ended, with all that belongs to them; the newest run of each dag stays.
        Runs = "dag_run",
        /// Versions of dags that no run is of, but for the current ones.
        Versions = "dag_version",
        /// Events of assets that wait for no run and whose runs are gone.
        AssetEvents = "asset_event",
        /// Watchers of assets that no dag names any more, with their cursors.
        Watchers = "asset_watcher",
        /// The audit log.
        Audit = "log",
        /// Processes that have ended; their names stay in the events.
        Processes = "job",
    }
}

/// Which old rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Old {
    /// Of which table.
    pub table: OldTable,
    /// What ended, or was written, before this moment.
    pub before: DateTime<Utc>,
    /// Only of these dags; of all if empty. Processes and watchers are of no dag: with a list none is old.
    pub dags: Vec<DagId>,
    /// Not of these dags.
    pub not_dags: Vec<DagId>,
}

/// An old row.
#[derive(Debug, Clone)]
pub enum OldRow {
    /// A value, with its dag and run.
    XCom(DagId, RunId, Box<XComRow>),
    /// A piece of a log.
    TaskLog(Box<LogChunk>),
    /// A run.
    Run(Box<RunRow>),
    /// A version of a dag.
    Version(DagId, Box<DagVersion>),
    /// An event of an asset.
    AssetEvent(Box<AssetEvent>),
    /// A watcher of an asset.
    Watcher(Box<WatcherRow>),
    /// An entry of the audit log, with its number.
    Audit(i64, Box<AuditEntry>),
    /// A process.
    Process(IncarnationId),
}

/// What an old row is told from others by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum OldKey {
    /// A value.
    XCom(RunPk, TaskId, MapIndex, String),
    /// A piece of a log.
    TaskLog(AttemptId, i64),
    /// A run.
    Run(RunPk),
    /// A version of a dag.
    Version(DagId, u32),
    /// An event of an asset.
    AssetEvent(AssetEventId),
    /// A watcher of an asset.
    Watcher(WatcherKey),
    /// An entry of the audit log.
    Audit(i64),
    /// A process.
    Process(IncarnationId),
}

impl OldRow {
    /// What it is told from others by.
    pub fn key(&self) -> OldKey {
        match self {
            Self::XCom(_, _, row) => {
                OldKey::XCom(row.run, row.task_id.clone(), row.map_index, row.key.clone())
            }
            Self::TaskLog(row) => OldKey::TaskLog(row.attempt_id, row.chunk),
            Self::Run(row) => OldKey::Run(row.pk),
            Self::Version(dag, version) => OldKey::Version(dag.clone(), version.number),
            Self::AssetEvent(event) => OldKey::AssetEvent(event.id.clone()),
            Self::Watcher(row) => OldKey::Watcher(row.key.clone()),
            Self::Audit(id, _) => OldKey::Audit(*id),
            Self::Process(id) => OldKey::Process(*id),
        }
    }
}
