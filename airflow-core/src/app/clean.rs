//! Deleting what is old, in batches, after it was written to files.
//!
//! An archive is a folder of files of JSON lines, one for each table, that are only ever added to. They need no database
//! to be read, and none grows by them. A batch is on the disk before it is deleted, so a crash in between leaves it in both
//! places, and a later clean-up writes it once more: the key of each line tells it from others.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;

use crate::asset::AssetEvent;
use crate::id::DagId;
use crate::store::{Old, OldRow, OldTable, RunRow, Store, StoreError, WatcherRow, XComFilter, XComRow};

/// How many runs are deleted in one transaction: each may have thousands of rows, and others wait.
const RUNS: u32 = 50;

/// How many pieces of logs are deleted in one transaction: each may have 64 KiB.
const PIECES: u32 = 200;

/// How many rows of other tables are deleted in one transaction.
const ROWS: u32 = 1000;

/// What to delete.
#[derive(Debug, Clone)]
pub struct CleanOptions {
    /// What ended, or was written, before this moment.
    pub before: DateTime<Utc>,
    /// Of these tables; of all if empty.
    pub tables: Vec<OldTable>,
    /// Only of these dags; of all if empty.
    pub dags: Vec<DagId>,
    /// Not of these dags.
    pub not_dags: Vec<DagId>,
    /// How many rows go in one transaction; 50 runs, 200 pieces of logs, 1000 other rows unless set.
    pub batch: Option<u32>,
    /// Delete nothing, only count.
    pub dry_run: bool,
    /// The folder to which rows are written before they are deleted; without it they are gone.
    pub archive: Option<PathBuf>,
}

impl CleanOptions {
    /// Deletes all that is older than a moment, and keeps nothing of it.
    pub fn before(before: DateTime<Utc>) -> Self {
        Self {
            before,
            tables: Vec::new(),
            dags: Vec::new(),
            not_dags: Vec::new(),
            batch: None,
            dry_run: false,
            archive: None,
        }
    }
}

/// What became of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanedTable {
    /// The table.
    pub table: OldTable,
    /// How many rows were deleted, or would be.
    pub rows: u64,
    /// Where they are now.
    pub archive: Option<PathBuf>,
}

/// Why a clean-up stopped. What was deleted before stays deleted.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The archive cannot be written: nothing of this batch was deleted.
    #[error("cannot write the archive {path}: {why}; nothing that is not in it was deleted")]
    Archive {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
}

/// Deletes what is old, table by table, in the order of [`OldTable::ALL`].
///
/// ```
/// use airflow_core::app::{CleanOptions, clean};
/// use airflow_core::store::{MemoryStore, OldTable};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let mut options = CleanOptions::before("2026-01-01T00:00:00Z".parse()?);
/// options.tables = vec![OldTable::Runs, OldTable::Audit];
/// options.archive = Some("archive".into());
/// let cleaned = clean(&store, &options).await?;
/// assert_eq!(cleaned.iter().map(|table| table.rows).sum::<u64>(), 0);
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`CleanError`]; nothing is deleted that is not in the archive, if there is one.
pub async fn clean(store: &dyn Store, options: &CleanOptions) -> Result<Vec<CleanedTable>, CleanError> {
    let wanted = |table: &&OldTable| options.tables.is_empty() || options.tables.contains(table);
    let mut cleaned = Vec::new();
    for table in OldTable::ALL.iter().filter(wanted) {
        let old = Old {
            table: *table,
            before: options.before,
            dags: options.dags.clone(),
            not_dags: options.not_dags.clone(),
        };
        cleaned.push(if options.dry_run {
            CleanedTable { table: *table, rows: store.count_old(&old).await?, archive: None }
        } else {
            clean_table(store, &old, options).await?
        });
    }
    Ok(cleaned)
}

async fn clean_table(
    store: &dyn Store,
    old: &Old,
    options: &CleanOptions,
) -> Result<CleanedTable, CleanError> {
    let usual = match old.table {
        OldTable::Runs => RUNS,
        OldTable::TaskLogs => PIECES,
        _ => ROWS,
    };
    let batch = options.batch.unwrap_or(usual).max(1);
    let mut done = CleanedTable { table: old.table, rows: 0, archive: None };
    // Of a process that has ended nothing but its number is known.
    let folder = options.archive.as_deref().filter(|_| old.table != OldTable::Processes);
    let mut archive = None;
    loop {
        let rows = store.old_rows(old, batch).await?;
        if rows.is_empty() {
            return Ok(done);
        }
        if let (None, Some(folder)) = (&archive, folder) {
            archive = Some(Archive::open(folder, old.table).await?);
        }
        if let Some(archive) = &mut archive {
            for row in &rows {
                archive.add(&line(store, row).await?).await?;
            }
            archive.keep().await?;
            done.archive = Some(archive.path.clone());
        }
        let deleted = store.delete_old(old, rows.iter().map(OldRow::key).collect()).await?;
        done.rows += deleted;
        if deleted == 0 {
            // Somebody else was faster; what is left is for the next time.
            return Ok(done);
        }
    }
}

/// A file of an archive.
#[derive(Debug)]
struct Archive {
    path: PathBuf,
    file: File,
}

impl Archive {
    /// Opens the file of a table, to add to it. Only its owner may read it: values may be secrets.
    async fn open(folder: &Path, table: OldTable) -> Result<Self, CleanError> {
        let refused = |path: &Path| {
            let path = path.to_owned();
            move |why| CleanError::Archive { path, why }
        };
        tokio::fs::create_dir_all(folder).await.map_err(refused(folder))?;
        let path = folder.join(format!("{table}.jsonl"));
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        options.mode(0o600);
        let file = options.open(&path).await.map_err(refused(&path))?;
        Ok(Self { path, file })
    }

    async fn add(&mut self, line: &Value) -> Result<(), CleanError> {
        let text = format!("{line}\n");
        self.file.write_all(text.as_bytes()).await.map_err(|why| self.failed(why))
    }

    /// Waits until the disk has it.
    async fn keep(&mut self) -> Result<(), CleanError> {
        self.file.flush().await.map_err(|why| self.failed(why))?;
        self.file.sync_data().await.map_err(|why| self.failed(why))
    }

    fn failed(&self, why: std::io::Error) -> CleanError {
        CleanError::Archive { path: self.path.clone(), why }
    }
}

/// An old row as it is archived.
async fn line(store: &dyn Store, row: &OldRow) -> Result<Value, StoreError> {
    Ok(match row {
        OldRow::XCom(dag, run, row) => {
            let mut line = xcom(row);
            line["dag_id"] = json!(dag);
            line["run_id"] = json!(run);
            line
        }
        OldRow::TaskLog(chunk) => json!(chunk),
        OldRow::Run(run) => whole_run(store, run).await?,
        OldRow::Version(dag, version) => {
            let mut line = json!(version);
            line["dag_id"] = json!(dag);
            line
        }
        OldRow::AssetEvent(event) => asset_event(event),
        OldRow::Watcher(row) => watcher(row),
        OldRow::Audit(_, entry) => json!(entry),
        OldRow::Process(id) => json!({ "id": id }),
    })
}

fn asset_event(event: &AssetEvent) -> Value {
    let source = event.source.as_ref();
    json!({
        "id": event.id,
        "asset": { "name": event.name, "uri": event.uri, "group": event.group },
        "aliases": event.aliases,
        "extra": event.extra,
        "timestamp": event.at,
        "source_dag_id": source.map(|source| &source.dag_id),
        "source_run_id": source.map(|source| &source.run_id),
        "source_task_id": source.map(|source| &source.task_id),
        "source_map_index": source.map(|source| source.map_index.0),
    })
}

fn watcher(row: &WatcherRow) -> Value {
    json!({
        "asset": row.asset,
        "name": row.key.name,
        "cursor": row.cursor,
        "events": row.events,
        "last_event": row.last_event,
    })
}

/// A run with all that goes with it.
async fn whole_run(store: &dyn Store, run: &RunRow) -> Result<Value, StoreError> {
    let filter = XComFilter { run: run.pk, tasks: Vec::new(), map_index: None, key: None };
    let xcoms: Vec<Value> = store.xcoms(&filter).await?.iter().map(xcom).collect();
    Ok(json!({
        "run": run,
        "task_instances": store.task_instances(run.pk).await?,
        "attempts": store.attempts(run.pk, None).await?,
        "events": store.events(run.pk, None).await?,
        "xcoms": xcoms,
    }))
}

fn xcom(row: &XComRow) -> Value {
    // What cannot be read as JSON is kept as it is.
    let value = serde_json::from_str(row.value.text()).unwrap_or_else(|_| json!(row.value.text()));
    json!({ "task_id": row.task_id, "map_index": row.map_index, "key": row.key, "at": row.at, "value": value })
}
