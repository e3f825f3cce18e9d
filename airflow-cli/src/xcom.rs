//! `xcom`: values that tasks handed over.

use airflow_core::id::{MapIndex, TaskId};
use airflow_core::store::{XComFilter, XComWrite};
use airflow_core::xcom::{RETURN_VALUE, XComValue};
use chrono::Utc;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::cx::{About, Cx};
use crate::error::{CliError, failed};
use crate::fields::{YesArg, find_run, find_task};
use crate::output::{Cell, OutputArg, Table, row};

#[derive(Debug, Subcommand)]
pub(crate) enum XcomCommand {
    /// List the values of a run
    List {
        #[command(flatten)]
        which: WhichArgs,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Write one value as JSON
    Get {
        #[command(flatten)]
        one: OneArgs,
    },
    /// Create or replace a value
    Set {
        #[command(flatten)]
        one: OneArgs,
        /// The value: JSON, or else text
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Delete values of a run
    Clear {
        #[command(flatten)]
        which: WhichArgs,
        #[command(flatten)]
        yes: YesArg,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct WhichArgs {
    /// The dag
    dag_id: String,
    /// The run: its id or its logical date
    run: String,
    /// Only values of this task
    #[arg(short, long)]
    task: Option<String>,
    /// Only values under this key
    #[arg(short, long)]
    key: Option<String>,
    /// Only values of this instance of a mapped task
    #[arg(long, allow_negative_numbers = true)]
    map_index: Option<i32>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OneArgs {
    /// The dag
    dag_id: String,
    /// The run: its id or its logical date
    run: String,
    /// The task
    task_id: String,
    /// The key
    #[arg(short, long, default_value = RETURN_VALUE)]
    key: String,
    /// The instance of a mapped task
    #[arg(long, allow_negative_numbers = true)]
    map_index: Option<i32>,
}

pub(crate) async fn run(cx: &mut Cx<'_>, command: XcomCommand) -> Result<(), CliError> {
    match command {
        XcomCommand::List { which, output } => list(cx, &which, output).await,
        XcomCommand::Get { one } => get(cx, &one).await,
        XcomCommand::Set { one, value } => set(cx, &one, &value).await,
        XcomCommand::Clear { which, yes } => clear(cx, &which, yes).await,
    }
}

impl WhichArgs {
    fn filter(&self, run: airflow_core::id::RunPk) -> XComFilter {
        XComFilter {
            run,
            tasks: self.task.iter().map(TaskId::new).collect(),
            map_index: self.map_index.map(MapIndex),
            key: self.key.clone(),
        }
    }
}

async fn list(cx: &mut Cx<'_>, which: &WhichArgs, output: OutputArg) -> Result<(), CliError> {
    let store = cx.store().await?;
    let run = find_run(&store, None, &which.dag_id, &which.run).await?;
    let mut table = Table::new(["task_id", "map_index", "key", "value", "written_at"]);
    for xcom in store.xcoms(&which.filter(run.pk)).await? {
        let value = Cell::json(xcom.value.value().clone());
        table.push(row![xcom.task_id.as_str(), xcom.map_index.get(), xcom.key, value, xcom.at]);
    }
    table.print(cx.host, output)
}

async fn get(cx: &mut Cx<'_>, one: &OneArgs) -> Result<(), CliError> {
    let store = cx.store().await?;
    let run = find_run(&store, None, &one.dag_id, &one.run).await?;
    let filter = XComFilter {
        run: run.pk,
        tasks: vec![TaskId::new(&one.task_id)],
        map_index: Some(one.map_index.map_or(MapIndex::UNMAPPED, MapIndex)),
        key: Some(one.key.clone()),
    };
    let Some(found) = store.xcoms(&filter).await?.into_iter().next() else {
        return Err(failed(format!(
            "task `{}` of run `{}` has no value `{}`",
            one.task_id, run.run_id, one.key
        )));
    };
    Ok(cx.host.line(found.value.text())?)
}

async fn set(cx: &mut Cx<'_>, one: &OneArgs, value: &str) -> Result<(), CliError> {
    let dag = cx.dag(&one.dag_id)?;
    let task_id = dag.task(find_task(&dag, &one.task_id)?).id.clone();
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    let limit = cx.builder().runner_config().xcom_limit;
    let value = XComValue::encode(&one.key, &value, limit).map_err(|error| failed(error.to_string()))?;
    let store = cx.store().await?;
    let run = find_run(&store, None, &one.dag_id, &one.run).await?;
    let map_index = one.map_index.map_or(MapIndex::UNMAPPED, MapIndex);
    let write = XComWrite { task_id: task_id.clone(), map_index, key: one.key.clone(), value };
    store.set_xcom(run.pk, write, Utc::now()).await?;
    let about = About {
        dag: Some(&run.dag_id),
        run: Some(&run.run_id),
        task: Some(&task_id),
        extra: Some(one.key.clone()),
    };
    cx.note(&store, "set_xcom", about).await?;
    Ok(cx.host.line(&format!("value `{}` of task `{task_id}` is set", one.key))?)
}

async fn clear(cx: &mut Cx<'_>, which: &WhichArgs, yes: YesArg) -> Result<(), CliError> {
    let store = cx.store().await?;
    let run = find_run(&store, None, &which.dag_id, &which.run).await?;
    let filter = which.filter(run.pk);
    let count = store.xcoms(&filter).await?.len();
    if count == 0 {
        return Ok(cx.host.line("Nothing to clear")?);
    }
    yes.ask(cx.host, &format!("Delete {count} values of run `{}`?", run.run_id))?;
    let gone = store.delete_xcoms(&filter).await?;
    let task = which.task.as_ref().map(TaskId::new);
    let extra = Some(serde_json::json!({ "values": gone }).to_string());
    let about = About { dag: Some(&run.dag_id), run: Some(&run.run_id), task: task.as_ref(), extra };
    cx.note(&store, "clear_xcom", about).await?;
    Ok(cx.host.line(&format!("deleted {gone} values"))?)
}
