//! Mistakes that the simulation must notice.

use airflow_core::store::{Blind, NewRun, StoreResult, Unit};
use airflow_core::time::Clock as _;
use chrono::{DateTime, Utc};

use super::process::Way;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The store does not compare epochs.
    NoEpoch,
    /// Attempts are handed out before their commit is written.
    SubmitBeforeCommit,
    /// A lease is compared with the observer's clock.
    ExpireByOwnClock,
    /// Whoever's lease has run out by the store's clock is dead.
    NoSecondWitness,
    /// A commit without an answer is taken for one that failed.
    UnknownIsFailure,
    /// What is given back counts twice.
    ReleaseTwice,
    /// A user's clear leaves the epoch as it is.
    ClearWithoutEpoch,
    /// The run of a schedule point is named by the time at which it is made.
    RunKeyFromNow,
    /// Attempts are not stopped when the lease is lost, and the process goes on.
    IgnoreCancel,
    /// A message is acknowledged before its attempt is claimed, and nobody sends it again.
    AckBeforeClaim,
    /// The store does not look whether a claimed attempt is still there to be claimed.
    ClaimBlind,
    /// Each try of a task instance has the attempt id of the first.
    ReuseAttemptId,
    /// A result that a user sets leaves the generation of the run as it is.
    SetsInSilence,
    /// Workers do not stop what was taken away, nor what runs at the end of their lease.
    WorkerIgnoresCancel,
}

/// All of them, each with a seed that notices it; if plans change, others do.
pub(crate) const ALL: [(Mutant, u64); 14] = [
    (Mutant::NoEpoch, 71),
    (Mutant::SubmitBeforeCommit, 0),
    (Mutant::ExpireByOwnClock, 0),
    (Mutant::NoSecondWitness, 3),
    (Mutant::UnknownIsFailure, 12),
    (Mutant::ReleaseTwice, 0),
    (Mutant::ClearWithoutEpoch, 6),
    (Mutant::RunKeyFromNow, 0),
    (Mutant::IgnoreCancel, 71),
    (Mutant::AckBeforeClaim, 7),
    (Mutant::ClaimBlind, 44),
    (Mutant::ReuseAttemptId, 0),
    (Mutant::WorkerIgnoresCancel, 2),
    (Mutant::SetsInSilence, 542),
];

impl Mutant {
    /// What the store overlooks.
    pub(crate) fn blind(self) -> Option<Blind> {
        match self {
            Self::NoEpoch => Some(Blind::Epoch),
            Self::ClearWithoutEpoch => Some(Blind::ClearedEpoch),
            Self::ClaimBlind => Some(Blind::Claim),
            Self::SetsInSilence => Some(Blind::Values),
            _ => None,
        }
    }
}

/// The units as the mutant writes them.
pub(crate) fn changed(mutant: Option<Mutant>, mut units: Vec<Unit>) -> Vec<Unit> {
    if mutant == Some(Mutant::ReleaseTwice) {
        for slot in units.iter_mut().flat_map(|unit| &mut unit.slots).filter(|slot| slot.delta < 0) {
            slot.delta *= 2;
        }
    }
    units
}

/// The runs as the mutant makes them.
pub(crate) fn keyed(mutant: Option<Mutant>, mut runs: Vec<NewRun>, now: DateTime<Utc>) -> Vec<NewRun> {
    if mutant == Some(Mutant::RunKeyFromNow) {
        for run in &mut runs {
            run.logical_date = now;
            run.run_id = format!("scheduled__{now}").into();
        }
    }
    runs
}

/// Ends processes on one ground only.
pub(crate) async fn reap_wrongly(way: &Way) -> StoreResult<()> {
    let wrongly = match way.life.mutant {
        Some(Mutant::ExpireByOwnClock) => {
            let now = way.life.clock.now();
            let all = way.store.incarnations().await?;
            all.into_iter().filter(|one| one.lease_until < now).collect::<Vec<_>>()
        }
        Some(Mutant::NoSecondWitness) => {
            way.store.incarnations().await?.into_iter().filter(|one| one.expired).collect()
        }
        _ => return Ok(()),
    };
    for one in wrongly {
        way.store.end_incarnation(one.process.id).await?;
        let alive = way.store.incarnations().await?;
        super::process::lock(&way.life.oracle).lives_are(&alive, "expire", &way.life.gate);
    }
    Ok(())
}
