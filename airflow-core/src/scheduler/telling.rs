//! Calls callbacks, and remembers which notices are being told.
//!
//! A notice is written with the change that it is of, and deleted once its callbacks have returned. So a process that
//! dies in between leaves it behind, and another one tells it: callbacks are called once for each event, unless the
//! process dies while they run.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use tokio::task::JoinSet;

use crate::callback::{Callback, CallbackContext, panic_text};
use crate::compile::{CompiledDag, CompiledDeadline};
use crate::decide::deadline::{EVENT as DEADLINE, SLA_MISS, named};
use crate::map::HashSet;
use crate::registry::Registry;
use crate::store::{Notice, NoticeKey, NoticeRow};

/// The callbacks that run, and those that have returned.
#[derive(Debug, Default)]
pub(super) struct Telling {
    running: JoinSet<NoticeKey>,
    /// From the first call until the store has forgotten it.
    known: HashSet<NoticeKey>,
    told: Vec<NoticeKey>,
}

impl Telling {
    /// Calls the callbacks of a notice, one after the other, beside everything else. Does nothing if it is being told.
    pub(super) fn tell(&mut self, registry: &Registry, row: NoticeRow) {
        let Some(dag) = registry.get(&row.dag_id) else { return };
        if !self.known.insert(row.key()) {
            return;
        }
        let callbacks = callbacks_of(dag, &row.notice).to_vec();
        self.running.spawn(async move {
            for callback in callbacks {
                let call = AssertUnwindSafe(callback.call(context(&row))).catch_unwind();
                if let Err(panic) = call.await {
                    tracing::error!(
                        callback = callback.name(),
                        "the callback panicked: {}",
                        panic_text(&*panic)
                    );
                }
            }
            row.key()
        });
    }

    /// Returns when callbacks of one more notice have returned; at once if none run.
    pub(super) async fn next(&mut self) {
        if let Some(Ok(key)) = self.running.join_next().await {
            self.told.push(key);
        }
    }

    /// Whether callbacks run.
    pub(super) fn is_busy(&self) -> bool {
        !self.running.is_empty()
    }

    /// The notices whose callbacks have returned and that the store still has.
    pub(super) fn told(&mut self) -> Vec<NoticeKey> {
        while let Some(joined) = self.running.try_join_next() {
            self.told.extend(joined.ok());
        }
        self.told.clone()
    }

    /// The store has forgotten them.
    pub(super) fn forget(&mut self, keys: &[NoticeKey]) {
        self.told.retain(|key| !keys.contains(key));
        keys.iter().for_each(|key| {
            self.known.remove(key);
        });
    }
}

/// Whom to tell. A task that is gone from the code has nobody left; nor has a deadline.
fn callbacks_of<'a>(dag: &'a CompiledDag, notice: &Notice) -> &'a [Callback] {
    let of_deadline = |deadline: Option<&'a CompiledDeadline>| deadline.map(|one| &one.callbacks[..]);
    let found = match (&notice.task_id, notice.event.strip_prefix(DEADLINE)) {
        (None, Some(name)) => of_deadline(named(dag, name)),
        (None, None) => Some(dag.settings.callbacks.for_event(&notice.event)),
        (Some(id), _) if notice.event == SLA_MISS => {
            of_deadline(dag.settings.deadlines.iter().find(|one| one.task.as_ref() == Some(id)))
        }
        (Some(id), _) => {
            dag.find(id.as_str()).map(|task| dag.task(task).settings.callbacks.for_event(&notice.event))
        }
    };
    found.unwrap_or_default()
}

fn context(row: &NoticeRow) -> CallbackContext {
    let notice = &row.notice;
    CallbackContext {
        dag_id: row.dag_id.clone(),
        run_id: row.run_id.clone(),
        logical_date: row.logical_date,
        task_id: notice.task_id.clone(),
        map_index: notice.map_index,
        try_number: notice.try_number,
        event: match notice.event.as_str() {
            "success" => "success",
            "retry" => "retry",
            "skipped" => "skipped",
            SLA_MISS => SLA_MISS,
            event if event.starts_with(DEADLINE) => "deadline",
            _ => "failure",
        },
        reason: notice.reason.clone(),
        at: notice.at,
    }
}
