//! What callbacks and `on_kill` are told when attempts do not end by themselves.

use std::sync::{Arc, Mutex};

use airflow::app::Mark;
use airflow::prelude::*;
use airflow::state::RunState;

use crate::tasks::*;

/// What was said, in order.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// A callback that notes who is told what.
    fn callback(&self) -> impl Fn(CallbackContext) -> std::future::Ready<()> + Clone + Send + Sync + use<> {
        let told = self.clone();
        move |cx: CallbackContext| {
            let who = cx.task_id.map_or("run".into(), |task| task.to_string());
            let why = cx.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            told.0.lock().unwrap().push(format!("{who} {} {}{why}", cx.event, cx.try_number));
            std::future::ready(())
        }
    }
}

/// A dag of one task with two tries, whose callbacks and those of its run are heard.
fn heard(told: &Told, options: impl FnOnce(DagDef) -> DagDef) -> DagDef {
    let dag = DagDef::new("d").on_failure(told.callback()).on_success(told.callback());
    options(dag).define(|d| {
        let task = work::call().retries(1).retry_delay(mins(1)).on_retry(told.callback());
        d.add(task.on_failure(told.callback()).on_success(told.callback()).on_skipped(told.callback()));
    })
}

/// Goal: an attempt that was lost with its process is no failure and no retry to anybody; a task that is given up has
/// failed, once. Method: kill the process while the task runs, as often as it takes; let the cleared task be lost again.
#[tokio::test]
async fn lost_attempts_are_told_of_once_the_task_is_given_up() {
    let told = Told::default();
    let sim = Sim::new([heard(&told, |dag| dag)]).takes::<work>(hours(1)).start("2026-03-02").await;
    let id = sim.trigger("d").await.unwrap().run_id;
    for _ in 0..2 {
        sim.advance(mins(10)).await;
        sim.kill().await;
    }
    sim.advance(mins(10)).await;
    assert_eq!(told.lines(), [""; 0], "its process died twice, which is the business of nobody");
    sim.kill().await;
    sim.advance(mins(10)).await;
    let why = "worker_lost: the process that ran it died 3 times";
    assert_eq!(told.lines(), [format!("work failure 1: {why}"), "run failure 0: task_failure".into()]);
    assert_eq!(sim.run("d", id.as_str()).tries_of::<work>(), 1);

    sim.clear("d", id.as_str(), &["work"]).await;
    sim.advance(mins(10)).await;
    sim.kill().await;
    sim.advance(hours(2)).await;
    assert_eq!(told.lines()[2..], ["work success 2", "run success 0"], "what was lost before counts no more");
    sim.assert_idle();
}

/// Goal: a retry and a failure are told of once, whatever happens to the process around them. Method: the process dies
/// in the first try, the try fails, the process dies while the retry waits and again in the second try, which fails.
#[tokio::test]
async fn a_process_that_dies_around_retries_doubles_no_callback() {
    let told = Told::default();
    let sim = Sim::new([heard(&told, |dag| dag)]).takes::<work>(mins(10)).start("2026-03-02").await;
    sim.trigger("d").await.unwrap();
    sim.advance(mins(5)).await;
    sim.kill().await;
    sim.fail_next_n::<work>(2, "the warehouse is closed");
    sim.advance(mins(11)).await;
    assert_eq!(told.lines(), ["work retry 1: the warehouse is closed"]);
    sim.kill().await;
    sim.settle().await;
    sim.advance(mins(5)).await;
    sim.kill().await;
    sim.fail_next::<work>(TaskError::msg("the warehouse is closed"));
    sim.advance(mins(30)).await;
    assert_eq!(
        told.lines(),
        [
            "work retry 1: the warehouse is closed",
            "work failure 2: the warehouse is closed",
            "run failure 0: task_failure"
        ]
    );
    sim.kill().await;
    sim.advance(hours(1)).await;
    assert_eq!(told.lines().len(), 3);
    sim.assert_idle();
}

/// Goal: a run that takes too long has failed to whoever listens to runs; its tasks were stopped, which is told to
/// nobody. Method: a task of an hour in a run that may take half of one.
#[tokio::test]
async fn a_run_that_takes_too_long_is_told_of_as_failed() {
    let told = Told::default();
    let dag = heard(&told, |dag| dag.dagrun_timeout(mins(30)));
    let sim = Sim::new([dag]).takes::<work>(hours(1)).start("2026-03-02").await;
    let id = sim.trigger("d").await.unwrap().run_id;
    sim.advance(hours(3)).await;
    assert_eq!(sim.run("d", id.as_str()).state_of::<work>(), TaskState::Skipped);
    assert_eq!(told.lines(), ["run failure 0: timed_out"]);
}

/// Works for ever, and says how it was asked to stop.
#[derive(Operator)]
#[operator(needs(Told))]
struct Killable;

impl Execute for Killable {
    type Output = ();

    async fn execute(&self, cx: &TaskContext) -> Result<()> {
        cx.sleep(hours(100)).await;
        Ok(())
    }

    async fn on_kill(&self, cx: &TaskContext) {
        let told = cx.resource::<Told>().unwrap();
        told.0.lock().unwrap().push(format!("try {} is stopped, {}", cx.try_number(), cx.is_cancelled()));
    }
}

/// Goal: whoever ends a running attempt from outside, its operator is told once and may clean up. Method: clear it, mark
/// it, let it take too long, fail its run, let its run take too long; and end it by itself, which is told to nobody.
#[tokio::test]
async fn on_kill_is_called_once_for_each_attempt_that_is_stopped() {
    let told = Told::default();
    let dag = DagDef::new("d").dagrun_timeout(hours(10)).define(|d| {
        d.add(Killable.retries(1).retry_delay(secs(0)).timeout(hours(1)));
    });
    let sim = Sim::new([dag]).resource(told.clone()).start("2026-03-02").await;
    let id = sim.trigger("d").await.unwrap();
    let said = |expected: &[&str], why: &str| {
        assert_eq!(told.lines(), expected, "{why}");
        told.0.lock().unwrap().clear();
    };
    sim.advance(mins(5)).await;
    sim.clear("d", id.run_id.as_str(), &["killable"]).await;
    said(&["try 1 is stopped, true"], "it was cleared");
    sim.advance(mins(5)).await;
    sim.mark("d", id.run_id.as_str(), &["killable"], Mark::Success).await;
    said(&["try 2 is stopped, true"], "it was marked");
    sim.clear("d", id.run_id.as_str(), &["killable"]).await;
    sim.advance(mins(5)).await;
    sim.airflow().mark_run(&id.dag_id, &id.run_id, false, "ada").await.unwrap();
    sim.settle().await;
    said(&["try 3 is stopped, true"], "its run was failed");

    let second = sim.trigger("d").await.unwrap();
    sim.advance(hours(3)).await;
    said(&["try 1 is stopped, true", "try 2 is stopped, true"], "both tries took too long");
    let run = sim.run("d", second.run_id.as_str());
    assert_eq!(run.state(), RunState::Failed);
    assert_eq!(run.reason_of_id("killable"), Some("the attempt took longer than its timeout of 3600s"));
    sim.assert_idle();
}

/// Goal: as above, of a run that takes too long. Method: a task without a timeout of its own.
#[tokio::test]
async fn on_kill_is_called_when_the_run_takes_too_long() {
    let told = Told::default();
    let dag = DagDef::new("d").dagrun_timeout(hours(2)).define(|d| {
        d.add(Killable);
    });
    let sim = Sim::new([dag]).resource(told.clone()).start("2026-03-02").await;
    sim.trigger("d").await.unwrap();
    sim.advance(mins(119)).await;
    assert_eq!(told.lines(), [""; 0]);
    sim.advance(mins(2)).await;
    assert_eq!(told.lines(), ["try 1 is stopped, true"]);
    sim.assert_idle();
}
