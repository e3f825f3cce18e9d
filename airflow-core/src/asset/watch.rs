//! What looks outside for an asset: a file, a queue, a resource of the web.
//!
//! An [`AssetWatcher`] is attached to an asset with [`Asset::watcher`] and waits for the next event outside. One
//! scheduler at a time runs it, beside its other work and without a slot; what it yields becomes an event of the asset, so
//! dags that wait for the asset run. Nothing here stores or schedules: see `scheduler/watchers.rs`.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::connection::Connection;
use crate::operator::{Resources, Result, TaskError, TaskServices, missing_resource, no_connection};
use crate::time::Clock;

use super::{Asset, AssetKey};

/// The longest name of a watcher, in characters.
pub const MAX_WATCHER_CHARS: usize = 250;

/// The largest event of a watcher, in bytes of JSON: it is written and read with every look at the asset.
pub const MAX_WATCHED_BYTES: usize = 1024 * 1024;

/// Watches something outside of all dags, and says when an asset is new.
///
/// # Contract
///
/// - Of all schedulers that carry it one runs it, also while others come and go. It holds no slot and no thread: it must
///   not block. It sleeps with [`WatchContext::sleep`] and asks with async calls.
/// - It is shown how far it has come: the cursor of the last event that was written, whoever ran it then. Event and cursor
///   are written in one transaction, so nothing is lost and nothing doubled, as long as the source can be
///   asked what came after a cursor.
/// - [`next`](Self::next) may be dropped wherever it waits, and called again with the same cursor.
/// - An event with the cursor of the one before it is the same event once more, as a queue delivers that did not
///   get its acknowledgement: it is not written again.
/// - It runs while a dag whose schedule names the asset is known and not paused. What happens outside meanwhile is for the
///   source to keep.
/// - An error or a panic is kept for people to see; it is called again after a pause that grows from 1 second to 5 minutes.
///
/// ```
/// use airflow_core::asset::{Asset, AssetWatcher, Seen, WatchContext};
/// use airflow_core::dag::{DagDef, TaskExt};
/// use airflow_core::operator::{Empty, Result};
/// use airflow_core::time::secs;
///
/// /// Looks which orders came after the last one that was seen.
/// struct Orders {
///     url: String,
/// }
///
/// impl AssetWatcher for Orders {
///     type Event = String;
///     type Cursor = u64;
///
///     async fn next(&self, after: Option<u64>, cx: &WatchContext) -> Result<Seen<String, u64>> {
///         let wanted = after.map_or(0, |last| last + 1);
///         loop {
///             // Ask `self.url` here.
///             let newest = Some(7);
///             if newest.is_some_and(|newest| newest >= wanted) {
///                 return Ok(Seen::new(format!("{}/{wanted}", self.url), wanted));
///             }
///             cx.sleep(secs(10)).await;
///         }
///     }
/// }
///
/// let orders = Asset::new("s3://lake/orders").watcher("shop", Orders { url: "https://shop/orders".into() });
/// let dag = DagDef::new("report").schedule(&orders).define(|d| {
///     d.add(Empty::new().id("report"));
/// });
/// assert!(dag.compile().is_ok());
/// ```
pub trait AssetWatcher: Send + Sync + 'static {
    /// What it says of an event: `payload` in the facts of the asset event.
    type Event: Serialize + Send;

    /// How far it has come. What is stored must stay readable; a watcher of another name begins anew.
    type Cursor: Serialize + DeserializeOwned + Send + Sync;

    /// Waits for the first event after a cursor; the first of all if there is none yet.
    ///
    /// # Errors
    ///
    /// Whatever goes wrong; it is called again later. The kinds of [`TaskError`] make no difference.
    fn next(
        &self,
        after: Option<Self::Cursor>,
        cx: &WatchContext,
    ) -> impl Future<Output = Result<Seen<Self::Event, Self::Cursor>>> + Send;

    /// Called when the event of this cursor has been written, to acknowledge it. If the process ends in between it is not
    /// called: the source should then deliver the event again, which is recognised by its cursor, and this is called.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next); the event stays written.
    fn written(&self, cursor: &Self::Cursor, cx: &WatchContext) -> impl Future<Output = Result<()>> + Send {
        let _ = (cursor, cx);
        async { Ok(()) }
    }
}

/// An event that a watcher has seen, and how far it has come with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<E, C> {
    /// What happened.
    pub event: E,
    /// What [`AssetWatcher::next`] is given to look for what came afterwards.
    pub cursor: C,
}

impl<E, C> Seen<E, C> {
    /// This event, up to and with this cursor.
    pub fn new(event: E, cursor: C) -> Self {
        Self { event, cursor }
    }
}

/// What a watcher can ask for. Cheap to clone.
#[derive(Clone)]
pub struct WatchContext(Arc<Parts>);

struct Parts {
    asset: Asset,
    name: String,
    clock: Arc<dyn Clock>,
    resources: Resources,
    services: Arc<dyn TaskServices>,
}

impl fmt::Debug for WatchContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { asset, name, .. } = &*self.0;
        f.debug_struct("WatchContext").field("asset", asset).field("name", name).finish_non_exhaustive()
    }
}

impl WatchContext {
    /// That of the watcher `name` of `asset`.
    pub fn new(
        asset: Asset,
        name: impl Into<String>,
        clock: Arc<dyn Clock>,
        resources: Resources,
        services: Arc<dyn TaskServices>,
    ) -> Self {
        Self(Arc::new(Parts { asset, name: name.into(), clock, resources, services }))
    }

    /// The asset.
    pub fn asset(&self) -> &Asset {
        &self.0.asset
    }

    /// The name of the watcher.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The time, on the clock that a test may move.
    pub fn now(&self) -> DateTime<Utc> {
        self.0.clock.now()
    }

    /// Waits this long, on the clock that a test may move.
    pub async fn sleep(&self, time: Duration) {
        crate::time::wait_for(&*self.0.clock, time).await;
    }

    /// A resource that the application registered.
    ///
    /// # Errors
    ///
    /// If there is none of this type.
    pub fn resource<T: Send + Sync + 'static>(&self) -> Result<&T> {
        self.0.resources.get::<T>().ok_or_else(missing_resource::<T>)
    }

    /// Reads a connection. Its secrets are hidden in the errors of this watcher.
    ///
    /// # Errors
    ///
    /// If there is no such connection, or it cannot be read.
    pub async fn connection(&self, conn_id: &str) -> Result<Connection> {
        let found = self.0.services.connection(conn_id).await.map_err(TaskError::Error)?;
        found.ok_or_else(|| no_connection(conn_id))
    }

    /// Reads a variable; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub async fn variable(&self, key: &str) -> Result<Option<String>> {
        self.0.services.variable(key).await.map_err(TaskError::Error)
    }
}

/// What tells one watcher from all others: its asset and its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatcherKey {
    /// The asset.
    pub asset: AssetKey,
    /// The name.
    pub name: String,
}

/// A watcher of an asset, by name and without its types. Cheap to clone.
#[derive(Clone)]
pub struct NamedWatcher {
    name: String,
    kind: &'static str,
    watcher: Arc<dyn AnyWatcher>,
}

impl fmt::Debug for NamedWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedWatcher")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl NamedWatcher {
    pub(super) fn new<W: AssetWatcher>(name: String, watcher: W) -> Self {
        Self { name, kind: std::any::type_name::<W>(), watcher: Arc::new(Of(watcher)) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its type, as the compiler prints it.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// As [`AssetWatcher::next`], with cursors as they are stored.
    pub(crate) async fn next(&self, after: Option<&Value>, cx: &WatchContext) -> Result<Seen<Value, Value>> {
        self.watcher.next(after, cx).await
    }

    /// As [`AssetWatcher::written`].
    pub(crate) async fn written(&self, cursor: &Value, cx: &WatchContext) -> Result<()> {
        self.watcher.written(cursor, cx).await
    }
}

#[async_trait]
trait AnyWatcher: Send + Sync {
    async fn next(&self, after: Option<&Value>, cx: &WatchContext) -> Result<Seen<Value, Value>>;
    async fn written(&self, cursor: &Value, cx: &WatchContext) -> Result<()>;
}

struct Of<W>(W);

#[async_trait]
impl<W: AssetWatcher> AnyWatcher for Of<W> {
    async fn next(&self, after: Option<&Value>, cx: &WatchContext) -> Result<Seen<Value, Value>> {
        let after = after.map(read::<W>).transpose()?;
        let seen = self.0.next(after, cx).await?;
        Ok(Seen { event: json("event", &seen.event)?, cursor: json("cursor", &seen.cursor)? })
    }

    async fn written(&self, cursor: &Value, cx: &WatchContext) -> Result<()> {
        let cursor = read::<W>(cursor)?;
        self.0.written(&cursor, cx).await
    }
}

fn read<W: AssetWatcher>(cursor: &Value) -> Result<W::Cursor> {
    serde_json::from_value(cursor.clone()).map_err(|error| {
        TaskError::fail(format_args!(
            "the stored cursor `{cursor}` cannot be read: {error}; a watcher of another name begins anew"
        ))
    })
}

fn json<T: Serialize>(what: &str, value: &T) -> Result<Value> {
    let value = serde_json::to_value(value)
        .map_err(|error| TaskError::fail(format_args!("the {what} is no JSON: {error}")))?;
    let size = value.to_string().len();
    if size > MAX_WATCHED_BYTES {
        return Err(TaskError::fail(format_args!(
            "the {what} has {size} bytes of JSON, at most {MAX_WATCHED_BYTES} are kept"
        )));
    }
    Ok(value)
}
