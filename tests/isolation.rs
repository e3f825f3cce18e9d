//! Attempts in processes of their own: they keep the contract of executors, and what goes wrong in one stays in it.
#![cfg(all(unix, feature = "sqlite", feature = "local", feature = "macros", feature = "testing"))]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use airflow::ProcessCommand;
use airflow::app::ClearOptions;
use airflow::executor::Executor;
use airflow::prelude::*;
use airflow::store::{AttemptState, RunFilter, SharedStore, SqliteOptions, Store as _};
use airflow::testing::executor_suite::{Deployment, Ground, dags};
use async_trait::async_trait;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

/// Variables that tell another process of this program where everything is.
const STORE: &str = "AIRFLOW_TEST_ISOLATION_STORE";
const PLACE: &str = "AIRFLOW_TEST_ISOLATION_PLACE";

const SLOTS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// The lease of a scheduler that is going to stand still, and how often it renews it.
const LEASE: Duration = Duration::from_secs(5);
const BEAT: Duration = Duration::from_secs(1);

async fn open(path: &Path) -> SharedStore {
    let store = SqliteStore::open(path.to_str().expect("a path that is text")).await.unwrap();
    store.migrate().await.unwrap();
    Arc::new(store)
}

/// Starts this program again as something that is no test.
fn again(role: &str, store: &Path) -> ProcessCommand {
    let args = ["--exact", role, "--ignored", "--nocapture"];
    ProcessCommand::default().only_args(args).env(STORE, store).kill_after(Duration::from_millis(300))
}

fn executor(store: &Path) -> LocalExecutor {
    let command = again("a_process_of_an_attempt", store);
    LocalExecutor::new(SLOTS).isolation(Isolation::Process).process_command(command)
}

/// Not a test: what a process does that was started for an attempt. It ends in `build`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "no test: the program of attempts, which the tests of this file start"]
async fn a_process_of_an_attempt() {
    let Some(store) = std::env::var_os(STORE).map(PathBuf::from) else { return };
    build(&store, LocalExecutor::new(1)).await;
    panic!("a process of an attempt goes on as something else");
}

async fn build(store: &Path, executor: LocalExecutor) -> Airflow {
    let builder = Airflow::builder().shared_store(open(store).await).executor(executor).dags(dags());
    let builder = builder.dag(unruly()).dag(orphans()).dag(deaf()).log_folder(store.with_file_name("logs"));
    builder.build().await.unwrap()
}

struct Processes;

struct ProcessesDeployment {
    store: SharedStore,
    folder: tempfile::TempDir,
}

#[async_trait]
impl Ground for Processes {
    async fn deploy(&self) -> Box<dyn Deployment> {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder.path().join("airflow.db")).await;
        Box::new(ProcessesDeployment { store, folder })
    }
}

#[async_trait]
impl Deployment for ProcessesDeployment {
    fn store(&self) -> SharedStore {
        Arc::clone(&self.store)
    }

    fn executor(&self) -> Arc<dyn Executor> {
        Arc::new(executor(&self.folder.path().join("airflow.db")))
    }

    fn slots(&self) -> usize {
        SLOTS
    }

    async fn close(self: Box<Self>) {}
}

mod suite {
    airflow::executor_conformance!(super::Processes);
}

#[task(blocking)]
fn aborts() -> Result<()> {
    std::process::abort()
}

#[task(blocking)]
fn exits() -> Result<()> {
    std::process::exit(3)
}

/// Lets nobody else run, and cannot be stopped from inside.
#[task(timeout = "300ms")]
async fn spins() {
    loop {
        std::hint::spin_loop();
    }
}

/// Spins as well, but not at its second start.
#[task]
async fn spins_at_first(cx: &TaskContext) -> Result<()> {
    let mark = PathBuf::from(std::env::var(STORE)?).with_extension("begun");
    if mark.exists() {
        return Ok(());
    }
    std::fs::write(mark, cx.run_id().as_str())?;
    loop {
        std::hint::spin_loop();
    }
}

#[task(isolation = "none")]
async fn here() -> Result<u32> {
    Ok(std::process::id())
}

#[task]
async fn elsewhere(id: u32) -> Result<bool> {
    tracing::info!("a line of the log");
    Ok(id != std::process::id())
}

#[task]
async fn tells(cx: &TaskContext) -> Result<()> {
    let password = cx.variable("the_password").await?.unwrap_or_default();
    Err(TaskError::fail(format!("the password is {password}")))
}

fn unruly() -> DagDef {
    DagDef::new("unruly").define(|d| {
        d.add(aborts::call());
        d.add(exits::call());
        d.add(spins::call());
        d.add(tells::call());
        let id = d.add(here::call());
        d.add(elsewhere::call(id));
    })
}

fn stubborn() -> DagDef {
    DagDef::new("stubborn").define(|d| {
        d.add(spins_at_first::call());
    })
}

/// Holds a connection to the test, and so does what it starts: it is closed when both are dead.
#[task]
async fn starts_another() -> Result<()> {
    let connection = std::net::TcpStream::connect(std::env::var(PLACE)?)?;
    let other = std::os::fd::OwnedFd::from(connection.try_clone()?);
    let mut sleeping = std::process::Command::new("sleep").arg("600").stdout(Stdio::from(other)).spawn()?;
    std::io::Write::write_all(&mut &connection, b"!")?;
    sleeping.wait()?;
    Ok(())
}

/// Holds a connection to the test, and hears nothing.
#[task]
async fn hears_nothing() -> Result<()> {
    let _connection = std::net::TcpStream::connect(std::env::var(PLACE)?)?;
    loop {
        std::hint::spin_loop();
    }
}

fn deaf() -> DagDef {
    DagDef::new("deaf").define(|d| {
        d.add(hears_nothing::call());
    })
}

fn orphans() -> DagDef {
    DagDef::new("orphans").define(|d| {
        d.add(starts_another::call());
    })
}

/// Goal: whatever ends the process of an attempt is the attempt's failure, by name, and nothing else's. Method: tasks that
/// abort, exit and spin beside others.
#[tokio::test(flavor = "multi_thread")]
async fn what_kills_an_attempt_is_its_own_failure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("airflow.db");
    let airflow = build(&path, executor(&path)).await;
    airflow.secrets().vault().set_variable("the_password", "correct horse", None).await.unwrap();
    let running = airflow.start();
    let run = airflow.trigger("unruly").await.unwrap();
    let run = airflow.wait(&run).await.unwrap();
    assert_eq!(run.state, RunState::Failed);
    assert!(airflow.result::<bool>(&run, "elsewhere").await.unwrap(), "it ran in this process");
    assert_eq!(airflow.result::<u32>(&run, "here").await.unwrap(), std::process::id());
    let rows = airflow.store().attempts(run.pk, None).await.unwrap();
    let error = |task: &str| {
        let row = rows.iter().find(|row| row.start.task_id.as_str() == task).unwrap();
        row.end.clone().unwrap().error.unwrap_or_default()
    };
    for (task, beginning) in [
        ("aborts", "killed by signal 6 (SIGABRT): "),
        ("exits", "the process of the attempt ended with exit code 3 before the attempt did"),
        (
            "spins",
            "the attempt took longer than its timeout of 300ms and did not stop; its process was killed",
        ),
        ("tells", "the password is ***"),
    ] {
        assert!(error(task).starts_with(beginning), "{task}: {}", error(task));
    }
    let log = |task: &str| {
        let place = format!("logs/dag_id=unruly/run_id={}/task_id={task}/attempt=1.log", run.run_id);
        std::fs::read_to_string(folder.path().join(place)).unwrap()
    };
    assert!(log("elsewhere").contains("a line of the log"), "{}", log("elsewhere"));
    assert!(log("aborts").contains("FAILED: killed by signal 6"), "{}", log("aborts"));
    running.stop(Duration::from_secs(5)).await.unwrap();
}

/// Goal: a user can stop what cannot be stopped from inside. Method: clear a task that spins.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_stop_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("airflow.db");
    let command = again("a_stubborn_process", &path);
    let executor = LocalExecutor::new(1).isolation(Isolation::Process).process_command(command);
    let builder = Airflow::builder().shared_store(open(&path).await).executor(executor).dag(stubborn());
    let airflow = builder.build().await.unwrap();
    let running = airflow.start();
    let run = airflow.trigger("stubborn").await.unwrap();
    let begun = async {
        while !path.with_extension("begun").exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.unwrap();
    airflow.clear(&run.dag_id, &run.run_id, &ClearOptions::default(), "me").await.unwrap();
    let run = tokio::time::timeout(PATIENCE, airflow.wait(&run)).await.unwrap().unwrap();
    assert_eq!(run.state, RunState::Success);
    let rows = airflow.store().attempts(run.pk, None).await.unwrap();
    let states: Vec<_> = rows.iter().map(|row| row.state).collect();
    assert_eq!(states, [AttemptState::Cancelled, AttemptState::Success]);
    running.stop(Duration::from_secs(5)).await.unwrap();
}

/// Goal: what a stopping executor gives back does not go on beside its next attempt. Method: stop a scheduler in a process that
/// goes on, while a task waits for a minute to be killed; its connection is closed when its process is dead.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("airflow.db");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap().to_string();
    let command = again("a_process_of_an_attempt", &path).env(PLACE, place).kill_after(PATIENCE * 10);
    let executor = LocalExecutor::new(1).isolation(Isolation::Process).process_command(command);
    let airflow = build(&path, executor).await;
    let running = airflow.start();
    let run = airflow.trigger("deaf").await.unwrap();
    let (mut connection, _) = listener.accept().await.unwrap();
    running.stop(Duration::ZERO).await.unwrap();
    tokio::time::timeout(PATIENCE, connection.read_to_end(&mut Vec::new())).await.expect("it dies").unwrap();
    let rows = airflow.store().attempts(run.pk, None).await.unwrap();
    assert_eq!(rows[0].state, AttemptState::HandedBack);
}

/// Not a test: the process of an attempt of the dag `stubborn`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "no test: the program of attempts, which the tests of this file start"]
async fn a_stubborn_process() {
    let Some(store) = std::env::var_os(STORE).map(PathBuf::from) else { return };
    let builder = Airflow::builder().shared_store(open(&store).await).dag(stubborn());
    builder.build().await.unwrap();
}

/// Not a test: a process that schedules, until it is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "no test: the program of a scheduler, which a test of this file starts and kills"]
async fn a_scheduler_process() {
    let Some(store) = std::env::var_os(STORE).map(PathBuf::from) else { return };
    let airflow = build(&store, executor(&store)).await;
    let _running = airflow.start();
    let run = airflow.trigger("orphans").await.unwrap();
    airflow.wait(&run).await.unwrap();
}

/// Goal: nothing of an attempt outlives the process that started it, not even what the task itself has started. Method: kill
/// a scheduler, and wait until nobody holds the connection any more that the attempt and its own child share.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_die_with_the_process_that_started_them() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut scheduler = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_scheduler_process", "--ignored", "--nocapture"])
        .env(STORE, folder.path().join("airflow.db"))
        .env(PLACE, listener.local_addr().unwrap().to_string())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let watched = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut byte = [0];
        connection.read_exact(&mut byte).await.unwrap();
        scheduler.kill().await.unwrap();
        connection.read_to_end(&mut Vec::new()).await.unwrap();
    };
    tokio::time::timeout(PATIENCE, watched).await.expect("both die");
}

/// Not a test: a process that schedules with a short lease, until it is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "no test: the program of a scheduler, which a test of this file starts and kills"]
async fn a_scheduler_that_stands_still() {
    let Some(path) = std::env::var_os(STORE).map(PathBuf::from) else { return };
    // Where writers may wait long for each other, leases are longer.
    let options = SqliteOptions { busy_timeout: BEAT, ..SqliteOptions::new(&path) };
    let store = SqliteStore::open_with(options).await.unwrap();
    store.migrate().await.unwrap();
    let builder = Airflow::builder().store(store).executor(executor(&path)).dag(orphans());
    let builder = builder.scheduler(|config| (config.lease, config.beat) = (LEASE, BEAT));
    let airflow = builder.build().await.unwrap();
    let _running = airflow.start();
    let run = airflow.trigger("orphans").await.unwrap();
    airflow.wait(&run).await.unwrap();
}

fn signal(process: &tokio::process::Child, name: &str) {
    let pid = process.id().expect("it runs").to_string();
    let status = std::process::Command::new("kill").args(["-s", name, &pid]).status().unwrap();
    assert!(status.success(), "kill -s {name} {pid}: {status}");
}

/// Goal: an attempt in a process of its own does not go on beside the next one because the process that started it stands
/// still: it is dead before that one's lease ends, with what it has started, and that costs no retry. Method: freeze a scheduler
/// with a short lease, after more than a lease in which it was well.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_die_before_the_lease_of_a_process_that_stands_still_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("airflow.db");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheduler = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_scheduler_that_stands_still", "--ignored", "--nocapture"])
        .env(STORE, &path)
        .env(PLACE, listener.local_addr().unwrap().to_string())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let begun = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        connection.read_exact(&mut [0]).await.unwrap();
        connection
    };
    let mut connection = tokio::time::timeout(PATIENCE, begun).await.expect("the attempt begins");
    let mut rest = Vec::new();
    let early = tokio::time::timeout(LEASE + BEAT, connection.read_to_end(&mut rest)).await;
    assert!(early.is_err(), "it ended although the lease was renewed");
    signal(&scheduler, "STOP");
    let stopped = std::time::Instant::now();
    tokio::time::timeout(PATIENCE, connection.read_to_end(&mut rest)).await.expect("both die").unwrap();
    let lived = stopped.elapsed();
    assert!(lived < LEASE, "it went on for {lived:?} beside others");
    signal(&scheduler, "CONT");
    tokio::time::timeout(PATIENCE, listener.accept()).await.expect("it runs again").unwrap();
    let store = open(&path).await;
    let runs = store.runs(&RunFilter::default()).await.unwrap();
    let attempts = store.attempts(runs[0].pk, None).await.unwrap();
    assert_eq!(attempts[0].state, AttemptState::HandedBack, "{:?}", attempts[0]);
}
