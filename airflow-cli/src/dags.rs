//! `dags`: what dags there are, what they look like, whether they are paused, which runs they have.

use std::collections::{BTreeMap, BTreeSet};

use airflow_core::compile::GraphFormat;
use airflow_core::id::{DagId, RunId, TaskId};
use airflow_core::state::{RunState, RunType, TaskState};
use airflow_core::store::{RunFilter, RunRow, SharedStore};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use regex::Regex;

use crate::cx::{Cx, sync};
use crate::dag_info::{self, ListArgs, NextArgs};
use crate::error::{CliError, failed};
use crate::fields::{YesArg, find_run, moment};
use crate::output::{Cell, OutputArg, Table, row};
use crate::runs::{self, BackfillArgs, TestArgs, TriggerArgs};
use crate::tasks::waiting_reasons;

#[derive(Debug, Subcommand)]
pub(crate) enum DagsCommand {
    /// List the dags of this program
    List(ListArgs),
    /// Show everything about one dag
    Details {
        /// The dag
        dag_id: String,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Draw a dag, with the states of a run and why its tasks wait
    Show(ShowArgs),
    /// Ask for a run
    Trigger(TriggerArgs),
    /// Make no more runs, and start no more tasks
    Pause(PauseArgs),
    /// Go on after a pause
    Unpause(PauseArgs),
    /// Run a dag once in this process, without scheduler and without keeping anything
    Test(TestArgs),
    /// Make the runs of a range of past dates
    Backfill(BackfillArgs),
    /// Show when the next runs are due
    NextExecution(NextArgs),
    /// Show the state of a run, and what it was triggered with
    State {
        /// The dag
        dag_id: String,
        /// The run: its id or its logical date
        run: String,
    },
    /// Declare a run done or failed
    Mark {
        /// The dag
        dag_id: String,
        /// The run: its id or its logical date
        run: String,
        /// What it is from now on
        state: RunMark,
    },
    /// Delete the runs and all else that is kept of a dag, but for the audit log
    Delete {
        /// The dag
        dag_id: String,
        #[command(flatten)]
        yes: YesArg,
    },
    /// Go on with runs of old versions of a dag with the code of this program, if no scheduler has their own
    Adopt {
        /// The dag
        dag_id: String,
        /// Only this run
        run_id: Option<String>,
    },
    /// List the runs of a dag, newest first
    ListRuns(ListRunsArgs),
    /// List deadlines of runs and SLAs of tasks that were missed, newest first
    MissedDeadlines {
        /// The dag; all dags if it is left out
        dag_id: Option<String>,
        /// How many at most
        #[arg(short, long, default_value_t = 100)]
        limit: u32,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show how large the dags are and how long it takes to make them
    Report(OutputArg),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ShowArgs {
    /// The dag
    dag_id: String,
    /// The language of the drawing
    #[arg(long, value_enum, default_value_t = Drawing::Text)]
    format: Drawing,
    /// A run whose states are shown: its id or its logical date
    #[arg(long)]
    run: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Drawing {
    /// An indented tree
    Text,
    /// Graphviz
    Dot,
    /// A Mermaid flowchart
    Mermaid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RunMark {
    Success,
    Failed,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PauseArgs {
    /// The dag
    dag_id: String,
    /// Take the id for a regular expression, and all dags whose whole id matches
    #[arg(long)]
    treat_dag_id_as_regex: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ListRunsArgs {
    /// The dag
    dag_id: String,
    /// Only runs in this state
    #[arg(long)]
    state: Vec<RunState>,
    /// The earliest logical date
    #[arg(long, value_parser = moment)]
    start_date: Option<DateTime<Utc>>,
    /// The latest logical date
    #[arg(long, value_parser = moment)]
    end_date: Option<DateTime<Utc>>,
    /// No runs of backfills
    #[arg(long)]
    no_backfill: bool,
    /// How many at most
    #[arg(long)]
    limit: Option<u32>,
    #[command(flatten)]
    output: OutputArg,
}

pub(crate) async fn run(cx: &mut Cx<'_>, command: DagsCommand) -> Result<(), CliError> {
    match command {
        DagsCommand::List(args) => dag_info::list(cx, &args).await,
        DagsCommand::Details { dag_id, output } => dag_info::details(cx, &dag_id, output).await,
        DagsCommand::Show(args) => show(cx, &args).await,
        DagsCommand::Trigger(args) => runs::trigger(cx, args).await,
        DagsCommand::Pause(args) => pause(cx, &args, true).await,
        DagsCommand::Unpause(args) => pause(cx, &args, false).await,
        DagsCommand::Test(args) => runs::test(cx, args).await,
        DagsCommand::Backfill(args) => runs::backfill(cx, args).await,
        DagsCommand::NextExecution(args) => dag_info::next_execution(cx, &args).await,
        DagsCommand::State { dag_id, run } => state(cx, &dag_id, &run).await,
        DagsCommand::Mark { dag_id, run, state } => mark(cx, &dag_id, &run, state).await,
        DagsCommand::Delete { dag_id, yes } => delete(cx, &dag_id, yes).await,
        DagsCommand::Adopt { dag_id, run_id } => adopt(cx, &dag_id, run_id.as_deref()).await,
        DagsCommand::ListRuns(args) => list_runs(cx, &args).await,
        DagsCommand::MissedDeadlines { dag_id, limit, output } => {
            let dag_id = dag_id.map(DagId::from);
            let missed = cx.store().await?.missed_deadlines(dag_id.as_ref(), limit).await?;
            dag_info::missed_deadlines(&missed).print(cx.host, output)
        }
        DagsCommand::Report(output) => dag_info::report(cx, output),
    }
}

async fn adopt(cx: &mut Cx<'_>, dag_id: &str, run_id: Option<&str>) -> Result<(), CliError> {
    let dag = cx.dag(dag_id)?;
    let (airflow, actor) = (cx.airflow().await?, cx.actor());
    let moved = airflow.adopt_runs(&dag.id, run_id, &actor).await?;
    for run in &moved {
        cx.host.line(&format!("{} goes on with version {}", run.run_id, dag.fingerprint))?;
    }
    if moved.is_empty() {
        cx.host.line("no run waits for another version")?;
    }
    Ok(())
}

async fn show(cx: &mut Cx<'_>, args: &ShowArgs) -> Result<(), CliError> {
    let format = match args.format {
        Drawing::Text => GraphFormat::Text,
        Drawing::Dot => GraphFormat::Dot,
        Drawing::Mermaid => GraphFormat::Mermaid,
    };
    let dag = cx.dag(&args.dag_id)?;
    let Some(run) = &args.run else {
        return Ok(cx.host.raw(&dag.draw(format, &|_| None))?);
    };
    let airflow = cx.airflow().await?;
    let run = find_run(airflow.store(), Some(airflow.registry()), &args.dag_id, run).await?;
    let view = airflow.view(&dag.id, run.pk).await?;
    let state = |task: &TaskId| -> Option<TaskState> {
        let states = view.instances(dag.find(task.as_str())?).map(|(_, ti)| ti.state);
        // A mapped task shows the state of the instance that needs attention most.
        states.max_by_key(|state| attention(*state))
    };
    cx.host.raw(&dag.draw(format, &state))?;
    if args.format_is_text() {
        cx.host.line(&format!("\nrun {}: {}", run.run_id, run.state))?;
        for (name, reasons) in waiting_reasons(&airflow, &view).await? {
            cx.host.line(&format!("{name}: {}", reasons.join("; ")))?;
        }
    }
    Ok(())
}

impl ShowArgs {
    fn format_is_text(&self) -> bool {
        matches!(self.format, Drawing::Text)
    }
}

fn attention(state: TaskState) -> u8 {
    match state {
        TaskState::Failed => 9,
        TaskState::UpstreamFailed => 8,
        TaskState::Running | TaskState::Restarting => 7,
        TaskState::UpForRetry | TaskState::UpForReschedule | TaskState::Deferred => 6,
        TaskState::Queued | TaskState::Scheduled => 5,
        TaskState::None => 4,
        TaskState::Success => 3,
        TaskState::Skipped => 2,
        TaskState::Removed => 1,
    }
}

async fn pause(cx: &mut Cx<'_>, args: &PauseArgs, paused: bool) -> Result<(), CliError> {
    let actor = cx.actor();
    let airflow = cx.airflow().await?;
    let ids: Vec<DagId> = if args.treat_dag_id_as_regex {
        let pattern = whole_match(&args.dag_id)?;
        let stored = airflow.store().dags().await?.into_iter().map(|row| row.dag_id);
        stored.filter(|id| pattern.is_match(id.as_str())).collect()
    } else {
        vec![DagId::from(args.dag_id.as_str())]
    };
    if ids.is_empty() {
        return Err(failed(format!("no dag matches `{}`", args.dag_id)));
    }
    for id in ids {
        if let Some(dag) = airflow.registry().get(&id) {
            sync(&airflow, dag).await?;
        }
        airflow.set_paused(&id, paused, &actor).await?;
        cx.host.line(&format!("{id} is {}", if paused { "paused" } else { "not paused" }))?;
    }
    Ok(())
}

/// A regular expression that must match a whole id.
pub(crate) fn whole_match(pattern: &str) -> Result<Regex, CliError> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        CliError::Usage(format!("`{pattern}` is no regular expression: {why}"))
    })
}

async fn state(cx: &mut Cx<'_>, dag_id: &str, run: &str) -> Result<(), CliError> {
    let store = cx.store().await?;
    let run = find_run(&store, None, dag_id, run).await?;
    let conf = run.conf.map(|conf| format!(", {conf}")).unwrap_or_default();
    let reason = run.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    Ok(cx.host.line(&format!("{}{reason}{conf}", run.state))?)
}

async fn mark(cx: &mut Cx<'_>, dag_id: &str, run: &str, mark: RunMark) -> Result<(), CliError> {
    let actor = cx.actor();
    let airflow = cx.airflow().await?;
    let run = find_run(airflow.store(), Some(airflow.registry()), dag_id, run).await?;
    airflow.mark_run(&run.dag_id, &run.run_id, mark == RunMark::Success, &actor).await?;
    let run = airflow.run(&run.dag_id, &run.run_id).await?;
    Ok(cx.host.line(&format!("{} is {}", run.run_id, run.state))?)
}

async fn delete(cx: &mut Cx<'_>, dag_id: &str, yes: YesArg) -> Result<(), CliError> {
    let store = cx.store().await?;
    let id = DagId::from(dag_id);
    if store.dag(&id).await?.is_none() {
        let names = store.dags().await?.into_iter().map(|row| row.dag_id.to_string());
        let hint = airflow_core::app::suggestion(dag_id, names);
        return Err(airflow_core::app::OpError::UnknownDag(dag_id.to_owned(), hint).into());
    }
    yes.ask(cx.host, &format!("Delete everything that is kept of dag `{dag_id}`?"))?;
    let runs = store.delete_dag(&id).await?;
    let about = crate::cx::About {
        dag: Some(&id),
        extra: Some(serde_json::json!({ "runs": runs }).to_string()),
        ..Default::default()
    };
    cx.note(&store, "delete_dag", about).await?;
    Ok(cx.host.line(&format!("deleted dag `{dag_id}` with {runs} runs"))?)
}

async fn list_runs(cx: &mut Cx<'_>, args: &ListRunsArgs) -> Result<(), CliError> {
    let store = cx.store().await?;
    let dag_id = DagId::from(args.dag_id.as_str());
    let no_backfill = || RunType::ALL.iter().copied().filter(|kind| *kind != RunType::Backfill).collect();
    let filter = RunFilter {
        dag_id: Some(dag_id.clone()),
        states: args.state.clone(),
        types: if args.no_backfill { no_backfill() } else { Vec::new() },
        from: args.start_date,
        to: args.end_date,
        newest_first: true,
        limit: args.limit,
        ..RunFilter::default()
    };
    let found = store.runs(&filter).await?;
    if found.is_empty() && store.dag(&dag_id).await?.is_none() {
        cx.dag(&args.dag_id)?;
    }
    runs_table(&store, &found).await?.print(cx.host, args.output)
}

/// A list of runs.
pub(crate) async fn runs_table(store: &SharedStore, runs: &[RunRow]) -> Result<Table, CliError> {
    let mut versions = BTreeMap::new();
    for dag in runs.iter().map(|run| &run.dag_id).collect::<BTreeSet<_>>() {
        for version in store.dag_versions(dag).await? {
            versions.insert((dag, version.fingerprint), version.number);
        }
    }
    let mut table = Table::new([
        "dag_id",
        "run_id",
        "run_type",
        "state",
        "logical_date",
        "run_after",
        "started_at",
        "ended_at",
        "version",
        "conf",
        "reason",
        "queue",
    ]);
    for run in runs {
        table.push(row![
            run.dag_id.as_str(),
            RunId::as_str(&run.run_id),
            run.run_type.as_str(),
            run.state,
            run.logical_date,
            run.run_after,
            run.started_at,
            run.ended_at,
            versions.get(&(&run.dag_id, run.fingerprint.clone())).copied(),
            run.conf.clone().map(Cell::json),
            run.reason.clone(),
            run.queue.clone(),
        ]);
    }
    Ok(table)
}
