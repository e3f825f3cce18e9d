//! A store in one SQLite file: for one machine, without a server.
//!
//! Any number of processes may use the file; each has one connection that writes ([`writer`]) and a few that read.
//! The path every state takes is [`commit`]; the tables are in [`schema`]. Decides nothing.

mod commit;
mod errors;
mod schema;
mod steps;
mod view;
mod writer;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _, Sqlite, SqliteConnection};

use crate::id::{DagId, IncarnationId, MapIndex, RunPk, TaskId};

use super::rules::{self, CLEANED};
use super::sql::errors::failed;
use super::sql::group::Writer;
use super::sql::{Conn, admin, credentials, dags, load, notices, processes, runs, tasks};
use super::{
    Advance, AttemptRow, AuditEntry, AuditFilter, ConnectionRow, CreatedRun, DagRecord, DagRow, DagVersion,
    EventRow, Incarnation, Migrated, NewIncarnation, NewRun, NoticeKey, NoticeRow, PastQuery, PoolRow,
    PoolSpec, RunFilter, RunRow, RunSnapshot, SchemaStatus, SlotKey, Store, StoreError, StoreResult, TiRow,
    TokenSwap, Unit, UnitResult, VariableRow, XComFilter, XComRow, XComWrite,
};
use errors::unreachable;

/// How long a writer waits for another process: far longer than any transaction of ours takes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// How many connections read: enough to list and load side by side on a small machine; each is a thread.
const READERS: u32 = 4;

/// To how many bytes the log of the database is cut back after a burst, so that it does not keep the disk.
const WAL_LIMIT: &str = "67108864";

/// After how many pages the log goes into the file: 16 MiB. SQLite's own 1000 make every hundredth commit wait for the
/// disk; more of them would also make the first reads of a new process slower.
const CHECKPOINT_PAGES: &str = "4000";

/// How much of the file the writing connection keeps in memory, in KiB (a negative number says so): the upper pages of
/// all tables and the leaves that are being written.
const CACHE: &str = "-16384";

/// How often opening is tried while another process changes the journal mode of a new file, which waits for nobody.
const OPEN_TRIES: u32 = 20;

/// The pause between two tries.
const OPEN_PAUSE: Duration = Duration::from_millis(50);

/// When a commit counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// When the operating system has it: survives the death of any process, may lose the last commits if the power
    /// fails. The file stays sound. Two to three times as fast.
    #[default]
    Normal,
    /// When the disk has it.
    Full,
}

/// How to open a database.
///
/// ```
/// use airflow_core::store::{SqliteOptions, Synchronous};
///
/// let options = SqliteOptions { synchronous: Synchronous::Full, ..SqliteOptions::new("airflow.db") };
/// assert_eq!(options.busy_timeout.as_secs(), 30);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteOptions {
    /// The file; it is created if it is missing.
    pub path: PathBuf,
    /// When a commit counts as durable.
    pub synchronous: Synchronous,
    /// How long a writer waits while another process writes, before it fails.
    pub busy_timeout: Duration,
    /// How many connections read, at least 1.
    pub readers: u32,
}

impl SqliteOptions {
    /// The usual options for the file `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            synchronous: Synchronous::default(),
            busy_timeout: BUSY_TIMEOUT,
            readers: READERS,
        }
    }

    fn connect(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .foreign_keys(true)
            .busy_timeout(self.busy_timeout)
            .pragma("temp_store", "memory")
            .disable_statement_logging()
    }

    fn writing(&self) -> SqliteConnectOptions {
        let synchronous = match self.synchronous {
            Synchronous::Normal => SqliteSynchronous::Normal,
            Synchronous::Full => SqliteSynchronous::Full,
        };
        self.connect()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .pragma("journal_size_limit", WAL_LIMIT)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            .pragma("cache_size", CACHE)
    }
}

impl FromStr for SqliteOptions {
    type Err = StoreError;

    /// Reads a path, or an address such as `sqlite://airflow.db` or `sqlite:/var/lib/airflow.db`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:")).unwrap_or(text);
        if path.is_empty() || path.contains(":memory:") {
            let why = "a file is needed; use the memory store for tests".to_owned();
            return Err(StoreError::Unreachable { place: text.to_owned(), why });
        }
        Ok(Self::new(path))
    }
}

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
        // The file may be readable only: say so now, not at the first commit.
        let writable = sqlx::raw_sql("BEGIN IMMEDIATE; ROLLBACK").execute(&mut conn).await;
        writable.map_err(|error| unreachable(&options.path, &error))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(options.readers.max(1))
            .acquire_timeout(options.busy_timeout)
            .test_before_acquire(false)
            .connect_lazy_with(options.connect().pragma("query_only", "1"));
        let inner = Inner { options, writer: Writer::start(conn), readers, ready: AtomicBool::new(false) };
        Ok(Self { inner: Arc::new(inner) })
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
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { processes::register(&mut Conn::sqlite(conn), &process).await })
            })
            .await
    }

    fn longest_wait(&self) -> Duration {
        self.inner.options.busy_timeout
    }

    async fn beat(&self, process: IncarnationId) -> StoreResult<bool> {
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { processes::beat(&mut Conn::sqlite(conn), process).await })
            })
            .await
    }

    async fn end_incarnation(&self, process: IncarnationId) -> StoreResult<()> {
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { processes::end(&mut Conn::sqlite(conn), process).await })
            })
            .await
    }

    async fn expire(&self, process: IncarnationId, beats: u64) -> StoreResult<bool> {
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { processes::expire(&mut Conn::sqlite(conn), process, beats).await })
            })
            .await
    }

    async fn incarnations(&self) -> StoreResult<Vec<Incarnation>> {
        processes::list(&mut Conn::sqlite(&mut *self.reader().await?)).await
    }

    async fn forget_incarnations(&self, before: DateTime<Utc>) -> StoreResult<u64> {
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { processes::forget(&mut Conn::sqlite(conn), before).await })
            })
            .await
    }

    async fn claim_runs(&self, runs: &[RunPk], process: IncarnationId) -> StoreResult<Vec<RunPk>> {
        let runs = runs.to_vec();
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { processes::claim(&mut Conn::sqlite(conn), &runs, process).await })
            })
            .await
    }

    async fn orphans(&self) -> StoreResult<Vec<AttemptRow>> {
        tasks::orphans(&mut Conn::sqlite(&mut *self.reader().await?)).await
    }

    async fn notices(&self) -> StoreResult<Vec<NoticeRow>> {
        notices::list(&mut Conn::sqlite(&mut *self.reader().await?)).await
    }

    async fn take_notice(
        &self,
        key: &NoticeKey,
        from: IncarnationId,
        to: IncarnationId,
    ) -> StoreResult<bool> {
        let key = key.clone();
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { notices::take(&mut Conn::sqlite(conn), &key, from, to).await })
            })
            .await
    }

    async fn delete_notices(&self, keys: Vec<NoticeKey>) -> StoreResult<()> {
        self.writer()
            .await?
            .write(move |conn| Box::pin(async move { notices::delete(&mut Conn::sqlite(conn), &keys).await }))
            .await
    }

    async fn sync_dags(&self, dags: Vec<DagRecord>, now: DateTime<Utc>) -> StoreResult<Vec<DagRow>> {
        self.writer()
            .await?
            .write(move |conn| Box::pin(async move { dags::sync(&mut Conn::sqlite(conn), &dags, now).await }))
            .await
    }

    async fn dags(&self) -> StoreResult<Vec<DagRow>> {
        dags::list(&mut Conn::sqlite(&mut *self.reader().await?)).await
    }

    async fn dag(&self, dag_id: &DagId) -> StoreResult<Option<DagRow>> {
        dags::get(&mut Conn::sqlite(&mut *self.reader().await?), dag_id).await
    }

    async fn dag_versions(&self, dag_id: &DagId) -> StoreResult<Vec<DagVersion>> {
        dags::versions(&mut Conn::sqlite(&mut *self.reader().await?), dag_id).await
    }

    async fn set_paused(&self, dag_id: &DagId, paused: bool) -> StoreResult<bool> {
        let dag_id = dag_id.clone();
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { dags::set_paused(&mut Conn::sqlite(conn), &dag_id, paused).await })
            })
            .await
    }

    async fn advance_dag(&self, dag_id: &DagId, advance: Advance) -> StoreResult<()> {
        let dag_id = dag_id.clone();
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { dags::advance(&mut Conn::sqlite(conn), &dag_id, advance).await })
            })
            .await
    }

    async fn delete_dag(&self, dag_id: &DagId) -> StoreResult<u64> {
        let dag_id = dag_id.clone();
        self.writer()
            .await?
            .write(move |conn| Box::pin(async move { dags::delete(&mut Conn::sqlite(conn), &dag_id).await }))
            .await
    }

    async fn create_runs(&self, runs: Vec<NewRun>) -> StoreResult<Vec<CreatedRun>> {
        self.writer().await?.create_runs(runs).await
    }

    async fn runs(&self, filter: &RunFilter) -> StoreResult<Vec<RunRow>> {
        runs::list(&mut Conn::sqlite(&mut *self.reader().await?), filter).await
    }

    async fn load_run(&self, run: RunPk, past: Option<&PastQuery>) -> StoreResult<Option<RunSnapshot>> {
        load::load(&mut Conn::sqlite(&mut *self.reader().await?), run, past).await
    }

    async fn delete_run(&self, run: RunPk) -> StoreResult<bool> {
        self.writer()
            .await?
            .write(move |conn| Box::pin(async move { runs::delete(&mut Conn::sqlite(conn), run).await }))
            .await
    }

    async fn commit(&self, units: Vec<Unit>) -> StoreResult<Vec<UnitResult>> {
        self.writer().await?.commit(units).await
    }

    async fn task_instances(&self, run: RunPk) -> StoreResult<Vec<TiRow>> {
        load::task_instances(&mut Conn::sqlite(&mut *self.reader().await?), run).await
    }

    async fn attempts(&self, run: RunPk, task: Option<(&TaskId, MapIndex)>) -> StoreResult<Vec<AttemptRow>> {
        tasks::attempts(&mut Conn::sqlite(&mut *self.reader().await?), run, task).await
    }

    async fn events(&self, run: RunPk, task: Option<(&TaskId, MapIndex)>) -> StoreResult<Vec<EventRow>> {
        tasks::events(&mut Conn::sqlite(&mut *self.reader().await?), run, task).await
    }

    async fn xcoms(&self, filter: &XComFilter) -> StoreResult<Vec<XComRow>> {
        tasks::xcoms(&mut Conn::sqlite(&mut *self.reader().await?), filter).await
    }

    async fn set_xcom(&self, run: RunPk, xcom: XComWrite, now: DateTime<Utc>) -> StoreResult<()> {
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { tasks::set_xcom(&mut Conn::sqlite(conn), run, &xcom, now).await })
            })
            .await
    }

    async fn delete_xcoms(&self, filter: &XComFilter) -> StoreResult<u64> {
        let filter = filter.clone();
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { tasks::delete_xcoms(&mut Conn::sqlite(conn), &filter).await })
            })
            .await
    }

    async fn variable(&self, key: &str) -> StoreResult<Option<VariableRow>> {
        Ok(credentials::variables(&mut Conn::sqlite(&mut *self.reader().await?), Some(key)).await?.pop())
    }

    async fn variables(&self) -> StoreResult<Vec<VariableRow>> {
        credentials::variables(&mut Conn::sqlite(&mut *self.reader().await?), None).await
    }

    async fn set_variable(&self, variable: VariableRow) -> StoreResult<()> {
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { credentials::set_variable(&mut Conn::sqlite(conn), &variable).await })
            })
            .await
    }

    async fn delete_variable(&self, key: &str) -> StoreResult<bool> {
        let key = key.to_owned();
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { credentials::delete_variable(&mut Conn::sqlite(conn), &key).await })
            })
            .await
    }

    async fn connection(&self, conn_id: &str) -> StoreResult<Option<ConnectionRow>> {
        Ok(credentials::connections(&mut Conn::sqlite(&mut *self.reader().await?), Some(conn_id))
            .await?
            .pop())
    }

    async fn connections(&self) -> StoreResult<Vec<ConnectionRow>> {
        credentials::connections(&mut Conn::sqlite(&mut *self.reader().await?), None).await
    }

    async fn set_connection(&self, connection: ConnectionRow) -> StoreResult<()> {
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(
                    async move { credentials::set_connection(&mut Conn::sqlite(conn), &connection).await },
                )
            })
            .await
    }

    async fn delete_connection(&self, conn_id: &str) -> StoreResult<bool> {
        let id = conn_id.to_owned();
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { credentials::delete_connection(&mut Conn::sqlite(conn), &id).await })
            })
            .await
    }

    async fn swap_tokens(&self, swaps: Vec<TokenSwap>) -> StoreResult<u64> {
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { credentials::swap_tokens(&mut Conn::sqlite(conn), &swaps).await })
            })
            .await
    }

    async fn pools(&self) -> StoreResult<Vec<PoolRow>> {
        admin::pools(&mut Conn::sqlite(&mut *self.reader().await?)).await
    }

    async fn set_pool(&self, pool: PoolSpec) -> StoreResult<()> {
        self.writer()
            .await?
            .write(move |conn| Box::pin(async move { admin::set_pool(&mut Conn::sqlite(conn), &pool).await }))
            .await
    }

    async fn delete_pool(&self, name: &str) -> StoreResult<bool> {
        rules::may_delete_pool(name)?;
        let name = name.to_owned();
        self.writer()
            .await?
            .write(move |conn| {
                Box::pin(async move { admin::delete_pool(&mut Conn::sqlite(conn), &name).await })
            })
            .await
    }

    async fn slots(&self) -> StoreResult<Vec<(SlotKey, i64)>> {
        admin::slots(&mut Conn::sqlite(&mut *self.reader().await?)).await
    }

    async fn audit(&self, entry: AuditEntry) -> StoreResult<()> {
        self.writer()
            .await?
            .write(move |conn| Box::pin(async move { admin::audit(&mut Conn::sqlite(conn), &entry).await }))
            .await
    }

    async fn audit_log(&self, filter: &AuditFilter) -> StoreResult<Vec<AuditEntry>> {
        admin::audit_log(&mut Conn::sqlite(&mut *self.reader().await?), filter).await
    }

    async fn clean(&self, before: DateTime<Utc>, dry_run: bool) -> StoreResult<Vec<(String, u64)>> {
        let writer = self.writer().await?;
        let mut counts = [0; CLEANED.len()];
        let mut last = RunPk(0);
        while let Some((pk, batch)) = writer
            .write(move |conn| {
                Box::pin(
                    async move { runs::clean_batch(&mut Conn::sqlite(conn), before, last, dry_run).await },
                )
            })
            .await?
        {
            last = pk;
            counts.iter_mut().zip(batch).for_each(|(count, rows)| *count += rows);
        }
        let audit = &mut counts[CLEANED.len() - 1];
        if dry_run {
            *audit = writer
                .with(move |conn| {
                    Box::pin(async move { runs::count_audit(&mut Conn::sqlite(conn), before).await })
                })
                .await?;
        } else {
            loop {
                let gone = writer
                    .write(move |conn| {
                        Box::pin(async move { runs::clean_audit(&mut Conn::sqlite(conn), before).await })
                    })
                    .await?;
                *audit += gone;
                if gone == 0 {
                    break;
                }
            }
        }
        Ok(CLEANED.iter().zip(counts).map(|(name, count)| ((*name).to_owned(), count)).collect())
    }
}
