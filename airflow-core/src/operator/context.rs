//! What the code of a task gets to know and use.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use crate::asset::{AssetRef, OutletEvent};
use crate::dag::TaskOptions;
use crate::id::{AttemptId, DagId, MapIndex, RunId, RunPk, TaskId};
use crate::state::RunType;
use crate::template::Renderer;
use crate::time::Clock;
use crate::timetable::DataInterval;
use crate::xcom::{Data, RETURN_VALUE, XComValue};

use super::error::TaskError;
use super::input::Inputs;
use super::resources::Resources;
use super::sensor::SensorSettings;
use super::services::{TaskServices, XComQuery};
use super::wait::{Resumed, Wait};
use super::{Result, TemplateField};

/// The run an attempt belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Its number in the store.
    pub pk: RunPk,
    /// Its dag.
    pub dag_id: DagId,
    /// Its name.
    pub run_id: RunId,
    /// Where it comes from.
    pub run_type: RunType,
    /// What it is about: the start of its data interval.
    pub logical_date: DateTime<Utc>,
    /// The data it covers.
    pub data_interval: DataInterval,
    /// The earliest moment it may start.
    pub run_after: DateTime<Utc>,
    /// When it was queued.
    pub queued_at: DateTime<Utc>,
    /// When its first task could start.
    pub started_at: Option<DateTime<Utc>>,
    /// What it was triggered with.
    pub conf: Option<Value>,
}

/// The task instance of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TiInfo {
    /// The task.
    pub task_id: TaskId,
    /// The instance, if it is mapped.
    pub map_index: MapIndex,
    /// Which try this is: 1 for the first. A lost attempt is repeated with the same number.
    pub try_number: u32,
    /// How many tries there are at most.
    pub max_tries: u32,
    /// This attempt, unlike any other.
    pub attempt_id: AttemptId,
    /// Grows with every change of the task instance. With the attempt id it fences writes to outside systems.
    pub epoch: u32,
}

/// Tells an attempt to stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cancel(watch::Receiver<bool>);

impl Cancel {
    /// A switch and what listens to it.
    pub fn pair() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// One that is never asked to stop.
    pub fn never() -> Self {
        Self(watch::channel(false).1)
    }

    /// Whether the attempt is asked to stop.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once the attempt is asked to stop.
    pub async fn cancelled(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|stop| *stop).await.is_err() {
            // Nobody is left who could ask.
            std::future::pending::<()>().await;
        }
    }
}

/// The parts of a context, put together by whoever runs an attempt.
pub struct ContextParts {
    /// The run.
    pub run: Arc<RunInfo>,
    /// The task instance.
    pub ti: TiInfo,
    /// The parameters of the run: the dag's defaults with the run's `conf` over them.
    pub params: Arc<Value>,
    /// The values that were fetched for it.
    pub inputs: Inputs,
    /// What the application registered.
    pub resources: Resources,
    /// Store access.
    pub services: Arc<dyn TaskServices>,
    /// Makes the renderer when a template is first rendered.
    pub renderer: Box<dyn Fn() -> Renderer + Send + Sync>,
    /// Whether the operator has template fields.
    pub has_templates: bool,
    /// Whether the result is stored.
    pub pushes_result: bool,
    /// The largest value that is stored, in bytes.
    pub xcom_limit: usize,
    /// Where the log of the attempt goes, if it goes to a file.
    pub log_path: Option<PathBuf>,
    /// Asks it to stop.
    pub cancel: Cancel,
    /// What it waits for, if it waits without a slot or goes on after that.
    pub wait: Option<Box<Wait>>,
    /// How it waits, if it is a sensor.
    pub sensor: Option<SensorSettings>,
    /// When the attempt started.
    pub started_at: DateTime<Utc>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The zone of the dag.
    pub timezone: Tz,
    /// How many retries the task has.
    pub retries: u32,
    /// The assets it reads, and those it makes.
    pub assets: [Arc<[AssetRef]>; 2],
}

#[derive(Debug, Default)]
struct Notes {
    pushed: Vec<(String, Arc<XComValue>)>,
    asset_events: Vec<OutletEvent>,
    rendered: Vec<TemplateField>,
}

/// What a body pushed, said of assets, and rendered.
pub(crate) type Said = (Vec<(String, Arc<XComValue>)>, Vec<OutletEvent>, Vec<TemplateField>);

struct Shared {
    parts: ContextParts,
    renderer: OnceLock<Renderer>,
    notes: Mutex<Notes>,
    /// Whether the attempt has ended although its code may go on: it took too long.
    over: watch::Sender<bool>,
}

/// Everything about the attempt that runs: its run, its inputs, its resources. Cheap to clone.
#[derive(Clone)]
pub struct TaskContext(Arc<Shared>);

impl TaskContext {
    /// Puts a context together.
    pub fn new(parts: ContextParts) -> Self {
        let over = watch::Sender::new(false);
        Self(Arc::new(Shared { parts, renderer: OnceLock::new(), notes: Mutex::default(), over }))
    }

    /// The id of the dag.
    pub fn dag_id(&self) -> &DagId {
        &self.run().dag_id
    }

    /// The id of the run.
    pub fn run_id(&self) -> &RunId {
        &self.run().run_id
    }

    /// The id of the task.
    pub fn task_id(&self) -> &TaskId {
        &self.ti().task_id
    }

    /// The run.
    pub fn run(&self) -> &RunInfo {
        &self.0.parts.run
    }

    /// The task instance and the attempt.
    pub fn ti(&self) -> &TiInfo {
        &self.0.parts.ti
    }

    /// Which try this is: 1 for the first.
    pub fn try_number(&self) -> u32 {
        self.ti().try_number
    }

    /// The index among the instances of a mapped task.
    pub fn map_index(&self) -> Option<u32> {
        self.ti().map_index.get()
    }

    /// What the run is about: the start of its data interval.
    pub fn logical_date(&self) -> DateTime<Utc> {
        self.run().logical_date
    }

    /// The data the run covers.
    pub fn interval(&self) -> DataInterval {
        self.run().data_interval
    }

    /// The parameters of the run, untyped.
    pub fn raw_params(&self) -> &Value {
        &self.0.parts.params
    }

    /// The parameters of the run.
    ///
    /// # Errors
    ///
    /// [`TaskError::Fail`] if they do not fit `T`.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(self.raw_params())
            .map_err(|error| TaskError::fail(format_args!("the params of the run do not fit: {error}")))
    }

    /// What the run was triggered with.
    pub fn conf(&self) -> Option<&Value> {
        self.run().conf.as_ref()
    }

    /// A resource that the application registered.
    ///
    /// # Errors
    ///
    /// [`TaskError::Fail`] if nobody registered a `T`; `build()` refuses a dag whose tasks borrow one.
    pub fn resource<T: Send + Sync + 'static>(&self) -> Result<&T> {
        self.0.parts.resources.get::<T>().ok_or_else(missing_resource::<T>)
    }

    /// A resource that the application registered, to be moved elsewhere.
    ///
    /// # Errors
    ///
    /// As [`resource`](Self::resource).
    pub fn resource_arc<T: Send + Sync + 'static>(&self) -> Result<Arc<T>> {
        self.0.parts.resources.get_arc::<T>().ok_or_else(missing_resource::<T>)
    }

    /// Stores `value` under `key` beside the result, for [`xcom_pull`](Self::xcom_pull) of later tasks. It is
    /// written together with the end of the attempt: an attempt that is lost leaves nothing.
    ///
    /// ```
    /// use airflow_core::operator::{Result, TaskContext};
    ///
    /// async fn load(cx: &TaskContext) -> Result<u64> {
    ///     cx.xcom_push("rejected", &3)?;
    ///     Ok(97)
    /// }
    ///
    /// async fn check(cx: &TaskContext) -> Result<bool> {
    ///     let rejected: Option<u64> = cx.xcom_pull("load", "rejected").await?;
    ///     Ok(rejected.unwrap_or(0) < 5)
    /// }
    /// # let _ = (load, check);
    /// ```
    ///
    /// # Errors
    ///
    /// [`TaskError::Fail`] if the value is too large or no JSON.
    pub fn xcom_push<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<()> {
        let value = XComValue::encode(key, value, self.xcom_limit())?;
        let mut notes = self.notes();
        notes.pushed.retain(|(other, _)| other != key);
        notes.pushed.push((key.to_owned(), value));
        Ok(())
    }

    /// Reads what `task_id` of the same run stored under `key`; `None` if nothing.
    ///
    /// # Errors
    ///
    /// If the store cannot be read or the value is no `T`.
    pub async fn xcom_pull<T: Data>(&self, task_id: impl Into<TaskId>, key: &str) -> Result<Option<T>> {
        let query = XComQuery { task_ids: vec![task_id.into()], key: key.to_owned(), ..XComQuery::default() };
        let found = self.xcom_query(query).await?;
        let Some(value) = found.first().and_then(|values| values.first()) else { return Ok(None) };
        let value = value
            .decode()
            .map_err(|error| TaskError::fail(format_args!("the value `{key}` cannot be read: {error}")))?;
        Ok(Some(value))
    }

    /// Reads the result of `task_id` of the same run; `None` if it left none.
    ///
    /// # Errors
    ///
    /// As [`xcom_pull`](Self::xcom_pull).
    pub async fn result_of<T: Data>(&self, task_id: impl Into<TaskId>) -> Result<Option<T>> {
        self.xcom_pull(task_id, RETURN_VALUE).await
    }

    /// Reads stored values with all of the options: one list for each task of the query.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn xcom_query(&self, query: XComQuery) -> Result<Vec<Vec<Arc<XComValue>>>> {
        self.0.parts.services.xcoms(self.run(), query).await.map_err(TaskError::Error)
    }

    /// Whether the attempt is asked to stop: it was cleared, marked, or took too long.
    pub fn is_cancelled(&self) -> bool {
        *self.0.over.borrow() || self.0.parts.cancel.is_cancelled()
    }

    /// Asks the code of the attempt to stop, as a cancellation does.
    pub(crate) fn is_over(&self) {
        self.0.over.send_replace(true);
    }

    /// Returns once the attempt is asked to stop. Async code is stopped at its next `.await` anyway; blocking code
    /// should look at [`is_cancelled`](Self::is_cancelled) now and then.
    pub async fn cancelled(&self) {
        let mut over = self.0.over.subscribe();
        tokio::select! {
            () = self.0.parts.cancel.cancelled() => {}
            // The sender lives as long as this context.
            _ = over.wait_for(|over| *over) => {}
        }
    }

    /// The time, which a test may move.
    pub fn now(&self) -> DateTime<Utc> {
        self.0.parts.clock.now()
    }

    /// Waits this long, on the clock that a test may move.
    pub async fn sleep(&self, time: Duration) {
        crate::time::wait_for(&*self.0.parts.clock, time).await;
    }

    /// Waits until this moment, on the clock that a test may move.
    pub async fn sleep_until(&self, moment: DateTime<Utc>) {
        crate::time::wait_until(&*self.0.parts.clock, moment).await;
    }

    /// The zone of the dag.
    pub fn timezone(&self) -> Tz {
        self.0.parts.timezone
    }

    /// What the task can ask the outside world for.
    pub fn services(&self) -> &dyn TaskServices {
        &*self.0.parts.services
    }

    pub(crate) fn retries(&self) -> u32 {
        self.0.parts.retries
    }

    /// With what the task goes on, if it was deferred before in this try.
    pub fn resumed(&self) -> Option<&Resumed> {
        self.0.parts.wait.as_ref()?.resumed.as_ref()
    }

    /// The options of the sensor; of the defaults if the task is none.
    pub(crate) fn sensor(&self) -> &SensorSettings {
        static DEFAULTS: OnceLock<SensorSettings> = OnceLock::new();
        let defaults = || SensorSettings::from(&TaskOptions::default());
        self.0.parts.sensor.as_ref().unwrap_or_else(|| DEFAULTS.get_or_init(defaults))
    }

    /// Since when a sensor waits.
    pub(crate) fn waits_since(&self) -> DateTime<Utc> {
        self.0.parts.wait.as_ref().and_then(|wait| wait.since).unwrap_or(self.0.parts.started_at)
    }

    /// How often a sensor has poked before this attempt.
    pub(crate) fn pokes(&self) -> u32 {
        self.0.parts.wait.as_ref().map_or(0, |wait| wait.pokes)
    }

    /// Where the log of the attempt goes, if it goes to a file.
    pub fn log_path(&self) -> Option<&std::path::Path> {
        self.0.parts.log_path.as_deref()
    }

    /// Renders a template text with the context of the attempt.
    ///
    /// # Errors
    ///
    /// If the template is wrong or names something unknown.
    pub fn render(&self, template: &str) -> Result<String> {
        Ok(self.renderer().render_str(template)?)
    }

    /// The renderer of the attempt.
    pub fn renderer(&self) -> &Renderer {
        self.0.renderer.get_or_init(|| (self.0.parts.renderer)())
    }

    /// The values that were fetched for the attempt.
    pub fn inputs(&self) -> &Inputs {
        &self.0.parts.inputs
    }

    pub(crate) fn has_templates(&self) -> bool {
        self.0.parts.has_templates
    }

    pub(crate) fn pushes_result(&self) -> bool {
        self.0.parts.pushes_result
    }

    pub(crate) fn xcom_limit(&self) -> usize {
        self.0.parts.xcom_limit
    }

    pub(crate) fn note_rendered(&self, fields: &[TemplateField]) {
        self.notes().rendered = fields.to_vec();
    }

    /// What the body pushed, said of assets and rendered, handed over once at its end.
    pub(crate) fn take_notes(&self) -> Said {
        let notes = std::mem::take(&mut *self.notes());
        (notes.pushed, notes.asset_events, notes.rendered)
    }

    pub(crate) fn note_asset_events(&self, change: impl FnOnce(&mut Vec<OutletEvent>)) {
        change(&mut self.notes().asset_events);
    }

    /// The assets that the task reads.
    pub fn inlets(&self) -> &[AssetRef] {
        &self.0.parts.assets[0]
    }

    /// The assets that the task makes.
    pub fn outlets(&self) -> &[AssetRef] {
        &self.0.parts.assets[1]
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That the application has no such resource, and the cure.
pub(crate) fn missing_resource<T>() -> TaskError {
    TaskError::fail(format_args!(
        "no resource of type `{}` is registered; add `.resource(..)` to the builder",
        std::any::type_name::<T>()
    ))
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskContext")
            .field("run", &self.0.parts.run.run_id)
            .field("ti", self.ti())
            .finish_non_exhaustive()
    }
}
