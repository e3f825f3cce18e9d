//! What the bodies of all tasks do: nothing, but it is noted when.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

static BEGUN: Mutex<Vec<Instant>> = Mutex::new(Vec::new());
static EXPECTED: AtomicUsize = AtomicUsize::new(0);
static ALL: Notify = Notify::const_new();

/// The body of every task: takes a small value and returns the next one.
pub(crate) fn body(before: u64) -> u64 {
    let mut begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
    begun.push(Instant::now());
    if begun.len() == EXPECTED.load(Ordering::Relaxed) {
        ALL.notify_one();
    }
    before + 1
}

/// Says how many bodies [`all`] waits for, before the first of them runs.
pub(crate) fn expect(count: usize) {
    EXPECTED.store(count, Ordering::Relaxed);
}

/// Returns when as many bodies have run as are expected.
pub(crate) async fn all() {
    ALL.notified().await;
}

/// When each body has run, in order.
pub(crate) fn begun() -> Vec<Instant> {
    let mut begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    begun.sort_unstable();
    begun
}
