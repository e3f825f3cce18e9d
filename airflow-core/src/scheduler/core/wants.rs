//! What has come due, and what has to be fetched or made before anything is decided.

use std::cmp::Reverse;

use chrono::{DateTime, TimeDelta, Utc};

use crate::decide::timetable::{due_run, next_run};
use crate::id::DagId;
use crate::store::{Advance, PastQuery};

use super::{Core, DagLane, SAME_RUN_PAUSE_S, TIMETABLE_PAUSE_S, Timer, Wants, timeout_of};

impl Core {
    /// When something is due next.
    pub(in crate::scheduler) fn next_wake(&self) -> Option<DateTime<Utc>> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let dag = self.dag_timers.first().map(|(at, _)| *at);
        timer.into_iter().chain(dag).min()
    }

    /// Works off what is due.
    pub(in crate::scheduler) fn tick(&mut self, now: DateTime<Utc>) {
        while self.timers.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, timer))) = self.timers.pop() else { break };
            let pk = match timer {
                Timer::Instance(pk, _) | Timer::RunTimeout(pk) | Timer::Again(pk) => pk,
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
                    Timer::Again(_) => {}
                }
                self.dirty.insert(pk);
            }
        }
        while self.dag_timers.first().is_some_and(|(at, _)| *at <= now) {
            self.dag_timers.pop_first();
        }
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
        let mut wants = Wants { limits: self.limits_unknown, waits: self.wanted_waits(), ..Wants::default() };
        if self.config.use_schedules && !self.closed {
            let due: Vec<DagId> =
                self.dags.values().filter(|lane| is_due(lane, now)).map(|l| l.dag.id.clone()).collect();
            for id in due {
                self.next_of(&id, now, &mut wants);
            }
        }
        // Queued runs for which there is room are loaded, and start when they are looked at.
        for lane in self.dags.values().filter(|lane| !lane.row.is_paused && !self.closed) {
            let room = (lane.dag.settings.max_active_runs as usize).saturating_sub(lane.running.len());
            let ready = lane.queued.iter().filter(|((_, at, _), _)| *at <= now).take(room);
            for ((_, _, pk), row) in ready {
                if !self.runs.contains_key(pk) && !self.load.contains(pk) && !self.resting.contains(pk) {
                    self.load.insert(row.pk);
                }
            }
        }
        for pk in &self.load {
            let dag = self.dag_of.get(pk).and_then(|id| self.dags.get(id)).map(|lane| &lane.dag);
            let past = dag.filter(|dag| dag.looks_back);
            wants
                .load
                .push((*pk, past.map(|dag| PastQuery { scheduled_only: dag.settings.restriction.catchup })));
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
    let most = lane.dag.settings.max_active_runs as usize;
    let most = lane.dag.timetable.active_runs_limit().map_or(most, |limit| most.min(limit as usize));
    !lane.row.is_paused
        && lane.row.next.is_some_and(|next| next.run_after <= now)
        && lane.ask_after.is_none_or(|at| at <= now)
        && lane.active() < most
}
