//! What holds in every store beside the units: names, sizes, refusals.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use serde_json::Value;

use crate::decide::timetable::run_id;
use crate::hash::Hash;
use crate::id::{DagId, TaskId};
use crate::state::{RunState, TaskState};
use crate::timetable::DataInterval;

use super::{Held, NewRun, NextRun, PoolSpec, SkipRecord, SlotKey, StoreError, StoreResult};

/// The pool of every task that names none.
pub(crate) const DEFAULT_POOL: &str = "default_pool";

/// The slots of the default pool until a user changes them (Airflow's number).
const DEFAULT_POOL_SLOTS: i32 = 128;

/// The pool that always exists, as it is at first.
pub(crate) fn default_pool() -> PoolSpec {
    PoolSpec {
        name: DEFAULT_POOL.to_owned(),
        slots: DEFAULT_POOL_SLOTS,
        description: "Default pool".to_owned(),
        include_deferred: false,
    }
}

/// Refuses to delete the pool that always exists.
pub(crate) fn may_delete_pool(name: &str) -> StoreResult<()> {
    if name == DEFAULT_POOL {
        return Err(StoreError::Refused(format!(
            "`{DEFAULT_POOL}` cannot be deleted; set its slots instead"
        )));
    }
    Ok(())
}

/// Why a dag cannot be deleted now.
pub(crate) fn still_running(dag: &DagId) -> StoreError {
    StoreError::Refused(format!(
        "dag `{dag}` has running or deferred task instances; end its runs before you delete it"
    ))
}

/// What is said of a dag that is not stored.
pub(crate) fn no_dag(dag: &DagId) -> StoreError {
    StoreError::NotFound(format!("dag `{dag}`"))
}

/// What is said of a run that is not stored.
pub(crate) fn no_run(run: crate::id::RunPk) -> StoreError {
    StoreError::NotFound(format!("run {run}"))
}

/// The states in which a task instance keeps its dag from being deleted: an attempt may be executing, or it waits and
/// counts against limits.
pub(crate) fn keeps_dag(state: TaskState) -> bool {
    state.is_executing() || state == TaskState::Deferred
}

/// A text as it is stored: PostgreSQL has no NUL in texts, and what one store cannot keep, none keeps.
pub(crate) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// Cuts a time to what is stored.
pub(crate) fn micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}

/// The first stored time that is not before `time`.
pub(crate) fn ceil_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    let cut = micros(time);
    if cut < time { cut + TimeDelta::microseconds(1) } else { cut }
}

/// Cuts the times of an interval to what is stored.
pub(crate) fn interval(interval: DataInterval) -> DataInterval {
    DataInterval { start: micros(interval.start), end: micros(interval.end) }
}

/// Cuts the times of a next run to what is stored.
pub(crate) fn next_run(next: NextRun) -> NextRun {
    NextRun { data_interval: interval(next.data_interval), run_after: micros(next.run_after) }
}

/// What a run and its instances have taken of limits, in the order in which limits are locked: what is given back when they are
/// deleted.
pub(crate) fn held_by<'a>(
    dag: &DagId,
    run: RunState,
    instances: impl Iterator<Item = (&'a TaskId, TaskState, &'a Held)>,
) -> BTreeMap<SlotKey, i64> {
    let mut all = BTreeMap::new();
    if run == RunState::Running {
        all.insert(SlotKey::Runs(dag.clone()), 1);
    }
    for (task, state, held) in instances {
        for (key, count) in held.slots(state, dag, task) {
            *all.entry(key).or_insert(0) += count;
        }
    }
    all
}

/// Reads what a branch decided. A user may store anything under any key, so what is no record is none.
pub(crate) fn skip_record(value: &Value) -> Option<SkipRecord> {
    serde::Deserialize::deserialize(value).ok()
}

/// What the events that a run takes say together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken<'e> {
    /// When the newest happened.
    pub(crate) newest: DateTime<Utc>,
    /// From the start of the earliest source to the end of the latest.
    pub(crate) interval: DataInterval,
    /// The smallest id among them: no other run of the dag has it.
    pub(crate) least: &'e str,
}

/// How many letters tell apart the ids of two runs by assets of one moment.
const SUFFIX_LETTERS: usize = 8;

/// A run by assets, with the dates and the id that its events give it.
pub(crate) fn taking(run: &NewRun, taken: Taken<'_>) -> NewRun {
    let at = micros(taken.newest);
    let mut hash = Hash::default();
    hash.add(run.dag_id.as_str());
    hash.add(taken.least);
    let id = format!("{}_{}", run_id(run.run_type, &at), hash.hex(SUFFIX_LETTERS));
    NewRun {
        run_id: id.into(),
        logical_date: at,
        data_interval: taken.interval,
        run_after: at,
        ..run.clone()
    }
}
