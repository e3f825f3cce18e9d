//! The process that is killed: a scheduler with a local executor, in a process of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use airflow_core::app::Airflow;
use airflow_core::scheduler::OnLeaseLoss;
use airflow_core::store::{MysqlStore, PostgresStore, SharedStore, SqliteStore};
use airflow_executors::LocalExecutor;
use tokio::signal::unix::{SignalKind, signal};

use crate::ledger::Ledger;
use crate::workload::{self, POOL, Plan};

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
}

/// The variable that makes this program a scheduler.
const ROLE: &str = "AIRFLOW_FAULTS_ROLE";

/// The variable that names the milliseconds between two beats.
pub(crate) const BEAT: &str = "AIRFLOW_FAULTS_BEAT";

/// The variable that makes a process end once the tables are there.
pub(crate) const ONLY_MIGRATE: &str = "AIRFLOW_FAULTS_ONLY_MIGRATE";

/// How long a process may finish its attempts after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

impl Setup {
    /// A command that starts a process.
    pub(crate) fn command(&self) -> std::io::Result<tokio::process::Command> {
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        let role = format!("{} {} {}", self.plan.seed, self.slots, self.points);
        command.env(ROLE, role).env("AIRFLOW_FAULTS_STORE", &self.store);
        command.env("AIRFLOW_FAULTS_LEDGER", &self.ledger).kill_on_drop(true);
        Ok(command)
    }

    /// What this process was started as, if it is such a process.
    pub(crate) fn of_this_process() -> Option<Self> {
        let role = std::env::var(ROLE).ok()?;
        let mut numbers = role.split(' ').filter_map(|word| word.parse::<u64>().ok());
        let (seed, slots, points) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some(Self {
            store: std::env::var("AIRFLOW_FAULTS_STORE").ok()?,
            ledger: std::env::var_os("AIRFLOW_FAULTS_LEDGER")?.into(),
            plan: Plan { seed },
            slots: usize::try_from(slots).ok()?,
            points: i64::try_from(points).ok()?,
        })
    }

    /// The application over the database; `slots` 0 for one that only looks and asks.
    pub(crate) async fn build(&self, slots: usize) -> Result<Airflow, Box<dyn std::error::Error>> {
        let mut builder = Airflow::builder()
            .shared_store(open(&self.store).await?)
            .resource(Ledger::open(&self.ledger)?)
            .pool(POOL.0, POOL.1)
            // Here processes die far more often than a task may be lost before it counts as poisonous.
            .scheduler(|config| {
                config.max_lost_attempts = u32::MAX;
                if let Some(beat) = beat() {
                    config.beat = beat;
                }
                // As the roles of the command line do.
                config.on_lease_loss = Some(OnLeaseLoss::Exit);
            })
            .dag(workload::load(self.plan))
            .dag(workload::long(self.plan));
        if self.points > 0 {
            builder = builder.dag(workload::points(self.plan, self.points));
        }
        if slots > 0 {
            builder = builder.executor(LocalExecutor::new(slots));
        }
        Ok(builder.build().await?)
    }
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

/// Works until it is told to stop.
pub(crate) async fn run(setup: &Setup) -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    if std::env::var_os(ONLY_MIGRATE).is_some() {
        open(&setup.store).await?.migrate().await?;
        return Ok(());
    }
    let mut stop = signal(SignalKind::terminate())?;
    let airflow = setup.build(setup.slots).await?;
    let running = airflow.start();
    stop.recv().await;
    running.stop(GRACE).await?;
    Ok(())
}
