//! Runs of other versions of dags than this process has: left alone.
//!
//! A run is decided about, and runs, with the code that it was made with. Schedulers of other versions count it among the
//! active runs of its dag, and no more.

use crate::id::{DagId, RunPk};
use crate::store::RunRow;

use super::Core;

/// A run of another version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::scheduler) struct OtherRun {
    pub run: RunPk,
    pub dag_id: DagId,
    /// The version that it has.
    pub from: String,
    /// The version that this process has.
    pub to: String,
}

impl Core {
    /// Whether a run is of another version; if so, it is known as such from now on, and nothing else.
    pub(super) fn leave_to_others(&mut self, row: &RunRow) -> bool {
        let Some(lane) = self.dags.get_mut(&row.dag_id) else { return false };
        if lane.dag.fingerprint == row.fingerprint {
            lane.others.remove(&row.pk);
            return false;
        }
        if lane.others.insert(row.pk, row.fingerprint.clone()).is_some() {
            return true;
        }
        tracing::info!(
            dag = %row.dag_id, run = %row.run_id, version = row.fingerprint,
            "the run is of another version and is left to schedulers that have it"
        );
        lane.running.remove(&row.pk);
        lane.queued.retain(|(_, _, pk), _| *pk != row.pk);
        self.dag_of.insert(row.pk, row.dag_id.clone());
        self.load.remove(&row.pk);
        self.dirty.remove(&row.pk);
        self.inbox.remove(&row.pk);
        self.orphans.remove(&row.pk);
        self.drop_view(row.pk);
        self.leave_waits(row.pk);
        true
    }

    /// Whether a run is known to be of another version.
    pub(in crate::scheduler) fn is_of_others(&self, run: RunPk) -> bool {
        let lane = self.dag_of.get(&run).and_then(|dag| self.dags.get(dag));
        lane.is_some_and(|lane| lane.others.contains_key(&run))
    }

    /// Runs of other versions.
    pub(in crate::scheduler) fn others(&self) -> Vec<OtherRun> {
        let of_lane = |(dag_id, lane): (&DagId, &super::DagLane)| {
            let to = lane.dag.fingerprint.clone();
            let (dag_id, others) = (dag_id.clone(), lane.others.clone());
            others.into_iter().map(move |(run, from)| OtherRun {
                run,
                dag_id: dag_id.clone(),
                from,
                to: to.clone(),
            })
        };
        self.dags.iter().flat_map(of_lane).collect()
    }
}
