//! The roles: processes that run until they are stopped.

use std::time::Duration;

use airflow_core::app::{Airflow, Running};
use airflow_core::dag::Isolation;
use airflow_core::scheduler::seems_alive;
use airflow_core::state::RunState;
use airflow_core::store::{DagRow, RunFilter, RunRow, SharedStore};
use clap::Args;

use crate::cx::Cx;
use crate::error::CliError;
use crate::host::Host;

/// How long running tasks may go on after the first request to stop.
pub(crate) const GRACE: Duration = Duration::from_secs(60);

/// How often a scheduler that ends by itself looks whether it may.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What both roles take.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// How many tasks run at once; default four for each core, or `AIRFLOW__CORE__PARALLELISM`
    #[arg(long, value_parser = slots)]
    pub(crate) slots: Option<usize>,
    /// Where tasks run that do not say: `none`, in this process, or `process`, each in one of its own
    #[arg(long, value_name = "KIND", default_value = "none", env = "AIRFLOW_ISOLATION")]
    pub(crate) isolation: Isolation,
    /// How long running tasks may go on after the first request to stop, such as `30s`
    #[arg(long, value_parser = airflow_core::time::parse_duration)]
    grace: Option<Duration>,
    /// End once no run is queued or running
    #[arg(long)]
    until_idle: bool,
    /// End once this many runs have ended
    #[arg(long, value_name = "N")]
    num_runs: Option<u64>,
}

fn slots(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "write a whole number above 0".to_owned())
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StandaloneArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SchedulerArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Prepares the database, then works.
pub(crate) async fn standalone(cx: &mut Cx<'_>, args: StandaloneArgs) -> Result<(), CliError> {
    cx.registry()?;
    let store = cx.open(true).await?;
    let builder = cx.take_builder();
    let airflow = cx.with_executors(builder).await?.shared_store(store).build().await?;
    work(cx, &airflow, &args.run).await
}

/// Works on a database that is there.
pub(crate) async fn scheduler(cx: &mut Cx<'_>, args: SchedulerArgs) -> Result<(), CliError> {
    let airflow = cx.scheduling().await?;
    airflow.sync_dags().await?;
    work(cx, &airflow, &args.run).await
}

async fn work(cx: &mut Cx<'_>, airflow: &Airflow, args: &RunArgs) -> Result<(), CliError> {
    let store = airflow.store();
    let logs = airflow.runner_config().log_folder.as_ref();
    let logs = logs.map_or_else(|| "none".to_owned(), |folder| folder.display().to_string());
    cx.host.note(&format!("database: {} ({})", store.place(), store.kind()));
    cx.host.note(&format!("task logs: {logs}"));
    cx.host.note(&format!("dags: {}; stop with Ctrl-C", airflow.registry().len()));
    let mut requests = StopRequests::of(cx.host)?;
    let running = airflow.start();
    let grace = args.grace.unwrap_or(GRACE);
    let asked = tokio::select! {
        () = requests.next() => true,
        idle = ends_itself(airflow, &running, args) => {
            idle?;
            false
        }
    };
    if asked {
        cx.host.note(&format!("stopping: tasks that run have {grace:?} to end; Ctrl-C again stops them now"));
    }
    stop(cx, airflow, running, &mut requests, grace).await
}

/// Stops; a second request shortens the wait.
async fn stop(
    cx: &mut Cx<'_>,
    airflow: &Airflow,
    running: Running,
    requests: &mut StopRequests,
    grace: Duration,
) -> Result<(), CliError> {
    let mut stopping = Box::pin(running.stop(grace));
    tokio::select! {
        ended = &mut stopping => return Ok(ended?),
        () = requests.next() => {}
    }
    cx.host.note("stopping now: what runs is given back and starts again with the next scheduler");
    for executor in airflow.executors().iter() {
        executor.stop(Duration::ZERO).await;
    }
    Ok(stopping.await?)
}

/// Requests to stop this process. Made once: a request that comes while nobody waits for it is not lost.
pub(crate) struct StopRequests {
    #[cfg(unix)]
    signals: Option<[tokio::signal::unix::Signal; 2]>,
    #[cfg(not(unix))]
    handles: bool,
}

impl StopRequests {
    /// Handles the signals of this process, unless the host is none.
    #[cfg(unix)]
    pub(crate) fn of(host: &Host) -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        if !host.is_process() {
            return Ok(Self { signals: None });
        }
        Ok(Self { signals: Some([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]) })
    }

    #[cfg(not(unix))]
    pub(crate) fn of(host: &Host) -> std::io::Result<Self> {
        Ok(Self { handles: host.is_process() })
    }

    /// Returns when the process is asked to stop.
    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        if let Some([interrupt, terminate]) = &mut self.signals {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
        #[cfg(not(unix))]
        if self.handles && tokio::signal::ctrl_c().await.is_ok() {
            return;
        }
        std::future::pending::<()>().await;
    }
}

/// Returns when the scheduler has nothing more to do that it was asked for, or has failed.
async fn ends_itself(airflow: &Airflow, running: &Running, args: &RunArgs) -> Result<(), CliError> {
    let mut ended = running.scheduler().ended_runs();
    let mut count = 0;
    loop {
        if running.is_finished() {
            return Ok(());
        }
        if args.num_runs.is_some_and(|wanted| count >= wanted)
            || (args.until_idle && is_idle(airflow).await?)
        {
            return Ok(());
        }
        tokio::select! {
            run = ended.recv() => match run {
                Ok(_) => count += 1,
                Err(tokio::sync::broadcast::error::RecvError::Lagged(missed)) => count += missed,
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return Ok(()),
            },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Whether no run is active or due that the scheduler will work on: those of paused dags, and of dags and versions that
/// this program does not carry, wait.
async fn is_idle(airflow: &Airflow) -> Result<bool, CliError> {
    let store = airflow.store();
    let now = airflow.clock().now();
    let dags = store.dags().await?;
    let works = |dag: &&DagRow| !dag.is_paused && airflow.registry().get(&dag.dag_id).is_some();
    let dags: Vec<&DagRow> = dags.iter().filter(works).collect();
    let schedules = airflow.scheduler_config().use_schedules;
    if schedules && dags.iter().any(|dag| dag.next.is_some_and(|next| next.run_after <= now)) {
        return Ok(false);
    }
    let filter = RunFilter { states: vec![RunState::Queued, RunState::Running], ..RunFilter::default() };
    let active = store.runs(&filter).await?;
    let adopts = airflow.scheduler_config().adopt_runs;
    let is_ours = |run: &RunRow| {
        let dag = airflow.registry().get(&run.dag_id);
        dag.is_some_and(|dag| adopts || dag.fingerprint == run.fingerprint)
    };
    Ok(!active.iter().any(|run| is_ours(run) && dags.iter().any(|dag| dag.dag_id == run.dag_id)))
}

/// Schedulers that are alive.
pub(crate) async fn live_schedulers(
    store: &SharedStore,
) -> Result<Vec<airflow_core::store::Incarnation>, CliError> {
    let all = store.incarnations().await?;
    Ok(all.into_iter().filter(|one| one.process.kind == "scheduler" && seems_alive(one)).collect())
}
