//! By when runs and tasks should be done, and whether they were.

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::compile::{CompiledDag, CompiledDeadline, DeadlineStart};
use crate::hash::Hash;
use crate::id::{IncarnationId, MapIndex, TaskId};
use crate::state::{RunState, RunType, TaskState};
use crate::store::{DeadlineRow, NewDeadline, NewRun, Notice, RunFilter, RunRow, Settlement, TiRow};

/// What the event of a missed deadline of a run begins with; its name follows.
pub const EVENT: &str = "deadline:";

/// The event of a task that has missed its `sla`.
pub const SLA_MISS: &str = "sla_miss";

/// The digits of a hash that are a number of 28 bits.
const KEY_DIGITS: usize = 7;

/// How many of the tasks that hold another one up are named: more would fill a screen.
const MOST_NAMED: usize = 10;

/// What has to be known of a run besides its row, to say what becomes of its deadline.
#[derive(Debug, Default)]
pub struct Facts {
    /// Its task instances; of a deadline of a task.
    pub instances: Vec<TiRow>,
    /// Runs that ended before; of a deadline that counts from their average.
    pub before: Vec<RunRow>,
}

/// The runs of which the average counts, if any does.
pub fn runs_before(deadline: &CompiledDeadline, run: &RunRow) -> Option<RunFilter> {
    let DeadlineStart::AverageRuntime { max_runs, .. } = deadline.start else { return None };
    Some(RunFilter {
        ended_by: Some(run.queued_at),
        newest_first: true,
        limit: Some(max_runs),
        ..RunFilter::of_dag(run.dag_id.clone())
    })
}

/// The deadline of this name, if the dag still has it.
pub fn named<'a>(dag: &'a CompiledDag, name: &str) -> Option<&'a CompiledDeadline> {
    dag.settings.deadlines.iter().find(|one| one.name == name)
}

/// When a run began to count, if that is known without its past.
fn start_of(start: DeadlineStart, run: &NewRun) -> Option<DateTime<Utc>> {
    match start {
        DeadlineStart::QueuedAt => Some(run.queued_at),
        DeadlineStart::LogicalDate => Some(run.logical_date).filter(|_| run.assets.is_none()),
        DeadlineStart::IntervalEnd => Some(run.data_interval.end),
        DeadlineStart::Fixed(at) => Some(at),
        DeadlineStart::AverageRuntime { .. } => None,
    }
}

/// When it is over; `None` if too few runs have gone before to say.
fn due(deadline: &CompiledDeadline, run: &RunRow, before: &[RunRow]) -> Option<DateTime<Utc>> {
    let start = match deadline.start {
        DeadlineStart::QueuedAt => run.queued_at,
        DeadlineStart::LogicalDate => run.logical_date,
        DeadlineStart::IntervalEnd => run.data_interval.end,
        DeadlineStart::Fixed(at) => at,
        DeadlineStart::AverageRuntime { min_runs, .. } => {
            later(run.queued_at, average(before, min_runs as usize)?)
        }
    };
    Some(later(start, deadline.after))
}

fn later(start: DateTime<Utc>, by: Duration) -> DateTime<Utc> {
    let by = TimeDelta::from_std(by).unwrap_or(TimeDelta::MAX);
    start.checked_add_signed(by).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// How long runs took on average, if there are so many.
fn average(runs: &[RunRow], least: usize) -> Option<Duration> {
    let took = |run: &RunRow| (run.ended_at? - run.started_at?).to_std().ok();
    let all: Vec<Duration> = runs.iter().filter_map(took).collect();
    let number = u32::try_from(all.len()).ok().filter(|number| *number > 0 && all.len() >= least)?;
    Some(all.iter().sum::<Duration>() / number)
}

/// The run with its deadlines. Of some it is not known yet when they are over: they are looked at again at once.
pub fn with_deadlines(dag: &CompiledDag, run: NewRun) -> NewRun {
    let is_scheduled = run.run_type == RunType::Scheduled;
    let wanted = dag.settings.deadlines.iter().filter(|one| one.task.is_none() || is_scheduled);
    let deadlines = wanted.map(|deadline| {
        let due = start_of(deadline.start, &run).map_or(run.queued_at, |start| later(start, deadline.after));
        NewDeadline { name: deadline.name.clone(), due }
    });
    let deadlines = deadlines.collect();
    NewRun { deadlines, ..run }
}

/// What becomes of a deadline whose time seems to be over.
pub fn settle(
    row: &DeadlineRow,
    dag: &CompiledDag,
    facts: &Facts,
    now: DateTime<Utc>,
    owner: IncarnationId,
) -> Settlement {
    let Some(deadline) = named(dag, &row.name) else { return Settlement::Met };
    let Some(due) = due(deadline, &row.run, &facts.before) else { return Settlement::Met };
    let is_met = match &deadline.task {
        Some(task) => task_is_done(&facts.instances, task, due),
        None => row.run.state == RunState::Success && row.run.ended_at.is_none_or(|ended| ended <= due),
    };
    if is_met {
        return Settlement::Met;
    }
    if due > now {
        return Settlement::Later(due);
    }
    let at = due.format("%Y-%m-%dT%H:%M:%SZ");
    Settlement::Missed(Box::new(match &deadline.task {
        Some(task) => {
            let held = held_up_by(dag, &facts.instances, task, due);
            notice(
                Some(task),
                SLA_MISS.into(),
                format!("`{task}` had not succeeded by {at}: {held}"),
                now,
                owner,
            )
        }
        None => {
            let event = format!("{EVENT}{}", row.name);
            notice(None, event, format!("the deadline `{}` was over at {at}", row.name), now, owner)
        }
    }))
}

fn notice(
    task_id: Option<&TaskId>,
    event: String,
    reason: String,
    at: DateTime<Utc>,
    owner: IncarnationId,
) -> Notice {
    let mut hash = Hash::default();
    hash.add(event.strip_prefix(EVENT).unwrap_or_default());
    let key = u32::from_str_radix(&hash.hex(KEY_DIGITS), 16).expect("hexadecimal digits are a number");
    Notice {
        task_id: task_id.cloned(),
        // No task and no end of a run has this index; the name tells deadlines apart.
        map_index: MapIndex(-2),
        epoch: key,
        event,
        try_number: 0,
        reason: Some(reason),
        at,
        owner,
    }
}

fn is_done(ti: &TiRow, by: DateTime<Utc>) -> bool {
    let counts = matches!(ti.state, TaskState::Success | TaskState::Skipped | TaskState::Removed);
    counts && ti.data.ended_at.is_none_or(|ended| ended <= by)
}

/// Whether all instances of a task had succeeded or been skipped by then.
fn task_is_done(instances: &[TiRow], task: &TaskId, by: DateTime<Utc>) -> bool {
    let mut own = instances.iter().filter(|ti| ti.task_id == *task).peekable();
    own.peek().is_some() && own.all(|ti| is_done(ti, by))
}

/// The task, and those anywhere before it, that were not done by then, each with its state.
fn held_up_by(dag: &CompiledDag, instances: &[TiRow], task: &TaskId, by: DateTime<Utc>) -> String {
    let mut seen = vec![false; dag.tasks.len()];
    let mut next: Vec<_> = dag.find(task.as_str()).into_iter().collect();
    while let Some(index) = next.pop() {
        if !std::mem::replace(&mut seen[index.index()], true) {
            next.extend(dag.task(index).upstream.iter().copied());
        }
    }
    let late =
        dag.tasks.iter().zip(seen).filter(|(one, seen)| *seen && !task_is_done(instances, &one.id, by));
    let late: Vec<&TaskId> = late.map(|(one, _)| &one.id).collect();
    let mut text = String::new();
    for (nth, id) in late.iter().take(MOST_NAMED).enumerate() {
        let open = instances.iter().find(|ti| ti.task_id == **id && !is_done(ti, by));
        let state = open.map_or(TaskState::None, |ti| ti.state);
        let comma = if nth == 0 { "" } else { ", " };
        write!(text, "{comma}`{id}` is {state}").expect("writing to a string never fails");
    }
    if late.len() > MOST_NAMED {
        write!(text, ", and {} more", late.len() - MOST_NAMED).expect("writing to a string never fails");
    }
    text
}
