//! Works off everything that changed in one run: who is skipped, who becomes ready, whether the run is over.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::id::{AttemptId, IncarnationId, MapIndex, TaskIdx, TiKey};
use crate::operator::Wait;
use crate::plan::{Planner, RunView, Ti};
use crate::state::{IllegalTransition, RunEvent, TaskEvent, TaskState};
use crate::store::{AttemptStart, AttemptState, TiData};

use super::outcome::stop;
use super::ready::{Readiness, WaitsFor, readiness};

/// What is left to do in a run after everything that changed was worked off.
#[derive(Debug, Default)]
pub struct Settled {
    /// Instances that may start now.
    pub ready: BTreeSet<TiKey>,
    /// Instances that may start at a time.
    pub later: Vec<(DateTime<Utc>, TiKey)>,
    /// Changes whose followers are still to be looked at: what became ready starts first.
    pub rest: Vec<TiKey>,
}

impl Settled {
    /// Whether the run goes on by itself: an instance may start, now or later, or changes are still to be followed.
    pub fn is_pending(&self) -> bool {
        !self.ready.is_empty() || !self.later.is_empty() || !self.rest.is_empty()
    }
}

/// A task to look at: all its instances that wait, or one.
type Candidate = (TaskIdx, Option<MapIndex>);

/// Looks at every task of the run: when it starts, after it was loaded, after a user changed it.
pub fn settle_all(plan: &mut Planner<'_>) -> Settled {
    let changed = plan.take_dirty();
    let mut all = followers(plan, &changed);
    all.extend(plan.view.dag.indices().map(|task| (task, None)));
    work_off(plan, all)
}

/// Looks at what follows the changes in the plan, at these instances, and at what follows these earlier changes.
pub fn settle(plan: &mut Planner<'_>, also: &[TiKey], rest: &[TiKey]) -> Settled {
    let mut changed = rest.to_vec();
    changed.extend(plan.take_dirty());
    let mut first = followers(plan, &changed);
    first.extend(also.iter().map(|key| (key.task, Some(key.map))));
    work_off(plan, first)
}

/// Takes over changes of the run before; returns the instances that may have waited for them.
pub fn follow_past(view: &mut RunView, changes: &[(TiKey, TaskState)]) -> Vec<TiKey> {
    let dag = Arc::clone(&view.dag);
    let mut waiting: BTreeSet<TaskIdx> = BTreeSet::new();
    for (key, state) in changes {
        view.note_past(*key, *state);
        let task = dag.task(key.task);
        let looks_at_it = |up: &&TaskIdx| dag.task(**up).settings.wait_for_downstream;
        waiting.extend(task.upstream.iter().filter(looks_at_it));
        waiting.extend(task.settings.depends_on_past.then_some(key.task));
    }
    waiting.into_iter().flat_map(|task| view.instances(task).map(|(key, _)| key)).collect()
}

/// Goes on level by level. All of a level is judged before any of it changes, so the order inside a level does not
/// matter; and once something is ready it may start before a skip spreads further, as in Airflow's passes.
fn work_off(plan: &mut Planner<'_>, mut level: BTreeSet<Candidate>) -> Settled {
    let mut settled = Settled::default();
    loop {
        let mut found = Vec::new();
        for (task, only) in level {
            judge(plan, task, only, &mut found);
        }
        for (key, readiness) in found {
            carry_out(plan, key, readiness, &mut settled);
        }
        let changed = plan.take_dirty();
        if changed.is_empty() {
            break;
        }
        if !settled.ready.is_empty() {
            settled.rest = changed;
            break;
        }
        level = followers(plan, &changed);
    }
    settled.ready.retain(|key| plan.view.ti(*key).is_some_and(|ti| ti.state.is_schedulable()));
    settled
}

/// What has to be looked at because these instances changed.
fn followers(plan: &mut Planner<'_>, changed: &[TiKey]) -> BTreeSet<Candidate> {
    let dag = Arc::clone(&plan.view.dag);
    let mut found = BTreeSet::new();
    for key in changed {
        // An instance that came back to a state in which it may start is looked at itself.
        if plan.view.ti(*key).is_some_and(|ti| ti.state.is_schedulable()) {
            found.insert((key.task, Some(key.map)));
        }
        revise_mappings(plan, *key);
        let task = dag.task(key.task);
        for down in &task.downstream {
            found.insert((*down, dag.counts_pairwise(key.task, *down).then_some(key.map)));
        }
        found.extend(task.needed_by.iter().map(|down| (*down, None)));
    }
    found
}

/// Judges the instances of a task that wait, or one of them. Makes the instances of a mapping whose length is known.
fn judge(plan: &mut Planner<'_>, task: TaskIdx, only: Option<MapIndex>, found: &mut Vec<(TiKey, Readiness)>) {
    let own = plan.view.task(task).own();
    if own[TaskState::None] + own[TaskState::UpForRetry] + own[TaskState::UpForReschedule] == 0 {
        return;
    }
    let waiting =
        |(key, ti): &(TiKey, &Ti)| ti.state.is_schedulable() && only.is_none_or(|map| map == key.map);
    let keys: Vec<TiKey> = plan.view.instances(task).filter(waiting).map(|(key, _)| key).collect();
    let uniform = only.is_none() && keys.len() > 1 && !has_pairs(plan.view, task);
    for key in keys {
        let ti = plan.view.ti(key).expect("it was just listed");
        match readiness(plan.view, key, ti, plan.now) {
            Readiness::Expand(length) => {
                expand(plan, task, length);
                judge(plan, task, None, found);
                return;
            }
            // What one instance waits for, all wait for.
            Readiness::Waits(WaitsFor::Rule | WaitsFor::Setup(_)) if uniform => return,
            readiness => found.push((key, readiness)),
        }
    }
}

fn carry_out(plan: &mut Planner<'_>, key: TiKey, readiness: Readiness, settled: &mut Settled) {
    if plan.is_touched(key) {
        // It came back to waiting in this unit, which cannot change it again: the next one looks at it.
        match readiness {
            _ if !plan.view.ti(key).is_some_and(|ti| ti.state.is_schedulable()) => {}
            Readiness::Waits(WaitsFor::Time(at)) => settled.later.push((at, key)),
            Readiness::Waits(_) => {}
            _ => settled.later.push((plan.now, key)),
        }
        return;
    }
    match readiness {
        Readiness::Ready => make_ready(plan, key, settled),
        Readiness::Waits(WaitsFor::Time(at)) => settled.later.push((at, key)),
        Readiness::Waits(_) | Readiness::Expand(_) => {}
        Readiness::Skip(why) => {
            note(plan.change(key, TaskEvent::RuleSkipped, |data| data.reason = Some(why)));
        }
        Readiness::Fail(why) => {
            note(plan.change(key, TaskEvent::RuleFailed, |data| data.reason = Some(why)));
        }
    }
}

/// The states come from the view that the readiness was read from, so a refusal is a mistake in the tables.
fn note(result: Result<(), IllegalTransition>) {
    debug_assert!(result.is_ok(), "{result:?}");
}

fn has_pairs(view: &RunView, task: TaskIdx) -> bool {
    view.dag.task(task).upstream.iter().any(|up| view.dag.counts_pairwise(*up, task))
}

fn make_ready(plan: &mut Planner<'_>, key: TiKey, settled: &mut Settled) {
    if !plan.view.dag.task(key.task).is_elided() {
        settled.ready.insert(key);
        return;
    }
    let max_tries = first_max_tries(plan.view, key.task);
    note(plan.change(key, TaskEvent::Elided, |data| {
        next_try(data, TaskState::None, max_tries);
        data.started_at = data.ended_at;
    }));
}

fn expand(plan: &mut Planner<'_>, task: TaskIdx, length: u32) {
    let scope = plan.view.dag.task(task).scope.expect("only a mapped task expands");
    plan.expand(scope, length);
}

/// A source that ran again may have another length: missing instances are made, surplus ones removed.
fn revise_mappings(plan: &mut Planner<'_>, changed: TiKey) {
    let dag = Arc::clone(&plan.view.dag);
    if !dag.task(changed.task).is_map_source {
        return;
    }
    for (index, scope) in dag.scopes.iter().enumerate() {
        let feeds =
            |source: &crate::operator::InputRef| *source == crate::operator::InputRef::Output(changed.task);
        let id = crate::operator::ScopeId(u32::try_from(index).expect("a dag has fewer than 2^32 mappings"));
        let (Some(old), true) = (plan.view.length(id), scope.expand.tasks().iter().any(feeds)) else {
            continue;
        };
        let Some(new) = scope.expand.length(&|source| plan.view.source_length(source)) else { continue };
        let new = u32::try_from(new).unwrap_or(u32::MAX);
        if new == old {
            continue;
        }
        plan.expand(id, new);
        for task in &scope.tasks {
            let wrong: Vec<(TiKey, TaskState)> = plan
                .view
                .instances(*task)
                .filter(|(key, ti)| {
                    let beyond = key.map.get().is_some_and(|at| at >= new);
                    beyond != (ti.state == TaskState::Removed)
                })
                .map(|(key, ti)| (key, ti.state))
                .collect();
            for (key, state) in
                wrong.into_iter().filter(|(key, _)| !plan.is_touched(*key)).collect::<Vec<_>>()
            {
                if state == TaskState::Removed {
                    note(plan.change(key, TaskEvent::Restored, |_| {}));
                } else {
                    stop(plan, key, TaskEvent::Removed, "the mapping is shorter now");
                }
            }
        }
    }
}

fn first_max_tries(view: &RunView, task: TaskIdx) -> u32 {
    view.dag.task(task).settings.retry.retries.saturating_add(1)
}

/// Begins the next try, unless one has begun.
fn next_try(data: &mut TiData, from: TaskState, max_tries: u32) {
    if data.max_tries == 0 {
        data.max_tries = max_tries;
    }
    data.next_try_at = None;
    data.reason = None;
    if matches!(from, TaskState::None | TaskState::UpForRetry) {
        data.try_number += 1;
        data.lost = 0;
        data.started_at = None;
        data.has_result = false;
        data.map_length = None;
        // Retries do not start the time of a sensor anew.
        let since = data.wait.as_ref().and_then(|wait| wait.since);
        data.wait = since.map(|since| Box::new(Wait { since: Some(since), ..Wait::default() }));
    }
}

/// Lets a ready instance wait for a slot.
///
/// # Errors
///
/// If it is not ready any more.
pub fn schedule(plan: &mut Planner<'_>, key: TiKey) -> Result<(), IllegalTransition> {
    let from = plan.view.ti(key).map_or(TaskState::Removed, |ti| ti.state);
    let max_tries = first_max_tries(plan.view, key.task);
    plan.change(key, TaskEvent::Ready, |data| next_try(data, from, max_tries))
}

/// Starts an attempt of a ready or scheduled instance.
///
/// # Errors
///
/// If it is not ready any more.
pub fn launch(
    plan: &mut Planner<'_>,
    key: TiKey,
    attempt_id: AttemptId,
    by: Option<IncarnationId>,
) -> Result<(), IllegalTransition> {
    let (from, epoch) = plan.view.ti(key).map_or((TaskState::Removed, 0), |ti| (ti.state, ti.epoch));
    let max_tries = first_max_tries(plan.view, key.task);
    let (event, state) = match by {
        Some(_) => (TaskEvent::Launched, AttemptState::Running),
        None => (TaskEvent::Enqueued, AttemptState::Queued),
    };
    let now = plan.now;
    let (mut try_number, mut goes_on) = (0, false);
    let is_sensor = plan.view.dag.task(key.task).settings.sensor.is_some();
    plan.change(key, event, |data| {
        next_try(data, from, max_tries);
        data.attempt_id = Some(attempt_id);
        data.started_at = data.started_at.or(Some(now));
        if is_sensor {
            data.wait.get_or_insert_default().since.get_or_insert(now);
        }
        goes_on = data.wait.as_ref().is_some_and(|wait| wait.goes_on());
        try_number = data.try_number;
    })?;
    let task = plan.view.dag.task(key.task);
    let queue = task.settings.queue_in(plan.view.run.queue.as_deref()).to_owned();
    let task_id = task.id.clone();
    if epoch > 0 && !goes_on {
        // Values of an earlier try would look like those of this one.
        plan.unit.xcom_clears.push((task_id.clone(), key.map));
        plan.view.set_skip(key, None);
    }
    plan.unit.started.push(AttemptStart {
        attempt_id,
        task_id,
        map_index: key.map,
        number: epoch + 1,
        try_number,
        state,
        incarnation: by,
        queue,
        at: now,
    });
    Ok(())
}

/// Ends the run if nothing is left to do in it. `pending` says whether instances wait to be started.
pub fn finish(plan: &mut Planner<'_>, pending: bool) -> Option<RunEvent> {
    let totals = plan.view.totals();
    let open = totals.total() - totals.finished();
    let event = if open == 0 {
        let leaves = &plan.view.dag.leaves;
        let failed = leaves.iter().any(|leaf| plan.view.task(*leaf).own().sum(TaskState::is_failure) > 0);
        if failed { RunEvent::Failed } else { RunEvent::Succeeded }
    } else if !pending && totals[TaskState::None] == open && !may_wait(plan.view) {
        RunEvent::Deadlocked
    } else {
        return None;
    };
    let reason = match event {
        RunEvent::Failed => Some("task_failure"),
        RunEvent::Deadlocked => Some("all_tasks_deadlocked"),
        _ => None,
    };
    plan.change_run(event, reason).ok().map(|()| event)
}

/// Whether an unfinished task waits for something outside of the run.
fn may_wait(view: &RunView) -> bool {
    let waits = |task: TaskIdx| {
        let settings = &view.dag.task(task).settings;
        settings.depends_on_past
            || settings.max_active_tis_per_dag.is_some()
            || settings.max_active_tis_per_dagrun.is_some()
    };
    view.all().any(|(key, ti)| !ti.state.is_finished() && waits(key.task))
}

/// Fails a run that took too long: what is unfinished is skipped.
pub fn time_out(plan: &mut Planner<'_>) -> Option<RunEvent> {
    let open: Vec<TiKey> =
        plan.view.all().filter(|(_, ti)| !ti.state.is_finished()).map(|(key, _)| key).collect();
    for key in open.into_iter().filter(|key| !plan.is_touched(*key)).collect::<Vec<_>>() {
        stop(plan, key, TaskEvent::TimedOut, "the run took longer than `dagrun_timeout`");
    }
    plan.change_run(RunEvent::TimedOut, Some("timed_out")).ok().map(|()| RunEvent::TimedOut)
}
