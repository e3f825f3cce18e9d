//! Logs of attempts: what is kept in the store, read from elsewhere while they run.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use airflow::attempt::{LogReader, LogShipping};
use airflow::id::MapIndex;
use airflow::prelude::*;
use airflow::store::{AttemptState, Layer, Layered, RunRow, SharedStore, StoreError, StoreResult};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Semaphore;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens when a test says so.
#[derive(Debug)]
struct Gate(Semaphore);

#[task(retries = 1, retry_delay = "10ms")]
async fn talks(cx: &TaskContext, gate: &Arc<Gate>) -> Result<()> {
    tracing::info!("try {} waits at the gate", cx.ti().try_number);
    gate.0.acquire().await.unwrap().forget();
    tracing::warn!(n = 7, "it is open");
    if cx.ti().try_number == 1 {
        return Err(std::io::Error::other("the first try always fails").into());
    }
    Ok(())
}

#[task]
async fn babbles() -> Result<()> {
    for n in 0..200 {
        tracing::info!("line {n:03}");
    }
    for _ in 0..3 {
        tracing::info!("{}", "x".repeat(100_000));
    }
    Ok(())
}

struct App {
    folder: tempfile::TempDir,
    gate: Arc<Gate>,
}

impl App {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), gate: Arc::new(Gate(Semaphore::new(0))) }
    }

    async fn store(&self) -> SharedStore {
        let path = self.folder.path().join("airflow.db");
        Arc::new(SqliteStore::open(path.to_str().unwrap()).await.unwrap())
    }

    async fn open(&self, store: SharedStore, quota: u64) -> Airflow {
        let dag = DagDef::new("logs").define(|d| {
            d.add(talks::call());
            d.add(babbles::call());
        });
        Airflow::builder()
            .shared_store(store)
            .executor(LocalExecutor::new(4))
            .resource(Arc::clone(&self.gate))
            .log_shipping(LogShipping::Always)
            .log_quota(quota)
            .dag(dag)
            .build()
            .await
            .unwrap()
    }

    /// Reads as a process on another machine does.
    async fn reader(&self, run: &RunRow, task: &str) -> LogReader {
        LogReader::new(self.store().await, run.clone(), task.into(), MapIndex::UNMAPPED)
    }
}

/// Reads until the log says that, or to its end.
async fn read_until(log: &mut LogReader, what: Option<&str>) -> String {
    let mut read = String::new();
    let reading = async {
        loop {
            let part = log.next().await.unwrap();
            read += &part.text;
            if what.is_some_and(|what| read.contains(what)) || part.is_over {
                return part.is_over;
            }
        }
    };
    let is_over = tokio::time::timeout(PATIENCE, reading).await.expect("in time");
    assert_eq!(is_over, what.is_none(), "{what:?} in: {read}");
    read
}

/// Goal: a log can be read from elsewhere while the attempt runs, each try has its own, and nothing is missing at the end.
/// Method: no log files; read through another handle of the database while the task waits at a gate.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_read_while_its_attempt_runs() {
    let app = App::new();
    let airflow = app.open(app.store().await, 1 << 20).await;
    let running = airflow.start();
    let run = airflow.trigger("logs").await.unwrap();
    let mut log = app.reader(&run, "talks").await;
    let begun = read_until(&mut log, Some("try 1 waits at the gate")).await;
    assert!(begun.contains("Starting attempt 1 of 2") && begun.contains("{logs.rs:"), "{begun}");
    let mut whole = app.reader(&run, "talks").await.of_try(1);
    app.gate.0.add_permits(2);
    assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);

    let rest = read_until(&mut log, None).await;
    assert!(rest.contains("try 2 waits at the gate"), "the newest try follows: {rest}");
    assert!(rest.ends_with("ms\n") && rest.contains("Marking task as SUCCESS"), "{rest}");
    let first = read_until(&mut whole, None).await;
    for said in
        ["try 1 waits", "WARN - it is open n=7", "Marking task as UP_FOR_RETRY: the first try always fails"]
    {
        assert_eq!(first.matches(said).count(), 1, "{said}: {first}");
    }
    assert!(first.starts_with(&begun) && !first.contains("try 2"), "{first}");
    let mut own =
        airflow.task_log(&run.dag_id, &run.run_id, &"talks".into(), MapIndex::UNMAPPED).await.unwrap();
    assert!(read_until(&mut own, None).await.contains("try 2 waits at the gate"));
    running.stop(Duration::from_secs(5)).await.unwrap();
}

/// Goal: a log stays within its quota and says what is missing; how the attempt ended is never cut.
#[tokio::test(flavor = "multi_thread")]
async fn what_exceeds_the_quota_is_cut_and_counted() {
    for (quota, lines) in [(1_000, "left out: the quota was used up"), (1 << 20, "line 199")] {
        let app = App::new();
        let airflow = app.open(app.store().await, quota).await;
        let running = airflow.start();
        app.gate.0.add_permits(2);
        let run = airflow.trigger("logs").await.unwrap();
        airflow.wait(&run).await.unwrap();
        let log = read_until(&mut app.reader(&run, "babbles").await, None).await;
        assert!(log.contains(lines) && log.contains("Marking task as SUCCESS"), "{log}");
        assert!(log.contains("the log has reached its quota of 1000 bytes") == (quota == 1_000), "{log}");
        let kept = log.lines().filter(|line| line.contains(" INFO - line ")).count();
        if quota == 1_000 {
            assert!(kept > 5 && log.len() < 1_800, "{log}");
            assert!(log.contains(&format!("{} lines with ", 203 - kept)), "{log}");
        } else {
            assert!(kept == 200 && log.contains("xx... and 67232 bytes more that are left out\n"), "{kept}");
        }
        running.stop(Duration::from_secs(5)).await.unwrap();
    }
}

/// A call of a store.
type Call<'a, T> = Pin<Box<dyn Future<Output = StoreResult<T>> + Send + 'a>>;

/// A store that takes logs badly.
#[derive(Debug)]
struct Refusing {
    store: SharedStore,
    /// How many calls it refuses; afterwards it works, or never answers.
    refused: AtomicU32,
    hangs: bool,
}

impl Layer for Refusing {
    fn below(&self) -> &SharedStore {
        &self.store
    }

    fn around<'a, T: Send + 'a>(&'a self, call: &'static str, work: Call<'a, T>) -> Call<'a, T> {
        if call != "add_log_chunks" {
            return work;
        }
        if self.hangs {
            return Box::pin(std::future::pending());
        }
        let refuses =
            self.refused.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if refuses { Box::pin(async { Err(StoreError::Refused("not now".into())) }) } else { work }
    }
}

/// Goal: a store that does not take logs holds up no task for long, and nothing is lost or doubled when it takes them again.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_no_logs_stops_no_task() {
    for hangs in [false, true] {
        let app = App::new();
        let refusing = Refusing { store: app.store().await, refused: AtomicU32::new(3), hangs };
        let airflow = app.open(Arc::new(Layered(refusing)), 1 << 20).await;
        let running = airflow.start();
        app.gate.0.add_permits(2);
        let run = airflow.trigger("logs").await.unwrap();
        let run = tokio::time::timeout(PATIENCE, airflow.wait(&run)).await.expect("in time").unwrap();
        assert_eq!(run.state, RunState::Success);
        let log = read_until(&mut app.reader(&run, "babbles").await, None).await;
        // The last piece comes with the end of the attempt, whatever became of those before.
        assert_eq!(log.matches("line 100").count(), usize::from(!hangs), "{log}");
        assert_eq!(log.matches("Marking task as SUCCESS").count(), 1, "{log}");
        running.stop(Duration::from_secs(5)).await.unwrap();
    }
}

/// Has a database refuse every piece of a log.
const REFUSE_LOGS: &str = "
    CREATE TRIGGER no_logs BEFORE INSERT ON af_log_chunk BEGIN SELECT RAISE(ABORT, 'no logs today'); END";

impl App {
    /// Makes the database refuse logs, or take them again.
    async fn refuse_logs(&self, refuse: bool) {
        let place = SqliteConnectOptions::new().filename(self.folder.path().join("airflow.db"));
        let mut conn = SqliteConnection::connect_with(&place.busy_timeout(PATIENCE)).await.unwrap();
        let sql = if refuse { REFUSE_LOGS } else { "DROP TRIGGER no_logs" };
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    }

    /// Reads the log of the first try again and again, until it says that.
    async fn comes(&self, run: &RunRow, task: &str, what: &str) -> String {
        let reading = async {
            loop {
                let mut reader = self.reader(run, task).await.of_try(1);
                let mut read = String::new();
                loop {
                    let part = reader.next().await.unwrap();
                    read += &part.text;
                    if part.is_over || part.text.is_empty() {
                        break;
                    }
                }
                if read.contains(what) {
                    return read;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("it comes")
    }
}

/// Goal: a database that is well but for logs stops no task, and has all that was said once it takes logs again.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_logs_stops_no_task() {
    let app = App::new();
    let airflow = app.open(app.store().await, 1 << 20).await;
    let running = airflow.start();
    app.refuse_logs(true).await;
    app.gate.0.add_permits(2);
    let run = airflow.trigger("logs").await.unwrap();
    let run = tokio::time::timeout(PATIENCE, airflow.wait(&run)).await.expect("in time").unwrap();
    assert_eq!(run.state, RunState::Success);
    app.refuse_logs(false).await;
    let log = app.comes(&run, "babbles", "Marking task as SUCCESS").await;
    assert_eq!(log.lines().filter(|line| line.contains(" INFO - line ")).count(), 200, "{log}");
    app.comes(&run, "talks", "Marking task as UP_FOR_RETRY").await;
    running.stop(Duration::from_secs(5)).await.unwrap();
}

/// Goal: what ends while a program stops has ended, whatever the database does with its log. Method: it refuses logs
/// from when the last attempt runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_logs_holds_up_no_stop() {
    let app = App::new();
    let airflow = app.open(app.store().await, 1 << 20).await;
    let running = airflow.start();
    let run = airflow.trigger("logs").await.unwrap();
    read_until(&mut app.reader(&run, "talks").await, Some("try 1 waits at the gate")).await;
    app.refuse_logs(true).await;
    let opens = async {
        tokio::task::yield_now().await;
        app.gate.0.add_permits(1);
    };
    tokio::join!(async { running.stop(PATIENCE).await.unwrap() }, opens);
    let attempts = app.store().await.attempts(run.pk, Some((&"talks".into(), MapIndex::UNMAPPED))).await;
    let states: Vec<_> = attempts.unwrap().iter().map(|attempt| attempt.state).collect();
    assert_eq!(states, [AttemptState::Failed], "its first try fails, and is not lost");
}
