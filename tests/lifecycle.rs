//! Attempts that are stopped, lost, cleared, timed out: on SQLite, with the local executor, in real time.
#![cfg(feature = "sqlite")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use airflow::app::{ClearOptions, Mark, Selection};
use airflow::callback::CallbackContext;
use airflow::prelude::*;
use airflow::state::{RunState, TaskState};
use airflow::store::{AttemptState, SqliteStore, TiRow};
use tokio::sync::{Notify, mpsc};

/// Lets a test hold a task until it has seen it start.
#[derive(Clone, Default)]
struct Gate {
    started: Arc<AtomicU32>,
    entered: Arc<Notify>,
    open: Arc<Notify>,
}

impl Gate {
    async fn has_started(&self, times: u32) {
        loop {
            let entered = self.entered.notified();
            if self.started.load(Ordering::SeqCst) >= times {
                return;
            }
            entered.await;
        }
    }
}

/// Waits at the gate the first time, and passes it afterwards.
#[task]
async fn gated(gate: &Gate) -> Result<u32> {
    let times = gate.started.fetch_add(1, Ordering::SeqCst) + 1;
    gate.entered.notify_waiters();
    if times == 1 {
        gate.open.notified().await;
    }
    tracing::info!(times, "passed the gate");
    Ok(times)
}

#[task]
async fn after(times: u32) -> Result<u32> {
    Ok(times + 1)
}

#[task(timeout = "50ms", retries = 1, retry_delay = "1ms")]
async fn endless() -> Result<()> {
    std::future::pending().await
}

#[task]
async fn panics() -> Result<()> {
    panic!("a bug in the task")
}

#[task]
fn blocking(text: String) -> Result<String> {
    Ok(text.to_uppercase())
}

/// Blocking code that goes on until it is asked to stop, and says so.
#[task(blocking)]
fn asks(cx: &TaskContext, stopped: &mpsc::UnboundedSender<u32>, begun: &Arc<Notify>) -> Result<()> {
    begun.notify_one();
    while !cx.is_cancelled() {
        std::thread::yield_now();
    }
    stopped.send(cx.try_number())?;
    Ok(())
}

fn gated_dag() -> DagDef {
    DagDef::new("gated").define(|d| {
        let first = d.add(gated::call());
        d.add(after::call(first));
    })
}

struct App {
    folder: tempfile::TempDir,
    gate: Gate,
}

impl App {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), gate: Gate::default() }
    }

    fn database(&self) -> String {
        self.folder.path().join("airflow.db").to_str().unwrap().to_owned()
    }

    async fn open(&self, dags: Vec<DagDef>) -> Airflow {
        Airflow::builder()
            .store(SqliteStore::open(&self.database()).await.unwrap())
            .executor(LocalExecutor::new(4))
            .resource(self.gate.clone())
            .log_folder(self.folder.path().join("logs"))
            .dags(dags)
            .build()
            .await
            .unwrap()
    }
}

fn of<'a>(tis: &'a [TiRow], id: &str) -> &'a TiRow {
    tis.iter().find(|ti| ti.task_id == *id).unwrap()
}

#[task]
async fn fails() -> Result<()> {
    Err(TaskError::fail("as it always does"))
}

/// A dag that fails, and tells `heard` of its task and of its run; the first `silent` calls never return.
fn telling_dag(heard: mpsc::UnboundedSender<String>, silent: Arc<AtomicU32>) -> DagDef {
    let call = move |cx: CallbackContext| {
        let (heard, silent) = (heard.clone(), Arc::clone(&silent));
        async move {
            let of = cx.task_id.map_or_else(|| "the run".to_owned(), |task| task.to_string());
            let is_silent =
                silent.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
            heard.send(format!("{of}: {} of try {}", cx.event, cx.try_number)).unwrap();
            if is_silent {
                std::future::pending::<()>().await;
            }
        }
    };
    DagDef::new("telling").on_failure(call.clone()).define(|d| {
        d.add(fails::call().on_failure(call));
    })
}

/// Goal: a callback is called although the process that wrote the failure died before it was done, and not again after it
/// has returned. Method: callbacks that never return in the first process, which is then declared dead.
#[tokio::test]
async fn callbacks_that_a_dead_process_left_are_called_by_the_next_one() {
    let app = App::new();
    let (heard, mut hears) = mpsc::unbounded_channel();
    // Shutting its runtime down ends everything of the first life at once, as a crash would.
    let life = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let silent = telling_dag(heard.clone(), Arc::new(AtomicU32::new(2)));
    let database = app.database();
    life.spawn(async move {
        let store = SqliteStore::open(&database).await.unwrap();
        let executor = LocalExecutor::new(1);
        let first = Airflow::builder().store(store).executor(executor).dag(silent).build().await.unwrap();
        first.start();
        first.wait(&first.trigger("telling").await.unwrap()).await.unwrap();
    });
    let mut told = [hears.recv().await.unwrap(), hears.recv().await.unwrap()];
    told.sort();
    assert_eq!(told, ["fails: failure of try 1", "the run: failure of try 0"]);
    life.shutdown_background();
    let second = app.open(vec![telling_dag(heard.clone(), Arc::default())]).await;
    assert_eq!(second.store().notices().await.unwrap().len(), 2);
    // The process of the test lives on, so it must be said that the first life is over.
    let dead = second.store().incarnations().await.unwrap()[0].process.id;
    second.store().end_incarnation(dead).await.unwrap();
    let running = second.start();
    let mut told = [hears.recv().await.unwrap(), hears.recv().await.unwrap()];
    told.sort();
    assert_eq!(told, ["fails: failure of try 1", "the run: failure of try 0"]);
    running.stop(Duration::ZERO).await.unwrap();
    assert_eq!(second.store().notices().await.unwrap(), []);

    let third = app.open(vec![telling_dag(heard, Arc::default())]).await;
    let running = third.start();
    third.wait(&third.trigger("telling").await.unwrap()).await.unwrap();
    running.stop(Duration::ZERO).await.unwrap();
    let mut told = vec![hears.try_recv().unwrap(), hears.try_recv().unwrap()];
    told.sort();
    assert_eq!(told, ["fails: failure of try 1", "the run: failure of try 0"], "only those of the new run");
    assert!(hears.try_recv().is_err());
}

/// Goal: stopping loses nothing and costs no retry. Method: stop without grace while a task runs, start again on the
/// same database.
#[tokio::test]
async fn a_stopped_process_hands_its_attempts_back_and_the_next_one_finishes_the_run() {
    let app = App::new();
    let airflow = app.open(vec![gated_dag()]).await;
    let running = airflow.start();
    let run = airflow.trigger("gated").await.unwrap();
    app.gate.has_started(1).await;
    running.stop(Duration::ZERO).await.unwrap();
    let tis = airflow.store().task_instances(run.pk).await.unwrap();
    assert_eq!(of(&tis, "gated").state, TaskState::Scheduled);
    assert_eq!(of(&tis, "gated").data.lost, 0);

    let airflow = app.open(vec![gated_dag()]).await;
    let running = airflow.start();
    let ended = airflow.wait_for(&run.dag_id, &run.run_id).await.unwrap();
    assert_eq!(ended.state, RunState::Success);
    let attempts = airflow.store().attempts(run.pk, None).await.unwrap();
    let states: Vec<_> =
        attempts.iter().map(|a| (a.start.task_id.to_string(), a.start.try_number, a.state)).collect();
    assert_eq!(
        states,
        [
            ("after".to_owned(), 1, AttemptState::Success),
            ("gated".to_owned(), 1, AttemptState::HandedBack),
            ("gated".to_owned(), 1, AttemptState::Success),
        ]
    );
    assert!(
        airflow.store().slots().await.unwrap().iter().all(|(_, used)| *used == 0),
        "all slots are given back"
    );
    running.stop(Duration::from_secs(5)).await.unwrap();
}

/// Goal: a clear takes effect at once and never lets two attempts run at the same time. Method: clear a task that
/// waits at its gate; its second attempt passes.
#[tokio::test]
async fn clearing_a_running_task_stops_its_attempt_and_starts_another() {
    let app = App::new();
    let airflow = app.open(vec![gated_dag()]).await;
    let running = airflow.start();
    let run = airflow.trigger("gated").await.unwrap();
    app.gate.has_started(1).await;
    let options = ClearOptions {
        select: Selection { tasks: vec!["gated".into()], ..Selection::default() },
        ..ClearOptions::default()
    };
    let cleared = airflow.clear(&run.dag_id, &run.run_id, &options, "tester").await.unwrap();
    assert_eq!(cleared.len(), 1);
    assert_eq!(cleared[0].was, TaskState::Running);
    let ended = airflow.wait_for(&run.dag_id, &run.run_id).await.unwrap();
    assert_eq!(ended.state, RunState::Success);
    let attempts =
        airflow.store().attempts(run.pk, Some((&"gated".into(), airflow::id::MapIndex::UNMAPPED))).await;
    let states: Vec<_> = attempts.unwrap().iter().map(|a| (a.start.try_number, a.state)).collect();
    assert_eq!(states, [(1, AttemptState::Cancelled), (2, AttemptState::Success)]);
    let audit = airflow.store().audit_log(&airflow::store::AuditFilter::default()).await.unwrap();
    assert!(audit.iter().any(|entry| entry.event == "clear" && entry.actor == "tester"));
    running.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn marking_a_running_task_goes_on_without_it() {
    let app = App::new();
    let airflow = app.open(vec![gated_dag()]).await;
    let running = airflow.start();
    let run = airflow.trigger("gated").await.unwrap();
    app.gate.has_started(1).await;
    let only = Selection { tasks: vec!["gated".into()], ..Selection::default() };
    airflow.mark(&run.dag_id, &run.run_id, &only, Mark::Failed, "tester").await.unwrap();
    let ended = airflow.wait_for(&run.dag_id, &run.run_id).await.unwrap();
    assert_eq!(ended.state, RunState::Failed);
    let tis = airflow.store().task_instances(run.pk).await.unwrap();
    assert_eq!(of(&tis, "after").state, TaskState::UpstreamFailed);
    assert_eq!(of(&tis, "gated").data.reason.as_deref(), Some("marked by tester"));
    running.stop(Duration::from_secs(5)).await.unwrap();
    assert!(
        airflow.store().slots().await.unwrap().iter().all(|(_, used)| *used == 0),
        "all slots are given back"
    );
}

#[tokio::test]
async fn time_outs_and_panics_are_outcomes_and_blocking_code_holds_up_nobody() {
    let dag = DagDef::new("rough").define(|d| {
        d.add(endless::call());
        d.add(panics::call());
        d.add(blocking::call("loud"));
    });
    let app = App::new();
    let airflow = app.open(vec![dag]).await;
    let running = airflow.start();
    let run = airflow.trigger("rough").await.unwrap();
    airflow.wait_for(&run.dag_id, &run.run_id).await.unwrap();
    let tis = airflow.store().task_instances(run.pk).await.unwrap();
    let reason = |id: &str| of(&tis, id).data.reason.clone().unwrap_or_default();
    assert_eq!(of(&tis, "endless").data.try_number, 2);
    assert_eq!(reason("endless"), "the attempt took longer than its timeout of 50ms");
    assert_eq!(reason("panics"), "the task panicked: a bug in the task");
    assert_eq!(of(&tis, "blocking").state, TaskState::Success);
    running.stop(Duration::from_secs(5)).await.unwrap();
}

/// Goal: blocking code, which nobody can stop, learns that it should stop, for whatever reason; what it does afterwards
/// counts no more. Method: code that goes on until it is asked to stop, cleared, marked, and past its timeout.
#[tokio::test(flavor = "multi_thread")]
async fn blocking_code_learns_that_it_should_stop() {
    let (stopped, mut stops) = mpsc::unbounded_channel::<u32>();
    let begun = Arc::new(Notify::new());
    let dag = |id: &str, timeout: Duration| {
        DagDef::new(id).define(|d| {
            d.add(asks::call().timeout(timeout));
        })
    };
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::new(2))
        .dags([dag("long", Duration::from_secs(600)), dag("short", Duration::from_millis(20))])
        .resource(stopped)
        .resource(Arc::clone(&begun))
        .build()
        .await
        .unwrap();
    let running = airflow.start();
    let run = airflow.trigger("long").await.unwrap();
    begun.notified().await;
    airflow.clear(&run.dag_id, &run.run_id, &ClearOptions::default(), "test").await.unwrap();
    assert_eq!(stops.recv().await, Some(1), "it was cleared");
    begun.notified().await;
    airflow.mark(&run.dag_id, &run.run_id, &Selection::default(), Mark::Success, "test").await.unwrap();
    assert_eq!(stops.recv().await, Some(2), "it was marked");
    assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);

    let run = airflow.trigger("short").await.unwrap();
    assert_eq!(stops.recv().await, Some(1), "it took too long");
    assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Failed);
    let ti = airflow.store().task_instances(run.pk).await.unwrap().remove(0);
    assert_eq!(ti.data.reason.as_deref(), Some("the attempt took longer than its timeout of 20ms"));
    running.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn the_log_of_an_attempt_holds_what_the_task_said() {
    let app = App::new();
    let airflow = app.open(vec![gated_dag()]).await;
    let running = airflow.start();
    let run = airflow.trigger("gated").run_id("logged").await.unwrap();
    app.gate.has_started(1).await;
    app.gate.open.notify_waiters();
    app.gate.open.notify_one();
    airflow.wait_for(&run.dag_id, &run.run_id).await.unwrap();
    running.stop(Duration::from_secs(5)).await.unwrap();
    let path = app.folder.path().join("logs/dag_id=gated/run_id=logged/task_id=gated/attempt=1.log");
    let log = std::fs::read_to_string(path).unwrap();
    assert!(log.contains("Starting attempt 1 of 1"), "{log}");
    assert!(log.contains("INFO - passed the gate times=1"), "{log}");
    assert!(log.contains("{lifecycle.rs:"), "{log}");
    assert!(log.contains("Marking task as SUCCESS. dag_id=gated, task_id=gated, run_id=logged"), "{log}");
}

/// Goal: old news does no harm. Method: tell the scheduler that a run is queued while it runs and after it has ended,
/// as a wake-up does that comes late.
#[tokio::test]
async fn late_word_of_a_queued_run_is_passed_over() {
    let app = App::new();
    let airflow = app.open(vec![gated_dag()]).await;
    let running = airflow.start();
    let run = airflow.trigger("gated").await.unwrap();
    app.gate.has_started(1).await;
    running.scheduler().wake(airflow::scheduler::Wake::Run(Box::new(run.clone())));
    app.gate.open.notify_one();
    let ended = airflow.wait_for(&run.dag_id, &run.run_id).await.unwrap();
    assert_eq!(ended.state, RunState::Success);
    running.scheduler().wake(airflow::scheduler::Wake::Run(Box::new(run)));
    let second = airflow.trigger("gated").await.unwrap();
    assert_eq!(airflow.wait_for(&second.dag_id, &second.run_id).await.unwrap().state, RunState::Success);
    tokio::time::timeout(Duration::from_secs(20), running.stop(Duration::from_secs(1)))
        .await
        .unwrap()
        .unwrap();
}

/// Goal: a program that drops the handle of its scheduler leaves it running, and waiting costs nothing. Method: on one
/// thread nothing else would ever get on if the loop did not wait.
#[tokio::test]
async fn a_scheduler_whose_handle_is_dropped_goes_on() {
    let dag = DagDef::new("d").define(|d| {
        d.add(airflow::operator::Empty::new().id("a"));
    });
    let airflow = Airflow::builder().store(MemoryStore::new()).executor(LocalExecutor::new(1)).dag(dag);
    let airflow = airflow.build().await.unwrap();
    drop(airflow.start());
    for _ in 0..2 {
        let run = airflow.trigger("d").await.unwrap();
        assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);
    }
}
