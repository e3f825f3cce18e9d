//! What has come due, and what has to be fetched or made before anything is decided.

use std::cmp::Reverse;

use chrono::{DateTime, TimeDelta, Utc};

use crate::decide::timetable::{due_run, next_run};
use crate::id::DagId;
use crate::store::{Advance, PastQuery, RunSnapshot};

use super::{Core, DagLane, SAME_RUN_PAUSE_S, TIMETABLE_PAUSE_S, Timer, Wants, timeout_of};

impl Core {
    /// When something is due next.
    pub(in crate::scheduler) fn next_wake(&self) -> Option<DateTime<Utc>> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let dag = self.dag_timers.first().map(|(at, _)| *at);
        let rest = self.rests_until.filter(|_| !self.backlog.is_empty());
        timer.into_iter().chain(dag).chain(rest).chain(self.deadlines.next()).min()
    }

    /// Works off what is due.
    pub(in crate::scheduler) fn tick(&mut self, now: DateTime<Utc>) {
        if self.last_tick.is_some_and(|last| now < last) {
            self.clock_was_set_back(now);
        }
        self.last_tick = Some(now);
        if self.rests_until.is_some_and(|until| until <= now) {
            self.rests_until = None;
        }
        while self.timers.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, timer))) = self.timers.pop() else { break };
            let pk = match timer {
                Timer::Instance(pk, _) | Timer::RunTimeout(pk) | Timer::Again(pk) => pk,
                Timer::Unclaimed(_, id, times) => {
                    self.may_be_unclaimed(id, times);
                    continue;
                }
            };
            if matches!(timer, Timer::Again(_)) {
                self.resting.remove(&pk);
                self.load.insert(pk);
                self.dirty.insert(pk);
            } else if let Some(live) = self.runs.get_mut(&pk) {
                match timer {
                    Timer::Instance(_, key) => live.due.push(key),
                    // A run that was cleared meanwhile has started anew, and its time with it.
                    Timer::RunTimeout(_) => {
                        live.timed_out = timeout_of(&live.view).is_some_and(|at| at <= now);
                    }
                    Timer::Again(_) | Timer::Unclaimed(..) => {}
                }
                self.dirty.insert(pk);
            }
        }
        while self.dag_timers.first().is_some_and(|(at, _)| *at <= now) {
            self.dag_timers.pop_first();
        }
    }

    /// Pauses were meant to be short; without this they would last until the clock has caught up.
    fn clock_was_set_back(&mut self, now: DateTime<Utc>) {
        self.rests_until = None;
        self.share.clock_was_set();
        let timers = std::mem::take(&mut self.timers);
        let sooner = |Reverse((at, timer)): Reverse<(DateTime<Utc>, Timer)>| match timer {
            Timer::Again(_) | Timer::Unclaimed(..) => Reverse((at.min(now), timer)),
            Timer::Instance(..) | Timer::RunTimeout(_) => Reverse((at, timer)),
        };
        self.timers = timers.into_iter().map(sooner).collect();
        self.dags.values_mut().for_each(|lane| lane.ask_after = None);
    }

    pub(super) fn look_at_schedule(&mut self, id: &DagId, now: DateTime<Utc>) {
        let Some(lane) = self.dags.get_mut(id) else { return };
        let at = lane.row.next.map(|next| next.run_after).into_iter().chain(lane.ask_after).max();
        if let (Some(at), false) = (at, lane.row.is_paused)
            && at > now
        {
            self.dag_timers.insert((at, id.clone()));
        }
    }

    pub(in crate::scheduler) fn wants(&mut self, now: DateTime<Utc>) -> Wants {
        let look_up = self.look_up();
        let mut wants = Wants { limits: self.limits_unknown, look_up, ..Wants::default() };
        if self.config.use_schedules && !self.closed {
            let due: Vec<DagId> =
                self.dags.values().filter(|lane| is_due(lane, now)).map(|l| l.dag.id.clone()).collect();
            for id in due {
                self.next_of(&id, now, &mut wants);
            }
        }
        wants.deadlines = self.deadline_is_over(now);
        if !self.closed {
            self.want_asset_runs(now, &mut wants);
        }
        self.take_queued(now);
        for pk in self.load.clone() {
            if self.is_of_others(pk) {
                self.load.remove(&pk);
                continue;
            }
            if !self.share.is_mine(pk) {
                wants.claim.push(pk);
                continue;
            }
            if let Some(run) = self.unread.remove(&pk)
                && !self.orphans.contains_key(&pk)
            {
                let effects = self.loaded(pk, Some(RunSnapshot::untouched(run)), now);
                debug_assert!(effects.is_empty(), "nothing has happened in the run");
                continue;
            }
            let dag = self.dag_of.get(&pk).and_then(|id| self.dags.get(id)).map(|lane| &lane.dag);
            let past = dag.filter(|dag| dag.looks_back);
            let past = past.map(|dag| PastQuery { scheduled_only: dag.settings.restriction.catchup });
            wants.load.push((pk, past));
        }
        wants
    }

    /// The run that the timetable of a dag makes now, computed afresh: what was due may have been missed since.
    pub(super) fn next_of(&mut self, id: &DagId, now: DateTime<Utc>, wants: &mut Wants) {
        let Some(lane) = self.dags.get_mut(id) else { return };
        let fresh = next_run(&lane.dag, lane.row.last_interval, now);
        let made = fresh.and_then(|next| {
            lane.row.next = next;
            due_run(&lane.dag, &lane.row, now)
        });
        match made {
            Ok(Some(run)) if lane.row.last_interval == Some(run.data_interval) => {
                lane.ask_after = Some(now + TimeDelta::seconds(SAME_RUN_PAUSE_S));
            }
            Ok(Some(run)) => {
                if let Some(advance) = run.advance {
                    lane.row.last_interval = advance.last_interval.or(lane.row.last_interval);
                    lane.row.next = advance.next;
                }
                lane.ask_after = None;
                wants.create.push(run);
            }
            Ok(None) => {
                let advance = Advance { last_interval: None, next: lane.row.next };
                wants.advance.push((id.clone(), advance));
            }
            Err(error) => {
                tracing::warn!(dag = %id, %error, "the timetable has no answer now; it is asked again in a minute");
                lane.ask_after = Some(now + TimeDelta::seconds(TIMETABLE_PAUSE_S));
            }
        }
        self.look_at_schedule(&id.clone(), now);
    }
}

fn is_due(lane: &DagLane, now: DateTime<Utc>) -> bool {
    !lane.row.is_paused
        && lane.row.next.is_some_and(|next| next.run_after <= now)
        && lane.ask_after.is_none_or(|at| at <= now)
        && lane.has_room()
}
