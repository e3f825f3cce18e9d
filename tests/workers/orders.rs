//! Orders to workers, their slots, and queues as the monitor sees them.

use std::sync::Arc;
use std::time::Duration;

use airflow::prelude::*;
use airflow::remote::{
    Autoscale, QueueStatus, RemoteExecutor, Transport, Worker, WorkerMonitor, WorkerOptions, WorkerOrder,
    WorkerState, workers,
};

use super::{Database, Gate, long, named, redis};

/// As many long tasks as numbers, in a queue.
fn many_long(queue: &str, count: i64) -> DagDef {
    let queue = queue.to_owned();
    DagDef::new("many_long").define(move |d| {
        let numbers = d.add(Empty::new().id("begin")).node();
        for n in 0..count {
            let long = d.add(long::call().id(format!("long_{n}")).queue(queue.clone())).node();
            d.order(numbers >> long);
        }
    })
}

/// A scheduler, a gate, and a worker of the same dag with these options.
async fn pair(
    database: &Database,
    broker: &Arc<dyn Transport>,
    dag: fn() -> DagDef,
    options: WorkerOptions,
) -> (Airflow, Arc<Gate>, Worker) {
    let gate = Gate::new();
    let airflow = Airflow::builder()
        .shared_store(database.open().await)
        .executor(RemoteExecutor::shared(Arc::clone(broker)))
        .resource(Gate::new())
        .dag(dag())
        .build()
        .await
        .unwrap();
    let builder = Airflow::builder().shared_store(database.open().await).dag(dag());
    let working = builder.resource(Arc::clone(&gate)).build().await.unwrap();
    let worker = Worker::start(&working, Arc::clone(broker), options).await.unwrap();
    (airflow, gate, worker)
}

/// Goal: orders are obeyed when the call returns, what makes no sense is refused with names, and all see the effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_obeys_orders() {
    let Some(broker) = redis() else { return };
    let database = Database::new();
    let (airflow, gate, worker) = pair(&database, &broker, || many_long("gpu", 1), named("gpu-1")).await;
    let monitor = WorkerMonitor::new(database.open().await, Arc::clone(&broker), &[]).await.unwrap();
    let order = async |name: &str, order| monitor.order(name, order).await.map_err(|error| error.to_string());
    let seen = async || workers(airflow.store()).await.unwrap().remove(0).info.unwrap();

    order("gpu-1", WorkerOrder::Grow(2)).await.unwrap();
    assert_eq!(seen().await.slots, 6);
    order("gpu-1", WorkerOrder::Shrink(5)).await.unwrap();
    assert_eq!((seen().await.slots, worker.info().slots), (1, 1));
    let refused = order("gpu-1", WorkerOrder::Shrink(1)).await.unwrap_err();
    assert_eq!(refused, "the worker `gpu-1` runs 1 attempts at once and at least 1; it cannot run 1 less");
    let refused = order("gpu_1", WorkerOrder::Grow(1)).await.unwrap_err();
    assert_eq!(refused, "there is no worker `gpu_1`; did you mean `gpu-1`?");

    let running = airflow.start();
    let run = airflow.trigger("many_long").await.unwrap();
    order("gpu-1", WorkerOrder::AddQueue("gpu".into())).await.unwrap();
    gate.has_begun().await;
    gate.go_on.add_permits(1);
    assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);
    order("gpu-1", WorkerOrder::DropQueue("default".into())).await.unwrap();
    assert_eq!(seen().await.queues, ["gpu"]);
    let refused = order("gpu-1", WorkerOrder::DropQueue("gpu".into())).await.unwrap_err();
    assert!(refused.starts_with("`gpu` is the only queue of the worker `gpu-1`"), "{refused}");
    let refused = order("gpu-1", WorkerOrder::DropQueue("cpu".into())).await.unwrap_err();
    assert_eq!(refused, "the worker `gpu-1` takes nothing from `cpu`; its queues are gpu");

    order("gpu-1", WorkerOrder::Shutdown).await.unwrap();
    worker.asked_to_stop().await;
    running.stop(Duration::from_secs(5)).await.unwrap();
    worker.stop(Duration::from_secs(5)).await.unwrap();
    let refused = order("gpu-1", WorkerOrder::Grow(1)).await.unwrap_err();
    assert_eq!(refused, "the worker `gpu-1` is offline");
    assert_eq!(workers(airflow.store()).await.unwrap()[0].state, WorkerState::Offline);
}

/// Goal: a worker with limits runs as many as there are, up to the larger one. Method: three tasks that all must have begun
/// before one may end.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_grows_with_the_work() {
    let Some(broker) = redis() else { return };
    let database = Database::new();
    let options = WorkerOptions { autoscale: Some(Autoscale { max: 3, min: 1 }), ..named("w") };
    let (airflow, gate, worker) = pair(&database, &broker, || many_long("default", 4), options).await;
    assert_eq!(worker.info().slots, 1);
    let running = airflow.start();
    let run = airflow.trigger("many_long").await.unwrap();
    for _ in 0..3 {
        gate.has_begun().await;
    }
    assert_eq!(worker.info().slots, 3, "the fourth one waits");
    assert_eq!(worker.info().running.len(), 3);
    gate.go_on.add_permits(4);
    assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);
    running.stop(Duration::from_secs(5)).await.unwrap();
    worker.stop(Duration::from_secs(5)).await.unwrap();
}

/// Goal: a queue that nobody takes work from can be seen as such, and what runs is seen soon, not with the next beat.
#[tokio::test(flavor = "multi_thread")]
async fn queues_tell_who_takes_work_from_them() {
    let Some(broker) = redis() else { return };
    let database = Database::new();
    let (airflow, gate, worker) = pair(&database, &broker, || many_long("lonely", 2), named("w")).await;
    let monitor = WorkerMonitor::new(database.open().await, Arc::clone(&broker), &[]).await.unwrap();
    let running = airflow.start();
    let run = airflow.trigger("many_long").await.unwrap();
    let lonely = async {
        loop {
            let queues = monitor.queues().await.unwrap();
            let lonely = queues.into_iter().find(|queue| queue.name == "lonely" && queue.waiting == 2);
            match lonely.filter(|queue| queue.depth.ready == 2) {
                Some(queue) => return queue,
                None => tokio::task::yield_now().await,
            }
        }
    };
    let lonely: QueueStatus = tokio::time::timeout(Duration::from_secs(30), lonely).await.unwrap();
    assert!(lonely.workers.is_empty() && lonely.oldest.is_some(), "{lonely:?}");
    let queues = monitor.queues().await.unwrap();
    assert_eq!(queues[0].workers, ["w"], "{queues:?}");

    monitor.order("w", WorkerOrder::AddQueue("lonely".into())).await.unwrap();
    gate.has_begun().await;
    let began = std::time::Instant::now();
    let shown = async {
        while workers(airflow.store()).await.unwrap()[0].info.as_ref().unwrap().running.len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), shown).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}, a beat has five seconds", began.elapsed());
    gate.go_on.add_permits(2);
    assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);
    running.stop(Duration::from_secs(5)).await.unwrap();
    worker.stop(Duration::from_secs(5)).await.unwrap();
}
