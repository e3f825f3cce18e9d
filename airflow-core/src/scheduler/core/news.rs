//! What the scheduler hears: dags, runs, reports, limits, and what was loaded.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::id::{AttemptId, DagId, RunPk, TiKey};
use crate::map::HashMap;
use crate::plan::{Report, RunView, Ti};
use crate::registry::Registry;
use crate::scheduler::effects::{Effects, attempt_of};
use crate::state::{RunState, TaskState};
use crate::store::{AttemptRow, CreatedRun, DagRow, PoolRow, RunRow, RunSnapshot, SlotKey};

use super::out::Sent;
use super::{Core, DagLane, Live, Timer, Timers, timeout_of};

impl Core {
    /// The dags as the store knows them, paused or not.
    pub(in crate::scheduler) fn know_dags(
        &mut self,
        rows: Vec<DagRow>,
        registry: &Registry,
        now: DateTime<Utc>,
    ) {
        for row in rows {
            let Some(dag) = registry.get(&row.dag_id) else { continue };
            let id = row.dag_id.clone();
            match self.dags.get_mut(&id) {
                Some(lane) => {
                    let unpaused = lane.row.is_paused && !row.is_paused;
                    lane.row = row;
                    if unpaused {
                        self.dirty.extend(lane.running.iter().copied());
                    }
                }
                None => {
                    let first = dag.tasks.iter().filter(|task| task.upstream.is_empty()).count();
                    let lane = DagLane {
                        dag: Arc::clone(dag),
                        width: first.max(1),
                        row,
                        queued: BTreeMap::new(),
                        running: BTreeSet::new(),
                        others: BTreeMap::new(),
                        ask_after: None,
                    };
                    self.fed.know_dag(dag);
                    self.know_deadlines_of(dag);
                    self.dags.insert(id.clone(), lane);
                }
            }
            self.look_at_schedule(&id, now);
        }
    }

    /// A run that is queued or running, as the store knows it.
    pub(in crate::scheduler) fn know_run(&mut self, row: RunRow, now: DateTime<Utc>) {
        if !row.state.is_finished() && self.leave_to_others(&row) {
            return;
        }
        let Some(lane) = self.dags.get_mut(&row.dag_id) else { return };
        match row.state {
            // Word of a run that was queued may come after it was found in the store and started.
            RunState::Queued if lane.running.contains(&row.pk) => return,
            RunState::Success | RunState::Failed => return,
            RunState::Queued | RunState::Running => {}
        }
        self.dag_of.insert(row.pk, row.dag_id.clone());
        match row.state {
            RunState::Queued => {
                let order = DagLane::order_of(&row);
                if row.run_after > now {
                    self.dag_timers.insert((row.run_after, row.dag_id.clone()));
                }
                lane.queued.insert(order, row);
            }
            RunState::Running => {
                lane.running.insert(row.pk);
                if self.share.is_foreign(row.pk) {
                    return;
                }
                let known = self.runs.get(&row.pk).map(|live| live.view.run.generation);
                if known != Some(row.generation) {
                    self.load.insert(row.pk);
                }
            }
            RunState::Success | RunState::Failed => {}
        }
    }

    /// The store lists `active` runs as queued or running: forget what is not among them any more, and load again
    /// what changed. Called after somebody else may have written.
    pub(in crate::scheduler) fn know_active(&mut self, active: Vec<RunRow>, now: DateTime<Utc>) {
        let listed: HashMap<RunPk, RunState> = active.iter().map(|row| (row.pk, row.state)).collect();
        for lane in self.dags.values_mut() {
            lane.queued.retain(|(_, _, pk), _| listed.get(pk) == Some(&RunState::Queued));
            lane.running.retain(|pk| listed.get(pk) == Some(&RunState::Running));
            lane.others.retain(|pk, _| listed.contains_key(pk));
        }
        self.share.keep(|pk| listed.contains_key(&pk));
        let gone: Vec<RunPk> =
            self.runs.keys().copied().filter(|pk| listed.get(pk) != Some(&RunState::Running)).collect();
        for pk in gone {
            self.drop_view(pk);
            // A run that is not listed is over; one that is queued again keeps what is deferred in it.
            if listed.contains_key(&pk) {
                self.leave_waits(pk);
            } else {
                self.stop_waits(pk);
            }
        }
        // Another process has ended them. What this one still runs of them is stopped once they are read.
        let runs_out = self.out.iter().map(|(_, sent)| sent.run);
        self.load.extend(runs_out.filter(|pk| !listed.contains_key(pk)));
        for row in active {
            self.know_run(row, now);
        }
        // What waits for the run before may wait no longer: somebody may have cleared or marked that one.
        let waits = |live: &Live| live.view.dag.looks_back && live.view.totals()[TaskState::None] > 0;
        self.load.extend(self.runs.iter().filter(|(_, live)| waits(live)).map(|(pk, _)| *pk));
        let ids: Vec<DagId> = self.dags.keys().cloned().collect();
        ids.iter().for_each(|id| self.look_at_schedule(id, now));
    }

    pub(in crate::scheduler) fn know_limits(&mut self, pools: Vec<PoolRow>, slots: Vec<(SlotKey, i64)>) {
        self.limits.load(pools, slots);
        self.limits_unknown = false;
    }

    pub(in crate::scheduler) fn pool_exists(&self, name: &str) -> bool {
        self.limits.pool_exists(name)
    }

    pub(in crate::scheduler) fn report(&mut self, report: Report) {
        self.out.remove(report.attempt_id);
        self.rests_until = None;
        self.dirty.insert(report.run);
        self.inbox.entry(report.run).or_default().push(report);
    }

    /// An attempt whose process died. Becomes a report once the run is loaded.
    pub(in crate::scheduler) fn orphan(&mut self, attempt: AttemptRow) {
        self.load.insert(attempt.run);
        self.orphans.entry(attempt.run).or_default().push(attempt);
    }

    /// A run that was loaded; `None` if it is gone.
    pub(in crate::scheduler) fn loaded(
        &mut self,
        pk: RunPk,
        snapshot: Option<RunSnapshot>,
        now: DateTime<Utc>,
    ) -> Effects {
        self.load.remove(&pk);
        let stale = self.runs.get(&pk).map_or(0, |live| live.stale);
        self.drop_view(pk);
        let mut effects = Effects::default();
        let snapshot = snapshot.filter(|snapshot| !snapshot.run.state.is_finished());
        if snapshot.as_ref().is_some_and(|snapshot| self.leave_to_others(&snapshot.run)) {
            return effects;
        }
        let lane = snapshot.as_ref().and_then(|snapshot| self.dags.get_mut(&snapshot.run.dag_id));
        let (Some(snapshot), Some(lane)) = (snapshot, lane) else {
            self.forget_run(pk, &mut effects);
            return effects;
        };
        self.dag_of.insert(pk, snapshot.run.dag_id.clone());
        if snapshot.run.state == RunState::Running {
            lane.running.insert(pk);
        }
        let mut view = RunView::load(snapshot, Arc::clone(&lane.dag));
        // Stamps of one process are never used twice, so kept values of an earlier view cannot be taken for new ones.
        self.stamp += 1 << 20;
        view.set_source_stamp(self.stamp);
        self.adopt(&view, &mut effects, now);
        let live = Live { view, fresh: true, due: Vec::new(), rest: Vec::new(), timed_out: false, stale };
        watch_timeout(&mut self.timers, &live.view, now);
        self.runs.insert(pk, live);
        self.dirty.insert(pk);
        effects
    }

    /// Compares what the store says of attempts with what this process knows.
    fn adopt(&mut self, view: &RunView, effects: &mut Effects, now: DateTime<Utc>) {
        let pk = view.run.pk;
        for (key, ti) in view.all() {
            match ti.state {
                TaskState::Scheduled => {
                    let place = self.out.routes().of(view.dag.task(key.task), view.run.queue.as_deref());
                    self.backlog.add(view, key, place, now);
                }
                TaskState::Running => {
                    let Some(id) = ti.data.attempt_id.filter(|id| self.unsure.remove(id).is_some()) else {
                        continue;
                    };
                    // The commit that started it did happen: now it may be submitted.
                    let place = self.out.routes().of(view.dag.task(key.task), view.run.queue.as_deref());
                    self.out.insert(id, Sent { run: pk, key, place });
                    effects.submit.push((place, attempt_of(view, key, id, view.run.queued_at)));
                }
                _ => {}
            }
        }
        self.adopt_waits(view);
        self.look_for_unsure(pk, now);
        let lost = |(id, sent): (AttemptId, &Sent)| {
            let is_out = |ti: &Ti| match ti.state {
                TaskState::Running => true,
                TaskState::Queued => self.out.routes().is_remote(sent.place),
                _ => false,
            };
            let ti = view.ti(sent.key).filter(|ti| is_out(ti) && ti.data.attempt_id == Some(id));
            (sent.run == pk && ti.is_none()).then_some((sent.place, id))
        };
        let lost: Vec<_> = self.out.iter().filter_map(lost).collect();
        for (place, id) in lost {
            effects.cancel.push((place, id));
            if self.out.routes().is_remote(place) {
                self.out.remove(id);
            }
        }
        self.adopt_remote(view, effects, now);
        for orphan in self.orphans.remove(&pk).unwrap_or_default() {
            let Some(task) = view.dag.find(orphan.start.task_id.as_str()) else { continue };
            let report = Report {
                run: pk,
                key: TiKey { task, map: orphan.start.map_index },
                attempt_id: orphan.start.attempt_id,
                outcome: crate::plan::Outcome::Lost,
                pushed: Vec::new(),
                asset_events: Vec::new(),
                rendered: None,
                log: None,
                at: view.run.queued_at.max(orphan.start.at),
            };
            self.inbox.entry(pk).or_default().push(report);
        }
    }

    pub(in crate::scheduler) fn created(&mut self, created: Vec<CreatedRun>, now: DateTime<Utc>) {
        for run in created {
            match run {
                CreatedRun::New(row) => {
                    self.look_at_deadlines(&row.dag_id, now);
                    self.know_run(*row, now);
                }
                CreatedRun::Exists(_) => {}
                CreatedRun::Taken => self.forget_asset_queue(),
            }
        }
    }

    pub(super) fn drop_view(&mut self, pk: RunPk) {
        if self.runs.remove(&pk).is_some() {
            self.backlog.forget_run(pk);
        }
    }

    pub(super) fn forget_run(&mut self, pk: RunPk, effects: &mut Effects) {
        self.dag_of.remove(&pk);
        // Rare enough to look everywhere: what is left behind would be loaded again and again.
        for lane in self.dags.values_mut() {
            lane.running.remove(&pk);
            lane.others.remove(&pk);
            lane.queued.retain(|(_, _, other), _| *other != pk);
        }
        self.dirty.remove(&pk);
        self.drop_reports(pk);
        self.share.forget(pk);
        self.stop_waits(pk);
        let of_run: Vec<_> =
            self.out.iter().filter(|(_, sent)| sent.run == pk).map(|(id, sent)| (sent.place, id)).collect();
        for (place, id) in of_run {
            effects.cancel.push((place, id));
            if self.out.routes().is_remote(place) {
                self.out.remove(id);
            }
        }
    }
}

/// Remembers when a run has taken too long.
pub(super) fn watch_timeout(timers: &mut Timers, view: &RunView, now: DateTime<Utc>) {
    if let Some(at) = timeout_of(view) {
        timers.push(Reverse((at.max(now), Timer::RunTimeout(view.run.pk))));
    }
}
