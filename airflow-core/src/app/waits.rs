//! Waits of deferred task instances on the tokio runtime of this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::executor::{WaitRunner, Waiter};
use crate::id::AttemptId;
use crate::operator::Cancel;
use crate::plan::{Attempt, Report};

/// Runs each wait as a task of the runtime: a few kilobytes, no thread.
pub(super) struct LocalWaiter {
    runner: Arc<dyn WaitRunner>,
    reports: mpsc::UnboundedSender<Report>,
    capacity: usize,
    waits: Arc<Mutex<HashMap<AttemptId, Handle>>>,
}

struct Handle {
    cancel: watch::Sender<bool>,
    task: AbortHandle,
}

impl std::fmt::Debug for LocalWaiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalWaiter").field("waits", &lock(&self.waits).len()).finish_non_exhaustive()
    }
}

fn lock(waits: &Mutex<HashMap<AttemptId, Handle>>) -> MutexGuard<'_, HashMap<AttemptId, Handle>> {
    waits.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LocalWaiter {
    pub(super) fn new(
        runner: Arc<dyn WaitRunner>,
        reports: mpsc::UnboundedSender<Report>,
        capacity: usize,
    ) -> Self {
        Self { runner, reports, capacity, waits: Arc::default() }
    }
}

impl Waiter for LocalWaiter {
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn watch(&self, attempt: Attempt) {
        let id = attempt.ti.attempt_id;
        let mut waits = lock(&self.waits);
        if waits.contains_key(&id) {
            return;
        }
        let (cancel, listens) = Cancel::pair();
        let (runner, reports, all) =
            (Arc::clone(&self.runner), self.reports.clone(), Arc::clone(&self.waits));
        let task = tokio::spawn(async move {
            let report = runner.wait(attempt, listens).await;
            lock(&all).remove(&id);
            // A scheduler that is gone takes no report; the next one waits again.
            let _ = reports.send(report);
        });
        waits.insert(id, Handle { cancel, task: task.abort_handle() });
    }

    fn forget(&self, attempt: AttemptId) {
        if let Some(handle) = lock(&self.waits).get(&attempt) {
            handle.cancel.send_replace(true);
        }
    }

    fn leave(&self, attempt: AttemptId) {
        if let Some(handle) = lock(&self.waits).remove(&attempt) {
            handle.task.abort();
        }
    }

    fn stop(&self) {
        for (_, handle) in lock(&self.waits).drain() {
            handle.task.abort();
        }
    }
}
