//! Old and new versions of a dag side by side: each run ends with the code that it began with.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use airflow::app::stranded;
use airflow::prelude::*;
use airflow::store::{RunRow, SharedStore};
use tokio::sync::Semaphore;

/// What tasks say: the version of their program and their run.
type Said = Arc<Mutex<Vec<String>>>;

/// A program of one version.
#[derive(Debug)]
struct Program {
    version: u32,
    said: Said,
    gate: Arc<Semaphore>,
    begun: Arc<Semaphore>,
}

#[task]
async fn first(cx: &TaskContext, program: &Arc<Program>) -> Result<()> {
    program.begun.add_permits(1);
    program.gate.acquire().await.unwrap().forget();
    program.said.lock().unwrap().push(format!("{} first v{}", cx.run().run_id, program.version));
    Ok(())
}

#[task]
async fn second(cx: &TaskContext, program: &Arc<Program>) -> Result<()> {
    program.said.lock().unwrap().push(format!("{} second v{}", cx.run().run_id, program.version));
    Ok(())
}

fn versioned(version: u32) -> DagDef {
    DagDef::new("versioned").define(|d| {
        let one = d.add(first::call().retries(version));
        let two = d.add(second::call());
        d.order(one >> two);
    })
}

struct Ground {
    folder: tempfile::TempDir,
    said: Said,
    gate: Arc<Semaphore>,
    begun: Arc<Semaphore>,
}

impl Ground {
    fn new() -> Self {
        let closed = || Arc::new(Semaphore::new(0));
        let (gate, begun) = (closed(), closed());
        Self { folder: tempfile::tempdir().unwrap(), said: Said::default(), gate, begun }
    }

    async fn store(&self) -> SharedStore {
        Arc::new(SqliteStore::open(self.folder.path().join("airflow.db").to_str().unwrap()).await.unwrap())
    }

    /// A process of the program of a version.
    async fn program(&self, version: u32, adopts: bool) -> Airflow {
        let (said, gate, begun) = (Arc::clone(&self.said), Arc::clone(&self.gate), Arc::clone(&self.begun));
        Airflow::builder()
            .shared_store(self.store().await)
            .executor(LocalExecutor::new(4))
            .resource(Arc::new(Program { version, said, gate, begun }))
            .scheduler(move |scheduler| {
                scheduler.adopt_runs = adopts;
                scheduler.poll_interval = Duration::from_millis(50);
            })
            .dag(versioned(version))
            .build()
            .await
            .unwrap()
    }

    fn said(&self) -> Vec<String> {
        let mut said = self.said.lock().unwrap().clone();
        said.sort();
        said
    }
}

async fn ended(airflow: &Airflow, run: &RunRow) {
    let waits = airflow.wait(run);
    let run = tokio::time::timeout(Duration::from_secs(60), waits).await.expect("in time").unwrap();
    assert_eq!(run.state, RunState::Success);
}

/// Goal: a run waits for a scheduler of its version, says so, and ends with its own code beside runs of another one. Method:
/// two programs over one database; the old one begins a run and goes, the new one works, the old one comes back.
#[tokio::test(flavor = "multi_thread")]
async fn each_run_ends_with_the_code_it_began_with() {
    let ground = Ground::new();
    let old = ground.program(1, false).await;
    let running = old.start();
    let begun = old.trigger("versioned").run_id("begun").await.unwrap();
    ground.begun.acquire().await.unwrap().forget();
    running.stop(Duration::ZERO).await.unwrap();
    let queued = old.trigger("versioned").run_id("queued").await.unwrap();

    let new = ground.program(2, false).await;
    let running = new.start();
    ground.gate.add_permits(1);
    let fresh = new.trigger("versioned").run_id("fresh").await.unwrap();
    ended(&new, &fresh).await;
    assert_eq!(ground.said(), ["fresh first v2", "fresh second v2"]);
    for (run, state) in [(&begun, RunState::Running), (&queued, RunState::Queued)] {
        assert_eq!(new.run(&run.dag_id, &run.run_id).await.unwrap().state, state);
    }
    let waits = stranded(&**new.store(), new.clock().now()).await.unwrap();
    let [waits] = waits.as_slice() else { panic!("one version is missing: {waits:?}") };
    assert_eq!((waits.kind, waits.waiting), ("version", 2));
    let fingerprint = &begun.fingerprint;
    let reason = format!("no scheduler has version 1 ({fingerprint}) of dag `versioned`; start a scheduler");
    assert!(waits.reason.starts_with(&reason), "{}", waits.reason);
    assert_eq!(new.health().await.stranded[0].reason, waits.reason);

    let again = ground.program(1, false).await;
    let old_running = again.start();
    ground.gate.add_permits(2);
    ended(&new, &begun).await;
    ended(&new, &queued).await;
    assert_eq!(ground.said()[..2], ["begun first v1", "begun second v1"]);
    assert_eq!(ground.said()[4..], ["queued first v1", "queued second v1"]);
    assert_eq!(stranded(&**new.store(), new.clock().now()).await.unwrap(), []);
    for running in [old_running, running] {
        running.stop(Duration::from_secs(5)).await.unwrap();
    }
}

/// Goal: what waits for a version that will not come back goes on when somebody says so, and not while a scheduler has it.
/// Method: move runs by hand, and by a scheduler that may.
#[tokio::test(flavor = "multi_thread")]
async fn runs_of_a_version_that_is_gone_are_adopted_on_request() {
    for adopts in [false, true] {
        let ground = Ground::new();
        let old = ground.program(1, false).await;
        let running = old.start();
        let run = old.trigger("versioned").run_id("begun").await.unwrap();
        ground.begun.acquire().await.unwrap().forget();
        let new = ground.program(2, adopts).await;
        let new_running = new.start();
        assert!(new.adopt_runs(&run.dag_id, None, "me").await.unwrap().is_empty(), "a scheduler has it");
        running.stop(Duration::ZERO).await.unwrap();
        if !adopts {
            let moved = new.adopt_runs(&run.dag_id, Some("begun"), "me").await.unwrap();
            assert_eq!(moved.len(), 1);
        }
        ground.gate.add_permits(1);
        ended(&new, &run).await;
        assert_eq!(ground.said(), ["begun first v2", "begun second v2"]);
        let run = new.run(&run.dag_id, &run.run_id).await.unwrap();
        assert_eq!(run.fingerprint, new.registry().get(&run.dag_id).unwrap().fingerprint);
        new_running.stop(Duration::from_secs(5)).await.unwrap();
    }
}
