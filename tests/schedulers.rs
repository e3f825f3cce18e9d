//! Several schedulers at once on one store, in real time: what they share, and what becomes of it when one is gone.
#![cfg(feature = "sqlite")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/clock.rs"]
mod clock;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use airflow::app::{HealthStatus, Running};
use airflow::asset::AssetEventFilter;
use airflow::prelude::*;
use airflow::state::RunState;
use airflow::store::{Layer, Layered, MemoryStore, RunFilter, SharedStore, SqliteStore, StoreResult};
use airflow_core::id::AttemptId;
use tokio::sync::Barrier;
use tokio::sync::broadcast::error::RecvError;

use clock::Virtual;

/// How many attempts hold a slot of the pool, now and at most, and which ones ran where.
#[derive(Clone, Default)]
struct Watch {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    ran: Arc<Mutex<Vec<(usize, AttemptId)>>>,
}

/// Which of the schedulers a task runs in.
struct Here(usize);

#[task(pool = "two")]
async fn work(here: &Here, watch: &Watch, cx: &TaskContext) -> Result<()> {
    let now = watch.now.fetch_add(1, Ordering::SeqCst) + 1;
    watch.most.fetch_max(now, Ordering::SeqCst);
    tokio::task::yield_now().await;
    watch.ran.lock().unwrap().push((here.0, cx.ti().attempt_id));
    watch.now.fetch_sub(1, Ordering::SeqCst);
    Ok(())
}

fn dag() -> DagDef {
    let dag = DagDef::new("d").schedule("@daily").start_date("2024-01-01").end_date("2024-01-30");
    dag.catchup(true).max_active_runs(4).define(|d| {
        let list: Vec<u32> = (0..3).collect();
        d.map(list, |_| work::call());
    })
}

async fn start(store: SharedStore, number: usize, watch: &Watch) -> (Airflow, Running) {
    start_with(dag(), store, number, watch).await
}

async fn start_with(dag: DagDef, store: SharedStore, number: usize, watch: &Watch) -> (Airflow, Running) {
    let builder = Airflow::builder().shared_store(store).executor(LocalExecutor::new(2)).dag(dag);
    let builder = builder.pool("two", 2).resource(Here(number)).resource(watch.clone());
    let builder = builder.scheduler(|config| config.poll_interval = Duration::from_millis(50));
    let airflow = builder.build().await.unwrap();
    let running = airflow.start();
    (airflow, running)
}

/// Returns once thirty runs have ended: looks again whenever one of the schedulers says that one has.
async fn all_ended(store: &SharedStore, all: &[(Airflow, Running)]) {
    let (heard, mut word) = tokio::sync::mpsc::unbounded_channel();
    for (_, running) in all {
        let (mut ended, heard) = (running.scheduler().ended_runs(), heard.clone());
        tokio::spawn(async move {
            while !matches!(ended.recv().await, Err(RecvError::Closed)) && heard.send(()).is_ok() {}
        });
    }
    let filter = RunFilter { states: vec![RunState::Success, RunState::Failed], ..RunFilter::default() };
    while store.runs(&filter).await.unwrap().len() < 30 {
        word.recv().await.unwrap();
    }
}

async fn three_share_the_work(stores: [SharedStore; 3]) {
    let watch = Watch::default();
    let mut all = Vec::new();
    for (number, store) in stores.iter().enumerate() {
        all.push(start(Arc::clone(store), number, &watch).await);
    }
    all_ended(&stores[0], &all).await;
    let runs = stores[0].runs(&RunFilter::default()).await.unwrap();
    assert!(runs.iter().all(|run| run.state == RunState::Success), "{runs:?}");
    let dates: BTreeSet<_> = runs.iter().map(|run| run.logical_date).collect();
    assert_eq!((runs.len(), dates.len()), (30, 30), "one run for each point of the schedule");
    let ran = watch.ran.lock().unwrap().clone();
    let attempts: BTreeSet<AttemptId> = ran.iter().map(|(_, id)| *id).collect();
    assert_eq!((ran.len(), attempts.len()), (90, 90), "each attempt ran once, and none was repeated");
    assert!(watch.most.load(Ordering::SeqCst) <= 2, "the pool has two slots");
    for run in &runs {
        let mut where_it_ran = BTreeMap::new();
        for attempt in stores[0].attempts(run.pk, None).await.unwrap() {
            *where_it_ran.entry(attempt.start.incarnation).or_insert(0) += 1;
        }
        assert_eq!(where_it_ran.len(), 1, "one scheduler works on a run: {where_it_ran:?}");
    }
    for (airflow, running) in all {
        assert_eq!(airflow.health().await.metadatabase.status, HealthStatus::Healthy);
        running.stop(Duration::from_secs(20)).await.unwrap();
    }
    assert_eq!(stores[0].slots().await.unwrap(), [], "everything was given back");
    assert_eq!(stores[0].incarnations().await.unwrap(), [], "everybody said goodbye");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_schedulers_share_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("airflow.db");
    let path = path.to_str().unwrap();
    let mut stores: Vec<SharedStore> = Vec::new();
    for _ in 0..3 {
        stores.push(Arc::new(SqliteStore::open(path).await.unwrap()));
    }
    three_share_the_work(stores.try_into().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_schedulers_share_one_memory() {
    let store = MemoryStore::new();
    let clone = || -> SharedStore { Arc::new(store.clone()) };
    three_share_the_work([clone(), clone(), clone()]).await;
}

/// Goal: the limit of a task over all runs holds although several schedulers start its instances, and nothing is left
/// taken. Method: two schedulers with four slots in all on one file, thirty runs of three instances, two of which may
/// execute; count inside of the tasks.
#[tokio::test(flavor = "multi_thread")]
async fn two_schedulers_keep_the_limit_of_a_task() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("airflow.db");
    let watch = Watch::default();
    let limited = || {
        let dag = DagDef::new("d").schedule("@daily").start_date("2024-01-01").end_date("2024-01-30");
        dag.catchup(true).max_active_runs(8).define(|d| {
            let list: Vec<u32> = (0..3).collect();
            d.map(list, |_| work::call().pool("default_pool").max_active_tis_per_dag(2));
        })
    };
    let mut all = Vec::new();
    for number in 0..2 {
        let store: SharedStore = Arc::new(SqliteStore::open(path.to_str().unwrap()).await.unwrap());
        all.push(start_with(limited(), store, number, &watch).await);
    }
    let store = Arc::clone(all[0].0.store());
    all_ended(&store, &all).await;
    let ran = watch.ran.lock().unwrap().clone();
    let attempts: BTreeSet<AttemptId> = ran.iter().map(|(_, id)| *id).collect();
    assert_eq!((ran.len(), attempts.len()), (90, 90), "each attempt ran once, and none was repeated");
    assert!(watch.most.load(Ordering::SeqCst) <= 2, "two instances may execute");
    for (_, running) in all {
        running.stop(Duration::from_secs(20)).await.unwrap();
    }
    assert_eq!(store.slots().await.unwrap(), [], "everything was given back");
}

/// A store that stops answering.
#[derive(Debug)]
struct Hole {
    store: SharedStore,
    open: tokio::sync::watch::Receiver<bool>,
    /// The call that is answered all the same.
    but: &'static str,
}

impl Layer for Hole {
    fn below(&self) -> &SharedStore {
        &self.store
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        call: &'static str,
        work: std::pin::Pin<Box<dyn Future<Output = StoreResult<T>> + Send + 'a>>,
    ) -> std::pin::Pin<Box<dyn Future<Output = StoreResult<T>> + Send + 'a>> {
        Box::pin(async move {
            if *self.open.borrow() && call != self.but {
                std::future::pending::<()>().await;
            }
            work.await
        })
    }
}

/// How many tasks each of two runs has that exchange their pools.
const EXCHANGES: usize = 60;

#[task]
async fn together(both: &Arc<Barrier>) -> Result<()> {
    both.wait().await;
    Ok(())
}

/// Tasks in a line that are in one pool and in the other by turns.
fn exchanging(id: &'static str, pools: [&'static str; 2]) -> DagDef {
    DagDef::new(id).define(|d| {
        let task = |at: usize| d.add(together::call().id(format!("t{at}")).pool(pools[at % 2])).node();
        d.chain((0..EXCHANGES).map(task).collect::<Vec<_>>());
    })
}

/// Goal: two runs that each want the slot which the other one gives back at the same moment both get it. Method: two
/// pools of one slot, tasks of two runs that end together and then need each other's pool, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn runs_that_exchange_their_slots_do_not_wait_for_each_other() {
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::new(4))
        .pool("left", 1)
        .pool("right", 1)
        .resource(Arc::new(Barrier::new(2)))
        .dag(exchanging("a", ["left", "right"]))
        .dag(exchanging("b", ["right", "left"]))
        .build()
        .await
        .unwrap();
    let running = airflow.start();
    let mut runs = Vec::new();
    for dag in ["a", "b"] {
        runs.push(airflow.trigger(dag).await.unwrap());
    }
    for run in &runs {
        let ended = tokio::time::timeout(Duration::from_secs(60), airflow.wait(run)).await.expect("in time");
        assert_eq!(ended.unwrap().state, RunState::Success);
    }
    running.stop(Duration::from_secs(5)).await.unwrap();
}

/// A program that has run for a moment in virtual time.
struct Holed {
    /// The store itself.
    store: SharedStore,
    /// Makes the program's store fall silent.
    fall: tokio::sync::watch::Sender<bool>,
    airflow: Airflow,
    running: Running,
}

/// Starts one on a store that can fall silent, but for the call of that name.
async fn holed(but: &'static str) -> Holed {
    let (fall, open) = tokio::sync::watch::channel(false);
    let store: SharedStore = Arc::new(MemoryStore::new());
    let hole: SharedStore = Arc::new(Layered(Hole { store: Arc::clone(&store), open, but }));
    let dag = DagDef::new("d").define(|d| {
        d.add(airflow::operator::Empty::new().id("a"));
    });
    let airflow = Airflow::builder().shared_store(hole).executor(LocalExecutor::new(1)).dag(dag);
    let airflow = airflow.clock(Virtual::new()).build().await.unwrap();
    let running = airflow.start();
    tokio::time::sleep(Duration::from_secs(3)).await;
    Holed { store, fall, airflow, running }
}

/// Lets the store answer again, and finds that all goes on.
async fn works_again(fall: &tokio::sync::watch::Sender<bool>, airflow: &Airflow) {
    fall.send(false).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(airflow.health().await.is_healthy(), "{:?}", airflow.health().await);
    let run = airflow.trigger("d").await.unwrap();
    assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);
}

/// Goal: a database that does not answer holds up nothing for good, and health shows it meanwhile. Method: in virtual
/// time, a store that falls silent for two minutes.
#[tokio::test(start_paused = true)]
async fn a_silent_database_is_survived_and_shows_in_health() {
    let Holed { store: _, fall, airflow, running } = holed("").await;
    assert!(airflow.health().await.is_healthy(), "{:?}", airflow.health().await);
    fall.send(true).unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
    let health = airflow.health().await;
    assert_eq!(health.metadatabase.status, HealthStatus::Unhealthy);
    assert_eq!(health.scheduler.status, HealthStatus::Unhealthy, "{health:?}");
    assert!(health.scheduler.fenced_total > Some(0), "it could not renew its lease: {health:?}");
    works_again(&fall, &airflow).await;
    running.stop(Duration::from_secs(1)).await.unwrap();
}

/// Goal: a scheduler whose loop stands still does not keep others from its work for ever: it stops its beats, and begins
/// anew when it can. Method: in virtual time, a store that answers beats and nothing else.
#[tokio::test(start_paused = true)]
async fn a_loop_that_stands_still_stops_its_beats_and_begins_anew() {
    let Holed { store, fall, airflow, running } = holed("beat").await;
    let beats = async || store.incarnations().await.unwrap()[0].beats;
    let progress = || running.scheduler().progress();
    fall.send(true).unwrap();
    tokio::time::sleep(Duration::from_secs(50)).await;
    let early = beats().await;
    assert!(early > 5 && progress().fenced_total == 0, "{early}: {:?}", progress());
    // Three leases without a turn of the loop, and one without a beat.
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(progress().fenced_total > 0, "{:?}", progress());
    works_again(&fall, &airflow).await;
    running.stop(Duration::from_secs(1)).await.unwrap();
}

/// Goal: a network that swallows everything between a scheduler and its database never hangs the loop: it shows, and
/// work goes on when the network does. Method: a link that drops what both sides say, and tells nobody.
#[cfg(all(feature = "postgres", feature = "mysql"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_swallows_everything_hangs_nothing() {
    use airflow::store::{MysqlStore, PostgresStore};
    use airflow::testing::proxy::CuttingProxy;
    use airflow::testing::servers::{Server, TestDatabase};

    const PATIENCE: Duration = Duration::from_secs(90);
    for server in [Server::Postgres, Server::Mysql] {
        let Some(database) = TestDatabase::on(server).await else { continue };
        let proxy = CuttingProxy::start(&database.host()).await.unwrap();
        let url = database.url_by(&proxy.address());
        let store: SharedStore = match server {
            Server::Postgres => Arc::new(PostgresStore::connect(&url).await.unwrap()),
            Server::Mysql => Arc::new(MysqlStore::connect(&url).await.unwrap()),
        };
        let dag = DagDef::new("d").define(|d| {
            d.add(airflow::operator::Empty::new().id("a"));
        });
        let builder = Airflow::builder().shared_store(store).executor(LocalExecutor::new(1)).dag(dag);
        let builder = builder.scheduler(|config| {
            (config.beat, config.lease) = (Duration::from_secs(1), Duration::from_secs(8));
        });
        let airflow = builder.build().await.unwrap();
        let running = airflow.start();
        let run = airflow.trigger("d").await.unwrap();
        assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);
        proxy.swallow(true);
        let seen = async {
            loop {
                let progress = running.scheduler().progress();
                if progress.fenced_total > 0 && progress.last_error.is_some() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("it notices, and stops what runs");
        let health = tokio::time::timeout(PATIENCE, airflow.health()).await.expect("an answer");
        assert_eq!(health.metadatabase.status, HealthStatus::Unhealthy, "{server:?}");
        proxy.swallow(false);
        let again = async {
            // Connections that were swallowed are found to be dead one by one.
            let run = loop {
                if let Ok(run) = airflow.trigger("d").await {
                    break run;
                }
            };
            airflow.wait(&run).await.unwrap().state
        };
        let state = tokio::time::timeout(PATIENCE, again).await.expect("work goes on");
        assert_eq!(state, RunState::Success, "{server:?}");
        running.stop(Duration::from_secs(1)).await.unwrap();
    }
}

#[task(outlets = "s3://lake/orders")]
async fn make() -> Result<()> {
    Ok(())
}

/// Goal: each event of an asset is part of exactly one run of the dag that waits for it. Method: three schedulers on one
/// file, thirty runs that make the asset.
#[tokio::test(flavor = "multi_thread")]
async fn three_schedulers_lose_no_event_and_use_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("airflow.db");
    let mut all = Vec::new();
    for _ in 0..3 {
        let producer = DagDef::new("d").schedule("@daily").start_date("2024-01-01").end_date("2024-01-30");
        let producer = producer.catchup(true).max_active_runs(6).define(|d| {
            d.add(make::call());
        });
        let consumer = DagDef::new("consumer").schedule(["s3://lake/orders"]).define(|d| {
            d.add(Empty::new().id("take"));
        });
        let store: SharedStore = Arc::new(SqliteStore::open(path.to_str().unwrap()).await.unwrap());
        let builder = Airflow::builder().shared_store(Arc::clone(&store)).executor(LocalExecutor::new(2));
        let builder = builder.dag(producer).dag(consumer);
        let airflow = builder.scheduler(|config| config.poll_interval = Duration::from_millis(50)).build();
        let airflow = airflow.await.unwrap();
        let running = airflow.start();
        all.push((airflow, running, store));
    }
    let store = Arc::clone(&all[0].2);
    let ended = async || {
        let of = async |dag: &str| {
            let filter = RunFilter { states: vec![RunState::Success], ..RunFilter::of_dag(dag) };
            store.runs(&filter).await.unwrap()
        };
        let (made, taken) = (of("d").await, of("consumer").await);
        let mut events = Vec::new();
        for run in &taken {
            events.extend(store.asset_events(&AssetEventFilter::that_made(run.pk)).await.unwrap());
        }
        (made.len() == 30 && events.len() >= 30).then_some(events)
    };
    let events = loop {
        if let Some(events) = ended().await {
            break events;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for (_, running, _) in all {
        running.stop(Duration::from_secs(20)).await.unwrap();
    }
    let different: BTreeSet<_> = events.iter().map(|event| event.id.clone()).collect();
    assert_eq!((events.len(), different.len()), (30, 30), "no event in two runs");
    assert_eq!(store.asset_queue().await.unwrap(), [], "nothing waits");
}

/// Stands for workers of which nobody serves one of two queues; says what it was given.
#[derive(Debug)]
struct Served(tokio::sync::mpsc::UnboundedSender<String>);

/// How many attempts it takes in each queue.
const MOST: usize = 2;

#[async_trait::async_trait]
impl airflow::executor::Executor for Served {
    fn name(&self) -> &'static str {
        "served"
    }

    fn slots(&self) -> usize {
        MOST
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn start(&self, _: airflow::executor::ExecutorServices) {}

    fn submit(
        &self,
        attempt: airflow::plan::Attempt,
    ) -> std::result::Result<(), airflow::executor::SubmitError> {
        self.0.send(attempt.queue).unwrap();
        Ok(())
    }

    fn cancel(&self, _: AttemptId) {}

    async fn stop(&self, _: Duration) {}
}

#[task]
async fn idle() -> Result<()> {
    Ok(())
}

/// Goal: a queue that nobody serves does not stop another one. Method: more tasks in it than may be out, which all come before
/// those of the other queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_nobody_serves_stops_no_other_one() {
    let (given, mut queues) = tokio::sync::mpsc::unbounded_channel();
    let dag = DagDef::new("queues").define(|d| {
        for n in 0..MOST + 3 {
            d.add(idle::call().id(format!("dead_{n}")).queue("dead").priority_weight(10));
        }
        for n in 0..MOST {
            d.add(idle::call().id(format!("served_{n}")).queue("served"));
        }
    });
    let builder =
        Airflow::builder().store(airflow::store::MemoryStore::new()).executor(Served(given)).dag(dag);
    let airflow = builder.build().await.unwrap();
    let running = airflow.start();
    airflow.trigger("queues").await.unwrap();
    let mut seen = BTreeMap::new();
    let all = async {
        while seen.values().sum::<usize>() < MOST * 2 {
            *seen.entry(queues.recv().await.unwrap()).or_insert(0) += 1;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("the other queue has its turn");
    assert_eq!(seen, BTreeMap::from([("dead".to_owned(), MOST), ("served".to_owned(), MOST)]));
    running.stop(Duration::ZERO).await.unwrap();
}
