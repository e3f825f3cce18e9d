//! Holds an executor to the contract of [`Executor`].
//!
//! Each check is a function of its own and makes a new deployment on the [`Ground`] of the caller: a store, an executor,
//! and whatever runs its attempts. It works through a real scheduler, and sees only what the store shows: attempts may
//! run anywhere. [`executor_conformance!`](crate::executor_conformance) makes a test of each.

mod dags;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::app::{Airflow, ClearOptions, Running};
use crate::executor::{Executor, ExecutorServices, SubmitError};
use crate::id::{AttemptId, RunId};
use crate::plan::Attempt;
use crate::state::{RunState, TaskState};
use crate::store::{AttemptState, RunRow, SharedStore, XComFilter};

pub use dags::dags;

/// How long anything may take before a check fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a scheduler waits for attempts when it stops.
const GRACE: Duration = Duration::from_secs(10);

/// Makes deployments for checks.
#[async_trait]
pub trait Ground: Send + Sync {
    /// A new one, with an empty store. What runs attempts carries [`dags`].
    async fn deploy(&self) -> Box<dyn Deployment>;
}

/// A store, and what runs attempts of it.
#[async_trait]
pub trait Deployment: Send + Sync {
    /// Where everything is kept.
    fn store(&self) -> SharedStore;

    /// A new executor, as of a scheduler that has just started. The ones before are not used any more.
    fn executor(&self) -> Arc<dyn Executor>;

    /// How many attempts run at once in all.
    fn slots(&self) -> usize;

    /// Ends whatever runs attempts.
    async fn close(self: Box<Self>);
}

/// One deployment with a scheduler.
struct Scene {
    deployment: Box<dyn Deployment>,
    airflow: Airflow,
    running: Running,
}

impl Scene {
    async fn new(ground: &dyn Ground) -> Self {
        let deployment = ground.deploy().await;
        let executor = deployment.executor();
        let (airflow, running) = start(&*deployment, executor).await;
        Self { deployment, airflow, running }
    }

    async fn run(&self, dag: &str) -> RunRow {
        self.airflow.trigger(dag).await.expect("the suite's dags can be triggered")
    }

    async fn wait(&self, run: &RunRow) -> RunRow {
        tokio::time::timeout(PATIENCE, self.airflow.wait(run))
            .await
            .expect("the run ends")
            .expect("it is there")
    }

    async fn state(&self, run: &RunRow, task: &str) -> TaskState {
        self.airflow.states(run).await.expect("the run is there")[task]
    }

    /// How the attempts of a task stand, first to last.
    async fn attempts(&self, run: &RunRow, task: &str) -> Vec<AttemptState> {
        let rows = self.deployment.store().attempts(run.pk, None).await.expect("the store works");
        rows.iter().filter(|row| row.start.task_id.as_str() == task).map(|row| row.state).collect()
    }

    /// Waits until the body of a task has said that it runs, so many times in all.
    async fn until_running(&self, run: &RunRow, task: &str, attempts: usize) {
        let running = async {
            loop {
                let states = self.attempts(run, task).await;
                if states.len() >= attempts && states[attempts - 1] == AttemptState::Running {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, running).await.expect("the task starts");
    }

    async fn end(self) {
        self.running.stop(GRACE).await.expect("the scheduler stops");
        self.deployment.close().await;
    }
}

async fn start(deployment: &dyn Deployment, executor: Arc<dyn Executor>) -> (Airflow, Running) {
    let builder = Airflow::builder().shared_store(deployment.store()).shared_executor(executor);
    let airflow = builder.dags(dags()).build().await.expect("the suite's dags have no mistakes");
    let running = airflow.start();
    (airflow, running)
}

/// Results, pushed values and rendered fields of attempts arrive in the store; errors, skips, retries, reschedules,
/// deferrals, panics and time-outs are what they are.
///
/// # Panics
///
/// If the executor does not keep this.
pub async fn ends_of_attempts_arrive(ground: &dyn Ground) {
    let scene = Scene::new(ground).await;
    let run = scene.run("suite_ends").await;
    let run = scene.wait(&run).await;
    assert_eq!(run.state, RunState::Failed, "some of its tasks fail on purpose");
    for (task, state, attempts) in [
        ("returns", TaskState::Success, &[AttemptState::Success] as &[_]),
        ("reads", TaskState::Success, &[AttemptState::Success]),
        ("large", TaskState::Success, &[AttemptState::Success]),
        ("fails", TaskState::Failed, &[AttemptState::Failed]),
        ("fails_once", TaskState::Success, &[AttemptState::Failed, AttemptState::Success]),
        ("skips", TaskState::Skipped, &[AttemptState::Skipped]),
        ("reschedules", TaskState::Success, &[AttemptState::Rescheduled, AttemptState::Success]),
        ("defers", TaskState::Success, &[AttemptState::Deferred, AttemptState::Success]),
        ("panics", TaskState::Failed, &[AttemptState::Failed]),
        ("takes_too_long", TaskState::Failed, &[AttemptState::Failed]),
    ] {
        assert_eq!(scene.state(&run, task).await, state, "the state of {task}");
        assert_eq!(scene.attempts(&run, task).await, attempts, "the attempts of {task}");
    }
    let read: String = scene.airflow.result(&run, "reads").await.expect("it has a result");
    assert_eq!(read, "seven and a pushed value");
    let large: String = scene.airflow.result(&run, "large").await.expect("it has a result");
    assert_eq!(large.len(), dags::LARGE);
    let rows = scene.deployment.store().attempts(run.pk, None).await.expect("the store works");
    let end = |task: &str| {
        let row = rows.iter().find(|row| row.start.task_id.as_str() == task).expect("it had an attempt");
        row.end.clone().expect("it has ended")
    };
    assert!(end("fails").error.is_some_and(|error| error.contains("on purpose")), "{:?}", end("fails"));
    assert!(end("panics").error.is_some_and(|error| error.contains("out of luck")), "{:?}", end("panics"));
    assert_eq!(end("returns").rendered, Some(serde_json::json!({ "what": "of returns" })));
    scene.end().await;
}

/// Not more attempts run at once than there are slots, and not one after the other either.
///
/// # Panics
///
/// If the executor does not keep this.
pub async fn slots_are_kept_and_used(ground: &dyn Ground) {
    let scene = Scene::new(ground).await;
    let run = scene.run("suite_busy").await;
    let run = scene.wait(&run).await;
    assert_eq!(run.state, RunState::Success);
    let spans: Vec<(i64, i64)> = scene.airflow.results(&run, "busy").await.expect("all have results");
    assert_eq!(spans.len(), dags::BUSY);
    let at_once = |at: i64| spans.iter().filter(|(start, end)| *start <= at && at < *end).count();
    let most = spans.iter().map(|(start, _)| at_once(*start)).max().unwrap_or(0);
    assert!(most <= scene.deployment.slots(), "{most} at once in {} slots", scene.deployment.slots());
    assert!(most > 1, "one after the other");
    scene.end().await;
}

/// What a user clears while it runs is told to stop and starts anew; what the first attempt says does not count.
///
/// # Panics
///
/// If the executor does not keep this.
pub async fn cancelled_attempts_stop(ground: &dyn Ground) {
    let scene = Scene::new(ground).await;
    let run = scene.run("suite_long").await;
    scene.until_running(&run, "sleeps_at_first", 1).await;
    let all = ClearOptions::default();
    scene.airflow.clear(&run.dag_id, &run.run_id, &all, "suite").await.expect("it can be cleared");
    let run = scene.wait(&run).await;
    assert_eq!(run.state, RunState::Success);
    let attempts = scene.attempts(&run, "sleeps_at_first").await;
    assert_eq!(attempts, [AttemptState::Cancelled, AttemptState::Success]);
    scene.end().await;
}

/// An attempt that is submitted several times runs once.
///
/// # Panics
///
/// If the executor does not keep this.
pub async fn submitted_twice_runs_once(ground: &dyn Ground) {
    let deployment = ground.deploy().await;
    let executor = Arc::new(Doubling(deployment.executor()));
    let (airflow, running) = start(&*deployment, executor).await;
    let scene = Scene { deployment, airflow, running };
    let run = scene.run("suite_busy").await;
    let run = scene.wait(&run).await;
    assert_eq!(run.state, RunState::Success);
    let filter = XComFilter { run: run.pk, tasks: vec!["busy".into()], map_index: None, key: None };
    let values = scene.deployment.store().xcoms(&filter).await.expect("the store works");
    assert_eq!(values.len(), dags::BUSY, "one result each");
    assert_eq!(scene.attempts(&run, "busy").await, vec![AttemptState::Success; dags::BUSY]);
    scene.end().await;
}

/// A scheduler that stops at once loses nothing and costs no retry: the next one goes on.
///
/// # Panics
///
/// If the executor does not keep this.
pub async fn a_stop_loses_nothing(ground: &dyn Ground) {
    let Scene { deployment, airflow, running } = Scene::new(ground).await;
    let run = airflow.trigger("suite_busy").run_id(RunId::new("stopped")).await.expect("it can be triggered");
    let begun = async {
        while deployment.store().attempts(run.pk, None).await.expect("the store works").len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.expect("tasks start");
    running.stop(Duration::ZERO).await.expect("the scheduler stops");
    let executor = deployment.executor();
    let (airflow, running) = start(&*deployment, executor).await;
    let scene = Scene { deployment, airflow, running };
    let run = scene.wait(&run).await;
    assert_eq!(run.state, RunState::Success);
    let rows = scene.deployment.store().attempts(run.pk, None).await.expect("the store works");
    assert!(rows.iter().all(|row| row.start.try_number == 1), "no retry was used: {rows:?}");
    let done = rows.iter().filter(|row| row.state == AttemptState::Success).count();
    assert_eq!(done, dags::BUSY + 1, "each ended well once");
    scene.end().await;
}

/// Hands every attempt over twice.
#[derive(Debug)]
struct Doubling(Arc<dyn Executor>);

#[async_trait]
impl Executor for Doubling {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn slots(&self) -> usize {
        self.0.slots()
    }

    fn is_remote(&self) -> bool {
        self.0.is_remote()
    }

    fn start(&self, services: ExecutorServices) {
        self.0.start(services);
    }

    fn submit(&self, attempt: Attempt) -> Result<(), SubmitError> {
        self.0.submit(attempt.clone())?;
        self.0.submit(attempt)
    }

    fn cancel(&self, attempt: AttemptId) {
        self.0.cancel(attempt);
    }

    async fn stop(&self, grace: Duration) {
        self.0.stop(grace).await;
    }
}

/// Makes a test of each check of the [suite for executors](crate::testing::executor_suite), on a ground that the
/// expression makes. Needs `tokio` with its macros.
///
/// ```
/// use std::sync::Arc;
///
/// use airflow_core::executor::Executor;
/// use airflow_core::store::{MemoryStore, SharedStore};
/// use airflow_core::testing::executor_suite::{Deployment, Ground};
///
/// struct Mine;
///
/// struct MyDeployment(SharedStore, Arc<dyn Executor>);
///
/// # fn my_executor() -> Arc<dyn Executor> { std::process::abort() }
///
/// #[async_trait::async_trait]
/// impl Ground for Mine {
///     async fn deploy(&self) -> Box<dyn Deployment> {
///         Box::new(MyDeployment(Arc::new(MemoryStore::new()), my_executor()))
///     }
/// }
///
/// #[async_trait::async_trait]
/// impl Deployment for MyDeployment {
///     fn store(&self) -> SharedStore {
///         Arc::clone(&self.0)
///     }
///
///     fn executor(&self) -> Arc<dyn Executor> {
///         Arc::clone(&self.1)
///     }
///
///     fn slots(&self) -> usize {
///         4
///     }
///
///     async fn close(self: Box<Self>) {}
/// }
///
/// airflow_core::executor_conformance!(Mine);
/// ```
#[macro_export]
macro_rules! executor_conformance {
    ($ground:expr) => {
        $crate::executor_conformance!(@ $ground;
            ends_of_attempts_arrive slots_are_kept_and_used cancelled_attempts_stop submitted_twice_runs_once
            a_stop_loses_nothing);
    };
    (@ $ground:expr; $($check:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $check() {
                $crate::testing::executor_suite::$check(&$ground).await;
            }
        )*
    };
}
