//! What users want called when something happens to a task or a run.
//!
//! A callback gets an owned [`CallbackContext`]. Its errors and panics are logged and change nothing else.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::id::{DagId, MapIndex, RunId, TaskId};

/// What happened, to whom, and where.
#[derive(Debug, Clone)]
pub struct CallbackContext {
    /// The dag.
    pub dag_id: DagId,
    /// The run.
    pub run_id: RunId,
    /// The logical date of the run.
    pub logical_date: DateTime<Utc>,
    /// The task; `None` if something happened to the run.
    pub task_id: Option<TaskId>,
    /// The instance of a mapped task.
    pub map_index: MapIndex,
    /// The number of the try, 1 for the first; 0 for a run.
    pub try_number: u32,
    /// The event: `execute`, `success`, `failure`, `retry`, `skipped`, `deadline` or `sla_miss`.
    pub event: &'static str,
    /// The error of the attempt, or why the run failed (`task_failure`, `all_tasks_deadlocked`, `timed_out`).
    pub reason: Option<String>,
    /// When it happened.
    pub at: DateTime<Utc>,
}

type BoxedFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A function of the user's, with a name for logs.
#[derive(Clone)]
pub struct Callback {
    name: &'static str,
    call: Arc<dyn Fn(CallbackContext) -> BoxedFuture + Send + Sync>,
}

impl Callback {
    /// The name of the function.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Calls the function.
    pub async fn call(&self, context: CallbackContext) {
        (self.call)(context).await;
    }
}

/// The same function, not one that does the same.
impl PartialEq for Callback {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.call, &other.call)
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Callback").field(&self.name).finish()
    }
}

/// What can serve as a callback: an `async fn(CallbackContext)`, or a closure that returns a future.
pub trait IntoCallback {
    /// Wraps it.
    fn into_callback(self) -> Callback;
}

impl IntoCallback for Callback {
    fn into_callback(self) -> Callback {
        self
    }
}

impl<F, Fut> IntoCallback for F
where
    F: Fn(CallbackContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    fn into_callback(self) -> Callback {
        Callback { name: std::any::type_name::<F>(), call: Arc::new(move |context| Box::pin(self(context))) }
    }
}

/// The callbacks of one task or run, each list in the order of its definition.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Callbacks {
    /// Before the body of an attempt.
    pub on_execute: Vec<Callback>,
    /// After success.
    pub on_success: Vec<Callback>,
    /// After the last failure.
    pub on_failure: Vec<Callback>,
    /// After a failure that is tried again.
    pub on_retry: Vec<Callback>,
    /// After the body asked to be skipped.
    pub on_skipped: Vec<Callback>,
}

impl Callbacks {
    /// Takes each list that is empty from `weaker`.
    #[must_use]
    pub fn or(self, weaker: &Self) -> Self {
        let pick =
            |own: Vec<Callback>, other: &Vec<Callback>| if own.is_empty() { other.clone() } else { own };
        Self {
            on_execute: pick(self.on_execute, &weaker.on_execute),
            on_success: pick(self.on_success, &weaker.on_success),
            on_failure: pick(self.on_failure, &weaker.on_failure),
            on_retry: pick(self.on_retry, &weaker.on_retry),
            on_skipped: pick(self.on_skipped, &weaker.on_skipped),
        }
    }

    /// The list for an event, by its name in [`CallbackContext::event`].
    pub fn for_event(&self, event: &str) -> &[Callback] {
        match event {
            "execute" => &self.on_execute,
            "success" => &self.on_success,
            "failure" => &self.on_failure,
            "retry" => &self.on_retry,
            "skipped" => &self.on_skipped,
            _ => &[],
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
