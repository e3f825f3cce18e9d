//! One run in memory: the state of each task instance and, for each task, how many of its direct upstream instances
//! are in each state.
//!
//! A view is a cache. It carries epochs and the run's generation, so a change that was decided on an old view is
//! refused by the store, and the view is loaded again. Applying one change touches the task's downstream only; a
//! property test holds the counts equal to a recount.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::compile::CompiledDag;
use crate::id::{MapIndex, RunPk, TaskIdx, TiKey};
use crate::map::HashMap;
use crate::operator::{InputRef, RunInfo, ScopeId};
use crate::state::{Counts, TaskState, Transition};
use crate::store::{PastRun, RunRow, RunSnapshot, SkipRecord, TiData, TiRow};

/// One task instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Ti {
    /// Where it stands.
    pub state: TaskState,
    /// How many changes it has seen.
    pub epoch: u32,
    /// The rest.
    pub data: TiData,
}

impl Ti {
    fn new() -> Self {
        Self { state: TaskState::None, epoch: 0, data: TiData::default() }
    }
}

/// One task of a run with its instances.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskView {
    /// Stands for the task until it is expanded; the only instance of a task that is not mapped.
    single: Option<Ti>,
    /// The instances of an expanded task, by map index.
    instances: Vec<Ti>,
    /// Whether `instances` counts instead of `single`.
    expanded: bool,
    /// How many of its instances are in each state.
    own: Counts,
    /// How many instances of its direct upstream tasks are in each state.
    up: Counts,
    /// What it decided about those after it, by map index.
    skips: BTreeMap<MapIndex, SkipRecord>,
}

impl TaskView {
    /// How many of its instances are in each state.
    pub fn own(&self) -> &Counts {
        &self.own
    }

    /// How many instances of its direct upstream tasks are in each state.
    pub fn up(&self) -> &Counts {
        &self.up
    }

    /// Whether it is mapped and its instances are known.
    pub fn is_expanded(&self) -> bool {
        self.expanded
    }

    /// What it decided about those after it.
    pub fn skips(&self) -> impl Iterator<Item = (&MapIndex, &SkipRecord)> {
        self.skips.iter()
    }
}

/// One run in memory.
#[derive(Debug, Clone)]
pub struct RunView {
    /// The run.
    pub run: RunRow,
    /// The version of the dag it runs.
    pub dag: Arc<CompiledDag>,
    tasks: Vec<TaskView>,
    lengths: HashMap<ScopeId, u32>,
    past: Option<BTreeMap<TiKey, TaskState>>,
    past_run: Option<RunPk>,
    totals: Counts,
    source_stamp: u64,
    /// Whether any branch has decided anything.
    has_skips: bool,
}

impl RunView {
    /// A run as loaded. Rows of tasks that the dag no longer has are passed over.
    pub fn load(snapshot: RunSnapshot, dag: Arc<CompiledDag>) -> Self {
        let admitted = |task| dag.admits(task, snapshot.run.logical_date);
        let fresh = |task| TaskView {
            single: admitted(task).then(Ti::new),
            instances: Vec::new(),
            expanded: false,
            own: Counts::default(),
            up: Counts::default(),
            skips: BTreeMap::new(),
        };
        let mut view = Self {
            tasks: dag.indices().map(fresh).collect(),
            lengths: HashMap::default(),
            past_run: snapshot.past.as_ref().map(|past| past.pk),
            past: snapshot.past.map(|past| past_states(&dag, &past)),
            totals: Counts::default(),
            source_stamp: 0,
            has_skips: !snapshot.skips.is_empty(),
            run: snapshot.run,
            dag: Arc::clone(&dag),
        };
        for expansion in snapshot.expansions {
            let scope = dag.scopes.iter().position(|scope| scope.owner == expansion.owner);
            if let Some(scope) = scope.and_then(|scope| u32::try_from(scope).ok()) {
                view.lengths.insert(ScopeId(scope), expansion.length);
                view.grow(ScopeId(scope), expansion.length);
            }
        }
        for row in snapshot.tis {
            view.put(row);
        }
        for (task, map, record) in snapshot.skips {
            if let Some(task) = dag.find(task.as_str()) {
                view.tasks[task.index()].skips.insert(map, record);
            }
        }
        view.recount();
        view
    }

    fn put(&mut self, row: TiRow) {
        let Some(task) = self.dag.find(row.task_id.as_str()) else { return };
        let ti = Ti { state: row.state, epoch: row.epoch, data: row.data };
        let view = &mut self.tasks[task.index()];
        match row.map_index.get() {
            None => view.single = Some(ti),
            Some(index) => {
                let index = index as usize;
                if view.instances.len() <= index {
                    view.instances.resize_with(index + 1, Ti::new);
                }
                view.instances[index] = ti;
                view.expanded = true;
            }
        }
    }

    fn grow(&mut self, scope: ScopeId, length: u32) {
        if length == 0 {
            return;
        }
        let dag = Arc::clone(&self.dag);
        for task in &dag.scope(scope).tasks {
            let view = &mut self.tasks[task.index()];
            if view.instances.len() < length as usize && (view.single.is_some() || view.expanded) {
                view.instances.resize_with(length as usize, Ti::new);
                view.expanded = true;
            }
        }
    }

    /// Counts everything again from the instances.
    fn recount(&mut self) {
        let mut own = vec![Counts::default(); self.tasks.len()];
        self.totals = Counts::default();
        for (task, counts) in self.tasks.iter().zip(&mut own) {
            for ti in live(task) {
                counts.add(ti.state);
                self.totals.add(ti.state);
            }
        }
        let dag = Arc::clone(&self.dag);
        for (task, view) in dag.tasks.iter().zip(&mut self.tasks) {
            view.up = Counts::default();
            for up in &task.upstream {
                view.up.merge(&own[up.index()]);
            }
        }
        for (view, own) in self.tasks.iter_mut().zip(own) {
            view.own = own;
        }
    }

    /// Whether the counts that were kept up to date equal a count from scratch.
    #[doc(hidden)]
    pub fn counts_are_right(&self) -> bool {
        let mut again = self.clone();
        again.recount();
        again.tasks == self.tasks && again.totals == self.totals
    }

    /// A task with its counts.
    pub fn task(&self, task: TaskIdx) -> &TaskView {
        &self.tasks[task.index()]
    }

    /// An instance, if it is part of the run.
    pub fn ti(&self, key: TiKey) -> Option<&Ti> {
        let view = self.tasks.get(key.task.index())?;
        match key.map.get() {
            None => view.single.as_ref().filter(|_| !view.expanded),
            Some(index) => view.instances.get(index as usize).filter(|_| view.expanded),
        }
    }

    /// The instances of a task that count: one of map index -1, or those of an expanded mapping.
    pub fn instances(&self, task: TaskIdx) -> impl Iterator<Item = (TiKey, &Ti)> {
        let view = self.task(task);
        let single = view.single.iter().filter(|_| !view.expanded).map(move |ti| (TiKey::single(task), ti));
        let many = view.instances.iter().enumerate().filter(|_| view.expanded);
        let key = move |index: usize| TiKey {
            task,
            map: MapIndex::from(u32::try_from(index).expect("a mapped task has fewer than 2^32 instances")),
        };
        single.chain(many.map(move |(index, ti)| (key(index), ti)))
    }

    /// All instances that count.
    pub fn all(&self) -> impl Iterator<Item = (TiKey, &Ti)> {
        self.dag.indices().flat_map(|task| self.instances(task))
    }

    /// How many instances of the run are in each state.
    pub fn totals(&self) -> &Counts {
        &self.totals
    }

    /// The length of a mapping, once it is known.
    pub fn length(&self, scope: ScopeId) -> Option<u32> {
        self.lengths.get(&scope).copied()
    }

    /// The state of an instance in the run before; `None` in the inner option if the run has no such instance, in
    /// the outer one if there is no run before.
    pub fn past(&self, key: TiKey) -> Option<Option<TaskState>> {
        Some(self.past.as_ref()?.get(&key).copied())
    }

    /// The states of all instances of a task in the run before; one `none` if it has no row there.
    pub fn past_of_task(&self, task: TaskIdx) -> Vec<TaskState> {
        let Some(past) = &self.past else { return Vec::new() };
        let first = TiKey { task, map: MapIndex(i32::MIN) };
        let last = TiKey { task, map: MapIndex(i32::MAX) };
        let states: Vec<TaskState> = past.range(first..=last).map(|(_, state)| *state).collect();
        if states.is_empty() { vec![TaskState::None] } else { states }
    }

    /// The run before, if there is one and it was asked for.
    pub fn past_run(&self) -> Option<RunPk> {
        self.past_run
    }

    /// Takes over a change in the run before.
    pub fn note_past(&mut self, key: TiKey, state: TaskState) {
        if let Some(past) = &mut self.past {
            past.insert(key, state);
        }
    }

    /// Grows when a value that something is mapped over may have changed.
    pub fn source_stamp(&self) -> u64 {
        self.source_stamp
    }

    /// Sets the stamp under which values may be kept.
    pub fn set_source_stamp(&mut self, stamp: u64) {
        self.source_stamp = stamp;
    }

    /// Applies a change of one instance. Costs what the task has downstream.
    ///
    /// # Panics
    ///
    /// If the instance is not part of the run, or not in the state that the change starts from.
    pub fn apply(&mut self, key: TiKey, change: Transition, data: TiData) {
        let (from, to) = (change.from(), change.to());
        let view = &mut self.tasks[key.task.index()];
        let ti = match key.map.get() {
            None => view.single.as_mut(),
            Some(index) => view.instances.get_mut(index as usize),
        };
        let ti = ti.expect("a change is of an instance that the view has");
        assert_eq!(ti.state, from, "a change starts where the instance stands");
        ti.state = to;
        ti.epoch += 1;
        ti.data = data;
        let counts = if key.map.get().is_some() == view.expanded { &mut view.own } else { return };
        counts.remove(from);
        counts.add(to);
        self.totals.remove(from);
        self.totals.add(to);
        let dag = Arc::clone(&self.dag);
        let task = dag.task(key.task);
        for down in &task.downstream {
            let up = &mut self.tasks[down.index()].up;
            up.remove(from);
            up.add(to);
        }
        if task.is_map_source {
            self.source_stamp += 1;
        }
    }

    /// Whether a branch may have decided something: if not, nobody has to look at those before a task.
    pub fn has_skips(&self) -> bool {
        self.has_skips
    }

    /// Notes what a branch decided.
    pub fn set_skip(&mut self, key: TiKey, record: Option<SkipRecord>) {
        self.has_skips |= record.is_some();
        let skips = &mut self.tasks[key.task.index()].skips;
        match record {
            Some(record) => drop(skips.insert(key.map, record)),
            None => drop(skips.remove(&key.map)),
        }
    }

    /// Gives the tasks of a mapping `length` instances. Instances beyond it stay; the caller has removed them.
    pub fn expand(&mut self, scope: ScopeId, length: u32) {
        self.lengths.insert(scope, length);
        self.source_stamp += 1;
        if length == 0 {
            return;
        }
        let dag = Arc::clone(&self.dag);
        for task in &dag.scope(scope).tasks {
            let before = self.tasks[task.index()].own;
            self.grow_one(*task, length);
            let after = self.tasks[task.index()].own;
            self.totals.replace(&before, &after);
            for down in &dag.task(*task).downstream {
                self.tasks[down.index()].up.replace(&before, &after);
            }
        }
    }

    fn grow_one(&mut self, task: TaskIdx, length: u32) {
        let view = &mut self.tasks[task.index()];
        if view.single.is_none() && !view.expanded {
            return;
        }
        if view.instances.len() < length as usize {
            view.instances.resize_with(length as usize, Ti::new);
        }
        view.expanded = true;
        view.own = Counts::default();
        for ti in &view.instances {
            view.own.add(ti.state);
        }
    }

    /// How long the value of a source is, for a mapping over it; `None` while it is not known.
    pub fn source_length(&self, source: InputRef) -> Option<usize> {
        match source {
            InputRef::Output(task) => {
                let ti = self.ti(TiKey::single(task)).filter(|ti| ti.state == TaskState::Success)?;
                ti.data.map_length.map(|length| length as usize)
            }
            InputRef::Collected(task) => {
                let view = self.task(task);
                let done = view.own.finished() == view.own.total();
                let stored = |ti: &Ti| ti.state == TaskState::Success && ti.data.has_result;
                done.then(|| self.instances(task).filter(|(_, ti)| stored(ti)).count())
            }
            InputRef::Element(_) => None,
        }
    }

    /// What attempts get to know of the run.
    pub fn info(&self) -> RunInfo {
        super::claim::run_info(&self.run)
    }
}

/// The instances of a task that count.
fn live(task: &TaskView) -> impl Iterator<Item = &Ti> {
    let single = task.single.iter().filter(|_| !task.expanded);
    single.chain(task.instances.iter().filter(|_| task.expanded))
}

fn past_states(dag: &CompiledDag, past: &PastRun) -> BTreeMap<TiKey, TaskState> {
    let state =
        |row: &TiRow| Some((TiKey { task: dag.find(row.task_id.as_str())?, map: row.map_index }, row.state));
    past.tis.iter().filter_map(state).collect()
}
