//! What became of a run: outputs as typed values, states, tries, reasons, and the order in which things happened.

use std::any::TypeId;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use futures_util::FutureExt as _;
use serde_json::Value;

use crate::asset::{AssetEvent, AssetEventFilter};
use crate::compile::{CompiledDag, GraphFormat};
use crate::decide::explain::reasons;
use crate::id::{MapIndex, TaskId};
use crate::operator::Operator;
use crate::state::{RunState, TaskState};
use crate::store::{RunRow, SlotKey, XComFilter};
use crate::time::Clock as _;
use crate::xcom::{Data, RETURN_VALUE, XComValue};

use super::journal::TestEvent;
use super::setup::complain;
use super::world::{Stage, at_once};

/// One task instance of a run.
#[derive(Debug, Clone)]
pub struct TestTask {
    /// The task.
    pub task_id: TaskId,
    /// The instance.
    pub map_index: MapIndex,
    /// Where it stands.
    pub state: TaskState,
    /// How many tries were begun.
    pub tries: u32,
    /// The error, why it was skipped, or why it does not start.
    pub reason: Option<String>,
    /// Its template fields as rendered in its last attempt: an object.
    pub rendered: Value,
    operator: TypeId,
    output: Option<Arc<XComValue>>,
}

impl TestTask {
    /// `name`, or `name[3]` for an instance of a mapped task.
    pub fn label(&self) -> String {
        match self.map_index.get() {
            Some(index) => format!("{}[{index}]", self.task_id),
            None => self.task_id.to_string(),
        }
    }
}

/// A run as it is at one moment.
#[derive(Debug, Clone)]
pub struct TestRun {
    run: RunRow,
    dag: Arc<CompiledDag>,
    tasks: Vec<TestTask>,
    events: Vec<TestEvent>,
    asset_events: Vec<AssetEvent>,
}

impl TestRun {
    pub(super) fn of(stage: &Stage, run: &RunRow) -> Self {
        let store = stage.airflow.store();
        let view = stage.airflow.view(&run.dag_id, run.pk).now_or_never();
        let view = view.expect("the store in memory answers at once").expect("the run was just listed");
        let filter = XComFilter {
            run: run.pk,
            tasks: Vec::new(),
            map_index: None,
            key: Some(RETURN_VALUE.to_owned()),
        };
        let values = at_once(store.xcoms(&filter));
        let mut values: HashMap<(TaskId, MapIndex), Arc<XComValue>> =
            values.into_iter().map(|row| ((row.task_id, row.map_index), row.value)).collect();
        let mut rendered: HashMap<(TaskId, MapIndex), Value> = HashMap::new();
        for attempt in at_once(store.attempts(run.pk, None)) {
            if let Some(fields) = attempt.end.and_then(|end| end.rendered) {
                rendered.insert((attempt.start.task_id, attempt.start.map_index), fields);
            }
        }
        let taken: HashMap<SlotKey, i64> = at_once(store.slots()).into_iter().collect();
        let pools = at_once(store.pools());
        let used = |slot: &SlotKey| {
            let count = taken.get(slot).copied().unwrap_or(0);
            match slot {
                SlotKey::Pool(name) => {
                    let pool = pools.iter().find(|pool| pool.spec.name == *name)?;
                    Some((pool.occupied(), Some(i64::from(pool.spec.slots))))
                }
                _ => Some((count, None)),
            }
        };
        let paused = at_once(store.dag(&run.dag_id)).is_some_and(|dag| dag.is_paused);
        let dag = Arc::clone(&view.dag);
        let mut tasks = Vec::new();
        for (key, ti) in view.all() {
            let id = dag.task(key.task).id.clone();
            let mut reason = ti.data.reason.clone();
            if !ti.state.is_finished() && reason.is_none() {
                let why = reasons(&view, key, paused, &used, stage.clock.now());
                reason = (!why.is_empty()).then(|| why.join("; "));
            }
            tasks.push(TestTask {
                map_index: key.map,
                state: ti.state,
                tries: ti.data.try_number,
                reason,
                rendered: rendered
                    .remove(&(id.clone(), key.map))
                    .unwrap_or_else(|| Value::Object(<_>::default())),
                operator: dag.task(key.task).operator.operator_type(),
                output: values.remove(&(id.clone(), key.map)),
                task_id: id,
            });
        }
        let made = AssetEventFilter {
            dag_id: Some(run.dag_id.clone()),
            run_id: Some(run.run_id.clone()),
            ..AssetEventFilter::default()
        };
        let asset_events = at_once(store.asset_events(&made));
        Self { run: view.run.clone(), dag, tasks, events: stage.journal.of_run(run.pk), asset_events }
    }

    /// The run: its id, its dates, its state.
    pub fn run(&self) -> &RunRow {
        &self.run
    }

    /// How the run stands.
    pub fn state(&self) -> RunState {
        self.run.state
    }

    /// All task instances, in the order of the definition.
    pub fn tasks(&self) -> &[TestTask] {
        &self.tasks
    }

    /// Fails the test unless the run succeeded.
    ///
    /// # Panics
    ///
    /// With the state, tries and reason of every task.
    #[track_caller]
    pub fn assert_success(&self) {
        self.assert_state(RunState::Success);
    }

    /// Fails the test unless the run failed.
    ///
    /// # Panics
    ///
    /// With the state, tries and reason of every task.
    #[track_caller]
    pub fn assert_failed(&self) {
        self.assert_state(RunState::Failed);
    }

    #[track_caller]
    fn assert_state(&self, wanted: RunState) {
        if self.run.state != wanted {
            complain(&format!("the run should be {wanted}, but:\n{self}"));
        }
    }

    /// What the task made from `O` returned; `None` if it returned nothing or did not succeed.
    ///
    /// # Panics
    ///
    /// If no task or several are made from `O`; use [`output_of`](Self::output_of) or [`outputs`](Self::outputs).
    #[track_caller]
    pub fn output<O: Operator>(&self) -> Option<O::Output> {
        decode(self.only::<O>())
    }

    /// What all instances of all tasks made from `O` returned, in the order of the definition and of their index;
    /// those that returned nothing are left out.
    ///
    /// # Panics
    ///
    /// If no task is made from `O`.
    #[track_caller]
    pub fn outputs<O: Operator>(&self) -> Vec<O::Output> {
        self.made_from::<O>().into_iter().filter_map(decode).collect()
    }

    /// What the task of this id returned.
    ///
    /// # Panics
    ///
    /// If there is no such task, it is mapped, or its result is no `T`.
    #[track_caller]
    pub fn output_of<T: Data>(&self, task_id: &str) -> Option<T> {
        decode(self.one(task_id))
    }

    /// What all instances of the task of this id returned, in order.
    ///
    /// # Panics
    ///
    /// If there is no such task, or a result is no `T`.
    #[track_caller]
    pub fn outputs_of<T: Data>(&self, task_id: &str) -> Vec<T> {
        self.of_id(task_id).into_iter().filter_map(decode).collect()
    }

    /// The state of the task made from `O`.
    ///
    /// # Panics
    ///
    /// If no task instance or several are made from `O`; use [`state_of_id`](Self::state_of_id) or
    /// [`states_of`](Self::states_of).
    #[track_caller]
    pub fn state_of<O: Operator>(&self) -> TaskState {
        self.only::<O>().state
    }

    /// The states of all instances of all tasks made from `O`.
    ///
    /// # Panics
    ///
    /// If no task is made from `O`.
    #[track_caller]
    pub fn states_of<O: Operator>(&self) -> Vec<TaskState> {
        self.made_from::<O>().into_iter().map(|task| task.state).collect()
    }

    /// The state of the task of this id, or of an instance as in `price[2]`.
    ///
    /// # Panics
    ///
    /// If there is no such task, or it is mapped and no instance is named.
    #[track_caller]
    pub fn state_of_id(&self, task_id: &str) -> TaskState {
        self.one(task_id).state
    }

    /// How many tries of the task made from `O` were begun.
    ///
    /// # Panics
    ///
    /// As [`state_of`](Self::state_of).
    #[track_caller]
    pub fn tries_of<O: Operator>(&self) -> u32 {
        self.only::<O>().tries
    }

    /// How many tries of the task of this id, or of an instance as in `price[2]`, were begun.
    ///
    /// # Panics
    ///
    /// As [`state_of_id`](Self::state_of_id).
    #[track_caller]
    pub fn tries_of_id(&self, task_id: &str) -> u32 {
        self.one(task_id).tries
    }

    /// The error of the task of this id, or of an instance, why it was skipped, or why it does not start.
    ///
    /// # Panics
    ///
    /// As [`state_of_id`](Self::state_of_id).
    #[track_caller]
    pub fn reason_of_id(&self, task_id: &str) -> Option<&str> {
        self.one(task_id).reason.as_deref()
    }

    /// The template fields of the task made from `O` as its last attempt rendered them: an object.
    ///
    /// # Panics
    ///
    /// As [`state_of`](Self::state_of).
    #[track_caller]
    pub fn rendered<O: Operator>(&self) -> &Value {
        &self.only::<O>().rendered
    }

    /// The template fields of the task of this id, or of an instance as in `price[2]`.
    ///
    /// # Panics
    ///
    /// As [`state_of_id`](Self::state_of_id).
    #[track_caller]
    pub fn rendered_of(&self, task_id: &str) -> &Value {
        &self.one(task_id).rendered
    }

    /// The events of assets that the run has made, by time.
    pub fn asset_events(&self) -> &[AssetEvent] {
        &self.asset_events
    }

    /// What happened to its task instances, in order. Only the newest of very long simulations are kept.
    pub fn events(&self) -> &[TestEvent] {
        &self.events
    }

    /// The task instances in the order in which they were started, once for each attempt.
    pub fn started(&self) -> Vec<String> {
        let started = self.events.iter().filter(|event| event.to == TaskState::Running);
        let label = |event: &TestEvent| match event.map_index.get() {
            Some(index) => format!("{}[{index}]", event.task_id),
            None => event.task_id.to_string(),
        };
        started.map(label).collect()
    }

    /// One line for each task instance: name, state, tries, reason. Made for snapshots.
    pub fn states(&self) -> String {
        let width = self.tasks.iter().map(|task| task.label().chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        for task in &self.tasks {
            let reason = task.reason.as_deref().map(|why| format!("  {why}")).unwrap_or_default();
            let line = format!("{:width$}  {:<15}  {}{reason}", task.label(), task.state, task.tries);
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }

    /// The dag as a Mermaid flowchart with the states of this run.
    pub fn graph(&self) -> String {
        let state = |id: &TaskId| self.tasks.iter().find(|task| task.task_id == *id).map(|task| task.state);
        self.dag.draw(GraphFormat::Mermaid, &state)
    }

    #[track_caller]
    fn made_from<O: Operator>(&self) -> Vec<&TestTask> {
        let of = TypeId::of::<O>();
        if !self.dag.tasks.iter().any(|task| task.operator.operator_type() == of) {
            complain(&format!("dag `{}` has no task made from `{}`", self.dag.id, O::NAME));
        }
        self.tasks.iter().filter(|task| task.operator == of).collect()
    }

    #[track_caller]
    fn only<O: Operator>(&self) -> &TestTask {
        let found = self.made_from::<O>();
        match found.as_slice() {
            [one] => one,
            many => complain(&format!(
                "{} task instances are made from `{}`: {}; name one by its id, or ask for all",
                many.len(),
                O::NAME,
                labels(many)
            )),
        }
    }

    #[track_caller]
    fn of_id(&self, task_id: &str) -> Vec<&TestTask> {
        if self.dag.find(task_id).is_none() {
            let all: Vec<&TestTask> = self.tasks.iter().collect();
            complain(&format!("dag `{}` has no task `{task_id}`, but: {}", self.dag.id, labels(&all)));
        }
        self.tasks.iter().filter(|task| task.task_id == *task_id).collect()
    }

    #[track_caller]
    fn one(&self, label: &str) -> &TestTask {
        if let Some(task) = self.tasks.iter().find(|task| task.label() == label) {
            return task;
        }
        let found = self.of_id(label);
        complain(&format!("`{label}` has {} instances; name one: {}", found.len(), labels(&found)))
    }
}

impl fmt::Display for TestRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self.run.reason.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
        writeln!(f, "run `{}` of dag `{}` is {}{reason}", self.run.run_id, self.run.dag_id, self.run.state)?;
        f.write_str(&self.states())
    }
}

#[track_caller]
fn decode<T: Data>(task: &TestTask) -> Option<T> {
    let value = task.output.as_ref().filter(|_| task.state == TaskState::Success)?;
    match value.decode() {
        Ok(value) => Some(value),
        Err(error) => complain(&format!(
            "`{}` returned `{}`, which is no `{}`: {error}",
            task.label(),
            value.text(),
            std::any::type_name::<T>()
        )),
    }
}

fn labels(tasks: &[&TestTask]) -> String {
    let names: Vec<String> = tasks.iter().map(|task| task.label()).collect();
    names.join(", ")
}
