//! A store that keeps everything in memory, for tests and simulation.
//!
//! Deterministic: ordered maps, numbers that count up, time only for leases. Clones share the rows, like two processes that share
//! a database; [`Store::change_token`] of one changes with the writes of the others. Nothing is durable. The rows and
//! what is done to them stand in `memory/state.rs`.

mod state;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::asset::WatcherKey;
use crate::id::{AttemptId, DagId, IncarnationId, MapIndex, RunPk, TaskId};
use crate::time::{Clock, SystemClock};

use super::{
    Advance, AssetEvent, AssetEventFilter, AssetRow, AttemptRow, AuditEntry, AuditFilter, Carrier,
    ConnectionRow, CreatedRun, DagRecord, DagRow, DagVersion, DeadLetter, DeadlineKey, DeadlineRow, EventRow,
    Examined, FoundAttempt, HostTx, Incarnation, LogChunk, LogFilter, LogPlace, Migrated, MissingVersion,
    NewIncarnation, NewRun, NoticeKey, NoticeRow, Old, OldKey, OldRow, PastQuery, PoolRow, PoolSpec,
    QueueFilter, QueuedAsset, QueuedAttempts, QueuedEvent, Rows, RunFilter, RunRow, RunSnapshot,
    SchemaStatus, Settlement, SlotCount, SlotKey, Store, StoreError, StoreResult, StoredReport, TiRow,
    TokenSwap, Unit, UnitResult, VariableRow, WatchedEvent, WatcherRow, WorkerRow, XComFilter, XComRow,
    XComWrite,
};
use state::State;

/// The only version of the tables of a store that has none.
const VERSION: u32 = 1;

/// Keeps everything in memory. Clones share it.
///
/// ```
/// use airflow_core::store::{MemoryStore, Store};
///
/// let store = MemoryStore::new();
/// assert_eq!(store.kind(), "memory");
/// ```
#[derive(Debug, Default)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    /// How many of the shared writes came through this handle.
    own_writes: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    writes: AtomicU64,
    observer: Observer,
    /// The time of this database.
    clock: Arc<dyn Clock>,
    #[cfg(feature = "testing")]
    blind: Option<Blind>,
}

/// What a store overlooks, to show that tests would notice.
#[cfg(feature = "testing")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blind {
    /// It does not compare the epochs of task instances.
    Epoch,
    /// It does not compare the states of task instances.
    State,
    /// It does not compare the generation of the run.
    Generation,
    /// It does not count the epoch on when a user changes a task instance.
    ClearedEpoch,
    /// It does not look whether an attempt that is claimed is still there to be claimed.
    Claim,
    /// It does not take a run to its next generation when somebody sets a value of it.
    Values,
}

impl Default for Shared {
    fn default() -> Self {
        let (state, writes, observer) = (Mutex::default(), AtomicU64::new(0), Observer::default());
        Self {
            state,
            writes,
            observer,
            clock: Arc::new(SystemClock),
            #[cfg(feature = "testing")]
            blind: None,
        }
    }
}

/// Sees every unit that is written.
#[derive(Default)]
struct Observer(Option<Notify>);

type Notify = Box<dyn Fn(&Unit) + Send + Sync>;

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Observer").field(&self.0.is_some()).finish()
    }
}

impl Clone for MemoryStore {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), own_writes: AtomicU64::new(0) }
    }
}

impl MemoryStore {
    /// An empty store; it has `default_pool` and nothing else.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that takes its time from `clock`: what leases are measured by.
    pub fn with_clock(clock: impl Clock) -> Self {
        let shared = Shared { clock: Arc::new(clock), ..Shared::default() };
        Self { shared: Arc::new(shared), own_writes: AtomicU64::new(0) }
    }

    /// The same, and it shows each unit it has written to `observer`, in order, before anybody else sees what was
    /// written. The observer must not call the store.
    pub fn observed(clock: impl Clock, observer: impl Fn(&Unit) + Send + Sync + 'static) -> Self {
        let observer = Observer(Some(Box::new(observer)));
        let shared = Shared { observer, clock: Arc::new(clock), ..Shared::default() };
        Self { shared: Arc::new(shared), own_writes: AtomicU64::new(0) }
    }

    /// A broken store, to show that tests notice; see [`observed`](Self::observed).
    #[cfg(feature = "testing")]
    pub fn blinded(
        clock: impl Clock,
        blind: Option<Blind>,
        observer: impl Fn(&Unit) + Send + Sync + 'static,
    ) -> Self {
        let observer = Observer(Some(Box::new(observer)));
        let shared = Shared { observer, clock: Arc::new(clock), blind, ..Shared::default() };
        Self { shared: Arc::new(shared), own_writes: AtomicU64::new(0) }
    }

    fn read(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held is a bug elsewhere; the rows are still what tests want to look at.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> MutexGuard<'_, State> {
        let state = self.read();
        self.shared.writes.fetch_add(1, Ordering::Relaxed);
        self.own_writes.fetch_add(1, Ordering::Relaxed);
        state
    }
}

fn no_rows() -> StoreError {
    StoreError::Refused("the store in memory has no rows to look at; use a database".to_owned())
}

#[async_trait]
impl Store for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn place(&self) -> String {
        "memory of this process".to_owned()
    }

    async fn migrate(&self) -> StoreResult<Migrated> {
        Ok(Migrated { from: VERSION, to: VERSION })
    }

    async fn check(&self) -> StoreResult<SchemaStatus> {
        let facts = vec![("durable".into(), "no".into())];
        Ok(SchemaStatus { version: VERSION, needed: VERSION, serves: VERSION, facts })
    }

    async fn reset(&self) -> StoreResult<()> {
        *self.write() = State::default();
        Ok(())
    }

    async fn change_token(&self) -> StoreResult<u64> {
        let _consistent = self.read();
        let all = self.shared.writes.load(Ordering::Relaxed);
        Ok(all - self.own_writes.load(Ordering::Relaxed))
    }

    async fn register(&self, process: NewIncarnation) -> StoreResult<()> {
        let now = self.shared.clock.now();
        self.write().register(process, now);
        Ok(())
    }

    async fn beat(&self, process: IncarnationId) -> StoreResult<bool> {
        let now = self.shared.clock.now();
        Ok(self.write().beat(process, now))
    }

    async fn end_incarnation(&self, process: IncarnationId) -> StoreResult<()> {
        let now = self.shared.clock.now();
        self.write().end_incarnation(process, now);
        Ok(())
    }

    async fn expire(&self, process: IncarnationId, beats: u64) -> StoreResult<bool> {
        let now = self.shared.clock.now();
        Ok(self.write().expire(process, beats, now))
    }

    async fn incarnations(&self) -> StoreResult<Vec<Incarnation>> {
        Ok(self.read().incarnations(self.shared.clock.now()))
    }

    async fn forget_incarnations(&self, before: DateTime<Utc>) -> StoreResult<u64> {
        Ok(self.write().forget_incarnations(before))
    }

    async fn claim_runs(&self, runs: &[RunPk], process: IncarnationId) -> StoreResult<Vec<RunPk>> {
        Ok(self.write().claim_runs(runs, process))
    }

    async fn orphans(&self) -> StoreResult<Vec<AttemptRow>> {
        Ok(self.read().orphans())
    }

    async fn find_attempts(&self, ids: &[AttemptId]) -> StoreResult<Vec<FoundAttempt>> {
        Ok(self.read().find_attempts(ids))
    }

    async fn open_attempts(&self, process: IncarnationId) -> StoreResult<Vec<AttemptId>> {
        Ok(self.read().open_attempts_of(process))
    }

    async fn queued_attempts(&self) -> StoreResult<Vec<QueuedAttempts>> {
        Ok(self.read().queued_attempts())
    }

    async fn add_reports(
        &self,
        process: IncarnationId,
        reports: Vec<StoredReport>,
    ) -> StoreResult<Vec<bool>> {
        Ok(self.write().add_reports(process, reports))
    }

    async fn reports(&self, process: IncarnationId, limit: u32) -> StoreResult<Vec<StoredReport>> {
        Ok(self.read().reports(process, limit))
    }

    async fn delete_reports(&self, ids: Vec<AttemptId>) -> StoreResult<()> {
        self.write().delete_reports(&ids);
        Ok(())
    }

    async fn add_log_chunks(&self, chunks: Vec<LogChunk>) -> StoreResult<()> {
        self.write().add_log_chunks(chunks);
        Ok(())
    }

    async fn log_chunks(&self, filter: &LogFilter) -> StoreResult<Vec<(LogPlace, LogChunk)>> {
        Ok(self.read().log_chunks(filter))
    }

    async fn keep_dead_letter(&self, letter: DeadLetter, most: u32) -> StoreResult<bool> {
        Ok(self.write().keep_dead_letter(letter, most))
    }

    async fn dead_letters(&self, limit: u32) -> StoreResult<Vec<DeadLetter>> {
        Ok(self.read().dead_letters(limit))
    }

    async fn delete_dead_letters(&self, ids: Vec<String>) -> StoreResult<u64> {
        Ok(self.write().delete_dead_letters(&ids))
    }

    async fn register_worker(&self, process: IncarnationId, name: &str, info: Value) -> StoreResult<bool> {
        Ok(self.write().register_worker(process, name, &info, self.shared.clock.now()))
    }

    async fn update_worker(&self, process: IncarnationId, name: &str, info: Value) -> StoreResult<bool> {
        Ok(self.write().update_worker(process, name, &info, self.shared.clock.now()))
    }

    async fn workers(&self) -> StoreResult<Vec<WorkerRow>> {
        Ok(self.read().workers())
    }

    async fn forget_worker(&self, name: &str) -> StoreResult<bool> {
        Ok(self.write().forget_worker(name))
    }

    async fn carry(&self, process: IncarnationId, versions: Vec<(DagId, String)>) -> StoreResult<()> {
        self.write().carry(process, versions);
        Ok(())
    }

    async fn carriers(&self, dag_id: &DagId) -> StoreResult<Vec<Carrier>> {
        Ok(self.read().carriers(dag_id))
    }

    async fn missing_versions(&self) -> StoreResult<Vec<MissingVersion>> {
        Ok(self.read().missing_versions())
    }

    async fn move_run(&self, run: RunPk, from: &str, to: &str) -> StoreResult<bool> {
        Ok(self.write().move_run(run, from, to))
    }

    async fn keep_setting(&self, name: &str, value: &str) -> StoreResult<String> {
        Ok(self.write().keep_setting(name, value))
    }

    async fn notices(&self) -> StoreResult<Vec<NoticeRow>> {
        Ok(self.read().notices())
    }

    async fn take_notice(
        &self,
        key: &NoticeKey,
        from: IncarnationId,
        to: IncarnationId,
    ) -> StoreResult<bool> {
        Ok(self.write().take_notice(key, from, to))
    }

    async fn delete_notices(&self, keys: Vec<NoticeKey>) -> StoreResult<()> {
        let mut state = self.write();
        keys.iter().for_each(|key| state.delete_notice(key));
        Ok(())
    }

    async fn sync_dags(&self, dags: Vec<DagRecord>, now: DateTime<Utc>) -> StoreResult<Vec<DagRow>> {
        let mut state = self.write();
        for record in &dags {
            state.sync_dag(record, now);
        }
        for record in &dags {
            state.assets.unqueue(&record.dag_id);
            state.meet_watchers(&record.dag_id, now);
        }
        Ok(dags.iter().filter_map(|record| state.dag(&record.dag_id)).collect())
    }

    async fn dags(&self) -> StoreResult<Vec<DagRow>> {
        Ok(self.read().dags())
    }

    async fn dag(&self, dag_id: &DagId) -> StoreResult<Option<DagRow>> {
        Ok(self.read().dag(dag_id))
    }

    async fn dag_versions(&self, dag_id: &DagId) -> StoreResult<Vec<DagVersion>> {
        Ok(self.read().dag_versions(dag_id))
    }

    async fn set_paused(&self, dag_id: &DagId, paused: bool) -> StoreResult<bool> {
        Ok(self.write().set_paused(dag_id, paused))
    }

    async fn advance_dag(&self, dag_id: &DagId, advance: Advance) -> StoreResult<()> {
        self.write().advance(dag_id, advance)
    }

    async fn delete_dag(&self, dag_id: &DagId) -> StoreResult<u64> {
        self.write().delete_dag(dag_id)
    }

    async fn create_runs(&self, runs: Vec<NewRun>) -> StoreResult<Vec<CreatedRun>> {
        self.write().create_runs(runs)
    }

    async fn assets(&self) -> StoreResult<Vec<AssetRow>> {
        Ok(self.read().assets.list())
    }

    async fn asset_events(&self, filter: &AssetEventFilter) -> StoreResult<Vec<AssetEvent>> {
        Ok(self.read().assets.events(filter))
    }

    async fn add_asset_events(&self, events: Vec<AssetEvent>) -> StoreResult<()> {
        let mut state = self.write();
        events.iter().for_each(|event| state.add_asset_event(event));
        Ok(())
    }

    async fn asset_queue(&self) -> StoreResult<Vec<QueuedAsset>> {
        Ok(self.read().assets.queued())
    }

    async fn queued_events(&self, filter: &QueueFilter) -> StoreResult<Vec<QueuedEvent>> {
        Ok(self.read().assets.queued_events(filter))
    }

    async fn unqueue_events(&self, filter: &QueueFilter) -> StoreResult<u64> {
        Ok(self.write().assets.unqueue_events(filter))
    }

    async fn watchers(&self) -> StoreResult<Vec<WatcherRow>> {
        Ok(self.read().watchers())
    }

    async fn claim_watchers(
        &self,
        keys: Vec<WatcherKey>,
        process: IncarnationId,
    ) -> StoreResult<Vec<WatcherRow>> {
        Ok(self.write().claim_watchers(&keys, process))
    }

    async fn add_watched(&self, process: IncarnationId, watched: WatchedEvent) -> StoreResult<bool> {
        Ok(self.write().add_watched(process, &watched))
    }

    async fn note_watcher(
        &self,
        process: IncarnationId,
        key: WatcherKey,
        error: Option<String>,
        at: DateTime<Utc>,
    ) -> StoreResult<bool> {
        Ok(self.write().note_watcher(process, &key, error.as_deref(), at))
    }

    async fn deadlines(
        &self,
        dags: &[DagId],
        until: Option<DateTime<Utc>>,
        limit: u32,
    ) -> StoreResult<Vec<DeadlineRow>> {
        Ok(self.read().deadlines(dags, until, limit))
    }

    async fn missed_deadlines(&self, dag: Option<&DagId>, limit: u32) -> StoreResult<Vec<DeadlineRow>> {
        Ok(self.read().missed_deadlines(dag, limit))
    }

    async fn settle_deadline(&self, seen: &DeadlineKey, settlement: Settlement) -> StoreResult<bool> {
        Ok(self.write().settle_deadline(seen, settlement))
    }

    async fn create_in_tx(&self, tx: HostTx<'_>, _: NewRun, _: AuditEntry) -> StoreResult<CreatedRun> {
        Err(tx.refused(self.kind(), &self.place()))
    }

    async fn runs(&self, filter: &RunFilter) -> StoreResult<Vec<RunRow>> {
        Ok(self.read().runs(filter))
    }

    async fn load_run(&self, run: RunPk, past: Option<&PastQuery>) -> StoreResult<Option<RunSnapshot>> {
        Ok(self.read().load_run(run, past))
    }

    async fn delete_run(&self, run: RunPk) -> StoreResult<bool> {
        Ok(self.write().delete_run(run))
    }

    async fn commit(&self, units: Vec<Unit>) -> StoreResult<Vec<UnitResult>> {
        let mut state = self.write();
        #[cfg(feature = "testing")]
        let results = state.commit_blind(&units, self.shared.blind);
        #[cfg(not(feature = "testing"))]
        let results = state.commit(&units);
        drop(state);
        if let Some(observer) = &self.shared.observer.0 {
            let written = units.iter().zip(&results).filter(|(_, result)| **result == UnitResult::Committed);
            written.for_each(|(unit, _)| observer(unit));
        }
        Ok(results)
    }

    async fn task_instances(&self, run: RunPk) -> StoreResult<Vec<TiRow>> {
        Ok(self.read().task_instances(run))
    }

    async fn attempts(&self, run: RunPk, task: Option<(&TaskId, MapIndex)>) -> StoreResult<Vec<AttemptRow>> {
        Ok(self.read().attempts(run, task))
    }

    async fn events(&self, run: RunPk, task: Option<(&TaskId, MapIndex)>) -> StoreResult<Vec<EventRow>> {
        Ok(self.read().events(run, task))
    }

    async fn xcoms(&self, filter: &XComFilter) -> StoreResult<Vec<XComRow>> {
        Ok(self.read().xcoms(filter))
    }

    async fn set_xcom(&self, run: RunPk, xcom: XComWrite, now: DateTime<Utc>) -> StoreResult<()> {
        let mut state = self.write();
        state.set_xcom(run, &xcom, now)?;
        #[cfg(feature = "testing")]
        if self.shared.blind == Some(Blind::Values) {
            state.set_generation_back(run);
        }
        Ok(())
    }

    async fn delete_xcoms(&self, filter: &XComFilter) -> StoreResult<u64> {
        Ok(self.write().delete_xcoms(filter))
    }

    async fn variable(&self, key: &str) -> StoreResult<Option<VariableRow>> {
        Ok(self.read().variables.get(key).cloned())
    }

    async fn variables(&self) -> StoreResult<Vec<VariableRow>> {
        Ok(self.read().variables.values().cloned().collect())
    }

    async fn set_variable(&self, variable: VariableRow) -> StoreResult<()> {
        self.write().set_variable(variable);
        Ok(())
    }

    async fn delete_variable(&self, key: &str) -> StoreResult<bool> {
        Ok(self.write().variables.remove(key).is_some())
    }

    async fn connection(&self, conn_id: &str) -> StoreResult<Option<ConnectionRow>> {
        Ok(self.read().connections.get(conn_id).cloned())
    }

    async fn connections(&self) -> StoreResult<Vec<ConnectionRow>> {
        Ok(self.read().connections.values().cloned().collect())
    }

    async fn set_connection(&self, connection: ConnectionRow) -> StoreResult<()> {
        self.write().set_connection(connection);
        Ok(())
    }

    async fn delete_connection(&self, conn_id: &str) -> StoreResult<bool> {
        Ok(self.write().connections.remove(conn_id).is_some())
    }

    async fn swap_tokens(&self, swaps: Vec<TokenSwap>) -> StoreResult<u64> {
        Ok(self.write().swap_tokens(swaps))
    }

    async fn pools(&self) -> StoreResult<Vec<PoolRow>> {
        Ok(self.read().pools())
    }

    async fn set_pool(&self, pool: PoolSpec) -> StoreResult<()> {
        self.write().pools.insert(pool.name.clone(), pool);
        Ok(())
    }

    async fn delete_pool(&self, name: &str) -> StoreResult<bool> {
        super::rules::may_delete_pool(name)?;
        Ok(self.write().pools.remove(name).is_some())
    }

    async fn slots(&self) -> StoreResult<Vec<(SlotKey, i64)>> {
        Ok(self.read().slots())
    }

    async fn examine(&self, _: Rows) -> StoreResult<Examined> {
        Err(no_rows())
    }

    async fn slot_count(&self) -> StoreResult<SlotCount> {
        Err(no_rows())
    }

    async fn audit(&self, entry: AuditEntry) -> StoreResult<()> {
        self.write().audit(entry);
        Ok(())
    }

    async fn audit_log(&self, filter: &AuditFilter) -> StoreResult<Vec<AuditEntry>> {
        Ok(self.read().audit_log(filter))
    }

    async fn count_old(&self, old: &Old) -> StoreResult<u64> {
        Ok(self.read().old_rows(old).len() as u64)
    }

    async fn old_rows(&self, old: &Old, limit: u32) -> StoreResult<Vec<OldRow>> {
        Ok(self.read().old_rows(old).into_iter().take(limit as usize).collect())
    }

    async fn delete_old(&self, old: &Old, keys: Vec<OldKey>) -> StoreResult<u64> {
        Ok(self.write().delete_old(old, &keys))
    }
}
