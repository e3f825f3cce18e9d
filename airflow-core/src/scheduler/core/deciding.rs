//! One unit a run: reports, what follows from them, and who gets the free slots.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use chrono::{DateTime, Utc};

use crate::decide::outcome::{Accepted, Bounds, accept};
use crate::decide::step::{Settled, finish, launch, schedule, settle, settle_all, time_out};
use crate::id::{RunPk, TiKey};
use crate::map::HashSet;
use crate::plan::{Planner, RunView};
use crate::scheduler::backlog::{Candidate, Lane};
use crate::scheduler::effects::notices_of;
use crate::scheduler::limits::difference;
use crate::state::{RunEvent, RunState};
use crate::store::{SlotChange, Unit};

use super::out::Sent;
use super::{Core, InFlight, Timer};

impl Core {
    /// All that can be decided now, one unit a run.
    pub(in crate::scheduler) fn plan(&mut self, now: DateTime<Utc>) -> Vec<Unit> {
        debug_assert!(self.writing.is_empty(), "the last plan was answered");
        if self.limits_unknown {
            return Vec::new();
        }
        let mut drafts: BTreeMap<RunPk, InFlight> = BTreeMap::new();
        let mut fresh_ready: BTreeMap<RunPk, BTreeSet<TiKey>> = BTreeMap::new();
        let dirty = std::mem::take(&mut self.dirty);
        for pk in dirty {
            if self.load.contains(&pk) {
                self.dirty.insert(pk);
                continue;
            }
            if self.runs.contains_key(&pk) {
                let (draft, ready) = self.step(pk, now);
                fresh_ready.insert(pk, ready);
                drafts.insert(pk, draft);
            } else if self.resting.contains(&pk) {
                // Its timer brings it back.
            } else if self.inbox.contains_key(&pk) {
                // A report of a run that is not in memory: it is loaded first.
                self.load.insert(pk);
                self.dirty.insert(pk);
            }
        }
        self.start_attempts(&mut drafts, &mut fresh_ready, now);
        for (pk, ready) in fresh_ready {
            let (Some(live), Some(draft)) = (self.runs.get_mut(&pk), drafts.get_mut(&pk)) else { continue };
            edit(&mut live.view, draft, now, |plan| {
                ready
                    .into_iter()
                    .filter(|key| !plan.is_touched(*key))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .for_each(|key| {
                        let refused = schedule(plan, key).is_err();
                        debug_assert!(!refused, "it was ready a moment ago");
                    });
            });
        }
        let mut full: Vec<InFlight> = drafts.into_values().filter(|draft| !draft.unit.is_empty()).collect();
        for InFlight { unit, reports, ended, .. } in &mut full {
            if let Some(live) = self.runs.get(&unit.run) {
                unit.notices = notices_of(&live.view, unit, reports, *ended, self.config.incarnation);
            }
        }
        full.iter().for_each(|draft| self.limits.apply(&draft.unit.slots));
        self.writing = full;
        self.writing.iter().map(|draft| draft.unit.clone()).collect()
    }

    /// Works off the news of one run.
    pub(super) fn step(&mut self, pk: RunPk, now: DateTime<Utc>) -> (InFlight, BTreeSet<TiKey>) {
        let bounds = Bounds { max_map_length: self.config.max_map_length, max_lost: self.config.max_lost };
        let live = self.runs.get_mut(&pk).expect("the caller looked");
        let reports = self.inbox.remove(&pk).unwrap_or_default();
        let due = std::mem::take(&mut live.due);
        let rest = std::mem::take(&mut live.rest);
        let mut plan = Planner::new(&mut live.view, "scheduler", now);
        let mut ended = None;
        let mut settled = Settled::default();
        let mut later = Vec::new();
        let (mut taken, mut stale) = (Vec::new(), Vec::new());
        if plan.view.run.state == RunState::Queued && plan.change_run(RunEvent::Started, None).is_err() {
            debug_assert!(false, "a queued run can start");
        }
        // A unit changes the state of its run once: a run that starts here ends with the next unit at the earliest.
        let starts = plan.unit.run_change.is_some();
        for report in reports {
            match accept(&mut plan, &report, bounds) {
                Accepted::Yes => {
                    let logs = if self.keeps_logs_apart { &mut self.late_logs } else { &mut plan.unit.logs };
                    logs.extend(report.log.clone());
                    taken.push(report);
                }
                Accepted::Later => later.push(report),
                Accepted::Stale => {
                    tracing::debug!(attempt = %report.attempt_id, "a report of an attempt that no longer counts");
                    stale.push(report.attempt_id);
                    self.late_logs.extend(report.log);
                }
            }
        }
        if live.timed_out && !starts && later.is_empty() && taken.is_empty() {
            ended = time_out(&mut plan);
        } else {
            settled = if live.fresh { settle_all(&mut plan) } else { settle(&mut plan, &due, &rest) };
            if later.is_empty() && !starts {
                ended = finish(&mut plan, settled.is_pending());
            }
        }
        live.fresh = false;
        // What has just changed cannot be stopped in the same unit.
        let stops_next = live.timed_out && ended.is_none();
        if starts || stops_next || !settled.rest.is_empty() {
            self.dirty.insert(pk);
        }
        let (unit, touched) = plan.put_aside();
        live.rest = settled.rest;
        stale.into_iter().for_each(|id| self.report_is_done(id));
        if !later.is_empty() {
            self.inbox.insert(pk, later);
            self.dirty.insert(pk);
        }
        for (at, key) in settled.later {
            self.timers.push(Reverse((at, Timer::Instance(pk, key))));
        }
        (InFlight { unit, touched, reports: taken, ended }, settled.ready)
    }

    /// How limits change in this round. What the drafts give back is free in it, unless that went wrong in the last one.
    fn changes_of(&mut self, drafts: &BTreeMap<RunPk, InFlight>) -> Vec<SlotChange> {
        let is_careful = std::mem::take(&mut self.is_careful);
        let changes = drafts.values().flat_map(|draft| &draft.unit.slots);
        changes.filter(|change| !is_careful || change.delta > 0).cloned().collect()
    }

    /// Gives free slots to what is ready, best first.
    pub(super) fn start_attempts(
        &mut self,
        drafts: &mut BTreeMap<RunPk, InFlight>,
        fresh: &mut BTreeMap<RunPk, BTreeSet<TiKey>>,
        now: DateTime<Utc>,
    ) {
        for (pk, ready) in fresh.iter() {
            let view = &self.runs[pk].view;
            for key in ready {
                let place = self.out.routes().of(view.dag.task(key.task), view.run.queue.as_deref());
                self.backlog.add(view, *key, place, now);
            }
        }
        let mut room = self.out.room();
        let may = !self.closed && !self.rests(now);
        self.spare = if may { room.total() } else { 0 };
        if !may || room.is_empty() || self.backlog.is_empty() {
            return;
        }
        let mut limits_now = self.changes_of(drafts);
        self.limits.apply(&limits_now);
        let mut heads: BinaryHeap<Reverse<(Candidate, Lane)>> =
            self.backlog.heads().map(|(candidate, lane)| Reverse((candidate, lane.clone()))).collect();
        while !room.is_empty()
            && let Some(Reverse((candidate, lane))) = heads.pop()
        {
            let (pk, key) = (candidate.run(), candidate.key());
            let paused = self.dags.get(&lane.dag).is_none_or(|lane| lane.row.is_paused);
            let Some(live) = self.runs.get_mut(&pk) else {
                debug_assert!(false, "what waits is of a run in memory");
                self.backlog.remove(&lane, candidate);
                heads.extend(self.backlog.head(&lane).map(|next| Reverse((next, lane))));
                continue;
            };
            if paused || !room.has(lane.place) || !self.limits.admit(&lane, candidate, &live.view) {
                continue;
            }
            let draft = drafts.entry(pk).or_insert_with(|| InFlight {
                unit: Unit::new(&live.view.run, "scheduler", now),
                touched: HashSet::default(),
                reports: Vec::new(),
                ended: None,
            });
            let before = draft.unit.slots.clone();
            let id = (self.config.new_id)();
            let is_remote = self.out.routes().is_remote(lane.place);
            let by = (!is_remote).then_some(self.config.incarnation);
            let touched = edit(&mut live.view, draft, now, |plan| {
                plan.is_touched(key) || launch(plan, key, id, by).is_err()
            });
            self.backlog.remove(&lane, candidate);
            if let Some(ready) = fresh.get_mut(&pk) {
                ready.remove(&key);
            }
            if !touched {
                room.take(lane.place);
                self.out.insert(id, Sent { run: pk, key, place: lane.place });
                let change = difference(&before, &draft.unit.slots);
                self.limits.apply(&change);
                limits_now.extend(change);
            }
            if let Some(next) = self.backlog.head(&lane) {
                heads.push(Reverse((next, lane)));
            }
        }
        self.spare = room.total();
        self.limits.undo(&limits_now);
    }
}

/// Changes a unit through a planner.
fn edit<R>(
    view: &mut RunView,
    draft: &mut InFlight,
    now: DateTime<Utc>,
    change: impl FnOnce(&mut Planner<'_>) -> R,
) -> R {
    let unit = std::mem::replace(&mut draft.unit, Unit::new(&view.run, "", now));
    let mut plan = Planner::resume(view, unit, std::mem::take(&mut draft.touched), now);
    let result = change(&mut plan);
    (draft.unit, draft.touched) = plan.put_aside();
    result
}
