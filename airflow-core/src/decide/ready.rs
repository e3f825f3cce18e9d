//! Whether one task instance may run, and if not, why not.

use chrono::{DateTime, Utc};

use crate::dag::Role;
use crate::id::{MapIndex, TaskIdx, TiKey};
use crate::operator::InputRef;
use crate::plan::{RunView, Ti};
use crate::state::{Counts, TaskState};
use crate::store::SkipRecord;
use crate::trigger_rule::TriggerRule;

use super::rule::{Upstream, Verdict, verdict};

/// What should happen to an instance that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Everything it depends on holds.
    Ready,
    /// It waits for this.
    Waits(WaitsFor),
    /// It is not to run.
    Skip(String),
    /// It cannot run because something upstream failed.
    Fail(String),
    /// Its mapping has this length; its instances are to be made.
    Expand(u32),
}

/// Why an instance waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitsFor {
    /// Its trigger rule does not hold yet.
    Rule,
    /// A setup further up is not finished.
    Setup(TaskIdx),
    /// The same task, or what follows it, in the run before.
    Past(TaskIdx),
    /// The time of its next try.
    Time(DateTime<Utc>),
    /// The tasks that its mapping runs over.
    Mapping,
}

/// Looks at one instance that is in state `none`, `up_for_retry` or `up_for_reschedule`.
pub fn readiness(view: &RunView, key: TiKey, ti: &Ti, now: DateTime<Utc>) -> Readiness {
    let dag = &view.dag;
    let task = dag.task(key.task);
    if let Some(by) = skipped_by(view, key) {
        return Readiness::Skip(format!("`{}` did not choose it", dag.task(by).id));
    }
    let unexpanded = key.map == MapIndex::UNMAPPED && task.scope.is_some();
    if unexpanded && let Some(found) = mapping_failed(view, key) {
        return found;
    }
    let rule = task.settings.trigger_rule;
    let mut open_setup = None;
    if !task.is_teardown() && rule != TriggerRule::Always {
        match setups(view, &task.setups) {
            Verdict::Fail => return Readiness::Fail("a setup failed".into()),
            Verdict::Skip => return Readiness::Skip("a setup was skipped".into()),
            Verdict::Wait => {
                open_setup = task.setups.iter().copied().find(|setup| !is_done(view, *setup));
            }
            Verdict::Run => {}
        }
    }
    let verdict = verdict(rule, &upstream(view, key));
    match verdict {
        Verdict::Fail => return Readiness::Fail(format!("its trigger rule `{rule}` cannot hold any more")),
        Verdict::Skip => return Readiness::Skip(format!("its trigger rule `{rule}` says so")),
        Verdict::Run | Verdict::Wait => {}
    }
    if let Some(setup) = open_setup {
        return Readiness::Waits(WaitsFor::Setup(setup));
    }
    if unexpanded {
        return match expansion(view, key.task) {
            // The rule did not wait for what the mapping runs over, so there is nothing to map: as in Airflow.
            Readiness::Waits(WaitsFor::Mapping) if verdict == Verdict::Run => {
                Readiness::Fail(format!("its trigger rule `{rule}` did not wait for what it is mapped over"))
            }
            found => found,
        };
    }
    if verdict == Verdict::Wait {
        return Readiness::Waits(WaitsFor::Rule);
    }
    if let Some(blocker) = blocked_by_past(view, key) {
        return Readiness::Waits(WaitsFor::Past(blocker));
    }
    match ti.data.next_try_at {
        Some(at) if ti.state != TaskState::None && now < at => Readiness::Waits(WaitsFor::Time(at)),
        _ => Readiness::Ready,
    }
}

/// The direct upstream task whose choice leaves this instance out.
fn skipped_by(view: &RunView, key: TiKey) -> Option<TaskIdx> {
    if !view.has_skips() {
        return None;
    }
    let own = &view.dag.task(key.task).id;
    let leaves_out = |record: &SkipRecord| match record {
        SkipRecord::Followed(ids) => !ids.contains(own),
        SkipRecord::Skipped(ids) => ids.contains(own),
    };
    let of = |up: &&TaskIdx| {
        let paired = view.dag.is_paired(**up, key.task);
        view.task(**up).skips().any(|(map, record)| {
            let counts = if paired { *map == key.map } else { true };
            let finished = view.ti(TiKey { task: **up, map: *map }).is_some_and(|ti| ti.state.is_finished());
            counts && finished && leaves_out(record)
        })
    };
    view.dag.task(key.task).upstream.iter().find(of).copied()
}

/// What the direct upstream instances look like to this one.
pub(crate) fn upstream(view: &RunView, key: TiKey) -> Upstream {
    let dag = &view.dag;
    let task = dag.task(key.task);
    let pairs =
        key.map != MapIndex::UNMAPPED && task.upstream.iter().any(|up| dag.counts_pairwise(*up, key.task));
    let counts_of = |up: TaskIdx| {
        if pairs && dag.counts_pairwise(up, key.task) {
            let mut one = Counts::default();
            if let Some(ti) = view.ti(TiKey { task: up, map: key.map }) {
                one.add(ti.state);
            }
            one
        } else {
            *view.task(up).own()
        }
    };
    let mut all = *view.task(key.task).up();
    if pairs {
        all = Counts::default();
        task.upstream.iter().for_each(|up| all.merge(&counts_of(*up)));
    }
    let mut setups = Counts::default();
    if task.settings.trigger_rule == TriggerRule::AllDoneSetupSuccess {
        for up in task.upstream.iter().filter(|up| dag.task(**up).role == Role::Setup) {
            setups.merge(&counts_of(*up));
        }
    }
    let mut removed_mapped = 0;
    if all[TaskState::Removed] > 0 {
        let mapped = task.upstream.iter().filter(|up| view.task(**up).is_expanded());
        removed_mapped = mapped.map(|up| counts_of(*up)[TaskState::Removed]).sum();
    }
    Upstream { all, setups, removed_mapped }
}

fn is_done(view: &RunView, task: TaskIdx) -> bool {
    view.task(task).own()[TaskState::Success] == view.task(task).own().total()
}

/// The setups further up: all must have succeeded.
fn setups(view: &RunView, needed: &[TaskIdx]) -> Verdict {
    let mut all = Counts::default();
    for setup in needed {
        all.merge(view.task(*setup).own());
    }
    if all.sum(TaskState::is_failure) > 0 {
        Verdict::Fail
    } else if all[TaskState::Skipped] > 0 {
        Verdict::Skip
    } else if all[TaskState::Success] == all.total() {
        Verdict::Run
    } else {
        Verdict::Wait
    }
}

/// A mapping over something that failed or was skipped, whatever the rule says; or over nothing.
fn mapping_failed(view: &RunView, key: TiKey) -> Option<Readiness> {
    let scope_id = view.dag.task(key.task).scope?;
    if view.length(scope_id) == Some(0) {
        return Some(Readiness::Skip("its mapping is empty".into()));
    }
    let scope = view.dag.scope(scope_id);
    let mut worst = None;
    for source in scope.expand.tasks() {
        let InputRef::Output(task) = source else { continue };
        match view.ti(TiKey::single(task)).map(|ti| ti.state) {
            Some(TaskState::Failed | TaskState::UpstreamFailed) => {
                let id = &view.dag.task(task).id;
                return Some(Readiness::Fail(format!("`{id}`, which it is mapped over, failed")));
            }
            Some(TaskState::Skipped) => worst = Some(task),
            _ => {}
        }
    }
    worst.map(|task| {
        Readiness::Skip(format!("`{}`, which it is mapped over, was skipped", view.dag.task(task).id))
    })
}

fn expansion(view: &RunView, task: TaskIdx) -> Readiness {
    let scope = view.dag.task(task).scope.expect("only a mapped task is unexpanded");
    match view.dag.scope(scope).expand.length(&|source| view.source_length(source)) {
        Some(length) => Readiness::Expand(u32::try_from(length).unwrap_or(u32::MAX)),
        None => Readiness::Waits(WaitsFor::Mapping),
    }
}

/// The task in the run before that this instance waits for.
fn blocked_by_past(view: &RunView, key: TiKey) -> Option<TaskIdx> {
    let task = view.dag.task(key.task);
    if !task.settings.depends_on_past || view.run.ignores_past {
        return None;
    }
    let fits = match view.past(key) {
        None => true,
        Some(Some(state)) => state.is_success(),
        // The mapping was shorter in the run before: all of it counts.
        Some(None) => view.past_of_task(key.task).into_iter().all(TaskState::is_success),
    };
    if !fits {
        return Some(key.task);
    }
    if !task.settings.wait_for_downstream {
        return None;
    }
    // Only what the run before really has: a task that is new, or mapped otherwise, cannot be waited for.
    let open = |down: &&TaskIdx| {
        let in_past = view.past_of_task(**down);
        in_past.into_iter().any(|state| !state.is_success())
    };
    task.downstream.iter().find(open).copied()
}
