//! Which runs this process decides about.
//!
//! One scheduler decides about a run at a time: two that do not know of each other's changes would be refused again and
//! again, and worse, each could wait for what only the other one knows. The store says who has a run; it goes to
//! whoever asks first and has room, and stays until the run ends or its process does. Nothing here is needed for a
//! correct result: if two believe that they have the same run, one of them is refused.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};

use crate::id::{IncarnationId, RunPk};

use super::{Core, Timer, UNSURE_PAUSE_S};

/// How long a run waits for a scheduler with a free slot before one without takes it, in seconds: two polls. As long a
/// new scheduler does not know whether it is alone.
const GRACE_S: i64 = 2;

/// How often a scheduler beside others that has no free slot takes runs that nobody wanted, as many as it has slots, in
/// seconds. All of them at once would be more than it can work on, and nothing would be left for those who end first.
const UNWANTED_S: i64 = 1;

/// How often runs are looked through that there is no room for, in milliseconds: each look goes through all of them.
const UNWANTED_LOOK_MS: i64 = 100;

/// After how many looks at the other schedulers the runs that they have are asked for again.
const LOOKS: u32 = 6;

/// What this process knows of who has which run.
#[derive(Debug, Default)]
pub(super) struct Share {
    mine: BTreeSet<RunPk>,
    /// Runs that another process had when this one asked.
    foreign: BTreeSet<RunPk>,
    /// The other schedulers that have not ended.
    others: Vec<IncarnationId>,
    looks: u32,
    /// When this process first looked for runs.
    begun: Option<DateTime<Utc>>,
    /// When it last began to take runs that nobody wanted, and how many it may still take.
    unwanted: Option<(DateTime<Utc>, usize)>,
    /// When runs were last looked through that there is no room for.
    looked: Option<DateTime<Utc>>,
}

impl Share {
    pub(super) fn is_mine(&self, run: RunPk) -> bool {
        self.mine.contains(&run)
    }

    pub(super) fn is_foreign(&self, run: RunPk) -> bool {
        self.foreign.contains(&run)
    }

    pub(super) fn forget(&mut self, run: RunPk) {
        self.mine.remove(&run);
        self.foreign.remove(&run);
    }

    /// The time of day is another one now: what is counted from it begins anew.
    pub(super) fn clock_was_set(&mut self) {
        self.begun = None;
        self.unwanted = None;
        self.looked = None;
    }

    /// Whether there is nobody else, as far as can be known: those who start together do not see each other at once.
    fn is_alone(&mut self, now: DateTime<Utc>) -> bool {
        let begun = *self.begun.get_or_insert(now);
        self.others.is_empty() && now - begun >= TimeDelta::seconds(GRACE_S)
    }

    /// How many runs that nobody wanted may be taken now.
    fn unwanted(&mut self, slots: usize, now: DateTime<Utc>) -> &mut usize {
        let (since, left) = self.unwanted.get_or_insert((now, slots));
        if now - *since >= TimeDelta::seconds(UNWANTED_S) {
            (*since, *left) = (now, slots);
        }
        left
    }

    /// Whether it is time to look for runs that nobody wanted, of which there may be many.
    fn looks_for_unwanted(&mut self, now: DateTime<Utc>) -> bool {
        let is_time = self.looked.is_none_or(|last| now - last >= TimeDelta::milliseconds(UNWANTED_LOOK_MS));
        if is_time {
            self.looked = Some(now);
        }
        is_time
    }

    pub(super) fn keep(&mut self, listed: impl Fn(RunPk) -> bool) {
        self.mine.retain(|run| listed(*run));
        self.foreign.retain(|run| listed(*run));
    }
}

impl Core {
    /// The other schedulers that have not ended. Says whether everything should be read again: one came or went, and
    /// what it had may be free.
    pub(in crate::scheduler) fn know_others(&mut self, others: Vec<IncarnationId>) -> bool {
        self.share.looks += 1;
        self.meet_others(others)
    }

    /// The same between two looks.
    pub(in crate::scheduler) fn meet_others(&mut self, others: Vec<IncarnationId>) -> bool {
        let share = &mut self.share;
        let again = share.others != others || (share.looks >= LOOKS && !share.foreign.is_empty());
        if again {
            share.looks = 0;
            share.foreign.clear();
        }
        share.others = others;
        again
    }

    /// Which of the runs that were asked for this process has now.
    pub(in crate::scheduler) fn claimed(&mut self, asked: &[RunPk], mine: &[RunPk]) {
        self.share.mine.extend(mine);
        for run in asked.iter().filter(|run| !mine.contains(run)) {
            self.share.foreign.insert(*run);
            self.load.remove(run);
            self.unread.remove(run);
            self.dirty.remove(run);
            // Whoever has the run finds lost attempts by itself; a report of an attempt of an earlier life is stale.
            self.inbox.remove(run);
            self.orphans.remove(run);
            self.leave_reports(*run);
            self.drop_view(*run);
            self.leave_waits(*run);
        }
    }

    /// Queued runs for which there is room are loaded, and start when they are looked at. Beside other schedulers only
    /// as many are taken as can start something, and slowly those that wait although nobody can.
    pub(super) fn take_queued(&mut self, now: DateTime<Utc>) {
        if self.closed {
            return;
        }
        let alone = self.share.is_alone(now);
        let slots = self.slots;
        // Not what is free at this moment: that is for what waits here already.
        let mut free = if alone { usize::MAX } else { self.spare };
        let mut looks_on = None;
        for lane in self.dags.values().filter(|lane| !lane.row.is_paused) {
            let room = (lane.dag.settings.max_active_runs as usize).saturating_sub(lane.running.len());
            let ready = lane.queued.iter().filter(|((_, at, _), _)| *at <= now).take(room);
            for ((_, _, pk), row) in ready {
                let known = self.runs.contains_key(pk) || self.load.contains(pk);
                if known || self.resting.contains(pk) || self.share.is_foreign(*pk) {
                    continue;
                }
                if free == 0
                    && !self.share.is_mine(*pk)
                    && !*looks_on.get_or_insert_with(|| self.share.looks_for_unwanted(now))
                {
                    break;
                }
                let waited = now - row.queued_at.max(row.run_after) >= TimeDelta::seconds(GRACE_S);
                let takes = if self.share.is_mine(*pk) {
                    true
                } else if free > 0 {
                    free = free.saturating_sub(lane.width);
                    true
                } else if waited {
                    let left = self.share.unwanted(slots.max(1), now);
                    let takes = *left > 0;
                    *left -= usize::from(takes);
                    takes
                } else {
                    false
                };
                if takes {
                    self.load.insert(*pk);
                    if lane.is_untouched(row) {
                        self.unread.insert(*pk, row.clone());
                    }
                }
            }
        }
    }

    /// Attempts of this run that were to start in a commit without an answer and are not to be seen: the commit did not
    /// happen, or has not happened yet. They are looked for a few times more.
    pub(super) fn look_for_unsure(&mut self, run: RunPk, now: DateTime<Utc>) {
        let mut open = false;
        self.unsure.retain(|_, (of, looks)| {
            if *of == run {
                *looks -= 1;
                open |= *looks > 0;
            }
            *looks > 0
        });
        if open {
            let at = now + TimeDelta::seconds(UNSURE_PAUSE_S);
            self.timers.push(Reverse((at, Timer::Again(run))));
        }
    }
}
