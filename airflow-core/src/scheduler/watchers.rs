//! The watchers of assets that this process runs, each as a future that costs memory only.
//!
//! Who runs which is in the store: a process takes what nobody alive has ([`Store::claim_watchers`]), and goes on where the
//! last one was. An event and how far the watcher has come with it are one transaction ([`Store::add_watched`]), and
//! only the process that has the watcher writes. So an event is written once, whatever dies when.
//!
//! [`Store::claim_watchers`]: crate::store::Store::claim_watchers
//! [`Store::add_watched`]: crate::store::Store::add_watched

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::asset::{AssetEvent, AssetEventId, NamedWatcher, Seen, WatchContext, WatcherKey};
use crate::callback::panic_text;
use crate::id::IncarnationId;
use crate::mask::Masker;
use crate::operator::{Resources, Result, TaskError, TaskServices};
use crate::store::{SharedStore, StoreResult, WatchedEvent, WatcherRow};
use crate::time::Clock;

use super::{Scheduler, SchedulerHandle, Wake};

/// The pause after the first failure, and the longest: what is down for an hour is then asked twelve times.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LAST: Duration = Duration::from_secs(300);

/// How long a watcher must wait without failing until it counts as working again.
const WORKS_AFTER: Duration = Duration::from_secs(60);

/// The pause after an event that came once more: a source that does nothing else must not take a processor.
const REPEAT_PAUSE: Duration = Duration::from_secs(1);

/// How many characters of an error are kept.
const MAX_ERROR_CHARS: usize = 2000;

/// What watchers are given besides the clock.
#[derive(Clone)]
pub struct WatchServices {
    /// What the application registered.
    pub resources: Resources,
    /// Where connections and variables come from.
    pub services: Arc<dyn TaskServices>,
    /// What hides secrets in errors.
    pub masker: Masker,
}

impl std::fmt::Debug for WatchServices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchServices").field("resources", &self.resources).finish_non_exhaustive()
    }
}

/// The watchers that run here. Dropped, it stops them.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    services: Option<WatchServices>,
    running: BTreeMap<WatcherKey, AbortHandle>,
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Watchers {
    /// Stops all of them. What is being written may be written or not.
    pub(super) fn stop(&mut self) {
        for handle in std::mem::take(&mut self.running).into_values() {
            handle.abort();
        }
    }

    /// Stops those that are not this process's, or not to run.
    fn keep_only(&mut self, rows: &[WatcherRow], process: IncarnationId) {
        let ours = |key: &WatcherKey| {
            rows.iter().any(|row| row.key == *key && row.is_wanted && row.owner == Some(process))
        };
        self.running.retain(|key, handle| {
            let stays = ours(key) && !handle.is_finished();
            if !stays {
                handle.abort();
            }
            stays
        });
    }
}

impl Scheduler {
    /// The same, running the watchers of assets too.
    #[must_use]
    pub fn with_watchers(mut self, services: WatchServices) -> Self {
        self.watchers.services = Some(services);
        self
    }

    /// Takes the watchers that nobody runs, and stops those that are not to run any more.
    pub(super) async fn tend_watchers(&mut self) -> StoreResult<()> {
        if self.registry.watchers().is_empty() {
            return Ok(());
        }
        let Some(services) = self.watchers.services.clone() else { return Ok(()) };
        let (rows, process) = (self.store.watchers().await?, self.process.id);
        self.watchers.keep_only(&rows, process);
        let free = |row: &&WatcherRow| {
            row.is_wanted
                && row.owner.is_none_or(|owner| owner == process)
                && self.registry.watchers().contains_key(&row.key)
                && !self.watchers.running.contains_key(&row.key)
        };
        let free: Vec<WatcherKey> = rows.iter().filter(free).map(|row| row.key.clone()).collect();
        if free.is_empty() {
            return Ok(());
        }
        for row in self.store.claim_watchers(free, process).await? {
            let Some((asset, watcher)) = self.registry.watchers().get(&row.key) else { continue };
            let (clock, key) = (Arc::clone(&self.clock), row.key.clone());
            let WatchServices { resources, services, masker } = services.clone();
            let cx =
                WatchContext::new(asset.clone(), watcher.name(), Arc::clone(&clock), resources, services);
            let (store, handle, watcher) = (Arc::clone(&self.store), self.handle.clone(), watcher.clone());
            let span = tracing::info_span!("watcher", asset = asset.name(), name = watcher.name());
            let watch = Watch { store, handle, clock, process, masker, watcher, cx, row, pause: PAUSE_FIRST };
            let task = tokio::spawn(watch.run().instrument(span));
            self.watchers.running.insert(key, task.abort_handle());
        }
        Ok(())
    }
}

/// One watcher at work.
struct Watch {
    store: SharedStore,
    handle: SchedulerHandle,
    clock: Arc<dyn Clock>,
    process: IncarnationId,
    masker: Masker,
    watcher: NamedWatcher,
    cx: WatchContext,
    /// As it was when this process took it, and what it has written since.
    row: WatcherRow,
    /// How long it rests after the next failure.
    pause: Duration,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Yes,
    /// It was written before.
    Before,
    /// Another process has the watcher, or nobody is to run it.
    Lost,
}

impl Watch {
    /// Runs until another process has the watcher, or nobody is to run it.
    async fn run(mut self) {
        tracing::debug!(events = self.row.events, "this process runs the watcher");
        loop {
            let result = match self.next().await {
                Ok(seen) => {
                    let cursor = seen.cursor.clone();
                    match self.write(seen).await {
                        Written::Lost => return,
                        Written::Yes => self.pause = PAUSE_FIRST,
                        Written::Before => self.clock.sleep(REPEAT_PAUSE).await,
                    }
                    caught(self.watcher.written(&cursor, &self.cx)).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                self.failed(&error).await;
            }
        }
    }

    /// The next event. One that is waited for long enough after a failure shows that the watcher works again.
    async fn next(&mut self) -> Result<Seen<Value, Value>> {
        let (watcher, cx, cursor) = (self.watcher.clone(), self.cx.clone(), self.row.cursor.clone());
        let mut next = Box::pin(async move { caught(watcher.next(cursor.as_ref(), &cx)).await });
        if self.row.failures > 0 {
            tokio::select! {
                biased;
                seen = &mut next => return seen,
                () = self.clock.sleep(WORKS_AFTER) => {}
            }
            self.note(None).await;
            (self.row.failures, self.pause) = (0, PAUSE_FIRST);
        }
        next.await
    }

    /// Writes an event, as often as it takes until it is known to be written.
    async fn write(&mut self, seen: Seen<Value, Value>) -> Written {
        if self.row.cursor.as_ref() == Some(&seen.cursor) {
            return Written::Before;
        }
        let payload = json!({ "from_trigger": true, "watcher": self.watcher.name(), "payload": seen.event });
        let id = AssetEventId::from(Uuid::now_v7().simple().to_string());
        let event = AssetEvent::from_outside(id, self.cx.asset(), self.clock.now());
        let event = AssetEvent { extra: payload, ..event };
        loop {
            let watched = WatchedEvent {
                key: self.row.key.clone(),
                after: self.row.events,
                cursor: seen.cursor.clone(),
                event: event.clone(),
            };
            match self.store.add_watched(self.process, watched).await {
                Ok(true) => {
                    self.row.events += 1;
                    (self.row.cursor, self.row.failures) = (Some(seen.cursor), 0);
                    self.handle.wake(Wake::Assets);
                    return Written::Yes;
                }
                Ok(false) => return Written::Lost,
                Err(error) => tracing::warn!(%error, "cannot write an event of a watcher; trying again"),
            }
            // It may be written or not: how far the watcher has come tells.
            if !self.read_again().await {
                return Written::Lost;
            }
            if self.row.cursor.as_ref() == Some(&seen.cursor) {
                self.handle.wake(Wake::Assets);
                return Written::Yes;
            }
        }
    }

    /// Reads how far the watcher has come, as often as it takes; says whether it is still this process's.
    async fn read_again(&mut self) -> bool {
        let mut pause = PAUSE_FIRST;
        loop {
            self.clock.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LAST);
            match self.store.claim_watchers(vec![self.row.key.clone()], self.process).await {
                Ok(rows) => {
                    let Some(row) = rows.into_iter().next() else { return false };
                    self.row = row;
                    return true;
                }
                Err(error) => tracing::warn!(%error, "cannot see how far a watcher has come; trying again"),
            }
        }
    }

    async fn failed(&mut self, error: &TaskError) {
        let error = self.masker.mask(&error.to_string()).into_owned();
        tracing::warn!(error, pause = ?self.pause, "a watcher failed; it is called again");
        self.row.failures = self.row.failures.saturating_add(1);
        let kept = error.chars().take(MAX_ERROR_CHARS).collect();
        self.note(Some(kept)).await;
        self.clock.sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_LAST);
    }

    /// Lets people see how it is. Nothing hangs on it, so it is not tried twice.
    async fn note(&self, error: Option<String>) {
        let now = self.clock.now();
        let noted = self.store.note_watcher(self.process, self.row.key.clone(), error, now).await;
        if let Err(error) = noted {
            tracing::warn!(%error, "cannot note how a watcher is");
        }
    }
}

/// Does the work of a watcher; a panic is an error.
async fn caught<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => Err(TaskError::msg(format_args!("the watcher panicked: {}", panic_text(&*panic)))),
    }
}
