//! Whether the application works: what its loop has got done, not whether somebody says that it lives.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::executor::Executor;
use crate::scheduler::{Executors, seems_alive};
use crate::store::{StoreResult, WatcherRow};
use crate::time::Clock;

use super::waiting::stranded;
use super::{Airflow, Stranded};

/// How long the database may take to answer before it counts as unhealthy: whoever asks for health wants to know soon.
const ANSWER: Duration = Duration::from_secs(5);

/// How long the loop of a scheduler may be without a full turn before it counts as unhealthy (Airflow's
/// `scheduler_health_check_threshold`).
const THRESHOLD: Duration = Duration::from_secs(30);

/// What the store says: of the scheduler that was heard of last, of what waits, of watchers that fail.
type Asked = (Option<(DateTime<Utc>, bool)>, Vec<Stranded>, Vec<FailingWatcher>);

/// Whether a part works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// It works.
    Healthy,
    /// It does not.
    Unhealthy,
}

impl HealthStatus {
    fn of(works: bool) -> Self {
        if works { Self::Healthy } else { Self::Unhealthy }
    }
}

/// The database.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatabaseHealth {
    /// Whether it answers.
    pub status: HealthStatus,
    /// What it said, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The scheduler: that of this process if one runs, else the one that was heard of last.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SchedulerHealth {
    /// Whether its loop gets on; of another process, whether its lease goes on.
    pub status: HealthStatus,
    /// When its loop last got to its end; of another process, when it last renewed its lease.
    pub latest_scheduler_heartbeat: Option<DateTime<Utc>>,
    /// How long ago this process renewed its lease, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beat_age: Option<f64>,
    /// How long the instance that is ready and waits for a slot for the longest time has waited, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_waiting: Option<f64>,
    /// How often this process has stopped its attempts because it could not renew its lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fenced_total: Option<u64>,
    /// What the store said last, if the loop does not get on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Whether the application works, in the shape of Airflow's `/health`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    /// The database.
    pub metadatabase: DatabaseHealth,
    /// The scheduler.
    pub scheduler: SchedulerHealth,
    /// What runs the waits of deferred task instances: the scheduler does.
    pub triggerer: TriggererHealth,
    /// What reads dags: nothing, they are code of the program. Always null, as in Airflow for parts that never ran.
    pub dag_processor: DagProcessorHealth,
    /// The executors of the scheduler of this process that hand attempts to others, and whether they can: their brokers. What
    /// waits for one is sent when it can be; the rest works.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub executors: Vec<ExecutorHealth>,
    /// What waits for processes that are not there: queues without a worker, versions that nobody has. The rest works.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stranded: Vec<Stranded>,
    /// Watchers of assets that have failed and have not worked since. They are called again; the rest works.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failing_watchers: Vec<FailingWatcher>,
}

/// An executor that hands attempts to other processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExecutorHealth {
    /// Its name.
    pub name: String,
    /// Whether it can.
    pub status: HealthStatus,
    /// What keeps it from that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ExecutorHealth {
    fn of(executor: &dyn Executor, error: Option<String>) -> Self {
        Self { name: executor.name().to_owned(), status: HealthStatus::of(error.is_none()), error }
    }
}

/// A watcher of an asset that has failed and has not worked since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailingWatcher {
    /// The name of the asset.
    pub asset: String,
    /// The name of the watcher.
    pub name: String,
    /// How often in a row.
    pub failures: u32,
    /// When it failed last.
    pub failed_at: Option<DateTime<Utc>>,
    /// What went wrong then.
    pub error: String,
}

impl FailingWatcher {
    /// What fails, if it is to run.
    fn of(row: WatcherRow) -> Option<Self> {
        let WatcherRow { asset, key, failures, failed_at, error, .. } = row;
        let fails = failures > 0 && row.is_wanted;
        fails.then(|| Self { asset, name: key.name, failures, failed_at, error: error.unwrap_or_default() })
    }
}

/// What runs the waits of deferred task instances.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TriggererHealth {
    /// That of the scheduler; nothing if none was ever heard of.
    pub status: Option<HealthStatus>,
    /// That of the scheduler.
    pub latest_triggerer_heartbeat: Option<DateTime<Utc>>,
}

/// What reads dags.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct DagProcessorHealth {
    /// Always nothing.
    pub status: Option<HealthStatus>,
    /// Always nothing.
    pub latest_dag_processor_heartbeat: Option<DateTime<Utc>>,
}

impl Health {
    /// Whether everything works.
    pub fn is_healthy(&self) -> bool {
        self.metadatabase.status == HealthStatus::Healthy && self.scheduler.status == HealthStatus::Healthy
    }
}

/// Looks whether executors that hand attempts to others can do so, as seen from this process: for probes beside the one
/// that schedules. Answers within seconds.
pub async fn check_executors(executors: &Executors, clock: &dyn Clock) -> Vec<ExecutorHealth> {
    let mut all = Vec::new();
    for executor in executors.iter().filter(|executor| executor.is_remote()) {
        let checked = tokio::select! {
            biased;
            checked = executor.check() => checked,
            () = clock.sleep(ANSWER) => Err(format!("it does not answer within {ANSWER:?}")),
        };
        all.push(ExecutorHealth::of(&**executor, checked.err()));
    }
    all
}

impl Airflow {
    /// Says whether the application works. Answers within seconds, also if the database does not.
    ///
    /// ```
    /// use airflow_core::app::Airflow;
    /// use airflow_core::store::MemoryStore;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let airflow = Airflow::builder().store(MemoryStore::new()).build().await?;
    /// let health = airflow.health().await;
    /// assert!(!health.is_healthy(), "no scheduler runs");
    /// let json = serde_json::to_value(&health)?;
    /// assert_eq!(json["metadatabase"]["status"], "healthy");
    /// assert_eq!(json["scheduler"]["status"], "unhealthy");
    /// assert_eq!(json["dag_processor"]["status"], serde_json::Value::Null);
    /// # Ok(()) }
    /// ```
    pub async fn health(&self) -> Health {
        let asked = tokio::select! {
            biased;
            answer = self.asked() => answer.map_err(|error| error.to_string()),
            () = self.clock().sleep(ANSWER) => Err(format!("it does not answer within {ANSWER:?}")),
        };
        let metadatabase =
            DatabaseHealth { status: HealthStatus::of(asked.is_ok()), error: asked.as_ref().err().cloned() };
        let scheduler = match self.scheduler().map(|handle| handle.progress()) {
            Some(own) => SchedulerHealth {
                status: HealthStatus::of(!own.fenced && own.loop_age.is_some_and(|age| age <= THRESHOLD)),
                latest_scheduler_heartbeat: own.last_loop,
                beat_age: own.beat_age.map(|age| age.as_secs_f64()),
                oldest_waiting: own.oldest_waiting.map(|time| time.as_secs_f64()),
                fenced_total: Some(own.fenced_total),
                error: own.last_error,
            },
            None => {
                let latest = asked.as_ref().ok().and_then(|(latest, ..)| *latest);
                SchedulerHealth {
                    status: HealthStatus::of(latest.is_some_and(|(_, alive)| alive)),
                    latest_scheduler_heartbeat: latest.map(|(at, _)| at),
                    beat_age: None,
                    oldest_waiting: None,
                    fenced_total: None,
                    error: None,
                }
            }
        };
        let latest = scheduler.latest_scheduler_heartbeat;
        let triggerer =
            TriggererHealth { status: latest.map(|_| scheduler.status), latest_triggerer_heartbeat: latest };
        let (_, stranded, failing_watchers) = asked.unwrap_or_default();
        let dag_processor = DagProcessorHealth::default();
        let executors = if self.scheduler().is_some() { self.executor_health() } else { Vec::new() };
        Health { metadatabase, scheduler, triggerer, dag_processor, executors, stranded, failing_watchers }
    }

    /// How the started executors are that hand attempts to others. Asks nobody.
    fn executor_health(&self) -> Vec<ExecutorHealth> {
        let remote = self.executors().iter().filter(|executor| executor.is_remote());
        remote.map(|executor| ExecutorHealth::of(&**executor, executor.problem())).collect()
    }

    async fn asked(&self) -> StoreResult<Asked> {
        let watchers = self.store().watchers().await?.into_iter().filter_map(FailingWatcher::of).collect();
        Ok((self.others().await?, stranded(&**self.store(), self.now()).await?, watchers))
    }

    /// When the scheduler that was heard of last renewed its lease, and whether it counts as alive.
    async fn others(&self) -> StoreResult<Option<(DateTime<Utc>, bool)>> {
        let all = self.store().incarnations().await?;
        let schedulers = all.iter().filter(|one| one.process.kind == "scheduler");
        Ok(schedulers.map(|one| (one.last_beat, seems_alive(one))).max_by_key(|(at, alive)| (*alive, *at)))
    }
}
