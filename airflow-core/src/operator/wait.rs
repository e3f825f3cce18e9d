//! Waiting without a slot: what a task defers to, what is kept of it, and how it goes on.
//!
//! A task body that returns a [`Deferral`] ends its attempt and gives its slot back. What it waits for is a
//! [`Trigger`], kept as JSON with the task instance; any process that schedules runs it, next to all other waits, as
//! a future that costs memory only. When it fires, the task is started again and goes on at
//! [`Execute::resume`](super::Execute::resume).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::xcom::Data;

use super::{Result, TaskContext, TaskError};

/// The kind of wait in which a sensor pokes again and again.
pub(crate) const POKES: &str = "airflow::pokes";

/// Where a task goes on if its deferral names no method.
pub const DEFAULT_METHOD: &str = "execute_complete";

/// Something outside that a task can wait for without a slot.
///
/// All that it needs is in its fields, which are stored: another process may go on with it. It runs beside many others,
/// so it must not block: it sleeps with [`TaskContext::sleep`] and asks with async calls.
///
/// ```
/// use airflow_core::operator::{Result, TaskContext, Trigger};
/// use airflow_core::time::secs;
/// use serde::{Deserialize, Serialize};
///
/// /// The job with this number is done.
/// #[derive(Serialize, Deserialize)]
/// struct JobDone {
///     job: u64,
/// }
///
/// impl Trigger for JobDone {
///     type Event = String;
///     const KIND: &'static str = "shop::JobDone";
///
///     async fn wait(&self, cx: &TaskContext) -> Result<String> {
///         loop {
///             // Ask the service here.
///             if self.job % 2 == 0 {
///                 return Ok(format!("s3://jobs/{}", self.job));
///             }
///             cx.sleep(secs(10)).await;
///         }
///     }
/// }
/// ```
pub trait Trigger: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What it hands to the task when it fires.
    type Event: Data;

    /// Its name in the database, which must stay the same as long as tasks wait for it.
    const KIND: &'static str;

    /// Returns when it has happened. After a restart it is called again, from the start.
    ///
    /// An error fails the try of the task, which is tried again while retries are left.
    fn wait(&self, cx: &TaskContext) -> impl Future<Output = Result<Self::Event>> + Send;
}

/// A kind of trigger without its type.
#[derive(Clone)]
pub struct TriggerKind {
    /// Its name in the database.
    pub kind: &'static str,
    run: Arc<dyn AnyTrigger>,
}

impl std::fmt::Debug for TriggerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TriggerKind").field(&self.kind).finish()
    }
}

impl TriggerKind {
    /// The kind of the triggers of type `T`.
    pub fn of<T: Trigger>() -> Self {
        Self { kind: T::KIND, run: Arc::new(Of::<T>(std::marker::PhantomData)) }
    }

    /// Waits as these stored fields say.
    ///
    /// # Errors
    ///
    /// [`TaskError::Fail`] if the fields are of another version of the trigger; what the trigger returns.
    pub async fn wait(&self, args: &Value, cx: &TaskContext) -> Result<Value> {
        self.run.wait(args, cx).await
    }
}

#[async_trait]
trait AnyTrigger: Send + Sync {
    async fn wait(&self, args: &Value, cx: &TaskContext) -> Result<Value>;
}

struct Of<T>(std::marker::PhantomData<fn() -> T>);

#[async_trait]
impl<T: Trigger> AnyTrigger for Of<T> {
    async fn wait(&self, args: &Value, cx: &TaskContext) -> Result<Value> {
        let trigger = T::deserialize(args).map_err(|error| {
            TaskError::fail(format_args!("the stored trigger `{}` cannot be read: {error}", T::KIND))
        })?;
        let event = trigger.wait(cx).await?;
        serde_json::to_value(&event).map_err(|error| {
            TaskError::fail(format_args!("the event of trigger `{}` is no JSON: {error}", T::KIND))
        })
    }
}

/// Gives the slot back until something has happened: `return Err(Deferral::until(JobDone { job }).into())`.
///
/// ```
/// use airflow_core::operator::{Deferral, Execute, Resumed, Result, TaskContext, Trigger};
/// use airflow_core::time::hours;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct JobDone { job: u64 }
/// # impl Trigger for JobDone {
/// #     type Event = String;
/// #     const KIND: &'static str = "shop::JobDone";
/// #     async fn wait(&self, _: &TaskContext) -> Result<String> { Ok(String::new()) }
/// # }
///
/// struct RunJob;
///
/// impl Execute for RunJob {
///     type Output = String;
///
///     async fn execute(&self, _: &TaskContext) -> Result<String> {
///         let job = 42; // start it
///         Err(Deferral::until(JobDone { job }).resume_at("job_done").timeout(hours(2)).into())
///     }
///
///     async fn resume(&self, _: &TaskContext, resumed: &Resumed) -> Result<String> {
///         match resumed.method() {
///             "job_done" => resumed.event(),
///             other => Err(resumed.unknown(other)),
///         }
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a deferral takes place when the task body returns it: `Err(deferral.into())`"]
pub struct Deferral {
    pub(crate) kind: String,
    pub(crate) args: Value,
    pub(crate) method: String,
    pub(crate) kwargs: Value,
    pub(crate) timeout: Option<Duration>,
    /// What could not be written as JSON.
    problem: Option<String>,
}

impl Deferral {
    /// Waits for `trigger`.
    #[expect(clippy::needless_pass_by_value, reason = "a trigger is made for its deferral")]
    pub fn until<T: Trigger>(trigger: T) -> Self {
        let (args, problem) = written("the trigger", &trigger);
        let (method, kwargs) = (DEFAULT_METHOD.to_owned(), Value::Null);
        Self { kind: T::KIND.to_owned(), args, method, kwargs, timeout: None, problem }
    }

    /// A sensor that pokes without a slot.
    pub(crate) fn pokes() -> Self {
        let (kind, method) = (POKES.to_owned(), DEFAULT_METHOD.to_owned());
        Self { kind, args: Value::Null, method, kwargs: Value::Null, timeout: None, problem: None }
    }

    /// As it was stored.
    pub(crate) fn from_parts(
        kind: String,
        args: Value,
        method: String,
        kwargs: Value,
        timeout: Option<Duration>,
    ) -> Self {
        Self { kind, args, method, kwargs, timeout, problem: None }
    }

    /// The kind of trigger it waits for.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The name that [`Resumed::method`] will have. Default [`DEFAULT_METHOD`].
    pub fn resume_at(mut self, method: impl Into<String>) -> Self {
        self.method = method.into();
        self
    }

    /// What the task wants to know when it goes on; read with [`Resumed::kwargs`].
    pub fn kwargs<T: Serialize + ?Sized>(mut self, kwargs: &T) -> Self {
        let (value, problem) = written("the kwargs", kwargs);
        self.kwargs = value;
        self.problem = self.problem.or(problem);
        self
    }

    /// How long to wait at most; after that the try fails. Without it only the `execution_timeout` of the task counts.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

fn written<T: Serialize + ?Sized>(what: &str, value: &T) -> (Value, Option<String>) {
    match serde_json::to_value(value) {
        Ok(value) => (value, None),
        Err(error) => (Value::Null, Some(format!("{what} of a deferral cannot be written as JSON: {error}"))),
    }
}

impl From<Deferral> for TaskError {
    fn from(deferral: Deferral) -> Self {
        match deferral.problem {
            Some(problem) => Self::Fail(problem),
            None => Self::Defer(Box::new(deferral)),
        }
    }
}

/// What a task instance keeps while it waits, and takes along when it goes on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Wait {
    /// When its first attempt started since it was last cleared; of sensors only, whose timeout counts from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// How often a sensor poked and was rescheduled, in this try.
    pub pokes: u32,
    /// What it waits for, while it is deferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deferred: Option<Deferred>,
    /// What it waited for last and goes on with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Resumed>,
}

impl Wait {
    /// Whether the next attempt goes on with what an earlier one of the same try began.
    pub fn goes_on(&self) -> bool {
        self.pokes > 0 || self.resumed.is_some()
    }
}

/// What a deferred task instance waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deferred {
    /// The kind of the trigger.
    pub kind: String,
    /// The fields of the trigger.
    pub args: Value,
    /// Where the task goes on.
    pub method: String,
    /// What the task wants to know then.
    pub kwargs: Value,
    /// When it was deferred.
    pub at: DateTime<Utc>,
    /// When the wait fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

/// With what a deferred task goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resumed {
    method: String,
    kwargs: Value,
    event: Value,
}

impl Resumed {
    /// What `deferred` goes on with after this event.
    pub fn new(deferred: &Deferred, event: Value) -> Self {
        Self { method: deferred.method.clone(), kwargs: deferred.kwargs.clone(), event }
    }

    /// The name that the deferral gave, or [`DEFAULT_METHOD`].
    pub fn method(&self) -> &str {
        &self.method
    }

    /// What the trigger handed over.
    ///
    /// # Errors
    ///
    /// [`TaskError::Fail`] if it is no `T`.
    pub fn event<T: DeserializeOwned>(&self) -> Result<T> {
        read("event", &self.event)
    }

    /// What the deferral handed over.
    ///
    /// # Errors
    ///
    /// [`TaskError::Fail`] if it is no `T`.
    pub fn kwargs<T: DeserializeOwned>(&self) -> Result<T> {
        read("kwargs", &self.kwargs)
    }

    /// What to fail with if the task has no such method.
    pub fn unknown(&self, method: &str) -> TaskError {
        TaskError::fail(format_args!("the task has no method `{method}` to go on at"))
    }
}

fn read<T: DeserializeOwned>(what: &str, value: &Value) -> Result<T> {
    T::deserialize(value).map_err(|error| {
        let wanted = std::any::type_name::<T>();
        TaskError::fail(format_args!("the {what} of the deferral cannot be read as `{wanted}`: {error}"))
    })
}
