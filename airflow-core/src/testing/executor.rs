//! An executor that only takes attempts and waits down; the world around it runs them, one after the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::executor::{Executor, ExecutorServices, SubmitError, Waiter};
use crate::id::AttemptId;
use crate::operator::Cancel;
use crate::plan::Attempt;

/// How many waits a test may have going.
const MOST_WAITS: usize = 100_000;

/// Attempts that were taken and not begun, and what stops those that are out.
#[derive(Debug, Default)]
struct Desk {
    new: Vec<(Attempt, Cancel)>,
    out: HashMap<AttemptId, watch::Sender<bool>>,
    new_waits: Vec<(Attempt, Cancel)>,
    left: Vec<AttemptId>,
    waits: HashMap<AttemptId, watch::Sender<bool>>,
}

#[derive(Debug, Clone)]
pub(super) struct SimExecutor {
    slots: usize,
    desk: Arc<Mutex<Desk>>,
}

impl SimExecutor {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots, desk: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was submitted since the last call, in order.
    pub(super) fn take_new(&self) -> Vec<(Attempt, Cancel)> {
        std::mem::take(&mut self.lock().new)
    }

    /// What is to be waited for since the last call, in order.
    pub(super) fn take_new_waits(&self) -> Vec<(Attempt, Cancel)> {
        std::mem::take(&mut self.lock().new_waits)
    }

    /// Waits that go on elsewhere.
    pub(super) fn take_left(&self) -> Vec<AttemptId> {
        std::mem::take(&mut self.lock().left)
    }

    /// An attempt or a wait has ended.
    pub(super) fn ended(&self, id: AttemptId) {
        let mut desk = self.lock();
        desk.out.remove(&id);
        desk.waits.remove(&id);
    }
}

impl Waiter for SimExecutor {
    fn capacity(&self) -> usize {
        MOST_WAITS
    }

    fn watch(&self, attempt: Attempt) {
        let mut desk = self.lock();
        if desk.waits.contains_key(&attempt.ti.attempt_id) {
            return;
        }
        let (stop, cancel) = Cancel::pair();
        desk.waits.insert(attempt.ti.attempt_id, stop);
        desk.new_waits.push((attempt, cancel));
    }

    fn forget(&self, attempt: AttemptId) {
        if let Some(stop) = self.lock().waits.get(&attempt) {
            stop.send_replace(true);
        }
    }

    fn leave(&self, attempt: AttemptId) {
        let mut desk = self.lock();
        desk.waits.remove(&attempt);
        desk.new_waits.retain(|(new, _)| new.ti.attempt_id != attempt);
        desk.left.push(attempt);
    }

    fn stop(&self) {}
}

#[async_trait]
impl Executor for SimExecutor {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn slots(&self) -> usize {
        self.slots
    }

    fn start(&self, _: ExecutorServices) {}

    fn submit(&self, attempt: Attempt) -> Result<(), SubmitError> {
        let mut desk = self.lock();
        if desk.out.contains_key(&attempt.ti.attempt_id) {
            return Ok(());
        }
        if desk.out.len() >= self.slots {
            return Err(SubmitError::Full("simulated".into()));
        }
        let (stop, cancel) = Cancel::pair();
        desk.out.insert(attempt.ti.attempt_id, stop);
        desk.new.push((attempt, cancel));
        Ok(())
    }

    fn cancel(&self, attempt: AttemptId) {
        if let Some(stop) = self.lock().out.get(&attempt) {
            stop.send_replace(true);
        }
    }

    async fn stop(&self, _: Duration) {}
}
