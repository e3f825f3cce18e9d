//! What people see of workers and queues, and what they tell workers to do. Flower's part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use airflow_core::app::{QueueState, queues as queues_of, suggestion};
use airflow_core::id::DagId;
use airflow_core::scheduler::seems_alive;
use airflow_core::secret::Secret;
use airflow_core::store::{SharedStore, StoreError, StoreResult, WorkerRow};
use airflow_core::time::{Clock, SystemClock};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::envelope::MAX_QUEUE;
use super::keys::{SignerError, signer};
use super::orders::{Letter, WorkerOrder, send};
use super::signer::Signer;
use super::transport::{Depth, Transport, TransportError};
use super::worker::WorkerInfo;

/// How long a worker may take to obey. It hears of an order at once; this is for one whose connection is being made anew.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often the order is sent again meanwhile.
const SEND_EVERY: Duration = Duration::from_secs(2);

/// How often the store is asked whether it was obeyed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// It takes work.
    Online,
    /// It takes no new work and ends when it is done.
    Draining,
    /// It has not said goodbye, and gives no sign of life, or was declared dead.
    Lost,
    /// It has said goodbye.
    Offline,
}

impl WorkerState {
    /// The word that is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Draining => "draining",
            Self::Lost => "lost",
            Self::Offline => "offline",
        }
    }
}

/// A worker, seen from outside.
#[derive(Debug, Clone)]
pub struct WorkerStatus {
    /// Its row in the store.
    pub row: WorkerRow,
    /// How it is.
    pub state: WorkerState,
    /// What it said of itself last; `None` if that cannot be read: it is of another version.
    pub info: Option<WorkerInfo>,
}

impl WorkerStatus {
    /// Whether it gives signs of life.
    pub fn is_alive(&self) -> bool {
        matches!(self.state, WorkerState::Online | WorkerState::Draining)
    }
}

/// All workers that the store knows, by name.
///
/// # Errors
///
/// If the store fails.
pub async fn workers(store: &SharedStore) -> StoreResult<Vec<WorkerStatus>> {
    let processes = store.incarnations().await?;
    let seems_alive =
        |row: &WorkerRow| processes.iter().any(|one| one.process.id == row.process && seems_alive(one));
    let status = |row: WorkerRow| {
        let info: Option<WorkerInfo> = serde_json::from_value(row.info.clone()).ok();
        let state = match &info {
            // One that was declared dead had no time to say that it ends.
            Some(info) if row.has_ended && !info.is_draining => WorkerState::Lost,
            _ if row.has_ended => WorkerState::Offline,
            _ if !seems_alive(&row) => WorkerState::Lost,
            Some(info) if info.is_draining => WorkerState::Draining,
            _ => WorkerState::Online,
        };
        WorkerStatus { row, state, info }
    };
    Ok(store.workers().await?.into_iter().map(status).collect())
}

/// A version of a dag that a live worker carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedVersion {
    /// The name of the worker.
    pub worker: String,
    /// The dag.
    pub dag_id: DagId,
    /// The number of the version, 1 for the first; `None` if the store does not know it.
    pub version: Option<u32>,
    /// What identifies it.
    pub fingerprint: String,
    /// Live schedulers carry the dag, and none of them this version: nobody sends the worker anything new of it.
    pub differs: bool,
}

/// Which versions of dags the live workers carry, by worker and dag. Asks the store once or twice for each dag.
///
/// # Errors
///
/// If the store fails.
pub async fn carried_versions(store: &SharedStore) -> StoreResult<Vec<CarriedVersion>> {
    let processes = store.incarnations().await?;
    let is_alive = |id| processes.iter().any(|one| one.process.id == id && seems_alive(one));
    let workers = store.workers().await?;
    let names: BTreeMap<_, _> = workers.iter().map(|row| (row.process, row.name.as_str())).collect();
    let mut carried = Vec::new();
    for dag in store.dags().await? {
        let carriers = store.carriers(&dag.dag_id).await?;
        let carriers: Vec<_> = carriers.into_iter().filter(|one| is_alive(one.process)).collect();
        let of_schedulers: BTreeSet<&str> = carriers
            .iter()
            .filter(|one| one.kind == "scheduler")
            .map(|one| one.fingerprint.as_str())
            .collect();
        let mut numbers = BTreeMap::from([(dag.fingerprint.clone(), dag.version)]);
        if carriers.iter().any(|one| one.fingerprint != dag.fingerprint) {
            let known = store.dag_versions(&dag.dag_id).await?;
            numbers.extend(known.into_iter().map(|version| (version.fingerprint, version.number)));
        }
        carried.extend(carriers.iter().filter_map(|one| {
            Some(CarriedVersion {
                worker: (*names.get(&one.process)?).to_owned(),
                dag_id: dag.dag_id.clone(),
                version: numbers.get(&one.fingerprint).copied(),
                fingerprint: one.fingerprint.clone(),
                differs: !of_schedulers.is_empty() && !of_schedulers.contains(one.fingerprint.as_str()),
            })
        }));
    }
    carried.sort_by(|one, other| (&one.worker, &one.dag_id).cmp(&(&other.worker, &other.dag_id)));
    Ok(carried)
}

/// Finds one among workers.
///
/// # Errors
///
/// [`OrderError::Unknown`], with the nearest name.
pub fn find<'a>(all: &'a [WorkerStatus], name: &str) -> Result<&'a WorkerStatus, OrderError> {
    all.iter().find(|one| one.row.name == name).ok_or_else(|| {
        let near = suggestion(name, all.iter().map(|one| one.row.name.clone()));
        OrderError::Unknown { name: name.to_owned(), near }
    })
}

/// A queue, seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStatus {
    /// Its name.
    pub name: String,
    /// Attempts that nobody has claimed, by the store.
    pub waiting: u64,
    /// Since when the oldest of them waits.
    pub oldest: Option<DateTime<Utc>>,
    /// What the broker says of it.
    pub depth: Depth,
    /// The live workers that take work from it.
    pub workers: Vec<String>,
}

/// Why an order was not obeyed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// There is no such worker.
    #[error("there is no worker `{name}`{near}")]
    Unknown {
        /// The name.
        name: String,
        /// What may have been meant.
        near: String,
    },
    /// It is not there to obey.
    #[error("the worker `{name}` is {}", state.as_str())]
    NotAlive {
        /// The worker.
        name: String,
        /// How it is.
        state: WorkerState,
    },
    /// It makes no sense for this worker.
    #[error("{0}")]
    Senseless(String),
    /// It was sent, and the worker does not say that it has obeyed.
    #[error(
        "the worker `{name}` has not obeyed for {PATIENCE:?}: it cannot be reached through the broker, or is signed with \
         other keys. It may obey later"
    )]
    NoAnswer {
        /// The worker.
        name: String,
    },
    /// The broker failed.
    #[error(transparent)]
    Broker(#[from] TransportError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys cannot be used.
    #[error("{0}")]
    Keys(String),
}

impl From<SignerError> for OrderError {
    fn from(error: SignerError) -> Self {
        match error {
            SignerError::Key(error) => Self::Keys(error.to_string()),
            SignerError::Store(error) => Self::Store(error),
        }
    }
}

/// Looks at workers and queues, and tells workers what to do.
///
/// ```no_run
/// # #[cfg(feature = "redis")]
/// # async fn grow(store: airflow_core::store::SharedStore) -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
///
/// use airflow_executors::remote::redis::{RedisOptions, RedisTransport};
/// use airflow_executors::remote::{WorkerMonitor, WorkerOrder};
///
/// let redis = RedisTransport::new(&RedisOptions::new("redis://broker:6379/0"))?;
/// let monitor = WorkerMonitor::new(store, Arc::new(redis), &[]).await?;
/// for queue in monitor.queues().await? {
///     println!("{}: {} waiting, {} workers", queue.name, queue.waiting, queue.workers.len());
/// }
/// monitor.order("gpu-1", WorkerOrder::Grow(2)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct WorkerMonitor {
    store: SharedStore,
    transport: Arc<dyn Transport>,
    signer: Signer,
    clock: SystemClock,
}

impl WorkerMonitor {
    /// Over the store and the broker of a deployment; `keys` are those of messages, if the deployment was given some.
    ///
    /// # Errors
    ///
    /// If the store does not tell the key, or a given one cannot be used.
    pub async fn new(
        store: SharedStore,
        transport: Arc<dyn Transport>,
        keys: &[Secret],
    ) -> Result<Self, OrderError> {
        let signer = signer(&store, keys).await?;
        Ok(Self { store, transport, signer, clock: SystemClock })
    }

    /// Has a worker obey, and returns when it has.
    ///
    /// # Errors
    ///
    /// [`OrderError`]: it has not, or it is not known whether it has.
    pub async fn order(&self, name: &str, order: WorkerOrder) -> Result<(), OrderError> {
        let all = workers(&self.store).await?;
        let worker = find(&all, name)?;
        if !worker.is_alive() {
            return Err(OrderError::NotAlive { name: name.to_owned(), state: worker.state });
        }
        if let Some(info) = &worker.info {
            check(name, info, &order)?;
        }
        let letter = Letter { id: Uuid::new_v4(), process: worker.row.process, order };
        let begun = self.clock.elapsed();
        let mut sent = None;
        loop {
            let now = self.clock.elapsed();
            if sent.is_none_or(|sent| now >= sent + SEND_EVERY) {
                send(&*self.transport, &self.signer, &self.clock, &letter).await?;
                sent = Some(now);
            }
            let rows = self.store.workers().await?;
            let row = rows.iter().find(|row| row.process == letter.process);
            if row.is_none_or(|row| row.has_ended || has_obeyed(row, letter.id)) {
                return Ok(());
            }
            if now >= begun + PATIENCE {
                return Err(OrderError::NoAnswer { name: name.to_owned() });
            }
            self.clock.sleep(LOOK_EVERY).await;
        }
    }

    /// All queues that live workers take work from, or in which something waits.
    ///
    /// # Errors
    ///
    /// If the store or the broker fails.
    pub async fn queues(&self) -> Result<Vec<QueueStatus>, OrderError> {
        let mut queues = Vec::new();
        for QueueState { name, workers, waiting, since } in queues_of(&*self.store).await? {
            let depth = self.transport.depth(&name).await?;
            queues.push(QueueStatus { name, waiting, oldest: since, depth, workers });
        }
        Ok(queues)
    }
}

fn has_obeyed(row: &WorkerRow, order: Uuid) -> bool {
    let orders = row.info.get("orders").and_then(|orders| orders.as_array());
    let order = order.to_string();
    orders.is_some_and(|orders| orders.iter().any(|one| one.as_str() == Some(&order)))
}

/// Whether an order makes sense for a worker that says this of itself.
fn check(name: &str, info: &WorkerInfo, order: &WorkerOrder) -> Result<(), OrderError> {
    let senseless = |why: String| Err(OrderError::Senseless(why));
    match order {
        WorkerOrder::Grow(0) | WorkerOrder::Shrink(0) => senseless("0 slots change nothing".to_owned()),
        WorkerOrder::Shrink(less) => {
            let (most, least) = match info.autoscale {
                Some(between) => (between.max, between.min),
                None => (info.slots, 1),
            };
            if most.saturating_sub(*less) >= least {
                return Ok(());
            }
            senseless(format!(
                "the worker `{name}` runs {most} attempts at once and at least {least}; it cannot run {less} less"
            ))
        }
        WorkerOrder::AddQueue(queue) if queue.is_empty() || queue.len() > MAX_QUEUE => {
            senseless(format!("the name of a queue has 1 to {MAX_QUEUE} bytes"))
        }
        WorkerOrder::DropQueue(queue) if !info.queues.contains(queue) => {
            let queues = info.queues.join(", ");
            senseless(format!("the worker `{name}` takes nothing from `{queue}`; its queues are {queues}"))
        }
        WorkerOrder::DropQueue(queue) if info.queues.len() == 1 => senseless(format!(
            "`{queue}` is the only queue of the worker `{name}`; add another one first, or shut it down"
        )),
        _ => Ok(()),
    }
}
