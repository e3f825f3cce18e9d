//! Fetches what the inputs of an attempt name.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::compile::CompiledDag;
use crate::id::{MapIndex, RunPk, TaskId, TaskIdx, TiKey};
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
    let given: HashMap<TiKey, &Arc<XComValue>> =
        attempt.given.iter().map(|(key, value)| (*key, value)).collect();
    let mut wanted: Vec<TaskIdx> = Vec::new();
    for input in &task.inputs {
        let (InputRef::Output(from) | InputRef::Collected(from)) = *input else { continue };
        inputs.names.insert(from, dag.task(from).id.to_string());
        match given.get(&dag.source_of(from, attempt.key())) {
            Some(value) if matches!(input, InputRef::Output(_)) => {
                inputs.outputs.insert(from, Some(Arc::clone(value)));
            }
            _ => wanted.push(from),
        }
    }
    if !wanted.is_empty() {
        let rows = read(runner, dag, attempt.run.pk, &wanted).await?;
        let mut of_task: HashMap<&TaskId, Vec<&XComRow>> = HashMap::new();
        rows.iter().for_each(|row| of_task.entry(&row.task_id).or_default().push(row));
        for input in &task.inputs {
            let (InputRef::Output(from) | InputRef::Collected(from)) = *input else { continue };
            let rows = of_task.get(&dag.task(from).id).map_or(&[][..], Vec::as_slice);
            if let InputRef::Collected(_) = input {
                inputs.collected.insert(from, rows.iter().map(|row| Arc::clone(&row.value)).collect());
                continue;
            }
            let instance = dag.source_of(from, attempt.key()).map;
            let found = rows.iter().find(|row| row.map_index == instance);
            inputs.outputs.entry(from).or_insert_with(|| found.map(|row| Arc::clone(&row.value)));
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
