//! Attempts on workers: schedulers and workers of one program over one database and a real broker.
#![cfg(feature = "redis")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;
use std::time::Duration;

use airflow::prelude::*;
use airflow::remote::redis::{RedisOptions, RedisTransport};
use airflow::remote::testing::BrokerServer;
use airflow::remote::{RemoteExecutor, Transport, Worker, WorkerOptions};
use airflow::store::{SharedStore, Store as _};

/// A broker of one's own.
fn redis() -> Option<Arc<dyn Transport>> {
    let Some(url) = BrokerServer::Redis.address() else {
        BrokerServer::Redis.missing();
        return None;
    };
    let options = RedisOptions::new(url).prefix(format!("test-{}:", uuid::Uuid::now_v7()));
    Some(Arc::new(RedisTransport::new(&options).unwrap()))
}

/// A database with handles as of several processes.
struct Database(tempfile::TempDir);

impl Database {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn open(&self) -> SharedStore {
        let store = SqliteStore::open(self.0.path().join("airflow.db").to_str().unwrap()).await.unwrap();
        store.migrate().await.unwrap();
        Arc::new(store)
    }
}

async fn scheduler(database: &Database, broker: &Arc<dyn Transport>, dag: DagDef) -> Airflow {
    Airflow::builder()
        .shared_store(database.open().await)
        .executor(RemoteExecutor::shared(Arc::clone(broker)))
        .dag(dag)
        .build()
        .await
        .unwrap()
}

async fn worker(database: &Database, broker: &Arc<dyn Transport>, dag: DagDef, name: &str) -> Worker {
    let airflow = Airflow::builder().shared_store(database.open().await).dag(dag).build().await.unwrap();
    let options = WorkerOptions { name: Some(name.to_owned()), slots: 4, ..WorkerOptions::default() };
    Worker::start(&airflow, Arc::clone(broker), options).await.unwrap()
}

#[task]
async fn numbers() -> Result<Vec<i64>> {
    Ok((0..20).collect())
}

#[task(retries = 1, retry_delay = "10ms")]
async fn double(cx: &TaskContext, n: i64) -> Result<i64> {
    if n == 7 && cx.ti().try_number == 1 {
        return Err(std::io::Error::other("the first try of seven fails").into());
    }
    Ok(n * 2)
}

#[task]
async fn sum(all: Vec<i64>) -> Result<i64> {
    Ok(all.iter().sum())
}

fn pipeline() -> DagDef {
    DagDef::new("pipeline").define(|d| {
        let list = d.add(numbers::call());
        let doubled = d.map(list, double::call);
        d.add(sum::call(doubled));
    })
}

/// What the long task of a test says and hears.
#[derive(Debug)]
struct Gate {
    begun: tokio::sync::Semaphore,
    go_on: tokio::sync::Semaphore,
}

impl Gate {
    fn new() -> Arc<Self> {
        let closed = || tokio::sync::Semaphore::new(0);
        Arc::new(Self { begun: closed(), go_on: closed() })
    }

    async fn has_begun(&self) {
        self.begun.acquire().await.unwrap().forget();
    }
}

#[task]
async fn long(gate: &Arc<Gate>) -> Result<()> {
    gate.begun.add_permits(1);
    gate.go_on.acquire().await.unwrap().forget();
    Ok(())
}

fn one_long(version: u32) -> DagDef {
    DagDef::new("one_long").define(|d| {
        d.add(long::call().retries(version));
    })
}

async fn long_worker(
    database: &Database,
    broker: &Arc<dyn Transport>,
    gate: &Arc<Gate>,
    version: u32,
    name: &str,
) -> Result<Worker, airflow::remote::WorkerError> {
    let builder = Airflow::builder().shared_store(database.open().await).dag(one_long(version));
    let airflow = builder.resource(Arc::clone(gate)).build().await.unwrap();
    let options = WorkerOptions { name: Some(name.to_owned()), slots: 2, ..WorkerOptions::default() };
    Worker::start(&airflow, Arc::clone(broker), options).await
}

async fn long_scheduler(database: &Database, broker: &Arc<dyn Transport>, version: u32) -> Airflow {
    Airflow::builder()
        .shared_store(database.open().await)
        .executor(RemoteExecutor::shared(Arc::clone(broker)))
        .resource(Gate::new())
        .dag(one_long(version))
        .build()
        .await
        .unwrap()
}

/// Goal: what is cleared while it runs is stopped on its worker and runs again; what the first attempt says is not heard.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_cleared_stops_and_runs_again() {
    let Some(broker) = redis() else { return };
    let (database, gate) = (Database::new(), Gate::new());
    let airflow = long_scheduler(&database, &broker, 1).await;
    let worker = long_worker(&database, &broker, &gate, 1, "w").await.unwrap();
    let running = airflow.start();
    let run = airflow.trigger("one_long").await.unwrap();
    gate.has_begun().await;
    airflow.clear(&run.dag_id, &run.run_id, &airflow::app::ClearOptions::default(), "me").await.unwrap();
    gate.has_begun().await;
    gate.go_on.add_permits(1);
    let run = airflow.wait(&run).await.unwrap();
    assert_eq!(run.state, RunState::Success);
    assert_eq!(airflow.store().attempts(run.pk, None).await.unwrap().len(), 2);
    assert_eq!(worker.info().counts.cancelled, 1, "{:?}", worker.info());
    running.stop(Duration::from_secs(5)).await.unwrap();
    worker.stop(Duration::from_secs(5)).await.unwrap();
}

/// Goal: what an attempt says on a worker is read elsewhere, by default, while it runs and after its worker is gone.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_worker_is_read_from_the_store() {
    let Some(broker) = redis() else { return };
    let (database, gate) = (Database::new(), Gate::new());
    let airflow = long_scheduler(&database, &broker, 0).await;
    let worker = long_worker(&database, &broker, &gate, 0, "w").await.unwrap();
    let running = airflow.start();
    let run = airflow.trigger("one_long").await.unwrap();
    let (task, map) = ("long".into(), airflow::id::MapIndex::UNMAPPED);
    let mut log = airflow.task_log(&run.dag_id, &run.run_id, &task, map).await.unwrap();
    let mut read = String::new();
    let begins = async {
        while !read.contains("Executing long of run") {
            let part = log.next().await.unwrap();
            assert!(!part.is_over, "it waits at the gate");
            read += &part.text;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), begins).await.expect("in time");
    gate.go_on.add_permits(1);
    assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);
    worker.stop(Duration::from_secs(5)).await.unwrap();
    let part = log.next().await.unwrap();
    assert!(part.is_over && part.text.contains("Marking task as SUCCESS"), "{part:?}");
    running.stop(Duration::from_secs(5)).await.unwrap();
}

/// Goal: a worker that stops gives back what runs, at once and without costing a retry; another one takes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_gives_back_what_runs() {
    let Some(broker) = redis() else { return };
    let (database, gate) = (Database::new(), Gate::new());
    let airflow = long_scheduler(&database, &broker, 1).await;
    let one = long_worker(&database, &broker, &gate, 1, "one").await.unwrap();
    let running = airflow.start();
    let run = airflow.trigger("one_long").await.unwrap();
    gate.has_begun().await;
    let two = long_worker(&database, &broker, &gate, 1, "two").await.unwrap();
    one.stop(Duration::ZERO).await.unwrap();
    gate.has_begun().await;
    gate.go_on.add_permits(1);
    let run = airflow.wait(&run).await.unwrap();
    assert_eq!(run.state, RunState::Success);
    let tries: Vec<_> = airflow.store().attempts(run.pk, None).await.unwrap();
    let tries: Vec<_> = tries.iter().map(|row| (row.state.as_str(), row.start.try_number)).collect();
    assert_eq!(tries, [("handed_back", 1), ("success", 1)]);
    running.stop(Duration::from_secs(5)).await.unwrap();
    two.stop(Duration::from_secs(5)).await.unwrap();
}

/// Goal: a worker leaves alone what it has another version of, and the one that has it gets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_another_version_leaves_it_to_others() {
    let Some(broker) = redis() else { return };
    let (database, gate) = (Database::new(), Gate::new());
    let airflow = long_scheduler(&database, &broker, 2).await;
    let old = long_worker(&database, &broker, &gate, 1, "old").await.unwrap();
    let new = long_worker(&database, &broker, &gate, 2, "new").await.unwrap();
    let running = airflow.start();
    gate.go_on.add_permits(8);
    for n in 0..8 {
        let run = airflow.trigger("one_long").run_id(format!("r{n}")).await.unwrap();
        assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);
    }
    assert_eq!((old.info().counts.claimed, new.info().counts.claimed), (0, 8));
    running.stop(Duration::from_secs(5)).await.unwrap();
    for worker in [old, new] {
        worker.stop(Duration::from_secs(5)).await.unwrap();
    }
}

/// Goal: what waits for a version that no worker has says so, and runs when one comes. Method: a scheduler of the old
/// version beside a worker of the new one.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_worker_has_says_so_until_one_comes() {
    let Some(broker) = redis() else { return };
    let (database, gate) = (Database::new(), Gate::new());
    let airflow = long_scheduler(&database, &broker, 1).await;
    let new = long_worker(&database, &broker, &gate, 2, "new").await.unwrap();
    let running = airflow.start();
    let run = airflow.trigger("one_long").await.unwrap();
    let reason = stranded_reason(&airflow, "version").await;
    let version = format!("no worker has version 1 ({}) of dag `one_long`", run.fingerprint);
    assert!(reason.starts_with(&version), "{reason}");
    let tis = airflow.store().task_instances(run.pk).await.unwrap();
    let why = airflow::app::why_stranded(&**airflow.store(), &run, tis.first(), airflow.clock().now());
    assert_eq!(why.await.unwrap(), [reason]);
    let old = long_worker(&database, &broker, &gate, 1, "old").await.unwrap();
    gate.go_on.add_permits(1);
    assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);
    assert_eq!((old.info().counts.claimed, new.info().counts.claimed), (1, 0));
    running.stop(Duration::from_secs(5)).await.unwrap();
    for worker in [old, new] {
        worker.stop(Duration::from_secs(5)).await.unwrap();
    }
}

/// Waits until something is stranded, and says why.
async fn stranded_reason(airflow: &Airflow, kind: &str) -> String {
    let found = async {
        loop {
            let health = airflow.health().await;
            if let Some(one) = health.stranded.iter().find(|one| one.kind == kind) {
                assert!(one.waiting == 1 && one.oldest_age >= 0.0, "{health:?}");
                return one.reason.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.expect("in time")
}

/// Goal: a queue that nobody listens to is reported by its name, and no more once somebody does.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_without_a_worker_is_reported() {
    let Some(broker) = redis() else { return };
    let database = Database::new();
    let dag = || {
        DagDef::new("misspelt").define(|d| {
            d.add(numbers::call().queue("gpus"));
        })
    };
    let airflow = scheduler(&database, &broker, dag()).await;
    let one = worker(&database, &broker, dag(), "one").await;
    let running = airflow.start();
    let run = airflow.trigger("misspelt").await.unwrap();
    let reason = stranded_reason(&airflow, "queue").await;
    assert!(reason.starts_with("no live worker listens to the queue `gpus`, where the oldest"), "{reason}");
    let queues = airflow::app::queues(&**airflow.store()).await.unwrap();
    let seen: Vec<_> =
        queues.iter().map(|queue| (queue.name.as_str(), queue.waiting, queue.workers.len())).collect();
    assert_eq!(seen, [("default", 0, 1), ("gpus", 1, 0)]);
    let options = WorkerOptions { queues: vec!["gpus".into()], ..WorkerOptions::default() };
    let store = database.open().await;
    let other = Airflow::builder().shared_store(store).dag(dag()).build().await.unwrap();
    let other = Worker::start(&other, Arc::clone(&broker), options).await.unwrap();
    assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);
    assert!(airflow.health().await.stranded.is_empty());
    running.stop(Duration::from_secs(5)).await.unwrap();
    for worker in [one, other] {
        worker.stop(Duration::from_secs(5)).await.unwrap();
    }
}

/// Goal: names are unique among those that live.
#[tokio::test(flavor = "multi_thread")]
async fn the_second_worker_of_a_name_is_refused() {
    let Some(broker) = redis() else { return };
    let (database, gate) = (Database::new(), Gate::new());
    let one = long_worker(&database, &broker, &gate, 1, "w").await.unwrap();
    let refused = long_worker(&database, &broker, &gate, 1, "w").await.unwrap_err().to_string();
    assert!(refused.starts_with("a worker called `w` is alive ("), "{refused}");
    one.stop(Duration::ZERO).await.unwrap();
    let two = long_worker(&database, &broker, &gate, 1, "w").await.unwrap();
    assert_eq!(two.name(), "w");
    two.stop(Duration::ZERO).await.unwrap();
}

/// Goal: data, mappings and retries go the same way over workers.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_runs_on_two_workers() {
    let Some(broker) = redis() else { return };
    let database = Database::new();
    let airflow = scheduler(&database, &broker, pipeline()).await;
    let one = worker(&database, &broker, pipeline(), "one").await;
    let two = worker(&database, &broker, pipeline(), "two").await;
    let running = airflow.start();
    let run = airflow.trigger("pipeline").await.unwrap();
    let run = airflow.wait(&run).await.unwrap();
    assert_eq!(run.state, RunState::Success);
    assert_eq!(airflow.result::<i64>(&run, "sum").await.unwrap(), 380);
    let attempts = airflow.store().attempts(run.pk, None).await.unwrap();
    assert_eq!(attempts.len(), 23, "one more for seven");
    let counts = [one.info().counts, two.info().counts];
    assert_eq!(counts.iter().map(|counts| counts.claimed).sum::<u64>(), 23, "{counts:?}");
    running.stop(Duration::from_secs(5)).await.unwrap();
    for worker in [one, two] {
        worker.stop(Duration::from_secs(5)).await.unwrap();
    }
    assert!(airflow.store().incarnations().await.unwrap().is_empty());
}
