//! The application: dags, a store, an executor and a scheduler put together.
//!
//! [`Airflow::builder`] collects the parts and [`AirflowBuilder::build`] checks everything; [`Airflow::start`] runs
//! the scheduler in the background of the host's own program. The operations on runs and task instances are methods
//! of [`Airflow`].

mod assets;
mod builder;
mod clean;
mod doctor;
mod health;
mod logs;
mod made_runs;
mod ops;
mod results;
mod runs;
mod settings;
mod versions;
mod waiting;
mod waits;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::asset::AssetCondition;
use crate::attempt::{Runner, RunnerConfig, WorkerLogs};
use crate::compile::CompiledDag;
use crate::decide::timetable::next_run;
use crate::executor::{Executor, ExecutorServices};
use crate::operator::Resources;
use crate::registry::Registry;
use crate::scheduler::{Executors, Scheduler, SchedulerConfig, SchedulerHandle, WatchServices};
use crate::secrets::Secrets;
use crate::store::{AssetRole, DagAsset, DagRecord, DagRow, SharedStore, StoreError, StoreResult};
use crate::time::Clock;

use made_runs::AppRuns;
use waits::LocalWaiter;

pub use assets::{AssetEventRequest, AssetOpError};
pub use builder::{AirflowBuilder, BuildError};
pub use clean::{CleanError, CleanOptions, CleanedTable, clean};
pub use doctor::{Checkup, Finding, Severity, doctor};
pub use health::{
    DagProcessorHealth, DatabaseHealth, ExecutorHealth, FailingWatcher, Health, HealthStatus,
    SchedulerHealth, TriggererHealth, check_executors,
};
pub use ops::{ClearOptions, Cleared, Mark, OpError, Selection, suggestion};
pub use runs::{BackfillOptions, BackfillOutcome, Reprocess, Trigger, TriggerError};
pub use waiting::{QueueState, Stranded, queues, stranded, why_stranded};

/// An application that is ready to work. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Airflow(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    store: SharedStore,
    registry: Registry,
    resources: Resources,
    clock: Arc<dyn Clock>,
    executors: Executors,
    scheduler: SchedulerConfig,
    runner: RunnerConfig,
    secrets: Secrets,
    worker_logs: Option<Arc<dyn WorkerLogs>>,
    running: std::sync::Mutex<Option<SchedulerHandle>>,
}

impl Airflow {
    /// Begins an application.
    ///
    /// ```
    /// use airflow_core::app::Airflow;
    /// use airflow_core::dag::{DagDef, TaskExt};
    /// use airflow_core::operator::Empty;
    /// use airflow_core::store::MemoryStore;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let dag = DagDef::new("sales").define(|d| {
    ///     d.add(Empty::new().id("work"));
    /// });
    /// // What is started needs an executor as well: `.executor(LocalExecutor::new(8))`.
    /// let airflow = Airflow::builder().store(MemoryStore::new()).dag(dag).build().await?;
    /// assert_eq!(airflow.registry().len(), 1);
    ///
    /// // Mistakes are found here, all at once.
    /// let wrong = DagDef::new("wrong").schedule("61 * * * *").define(|d| {
    ///     d.add(Empty::new().id("a b"));
    /// });
    /// let error = Airflow::builder().store(MemoryStore::new()).dag(wrong).build().await.unwrap_err();
    /// assert!(error.to_string().contains("minute 61 is not in 0-59"), "{error}");
    /// assert!(error.to_string().contains("the id `a b` contains ' '"), "{error}");
    /// # Ok(()) }
    /// ```
    pub fn builder() -> AirflowBuilder {
        AirflowBuilder::default()
    }

    /// The store.
    pub fn store(&self) -> &SharedStore {
        &self.0.store
    }

    /// The dags of this process.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// What runs its attempts, if it was given an executor.
    pub fn executor(&self) -> Option<&Arc<dyn Executor>> {
        self.0.executors.iter().next()
    }

    /// All its executors, the first of which runs what says nothing else.
    pub fn executors(&self) -> &Executors {
        &self.0.executors
    }

    /// How its scheduler works.
    pub fn scheduler_config(&self) -> &SchedulerConfig {
        &self.0.scheduler
    }

    /// How its attempts are run.
    pub fn runner_config(&self) -> &RunnerConfig {
        &self.0.runner
    }

    /// What runs attempts of its dags.
    pub fn runner(&self) -> Runner {
        let parts = &self.0;
        let runner = Runner::new(
            parts.registry.clone(),
            Arc::clone(&parts.store),
            parts.resources.clone(),
            Arc::clone(&parts.clock),
            parts.runner.clone(),
        )
        .with_secrets(parts.secrets.clone())
        .with_runs(Arc::new(AppRuns::of(self)));
        if parts.executors.iter().any(|executor| executor.is_remote()) {
            runner.beside_workers()
        } else {
            runner
        }
    }

    /// Its connections and variables, wherever they come from. Those of the store are written through
    /// [`Secrets::vault`].
    ///
    /// ```
    /// use airflow_core::app::Airflow;
    /// use airflow_core::connection::Connection;
    /// use airflow_core::fernet::Fernet;
    /// use airflow_core::store::MemoryStore;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let key = Fernet::generate_key()?;
    /// let airflow = Airflow::builder().store(MemoryStore::new()).fernet_key(key).build().await?;
    /// let conn = Connection::new("warehouse", "postgres").with_host("db").with_password("p@ssword");
    /// airflow.secrets().vault().set_connection(&conn).await?;
    ///
    /// let stored = airflow.store().connection("warehouse").await?.unwrap();
    /// assert_ne!(stored.password.as_deref(), Some("p@ssword"));
    /// assert_eq!(airflow.secrets().connection("warehouse").await?, Some(conn));
    /// # Ok(()) }
    /// ```
    pub fn secrets(&self) -> &Secrets {
        &self.0.secrets
    }

    /// Makes the dags of this process known to the store.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn sync_dags(&self) -> StoreResult<Vec<DagRow>> {
        let parts = &self.0;
        sync_dags(&parts.store, &parts.registry, parts.scheduler.paused_at_creation, parts.clock.now()).await
    }

    /// Runs the scheduler and its executor in the background. Needs a tokio runtime.
    ///
    /// # Panics
    ///
    /// If the builder was given no executor.
    pub fn start(&self) -> Running {
        let parts = &self.0;
        assert!(!parts.executors.is_empty(), "an application that is started has an executor");
        let (scheduler, reports) = Scheduler::new(
            Arc::clone(&parts.store),
            parts.executors.clone(),
            parts.registry.clone(),
            Arc::clone(&parts.clock),
            parts.scheduler.clone(),
        );
        let runner = Arc::new(self.runner());
        let waiter = LocalWaiter::new(runner.clone(), reports.clone(), parts.scheduler.max_waits);
        let mut scheduler = scheduler.with_waiter(Arc::new(waiter));
        if parts.scheduler.run_watchers {
            scheduler = scheduler.with_watchers(WatchServices {
                resources: parts.resources.clone(),
                services: runner.services(),
                masker: parts.secrets.masker().clone(),
            });
        }
        let (reports_wait, lease) = (scheduler.reports_wait(), scheduler.lease_watch());
        for executor in parts.executors.iter() {
            let (runner, reports, reports_wait) =
                (runner.clone(), reports.clone(), Arc::clone(&reports_wait));
            let (store, clock, lease) = (Arc::clone(&parts.store), Arc::clone(&parts.clock), lease.clone());
            executor.start(ExecutorServices { runner, reports, reports_wait, store, clock, lease });
        }
        let handle = scheduler.handle();
        self.attach(handle.clone());
        let (stop, stopped) = watch::channel(None);
        let task = tokio::spawn(scheduler.run(stopped));
        Running { stop, task, handle }
    }

    /// Whom changes by the operations are told.
    pub(crate) fn attach(&self, handle: SchedulerHandle) {
        *self.0.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(handle);
    }

    /// The scheduler of this process, if it runs.
    pub(crate) fn scheduler(&self) -> Option<SchedulerHandle> {
        self.0.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.0.clock.now()
    }
}

/// A scheduler that runs in the background. Dropping it leaves it running; [`stop`](Self::stop) ends it.
#[derive(Debug)]
pub struct Running {
    stop: watch::Sender<Option<Duration>>,
    task: JoinHandle<StoreResult<()>>,
    handle: SchedulerHandle,
}

impl Running {
    /// The scheduler.
    pub fn scheduler(&self) -> &SchedulerHandle {
        &self.handle
    }

    /// Starts nothing more, waits up to `grace` for attempts that run, gives the rest back, and returns.
    ///
    /// # Errors
    ///
    /// What ended the scheduler before, if it had ended.
    pub async fn stop(self, grace: Duration) -> StoreResult<()> {
        // A scheduler that has ended needs no telling.
        let _ = self.stop.send(Some(grace));
        self.wait().await
    }

    /// Returns when the scheduler ends by itself: it could not start.
    ///
    /// # Errors
    ///
    /// What ended it.
    pub async fn wait(self) -> StoreResult<()> {
        match self.task.await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Refused(format!("the scheduler ended: {error}"))),
        }
    }

    /// Whether the scheduler has ended.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

/// Makes the dags of a registry known to a store.
pub(crate) async fn sync_dags(
    store: &SharedStore,
    registry: &Registry,
    paused_at_creation: bool,
    now: DateTime<Utc>,
) -> StoreResult<Vec<DagRow>> {
    let record = |dag: &Arc<CompiledDag>| DagRecord {
        dag_id: dag.id.clone(),
        fingerprint: dag.fingerprint.clone(),
        structure: Arc::clone(dag).into(),
        schedule: dag.timetable.summary(),
        description: dag.settings.description.clone(),
        owners: dag.settings.owners.clone(),
        tags: dag.settings.tags.clone(),
        paused_at_creation: dag.settings.paused_at_creation.unwrap_or(paused_at_creation),
        next: next_run(dag, None, now).ok().flatten(),
        assets: assets_of(dag),
    };
    store.sync_dags(registry.iter().map(record).collect(), now).await
}

/// The assets that a dag names, and what it has to do with them.
fn assets_of(dag: &CompiledDag) -> Vec<DagAsset> {
    let timed = dag.timetable.asset_condition().map(AssetCondition::refs).unwrap_or_default();
    let timed = timed.into_iter().map(|one| (one, AssetRole::Schedule, None));
    let of_tasks = dag.tasks.iter().flat_map(|task| {
        let outlets = task.settings.outlets.iter().map(|one| (one, AssetRole::Outlet, Some(&task.id)));
        outlets.chain(task.settings.inlets.iter().map(|one| (one, AssetRole::Inlet, Some(&task.id))))
    });
    let named = timed.chain(of_tasks);
    let named =
        named.map(|(asset, role, task)| DagAsset { asset: asset.clone(), role, task_id: task.cloned() });
    let watched = dag.assets().filter_map(|(asset, _)| asset.asset()).flat_map(|asset| {
        asset.watchers().iter().map(|watcher| DagAsset {
            asset: asset.into(),
            role: AssetRole::Watcher,
            task_id: Some(watcher.name().into()),
        })
    });
    named.chain(watched).collect()
}
