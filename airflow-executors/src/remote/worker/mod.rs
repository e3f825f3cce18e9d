//! The worker: takes messages, claims attempts in the database, runs them, reports them there.
//!
//! Everything about an attempt that matters stands in the database. A worker can be killed at any point: what it had
//! claimed is found lost by the schedulers when its lease has run out, what it had not claimed is sent again.

mod care;
mod control;
mod desk;
mod hops;
mod intake;
mod letters;
mod reports;
mod start;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use airflow_core::app::Airflow;
use airflow_core::attempt::LateLogs;
use airflow_core::dag::Isolation;
use airflow_core::executor::AttemptRunner;
use airflow_core::id::DagId;
use airflow_core::operator::Cancel;
use airflow_core::plan::{Attempt, Report};
use airflow_core::registry::Registry;
use airflow_core::scheduler::{Member, is_gone};
use airflow_core::secret::Secret;
use airflow_core::store::{SharedStore, StoreError, StoreResult};
use airflow_core::time::Clock;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use crate::process::{ProcessCommand, ProcessRunner};

use super::keys::{SignerError, signer};
use super::logs::{LogServer, LogServerOptions};
use super::orders::{Autoscale, Obeyed};
use super::signer::Signer;
use super::transport::{ConsumeOptions, Consumer, Transport, TransportError, TransportHealth, reach};
use desk::Desk;
use hops::Hops;

pub use desk::Counts;

/// The queue of tasks that name none.
const DEFAULT_QUEUE: &str = "default";

/// How many attempts are claimed in one transaction at most.
const MOST_AT_ONCE: usize = 64;

/// How long attempts that were given back may take to stop.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The broker is not there or cannot serve.
    #[error(transparent)]
    Broker(#[from] TransportError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys cannot be used.
    #[error("{0}")]
    Keys(String),
    /// Its name is taken.
    #[error(
        "a worker called `{name}` is alive ({host}, pid {pid}); give this one another name, or stop that one. If it was \
         killed on another machine, its name is free when its lease has run out, in at most {lease:?}"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The machine of the other one.
        host: String,
        /// Its process id there.
        pid: u32,
        /// How long it counts as alive after its last sign of life.
        lease: Duration,
    },
    /// An option makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl From<SignerError> for WorkerError {
    fn from(error: SignerError) -> Self {
        match error {
            SignerError::Key(error) => Self::Keys(error.to_string()),
            SignerError::Store(error) => Self::Store(error),
        }
    }
}

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Its name, unique among those that live; by default made of the machine and the process id.
    pub name: Option<String>,
    /// The queues that it takes work from, at least one. Default `default`.
    pub queues: Vec<String>,
    /// How many attempts it runs at once (Airflow's `worker_concurrency`). Default 16.
    pub slots: usize,
    /// Lets the number of slots follow the work; then `slots` does not count.
    pub autoscale: Option<Autoscale>,
    /// Where attempts run whose tasks do not say. Default: beside each other in the process of the worker.
    pub isolation: Isolation,
    /// How processes of attempts are started.
    pub process_command: ProcessCommand,
    /// The keys of messages, if the schedulers were given some.
    pub signing_keys: Vec<Secret>,
    /// Where it serves its log files, if it does; wants the feature `worker-logs`. Default not: logs are shipped to the
    /// store.
    pub log_server: Option<LogServerOptions>,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        let queues = vec![DEFAULT_QUEUE.to_owned()];
        Self {
            name: None,
            queues,
            slots: 16,
            autoscale: None,
            isolation: Isolation::None,
            process_command: ProcessCommand::default(),
            signing_keys: Vec::new(),
            log_server: None,
        }
    }
}

impl WorkerOptions {
    /// How many messages it may hold that it has not claimed: as many as it can claim at once.
    fn prefetch(&self) -> u16 {
        let most = self.autoscale.map_or(self.slots, |between| between.max);
        u16::try_from(most.min(MOST_AT_ONCE)).unwrap_or(u16::MAX)
    }
}

/// An attempt that a worker runs, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningAttempt {
    /// The dag.
    pub dag_id: String,
    /// The run.
    pub run_id: String,
    /// The task.
    pub task_id: String,
    /// The instance, -1 if it is not mapped.
    pub map_index: i32,
    /// The try.
    pub try_number: u32,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// What a worker says of itself, kept in the store and renewed with each beat, and soon after attempts begin and end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// The machine.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// The broker, without secrets.
    pub broker: String,
    /// The queues it listens to.
    pub queues: Vec<String>,
    /// How many attempts it runs at once.
    pub slots: usize,
    /// Between which numbers that changes by itself, if it does.
    #[serde(default)]
    pub autoscale: Option<Autoscale>,
    /// Whether it takes no new work and ends when it is done.
    pub is_draining: bool,
    /// What it runs.
    pub running: Vec<RunningAttempt>,
    /// What has become of attempts since its start.
    pub counts: Counts,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// How many dags it carries.
    pub dags: usize,
    /// What went wrong with the broker last, if it is not connected.
    pub broker_error: Option<String>,
    /// The orders that it has obeyed, the last ones.
    #[serde(default)]
    pub orders: Vec<uuid::Uuid>,
    /// By which its log files are reached, if it serves them: `host:port`.
    #[serde(default)]
    pub log_server: Option<String>,
}

/// What a worker that serves its logs serves.
#[cfg_attr(not(feature = "worker-logs"), expect(dead_code, reason = "nothing is served without the feature"))]
pub(super) struct Serves<'a> {
    pub(super) worker: &'a str,
    pub(super) machine: &'a str,
    pub(super) folder: Option<&'a std::path::Path>,
    pub(super) signer: &'a Signer,
    pub(super) clock: &'a Arc<dyn Clock>,
}

/// Shared by all parts of a worker.
struct Shared {
    name: String,
    actor: String,
    options: WorkerOptions,
    store: SharedStore,
    registry: Registry,
    runner: Arc<dyn AttemptRunner>,
    clock: Arc<dyn Clock>,
    transport: Arc<dyn Transport>,
    consumer: std::sync::OnceLock<Arc<dyn Consumer>>,
    signer: Signer,
    hops: Hops,
    member: Member,
    desk: Arc<Desk>,
    finished: mpsc::UnboundedSender<Report>,
    /// Attempts whose code has not returned.
    code: Arc<Code>,
    late_logs: LateLogs,
    /// Reports were written.
    reported: Notify,
    /// The queues it takes work from now.
    queues: Mutex<Vec<String>>,
    autoscale: Mutex<Option<Autoscale>>,
    /// Somebody has changed how many slots there are to be.
    rescaled: Notify,
    obeyed: Mutex<Obeyed>,
    asked_to_stop: watch::Sender<bool>,
    closed: watch::Sender<bool>,
    started_at: DateTime<Utc>,
    /// Serves its logs for as long as this exists.
    log_server: Option<LogServer>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Counts attempts whose code runs.
#[derive(Debug, Default)]
struct Code {
    running: AtomicUsize,
    ended: Notify,
}

/// Runs attempts and counts those whose code runs.
struct Counted {
    inner: ProcessRunner,
    code: Arc<Code>,
}

#[async_trait::async_trait]
impl AttemptRunner for Counted {
    async fn run(&self, attempt: Attempt, cancel: Cancel) -> Report {
        self.code.running.fetch_add(1, Ordering::SeqCst);
        let report = self.inner.run(attempt, cancel).await;
        self.code.running.fetch_sub(1, Ordering::SeqCst);
        self.code.ended.notify_waiters();
        report
    }
}

impl Shared {
    /// Begins to take messages.
    fn consume(&self) -> Arc<dyn Consumer> {
        let consumer: Arc<dyn Consumer> = Arc::from(self.transport.consume(ConsumeOptions {
            queues: self.options.queues.clone(),
            name: self.name.clone(),
            prefetch: self.options.prefetch(),
        }));
        let _ = self.consumer.set(Arc::clone(&consumer));
        consumer
    }

    /// Waits on the worker's clock.
    async fn rest(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    /// Returns when the worker takes no more work.
    async fn closing(&self) {
        let mut closed = self.closed.subscribe();
        // The sender lives as long as this.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// Returns when no code of an attempt runs.
    async fn code_ended(&self) {
        loop {
            let mut ended = std::pin::pin!(self.code.ended.notified());
            ended.as_mut().enable();
            if self.code.running.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }

    fn carries(&self, dag: &DagId, fingerprint: &str) -> bool {
        self.registry.get(dag).is_some_and(|dag| dag.fingerprint == fingerprint)
    }

    fn info(&self) -> WorkerInfo {
        let process = airflow_core::scheduler::IncarnationSpec::of_this_process("worker");
        let process = process.new_incarnation(Duration::ZERO);
        let running = self.desk.each(|running| RunningAttempt {
            dag_id: running.attempt.run.dag_id.to_string(),
            run_id: running.attempt.run.run_id.to_string(),
            task_id: running.attempt.ti.task_id.to_string(),
            map_index: running.attempt.ti.map_index.0,
            try_number: running.attempt.ti.try_number,
            since: running.since,
        });
        let health = self.consumer.get().map(|consumer| consumer.health()).unwrap_or_default();
        WorkerInfo {
            host: process.host,
            pid: process.pid,
            broker: self.transport.place(),
            queues: self.queues.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            slots: self.desk.slots(),
            autoscale: *self.autoscale.lock().unwrap_or_else(PoisonError::into_inner),
            is_draining: self.desk.is_closed(),
            running,
            counts: self.desk.counts(),
            started_at: self.started_at,
            dags: self.registry.len(),
            broker_error: health.last_error.filter(|_| !health.is_connected),
            orders: self.obeyed.lock().unwrap_or_else(PoisonError::into_inner).ids(),
            log_server: self.log_server.as_ref().map(LogServer::address),
        }
    }

    fn info_json(&self) -> serde_json::Value {
        serde_json::to_value(self.info()).expect("texts and numbers are always JSON")
    }

    async fn say_how_it_is(&self) -> StoreResult<()> {
        if !self.store.update_worker(self.member.id(), &self.name, self.info_json()).await? {
            tracing::warn!(name = self.name, "another worker has this name now");
        }
        Ok(())
    }

    /// Makes a life of the process known as this worker. Says whether it has its name.
    async fn introduce(&self) -> StoreResult<bool> {
        let process = self.member.id();
        let named = self.store.register_worker(process, &self.name, self.info_json()).await?;
        let versions = self.registry.iter().map(|dag| (dag.id.clone(), dag.fingerprint.clone())).collect();
        self.store.carry(process, versions).await?;
        Ok(named)
    }

    /// Takes the name at the start; from one of this machine that is gone at once.
    async fn take_name(&self) -> Result<(), WorkerError> {
        if self.introduce().await? {
            return Ok(());
        }
        let workers = self.store.workers().await?;
        let holder = workers.into_iter().find(|worker| worker.name == self.name).map(|worker| worker.process);
        let all = self.store.incarnations().await?;
        if let Some(other) = all.into_iter().find(|one| Some(one.process.id) == holder) {
            if !is_gone(&other.process) {
                let (name, process) = (self.name.clone(), other.process);
                let (host, pid, lease) = (process.host, process.pid, process.lease);
                return Err(WorkerError::NameTaken { name, host, pid, lease });
            }
            self.store.end_incarnation(other.process.id).await?;
        }
        if self.introduce().await? {
            return Ok(());
        }
        let problem =
            format!("another worker has just taken the name `{}`; give this one another name", self.name);
        Err(WorkerError::Invalid(problem))
    }
}

/// A worker that runs in the background. Dropping it ends it without giving anything back; [`stop`](Self::stop) it.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    intake: JoinHandle<()>,
}

impl Worker {
    /// As [`start`](Self::start); `runner` runs the attempts.
    async fn start_with(
        airflow: &Airflow,
        transport: Arc<dyn Transport>,
        options: WorkerOptions,
        runner: Arc<dyn AttemptRunner>,
    ) -> Result<Self, WorkerError> {
        let options = checked(options)?;
        reach(&*transport, &options.queues).await?;
        let store = Arc::clone(airflow.store());
        let clock = Arc::clone(airflow.clock());
        let signer = signer(&store, &options.signing_keys).await?;
        let config = airflow.scheduler_config();
        let member = Member::join(&store, Arc::clone(&clock), "worker", config).await?;
        let name = options.name.clone().unwrap_or_else(default_name);
        let log_server = serve_logs(airflow, &options, &name, &signer, &member).await?;
        let (finished, reports) = mpsc::unbounded_channel();
        let code = Arc::new(Code::default());
        let command = options.process_command.clone();
        let runner = ProcessRunner::new(runner, options.isolation, command, member.lease_watch());
        let shared = Arc::new(Shared {
            actor: format!("worker:{name}"),
            name,
            late_logs: LateLogs::new(Arc::clone(&store), Arc::clone(&clock)),
            store,
            registry: airflow.registry().clone(),
            runner: Arc::new(Counted { inner: runner, code: Arc::clone(&code) }),
            started_at: clock.now(),
            clock,
            transport,
            consumer: std::sync::OnceLock::new(),
            signer,
            hops: Hops::default(),
            member,
            desk: Desk::new(options.autoscale.map_or(options.slots, |between| between.min)),
            finished,
            code,
            reported: Notify::new(),
            queues: Mutex::new(options.queues.clone()),
            autoscale: Mutex::new(options.autoscale),
            rescaled: Notify::new(),
            obeyed: Mutex::default(),
            log_server,
            asked_to_stop: watch::channel(false).0,
            closed: watch::channel(false).0,
            options,
        });
        if let Err(error) = shared.take_name().await {
            // Its lease would run out by itself; this is sooner.
            let _ = shared.member.leave().await;
            return Err(error);
        }
        let consumer = shared.consume();
        let tasks = vec![
            tokio::spawn(reports::run(Arc::clone(&shared), reports)),
            tokio::spawn(care::listen(Arc::clone(&shared))),
            tokio::spawn(care::announce(Arc::clone(&shared))),
            tokio::spawn(care::look_after(Arc::clone(&shared), config.beat)),
            tokio::spawn(care::fence(Arc::clone(&shared))),
            tokio::spawn(control::listen(Arc::clone(&shared))),
            tokio::spawn(control::tell_news(Arc::clone(&shared))),
            tokio::spawn(control::scale(Arc::clone(&shared))),
        ];
        let intake = tokio::spawn(intake::run(Arc::clone(&shared), consumer));
        tracing::info!(name = shared.name, queues = ?shared.options.queues, slots = shared.desk.slots(), "the worker is ready");
        Ok(Self { shared, tasks, intake })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// How it is.
    pub fn info(&self) -> WorkerInfo {
        self.shared.info()
    }

    /// How its connection to the broker is.
    pub fn health(&self) -> TransportHealth {
        self.shared.consumer.get().map(|consumer| consumer.health()).unwrap_or_default()
    }

    /// Returns when somebody has ordered it to shut down ([`WorkerOrder::Shutdown`](super::WorkerOrder::Shutdown)): whoever
    /// has it is to [`stop`](Self::stop) it.
    pub async fn asked_to_stop(&self) {
        let mut asked = self.shared.asked_to_stop.subscribe();
        // The sender lives as long as this.
        let _ = asked.wait_for(|asked| *asked).await;
    }

    /// How many attempts it runs at once from now on. What runs goes on.
    pub fn set_slots(&self, slots: usize) {
        self.shared.desk.set_slots(slots);
    }

    /// Takes no new work, waits up to `grace` for what runs, gives the rest back without costing a retry, and says
    /// goodbye. Dropping the future before it is done is as a kill: others find out by the lease.
    ///
    /// # Errors
    ///
    /// If the store does not take the goodbye: the lease runs out by itself then.
    pub async fn stop(mut self, grace: Duration) -> StoreResult<()> {
        self.stop_within(grace).await
    }

    /// As [`stop`](Self::stop), for those who want to call it again with a shorter time while it waits.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn stop_within(&mut self, grace: Duration) -> StoreResult<()> {
        let shared = &self.shared;
        shared.desk.close();
        shared.closed.send_replace(true);
        // What it has claimed it has begun; messages that it has not settled go to others.
        if !self.intake.is_finished() {
            let _ = (&mut self.intake).await;
        }
        // People see that it drains; if not, the goodbye comes soon.
        let _ = shared.say_how_it_is().await;
        tokio::select! {
            biased;
            () = shared.desk.empty() => {}
            () = shared.rest(grace) => self.give_back().await,
        }
        let _ = shared.say_how_it_is().await;
        self.tasks.iter().for_each(JoinHandle::abort);
        shared.late_logs.sent().await;
        shared.member.leave().await
    }

    async fn give_back(&self) {
        let shared = &self.shared;
        let reports = shared.desk.give_back(shared.clock.now());
        tracing::warn!(attempts = reports.len(), "attempts did not end in time and are given back");
        let whose = |report: Report| Some((shared.desk.given_back(report.attempt_id)?, report));
        let reports = reports.into_iter().filter_map(whose).collect();
        // Async code stops at its next await; give it the chance before others begin anew.
        tokio::select! {
            biased;
            () = shared.code_ended() => {}
            () = shared.rest(LAST_WORDS) => shared.desk.end_given_back(),
        }
        reports::write(shared, reports).await;
        super::notices::announce_reports(&*shared.transport, &shared.signer, &*shared.clock).await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.tasks.iter().chain([&self.intake]).for_each(JoinHandle::abort);
    }
}

fn checked(mut options: WorkerOptions) -> Result<WorkerOptions, WorkerError> {
    let invalid = |problem: String| Err(WorkerError::Invalid(problem));
    let queues: BTreeSet<String> = options.queues.iter().map(|queue| queue.trim().to_owned()).collect();
    if queues.is_empty() || queues.contains("") {
        return invalid("a worker needs the names of its queues, such as `default,gpu`".to_owned());
    }
    if let Some(long) = queues.iter().find(|queue| queue.len() > super::MAX_QUEUE) {
        let most = super::MAX_QUEUE;
        return invalid(format!(
            "the queue `{long:.40}…` has more than {most} bytes; give it a shorter name"
        ));
    }
    if options.slots == 0 {
        return invalid("a worker with 0 slots runs nothing; give it at least one".to_owned());
    }
    if options.name.as_ref().is_some_and(|name| name.is_empty() || name.chars().count() > 250) {
        return invalid("the name of a worker has 1 to 250 characters".to_owned());
    }
    options.queues = queues.into_iter().collect();
    Ok(options)
}

/// Begins to serve the logs of a worker, if it is to. If it cannot, it says goodbye.
async fn serve_logs(
    airflow: &Airflow,
    options: &WorkerOptions,
    worker: &str,
    signer: &Signer,
    member: &Member,
) -> Result<Option<LogServer>, WorkerError> {
    let Some(serves) = &options.log_server else { return Ok(None) };
    let machine = airflow_core::scheduler::IncarnationSpec::of_this_process("worker");
    let machine = machine.new_incarnation(Duration::ZERO).host;
    let folder = airflow.runner_config().log_folder.as_deref();
    let what = Serves { worker, machine: &machine, folder, signer, clock: airflow.clock() };
    let started = LogServer::start(serves, what).await;
    if started.is_err() {
        // Its lease would run out by itself; this is sooner.
        let _ = member.leave().await;
    }
    started.map(Some)
}

fn default_name() -> String {
    let process = airflow_core::scheduler::IncarnationSpec::of_this_process("worker");
    let process = process.new_incarnation(Duration::ZERO);
    format!("{}-{}", process.host, process.pid)
}
