//! What attempts say on workers, in the store.

use std::time::Duration;

use airflow::prelude::*;

use super::{Database, Gate, long_scheduler, long_worker, redis};

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

/// Goal: a database that is well but for logs holds up no end of an attempt on a worker; the log comes later.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_logs_holds_up_no_worker() {
    let Some(broker) = redis() else { return };
    let (database, gate) = (Database::new(), Gate::new());
    let airflow = long_scheduler(&database, &broker, 0).await;
    let worker = long_worker(&database, &broker, &gate, 0, "w").await.unwrap();
    let running = airflow.start();
    let run = airflow.trigger("one_long").await.unwrap();
    gate.has_begun().await;
    database.refuse_logs(true).await;
    gate.go_on.add_permits(1);
    let ended = tokio::time::timeout(Duration::from_secs(30), airflow.wait(&run)).await.expect("in time");
    assert_eq!(ended.unwrap().state, RunState::Success);
    database.refuse_logs(false).await;
    let (task, map) = ("long".into(), airflow::id::MapIndex::UNMAPPED);
    let comes = async {
        let read = async || {
            let mut log = airflow.task_log(&run.dag_id, &run.run_id, &task, map).await.unwrap();
            log.next().await.unwrap().text
        };
        while !read().await.contains("Marking task as SUCCESS") {}
    };
    tokio::time::timeout(Duration::from_secs(30), comes).await.expect("the log comes");
    running.stop(Duration::from_secs(5)).await.unwrap();
    worker.stop(Duration::from_secs(5)).await.unwrap();
}
