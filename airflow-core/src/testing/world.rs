//! A scheduler, its store and its attempts on a clock that moves from event to event.
//!
//! [`World::work`] lets everything happen that can happen at this instant: attempts run one after the other in the
//! order in which they were submitted, and the scheduler hears of each before the next one goes on. Only then does
//! [`World::advance_to`] move the clock to the next moment that anybody waits for. So the same test takes the same
//! course each time.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use tokio::sync::mpsc;

use crate::app::Airflow;
use crate::attempt::Runner;
use crate::executor::{AttemptRunner as _, Executor, WaitRunner as _};
use crate::id::{AttemptId, DagId, RunPk};
use crate::operator::{AnyOperator, Cancel};
use crate::plan::{Attempt, Outcome, Report};
use crate::scheduler::Scheduler;
use crate::secrets::EnvironmentSecrets;
use crate::store::{MemoryStore, PoolSpec, RunFilter, RunRow, Store as _, StoreResult, VariableRow};
use crate::time::{SimClock, WAITS};

use super::executor::SimExecutor;
use super::journal::Journal;
use super::mocks::{MockedBodies, Mocks};
use super::setup::{Setup, complain};

/// How many attempts may run in one instant: more is a schedule that never lets time pass.
const MOST_AT_ONCE: usize = 200_000;

/// How often the clock may be moved without getting on.
const MOST_STANDSTILLS: usize = 1_000;

/// What can be looked at while the world stands still. Cheap to clone.
#[derive(Clone)]
pub(super) struct Stage {
    pub(super) airflow: Airflow,
    pub(super) clock: SimClock,
    pub(super) journal: Journal,
    pub(super) mocks: Arc<Mocks>,
}

impl Stage {
    pub(super) fn runs(&self, dag_id: &str) -> Vec<RunRow> {
        let filter = RunFilter { dag_id: Some(DagId::new(dag_id)), ..RunFilter::default() };
        at_once(self.airflow.store().runs(&filter))
    }
}

/// Answers of the store in memory are there at once.
pub(super) fn at_once<T>(answer: impl Future<Output = StoreResult<T>>) -> T {
    let answer = answer.now_or_never().expect("the store in memory answers at once");
    answer.expect("the store in memory does not fail")
}

/// An attempt that was begun.
struct Flight {
    id: AttemptId,
    what: String,
    cancel: Cancel,
    /// Whether it waits for the simulated clock and for nothing else.
    waits: Arc<AtomicBool>,
    /// Whether it has waited for something real for too long.
    hangs: bool,
    /// Whether it may get on: it is new, or the clock moved, or it was cancelled.
    due: bool,
    body: Pin<Box<dyn Future<Output = Report> + Send>>,
}

pub(super) struct World {
    pub(super) stage: Stage,
    scheduler: Scheduler,
    executor: SimExecutor,
    reports: mpsc::UnboundedSender<Report>,
    runner: Arc<Runner>,
    flights: Vec<Flight>,
    slots: usize,
    patience: Duration,
}

impl World {
    /// Builds everything, as it is at `start`.
    pub(super) async fn new(mut setup: Setup, start: DateTime<Utc>, use_schedules: bool) -> Self {
        let journal = Journal::default();
        let noted = journal.clone();
        let clock = SimClock::new(start);
        let store = MemoryStore::observed(clock.clone(), move |unit| noted.note(unit));
        for pool in &setup.pools {
            at_once(store.set_pool(pool.clone()));
        }
        for (key, value) in &setup.variables {
            let variable = VariableRow {
                key: key.clone(),
                value: value.clone(),
                description: None,
                is_encrypted: false,
            };
            at_once(store.set_variable(variable));
        }
        setup.excuse_mocked();
        // A test sees what it says itself, not what the machine has in its environment.
        let builder = setup.builder.store(store).clock(clock.clone()).without_pool_check();
        let builder = builder.environment(EnvironmentSecrets::default());
        let built = builder.scheduler(|config| config.use_schedules = use_schedules).build().await;
        let airflow = built.unwrap_or_else(|error| complain(&format!("the dags cannot be tested: {error}")));
        make_pools(&airflow);
        for connection in &setup.connections {
            let kept = airflow.secrets().vault().set_connection(connection).now_or_never();
            if let Some(Err(error)) = kept {
                complain(&format!("the connection cannot be kept: {error}"));
            }
        }
        let tasks = airflow.registry().iter().flat_map(|dag| &dag.tasks);
        let tasks: Vec<(&str, &dyn AnyOperator)> =
            tasks.map(|task| (task.id.as_str(), &*task.operator)).collect();
        setup.mocks.check(&tasks);
        let bodies = MockedBodies { mocks: Arc::clone(&setup.mocks), clock: clock.clone() };
        let runner = Arc::new(airflow.runner().with_override(Arc::new(bodies)));
        let stage = Stage { airflow, clock, journal, mocks: setup.mocks };
        let (scheduler, executor, reports) = new_process(&stage, setup.slots).await;
        let (slots, patience) = (setup.slots, setup.patience);
        Self { stage, scheduler, executor, reports, runner, flights: Vec::new(), slots, patience }
    }

    /// Kills the process: attempts that are out are lost. Another process takes over.
    pub(super) async fn kill(&mut self) {
        self.flights.clear();
        // On this machine the process that runs the test is alive, so no process table can tell of its death.
        at_once(self.stage.airflow.store().end_incarnation(self.scheduler.incarnation()));
        (self.scheduler, self.executor, self.reports) = new_process(&self.stage, self.slots).await;
    }

    fn now(&self) -> DateTime<Utc> {
        crate::time::Clock::now(&self.stage.clock)
    }

    /// Lets everything happen that can happen now.
    pub(super) async fn work(&mut self) {
        for _ in 0..MOST_AT_ONCE {
            self.scheduler.step().await.expect("the store in memory does not fail");
            self.scheduler.callbacks_done().await;
            if self.scheduler.refresh_if_asked().await {
                continue;
            }
            self.take_off();
            match self.fly().await {
                Some(report) => {
                    self.executor.ended(report.attempt_id);
                    // The scheduler of this world holds the other end.
                    let _ = self.reports.send(report);
                }
                None => return,
            }
        }
        complain(&format!(
            "{MOST_AT_ONCE} attempts ran at {}: does a schedule never let time pass? say how long its tasks take, \
             with `.takes::<task>(mins(1))`",
            self.now()
        ));
    }

    fn take_off(&mut self) {
        for (attempt, cancel) in self.executor.take_new() {
            let waits = Arc::new(AtomicBool::new(false));
            let runner = Arc::clone(&self.runner);
            let (id, listens) = (attempt.ti.attempt_id, cancel.clone());
            let what = format!("`{}` of run `{}`", attempt.ti.task_id, attempt.run.run_id);
            let clock = self.stage.clock.clone();
            let body = async move {
                if cancel.is_cancelled() {
                    return not_begun(&attempt, &clock);
                }
                runner.run(attempt, cancel).await
            };
            let body = body_of(&waits, body);
            self.flights.push(Flight { id, what, cancel: listens, waits, hangs: false, due: true, body });
        }
        let left = self.executor.take_left();
        self.flights.retain(|flight| !left.contains(&flight.id));
        for (attempt, cancel) in self.executor.take_new_waits() {
            let waits = Arc::new(AtomicBool::new(false));
            let runner = Arc::clone(&self.runner);
            let (id, listens) = (attempt.ti.attempt_id, cancel.clone());
            let what = format!("the wait of `{}` of run `{}`", attempt.ti.task_id, attempt.run.run_id);
            let body = async move { runner.wait(attempt, cancel).await };
            let body = body_of(&waits, body);
            self.flights.push(Flight { id, what, cancel: listens, waits, hangs: false, due: true, body });
        }
    }

    /// Runs attempts, the oldest first, until one ends; `None` if all wait for time to pass.
    async fn fly(&mut self) -> Option<Report> {
        for index in 0..self.flights.len() {
            let flight = &mut self.flights[index];
            if !flight.due && !flight.cancel.is_cancelled() {
                continue;
            }
            flight.due = false;
            let patience = if flight.hangs { Duration::ZERO } else { self.patience };
            if let Some(report) = drive(flight, patience).await {
                self.flights.remove(index);
                return Some(report);
            }
        }
        None
    }

    /// The next moment at which anything may happen.
    pub(super) fn next_moment(&self) -> Option<DateTime<Utc>> {
        let wake = self.scheduler.next_wake();
        wake.into_iter().chain(self.stage.clock.next_awaited()).min()
    }

    /// Moves the clock to a moment and lets happen what can happen then.
    pub(super) async fn move_to(&mut self, moment: DateTime<Utc>) {
        self.stage.clock.set(moment);
        self.flights.iter_mut().for_each(|flight| flight.due = true);
        self.work().await;
    }

    /// Moves the clock from event to event up to `target`.
    pub(super) async fn advance_to(&mut self, target: DateTime<Utc>) {
        self.work().await;
        let mut standstills = 0;
        while let Some(at) = self.next_moment().filter(|at| *at <= target) {
            standstills = if at > self.now() { 0 } else { standstills + 1 };
            if standstills > MOST_STANDSTILLS {
                complain(&format!("the scheduler wants to be woken at {at} again and again"));
            }
            self.move_to(at).await;
        }
        self.move_to(target).await;
    }

    /// Attempts that wait for something real and have no end in sight.
    pub(super) fn hanging(&self) -> Vec<&str> {
        self.flights.iter().filter(|flight| flight.hangs).map(|flight| flight.what.as_str()).collect()
    }

    pub(super) fn is_over(&self, run: RunPk) -> bool {
        let snapshot = at_once(self.stage.airflow.store().load_run(run, None));
        snapshot.is_none_or(|snapshot| snapshot.run.state.is_finished())
    }
}

/// Pools that the test says nothing about have room for everything.
fn make_pools(airflow: &Airflow) {
    let mut known: Vec<String> =
        at_once(airflow.store().pools()).into_iter().map(|pool| pool.spec.name).collect();
    for task in airflow.registry().iter().flat_map(|dag| &dag.tasks) {
        let name = &task.settings.pool;
        if !known.contains(name) {
            let description = String::new();
            let pool = PoolSpec { name: name.clone(), slots: -1, description, include_deferred: false };
            at_once(airflow.store().set_pool(pool));
            known.push(name.clone());
        }
    }
}

async fn new_process(stage: &Stage, slots: usize) -> (Scheduler, SimExecutor, mpsc::UnboundedSender<Report>) {
    let executor = SimExecutor::new(slots);
    let airflow = &stage.airflow;
    let shared: Arc<dyn Executor> = Arc::new(executor.clone());
    let (scheduler, reports) = Scheduler::new(
        Arc::clone(airflow.store()),
        shared.into(),
        airflow.registry().clone(),
        Arc::clone(airflow.clock()),
        airflow.scheduler_config().clone(),
    );
    let waiter = executor.clone();
    let mut scheduler = scheduler.with_waiter(Arc::new(waiter));
    airflow.attach(scheduler.handle());
    scheduler.prepare().await.expect("the store in memory does not fail");
    (scheduler, executor, reports)
}

/// A body that goes on whenever it is polled: one that stood aside for others would look as if it waited for the clock.
fn body_of(
    waits: &Arc<AtomicBool>,
    body: impl Future<Output = Report> + Send + 'static,
) -> Pin<Box<dyn Future<Output = Report> + Send>> {
    Box::pin(WAITS.scope(Arc::clone(waits), tokio::task::unconstrained(body)))
}

/// An attempt that was stopped before it began.
fn not_begun(attempt: &Attempt, clock: &SimClock) -> Report {
    Report {
        run: attempt.run.pk,
        key: attempt.key(),
        attempt_id: attempt.ti.attempt_id,
        outcome: Outcome::Cancelled,
        pushed: Vec::new(),
        asset_events: Vec::new(),
        rendered: None,
        log: None,
        at: crate::time::Clock::now(clock),
    }
}

/// Runs an attempt until it ends or waits for time to pass. What it waits for in reality is waited for.
async fn drive(flight: &mut Flight, patience: Duration) -> Option<Report> {
    debug_assert!(!flight.id.0.is_nil(), "an attempt has an id");
    let Flight { body, waits, .. } = flight;
    let step = poll_fn(|cx| match body.as_mut().poll(cx) {
        Poll::Ready(report) => Poll::Ready(Some(report)),
        Poll::Pending if waits.load(Ordering::Relaxed) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    match tokio::time::timeout(patience, step).await {
        Ok(report) => report,
        Err(_) => {
            flight.hangs = true;
            None
        }
    }
}
