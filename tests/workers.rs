//! Attempts on workers: schedulers and workers of one program over one database and a real broker.
#![cfg(feature = "redis")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "workers/logs.rs"]
mod logs;
#[path = "workers/orders.rs"]
mod orders;

use std::sync::Arc;
use std::time::Duration;

use airflow::app::{ExecutorHealth, HealthStatus};
use airflow::prelude::*;
use airflow::remote::redis::{RedisOptions, RedisTransport};
use airflow::remote::testing::{BadLink, BrokerServer};
use airflow::remote::{
    BrokerFacts, ConsumeOptions, Consumer, Depth, Message, RemoteExecutor, Subscription, Transport,
    TransportError, TransportHealth, Worker, WorkerOptions, carried_versions,
};
use airflow::store::{AttemptState, SharedStore, Store as _};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};

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

    /// Makes it refuse logs, or take them again.
    async fn refuse_logs(&self, refuse: bool) {
        const REFUSE: &str = "
            CREATE TRIGGER no_logs BEFORE INSERT ON af_log_chunk BEGIN SELECT RAISE(ABORT, 'no logs today'); END";
        let place = SqliteConnectOptions::new().filename(self.0.path().join("airflow.db"));
        let place = place.busy_timeout(Duration::from_secs(30));
        let mut conn = SqliteConnection::connect_with(&place).await.unwrap();
        let sql = if refuse { REFUSE } else { "DROP TRIGGER no_logs" };
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
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

/// Goal: what is cleared before a worker has begun it leaves no attempt behind. Method: cleared while there is no worker; when one
/// comes it finds both messages.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_cleared_before_it_begins_leaves_nothing() {
    let Some(broker) = redis() else { return };
    let (database, gate) = (Database::new(), Gate::new());
    let airflow = long_scheduler(&database, &broker, 0).await;
    let running = airflow.start();
    let run = airflow.trigger("one_long").await.unwrap();
    let queued = async |attempts: usize| {
        let look = async {
            loop {
                let all = airflow.store().attempts(run.pk, None).await.unwrap();
                if all.len() == attempts {
                    return all;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), look).await.expect("it is queued")
    };
    queued(1).await;
    airflow.clear(&run.dag_id, &run.run_id, &airflow::app::ClearOptions::default(), "me").await.unwrap();
    let attempts = queued(2).await;
    assert_eq!(attempts[0].state, AttemptState::Cancelled);
    assert_eq!(attempts[0].end.as_ref().unwrap().error.as_deref(), Some("cleared by me"));
    assert!(airflow.doctor().await.unwrap().findings.is_empty());
    let worker = long_worker(&database, &broker, &gate, 0, "w").await.unwrap();
    gate.go_on.add_permits(1);
    assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);
    assert_eq!(worker.info().counts.claimed, 1);
    running.stop(Duration::from_secs(5)).await.unwrap();
    worker.stop(Duration::from_secs(5)).await.unwrap();
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
    let carried = carried_versions(airflow.store()).await.unwrap();
    let seen: Vec<_> = carried.iter().map(|one| (one.worker.as_str(), one.version, one.differs)).collect();
    assert_eq!(seen, [("new", Some(2), true), ("old", Some(1), false)], "the scheduler is of version 1");
    assert!(carried[1].dag_id == "one_long" && carried[1].fingerprint == run.fingerprint, "{carried:?}");
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

fn named(name: &str) -> WorkerOptions {
    WorkerOptions { name: Some(name.to_owned()), slots: 4, ..WorkerOptions::default() }
}

/// Returns when the only executor of an application is as it should be in its health.
async fn executor_is(airflow: &Airflow, what: &str, is: impl Fn(&ExecutorHealth) -> bool) -> ExecutorHealth {
    let looking = async {
        loop {
            let health = airflow.health().await;
            if let [one] = &health.executors[..]
                && is(one)
            {
                return one.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(60), looking).await;
    found.unwrap_or_else(|_| panic!("the executor does not become {what}"))
}

/// Goal: a scheduler whose broker is cut off says so in its health although it has nothing to send, and that all is well again. The
/// rest of it works, so it counts as healthy: starting it again would help nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_cut_off_shows_in_health() {
    let Some(url) = BrokerServer::Redis.address() else { return BrokerServer::Redis.missing() };
    let (scheme, rest) = url.split_once("://").unwrap();
    let (host, database) = rest.split_once('/').unwrap_or((rest, ""));
    let link = BadLink::start(host.rsplit_once('@').map_or(host, |(_, host)| host)).await.unwrap();
    let by_link = format!("{scheme}://{}/{database}", link.address());
    let options = RedisOptions::new(by_link).prefix(format!("test-{}:", uuid::Uuid::now_v7()));
    let broker: Arc<dyn Transport> = Arc::new(RedisTransport::new(&options).unwrap());
    let database = Database::new();
    let airflow = scheduler(&database, &broker, pipeline()).await;
    assert_eq!(airflow.health().await.executors, [], "no scheduler runs here");
    let running = airflow.start();
    let well = |one: &ExecutorHealth| one.status == HealthStatus::Healthy;
    // The first probe after the look at the start: from then on it is known.
    executor_is(&airflow, "healthy", |one| well(one) && broker.health().is_connected).await;
    link.cut();
    link.swallow(true);
    let cut = executor_is(&airflow, "unhealthy", |one| !well(one)).await;
    assert_eq!((cut.name.as_str(), cut.error.is_some()), ("redis", true), "{cut:?}");
    let health = airflow.health().await;
    assert!(health.is_healthy(), "{health:?}");
    let json = serde_json::to_value(&health).unwrap();
    assert_eq!(json["executors"][0]["status"], "unhealthy", "{json}");
    link.swallow(false);
    executor_is(&airflow, "healthy again", well).await;
    running.stop(Duration::from_secs(5)).await.unwrap();
}

/// Goal: an application that brings its own executor starts although its broker is not there, and says so soon.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_at_the_start_shows_in_health() {
    let nobody = RedisTransport::new(&RedisOptions::new("redis://127.0.0.1:1/0")).unwrap();
    let database = Database::new();
    let airflow = scheduler(&database, &(Arc::new(nobody) as Arc<dyn Transport>), pipeline()).await;
    let running = airflow.start();
    let found = executor_is(&airflow, "unhealthy", |one| one.status == HealthStatus::Unhealthy).await;
    let error = found.error.unwrap_or_default();
    assert!(error.starts_with("cannot reach the broker redis://127.0.0.1:1"), "{error}");
    running.stop(Duration::from_secs(5)).await.unwrap();
}

/// A way to a broker on which no announcement arrives; counts them.
#[derive(Debug)]
struct Mute(Arc<dyn Transport>, std::sync::atomic::AtomicUsize);

#[async_trait::async_trait]
impl Transport for Mute {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn place(&self) -> String {
        self.0.place()
    }

    async fn check(&self) -> std::result::Result<BrokerFacts, TransportError> {
        self.0.check().await
    }

    async fn publish(&self, messages: Vec<Message>) -> Vec<std::result::Result<(), TransportError>> {
        self.0.publish(messages).await
    }

    fn consume(&self, options: ConsumeOptions) -> Box<dyn Consumer> {
        self.0.consume(options)
    }

    async fn announce(&self, _: &str, _: Vec<u8>) -> std::result::Result<(), TransportError> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }

    fn subscribe(&self, topic: &str) -> Subscription {
        self.0.subscribe(topic)
    }

    async fn depth(&self, queue: &str) -> std::result::Result<Depth, TransportError> {
        self.0.depth(queue).await
    }

    fn health(&self) -> TransportHealth {
        self.0.health()
    }
}

/// Goal: what a user takes away stops on its worker within a beat, also if the word of it is lost. Method: a scheduler none of
/// whose announcements arrive; the task ends by nothing but being stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_is_not_heard_reaches_the_worker_within_a_beat() {
    const BEAT: Duration = Duration::from_secs(2);
    let Some(broker) = redis() else { return };
    let (database, gate) = (Database::new(), Gate::new());
    let mute = Arc::new(Mute(Arc::clone(&broker), std::sync::atomic::AtomicUsize::new(0)));
    let airflow = long_scheduler(&database, &(Arc::clone(&mute) as Arc<dyn Transport>), 0).await;
    let builder = Airflow::builder().shared_store(database.open().await).dag(one_long(0));
    let builder = builder.resource(Arc::clone(&gate)).scheduler(|config| config.beat = BEAT);
    let worker =
        Worker::start(&builder.build().await.unwrap(), Arc::clone(&broker), named("w")).await.unwrap();
    let running = airflow.start();
    let run = airflow.trigger("one_long").await.unwrap();
    gate.has_begun().await;
    airflow.clear(&run.dag_id, &run.run_id, &airflow::app::ClearOptions::default(), "me").await.unwrap();
    let cleared = std::time::Instant::now();
    let stopped = async {
        while worker.info().counts.cancelled == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cleared.elapsed()
    };
    let took = tokio::time::timeout(Duration::from_secs(60), stopped).await.expect("it is stopped");
    assert!(
        took < BEAT + Duration::from_secs(2),
        "{took:?}; a beat is {BEAT:?}, and the looks take a moment"
    );
    let lost = mute.1.load(std::sync::atomic::Ordering::SeqCst);
    assert!(lost > 0, "the scheduler has announced it");
    gate.has_begun().await;
    gate.go_on.add_permits(1);
    assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);
    running.stop(Duration::from_secs(5)).await.unwrap();
    worker.stop(Duration::from_secs(5)).await.unwrap();
}

/// Where an attempt runs.
#[derive(Debug, Clone, Copy)]
struct Where(&'static str);

#[task]
async fn place(here: &Where) -> Result<String> {
    Ok(here.0.to_owned())
}

fn placed() -> DagDef {
    DagDef::new("placed").define(|d| {
        d.add(place::call().id("plain"));
        d.add(place::call().id("of_the_queue").queue("gpu"));
        d.add(place::call().id("by_name").executor("redis"));
        d.add(place::call().id("by_name_beats_the_queue").queue("gpu").executor("local"));
    })
}

/// Goal: of several executors each task gets the one that it names, else that of its queue, else the first; all of one run.
/// Method: a local one beside workers; each task says where it runs.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_one_run_go_to_their_executors() {
    let Some(broker) = redis() else { return };
    let database = Database::new();
    let airflow = Airflow::builder()
        .shared_store(database.open().await)
        .executor(LocalExecutor::new(2))
        .executor_for(["gpu"], RemoteExecutor::shared(Arc::clone(&broker)))
        .resource(Where("scheduler"))
        .dag(placed())
        .build()
        .await
        .unwrap();
    let working =
        Airflow::builder().shared_store(database.open().await).resource(Where("worker")).dag(placed());
    let working = working.build().await.unwrap();
    let options = WorkerOptions { queues: vec!["default".into(), "gpu".into()], ..named("w") };
    let worker = Worker::start(&working, Arc::clone(&broker), options).await.unwrap();
    let running = airflow.start();
    let run = airflow.trigger("placed").await.unwrap();
    let run = airflow.wait(&run).await.unwrap();
    assert_eq!(run.state, RunState::Success);
    for (task, wanted) in [
        ("plain", "scheduler"),
        ("of_the_queue", "worker"),
        ("by_name", "worker"),
        ("by_name_beats_the_queue", "scheduler"),
    ] {
        assert_eq!(airflow.result::<String>(&run, task).await.unwrap(), wanted, "{task}");
    }
    assert_eq!(worker.info().counts.claimed, 2);
    running.stop(Duration::from_secs(5)).await.unwrap();
    worker.stop(Duration::from_secs(5)).await.unwrap();
}
