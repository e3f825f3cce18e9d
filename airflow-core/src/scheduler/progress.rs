//! What a scheduler has got done: the loop says so itself, nobody says it in its place.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::store::StoreError;
use crate::time::Clock;

use super::lease::Lease;

/// How far the loop of a scheduler has got.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// When the loop last got to its end: everything that was due was decided and written. `None` before the first.
    pub last_loop: Option<DateTime<Utc>>,
    /// How long ago that was, on a clock that nobody can set.
    pub loop_age: Option<Duration>,
    /// How long ago the lease of this process was renewed.
    pub beat_age: Option<Duration>,
    /// How long the instance that is ready and waits for a slot for the longest time has waited.
    pub oldest_waiting: Option<Duration>,
    /// Whether the process has stopped its attempts because it could not renew its lease, and is not back yet.
    pub fenced: bool,
    /// How often it has done so.
    pub fenced_total: u64,
    /// What the store said last, if the loop failed since it last got to its end.
    pub last_error: Option<String>,
}

#[derive(Debug, Default)]
struct Noted {
    last_loop: Option<(DateTime<Utc>, Duration)>,
    waits_since: Option<DateTime<Utc>>,
    fenced: bool,
    fenced_total: u64,
    last_error: Option<String>,
}

/// Where the loop notes it. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Notes {
    clock: Arc<dyn Clock>,
    lease: Lease,
    noted: Arc<Mutex<Noted>>,
}

impl Notes {
    pub(super) fn new(clock: Arc<dyn Clock>, lease: Lease) -> Self {
        Self { clock, lease, noted: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn completed(&self) {
        let at = (self.clock.now(), self.clock.elapsed());
        let mut noted = self.lock();
        noted.last_loop = Some(at);
        noted.last_error = None;
        noted.fenced = false;
    }

    pub(super) fn waits(&self, since: Option<DateTime<Utc>>) {
        self.lock().waits_since = since;
    }

    pub(super) fn failed(&self, error: &StoreError) {
        self.lock().last_error = Some(error.to_string());
    }

    pub(super) fn fenced(&self) {
        let mut noted = self.lock();
        noted.fenced = true;
        noted.fenced_total += 1;
    }

    pub(super) fn progress(&self) -> Progress {
        let (now, elapsed) = (self.clock.now(), self.clock.elapsed());
        let noted = self.lock();
        Progress {
            last_loop: noted.last_loop.map(|(at, _)| at),
            loop_age: noted.last_loop.map(|(_, at)| elapsed.saturating_sub(at)),
            beat_age: self.lease.age(),
            oldest_waiting: noted.waits_since.map(|since| (now - since).to_std().unwrap_or_default()),
            fenced: noted.fenced,
            fenced_total: noted.fenced_total,
            last_error: noted.last_error.clone(),
        }
    }
}
