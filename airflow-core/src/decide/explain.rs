//! Why a task instance does not run, for people.

use chrono::{DateTime, Utc};

use crate::id::TiKey;
use crate::operator::{POKES, Wait};
use crate::plan::{RunView, needs_of};
use crate::state::{RunState, TaskState};
use crate::store::SlotKey;

use super::ready::{Readiness, WaitsFor, readiness, upstream};

/// What is taken of a limit, and how much there is where the limit is not of the dag's own; `None` if there is no such
/// limit.
pub type Used<'a> = &'a dyn Fn(&SlotKey) -> Option<(i64, Option<i64>)>;

/// The reasons why an instance is not running now; empty if it runs or is done. `paused` says whether the dag is
/// paused; `used` tells what is taken of each limit and how much there is.
pub fn reasons(view: &RunView, key: TiKey, paused: bool, used: Used<'_>, now: DateTime<Utc>) -> Vec<String> {
    let Some(ti) = view.ti(key) else {
        return vec!["the run has no such task instance".into()];
    };
    let mut reasons = Vec::new();
    if paused && !ti.state.is_finished() {
        reasons.push("the dag is paused".to_owned());
    }
    match view.run.state {
        RunState::Queued if now < view.run.run_after => {
            reasons.push(format!("the run may not start before {}", view.run.run_after));
        }
        RunState::Queued => reasons.push(queued_run(view, used)),
        RunState::Success | RunState::Failed if !ti.state.is_finished() => {
            reasons.push(format!("the run has ended: {}", view.run.state));
        }
        _ => {}
    }
    match ti.state {
        state if state.is_schedulable() => reasons.extend(waiting(view, key, now)),
        TaskState::Scheduled => reasons.extend(full_limits(view, key, used)),
        TaskState::Queued => reasons.push(format!(
            "it is queued for a worker that listens to `{}`",
            view.dag.task(key.task).settings.queue_in(view.run.queue.as_deref())
        )),
        TaskState::Deferred => reasons.push(deferred(ti.data.wait.as_deref())),
        TaskState::Restarting => reasons.push("its cleared attempt is being stopped".into()),
        state if state.is_finished() => {
            let why = ti.data.reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            reasons.push(format!("it is {state}{why}"));
        }
        _ => {}
    }
    reasons
}

/// Why a run whose time has come is still queued.
fn queued_run(view: &RunView, used: Used<'_>) -> String {
    let limit = i64::from(view.dag.settings.max_active_runs);
    let active = used(&SlotKey::Runs(view.dag.id.clone())).map_or(0, |(active, _)| active);
    if active >= limit {
        format!("the run is queued: {active} runs of the dag are active, `max_active_runs` allows {limit}")
    } else {
        "the run is queued: a scheduler starts it with its next step".to_owned()
    }
}

/// What a deferred instance waits for.
fn deferred(wait: Option<&Wait>) -> String {
    let Some(deferred) = wait.and_then(|wait| wait.deferred.as_ref()) else {
        return "it is deferred".to_owned();
    };
    let what = if deferred.kind == POKES {
        "it is deferred: its sensor pokes until it is ready".to_owned()
    } else {
        format!("it is deferred until `{}` fires", deferred.kind)
    };
    let until = deferred.until.map(|at| format!(", until {} at most", shown(at))).unwrap_or_default();
    format!("{what}, since {}{until}", shown(deferred.at))
}

fn shown(at: DateTime<Utc>) -> impl std::fmt::Display {
    at.format("%Y-%m-%d %H:%M:%S UTC")
}

fn waiting(view: &RunView, key: TiKey, now: DateTime<Utc>) -> Vec<String> {
    let ti = view.ti(key).expect("the caller found it");
    let task = view.dag.task(key.task);
    let name = |task| view.dag.task(task).id.to_string();
    match readiness(view, key, ti, now) {
        Readiness::Ready | Readiness::Expand(_) => {
            vec!["nothing: it starts with the scheduler's next step".into()]
        }
        Readiness::Skip(why) | Readiness::Fail(why) => vec![why],
        Readiness::Waits(WaitsFor::Rule) => {
            let all = upstream(view, key).all;
            let open = |up: &&crate::id::TaskIdx| {
                let own = view.task(**up).own();
                own.finished() < own.total()
            };
            let open: Vec<String> =
                task.upstream.iter().filter(open).map(|up| format!("`{}`", name(*up))).collect();
            let rule = task.settings.trigger_rule;
            let waiting =
                if open.is_empty() { String::new() } else { format!("; not finished: {}", open.join(", ")) };
            vec![format!(
                "its trigger rule `{rule}` waits: {} of {} upstream done{waiting}",
                all.finished(),
                all.total()
            )]
        }
        Readiness::Waits(WaitsFor::Setup(setup)) => {
            vec![format!("the setup `{}` is not finished", name(setup))]
        }
        Readiness::Waits(WaitsFor::Past(blocker)) => {
            vec![format!("`{}` of the run before has not succeeded", name(blocker))]
        }
        Readiness::Waits(WaitsFor::Time(at)) => {
            let why = ti.data.reason.as_deref().map(|why| format!(" after: {why}")).unwrap_or_default();
            let what = match ti.state {
                TaskState::UpForReschedule => "its reschedule date is not reached: it is run again",
                _ => "its next try is",
            };
            vec![format!("{what} at {}{why}", shown(at))]
        }
        Readiness::Waits(WaitsFor::Mapping) => vec!["what it is mapped over is not finished".into()],
    }
}

fn full_limits(view: &RunView, key: TiKey, used: Used<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let task = view.dag.task(key.task);
    for (slot, count) in needs_of(&task.settings).slots(TaskState::Running, &view.dag.id, &task.id) {
        let own_limit = match &slot {
            SlotKey::Dag(_) => Some(i64::from(view.dag.settings.max_active_tasks)),
            SlotKey::Task(..) => task.settings.max_active_tis_per_dag.map(i64::from),
            SlotKey::Pool(_) | SlotKey::Deferred(_) | SlotKey::Runs(_) => None,
        };
        let Some((taken, limit)) = used(&slot) else {
            found.push(format!("`{slot}` does not exist"));
            continue;
        };
        if let Some(limit) = own_limit.or(limit)
            && limit >= 0
            && taken + count > limit
        {
            found.push(format!("`{slot}` is full: {taken} of {limit} taken, {count} needed"));
        }
    }
    if found.is_empty() {
        found.push("every slot of the executor is taken".into());
    }
    found
}
