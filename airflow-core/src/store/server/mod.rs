//! A store on a database server: what PostgreSQL and MySQL have in common, which is nearly everything.
//!
//! Start with [`ServerStore`]; a transaction is a [`Tx`](core::Tx), and what keeps its outcome certain is in
//! [`nonce`]. Commits go through one task ([`commit`]). What differs is in `store/postgres` and `store/mysql`.

mod calls;
mod commit;
mod core;
mod link;
mod nonce;
mod pool_settings;
mod retry;
mod schema;

use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::asset::WatcherKey;
use crate::id::{AttemptId, DagId, IncarnationId, MapIndex, RunPk, TaskId};
use crate::time::YEARS;

use super::host::{self, HostTx};
use super::rules;
use super::sql::group::Writer;
use super::sql::{
    admin, asset_queue, assets, credentials, dags, deadlines, examine, load, notices, old, processes, remote,
    runs, task_logs, tasks, watchers,
};
use super::{
    Advance, AssetEvent, AssetEventFilter, AssetRow, AttemptRow, AuditEntry, AuditFilter, Carrier,
    ConnectionRow, CreatedRun, DagRecord, DagRow, DagVersion, DeadLetter, DeadlineKey, DeadlineRow, EventRow,
    Examined, FoundAttempt, Incarnation, LogChunk, LogFilter, LogPlace, Migrated, MissingVersion,
    NewIncarnation, NewRun, NoticeKey, NoticeRow, Old, OldKey, OldRow, PastQuery, PoolRow, PoolSpec,
    QueueFilter, QueuedAsset, QueuedAttempts, QueuedEvent, Rows, RunFilter, RunRow, RunSnapshot,
    SchemaStatus, Settlement, SlotCount, SlotKey, Store, StoreResult, StoredReport, TiRow, TokenSwap, Unit,
    UnitResult, VariableRow, WatchedEvent, WatcherRow, WorkerRow, XComFilter, XComRow, XComWrite,
};
use calls::{patiently, reading, writing};
use commit::Committer;
use nonce::sweep;

pub use self::core::UnknownCommits;
pub use pool_settings::PoolSettings;

pub(super) use self::core::Core;
pub(super) use self::core::Done;
#[cfg(feature = "postgres")]
pub(super) use self::core::Tx;
pub(super) use link::{Lease, Link, Pool, unreachable};
#[cfg(feature = "postgres")]
pub(super) use nonce::Nonce;
pub(super) use retry::{Class, Tries, class};
#[cfg(feature = "postgres")]
pub(super) use retry::{code_of, is_duplicate};
#[cfg(feature = "postgres")]
pub(super) use schema::ready;
pub(super) use schema::{NEEDED, STEP_DEADLINE, TABLES, VERSIONS, Version, at_least, fits, version};

/// How long a statement may wait for others that write: the server gives up then, and the call begins anew.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Stands for PostgreSQL in the type of a store.
#[cfg(feature = "postgres")]
#[derive(Debug, Clone, Copy)]
pub struct Postgres;

/// Stands for MySQL and MariaDB in the type of a store.
#[cfg(feature = "mysql")]
#[derive(Debug, Clone, Copy)]
pub struct Mysql;

/// Keeps everything in a database on a server: see `PostgresStore` and `MysqlStore`. Clones share the connections.
///
/// A lost connection, a deadlock or a restart of the server costs a call time and no more: reads and transactions are
/// tried again a few times, and if the answer to a commit was lost, the database itself tells what became of it.
pub struct ServerStore<D> {
    core: Arc<Core>,
    writer: Arc<Writer<Committer>>,
    server: PhantomData<fn() -> D>,
}

impl<D> Clone for ServerStore<D> {
    fn clone(&self) -> Self {
        Self { core: Arc::clone(&self.core), writer: Arc::clone(&self.writer), server: PhantomData }
    }
}

impl<D> std::fmt::Debug for ServerStore<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerStore").field("place", &self.core.place).finish_non_exhaustive()
    }
}

impl<D> ServerStore<D> {
    pub(super) fn start(core: Core) -> Self {
        let core = Arc::new(core);
        let writer = Arc::new(Writer::start(Committer::new(Arc::clone(&core))));
        Self { core, writer, server: PhantomData }
    }

    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    /// How many transactions [`Store::commit`] and [`Store::create_runs`] have taken through this store and its
    /// clones. Callers that come at the same time share transactions, so there may be fewer than calls.
    pub fn transactions(&self) -> u64 {
        self.writer.transactions()
    }

    /// From now on, acts as a program that needs so many versions more, at most 2: the first of them only adds, the
    /// second takes away what the first has added.
    #[cfg(feature = "testing")]
    pub fn need_versions_of_tests(&self, count: u32) {
        self.core.need_more(count);
    }

    /// How many answers to commits were lost, and what became of these commits.
    pub fn unknown_commits(&self) -> UnknownCommits {
        self.core.unknown_commits()
    }
}

/// An address as it may be shown: without user, password and options.
pub(super) fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let place = place.split('?').next().unwrap_or_default();
    format!("{scheme}://{place}")
}

#[async_trait]
impl<D: 'static> Store for ServerStore<D> {
    fn kind(&self) -> &'static str {
        self.core.kind().name()
    }

    fn place(&self) -> String {
        self.core.place.clone()
    }

    async fn migrate(&self) -> StoreResult<Migrated> {
        schema::migrate(&self.core).await
    }

    async fn check(&self) -> StoreResult<SchemaStatus> {
        let mut lease = self.core.lease().await?;
        let status = schema::status(&mut lease.conn(&self.core.dialect), &self.core).await?;
        drop(lease.clean());
        Ok(status)
    }

    async fn reset(&self) -> StoreResult<()> {
        schema::reset(&self.core).await
    }

    async fn change_token(&self) -> StoreResult<u64> {
        reading!(self, |conn| self.core.nonces.token(conn))
    }

    async fn create_runs(&self, runs: Vec<NewRun>) -> StoreResult<Vec<CreatedRun>> {
        self.writer.create_runs(runs).await
    }

    async fn create_in_tx(&self, tx: HostTx<'_>, run: NewRun, note: AuditEntry) -> StoreResult<CreatedRun> {
        schema::ready(&self.core).await?;
        host::create(tx, (&self.core.dialect, &self.core.place), run, note, vec![nonce::lend()]).await
    }

    async fn commit(&self, units: Vec<Unit>) -> StoreResult<Vec<UnitResult>> {
        self.writer.commit(units).await
    }

    async fn register(&self, process: NewIncarnation) -> StoreResult<()> {
        writing!(self, |conn| async {
            sweep(conn).await?;
            processes::register(conn, &process).await
        })
    }

    fn longest_wait(&self) -> Duration {
        LONGEST_WAIT
    }

    fn years(&self) -> RangeInclusive<i32> {
        // A DATETIME of MySQL knows no others.
        if self.kind() == "mysql" { 1000..=9999 } else { YEARS }
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
        writing!(self, |conn| processes::claim(conn, runs, process))
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
        #[cfg(feature = "postgres")]
        if self.core.kind() == super::sql::text::Kind::Postgres {
            return crate::store::postgres::add_reports(&self.core, process, &reports).await;
        }
        writing!(self, |conn| remote::add_reports(conn, process, &reports))
    }

    async fn reports(&self, process: IncarnationId, limit: u32) -> StoreResult<Vec<StoredReport>> {
        reading!(self, |conn| remote::reports(conn, process, limit))
    }

    async fn delete_reports(&self, ids: Vec<AttemptId>) -> StoreResult<()> {
        // One statement is its own transaction, and nobody waits to hear of this one.
        reading!(self, |conn| remote::delete_reports(conn, &ids))
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
        writing!(self, |conn| remote::register_worker(conn, process, name, &info))
    }

    async fn update_worker(&self, process: IncarnationId, name: &str, info: Value) -> StoreResult<bool> {
        writing!(self, |conn| remote::update_worker(conn, process, name, &info))
    }

    async fn workers(&self) -> StoreResult<Vec<WorkerRow>> {
        reading!(self, |conn| remote::workers(conn))
    }

    async fn forget_worker(&self, name: &str) -> StoreResult<bool> {
        writing!(self, |conn| remote::forget_worker(conn, name))
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
        writing!(self, |conn| remote::move_run(conn, run, from, to))
    }

    async fn keep_setting(&self, name: &str, value: &str) -> StoreResult<String> {
        writing!(self, |conn| remote::keep_setting(conn, name, value))
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
        writing!(self, |conn| notices::take(conn, key, from, to))
    }

    async fn delete_notices(&self, keys: Vec<NoticeKey>) -> StoreResult<()> {
        writing!(self, |conn| notices::delete(conn, &keys))
    }

    async fn orphans(&self) -> StoreResult<Vec<AttemptRow>> {
        reading!(self, |conn| tasks::orphans(conn))
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
        writing!(self, |conn| dags::set_paused(conn, dag_id, paused))
    }

    async fn advance_dag(&self, dag_id: &DagId, advance: Advance) -> StoreResult<()> {
        writing!(self, |conn| dags::advance(conn, dag_id, advance))
    }

    async fn delete_dag(&self, dag_id: &DagId) -> StoreResult<u64> {
        writing!(self, true, |conn| dags::delete(conn, dag_id))
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
        writing!(self, |conn| asset_queue::unqueue(conn, filter))
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
        writing!(self, |conn| deadlines::settle(conn, seen, &settlement))
    }

    async fn runs(&self, filter: &RunFilter) -> StoreResult<Vec<RunRow>> {
        reading!(self, |conn| runs::list(conn, filter))
    }

    async fn load_run(&self, run: RunPk, past: Option<&PastQuery>) -> StoreResult<Option<RunSnapshot>> {
        reading!(self, |conn| load::load(conn, run, past))
    }

    async fn delete_run(&self, run: RunPk) -> StoreResult<bool> {
        writing!(self, true, |conn| runs::delete(conn, run))
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
        writing!(self, |conn| tasks::delete_xcoms(conn, filter))
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
        writing!(self, |conn| credentials::delete_variable(conn, key))
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
        writing!(self, |conn| credentials::delete_connection(conn, conn_id))
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
        writing!(self, |conn| admin::delete_pool(conn, name))
    }

    async fn slots(&self) -> StoreResult<Vec<(SlotKey, i64)>> {
        reading!(self, |conn| admin::slots(conn))
    }

    async fn examine(&self, rows: Rows) -> StoreResult<Examined> {
        patiently!(self, |conn| examine::examine(conn, rows))
    }

    async fn slot_count(&self) -> StoreResult<SlotCount> {
        patiently!(self, |conn| examine::slot_count(conn))
    }

    async fn audit(&self, entry: AuditEntry) -> StoreResult<()> {
        writing!(self, |conn| admin::audit(conn, &entry))
    }

    async fn audit_log(&self, filter: &AuditFilter) -> StoreResult<Vec<AuditEntry>> {
        reading!(self, |conn| admin::audit_log(conn, filter))
    }

    async fn count_old(&self, old: &Old) -> StoreResult<u64> {
        patiently!(self, |conn| old::count(conn, old))
    }

    async fn old_rows(&self, old: &Old, limit: u32) -> StoreResult<Vec<OldRow>> {
        patiently!(self, |conn| old::list(conn, old, limit))
    }

    async fn delete_old(&self, old: &Old, keys: Vec<OldKey>) -> StoreResult<u64> {
        writing!(self, true, |conn| old::delete(conn, old, &keys))
    }
}
