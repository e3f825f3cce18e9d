//! [`Dag`]: collects what a definition adds. It never refuses anything; mistakes are noted for `compile`.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use crate::id::{TaskId, TaskIdx};
use crate::map::HashMap;
use crate::operator::{AnyOperator, Branch, Description, Elem, Expand, InputRef, Operator, ScopeId, erase};

use super::edges::{Endpoint, NodeSet};
use super::handle::{Group, Handle, Mapped, Nodes};
use super::mapping::{MapOver, Outside};
use super::options::TaskOptions;
use super::problem::{Place, Problem, ProblemKind};
use super::spec::{IntoSpec, Role, Spec};

/// Numbers the definitions of a process, so that a handle knows its own.
static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

/// With how many sets of options those of a further task are compared.
const MAX_KINDS: usize = 8;

/// How a task decides which of its downstream tasks run.
#[derive(Debug, Clone, PartialEq)]
pub enum Branching {
    /// By the variant it returns: the JSON of each variant with the ends it leads to.
    Typed(Vec<(Value, Vec<Endpoint>)>),
    /// By the task or group ids it returns.
    ByIds,
    /// All or nothing: `false`, null, zero and empty values skip what follows.
    ShortCircuit {
        /// Skip everything downstream, or only the direct downstream tasks and let their rules decide further.
        all_downstream: bool,
    },
}

/// One task as defined.
#[derive(Clone)]
pub(crate) struct TaskDef {
    pub(crate) id: TaskId,
    pub(crate) operator: Arc<dyn AnyOperator>,
    pub(crate) description: Description,
    /// Shared by tasks with the same options.
    pub(crate) options: Arc<TaskOptions>,
    pub(crate) group: Option<usize>,
    pub(crate) scope: Option<ScopeId>,
    pub(crate) branching: Option<Branching>,
    pub(crate) role: Role,
    pub(crate) place: Place,
}

/// One group as defined.
#[derive(Debug, Clone)]
pub(crate) struct GroupDef {
    pub(crate) id: String,
    pub(crate) parent: Option<usize>,
    pub(crate) options: TaskGroup,
    pub(crate) scope: Option<ScopeId>,
}

/// One edge as defined.
#[derive(Debug, Clone)]
pub(crate) struct EdgeDef {
    pub(crate) from: Endpoint,
    pub(crate) to: Endpoint,
    pub(crate) label: Option<String>,
    pub(crate) place: Place,
}

/// What a scope maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScopeOwner {
    /// One task.
    Task(TaskIdx),
    /// A whole group.
    Group(usize),
}

/// All that a definition added.
#[derive(Default, Clone)]
pub(crate) struct Definition {
    pub(crate) tasks: Vec<TaskDef>,
    pub(crate) groups: Vec<GroupDef>,
    pub(crate) edges: Vec<EdgeDef>,
    pub(crate) scopes: Vec<(ScopeOwner, Expand)>,
    pub(crate) problems: Vec<Problem>,
    ids: HashMap<TaskId, Place>,
    next_suffix: HashMap<String, u32>,
    open: Vec<usize>,
    kinds: Vec<Arc<TaskOptions>>,
}

/// The options of a group of tasks.
#[derive(Debug, Clone, Default)]
pub struct TaskGroup {
    pub(crate) id: String,
    pub(crate) prefix_ids: bool,
    pub(crate) add_suffix: bool,
    pub(crate) tooltip: Option<String>,
    pub(crate) defaults: TaskOptions,
}

impl TaskGroup {
    /// A group; its id stands in front of the ids of its tasks, with a dot.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), prefix_ids: true, ..Self::default() }
    }

    /// Leaves the ids of its tasks as they are.
    #[must_use]
    pub fn no_prefix(mut self) -> Self {
        self.prefix_ids = false;
        self
    }

    /// If the id is taken, takes the first free one of `id__1`, `id__2`, …. Without this a second group of one id is a
    /// mistake.
    ///
    /// ```
    /// # use airflow_core::dag::{DagDef, TaskExt, TaskGroup};
    /// # use airflow_core::operator::Empty;
    /// let dag = DagDef::new("nightly").define(|d| {
    ///     for _ in 0..2 {
    ///         d.add_group(TaskGroup::new("copy").add_suffix_on_collision(), |d| {
    ///             d.add(Empty::new().id("read"));
    ///         });
    ///     }
    /// });
    /// let ids: Vec<String> = dag.compile()?.tasks.iter().map(|task| task.id.to_string()).collect();
    /// assert_eq!(ids, ["copy.read", "copy__1.read"]);
    /// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
    /// ```
    #[must_use]
    pub fn add_suffix_on_collision(mut self) -> Self {
        self.add_suffix = true;
        self
    }

    /// A text shown with the group.
    #[must_use]
    pub fn tooltip(mut self, text: impl Into<String>) -> Self {
        self.tooltip = Some(text.into());
        self
    }

    /// Options for its tasks, weaker than their own.
    #[must_use]
    pub fn default_args(mut self, options: TaskOptions) -> Self {
        self.defaults = options;
        self
    }
}

/// A dag that is being defined. The function given to [`DagDef::define`](super::DagDef::define) gets one.
pub struct Dag {
    id: String,
    token: u64,
    definition: RefCell<Definition>,
    next_scope: Cell<u32>,
}

impl fmt::Debug for Dag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dag").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Dag {
    pub(crate) fn new(id: &str) -> Self {
        let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
        Self { id: id.to_owned(), token, definition: RefCell::default(), next_scope: Cell::new(0) }
    }

    /// What was added, without what only the adding needed.
    pub(crate) fn finish(self) -> Definition {
        let definition = self.definition.into_inner();
        let (ids, next_suffix, kinds) = Default::default();
        Definition { ids, next_suffix, kinds, ..definition }
    }

    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    pub(crate) fn task_id(&self, task: TaskIdx) -> TaskId {
        self.definition.borrow().tasks[task.index()].id.clone()
    }

    pub(crate) fn report(&self, problem: Problem) {
        self.definition.borrow_mut().problems.push(problem);
    }

    /// Adds a task and returns its handle: pass it to tasks that want its result, or order it with `>>`.
    ///
    /// ```
    /// use airflow_core::dag::{DagDef, TaskExt};
    /// use airflow_core::operator::Empty;
    ///
    /// let dag = DagDef::new("d").define(|d| {
    ///     let a = d.add(Empty::new().id("a"));
    ///     let b = d.add(Empty::new().id("b").retries(2));
    ///     let c = d.add(Empty::new().id("c"));
    ///     d.order([a, b] >> c);
    /// });
    /// assert_eq!(dag.compile()?.roots().len(), 2);
    /// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
    /// ```
    #[track_caller]
    pub fn add<S: IntoSpec>(&self, task: S) -> Handle<'_, <S::Op as Operator>::Output> {
        let place = Place::caller();
        Handle::new(self, self.insert(task.into_spec(), None, place))
    }

    /// Adds a task that runs once for each element of `over`: a list that an upstream task returns, a mapped task, a
    /// constant list, or several of them through [`zip`](super::zip), [`product`](super::product) and
    /// [`concat`](super::concat). How many instances there are is known when the run gets there.
    ///
    /// ```
    /// use airflow_core::dag::{DagDef, TaskExt};
    /// use airflow_core::operator::Empty;
    ///
    /// let dag = DagDef::new("d").define(|d| {
    ///     // The element goes into the task: `d.map(orders, |order| price::call(order))`.
    ///     d.map(["a", "b", "c"].map(String::from), |_name| Empty::new().id("each"));
    /// });
    /// assert!(dag.compile()?.tasks[0].scope.is_some());
    /// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
    /// ```
    #[track_caller]
    pub fn map<C, S>(
        &self,
        over: C,
        task: impl FnOnce(Elem<C::Item>) -> S,
    ) -> Mapped<'_, <S::Op as Operator>::Output>
    where
        C: MapOver,
        S: IntoSpec,
    {
        let place = Place::caller();
        let (scope, expand) = self.open_scope(over, place);
        let spec = task(Elem::new(scope, self.token)).into_spec();
        let task = self.insert(spec, Some(scope), place);
        let mut definition = self.definition.borrow_mut();
        definition.wait_for_sources(&expand, Endpoint::Task(task), place);
        definition.scopes.push((ScopeOwner::Task(task), expand));
        drop(definition);
        Mapped::new(self, task)
    }

    fn open_scope<C: MapOver>(&self, over: C, place: Place) -> (ScopeId, Expand) {
        let scope = ScopeId(self.next_scope.replace(self.next_scope.get() + 1));
        let mut tokens = Vec::new();
        let expand = over.expand(&mut tokens).unwrap_or_else(|error| {
            self.report(Problem { kind: ProblemKind::BadConstant(error), place });
            Expand::Literal(Vec::new())
        });
        for token in tokens {
            self.check_token(token, place);
        }
        (scope, expand)
    }

    /// Adds tasks as a group, whose id stands in front of theirs. Returns what the function returns.
    ///
    /// ```
    /// use airflow_core::dag::{DagDef, TaskExt};
    /// use airflow_core::operator::Empty;
    ///
    /// let dag = DagDef::new("house").define(|d| {
    ///     let plan = d.add(Empty::new().id("plan"));
    ///     let walls = d.group("walls", |d| [d.add(Empty::new().id("north")), d.add(Empty::new().id("south"))]);
    ///     d.order(plan >> walls);
    /// });
    /// let ids: Vec<String> = dag.compile()?.tasks.iter().map(|task| task.id.to_string()).collect();
    /// assert_eq!(ids, ["plan", "walls.north", "walls.south"]);
    /// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
    /// ```
    #[track_caller]
    pub fn group<'d, R>(&'d self, id: impl Into<String>, define: impl FnOnce(&'d Self) -> R) -> R {
        self.add_group(TaskGroup::new(id), define).1
    }

    /// As [`group`](Self::group), with options; returns the group as well, to order it as a whole.
    #[track_caller]
    pub fn add_group<'d, R>(
        &'d self,
        group: TaskGroup,
        define: impl FnOnce(&'d Self) -> R,
    ) -> (Group<'d>, R) {
        let group = self.open_group(group, None, Place::caller());
        let result = define(self);
        self.definition.borrow_mut().open.pop();
        (Group { dag: self, group }, result)
    }

    /// Adds a group that runs once for each element of `over`. Instance `i` of a task in it depends on instance `i` of
    /// the other tasks in it. What the function returns is seen from outside as mapped.
    #[track_caller]
    pub fn map_group<'d, C, R>(
        &'d self,
        group: impl Into<String>,
        over: C,
        define: impl FnOnce(&'d Self, Elem<C::Item>) -> R,
    ) -> R::Out
    where
        C: MapOver,
        R: Outside,
    {
        let place = Place::caller();
        let (scope, expand) = self.open_scope(over, place);
        let group = self.open_group(TaskGroup::new(group), Some(scope), place);
        // The scope gets its place in the list before scopes that open inside it.
        let slot = self.definition.borrow().scopes.len();
        let result = define(self, Elem::new(scope, self.token));
        let mut definition = self.definition.borrow_mut();
        definition.wait_for_sources(&expand, Endpoint::Group(group), place);
        definition.scopes.insert(slot, (ScopeOwner::Group(group), expand));
        definition.open.pop();
        drop(definition);
        result.outside()
    }

    /// Lets the result of `kind` decide which tasks run: `leads_to` names them for each variant, and the compiler
    /// proves that no variant is forgotten. Tasks that other variants lead to, and this one does not, are skipped.
    ///
    /// ```
    /// # use airflow_core::dag::{DagDef, Nodes, TaskExt};
    /// # use airflow_core::operator::{Branch, Description, Empty, Operator, Result, TaskContext};
    /// # use airflow_core::state::TaskState;
    /// # use airflow_core::testing::DagTest;
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// // #[derive(Serialize, Deserialize, Branch)]
    /// enum Load {
    ///     Full,
    ///     Nothing,
    /// }
    /// # impl Branch for Load {
    /// #     fn variants() -> Vec<Self> { vec![Self::Full, Self::Nothing] }
    /// #     fn name(&self) -> &'static str { match self { Self::Full => "Full", Self::Nothing => "Nothing" } }
    /// # }
    /// # struct Choose;
    /// # impl Operator for Choose {
    /// #     type Output = Load;
    /// #     const NAME: &'static str = "choose";
    /// #     fn describe(&self, _: &mut Description) {}
    /// #     async fn execute(&self, _: &TaskContext) -> Result<Load> { Ok(Load::Nothing) }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let dag = DagDef::new("d").define(|d| {
    ///     let load = d.add(Empty::new().id("load"));
    ///     let choice = d.add(Choose); // returns `Load::Nothing`
    ///     d.branch(choice, |kind| match kind {
    ///         Load::Full => load.into(),
    ///         Load::Nothing => Nodes::none(),
    ///     });
    /// });
    /// let run = DagTest::new(dag).run().await;
    /// assert_eq!(run.state_of_id("load"), TaskState::Skipped);
    /// # }
    /// ```
    #[track_caller]
    pub fn branch<'d, B: Branch>(&'d self, kind: Handle<'d, B>, leads_to: impl Fn(B) -> Nodes) {
        let place = Place::caller();
        let mut arms = Vec::new();
        for variant in B::variants() {
            let name = variant.name();
            let json = serde_json::to_value(&variant).unwrap_or_default();
            if arms.iter().any(|(other, _)| *other == json) {
                let why = format!("the variant `{name}` is written as `{json}`, like another one");
                self.report(Problem { kind: ProblemKind::BadBranch { task: kind.id(), why }, place });
            }
            let nodes = leads_to(variant).0;
            self.connect(&[(self.token, Endpoint::Task(kind.task))], &nodes, Some(name), place);
            arms.push((json, nodes.into_iter().map(|(_, end)| end).collect()));
        }
        self.set_branching(kind.task, Branching::Typed(arms), place);
    }

    /// Lets the ids that `choice` returns decide which of its direct downstream tasks run. Prefer
    /// [`branch`](Self::branch), where the compiler knows the ways.
    #[track_caller]
    pub fn branch_by_id<'d>(&'d self, choice: Handle<'d, Vec<String>>) {
        self.set_branching(choice.task, Branching::ByIds, Place::caller());
    }

    /// Skips everything after `condition` if it returns `false`, whatever the trigger rules there say.
    #[track_caller]
    pub fn short_circuit<'d>(&'d self, condition: Handle<'d, bool>) -> Handle<'d, bool> {
        self.set_branching(condition.task, Branching::ShortCircuit { all_downstream: true }, Place::caller());
        condition
    }

    /// Skips the tasks directly after `condition` if it returns `false`; the rules of the tasks after them decide
    /// what happens there.
    #[track_caller]
    pub fn skip_unless<'d>(&'d self, condition: Handle<'d, bool>) -> Handle<'d, bool> {
        self.set_branching(
            condition.task,
            Branching::ShortCircuit { all_downstream: false },
            Place::caller(),
        );
        condition
    }

    fn set_branching(&self, task: TaskIdx, branching: Branching, place: Place) {
        let mut definition = self.definition.borrow_mut();
        let def = &mut definition.tasks[task.index()];
        if def.branching.is_some() {
            let kind = ProblemKind::BadBranch { task: def.id.to_string(), why: "it branches twice".into() };
            definition.problems.push(Problem { kind, place });
        } else {
            def.branching = Some(branching);
        }
    }

    /// Orders `right` after `left`: what `left >> right` does.
    #[track_caller]
    pub(crate) fn link(&self, left: &impl NodeSet, right: &impl NodeSet, label: Option<&str>) {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        left.endpoints(&mut from);
        right.endpoints(&mut to);
        self.connect(&from, &to, label, Place::caller());
    }

    pub(crate) fn connect(
        &self,
        from: &[(u64, Endpoint)],
        to: &[(u64, Endpoint)],
        label: Option<&str>,
        place: Place,
    ) {
        if let Some((token, _)) = from.iter().chain(to).find(|(token, _)| *token != self.token) {
            self.check_token(*token, place);
            return;
        }
        let mut definition = self.definition.borrow_mut();
        for (_, from) in from {
            for (_, to) in to {
                let label = label.map(str::to_owned);
                definition.edges.push(EdgeDef { from: *from, to: *to, label, place });
            }
        }
    }

    fn check_token(&self, token: u64, place: Place) {
        if token != self.token {
            let kind = ProblemKind::ForeignHandle { dag: self.id.clone() };
            self.report(Problem { kind, place });
        }
    }

    fn open_group(&self, options: TaskGroup, scope: Option<ScopeId>, place: Place) -> usize {
        let mut definition = self.definition.borrow_mut();
        if let Err(error) = crate::id::check_group_id(&options.id) {
            definition.problems.push(Problem { kind: ProblemKind::BadId { what: "group", error }, place });
        }
        let id = if options.add_suffix {
            definition.free_id(&options.id)
        } else {
            definition.full_id(&options.id)
        };
        let id = id.into_owned();
        definition.claim(&id, place);
        let parent = definition.open.last().copied();
        let group = definition.groups.len();
        definition.groups.push(GroupDef { id, parent, options, scope });
        definition.open.push(group);
        group
    }

    fn insert<O: Operator>(&self, spec: Spec<O>, scope: Option<ScopeId>, place: Place) -> TaskIdx {
        let options = spec.effective_options();
        let is_named = spec.id.is_some();
        let local = spec.id.unwrap_or_else(|| spec.operator.default_id());
        let operator = erase(spec.operator);
        let description = operator.description();
        let foreign = description.builders.iter().any(|token| *token != self.token);
        description.builders.iter().for_each(|token| self.check_token(*token, place));
        let mut definition = self.definition.borrow_mut();
        let options = definition.shared(options);
        let task = TaskIdx::from(definition.tasks.len());
        let id = if is_named { definition.full_id(&local) } else { definition.free_id(&local) };
        if let Err(error) = crate::id::check_id(&id) {
            definition.problems.push(Problem { kind: ProblemKind::BadId { what: "task", error }, place });
        }
        let id = definition.claim(&id, place);
        let group = definition.open.last().copied();
        for input in description.inputs.iter().filter(|_| !foreign) {
            if let InputRef::Output(from) | InputRef::Collected(from) = input {
                let (from, to) = (Endpoint::Task(*from), Endpoint::Task(task));
                definition.edges.push(EdgeDef { from, to, label: None, place });
            }
        }
        definition.tasks.push(TaskDef {
            id,
            operator,
            options,
            group,
            scope,
            branching: None,
            role: spec.role,
            place,
            description,
        });
        for (_, end) in spec.teardown_of.iter().filter(|(token, _)| *token == self.token) {
            // What is torn down is a setup, whether it was called one or not.
            if let Endpoint::Task(setup) = end
                && let def = &mut definition.tasks[setup.index()]
                && def.role == Role::Work
            {
                def.role = Role::Setup;
            }
        }
        drop(definition);
        if !spec.teardown_of.is_empty() {
            self.connect(&spec.teardown_of, &[(self.token, Endpoint::Task(task))], None, place);
        }
        task
    }
}

impl Definition {
    /// What is mapped starts after what it is mapped over.
    fn wait_for_sources(&mut self, expand: &Expand, to: Endpoint, place: Place) {
        for source in expand.tasks() {
            if let InputRef::Output(from) | InputRef::Collected(from) = source {
                self.edges.push(EdgeDef { from: Endpoint::Task(from), to, label: None, place });
            }
        }
    }

    /// The id with that of the group around it in front, which already has its own parents in front. A group without
    /// prefix ends the line: outer groups do not count either, as in Airflow.
    fn full_id<'l>(&self, local: &'l str) -> Cow<'l, str> {
        match self.open.last().map(|index| &self.groups[*index]) {
            Some(group) if group.options.prefix_ids => format!("{}.{local}", group.id).into(),
            _ => local.into(),
        }
    }

    /// The first free one of `name`, `name__1`, `name__2`, …
    fn free_id<'l>(&mut self, local: &'l str) -> Cow<'l, str> {
        let base = self.full_id(local);
        if !self.ids.contains_key(&*base) {
            return base;
        }
        let mut suffix = self.next_suffix.get(&*base).copied().unwrap_or(1);
        while self.ids.contains_key(format!("{base}__{suffix}").as_str()) {
            suffix += 1;
        }
        self.next_suffix.insert(base.clone().into_owned(), suffix + 1);
        format!("{base}__{suffix}").into()
    }

    /// Notes that an id is taken.
    fn claim(&mut self, id: &str, place: Place) -> TaskId {
        let id = TaskId::new(id);
        if let Some(first) = self.ids.get(&id) {
            let kind = ProblemKind::DuplicateId { id: id.to_string(), first: *first };
            self.problems.push(Problem { kind, place });
        } else {
            self.ids.insert(id.clone(), place);
        }
        id
    }

    /// The options, shared with a task added lately that has the same.
    fn shared(&mut self, options: TaskOptions) -> Arc<TaskOptions> {
        if let Some(known) = self.kinds.iter().find(|known| ***known == options) {
            return Arc::clone(known);
        }
        let options = Arc::new(options);
        if self.kinds.len() == MAX_KINDS {
            self.kinds.remove(0);
        }
        self.kinds.push(Arc::clone(&options));
        options
    }
}
