//! Several processes of the real application on one store, in virtual time, on one thread. Their dags stand in
//! [`work`](super::work).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use airflow_core::app::{Airflow, AirflowBuilder, ClearOptions, Mark, Running, Selection};
use airflow_core::id::{DagId, MapIndex, RunId, TaskId};
use airflow_core::scheduler::{OnLeaseLoss, Wake};
use airflow_core::store::{
    AssetEventFilter, Layered, MemoryStore, PoolSpec, QueueFilter, RunFilter, RunRow, Store, XComWrite,
};
use airflow_core::xcom::{RETURN_VALUE, XComValue};
use airflow_executors::LocalExecutor;
use airflow_executors::remote::Worker;
use tokio::time::Instant;

use super::broker::{Bad, Broker};
use super::clock::{Gate, ProcessClock, base};
use super::mutants::Mutant;
use super::oracle::{Oracle, Violation};
use super::plan::{Plan, What};
use super::process::{Life, Shared, Trouble, USER, Watched, Way, lock};
use super::random::Random;
use super::work::{ASSET, dag_of};

/// How long nothing may happen once nothing is broken any more, in virtual time, before everything counts as stuck:
/// longer than any lease, pause and task.
const MOST_REST: Duration = Duration::from_secs(7_200);

/// How long attempts may go on when their process is stopped.
const STOP: Duration = Duration::from_secs(5);

/// What came of a simulation.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    pub(crate) hash: u64,
    pub(crate) lines: Vec<String>,
    pub(crate) seen: BTreeMap<&'static str, u64>,
    pub(crate) units: u64,
    pub(crate) attempts: u64,
}

pub(crate) fn number_of(dag: &DagId) -> usize {
    dag.as_str()[1..].parse().expect("dags are numbered")
}

/// A process that is restarted whenever it ends.
struct Process {
    trouble: Shared<Trouble>,
    /// Its present life.
    life: Shared<Option<(Life, Shared<Option<Alive>>)>>,
}

/// What a process does.
enum Alive {
    Scheduler(Running),
    Worker(Worker),
}

impl Alive {
    fn has_ended(&self) -> bool {
        matches!(self, Self::Scheduler(running) if running.is_finished())
    }
}

pub(crate) struct World {
    pub(crate) plan: Arc<Plan>,
    mutant: Option<Mutant>,
    start: Instant,
    pub(crate) store: MemoryStore,
    database: Arc<AtomicI64>,
    pub(crate) oracle: Shared<Oracle>,
    pub(crate) broker: Option<Broker>,
    processes: Vec<Process>,
    user: Airflow,
}

/// Runs a plan to its end, or to the first law that is broken.
pub(crate) fn run(plan: &Plan, mutant: Option<Mutant>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let outcome = runtime.block_on(async {
        let world = World::new(plan, mutant).await;
        world.live().await;
        let mut oracle = lock(&world.oracle);
        Outcome {
            violation: oracle.violation.take(),
            hash: oracle.hash.0,
            lines: std::mem::take(&mut oracle.lines),
            seen: std::mem::take(&mut oracle.seen),
            units: oracle.units,
            attempts: oracle.attempts,
        }
    });
    runtime.shutdown_background();
    outcome
}

fn trouble(plan: &Plan, number: usize, offset: i64) -> Shared<Trouble> {
    Arc::new(Mutex::new(Trouble {
        offset: Arc::new(AtomicI64::new(offset)),
        cut: None,
        errors: None,
        slow: None,
        late: None,
        double: None,
        lost: Vec::new(),
        crashes: Vec::new(),
        random: Random::new(plan.seed, &format!("process {number}")),
    }))
}

impl World {
    async fn new(plan: &Plan, mutant: Option<Mutant>) -> Arc<Self> {
        let plan = Arc::new(plan.clone());
        let start = Instant::now();
        let oracle: Shared<Oracle> = Arc::new(Mutex::new(Oracle::new(Arc::clone(&plan))));
        let database = Arc::new(AtomicI64::new(0));
        let clock = ProcessClock::new(start, Arc::clone(&database), 0, Arc::default());
        let watching = Arc::clone(&oracle);
        let written = move |unit: &airflow_core::store::Unit| lock(&watching).written(unit);
        let store = MemoryStore::blinded(clock, mutant.and_then(Mutant::blind), written);
        let pool = PoolSpec {
            name: "small".into(),
            slots: plan.pool,
            description: String::new(),
            include_deferred: false,
        };
        store.set_pool(pool).await.expect("the store in memory does not fail");
        let processes = plan.processes.iter().enumerate().map(|(number, process)| Process {
            trouble: trouble(&plan, number, process.offset),
            life: Arc::default(),
        });
        let processes = processes.collect();
        let life = Life {
            number: USER,
            gate: Arc::default(),
            clock: ProcessClock::new(start, Arc::default(), 0, Arc::default()),
            trouble: trouble(&plan, USER, 0),
            oracle: Arc::clone(&oracle),
            mutant: None,
            down: Arc::default(),
        };
        let user = Way { life: life.clone(), store: Arc::new(store.clone()) };
        let user = builder(&plan, &life).store(Layered(user)).build().await.expect("the dags are right");
        let broker = plan.broker.map(|broker| Broker::new(broker, plan.seed, Arc::clone(&oracle), mutant));
        Arc::new(Self { plan, mutant, start, store, database, oracle, broker, processes, user })
    }

    fn is_broken(&self) -> bool {
        lock(&self.oracle).violation.is_some()
    }

    async fn live(self: &Arc<Self>) {
        for number in 0..self.processes.len() {
            let world = Arc::clone(self);
            tokio::spawn(async move { world.supervise(number).await });
        }
        tokio::spawn(ticks(self.broker.clone(), Arc::clone(&self.oracle)));
        for event in &self.plan.events {
            tokio::time::sleep_until(self.start + Duration::from_millis(event.at)).await;
            if self.is_broken() {
                return;
            }
            self.happens(event.what).await;
        }
        tokio::time::sleep_until(self.start + Duration::from_secs(self.plan.minutes * 60)).await;
        self.heal();
        let mut last = (0, Instant::now());
        while last.1.elapsed() < MOST_REST && !self.is_broken() && !self.is_over().await {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let units = lock(&self.oracle).units;
            if units != last.0 {
                last = (units, Instant::now());
            }
        }
        if !self.is_broken() {
            let rows = self.rows(RunFilter::default()).await;
            lock(&self.oracle).everything_is_over(&rows);
            self.look_at_events(&rows).await;
        }
    }

    async fn rows(&self, filter: RunFilter) -> Vec<RunRow> {
        self.store.runs(&filter).await.expect("the store in memory does not fail")
    }

    /// Whether all runs have ended and no further one is due.
    async fn is_over(&self) -> bool {
        let dags = self.store.dags().await.expect("the store in memory does not fail");
        let states = vec![airflow_core::state::RunState::Queued, airflow_core::state::RunState::Running];
        let active = self.rows(RunFilter { states, ..RunFilter::default() }).await;
        let queue = self.store.asset_queue().await.expect("the store in memory does not fail");
        let is_quiet = active.is_empty() && queue.is_empty() && dags.iter().all(|dag| dag.next.is_none());
        is_quiet && !lock(&self.oracle).is_running()
    }

    /// Each event of the asset is part of one run of each dag that waits for it, or still waits.
    async fn look_at_events(&self, rows: &[RunRow]) {
        let fine = "the store in memory does not fail";
        let events = self.store.asset_events(&AssetEventFilter::default()).await.expect(fine);
        let queued = self.store.queued_events(&QueueFilter::default()).await.expect(fine);
        let consumers = self.plan.dags.iter().enumerate().filter(|(_, dag)| dag.by_asset);
        for (number, _) in consumers {
            let dag = DagId::new(format!("d{number}"));
            let waits =
                queued.iter().filter(|one| one.dag_id == dag).map(|one| (one.event.clone(), one.counts));
            let waits: BTreeMap<_, _> = waits.collect();
            let mut taken = BTreeMap::new();
            for run in rows.iter().filter(|row| row.dag_id == dag) {
                let filter = AssetEventFilter { triggered: Some(run.pk), ..AssetEventFilter::default() };
                for event in self.store.asset_events(&filter).await.expect(fine) {
                    *taken.entry(event.id).or_insert(0) += 1;
                }
            }
            lock(&self.oracle).events_are_taken_once(&events, &waits, &taken);
        }
    }

    /// Nothing is wrong any more; what is down comes back.
    fn heal(&self) {
        lock(&self.oracle).heals();
        self.broker.iter().for_each(Broker::heal);
        for process in &self.processes {
            let mut trouble = lock(&process.trouble);
            trouble.offset.store(0, Ordering::Relaxed);
            (trouble.cut, trouble.errors, trouble.slow) = (None, None, None);
            (trouble.late, trouble.double) = (None, None);
            trouble.lost.clear();
            trouble.crashes.clear();
            drop(trouble);
            if let Some((life, _)) = lock(&process.life).as_ref() {
                life.gate.resume();
            }
        }
    }

    /// Starts the process again and again.
    async fn supervise(self: Arc<Self>, number: usize) {
        for lives in 0.. {
            let process = &self.processes[number];
            let gate = Arc::<Gate>::default();
            let offset = Arc::clone(&lock(&process.trouble).offset);
            let drift = self.plan.processes[number].drift;
            let life = Life {
                number,
                clock: ProcessClock::new(self.start, offset, drift, Arc::clone(&gate)),
                gate,
                trouble: Arc::clone(&process.trouble),
                oracle: Arc::clone(&self.oracle),
                mutant: self.mutant,
                down: Arc::default(),
            };
            lock(&self.oracle).line(&format!("p{number} starts"));
            let running: Shared<Option<Alive>> = Arc::default();
            *lock(&process.life) = Some((life.clone(), Arc::clone(&running)));
            let down = self.one_life(&life, lives, &running).await;
            tokio::time::sleep(Duration::from_secs(down)).await;
        }
    }

    /// Returns how long it stays down.
    async fn one_life(self: &Arc<Self>, life: &Life, lives: u64, running: &Shared<Option<Alive>>) -> u64 {
        let world = Arc::clone(self);
        let (own, slot) = (life.clone(), Arc::clone(running));
        let started = tokio::spawn(async move {
            let begun = if world.plan.is_worker(own.number) {
                world.begin_worker(&own, lives).await.map(Alive::Worker)
            } else {
                world.begin_scheduler(&own).await.map(Alive::Scheduler)
            };
            *lock(&slot) = begun;
        });
        // A dead process never answers; its death is looked for here, and whether it ended by itself.
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if life.gate.is_dead() {
                return lock(&life.down).unwrap_or(1);
            }
            let goes_on = lock(running).as_ref().is_some_and(|alive| !alive.has_ended());
            if !started.is_finished() || goes_on || lock(&life.down).is_some() {
                continue;
            }
            let ended = lock(running).take();
            if let Some(Alive::Scheduler(ended)) = ended {
                let result = ended.wait().await;
                if let Err(error) = &result
                    && error.to_string().contains("panic")
                {
                    lock(&self.oracle).broken("no panic", error.to_string());
                }
            }
            life.gate.kill();
            lock(&self.oracle).line(&format!("p{} ended by itself", life.number));
            return 2;
        }
    }

    async fn begin_scheduler(&self, life: &Life) -> Option<Running> {
        let way = Way { life: life.clone(), store: Arc::new(self.store.clone()) };
        let here = self.plan.local.then(|| Watched {
            inner: LocalExecutor::new(self.plan.processes[life.number].slots),
            life: life.clone(),
            pending: Arc::new(AtomicUsize::new(0)),
        });
        let builder = self.builder(life).store(Layered(way));
        let builder = match (self.sending(life), here) {
            (Some(remote), Some(here)) => builder.executor(remote).executor_for(Vec::<String>::new(), here),
            (Some(remote), None) => builder.executor(remote),
            (None, Some(here)) => builder.executor(here),
            (None, None) => builder,
        };
        Some(builder.build().await.ok()?.start())
    }

    /// An application as a process has it.
    pub(crate) fn builder(&self, life: &Life) -> AirflowBuilder {
        let exits = life.clone();
        let exit = OnLeaseLoss::Call(Arc::new(move |_| {
            // The mistake of stopping nothing has no last way out either.
            let is_mistaken = match exits.mutant {
                Some(Mutant::IgnoreCancel) => true,
                Some(Mutant::WorkerIgnoresCancel) => exits.is_worker(),
                _ => false,
            };
            if !is_mistaken {
                exits.die(2, "a process ends itself");
            }
        }));
        builder(&self.plan, life).scheduler(|config| {
            config.max_lost_attempts = self.plan.max_lost;
            config.on_lease_loss = Some(exit);
        })
    }

    fn life(&self, process: usize) -> Option<Life> {
        let life = lock(&self.processes[process].life).as_ref().map(|(life, _)| life.clone());
        life.filter(|life| !life.gate.is_dead())
    }

    async fn happens(self: &Arc<Self>, what: What) {
        lock(&self.oracle).line(&format!("{what:?}"));
        if let Some((process, time)) = what.disturbs() {
            lock(&self.oracle).crew.is_disturbed(process, time);
        }
        let after = |seconds: u64| Instant::now() + Duration::from_secs(seconds);
        let trouble = |process: usize| lock(&self.processes[process].trouble);
        match what {
            What::Kill { process, down } => {
                if let Some(life) = self.life(process) {
                    life.die(down, "a process is killed");
                }
            }
            What::CrashAt { process, point, nth, down } => trouble(process).crashes.push((point, nth, down)),
            What::Stop { process, down } => self.stop(process, down),
            What::Pause { process, seconds } => self.pause(process, seconds),
            What::Cut { process, seconds, hang } => trouble(process).cut = Some((after(seconds), hang)),
            What::Lost { process, how } => trouble(process).lost.push(how),
            What::Errors { process, seconds, percent } => {
                trouble(process).errors = Some((after(seconds), percent));
            }
            What::Slow { process, seconds, millis } => trouble(process).slow = Some((after(seconds), millis)),
            What::Jump { process, seconds } => {
                trouble(process).offset.fetch_add(seconds * 1000, Ordering::Relaxed);
            }
            What::DatabaseJump { seconds } => {
                self.database.fetch_add(seconds * 1000, Ordering::Relaxed);
            }
            What::LateReports { process, seconds, millis } => {
                trouble(process).late = Some((after(seconds), millis));
            }
            What::DoubleReports { process, seconds } => trouble(process).double = Some(after(seconds)),
            What::Wakes { process } => {
                if let Some((_, running)) = lock(&self.processes[process].life).as_ref()
                    && let Some(Alive::Scheduler(running)) = lock(running).as_ref()
                {
                    (0..3).for_each(|_| running.scheduler().wake(Wake::Refresh));
                }
            }
            what if what.is_of_broker() => self.broker_does(what),
            user => self.user_does(user).await,
        }
    }

    fn broker_does(&self, what: What) {
        let Some(broker) = &self.broker else { return };
        let after = |seconds: u64| Instant::now() + Duration::from_secs(seconds);
        match what {
            What::BrokerAway { seconds, hang } => broker.goes_away(after(seconds), hang),
            What::BrokerWipe => broker.forgets(),
            What::BadBroker { seconds, lost, refused, doubled, millis } => {
                broker.is_bad(Bad { until: after(seconds), lost, refused, doubled, millis });
            }
            What::ConsumerCut { process, seconds } => broker.cancels(process, after(seconds)),
            _ => {}
        }
    }

    /// A stop as an operator asks for it.
    fn stop(self: &Arc<Self>, process: usize, down: u64) {
        let Some(life) = self.life(process) else { return };
        let running = lock(&self.processes[process].life).as_ref().map(|(_, running)| Arc::clone(running));
        let Some(running) = running.and_then(|running| lock(&running).take()) else { return };
        *lock(&life.down) = Some(down);
        let oracle = Arc::clone(&self.oracle);
        tokio::spawn(async move {
            let (ended, what) = match running {
                Alive::Scheduler(running) => (running.stop(STOP).await, "a process is stopped"),
                Alive::Worker(worker) => (worker.stop(STOP).await, "a worker drains"),
            };
            if ended.is_ok() {
                lock(&oracle).seen(what);
            }
            life.gate.kill();
        });
    }

    fn pause(self: &Arc<Self>, process: usize, seconds: u64) {
        let Some(life) = self.life(process) else { return };
        life.gate.pause();
        let (oracle, is_worker) = (Arc::clone(&self.oracle), life.is_worker());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            if seconds > 21 {
                lock(&oracle).seen(if is_worker {
                    "a worker stands still for longer than its lease"
                } else {
                    "a process stands still for longer than its lease"
                });
            }
            life.gate.resume();
        });
    }

    async fn user_does(self: &Arc<Self>, what: What) {
        match what {
            What::Trigger { dag } => {
                let triggered = self.user.trigger(format!("d{dag}")).await;
                if triggered.is_ok() {
                    lock(&self.oracle).seen("a run is triggered");
                }
            }
            // Until a process has told the store of the asset, nobody knows it.
            What::AssetEvent if self.user.asset_event(ASSET).await.is_ok() => {
                lock(&self.oracle).seen("somebody says that an asset is new");
            }
            What::AssetEvent => {}
            What::PauseDag { dag, seconds } => {
                let (world, dag) = (Arc::clone(self), DagId::new(format!("d{dag}")));
                let done = self.user.set_paused(&dag, true, "user").await;
                done.expect("the store in memory does not fail");
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    let done = world.user.set_paused(&dag, false, "user").await;
                    done.expect("the store in memory does not fail");
                });
            }
            What::SetValue { dag, nth, task } => {
                let dag_id = Some(DagId::new(format!("d{dag}")));
                let filter = RunFilter { dag_id, newest_first: true, ..RunFilter::default() };
                let rows = self.rows(filter).await;
                let Some(run) = rows.get(nth) else { return };
                let (task_id, value) = (TaskId::new(format!("t{task}")), XComValue::from_value("set".into()));
                let (key, map_index) = (RETURN_VALUE.to_owned(), MapIndex::UNMAPPED);
                let xcom = XComWrite { task_id: task_id.clone(), map_index, key, value: Arc::clone(&value) };
                if self.user.store().set_xcom(run.pk, xcom, base()).await.is_ok() {
                    lock(&self.oracle).value_is_set(run.pk, &task_id, value.text());
                }
            }
            What::Clear { dag, nth, task } => {
                let Some(run) = self.nth_run(dag, nth).await else { return };
                let select = selection(task, true);
                let options = ClearOptions { select, ..ClearOptions::default() };
                // Somebody may have changed the run meanwhile; a user would try again.
                let _ = self.user.clear(&DagId::new(format!("d{dag}")), &run, &options, "user").await;
            }
            What::Mark { dag, nth, task, success } => {
                let Some(run) = self.nth_run(dag, nth).await else { return };
                let mark = if success { Mark::Success } else { Mark::Failed };
                let select = selection(Some(task), false);
                let _ = self.user.mark(&DagId::new(format!("d{dag}")), &run, &select, mark, "user").await;
            }
            What::MarkRun { dag, nth, success } => {
                let Some(run) = self.nth_run(dag, nth).await else { return };
                let _ = self.user.mark_run(&DagId::new(format!("d{dag}")), &run, success, "user").await;
            }
            _ => {}
        }
    }

    /// The newest runs first: those that are going on.
    async fn nth_run(&self, dag: usize, nth: usize) -> Option<RunId> {
        let dag_id = Some(DagId::new(format!("d{dag}")));
        let rows = self.rows(RunFilter { dag_id, newest_first: true, ..RunFilter::default() }).await;
        rows.get(nth).map(|row| row.run_id.clone())
    }
}

/// Looks at the laws that time breaks, and lets the broker see who is silent.
async fn ticks(broker: Option<Broker>, oracle: Shared<Oracle>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        broker.iter().for_each(Broker::tick);
        lock(&oracle).tick();
    }
}

fn selection(task: Option<usize>, downstream: bool) -> Selection {
    let tasks = task.map(|task| format!("t{task}")).into_iter().collect();
    Selection { tasks, downstream, ..Selection::default() }
}

fn builder(plan: &Plan, life: &Life) -> AirflowBuilder {
    let dags = (0..plan.dags.len()).map(|number| dag_of(plan, number));
    Airflow::builder()
        .dags(dags)
        .clock(life.clock.clone())
        .resource(life.clock.clone())
        .resource(plan.clone())
}
