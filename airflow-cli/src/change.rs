//! Changing task instances of stored runs: running them again, declaring them done, failed or skipped.

use airflow_core::app::{Airflow, ClearOptions, Cleared, Mark, Selection};
use airflow_core::compile::CompiledDag;
use airflow_core::id::{MapIndex, RunId};
use airflow_core::store::RunFilter;
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};

use crate::cx::Cx;
use crate::dags::whole_match;
use crate::error::{CliError, failed};
use crate::fields::{YesArg, find_run, moment};
use crate::output::{OutputArg, Table, row};

/// How many runs of a range one command clears: more is a mistake in the dates.
const MOST_CLEARED_RUNS: u32 = 10_000;

#[derive(Debug, Clone, Args)]
pub(crate) struct SelectArgs {
    /// These tasks or groups; all if none is named
    task_ids: Vec<String>,
    /// Tasks whose id matches this regular expression somewhere
    #[arg(short, long)]
    task_regex: Option<String>,
    /// One instance of a mapped task
    #[arg(long, allow_negative_numbers = true)]
    map_index: Option<i32>,
    /// Everything before them as well
    #[arg(short, long)]
    upstream: bool,
    /// Everything after them as well
    #[arg(short, long)]
    downstream: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ClearArgs {
    /// The dag
    dag_id: String,
    #[command(flatten)]
    select: SelectArgs,
    /// The run: its id or its logical date
    #[arg(short, long, conflicts_with_all = ["start_date", "end_date"])]
    run: Option<String>,
    /// Runs from this logical date on
    #[arg(short, long, value_parser = moment)]
    start_date: Option<DateTime<Utc>>,
    /// Runs up to this logical date
    #[arg(short, long, value_parser = moment)]
    end_date: Option<DateTime<Utc>>,
    /// Only those that failed
    #[arg(short = 'f', long)]
    only_failed: bool,
    /// Only those that run
    #[arg(long)]
    only_running: bool,
    /// Only tell what would be cleared
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    yes: YesArg,
    #[command(flatten)]
    output: OutputArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MarkAs {
    Success,
    Failed,
    Skipped,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct MarkArgs {
    /// The dag
    dag_id: String,
    /// The run: its id or its logical date
    run: String,
    /// What they are from now on
    #[arg(value_enum)]
    state: MarkAs,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    output: OutputArg,
}

/// The tasks that are named or match.
fn selection(dag: &CompiledDag, args: &SelectArgs) -> Result<Selection, CliError> {
    let mut tasks = args.task_ids.clone();
    if let Some(pattern) = &args.task_regex {
        let pattern = whole_match(&format!(".*(?:{pattern}).*"))?;
        let found = dag.tasks.iter().filter(|task| pattern.is_match(task.id.as_str()));
        let before = tasks.len();
        tasks.extend(found.map(|task| task.id.to_string()));
        if tasks.len() == before {
            let shown = args.task_regex.as_deref().unwrap_or_default();
            return Err(failed(format!("no task of dag `{}` matches `{shown}`", dag.id)));
        }
    }
    let map_index = args.map_index.map(MapIndex);
    Ok(Selection { tasks, map_index, upstream: args.upstream, downstream: args.downstream })
}

pub(crate) async fn clear(cx: &mut Cx<'_>, args: ClearArgs) -> Result<(), CliError> {
    let dag = cx.dag(&args.dag_id)?;
    let select = selection(&dag, &args.select)?;
    let actor = cx.actor();
    let airflow = cx.airflow().await?;
    let runs = runs_to_clear(&airflow, &dag, &args).await?;
    let mut options = ClearOptions {
        select,
        only_failed: args.only_failed,
        only_running: args.only_running,
        dry_run: true,
    };
    let mut found = Vec::new();
    for run in &runs {
        found.extend(airflow.clear(&dag.id, run, &options, &actor).await?);
    }
    if found.is_empty() {
        return Ok(cx.host.line("Nothing to clear")?);
    }
    if args.dry_run {
        return cleared_table(&found).print(cx.host, args.output);
    }
    if !args.yes.yes {
        cleared_table(&found).print(cx.host, args.output)?;
    }
    args.yes.ask(cx.host, &format!("Run these {} task instances again?", found.len()))?;
    options.dry_run = false;
    let mut done = Vec::new();
    for run in &runs {
        done.extend(airflow.clear(&dag.id, run, &options, &actor).await?);
    }
    cleared_table(&done).print(cx.host, args.output)
}

async fn runs_to_clear(
    airflow: &Airflow,
    dag: &CompiledDag,
    args: &ClearArgs,
) -> Result<Vec<RunId>, CliError> {
    if let Some(run) = &args.run {
        let run = find_run(airflow.store(), Some(airflow.registry()), dag.id.as_str(), run).await?;
        return Ok(vec![run.run_id]);
    }
    if args.start_date.is_none() && args.end_date.is_none() {
        let why = "say which runs: `--run`, or `--start-date` and `--end-date`";
        return Err(CliError::Usage(why.to_owned()));
    }
    let filter = RunFilter {
        dag_id: Some(dag.id.clone()),
        from: args.start_date,
        to: args.end_date,
        limit: Some(MOST_CLEARED_RUNS + 1),
        ..RunFilter::default()
    };
    let runs = airflow.store().runs(&filter).await?;
    if runs.len() > MOST_CLEARED_RUNS as usize {
        return Err(failed(format!("the range holds more than {MOST_CLEARED_RUNS} runs")));
    }
    Ok(runs.into_iter().map(|run| run.run_id).collect())
}

fn cleared_table(cleared: &[Cleared]) -> Table {
    let mut table = Table::new(["run_id", "task_id", "map_index", "was"]);
    for one in cleared {
        table.push(row![one.run_id.as_str(), one.task_id.as_str(), one.map_index.get(), one.was]);
    }
    table
}

pub(crate) async fn mark(cx: &mut Cx<'_>, args: MarkArgs) -> Result<(), CliError> {
    let dag = cx.dag(&args.dag_id)?;
    let select = selection(&dag, &args.select)?;
    if select.tasks.is_empty() {
        let why = "name the tasks; `dags mark` marks a whole run";
        return Err(CliError::Usage(why.to_owned()));
    }
    let actor = cx.actor();
    let airflow = cx.airflow().await?;
    let run = find_run(airflow.store(), Some(airflow.registry()), &args.dag_id, &args.run).await?;
    let mark = match args.state {
        MarkAs::Success => Mark::Success,
        MarkAs::Failed => Mark::Failed,
        MarkAs::Skipped => Mark::Skipped,
    };
    let marked = airflow.mark(&dag.id, &run.run_id, &select, mark, &actor).await?;
    cleared_table(&marked).print(cx.host, args.output)
}
