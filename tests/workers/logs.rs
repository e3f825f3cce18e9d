//! What attempts say on workers, in the store.

use std::sync::Arc;
use std::time::Duration;

use airflow::attempt::LogReader;
use airflow::id::MapIndex;
use airflow::prelude::*;
use airflow::remote::{Transport, Worker};
use airflow::store::RunRow;

use super::{Database, Gate, long_scheduler, long_worker, redis};

/// How long anything may take.
const MOST: Duration = Duration::from_secs(30);

/// A scheduler and a worker, which runs a task that waits at the gate.
struct Deployment {
    airflow: Airflow,
    running: Running,
    worker: Worker,
    run: RunRow,
}

impl Deployment {
    async fn start(database: &Database, broker: &Arc<dyn Transport>, gate: &Arc<Gate>) -> Self {
        let airflow = long_scheduler(database, broker, 0).await;
        let worker = long_worker(database, broker, gate, 0, "w").await.unwrap();
        let running = airflow.start();
        let run = airflow.trigger("one_long").await.unwrap();
        Self { airflow, running, worker, run }
    }

    async fn log(&self) -> LogReader {
        let (run, task) = (&self.run, "long".into());
        self.airflow.task_log(&run.dag_id, &run.run_id, &task, MapIndex::UNMAPPED).await.unwrap()
    }

    /// Lets the task go on, and waits until its run has succeeded.
    async fn go_on(&self, gate: &Gate) {
        gate.go_on.add_permits(1);
        let ended = tokio::time::timeout(MOST, self.airflow.wait(&self.run)).await.expect("in time");
        assert_eq!(ended.unwrap().state, RunState::Success);
    }
}

/// Goal: what an attempt says on a worker is read elsewhere, by default, while it runs and after its worker is gone.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_worker_is_read_from_the_store() {
    let Some(broker) = redis() else { return };
    let (database, gate) = (Database::new(), Gate::new());
    let deployment = Deployment::start(&database, &broker, &gate).await;
    let mut log = deployment.log().await;
    let mut read = String::new();
    let begins = async {
        while !read.contains("Executing long of run") {
            let part = log.next().await.unwrap();
            assert!(!part.is_over, "it waits at the gate");
            read += &part.text;
        }
    };
    tokio::time::timeout(MOST, begins).await.expect("in time");
    deployment.go_on(&gate).await;
    deployment.worker.stop(Duration::from_secs(5)).await.unwrap();
    let part = log.next().await.unwrap();
    assert!(part.is_over && part.text.contains("Marking task as SUCCESS"), "{part:?}");
    deployment.running.stop(Duration::from_secs(5)).await.unwrap();
}

/// Goal: a database that is well but for logs holds up no end of an attempt on a worker; the log comes later.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_logs_holds_up_no_worker() {
    let Some(broker) = redis() else { return };
    let (database, gate) = (Database::new(), Gate::new());
    let deployment = Deployment::start(&database, &broker, &gate).await;
    gate.has_begun().await;
    database.refuse_logs(true).await;
    deployment.go_on(&gate).await;
    database.refuse_logs(false).await;
    let comes = async {
        while !deployment.log().await.next().await.unwrap().text.contains("Marking task as SUCCESS") {}
    };
    tokio::time::timeout(MOST, comes).await.expect("the log comes");
    deployment.running.stop(Duration::from_secs(5)).await.unwrap();
    deployment.worker.stop(Duration::from_secs(5)).await.unwrap();
}
