//! What the engine costs: definitions, runs over SQLite, dags that are not due.
//!
//! `cargo bench --bench engine` prints one line a measurement; the price of a raw SQLite commit through the same
//! driver stands beside it, measured in the same process, because disks differ. Without `--bench` (as `cargo test`
//! calls it) everything runs once in a small form.
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::time::{Duration, Instant};

use airflow::prelude::*;
use airflow::registry::Registry;
use airflow::state::RunState;
use airflow::store::{RunFilter, SqliteStore};

#[task]
async fn nothing(after: Vec<i64>) -> Result<i64> {
    Ok(after.iter().sum())
}

#[task]
async fn source() -> Result<i64> {
    Ok(0)
}

/// `n` tasks in layers of a hundred, each after two tasks of the layer before.
fn layered(id: &str, n: usize) -> DagDef {
    DagDef::new(id).max_active_tasks(10_000).define(|d| {
        let mut tasks: Vec<Node<'_>> = Vec::with_capacity(n);
        for i in 0..n {
            let task = d.add(source::call().id(format!("t{i}"))).node();
            if i >= 100 {
                let at = i - 100;
                d.order([tasks[at], tasks[(at + 1).min(i - 1)]] >> task);
            }
            tasks.push(task);
        }
    })
}

fn fan_out(n: usize) -> DagDef {
    DagDef::new("fan_out").max_active_tasks(100_000).define(|d| {
        let first = d.add(source::call().id("first"));
        let middle: Vec<_> = (0..n)
            .map(|i| {
                let task = d.add(source::call().id(format!("t{i}")));
                d.order(first >> task);
                task
            })
            .collect();
        d.add(nothing::call(middle).id("last"));
    })
}

fn chain(n: usize) -> DagDef {
    DagDef::new("chain").define(|d| {
        let mut before: Option<Handle<'_, i64>> = None;
        for i in 0..n {
            let task = d.add(source::call().id(format!("t{i}")));
            if let Some(before) = before {
                d.order(before >> task);
            }
            before = Some(task);
        }
    })
}

fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let ticks: f64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum();
    ticks / 100.0
}

fn definitions(tasks: usize) {
    let start = Instant::now();
    let def = layered("layered", tasks);
    let defined = start.elapsed();
    let registry = Registry::compile(&[def], &airflow::operator::Resources::default()).expect("a sound dag");
    println!(
        "definitions: {tasks} tasks defined in {defined:.1?}, compiled and registered in {:.1?} in all",
        start.elapsed()
    );
    assert_eq!(registry.len(), 1);
}

struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("airflow-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for the database");
        Self(path)
    }

    async fn store(&self, name: &str) -> SqliteStore {
        let path = self.0.join(name);
        SqliteStore::open(path.to_str().expect("a path that is text")).await.expect("a database")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The median price of a single-row durable commit through the same driver.
async fn raw_commit(folder: &Folder, rounds: usize) -> Duration {
    use sqlx::Connection as _;
    use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
    let options = SqliteConnectOptions::new()
        .filename(folder.0.join("raw.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal);
    let mut db = SqliteConnection::connect_with(&options).await.expect("a database");
    sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)").execute(&mut db).await.expect("a table");
    let mut took = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        sqlx::query("INSERT INTO t (v) VALUES ('x')").execute(&mut db).await.expect("a row");
        took.push(start.elapsed());
    }
    took.sort();
    took[took.len() / 2]
}

async fn run(folder: &Folder, name: &str, dag: DagDef, tasks: usize, commit: Duration) {
    let id = dag.id().to_owned();
    let store = folder.store(&format!("{name}.db")).await;
    let airflow = Airflow::builder()
        .store(store)
        .executor(LocalExecutor::new(16))
        .dag(dag)
        .build()
        .await
        .expect("a sound dag");
    let running = airflow.start();
    let start = Instant::now();
    let run = airflow.trigger(id.as_str()).await.expect("a run");
    let run = airflow.wait_for(&run.dag_id, &run.run_id).await.expect("its end");
    let took = start.elapsed();
    assert_eq!(run.state, RunState::Success);
    running.stop(Duration::from_secs(5)).await.expect("a clean end");
    let per_task = took / u32::try_from(tasks).unwrap_or(u32::MAX);
    println!(
        "{name}: {tasks} tasks in {took:.1?}, {per_task:.1?} a task = {:.2} raw commits, {:.0} tasks/s, peak memory {} MB",
        per_task.as_secs_f64() / commit.as_secs_f64(),
        1.0 / per_task.as_secs_f64(),
        status("VmHWM") / 1024
    );
}

async fn idle(folder: &Folder, dags: usize, wait: Duration) {
    let all = (0..dags).map(|i| {
        DagDef::new(format!("idle_{i}")).schedule("0 0 1 1 *").start_date("2020-01-01").define(|d| {
            d.add(source::call());
        })
    });
    let store = folder.store("idle.db").await;
    let airflow = Airflow::builder()
        .store(store)
        .executor(LocalExecutor::new(4))
        .dags(all)
        .build()
        .await
        .expect("sound dags");
    for dag in airflow.registry().iter() {
        airflow.store().set_paused(&dag.id, false).await.expect("a known dag");
    }
    let running = airflow.start();
    // The newest interval of each dag is made up for first; after that nothing is due.
    while airflow
        .store()
        .runs(&RunFilter { states: vec![RunState::Queued, RunState::Running], ..Default::default() })
        .await
        .expect("runs")
        .len()
        + usize::from(airflow.store().runs(&RunFilter::default()).await.expect("runs").len() < dags)
        > 0
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = cpu_seconds();
    tokio::time::sleep(wait).await;
    let used = cpu_seconds() - before;
    running.stop(Duration::from_secs(1)).await.expect("a clean end");
    println!(
        "idle: {dags} dags that are not due used {used:.2} CPU seconds in {wait:.0?} = {:.3} a minute, memory {} MB",
        used * 60.0 / wait.as_secs_f64(),
        status("VmRSS") / 1024
    );
}

/// What is measured, each in a process of its own: the peak of the memory is then that of one thing.
const MEASUREMENTS: &[&str] = &["definitions", "chain", "fan_out", "layered", "idle"];

/// Names the one thing that this process measures.
const ONE: &str = "AIRFLOW_BENCH_ONE";

async fn measure(what: &str, full: bool) {
    let (tasks, idle_dags, wait) = if full { (10_000, 1_000, 20) } else { (200, 20, 1) };
    let folder = Folder::new();
    match what {
        "definitions" => {
            definitions(tasks);
            if full {
                definitions(100_000);
            }
        }
        "idle" => idle(&folder, idle_dags, Duration::from_secs(wait)).await,
        what => {
            let commit = raw_commit(&folder, 1_000).await;
            println!("raw: a single-row commit through the same driver takes {commit:.1?}");
            let (dag, tasks) = match what {
                "chain" => (chain(tasks / 10), tasks / 10),
                "fan_out" => (fan_out(tasks), tasks + 2),
                "layered" => (layered("layered", tasks), tasks),
                other => panic!("{ONE}: `{other}` is none of {MEASUREMENTS:?}"),
            };
            run(&folder, what, dag, tasks, commit).await;
        }
    }
}

fn main() {
    let full = std::env::args().any(|arg| arg == "--bench");
    if let Ok(what) = std::env::var(ONE) {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(measure(&what, full));
        return;
    }
    for what in MEASUREMENTS {
        let mut one = std::process::Command::new(std::env::current_exe().expect("a path"));
        one.args(std::env::args().skip(1)).env(ONE, what);
        assert!(one.status().expect("it runs").success(), "{what} failed");
    }
}
