//! `jobs check` and `health`: probes for whoever keeps processes running.

use std::sync::Arc;

use airflow_core::app::{Airflow, ExecutorHealth, check_executors, stranded};
use airflow_core::scheduler::seems_alive;
use airflow_core::store::Incarnation;
use airflow_executors::remote::RemoteExecutor;
use clap::{Args, Subcommand};

use crate::broker::{self, ExecutorKind};
use crate::cx::Cx;
use crate::error::{CliError, failed};
use crate::output::{Format, OutputArg, Table, row};

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// Exit with 0 if a process is alive, with 1 if not
    Check(CheckArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CheckArgs {
    /// Only processes of this kind: `scheduler`, or `SchedulerJob` as Airflow says; `TriggererJob` is the scheduler too
    #[arg(long, value_parser = job_type)]
    job_type: Option<String>,
    /// Only processes on this machine, by the name that it has
    #[arg(long, value_name = "NAME", conflicts_with = "local")]
    hostname: Option<String>,
    /// Only processes on this very machine
    #[arg(long)]
    local: bool,
    /// How many of the processes that were heard of last are looked at; 0 for all
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    limit: usize,
    /// Several may be alive; needs a limit other than 1
    #[arg(long)]
    allow_multiple: bool,
    /// List what is alive instead of a word on it
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// The kind of process that Airflow's kind of job is here.
fn job_type(text: &str) -> Result<String, String> {
    match text {
        "SchedulerJob" | "TriggererJob" => Ok("scheduler".to_owned()),
        "DagProcessorJob" => Err("no process reads dags here: they are code of the program".to_owned()),
        "LocalTaskJob" | "LocalTaskJobRunner" | "BackfillJob" => {
            Err("tasks and backfills have no process of their own here; look at `scheduler`".to_owned())
        }
        other => Ok(other.to_lowercase()),
    }
}

pub(crate) async fn run(cx: &mut Cx<'_>, command: JobsCommand) -> Result<(), CliError> {
    let JobsCommand::Check(args) = command;
    if args.allow_multiple && args.limit == 1 {
        let why = "`--allow-multiple` needs a `--limit` greater than 1, or 0 for all";
        return Err(CliError::Usage(why.to_owned()));
    }
    let airflow = cx.airflow().await?;
    let store = Arc::clone(airflow.store());
    for executor in executors(cx, &airflow).await? {
        if let Some(error) = executor.error {
            cx.host.note(&format!("executor {}: {error}", executor.name));
        }
    }
    let mut known = store.incarnations().await?;
    for stranded in stranded(&*store, chrono::Utc::now()).await? {
        cx.host.note(&stranded.reason);
    }
    // What was heard of last comes first, as in Airflow; the limit counts the dead as well.
    known.sort_by_key(|one| std::cmp::Reverse(one.last_beat));
    let host = args.local.then(airflow_core::scheduler::host_name).or(args.hostname);
    let fits = |one: &Incarnation| {
        args.job_type.as_ref().is_none_or(|kind| one.process.kind == *kind)
            && host.as_ref().is_none_or(|host| one.process.host == *host)
    };
    let most = if args.limit == 0 { usize::MAX } else { args.limit };
    let looked_at = known.into_iter().filter(fits).take(most);
    let alive: Vec<Incarnation> = looked_at.filter(seems_alive).collect();
    if let Some(output) = args.output {
        list(cx, &alive, OutputArg { output })?;
    }
    match alive.len() {
        0 => Err(failed("no alive jobs found")),
        1 if args.output.is_none() => Ok(cx.host.line("found one alive job")?),
        1 => Ok(()),
        count if !args.allow_multiple => Err(failed(format!("found {count} alive jobs, expected only one"))),
        count if args.output.is_none() => Ok(cx.host.line(&format!("found {count} alive jobs"))?),
        _ => Ok(()),
    }
}

fn list(cx: &mut Cx<'_>, alive: &[Incarnation], output: OutputArg) -> Result<(), CliError> {
    let mut table = Table::new(["kind", "host", "pid", "started_at", "last_beat"]);
    for one in alive {
        let process = &one.process;
        let (kind, host) = (process.kind.as_str(), process.host.as_str());
        table.push(row![kind, host, process.pid, one.started_at, one.last_beat]);
    }
    table.print(cx.host, output)
}

/// Writes health in the shape of Airflow's `/health`.
pub(crate) async fn health(cx: &mut Cx<'_>) -> Result<(), CliError> {
    let airflow = cx.airflow().await?;
    let mut health = airflow.health().await;
    health.executors = executors(cx, &airflow).await?;
    cx.host.line(&serde_json::to_string_pretty(&health)?)?;
    if health.is_healthy() { Ok(()) } else { Err(CliError::Shown) }
}

/// The executors that a scheduler of this program hands attempts to others by, as seen from here.
async fn executors(cx: &Cx<'_>, airflow: &Airflow) -> Result<Vec<ExecutorHealth>, CliError> {
    let mut all = airflow.executors().clone();
    if all.is_empty() && broker::executors(cx.settings.executor())?.contains(&ExecutorKind::Workers) {
        all.push(Arc::new(RemoteExecutor::shared(broker::open(cx)?)));
    }
    Ok(check_executors(&all, &**airflow.clock()).await)
}
