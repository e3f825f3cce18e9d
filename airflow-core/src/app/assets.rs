//! What users do with assets: look at them, say that one is new, have one made.

use std::future::{Future, IntoFuture};
use std::pin::Pin;

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::asset::{Asset, AssetEvent, AssetEventFilter, AssetEventId, AssetKey};
use crate::decide::timetable::{manual_run, run_id};
use crate::id::{DagId, suggestion};
use crate::scheduler::Wake;
use crate::state::RunType;
use crate::store::{
    AssetRow, CreatedRun, NewRun, QueueFilter, QueuedEvent, RunRow, StoreError, StoreResult, WatcherRow,
};

use super::runs::TriggerError;
use super::{Airflow, OpError};

/// Why something was not done with an asset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssetOpError {
    /// Something is unknown, or the store failed.
    #[error("{0}")]
    Op(#[from] OpError),
    /// A run was not made.
    #[error("{0}")]
    Trigger(#[from] TriggerError),
    /// No dag has ever named the asset.
    #[error("there is no asset `{0}`{1}")]
    Unknown(String, String),
    /// No task has it among its outlets.
    #[error("no dag of this process makes the asset `{0}`: no task lists it among its `outlets`")]
    NoProducer(String),
    /// More than one dag could be meant.
    #[error("several dags make the asset `{0}`: {1}; trigger the one you mean")]
    SeveralProducers(String, String),
    /// The facts are no JSON object.
    #[error("the extra of an asset event is a JSON object: {0}")]
    NoObject(String),
}

impl From<StoreError> for AssetOpError {
    fn from(error: StoreError) -> Self {
        Self::Op(error.into())
    }
}

/// An event about to be written: `airflow.asset_event("s3://lake/orders").await?`.
#[derive(Debug)]
#[must_use = "an event is written when it is awaited"]
pub struct AssetEventRequest<'a> {
    airflow: &'a Airflow,
    asset: String,
    extra: Result<Value, String>,
    actor: String,
}

impl AssetEventRequest<'_> {
    /// Facts about this update: an object.
    pub fn extra<T: Serialize + ?Sized>(mut self, extra: &T) -> Self {
        self.extra = match serde_json::to_value(extra) {
            Ok(extra) if extra.is_object() => Ok(extra),
            Ok(other) => Err(format!("`{other}` is none")),
            Err(error) => Err(error.to_string()),
        };
        self
    }

    /// Who says so, for the audit log.
    pub fn actor(mut self, actor: impl Into<String>) -> Self {
        self.actor = actor.into();
        self
    }

    async fn send(self) -> Result<AssetEvent, AssetOpError> {
        let airflow = self.airflow;
        let extra = self.extra.map_err(AssetOpError::NoObject)?;
        let row = airflow.asset(&self.asset).await?;
        let id = AssetEventId::from(Uuid::now_v7().simple().to_string());
        let asset = Asset::new(&row.uri).named(&row.name).group(&row.group);
        let event = AssetEvent { extra, ..AssetEvent::from_outside(id, &asset, airflow.now()) };
        airflow.store().add_asset_events(vec![event.clone()]).await?;
        airflow.note_of(&self.actor, "asset_event", None, None, Some(row.uri)).await?;
        if let Some(scheduler) = airflow.scheduler() {
            scheduler.wake(Wake::Refresh);
        }
        Ok(event)
    }
}

impl<'a> IntoFuture for AssetEventRequest<'a> {
    type Output = Result<AssetEvent, AssetOpError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

impl Airflow {
    /// All assets and aliases that dags have named, by name.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn assets(&self) -> StoreResult<Vec<AssetRow>> {
        self.store().assets().await
    }

    /// One asset, by its name or its URI.
    ///
    /// # Errors
    ///
    /// [`AssetOpError::Unknown`] names a similar one.
    pub async fn asset(&self, called: &str) -> Result<AssetRow, AssetOpError> {
        let all = self.store().assets().await?;
        let uri = Asset::new(called);
        let is_it = |row: &&AssetRow| !row.is_alias && (row.name == called || row.uri == uri.uri());
        match all.iter().find(is_it) {
            Some(row) => Ok(row.clone()),
            None => {
                let names = all.iter().filter(|row| !row.is_alias).map(|row| row.name.clone());
                Err(AssetOpError::Unknown(called.to_owned(), suggestion(called, names)))
            }
        }
    }

    /// Says that an asset is new, for data that no task of ours makes. Dags that wait for it run, as after a task. The
    /// asset is one that a dag has named, by its name or URI.
    ///
    /// ```
    /// use airflow_core::app::Airflow;
    /// use airflow_core::asset::Asset;
    /// use airflow_core::dag::{DagDef, TaskExt};
    /// use airflow_core::operator::Empty;
    /// use airflow_core::store::MemoryStore;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let report = DagDef::new("report").schedule(Asset::new("s3://lake/orders")).define(|d| {
    ///     d.add(Empty::new().id("report"));
    /// });
    /// let airflow = Airflow::builder().store(MemoryStore::new()).dag(report).build().await?;
    /// let event = airflow.asset_event("s3://lake/orders").extra(&serde_json::json!({"rows": 97})).await?;
    /// assert_eq!(event.extra["rows"], 97);
    ///
    /// let error = airflow.asset_event("s3://lake/order").await.unwrap_err();
    /// assert!(error.to_string().starts_with("there is no asset `s3://lake/order`; did you mean"), "{error}");
    /// # Ok(()) }
    /// ```
    pub fn asset_event(&self, asset: impl Into<String>) -> AssetEventRequest<'_> {
        AssetEventRequest {
            airflow: self,
            asset: asset.into(),
            extra: Ok(Value::Object(serde_json::Map::new())),
            actor: "api".to_owned(),
        }
    }

    /// Past events of assets.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn asset_events(&self, filter: &AssetEventFilter) -> StoreResult<Vec<AssetEvent>> {
        self.store().asset_events(filter).await
    }

    /// The events that wait for dags to run, one by one.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn queued_events(&self, filter: &QueueFilter) -> StoreResult<Vec<QueuedEvent>> {
        self.store().queued_events(filter).await
    }

    /// Lets events wait no longer, so that they make no run; says how many. They stay among the
    /// [`asset_events`](Self::asset_events).
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn delete_queued_events(&self, filter: &QueueFilter, actor: &str) -> Result<u64, OpError> {
        let number = self.store().unqueue_events(filter).await?;
        let (dag, asset) = (filter.dag_id.as_ref(), filter.asset.as_ref().map(AssetKey::as_str));
        let details = serde_json::json!({ "asset": asset, "until": filter.until, "events": number });
        self.note_of(actor, "delete_queued_events", dag, None, Some(details.to_string())).await?;
        if let Some(scheduler) = self.scheduler() {
            scheduler.wake(Wake::Refresh);
        }
        Ok(number)
    }

    /// The watchers of assets: who runs them, how far they have come, what went wrong.
    ///
    /// ```
    /// use airflow_core::app::Airflow;
    /// use airflow_core::asset::Asset;
    /// use airflow_core::builtin::FileWatcher;
    /// use airflow_core::dag::{DagDef, TaskExt};
    /// use airflow_core::operator::Empty;
    /// use airflow_core::store::MemoryStore;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let orders = Asset::new("file:///in/orders.csv").watcher("file", FileWatcher::new("/in/orders.csv"));
    /// let report = DagDef::new("report").schedule(orders).define(|d| {
    ///     d.add(Empty::new().id("report"));
    /// });
    /// let airflow = Airflow::builder().store(MemoryStore::new()).dag(report).build().await?;
    /// let watchers = airflow.watchers().await?;
    /// assert_eq!((watchers[0].key.name.as_str(), watchers[0].events), ("file", 0));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn watchers(&self) -> StoreResult<Vec<WatcherRow>> {
        self.store().watchers().await
    }

    /// The dags of this process that make an asset, by id.
    pub fn producers(&self, asset: &AssetKey) -> Vec<DagId> {
        let makes = |dag: &&std::sync::Arc<crate::compile::CompiledDag>| {
            dag.tasks.iter().any(|task| task.settings.outlets.iter().any(|one| one.key() == *asset))
        };
        self.registry().iter().filter(makes).map(|dag| dag.id.clone()).collect()
    }

    /// Starts the dag that makes an asset, which is called by its name or URI.
    ///
    /// # Errors
    ///
    /// [`AssetOpError::Unknown`], [`AssetOpError::NoProducer`], [`AssetOpError::SeveralProducers`]; what keeps the run
    /// from being made.
    pub async fn materialize(&self, asset: &str, actor: &str) -> Result<RunRow, AssetOpError> {
        let row = self.asset(asset).await?;
        let producers = self.producers(&row.key);
        let [dag_id] = &producers[..] else {
            let all: Vec<String> = producers.iter().map(|id| format!("`{id}`")).collect();
            return Err(if all.is_empty() {
                AssetOpError::NoProducer(row.name)
            } else {
                AssetOpError::SeveralProducers(row.name, all.join(", "))
            });
        };
        let (dag, now) = (self.dag(dag_id)?, self.now());
        dag.params(None).map_err(|error| TriggerError::Conf(dag_id.clone(), error))?;
        let run = manual_run(&dag, None, now, None, actor, now).map_err(TriggerError::from)?;
        let kind = RunType::AssetMaterialization;
        let run = NewRun { run_type: kind, run_id: run_id(kind, &now), ..run };
        match self.store().create_runs(vec![run]).await?.pop() {
            Some(CreatedRun::New(created)) => {
                self.note(actor, "materialize", dag_id, Some(&created.run_id), Some(row.uri)).await?;
                if let Some(scheduler) = self.scheduler() {
                    scheduler.wake(Wake::Run(created.clone()));
                }
                Ok(*created)
            }
            Some(CreatedRun::Exists(row)) => Err(TriggerError::Exists(dag_id.clone(), row.run_id).into()),
            Some(CreatedRun::Taken) | None => {
                Err(TriggerError::Refused("the store gave no answer for the run".into()).into())
            }
        }
    }
}
