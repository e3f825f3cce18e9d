//! Pictures of a dag as text: an indented tree, Graphviz dot, Mermaid, and the structure as JSON.

use std::fmt::Write as _;

use petgraph::visit::EdgeRef as _;
use serde_json::{Value, json};

use crate::asset::{AssetCondition, AssetRef};
use crate::dag::Role;
use crate::id::{TaskId, TaskIdx};
use crate::state::TaskState;

use super::CompiledDag;

/// How a dag is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphFormat {
    /// An indented tree; a task with several upstream tasks is shown once and referred to afterwards.
    Text,
    /// The language of Graphviz.
    Dot,
    /// A Mermaid flowchart.
    Mermaid,
}

impl CompiledDag {
    /// Draws the dag; `state` tells the state of a task, where it is known.
    pub fn draw(&self, format: GraphFormat, state: &dyn Fn(&TaskId) -> Option<TaskState>) -> String {
        match format {
            GraphFormat::Text => self.text(state),
            GraphFormat::Dot => self.dot(state),
            GraphFormat::Mermaid => self.mermaid(state),
        }
    }

    fn text(&self, state: &dyn Fn(&TaskId) -> Option<TaskState>) -> String {
        let mut out = String::new();
        let mut shown = vec![false; self.tasks.len()];
        let mut stack: Vec<(TaskIdx, usize)> = self.roots().into_iter().rev().map(|task| (task, 0)).collect();
        while let Some((task, depth)) = stack.pop() {
            let compiled = self.task(task);
            let again = std::mem::replace(&mut shown[task.index()], true);
            let mapped = if compiled.scope.is_some() { " []" } else { "" };
            let role = match compiled.role {
                Role::Work => "",
                Role::Setup => " (setup)",
                Role::Teardown { .. } => " (teardown)",
            };
            let state = state(&compiled.id).map(|state| format!(" {state}")).unwrap_or_default();
            let seen = if again && !compiled.downstream.is_empty() { " …" } else { "" };
            let indent = "  ".repeat(depth);
            let makes = made(&compiled.settings.outlets);
            let _ = writeln!(out, "{indent}{}{mapped}{role}{state}{seen}{makes}", compiled.id);
            if !again {
                stack.extend(compiled.downstream.iter().rev().map(|next| (*next, depth + 1)));
            }
        }
        out
    }

    fn dot(&self, state: &dyn Fn(&TaskId) -> Option<TaskState>) -> String {
        let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut out = format!(
            "digraph {} {{\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\"];\n",
            quote(self.id.as_str())
        );
        for task in &self.tasks {
            let color = state(&task.id).map_or("white", color);
            let label = format!("{}{}", task.id, if task.scope.is_some() { " []" } else { "" });
            let _ =
                writeln!(out, "  {} [label={}, fillcolor={color}];", quote(task.id.as_str()), quote(&label));
        }
        for (task, assets) in self.assets_of_tasks() {
            for (asset, is_outlet) in assets {
                let (asset, task) = (quote(asset.name()), quote(task.as_str()));
                let (from, to) = if is_outlet { (&task, &asset) } else { (&asset, &task) };
                let _ = writeln!(
                    out,
                    "  {asset} [shape=note, fillcolor=white];\n  {from} -> {to} [style=dashed];"
                );
            }
        }
        for edge in self.graph.edge_references() {
            let ends =
                [edge.source(), edge.target()].map(|node| quote(self.task(self.graph[node]).id.as_str()));
            let label =
                edge.weight().as_ref().map(|label| format!(" [label={}]", quote(label))).unwrap_or_default();
            let _ = writeln!(out, "  {} -> {}{label};", ends[0], ends[1]);
        }
        out.push_str("}\n");
        out
    }

    /// The inlets and outlets (`true`) of each task.
    fn assets_of_tasks(&self) -> impl Iterator<Item = (&TaskId, Vec<(&AssetRef, bool)>)> {
        self.tasks.iter().map(|task| {
            let inlets = task.settings.inlets.iter().map(|asset| (asset, false));
            (&task.id, inlets.chain(task.settings.outlets.iter().map(|asset| (asset, true))).collect())
        })
    }

    fn mermaid(&self, state: &dyn Fn(&TaskId) -> Option<TaskState>) -> String {
        let escape = |text: &str| text.replace('"', "#quot;");
        let mut out = String::from("flowchart LR\n");
        for (index, task) in self.tasks.iter().enumerate() {
            let mapped = if task.scope.is_some() { " []" } else { "" };
            let _ = writeln!(out, "  t{index}[\"{}{mapped}\"]", escape(task.id.as_str()));
            if let Some(state) = state(&task.id) {
                let _ = writeln!(out, "  style t{index} fill:{}", color(state));
            }
        }
        let mut known: Vec<&str> = Vec::new();
        for (index, (_, assets)) in self.assets_of_tasks().enumerate() {
            for (asset, is_outlet) in assets {
                let number = known.iter().position(|name| *name == asset.name()).unwrap_or_else(|| {
                    let _ = writeln!(out, "  a{}[(\"{}\")]", known.len(), escape(asset.name()));
                    known.push(asset.name());
                    known.len() - 1
                });
                let _ = if is_outlet {
                    writeln!(out, "  t{index} -.-> a{number}")
                } else {
                    writeln!(out, "  a{number} -.-> t{index}")
                };
            }
        }
        for edge in self.graph.edge_references() {
            let label =
                edge.weight().as_ref().map(|label| format!("|\"{}\"|", escape(label))).unwrap_or_default();
            let _ = writeln!(out, "  t{} -->{label} t{}", edge.source().index(), edge.target().index());
        }
        out
    }

    /// Tasks, groups, edges and options as JSON: what is stored for each version.
    pub fn structure(&self) -> Value {
        let ids =
            |tasks: &[TaskIdx]| tasks.iter().map(|task| self.task(*task).id.as_str()).collect::<Vec<_>>();
        let names = |assets: &[AssetRef]| assets.iter().map(|one| one.name().to_owned()).collect::<Vec<_>>();
        let tasks: Vec<Value> = self
            .tasks
            .iter()
            .map(|task| {
                let s = &task.settings;
                json!({
                    "id": task.id,
                    "operator": task.operator.name(),
                    "downstream": ids(&task.downstream),
                    "group": task.group.map(|group| self.groups[group].id.as_str()),
                    "mapped": task.scope.map(|scope| self.scope(scope).owner.as_str()),
                    "role": match task.role { Role::Work => "work", Role::Setup => "setup", Role::Teardown { .. } => "teardown" },
                    "trigger_rule": s.trigger_rule,
                    "retries": s.retry.retries,
                    "pool": s.pool,
                    "pool_slots": s.pool_slots,
                    "queue": s.queue,
                    "owner": s.owner,
                    "doc": s.doc,
                    "output": task.operator.output_type(),
                    "outlets": names(&s.outlets),
                    "inlets": names(&s.inlets),
                })
            })
            .collect();
        let groups: Vec<Value> = self
            .groups
            .iter()
            .map(|group| json!({ "id": group.id, "tooltip": group.tooltip, "mapped": group.is_mapped }))
            .collect();
        json!({
            "dag_id": self.id,
            "schedule": self.timetable.summary(),
            "timezone": self.settings.timezone.name(),
            "asset_expression": self.timetable.asset_condition().map(AssetCondition::expression),
            "catchup": self.settings.restriction.catchup,
            "max_active_runs": self.settings.max_active_runs,
            "max_active_tasks": self.settings.max_active_tasks,
            "fail_fast": self.settings.fail_fast,
            "tags": self.settings.tags,
            "doc": self.settings.doc,
            "params": self.settings.params.as_ref().map(|params| &params.schema),
            "groups": groups,
            "tasks": tasks,
        })
    }
}

/// The assets that a task makes, behind its line.
fn made(outlets: &[AssetRef]) -> String {
    let names: Vec<&str> = outlets.iter().map(AssetRef::name).collect();
    if names.is_empty() { String::new() } else { format!(" => {}", names.join(", ")) }
}

/// The colour people know for a state.
pub(crate) fn color(state: TaskState) -> &'static str {
    match state {
        TaskState::None => "lightblue",
        TaskState::Scheduled => "tan",
        TaskState::Queued => "gray",
        TaskState::Running => "lime",
        TaskState::Success => "green",
        TaskState::Failed => "red",
        TaskState::Skipped => "hotpink",
        TaskState::UpstreamFailed => "orange",
        TaskState::UpForRetry => "gold",
        TaskState::UpForReschedule => "turquoise",
        TaskState::Deferred => "mediumpurple",
        TaskState::Restarting => "violet",
        TaskState::Removed => "lightgrey",
    }
}
