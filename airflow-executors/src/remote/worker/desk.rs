//! What a worker runs at the moment, and how much more it may take.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use airflow_core::id::{AttemptId, IncarnationId};
use airflow_core::plan::{Attempt, Report};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

/// An attempt that has been claimed and whose report is not written yet.
#[derive(Debug)]
pub(super) struct Running {
    pub attempt: Attempt,
    pub cancel: watch::Sender<bool>,
    /// The life of the process in which it was claimed.
    pub claimed_by: IncarnationId,
    pub since: DateTime<Utc>,
    /// It was told to stop by the worker, not by a user: that costs no retry.
    pub is_stopped: bool,
    /// It was given back: what it says itself does not count.
    pub is_given_back: bool,
    /// Ends its process, if it has one of its own.
    pub end: Option<AbortHandle>,
}

/// What has become of attempts since the start of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Taken from queues and claimed.
    pub claimed: u64,
    /// Ended well, or asked to be skipped, rescheduled or deferred.
    pub succeeded: u64,
    /// Ended with an error.
    pub failed: u64,
    /// Stopped by a user.
    pub cancelled: u64,
    /// Given back.
    pub handed_back: u64,
    /// Reports that the store refused: the attempt was taken away before.
    pub refused: u64,
    /// Messages about attempts that were not there to be claimed: copies, and those that are over.
    pub stale: u64,
    /// Messages that were put back because this worker does not carry the version.
    pub put_back: u64,
    /// Messages that nobody of ours has sent.
    pub bad: u64,
}

#[derive(Debug, Default)]
struct State {
    running: BTreeMap<AttemptId, Running>,
    slots: usize,
    /// Slots that are promised to deliveries on their way.
    promised: usize,
    is_closed: bool,
    counts: Counts,
}

/// Shared by all parts of a worker.
#[derive(Debug, Default)]
pub(super) struct Desk {
    state: Mutex<State>,
    changed: Notify,
    /// Attempts began or ended.
    news: Notify,
}

/// Slots that nobody else gets; those that were not used are given back when it is dropped.
#[derive(Debug)]
pub(super) struct Promise {
    desk: Arc<Desk>,
    left: usize,
}

impl Promise {
    pub(super) fn left(&self) -> usize {
        self.left
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.desk.lock().promised -= self.left;
        self.desk.changed.notify_waiters();
    }
}

impl Desk {
    pub(super) fn new(slots: usize) -> Arc<Self> {
        let state = State { slots, ..State::default() };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new(), news: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to `most` free slots, at once; `None` if there is none.
    pub(super) fn promise(self: &Arc<Self>, most: usize) -> Option<Promise> {
        let mut state = self.lock();
        let free = state.slots.saturating_sub(state.running.len() + state.promised).min(most);
        if free == 0 || state.is_closed {
            return None;
        }
        state.promised += free;
        Some(Promise { desk: Arc::clone(self), left: free })
    }

    /// For what runs whether or not a slot is free.
    pub(super) fn nothing_promised(self: &Arc<Self>) -> Promise {
        Promise { desk: Arc::clone(self), left: 0 }
    }

    /// Returns when slots may be free, or nothing is taken any more.
    pub(super) async fn room(&self) {
        self.until(|state| state.is_closed || state.slots > state.running.len() + state.promised).await;
    }

    /// Returns when all slots are taken.
    pub(super) async fn full(&self) {
        self.until(|state| state.running.len() >= state.slots).await;
    }

    /// Returns when attempts have begun or ended since the last call.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Returns when nothing runs.
    pub(super) async fn empty(&self) {
        self.until(|state| state.running.is_empty()).await;
    }

    async fn until(&self, holds: impl Fn(&State) -> bool + Send) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Listens before it looks, so that no change is missed in between.
            changed.as_mut().enable();
            if holds(&self.lock()) {
                return;
            }
            changed.await;
        }
    }

    /// Puts an attempt into one of the promised slots.
    pub(super) fn begin(&self, running: Running, promise: &mut Promise) {
        let mut state = self.lock();
        if promise.left > 0 {
            promise.left -= 1;
            state.promised -= 1;
        }
        state.counts.claimed += 1;
        state.running.insert(running.attempt.ti.attempt_id, running);
        drop(state);
        self.changed.notify_waiters();
        self.news.notify_one();
    }

    /// An attempt has been reported; its slot is free.
    pub(super) fn end(&self, id: AttemptId, count: impl FnOnce(&mut Counts)) {
        let mut state = self.lock();
        state.running.remove(&id);
        count(&mut state.counts);
        drop(state);
        self.changed.notify_waiters();
        self.news.notify_one();
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.lock().counts);
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    pub(super) fn has(&self, id: AttemptId) -> bool {
        self.lock().running.contains_key(&id)
    }

    pub(super) fn ids(&self) -> Vec<AttemptId> {
        self.lock().running.keys().copied().collect()
    }

    pub(super) fn slots(&self) -> usize {
        self.lock().slots
    }

    pub(super) fn set_slots(&self, slots: usize) {
        self.lock().slots = slots;
        self.changed.notify_waiters();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Nothing more is taken.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_waiters();
    }

    /// Looks at what runs.
    pub(super) fn each<T>(&self, look: impl FnMut(&Running) -> T) -> Vec<T> {
        self.lock().running.values().map(look).collect()
    }

    /// A user wants it to stop.
    pub(super) fn cancel(&self, id: AttemptId) {
        if let Some(running) = self.lock().running.get(&id) {
            running.cancel.send_replace(true);
        }
    }

    /// The worker wants all to stop: whatever ends because of that costs no retry.
    pub(super) fn stop_all(&self) -> usize {
        let mut state = self.lock();
        for running in state.running.values_mut() {
            running.is_stopped = true;
            running.cancel.send_replace(true);
        }
        state.running.len()
    }

    /// Gives back all that runs: returns what to report. The attempts are told to stop, and their own reports do not
    /// count.
    pub(super) fn give_back(&self, now: DateTime<Utc>) -> Vec<Report> {
        let mut state = self.lock();
        let give = |running: &mut Running| {
            running.is_given_back = true;
            running.cancel.send_replace(true);
            let attempt = &running.attempt;
            Report::handed_back(attempt.run.pk, attempt.key(), attempt.ti.attempt_id, now)
        };
        state.running.values_mut().filter(|running| !running.is_given_back).map(give).collect()
    }

    /// Says how the process of an attempt can be ended.
    pub(super) fn began(&self, id: AttemptId, end: AbortHandle) {
        if let Some(running) = self.lock().running.get_mut(&id) {
            running.end = Some(end);
        }
    }

    /// Ends the processes of what was given back: others may begin it anew.
    pub(super) fn end_given_back(&self) {
        let state = self.lock();
        let given_back = state.running.values().filter(|running| running.is_given_back);
        given_back.filter_map(|running| running.end.as_ref()).for_each(AbortHandle::abort);
    }

    /// In which life of the process an attempt was claimed, and whether it was told to stop, for its own report; `None` if
    /// that does not count.
    pub(super) fn whose(&self, id: AttemptId) -> Option<(IncarnationId, bool)> {
        let state = self.lock();
        let running = state.running.get(&id).filter(|running| !running.is_given_back)?;
        Some((running.claimed_by, running.is_stopped))
    }

    /// The same for the report by which it was given back.
    pub(super) fn given_back(&self, id: AttemptId) -> Option<IncarnationId> {
        self.lock().running.get(&id).map(|running| running.claimed_by)
    }
}
