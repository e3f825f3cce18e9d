//! The sensors and operators that come along.

use airflow::prelude::*;
use chrono::{NaiveTime, Weekday};

use crate::tasks::*;

fn minutes(run: &airflow::testing::TestRun) -> i64 {
    let row = run.run();
    (row.ended_at.unwrap() - row.started_at.unwrap()).num_minutes()
}

/// A dag in Paris of one task.
fn paris<S: airflow::dag::IntoSpec>(task: S) -> DagDef {
    DagDef::new("d").timezone("Europe/Paris").define(|d| {
        d.add(task);
    })
}

/// Goal: each sensor of time is ready at its moment to the second, in every mode and in the zone of its dag. Method: runs
/// that begin on 2026-03-02 at 00:00 UTC, which is 01:00 in Paris.
#[tokio::test]
async fn sensors_of_time_are_ready_at_their_moment() {
    let six = NaiveTime::from_hms_opt(6, 0, 0).unwrap();
    let tuesday = || DayOfWeekSensor::any([Weekday::Tue]).poke_every(hours(1));
    let monday = || DayOfWeekSensor::any([Weekday::Mon]).use_logical_date();
    for mode in SensorMode::ALL {
        let mode = *mode;
        let dags = [
            (paris(TimeSensor::at(six).mode(mode)), 5 * 60),
            (paris(TimeSensor::at(six).timezone(chrono_tz::Tz::UTC).mode(mode)), 6 * 60),
            (paris(TimeSensor::at(NaiveTime::MIN).mode(mode)), 0),
            (paris(DateTimeSensor::until("2026-03-02T18:30").mode(mode)), 17 * 60 + 30),
            (paris(DateTimeSensor::until("{{ ds }}T18:30Z").mode(mode)), 18 * 60 + 30),
            (paris(DateTimeSensor::until("{{ data_interval_end }}").mode(mode)), 0),
            (paris(TimeDeltaSensor::after_interval(mins(7)).mode(mode)), 7),
            (paris(WaitSensor::of(mins(90)).mode(mode)), 90),
            (paris(tuesday().mode(mode)), 23 * 60),
            (paris(monday().mode(mode)), 0),
        ];
        for (index, (dag, expected)) in dags.into_iter().enumerate() {
            let run = DagTest::new(dag).at("2026-03-02T00:00Z").run().await;
            run.assert_success();
            assert_eq!(minutes(&run), expected, "{mode}: sensor {index}");
        }
    }
    let run = DagTest::new(paris(DateTimeSensor::until("tomorrow").retries(3))).at("2026-03-02").run().await;
    assert_eq!(run.tries_of::<DateTimeSensor>(), 1);
    assert!(
        run.reason_of_id("date_time_sensor").unwrap().starts_with("`tomorrow` is no moment in Europe/Paris")
    );
}

/// Goal: a file that comes while the sensor waits is found, and its path handed on.
#[tokio::test]
async fn a_file_is_found_when_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let pattern = format!("{}/{{{{ ds }}}}/*.csv", folder.path().display());
    let dag = DagDef::new("d").define(|d| {
        d.add(FileSensor::new(pattern).poke_every(mins(1)).timeout(hours(2)).reschedule());
    });
    let sim = Sim::new([dag]).start("2026-03-02").await;
    let run = sim.trigger("d").logical_date("2026-03-02T00:00:00Z".parse().unwrap()).await.unwrap();
    sim.advance(mins(30)).await;
    assert_eq!(sim.run("d", run.run_id.as_str()).state_of::<FileSensor>(), TaskState::UpForReschedule);
    let path = folder.path().join("2026-03-02/orders.csv");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "id\n").unwrap();
    sim.advance(mins(1)).await;
    let run = sim.run("d", run.run_id.as_str());
    run.assert_success();
    assert_eq!(run.output::<FileSensor>(), Some(path.display().to_string()));
}

fn sales() -> DagDef {
    DagDef::new("sales").schedule("0 6 * * *").start_date("2026-03-01").define(|d| {
        let load = d.add(work::call().id("load"));
        d.group("checks", |d| {
            d.order(load >> d.add(work::call().id("rows")));
            d.order(load >> d.add(work::call().id("sums")));
        });
    })
}

fn report(sensor: impl Fn() -> ExternalTaskSensor + 'static) -> DagDef {
    DagDef::new("report").schedule("0 6 * * *").start_date("2026-03-01").define(|d| {
        let wait = d.add(sensor().id("wait").poke_every(mins(1)).timeout(hours(3)).deferred());
        d.order(wait >> d.add(Empty::new().id("go")));
    })
}

/// The state of the sensor, and how many minutes after six o'clock its run ended.
async fn waited(
    sensor: impl Fn() -> ExternalTaskSensor + 'static,
    setup: impl Fn(airflow::testing::SimBuilder) -> airflow::testing::SimBuilder,
) -> (TaskState, i64, Option<String>) {
    let sim = setup(Sim::new([sales(), report(sensor)])).start("2026-03-01T12:00Z").await;
    sim.advance(hours(24)).await;
    let run = sim.runs("report").last().unwrap().clone();
    let row = run.row().clone();
    let ended = (row.ended_at.unwrap() - row.started_at.unwrap()).num_minutes();
    (run.state_of_id("wait"), ended, run.reason_of_id("wait").map(str::to_owned))
}

/// Goal: tasks, groups and runs of another dag are waited for by their logical date.
#[tokio::test]
async fn another_dag_is_waited_for() {
    let slow = |sim: airflow::testing::SimBuilder| {
        sim.takes_id("load", secs(1230)).takes_id("checks.sums", mins(10))
    };
    let cases: [(fn() -> ExternalTaskSensor, i64); 4] = [
        (|| ExternalTaskSensor::task("sales", "load"), 21),
        (|| ExternalTaskSensor::task("sales", "checks.rows").and("load"), 21),
        (|| ExternalTaskSensor::task("sales", "checks"), 31),
        (|| ExternalTaskSensor::dag("sales"), 31),
    ];
    for (index, (sensor, expected)) in cases.into_iter().enumerate() {
        let (state, ended, _) = waited(sensor, slow).await;
        assert_eq!((state, ended), (TaskState::Success, expected), "case {index}");
    }
}

/// Goal: failures, skips, other dates and missing tasks mean what they are said to mean.
#[tokio::test]
async fn the_states_of_another_dag_decide() {
    type T = TaskState;
    let ok = |sim: airflow::testing::SimBuilder| sim;
    let broken = |sim: airflow::testing::SimBuilder| sim.fail_id("load", 1);
    let load = || ExternalTaskSensor::task("sales", "load");
    let (state, ended, _) = waited(load, broken).await;
    assert_eq!(
        (state, ended),
        (T::Failed, 180),
        "it does not fail with the other, it waits until its timeout"
    );
    let (state, ended, why) = waited(move || load().failed_states([T::Failed]), broken).await;
    assert_eq!((state, ended), (T::Failed, 0));
    assert!(why.unwrap().starts_with("`load` of dag `sales` failed in the run `scheduled__2026-03-01T06"));
    let (state, _, _) = waited(move || load().skipped_states([T::Failed]), broken).await;
    assert_eq!(state, T::Skipped);
    let (state, _, _) = waited(move || load().allowed_states([T::Success, T::Failed]), broken).await;
    assert_eq!(state, T::Success);
    let (state, _, why) = waited(move || load().failed_states([T::Success]), ok).await;
    assert_eq!(state, T::Failed);
    assert!(why.unwrap().starts_with("a state is in two of"));
    let (state, _, why) = waited(|| ExternalTaskSensor::dag("stock").check_existence(true), ok).await;
    assert_eq!((state, why.as_deref()), (T::Failed, Some("the external dag `stock` does not exist")));
    let (state, _, why) = waited(|| ExternalTaskSensor::task("sales", "lod").check_existence(true), ok).await;
    assert_eq!(state, T::Failed);
    assert_eq!(why.as_deref(), Some("the external dag `sales` has no task or group `lod`"));
    let (state, _, _) = waited(move || load().execution_delta(hours(24)), ok).await;
    assert_eq!(state, T::Failed, "the day before has no run");
    let both = move || load().execution_date_fn(|date| vec![date, date - chrono::TimeDelta::hours(24)]);
    let (state, _, _) = waited(both, ok).await;
    assert_eq!(state, T::Failed, "one of two has no run");
}

fn child() -> DagDef {
    DagDef::new("child").define(|d| {
        d.add(conf::call());
    })
}

fn parent(task: TriggerDagRun) -> DagDef {
    DagDef::new("parent").define(|d| {
        let made = d.add(task.retries(2).retry_delay(mins(1)).id("make"));
        d.order(made >> d.add(Empty::new().id("after")));
    })
}

fn day() -> TriggerDagRun {
    TriggerDagRun::new("child").conf(&serde_json::json!({ "day": "{{ ds }}", "n": 1 }))
}

async fn start(sim: &Sim) -> String {
    let date = "2026-03-02T00:00:00Z".parse().unwrap();
    sim.trigger("parent").logical_date(date).await.unwrap().run_id.to_string()
}

/// Goal: the other dag runs with the rendered conf, and its end is waited for without a slot.
#[tokio::test]
async fn another_dag_is_run_and_waited_for() {
    for (wait, ended) in [(false, 0), (true, 25)] {
        let dag = parent(day().wait_for_completion(wait).poke_interval(mins(5)));
        let sim = Sim::new([dag, child()]).slots(1).takes_id("conf", mins(22)).start("2026-03-02").await;
        let run = start(&sim).await;
        sim.advance(mins(60)).await;
        let run = sim.run("parent", &run);
        run.assert_success();
        assert_eq!(minutes(&run), ended);
        let children = sim.runs("child");
        assert_eq!(children.ids(), [run.output::<TriggerDagRun>().unwrap()]);
        assert!(
            children.ids()[0].starts_with("triggered__2026-03-02T00:00:00+00:00__"),
            "{:?}",
            children.ids()
        );
        let expected = serde_json::json!({ "day": "2026-03-02", "n": 1 });
        assert_eq!(children[0].output::<conf>(), Some(expected));
    }
}

/// Goal: tries after the first, and processes after the first, make no second run; a clear does. Method: the other dag
/// fails, so the task is tried three times; then the process dies in between.
#[tokio::test]
async fn one_run_is_made_whatever_happens() {
    let dag = parent(day().wait_for_completion(true));
    let sim = Sim::new([dag, child()]).fail_id("conf", 9).takes_id("conf", mins(3)).start("2026-03-02").await;
    let run = start(&sim).await;
    sim.advance(mins(1)).await;
    sim.kill().await;
    sim.advance(mins(30)).await;
    let report = sim.run("parent", &run);
    assert_eq!(
        (report.state_of::<TriggerDagRun>(), report.tries_of::<TriggerDagRun>()),
        (TaskState::Failed, 3)
    );
    assert!(report.reason_of_id("make").unwrap().ends_with("of dag `child` ended as failed"));
    assert_eq!(sim.runs("child").len(), 1);
    sim.clear("parent", &run, &["make"]).await;
    sim.advance(mins(30)).await;
    assert_eq!(sim.runs("child").len(), 2);
}

/// Goal: a run that somebody else made under this id is an error, skipped, or run again, as is said.
#[tokio::test]
async fn a_run_of_somebody_else_is_respected() {
    for (task, state, times) in [
        (day().run_id("mine"), TaskState::Failed, 1),
        (day().run_id("mine").skip_when_already_exists(true), TaskState::Skipped, 1),
        (day().run_id("mine").reset_dag_run(true), TaskState::Success, 2),
    ] {
        let sim = Sim::new([parent(task), child()]).start("2026-03-02").await;
        sim.trigger("child").run_id("mine").await.unwrap();
        sim.advance(mins(1)).await;
        let run = start(&sim).await;
        sim.advance(mins(10)).await;
        assert_eq!(sim.run("parent", &run).state_of::<TriggerDagRun>(), state);
        let begun = sim.run("child", "mine").events().iter().filter(|e| e.to == TaskState::Running).count();
        assert_eq!((sim.runs("child").len(), begun), (1, times), "{state}");
    }
}

/// Goal: mistakes that no retry heals fail at once, with words that help.
#[tokio::test]
async fn a_run_that_cannot_be_made_fails_at_once() {
    let paused = || {
        DagDef::new("child").paused_at_creation(true).define(|d| {
            d.add(work::call());
        })
    };
    for (task, why) in [
        (TriggerDagRun::new("childs"), "there is no dag `childs`; did you mean `child`?"),
        (day().run_id("scheduled__x"), "`scheduled__x` cannot be the id of a manual run"),
        (day().logical_date("soon"), "`soon` is no moment in UTC"),
        (day().fail_when_dag_is_paused(true), "dag `child` is paused"),
    ] {
        let sim = Sim::new([parent(task), paused()]).start("2026-03-02").await;
        let run = start(&sim).await;
        sim.advance(mins(10)).await;
        let run = sim.run("parent", &run);
        assert_eq!(run.tries_of::<TriggerDagRun>(), 1, "{why}");
        assert!(run.reason_of_id("make").unwrap().starts_with(why), "{:?}", run.reason_of_id("make"));
    }
}
