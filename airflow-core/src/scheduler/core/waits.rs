//! The waits of deferred instances: a process runs those of the runs that it decides about.
//!
//! They begin when a view shows an instance as deferred and stop when it is not any more, or when the run goes to another
//! process, which begins them again. What is to begin and to stop is collected here; the loop passes it on.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{AttemptId, MapIndex, RunPk, TaskIdx, TiKey};
use crate::plan::{Attempt, RunView};
use crate::scheduler::effects::attempt_of;
use crate::state::TaskState;
use crate::store::Unit;

use super::Core;

/// What this process knows of its waits.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// How many it may run; none unless somebody runs them.
    capacity: usize,
    running: BTreeMap<(RunPk, TiKey), AttemptId>,
    /// Those for which there was no room.
    parked: BTreeSet<(RunPk, TiKey)>,
    begun: Vec<Attempt>,
    /// Those whose instance is not deferred any more.
    stopped: Vec<AttemptId>,
    /// Those that go on elsewhere, or later.
    left: Vec<AttemptId>,
}

/// What there is to do about waits.
#[derive(Debug, Default)]
pub(in crate::scheduler) struct WaitOrders {
    pub begin: Vec<Attempt>,
    pub stop: Vec<AttemptId>,
    pub leave: Vec<AttemptId>,
}

impl Waits {
    fn stop(&mut self, run: RunPk, key: TiKey) {
        self.parked.remove(&(run, key));
        self.stopped.extend(self.running.remove(&(run, key)));
    }

    fn begin(&mut self, view: &RunView, key: TiKey) {
        let place = (view.run.pk, key);
        let Some(ti) = view.ti(key).filter(|ti| ti.state == TaskState::Deferred) else { return };
        let Some(id) = ti.data.attempt_id else { return };
        if self.capacity == 0 || self.running.get(&place) == Some(&id) {
            return;
        }
        self.stop(view.run.pk, key);
        if self.running.len() >= self.capacity {
            self.parked.insert(place);
            return;
        }
        self.running.insert(place, id);
        self.begun.push(attempt_of(view, key, id, view.run.queued_at));
    }

    fn of_run(&self, run: RunPk) -> Vec<TiKey> {
        let first = (run, TiKey { task: TaskIdx::from(0), map: MapIndex(i32::MIN) });
        let running = self.running.range(first..).map(|(place, _)| *place);
        let parked = self.parked.range(first..).copied();
        let is_of_run = |place: &(RunPk, TiKey)| place.0 == run;
        running.take_while(is_of_run).chain(parked.take_while(is_of_run)).map(|(_, key)| key).collect()
    }
}

impl Core {
    /// How many waits this process may run.
    pub(in crate::scheduler) fn set_wait_capacity(&mut self, capacity: usize) {
        self.waits.capacity = capacity;
    }

    /// What to do since the last call.
    pub(in crate::scheduler) fn take_waits(&mut self) -> WaitOrders {
        while self.waits.running.len() < self.waits.capacity
            && let Some((run, key)) = self.waits.parked.pop_first()
        {
            if let Some(live) = self.runs.get(&run) {
                self.waits.begin(&live.view, key);
            }
        }
        WaitOrders {
            begin: std::mem::take(&mut self.waits.begun),
            stop: std::mem::take(&mut self.waits.stopped),
            leave: std::mem::take(&mut self.waits.left),
        }
    }

    /// Compares the waits of a run that was loaded with what it says.
    pub(super) fn adopt_waits(&mut self, view: &RunView) {
        for key in self.waits.of_run(view.run.pk) {
            if view.ti(key).is_none_or(|ti| ti.state != TaskState::Deferred) {
                self.waits.stop(view.run.pk, key);
            }
        }
        let deferred = view.all().filter(|(_, ti)| ti.state == TaskState::Deferred);
        deferred.for_each(|(key, _)| self.waits.begin(view, key));
    }

    /// Begins and stops what a unit that was written says.
    pub(super) fn follow_waits(&mut self, unit: &Unit) {
        let Some(live) = self.runs.get(&unit.run) else { return };
        for change in &unit.tis {
            let (from, to) = (change.transition.from(), change.transition.to());
            if (from == TaskState::Deferred) == (to == TaskState::Deferred) {
                continue;
            }
            let Some(task) = live.view.dag.find(change.task_id.as_str()) else { continue };
            let key = TiKey { task, map: change.map_index };
            if to == TaskState::Deferred {
                self.waits.begin(&live.view, key);
            } else {
                self.waits.stop(unit.run, key);
            }
        }
    }

    /// The run is over or gone.
    pub(super) fn stop_waits(&mut self, run: RunPk) {
        for key in self.waits.of_run(run) {
            self.waits.stop(run, key);
        }
    }

    /// Another process has the run, or it waits to be started again: what is deferred stays so.
    pub(super) fn leave_waits(&mut self, run: RunPk) {
        for key in self.waits.of_run(run) {
            self.waits.parked.remove(&(run, key));
            let id = self.waits.running.remove(&(run, key));
            self.waits.left.extend(id);
        }
    }
}
