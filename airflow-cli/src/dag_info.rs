//! What the dags of the program are: lists, properties, next runs, sizes.

use std::collections::BTreeMap;

use airflow_core::id::DagId;
use airflow_core::store::{DagRow, DeadlineRow};
use airflow_core::timetable::upcoming;
use chrono::Utc;
use clap::Args;

use crate::cx::Cx;
use crate::error::{CliError, failed};
use crate::output::{Cell, OutputArg, Table, row};

#[derive(Debug, Clone, Args)]
pub(crate) struct ListArgs {
    /// Only these columns, such as `dag_id,schedule`
    #[arg(long, value_delimiter = ',')]
    columns: Vec<String>,
    #[command(flatten)]
    output: OutputArg,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct NextArgs {
    /// The dag
    dag_id: String,
    /// How many runs
    #[arg(short, long, default_value_t = 1)]
    num_executions: usize,
    #[command(flatten)]
    output: OutputArg,
}

pub(crate) async fn list(cx: &mut Cx<'_>, args: &ListArgs) -> Result<(), CliError> {
    let registry = cx.registry()?;
    let stored = cx.store().await?.dags().await?;
    let stored: BTreeMap<DagId, DagRow> = stored.into_iter().map(|row| (row.dag_id.clone(), row)).collect();
    let mut table =
        Table::new(["dag_id", "schedule", "is_paused", "next_run", "owners", "tags", "tasks", "place"]);
    for dag in registry.iter() {
        let row = stored.get(&dag.id);
        table.push(row![
            dag.id.as_str(),
            dag.timetable.summary(),
            row.map(|row| row.is_paused),
            row.and_then(|row| row.next).map(|next| next.run_after),
            dag.settings.owners.as_str(),
            dag.settings.tags.clone(),
            dag.tasks.len(),
            dag.place.to_string(),
        ]);
    }
    let table = if args.columns.is_empty() { table } else { table.keep(&args.columns)? };
    table.print(cx.host, args.output)
}

pub(crate) async fn details(cx: &mut Cx<'_>, dag_id: &str, output: OutputArg) -> Result<(), CliError> {
    let dag = cx.dag(dag_id)?;
    let store = cx.store().await?;
    let row = store.dag(&dag.id).await?;
    let versions = store.dag_versions(&dag.id).await?;
    let settings = &dag.settings;
    let mut table = Table::new([
        "dag_id",
        "description",
        "schedule",
        "schedule_text",
        "timezone",
        "start_date",
        "end_date",
        "catchup",
        "is_paused",
        "next_run",
        "max_active_runs",
        "max_active_tasks",
        "dagrun_timeout",
        "fail_fast",
        "owners",
        "tags",
        "params",
        "tasks",
        "version",
        "fingerprint",
        "place",
    ]);
    let params = settings.params.as_ref().map(|params| Cell::json(params.schema.clone()));
    table.push(row![
        dag.id.as_str(),
        settings.description.clone(),
        dag.timetable.summary(),
        dag.timetable.description(),
        settings.timezone.name(),
        settings.restriction.earliest,
        settings.restriction.latest,
        settings.restriction.catchup,
        row.as_ref().map(|row| row.is_paused),
        row.as_ref().and_then(|row| row.next).map(|next| next.run_after),
        settings.max_active_runs,
        settings.max_active_tasks,
        settings.dagrun_timeout.map(|limit| format!("{limit:?}")),
        settings.fail_fast,
        settings.owners.as_str(),
        settings.tags.clone(),
        params,
        dag.tasks.len(),
        versions.iter().find(|version| version.fingerprint == dag.fingerprint).map(|version| version.number),
        dag.fingerprint.as_str(),
        dag.place.to_string(),
    ]);
    table.print_one(cx.host, output)
}

pub(crate) async fn next_execution(cx: &mut Cx<'_>, args: &NextArgs) -> Result<(), CliError> {
    let dag = cx.dag(&args.dag_id)?;
    // How far the timetable has come is of use if it is known; without a database it begins at the start.
    let last = match cx.store_if_ready().await? {
        Some(store) => store.dag(&dag.id).await?.and_then(|row| row.last_interval),
        None => None,
    };
    let runs = upcoming(&*dag.timetable, last, &dag.settings.restriction, Utc::now(), args.num_executions)?;
    if runs.is_empty() {
        cx.host.note(&format!(
            "dag `{}` has no further runs: its schedule is `{}`",
            dag.id,
            dag.timetable.summary()
        ));
    }
    let mut table = Table::new(["run_after", "logical_date", "data_interval_start", "data_interval_end"]);
    for run in runs {
        table.push(row![run.run_after, run.logical_date(), run.data_interval.start, run.data_interval.end]);
    }
    table.print(cx.host, args.output)
}

pub(crate) fn report(cx: &mut Cx<'_>, output: OutputArg) -> Result<(), CliError> {
    cx.registry()?;
    let mut table = Table::new(["dag_id", "place", "tasks", "edges", "mappings", "compiled_in_us"]);
    let mut definitions: Vec<_> = cx.builder().definitions().iter().collect();
    definitions.sort_by_key(|definition| definition.id());
    for definition in definitions {
        let begun = std::time::Instant::now();
        let compiled = definition.compile();
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let dag = compiled.map_err(|error| failed(error.to_string()))?;
        table.push(row![
            dag.id.as_str(),
            dag.place.to_string(),
            dag.tasks.len(),
            dag.graph.edge_count(),
            dag.scopes.len(),
            took,
        ]);
    }
    table.print(cx.host, output)
}

/// Deadlines that were missed.
pub(crate) fn missed_deadlines(rows: &[DeadlineRow]) -> Table {
    let mut table = Table::new(["missed_at", "dag_id", "run_id", "task_id", "deadline", "due"]);
    for missed in rows {
        table.push(row![
            missed.missed_at,
            missed.run.dag_id.as_str(),
            missed.run.run_id.as_str(),
            missed.task_id().map(|task| task.to_string()),
            missed.name.as_str(),
            missed.due
        ]);
    }
    table
}
