//! What must hold of attempts that workers run: each that is queued is claimed or sent again, each that runs has a living
//! process, and none that was taken away goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use airflow_core::id::{AttemptId, IncarnationId};
use airflow_core::plan::Attempt;
use airflow_core::store::Unit;
use tokio::time::Instant;

use super::clock::Gate;
use super::oracle::{Oracle, Ti};

/// How long a queued attempt waits before it is sent again: at first, and at most.
const AGAIN_FIRST: Duration = Duration::from_secs(20);
const AGAIN_LAST: Duration = Duration::from_secs(600);

/// What is added to each bound: a lease, for a scheduler that has just died and another one that takes over, and what calls
/// and clocks that run too slow make of it.
const SLACK: Duration = Duration::from_secs(60);

/// How long an attempt may be stored as running in a process that is dead, once all is well: until its lease has run out,
/// and somebody has looked.
const FOUND_LOST: Duration = Duration::from_secs(60);

/// How long code goes on at most that was taken away, in a process that can hear of it: a beat, and some calls.
const STOPPED: Duration = Duration::from_secs(12);

/// An attempt that waits for a worker.
#[derive(Debug)]
struct Waiting {
    /// When it was queued or sent last.
    since: Instant,
    sent: u32,
}

/// The books on workers.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    waiting: BTreeMap<AttemptId, Waiting>,
    /// Since when nothing is wrong any more.
    pub(crate) healed: Option<Instant>,
    /// Running attempts without a living process, and since when.
    orphans: BTreeMap<AttemptId, Instant>,
    /// Until when something is wrong with a process.
    disturbed: BTreeMap<usize, Instant>,
    submitted: BTreeSet<AttemptId>,
    first: BTreeMap<Ti, AttemptId>,
    /// The last attempt of each instance.
    last: BTreeMap<Ti, AttemptId>,
}

impl Crew {
    pub(crate) fn is_queued(&mut self, id: AttemptId) {
        self.waiting.insert(id, Waiting { since: Instant::now(), sent: 0 });
    }

    pub(crate) fn is_over(&mut self, id: AttemptId) {
        self.waiting.remove(&id);
    }

    pub(crate) fn waits(&self, id: AttemptId) -> bool {
        self.waiting.contains_key(&id)
    }

    pub(crate) fn opens(&mut self, ti: &Ti, id: AttemptId) {
        self.last.insert(ti.clone(), id);
    }

    /// Something is wrong with a process for so long.
    pub(crate) fn is_disturbed(&mut self, process: usize, time: Duration) {
        let until = Instant::now() + time;
        let known = self.disturbed.entry(process).or_insert(until);
        *known = until.max(*known);
    }

    /// By when a queued attempt is to be sent again, once all is well.
    fn due(&self, waiting: &Waiting) -> Option<Instant> {
        let pause = AGAIN_FIRST.saturating_mul(1 << waiting.sent.saturating_sub(1).min(10)).min(AGAIN_LAST);
        Some(waiting.since.max(self.healed?) + pause.mul_f64(1.05) + SLACK)
    }
}

impl Oracle {
    /// Whether an attempt waits to be claimed.
    pub(crate) fn is_queued(&self, id: AttemptId) -> bool {
        self.crew.waits(id)
    }

    /// A process has claimed an attempt that was queued; not so if it was started at once.
    pub(crate) fn is_claimed(&mut self, id: AttemptId, by: Option<IncarnationId>) -> bool {
        let Some(known) = self.known.get_mut(&id) else { return false };
        if !known.open || known.incarnation.is_some() {
            return false;
        }
        known.incarnation = by;
        self.crew.is_over(id);
        self.seen("an attempt is claimed");
        true
    }

    /// An instance that does not execute has no open attempt.
    pub(crate) fn attempts_fit(&mut self, unit: &Unit) {
        for change in unit.tis.iter().filter(|change| !change.transition.to().is_executing()) {
            let ti = (unit.run, change.task_id.clone(), change.map_index);
            let last = self.crew.last.get(&ti).and_then(|id| self.known.get(id));
            if last.is_some_and(|known| known.open) {
                let to = change.transition.to();
                self.broken("I8", format!("{ti:?} is {to} now, and its attempt is open"));
            }
        }
    }

    /// The broker has said that it keeps a message about it.
    pub(crate) fn is_sent(&mut self, id: AttemptId) {
        if let Some(waiting) = self.crew.waiting.get_mut(&id) {
            waiting.since = Instant::now();
            waiting.sent += 1;
        }
    }

    /// A scheduler hands it over; says whether for the first time.
    pub(crate) fn is_submitted(&mut self, id: AttemptId) -> bool {
        self.crew.submitted.insert(id)
    }

    /// The first attempt of the same instance.
    pub(crate) fn first_attempt(&mut self, attempt: &Attempt) -> AttemptId {
        let ti = (attempt.run.pk, attempt.ti.task_id.clone(), attempt.ti.map_index);
        *self.crew.first.entry(ti).or_insert(attempt.ti.attempt_id)
    }

    /// A worker gets a message.
    pub(crate) fn comes(&mut self, id: AttemptId, again: bool, worker: usize) {
        self.line(&format!("a message comes to p{worker}{}", if again { " again" } else { "" }));
        if again {
            self.seen("a message comes twice");
        }
        match self.known.get(&id) {
            Some(known) if !known.open && known.incarnation.is_none() => {
                self.seen("a message comes after its attempt was taken away");
            }
            Some(known) if !known.open => self.seen("a message comes after its attempt has ended"),
            _ => {}
        }
    }

    /// Whether a user took it away.
    pub(crate) fn is_taken_away(&self, id: AttemptId) -> bool {
        self.known.get(&id).is_some_and(|known| known.cancelled.is_some())
    }

    /// A process dies.
    pub(crate) fn dies(&mut self, process: usize, gate: &Arc<Gate>) {
        let is_its =
            |id: IncarnationId| self.lives.get(&id).is_some_and(|life| Arc::ptr_eq(&life.gate, gate));
        let mut open = self.known.values().filter(|known| known.open);
        if self.plan().is_worker(process) && open.any(|known| known.incarnation.is_some_and(is_its)) {
            self.seen("a worker is killed with claimed attempts");
        }
    }

    /// Nothing is wrong any more.
    pub(crate) fn heals(&mut self) {
        self.line("healed");
        self.crew.healed = Some(Instant::now());
    }

    /// Once a second.
    pub(crate) fn tick(&mut self) {
        let now = Instant::now();
        let late = self.crew.waiting.iter().find(|(_, one)| self.crew.due(one).is_some_and(|due| due < now));
        if let Some((id, waiting)) = late {
            let ti = self.known.get(id).map(|known| known.ti.clone());
            let (sent, since) = (waiting.sent, waiting.since.elapsed());
            self.broken("I7", format!("{ti:?} is queued, was sent {sent} times, and not since {since:?}"));
        }
        self.running_have_processes(now);
        self.nothing_goes_on(now);
    }

    fn running_have_processes(&mut self, now: Instant) {
        let Some(healed) = self.crew.healed else { return };
        let is_dead = |id: IncarnationId| self.lives.get(&id).is_none_or(|life| life.gate.is_dead());
        let running =
            self.known.iter().filter(|(_, known)| known.open && known.incarnation.is_some_and(is_dead));
        let orphans: Vec<AttemptId> = running.map(|(id, _)| *id).collect();
        self.crew.orphans.retain(|id, _| orphans.contains(id));
        for id in orphans {
            let since = *self.crew.orphans.entry(id).or_insert(now);
            if now.duration_since(since.max(healed)) > FOUND_LOST {
                let ti = self.known.get(&id).map(|known| known.ti.clone());
                self.broken(
                    "I8",
                    format!("{ti:?} is stored as running for {FOUND_LOST:?} in a dead process"),
                );
            }
        }
    }

    /// Code that a user has taken away stops, if its process can hear of it.
    fn nothing_goes_on(&mut self, now: Instant) {
        let goes_on = self.running.iter().find_map(|(id, running)| {
            let since = self.known.get(id)?.cancelled?;
            let disturbed = self.crew.disturbed.get(&running.process).copied();
            let since = since.max(disturbed.unwrap_or(since));
            let is_here = !running.gate.is_dead() && !running.gate.is_paused();
            (is_here && now.saturating_duration_since(since) > STOPPED).then_some(*id)
        });
        if let Some(id) = goes_on {
            let ti = self.known.get(&id).map(|known| known.ti.clone());
            self.broken("P25", format!("the code of {ti:?} goes on, {STOPPED:?} after a user took it away"));
        }
    }
}
