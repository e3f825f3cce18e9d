//! How often this worker has passed on messages that it cannot run.
//!
//! Brokers forget that when a message is sent anew, and some never count. Without an end a message that nobody can run
//! would go round and round.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use airflow_core::id::AttemptId;

/// How often a worker passes one on before it drops it: its scheduler sends it again later, and says in the meantime why the
/// attempt waits. Often enough for a worker that could run it and is full for a moment, and seldom enough that what nobody
/// can run rests most of the time.
const MOST: u32 = 25;

/// How many are remembered. Most are run by others, of which nobody hears here.
const REMEMBERED: usize = 4096;

/// The count for each attempt.
#[derive(Debug, Default)]
pub(super) struct Hops(Mutex<HashMap<AttemptId, u32>>);

impl Hops {
    /// Whether a message may be passed on once more; if not, its count begins anew with the next one.
    pub(super) fn may_go_on(&self, attempt: AttemptId) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= REMEMBERED {
            // Some go round once more than they would.
            counts.clear();
        }
        let count = counts.entry(attempt).or_default();
        *count += 1;
        let goes_on = *count <= MOST;
        if !goes_on {
            counts.remove(&attempt);
        }
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_passed_on_so_often_and_then_dropped() {
        let hops = Hops::default();
        let id = |number: u128| AttemptId(uuid::Uuid::from_u128(number));
        for round in 0..3 {
            let passed = (0..MOST).filter(|_| hops.may_go_on(id(1))).count();
            assert_eq!(passed, MOST as usize, "round {round}");
            assert!(!hops.may_go_on(id(1)), "round {round}");
        }
        for number in 0..2 * REMEMBERED as u128 {
            hops.may_go_on(id(number));
        }
        assert!(hops.0.lock().unwrap().len() <= REMEMBERED);
    }
}
