//! Limits of single tasks, and runs that nothing can get on.

use std::collections::BTreeMap;

use airflow::prelude::*;
use airflow::state::RunState;
use airflow::testing::{SimRun, TestRun};

use crate::tasks::*;

#[task]
async fn each(n: i64) -> Result<i64> {
    Ok(n)
}

/// A dag of one task that is mapped over six elements, each of which takes ten minutes; `free` has no limit.
fn six(options: TaskOptions) -> DagDef {
    DagDef::new("d").schedule("@daily").start_date("2026-03-01").catchup(true).define(|d| {
        let limited = options.clone();
        d.map((0..6).collect::<Vec<i64>>(), |n| each::call(n).id("limited").options(|o| *o = limited));
        d.map(vec![1, 2, 3], |n| each::call(n).id("free"));
    })
}

/// The most instances of a task that execute at once, in these runs together.
fn most_at_once<'r>(runs: impl IntoIterator<Item = &'r TestRun>, task: &str) -> i32 {
    let mut steps: Vec<_> = runs.into_iter().flat_map(TestRun::events).collect();
    steps.retain(|event| event.task_id == *task);
    // What ends at a moment makes room for what begins at it.
    steps.sort_by_key(|event| (event.at, event.to.is_executing()));
    let (mut now, mut most) = (0, 0);
    for event in steps {
        now += i32::from(event.to.is_executing()) - i32::from(event.from.is_executing());
        most = most.max(now);
    }
    assert_eq!(now, 0, "all of them have ended");
    most
}

async fn three_runs(options: TaskOptions) -> Vec<TestRun> {
    let sim = Sim::new([six(options)]).takes::<each>(mins(10)).start("2026-03-04T00:00Z").await;
    sim.advance(hours(4)).await;
    let runs: Vec<TestRun> = sim.runs("d").iter().map(|run: &SimRun| TestRun::clone(run)).collect();
    assert_eq!(runs.len(), 3);
    runs.iter().for_each(TestRun::assert_success);
    runs
}

/// Goal: `max_active_tis_per_dagrun` bounds the instances of one task in each run, and nothing else. Method: three runs
/// at once, a mapping of six with the limit and one of three without it; replay what happened.
#[tokio::test]
async fn a_limit_for_each_run_holds_in_each_run_alone() {
    let runs = three_runs(TaskOptions::new().max_active_tis_per_dagrun(2)).await;
    for run in &runs {
        assert_eq!((most_at_once([run], "limited"), most_at_once([run], "free")), (2, 3), "{run}");
        let took = run.run().ended_at.unwrap() - run.run().started_at.unwrap();
        assert_eq!(took.num_minutes(), 30, "three times two");
    }
    assert_eq!(most_at_once(&runs, "limited"), 6, "no run takes from the limit of another one");
}

/// Goal: `max_active_tis_per_dag` bounds the instances of one task over all runs, is used up, and bounds no other task.
/// Method: as above.
#[tokio::test]
async fn a_limit_for_all_runs_holds_over_all_of_them() {
    let runs = three_runs(TaskOptions::new().max_active_tis_per_dag(4)).await;
    assert_eq!(most_at_once(&runs, "limited"), 4);
    assert_eq!(most_at_once(&runs, "free"), 9);
    let first = runs.iter().map(|run| run.run().started_at.unwrap()).min().unwrap();
    let last = runs.iter().map(|run| run.run().ended_at.unwrap()).max().unwrap();
    assert_eq!((last - first).num_minutes(), 50, "eighteen instances, four at a time");
}

/// Goal: both limits together: the tighter one holds. Method: as above.
#[tokio::test]
async fn of_two_limits_of_a_task_both_hold() {
    let both = TaskOptions::new().max_active_tis_per_dagrun(1).max_active_tis_per_dag(2);
    let runs = three_runs(both).await;
    assert!(runs.iter().all(|run| most_at_once([run], "limited") == 1));
    assert_eq!(most_at_once(&runs, "limited"), 2);
}

/// Where the number of retries is said, strongest first.
const PLACES: [&str; 5] = ["use", "definition", "inner group", "outer group", "dag"];

#[task(retries = 4)]
async fn defined() -> Result<()> {
    Ok(())
}

/// The retries of a task whose places of `mask` say something: each says the number behind it.
fn retries_of(mask: u32) -> u32 {
    let says = |place: usize| mask & (1 << place) != 0;
    let options = |place: usize, retries| {
        let options = TaskOptions::new().pool(format!("pool {place}"));
        if says(place) { options.retries(retries) } else { options }
    };
    let dag = DagDef::new("d").default_args(options(4, 1)).define(|d| {
        d.add_group(TaskGroup::new("outer").default_args(options(3, 2)), |d| {
            d.add_group(TaskGroup::new("inner").default_args(options(2, 3)), |d| {
                let used = |o: &mut TaskOptions| o.retries = says(0).then_some(5);
                if says(1) {
                    d.add(defined::call().id("a").options(used));
                } else {
                    d.add(work::call().id("a").options(used));
                }
            });
        });
    });
    let dag = dag.compile().unwrap();
    assert_eq!(dag.tasks[0].settings.pool, "pool 2", "the innermost group says it");
    dag.tasks[0].settings.retry.retries
}

/// Goal: of all places where an option is written the nearest one counts, whatever the others say. Method: every
/// combination of the five places; each says another number.
#[test]
fn the_nearest_place_of_an_option_counts() {
    for mask in 0..1 << PLACES.len() {
        let strongest = (0..PLACES.len()).find(|place| mask & (1 << place) != 0);
        let expected = strongest.map_or(0, |place| [5, 4, 3, 2, 1][place]);
        let said: Vec<&str> = (0..PLACES.len()).filter(|n| mask & (1 << n) != 0).map(|n| PLACES[n]).collect();
        assert_eq!(retries_of(mask), expected, "said by {said:?}");
    }
}

/// Goal: callbacks come from the nearest place too, each event by itself. Method: the dag and the group say something
/// of the same event, and of different ones.
#[test]
fn callbacks_of_the_nearest_place_count() {
    let nothing = |_: CallbackContext| std::future::ready(());
    let of_dag = TaskOptions::new().on_failure(nothing).on_retry(nothing);
    let of_group = TaskOptions::new().on_failure(nothing).on_failure(nothing);
    let dag = DagDef::new("d").default_args(of_dag).define(|d| {
        d.add_group(TaskGroup::new("g").default_args(of_group), |d| {
            d.add(work::call().id("a"));
            d.add(work::call().id("b").on_failure(nothing).on_failure(nothing).on_failure(nothing));
        });
        d.add(work::call().id("c"));
    });
    let dag = dag.compile().unwrap();
    let counts: BTreeMap<&str, (usize, usize)> = dag
        .tasks
        .iter()
        .map(|task| {
            let calls = &task.settings.callbacks;
            (task.id.as_str(), (calls.on_failure.len(), calls.on_retry.len()))
        })
        .collect();
    assert_eq!(counts, BTreeMap::from([("g.a", (2, 1)), ("g.b", (3, 1)), ("c", (1, 1))]));
}

#[task]
async fn lengths() -> Result<Vec<i64>> {
    Ok(vec![1, 2])
}

/// Goal: a run in which nothing can ever start again is found out, fails and says why. Method: a rule that waits for all
/// to be skipped, and a mapping that is shorter after a clear, so that one of them is removed.
#[tokio::test]
async fn a_run_that_cannot_get_on_fails_as_deadlocked() {
    let dag = DagDef::new("d").define(|d| {
        let skipped = d.map(d.add(lengths::call()), each::call);
        d.order(skipped >> d.add(work::call().id("last").when(TriggerRule::AllSkipped)));
    });
    let sim = Sim::new([dag]).mock::<each>(|_| Err(TaskError::skip("no"))).start("2026-03-02").await;
    let id = sim.trigger("d").await.unwrap().run_id;
    sim.settle().await;
    let run = sim.run("d", id.as_str());
    assert_eq!((run.state(), run.state_of_id("last")), (RunState::Success, TaskState::Success), "{run}");

    sim.mock::<lengths>(|_| Ok(vec![1]));
    sim.clear("d", id.as_str(), &["lengths"]).await;
    let run = sim.run("d", id.as_str());
    assert_eq!((run.state(), run.state_of_id("last")), (RunState::Failed, TaskState::None), "{run}");
    assert_eq!(run.run().reason.as_deref(), Some("all_tasks_deadlocked"));
    sim.assert_idle();
}

/// Goal: what only waits is no deadlock: neither for a limit of its own, nor for the run before, nor for a retry.
/// Method: runs of one task that cannot start now, looked at while they wait and after.
#[tokio::test]
async fn a_run_that_waits_is_not_deadlocked() {
    let past = TaskOptions::new().depends_on_past(true);
    let limited = TaskOptions::new().max_active_tis_per_dag(1);
    let retried = TaskOptions::new().retries(1).retry_delay(hours(1));
    for (what, options) in [("past", past), ("limit", limited), ("retry", retried)] {
        let dag = DagDef::new("d").schedule("@daily").start_date("2026-03-01").catchup(true);
        let dag = dag.default_args(options).define(|d| {
            d.add(work::call());
        });
        let sim = Sim::new([dag]).takes::<work>(mins(90)).start("2026-03-03T00:00Z").await;
        sim.fail_next::<work>(TaskError::msg("once"));
        sim.advance(mins(100)).await;
        let states: Vec<RunState> = sim.runs("d").iter().map(|run| run.state()).collect();
        assert!(states.contains(&RunState::Running), "{what}: {states:?}");
        assert!(sim.runs("d").iter().all(|run| run.row().reason.as_deref() != Some("all_tasks_deadlocked")));
    }
}
