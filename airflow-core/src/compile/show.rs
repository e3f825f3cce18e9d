//! Pictures of a dag as text: an indented tree, Graphviz dot, Mermaid, and the structure as JSON.

use std::fmt::Write as _;

use petgraph::visit::EdgeRef as _;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::asset::{AssetCondition, AssetRef};
use crate::dag::Role;
use crate::id::{TaskId, TaskIdx};
use crate::state::TaskState;
use crate::trigger_rule::TriggerRule;

use super::{CompiledDag, CompiledTask};

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
        let quote = |text: &str| {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            format!("\"{text}\"")
        };
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
        // `#` begins the name of a character, and a line ends a statement even between quotes.
        let escape = |text: &str| text.replace('#', "#35;").replace('"', "#quot;").replace('\n', "<br/>");
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
    ///
    /// # Panics
    ///
    /// Never: nothing in it can fail to be written.
    pub fn structure(&self) -> String {
        let mut text = serde_json::to_string(&Structure(self))
            .expect("a structure has text keys and numbers that JSON knows");
        // It grew by doubling, and may be long.
        text.shrink_to_fit();
        text
    }
}

/// A dag as it is written down; see [`CompiledDag::structure`].
struct Structure<'a>(&'a CompiledDag);

impl Serialize for Structure<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let dag = self.0;
        let s = &dag.settings;
        let groups = dag.groups.iter().map(|group| StoredGroup {
            id: &group.id,
            tooltip: group.tooltip.as_deref(),
            mapped: group.is_mapped,
        });
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("dag_id", &dag.id)?;
        map.serialize_entry("schedule", &dag.timetable.summary())?;
        map.serialize_entry("timezone", s.timezone.name())?;
        map.serialize_entry(
            "asset_expression",
            &dag.timetable.asset_condition().map(AssetCondition::expression),
        )?;
        map.serialize_entry("catchup", &s.restriction.catchup)?;
        map.serialize_entry("max_active_runs", &s.max_active_runs)?;
        map.serialize_entry("max_active_tasks", &s.max_active_tasks)?;
        map.serialize_entry("fail_fast", &s.fail_fast)?;
        map.serialize_entry("tags", &s.tags)?;
        map.serialize_entry("doc", &s.doc)?;
        map.serialize_entry("params", &s.params.as_ref().map(|params| &params.schema))?;
        map.serialize_entry("groups", &Each(|| groups.clone()))?;
        map.serialize_entry("tasks", &Each(|| dag.tasks.iter().map(|task| StoredTask::of(dag, task))))?;
        map.end()
    }
}

/// Writes what an iterator yields as a list, without collecting it.
struct Each<F>(F);

impl<F: Fn() -> I, I: Iterator<Item: Serialize>> Serialize for Each<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

#[derive(Serialize)]
struct StoredGroup<'a> {
    id: &'a str,
    tooltip: Option<&'a str>,
    mapped: bool,
}

#[derive(Serialize)]
struct StoredTask<'a> {
    id: &'a TaskId,
    operator: &'a str,
    downstream: Vec<&'a TaskId>,
    group: Option<&'a str>,
    mapped: Option<&'a str>,
    role: &'static str,
    trigger_rule: TriggerRule,
    retries: u32,
    pool: &'a str,
    pool_slots: u32,
    queue: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_active_tis_per_dag: Option<u32>,
    owner: &'a str,
    doc: Option<&'a str>,
    output: &'a str,
    outlets: Vec<&'a str>,
    inlets: Vec<&'a str>,
}

impl<'a> StoredTask<'a> {
    fn of(dag: &'a CompiledDag, task: &'a CompiledTask) -> Self {
        let s = &*task.settings;
        Self {
            id: &task.id,
            operator: task.operator.name(),
            downstream: task.downstream.iter().map(|down| &dag.task(*down).id).collect(),
            group: task.group.map(|group| dag.groups[group].id.as_str()),
            mapped: task.scope.map(|scope| dag.scope(scope).owner.as_str()),
            role: match task.role {
                Role::Work => "work",
                Role::Setup => "setup",
                Role::Teardown { .. } => "teardown",
            },
            trigger_rule: s.trigger_rule,
            retries: s.retry.retries,
            pool: &s.pool,
            pool_slots: s.pool_slots,
            queue: &s.queue,
            max_active_tis_per_dag: s.max_active_tis_per_dag,
            owner: &s.owner,
            doc: s.doc.as_deref(),
            output: task.operator.output_type(),
            outlets: s.outlets.iter().map(AssetRef::name).collect(),
            inlets: s.inlets.iter().map(AssetRef::name).collect(),
        }
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
