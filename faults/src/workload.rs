//! The dags that run under faults, and what must come of them.
//!
//! What fails on purpose is a function of the seed and of names only, so that every process agrees, and the right end of
//! every task is known beforehand.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use airflow_core::callback::CallbackContext;
use airflow_core::dag::{DagDef, Isolation, Node, TaskExt as _, TaskOptions};
use airflow_core::operator::{Description, In, IntoIn as _, Operator, Result, TaskContext, TaskError};
use airflow_core::state::{RunState, TaskState};
use airflow_core::trigger_rule::TriggerRule;

use crate::ledger::{Ledger, Running};
use crate::logs::{LOUD, TICKS};

/// The dag of the load.
pub(crate) const LOAD: &str = "load";

/// The dag that schedules make runs of.
pub(crate) const POINTS: &str = "points";

/// The dag whose tasks take long.
pub(crate) const LONG: &str = "long";

/// How many tasks it has.
const LONG_TASKS: usize = 6;

/// The dag with many tasks beside each other, and how many.
pub(crate) const WIDE: &str = "wide";
pub(crate) const WIDE_TASKS: usize = 1_000;

/// The dag whose tasks end their process, and how.
pub(crate) const UNRULY: &str = "unruly";
pub(crate) const UNRULY_TASKS: [&str; 3] = ["abort", "all_memory", "kill"];

/// How much memory the process of a task may have that wants all of it.
const MEMORY: u64 = 2 << 30;

/// How often each of them is tried.
pub(crate) const TRIES: usize = 3;

/// The variable that names the seconds which a task of the dag [`LONG`] takes.
pub(crate) const LASTING: &str = "AIRFLOW_FAULTS_LASTING";

/// How many instances of the mapped task of the load may run at once, over all runs.
pub(crate) const MOST_OF_EACH: u32 = 6;

/// The pool that fewer tasks fit into than want to, and its size.
pub(crate) const POOL: (&str, i32) = ("narrow", 8);

/// A pool with room for all that a broker may hold.
pub(crate) const BROAD: (&str, i32) = ("broad", 100_000);

/// The first point of the schedule: long past, so that all points are due.
const FIRST_POINT: &str = "2025-01-01T00:00:00Z";

/// How long one task in a hundred takes: as long as the time between two kills, and longer.
const SLOW: Duration = Duration::from_millis(900);

/// How long a task of the dag [`LONG`] takes, unless a variable says otherwise.
const LASTING_S: u64 = 3;

const CHAIN: usize = 10;
const FAN: usize = 25;
const MAPPED: i64 = 8;

/// The versions of the load.
pub(crate) const OLD: u64 = 1;
pub(crate) const NEW: u64 = 2;

/// What the seed decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub seed: u64,
}

impl Plan {
    fn draw(self, what: &str, run: &str, task: &str, map: i32) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, what, run, task, map).hash(&mut hasher);
        hasher.finish()
    }

    /// Whether the first try fails.
    fn stumbles(self, run: &str, task: &str, map: i32) -> bool {
        task != "doomed"
            && !UNRULY_TASKS.contains(&task)
            && task != LOUD
            && task != "items"
            && task != TICKS
            && !task.starts_with("long_")
            && self.draw("stumble", run, task, map).is_multiple_of(50)
    }

    /// Whether the task `doomed` of a run fails for good.
    fn is_doomed(self, run: &str) -> bool {
        self.draw("doom", run, "", 0).is_multiple_of(2)
    }

    /// How long a body takes.
    pub(crate) fn time(self, run: &str, task: &str, map: i32) -> Duration {
        if task.starts_with("long_") {
            let seconds = std::env::var(LASTING).ok().and_then(|seconds| seconds.parse().ok());
            return Duration::from_secs(seconds.unwrap_or(LASTING_S));
        }
        let draw = self.draw("time", run, task, map);
        if draw.is_multiple_of(100) { SLOW } else { Duration::from_millis(2 + draw % 18) }
    }
}

/// Writes to the ledger, takes its time, and does what the plan says.
struct Work {
    plan: Plan,
    inputs: Vec<In<i64>>,
}

impl Operator for Work {
    type Output = i64;
    const NAME: &'static str = "Work";

    fn describe(&self, description: &mut Description) {
        description.resource::<Ledger>();
        self.inputs.iter().for_each(|input| description.input(input));
    }

    async fn execute(&self, cx: &TaskContext) -> Result<i64> {
        let body = Running::begin(cx.resource_arc::<Ledger>()?, cx);
        let (run, task, map) = (cx.run_id().as_str(), cx.task_id().as_str(), cx.ti().map_index.0);
        tokio::time::sleep(self.plan.time(run, task, map)).await;
        body.end();
        if task == "doomed" && self.plan.is_doomed(run) {
            return Err(TaskError::fail("the plan says so"));
        }
        if cx.try_number() == 1 && self.plan.stumbles(run, task, map) {
            return Err(TaskError::msg("the plan says so"));
        }
        Ok(1)
    }
}

/// A list to map over.
struct Items;

impl Operator for Items {
    type Output = Vec<i64>;
    const NAME: &'static str = "Items";

    fn describe(&self, _: &mut Description) {}

    async fn execute(&self, _: &TaskContext) -> Result<Vec<i64>> {
        Ok((0..MAPPED).collect())
    }
}

/// The dag of the load: a chain, a fan through a narrow pool, a diamond, a mapping, and a task that may fail for good.
///
/// Versions differ in how long a retry waits, and in nothing else that anybody looks at.
pub(crate) fn load(plan: Plan, version: u64) -> DagDef {
    let work = move || Work { plan, inputs: Vec::new() };
    DagDef::new(LOAD)
        .on_success(async |_: CallbackContext| {})
        .on_failure(async |_: CallbackContext| {})
        .max_active_runs(1_000)
        .max_active_tasks(1_000)
        .default_args(TaskOptions::new().retries(2).retry_delay(Duration::from_millis(50 + version)))
        .define(|d| {
            let add = |id: String| d.add(work().id(id)).node();
            let chain: Vec<Node<'_>> = (0..CHAIN).map(|i| add(format!("chain_{i}"))).collect();
            d.chain(chain);
            let start = add("start".into());
            let gather = d.add(work().id("gather").trigger_rule(TriggerRule::AllDone)).node();
            for i in 0..FAN {
                let one = d.add(work().id(format!("fan_{i}")).pool(POOL.0)).node();
                d.order(start >> one >> gather);
            }
            let [a, b, c, e] = ["top", "left", "right", "bottom"].map(|id| add(id.into()));
            d.order(a >> [b, c] >> e);
            let items = d.add(Items.id("items"));
            let each = d.map(items, |item| {
                Work { plan, inputs: vec![item.into_in()] }.id("each").max_active_tis_per_dag(MOST_OF_EACH)
            });
            let sum = add("sum".into());
            d.order(each.node() >> sum);
            let doomed = add("doomed".into());
            let after = add("after_doomed".into());
            let rescue = d.add(work().id("rescue").trigger_rule(TriggerRule::AllDone)).node();
            d.order(doomed >> [after, rescue]);
        })
}

/// Tasks that take long, beside each other.
pub(crate) fn long(plan: Plan) -> DagDef {
    DagDef::new(LONG)
        .max_active_runs(1_000)
        .max_active_tasks(1_000)
        .default_args(TaskOptions::new().retries(2).retry_delay(Duration::from_millis(50)))
        .define(|d| {
            for i in 0..LONG_TASKS {
                d.add(Work { plan, inputs: Vec::new() }.id(format!("long_{i}")));
            }
        })
}

/// Many short tasks beside each other.
pub(crate) fn wide(plan: Plan) -> DagDef {
    DagDef::new(WIDE)
        .max_active_runs(1_000)
        .max_active_tasks(100_000)
        .default_args(TaskOptions::new().retries(2).retry_delay(Duration::from_millis(50)))
        .define(|d| {
            for i in 0..WIDE_TASKS {
                d.add(Work { plan, inputs: Vec::new() }.id(format!("wide_{i}")).pool(BROAD.0));
            }
        })
}

/// Ends the process that it runs in.
struct Unruly;

impl Operator for Unruly {
    type Output = ();
    const NAME: &'static str = "Unruly";

    fn describe(&self, description: &mut Description) {
        description.resource::<Ledger>();
    }

    async fn execute(&self, cx: &TaskContext) -> Result<()> {
        use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};
        Running::begin(cx.resource_arc::<Ledger>()?, cx).end();
        match cx.task_id().as_str() {
            "all_memory" => {
                setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) })?;
                let mut all = Vec::new();
                loop {
                    all.push(vec![1_u8; 64 << 20]);
                }
            }
            "kill" => kill_process(getpid(), Signal::KILL)?,
            _ => {}
        }
        std::process::abort()
    }
}

/// Tasks that end their process, which is theirs alone.
pub(crate) fn unruly() -> DagDef {
    DagDef::new(UNRULY)
        .max_active_runs(1_000)
        .default_args(TaskOptions::new().retries(2).retry_delay(Duration::from_millis(50)))
        .define(|d| {
            for id in UNRULY_TASKS {
                d.add(Unruly.id(id).isolation(Isolation::Process));
            }
        })
}

/// The right end of a run, and of each of its instances.
pub(crate) fn expected(plan: Plan, dag: &str, run: &str) -> (RunState, BTreeMap<(String, i32), TaskState>) {
    let mut tis = BTreeMap::new();
    let mut add = |id: String, map: i32, state| {
        tis.insert((id, map), state);
    };
    if dag == UNRULY {
        UNRULY_TASKS.iter().for_each(|id| add((*id).to_owned(), -1, TaskState::Failed));
        return (RunState::Failed, tis);
    }
    if dag != LOAD {
        match dag {
            WIDE => (0..WIDE_TASKS).for_each(|i| add(format!("wide_{i}"), -1, TaskState::Success)),
            LOUD | TICKS => add(dag.to_owned(), -1, TaskState::Success),
            LONG => (0..LONG_TASKS).for_each(|i| add(format!("long_{i}"), -1, TaskState::Success)),
            _ => add("point".into(), -1, TaskState::Success),
        }
        return (RunState::Success, tis);
    }
    for i in 0..CHAIN {
        add(format!("chain_{i}"), -1, TaskState::Success);
    }
    for i in 0..FAN {
        add(format!("fan_{i}"), -1, TaskState::Success);
    }
    for id in ["start", "gather", "top", "left", "right", "bottom", "items", "sum", "rescue"] {
        add(id.into(), -1, TaskState::Success);
    }
    for map in 0..i32::try_from(MAPPED).unwrap_or(0) {
        add("each".into(), map, TaskState::Success);
    }
    let doomed = plan.is_doomed(run);
    add("doomed".into(), -1, if doomed { TaskState::Failed } else { TaskState::Success });
    add("after_doomed".into(), -1, if doomed { TaskState::UpstreamFailed } else { TaskState::Success });
    (if doomed { RunState::Failed } else { RunState::Success }, tis)
}

/// How many bodies of an instance the plan asks for.
pub(crate) fn planned_bodies(plan: Plan, run: &str, task: &str, map: i32) -> usize {
    if UNRULY_TASKS.contains(&task) {
        return TRIES;
    }
    1 + usize::from(plan.stumbles(run, task, map))
}

/// A dag with a schedule, of which `points` are due at once.
pub(crate) fn points(plan: Plan, points: i64) -> DagDef {
    let start: chrono::DateTime<chrono::Utc> = FIRST_POINT.parse().expect("a date");
    let last = start + chrono::TimeDelta::hours(points - 1);
    DagDef::new(POINTS)
        .schedule("0 * * * *")
        .start_date(FIRST_POINT)
        .end_date(last.to_rfc3339())
        .catchup(true)
        .max_active_runs(1_000)
        .max_active_tasks(1_000)
        .default_args(TaskOptions::new().retries(2).retry_delay(Duration::from_millis(50)))
        .define(|d| {
            d.add(Work { plan, inputs: Vec::new() }.id("point"));
        })
}
