//! Runs one workload in this process and says what it cost.

use std::time::{Duration, Instant};

use airflow::ProcessCommand;
use airflow::app::{BackfillOptions, Reprocess};
use airflow::config::Config;
use airflow::config::options::Settings;
use airflow::dag::Isolation;
use airflow::operator::Resources;
use airflow::prelude::*;
use airflow::registry::Registry;
use airflow::remote::RemoteExecutor;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;

use crate::args::{Args, ExecutorKind, Workload};
use crate::broker::{self, BrokerLimits, WorkerProcess, transport};
use crate::dags::{DAG, Mark, dags, now, take_marks};
use crate::machine::{cpu_seconds, status};
use crate::place::{Place, StoreLimits};
use airflow::store::SharedStore;

/// What everything of ours is called at a broker. One measurement at a time uses it.
const PREFIX: &str = "airflow-bench.";

/// How long a stop may take.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// What a workload cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) workload: Workload,
    pub(crate) size: usize,
    pub(crate) store: String,
    pub(crate) executor: ExecutorKind,
    pub(crate) workers: usize,
    pub(crate) slots: usize,
    /// From the request to the end of the last run; of `wide-idle`, how long it was watched.
    pub(crate) wall_s: f64,
    pub(crate) tasks_per_s: f64,
    /// From the end of one body to the start of the next, of tasks in a line.
    pub(crate) hop_p50_us: Option<f64>,
    pub(crate) hop_p99_us: Option<f64>,
    /// Transactions of the scheduler that changed states.
    pub(crate) commits: u64,
    /// Of this process, without workers.
    pub(crate) peak_rss_mb: f64,
    /// Of this process and its workers.
    pub(crate) cpu_s: f64,
    /// Measured just before.
    pub(crate) limits: Option<StoreLimits>,
    pub(crate) broker: Option<BrokerLimits>,
    /// How many processes a second the machine starts that do nothing, as many at once as there are slots; measured just
    /// before, where attempts have processes of their own.
    pub(crate) spawns_per_s: Option<f64>,
    /// A hop in single-row commits; without a hop, the time of a task in single-row commits.
    pub(crate) commits_per_hop: Option<f64>,
}

impl Measured {
    fn new(args: &Args) -> Self {
        let store = if args.store.starts_with("postgres") { "postgres" } else { "sqlite" };
        Self {
            workload: args.workload,
            size: args.size(),
            store: if store == "sqlite" {
                format!("sqlite {:?}", args.sync).to_lowercase()
            } else {
                store.into()
            },
            executor: args.executor,
            workers: if args.executor.is_remote() { args.workers } else { 0 },
            slots: args.slots,
            wall_s: 0.0,
            tasks_per_s: 0.0,
            hop_p50_us: None,
            hop_p99_us: None,
            commits: 0,
            peak_rss_mb: 0.0,
            cpu_s: 0.0,
            limits: None,
            broker: None,
            spawns_per_s: None,
            commits_per_hop: None,
        }
    }

    fn took(&mut self, wall: Duration, tasks: usize) {
        self.wall_s = wall.as_secs_f64();
        self.tasks_per_s = if tasks == 0 { 0.0 } else { tasks as f64 / self.wall_s };
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let hop = self.hop_p50_us.map_or_else(String::new, |p50| {
            format!(", hop p50 {p50:.0} µs p99 {:.0} µs", self.hop_p99_us.unwrap_or_default())
        });
        let ratio = self.limits.zip(self.commits_per_hop).map_or_else(String::new, |(limits, ratio)| {
            format!(" = {ratio:.2} commits of {:.0} µs", limits.commit_us)
        });
        let spawns = self.spawns_per_s.map_or_else(String::new, |rate| {
            format!(", {:.0} % of {rate:.0} processes/s", 100.0 * self.tasks_per_s / rate)
        });
        format!(
            "{:?} {} on {} ({:?}, {} workers, {} slots): {:.3} s, {:.0} tasks/s{spawns}{hop}{ratio}, {} commits, \
             {:.0} MB, {:.2} CPU s",
            self.workload,
            self.size,
            self.store,
            self.executor,
            self.workers,
            self.slots,
            self.wall_s,
            self.tasks_per_s,
            self.commits,
            self.peak_rss_mb,
            self.cpu_s
        )
    }
}

/// Measures what the arguments say.
pub(crate) async fn measure(args: &Args) -> Measured {
    let mut measured = match args.workload {
        Workload::OneDefinition | Workload::ManyDefinitions => definitions(args),
        // What it is held to is no ratio, and measuring the limits would leave its memory behind.
        Workload::WideIdle => {
            let place = Place::new(&args.store, args.sync);
            place.prepare().await;
            let measured = idle(args, &place).await;
            place.remove().await;
            measured
        }
        _ => {
            let place = Place::new(&args.store, args.sync);
            place.prepare().await;
            let limits = place.limits().await;
            let mut measured = match args.workload {
                Workload::ColdStart => cold_start(args, &place),
                _ => run(args, &place).await,
            };
            place.remove().await;
            measured.commits_per_hop = measured
                .hop_p50_us
                .or((measured.tasks_per_s > 0.0).then(|| 1e6 / measured.tasks_per_s))
                .map(|us| us / limits.commit_us);
            measured.limits = Some(limits);
            measured
        }
    };
    if measured.peak_rss_mb == 0.0 {
        measured.peak_rss_mb = status("VmHWM") as f64 / 1024.0;
    }
    measured
}

/// The application of a workload over a store.
pub(crate) async fn application(args: &Args, place: &Place, store: SharedStore) -> Airflow {
    let config = Config::default().with_env([("AIRFLOW__CORE__MAX_MAP_LENGTH", "1000000")]);
    let settings = Settings::read(&config, std::env::temp_dir()).expect("sound settings");
    let builder =
        Airflow::builder().settings(&settings).shared_store(store).dags(dags(args.workload, args.size()));
    let builder = match args.executor {
        ExecutorKind::Local => builder.executor(LocalExecutor::new(args.slots)),
        ExecutorKind::Process => {
            let orders = serde_json::to_string(&(args, place)).expect("plain data");
            let command = ProcessCommand::default().env(ATTEMPT, orders);
            let executor = LocalExecutor::new(args.slots).isolation(Isolation::Process);
            builder.executor(executor.process_command(command))
        }
        kind => builder.executor(RemoteExecutor::shared(transport(kind, PREFIX))),
    };
    builder.build().await.expect("sound dags")
}

async fn run(args: &Args, place: &Place) -> Measured {
    let mut measured = Measured::new(args);
    let opened = place.open().await;
    let airflow = application(args, place, opened.shared()).await;
    let mut workers = Vec::new();
    if args.executor == ExecutorKind::Process {
        measured.spawns_per_s = Some(spawns_per_s(args.slots).await);
    }
    if args.executor.is_remote() {
        measured.broker = Some(broker::limits(&*transport(args.executor, PREFIX)).await);
        for at in 0..args.workers {
            workers.push(WorkerProcess::start(args, place, PREFIX, at).await);
        }
    }
    let running = airflow.start();
    let (cpu, commits) = (cpu_seconds(), opened.commits());
    let start = Instant::now();
    ask_and_wait(args, &airflow, &running).await;
    measured.took(start.elapsed(), args.workload.tasks(args.size()));
    measured.commits = opened.commits() - commits;
    running.stop(GRACE).await.expect("a clean end");
    let mut marks = take_marks();
    for worker in workers {
        marks.extend(worker.stop().await);
    }
    measured.cpu_s = cpu_seconds() - cpu;
    if args.workload.is_line() {
        hops(&mut measured, marks);
    }
    measured
}

/// Asks for the runs of a workload and returns when all have ended.
pub(crate) async fn ask_and_wait(args: &Args, airflow: &Airflow, running: &Running) {
    let mut ended = running.scheduler().ended_runs();
    let runs = match args.workload {
        Workload::Diamonds | Workload::Backfill => args.size(),
        _ => 1,
    };
    let waiting = async {
        let mut seen = 0;
        while seen < runs {
            match ended.recv().await {
                Ok(run) => {
                    assert_eq!(run.state, RunState::Success, "the run `{}`", run.run_id);
                    seen += 1;
                }
                // Some of those that ended were not told one by one.
                Err(RecvError::Lagged(missed)) => seen += usize::try_from(missed).unwrap_or(usize::MAX),
                Err(RecvError::Closed) => panic!("the scheduler has ended"),
            }
        }
    };
    tokio::join!(ask(args, airflow), waiting);
}

async fn ask(args: &Args, airflow: &Airflow) {
    match args.workload {
        Workload::Diamonds => {
            let ask = |i: usize| {
                let run = airflow.trigger(DAG).run_id(format!("r{i}"));
                async move { run.await.expect("a run") }
            };
            futures_util::future::join_all((0..args.size()).map(ask)).await;
        }
        Workload::Backfill => {
            let first: DateTime<Utc> = "2020-01-01T00:00:00Z".parse().expect("a date");
            let days = TimeDelta::days(i64::try_from(args.size()).expect("a number of days") - 1);
            let options = BackfillOptions {
                from: first,
                to: first + days,
                conf: None,
                run_backwards: false,
                reprocess: Reprocess::None,
                dry_run: false,
                actor: "bench".into(),
            };
            let made = airflow.backfill(&DAG.into(), &options).await.expect("runs");
            assert_eq!(made.len(), args.size());
        }
        _ => {
            airflow.trigger(DAG).await.expect("a run");
        }
    }
}

/// The times between one task and the next.
fn hops(measured: &mut Measured, mut marks: Vec<Mark>) {
    assert_eq!(marks.len(), measured.size, "each task ran once");
    marks.sort_unstable();
    let mut hops: Vec<u64> = marks.windows(2).map(|two| two[1].0.saturating_sub(two[0].1)).collect();
    hops.sort_unstable();
    let at = |percent: usize| hops.get(hops.len() * percent / 100).map(|ns| *ns as f64 / 1e3);
    measured.hop_p50_us = at(50);
    measured.hop_p99_us = at(99);
}

fn definitions(args: &Args) -> Measured {
    let mut measured = Measured::new(args);
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let all = dags(args.workload, args.size());
    let registry = Registry::compile(&all, &Resources::default()).expect("sound dags");
    measured.took(start.elapsed(), args.workload.tasks(args.size()));
    measured.cpu_s = cpu_seconds() - cpu;
    assert_eq!(registry.len(), all.len());
    measured
}

async fn idle(args: &Args, place: &Place) -> Measured {
    let mut measured = Measured::new(args);
    let opened = place.open().await;
    let airflow = application(args, place, opened.shared()).await;
    let running = airflow.start();
    for dag in airflow.registry().iter() {
        airflow.store().set_paused(&dag.id, false).await.expect("a known dag");
    }
    // What was changed has been looked at when a poll later.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (cpu, start) = (cpu_seconds(), Instant::now());
    tokio::time::sleep(args.watch()).await;
    measured.cpu_s = cpu_seconds() - cpu;
    measured.took(start.elapsed(), 0);
    measured.peak_rss_mb = status("VmRSS") as f64 / 1024.0;
    running.stop(GRACE).await.expect("a clean end");
    measured
}

/// Says to a process that it is to run an attempt of this workload at this place.
pub(crate) const ATTEMPT: &str = "AIRFLOW_BENCH_ATTEMPT";

/// The process of an attempt: it ends where the application is built.
pub(crate) async fn be_an_attempt(orders: &str) {
    let (args, place): (Args, Place) = serde_json::from_str(orders).expect("orders");
    let opened = place.open().await;
    application(&args, &place, opened.shared()).await;
}

/// Says to a process that it is to end at once.
pub(crate) const NOTHING: &str = "AIRFLOW_BENCH_NOTHING";

/// How many processes are started to see how quickly that goes.
const SPAWNS: usize = 1_000;

/// How many processes of this program a second begin and end that do nothing, `at_once` at a time.
async fn spawns_per_s(at_once: usize) -> f64 {
    let begun = Instant::now();
    let spawn = |_| async {
        let mut child = tokio::process::Command::new("/proc/self/exe");
        let status = child.env(NOTHING, "1").status().await.expect("it runs");
        assert!(status.success(), "a process that does nothing failed");
    };
    futures_util::stream::iter(0..SPAWNS).for_each_concurrent(at_once, spawn).await;
    SPAWNS as f64 / begun.elapsed().as_secs_f64()
}

/// Says to a process that it is to run the first task of this place, and when it was begun.
pub(crate) const COLD: &str = "AIRFLOW_BENCH_COLD";

fn cold_start(args: &Args, place: &Place) -> Measured {
    let mut measured = Measured::new(args);
    // The first process makes the dag known; the second one is measured.
    for _ in 0..2 {
        let begun = now();
        let orders = serde_json::to_string(&(args, place)).expect("plain data");
        let mut child = std::process::Command::new(std::env::current_exe().expect("a path"));
        let output = child.env(COLD, orders).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mark: Mark = serde_json::from_slice(&output.stdout).expect("a mark");
        measured.took(Duration::from_nanos(mark.0 - begun), 1);
    }
    measured
}

/// The process whose first task is waited for; prints when that began.
pub(crate) async fn be_cold(orders: &str) {
    let (args, place): (Args, Place) = serde_json::from_str(orders).expect("orders");
    let opened = place.open().await;
    let airflow = application(&args, &place, opened.shared()).await;
    let running = airflow.start();
    ask_and_wait(&args, &airflow, &running).await;
    running.stop(GRACE).await.expect("a clean end");
    println!("{}", serde_json::to_string(&take_marks()[0]).expect("numbers"));
}
