//! What arguments mean: dates, runs by id or logical date, task instances, JSON.

use std::sync::Arc;

use airflow_core::app::{OpError, suggestion};
use airflow_core::compile::CompiledDag;
use airflow_core::id::{DagId, MapIndex, TaskIdx, TiKey};
use airflow_core::registry::Registry;
use airflow_core::store::{RunFilter, RunRow, SharedStore};
use airflow_core::time::parse_moment;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::error::CliError;

/// How many runs are looked through for a similar name.
const SIMILAR_RUNS: u32 = 1000;

/// Reads a date; without an offset it is UTC.
pub(crate) fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    parse_moment(text, chrono_tz::UTC).map_err(|error| error.to_string())
}

/// Reads a JSON object.
pub(crate) fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("write a JSON object, such as `{\"day\": 1}`".to_owned()),
        Err(error) => Err(format!("it is no JSON: {error}")),
    }
}

/// Finds a run by its id or its logical date.
pub(crate) async fn find_run(
    store: &SharedStore,
    registry: Option<&Registry>,
    dag_id: &str,
    run: &str,
) -> Result<RunRow, CliError> {
    let dag = DagId::from(dag_id);
    let of_dag = RunFilter { dag_id: Some(dag.clone()), ..RunFilter::default() };
    let by_id = RunFilter { run_id: Some(run.into()), ..of_dag.clone() };
    if let Some(found) = store.runs(&by_id).await?.into_iter().next() {
        return Ok(found);
    }
    if let Ok(date) = moment(run) {
        let by_date = RunFilter { from: Some(date), to: Some(date), newest_first: true, ..of_dag.clone() };
        if let Some(found) = store.runs(&by_date).await?.into_iter().next() {
            return Ok(found);
        }
    }
    let carried = registry.is_some_and(|registry| registry.get(&dag).is_some());
    if !carried && store.dag(&dag).await?.is_none() {
        let stored = store.dags().await?.into_iter().map(|row| row.dag_id.to_string());
        return Err(OpError::UnknownDag(dag_id.to_owned(), suggestion(dag_id, stored)).into());
    }
    let newest = RunFilter { newest_first: true, limit: Some(SIMILAR_RUNS), ..of_dag };
    let names = store.runs(&newest).await?.into_iter().map(|run| run.run_id.to_string());
    let hint = suggestion(run, names);
    Err(CliError::Failed(format!("{}{hint}", OpError::UnknownRun(dag_id.to_owned(), run.to_owned()))))
}

/// Finds a task of a dag.
pub(crate) fn find_task(dag: &CompiledDag, task_id: &str) -> Result<TaskIdx, CliError> {
    dag.find(task_id).ok_or_else(|| {
        let names = dag.tasks.iter().map(|task| task.id.to_string());
        OpError::UnknownTask(dag.id.to_string(), task_id.to_owned(), suggestion(task_id, names)).into()
    })
}

/// One instance of a task.
pub(crate) fn instance(task: TaskIdx, map_index: Option<i32>) -> TiKey {
    TiKey { task, map: map_index.map_or(MapIndex::UNMAPPED, MapIndex) }
}

/// A dag with all that says which task instance is meant.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TiArgs {
    /// The dag
    pub(crate) dag_id: String,
    /// The task
    pub(crate) task_id: String,
    /// The run: its id or its logical date
    #[arg(value_name = "RUN")]
    pub(crate) run: String,
    /// The instance of a mapped task
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) map_index: Option<i32>,
}

impl TiArgs {
    pub(crate) fn map(&self) -> MapIndex {
        self.map_index.map_or(MapIndex::UNMAPPED, MapIndex)
    }

    /// The instance, in the dag that this process carries.
    pub(crate) fn key(&self, dag: &Arc<CompiledDag>) -> Result<TiKey, CliError> {
        Ok(instance(find_task(dag, &self.task_id)?, self.map_index))
    }
}

/// The option `-y` of commands that ask first.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct YesArg {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

impl YesArg {
    /// Asks, unless the answer was given.
    pub(crate) fn ask(self, host: &mut crate::host::Host, question: &str) -> Result<(), CliError> {
        if self.yes || host.confirm(question)? {
            return Ok(());
        }
        Err(CliError::Failed("nothing was changed: not confirmed; `-y` confirms in advance".to_owned()))
    }
}
