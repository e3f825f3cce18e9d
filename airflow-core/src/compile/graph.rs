//! From edges as written, between tasks and groups, to a graph of tasks without circles.

use petgraph::algo::toposort;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::dag::{
    Branching, DagDef, Definition, EdgeDef, Endpoint, Place, Problem, ProblemKind, Role, ScopeOwner,
};
use crate::id::{TaskId, TaskIdx};
use crate::map::{HashSet, RandomState};
use crate::operator::ScopeId;

use super::{CompiledBranching, CompiledScope};

/// The graph and what is derived from it.
pub(super) struct Layout {
    pub graph: DiGraph<TaskIdx, Option<String>>,
    pub order: Vec<TaskIdx>,
    pub upstream: Vec<Vec<TaskIdx>>,
    pub downstream: Vec<Vec<TaskIdx>>,
    pub leaves_of_groups: Vec<Vec<TaskIdx>>,
    pub roots_of_groups: Vec<Vec<TaskIdx>>,
}

/// Resolves groups, removes double edges, orders the tasks. `None` if they wait for each other in a circle.
pub(super) fn lay_out(def: &DagDef, problems: &mut Vec<Problem>) -> Option<Layout> {
    let definition = &def.definition;
    let mut edges = Edges::new(definition);
    let (plain, mut grouped): (Vec<&EdgeDef>, Vec<&EdgeDef>) = definition
        .edges
        .iter()
        .partition(|edge| matches!((edge.from, edge.to), (Endpoint::Task(_), Endpoint::Task(_))));
    for edge in plain {
        edges.add(edge, &[], &[]);
    }
    // Inner groups first: the edges inside a group decide what its first and last tasks are.
    grouped.sort_by_key(|edge| std::cmp::Reverse(edge_depth(definition, edge)));
    for edge in grouped {
        let from = edges.ends(edge.from, false);
        let to = edges.ends(edge.to, true);
        edges.add(edge, &from, &to);
    }
    let groups = 0..definition.groups.len();
    let roots_of_groups = groups.clone().map(|group| edges.ends(Endpoint::Group(group), true)).collect();
    let leaves_of_groups = groups.map(|group| edges.ends(Endpoint::Group(group), false)).collect();
    let Edges { list, upstream, downstream, .. } = edges;

    let mut graph = DiGraph::with_capacity(definition.tasks.len(), list.len());
    for index in 0..definition.tasks.len() {
        graph.add_node(TaskIdx::from(index));
    }
    for (from, to, label, _) in &list {
        graph.add_edge(node(*from), node(*to), label.clone());
    }
    match toposort(&graph, None) {
        Ok(order) => {
            let order = order.into_iter().map(|node| graph[node]).collect();
            Some(Layout { graph, order, upstream, downstream, leaves_of_groups, roots_of_groups })
        }
        Err(cycle) => {
            let path = circle(graph[cycle.node_id()], &downstream);
            let closing = path.len() - 2;
            let last = list.iter().find(|(from, to, ..)| *from == path[closing] && *to == path[closing + 1]);
            let place = last.map_or(def.place, |(.., place)| *place);
            let path = path.iter().map(|task| definition.tasks[task.index()].id.to_string()).collect();
            problems.push(Problem { kind: ProblemKind::Cycle { path }, place });
            None
        }
    }
}

fn node(task: TaskIdx) -> NodeIndex {
    NodeIndex::new(task.index())
}

/// A shortest way from `start` back to itself; `start` is part of a circle.
fn circle(start: TaskIdx, downstream: &[Vec<TaskIdx>]) -> Vec<TaskIdx> {
    let mut came_from: Vec<Option<TaskIdx>> = vec![None; downstream.len()];
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(task) = queue.pop_front() {
        for next in &downstream[task.index()] {
            if *next == start {
                let mut path = vec![start, task];
                let mut at = task;
                while at != start {
                    at = came_from[at.index()].expect("every task in the queue was reached from another one");
                    path.push(at);
                }
                path.reverse();
                return from_first(path);
            }
            if came_from[next.index()].is_none() {
                came_from[next.index()] = Some(task);
                queue.push_back(*next);
            }
        }
    }
    vec![start, start]
}

/// The same circle, begun at the task that was defined first.
fn from_first(mut path: Vec<TaskIdx>) -> Vec<TaskIdx> {
    path.pop();
    let first = path.iter().enumerate().min_by_key(|(_, task)| **task).map_or(0, |(at, _)| at);
    path.rotate_left(first);
    path.extend(path.first().copied());
    path
}

fn depth(definition: &Definition, mut group: Option<usize>) -> usize {
    let mut depth = 0;
    while let Some(index) = group {
        depth += 1;
        group = definition.groups[index].parent;
    }
    depth
}

fn edge_depth(definition: &Definition, edge: &EdgeDef) -> usize {
    let depth_of = |end| match end {
        Endpoint::Group(group) => depth(definition, Some(group)),
        Endpoint::Task(_) => usize::MAX,
    };
    depth_of(edge.from).min(depth_of(edge.to))
}

struct Edges<'a> {
    definition: &'a Definition,
    list: Vec<(TaskIdx, TaskIdx, Option<String>, Place)>,
    seen: HashSet<(TaskIdx, TaskIdx)>,
    upstream: Vec<Vec<TaskIdx>>,
    downstream: Vec<Vec<TaskIdx>>,
}

impl<'a> Edges<'a> {
    fn new(definition: &'a Definition) -> Self {
        let tasks = definition.tasks.len();
        Self {
            definition,
            list: Vec::with_capacity(definition.edges.len()),
            seen: HashSet::with_capacity_and_hasher(definition.edges.len(), RandomState::default()),
            upstream: vec![Vec::new(); tasks],
            downstream: vec![Vec::new(); tasks],
        }
    }

    fn add(&mut self, edge: &EdgeDef, from: &[TaskIdx], to: &[TaskIdx]) {
        let single = |end: &Endpoint| if let Endpoint::Task(task) = end { Some(*task) } else { None };
        let (left, right) = (single(&edge.from), single(&edge.to));
        for a in left.iter().chain(from.iter().filter(|_| left.is_none())) {
            for b in right.iter().chain(to.iter().filter(|_| right.is_none())) {
                if self.seen.insert((*a, *b)) {
                    self.list.push((*a, *b, edge.label.clone(), edge.place));
                    self.upstream[b.index()].push(*a);
                    self.downstream[a.index()].push(*b);
                } else if edge.label.is_some()
                    && let Some(known) = self.list.iter_mut().find(|(x, y, ..)| x == a && y == b)
                {
                    known.2.clone_from(&edge.label);
                }
            }
        }
    }

    fn inside(&self, group: usize) -> Vec<TaskIdx> {
        let within = |mut at: Option<usize>| {
            while let Some(index) = at {
                if index == group {
                    return true;
                }
                at = self.definition.groups[index].parent;
            }
            false
        };
        let tasks = self.definition.tasks.iter().enumerate();
        tasks.filter(|(_, task)| within(task.group)).map(|(index, _)| TaskIdx::from(index)).collect()
    }

    /// The first (`roots`) or last tasks of a group; a task is its own first and last one. Teardowns are no last
    /// tasks: what follows the group does not wait for the clean-up.
    fn ends(&self, end: Endpoint, roots: bool) -> Vec<TaskIdx> {
        let group = match end {
            Endpoint::Task(task) => return vec![task],
            Endpoint::Group(group) => group,
        };
        let inside = self.inside(group);
        let members: HashSet<TaskIdx> = inside.iter().copied().collect();
        let is_teardown =
            |task: &TaskIdx| matches!(self.definition.tasks[task.index()].role, Role::Teardown { .. });
        if roots {
            let first = |task: &TaskIdx| !self.upstream[task.index()].iter().any(|up| members.contains(up));
            return inside.into_iter().filter(first).collect();
        }
        let last = |task: &TaskIdx| {
            !is_teardown(task)
                && !self.downstream[task.index()]
                    .iter()
                    .any(|down| members.contains(down) && !is_teardown(down))
        };
        let found: Vec<TaskIdx> = inside.iter().copied().filter(last).collect();
        if found.is_empty() { inside } else { found }
    }
}

/// The mapping a task is in: its own, or that of the innermost mapped group around it.
pub(super) fn scope_of(def: &DagDef, task: usize) -> Option<ScopeId> {
    let task = &def.definition.tasks[task];
    if task.scope.is_some() {
        return task.scope;
    }
    let mut group = task.group;
    while let Some(index) = group {
        let group_def = &def.definition.groups[index];
        if group_def.scope.is_some() {
            return group_def.scope;
        }
        group = group_def.parent;
    }
    None
}

/// The mappings, by their number.
pub(super) fn scopes(def: &DagDef) -> Vec<CompiledScope> {
    let definition = &def.definition;
    let mut scopes: Vec<Option<CompiledScope>> = vec![None; definition.scopes.len()];
    for (owner, expand) in &definition.scopes {
        let (id, owner_id, is_group) = match owner {
            ScopeOwner::Task(task) => {
                let task = &definition.tasks[task.index()];
                (task.scope, task.id.clone(), false)
            }
            ScopeOwner::Group(group) => {
                let group = &definition.groups[*group];
                (group.scope, TaskId::new(&group.id), true)
            }
        };
        let id = id.expect("a scope belongs to the task or group that opened it");
        scopes[id.0 as usize] =
            Some(CompiledScope { owner: owner_id, is_group, tasks: Box::default(), expand: expand.clone() });
    }
    let mut members: Vec<Vec<TaskIdx>> = vec![Vec::new(); scopes.len()];
    for task in 0..definition.tasks.len() {
        if let Some(scope) = scope_of(def, task) {
            members[scope.0 as usize].push(TaskIdx::from(task));
        }
    }
    let fill = |(scope, tasks): (Option<CompiledScope>, Vec<TaskIdx>)| {
        let scope = scope.expect("every scope that was opened was closed");
        CompiledScope { tasks: tasks.into(), ..scope }
    };
    scopes.into_iter().zip(members).map(fill).collect()
}

/// A branch with the tasks it leads to instead of groups.
pub(super) fn branching(branching: &Branching, roots: &[Vec<TaskIdx>]) -> CompiledBranching {
    match branching {
        Branching::ByIds => CompiledBranching::ByIds,
        Branching::ShortCircuit { all_downstream } => {
            CompiledBranching::ShortCircuit { all_downstream: *all_downstream }
        }
        Branching::Typed(arms) => {
            let tasks = |end: &Endpoint| match end {
                Endpoint::Task(task) => vec![*task],
                Endpoint::Group(group) => roots[*group].clone(),
            };
            let arm = |(json, ends): &(_, Vec<Endpoint>)| {
                (serde_json::Value::clone(json), ends.iter().flat_map(tasks).collect())
            };
            CompiledBranching::Typed(arms.iter().map(arm).collect())
        }
    }
}
