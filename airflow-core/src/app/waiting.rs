//! What waits for processes that are not there: queues without a worker, versions that nobody carries.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::id::{DagId, IncarnationId};
use crate::scheduler::seems_alive;
use crate::state::TaskState;
use crate::store::{MissingVersion, RunRow, Store, StoreResult, TiRow, WorkerRow};

/// A queue, who listens to it and what waits in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueState {
    /// Its name.
    pub name: String,
    /// Workers that are alive and take work from it, by name.
    pub workers: Vec<String>,
    /// How many attempts wait for a worker.
    pub waiting: u64,
    /// Since when the oldest of them does.
    pub since: Option<DateTime<Utc>>,
}

impl QueueState {
    /// Whether something waits and nobody is there to take it.
    pub fn is_stranded(&self) -> bool {
        self.waiting > 0 && self.workers.is_empty()
    }
}

/// Something that waits, and will until a process is started.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stranded {
    /// `queue` or `version`.
    pub kind: &'static str,
    /// The name of the queue, or `dag/version`.
    pub name: String,
    /// How many attempts or runs wait.
    pub waiting: u64,
    /// For how long the oldest does, in seconds.
    pub oldest_age: f64,
    /// What is missing, for people.
    pub reason: String,
}

/// All queues that workers listen to or attempts wait in, by name.
///
/// ```
/// use airflow_core::app::queues;
/// use airflow_core::store::MemoryStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// assert!(queues(&MemoryStore::new()).await?.is_empty());
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// If the store fails.
pub async fn queues(store: &dyn Store) -> StoreResult<Vec<QueueState>> {
    let mut all: BTreeMap<String, QueueState> = BTreeMap::new();
    let empty =
        |name: &str| QueueState { name: name.to_owned(), workers: Vec::new(), waiting: 0, since: None };
    let processes = store.incarnations().await?;
    let alive: BTreeSet<IncarnationId> =
        processes.iter().filter(|one| seems_alive(one)).map(|one| one.process.id).collect();
    for worker in store.workers().await?.iter().filter(|worker| alive.contains(&worker.process)) {
        for queue in queues_of(worker) {
            all.entry(queue.to_owned()).or_insert_with(|| empty(queue)).workers.push(worker.name.clone());
        }
    }
    for queued in store.queued_attempts().await? {
        let queue = all.entry(queued.queue.clone()).or_insert_with(|| empty(&queued.queue));
        (queue.waiting, queue.since) = (queued.count, Some(queued.oldest));
    }
    Ok(all.into_values().collect())
}

/// The queues that a worker takes work from, as it says itself.
fn queues_of(worker: &WorkerRow) -> Vec<&str> {
    let is_draining = worker.info["is_draining"].as_bool() == Some(true);
    let queues = worker.info["queues"].as_array().filter(|_| !is_draining);
    queues.into_iter().flatten().filter_map(serde_json::Value::as_str).collect()
}

/// What waits for processes that are not there. Without any scheduler everything does, and nothing is listed of versions.
///
/// # Errors
///
/// If the store fails.
pub async fn stranded(store: &dyn Store, now: DateTime<Utc>) -> StoreResult<Vec<Stranded>> {
    let mut found = Vec::new();
    let age = |since: DateTime<Utc>| (now - since).as_seconds_f64().max(0.0);
    let queues = queues(store).await?;
    for queue in queues.iter().filter(|queue| queue.is_stranded()) {
        let since = queue.since.unwrap_or(now);
        found.push(Stranded {
            kind: "queue",
            name: queue.name.clone(),
            waiting: queue.waiting,
            oldest_age: age(since),
            reason: no_worker_for(&queue.name, since, now),
        });
    }
    let processes = store.incarnations().await?;
    let has_scheduler = processes.iter().any(|one| one.process.kind == "scheduler");
    let has_worker = queues.iter().any(|queue| !queue.workers.is_empty());
    for missing in store.missing_versions().await? {
        let somebody_is_there = if missing.kind == "worker" { has_worker } else { has_scheduler };
        // If there is nobody at all, the version is not what is missing.
        if somebody_is_there {
            found.push(Stranded {
                kind: "version",
                name: format!("{}/{}", missing.dag_id, missing.fingerprint),
                waiting: missing.waiting,
                oldest_age: age(missing.since),
                reason: no_version(store, &missing).await?,
            });
        }
    }
    Ok(found)
}

/// Why nothing happens to a run, or to one of its instances, until a process is started.
///
/// # Errors
///
/// If the store fails.
pub async fn why_stranded(
    store: &dyn Store,
    run: &RunRow,
    ti: Option<&TiRow>,
    now: DateTime<Utc>,
) -> StoreResult<Vec<String>> {
    let mut why = Vec::new();
    let processes = store.incarnations().await?;
    let has = |kind: &str| processes.iter().any(|one| one.process.kind == kind);
    let is_queued = ti.is_some_and(|ti| ti.state == TaskState::Queued);
    for missing in store.missing_versions().await? {
        let is_meant = missing.dag_id == run.dag_id && missing.fingerprint == run.fingerprint;
        if is_meant && has(&missing.kind) && (is_queued || missing.kind == "scheduler") {
            why.push(no_version(store, &missing).await?);
        }
    }
    let Some(ti) = ti.filter(|_| is_queued) else { return Ok(why) };
    let attempts = store.attempts(run.pk, Some((&ti.task_id, ti.map_index))).await?;
    if let Some(last) = attempts.last() {
        let queues = queues(store).await?;
        if queues.iter().any(|queue| queue.name == last.start.queue && queue.is_stranded()) {
            why.push(no_worker_for(&last.start.queue, last.start.at, now));
        }
    }
    Ok(why)
}

fn no_worker_for(queue: &str, since: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - since).num_seconds().max(0);
    format!(
        "no live worker listens to the queue `{queue}`, where the oldest attempt has waited for {seconds} s; start one \
         with `worker -q {queue}`, or correct the option `queue` of the task"
    )
}

async fn no_version(store: &dyn Store, missing: &MissingVersion) -> StoreResult<String> {
    let MissingVersion { kind, dag_id, fingerprint, .. } = missing;
    let number = version_number(store, dag_id, fingerprint).await?;
    let version = number.map_or_else(String::new, |number| format!("{number} "));
    let cure = match kind.as_str() {
        "worker" => "start a worker of that version",
        _ => "start a scheduler of that version, or move what waits to the current one with `dags adopt`",
    };
    Ok(format!("no {kind} has version {version}({fingerprint}) of dag `{dag_id}`; {cure}"))
}

async fn version_number(store: &dyn Store, dag_id: &DagId, fingerprint: &str) -> StoreResult<Option<u32>> {
    let versions = store.dag_versions(dag_id).await?;
    Ok(versions.into_iter().find(|version| version.fingerprint == fingerprint).map(|version| version.number))
}
