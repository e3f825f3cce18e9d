//! A store around a store: deadlines in production, faults in tests.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::asset::WatcherKey;
use crate::id::{AttemptId, DagId, IncarnationId, MapIndex, RunPk, TaskId};
use crate::time::Clock;

use super::{
    Advance, AssetEvent, AssetEventFilter, AssetRow, AttemptRow, AuditEntry, AuditFilter, Carrier,
    ConnectionRow, CreatedRun, DagRecord, DagRow, DagVersion, DeadLetter, DeadlineKey, DeadlineRow, EventRow,
    Examined, FoundAttempt, HostTx, Incarnation, LogChunk, LogFilter, LogPlace, Migrated, MissingVersion,
    NewIncarnation, NewRun, NoticeKey, NoticeRow, Old, OldKey, OldRow, PastQuery, PoolRow, PoolSpec,
    QueueFilter, QueuedAsset, QueuedAttempts, QueuedEvent, Rows, RunFilter, RunRow, RunSnapshot,
    SchemaStatus, Settlement, SharedStore, SlotCount, SlotKey, Store, StoreError, StoreResult, StoredReport,
    TiRow, TokenSwap, Unit, UnitResult, VariableRow, WatchedEvent, WatcherRow, WorkerRow, XComFilter,
    XComRow, XComWrite,
};

/// What is done around each call of a store.
pub trait Layer: fmt::Debug + Send + Sync + 'static {
    /// The store below.
    fn below(&self) -> &SharedStore;

    /// Carries out one call, or does something else instead. `work` begins when it is polled.
    fn around<'a, T: Send + 'a>(
        &'a self,
        call: &'static str,
        work: BoxFuture<'a, StoreResult<T>>,
    ) -> BoxFuture<'a, StoreResult<T>>;

    /// The same for [`Store::commit`], with what is to be written.
    fn commit(&self, units: Vec<Unit>) -> BoxFuture<'_, StoreResult<Vec<UnitResult>>> {
        self.around("commit", self.below().commit(units))
    }

    /// The same for [`Store::create_runs`], with what is to be created.
    fn create_runs(&self, runs: Vec<NewRun>) -> BoxFuture<'_, StoreResult<Vec<CreatedRun>>> {
        self.around("create_runs", self.below().create_runs(runs))
    }
}

/// A store with a layer around it.
#[derive(Debug)]
pub struct Layered<L>(pub L);

/// Gives up calls that take too long. Whether they happen all the same is not known.
#[derive(Debug)]
pub(crate) struct Deadline {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    after: Duration,
}

impl Deadline {
    /// Gives each call of `store` this long, beside what it may wait for others.
    pub(crate) fn around(store: SharedStore, clock: Arc<dyn Clock>, after: Duration) -> SharedStore {
        let after = after + store.longest_wait();
        Arc::new(Layered(Self { store, clock, after }))
    }
}

impl Layer for Deadline {
    fn below(&self) -> &SharedStore {
        &self.store
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        call: &'static str,
        work: BoxFuture<'a, StoreResult<T>>,
    ) -> BoxFuture<'a, StoreResult<T>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                answer = work => answer,
                () = self.clock.sleep(self.after) => Err(StoreError::NoAnswer { call, after: self.after }),
            }
        })
    }
}

/// Passes each call on through the layer.
macro_rules! passed_on {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl<L: Layer> Store for Layered<L> {
            fn kind(&self) -> &'static str {
                self.0.below().kind()
            }

            fn place(&self) -> String {
                self.0.below().place()
            }

            fn longest_wait(&self) -> Duration {
                self.0.below().longest_wait()
            }

            fn years(&self) -> RangeInclusive<i32> {
                self.0.below().years()
            }

            async fn commit(&self, units: Vec<Unit>) -> StoreResult<Vec<UnitResult>> {
                self.0.commit(units).await
            }

            async fn create_runs(&self, runs: Vec<NewRun>) -> StoreResult<Vec<CreatedRun>> {
                self.0.create_runs(runs).await
            }

            $(async fn $name(&self $(, $arg: $type)*) -> StoreResult<$answer> {
                self.0.around(stringify!($name), self.0.below().$name($($arg),*)).await
            })*
        }
    };
}

passed_on! {
    fn migrate() -> Migrated;
    fn check() -> SchemaStatus;
    fn reset() -> ();
    fn change_token() -> u64;
    fn register(process: NewIncarnation) -> ();
    fn beat(process: IncarnationId) -> bool;
    fn end_incarnation(process: IncarnationId) -> ();
    fn expire(process: IncarnationId, beats: u64) -> bool;
    fn incarnations() -> Vec<Incarnation>;
    fn forget_incarnations(before: DateTime<Utc>) -> u64;
    fn claim_runs(runs: &[RunPk], process: IncarnationId) -> Vec<RunPk>;
    fn orphans() -> Vec<AttemptRow>;
    fn find_attempts(ids: &[AttemptId]) -> Vec<FoundAttempt>;
    fn open_attempts(process: IncarnationId) -> Vec<AttemptId>;
    fn queued_attempts() -> Vec<QueuedAttempts>;
    fn add_reports(process: IncarnationId, reports: Vec<StoredReport>) -> Vec<bool>;
    fn reports(process: IncarnationId, limit: u32) -> Vec<StoredReport>;
    fn delete_reports(ids: Vec<AttemptId>) -> ();
    fn add_log_chunks(chunks: Vec<LogChunk>) -> ();
    fn log_chunks(filter: &LogFilter) -> Vec<(LogPlace, LogChunk)>;
    fn keep_dead_letter(letter: DeadLetter, most: u32) -> bool;
    fn dead_letters(limit: u32) -> Vec<DeadLetter>;
    fn delete_dead_letters(ids: Vec<String>) -> u64;
    fn register_worker(process: IncarnationId, name: &str, info: Value) -> bool;
    fn update_worker(process: IncarnationId, name: &str, info: Value) -> bool;
    fn workers() -> Vec<WorkerRow>;
    fn forget_worker(name: &str) -> bool;
    fn carry(process: IncarnationId, versions: Vec<(DagId, String)>) -> ();
    fn carriers(dag_id: &DagId) -> Vec<Carrier>;
    fn missing_versions() -> Vec<MissingVersion>;
    fn move_run(run: RunPk, from: &str, to: &str) -> bool;
    fn keep_setting(name: &str, value: &str) -> String;
    fn notices() -> Vec<NoticeRow>;
    fn take_notice(key: &NoticeKey, from: IncarnationId, to: IncarnationId) -> bool;
    fn delete_notices(keys: Vec<NoticeKey>) -> ();
    fn sync_dags(dags: Vec<DagRecord>, now: DateTime<Utc>) -> Vec<DagRow>;
    fn dags() -> Vec<DagRow>;
    fn dag(dag_id: &DagId) -> Option<DagRow>;
    fn dag_versions(dag_id: &DagId) -> Vec<DagVersion>;
    fn set_paused(dag_id: &DagId, paused: bool) -> bool;
    fn advance_dag(dag_id: &DagId, advance: Advance) -> ();
    fn delete_dag(dag_id: &DagId) -> u64;
    fn assets() -> Vec<AssetRow>;
    fn asset_events(filter: &AssetEventFilter) -> Vec<AssetEvent>;
    fn add_asset_events(events: Vec<AssetEvent>) -> ();
    fn asset_queue() -> Vec<QueuedAsset>;
    fn queued_events(filter: &QueueFilter) -> Vec<QueuedEvent>;
    fn unqueue_events(filter: &QueueFilter) -> u64;
    fn watchers() -> Vec<WatcherRow>;
    fn claim_watchers(keys: Vec<WatcherKey>, process: IncarnationId) -> Vec<WatcherRow>;
    fn add_watched(process: IncarnationId, watched: WatchedEvent) -> bool;
    fn note_watcher(process: IncarnationId, key: WatcherKey, error: Option<String>, at: DateTime<Utc>) -> bool;
    fn deadlines(dags: &[DagId], until: Option<DateTime<Utc>>, limit: u32) -> Vec<DeadlineRow>;
    fn missed_deadlines(dag: Option<&DagId>, limit: u32) -> Vec<DeadlineRow>;
    fn settle_deadline(seen: &DeadlineKey, settlement: Settlement) -> bool;
    fn create_in_tx(tx: HostTx<'_>, run: NewRun, note: AuditEntry) -> CreatedRun;
    fn runs(filter: &RunFilter) -> Vec<RunRow>;
    fn load_run(run: RunPk, past: Option<&PastQuery>) -> Option<RunSnapshot>;
    fn delete_run(run: RunPk) -> bool;
    fn task_instances(run: RunPk) -> Vec<TiRow>;
    fn attempts(run: RunPk, task: Option<(&TaskId, MapIndex)>) -> Vec<AttemptRow>;
    fn events(run: RunPk, task: Option<(&TaskId, MapIndex)>) -> Vec<EventRow>;
    fn xcoms(filter: &XComFilter) -> Vec<XComRow>;
    fn set_xcom(run: RunPk, xcom: XComWrite, now: DateTime<Utc>) -> ();
    fn delete_xcoms(filter: &XComFilter) -> u64;
    fn variable(key: &str) -> Option<VariableRow>;
    fn variables() -> Vec<VariableRow>;
    fn set_variable(variable: VariableRow) -> ();
    fn delete_variable(key: &str) -> bool;
    fn connection(conn_id: &str) -> Option<ConnectionRow>;
    fn connections() -> Vec<ConnectionRow>;
    fn set_connection(connection: ConnectionRow) -> ();
    fn delete_connection(conn_id: &str) -> bool;
    fn swap_tokens(swaps: Vec<TokenSwap>) -> u64;
    fn pools() -> Vec<PoolRow>;
    fn set_pool(pool: PoolSpec) -> ();
    fn delete_pool(name: &str) -> bool;
    fn slots() -> Vec<(SlotKey, i64)>;
    fn examine(rows: Rows) -> Examined;
    fn slot_count() -> SlotCount;
    fn audit(entry: AuditEntry) -> ();
    fn audit_log(filter: &AuditFilter) -> Vec<AuditEntry>;
    fn count_old(old: &Old) -> u64;
    fn old_rows(old: &Old, limit: u32) -> Vec<OldRow>;
    fn delete_old(old: &Old, keys: Vec<OldKey>) -> u64;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use crate::time::SimClock;

    /// Never answers.
    #[derive(Debug)]
    struct Silent(SharedStore);

    impl Layer for Silent {
        fn below(&self) -> &SharedStore {
            &self.0
        }

        fn around<'a, T: Send + 'a>(
            &'a self,
            _: &'static str,
            _: BoxFuture<'a, StoreResult<T>>,
        ) -> BoxFuture<'a, StoreResult<T>> {
            Box::pin(std::future::pending())
        }
    }

    /// Goal: a database that does not answer holds nobody up. Method: a store that never does.
    #[tokio::test]
    async fn a_call_without_an_answer_is_given_up() {
        let clock = SimClock::new("2026-01-01T00:00:00Z".parse().unwrap());
        let silent: SharedStore = Arc::new(Layered(Silent(Arc::new(MemoryStore::new()))));
        let store = Deadline::around(silent, Arc::new(clock.clone()), Duration::from_secs(10));
        let asked = tokio::spawn(async move { store.dags().await });
        tokio::task::yield_now().await;
        assert!(!asked.is_finished());
        clock.set(clock.next_awaited().expect("it waits for its deadline"));
        let error = asked.await.unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the database did not answer `dags` within 10s; it is looked for again"
        );
    }
}
