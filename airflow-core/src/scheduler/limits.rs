//! What is taken of each limit, as far as this scheduler knows. The store has the last word.

use crate::map::HashMap;
use crate::plan::RunView;
use crate::state::TaskState;
use crate::store::{PoolRow, SlotChange, SlotKey};

use super::backlog::{Candidate, Lane};

#[derive(Debug, Default)]
pub(super) struct Limits {
    used: HashMap<SlotKey, i64>,
    /// The size of each pool, and whether deferred instances count.
    pools: HashMap<String, (i64, bool)>,
}

impl Limits {
    pub(super) fn load(&mut self, pools: Vec<PoolRow>, slots: Vec<(SlotKey, i64)>) {
        self.pools = pools
            .into_iter()
            .map(|pool| (pool.spec.name, (i64::from(pool.spec.slots), pool.spec.include_deferred)))
            .collect();
        self.used = slots.into_iter().collect();
    }

    pub(super) fn pool_exists(&self, name: &str) -> bool {
        self.pools.contains_key(name)
    }

    pub(super) fn used(&self, key: &SlotKey) -> i64 {
        self.used.get(key).copied().unwrap_or(0)
    }

    pub(super) fn apply(&mut self, changes: &[SlotChange]) {
        for change in changes {
            let used = self.used.entry(change.key.clone()).or_default();
            *used = (*used + change.delta).max(0);
        }
    }

    pub(super) fn undo(&mut self, changes: &[SlotChange]) {
        for change in changes {
            let used = self.used.entry(change.key.clone()).or_default();
            *used = (*used - change.delta).max(0);
        }
    }

    /// Whether the first of a lane may start now.
    pub(super) fn admit(&self, lane: &Lane, candidate: Candidate, view: &RunView) -> bool {
        let Some((size, with_deferred)) = self.pools.get(&lane.pool) else { return false };
        let mut taken = self.used(&SlotKey::Pool(lane.pool.clone()));
        if *with_deferred {
            taken += self.used(&SlotKey::Deferred(lane.pool.clone()));
        }
        if *size >= 0 && taken + i64::from(lane.pool_slots) > *size {
            return false;
        }
        let settings = &view.dag.task(candidate.key().task).settings;
        if self.used(&SlotKey::Dag(lane.dag.clone())) >= i64::from(view.dag.settings.max_active_tasks) {
            return false;
        }
        if let Some(limit) = settings.max_active_tis_per_dag {
            let task = SlotKey::Task(lane.dag.clone(), view.dag.task(candidate.key().task).id.clone());
            if self.used(&task) >= i64::from(limit) {
                return false;
            }
        }
        match settings.max_active_tis_per_dagrun {
            Some(limit) => {
                let own = view.task(candidate.key().task).own();
                own.sum(|state| state.is_executing() || state == TaskState::Deferred) < limit
            }
            None => true,
        }
    }
}

/// What `after` changes beside `before`.
pub(super) fn difference(before: &[SlotChange], after: &[SlotChange]) -> Vec<SlotChange> {
    let old = |key: &SlotKey| before.iter().find(|slot| slot.key == *key).map_or(0, |slot| slot.delta);
    after
        .iter()
        .map(|slot| SlotChange { delta: slot.delta - old(&slot.key), ..slot.clone() })
        .filter(|slot| slot.delta != 0)
        .collect()
}
