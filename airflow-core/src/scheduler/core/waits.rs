//! Deferred instances: whose waits this process runs.
//!
//! A wait belongs to the process that claimed it in the store. One is claimed after an instance was deferred, and whenever
//! a process was found dead; it begins once the run is in memory and shows the instance as deferred.

use crate::id::{AttemptId, DagId, MapIndex, RunPk, TaskIdx, TiKey};
use crate::plan::RunView;
use crate::scheduler::effects::{Effects, attempt_of};
use crate::state::TaskState;
use crate::store::Unit;

use super::{Core, WaitClaim};

impl Core {
    /// How many waits this process may run; it runs none unless this is called.
    pub(in crate::scheduler) fn set_wait_capacity(&mut self, capacity: usize) {
        self.wait_capacity = capacity;
        self.claim = capacity > 0;
    }

    /// Looks for waits that nobody runs.
    pub(in crate::scheduler) fn look_for_waits(&mut self) {
        self.claim = self.wait_capacity > 0;
    }

    /// Whose waits to ask for, if any.
    pub(super) fn wanted_waits(&self) -> Option<WaitClaim> {
        let room = self.wait_capacity.saturating_sub(self.waits.len() + self.claimed.len());
        if !self.claim || room == 0 || self.closed {
            return None;
        }
        let dags: Vec<DagId> = self.dags.keys().cloned().collect();
        Some(WaitClaim { dags, limit: u32::try_from(room).unwrap_or(u32::MAX) })
    }

    /// The store gave these to this process.
    pub(in crate::scheduler) fn claimed(&mut self, waits: Vec<(RunPk, AttemptId)>) -> Effects {
        self.claim = false;
        let mut effects = Effects::default();
        let mut last = None;
        self.claimed.extend(waits.iter().map(|(pk, id)| (*id, *pk)));
        for (pk, _) in waits {
            // They come by run, and one look at a run finds all of its waits.
            if last.replace(pk) == Some(pk) {
                continue;
            }
            match self.runs.remove(&pk) {
                Some(live) => {
                    self.begin_waits(&live.view, &mut effects);
                    self.runs.insert(pk, live);
                }
                None => drop(self.load.insert(pk)),
            }
            // What this view does not show as deferred, a fresh one may.
            if self.claimed.values().any(|run| *run == pk) {
                self.load.insert(pk);
            }
        }
        effects
    }

    /// Begins what was claimed and is deferred.
    fn begin_waits(&mut self, view: &RunView, effects: &mut Effects) {
        for (key, ti) in view.all().filter(|(_, ti)| ti.state == TaskState::Deferred) {
            let Some(id) = ti.data.attempt_id.filter(|id| self.claimed.remove(id).is_some()) else {
                continue;
            };
            self.waits.insert((view.run.pk, key), id);
            effects.watch.push(attempt_of(view, key, id, view.run.queued_at));
        }
    }

    /// Compares the waits of a run that was loaded with what the store says.
    pub(super) fn adopt_waits(&mut self, view: &RunView, effects: &mut Effects) {
        let pk = view.run.pk;
        let waits = |key: TiKey, id: AttemptId| {
            let ti = view.ti(key);
            ti.is_some_and(|ti| ti.state == TaskState::Deferred && ti.data.attempt_id == Some(id))
        };
        let gone: Vec<TiKey> =
            self.waits_of(pk).filter(|(key, id)| !waits(*key, *id)).map(|(key, _)| key).collect();
        for key in gone {
            effects.forget.extend(self.waits.remove(&(pk, key)));
        }
        self.begin_waits(view, effects);
        self.claimed.retain(|_, run| *run != pk);
    }

    /// Begins and ends what a unit that was written says.
    pub(super) fn follow_waits(&mut self, unit: &Unit, effects: &mut Effects) {
        for change in &unit.tis {
            let (from, to) = (change.transition.from(), change.transition.to());
            if to == TaskState::Deferred {
                self.look_for_waits();
            }
            if from == TaskState::Deferred
                && let Some(task) =
                    self.runs.get(&unit.run).and_then(|l| l.view.dag.find(change.task_id.as_str()))
            {
                let key = TiKey { task, map: change.map_index };
                effects.forget.extend(self.waits.remove(&(unit.run, key)));
            }
        }
    }

    /// The run is over or gone.
    pub(super) fn forget_waits(&mut self, pk: RunPk, effects: &mut Effects) {
        let keys: Vec<TiKey> = self.waits_of(pk).map(|(key, _)| key).collect();
        for key in keys {
            effects.forget.extend(self.waits.remove(&(pk, key)));
        }
        self.claimed.retain(|_, run| *run != pk);
    }

    /// Whether this process waits for something in a run.
    pub(super) fn has_waits(&self, pk: RunPk) -> bool {
        self.waits_of(pk).next().is_some()
    }

    fn waits_of(&self, pk: RunPk) -> impl Iterator<Item = (TiKey, AttemptId)> {
        let first = TiKey { task: TaskIdx::from(0), map: MapIndex(i32::MIN) };
        let of_run = self.waits.range((pk, first)..).take_while(move |((run, _), _)| *run == pk);
        of_run.map(|((_, key), id)| (*key, *id))
    }
}
