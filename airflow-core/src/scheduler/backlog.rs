//! Instances that are ready and wait for a slot, in the order in which they start.
//!
//! They stand in lanes: all instances of a lane take from the same limits, so a full limit blocks whole lanes and
//! nothing is looked at twice.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::id::{DagId, MapIndex, RunPk, TaskIdx, TiKey};
use crate::map::HashMap;
use crate::plan::RunView;

use super::routes::Place;

/// Smaller starts earlier: higher weight, then older run, then lower index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Candidate {
    weight: std::cmp::Reverse<i32>,
    logical_date: DateTime<Utc>,
    map: MapIndex,
    task: TaskIdx,
    run: RunPk,
}

impl Candidate {
    pub(super) fn new(view: &RunView, key: TiKey) -> Self {
        Self {
            weight: std::cmp::Reverse(view.dag.priority(key.task)),
            logical_date: view.run.logical_date,
            map: key.map,
            task: key.task,
            run: view.run.pk,
        }
    }

    pub(super) fn key(&self) -> TiKey {
        TiKey { task: self.task, map: self.map }
    }

    pub(super) fn run(&self) -> RunPk {
        self.run
    }
}

/// The limits that the instances of a lane share, and the executor that runs them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane {
    pub(super) dag: DagId,
    pub(super) pool: String,
    pub(super) pool_slots: u32,
    pub(super) place: Place,
    /// The task, if it has limits of its own.
    pub(super) task: Option<TaskIdx>,
    /// The run, if the task has a limit for each run.
    pub(super) run: Option<RunPk>,
}

impl Lane {
    fn of(view: &RunView, key: TiKey, place: Place) -> Self {
        let settings = &view.dag.task(key.task).settings;
        let per_run = settings.max_active_tis_per_dagrun.is_some();
        let limited = per_run || settings.max_active_tis_per_dag.is_some();
        Self {
            dag: view.dag.id.clone(),
            pool: settings.pool.clone(),
            pool_slots: settings.pool_slots,
            place,
            task: limited.then_some(key.task),
            run: per_run.then_some(view.run.pk),
        }
    }
}

/// All lanes.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    lanes: BTreeMap<Lane, BTreeSet<Candidate>>,
    /// Since when each of them waits.
    since: HashMap<Candidate, DateTime<Utc>>,
    /// How many wait since each of these moments.
    moments: BTreeMap<DateTime<Utc>, usize>,
}

impl Backlog {
    pub(super) fn add(&mut self, view: &RunView, key: TiKey, place: Place, now: DateTime<Utc>) {
        let candidate = Candidate::new(view, key);
        if let Entry::Vacant(unknown) = self.since.entry(candidate) {
            unknown.insert(now);
            *self.moments.entry(now).or_default() += 1;
        }
        self.lanes.entry(Lane::of(view, key, place)).or_default().insert(candidate);
    }

    /// Since when the one waits that waits for the longest time.
    pub(super) fn waits_since(&self) -> Option<DateTime<Utc>> {
        self.moments.keys().next().copied()
    }

    /// It does not wait any more.
    fn waits_no_more(&mut self, candidate: Candidate) {
        let Some(since) = self.since.remove(&candidate) else { return };
        if let MapEntry::Occupied(mut count) = self.moments.entry(since) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    pub(super) fn remove(&mut self, lane: &Lane, candidate: Candidate) {
        self.waits_no_more(candidate);
        if let Some(candidates) = self.lanes.get_mut(lane) {
            candidates.remove(&candidate);
            if candidates.is_empty() {
                self.lanes.remove(lane);
            }
        }
    }

    /// Takes out an instance that no longer waits: it was skipped or stopped before it had a slot.
    pub(super) fn forget(&mut self, view: &RunView, key: TiKey, place: Place) {
        self.remove(&Lane::of(view, key, place), Candidate::new(view, key));
    }

    /// Takes out everything of a run: it ended or is loaded again.
    pub(super) fn forget_run(&mut self, run: RunPk) {
        let mut gone = Vec::new();
        self.lanes.retain(|_, candidates| {
            gone.extend(candidates.extract_if(.., |candidate| candidate.run == run));
            !candidates.is_empty()
        });
        gone.into_iter().for_each(|candidate| self.waits_no_more(candidate));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// The first of each lane.
    pub(super) fn heads(&self) -> impl Iterator<Item = (Candidate, &Lane)> {
        self.lanes.iter().filter_map(|(lane, candidates)| Some((*candidates.first()?, lane)))
    }

    pub(super) fn head(&self, lane: &Lane) -> Option<Candidate> {
        self.lanes.get(lane)?.first().copied()
    }
}
