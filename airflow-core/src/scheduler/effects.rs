//! What a commit brings about: attempts to hand out and to stop, callbacks to call, runs that ended.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::compile::CompiledDag;
use crate::id::{AttemptId, DagId, IncarnationId, MapIndex, RunId, TiKey};
use crate::operator::{RunInfo, TiInfo};
use crate::plan::{Attempt, Report, RunView, Terms};
use crate::scheduler::routes::Place;
use crate::state::{RunEvent, RunState, TaskEvent};
use crate::store::{Notice, NoticeRow, TiChange, Unit};

/// What is to be done after a commit.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub submit: Vec<(Place, Attempt)>,
    pub cancel: Vec<(Place, AttemptId)>,
    /// What callbacks are told now.
    pub notices: Vec<NoticeRow>,
    pub ended: Vec<(DagId, RunId, RunState)>,
    /// Dags of which a run failed and that pause themselves after too many.
    pub failed: Vec<Arc<CompiledDag>>,
}

impl Effects {
    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.submit.is_empty()
            && self.cancel.is_empty()
            && self.notices.is_empty()
            && self.ended.is_empty()
            && self.failed.is_empty()
    }
}

/// The attempt of an instance that was started.
pub(super) fn attempt_of(view: &RunView, key: TiKey, id: AttemptId, at: DateTime<Utc>) -> Attempt {
    attempt_in(view, Arc::new(view.info()), key, id, at)
}

/// The same; what it gets to know of its run is known already.
pub(super) fn attempt_in(
    view: &RunView,
    run: Arc<RunInfo>,
    key: TiKey,
    id: AttemptId,
    at: DateTime<Utc>,
) -> Attempt {
    let ti = view.ti(key).expect("an attempt is of an instance that the view has");
    let task = view.dag.task(key.task);
    Attempt {
        run,
        fingerprint: view.dag.fingerprint.clone(),
        task: key.task,
        ti: TiInfo {
            task_id: task.id.clone(),
            map_index: key.map,
            try_number: ti.data.try_number,
            max_tries: ti.data.max_tries,
            attempt_id: id,
            epoch: ti.epoch,
        },
        queue: task.settings.queue_in(view.run.queue.as_deref()).to_owned(),
        terms: Terms::of(task),
        at,
        try_started_at: ti.data.started_at.unwrap_or(at),
        wait: ti.data.wait.clone(),
        given: Vec::new(),
        source_stamp: view.source_stamp(),
    }
}

/// What callbacks are to be told of a unit, written with it.
pub(super) fn notices_of(
    view: &RunView,
    unit: &Unit,
    reports: &[Report],
    ended: Option<RunEvent>,
    owner: IncarnationId,
) -> Vec<Notice> {
    let of_ti = |change: &TiChange| notice_of(view, change, reports, owner);
    let mut notices: Vec<Notice> = unit.tis.iter().filter_map(of_ti).collect();
    let event = ended.map(|event| if event == RunEvent::Succeeded { "success" } else { "failure" });
    if let Some(event) = event
        && !view.dag.settings.callbacks.for_event(event).is_empty()
    {
        notices.push(Notice {
            task_id: None,
            map_index: MapIndex::UNMAPPED,
            epoch: unit.generation,
            event: event.to_owned(),
            try_number: 0,
            reason: view.run.reason.clone(),
            at: unit.at,
            owner,
        });
    }
    notices
}

fn notice_of(view: &RunView, change: &TiChange, reports: &[Report], owner: IncarnationId) -> Option<Notice> {
    let event = match change.transition.event() {
        TaskEvent::Succeeded | TaskEvent::Elided => "success",
        TaskEvent::Failed | TaskEvent::GivenUp => "failure",
        TaskEvent::Retried => "retry",
        TaskEvent::Skipped => "skipped",
        _ => return None,
    };
    let task = view.dag.find(change.task_id.as_str())?;
    if view.dag.task(task).settings.callbacks.for_event(event).is_empty() {
        return None;
    }
    let key = TiKey { task, map: change.map_index };
    let at = reports.iter().find(|report| report.key == key).map_or(view.run.queued_at, |report| report.at);
    Some(Notice {
        task_id: Some(change.task_id.clone()),
        map_index: change.map_index,
        epoch: change.epoch + 1,
        event: event.to_owned(),
        try_number: change.data.try_number,
        reason: change.data.reason.clone(),
        at,
        owner,
    })
}
