//! Fetches what the inputs of an attempt name.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::compile::CompiledDag;
use crate::id::{MapIndex, RunPk, TaskId, TaskIdx};
use crate::operator::{BoxError, ExpandSource, InputRef, Inputs};
use crate::plan::Attempt;
use crate::store::{XComFilter, XComRow};
use crate::xcom::{RETURN_VALUE, XComValue};

use super::Runner;

/// How many values of mappings are kept: each mapping that runs needs its sources, again and again.
const KEPT_SOURCES: usize = 64;

type Values = Arc<Vec<(MapIndex, Arc<XComValue>)>>;

/// Values that something is mapped over, so that ten thousand instances read and parse the list once.
#[derive(Debug, Default)]
pub(super) struct SourceCache(Mutex<HashMap<(RunPk, TaskIdx), (u64, Values)>>);

impl SourceCache {
    fn get(&self, run: RunPk, task: TaskIdx, stamp: u64) -> Option<Values> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&(run, task)).filter(|(at, _)| *at == stamp).map(|(_, values)| Arc::clone(values))
    }

    fn put(&self, run: RunPk, task: TaskIdx, stamp: u64, values: &Values) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_SOURCES {
            kept.clear();
        }
        kept.insert((run, task), (stamp, Arc::clone(values)));
    }
}

struct Sources(BTreeMap<TaskIdx, (Values, Vec<Arc<XComValue>>)>);

impl ExpandSource for Sources {
    fn output(&self, task: TaskIdx) -> Option<&Value> {
        self.0.get(&task)?.0.first().map(|(_, value)| value.value())
    }

    fn collected(&self, task: TaskIdx) -> &[Arc<XComValue>] {
        self.0.get(&task).map_or(&[], |(_, values)| values.as_slice())
    }
}

pub(super) async fn fetch(runner: &Runner, dag: &CompiledDag, attempt: &Attempt) -> Result<Inputs, BoxError> {
    let task = dag.task(attempt.task);
    let mut inputs = Inputs::default();
    let map = attempt.ti.map_index;
    let mut wanted: Vec<TaskIdx> = Vec::new();
    for input in &task.inputs {
        if let InputRef::Output(from) | InputRef::Collected(from) = input {
            inputs.names.insert(*from, dag.task(*from).id.to_string());
            wanted.push(*from);
        }
    }
    if !wanted.is_empty() {
        let rows = read(runner, dag, attempt.run.pk, &wanted).await?;
        for input in &task.inputs {
            match input {
                InputRef::Output(from) => {
                    let instance = if dag.is_paired(*from, attempt.task) { map } else { MapIndex::UNMAPPED };
                    let found = rows
                        .iter()
                        .find(|row| row.task_id == dag.task(*from).id && row.map_index == instance);
                    inputs.outputs.insert(*from, found.map(|row| Arc::clone(&row.value)));
                }
                InputRef::Collected(from) => {
                    let of_task = rows.iter().filter(|row| row.task_id == dag.task(*from).id);
                    inputs.collected.insert(*from, of_task.map(|row| Arc::clone(&row.value)).collect());
                }
                InputRef::Element(_) => {}
            }
        }
    }
    if let (Some(scope), Some(index)) = (task.scope, map.get())
        && task.inputs.iter().any(|input| matches!(input, InputRef::Element(_)))
    {
        let expand = &dag.scope(scope).expand;
        let sources = sources(runner, dag, attempt, &expand.tasks()).await?;
        let element = expand.element(index as usize, &sources);
        let element = element.ok_or_else(|| format!("the mapping has no element {index} any more"))?;
        inputs.elements.insert(scope, element);
    }
    Ok(inputs)
}

/// How many instances the mapping of a task has; `None` if there is none, or if its values are not there.
pub(super) async fn mapped_instances(
    runner: &Runner,
    dag: &CompiledDag,
    attempt: &Attempt,
) -> Result<Option<u32>, BoxError> {
    let Some(scope) = dag.task(attempt.task).scope else { return Ok(None) };
    let expand = &dag.scope(scope).expand;
    let sources = sources(runner, dag, attempt, &expand.tasks()).await?;
    Ok(expand.len_in(&sources).and_then(|length| u32::try_from(length).ok()))
}

async fn sources(
    runner: &Runner,
    dag: &CompiledDag,
    attempt: &Attempt,
    from: &[InputRef],
) -> Result<Sources, BoxError> {
    let mut found = BTreeMap::new();
    for source in from {
        let (InputRef::Output(task) | InputRef::Collected(task)) = source else { continue };
        let (run, stamp) = (attempt.run.pk, attempt.source_stamp);
        let values = match runner.sources.get(run, *task, stamp) {
            Some(values) => values,
            None => {
                let rows = read(runner, dag, run, &[*task]).await?;
                let values: Values =
                    Arc::new(rows.into_iter().map(|row| (row.map_index, row.value)).collect());
                runner.sources.put(run, *task, stamp, &values);
                values
            }
        };
        let list = values.iter().map(|(_, value)| Arc::clone(value)).collect();
        found.insert(*task, (values, list));
    }
    Ok(Sources(found))
}

async fn read(
    runner: &Runner,
    dag: &CompiledDag,
    run: RunPk,
    tasks: &[TaskIdx],
) -> Result<Vec<XComRow>, BoxError> {
    let ids: Vec<TaskId> = tasks.iter().map(|task| dag.task(*task).id.clone()).collect();
    let filter = XComFilter { run, tasks: ids, map_index: None, key: Some(RETURN_VALUE.to_owned()) };
    Ok(runner.store.xcoms(&filter).await?)
}
