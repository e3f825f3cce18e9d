//! A store in one SQLite file: for one machine, without a server.
//!
//! Any number of processes may use the file; each has one connection that writes ([`writer`]) and a few that read.
//! The path every state takes is [`commit`]; the tables are in [`schema`]. Decides nothing.

mod calls;
mod commit;
mod errors;
mod options;
mod schema;
mod steps;
mod view;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use sqlx::{Connection as _, Sqlite, SqliteConnection};

use crate::asset::WatcherKey;
use crate::id::{AttemptId, DagId, IncarnationId, MapIndex, RunPk, TaskId};

use super::host::{self, HostTx};
use super::rules;
use super::sql::errors::failed;
use super::sql::group::Writer;
use super::sql::text::Dialect;
use super::sql::{
    Conn, admin, asset_queue, assets, credentials, dags, deadlines, examine, load, notices, old, processes,
    remote, runs, task_logs, tasks, watchers,
};
use super::{
    Advance, AssetEvent, AssetEventFilter, AssetRow, AttemptRow, AuditEntry, AuditFilter, Carrier,
    ConnectionRow, CreatedRun, DagRecord, DagRow, DagVersion, DeadLetter, DeadlineKey, DeadlineRow, EventRow,
    Examined, FoundAttempt, Incarnation, LogChunk, LogFilter, LogPlace, Migrated, MissingVersion,
    NewIncarnation, NewRun, NoticeKey, NoticeRow, Old, OldKey, OldRow, PastQuery, PoolRow, PoolSpec,
    QueueFilter, QueuedAsset, QueuedAttempts, QueuedEvent, Rows, RunFilter, RunRow, RunSnapshot,
    SchemaStatus, Settlement, SlotCount, SlotKey, Store, StoreError, StoreResult, StoredReport, TiRow,
    TokenSwap, Unit, UnitResult, VariableRow, WatchedEvent, WatcherRow, WorkerRow, XComFilter, XComRow,
    XComWrite,
};
use calls::{reading, writing};
use errors::unreachable;
#[cfg(feature = "testing")]
pub use schema::sqlite_migrations;

pub use options::{SqliteOptions, Synchronous};

/// How often opening is tried while another process changes the journal mode of a new file, which waits for nobody.
const OPEN_TRIES: u32 = 20;

/// The pause between two tries.
const OPEN_PAUSE: Duration = Duration::from_millis(50);

/// Keeps everything in one SQLite file. Clones share the connections.
///
/// ```
/// use airflow_core::store::{SqliteStore, Store};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("airflow.db");
/// # let path = path.to_str().ok_or("a path that is text")?;
/// let store = SqliteStore::open(path).await?; // such as "airflow.db"
/// let done = store.migrate().await?;
/// assert_eq!(done.from, 0); // there were no tables
/// assert_eq!(store.pools().await?[0].spec.name, "default_pool");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: SqliteOptions,
    writer: Writer<SqliteConnection>,
    readers: SqlitePool,
    /// Whether the tables are known to fit; they never stop to, but for a reset by another version.
    ready: AtomicBool,
}

impl SqliteStore {
    /// Opens the file at a path, or at an address that begins with `sqlite:`. Creates it if it is missing; the tables
    /// come with [`Store::migrate`]. Must be called inside a tokio runtime, which the store needs from then on.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreachable`] if the file cannot be written; [`StoreError::OldSqlite`].
    pub async fn open(path_or_url: &str) -> StoreResult<Self> {
        Self::open_with(path_or_url.parse()?).await
    }

    /// Opens a database as the options say.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_with(options: SqliteOptions) -> StoreResult<Self> {
        let mut conn = connect(&options).await?;
        let version: String =
            sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut conn).await.map_err(failed)?;
        errors::check_version(&version)?;
        // The file may be readable only: say so now, not at the first commit. A transaction would wait for others that write.
        let writable = std::fs::OpenOptions::new().write(true).open(&options.path);
        writable.map_err(|error| unreachable(&options.path, &error.into()))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(options.readers.max(1))
            .acquire_timeout(options.busy_timeout)
            .test_before_acquire(false)
            .connect_lazy_with(options.connect().pragma("query_only", "1"));
        let inner = Inner { options, writer: Writer::start(conn), readers, ready: AtomicBool::new(false) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens the file that a pool of the host is on. The tables are in it beside those of the host, whose own tables and
    /// migrations are not touched; the connections are others, because one of them must always be free to write. The
    /// file becomes one with a write-ahead log (`journal_mode = WAL`), if it is not.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); for a database in memory, which only the pool itself can see.
    pub async fn from_pool(pool: &SqlitePool) -> StoreResult<Self> {
        let options = pool.connect_options();
        let path = options.get_filename();
        let text = path.to_string_lossy();
        if text.is_empty() || text.contains(":memory:") || text.starts_with("file:sqlx-in-memory") {
            let why = "the pool is on a database in memory; a file is needed".to_owned();
            return Err(StoreError::Unreachable { place: text.into_owned(), why });
        }
        Self::open_with(SqliteOptions::new(path)).await
    }

    /// How many transactions [`Store::commit`] and [`Store::create_runs`] have taken through this store and its
    /// clones. Callers that come at the same time share transactions, so there may be fewer than calls.
    pub fn transactions(&self) -> u64 {
        self.inner.writer.transactions()
    }

    /// A connection that reads, once the tables are known to fit.
    async fn reader(&self) -> StoreResult<PoolConnection<Sqlite>> {
        self.ready().await?;
        self.inner.readers.acquire().await.map_err(failed)
    }

    /// The writer, once the tables are known to fit.
    async fn writer(&self) -> StoreResult<&Writer<SqliteConnection>> {
        self.ready().await?;
        Ok(&self.inner.writer)
    }

    async fn ready(&self) -> StoreResult<()> {
        if self.inner.ready.load(Ordering::Acquire) {
            return Ok(());
        }
        self.inner.writer.with(|conn| Box::pin(schema::ensure(conn))).await?;
        self.inner.ready.store(true, Ordering::Release);
        Ok(())
    }
}

/// Opens the connection that writes.
async fn connect(options: &SqliteOptions) -> StoreResult<SqliteConnection> {
    let connecting = options.writing();
    let mut tries = 0;
    loop {
        match SqliteConnection::connect_with(&connecting).await {
            Ok(conn) => return Ok(conn),
            Err(error) if errors::is_busy(&error) && tries < OPEN_TRIES => {
                tries += 1;
                tokio::time::sleep(OPEN_PAUSE).await;
            }
            Err(error) => return Err(unreachable(&options.path, &error)),
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn place(&self) -> String {
        self.inner.options.path.display().to_string()
    }

    async fn migrate(&self) -> StoreResult<Migrated> {
        self.inner.writer.write(|conn| Box::pin(schema::migrate(conn))).await
    }

    async fn check(&self) -> StoreResult<SchemaStatus> {
        self.inner.writer.with(|conn| Box::pin(schema::status(conn))).await
    }

    async fn reset(&self) -> StoreResult<()> {
        self.inner.writer.write(|conn| Box::pin(schema::reset(conn))).await
    }

    async fn change_token(&self) -> StoreResult<u64> {
        // Asked of the writer, whose own commits do not change it: what does came from another connection, and the
        // only others that write belong to other processes.
        self.writer().await?.with(|conn| Box::pin(schema::data_version(conn))).await
    }

    async fn register(&self, process: NewIncarnation) -> StoreResult<()> {
        writing!(self, |conn| processes::register(conn, &process))
    }

    fn longest_wait(&self) -> Duration {
        self.inner.options.busy_timeout
    }

    async fn beat(&self, process: IncarnationId) -> StoreResult<bool> {
        writing!(self, |conn| processes::beat(conn, process))
    }

    async fn end_incarnation(&self, process: IncarnationId) -> StoreResult<()> {
        writing!(self, |conn| processes::end(conn, process))
    }

    async fn expire(&self, process: IncarnationId, beats: u64) -> StoreResult<bool> {
        writing!(self, |conn| processes::expire(conn, process, beats))
    }

    async fn incarnations(&self) -> StoreResult<Vec<Incarnation>> {
        reading!(self, |conn| processes::list(conn))
    }

    async fn forget_incarnations(&self, before: DateTime<Utc>) -> StoreResult<u64> {
        writing!(self, |conn| processes::forget(conn, before))
    }

    async fn claim_runs(&self, runs: &[RunPk], process: IncarnationId) -> StoreResult<Vec<RunPk>> {
        let runs = runs.to_vec();
        writing!(self, |conn| processes::claim(conn, &runs, process))
    }

    async fn orphans(&self) -> StoreResult<Vec<AttemptRow>> {
        reading!(self, |conn| tasks::orphans(conn))
    }

    async fn find_attempts(&self, ids: &[AttemptId]) -> StoreResult<Vec<FoundAttempt>> {
        reading!(self, |conn| remote::find(conn, ids))
    }

    async fn open_attempts(&self, process: IncarnationId) -> StoreResult<Vec<AttemptId>> {
        reading!(self, |conn| remote::open_attempts(conn, process))
    }

    async fn queued_attempts(&self) -> StoreResult<Vec<QueuedAttempts>> {
        reading!(self, |conn| remote::queued_attempts(conn))
    }

    async fn add_reports(
        &self,
        process: IncarnationId,
        reports: Vec<StoredReport>,
    ) -> StoreResult<Vec<bool>> {
        writing!(self, |conn| remote::add_reports(conn, process, &reports))
    }

    async fn reports(&self, process: IncarnationId, limit: u32) -> StoreResult<Vec<StoredReport>> {
        reading!(self, |conn| remote::reports(conn, process, limit))
    }

    async fn delete_reports(&self, ids: Vec<AttemptId>) -> StoreResult<()> {
        writing!(self, |conn| remote::delete_reports(conn, &ids))
    }

    async fn add_log_chunks(&self, chunks: Vec<LogChunk>) -> StoreResult<()> {
        writing!(self, |conn| task_logs::add(conn, &chunks))
    }

    async fn log_chunks(&self, filter: &LogFilter) -> StoreResult<Vec<(LogPlace, LogChunk)>> {
        reading!(self, |conn| task_logs::list(conn, filter))
    }

    async fn keep_dead_letter(&self, letter: DeadLetter, most: u32) -> StoreResult<bool> {
        writing!(self, |conn| task_logs::keep_letter(conn, &letter, most))
    }

    async fn dead_letters(&self, limit: u32) -> StoreResult<Vec<DeadLetter>> {
        reading!(self, |conn| task_logs::letters(conn, limit))
    }

    async fn delete_dead_letters(&self, ids: Vec<String>) -> StoreResult<u64> {
        writing!(self, |conn| task_logs::delete_letters(conn, &ids))
    }

    async fn register_worker(&self, process: IncarnationId, name: &str, info: Value) -> StoreResult<bool> {
        let name = name.to_owned();
        writing!(self, |conn| remote::register_worker(conn, process, &name, &info))
    }

    async fn update_worker(&self, process: IncarnationId, name: &str, info: Value) -> StoreResult<bool> {
        let name = name.to_owned();
        writing!(self, |conn| remote::update_worker(conn, process, &name, &info))
    }

    async fn workers(&self) -> StoreResult<Vec<WorkerRow>> {
        reading!(self, |conn| remote::workers(conn))
    }

    async fn forget_worker(&self, name: &str) -> StoreResult<bool> {
        let name = name.to_owned();
        writing!(self, |conn| remote::forget_worker(conn, &name))
    }

    async fn carry(&self, process: IncarnationId, versions: Vec<(DagId, String)>) -> StoreResult<()> {
        writing!(self, |conn| remote::carry(conn, process, &versions))
    }

    async fn carriers(&self, dag_id: &DagId) -> StoreResult<Vec<Carrier>> {
        reading!(self, |conn| remote::carriers(conn, dag_id))
    }

    async fn missing_versions(&self) -> StoreResult<Vec<MissingVersion>> {
        reading!(self, |conn| remote::missing_versions(conn))
    }

    async fn move_run(&self, run: RunPk, from: &str, to: &str) -> StoreResult<bool> {
        let (from, to) = (from.to_owned(), to.to_owned());
        writing!(self, |conn| remote::move_run(conn, run, &from, &to))
    }

    async fn keep_setting(&self, name: &str, value: &str) -> StoreResult<String> {
        let (name, value) = (name.to_owned(), value.to_owned());
        writing!(self, |conn| remote::keep_setting(conn, &name, &value))
    }

    async fn notices(&self) -> StoreResult<Vec<NoticeRow>> {
        reading!(self, |conn| notices::list(conn))
    }

    async fn take_notice(
        &self,
        key: &NoticeKey,
        from: IncarnationId,
        to: IncarnationId,
    ) -> StoreResult<bool> {
        let key = key.clone();
        writing!(self, |conn| notices::take(conn, &key, from, to))
    }

    async fn delete_notices(&self, keys: Vec<NoticeKey>) -> StoreResult<()> {
        writing!(self, |conn| notices::delete(conn, &keys))
    }

    async fn sync_dags(&self, dags: Vec<DagRecord>, now: DateTime<Utc>) -> StoreResult<Vec<DagRow>> {
        writing!(self, |conn| dags::sync(conn, &dags, now))
    }

    async fn dags(&self) -> StoreResult<Vec<DagRow>> {
        reading!(self, |conn| dags::list(conn))
    }

    async fn dag(&self, dag_id: &DagId) -> StoreResult<Option<DagRow>> {
        reading!(self, |conn| dags::get(conn, dag_id))
    }

    async fn dag_versions(&self, dag_id: &DagId) -> StoreResult<Vec<DagVersion>> {
        reading!(self, |conn| dags::versions(conn, dag_id))
    }

    async fn set_paused(&self, dag_id: &DagId, paused: bool) -> StoreResult<bool> {
        let dag_id = dag_id.clone();
        writing!(self, |conn| dags::set_paused(conn, &dag_id, paused))
    }

    async fn advance_dag(&self, dag_id: &DagId, advance: Advance) -> StoreResult<()> {
        let dag_id = dag_id.clone();
        writing!(self, |conn| dags::advance(conn, &dag_id, advance))
    }

    async fn delete_dag(&self, dag_id: &DagId) -> StoreResult<u64> {
        let dag_id = dag_id.clone();
        writing!(self, |conn| dags::delete(conn, &dag_id))
    }

    async fn create_runs(&self, runs: Vec<NewRun>) -> StoreResult<Vec<CreatedRun>> {
        self.writer().await?.create_runs(runs).await
    }

    async fn assets(&self) -> StoreResult<Vec<AssetRow>> {
        reading!(self, |conn| assets::list(conn))
    }

    async fn asset_events(&self, filter: &AssetEventFilter) -> StoreResult<Vec<AssetEvent>> {
        reading!(self, |conn| assets::events(conn, filter))
    }

    async fn add_asset_events(&self, events: Vec<AssetEvent>) -> StoreResult<()> {
        writing!(self, |conn| assets::add(conn, &events))
    }

    async fn asset_queue(&self) -> StoreResult<Vec<QueuedAsset>> {
        reading!(self, |conn| asset_queue::queue(conn))
    }

    async fn queued_events(&self, filter: &QueueFilter) -> StoreResult<Vec<QueuedEvent>> {
        reading!(self, |conn| asset_queue::events(conn, filter))
    }

    async fn unqueue_events(&self, filter: &QueueFilter) -> StoreResult<u64> {
        let filter = filter.clone();
        writing!(self, |conn| asset_queue::unqueue(conn, &filter))
    }

    async fn watchers(&self) -> StoreResult<Vec<WatcherRow>> {
        reading!(self, |conn| watchers::list(conn))
    }

    async fn claim_watchers(
        &self,
        keys: Vec<WatcherKey>,
        process: IncarnationId,
    ) -> StoreResult<Vec<WatcherRow>> {
        writing!(self, |conn| watchers::claim(conn, &keys, process))
    }

    async fn add_watched(&self, process: IncarnationId, watched: WatchedEvent) -> StoreResult<bool> {
        writing!(self, |conn| watchers::add(conn, process, &watched))
    }

    async fn note_watcher(
        &self,
        process: IncarnationId,
        key: WatcherKey,
        error: Option<String>,
        at: DateTime<Utc>,
    ) -> StoreResult<bool> {
        writing!(self, |conn| watchers::note(conn, process, &key, error.as_deref(), at))
    }

    async fn deadlines(
        &self,
        dags: &[DagId],
        until: Option<DateTime<Utc>>,
        limit: u32,
    ) -> StoreResult<Vec<DeadlineRow>> {
        reading!(self, |conn| deadlines::list(conn, dags, until, limit))
    }

    async fn missed_deadlines(&self, dag: Option<&DagId>, limit: u32) -> StoreResult<Vec<DeadlineRow>> {
        reading!(self, |conn| deadlines::missed(conn, dag, limit))
    }

    async fn settle_deadline(&self, seen: &DeadlineKey, settlement: Settlement) -> StoreResult<bool> {
        let seen = seen.clone();
        writing!(self, |conn| deadlines::settle(conn, &seen, &settlement))
    }

    async fn create_in_tx(&self, tx: HostTx<'_>, run: NewRun, note: AuditEntry) -> StoreResult<CreatedRun> {
        self.ready().await?;
        let mut tx = tx;
        host::check_file(&mut tx, &self.inner.options.path).await?;
        // Others see by the file itself that it was written.
        host::create(tx, (Dialect::sqlite(), &self.place()), run, note, vec![]).await
    }

    async fn runs(&self, filter: &RunFilter) -> StoreResult<Vec<RunRow>> {
        reading!(self, |conn| runs::list(conn, filter))
    }

    async fn load_run(&self, run: RunPk, past: Option<&PastQuery>) -> StoreResult<Option<RunSnapshot>> {
        reading!(self, |conn| load::load(conn, run, past))
    }

    async fn delete_run(&self, run: RunPk) -> StoreResult<bool> {
        writing!(self, |conn| runs::delete(conn, run))
    }

    async fn commit(&self, units: Vec<Unit>) -> StoreResult<Vec<UnitResult>> {
        self.writer().await?.commit(units).await
    }

    async fn task_instances(&self, run: RunPk) -> StoreResult<Vec<TiRow>> {
        reading!(self, |conn| load::task_instances(conn, run))
    }

    async fn attempts(&self, run: RunPk, task: Option<(&TaskId, MapIndex)>) -> StoreResult<Vec<AttemptRow>> {
        reading!(self, |conn| tasks::attempts(conn, run, task))
    }

    async fn events(&self, run: RunPk, task: Option<(&TaskId, MapIndex)>) -> StoreResult<Vec<EventRow>> {
        reading!(self, |conn| tasks::events(conn, run, task))
    }

    async fn xcoms(&self, filter: &XComFilter) -> StoreResult<Vec<XComRow>> {
        reading!(self, |conn| tasks::xcoms(conn, filter))
    }

    async fn set_xcom(&self, run: RunPk, xcom: XComWrite, now: DateTime<Utc>) -> StoreResult<()> {
        writing!(self, |conn| tasks::set_xcom(conn, run, &xcom, now))
    }

    async fn delete_xcoms(&self, filter: &XComFilter) -> StoreResult<u64> {
        let filter = filter.clone();
        writing!(self, |conn| tasks::delete_xcoms(conn, &filter))
    }

    async fn variable(&self, key: &str) -> StoreResult<Option<VariableRow>> {
        Ok(reading!(self, |conn| credentials::variables(conn, Some(key)))?.pop())
    }

    async fn variables(&self) -> StoreResult<Vec<VariableRow>> {
        reading!(self, |conn| credentials::variables(conn, None))
    }

    async fn set_variable(&self, variable: VariableRow) -> StoreResult<()> {
        writing!(self, |conn| credentials::set_variable(conn, &variable))
    }

    async fn delete_variable(&self, key: &str) -> StoreResult<bool> {
        let key = key.to_owned();
        writing!(self, |conn| credentials::delete_variable(conn, &key))
    }

    async fn connection(&self, conn_id: &str) -> StoreResult<Option<ConnectionRow>> {
        Ok(reading!(self, |conn| credentials::connections(conn, Some(conn_id)))?.pop())
    }

    async fn connections(&self) -> StoreResult<Vec<ConnectionRow>> {
        reading!(self, |conn| credentials::connections(conn, None))
    }

    async fn set_connection(&self, connection: ConnectionRow) -> StoreResult<()> {
        writing!(self, |conn| credentials::set_connection(conn, &connection))
    }

    async fn delete_connection(&self, conn_id: &str) -> StoreResult<bool> {
        let id = conn_id.to_owned();
        writing!(self, |conn| credentials::delete_connection(conn, &id))
    }

    async fn swap_tokens(&self, swaps: Vec<TokenSwap>) -> StoreResult<u64> {
        writing!(self, |conn| credentials::swap_tokens(conn, &swaps))
    }

    async fn pools(&self) -> StoreResult<Vec<PoolRow>> {
        reading!(self, |conn| admin::pools(conn))
    }

    async fn set_pool(&self, pool: PoolSpec) -> StoreResult<()> {
        writing!(self, |conn| admin::set_pool(conn, &pool))
    }

    async fn delete_pool(&self, name: &str) -> StoreResult<bool> {
        rules::may_delete_pool(name)?;
        let name = name.to_owned();
        writing!(self, |conn| admin::delete_pool(conn, &name))
    }

    async fn slots(&self) -> StoreResult<Vec<(SlotKey, i64)>> {
        reading!(self, |conn| admin::slots(conn))
    }

    async fn examine(&self, rows: Rows) -> StoreResult<Examined> {
        reading!(self, |conn| examine::examine(conn, rows))
    }

    async fn slot_count(&self) -> StoreResult<SlotCount> {
        reading!(self, |conn| examine::slot_count(conn))
    }

    async fn audit(&self, entry: AuditEntry) -> StoreResult<()> {
        writing!(self, |conn| admin::audit(conn, &entry))
    }

    async fn audit_log(&self, filter: &AuditFilter) -> StoreResult<Vec<AuditEntry>> {
        reading!(self, |conn| admin::audit_log(conn, filter))
    }

    async fn count_old(&self, old: &Old) -> StoreResult<u64> {
        reading!(self, |conn| old::count(conn, old))
    }

    async fn old_rows(&self, old: &Old, limit: u32) -> StoreResult<Vec<OldRow>> {
        reading!(self, |conn| old::list(conn, old, limit))
    }

    async fn delete_old(&self, old: &Old, keys: Vec<OldKey>) -> StoreResult<u64> {
        let old = old.clone();
        writing!(self, |conn| old::delete(conn, &old, &keys))
    }
}
