//! How results get from task to task: in memory where that is the same as reading them.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use airflow::app::{ClearOptions, Running};
use airflow::prelude::*;
use airflow::state::RunState;
use airflow::store::{Layer, Layered, MemoryStore, RunRow, SharedStore, StoreResult, XComFilter, XComWrite};
use airflow::xcom::XComValue;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

/// Counts how often values are read.
#[derive(Debug)]
struct Reads {
    store: SharedStore,
    count: Arc<AtomicUsize>,
}

impl Layer for Reads {
    fn below(&self) -> &SharedStore {
        &self.store
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        call: &'static str,
        work: BoxFuture<'a, StoreResult<T>>,
    ) -> BoxFuture<'a, StoreResult<T>> {
        if call == "xcoms" {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        work
    }
}

/// What tasks wait for, and how often `made` has run.
#[derive(Clone)]
struct World {
    gate: Arc<Semaphore>,
    at_the_gate: Arc<Semaphore>,
    made: Arc<AtomicI64>,
}

#[task]
async fn made(world: &World) -> Result<i64> {
    Ok(world.made.fetch_add(1, Ordering::SeqCst) + 1)
}

#[task]
async fn one_more(before: i64) -> Result<i64> {
    Ok(before + 1)
}

#[task]
async fn total(all: Vec<i64>) -> Result<i64> {
    Ok(all.iter().sum())
}

#[task]
async fn held(world: &World) -> Result<()> {
    world.at_the_gate.add_permits(1);
    world.gate.acquire().await.map_err(TaskError::msg)?.forget();
    Ok(())
}

#[task]
async fn seen(before: Option<i64>) -> Result<String> {
    Ok(format!("{before:?}"))
}

#[task]
async fn long(chars: usize) -> Result<String> {
    Ok("x".repeat(chars))
}

#[task]
async fn length(text: String) -> Result<usize> {
    Ok(text.len())
}

struct Deployment {
    airflow: Airflow,
    running: Running,
    reads: Arc<AtomicUsize>,
    world: World,
}

impl Deployment {
    async fn of(dag: DagDef) -> Self {
        let none = || Arc::new(Semaphore::new(0));
        let world = World { gate: none(), at_the_gate: none(), made: Arc::default() };
        let (store, reads) = (Arc::new(MemoryStore::new()), Arc::new(AtomicUsize::new(0)));
        let store = Arc::new(Layered(Reads { store, count: Arc::clone(&reads) }));
        let builder = Airflow::builder().shared_store(store).executor(LocalExecutor::new(4));
        let airflow = builder.resource(world.clone()).dag(dag).build().await.unwrap();
        let running = airflow.start();
        Self { airflow, running, reads, world }
    }

    async fn ended(&self, run: &RunRow) -> RunRow {
        tokio::time::timeout(Duration::from_secs(30), self.airflow.wait(run)).await.expect("it ends").unwrap()
    }

    /// The results of a task and the tasks after it in a run.
    async fn result(&self, run: &RunRow, task: &str) -> String {
        let filter = XComFilter {
            run: run.pk,
            tasks: vec![task.into()],
            map_index: None,
            key: Some("return_value".into()),
        };
        self.airflow.store().xcoms(&filter).await.unwrap()[0].value.text().to_owned()
    }

    async fn set(&self, run: &RunRow, task: &str, value: i64) {
        let value = XComValue::from_value(value.into());
        let xcom = XComWrite {
            task_id: task.into(),
            map_index: airflow::id::MapIndex::UNMAPPED,
            key: "return_value".into(),
            value,
        };
        self.airflow.store().set_xcom(run.pk, xcom, Utc::now()).await.unwrap();
    }

    /// Lets the task at the gate go on, after something was done while it stood there.
    async fn open(&self) {
        self.world.at_the_gate.acquire().await.unwrap().forget();
        self.world.gate.add_permits(1);
    }
}

/// Goal: tasks that take what other tasks have just made read nothing, however they are ordered. Method: count reads of
/// a chain, of a fan-out with a fan-in, and of mapped groups, in which instances pair up.
#[tokio::test]
async fn what_was_just_written_is_not_read() {
    let dag = DagDef::new("d").define(|d| {
        let first = d.add(made::call().id("first"));
        let mut before = first;
        for n in 0..10 {
            before = d.add(one_more::call(before).id(format!("chain{n}")));
        }
        let wide: Vec<_> = (0..50).map(|n| d.add(one_more::call(first).id(format!("wide{n}")))).collect();
        d.add(total::call(wide).id("total"));
        d.map_group("pairs", vec![10_i64, 20, 30], |d, element| {
            let up = d.add(one_more::call(element).id("up"));
            d.add(one_more::call(up).id("down"));
        });
        d.add(one_more::call(before).id("last"));
    });
    let deployment = Deployment::of(dag).await;
    let run = deployment.airflow.trigger("d").await.unwrap();
    assert_eq!(deployment.ended(&run).await.state, RunState::Success);
    assert_eq!(deployment.reads.load(Ordering::SeqCst), 0, "everything was at hand");
    assert_eq!(deployment.result(&run, "last").await, "12");
    assert_eq!(deployment.result(&run, "total").await, "100");
    let filter = XComFilter { run: run.pk, tasks: vec!["pairs.down".into()], map_index: None, key: None };
    let pairs = deployment.airflow.store().xcoms(&filter).await.unwrap();
    assert_eq!(pairs.iter().map(|one| one.value.text()).collect::<Vec<_>>(), ["12", "22", "32"]);
    deployment.running.stop(Duration::ZERO).await.unwrap();
}

/// Goal: the memory of a scheduler does not grow with what tasks hand on. Method: a long value is read.
#[tokio::test]
async fn long_values_are_read() {
    let dag = DagDef::new("d").define(|d| {
        for chars in [10, 100_000] {
            let text = d.add(long::call(chars).id(format!("text{chars}")));
            d.add(length::call(text).id(format!("length{chars}")));
        }
    });
    let deployment = Deployment::of(dag).await;
    let run = deployment.airflow.trigger("d").await.unwrap();
    assert_eq!(deployment.ended(&run).await.state, RunState::Success);
    assert_eq!(deployment.reads.load(Ordering::SeqCst), 1, "the long one alone");
    assert_eq!(deployment.result(&run, "length100000").await, "100000");
    deployment.running.stop(Duration::ZERO).await.unwrap();
}

/// Goal: whoever sets or deletes a value of a run that goes on is believed by the tasks that start afterwards, and a task
/// that runs again hands on its new result. Method: do it while a task stands at a gate.
#[tokio::test]
async fn values_that_somebody_changes_are_the_ones_that_tasks_take() {
    let dag = DagDef::new("d").define(|d| {
        let made = d.add(made::call());
        let held = d.add(held::call());
        let seen = d.add(seen::call(made));
        d.order(made.node() >> held.node() >> seen.node());
    });
    let deployment = Deployment::of(dag).await;
    let airflow = &deployment.airflow;

    let run = airflow.trigger("d").run_id("made").await.unwrap();
    deployment.open().await;
    deployment.ended(&run).await;
    assert_eq!(deployment.result(&run, "seen").await, "\"Some(1)\"");

    airflow.clear(&run.dag_id, &run.run_id, &ClearOptions::default(), "me").await.unwrap();
    deployment.open().await;
    deployment.ended(&run).await;
    assert_eq!(deployment.result(&run, "seen").await, "\"Some(2)\"", "the result of the second time");

    let run = airflow.trigger("d").run_id("set").await.unwrap();
    deployment.world.at_the_gate.acquire().await.unwrap().forget();
    deployment.set(&run, "made", 42).await;
    deployment.world.gate.add_permits(1);
    deployment.ended(&run).await;
    assert_eq!(deployment.result(&run, "seen").await, "\"Some(42)\"");

    let run = airflow.trigger("d").run_id("deleted").await.unwrap();
    deployment.world.at_the_gate.acquire().await.unwrap().forget();
    let made = XComFilter { run: run.pk, tasks: vec!["made".into()], map_index: None, key: None };
    assert_eq!(airflow.store().delete_xcoms(&made).await.unwrap(), 1);
    deployment.world.gate.add_permits(1);
    deployment.ended(&run).await;
    assert_eq!(deployment.result(&run, "seen").await, "\"None\"");
    deployment.running.stop(Duration::ZERO).await.unwrap();
}
