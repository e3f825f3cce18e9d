//! Every executor keeps the contract: the local one, and the remote one over each broker with workers that are processes
//! of their own.
#![cfg(all(feature = "redis", feature = "rabbitmq", feature = "local", feature = "testing"))]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use airflow::Airflow;
use airflow::LocalExecutor;
use airflow::dag::Isolation;
use airflow::executor::Executor;
use airflow::remote::rabbitmq::{RabbitmqOptions, RabbitmqTransport};
use airflow::remote::redis::{RedisOptions, RedisTransport};
use airflow::remote::testing::BrokerServer;
use airflow::remote::{RemoteExecutor, Transport, Worker, WorkerOptions};
use airflow::store::{SharedStore, SqliteStore, Store as _};
use airflow::testing::executor_suite::{Deployment, Ground, dags};
use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Variables that tell a worker process where everything is.
const STORE: &str = "AIRFLOW_TEST_WORKER_STORE";
const BROKER: &str = "AIRFLOW_TEST_WORKER_BROKER";
const PREFIX: &str = "AIRFLOW_TEST_WORKER_PREFIX";
const ISOLATION: &str = "AIRFLOW_TEST_WORKER_ISOLATION";

/// What a worker process says when it takes work.
const READY: &str = "the worker is ready";

const WORKERS: usize = 2;
const SLOTS: usize = 3;

async fn open(path: &Path) -> SharedStore {
    let store = SqliteStore::open(path.to_str().expect("a path that is text")).await.unwrap();
    store.migrate().await.unwrap();
    Arc::new(store)
}

/// Attempts in this process.
struct Local;

struct LocalDeployment {
    store: SharedStore,
    _folder: tempfile::TempDir,
}

#[async_trait]
impl Ground for Local {
    async fn deploy(&self) -> Box<dyn Deployment> {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder.path().join("airflow.db")).await;
        Box::new(LocalDeployment { store, _folder: folder })
    }
}

#[async_trait]
impl Deployment for LocalDeployment {
    fn store(&self) -> SharedStore {
        Arc::clone(&self.store)
    }

    fn executor(&self) -> Arc<dyn Executor> {
        Arc::new(LocalExecutor::new(SLOTS))
    }

    fn slots(&self) -> usize {
        SLOTS
    }

    async fn close(self: Box<Self>) {}
}

/// Attempts in worker processes behind a broker.
struct Workers(BrokerServer, Isolation);

struct WorkersDeployment {
    store: SharedStore,
    transport: Arc<dyn Transport>,
    workers: Vec<Child>,
    _folder: tempfile::TempDir,
}

fn transport(url: &str, prefix: &str) -> Arc<dyn Transport> {
    if url.starts_with("amqp") {
        Arc::new(RabbitmqTransport::new(&RabbitmqOptions::new(url).prefix(prefix)).unwrap())
    } else {
        Arc::new(RedisTransport::new(&RedisOptions::new(url).prefix(prefix)).unwrap())
    }
}

#[async_trait]
impl Ground for Workers {
    async fn deploy(&self) -> Box<dyn Deployment> {
        let url = self.0.address().expect("the test looked whether there is a broker");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("airflow.db");
        let store = open(&path).await;
        let prefix = format!("suite-{}:", uuid::Uuid::now_v7().simple());
        let mut workers = Vec::new();
        for _ in 0..WORKERS {
            workers.push(worker_process(&path, url, &prefix, self.1).await);
        }
        let transport = transport(url, &prefix);
        Box::new(WorkersDeployment { store, transport, workers, _folder: folder })
    }
}

/// This program again, as a worker.
async fn worker_process(store: &Path, broker: &str, prefix: &str, isolation: Isolation) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_worker_process", "--ignored", "--nocapture"]);
    command.env(STORE, store).env(BROKER, broker).env(PREFIX, prefix).env(ISOLATION, isolation.as_str());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains(READY) {
            // What else it says is of no interest, but it must not have to wait for a reader.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return child;
        }
    }
    panic!("the worker ended before it was ready");
}

#[async_trait]
impl Deployment for WorkersDeployment {
    fn store(&self) -> SharedStore {
        Arc::clone(&self.store)
    }

    fn executor(&self) -> Arc<dyn Executor> {
        Arc::new(RemoteExecutor::shared(Arc::clone(&self.transport)))
    }

    fn slots(&self) -> usize {
        WORKERS * SLOTS
    }

    async fn close(mut self: Box<Self>) {
        for worker in &mut self.workers {
            // The end of its input tells it to stop.
            drop(worker.stdin.take());
            let status = worker.wait().await.unwrap();
            assert!(status.success(), "a worker ended with {status}");
        }
    }
}

/// Not a test: what a process does that was started as a worker.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "no test: the program of worker processes, which the tests of this file start"]
async fn a_worker_process() {
    let (Some(store), Ok(broker), Ok(prefix)) =
        (std::env::var_os(STORE).map(PathBuf::from), std::env::var(BROKER), std::env::var(PREFIX))
    else {
        return;
    };
    let airflow = Airflow::builder().shared_store(open(&store).await).dags(dags()).build().await.unwrap();
    let isolation = std::env::var(ISOLATION).unwrap().parse().unwrap();
    let options = WorkerOptions { slots: SLOTS, isolation, ..WorkerOptions::default() };
    let worker = Worker::start(&airflow, transport(&broker, &prefix), options).await.unwrap();
    println!("{READY}");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(_)) = input.next_line().await {}
    worker.stop(std::time::Duration::from_secs(10)).await.unwrap();
}

mod local {
    airflow::executor_conformance!(super::Local);
}

/// The suite on workers, if there is the broker.
macro_rules! on_workers {
    ($name:ident, $broker:expr, $isolation:expr) => {
        mod $name {
            on_workers!(@ $broker, $isolation; ends_of_attempts_arrive slots_are_kept_and_used cancelled_attempts_stop
                submitted_twice_runs_once a_stop_loses_nothing);
        }
    };
    (@ $broker:expr, $isolation:expr; $($check:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $check() {
                match $broker.address() {
                    Some(_) => airflow::testing::executor_suite::$check(&super::Workers($broker, $isolation)).await,
                    None => $broker.missing(),
                }
            }
        )*
    };
}

on_workers!(redis, airflow::remote::testing::BrokerServer::Redis, airflow::dag::Isolation::None);
on_workers!(rabbitmq, airflow::remote::testing::BrokerServer::Rabbitmq, airflow::dag::Isolation::None);
#[cfg(unix)]
on_workers!(processes, airflow::remote::testing::BrokerServer::Redis, airflow::dag::Isolation::Process);
