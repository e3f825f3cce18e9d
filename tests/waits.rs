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

/// Runs until the test says so, and holds its slots meanwhile.
#[task]
async fn stand(stage: &Stage) -> Result<()> {
    stage.begun.send(0).task_err()?;
    stage.open.clone().wait_for(|open| *open).await.task_err()?;
    Ok(())
}

/// A task that runs and one that is deferred, both in `pool`.
fn yard(pool: &'static str, slots: u32) -> DagDef {
    DagDef::new("yard").define(move |d| {
        d.add(stand::call().pool(pool).pool_slots(slots));
        d.add(enter::call().pool(pool).pool_slots(slots).max_active_tis_per_dag(slots));
    })
}

/// Goal: an instance gives back what it has taken, whatever its dag says by then. Method: a program starts one that runs and
/// one that waits; another one, whose version of the dag names another pool and other sizes, marks them as done.
#[tokio::test]
async fn slots_go_back_to_the_pool_that_they_are_of() {
    use airflow::app::{Mark, Selection};
    use airflow::store::{MemoryStore, PoolSpec, SlotKey, Store as _};

    let store = MemoryStore::new();
    for name in ["old", "new"] {
        let spec =
            PoolSpec { name: name.into(), slots: 9, description: String::new(), include_deferred: false };
        store.set_pool(spec).await.unwrap();
    }
    let (begun, mut waits) = mpsc::unbounded_channel();
    let (_open, listens) = watch::channel(false);
    let stage = Stage { begun, open: listens, calls: Arc::new(Semaphore::new(0)) };
    let program = async |dag: DagDef| {
        let builder = Airflow::builder().store(store.clone()).executor(LocalExecutor::new(2));
        builder.resource(stage.clone()).dag(dag).build().await.unwrap()
    };
    let first = program(yard("old", 2)).await;
    let running = first.start();
    let run = first.trigger("yard").await.unwrap();
    let mut told = [waits.recv().await, waits.recv().await];
    told.sort_unstable();
    assert_eq!(told, [Some(0), Some(7)]);
    let taken = store.slots().await.unwrap();
    for key in [SlotKey::Pool("old".into()), SlotKey::Deferred("old".into())] {
        assert!(taken.contains(&(key, 2)), "{taken:?}");
    }

    let second = program(yard("new", 1)).await;
    second.sync_dags().await.unwrap();
    let all = Selection::default();
    second.mark(&run.dag_id, &run.run_id, &all, Mark::Success, "me").await.unwrap();
    let taken = store.slots().await.unwrap();
    assert!(taken.iter().all(|(key, _)| matches!(key, SlotKey::Runs(_))), "{taken:?}");
    first.wait(&run).await.unwrap();
    assert_eq!(store.slots().await.unwrap(), []);
    running.stop(Duration::from_secs(5)).await.unwrap();
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
