//! The guard: what small workloads cost in things that can be counted, compared with what they cost before.
//!
//! Times on a shared machine say little, so it counts transactions, calls of the store and bytes written, a task. Each
//! may exceed its baseline by [`MARGIN`]. What grows with the square of a run shows in the CPU time of a task, which is
//! compared with that of a smaller run. With `AIRFLOW_BENCH_BASELINE=write` the baseline is replaced.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use airflow::store::{Layer, Layered, SharedStore, StoreResult};
use clap::Parser as _;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::args::{Args, Sync, Workload};
use crate::dags::take_marks;
use crate::machine::cpu_seconds;
use crate::measure::{GRACE, application, ask_and_wait};
use crate::place::{Opened, Place};

/// How much more than the baseline is too much: what varies is how many reports one commit takes in, which is why a little
/// more in absolute terms is allowed as well. A second commit a hop, or a read for each task, is far more than that.
const MARGIN: f64 = 1.5;
const SLACK: Cost = Cost { commits: 0.2, calls: 0.3, bytes: 2_000.0 };

/// How much more CPU a task of a run ten times as large may cost.
const GROWTH: f64 = 3.0;

/// The sizes of the two runs that are compared.
const SMALL: usize = 300;
const LARGE: usize = 3_000;

/// What goes by time, not by work.
const BY_TIME: [&str; 8] =
    ["change_token", "beat", "incarnations", "orphans", "notices", "forget_incarnations", "slots", "pools"];

/// What a task costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Cost {
    commits: f64,
    calls: f64,
    bytes: f64,
}

/// Counts calls.
#[derive(Debug)]
struct Counting {
    below: SharedStore,
    calls: Arc<AtomicU64>,
}

impl Layer for Counting {
    fn below(&self) -> &SharedStore {
        &self.below
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        call: &'static str,
        work: BoxFuture<'a, StoreResult<T>>,
    ) -> BoxFuture<'a, StoreResult<T>> {
        if !BY_TIME.contains(&call) {
            self.calls.fetch_add(1, Ordering::Relaxed);
        }
        work
    }
}

fn baseline_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/workloads/baseline.json")
}

/// Runs a workload over SQLite; returns what a task of it costs, and the CPU seconds of all.
async fn cost(workload: Workload, size: usize) -> (Cost, f64) {
    let mut args = Args::parse_from(["workloads"]);
    (args.workload, args.tasks) = (workload, Some(size));
    let place = Place::new(&args.store, Sync::Normal);
    place.prepare().await;
    let opened = place.open().await;
    let calls = Arc::new(AtomicU64::new(0));
    let counting = Layered(Counting { below: opened.shared(), calls: Arc::clone(&calls) });
    let airflow = application(&args, &place, Arc::new(counting)).await;
    let running = airflow.start();
    let (commits, bytes, cpu) = (opened.commits(), written(&place), cpu_seconds());
    calls.store(0, Ordering::Relaxed);
    ask_and_wait(&args, &airflow, &running).await;
    let tasks = workload.tasks(size) as f64;
    let cost = Cost {
        commits: (opened.commits() - commits) as f64 / tasks,
        calls: calls.load(Ordering::Relaxed) as f64 / tasks,
        bytes: (written(&place) - bytes) as f64 / tasks,
    };
    let cpu = cpu_seconds() - cpu;
    running.stop(GRACE).await.expect("a clean end");
    drop::<Opened>(opened);
    place.remove().await;
    take_marks();
    (cost, cpu)
}

/// How long the log of the database is: it only grows until it is full for the first time.
fn written(place: &Place) -> u64 {
    let Place::Sqlite { folder, .. } = place else { return 0 };
    std::fs::metadata(folder.join("airflow.db-wal")).map_or(0, |file| file.len())
}

/// The whole guard.
///
/// # Panics
///
/// If something costs more than it may.
pub(crate) async fn run() {
    let small = [
        ("chain", Workload::Chain, 100),
        ("fanout", Workload::Fanout, 200),
        ("diamonds", Workload::Diamonds, 40),
        ("mapped", Workload::Mapped, 200),
        ("backfill", Workload::Backfill, 20),
    ];
    let mut costs = BTreeMap::new();
    for (name, workload, size) in small {
        costs.insert(name.to_owned(), cost(workload, size).await.0);
    }
    if std::env::var("AIRFLOW_BENCH_BASELINE").is_ok_and(|what| what == "write") {
        let text = serde_json::to_string_pretty(&costs).expect("numbers") + "\n";
        std::fs::write(baseline_file(), text).expect("the file can be written");
    }
    let text = std::fs::read_to_string(baseline_file()).expect("the baseline stands beside this file");
    let baseline: BTreeMap<String, Cost> = serde_json::from_str(&text).expect("a baseline");
    let mut wrong = compare(&costs, &baseline);
    wrong.extend(growth().await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn compare(costs: &BTreeMap<String, Cost>, baseline: &BTreeMap<String, Cost>) -> Vec<String> {
    let mut wrong = Vec::new();
    println!("| workload | commits a task | before | calls a task | before | bytes a task | before |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for (name, now) in costs {
        let before = baseline.get(name).unwrap_or_else(|| panic!("`{name}` has no baseline"));
        println!(
            "| {name} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} |",
            now.commits, before.commits, now.calls, before.calls, now.bytes, before.bytes
        );
        let pairs = [
            ("commits", now.commits, before.commits, SLACK.commits),
            ("calls of the store", now.calls, before.calls, SLACK.calls),
            ("bytes", now.bytes, before.bytes, SLACK.bytes),
        ];
        for (what, now, before, slack) in pairs {
            if now <= before * MARGIN + slack {
                continue;
            }
            wrong.push(format!(
                "{name} costs {now:.2} {what} a task, and {before:.2} before; if that is meant, run it once with \
                 AIRFLOW_BENCH_BASELINE=write and commit benches/workloads/baseline.json"
            ));
        }
    }
    wrong
}

/// What grows faster than the run.
async fn growth() -> Vec<String> {
    let mut wrong = Vec::new();
    println!("| workload | CPU a task of {SMALL} (µs) | of {LARGE} | growth |");
    println!("|---|--:|--:|--:|");
    for (name, workload) in [("fanout", Workload::Fanout), ("big", Workload::Big)] {
        let (_, small) = cost(workload, SMALL).await;
        let (_, large) = cost(workload, LARGE).await;
        let (small, large) = (small * 1e6 / SMALL as f64, large * 1e6 / LARGE as f64);
        let growth = large / small;
        println!("| {name} | {small:.0} | {large:.0} | {growth:.2} |");
        if growth > GROWTH {
            wrong
                .push(format!("{name}: a task of {LARGE} costs {growth:.1} times the CPU of one of {SMALL}"));
        }
    }
    wrong
}
