//! The processes that are killed: a scheduler with a local executor, or one whose work goes through a broker, or a worker.

use std::io::{self, PipeReader, PipeWriter};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use airflow_core::app::Airflow;
use airflow_core::attempt::LogShipping;
use airflow_core::attempt::log::TaskLogLayer;
use airflow_core::attempt::process::AttemptProcess;
use airflow_core::dag::Isolation;
use airflow_core::scheduler::OnLeaseLoss;
use airflow_core::store::{MysqlStore, PostgresStore, SharedStore, SqliteStore};
use airflow_executors::LocalExecutor;
use airflow_executors::remote::rabbitmq::{QueueKind, RabbitmqOptions, RabbitmqTransport};
use airflow_executors::remote::redis::{RedisOptions, RedisTransport};
use airflow_executors::remote::{RemoteExecutor, Transport, Worker, WorkerOptions};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::ledger::Ledger;
use crate::logs;
use crate::messages::Repeats;
use crate::workload::{self, BROAD, OLD, POOL, Plan};

/// What a process needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// Address of the database.
    pub store: String,
    /// Where bodies write.
    pub ledger: PathBuf,
    /// What is planned.
    pub plan: Plan,
    /// Attempts at once.
    pub slots: usize,
    /// Points of the schedule; 0 for none.
    pub points: i64,
    /// Which version of the load it carries.
    pub version: u64,
    /// Address of the broker; without one, schedulers run the attempts themselves.
    pub broker: Option<String>,
}

/// The variable that makes this program a scheduler.
const ROLE: &str = "AIRFLOW_FAULTS_ROLE";

/// The variables that name the database and the broker.
pub(crate) const STORE: &str = "AIRFLOW_FAULTS_STORE";
pub(crate) const BROKER: &str = "AIRFLOW_FAULTS_BROKER";

/// The variable that makes a process a worker, and names it.
pub(crate) const WORKER: &str = "AIRFLOW_FAULTS_WORKER";

/// The variable that names how many messages a queue of RabbitMQ may hold.
pub(crate) const MAX_LENGTH: &str = "AIRFLOW_FAULTS_MAX_LENGTH";

/// The variable that makes queues of RabbitMQ the kind that they are by default.
pub(crate) const QUORUM: &str = "AIRFLOW_FAULTS_QUORUM";

/// The variable that makes a scheduler send copies of all messages; see [`Repeats`].
pub(crate) const COPIES: &str = "AIRFLOW_FAULTS_COPIES";

/// The variable that names the version of the load that a process carries.
pub(crate) const VERSION: &str = "AIRFLOW_FAULTS_VERSION";

/// The variable that names the folder of the logs of attempts, which are kept in the database as well.
pub(crate) const LOGS: &str = "AIRFLOW_FAULTS_LOGS";

/// How many bytes of what a task says are kept then.
pub(crate) const LOG_QUOTA: u64 = 4 << 20;

/// The variable that gives each attempt a process of its own.
pub(crate) const ISOLATED: &str = "AIRFLOW_FAULTS_ISOLATED";

/// The variable that names the milliseconds between two beats.
pub(crate) const BEAT: &str = "AIRFLOW_FAULTS_BEAT";

/// The variable that makes a process end once the tables are there.
pub(crate) const ONLY_MIGRATE: &str = "AIRFLOW_FAULTS_ONLY_MIGRATE";

/// How long a process may finish its attempts after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// The standard input of all processes. Nobody writes to it; it ends when this program does, however it does.
static LIFELINE: LazyLock<io::Result<(PipeReader, PipeWriter)>> = LazyLock::new(io::pipe);

fn lifeline() -> io::Result<PipeReader> {
    match &*LIFELINE {
        Ok((reader, _)) => reader.try_clone(),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}

/// Ends this process with the one that started it.
fn end_with_parent() -> io::Result<()> {
    let wait = || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(1);
    };
    std::thread::Builder::new().name("lifeline".into()).spawn(wait).map(drop)
}

impl Setup {
    /// A command that starts a process.
    pub(crate) fn command(&self) -> io::Result<tokio::process::Command> {
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        let role = format!("{} {} {}", self.plan.seed, self.slots, self.points);
        command.env(ROLE, role).env(STORE, &self.store);
        command.envs(self.broker.as_ref().map(|broker| (BROKER, broker)));
        command.env("AIRFLOW_FAULTS_LEDGER", &self.ledger).stdin(lifeline()?).kill_on_drop(true);
        Ok(command)
    }

    /// What this process was started as, if it is such a process.
    pub(crate) fn of_this_process() -> Option<Self> {
        let role = std::env::var(ROLE).ok()?;
        let mut numbers = role.split(' ').filter_map(|word| word.parse::<u64>().ok());
        let (seed, slots, points) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some(Self {
            store: std::env::var(STORE).ok()?,
            ledger: std::env::var_os("AIRFLOW_FAULTS_LEDGER")?.into(),
            plan: Plan { seed },
            slots: usize::try_from(slots).ok()?,
            points: i64::try_from(points).ok()?,
            broker: std::env::var(BROKER).ok(),
            version: std::env::var(VERSION).ok().and_then(|version| version.parse().ok()).unwrap_or(OLD),
        })
    }

    /// The application over the database; `slots` 0 for one that only looks and asks.
    pub(crate) async fn build(&self, slots: usize) -> Result<Airflow, Box<dyn std::error::Error>> {
        let mut builder = Airflow::builder()
            .shared_store(open(&self.store).await?)
            .resource(Ledger::open(&self.ledger)?)
            .pool(POOL.0, POOL.1)
            .pool(BROAD.0, BROAD.1)
            // Here processes die far more often than a task may be lost before it counts as poisonous.
            .scheduler(|config| {
                config.max_lost_attempts = u32::MAX;
                if let Some(beat) = beat() {
                    config.beat = beat;
                }
                // As the roles of the command line do.
                config.on_lease_loss = Some(OnLeaseLoss::Exit);
            })
            .dag(workload::load(self.plan, self.version))
            .dag(logs::loud())
            .dag(logs::ticks())
            .dag(workload::long(self.plan))
            .dag(workload::wide(self.plan))
            .dag(workload::unruly());
        if self.points > 0 {
            builder = builder.dag(workload::points(self.plan, self.points));
        }
        if let Some(folder) = std::env::var_os(LOGS) {
            builder = builder.log_folder(folder).log_quota(LOG_QUOTA).log_shipping(LogShipping::Always);
        }
        match &self.broker {
            _ if slots == 0 => {}
            Some(broker) => {
                let mut transport = transport(broker)?;
                if let Some(repeats) =
                    std::env::var(COPIES).ok().and_then(|how| Repeats::new(Arc::clone(&transport), &how))
                {
                    transport = Arc::new(repeats);
                }
                builder = builder.executor(RemoteExecutor::shared(transport));
            }
            None => builder = builder.executor(LocalExecutor::new(slots).isolation(isolation())),
        }
        Ok(builder.build().await?)
    }
}

/// Where attempts run whose tasks do not say.
fn isolation() -> Isolation {
    if std::env::var_os(ISOLATED).is_some() { Isolation::Process } else { Isolation::None }
}

/// Another time between two beats, for tests that do not want to wait for them.
fn beat() -> Option<Duration> {
    std::env::var(BEAT).ok()?.parse().ok().map(Duration::from_millis)
}

/// Opens a database by its address.
pub(crate) async fn open(address: &str) -> Result<SharedStore, Box<dyn std::error::Error>> {
    Ok(match address.split(':').next() {
        Some("postgres" | "postgresql") => Arc::new(PostgresStore::connect(address).await?),
        Some("mysql" | "mariadb") => Arc::new(MysqlStore::connect(address).await?),
        _ => Arc::new(SqliteStore::open(address).await?),
    })
}

/// The way to a broker. Queues are of the kind that a single node brings back after it was killed, unless a variable says
/// otherwise.
pub(crate) fn transport(broker: &str) -> Result<Arc<dyn Transport>, Box<dyn std::error::Error>> {
    Ok(if broker.starts_with("amqp") {
        let is_quorum = std::env::var_os(QUORUM).is_some();
        let kind = if is_quorum { QueueKind::Quorum } else { QueueKind::Classic };
        let mut options = RabbitmqOptions::new(broker).queue_kind(kind);
        if let Ok(length) = std::env::var(MAX_LENGTH) {
            options = options.max_length(length.parse()?);
        }
        Arc::new(RabbitmqTransport::new(&options)?)
    } else {
        Arc::new(RedisTransport::new(&RedisOptions::new(broker))?)
    })
}

/// What this process says goes to standard error, and what tasks say to their logs.
fn say_what_happens() {
    let own = Targets::new().with_default(LevelFilter::INFO).with_target(logs::TARGET, LevelFilter::OFF);
    let to_stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let all = tracing_subscriber::registry().with(to_stderr.with_filter(own));
    all.with(TaskLogLayer.with_filter(LevelFilter::INFO)).init();
}

/// Works until it is told to stop.
pub(crate) async fn run(setup: &Setup) -> Result<(), Box<dyn std::error::Error>> {
    say_what_happens();
    // The standard input of the process of an attempt is something else, and ends it as well.
    if !AttemptProcess::is_awaited() {
        end_with_parent()?;
    }
    if std::env::var_os(ONLY_MIGRATE).is_some() {
        open(&setup.store).await?.migrate().await?;
        return Ok(());
    }
    let mut stop = signal(SignalKind::terminate())?;
    if let (Ok(name), Some(broker)) = (std::env::var(WORKER), &setup.broker) {
        let airflow = setup.build(0).await?;
        let (name, slots, isolation) = (Some(name), setup.slots, isolation());
        let options = WorkerOptions { name, slots, isolation, ..WorkerOptions::default() };
        let worker = Worker::start(&airflow, transport(broker)?, options).await?;
        stop.recv().await;
        worker.stop(GRACE).await?;
        return Ok(());
    }
    let airflow = setup.build(setup.slots).await?;
    let running = airflow.start();
    stop.recv().await;
    running.stop(GRACE).await?;
    Ok(())
}
