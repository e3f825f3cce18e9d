//! What a commit brings about: attempts to hand out and to stop, callbacks to call, runs that ended.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::callback::{Callback, CallbackContext};
use crate::compile::CompiledDag;
use crate::id::{AttemptId, DagId, MapIndex, RunId, TiKey};
use crate::operator::TiInfo;
use crate::plan::{Attempt, Report, RunView};
use crate::state::{RunEvent, RunState, TaskEvent};
use crate::store::{RunRow, TiChange};

/// What is to be done after a commit.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub submit: Vec<Attempt>,
    pub cancel: Vec<AttemptId>,
    /// Waits to begin, and to stop for good.
    pub watch: Vec<Attempt>,
    pub forget: Vec<AttemptId>,
    pub callbacks: Vec<(Callback, CallbackContext)>,
    pub ended: Vec<(DagId, RunId, RunState)>,
    /// Dags of which a run failed and that pause themselves after too many.
    pub failed: Vec<Arc<CompiledDag>>,
}

/// The attempt of an instance that was started.
pub(super) fn attempt_of(view: &RunView, key: TiKey, id: AttemptId, at: DateTime<Utc>) -> Attempt {
    let ti = view.ti(key).expect("an attempt is of an instance that the view has");
    let task = view.dag.task(key.task);
    Attempt {
        run: Arc::new(view.info()),
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
        queue: task.settings.queue.clone(),
        at,
        try_started_at: ti.data.started_at.unwrap_or(at),
        wait: ti.data.wait.clone(),
        source_stamp: view.source_stamp(),
    }
}

/// Whom a change of an instance is told.
pub(super) fn callbacks_of(view: &RunView, change: &TiChange, reports: &[Report], effects: &mut Effects) {
    let event = match change.transition.event() {
        TaskEvent::Succeeded | TaskEvent::Elided => "success",
        TaskEvent::Failed | TaskEvent::GivenUp => "failure",
        TaskEvent::Retried => "retry",
        TaskEvent::Skipped => "skipped",
        _ => return,
    };
    let Some(task) = view.dag.find(change.task_id.as_str()) else { return };
    let key = TiKey { task, map: change.map_index };
    let at = reports.iter().find(|report| report.key == key).map_or(view.run.queued_at, |report| report.at);
    for callback in view.dag.task(task).settings.callbacks.for_event(event) {
        let context = CallbackContext {
            dag_id: view.run.dag_id.clone(),
            run_id: view.run.run_id.clone(),
            logical_date: view.run.logical_date,
            task_id: Some(change.task_id.clone()),
            map_index: change.map_index,
            try_number: change.data.try_number,
            event,
            reason: change.data.reason.clone(),
            at,
        };
        effects.callbacks.push((callback.clone(), context));
    }
}

/// Whom the end of a run is told.
pub(super) fn callbacks_of_run(
    run: &RunRow,
    dag: &CompiledDag,
    event: RunEvent,
    now: DateTime<Utc>,
    effects: &mut Effects,
) {
    let (name, list) = match event {
        RunEvent::Succeeded => ("success", &dag.settings.callbacks.on_success),
        _ => ("failure", &dag.settings.callbacks.on_failure),
    };
    for callback in list {
        let context = CallbackContext {
            dag_id: run.dag_id.clone(),
            run_id: run.run_id.clone(),
            logical_date: run.logical_date,
            task_id: None,
            map_index: MapIndex::UNMAPPED,
            try_number: 0,
            event: name,
            reason: run.reason.clone(),
            at: now,
        };
        effects.callbacks.push((callback.clone(), context));
    }
}
