//! Says what becomes of the units of one commit, given what is stored.
//!
//! Pure. A store fills a [`View`] with the rows that the units name, asks [`View::judge`] for one unit after the other,
//! and writes those that are [`UnitResult::Committed`]. A unit sees what the units before it have changed.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{AttemptId, MapIndex, RunPk, TaskId};
use crate::state::{RunState, TaskState};

use super::{AttemptStart, AttemptState, SlotKey, Unit, UnitResult};

/// A task instance.
pub(crate) type TiId = (RunPk, TaskId, MapIndex);

/// The stored rows that some units name. A row that is not here does not exist.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Generation and state of runs.
    pub(crate) runs: BTreeMap<RunPk, (u32, RunState)>,
    /// State and epoch of task instances.
    pub(crate) tis: BTreeMap<TiId, (TaskState, u32)>,
    /// Attempts by id: instance, number, state.
    pub(crate) attempts: BTreeMap<AttemptId, (TiId, u32, AttemptState)>,
    /// The numbers of attempts that are taken.
    pub(crate) numbers: BTreeSet<(TiId, u32)>,
    /// What is taken of limits.
    pub(crate) used: BTreeMap<SlotKey, i64>,
    /// The sizes of pools.
    pub(crate) pools: BTreeMap<String, i32>,
    /// Pools in which deferred instances count.
    pub(crate) with_deferred: BTreeSet<String>,
}

/// What one unit takes of one limit in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Net {
    /// The limit.
    pub(crate) key: SlotKey,
    /// Taken, or given back if negative.
    pub(crate) delta: i64,
    /// The smallest limit that was named.
    pub(crate) limit: Option<i64>,
}

/// The slot changes of a unit, one for each limit, in the order in which the unit names them.
pub(crate) fn net_slots(unit: &Unit) -> Vec<Net> {
    let mut all: Vec<Net> = Vec::new();
    for change in &unit.slots {
        match all.iter_mut().find(|net| net.key == change.key) {
            Some(net) => {
                net.delta = net.delta.saturating_add(change.delta);
                net.limit = net.limit.into_iter().chain(change.limit).min();
            }
            None => all.push(Net { key: change.key.clone(), delta: change.delta, limit: change.limit }),
        }
    }
    all
}

/// The instance an attempt belongs to.
pub(crate) fn ti_of(run: RunPk, start: &AttemptStart) -> TiId {
    (run, start.task_id.clone(), start.map_index)
}

impl View {
    /// Says what becomes of `unit`; if it is committed, the view shows its changes afterwards.
    pub(crate) fn judge(&mut self, unit: &Unit) -> UnitResult {
        if !self.holds(unit) {
            return UnitResult::Stale;
        }
        if let Some(key) = self.full(unit) {
            return UnitResult::Full(key);
        }
        self.note(unit);
        UnitResult::Committed
    }

    /// Whether all that the unit was decided on is still so.
    fn holds(&self, unit: &Unit) -> bool {
        let Some((generation, state)) = self.runs.get(&unit.run) else { return false };
        let run_fits = *generation == unit.generation
            && unit.run_change.as_ref().is_none_or(|change| change.transition.from() == *state);
        let mut seen = BTreeSet::new();
        let tis_fit = unit.tis.iter().all(|change| {
            let ti = (unit.run, change.task_id.clone(), change.map_index);
            let stored = self.tis.get(&ti).copied().unwrap_or((TaskState::None, 0));
            stored == (change.transition.from(), change.epoch) && seen.insert(ti)
        });
        let mut ids = BTreeSet::new();
        let starts_fit = unit.started.iter().all(|start| {
            let ti = ti_of(unit.run, start);
            ids.insert(start.attempt_id)
                && match self.attempts.get(&start.attempt_id) {
                    // Claimed: the same attempt goes from queued to running.
                    Some((known, number, AttemptState::Queued)) => {
                        start.state == AttemptState::Running && (known, *number) == (&ti, start.number)
                    }
                    Some(_) => false,
                    None => !self.numbers.contains(&(ti, start.number)),
                }
        });
        run_fits && tis_fit && starts_fit
    }

    /// The first limit that has no room for the unit.
    fn full(&self, unit: &Unit) -> Option<SlotKey> {
        let no_room = |net: &Net| {
            let after = self.taken(unit, &net.key).saturating_add(net.delta);
            let limit = match &net.key {
                // A pool that nobody knows has no slots.
                SlotKey::Pool(name) => Some(self.pools.get(name).map_or(0, |slots| i64::from(*slots))),
                _ => net.limit,
            };
            net.delta > 0 && limit.is_some_and(|limit| limit >= 0 && after > limit)
        };
        net_slots(unit).into_iter().find(no_room).map(|net| net.key)
    }

    /// What is taken of a limit before the unit; of a pool in which deferred instances count, with those as they are
    /// after it.
    fn taken(&self, unit: &Unit, key: &SlotKey) -> i64 {
        let used = |key: &SlotKey| self.used.get(key).copied().unwrap_or(0);
        match key {
            SlotKey::Pool(name) if self.with_deferred.contains(name) => {
                let deferred = SlotKey::Deferred(name.clone());
                let change: i64 = unit.slots.iter().filter(|s| s.key == deferred).map(|s| s.delta).sum();
                used(key) + (used(&deferred) + change).max(0)
            }
            _ => used(key),
        }
    }

    fn note(&mut self, unit: &Unit) {
        let run = self.runs.get_mut(&unit.run).expect("a unit that holds has a run");
        run.0 += u32::from(unit.by_user);
        if let Some(change) = &unit.run_change {
            run.1 = change.transition.to();
        }
        for change in &unit.tis {
            let ti = (unit.run, change.task_id.clone(), change.map_index);
            self.tis.insert(ti, (change.transition.to(), change.epoch + 1));
        }
        for start in &unit.started {
            let ti = ti_of(unit.run, start);
            self.numbers.insert((ti.clone(), start.number));
            self.attempts.insert(start.attempt_id, (ti, start.number, start.state));
        }
        for end in &unit.ended {
            if let Some(known) = self.attempts.get_mut(&end.attempt_id)
                && !known.2.is_ended()
                && known.0.0 == unit.run
            {
                known.2 = end.state;
            }
        }
        for net in net_slots(unit) {
            let used = self.used.entry(net.key).or_default();
            *used = used.saturating_add(net.delta).max(0);
        }
    }
}
