//! A wait outlives its process: the real scheduler over a real file, twice.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::sync::Arc;
use std::time::Duration;

use airflow::prelude::*;
use airflow::state::TaskState;
use tokio::sync::{Semaphore, mpsc, watch};

/// What the test and the waits share.
#[derive(Clone)]
struct Stage {
    /// Tells of each wait that begins.
    begun: mpsc::UnboundedSender<u32>,
    /// Whether it has happened.
    open: watch::Receiver<bool>,
    /// Tells how often the task body was called.
    calls: Arc<Semaphore>,
}

#[derive(Serialize, Deserialize)]
struct DoorOpens {
    door: u32,
}

impl Trigger for DoorOpens {
    type Event = String;
    const KIND: &'static str = "test::DoorOpens";

    async fn wait(&self, cx: &TaskContext) -> Result<String> {
        let stage = cx.resource::<Stage>()?;
        stage.begun.send(self.door).task_err()?;
        stage.open.clone().wait_for(|open| *open).await.task_err()?;
        Ok(format!("door {} is open", self.door))
    }
}

#[task(triggers(DoorOpens), timeout = "1h")]
async fn enter(cx: &TaskContext, stage: &Stage) -> Result<String> {
    stage.calls.add_permits(1);
    match cx.resumed() {
        Some(resumed) => resumed.event(),
        None => Err(Deferral::until(DoorOpens { door: 7 }).into()),
    }
}

#[dag]
fn house(d: &Dag) {
    d.add(enter::call());
}

async fn airflow(path: &str, stage: &Stage) -> Airflow {
    Airflow::builder()
        .store(SqliteStore::open(path).await.unwrap())
        .executor(LocalExecutor::new(1))
        .resource(stage.clone())
        .dag(house())
        .build()
        .await
        .unwrap()
}

/// Goal: a deferred task waits on in the next process and is resumed there, once. Method: SQLite file; stop the first
/// process while the task waits, start a second one, then let it happen.
#[tokio::test]
async fn a_wait_goes_on_in_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("airflow.db");
    let path = path.to_str().unwrap();
    let (begun, mut waits) = mpsc::unbounded_channel();
    let (open, listens) = watch::channel(false);
    let stage = Stage { begun, open: listens, calls: Arc::new(Semaphore::new(0)) };

    let first = airflow(path, &stage).await;
    let running = first.start();
    let run = first.trigger("house").await.unwrap();
    assert_eq!(waits.recv().await, Some(7));
    assert_eq!(first.states(&run).await.unwrap()["enter"], TaskState::Deferred);
    running.stop(Duration::from_secs(5)).await.unwrap();
    drop(first);

    let second = airflow(path, &stage).await;
    let running = second.start();
    assert_eq!(waits.recv().await, Some(7), "the wait has begun again");
    open.send(true).unwrap();
    let run = second.wait(&run).await.unwrap();
    assert_eq!(run.state, RunState::Success);
    assert_eq!(second.result::<String>(&run, "enter").await.unwrap(), "door 7 is open");
    assert_eq!(stage.calls.available_permits(), 2, "once to begin, once to go on");
    running.stop(Duration::from_secs(5)).await.unwrap();
    assert!(waits.try_recv().is_err());
    assert_eq!(second.store().slots().await.unwrap(), []);
}

/// Goal: a thousand waits need no slots. Method: one slot, a mapped task that defers a thousand times.
#[tokio::test]
async fn many_waits_share_one_slot() {
    #[task(triggers(DoorOpens))]
    async fn each(cx: &TaskContext, door: u32) -> Result<String> {
        match cx.resumed() {
            Some(resumed) => resumed.event(),
            None => Err(Deferral::until(DoorOpens { door }).into()),
        }
    }
    #[task]
    async fn count(all: Vec<String>) -> Result<usize> {
        Ok(all.len())
    }
    let dag = DagDef::new("hotel").define(|d| {
        let doors = d.map((0..1000_u32).collect::<Vec<_>>(), each::call);
        d.add(count::call(doors));
    });
    let (begun, mut waits) = mpsc::unbounded_channel();
    let (open, listens) = watch::channel(false);
    let stage = Stage { begun, open: listens, calls: Arc::new(Semaphore::new(0)) };
    let airflow = Airflow::builder().store(MemoryStore::new()).executor(LocalExecutor::new(1));
    let airflow = airflow.resource(stage).dag(dag).build().await.unwrap();
    let running = airflow.start();
    let run = airflow.trigger("hotel").await.unwrap();
    for _ in 0..1000 {
        waits.recv().await.unwrap();
    }
    open.send(true).unwrap();
    let run = airflow.wait(&run).await.unwrap();
    assert_eq!(airflow.result::<usize>(&run, "count").await.unwrap(), 1000);
    running.stop(Duration::from_secs(5)).await.unwrap();
}
