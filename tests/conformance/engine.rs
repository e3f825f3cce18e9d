//! Runs the real scheduler on the store in memory: a clock that stands still, and an executor that runs attempts one
//! after another. Attempts run where they are submitted, so all that one pass starts has run before the next pass; or
//! they wait until a test picks them, for other orders.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use airflow_core::attempt::{Runner, RunnerConfig};
use airflow_core::compile::{CompiledDag, DefinitionErrors};
use airflow_core::dag::DagDef;
use airflow_core::executor::{Executor, ExecutorServices, SubmitError};
use airflow_core::id::{AttemptId, RunPk, TiKey};
use airflow_core::operator::{Cancel, Resources};
use airflow_core::plan::{Attempt, Planner, RunView, Ti};
use airflow_core::registry::{Registry, RegistryErrors};
use airflow_core::scheduler::{Scheduler, SchedulerConfig};
use airflow_core::state::{RunState, RunType, TaskEvent, TaskState};
use airflow_core::store::{
    CreatedRun, DagRecord, MemoryStore, NewRun, PastQuery, RunFilter, RunRow, SharedStore, SqliteStore,
    Store as _, UnitResult,
};
use airflow_core::time::{Clock, SimClock};
use airflow_core::timetable::DataInterval;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

/// After how many rounds a run counts as one that never comes to rest.
const MOST_ROUNDS: usize = 2000;

/// Runs an attempt where it is submitted, or keeps it until the simulation picks it.
#[derive(Default)]
struct InOrder {
    slots: usize,
    keeps: bool,
    services: OnceLock<ExecutorServices>,
    queue: Mutex<Vec<Attempt>>,
}

impl fmt::Debug for InOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InOrder").finish_non_exhaustive()
    }
}

#[async_trait]
impl Executor for InOrder {
    fn name(&self) -> &'static str {
        "in_order"
    }

    fn slots(&self) -> usize {
        self.slots
    }

    fn start(&self, services: ExecutorServices) {
        assert!(self.services.set(services).is_ok(), "an executor starts once");
    }

    fn submit(&self, attempt: Attempt) -> Result<(), SubmitError> {
        if self.keeps {
            self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
            return Ok(());
        }
        let services = self.services.get().expect("the simulation starts the executor").clone();
        // A runtime cannot wait inside another one, so the attempt gets a thread; nothing else moves meanwhile.
        let work = std::thread::spawn(move || {
            let report = block_on(services.runner.run(attempt, Cancel::never()));
            services.reports.send(report).expect("the scheduler listens");
        });
        work.join().expect("a runner never panics");
        Ok(())
    }

    fn cancel(&self, _: AttemptId) {}

    async fn stop(&self, _: Duration) {}
}

/// How the simulation runs attempts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    /// How many attempts may be out at once.
    pub(crate) slots: usize,
    /// Whether attempts wait until they are picked, instead of running where they are submitted.
    pub(crate) picked: bool,
}

/// Where a simulation keeps its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// In memory.
    Memory,
    /// In an SQLite file of its own.
    Sqlite,
}

impl Keeps {
    /// Every place; what a case expects holds in each.
    pub(crate) const ALL: [Self; 2] = [Self::Memory, Self::Sqlite];

    async fn open(self, folder: &std::path::Path) -> SharedStore {
        match self {
            Self::Memory => Arc::new(MemoryStore::new()),
            Self::Sqlite => {
                let file = folder.join("airflow.db");
                let store = SqliteStore::open(file.to_str().expect("a path of text")).await;
                let store = store.expect("a file in an empty folder can be opened");
                store.migrate().await.expect("an empty database can be migrated");
                Arc::new(store)
            }
        }
    }
}

/// A scheduler with one dag.
pub(crate) struct Sim {
    pub(crate) store: SharedStore,
    pub(crate) clock: SimClock,
    pub(crate) dag: Arc<CompiledDag>,
    scheduler: Scheduler,
    executor: Arc<InOrder>,
    _folder: tempfile::TempDir,
}

/// How a run ended, or where it stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stood {
    pub(crate) run: RunState,
    pub(crate) tis: BTreeMap<(String, i32), (TaskState, u32)>,
}

impl Sim {
    /// Compiles the dag and makes it known.
    pub(crate) async fn new(
        def: DagDef,
        order: Order,
        max_map_length: usize,
        keeps: Keeps,
    ) -> Result<Self, RegistryErrors> {
        let registry = Registry::compile(&[def], &Resources::default())?;
        let dag = Arc::clone(registry.iter().next().expect("one dag was compiled"));
        let clock = SimClock::new("2024-06-01T00:00:00Z".parse().expect("a date"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = keeps.open(folder.path()).await;
        let record = DagRecord {
            dag_id: dag.id.clone(),
            fingerprint: dag.fingerprint.clone(),
            structure: serde_json::Value::Null.into(),
            schedule: dag.timetable.summary(),
            description: None,
            owners: String::new(),
            tags: Vec::new(),
            paused_at_creation: false,
            next: None,
            assets: Vec::new(),
        };
        store.sync_dags(vec![record], clock.now()).await.expect("the store does not fail");
        let executor = Arc::new(InOrder { slots: order.slots, keeps: order.picked, ..InOrder::default() });
        let config = SchedulerConfig { use_schedules: false, max_map_length, ..SchedulerConfig::default() };
        let time: Arc<dyn Clock> = Arc::new(clock.clone());
        let runner = Runner::new(
            registry.clone(),
            Arc::clone(&store),
            Resources::default(),
            Arc::clone(&time),
            RunnerConfig::default(),
        );
        let (scheduler, reports) = Scheduler::new(
            Arc::clone(&store),
            (Arc::clone(&executor) as Arc<dyn Executor>).into(),
            registry,
            Arc::clone(&time),
            config,
        );
        executor.start(ExecutorServices {
            runner: Arc::new(runner),
            reports,
            reports_wait: scheduler.reports_wait(),
            store: Arc::clone(&store),
            clock: time,
            lease: scheduler.lease_watch(),
        });
        Ok(Self { store, clock, dag, scheduler, executor, _folder: folder })
    }

    /// Creates a queued run of a day.
    pub(crate) async fn create(&self, run_id: &str, logical_date: DateTime<Utc>) -> RunRow {
        let run = NewRun {
            dag_id: self.dag.id.clone(),
            run_id: run_id.into(),
            run_type: RunType::Scheduled,
            logical_date,
            data_interval: DataInterval::new(logical_date, logical_date + TimeDelta::days(1)),
            run_after: logical_date + TimeDelta::days(1),
            queued_at: self.clock.now(),
            conf: None,
            fingerprint: self.dag.fingerprint.clone(),
            triggered_by: "test".into(),
            ignores_past: false,
            queue: None,
            advance: None,
            assets: None,
            deadlines: Vec::new(),
        };
        match self.store.create_runs(vec![run]).await.expect("the store does not fail").remove(0) {
            CreatedRun::New(row) | CreatedRun::Exists(row) => *row,
            CreatedRun::Taken => panic!("it is not by assets"),
        }
    }

    /// Works until nothing moves any more.
    pub(crate) async fn run_to_rest(&mut self) {
        self.run_watched(|_| 0, async |_| {}).await;
    }

    /// As `run_to_rest`; `pick` says which of so many waiting attempts runs next, `look` sees the simulation after each
    /// step of the scheduler.
    pub(crate) async fn run_watched(
        &mut self,
        mut pick: impl FnMut(usize) -> usize,
        look: impl AsyncFn(&Self),
    ) {
        self.scheduler.prepare().await.expect("the store does not fail");
        for _ in 0..MOST_ROUNDS {
            self.scheduler.step().await.expect("the store does not fail");
            look(self).await;
            let attempt = {
                let mut waiting = self.executor.queue.lock().unwrap_or_else(PoisonError::into_inner);
                let count = waiting.len();
                (count > 0).then(|| waiting.remove(pick(count)))
            };
            if let Some(attempt) = attempt {
                let services = self.executor.services.get().expect("it was started");
                let report = services.runner.run(attempt, Cancel::never()).await;
                services.reports.send(report).expect("the scheduler listens");
            } else if let Some(at) = self.scheduler.next_wake() {
                self.clock.set(at);
            } else {
                return;
            }
        }
        panic!("dag `{}` does not come to rest in {MOST_ROUNDS} rounds", self.dag.id);
    }

    /// The runs as the scheduler sees them.
    pub(crate) fn views(&self) -> impl Iterator<Item = &RunView> {
        self.scheduler.views()
    }

    /// Marks an instance as no longer part of its dag.
    pub(crate) async fn remove(&self, run: RunPk, key: TiKey) {
        let mut view = self.view(run).await;
        let mut plan = Planner::new(&mut view, "test", self.clock.now());
        plan.change(key, TaskEvent::Removed, |_| {}).expect("it can be removed");
        let written = self.store.commit(vec![plan.unit]).await.expect("the store does not fail");
        assert_eq!(written, [UnitResult::Committed]);
    }

    /// All runs, oldest first.
    pub(crate) async fn runs(&self) -> Vec<RunRow> {
        self.store.runs(&RunFilter::default()).await.expect("the store does not fail")
    }

    /// A run as the scheduler would load it now.
    pub(crate) async fn view(&self, run: RunPk) -> RunView {
        let past = PastQuery { scheduled_only: true };
        let snapshot = self.store.load_run(run, Some(&past)).await.expect("the store does not fail");
        RunView::load(snapshot.expect("the run exists"), Arc::clone(&self.dag))
    }

    /// Where a run stands.
    pub(crate) async fn stood(&self, run: RunPk) -> Stood {
        let view = self.view(run).await;
        let ti = |(key, ti): (TiKey, &Ti)| {
            ((self.dag.task(key.task).id.to_string(), key.map.0), (ti.state, ti.data.try_number))
        };
        Stood { run: view.run.state, tis: view.all().map(ti).collect() }
    }
}

/// The text of all mistakes of a definition.
pub(crate) fn mistakes(errors: &[DefinitionErrors]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Runs a future on a runtime of its own.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}
