//! `worker`: the role. `workers`: who they are and what they run.

use std::time::Duration;

use airflow_core::dag::Isolation;
use airflow_core::store::SharedStore;
use airflow_executors::ProcessCommand;
use airflow_executors::remote::{
    Autoscale, CarriedVersion, Worker, WorkerOptions, WorkerStatus, carried_versions, find, workers,
};
use clap::{Args, Subcommand};

use crate::broker;
use crate::cx::Cx;
use crate::error::{CliError, failed};
use crate::orders::{self, OrderCommand};
use crate::output::{Cell, Format, OutputArg, Table, row};
use crate::roles::{GRACE, StopRequests};
use crate::top::{self, TopArgs};

#[derive(Debug, Clone, Args)]
pub(crate) struct WorkerArgs {
    /// The queues to take work from, separated by commas
    #[arg(short, long, value_delimiter = ',', default_value = "default")]
    queues: Vec<String>,
    /// How many tasks run at once; default `celery.worker_concurrency`
    #[arg(short, long, value_name = "N")]
    concurrency: Option<usize>,
    /// Let that number follow the work: at most and at least how many, such as `10,3`
    #[arg(short, long, value_name = "MAX,MIN", conflicts_with = "concurrency")]
    autoscale: Option<Autoscale>,
    /// Where tasks run that do not say: `none`, in this process, or `process`, each in one of its own
    #[arg(long, value_name = "KIND", default_value = "none", env = "AIRFLOW_ISOLATION")]
    isolation: Isolation,
    /// The mode that new files do not get, such as `077`
    #[arg(short, long, value_name = "MODE", value_parser = umask)]
    umask: Option<u32>,
    /// Its name, unique among workers that live; default made of the machine and the process id
    #[arg(short = 'H', long = "hostname", value_name = "NAME", env = "AIRFLOW_WORKER_NAME")]
    name: Option<String>,
    /// How long running tasks may go on after the first request to stop, such as `30s`
    #[arg(long, value_parser = airflow_core::time::parse_duration)]
    grace: Option<Duration>,
    /// Serve the task logs of this worker at `logging.worker_log_server_port`, for what is not in the database
    #[arg(long, env = "AIRFLOW_WORKER_LOG_SERVER")]
    log_server: bool,
    /// By which others reach that server, if it is not the name of the machine; implies --log-server
    #[arg(long, value_name = "HOST[:PORT]", env = "AIRFLOW_WORKER_LOG_ADDRESS")]
    log_address: Option<String>,
    /// A file for the process id, removed at the end
    #[arg(long, value_name = "FILE")]
    pid: Option<std::path::PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// List all workers
    List(OutputArg),
    /// Which versions of dags the live workers carry, and which of them schedulers do not
    Versions(OutputArg),
    /// What the workers run now
    Running(OutputArg),
    /// What has become of attempts on each worker since its start
    Stats(OutputArg),
    /// Exit with 0 if this worker is alive, with 1 if not
    Ping {
        /// The worker
        name: String,
    },
    /// Watch workers, queues and tasks; q ends it
    Top(TopArgs),
    #[command(flatten)]
    Order(OrderCommand),
    /// Forget a worker that has ended
    Forget {
        /// The worker
        name: String,
    },
}

/// Takes work until it is stopped.
pub(crate) async fn worker(cx: &mut Cx<'_>, args: WorkerArgs) -> Result<(), CliError> {
    set_umask(args.umask);
    let transport = broker::open(cx)?;
    warn_of_root(cx);
    let airflow = cx.airflow().await?;
    airflow.sync_dags().await?;
    // A number that is asked for is one that does not change.
    let autoscale = match (args.autoscale, args.concurrency) {
        (None, None) => cx.settings.autoscale()?,
        (given, _) => given,
    };
    let serves_logs = args.log_server || args.log_address.is_some();
    let options = WorkerOptions {
        name: args.name,
        queues: args.queues,
        slots: args.concurrency.unwrap_or_else(|| cx.settings.worker_slots()),
        autoscale,
        isolation: args.isolation,
        process_command: ProcessCommand::default().kill_after(cx.settings.kill_after()),
        signing_keys: broker::signing_keys(cx),
        log_server: serves_logs.then(|| cx.settings.log_server(args.log_address)),
    };
    let pid = args.pid.map(PidFile::write).transpose()?;
    let mut requests = StopRequests::of(cx.host)?;
    let failure = |error: airflow_executors::remote::WorkerError| failed(error.to_string());
    let mut worker = Worker::start(&airflow, transport, options).await.map_err(failure)?;
    let info = worker.info();
    cx.host.note(&format!("database: {} ({})", airflow.store().place(), airflow.store().kind()));
    cx.host.note(&format!("broker: {}", info.broker));
    let queues = info.queues.join(", ");
    cx.host.note(&format!(
        "worker {}: {} slots, queues: {queues}; stop with Ctrl-C",
        worker.name(),
        info.slots
    ));
    if let Some(address) = &info.log_server {
        cx.host.note(&format!("task logs are served at {address}"));
    }
    tokio::select! {
        () = requests.next() => {}
        () = worker.asked_to_stop() => cx.host.note("somebody has shut this worker down"),
    }
    let grace = args.grace.unwrap_or(GRACE);
    cx.host
        .note(&format!("stopping: tasks that run have {grace:?} to end; Ctrl-C again gives them back now"));
    let stopped = tokio::select! {
        stopped = worker.stop_within(grace) => Some(stopped),
        () = requests.next() => None,
    };
    match stopped {
        Some(stopped) => stopped?,
        None => worker.stop_within(Duration::ZERO).await?,
    }
    drop(pid);
    Ok(())
}

/// Whoever may write dags or the database can have a worker run anything: it should not be allowed everything.
fn warn_of_root(cx: &mut Cx<'_>) {
    #[cfg(unix)]
    if rustix::process::geteuid().is_root() {
        cx.host.note(
            "warning: this worker runs as root, so all its tasks may do anything on this machine; start it as a user of \
             its own",
        );
    }
    #[cfg(not(unix))]
    let _ = cx;
}

fn umask(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "write three octal digits, such as `077`".to_owned())
}

/// Sets which rights the files of this process lack. Logs may hold what not everybody is to read.
fn set_umask(mode: Option<u32>) {
    #[cfg(unix)]
    if let Some(mode) = mode {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = mode;
}

/// A file with the process id, for as long as this exists.
struct PidFile(std::path::PathBuf);

impl PidFile {
    fn write(path: std::path::PathBuf) -> Result<Self, CliError> {
        let place = path.display().to_string();
        std::fs::write(&path, format!("{}\n", std::process::id()))
            .map_err(|error| failed(format!("cannot write the process id to {place}: {error}")))?;
        Ok(Self(path))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it; nothing depends on it.
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(crate) async fn run(cx: &mut Cx<'_>, command: WorkersCommand) -> Result<(), CliError> {
    let store = cx.store().await?;
    match command {
        WorkersCommand::List(output) => list(&store, output).await?.print(cx.host, output),
        WorkersCommand::Versions(output) => versions(&store).await?.print(cx.host, output),
        WorkersCommand::Running(output) => running(&store).await?.print(cx.host, output),
        WorkersCommand::Stats(output) => stats(&store).await?.print(cx.host, output),
        WorkersCommand::Top(args) => top::run(cx, args).await,
        WorkersCommand::Order(command) => orders::run(cx, command).await,
        WorkersCommand::Ping { name } => {
            let all = workers(&store).await?;
            let one = find(&all, &name)?;
            let state = one.state.as_str();
            if !one.is_alive() {
                return Err(failed(format!("the worker `{name}` is {state}")));
            }
            Ok(cx.host.line(&format!("{name}: {state}"))?)
        }
        WorkersCommand::Forget { name } => {
            find(&workers(&store).await?, &name)?;
            if store.forget_worker(&name).await? {
                return Ok(cx.host.line(&format!("forgot {name}"))?);
            }
            Err(failed(format!("the worker `{name}` has not ended; stop it first")))
        }
    }
}

/// For programs, with the version of each dag that they carry; a table has no room for those.
async fn list(store: &SharedStore, output: OutputArg) -> Result<Table, CliError> {
    let for_programs = matches!(output.output, Format::Json | Format::Yaml);
    let carried = if for_programs { carried_versions(store).await? } else { Vec::new() };
    let mut columns = vec![
        "name",
        "state",
        "queues",
        "slots",
        "autoscale",
        "running",
        "dags",
        "broker",
        "host",
        "pid",
        "log_server",
        "last_seen",
    ];
    columns.extend(for_programs.then_some("versions"));
    let mut table = Table::of(columns);
    for one in workers(store).await? {
        let state = one.state.as_str();
        let is_alive = one.is_alive();
        let (name, at) = (one.row.name, one.row.at);
        let versions = versions_of(&carried, &name);
        let mut cells = match one.info {
            Some(info) => row![
                name,
                state,
                info.queues.join(", "),
                info.slots,
                info.autoscale.map(|between| between.to_string()),
                if is_alive { info.running.len() } else { 0 },
                info.dags,
                info.broker_error.unwrap_or(info.broker),
                info.host,
                info.pid,
                info.log_server,
                at
            ],
            None => row![name, state, "", "", "", "", "", "of another version", "", "", "", at],
        };
        cells.extend(for_programs.then(|| Cell::json(versions)));
        table.push(cells);
    }
    Ok(table)
}

/// By dag, what a worker carries.
fn versions_of(carried: &[CarriedVersion], worker: &str) -> serde_json::Value {
    let mut dags = serde_json::Map::new();
    for one in carried.iter().filter(|one| one.worker == worker) {
        let version = serde_json::json!({
            "version": one.version, "fingerprint": one.fingerprint, "differs": one.differs,
        });
        dags.insert(one.dag_id.to_string(), version);
    }
    dags.into()
}

async fn versions(store: &SharedStore) -> Result<Table, CliError> {
    let mut table = Table::new(["worker", "dag_id", "version", "fingerprint", "differs"]);
    for one in carried_versions(store).await? {
        let (dag_id, differs) =
            (one.dag_id.to_string(), if one.differs { "from all schedulers" } else { "" });
        table.push(row![one.worker, dag_id, one.version, one.fingerprint, differs]);
    }
    Ok(table)
}

async fn running(store: &SharedStore) -> Result<Table, CliError> {
    let mut table = Table::new(["worker", "dag_id", "run_id", "task_id", "map_index", "try_number", "since"]);
    for one in workers(store).await?.into_iter().filter(WorkerStatus::is_alive) {
        let name = one.row.name;
        for ti in one.info.map(|info| info.running).unwrap_or_default() {
            table.push(row![
                name.clone(),
                ti.dag_id,
                ti.run_id,
                ti.task_id,
                ti.map_index,
                ti.try_number,
                ti.since
            ]);
        }
    }
    Ok(table)
}

async fn stats(store: &SharedStore) -> Result<Table, CliError> {
    let mut table = Table::new([
        "worker",
        "state",
        "claimed",
        "succeeded",
        "failed",
        "cancelled",
        "handed_back",
        "refused",
        "stale",
        "put_back",
        "bad",
        "started_at",
    ]);
    for one in workers(store).await? {
        let state = one.state.as_str();
        if let Some(info) = one.info {
            let counts = info.counts;
            table.push(row![
                one.row.name,
                state,
                counts.claimed,
                counts.succeeded,
                counts.failed,
                counts.cancelled,
                counts.handed_back,
                counts.refused,
                counts.stale,
                counts.put_back,
                counts.bad,
                info.started_at
            ]);
        }
    }
    Ok(table)
}
