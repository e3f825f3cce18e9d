//! What the answer to a plan means: submit, cancel, end, or load again.

use std::cmp::Reverse;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::decide::step::follow_past;
use crate::id::{RunPk, TiKey};
use crate::plan::{Attempt, Report};
use crate::scheduler::effects::{Effects, attempt_in};
use crate::state::{RunState, TaskState};
use crate::store::{NoticeRow, Unit, UnitResult};

use super::news::watch_timeout;
use super::{Core, DagLane, InFlight, REFUSED_PAUSE_MS, STALE_IN_A_ROW, STALE_PAUSE_MS, Timer, UNSURE_LOOKS};

impl Core {
    /// What the store answered to the last plan.
    pub(in crate::scheduler) fn committed(&mut self, results: &[UnitResult], now: DateTime<Utc>) -> Effects {
        let mut effects = Effects::default();
        let writing = std::mem::take(&mut self.writing);
        debug_assert_eq!(writing.len(), results.len(), "one answer for each unit");
        for (draft, result) in writing.into_iter().zip(results) {
            match result {
                UnitResult::Committed => self.written(draft, now, &mut effects),
                UnitResult::Stale => self.refused(draft, now),
                UnitResult::Full(key) => {
                    tracing::debug!(limit = %key, "somebody else took the last slot");
                    (self.limits_unknown, self.is_careful) = (true, true);
                    self.refused(draft, now);
                }
            }
        }
        effects
    }

    /// The store did not answer: nobody knows whether the plan was written. Everything in it is loaded again.
    pub(in crate::scheduler) fn commit_unknown(&mut self) {
        for draft in std::mem::take(&mut self.writing) {
            self.keeps_logs_apart |= !draft.unit.logs.is_empty();
            for start in &draft.unit.started {
                let sent = self.out.remove(start.attempt_id);
                // What waits for a worker is sent if it turns out to be queued.
                if sent.is_some_and(|sent| !self.out.routes().is_remote(sent.place)) {
                    self.unsure.insert(start.attempt_id, (draft.unit.run, UNSURE_LOOKS));
                }
            }
            self.load.insert(draft.unit.run);
            self.inbox.entry(draft.unit.run).or_default().extend(draft.reports);
        }
        self.limits_unknown = true;
    }

    fn refused(&mut self, draft: InFlight, now: DateTime<Utc>) {
        let pk = draft.unit.run;
        self.limits.undo(&draft.unit.slots);
        for start in &draft.unit.started {
            self.out.remove(start.attempt_id);
        }
        self.inbox.entry(pk).or_default().extend(draft.reports);
        if let Some(live) = self.runs.get_mut(&pk) {
            live.stale += 1;
            if live.stale > STALE_IN_A_ROW {
                let at = now + TimeDelta::milliseconds(STALE_PAUSE_MS);
                self.timers.push(Reverse((at, Timer::Again(pk))));
                self.resting.insert(pk);
                self.drop_view(pk);
                return;
            }
        }
        self.load.insert(pk);
        self.dirty.insert(pk);
    }

    fn written(&mut self, draft: InFlight, now: DateTime<Utc>, effects: &mut Effects) {
        let pk = draft.unit.run;
        self.follow_waits(&draft.unit);
        self.feed(&draft.unit);
        let Some(live) = self.runs.get_mut(&pk) else { return };
        live.stale = 0;
        let view = &live.view;
        let info = Arc::new(view.info());
        effects.notices.extend(draft.unit.notices.iter().map(|notice| NoticeRow {
            run: pk,
            dag_id: view.run.dag_id.clone(),
            run_id: view.run.run_id.clone(),
            logical_date: view.run.logical_date,
            notice: notice.clone(),
        }));
        self.results.keep(view, &draft.unit);
        let mut queued = Vec::new();
        for start in &draft.unit.started {
            let Some(sent) = self.out.get(start.attempt_id) else { continue };
            let mut attempt = attempt_in(view, Arc::clone(&info), sent.key, start.attempt_id, start.at);
            if self.out.routes().is_remote(sent.place) {
                queued.push(start.attempt_id);
            } else {
                attempt.given = self.results.for_instance(view, sent.key);
            }
            effects.submit.push((sent.place, attempt));
        }
        for end in &draft.unit.ended {
            let Some(sent) = self.out.get(end.attempt_id) else { continue };
            effects.cancel.push((sent.place, end.attempt_id));
            if self.out.routes().is_remote(sent.place) {
                // It is over for us: what its worker still says is refused by the store.
                self.out.remove(end.attempt_id);
            }
        }
        for change in &draft.unit.tis {
            let (from, to) = (change.transition.from(), change.transition.to());
            let waits_no_more = from == TaskState::Scheduled && !to.is_executing();
            if !waits_no_more && to != TaskState::Scheduled {
                continue;
            }
            let Some(task) = view.dag.find(change.task_id.as_str()) else { continue };
            let key = TiKey { task, map: change.map_index };
            let place = self.out.routes().of(view.dag.task(task), view.run.queue.as_deref());
            if to == TaskState::Scheduled {
                // What lost its attempt, or was given back, waits for a slot again.
                self.backlog.add(view, key, place, now);
            } else {
                self.backlog.forget(view, key, place);
            }
        }
        if draft.unit.run_change.as_ref().is_some_and(|change| change.transition.to() == RunState::Running) {
            watch_timeout(&mut self.timers, view, now);
            if let Some(lane) = self.dags.get_mut(&view.run.dag_id) {
                lane.queued.remove(&DagLane::order_of(&view.run));
                lane.running.insert(pk);
            }
        }
        self.tell_later_runs(pk, &draft.unit);
        queued.into_iter().for_each(|id| self.was_sent(pk, id, 0, now));
        draft.reports.iter().for_each(|report| self.report_is_done(report.attempt_id));
        if draft.ended.is_some() {
            self.ended(pk, now, effects);
        }
    }

    /// Runs that look back at this one see what happened in it.
    fn tell_later_runs(&mut self, pk: RunPk, unit: &Unit) {
        let Some(lane) = self.dag_of.get(&pk).and_then(|id| self.dags.get(id)) else { return };
        if !lane.dag.looks_back {
            return;
        }
        let key = |change: &crate::store::TiChange| {
            Some((
                TiKey { task: lane.dag.find(change.task_id.as_str())?, map: change.map_index },
                change.transition.to(),
            ))
        };
        let changes: Vec<(TiKey, TaskState)> = unit.tis.iter().filter_map(key).collect();
        for other in &lane.running {
            let Some(live) = self.runs.get_mut(other).filter(|live| live.view.past_run() == Some(pk)) else {
                continue;
            };
            let due = follow_past(&mut live.view, &changes);
            live.due.extend(due);
            self.dirty.insert(*other);
        }
    }

    fn ended(&mut self, pk: RunPk, now: DateTime<Utc>, effects: &mut Effects) {
        let Some(live) = self.runs.remove(&pk) else { return };
        if !live.view.all().all(|(_, ti)| ti.state.is_finished()) {
            self.backlog.forget_run(pk);
        }
        let run = &live.view.run;
        let dag = &live.view.dag;
        if run.state == RunState::Failed && dag.settings.max_consecutive_failed_dag_runs > 0 {
            effects.failed.push(Arc::clone(dag));
        }
        effects.ended.push((run.dag_id.clone(), run.run_id.clone(), run.state));
        let order = DagLane::order_of(run);
        let id = run.dag_id.clone();
        if let Some(lane) = self.dags.get_mut(&id) {
            lane.running.remove(&pk);
            lane.queued.remove(&order);
        }
        self.dag_of.remove(&pk);
        self.share.forget(pk);
        self.drop_reports(pk);
        self.look_at_schedule(&id, now);
    }

    /// What could not be submitted is given back.
    pub(in crate::scheduler) fn not_submitted(&mut self, attempt: &Attempt, now: DateTime<Utc>) {
        let until = now + TimeDelta::milliseconds(REFUSED_PAUSE_MS);
        self.report(Report::handed_back(attempt.run.pk, attempt.key(), attempt.ti.attempt_id, now));
        self.rests_until = Some(until);
    }
}
