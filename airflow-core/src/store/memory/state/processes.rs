//! Processes with their leases, who has which run, and attempts whose process is gone.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use crate::id::{IncarnationId, RunPk};
use crate::store::rules::micros;
use crate::store::{AttemptRow, Incarnation, NewIncarnation};

use super::State;

/// The rows of processes.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// Each with the moment at which it ended.
    pub(super) known: BTreeMap<IncarnationId, (Incarnation, Option<DateTime<Utc>>)>,
    /// Which process decides about a run.
    pub(super) owners: BTreeMap<RunPk, IncarnationId>,
}

fn end_of(lease: std::time::Duration, now: DateTime<Utc>) -> DateTime<Utc> {
    let lease = TimeDelta::from_std(lease).unwrap_or(TimeDelta::MAX);
    now.checked_add_signed(lease).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// Also a lease that ends later than one that begins now: the clock was set back since.
fn has_expired(known: &Incarnation, now: DateTime<Utc>) -> bool {
    known.lease_until < now || known.lease_until > end_of(known.process.lease, now)
}

impl Processes {
    fn alive(&mut self, id: IncarnationId) -> Option<&mut (Incarnation, Option<DateTime<Utc>>)> {
        self.known.get_mut(&id).filter(|(_, ended)| ended.is_none())
    }

    /// Whether it is known and has not ended.
    pub(super) fn is_alive(&self, id: IncarnationId) -> bool {
        self.known.get(&id).is_some_and(|(_, ended)| ended.is_none())
    }

    /// What it is, if it has not ended.
    pub(super) fn kind_of(&self, id: IncarnationId) -> Option<String> {
        self.known.get(&id).filter(|(_, ended)| ended.is_none()).map(|(known, _)| known.process.kind.clone())
    }

    fn has_ended(&self, id: IncarnationId) -> bool {
        self.known.get(&id).is_some_and(|(_, ended)| ended.is_some())
    }
}

impl State {
    pub(in crate::store::memory) fn register(&mut self, process: NewIncarnation, now: DateTime<Utc>) {
        let now = micros(now);
        let lease_until = micros(end_of(process.lease, now));
        let id = process.id;
        let known =
            Incarnation { process, started_at: now, lease_until, beats: 0, last_beat: now, expired: false };
        self.processes.known.entry(id).or_insert((known, None));
    }

    pub(in crate::store::memory) fn beat(&mut self, id: IncarnationId, now: DateTime<Utc>) -> bool {
        let now = micros(now);
        let Some((known, _)) = self.processes.alive(id) else { return false };
        known.beats += 1;
        known.last_beat = now;
        known.lease_until = end_of(known.process.lease, now);
        true
    }

    pub(in crate::store::memory) fn end_incarnation(&mut self, id: IncarnationId, now: DateTime<Utc>) {
        if let Some((_, ended)) = self.processes.alive(id) {
            *ended = Some(micros(now));
        }
    }

    pub(in crate::store::memory) fn expire(
        &mut self,
        id: IncarnationId,
        beats: u64,
        now: DateTime<Utc>,
    ) -> bool {
        let now = micros(now);
        match self.processes.alive(id) {
            Some((known, ended)) if known.beats == beats && has_expired(known, now) => {
                *ended = Some(now);
                true
            }
            _ => false,
        }
    }

    pub(in crate::store::memory) fn incarnations(&self, now: DateTime<Utc>) -> Vec<Incarnation> {
        let alive = self.processes.known.values().filter(|(_, ended)| ended.is_none());
        let mut alive: Vec<Incarnation> = alive
            .map(|(known, _)| Incarnation { expired: has_expired(known, micros(now)), ..known.clone() })
            .collect();
        alive.sort_by_key(|known| (known.started_at, known.process.id));
        alive
    }

    pub(in crate::store::memory) fn forget_incarnations(&mut self, before: DateTime<Utc>) -> u64 {
        let busy: BTreeSet<IncarnationId> =
            self.open_attempts().filter_map(|row| row.start.incarnation).collect();
        let known = &mut self.processes.known;
        let had = known.len();
        known.retain(|id, (_, ended)| ended.is_none_or(|ended| ended >= before) || busy.contains(id));
        self.remote.carried.retain(|(_, _, process)| known.contains_key(process));
        (had - known.len()) as u64
    }

    pub(in crate::store::memory) fn claim_runs(
        &mut self,
        runs: &[RunPk],
        process: IncarnationId,
    ) -> Vec<RunPk> {
        let mut mine = Vec::new();
        for run in runs.iter().filter(|run| self.runs.contains_key(run)) {
            let free = match self.processes.owners.get(run) {
                Some(owner) => !self.processes.known.contains_key(owner) || self.processes.has_ended(*owner),
                None => true,
            };
            if free {
                self.processes.owners.insert(*run, process);
            }
            if self.processes.owners.get(run) == Some(&process) {
                mine.push(*run);
            }
        }
        mine
    }

    pub(super) fn open_attempts(&self) -> impl Iterator<Item = &AttemptRow> {
        self.open.iter().filter_map(|key| self.attempts.get(key))
    }

    pub(in crate::store::memory) fn orphans(&self) -> Vec<AttemptRow> {
        let is_orphan =
            |attempt: &&AttemptRow| attempt.start.incarnation.is_some_and(|id| self.processes.has_ended(id));
        let reported = |attempt: &&AttemptRow| self.remote.reports.contains_key(&attempt.start.attempt_id);
        self.open_attempts().filter(is_orphan).filter(|row| !reported(row)).cloned().collect()
    }
}
