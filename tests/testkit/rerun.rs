//! Running again what was there: backfills over dates that have runs, and clears of a part of a run.

use std::collections::BTreeMap;

use airflow::app::{BackfillOptions, BackfillOutcome, ClearOptions, Mark, Reprocess, Selection};
use airflow::prelude::*;
use airflow::state::RunState;

use crate::tasks::*;

/// `a` before `b` before `c`, each day.
fn daily() -> DagDef {
    DagDef::new("d").schedule("@daily").start_date("2026-03-01").catchup(true).define(|d| {
        let [a, b, c] = ["a", "b", "c"].map(|id| d.add(work::call().id(id)));
        d.order(a >> b >> c);
    })
}

fn run_of(day: u32) -> String {
    format!("scheduled__2026-03-0{day}T00:00:00+00:00")
}

/// Four days of runs: the first and third succeed, `b` of the second fails, the fourth still runs.
async fn four_days() -> Sim {
    let sim = Sim::new([daily()]).start("2026-03-02T00:00Z").await;
    sim.settle().await;
    sim.mock::<work>(|cx| if cx.task_id() == "b" { Err(TaskError::fail("no")) } else { Ok(()) });
    sim.advance(days(1)).await;
    sim.mock::<work>(|_| Ok(()));
    sim.advance(days(1)).await;
    sim.takes::<work>(days(30));
    sim.advance(days(1)).await;
    let states: Vec<String> = sim.runs("d").states().iter().map(ToString::to_string).collect();
    assert_eq!(states, ["success", "failed", "success", "running"]);
    sim.takes::<work>(mins(1));
    sim
}

/// How often each task of a run was begun.
fn begun(sim: &Sim, run: &str) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for event in sim.run("d", run).events().iter().filter(|event| event.to == TaskState::Running) {
        *all.entry(event.task_id.to_string()).or_default() += 1;
    }
    all
}

fn times(a: usize, b: usize, c: usize) -> BTreeMap<String, usize> {
    let all = [("a", a), ("b", b), ("c", c)].into_iter().filter(|(_, times)| *times > 0);
    all.map(|(id, times)| (id.to_owned(), times)).collect()
}

async fn backfill(sim: &Sim, reprocess: Reprocess, dry_run: bool) -> Vec<(&'static str, String)> {
    let day = |day: &str| -> DateTime<Utc> { format!("2026-{day}T00:00:00Z").parse().unwrap() };
    let options = BackfillOptions {
        from: day("02-28"),
        to: day("03-04"),
        conf: None,
        run_backwards: false,
        reprocess,
        dry_run,
        actor: "ada".into(),
    };
    let outcomes = sim.airflow().backfill(&"d".into(), &options).await.unwrap();
    let words = outcomes.into_iter().map(|outcome| match outcome {
        BackfillOutcome::New(id) => ("new", id.to_string()),
        BackfillOutcome::Again(id) => ("again", id.to_string()),
        BackfillOutcome::Left(id) => ("left", id.to_string()),
    });
    words.collect()
}

/// Goal: a backfill does with each date that has a run what it was told, and never touches one that runs; what failed
/// runs again from where it failed, what is completed from its beginning. Method: each choice on the same four days and
/// one before them that has no run; count how often each task began.
#[tokio::test]
async fn a_backfill_runs_again_what_it_was_told() {
    let table = [
        (Reprocess::None, ["left", "left", "left"], [times(1, 1, 1), times(1, 1, 0), times(1, 1, 1)]),
        (Reprocess::Failed, ["left", "again", "left"], [times(1, 1, 1), times(1, 2, 1), times(1, 1, 1)]),
        (Reprocess::Completed, ["again"; 3], [times(2, 2, 2), times(2, 2, 1), times(2, 2, 2)]),
    ];
    for (reprocess, expected, after) in table {
        let sim = four_days().await;
        let before: Vec<_> = (1..=4).map(|day| begun(&sim, &run_of(day))).collect();
        let words = |outcomes: &[(&'static str, String)]| -> Vec<&'static str> {
            outcomes.iter().map(|(word, _)| *word).collect()
        };
        let foretold = backfill(&sim, reprocess, true).await;
        sim.advance(mins(10)).await;
        assert_eq!((1..=4).map(|day| begun(&sim, &run_of(day))).collect::<Vec<_>>(), before, "a dry run");
        assert_eq!(sim.runs("d").len(), 4);

        let done = backfill(&sim, reprocess, false).await;
        assert_eq!(done, foretold, "{reprocess:?}");
        assert_eq!(words(&done), [&["new"][..], &expected[..], &["left"][..]].concat(), "{reprocess:?}");
        let ids: Vec<&str> = done[1..].iter().map(|(_, id)| id.as_str()).collect();
        assert_eq!(ids, (1..=4).map(run_of).collect::<Vec<_>>());
        sim.advance(mins(10)).await;
        for (day, after) in (1..).zip(&after) {
            assert_eq!(begun(&sim, &run_of(day)), *after, "{reprocess:?}, day {day}");
        }
        assert_eq!(begun(&sim, &run_of(4)), times(1, 0, 0), "what runs goes on");
        let failed = sim.runs("d").iter().filter(|run| run.state() == RunState::Failed).count();
        assert_eq!(failed, usize::from(reprocess == Reprocess::None), "{reprocess:?}");
    }
}

/// A run with one task in each state that a clear may ask for.
async fn mixed() -> (Sim, String) {
    let dag = DagDef::new("d").define(|d| {
        let good = d.add(work::call().id("good"));
        let bad = d.add(broken::call().id("bad"));
        let after = d.add(work::call().id("after"));
        d.order([good, bad] >> after);
        let before = d.add(work::call().id("before"));
        let runs = d.add(work::call().id("runs"));
        d.order(before >> runs >> d.add(work::call().id("waits")));
        d.add(work::call().id("passed"));
    });
    let sim = Sim::new([dag]).takes_id("runs", hours(2)).start("2026-03-02").await;
    let id = sim.trigger("d").await.unwrap().run_id.to_string();
    sim.advance(mins(1)).await;
    sim.mark("d", &id, &["passed"], Mark::Skipped).await;
    (sim, id)
}

async fn cleared(sim: &Sim, run: &str, options: &ClearOptions) -> Vec<String> {
    let done = sim.airflow().clear(&"d".into(), &run.into(), options, "ada").await.unwrap();
    done.into_iter().map(|one| format!("{} {}", one.task_id, one.was)).collect()
}

/// Goal: a clear takes what its options say and no more. Method: each choice on the same run; what would be cleared is
/// what is cleared, and a dry run clears nothing.
#[tokio::test]
async fn a_clear_takes_what_its_options_say() {
    let of = |tasks: &[&str], upstream, downstream| Selection {
        tasks: tasks.iter().map(|task| (*task).to_owned()).collect(),
        upstream,
        downstream,
        ..Selection::default()
    };
    let all = ClearOptions::default();
    let table: Vec<(ClearOptions, &[&str])> = vec![
        (
            all.clone(),
            &[
                "good success",
                "bad failed",
                "after upstream_failed",
                "before success",
                "runs running",
                "passed skipped",
            ],
        ),
        (ClearOptions { only_failed: true, ..all.clone() }, &["bad failed", "after upstream_failed"]),
        (ClearOptions { only_running: true, ..all.clone() }, &["runs running"]),
        (
            ClearOptions { only_failed: true, only_running: true, ..all.clone() },
            &["bad failed", "after upstream_failed", "runs running"],
        ),
        (
            ClearOptions { select: of(&["runs"], true, false), ..all.clone() },
            &["before success", "runs running"],
        ),
        (
            ClearOptions { select: of(&["good"], false, true), ..all.clone() },
            &["good success", "after upstream_failed"],
        ),
        (
            ClearOptions { select: of(&["after"], true, true), only_failed: true, ..all.clone() },
            &["bad failed", "after upstream_failed"],
        ),
        (
            ClearOptions { select: of(&["before"], false, true), ..all.clone() },
            &["before success", "runs running"],
        ),
        (ClearOptions { select: of(&["waits"], false, false), ..all }, &[]),
    ];
    for (options, expected) in table {
        let (sim, id) = mixed().await;
        let before = sim.states("d", &id);
        let dry = ClearOptions { dry_run: true, ..options.clone() };
        assert_eq!(cleared(&sim, &id, &dry).await, expected, "{options:?}");
        assert_eq!(sim.states("d", &id), before, "a dry run changes nothing");
        assert_eq!(cleared(&sim, &id, &options).await, expected, "{options:?}");
        sim.advance(hours(5)).await;
        let run = sim.run("d", &id);
        assert_eq!((run.state(), run.state_of_id("waits")), (RunState::Failed, TaskState::Success), "{run}");
        let begun = |task: &str| {
            let starts = run.events().iter().filter(|event| event.to == TaskState::Running);
            starts.filter(|event| event.task_id == *task).count()
        };
        for task in ["good", "bad", "before", "runs", "passed"] {
            let again = expected.iter().any(|one| one.split(' ').next() == Some(task));
            assert_eq!(begun(task), 1 + usize::from(again), "{task}, {options:?}");
        }
    }
}
