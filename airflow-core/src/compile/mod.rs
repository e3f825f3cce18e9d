//! Turns a definition into a [`CompiledDag`]: checks everything, reports all mistakes at once, and lays the graph out
//! so that decisions cost what they touch.
//!
//! Start with [`DagDef::compile`]. A compiled dag never changes; runs keep the one they began with.

mod check;
mod deadline;
mod fingerprint;
mod graph;
mod priority;
mod setup;
mod show;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use petgraph::graph::DiGraph;
use serde_json::Value;

use crate::asset::{AssetCondition, AssetRef};
use crate::callback::{Callback, Callbacks};
use crate::dag::{DagDef, ParamsSpec, Place, Problem, Role, TaskSettings};
use crate::id::{DagId, MapIndex, TaskId, TaskIdx, TiKey};
use crate::map::HashMap;
use crate::operator::{AnyOperator, Expand, InputRef, ScopeId};
use crate::template::TemplateOptions;
use crate::timetable::{TimeRestriction, Timetable};

pub(crate) use deadline::SLA;
pub use show::GraphFormat;

/// How many runs of a dag may be active, unless it says otherwise.
pub const DEFAULT_MAX_ACTIVE_RUNS: u32 = 16;

/// How many task instances of a dag may be active over all runs, unless it says otherwise.
pub const DEFAULT_MAX_ACTIVE_TASKS: u32 = 16;

/// All mistakes of one dag.
#[derive(Debug, Clone, PartialEq)]
pub struct DefinitionErrors {
    /// The dag.
    pub dag_id: String,
    /// Where it is defined.
    pub place: Place,
    /// What is wrong, in the order of the definition.
    pub problems: Vec<Problem>,
}

impl fmt::Display for DefinitionErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = match self.problems.len() {
            1 => "a mistake".to_owned(),
            n => format!("{n} mistakes"),
        };
        write!(f, "dag `{}` ({}) has {count}:", self.dag_id, self.place)?;
        for problem in &self.problems {
            write!(f, "\n  - {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DefinitionErrors {}

/// The options of a compiled dag.
#[derive(Debug, Clone)]
pub struct DagSettings {
    /// The zone of its schedule and of dates without offset.
    pub timezone: Tz,
    /// Between which dates runs are made.
    pub restriction: TimeRestriction,
    /// How many runs may be running.
    pub max_active_runs: u32,
    /// How many task instances may be active over all runs.
    pub max_active_tasks: u32,
    /// How long a run may take.
    pub dagrun_timeout: Option<Duration>,
    /// Parameters.
    pub params: Option<ParamsSpec>,
    /// Labels.
    pub tags: Vec<String>,
    /// Who answers for it and its tasks, without repetition.
    pub owners: String,
    /// One line.
    pub description: Option<String>,
    /// Documentation in Markdown.
    pub doc: Option<String>,
    /// The name shown to people.
    pub display_name: Option<String>,
    /// Whether it begins paused; `None` = as configured.
    pub paused_at_creation: Option<bool>,
    /// Whether the first failure stops the run.
    pub fail_fast: bool,
    /// Called when a run ends.
    pub callbacks: Callbacks,
    /// By when its runs should be done.
    pub deadlines: Vec<CompiledDeadline>,
    /// After how many failed runs in a row it pauses itself; 0 = never.
    pub max_consecutive_failed_dag_runs: u32,
    /// How its templates are rendered.
    pub templates: Arc<TemplateOptions>,
}

/// From when the time of a deadline counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadlineStart {
    /// When the run was queued.
    QueuedAt,
    /// Its logical date.
    LogicalDate,
    /// It is over at this moment.
    Fixed(DateTime<Utc>),
    /// When the run was queued, and as long after it as the last `max_runs` took on average, if there were `min_runs`.
    AverageRuntime {
        /// How many at most.
        max_runs: u32,
        /// How many at least.
        min_runs: u32,
    },
    /// The end of its data interval.
    IntervalEnd,
}

/// A deadline of the runs of a dag.
#[derive(Debug, Clone)]
pub struct CompiledDeadline {
    /// Its name, unique in the dag.
    pub name: String,
    /// The task that it is about, if it is its `sla`; of scheduled runs only. Else it is about the whole run.
    pub task: Option<TaskId>,
    /// From when its time counts.
    pub start: DeadlineStart,
    /// How long it is.
    pub after: Duration,
    /// Who is told.
    pub callbacks: Vec<Callback>,
}

/// What a task decides about those after it, with indices.
#[derive(Debug, Clone, PartialEq)]
pub enum CompiledBranching {
    /// The JSON of each variant with the tasks it leads to.
    Typed(Vec<(Value, Box<[TaskIdx]>)>),
    /// The ids of tasks or groups.
    ByIds,
    /// All or nothing.
    ShortCircuit {
        /// Everything downstream, or only what follows directly.
        all_downstream: bool,
    },
}

/// One task of a compiled dag.
pub struct CompiledTask {
    /// Its id, groups included.
    pub id: TaskId,
    /// What it does.
    pub operator: Arc<dyn AnyOperator>,
    /// Its options, shared by tasks with the same.
    pub settings: Arc<TaskSettings>,
    /// The group it is in.
    pub group: Option<usize>,
    /// The tasks directly before it.
    pub upstream: Box<[TaskIdx]>,
    /// The tasks directly after it.
    pub downstream: Box<[TaskIdx]>,
    /// The mapping it is in, its own or that of its group.
    pub scope: Option<ScopeId>,
    /// What it decides about those after it.
    pub branching: Option<CompiledBranching>,
    /// What part it plays.
    pub role: Role,
    /// The setups further up that must have succeeded.
    pub setups: Box<[TaskIdx]>,
    /// The tasks further down that need it as a setup: the other side of [`setups`](Self::setups).
    pub needed_by: Box<[TaskIdx]>,
    /// What it takes from upstream.
    pub inputs: Box<[InputRef]>,
    /// Whether it has template fields.
    pub has_templates: bool,
    /// Whether something is mapped over its result.
    pub is_map_source: bool,
    /// Whether a task takes its result by itself, not as one of a list of all instances.
    pub is_input: bool,
    /// Where it is defined.
    pub place: Place,
}

impl fmt::Debug for CompiledTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledTask")
            .field("id", &self.id)
            .field("operator", &self.operator.name())
            .finish_non_exhaustive()
    }
}

impl CompiledTask {
    /// Whether it is a teardown.
    pub fn is_teardown(&self) -> bool {
        matches!(self.role, Role::Teardown { .. })
    }

    /// Whether it is done without an executor: it does nothing and nobody wants to hear of it.
    pub fn is_elided(&self) -> bool {
        let callbacks = &self.settings.callbacks;
        let is_silent = callbacks.on_execute.is_empty() && callbacks.on_success.is_empty();
        self.operator.is_empty() && is_silent && self.settings.outlets.is_empty()
    }
}

/// A mapping of a compiled dag.
#[derive(Debug, Clone)]
pub struct CompiledScope {
    /// The id of the mapped task or group.
    pub owner: TaskId,
    /// Whether it maps a group: its tasks pair up by index.
    pub is_group: bool,
    /// The tasks in it.
    pub tasks: Box<[TaskIdx]>,
    /// What it runs over.
    pub expand: Expand,
}

/// A group of a compiled dag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledGroup {
    /// Its id, parents included.
    pub id: String,
    /// The group it is in.
    pub parent: Option<usize>,
    /// A text shown with it.
    pub tooltip: Option<String>,
    /// Whether it is mapped.
    pub is_mapped: bool,
}

/// A dag that passed all checks.
pub struct CompiledDag {
    /// Its id.
    pub id: DagId,
    /// Its options.
    pub settings: DagSettings,
    /// When its runs happen.
    pub timetable: Arc<dyn Timetable>,
    /// Identifies this version: ids, edges, options, operators and types.
    pub fingerprint: String,
    /// Its tasks, in the order of their definition.
    pub tasks: Vec<CompiledTask>,
    /// Its groups, in the order of their definition.
    pub groups: Vec<CompiledGroup>,
    /// Its mappings, by [`ScopeId`].
    pub scopes: Vec<CompiledScope>,
    /// The tasks and their order; edge weights are the labels.
    pub graph: DiGraph<TaskIdx, Option<String>>,
    /// All tasks, each after those it depends on.
    pub order: Vec<TaskIdx>,
    /// The tasks that decide how a run ends.
    pub leaves: Vec<TaskIdx>,
    /// Whether any task looks at the run before.
    pub looks_back: bool,
    /// Where it is defined.
    pub place: Place,
    by_id: HashMap<TaskId, TaskIdx>,
    weights: OnceLock<Vec<i32>>,
}

impl fmt::Debug for CompiledDag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledDag")
            .field("id", &self.id)
            .field("tasks", &self.tasks.len())
            .finish_non_exhaustive()
    }
}

impl CompiledDag {
    /// The task at `index`.
    ///
    /// # Panics
    ///
    /// If the index is of another dag.
    pub fn task(&self, index: TaskIdx) -> &CompiledTask {
        &self.tasks[index.index()]
    }

    /// The index of a task.
    pub fn find(&self, id: &str) -> Option<TaskIdx> {
        self.by_id.get(id).copied()
    }

    /// All indices.
    pub fn indices(&self) -> impl Iterator<Item = TaskIdx> + use<> {
        (0..self.tasks.len()).map(TaskIdx::from)
    }

    /// A mapping.
    ///
    /// # Panics
    ///
    /// If the scope is of another dag.
    pub fn scope(&self, scope: ScopeId) -> &CompiledScope {
        &self.scopes[scope.0 as usize]
    }

    /// Whether instance `i` of `below` belongs to instance `i` of `above`: both are in one mapped group.
    pub fn is_paired(&self, above: TaskIdx, below: TaskIdx) -> bool {
        match (self.task(above).scope, self.task(below).scope) {
            (Some(a), Some(b)) => a == b && self.scope(a).is_group,
            _ => false,
        }
    }

    /// The instance of `above` whose result the instance `below` takes if it takes one: the one of its own index inside
    /// of a mapped group.
    pub fn source_of(&self, above: TaskIdx, below: TiKey) -> TiKey {
        let map = if self.is_paired(above, below.task) { below.map } else { MapIndex::UNMAPPED };
        TiKey { task: above, map }
    }

    /// Whether the trigger rule of instance `i` of `below` counts instance `i` of `above` only. Rules that do not wait
    /// for all upstream instances count every instance, as in Airflow.
    pub fn counts_pairwise(&self, above: TaskIdx, below: TaskIdx) -> bool {
        self.is_paired(above, below) && !self.task(below).settings.trigger_rule.is_fast()
    }

    /// The priority of a task: its weight and that of its relatives, as its rule says.
    pub fn priority(&self, task: TaskIdx) -> i32 {
        self.weights.get_or_init(|| priority::weights(self))[task.index()]
    }

    /// Everything after a task, itself not included, in definition order.
    pub fn descendants(&self, task: TaskIdx) -> Vec<TaskIdx> {
        self.reach(task, |t| &t.downstream)
    }

    /// Everything before a task, itself not included, in definition order.
    pub fn ancestors(&self, task: TaskIdx) -> Vec<TaskIdx> {
        self.reach(task, |t| &t.upstream)
    }

    fn reach(&self, start: TaskIdx, next: impl Fn(&CompiledTask) -> &[TaskIdx]) -> Vec<TaskIdx> {
        let mut seen = vec![false; self.tasks.len()];
        let mut stack = vec![start];
        while let Some(task) = stack.pop() {
            for other in next(self.task(task)) {
                if !std::mem::replace(&mut seen[other.index()], true) {
                    stack.push(*other);
                }
            }
        }
        self.indices().filter(|task| seen[task.index()]).collect()
    }

    /// The tasks without upstream.
    pub fn roots(&self) -> Vec<TaskIdx> {
        self.indices().filter(|task| self.task(*task).upstream.is_empty()).collect()
    }

    /// The tasks of a group and of the groups in it, by the id of the group.
    pub fn group_tasks(&self, group: &str) -> Vec<TaskIdx> {
        let Some(group) = self.groups.iter().position(|g| g.id == group) else { return Vec::new() };
        let inside = |mut at: Option<usize>| {
            while let Some(index) = at {
                if index == group {
                    return true;
                }
                at = self.groups[index].parent;
            }
            false
        };
        self.indices().filter(|task| inside(self.task(*task).group)).collect()
    }

    /// Whether a task has instances in runs with this logical date.
    pub fn admits(&self, task: TaskIdx, logical_date: DateTime<Utc>) -> bool {
        let settings = &self.task(task).settings;
        settings.start_date.is_none_or(|start| start <= logical_date)
            && settings.end_date.is_none_or(|end| logical_date <= end)
    }

    /// The assets and aliases it names, with the place of each: those of its schedule, then those of its tasks.
    pub fn assets(&self) -> impl Iterator<Item = (&AssetRef, Place)> {
        let timed = self.timetable.asset_condition().map(AssetCondition::refs).unwrap_or_default();
        let of_tasks = self.tasks.iter().flat_map(|task| {
            let all = task.settings.outlets.iter().chain(task.settings.inlets.iter());
            all.map(|asset| (asset, task.place))
        });
        timed.into_iter().map(|asset| (asset, self.place)).chain(of_tasks)
    }

    /// The parameters of a run: the defaults with `conf` over them, checked against the schema.
    ///
    /// # Errors
    ///
    /// Says which parameter is wrong and why.
    pub fn params(&self, conf: Option<&Value>) -> Result<Value, String> {
        check::merge_params(self.settings.params.as_ref(), conf)
    }
}

impl DagDef {
    /// Checks the definition and makes a [`CompiledDag`] of it.
    ///
    /// # Errors
    ///
    /// [`DefinitionErrors`] lists every mistake with its place.
    pub fn compile(&self) -> Result<CompiledDag, DefinitionErrors> {
        let mut problems = self.definition.problems.clone();
        let checked = check::options(self, &mut problems);
        let graph = graph::lay_out(self, &mut problems);
        let settings = check::tasks(self, &mut problems);
        let slas = deadline::of_tasks(self, &settings, &mut problems);
        match (checked, graph) {
            (Some((mut dag_settings, timetable)), Some(graph)) => {
                dag_settings.deadlines.extend(slas);
                let dag = assemble(self, dag_settings, timetable, settings, graph, &mut problems);
                if problems.is_empty() {
                    return Ok(dag);
                }
            }
            _ => debug_assert!(!problems.is_empty(), "what is missing was reported"),
        }
        problems.dedup();
        Err(DefinitionErrors { dag_id: self.id.clone(), place: self.place, problems })
    }
}

/// Of which tasks the results are among these inputs.
fn outputs(tasks: usize, inputs: impl Iterator<Item = InputRef>) -> Vec<bool> {
    let mut found = vec![false; tasks];
    for input in inputs {
        if let InputRef::Output(task) = input {
            found[task.index()] = true;
        }
    }
    found
}

fn assemble(
    def: &DagDef,
    settings: DagSettings,
    timetable: Arc<dyn Timetable>,
    task_settings: Vec<Arc<TaskSettings>>,
    graph: graph::Layout,
    problems: &mut Vec<Problem>,
) -> CompiledDag {
    let scopes = graph::scopes(def);
    let known = &def.definition.tasks;
    let is_source = outputs(known.len(), scopes.iter().flat_map(|scope| scope.expand.tasks()));
    let is_input =
        outputs(known.len(), known.iter().flat_map(|task| task.description.inputs.iter().copied()));
    let graph::Layout { graph, order, mut upstream, mut downstream, leaves_of_groups, roots_of_groups } =
        graph;
    let mut tasks = Vec::with_capacity(task_settings.len());
    for (index, (task, settings)) in known.iter().zip(task_settings).enumerate() {
        tasks.push(CompiledTask {
            id: task.id.clone(),
            operator: Arc::clone(&task.operator),
            settings,
            group: task.group,
            upstream: std::mem::take(&mut upstream[index]).into(),
            downstream: std::mem::take(&mut downstream[index]).into(),
            scope: graph::scope_of(def, index),
            branching: task.branching.as_ref().map(|branching| graph::branching(branching, &roots_of_groups)),
            role: task.role,
            setups: Box::default(),
            needed_by: Box::default(),
            inputs: task.description.inputs.clone().into(),
            has_templates: !task.description.templates.is_empty(),
            is_map_source: is_source[index],
            is_input: is_input[index],
            place: task.place,
        });
    }
    drop(leaves_of_groups);
    let groups = def.definition.groups.iter().map(|group| CompiledGroup {
        id: group.id.clone(),
        parent: group.parent,
        tooltip: group.options.tooltip.clone(),
        is_mapped: group.scope.is_some(),
    });
    let by_id =
        tasks.iter().enumerate().map(|(index, task)| (task.id.clone(), TaskIdx::from(index))).collect();
    let mut dag = CompiledDag {
        id: DagId::new(&def.id),
        settings,
        timetable,
        fingerprint: String::new(),
        looks_back: tasks.iter().any(|task: &CompiledTask| task.settings.depends_on_past),
        tasks,
        groups: groups.collect(),
        scopes,
        graph,
        order,
        leaves: Vec::new(),
        place: def.place,
        by_id,
        weights: OnceLock::new(),
    };
    dag.leaves = setup::deciding_leaves(&dag);
    setup::link(&mut dag);
    check::rules(&dag, problems);
    check::mappings(&dag, problems);
    dag.fingerprint = fingerprint::of(&dag);
    dag
}
