//! Deadlines of runs: who is told, when, and that it is once.

use std::sync::{Arc, Mutex};

use airflow::callback::CallbackContext;
use airflow::dag::DeadlineAlert;
use airflow::prelude::*;

use crate::tasks::*;

/// What callbacks were told: run, event, reason, time.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    /// The same of tasks.
    fn on_sla_miss(&self, dag: DagDef) -> DagDef {
        let told = self.clone();
        dag.on_sla_miss(move |late: CallbackContext| {
            let (task, reason) = (late.task_id.unwrap(), late.reason.unwrap_or_default());
            let line =
                format!("{} {} {task} {} | {reason}", late.at.format("%dT%H:%M"), late.run_id, late.event);
            told.0.lock().unwrap().push(line);
            std::future::ready(())
        })
    }

    fn alert(&self, alert: DeadlineAlert) -> DeadlineAlert {
        let told = self.clone();
        alert.call(move |late: CallbackContext| {
            let reason = late.reason.unwrap_or_default();
            let line = format!("{} {} {} | {reason}", late.at.format("%dT%H:%M"), late.run_id, late.event);
            told.0.lock().unwrap().push(line);
            std::future::ready(())
        })
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

const FIRST: &str = "scheduled__2026-03-01T00:00:00+00:00";

fn daily(told: &Told, alert: DeadlineAlert) -> DagDef {
    one_task("d").schedule("@daily").start_date("2026-03-01").deadline(told.alert(alert))
}

/// Goal: a run that goes on past its deadline is told of, once, whatever it does later. Method: an hour of work, half an
/// hour of time; the process is killed twice.
#[tokio::test]
async fn a_run_that_is_late_is_told_of_once() {
    let told = Told::default();
    let dag = daily(&told, DeadlineAlert::after_queued(mins(30)));
    let sim = Sim::new([dag]).takes::<work>(hours(2)).start("2026-03-02T00:00Z").await;
    sim.advance(mins(29)).await;
    assert_eq!(told.lines(), [""; 0]);
    sim.kill().await;
    sim.advance(mins(1)).await;
    let line =
        format!("02T00:30 {FIRST} deadline | the deadline `deadline_1` was over at 2026-03-02T00:30:00Z");
    assert_eq!(told.lines(), std::slice::from_ref(&line));
    assert_eq!(sim.run("d", FIRST).state(), RunState::Running, "it goes on");
    sim.kill().await;
    sim.advance(hours(20)).await;
    assert_eq!(sim.run("d", FIRST).state(), RunState::Success);
    assert_eq!(told.lines(), [line]);
    sim.assert_idle();
}

#[tokio::test]
async fn a_run_in_time_is_told_of_to_nobody() {
    let told = Told::default();
    let dag = daily(&told, DeadlineAlert::after_queued(mins(30)));
    let sim = Sim::new([dag]).takes::<work>(mins(20)).start("2026-03-02T00:00Z").await;
    sim.advance(days(3)).await;
    assert_eq!(sim.runs("d").len(), 4);
    assert_eq!(told.lines(), [""; 0]);
}

/// Goal: a run that fails before its deadline has missed it when that comes; one that is run again in time has not.
#[tokio::test]
async fn a_failure_misses_its_deadline_unless_it_is_made_good() {
    let told = Told::default();
    let alert = DeadlineAlert::after_logical_date(hours(26)).named("by_two");
    let sim = Sim::new([daily(&told, alert)]).start("2026-03-02T00:00Z").await;
    sim.fail_next::<work>(TaskError::fail("no"));
    sim.advance(hours(1)).await;
    sim.clear("d", FIRST, &[]).await;
    sim.advance(hours(22)).await;
    assert_eq!(told.lines(), [""; 0]);
    sim.fail_next::<work>(TaskError::fail("no"));
    sim.advance_to("2026-03-03T03:00Z").await;
    let second = "scheduled__2026-03-02T00:00:00+00:00";
    let reason = "the deadline `by_two` was over at 2026-03-03T02:00:00Z";
    assert_eq!(told.lines(), [format!("03T02:00 {second} deadline | {reason}")]);
}

/// Goal: time that counts from the queue begins anew with a clear.
#[tokio::test]
async fn a_run_that_is_queued_again_has_its_time_again() {
    let told = Told::default();
    let dag = daily(&told, DeadlineAlert::after_queued(hours(1)));
    let sim = Sim::new([dag]).start("2026-03-02T00:00Z").await;
    sim.fail_next::<work>(TaskError::fail("no"));
    sim.advance(mins(50)).await;
    sim.takes::<work>(mins(30));
    sim.clear("d", FIRST, &[]).await;
    sim.advance(hours(5)).await;
    assert_eq!(told.lines(), [""; 0]);
}

#[tokio::test]
async fn a_run_by_assets_counts_from_the_newest_event() {
    let told = Told::default();
    let dag = one_task("d")
        .schedule(["x://orders"])
        .deadline(told.alert(DeadlineAlert::after_logical_date(hours(1))));
    let sim = Sim::new([dag]).takes::<work>(hours(3)).start("2026-03-02T00:00Z").await;
    sim.asset_event("x://orders").await;
    sim.advance(hours(2)).await;
    assert_eq!(told.lines().len(), 1);
    assert!(told.lines()[0].starts_with("02T01:00 asset_triggered__"), "{:?}", told.lines());
}

#[tokio::test]
async fn a_fixed_deadline_is_that_of_all_runs() {
    let told = Told::default();
    let sim = Sim::new([daily(&told, DeadlineAlert::at("2026-03-03T12:00"))]);
    let sim = sim.takes::<work>(hours(13)).start("2026-03-02T00:00Z").await;
    sim.advance(hours(40)).await;
    assert_eq!(told.lines().len(), 1, "the second run is late, the first was in time: {:?}", told.lines());
    assert!(told.lines()[0].starts_with("03T12:00 scheduled__2026-03-02"), "{:?}", told.lines());
}

/// A chain of two, the second with two hours from the end of the interval.
fn with_sla(told: &Told) -> DagDef {
    let dag = DagDef::new("d").schedule("@daily").start_date("2026-03-01").define(|d| {
        let work = d.add(work::call());
        let load = d.add(Empty::new().id("load").sla(hours(2)));
        let _ = work >> load;
    });
    told.on_sla_miss(dag)
}

/// Goal: a task that has not succeeded in time is told of and kept, once, with what holds it up, and goes on. Method: three
/// hours of work before it; the process is killed before and after the moment.
#[tokio::test]
async fn a_task_that_misses_its_sla_is_told_of_once() {
    let told = Told::default();
    let sim = Sim::new([with_sla(&told)]).takes::<work>(hours(3)).start("2026-03-02T00:00Z").await;
    sim.advance(mins(119)).await;
    assert_eq!(told.lines(), [""; 0]);
    sim.kill().await;
    sim.advance(mins(1)).await;
    let line = format!(
        "02T02:00 {FIRST} load sla_miss | `load` had not succeeded by 2026-03-02T02:00:00Z: `work` is running, \
         `load` is none"
    );
    assert_eq!(told.lines(), std::slice::from_ref(&line));
    sim.kill().await;
    sim.advance(hours(20)).await;
    assert_eq!(sim.run("d", FIRST).state(), RunState::Success);
    assert_eq!(told.lines(), [line], "once");
    let missed = sim.missed_deadlines();
    assert_eq!(missed.len(), 1);
    assert_eq!((missed[0].task_id(), missed[0].run.run_id.as_str()), (Some("load".into()), FIRST));
}

#[tokio::test]
async fn a_task_that_keeps_its_sla_or_is_skipped_is_told_of_to_nobody() {
    let told = Told::default();
    let skipped = DagDef::new("s").schedule("@daily").start_date("2026-03-01").define(|d| {
        d.add(work::call().sla(hours(2)));
    });
    let sim = Sim::new([with_sla(&told), told.on_sla_miss(skipped)]).takes::<work>(mins(90));
    let sim = sim.start("2026-03-02T00:00Z").await;
    sim.fail_next::<work>(TaskError::skip("nothing to do"));
    sim.advance(days(2)).await;
    assert_eq!(told.lines(), [""; 0]);
    assert_eq!(sim.missed_deadlines(), []);
}

/// Goal: only runs of the schedule have to keep an SLA; without a schedule there is none, and nothing breaks.
#[tokio::test]
async fn runs_made_by_hand_have_no_sla() {
    let told = Told::default();
    let manual = DagDef::new("m").define(|d| {
        d.add(work::call().sla(mins(1)));
    });
    let sim = Sim::new([told.on_sla_miss(manual)]).takes::<work>(hours(5)).start("2026-03-02T00:00Z").await;
    sim.trigger("m").await.unwrap();
    sim.advance(hours(12)).await;
    assert_eq!(told.lines(), [""; 0]);
}

/// Goal: the average of the runs before counts, fixed when a run is queued. Method: three runs of an hour, then one of four;
/// the first runs have nothing to be measured by.
#[tokio::test]
async fn a_deadline_may_count_from_the_average_of_the_runs_before() {
    let told = Told::default();
    let dag = daily(&told, DeadlineAlert::after_average_runtime(mins(30)).of_runs(2, 3));
    let sim = Sim::new([dag]).takes::<work>(hours(1)).start("2026-03-02T00:00Z").await;
    sim.advance(hours(60)).await;
    assert_eq!((sim.runs("d").len(), told.lines()), (3, vec![]));
    sim.takes::<work>(hours(4));
    sim.advance(hours(20)).await;
    let fourth = "scheduled__2026-03-04T00:00:00+00:00";
    let line =
        format!("05T01:30 {fourth} deadline | the deadline `deadline_1` was over at 2026-03-05T01:30:00Z");
    assert_eq!(told.lines(), [line]);
    // Two of one hour and one of four: two hours, and half an hour more.
    sim.advance(hours(24)).await;
    assert_eq!(told.lines().len(), 2);
    assert!(told.lines()[1].starts_with("06T02:30 scheduled__2026-03-05"), "{:?}", told.lines());
}

#[test]
fn mistakes_in_slas_are_named() {
    let dag = DagDef::new("d").schedule("@daily").define(|d| {
        d.add(Empty::new().id("a").sla(secs(0)));
    });
    let told = Told::default();
    let dag = dag
        .deadline(told.alert(DeadlineAlert::after_queued(mins(1)).named("sla:a")))
        .deadline(told.alert(DeadlineAlert::after_average_runtime(mins(1)).of_runs(3, 2)));
    let error = dag.compile().unwrap_err().to_string();
    for part in [
        "`sla` of task `a`: zero is over before the run begins",
        "the name `sla:a` begins as that of the `sla` of a task does",
        "`deadline_2` takes the average of 3 to 2 runs",
    ] {
        assert!(error.contains(part), "{part}\n{error}");
    }
}

#[test]
fn mistakes_in_deadlines_are_all_named() {
    let nobody = DeadlineAlert::after_queued(mins(1));
    let told = Told::default();
    let dag = one_task("d")
        .deadline(nobody.named("a"))
        .deadline(told.alert(DeadlineAlert::after_queued(secs(0))).named("a"))
        .deadline(told.alert(DeadlineAlert::at("tomorrow")));
    let error = dag.compile().unwrap_err().to_string();
    for part in [
        "`deadline` of dag `d`: `a` tells nobody; add `.call(..)`",
        "`a` is over before the run begins",
        "two are called `a`; give one of them another `.named(..)`",
        "`deadline_3`: `tomorrow`",
    ] {
        assert!(error.contains(part), "{part}\n{error}");
    }
}

/// Goal: a deadline survives the end of all processes, and is told of once by those that come later. Method: a run made
/// by a program that never works; the programs after it on the same file.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_deadline_survives_a_restart() {
    use airflow::store::SqliteStore;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let (send, mut late) = tokio::sync::mpsc::unbounded_channel();
    let open = async || {
        let send = send.clone();
        let alert = DeadlineAlert::after_queued(std::time::Duration::from_millis(1)).call(
            move |_: CallbackContext| {
                send.send(()).unwrap();
                std::future::ready(())
            },
        );
        let store = SqliteStore::open(path.to_str().unwrap()).await.unwrap();
        let dag = DagDef::new("d").deadline(alert).define(|d| {
            d.add(broken::call());
        });
        let builder = Airflow::builder().store(store).executor(LocalExecutor::new(1)).dag(dag);
        builder.build().await.unwrap()
    };
    let before = open().await;
    before.sync_dags().await.unwrap();
    let run = before.trigger("d").await.unwrap();
    drop(before);

    for _ in 0..2 {
        let airflow = open().await;
        let running = airflow.start();
        airflow.wait(&run).await.unwrap();
        running.stop(secs(10)).await.unwrap();
    }
    late.recv().await.unwrap();
    assert!(late.try_recv().is_err(), "it is told of once");
}
