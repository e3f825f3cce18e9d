//! `Sim`: schedules over days, what users do meanwhile, and processes that die.

use std::sync::{Arc, Mutex};

use airflow::app::Mark;
use airflow::prelude::*;
use airflow::state::{RunState, TaskState};
use airflow::timetable::{Cron, Events};

use crate::tasks::*;

fn daily(id: &str) -> DagDef {
    one_task(id).schedule("0 6 * * *").start_date("2026-03-01")
}

fn states(sim: &Sim, dag: &str) -> Vec<String> {
    sim.runs(dag).states().iter().map(ToString::to_string).collect()
}

/// Goal: the example of the documentation holds. Method: clocks in Paris go forward on 29 March.
#[tokio::test]
async fn the_week_of_the_clock_change_has_one_run_a_day() {
    let sim = Sim::new([sales()])
        .resource(Rates(1))
        .mock::<extract>(|_| Ok(Vec::new()))
        .start("2026-03-27T00:00Z")
        .await;
    sim.advance(days(4)).await;
    let runs = sim.runs("sales");
    assert_eq!(
        runs.local_times(),
        ["03-26 06:00", "03-27 06:00", "03-28 06:00", "03-29 06:00", "03-30 06:00"]
    );
    assert!(runs.states().iter().all(|state| *state == RunState::Success));
    sim.assert_idle();
    assert!(sim.graph("sales").contains("extract"));
}

#[tokio::test]
async fn both_clock_changes_fire_once_a_day_in_both_zones() {
    for (zone, from, days_of) in [
        ("Europe/Paris", "2026-03-27T00:00+01:00", ["03-27", "03-28", "03-29", "03-30"]),
        ("Europe/Paris", "2026-10-23T00:00+02:00", ["10-23", "10-24", "10-25", "10-26"]),
        ("America/New_York", "2026-03-06T00:00-05:00", ["03-06", "03-07", "03-08", "03-09"]),
        ("America/New_York", "2026-10-30T00:00-04:00", ["10-30", "10-31", "11-01", "11-02"]),
    ] {
        let dag =
            one_task("d").timezone(zone).start_date("2026-01-01").schedule(Cron::new("30 2 * * *").trigger());
        let sim = Sim::new([dag]).start(from).await;
        sim.advance(days(4)).await;
        let fired = sim.runs("d").local_times();
        // 02:30 does not exist on the day on which clocks go forward: it becomes 03:30.
        let time = |day: &str| if matches!(day, "03-29" | "03-08") { "03:30" } else { "02:30" };
        let expected: Vec<String> = days_of.iter().map(|day| format!("{day} {}", time(day))).collect();
        let fired: Vec<&String> = fired.iter().filter(|at| at[..5] >= *days_of[0]).collect();
        assert_eq!(fired, expected.iter().collect::<Vec<_>>(), "{zone} {from}");
    }
}

#[tokio::test]
async fn catch_up_makes_up_for_every_missed_run_and_else_only_the_last() {
    for (catchup, expected) in [(true, 10), (false, 1)] {
        let sim = Sim::new([daily("d").catchup(catchup)]).start("2026-03-11T12:00Z").await;
        sim.settle().await;
        assert_eq!(sim.runs("d").len(), expected, "catchup {catchup}");
        sim.advance(days(2)).await;
        assert_eq!(sim.runs("d").len(), expected + 2, "catchup {catchup}");
        sim.assert_idle();
    }
}

#[tokio::test]
async fn no_more_runs_are_active_than_allowed() {
    let dag = daily("d").catchup(true).max_active_runs(2);
    let sim = Sim::new([dag]).takes::<work>(hours(1)).start("2026-03-06T12:00Z").await;
    sim.settle().await;
    assert_eq!(states(&sim, "d"), ["running", "running"]);
    sim.advance(hours(1)).await;
    assert_eq!(states(&sim, "d"), ["success", "success", "running", "running"]);
    sim.advance(hours(2)).await;
    assert_eq!(states(&sim, "d"), ["success"; 5]);
    let starts: Vec<_> = sim.runs("d").iter().map(|run| run.row().started_at.unwrap()).collect();
    assert!(starts.is_sorted());
}

#[tokio::test]
async fn depends_on_past_waits_for_the_run_before() {
    let dag = DagDef::new("d").schedule("@daily").start_date("2026-03-01").catchup(true).define(|d| {
        d.add(work::call().depends_on_past(true));
    });
    let sim = Sim::new([dag]).start("2026-03-03T00:00Z").await;
    sim.fail_next::<work>(TaskError::fail("no"));
    sim.advance(days(2)).await;
    assert_eq!(states(&sim, "d"), ["failed", "running", "running", "running"]);
    assert!(sim.states("d", "scheduled__2026-03-02T00:00:00+00:00").contains("`work` of the run before"));
    sim.mark("d", "scheduled__2026-03-01T00:00:00+00:00", &["work"], Mark::Success).await;
    assert_eq!(states(&sim, "d"), ["success"; 4]);
    sim.assert_idle();
}

#[tokio::test]
async fn wait_for_downstream_waits_for_what_followed_in_the_run_before() {
    let dag = DagDef::new("d").schedule("@daily").start_date("2026-03-01").catchup(true).define(|d| {
        let first = d.add(work::call().id("first").wait_for_downstream(true));
        d.order(first >> d.add(work::call().id("second")));
    });
    let sim = Sim::new([dag]).takes_id("second", hours(30)).start("2026-03-01T00:00Z").await;
    sim.advance_to("2026-03-03T01:00Z").await;
    let second_run = || sim.run("d", "scheduled__2026-03-02T00:00:00+00:00");
    assert_eq!(second_run().state_of_id("first"), TaskState::None);
    sim.advance_to("2026-03-03T06:00Z").await;
    assert_eq!(second_run().state_of_id("first"), TaskState::Success);
    let began = second_run().events()[0].at;
    assert_eq!(began.to_rfc3339(), "2026-03-03T06:00:00+00:00");
}

#[tokio::test]
async fn a_paused_dag_makes_no_runs_and_goes_on_where_it_should() {
    let sim = Sim::new([daily("d").catchup(false)]).start("2026-03-10T12:00Z").await;
    sim.advance(days(1)).await;
    sim.pause("d").await;
    let before = sim.runs("d").len();
    sim.advance(days(5)).await;
    assert_eq!(sim.runs("d").len(), before);
    sim.unpause("d").await;
    assert_eq!(sim.runs("d").len(), before + 1, "only the last of the missed runs is made");
    sim.advance(days(1)).await;
    assert_eq!(sim.runs("d").len(), before + 2);
}

#[tokio::test]
async fn a_triggered_run_has_its_conf() {
    let dag = DagDef::new("d").define(|d| {
        d.add(conf::call());
    });
    let sim = Sim::new([dag]).start("2026-03-10T12:00Z").await;
    let run = sim.trigger("d").conf(&serde_json::json!({"n": 1})).await.unwrap();
    assert_eq!(run.run_id.as_str(), "manual__2026-03-10T12:00:00+00:00");
    sim.settle().await;
    let output = sim.run("d", run.run_id.as_str()).output::<conf>();
    assert_eq!(output, Some(serde_json::json!({"n": 1})));
}

#[tokio::test]
async fn once_continuous_and_events_fire_as_they_say() {
    let once = one_task("once").schedule("@once").start_date("2026-03-01");
    let continuous = DagDef::new("continuous")
        .schedule("@continuous")
        .start_date("2026-03-10T12:00")
        .max_active_runs(1)
        .define(|d| {
            d.add(work::call().id("long"));
        });
    let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let events = one_task("events")
        .schedule(Events::new([
            at("2026-03-10T13:00:00Z"),
            at("2026-03-10T15:30:00Z"),
            at("2026-04-01T00:00:00Z"),
        ]))
        .start_date("2026-03-01");
    let sim =
        Sim::new([once, continuous, events]).takes_id("long", mins(90)).start("2026-03-10T12:00Z").await;
    sim.advance(hours(6)).await;
    assert_eq!(sim.runs("once").len(), 1);
    assert_eq!(sim.runs("events").local_times(), ["03-10 13:00", "03-10 15:30"]);
    let times = sim.runs("continuous").local_times();
    assert_eq!(times, ["03-10 12:00", "03-10 13:30", "03-10 15:00", "03-10 16:30", "03-10 18:00"]);
}

/// Goal: a timetable for which no time passes does not keep the scheduler busy for ever.
#[tokio::test]
async fn a_continuous_dag_whose_tasks_take_no_time_comes_to_rest() {
    let dag = one_task("d").schedule("@continuous").start_date("2026-03-10").max_active_runs(1);
    let sim = Sim::new([dag]).start("2026-03-10T12:00Z").await;
    sim.advance(secs(10)).await;
    let runs = sim.runs("d").len();
    assert!((2..=22).contains(&runs), "{runs} runs in ten seconds");
}

#[tokio::test]
async fn clearing_runs_a_task_and_what_follows_again() {
    let dag = DagDef::new("d").schedule("@daily").start_date("2026-03-01").define(|d| {
        let (a, b) = (d.add(work::call().id("a")), d.add(work::call().id("b")));
        d.order(a >> b >> d.add(work::call().id("c")));
    });
    let sim = Sim::new([dag]).fail_id("b", 1).start("2026-03-01T00:00Z").await;
    sim.advance(days(1)).await;
    let id = sim.runs("d").ids().remove(0);
    assert_eq!(states(&sim, "d")[0], "failed");
    let cleared = sim.clear("d", &id, &["b"]).await;
    assert_eq!(cleared.len(), 2);
    sim.run("d", &id).assert_success();
    let run = sim.run("d", &id);
    assert_eq!(["a", "b", "c"].map(|task| run.tries_of_id(task)), [1, 2, 1]);
    assert_eq!(run.started(), ["a", "b", "b", "c"]);
}

#[tokio::test]
async fn clearing_a_running_task_stops_it_and_starts_it_again() {
    let sim = Sim::new([one_task("d")]).takes::<work>(hours(1)).start("2026-03-01T00:00Z").await;
    let run = sim.trigger("d").await.unwrap();
    sim.advance(mins(30)).await;
    sim.clear("d", run.run_id.as_str(), &[]).await;
    sim.advance(mins(45)).await;
    assert_eq!(states(&sim, "d"), ["running"], "the second attempt has taken 45 minutes so far");
    sim.advance(mins(15)).await;
    sim.run("d", run.run_id.as_str()).assert_success();
}

#[tokio::test]
async fn marking_a_running_task_stops_it_and_its_report_no_longer_counts() {
    for (mark, expected) in [(Mark::Success, "success"), (Mark::Failed, "failed"), (Mark::Skipped, "success")]
    {
        let sim = Sim::new([one_task("d")]).takes::<work>(hours(1)).start("2026-03-01T00:00Z").await;
        let run = sim.trigger("d").await.unwrap();
        sim.advance(mins(30)).await;
        sim.mark("d", run.run_id.as_str(), &["work"], mark).await;
        assert_eq!(states(&sim, "d"), [expected]);
        sim.advance(hours(2)).await;
        assert_eq!(states(&sim, "d"), [expected]);
        sim.assert_idle();
    }
}

/// Goal: a crash costs no retry, and a task that crashes its process again and again is given up.
#[tokio::test]
async fn a_lost_attempt_costs_no_retry_and_the_third_is_given_up() {
    let sim = Sim::new([one_task("d")]).takes::<work>(hours(1)).start("2026-03-01T00:00Z").await;
    let run = sim.trigger("d").await.unwrap();
    let id = run.run_id.as_str();
    for lost in 1..=2 {
        sim.advance(mins(10)).await;
        sim.kill().await;
        sim.settle().await;
        let now = sim.run("d", id);
        assert_eq!((now.state_of::<work>(), now.tries_of::<work>()), (TaskState::Running, 1), "lost {lost}");
    }
    sim.advance(mins(10)).await;
    sim.kill().await;
    sim.settle().await;
    sim.run("d", id).assert_failed();
    assert!(sim.states("d", id).contains("worker_lost: the process that ran it died 3 times"));
    sim.assert_idle();
    let slots = sim.airflow().store().slots().await.unwrap();
    assert_eq!(slots, [], "a dead attempt holds no slot");
}

#[tokio::test]
async fn what_waited_when_the_process_died_goes_on() {
    let dag = DagDef::new("d").define(|d| {
        d.add(work::call().id("retried").retries(1).retry_delay(hours(1)));
        let first = d.add(work::call().id("first"));
        d.order(first >> d.add(work::call().id("second")));
    });
    let sim = Sim::new([dag])
        .fail_id("retried", 1)
        .takes_id("first", mins(5))
        .slots(1)
        .start("2026-03-01T00:00Z")
        .await;
    let run = sim.trigger("d").await.unwrap();
    sim.advance(mins(1)).await;
    sim.kill().await;
    sim.advance(hours(2)).await;
    let run = sim.run("d", run.run_id.as_str());
    run.assert_success();
    assert_eq!(run.tries_of_id("retried"), 2);
    assert_eq!(run.tries_of_id("first"), 1);
}

#[tokio::test]
async fn a_dag_that_keeps_failing_pauses_itself() {
    let dag = daily("d").catchup(true).max_consecutive_failed_dag_runs(3).max_active_runs(1);
    let sim = Sim::new([dag]).start("2026-03-01T00:00Z").await;
    sim.fail_next_n::<work>(2, "down");
    sim.advance(days(4)).await;
    sim.fail_next_n::<work>(9, "down");
    sim.advance(days(10)).await;
    let failed = states(&sim, "d").iter().filter(|state| *state == "failed").count();
    assert_eq!(failed, 5, "{:?}", states(&sim, "d"));
    assert_eq!(states(&sim, "d").last().map(String::as_str), Some("failed"));
    assert!(sim.airflow().store().dag(&"d".into()).await.unwrap().unwrap().is_paused);
}

/// Goal: every callback is called once, with the right event, try and reason.
#[tokio::test]
async fn callbacks_are_called_once_each() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let note = |calls: &Arc<Mutex<Vec<String>>>| {
        let calls = Arc::clone(calls);
        move |cx: CallbackContext| {
            let task = cx.task_id.map_or("run".into(), |task| task.to_string());
            let reason = cx.reason.unwrap_or_default();
            calls.lock().unwrap().push(format!("{task} {} {} {reason}", cx.event, cx.try_number));
            async {}
        }
    };
    let options = |task: airflow::dag::Spec<work>| {
        task.retries(1)
            .on_execute(note(&calls))
            .on_success(note(&calls))
            .on_failure(note(&calls))
            .on_retry(note(&calls))
            .on_skipped(note(&calls))
    };
    let dag = DagDef::new("d").on_success(note(&calls)).on_failure(note(&calls)).define(|d| {
        let first = d.add(options(work::call().id("good")));
        let second = d.add(options(work::call().id("bad")));
        let third = d.add(options(work::call().id("never")));
        d.order(first >> second >> third);
    });
    let run = DagTest::new(dag).fail_id("bad", 2).fail_id("good", 1).run().await;
    run.assert_failed();
    assert_eq!(
        *calls.lock().unwrap(),
        [
            "good execute 1 ",
            "good retry 1 the test lets try 1 of 1 fail",
            "good execute 2 ",
            "good success 2 ",
            "bad execute 1 ",
            "bad retry 1 the test lets try 1 of 2 fail",
            "bad execute 2 ",
            "bad failure 2 the test lets try 2 of 2 fail",
            "run failure 0 task_failure",
        ]
    );
}

/// Goal: the same simulation takes the same course. Method: compare the traces of two.
#[tokio::test]
async fn the_same_simulation_gives_the_same_trace() {
    async fn trace() -> String {
        let sim = Sim::new([sales(), daily("d").catchup(true)])
            .resource(Rates(1))
            .mock::<extract>(|_| Ok(vec![Order { id: 1, cents: 1 }, Order { id: 2, cents: 2 }]))
            .takes::<price>(mins(3))
            .slots(2)
            .start("2026-03-10T00:00Z")
            .await;
        sim.fail_next::<price>(TaskError::msg("rates down"));
        sim.advance(hours(7)).await;
        sim.kill().await;
        sim.advance(days(2)).await;
        sim.assert_idle();
        sim.trace()
    }
    let first = trace().await;
    assert!(first.lines().count() > 50, "{first}");
    assert_eq!(first, trace().await);
}

/// Goal: a long simulation stays quick. The time is printed, not judged: machines differ.
#[tokio::test]
async fn four_hundred_days_pass() {
    let begun = std::time::Instant::now();
    let sim = Sim::new([daily("d").catchup(true)]).start("2026-03-01T00:00Z").await;
    sim.advance(days(400)).await;
    let advanced = begun.elapsed();
    assert_eq!(sim.runs("d").len(), 399);
    sim.assert_idle();
    println!("400 days: {advanced:?}, with the report {:?}", begun.elapsed());
}
