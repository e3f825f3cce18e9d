//! Random dags, random interventions, dying processes; what must hold whatever happens.

use std::collections::BTreeMap;

use airflow::app::Mark;
use airflow::compile::CompiledDag;
use airflow::prelude::*;
use airflow::state::RunState;
use airflow::store::SlotKey;
use airflow::testing::SimRun;

use crate::waiting::Later;

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        let index = usize::try_from(self.roll(list.len().max(1) as u64)).unwrap();
        list.get(index)
    }
}

#[task(triggers(Later))]
async fn flaky(cx: &TaskContext) -> Result<Vec<i64>> {
    let seed = cx.task_id().as_str().len() as u64 + u64::from(cx.try_number());
    let mut dice = Dice(seed.wrapping_add(cx.logical_date().timestamp().unsigned_abs()));
    if dice.one_in(4) && cx.resumed().is_none() {
        let broken = dice.one_in(5);
        return Err(Deferral::until(Later { minutes: dice.roll(200), broken }).timeout(hours(3)).into());
    }
    match dice.roll(10) {
        0 | 1 => Err(TaskError::msg("flaky")),
        2 => Err(TaskError::skip("not now")),
        3 => Err(TaskError::fail("for good")),
        n => Ok((0..i64::try_from(n).unwrap_or(0) - 4).collect()),
    }
}

/// Ready three quarters of an hour after its run started.
#[sensor(poke_interval = "10m", timeout = "90m")]
async fn soon(cx: &TaskContext) -> Result<bool> {
    Ok(cx.run().started_at.is_some_and(|start| (cx.now() - start).num_minutes() >= 45))
}

#[task]
async fn each(n: i64) -> Result<i64> {
    Ok(n)
}

/// How many instances of a mapped task may execute in one run.
const MOST_OF_A_RUN: u32 = 2;

const RULES: [TriggerRule; 6] = [
    TriggerRule::AllSuccess,
    TriggerRule::AllDone,
    TriggerRule::OneFailed,
    TriggerRule::OneSuccess,
    TriggerRule::NoneFailed,
    TriggerRule::AllSkipped,
];

fn random_dag(id: &str, dice: &mut Dice) -> DagDef {
    let fail_fast = dice.one_in(5);
    let dag = DagDef::new(id)
        .schedule("0 */6 * * *")
        .start_date("2026-03-01")
        .catchup(dice.one_in(2))
        .fail_fast(fail_fast)
        .max_active_runs(1 + u32::try_from(dice.roll(3)).unwrap())
        .max_active_tasks(1 + u32::try_from(dice.roll(4)).unwrap());
    let dag = if dice.one_in(3) { dag.dagrun_timeout(hours(2)) } else { dag };
    dag.define(|d| {
        let mut nodes = Vec::new();
        let mut lists = Vec::new();
        for index in 0..2 + dice.roll(6) {
            let rule = *dice.pick(&RULES).unwrap();
            let rule = if nodes.is_empty() || fail_fast { TriggerRule::AllSuccess } else { rule };
            let pool = if dice.one_in(3) { "small" } else { "default_pool" };
            let node = match dice.pick(&lists) {
                Some(list) if dice.one_in(3) => {
                    d.map(*list, |n| each::call(n).pool(pool).max_active_tis_per_dagrun(MOST_OF_A_RUN)).node()
                }
                _ if dice.one_in(5) => {
                    let mode = *dice.pick(SensorMode::ALL).unwrap();
                    d.add(soon::call().mode(mode).id(format!("s{index}")).when(rule).pool(pool)).node()
                }
                _ => {
                    let retries = u32::try_from(dice.roll(3)).unwrap();
                    let task = flaky::call().id(format!("t{index}")).when(rule).pool(pool);
                    let task = task.retries(retries).retry_delay(mins(dice.roll(20)));
                    let task = if dice.one_in(4) { task.timeout(mins(5)) } else { task };
                    let task = if dice.one_in(5) { task.max_active_tis_per_dag(1) } else { task };
                    let handle = d.add(task);
                    lists.push(handle);
                    handle.node()
                }
            };
            for up in &nodes {
                if dice.one_in(3) {
                    d.order(*up >> node);
                }
            }
            nodes.push(node);
        }
    })
}

/// What is taken of each limit is what the executing instances hold; no limit is overdrawn.
async fn check_slots(sim: &Sim, dags: &[String], when: &str) {
    let store = sim.airflow().store();
    let mut expected: BTreeMap<SlotKey, i64> = BTreeMap::new();
    for dag in dags {
        let compiled = sim.airflow().dag(&dag.as_str().into()).unwrap();
        for run in sim.runs(dag).iter() {
            if run.state() == RunState::Running {
                *expected.entry(SlotKey::Runs(dag.as_str().into())).or_default() += 1;
            }
            for task in run.tasks().iter().filter(|task| task.state.is_executing()) {
                let settings = &compiled.task(compiled.find(task.task_id.as_str()).unwrap()).settings;
                *expected.entry(SlotKey::Pool(settings.pool.clone())).or_default() += 1;
                *expected.entry(SlotKey::Dag(dag.as_str().into())).or_default() += 1;
                if settings.max_active_tis_per_dag.is_some() {
                    let key = SlotKey::Task(dag.as_str().into(), task.task_id.clone());
                    *expected.entry(key).or_default() += 1;
                }
            }
        }
        expect_deferred(&mut expected, &compiled, &sim.runs(dag));
        check_task_limits(&expected, &compiled, &sim.runs(dag), when);
        let limits = &compiled.settings;
        let most = |key: SlotKey| expected.get(&key).copied().unwrap_or(0);
        assert!(most(SlotKey::Dag(dag.as_str().into())) <= i64::from(limits.max_active_tasks), "{when}");
        assert!(most(SlotKey::Runs(dag.as_str().into())) <= i64::from(limits.max_active_runs), "{when}");
    }
    assert!(expected.get(&SlotKey::Pool("small".into())).is_none_or(|taken| *taken <= 2), "{when}");
    let taken: BTreeMap<SlotKey, i64> = store.slots().await.unwrap().into_iter().collect();
    assert_eq!(taken, expected, "{when}\n{}", sim.trace());
}

/// What deferred instances hold.
fn expect_deferred(expected: &mut BTreeMap<SlotKey, i64>, dag: &CompiledDag, runs: &[SimRun]) {
    for task in runs.iter().flat_map(|run| run.tasks()).filter(|task| task.state == TaskState::Deferred) {
        let settings = &dag.task(dag.find(task.task_id.as_str()).unwrap()).settings;
        *expected.entry(SlotKey::Deferred(settings.pool.clone())).or_default() += 1;
        if settings.max_active_tis_per_dag.is_some() {
            *expected.entry(SlotKey::Task(dag.id.clone(), task.task_id.clone())).or_default() += 1;
        }
    }
}

/// No task executes more often than its own limits say, over all runs and in each of them.
fn check_task_limits(taken: &BTreeMap<SlotKey, i64>, dag: &CompiledDag, runs: &[SimRun], when: &str) {
    for task in &dag.tasks {
        if let Some(limit) = task.settings.max_active_tis_per_dag {
            let of_all = taken.get(&SlotKey::Task(dag.id.clone(), task.id.clone())).copied().unwrap_or(0);
            assert!(of_all <= i64::from(limit), "{} executes {of_all} times, {when}", task.id);
        }
        let Some(limit) = task.settings.max_active_tis_per_dagrun else { continue };
        for run in runs {
            let own = run.tasks().iter().filter(|one| one.task_id == task.id && one.state.is_executing());
            assert!(own.count() <= limit as usize, "{} in {}, {when}", task.id, run.row().run_id);
        }
    }
}

async fn intervene(sim: &Sim, dags: &[String], dice: &mut Dice) -> String {
    let dag = dice.pick(dags).unwrap().clone();
    let runs = sim.runs(&dag);
    let run = dice.pick(&runs).map(|run| run.row().run_id.to_string());
    let task = dice.pick(&runs).and_then(|run| Some(dice.pick(run.tasks())?.task_id.to_string()));
    match (dice.roll(8), run, task) {
        (0, ..) => {
            sim.kill().await;
            "kill".into()
        }
        (1, ..) => {
            sim.pause(&dag).await;
            format!("pause {dag}")
        }
        (2, ..) => {
            sim.unpause(&dag).await;
            format!("unpause {dag}")
        }
        (3, Some(run), Some(task)) => {
            sim.clear(&dag, &run, &[&task]).await;
            format!("clear {dag} {run} {task}")
        }
        (4, Some(run), Some(task)) => {
            let mark = *dice.pick(&[Mark::Success, Mark::Failed, Mark::Skipped]).unwrap();
            sim.mark(&dag, &run, &[&task], mark).await;
            format!("mark {dag} {run} {task} {mark:?}")
        }
        (5, ..) => {
            // A second run of the same instant is refused, which is as good.
            let made = sim.trigger(dag.as_str()).await.is_ok();
            format!("trigger {dag} {made}")
        }
        (6, Some(run), _) => {
            let success = dice.one_in(2);
            let (dag_id, run_id) = (dag.as_str().into(), run.as_str().into());
            sim.airflow().mark_run(&dag_id, &run_id, success, "test").await.unwrap();
            sim.settle().await;
            format!("mark run {dag} {run} {success}")
        }
        _ => {
            sim.fail_next::<flaky>(TaskError::msg("bad luck"));
            "bad luck".into()
        }
    }
}

async fn one_life(seed: u64) -> String {
    let mut dice = Dice(seed);
    let dags: Vec<String> = (0..=dice.roll(3)).map(|index| format!("d{index}")).collect();
    let defs: Vec<DagDef> = dags.iter().map(|id| random_dag(id, &mut dice)).collect();
    let sim = Sim::new(defs).pool("small", 2).slots(1 + usize::try_from(dice.roll(4)).unwrap());
    let sim = sim.start("2026-03-02T01:00Z").await;
    sim.takes::<flaky>(mins(dice.roll(9)));
    let mut story = format!("seed {seed}");
    for _ in 0..25 {
        let wait = mins(dice.roll(240));
        sim.advance(wait).await;
        check_slots(&sim, &dags, &format!("{story}, then {wait:?}")).await;
        let what = intervene(&sim, &dags, &mut dice).await;
        story += &format!("\n{} {what}", sim.now());
        check_slots(&sim, &dags, &story).await;
    }
    for dag in &dags {
        sim.unpause(dag).await;
    }
    // What is left has time to end; then nothing new comes.
    sim.advance(days(2)).await;
    for dag in &dags {
        sim.pause(dag).await;
    }
    sim.advance(days(1)).await;
    for dag in &dags {
        let open: Vec<_> =
            sim.runs(dag).iter().filter(|run| run.state() == RunState::Running).cloned().collect();
        for run in open {
            let busy = |state: TaskState| state.is_executing() || state == TaskState::Deferred;
            let executing = run.tasks().iter().any(|task| busy(task.state));
            assert!(!executing, "{story}\n{}", *run);
        }
        sim.unpause(dag).await;
    }
    sim.advance(hours(5)).await;
    check_slots(&sim, &dags, &story).await;
    sim.trace()
}

/// Goal: limits hold, nothing leaks, nothing gets stuck, whatever people and crashes do. Method: many small random
/// worlds; each failure prints its seed and its story.
#[tokio::test]
async fn random_worlds_keep_their_invariants() {
    for seed in 0..40 {
        let story = one_life(seed).await;
        assert!(!story.is_empty(), "seed {seed} did nothing");
    }
    assert_eq!(one_life(7).await, one_life(7).await);
}
