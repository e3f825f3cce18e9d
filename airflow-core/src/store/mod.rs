//! The contract between the engine and whatever keeps its state.
//!
//! A store writes what was decided and refuses what was decided on an old view; it decides nothing itself. Start with
//! [`Store::commit`]. Rows are described in [`model`]; `testing::store_suite` holds every store to this contract.

mod anomaly;
mod asset;
mod credentials;
mod deadline;
#[cfg(feature = "failpoints")]
pub mod failpoint;
mod held;
mod host;
mod judge;
mod layer;
mod memory;
pub mod model;
#[cfg(feature = "mysql")]
mod mysql;
mod notice;
mod old;
pub(crate) mod points;
#[cfg(feature = "postgres")]
mod postgres;
mod remote;
mod rules;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod server;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
mod sql;
#[cfg(feature = "sqlite")]
mod sqlite;
mod structure;
mod tables;
mod task_log;
mod unit;
mod watcher;

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::asset::WatcherKey;
use crate::id::{AttemptId, DagId, IncarnationId, MapIndex, RunPk, TaskId};
use crate::time::YEARS;

pub use anomaly::{Anomaly, DagLimits, Examined, Holders, Rows, Rule, SlotCount};
pub use asset::*;
pub use credentials::{ConnectionRow, EncryptedField, TokenSwap};
pub use deadline::*;
pub use held::Held;
pub use host::HostTx;
pub(crate) use layer::Deadline;
pub use layer::{Layer, Layered};
#[cfg(feature = "testing")]
pub use memory::Blind;
pub use memory::MemoryStore;
pub use model::*;
#[cfg(feature = "mysql")]
pub use mysql::{MysqlOptions, MysqlStore};
pub use notice::*;
pub use old::{Old, OldKey, OldRow, OldTable};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresOptions, PostgresStore};
pub use remote::*;
#[cfg(feature = "mysql")]
pub use server::Mysql;
#[cfg(feature = "postgres")]
pub use server::Postgres;
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub use server::{PoolSettings, ServerStore, UnknownCommits};
#[cfg(all(feature = "sqlite", feature = "testing"))]
pub use sqlite::sqlite_migrations;
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteOptions, SqliteStore, Synchronous};
pub use structure::DagStructure;
pub use tables::{Migrated, SchemaStatus};
pub use task_log::{DeadLetter, LogChunk, LogFilter, LogPlace};
pub use unit::*;
pub use watcher::{WatchedEvent, WatcherRow};

/// Why a store could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database cannot be opened or reached.
    #[error("cannot open the database {place}: {why}")]
    Unreachable {
        /// Its path or address, without secrets.
        place: String,
        /// What went wrong, and the cure.
        why: String,
    },
    /// The database was written by a newer version of this library.
    #[error(
        "the database has schema version {found}, this version of airflow knows {known}; update airflow, or use a \
         database of its own for this version"
    )]
    Newer {
        /// What the database says.
        found: u32,
        /// The newest version that is known.
        known: u32,
    },
    /// The tables are missing or old.
    #[error("the database has schema version {found}, version {needed} is needed; run `db migrate`")]
    NotMigrated {
        /// What the database says; 0 if there are no tables.
        found: u32,
        /// The version that is needed.
        needed: u32,
    },
    /// The SQLite library is too old to be safe.
    #[error(
        "SQLite {found} can corrupt a database that several connections write; {needed} or newer is needed"
    )]
    OldSqlite {
        /// Version of the linked library.
        found: String,
        /// The first safe version.
        needed: &'static str,
    },
    /// The server is too old.
    #[error("{server} {found} is too old; {needed} or newer is needed")]
    OldServer {
        /// Which server.
        server: &'static str,
        /// Its version.
        found: String,
        /// The first version that serves.
        needed: &'static str,
    },
    /// A row that was asked for does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The change is not allowed.
    #[error("{0}")]
    Refused(String),
    /// A stored row cannot be understood.
    #[error("the database holds a row that cannot be read: {0}")]
    Corrupt(String),
    /// The database did not answer in time. What was asked for may happen all the same.
    #[error("the database did not answer `{call}` within {after:?}; it is looked for again")]
    NoAnswer {
        /// The method of the store.
        call: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The disk of the database is full, or a limit that is set to its size. Nothing was written; the same call works when
    /// there is room again.
    #[error("the database has no room to write: {0}; make room on its disk, then work goes on by itself")]
    NoRoom(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database said something else.
    #[error("the database failed: {0}")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// Whether the same call will fail again until somebody has changed the database or the program.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Newer { .. }
            | Self::NotMigrated { .. }
            | Self::OldSqlite { .. }
            | Self::OldServer { .. } => true,
            Self::NotFound(_) | Self::Refused(_) | Self::Corrupt(_) => true,
            Self::Unreachable { .. } | Self::NoAnswer { .. } | Self::NoRoom(_) | Self::Database(_) => false,
        }
    }
}

/// The result of a store's work.
pub type StoreResult<T> = Result<T, StoreError>;

/// Keeps dags, runs, task instances, attempts, values, variables, pools and the audit log.
///
/// # Contract
///
/// - What a call returned `Ok` for is durable; what it returned `Err` for may or may not have happened.
/// - [`commit`](Self::commit) applies each [`Unit`] as a whole or not at all, and only if everything the unit was
///   decided on still holds: the run's generation and state, and the state and epoch of each task instance. Of two
///   callers that decided on the same view one wins; the other gets [`UnitResult::Stale`] and loads again.
/// - A task instance without a row is in state `none` with epoch 0. Its row appears with its first change.
/// - Times are kept to the microsecond. Ids are compared byte by byte. A NUL in a text is kept as U+FFFD.
/// - Lists come in the order that each method names, the same in every store.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// `memory`, `sqlite`, …
    fn kind(&self) -> &'static str;

    /// Where the data is, for people; without secrets.
    fn place(&self) -> String;

    /// Brings the tables to the version this library needs; does nothing if they are.
    async fn migrate(&self) -> StoreResult<Migrated>;

    /// Looks whether the tables are there and fit.
    async fn check(&self) -> StoreResult<SchemaStatus>;

    /// Drops everything and migrates again.
    async fn reset(&self) -> StoreResult<()>;

    /// A number that differs from the last one if another process may have changed something.
    async fn change_token(&self) -> StoreResult<u64>;

    /// How long a call may wait for others that write, before it fails. Leases outlast it.
    fn longest_wait(&self) -> Duration {
        Duration::ZERO
    }

    /// The years in which dates of runs may lie.
    fn years(&self) -> RangeInclusive<i32> {
        YEARS
    }

    /// Makes a process known. It counts as alive until its lease ends or it says goodbye. Said again, it changes
    /// nothing.
    ///
    /// Here and in the other methods on processes the time is that of the store: one clock for all processes, read
    /// inside of the statement that writes. A database takes the time of the statement, not that of the beginning of
    /// its transaction.
    async fn register(&self, process: NewIncarnation) -> StoreResult<()>;

    /// Renews the lease of a process: it counts as alive for its whole lease from now, and its beats grow by one. Also
    /// after the lease ran out, as long as nobody has ended it. `false` if it was ended, or is unknown.
    async fn beat(&self, process: IncarnationId) -> StoreResult<bool>;

    /// Ends a process: it said goodbye, or it is known to be dead. Said again, it changes nothing.
    async fn end_incarnation(&self, process: IncarnationId) -> StoreResult<()>;

    /// Ends a process that was not heard of: only if it has not ended, its lease has run out and it has beaten `beats`
    /// times, all compared in the statement that writes. Says whether this call ended it.
    ///
    /// A lease has also run out if it ends later than one that begins now: the store's clock was set back since, and
    /// without this a dead process would count as alive until the clock has caught up.
    async fn expire(&self, process: IncarnationId, beats: u64) -> StoreResult<bool>;

    /// All processes that have not ended, by start and id.
    async fn incarnations(&self) -> StoreResult<Vec<Incarnation>>;

    /// Deletes processes that ended before `before` and of which no attempt is open; returns how many.
    async fn forget_incarnations(&self, before: DateTime<Utc>) -> StoreResult<u64>;

    /// Gives runs to a process: those that nobody has, and those of which the owner has ended or is gone. Returns which
    /// of `runs` it has now, in order. A run that is gone is nobody's.
    ///
    /// Who has a run decides about it, so that several schedulers do not decide the same thing at the same time. That is
    /// a matter of speed: what keeps decisions apart is [`commit`](Self::commit).
    async fn claim_runs(&self, runs: &[RunPk], process: IncarnationId) -> StoreResult<Vec<RunPk>>;

    /// Attempts that have not ended and whose process has, without leaving a report: they are lost. By run, task and
    /// map index.
    async fn orphans(&self) -> StoreResult<Vec<AttemptRow>>;

    /// Looks attempts up by id, each with its instance and run as they stand; in the order of `ids`, without those that
    /// do not exist.
    async fn find_attempts(&self, ids: &[AttemptId]) -> StoreResult<Vec<FoundAttempt>>;

    /// Attempts of a process that have not ended and of which there is no report, by id.
    async fn open_attempts(&self, process: IncarnationId) -> StoreResult<Vec<AttemptId>>;

    /// What waits in each queue in which something does, by queue.
    async fn queued_attempts(&self) -> StoreResult<Vec<QueuedAttempts>>;

    /// Writes down how attempts ended, for the process that decides about their runs. One is written only if its attempt
    /// has not ended and is `process`'s, and `process` has not ended; its run and instance are those of the attempt.
    /// A second one of the same attempt changes nothing. Says of each whether there is a report of that attempt now.
    async fn add_reports(&self, process: IncarnationId, reports: Vec<StoredReport>)
    -> StoreResult<Vec<bool>>;

    /// Reports of the runs that `process` has ([`claim_runs`](Self::claim_runs)), oldest first, equal times by attempt.
    async fn reports(&self, process: IncarnationId, limit: u32) -> StoreResult<Vec<StoredReport>>;

    /// Deletes reports that were taken in. Those that do not exist are passed over.
    async fn delete_reports(&self, ids: Vec<AttemptId>) -> StoreResult<()>;

    /// Keeps pieces of the logs of attempts. One that is there already, or whose attempt is not, is passed over.
    async fn add_log_chunks(&self, chunks: Vec<LogChunk>) -> StoreResult<()>;

    /// Pieces of the log of a try, by number of the attempt and of the piece.
    async fn log_chunks(&self, filter: &LogFilter) -> StoreResult<Vec<(LogPlace, LogChunk)>>;

    /// Keeps a message that was set aside, unless it is kept already, and forgets the oldest of more than `most`. Says
    /// whether it is new.
    async fn keep_dead_letter(&self, letter: DeadLetter, most: u32) -> StoreResult<bool>;

    /// Messages that were set aside, newest first, equal times by id.
    async fn dead_letters(&self, limit: u32) -> StoreResult<Vec<DeadLetter>>;

    /// Forgets messages that were set aside; returns how many there were.
    async fn delete_dead_letters(&self, ids: Vec<String>) -> StoreResult<u64>;

    /// Gives a worker its name, unless another process has it that has not ended. Says whether the worker has it now.
    async fn register_worker(&self, process: IncarnationId, name: &str, info: Value) -> StoreResult<bool>;

    /// Replaces what a worker says of itself; `false` if the name is not its own any more.
    async fn update_worker(&self, process: IncarnationId, name: &str, info: Value) -> StoreResult<bool>;

    /// All workers, also those that have ended, by name.
    async fn workers(&self) -> StoreResult<Vec<WorkerRow>>;

    /// Forgets a worker that has ended; `false` if there is none of this name, or if it lives.
    async fn forget_worker(&self, name: &str) -> StoreResult<bool>;

    /// Says which versions of which dags a process carries, beside those said before.
    async fn carry(&self, process: IncarnationId, versions: Vec<(DagId, String)>) -> StoreResult<()>;

    /// The processes that have not ended and carry a version of this dag, by version and process.
    async fn carriers(&self, dag_id: &DagId) -> StoreResult<Vec<Carrier>>;

    /// Active runs of versions that no scheduler carries that has not ended, and queued attempts of versions that no such
    /// worker carries; by kind, dag and version.
    async fn missing_versions(&self) -> StoreResult<Vec<MissingVersion>>;

    /// Gives a run another version of its dag, if it is of the version `from` and no scheduler that has not ended carries
    /// that one; its generation grows. Says whether it was done.
    async fn move_run(&self, run: RunPk, from: &str, to: &str) -> StoreResult<bool>;

    /// Keeps a setting that all processes of a deployment share, unless it is kept already; returns what is kept.
    async fn keep_setting(&self, name: &str, value: &str) -> StoreResult<String>;

    /// Makes dags and their versions known; a dag that was not listed before gets its first `is_paused` from the
    /// record. A version that was seen before becomes the current one again under its old number. Returns the rows of these dags, in the order given.
    async fn sync_dags(&self, dags: Vec<DagRecord>, now: DateTime<Utc>) -> StoreResult<Vec<DagRow>>;

    /// What callbacks have not been told yet, by run, task id, map index and epoch.
    async fn notices(&self) -> StoreResult<Vec<NoticeRow>>;

    /// Gives a notice to the process `to`, if it is there and still `from`'s; says whether it was.
    async fn take_notice(&self, key: &NoticeKey, from: IncarnationId, to: IncarnationId)
    -> StoreResult<bool>;

    /// Forgets notices whose callbacks have returned. Those that do not exist are passed over.
    async fn delete_notices(&self, keys: Vec<NoticeKey>) -> StoreResult<()>;

    /// All known dags, by id.
    async fn dags(&self) -> StoreResult<Vec<DagRow>>;

    /// One dag.
    async fn dag(&self, dag_id: &DagId) -> StoreResult<Option<DagRow>>;

    /// All versions of a dag, newest first.
    async fn dag_versions(&self, dag_id: &DagId) -> StoreResult<Vec<DagVersion>>;

    /// Pauses or unpauses a dag; `false` if there is no such dag.
    async fn set_paused(&self, dag_id: &DagId, paused: bool) -> StoreResult<bool>;

    /// Remembers up to where a dag's timetable has been worked through. Called with [`create_runs`](Self::create_runs)
    /// too, in its transaction.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if there is no such dag.
    async fn advance_dag(&self, dag_id: &DagId, advance: Advance) -> StoreResult<()>;

    /// Deletes a dag with everything that belongs to it, but for the audit log. Returns how many runs went.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] while an attempt of it may be executing ([`TaskState::is_executing`]) or is deferred;
    /// [`StoreError::NotFound`].
    ///
    /// [`TaskState::is_executing`]: crate::state::TaskState::is_executing
    async fn delete_dag(&self, dag_id: &DagId) -> StoreResult<u64>;

    /// Creates runs in one transaction. A run whose id, or whose logical date (if its type is timed), exists already
    /// is not created; its `advance` is applied all the same. One answer for each, in order. If both the id and the
    /// logical date exist, the run of that id is the answer.
    ///
    /// A run by assets ([`NewRun::assets`]) takes all events that wait for its dag: they are its own afterwards, its
    /// logical date is the time of the newest, and its data interval spans those of their sources. If another run has
    /// taken what it needs, it is not created ([`CreatedRun::Taken`]).
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if one of the dags is unknown: nothing is created.
    async fn create_runs(&self, runs: Vec<NewRun>) -> StoreResult<Vec<CreatedRun>>;

    /// Assets and aliases that are known, by name, URI and key.
    async fn assets(&self) -> StoreResult<Vec<AssetRow>>;

    /// Events of assets that match, by time; of equal times by dag, run, task and index of the source and by id.
    async fn asset_events(&self, filter: &AssetEventFilter) -> StoreResult<Vec<AssetEvent>>;

    /// Writes events that come from outside, and queues them for the dags whose schedules name their assets. Events of a
    /// unit are written with it ([`Unit::asset_events`]) in the same way.
    ///
    /// While a dag is paused an event makes no run of it: it waits for the next one that does, and becomes part of its
    /// run.
    async fn add_asset_events(&self, events: Vec<AssetEvent>) -> StoreResult<()>;

    /// What waits for dags to run, by dag and asset; events of the time when a dag was paused do not count.
    async fn asset_queue(&self) -> StoreResult<Vec<QueuedAsset>>;

    /// The events that wait for dags to run, one by one, also those of the time when a dag was paused; by dag, asset, time
    /// and id.
    async fn queued_events(&self, filter: &QueueFilter) -> StoreResult<Vec<QueuedEvent>>;

    /// All watchers of assets, by asset and name. They are known since a dag that names them was made known
    /// ([`sync_dags`](Self::sync_dags)), and go with the last dag that does.
    async fn watchers(&self) -> StoreResult<Vec<WatcherRow>>;

    /// Gives watchers to a process that has not ended: those that are to run ([`WatcherRow::is_wanted`]) and that no process
    /// has that has not ended. Returns the rows of those of `keys` that are to run and are its own now, by asset and name.
    async fn claim_watchers(
        &self,
        keys: Vec<WatcherKey>,
        process: IncarnationId,
    ) -> StoreResult<Vec<WatcherRow>>;

    /// Writes an event of a watcher, as [`add_asset_events`](Self::add_asset_events) does, and how far the watcher has come,
    /// in one transaction: only if the watcher is `process`'s, which has not ended, and no other event of it was written
    /// since. Says whether it was.
    async fn add_watched(&self, process: IncarnationId, watched: WatchedEvent) -> StoreResult<bool>;

    /// Notes that a watcher of `process` has failed, or with `None` that it works again; says whether it is `process`'s.
    async fn note_watcher(
        &self,
        process: IncarnationId,
        key: WatcherKey,
        error: Option<String>,
        at: DateTime<Utc>,
    ) -> StoreResult<bool>;

    /// Lets events wait no longer: they make no run, and are part of none. Returns how many.
    async fn unqueue_events(&self, filter: &QueueFilter) -> StoreResult<u64>;

    /// Deadlines of runs of these dags that are not settled, by the time when they are over, run and name; only those
    /// that are over by `until`, if it is given.
    async fn deadlines(
        &self,
        dags: &[DagId],
        until: Option<DateTime<Utc>>,
        limit: u32,
    ) -> StoreResult<Vec<DeadlineRow>>;

    /// Deadlines that were missed, of all dags or of one, those missed last first; of equal times those of the later run,
    /// then by name.
    async fn missed_deadlines(&self, dag: Option<&DagId>, limit: u32) -> StoreResult<Vec<DeadlineRow>>;

    /// Settles a deadline, if it is still as it was seen; says whether it was.
    async fn settle_deadline(&self, seen: &DeadlineKey, settlement: Settlement) -> StoreResult<bool>;

    /// Makes one run, and `note` in the audit log if it is new, in a transaction of the host, which alone decides what
    /// becomes of it: nothing is begun, committed or tried again here. On a server an error leaves a transaction that
    /// can only be taken back.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if the dag is unknown; [`StoreError::Refused`] if the transaction is of another kind of
    /// database or of one without our tables, and by the store in memory, which has none.
    async fn create_in_tx(&self, tx: HostTx<'_>, run: NewRun, note: AuditEntry) -> StoreResult<CreatedRun>;

    /// Runs that match, in the order that the filter says.
    async fn runs(&self, filter: &RunFilter) -> StoreResult<Vec<RunRow>>;

    /// One run with all that decisions need. `past` asks for the run before it as well: the one of the same dag with
    /// the latest earlier logical date, of equal dates the one with the highest number.
    async fn load_run(&self, run: RunPk, past: Option<&PastQuery>) -> StoreResult<Option<RunSnapshot>>;

    /// Deletes a run with everything that belongs to it. `false` if there is none. In the same transaction everything
    /// is given back that it and its task instances have taken of limits ([`TiData::holds`]): an attempt that still runs then
    /// is stopped when its process finds that it is gone, and counts no more.
    async fn delete_run(&self, run: RunPk) -> StoreResult<bool>;

    /// Writes decisions, all in one transaction. One answer for each unit, in order; a unit sees what the ones before it
    /// have changed. A run that does not exist makes a unit stale.
    async fn commit(&self, units: Vec<Unit>) -> StoreResult<Vec<UnitResult>>;

    /// The task instances of a run that have a row, by task id and map index.
    async fn task_instances(&self, run: RunPk) -> StoreResult<Vec<TiRow>>;

    /// The attempts of a run, of one task if given, by task id, map index and number.
    async fn attempts(&self, run: RunPk, task: Option<(&TaskId, MapIndex)>) -> StoreResult<Vec<AttemptRow>>;

    /// What happened to the task instances of a run, of one task if given, by task id, map index and epoch.
    async fn events(&self, run: RunPk, task: Option<(&TaskId, MapIndex)>) -> StoreResult<Vec<EventRow>>;

    /// Stored values that match, by task id, map index and key.
    async fn xcoms(&self, filter: &XComFilter) -> StoreResult<Vec<XComRow>>;

    /// Writes a value outside of an attempt, and takes the run to its next generation: schedulers remember values.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if there is no such run.
    async fn set_xcom(&self, run: RunPk, xcom: XComWrite, now: DateTime<Utc>) -> StoreResult<()>;

    /// Deletes values that match, and takes the run to its next generation; returns how many.
    async fn delete_xcoms(&self, filter: &XComFilter) -> StoreResult<u64>;

    /// A variable.
    async fn variable(&self, key: &str) -> StoreResult<Option<VariableRow>>;

    /// All variables, by key.
    async fn variables(&self) -> StoreResult<Vec<VariableRow>>;

    /// Creates or replaces a variable; a description of `None` keeps the old one.
    async fn set_variable(&self, variable: VariableRow) -> StoreResult<()>;

    /// Deletes a variable; `false` if there is none.
    async fn delete_variable(&self, key: &str) -> StoreResult<bool>;

    /// A connection.
    async fn connection(&self, conn_id: &str) -> StoreResult<Option<ConnectionRow>>;

    /// All connections, by id.
    async fn connections(&self) -> StoreResult<Vec<ConnectionRow>>;

    /// Creates or replaces a connection; a description of `None` keeps the old one.
    async fn set_connection(&self, connection: ConnectionRow) -> StoreResult<()>;

    /// Deletes a connection; `false` if there is none.
    async fn delete_connection(&self, conn_id: &str) -> StoreResult<bool>;

    /// Puts tokens in the place of others, all in one transaction. A field that holds something else by now, or is not
    /// marked as encrypted, is left alone. Returns how many were changed.
    async fn swap_tokens(&self, swaps: Vec<TokenSwap>) -> StoreResult<u64>;

    /// All pools with what is taken of them, by name. `default_pool` always exists.
    async fn pools(&self) -> StoreResult<Vec<PoolRow>>;

    /// Creates or replaces a pool.
    async fn set_pool(&self, pool: PoolSpec) -> StoreResult<()>;

    /// Deletes a pool; `false` if there is none. What is taken of it stays known until it is given back.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] for `default_pool`.
    async fn delete_pool(&self, name: &str) -> StoreResult<bool>;

    /// What is taken of each limit, by key; keys of which nothing is taken are missing.
    async fn slots(&self) -> StoreResult<Vec<(SlotKey, i64)>>;

    /// Looks for rows that break the rules of this contract. Reads only, and may take long. What one rule looks at is of
    /// one moment, so changes of others meanwhile are no findings.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] by the store in memory, which has no rows.
    async fn examine(&self, rows: Rows) -> StoreResult<Examined>;

    /// What is taken of limits and who takes it, all of one moment. Reads only.
    ///
    /// # Errors
    ///
    /// As [`examine`](Self::examine).
    async fn slot_count(&self) -> StoreResult<SlotCount>;

    /// Adds to the audit log.
    async fn audit(&self, entry: AuditEntry) -> StoreResult<()>;

    /// The newest entries of the audit log that match, newest first.
    async fn audit_log(&self, filter: &AuditFilter) -> StoreResult<Vec<AuditEntry>>;

    /// How many rows of a table are old.
    async fn count_old(&self, old: &Old) -> StoreResult<u64>;

    /// The first rows of a table that are old: values by run, task, index and key, runs by number, versions by dag and
    /// number, entries of the audit log by time, processes by id.
    async fn old_rows(&self, old: &Old, limit: u32) -> StoreResult<Vec<OldRow>>;

    /// Deletes those of `keys` that are still old, in one transaction; returns how many. A run goes with all that belongs
    /// to it.
    async fn delete_old(&self, old: &Old, keys: Vec<OldKey>) -> StoreResult<u64>;
}

/// A store that is shared by all parts of a process.
pub type SharedStore = Arc<dyn Store>;
