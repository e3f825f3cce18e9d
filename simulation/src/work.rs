//! The dags of a plan, and the code of their tasks.

use std::collections::BTreeMap;
use std::time::Duration;

use airflow::prelude::*;
use airflow_core::operator::SensorMode;
use airflow_core::time::Clock as _;
use chrono::TimeDelta;

use super::clock::{ProcessClock, base};
use super::plan::{DagPlan, End, Kind, MODES, Plan, RULES, TaskPlan};

/// What tasks make and dags wait for.
pub(crate) const ASSET: &str = "sim://a";

/// The executor in the process of the scheduler.
pub(crate) const HERE: &str = "watched";

/// The one for workers.
pub(crate) const REMOTE: &str = "remote";

/// The queue that not all workers take work from.
pub(crate) const APART: &str = "apart";

const RULE: [TriggerRule; RULES] = [
    TriggerRule::AllSuccess,
    TriggerRule::AllDone,
    TriggerRule::OneFailed,
    TriggerRule::NoneFailed,
    TriggerRule::OneSuccess,
    TriggerRule::AllFailed,
];

const MODE: [SensorMode; MODES] = [SensorMode::Poke, SensorMode::Reschedule, SensorMode::Deferred];

async fn works(cx: &TaskContext, clock: &ProcessClock, task: &TaskPlan) -> Result<()> {
    clock.sleep(Duration::from_secs(task.seconds)).await;
    let at = (cx.try_number() as usize).saturating_sub(1).min(task.ends.len() - 1);
    match task.ends[at] {
        End::Success => Ok(()),
        End::Fail => Err(TaskError::msg("as planned")),
        End::Skip => Err(TaskError::skip("as planned")),
    }
}

/// The plan of the task that runs.
fn plan_of<'p>(cx: &TaskContext, plan: &'p Plan) -> &'p TaskPlan {
    let (dag, task) =
        (cx.dag_id().as_str()[1..].parse::<usize>(), cx.task_id().as_str()[1..].parse::<usize>());
    &plan.dags[dag.expect("dags are numbered")].tasks[task.expect("tasks are numbered")]
}

#[task]
async fn script(cx: &TaskContext, clock: &ProcessClock, plan: &Plan) -> Result<()> {
    works(cx, clock, plan_of(cx, plan)).await
}

/// As `script`, with a result that others take, and taking one.
#[task]
async fn script_after(
    cx: &TaskContext,
    clock: &ProcessClock,
    plan: &Plan,
    before: Option<String>,
) -> Result<String> {
    works(cx, clock, plan_of(cx, plan)).await?;
    Ok(format!("{} after {}", cx.ti().attempt_id, before.map_or(0, |before| before.len())))
}

#[task]
async fn script_of(cx: &TaskContext, clock: &ProcessClock, plan: &Plan, _element: usize) -> Result<()> {
    works(cx, clock, plan_of(cx, plan)).await
}

#[task]
async fn choose(
    cx: &TaskContext,
    clock: &ProcessClock,
    plan: &Plan,
    ids: Vec<String>,
) -> Result<Vec<String>> {
    works(cx, clock, plan_of(cx, plan)).await?;
    Ok(ids)
}

#[sensor]
async fn watching(cx: &TaskContext, clock: &ProcessClock, ready: u64) -> Result<Poke> {
    clock.pass().await;
    let ready = TimeDelta::seconds(i64::try_from(ready).expect("a short wait"));
    Ok(Poke::when(clock.truth() >= cx.interval().end + ready))
}

/// The tasks after a branch that it chooses.
fn chosen_of(dag: &DagPlan, number: usize, chosen: u64) -> Vec<String> {
    let after = dag.tasks.iter().enumerate().filter(|(_, task)| task.upstream.contains(&number));
    let chosen = after.enumerate().filter(|(bit, _)| chosen >> bit & 1 == 1);
    chosen.map(|(_, (other, _))| format!("t{other}")).collect()
}

/// The options that a task has whatever it does.
fn options_of(task: &TaskPlan) -> TaskOptions {
    let options = TaskOptions::new().retries(task.retries).trigger_rule(RULE[task.rule]);
    let options = options.depends_on_past(task.looks_back);
    let options = if task.pooled { options.pool("small") } else { options };
    let options = if task.apart { options.queue(APART) } else { options };
    let options = if task.here { options.executor(HERE) } else { options };
    let options = TaskOptions {
        max_active_tis_per_dag: task.most,
        max_active_tis_per_dagrun: task.most_of_run,
        ..options
    };
    if task.makes { options.outlets(ASSET) } else { options }
}

fn define(d: &Dag, dag: &DagPlan, hands_on: bool) {
    let mut nodes: Vec<Node<'_>> = Vec::new();
    let mut results: BTreeMap<usize, Handle<'_, String>> = BTreeMap::new();
    for (number, task) in dag.tasks.iter().enumerate() {
        let (id, options) = (format!("t{number}"), options_of(task));
        let mut taken = None;
        let node = match (task.kind, task.mapped) {
            (_, Some(length)) => {
                let list: Vec<usize> = (0..length).collect();
                d.map(list, |element| {
                    script_of::call(element).id(id.as_str()).options(|o| *o = options.clone())
                })
                .node()
            }
            (Kind::Script, None) if hands_on => {
                taken = task.upstream.iter().copied().find(|up| results.contains_key(up));
                let call = match taken.and_then(|up| results.get(&up)) {
                    Some(before) => script_after::call(*before),
                    None => script_after::call(None::<String>),
                };
                let result = d.add(call.id(id).options(|o| *o = options));
                results.insert(number, result);
                result.node()
            }
            (Kind::Script, None) => d.add(script::call().id(id).options(|o| *o = options)).node(),
            (Kind::Branch { chosen }, None) => {
                let choice = choose::call(chosen_of(dag, number, chosen)).id(id).options(|o| *o = options);
                let choice = d.add(choice);
                d.branch_by_id(choice);
                choice.node()
            }
            (Kind::Sensor { mode, ready, timeout, soft_fail }, None) => {
                let sensor = watching::call(ready).id(id).options(|o| *o = options).mode(MODE[mode]);
                let sensor = sensor.poke_interval(Duration::from_secs(7)).soft_fail(soft_fail);
                d.add(sensor.timeout(Duration::from_secs(timeout))).node()
            }
        };
        for up in task.upstream.iter().filter(|up| taken != Some(**up)) {
            d.order(nodes[*up] >> node);
        }
        nodes.push(node);
    }
}

pub(crate) fn dag_of(plan: &Plan, number: usize) -> DagDef {
    let dag = plan.dags[number].clone();
    let options = TaskOptions::new().retry_delay(Duration::from_secs(15));
    let def = DagDef::new(format!("d{number}")).default_args(options);
    let def = def.max_active_runs(dag.max_active_runs).max_active_tasks(dag.max_active_tasks);
    let def = if dag.by_asset {
        def.schedule(Asset::new(ASSET))
    } else {
        let end = base() + TimeDelta::minutes(i64::try_from(plan.minutes).expect("a short simulation"));
        let cron = format!("*/{} * * * *", dag.every);
        def.schedule(cron.as_str()).start_date(base()).end_date(end).catchup(true)
    };
    def.define(|d| define(d, &dag, plan.hands_on))
}
