//! A queued attempt taken by a worker.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::compile::CompiledDag;
use crate::id::IncarnationId;
use crate::operator::{RunInfo, TiInfo};
use crate::plan::{Attempt, Terms};
use crate::state::{RunState, TaskEvent, TaskState};
use crate::store::{AttemptStart, AttemptState, FoundAttempt, RunRow, TiChange, Unit};

/// The unit by which `process` claims an attempt; `None` if it is not there to be claimed: somebody has, or it is over.
/// Whoever gets it committed runs the attempt, and nobody else.
pub fn claim(found: &FoundAttempt, process: IncarnationId, actor: &str, now: DateTime<Utc>) -> Option<Unit> {
    let ti = &found.ti;
    let waits = found.state == AttemptState::Queued
        && found.run.state == RunState::Running
        && ti.state == TaskState::Queued
        && ti.data.attempt_id == Some(found.start.attempt_id);
    let transition = ti.state.on(TaskEvent::Claimed).ok().filter(|_| waits)?;
    let mut unit = Unit::new(&found.run, actor, now);
    unit.tis.push(TiChange {
        task_id: ti.task_id.clone(),
        map_index: ti.map_index,
        transition,
        epoch: ti.epoch,
        data: ti.data.clone(),
    });
    let (state, incarnation) = (AttemptState::Running, Some(process));
    unit.started.push(AttemptStart { state, incarnation, ..found.start.clone() });
    Some(unit)
}

/// What a worker runs after it has claimed an attempt, or after it has found it to be its own. `None` if its version of
/// the dag does not have the task.
pub fn claimed_attempt(found: &FoundAttempt, dag: &CompiledDag) -> Option<Attempt> {
    let (ti, start) = (&found.ti, &found.start);
    // The claim counts the epoch on.
    let epoch = ti.epoch + u32::from(ti.state == TaskState::Queued);
    let task = dag.find(ti.task_id.as_str())?;
    Some(Attempt {
        run: Arc::new(run_info(&found.run)),
        fingerprint: dag.fingerprint.clone(),
        task,
        ti: TiInfo {
            task_id: ti.task_id.clone(),
            map_index: ti.map_index,
            try_number: ti.data.try_number,
            max_tries: ti.data.max_tries,
            attempt_id: start.attempt_id,
            epoch,
        },
        queue: start.queue.clone(),
        terms: Terms::of(dag.task(task)),
        at: start.at,
        try_started_at: ti.data.started_at.unwrap_or(start.at),
        wait: ti.data.wait.clone(),
        // Values that something is mapped over are there before it starts, and change only if a user clears them.
        given: Vec::new(),
        source_stamp: u64::from(found.run.generation),
    })
}

/// What attempts get to know of a run.
pub(super) fn run_info(run: &RunRow) -> RunInfo {
    RunInfo {
        pk: run.pk,
        dag_id: run.dag_id.clone(),
        run_id: run.run_id.clone(),
        run_type: run.run_type,
        logical_date: run.logical_date,
        data_interval: run.data_interval,
        run_after: run.run_after,
        queued_at: run.queued_at,
        started_at: run.started_at,
        conf: run.conf.clone(),
    }
}
