//! Which dags have new assets, as far as this process knows.
//!
//! What it knows comes from its own commits and from the store's queue; the store has the last word when a run is made.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use crate::asset::AssetKey;
use crate::compile::CompiledDag;
use crate::decide::assets::{asset_run, is_due};
use crate::id::DagId;
use crate::map::HashMap;
use crate::store::{QueuedAsset, Unit};

use super::{Core, Wants};

#[derive(Debug, Default)]
pub(super) struct Fed {
    /// The dags whose schedules name an asset or alias.
    consumers: HashMap<AssetKey, BTreeSet<DagId>>,
    /// What is new, of dags of which anything is.
    new: BTreeMap<DagId, BTreeSet<AssetKey>>,
    /// A run was refused: the queue is read again.
    unknown: bool,
}

impl Fed {
    pub(super) fn know_dag(&mut self, dag: &CompiledDag) {
        for one in dag.timetable.asset_condition().map(|all| all.refs()).unwrap_or_default() {
            self.consumers.entry(one.key()).or_default().insert(dag.id.clone());
        }
    }
}

impl Core {
    /// Whether any dag runs by assets.
    pub(in crate::scheduler) fn has_consumers(&self) -> bool {
        !self.fed.consumers.is_empty()
    }

    /// What waits for dags, as the store knows it.
    pub(in crate::scheduler) fn know_asset_queue(&mut self, queue: Vec<QueuedAsset>) {
        self.fed.unknown = false;
        self.fed.new.clear();
        for queued in queue {
            if self.fed.consumers.get(&queued.asset).is_some_and(|dags| dags.contains(&queued.dag_id)) {
                self.fed.new.entry(queued.dag_id).or_default().insert(queued.asset);
            }
        }
    }

    /// What waits is to be read again: a run by assets was refused, or a watcher has written an event.
    pub(in crate::scheduler) fn forget_asset_queue(&mut self) {
        self.fed.unknown = self.has_consumers();
    }

    /// Notes what a unit of ours has queued.
    pub(super) fn feed(&mut self, unit: &Unit) {
        for key in unit.asset_events.iter().flat_map(crate::store::AssetEvent::refs) {
            for dag in self.fed.consumers.get(&key).into_iter().flatten() {
                if self.dags.get(dag).is_some_and(|lane| !lane.row.is_paused) {
                    self.fed.new.entry(dag.clone()).or_default().insert(key.clone());
                }
            }
        }
    }

    /// Asks for the runs that are due by assets.
    pub(super) fn want_asset_runs(&mut self, now: DateTime<Utc>, wants: &mut Wants) {
        wants.asset_queue = self.fed.unknown;
        if self.fed.unknown {
            return;
        }
        let dags = &self.dags;
        self.fed.new.retain(|id, new| {
            let Some(lane) = dags.get(id) else { return false };
            let Some(condition) = lane.dag.timetable.asset_condition() else { return false };
            if lane.row.is_paused || !lane.has_room() || !is_due(condition, new) {
                return true;
            }
            wants.create.push(asset_run(&lane.dag, new, now));
            // What comes from now on is for the next run.
            false
        });
    }
}
