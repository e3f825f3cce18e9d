//! Watchers of assets at work: what they bring makes runs, once, whatever becomes of who runs them.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/clock.rs"]
mod clock;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use airflow::app::Running;
use airflow::asset::AssetEventFilter;
use airflow::prelude::*;
use airflow::state::RunType;
use airflow::store::{Layer, Layered, RunFilter, SharedStore, StoreError, StoreResult, WatcherRow};
use serde_json::json;
use tokio::sync::watch;

use clock::Virtual;

/// Events outside, numbered from 1, of which so many have happened.
#[derive(Clone)]
struct Source(watch::Receiver<u64>);

impl AssetWatcher for Source {
    type Event = String;
    type Cursor = u64;

    async fn next(&self, after: Option<u64>, _: &WatchContext) -> Result<Seen<String, u64>> {
        let wanted = after.unwrap_or(0) + 1;
        self.0.clone().wait_for(|newest| *newest >= wanted).await?;
        Ok(Seen::new(format!("event {wanted}"), wanted))
    }
}

/// A dag that runs by an asset with this watcher.
fn dag(watcher: impl AssetWatcher) -> DagDef {
    let orders = Asset::new("s3://lake/orders").watcher("w", watcher);
    DagDef::new("d").schedule(orders).define(|d| {
        d.add(take::call());
    })
}

#[task]
async fn take(cx: &TaskContext) -> Result<Vec<serde_json::Value>> {
    let new = cx.triggering_asset_events().await?;
    Ok(new["s3://lake/orders"].iter().map(|event| event.extra["payload"].clone()).collect())
}

async fn start(store: SharedStore, clock: Virtual, dag: DagDef) -> (Airflow, Running) {
    let airflow =
        Airflow::builder().shared_store(store).executor(LocalExecutor::new(2)).dag(dag).clock(clock);
    let airflow = airflow.build().await.unwrap();
    let running = airflow.start();
    (airflow, running)
}

async fn watcher(store: &SharedStore) -> WatcherRow {
    store.watchers().await.unwrap().pop().unwrap()
}

/// Returns when the only watcher is as wanted; in virtual time.
async fn until(store: &SharedStore, is_so: impl Fn(&WatcherRow) -> bool) -> WatcherRow {
    for _ in 0..100_000 {
        let row = watcher(store).await;
        if is_so(&row) {
            return row;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never came: {:?}", watcher(store).await);
}

/// What the events of the asset say, oldest first.
async fn payloads(store: &SharedStore) -> Vec<String> {
    let events = store.asset_events(&AssetEventFilter::default()).await.unwrap();
    events.iter().map(|event| event.extra["payload"].as_str().unwrap().to_owned()).collect()
}

fn numbered(last: u64) -> Vec<String> {
    (1..=last).map(|number| format!("event {number}")).collect()
}

/// Goal: what the host pushes makes a run whose task sees it; whoever pushed hears when it is written.
#[tokio::test(start_paused = true)]
async fn an_event_makes_a_run_that_sees_it() {
    let clock = Virtual::new();
    let store: SharedStore = Arc::new(MemoryStore::with_clock(clock));
    let feed = AssetFeed::new();
    let (airflow, running) = start(Arc::clone(&store), clock, dag(feed.clone())).await;
    let mut ended = running.scheduler().ended_runs();
    feed.push_as("m-1", json!({"order": 7})).unwrap().await;
    assert!(feed.is_empty());
    let run = ended.recv().await.unwrap();
    let run = airflow.run(&run.dag_id, &run.run_id).await.unwrap();
    assert_eq!((run.state, run.run_type), (RunState::Success, RunType::AssetTriggered));
    let seen: Vec<serde_json::Value> = airflow.result(&run, "take").await.unwrap();
    assert_eq!(seen, [json!({"order": 7})]);
    let events = store.asset_events(&AssetEventFilter::that_made(run.pk)).await.unwrap();
    assert_eq!(events[0].extra, json!({"from_trigger": true, "watcher": "w", "payload": {"order": 7}}));
    assert_eq!(events[0].source, None);

    // A message that comes once more is recognised, and is told as written.
    feed.push_as("m-1", json!({"order": 7})).unwrap().await;
    feed.push(json!({"order": 8})).unwrap().await;
    assert_eq!(watcher(&store).await.events, 2);
    running.stop(secs(5)).await.unwrap();
    assert_eq!(watcher(&store).await.owner, None, "it is free for the next one");
}

/// What a store does to the calls that write events of watchers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// From now on it does not answer, and writes nothing.
    SilentBefore,
    /// It writes, and does not answer from then on.
    SilentAfter,
    /// It writes, and says that it failed.
    ErrorAfter,
    /// It writes nothing, and says so.
    ErrorBefore,
}

/// A store with a fault in every `every`-th write of an event of a watcher.
#[derive(Debug)]
struct Faulty {
    store: SharedStore,
    fault: Fault,
    every: u64,
    writes: AtomicU64,
    is_silent: watch::Sender<bool>,
}

impl Faulty {
    fn new(store: &SharedStore, fault: Fault, every: u64) -> Self {
        let (store, is_silent) = (Arc::clone(store), watch::channel(false).0);
        Self { store, fault, every, writes: AtomicU64::new(0), is_silent }
    }
}

impl Layer for Faulty {
    fn below(&self) -> &SharedStore {
        &self.store
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        call: &'static str,
        work: Pin<Box<dyn Future<Output = StoreResult<T>> + Send + 'a>>,
    ) -> Pin<Box<dyn Future<Output = StoreResult<T>> + Send + 'a>> {
        Box::pin(async move {
            let silent = std::future::pending::<StoreResult<T>>();
            if *self.is_silent.borrow() {
                return silent.await;
            }
            let number =
                if call == "add_watched" { self.writes.fetch_add(1, Ordering::SeqCst) + 1 } else { 1 };
            if call != "add_watched" || !number.is_multiple_of(self.every) {
                return work.await;
            }
            match self.fault {
                Fault::SilentBefore => {
                    self.is_silent.send_replace(true);
                    silent.await
                }
                Fault::SilentAfter => {
                    let _ = work.await;
                    self.is_silent.send_replace(true);
                    silent.await
                }
                Fault::ErrorAfter => {
                    let _ = work.await;
                    Err(StoreError::Refused("the answer is lost".into()))
                }
                Fault::ErrorBefore => Err(StoreError::Refused("nothing was done".into())),
            }
        })
    }
}

/// Goal: when the process that runs a watcher is cut off, another one goes on where it was, and no event is lost or
/// doubled. Method: the store of the owner falls silent for good in the middle of a write, before it or after it.
#[tokio::test(start_paused = true)]
async fn another_scheduler_goes_on_after_the_last_event() {
    for fault in [Fault::SilentBefore, Fault::SilentAfter] {
        let clock = Virtual::new();
        let memory = MemoryStore::with_clock(clock);
        let shared = |memory: &MemoryStore| -> SharedStore { Arc::new(memory.clone()) };
        let store = shared(&memory);
        let (happen, happened) = watch::channel(0);
        let cut: SharedStore = Arc::new(Layered(Faulty::new(&shared(&memory), fault, 3)));
        let first = start(cut, clock, dag(Source(happened.clone()))).await;
        let owner = until(&store, |row| row.owner.is_some()).await.owner;
        let (_second, second) = start(shared(&memory), clock, dag(Source(happened))).await;
        for newest in 1..=10 {
            happen.send_replace(newest);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let row = until(&store, |row| row.events == 10).await;
        assert_ne!(row.owner, owner, "{fault:?}: the other one has it");
        assert_eq!(payloads(&store).await, numbered(10), "{fault:?}");
        assert_eq!(row.cursor, Some(json!(10)));
        assert_eq!(taken(&store).await.len(), 10, "{fault:?}: each event is part of one run");
        second.stop(secs(5)).await.unwrap();
        drop(first);
    }
}

/// Which events made runs, once none waits any more.
async fn taken(store: &SharedStore) -> BTreeSet<String> {
    while !store.asset_queue().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut all = Vec::new();
    for run in store.runs(&RunFilter::default()).await.unwrap() {
        all.extend(store.asset_events(&AssetEventFilter::that_made(run.pk)).await.unwrap());
    }
    let ids: BTreeSet<String> = all.iter().map(|event| event.id.as_str().to_owned()).collect();
    assert_eq!(ids.len(), all.len(), "no event is part of two runs");
    ids
}

/// Goal: a write whose outcome is not known is looked up. Method: every second write says that it failed, whether it
/// did or not.
#[tokio::test(start_paused = true)]
async fn a_write_that_failed_is_looked_up() {
    for fault in [Fault::ErrorBefore, Fault::ErrorAfter] {
        let clock = Virtual::new();
        let memory: SharedStore = Arc::new(MemoryStore::with_clock(clock));
        let faulty: SharedStore = Arc::new(Layered(Faulty::new(&memory, fault, 2)));
        let feed = AssetFeed::new();
        let (_airflow, running) = start(faulty, clock, dag(feed.clone())).await;
        for number in 1..=6 {
            feed.push(format!("event {number}")).unwrap().await;
        }
        assert_eq!(payloads(&memory).await, numbered(6), "{fault:?}");
        assert_eq!(taken(&memory).await.len(), 6, "{fault:?}");
        running.stop(secs(5)).await.unwrap();
    }
}

/// Goal: a watcher runs while a dag that waits for its asset is known and not paused; what happens meanwhile is taken
/// afterwards.
#[tokio::test(start_paused = true)]
async fn a_watcher_rests_while_its_dag_is_paused_and_goes_with_it() {
    let clock = Virtual::new();
    let store: SharedStore = Arc::new(MemoryStore::with_clock(clock));
    let (happen, happened) = watch::channel(1);
    let (airflow, running) = start(Arc::clone(&store), clock, dag(Source(happened))).await;
    until(&store, |row| row.events == 1).await;
    airflow.set_paused(&"d".into(), true, "test").await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    happen.send_replace(3);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let row = watcher(&store).await;
    assert_eq!((row.events, row.is_wanted, row.is_named), (1, false, true));
    airflow.set_paused(&"d".into(), false, "test").await.unwrap();
    until(&store, |row| row.events == 3).await;
    assert_eq!(payloads(&store).await, numbered(3));

    tokio::time::sleep(Duration::from_secs(60)).await;
    airflow.delete_dag(&"d".into(), "test").await.unwrap();
    happen.send_replace(9);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(store.watchers().await.unwrap(), []);
    assert_eq!(payloads(&store).await, numbered(3), "nothing watches for a dag that is gone");
    running.stop(secs(5)).await.unwrap();
}

/// Fails, panics, and works from the fourth call on.
#[derive(Clone, Default)]
struct Shaky {
    calls: Arc<AtomicUsize>,
    at: Arc<Mutex<Vec<DateTime<Utc>>>>,
}

impl AssetWatcher for Shaky {
    type Event = u64;
    type Cursor = u64;

    async fn next(&self, after: Option<u64>, cx: &WatchContext) -> Result<Seen<u64, u64>> {
        self.at.lock().unwrap().push(cx.now());
        match self.calls.fetch_add(1, Ordering::SeqCst) {
            0 => Err(TaskError::msg("the queue is away")),
            1 => Err(TaskError::fail("the queue says no")),
            2 => panic!("boom"),
            3 => {
                cx.sleep(mins(10)).await;
                Ok(Seen::new(1, after.unwrap_or(0) + 1))
            }
            _ => std::future::pending().await,
        }
    }
}

/// Goal: a watcher that fails or panics is called again after growing pauses, and people see what is wrong with it until it
/// works.
#[tokio::test(start_paused = true)]
async fn a_watcher_that_fails_is_called_again_and_shows_why() {
    let clock = Virtual::new();
    let store: SharedStore = Arc::new(MemoryStore::with_clock(clock));
    let shaky = Shaky::default();
    let (airflow, running) = start(Arc::clone(&store), clock, dag(shaky.clone())).await;
    let row = until(&store, |row| row.failures == 3).await;
    assert_eq!(row.error.as_deref(), Some("the watcher panicked: boom"));
    let health = airflow.health().await;
    assert!(health.is_healthy(), "the rest works");
    let failing = &health.failing_watchers[..];
    assert_eq!((failing.len(), &*failing[0].asset, &*failing[0].name), (1, "s3://lake/orders", "w"));
    assert_eq!((failing[0].failures, &*failing[0].error), (3, "the watcher panicked: boom"));

    // It waits without failing, so it works, before it has brought anything.
    let row = until(&store, |row| row.failures == 0).await;
    assert_eq!((row.events, row.error.as_deref()), (0, Some("the watcher panicked: boom")));
    assert_eq!(airflow.health().await.failing_watchers, []);
    until(&store, |row| row.events == 1).await;
    let at = shaky.at.lock().unwrap().clone();
    let pauses: Vec<i64> = at.windows(2).map(|pair| (pair[1] - pair[0]).num_seconds()).collect();
    assert_eq!(pauses, [1, 2, 4, 600]);
    running.stop(secs(5)).await.unwrap();
}

/// Counts calls of the store that write for watchers, and those that read them.
#[derive(Debug)]
struct Counting(SharedStore, Arc<Mutex<Vec<&'static str>>>);

impl Layer for Counting {
    fn below(&self) -> &SharedStore {
        &self.0
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        call: &'static str,
        work: Pin<Box<dyn Future<Output = StoreResult<T>> + Send + 'a>>,
    ) -> Pin<Box<dyn Future<Output = StoreResult<T>> + Send + 'a>> {
        self.1.lock().unwrap().push(call);
        work
    }
}

/// Goal: a watcher to which nothing happens costs no write, and its process one look with each beat. Method: an hour, and
/// what the store was asked for.
#[tokio::test(start_paused = true)]
async fn an_idle_watcher_writes_nothing() {
    let clock = Virtual::new();
    let (memory, calls) = (Arc::new(MemoryStore::with_clock(clock)), Arc::default());
    let store: SharedStore = Arc::new(Layered(Counting(memory, Arc::clone(&calls))));
    let (_happen, happened) = watch::channel(0);
    let (_airflow, running) = start(store, clock, dag(Source(happened))).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let of = |wanted: &[&str]| calls.lock().unwrap().iter().filter(|call| wanted.contains(call)).count();
    assert_eq!(of(&["claim_watchers"]), 1);
    assert_eq!(of(&["add_watched", "note_watcher"]), 0);
    assert!((700..=740).contains(&of(&["watchers"])), "{}", of(&["watchers"]));
    running.stop(secs(5)).await.unwrap();
}

/// Goal: a test of a dag does not reach outside. Method: a watcher that must not be called.
#[tokio::test]
async fn tests_of_dags_run_no_watchers() {
    let calls = Shaky::default();
    let run = DagTest::new(dag(calls.clone()))
        .asset_event(Asset::new("s3://lake/orders"), json!({"payload": 5}))
        .run()
        .await;
    run.assert_success();
    assert_eq!(run.output::<take>(), Some(vec![json!(5)]));
    let sim = Sim::new([dag(calls.clone())]).start("2026-03-02T00:00Z").await;
    sim.advance(hours(1)).await;
    assert_eq!(calls.calls.load(Ordering::SeqCst), 0);
}

/// Goal: a file that appears or changes is an event, once; one that goes away or comes back as it was is none. In real
/// time: files have no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_watched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.csv");
    let store: SharedStore = Arc::new(MemoryStore::new());
    let dag = dag(FileWatcher::new(&path).every(Duration::from_millis(5)));
    let airflow =
        Airflow::builder().shared_store(Arc::clone(&store)).executor(LocalExecutor::new(2)).dag(dag);
    let airflow = airflow.build().await.unwrap();
    let running = airflow.start();
    let seen = async |events: u64| until(&store, move |row| row.events == events).await;
    // Whole, so that nothing in between is seen.
    let put = |text: &str| {
        let beside = dir.path().join("beside");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, &path).unwrap();
    };
    put("1");
    assert_eq!(seen(1).await.cursor.unwrap()["size"], json!(1));
    put("1\n2");
    seen(2).await;
    std::fs::remove_file(&path).unwrap();
    put("1\n2\n3");
    let row = seen(3).await;
    assert_eq!(row.cursor.unwrap()["size"], json!(5));
    let events = store.asset_events(&AssetEventFilter::default()).await.unwrap();
    let payload = &events[2].extra["payload"];
    assert_eq!((&payload["path"], &payload["size"]), (&json!(path), &json!(5)));
    running.stop(secs(5)).await.unwrap();

    let unreadable = dir.path().join("orders.csv/below");
    let cx_store: SharedStore = Arc::new(MemoryStore::new());
    let dag = self::dag(FileWatcher::new(unreadable).every(Duration::from_millis(5)));
    let airflow =
        Airflow::builder().shared_store(Arc::clone(&cx_store)).executor(LocalExecutor::new(2)).dag(dag);
    let running = airflow.build().await.unwrap().start();
    let row = until(&cx_store, |row| row.failures > 0).await;
    assert!(row.error.unwrap().starts_with("cannot look at `"));
    running.stop(secs(5)).await.unwrap();
}

/// Goal: mistakes in watchers are found before anything runs.
#[test]
fn wrong_watchers_are_refused() {
    let refused = |asset: Asset| {
        let dag = DagDef::new("d").schedule(asset).define(|d| {
            d.add(Empty::new().id("a"));
        });
        dag.compile().unwrap_err().to_string()
    };
    let feed = AssetFeed::<u8>::new;
    let asset = || Asset::new("s3://a");
    let twice = refused(asset().watcher("w", feed()).watcher("w", feed()));
    assert!(twice.contains("the watcher `w`: the asset has one of this name already"), "{twice}");
    let empty = refused(asset().watcher(" ", feed()));
    assert!(empty.contains("the watcher of an asset is empty"), "{empty}");
    let long = refused(asset().watcher("w".repeat(251), feed()));
    assert!(long.contains("a name has at most 250 characters"), "{long}");

    let dag = |id: &str, asset: Asset| {
        DagDef::new(id).schedule(asset).define(|d| {
            d.add(Empty::new().id("a"));
        })
    };
    let (one, same) = (dag("one", asset().watcher("w", feed())), dag("same", asset().watcher("w", feed())));
    let registry = Airflow::builder().dag(one.clone()).dag(same).compile();
    assert!(registry.is_ok(), "two that name the same watcher mean one");
    let other = dag("other", asset().watcher("w", FileWatcher::new("/in")));
    let wrong = Airflow::builder().dag(one).dag(other).compile().unwrap_err().to_string();
    assert!(wrong.contains("give one of them another name"), "{wrong}");
}
