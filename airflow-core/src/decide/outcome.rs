//! What the end of an attempt means for its task instance, and what a branch decides.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::compile::{CompiledBranching, CompiledDag};
use crate::id::{TaskId, TaskIdx, TiKey};
use crate::operator::{Deferral, Deferred, Resumed};
use crate::plan::{Outcome, Planner, Report};
use crate::retry::RetrySeed;
use crate::state::{TaskEvent, TaskState};
use crate::store::{AttemptEnd, AttemptEndData, AttemptState, SkipRecord, TiData, XComWrite};
use crate::xcom::{RETURN_VALUE, XComValue};

use super::assets::events_of;

/// How many instances a mapping may have, unless configured otherwise (Airflow's `max_map_length`).
pub const DEFAULT_MAX_MAP_LENGTH: usize = 1024;

/// After how many lost attempts of one try a task is given up, unless configured otherwise.
pub const MAX_LOST_ATTEMPTS: u32 = 3;

/// How much is kept of a pause that seems to be over when its report comes: more than sensors usually wait between two looks,
/// and little for one that has come late.
const MOST_KEPT: TimeDelta = TimeDelta::minutes(1);

/// What bounds the ends of attempts.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How many instances a mapping may have.
    pub max_map_length: usize,
    /// After how many lost attempts of one try a task is given up.
    pub max_lost: u32,
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It changed the instance.
    Yes,
    /// It is of an attempt that no longer counts: it changes nothing.
    Stale,
    /// It touches an instance that this unit has changed already: give it again with the next one.
    Later,
}

/// Takes the end of an attempt into the plan.
pub fn accept(plan: &mut Planner<'_>, report: &Report, bounds: Bounds) -> Accepted {
    let dag = Arc::clone(&plan.view.dag);
    let Some(ti) = plan.view.ti(report.key) else { return Accepted::Stale };
    if ti.data.attempt_id != Some(report.attempt_id) {
        return Accepted::Stale;
    }
    if plan.is_touched(report.key) {
        return Accepted::Later;
    }
    let state = ti.state;
    if state == TaskState::Restarting {
        end_attempt(plan, report, AttemptState::Cancelled, None);
        return legal(plan.change(report.key, TaskEvent::Ended, forget_attempt));
    }
    // Of a deferred instance only the end of its wait counts, of any other only the end of its attempt.
    let counts = match (state, &report.outcome) {
        (TaskState::Deferred, Outcome::Fired(_) | Outcome::Success(_) | Outcome::Skipped(_)) => true,
        (TaskState::Deferred, Outcome::Failed { .. }) => true,
        (TaskState::Running | TaskState::Queued, Outcome::Fired(_)) => false,
        (state, _) => matches!(state, TaskState::Running | TaskState::Queued),
    };
    if !counts {
        return Accepted::Stale;
    }
    let outcome = checked(&dag, report, bounds.max_map_length);
    let choice = match &outcome {
        Outcome::Success(value) => match choice(&dag, report.key.task, value.as_deref()) {
            Ok(choice) => choice,
            Err(error) => return fail(plan, report, &error, true, None),
        },
        _ => None,
    };
    if let Some(choice) = &choice
        && choice.skip.iter().any(|task| plan.view.instances(*task).any(|(key, _)| plan.is_touched(key)))
    {
        return Accepted::Later;
    }
    match outcome {
        Outcome::Success(value) => {
            let accepted = succeed(plan, report, value);
            if let (Accepted::Yes, Some(choice)) = (&accepted, choice) {
                choose(plan, report.key, choice);
            }
            accepted
        }
        Outcome::Failed { error, retryable, after } => fail(plan, report, &error, retryable, after),
        Outcome::Skipped(reason) => {
            end_attempt(plan, report, AttemptState::Skipped, Some(&reason));
            push_values(plan, report, None);
            legal(plan.change(report.key, TaskEvent::Skipped, |data| data.reason = Some(reason)))
        }
        Outcome::Rescheduled(at) => reschedule(plan, report, at),
        Outcome::Deferred(deferral) => defer(plan, report, *deferral),
        Outcome::Fired(event) => legal(plan.change(report.key, TaskEvent::Ready, |data| {
            if let Some(wait) = &mut data.wait {
                wait.resumed = wait.deferred.take().map(|deferred| Resumed::new(&deferred, event));
            }
        })),
        Outcome::Cancelled => fail(plan, report, "the attempt was stopped", true, None),
        Outcome::HandedBack => {
            end_attempt(plan, report, AttemptState::HandedBack, None);
            legal(plan.change(report.key, TaskEvent::HandedBack, |_| {}))
        }
        Outcome::Lost => lose(plan, report, bounds.max_lost),
    }
}

fn legal<E>(result: Result<(), E>) -> Accepted {
    if result.is_ok() { Accepted::Yes } else { Accepted::Stale }
}

fn forget_attempt(data: &mut TiData) {
    data.attempt_id = None;
    data.started_at = None;
    data.ended_at = None;
    data.has_result = false;
    data.map_length = None;
    data.reason = None;
}

/// A result that something is mapped over must be a list or object of bearable length.
fn checked(dag: &CompiledDag, report: &Report, max_map_length: usize) -> Outcome {
    let task = dag.task(report.key.task);
    let Outcome::Success(value) = &report.outcome else { return report.outcome.clone() };
    if !task.is_map_source {
        return report.outcome.clone();
    }
    let error = match value.as_ref().map(|value| value.map_length()) {
        None => "it returned nothing, but another task is mapped over its result".to_owned(),
        Some(None) => {
            "it returned no list and no object, but another task is mapped over its result".to_owned()
        }
        Some(Some(length)) if length > max_map_length => format!(
            "its result has {length} elements, a mapping may have {max_map_length}; return fewer or raise `max_map_length`"
        ),
        Some(Some(_)) => return report.outcome.clone(),
    };
    Outcome::Failed { error, retryable: true, after: None }
}

fn succeed(plan: &mut Planner<'_>, report: &Report, value: Option<Arc<XComValue>>) -> Accepted {
    let is_source = plan.view.dag.task(report.key.task).is_map_source;
    let length = value.as_ref().filter(|_| is_source).and_then(|value| value.map_length());
    let has_result = value.is_some();
    end_attempt(plan, report, AttemptState::Success, None);
    push_values(plan, report, value);
    let accepted = legal(plan.change(report.key, TaskEvent::Succeeded, |data| {
        data.has_result = has_result;
        data.map_length = length.and_then(|length| u32::try_from(length).ok());
        data.reason = None;
    }));
    if accepted == Accepted::Yes {
        let events = events_of(plan.view, report);
        plan.unit.asset_events.extend(events);
    }
    accepted
}

fn fail(
    plan: &mut Planner<'_>,
    report: &Report,
    error: &str,
    retryable: bool,
    after: Option<std::time::Duration>,
) -> Accepted {
    let dag = Arc::clone(&plan.view.dag);
    let task = dag.task(report.key.task);
    let data = &plan.view.ti(report.key).expect("the caller found it").data;
    let (try_number, again) = (data.try_number, retryable && data.try_number < data.max_tries);
    if !again && dag.settings.fail_fast && open_work(plan).iter().any(|key| plan.is_touched(*key)) {
        return Accepted::Later;
    }
    end_attempt(plan, report, AttemptState::Failed, Some(error));
    push_values(plan, report, None);
    if again {
        let seed = RetrySeed {
            dag_id: dag.id.as_str(),
            task_id: task.id.as_str(),
            logical_date: plan.view.run.logical_date,
        };
        let configured = || task.settings.retry.next_try(report.at, try_number, seed);
        let at = match after.map(TimeDelta::from_std) {
            Some(Ok(after)) => report.at.checked_add_signed(after).unwrap_or_else(configured),
            _ => configured(),
        };
        return legal(plan.change(report.key, TaskEvent::Retried, |data| {
            data.next_try_at = Some(at);
            data.reason = Some(error.to_owned());
        }));
    }
    let accepted =
        legal(plan.change(report.key, TaskEvent::Failed, |data| data.reason = Some(error.to_owned())));
    if accepted == Accepted::Yes && dag.settings.fail_fast {
        stop_others(plan);
    }
    accepted
}

/// The instance is run again later, in the same try.
fn reschedule(plan: &mut Planner<'_>, report: &Report, at: DateTime<Utc>) -> Accepted {
    let at = on_our_clock(plan.now, report.at, at);
    end_attempt(plan, report, AttemptState::Rescheduled, None);
    push_values(plan, report, None);
    legal(plan.change(report.key, TaskEvent::Rescheduled, |data| {
        data.next_try_at = Some(at);
        let wait = data.wait.get_or_insert_default();
        wait.pokes = wait.pokes.saturating_add(1);
        wait.resumed = None;
    }))
}

/// A moment that was named at `said`, both by the clock of another machine. If that is ahead of ours, the time between counts.
/// If it is behind, the report may also have waited for long: then at least a part of that time is waited for, or an instance
/// that is run again and again would be so without a pause.
fn on_our_clock(now: DateTime<Utc>, said: DateTime<Utc>, at: DateTime<Utc>) -> DateTime<Utc> {
    let pause = (at - said).max(TimeDelta::zero());
    let latest = now.checked_add_signed(pause).unwrap_or(at);
    at.clamp((now + pause.min(MOST_KEPT)).min(latest), latest)
}

/// The instance waits for something without a slot. Its whole try counts for `execution_timeout`.
fn defer(plan: &mut Planner<'_>, report: &Report, deferral: Deferral) -> Accepted {
    let task = plan.view.dag.task(report.key.task);
    let limit = task.settings.timeout.filter(|_| !task.operator.is_sensor());
    let after = |start: DateTime<Utc>, time: Option<Duration>| {
        start.checked_add_signed(TimeDelta::from_std(time?).ok()?)
    };
    end_attempt(plan, report, AttemptState::Deferred, None);
    push_values(plan, report, None);
    legal(plan.change(report.key, TaskEvent::Deferred, |data| {
        let of_try = after(data.started_at.unwrap_or(report.at), limit);
        let until = after(report.at, deferral.timeout).into_iter().chain(of_try).min();
        let wait = data.wait.get_or_insert_default();
        wait.resumed = None;
        wait.deferred = Some(Deferred {
            kind: deferral.kind,
            args: deferral.args,
            method: deferral.method,
            kwargs: deferral.kwargs,
            at: report.at,
            until,
        });
    }))
}

/// The first failure stops the run: running attempts fail, the rest is skipped, teardowns still run.
fn stop_others(plan: &mut Planner<'_>) {
    for key in open_work(plan) {
        stop(plan, key, TaskEvent::Stopped, "the run stops at its first failure");
    }
}

/// What has not finished and is no teardown.
fn open_work(plan: &Planner<'_>) -> Vec<TiKey> {
    let dag = &plan.view.dag;
    let open =
        plan.view.all().filter(|(key, ti)| !ti.state.is_finished() && !dag.task(key.task).is_teardown());
    open.map(|(key, _)| key).collect()
}

/// Ends an instance that has not finished, with its attempt if it has one.
///
/// # Panics
///
/// If the run has no such instance, or the plan has changed it already.
pub fn stop(plan: &mut Planner<'_>, key: TiKey, event: TaskEvent, why: &str) {
    cancel_attempt(plan, key, why);
    // An instance that cannot take the event has finished meanwhile, which is what was wanted.
    let _ = plan.change(key, event, |data| data.reason = Some(why.to_owned()));
}

/// Ends the attempt of an instance that executes. What it says later does not count.
///
/// # Panics
///
/// If the run has no such instance.
pub fn cancel_attempt(plan: &mut Planner<'_>, key: TiKey, why: &str) {
    let ti = plan.view.ti(key).expect("the caller found it");
    if ti.state.is_executing()
        && let Some(attempt_id) = ti.data.attempt_id
    {
        let data = AttemptEndData { at: plan.now, error: Some(why.to_owned()), rendered: None };
        plan.unit.ended.push(AttemptEnd { attempt_id, state: AttemptState::Cancelled, data });
    }
}

/// The process of the attempt died. It costs no retry, but a task that kills its processes is given up.
fn lose(plan: &mut Planner<'_>, report: &Report, max_lost: u32) -> Accepted {
    end_attempt(plan, report, AttemptState::Lost, Some("the process that ran it died"));
    let lost = plan.view.ti(report.key).expect("the caller found it").data.lost + 1;
    if lost >= max_lost {
        return legal(plan.change(report.key, TaskEvent::GivenUp, |data| {
            data.lost = lost;
            data.reason = Some(format!("worker_lost: the process that ran it died {lost} times"));
        }));
    }
    legal(plan.change(report.key, TaskEvent::Lost, |data| {
        data.lost = lost;
        data.reason = Some("the process that ran it died; it is started again".into());
    }))
}

fn end_attempt(plan: &mut Planner<'_>, report: &Report, state: AttemptState, error: Option<&str>) {
    let (error, rendered) = (error.map(str::to_owned), report.rendered.clone());
    let data = AttemptEndData { at: report.at, error, rendered };
    plan.unit.ended.push(AttemptEnd { attempt_id: report.attempt_id, state, data });
}

fn push_values(plan: &mut Planner<'_>, report: &Report, result: Option<Arc<XComValue>>) {
    let task_id = plan.view.dag.task(report.key.task).id.clone();
    let result = result.map(|value| (RETURN_VALUE.to_owned(), value));
    let write = |(key, value)| XComWrite { task_id: task_id.clone(), map_index: report.key.map, key, value };
    plan.unit.xcoms.extend(report.pushed.iter().cloned().chain(result).map(write));
}

/// What a branch or short circuit decided.
struct Choice {
    record: SkipRecord,
    skip: Vec<TaskIdx>,
}

fn choice(dag: &CompiledDag, task: TaskIdx, value: Option<&XComValue>) -> Result<Option<Choice>, String> {
    let Some(branching) = &dag.task(task).branching else { return Ok(None) };
    let null = Value::Null;
    let value = value.map_or(&null, |value| value.value());
    let direct = &dag.task(task).downstream;
    match branching {
        CompiledBranching::ShortCircuit { all_downstream } => {
            if is_truthy(value) {
                return Ok(None);
            }
            let after = if *all_downstream { dag.descendants(task) } else { direct.to_vec() };
            let skip: Vec<TaskIdx> =
                after.into_iter().filter(|task| !dag.task(*task).is_teardown()).collect();
            Ok(Some(Choice { record: SkipRecord::Skipped(ids(dag, &skip)), skip }))
        }
        CompiledBranching::ByIds => {
            let chosen = chosen_ids(dag, value)?;
            let kept = with_descendants(dag, &chosen);
            let (followed, skip): (Vec<_>, Vec<_>) = direct.iter().partition(|task| kept.contains(task));
            Ok(Some(Choice { record: SkipRecord::Followed(ids(dag, &followed)), skip }))
        }
        CompiledBranching::Typed(arms) => {
            let chosen = arms.iter().find(|(json, _)| json == value).map(|(_, tasks)| tasks);
            let chosen = chosen.ok_or_else(|| format!("the branch has no variant `{value}`"))?;
            let kept = with_descendants(dag, chosen);
            let arm_tasks: BTreeSet<TaskIdx> =
                arms.iter().flat_map(|(_, tasks)| tasks.iter().copied()).collect();
            // Tasks that only take the value are no way the branch could go: they run.
            let leaves_out = |task: &TaskIdx| arm_tasks.contains(task) && !kept.contains(task);
            let (skip, followed): (Vec<_>, Vec<_>) = direct.iter().copied().partition(leaves_out);
            Ok(Some(Choice { record: SkipRecord::Followed(ids(dag, &followed)), skip }))
        }
    }
}

fn ids(dag: &CompiledDag, tasks: &[TaskIdx]) -> Vec<TaskId> {
    tasks.iter().map(|task| dag.task(*task).id.clone()).collect()
}

fn with_descendants(dag: &CompiledDag, tasks: &[TaskIdx]) -> BTreeSet<TaskIdx> {
    tasks.iter().flat_map(|task| dag.descendants(*task).into_iter().chain([*task])).collect()
}

fn chosen_ids(dag: &CompiledDag, value: &Value) -> Result<Vec<TaskIdx>, String> {
    let names: Vec<&str> = match value {
        Value::Null => Vec::new(),
        Value::String(one) => vec![one],
        Value::Array(many) => {
            let name = |v: &'_ Value| v.as_str().map(str::to_owned);
            if many.iter().any(|v| name(v).is_none()) {
                return Err(format!("a branch returns task ids, not `{value}`"));
            }
            many.iter().filter_map(Value::as_str).collect()
        }
        other => return Err(format!("a branch returns task ids, not `{other}`")),
    };
    let mut found = Vec::new();
    for name in names {
        match (dag.find(name), dag.group_tasks(name)) {
            (Some(task), _) => found.push(task),
            (None, tasks) if !tasks.is_empty() => {
                let inside: BTreeSet<TaskIdx> = tasks.iter().copied().collect();
                let first = |task: &TaskIdx| !dag.task(*task).upstream.iter().any(|up| inside.contains(up));
                found.extend(tasks.iter().copied().filter(first));
            }
            _ => return Err(format!("the branch chose `{name}`, which is no task or group of this dag")),
        }
    }
    Ok(found)
}

/// Whether a condition holds, for values of any type: nothing, zero and empty do not.
fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => !object.is_empty(),
    }
}

/// Skips what was not chosen, whatever it has done meanwhile.
fn choose(plan: &mut Planner<'_>, key: TiKey, choice: Choice) {
    plan.record_skip(key, choice.record);
    let dag = Arc::clone(&plan.view.dag);
    let by = &dag.task(key.task).id;
    for task in choice.skip {
        let paired = dag.is_paired(key.task, task);
        let hit = |other: &TiKey| !paired || other.map == key.map;
        let keys: Vec<TiKey> = plan.view.instances(task).map(|(key, _)| key).filter(hit).collect();
        for other in keys.into_iter().filter(|other| !plan.is_touched(*other)).collect::<Vec<_>>() {
            stop(plan, other, TaskEvent::BranchSkipped, &format!("`{by}` did not choose it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an instance waits as long as it was to, whatever the clock of its worker says. Method: minutes of now, of the
    /// report, and of what it names; those of the answer.
    #[test]
    fn a_pause_is_kept_beside_a_wrong_clock() {
        let minute = |minutes| DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes);
        for (what, now, said, at, then) in [
            ("the clocks agree", 100, 100, 130, 130),
            ("the worker's is ahead", 100, 115, 145, 130),
            ("it is behind, or the report is late", 100, 80, 110, 110),
            ("so far that the pause seems to be over", 100, 60, 90, 101),
            ("there was no pause", 100, 100, 90, 100),
        ] {
            assert_eq!(on_our_clock(minute(now), minute(said), minute(at)), minute(then), "{what}");
        }
    }
}
