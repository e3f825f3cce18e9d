//! Definitions: what is refused, which edges they make, which ids their tasks get.

use std::collections::{BTreeMap, BTreeSet};

use airflow_core::compile::CompiledDag;
use airflow_core::dag::{Dag, DagDef, Group, Node, NodeSet, Role, TaskExt, TaskGroup, TaskOptions};
use airflow_core::id::{TaskId, TaskIdx};
use airflow_core::operator::Empty;
use airflow_core::trigger_rule::TriggerRule;
use serde_json::{Value, json};

use super::run_outcomes::texts;

/// A task, a group, or a list of them, known by their words in a case.
#[derive(Clone)]
enum Named<'d> {
    Task(Node<'d>),
    Group(Group<'d>),
    List(Vec<Self>),
}

impl NodeSet for Named<'_> {
    fn endpoints(&self, found: &mut Vec<(u64, airflow_core::dag::Endpoint)>) {
        match self {
            Self::Task(node) => node.endpoints(found),
            Self::Group(group) => group.endpoints(found),
            Self::List(list) => list.endpoints(found),
        }
    }

    fn dag(&self) -> Option<&Dag> {
        match self {
            Self::Task(node) => node.dag(),
            Self::Group(group) => group.dag(),
            Self::List(list) => list.dag(),
        }
    }

    fn is_list(&self) -> bool {
        matches!(self, Self::List(_))
    }
}

/// What the cases look at: whether a definition is accepted, and what it became.
fn answer(def: &DagDef) -> (bool, Option<CompiledDag>, String) {
    match def.compile() {
        Ok(dag) => (true, Some(dag), String::new()),
        Err(errors) => (false, None, errors.to_string()),
    }
}

pub(crate) fn check(case: &Value) -> Result<(), String> {
    let expected = &case["expected"];
    if case["group"] == "bad_argument" {
        return argument(&case["operator_argument"], expected);
    }
    if let Some(id) = ["task_id", "dag_id", "group_id"].iter().find_map(|key| case.get(*key))
        && !id.is_string()
    {
        // Other types than text do not compile as an id; where ids are read from data, reading refuses them.
        let read = serde_json::from_value::<TaskId>(id.clone()).map(|id| id.to_string());
        return same(expected, &read);
    }
    let def = match case["group"].as_str().expect("a group") {
        "random_graph" | "partial_subset" => plain(case),
        "task_id" => DagDef::new("d").define(|d| d.add(Empty::new().id(text(&case["task_id"]))).node().id()),
        "dag_id" => DagDef::new(text(&case["dag_id"])),
        "group_id" => DagDef::new("d").define(|d| {
            d.group(text(&case["group_id"]), |d| {
                d.add(Empty::new().id("x"));
            });
        }),
        "duplicate" | "setup_teardown_validation" => described(text(&case["what"])),
        "task_group_prefix" => DagDef::new("d").define(|d| add_tree(d, &case["tree"])),
        "chain" | "chain_linear" | "cross_downstream" | "shift_operators" => joined(case),
        other => return Err(format!("unknown group {other}")),
    };
    let (accepted, dag, why) = answer(&def);
    if expected["accepted"] != accepted {
        return Err(format!("expected accepted = {}, got {accepted} {why}", expected["accepted"]));
    }
    let Some(dag) = dag else { return Ok(()) };
    if case["group"] == "partial_subset" {
        return subset(case, &dag);
    }
    for (key, wanted) in expected.as_object().expect("an object") {
        let got = match key.as_str() {
            "accepted" => continue,
            "one_topological_order" => {
                ordered(&dag)?;
                continue;
            }
            "edges" => edges(&dag),
            "new_edges" => new_edges(&dag),
            "roots" => ids(&dag, dag.roots()),
            "leaves" => ids(&dag, dag.indices().filter(|task| dag.task(*task).downstream.is_empty())),
            "all_upstream" => {
                let all = dag.tasks.iter().map(|task| task.id.as_str());
                let upstream = |id| (id, ids(&dag, dag.ancestors(dag.find(id).expect("a task"))));
                json!(all.map(upstream).collect::<BTreeMap<_, _>>())
            }
            "task_ids" => ids(&dag, dag.indices()),
            "group_ids" => json!(dag.groups.iter().map(|group| &group.id).collect::<BTreeSet<_>>()),
            "dag_id" => json!(dag.id.as_str()),
            "a_is_setup" => json!(dag.task(dag.find("a").expect("task a")).role == Role::Setup),
            other => return Err(format!("unknown expectation {other}")),
        };
        if sorted(wanted) != sorted(&got) {
            return Err(format!("{key}: expected {wanted}, got {got}"));
        }
    }
    Ok(())
}

fn same(expected: &Value, got: &Result<impl std::fmt::Debug, impl std::fmt::Debug>) -> Result<(), String> {
    if expected["accepted"] == got.is_ok() {
        return Ok(());
    }
    Err(format!("expected accepted = {}, got {got:?}", expected["accepted"]))
}

/// An option of a task, as read from data, and a dag with it.
fn argument(given: &Value, expected: &Value) -> Result<(), String> {
    let read = serde_json::from_value::<TaskOptions>(given.clone()).map_err(|error| error.to_string());
    let made = read.and_then(|options| {
        let dag = DagDef::new("d").default_args(options).define(|d| d.add(Empty::new().id("a")).node().id());
        dag.compile().map_err(|errors| errors.to_string())
    });
    same(expected, &made.as_ref().map(|dag| &dag.id))?;
    let Ok(dag) = made else { return Ok(()) };
    let settings = &dag.task(dag.find("a").expect("the task")).settings;
    for (option, wanted) in expected["resulting"].as_object().into_iter().flatten() {
        let got = match option.as_str() {
            "retries" => json!(settings.retry.retries),
            "retry_delay" => json!(settings.retry.delay.as_secs_f64()),
            "execution_timeout" => json!(settings.timeout.map(|timeout| timeout.as_secs_f64())),
            "pool_slots" => json!(settings.pool_slots),
            "priority_weight" => json!(settings.priority_weight),
            "weight_rule" => json!(settings.weight_rule),
            "trigger_rule" => json!(settings.trigger_rule),
            "pool" => json!(settings.pool),
            "queue" => json!(settings.queue),
            "owner" => json!(settings.owner),
            "depends_on_past" => json!(settings.depends_on_past),
            "wait_for_downstream" => json!(settings.wait_for_downstream),
            other => return Err(format!("unknown option {other}")),
        };
        if *wanted != got {
            return Err(format!("{option}: expected {wanted}, got {got}"));
        }
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(list) => {
            let mut list: Vec<Value> = list.clone();
            list.sort_by_key(ToString::to_string);
            Value::Array(list)
        }
        Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), sorted(value))).collect(),
        other => other.clone(),
    }
}

fn ids(dag: &CompiledDag, tasks: impl IntoIterator<Item = TaskIdx>) -> Value {
    json!(tasks.into_iter().map(|task| dag.task(task).id.as_str()).collect::<BTreeSet<_>>())
}

fn edges(dag: &CompiledDag) -> Value {
    let of = |task: TaskIdx| dag.task(task).downstream.iter().map(move |down| (task, *down));
    let named = |(from, to)| [dag.task(from).id.as_str(), dag.task(to).id.as_str()];
    json!(dag.indices().flat_map(of).map(named).collect::<BTreeSet<_>>())
}

/// Every task comes after those it depends on.
fn ordered(dag: &CompiledDag) -> Result<(), String> {
    let place = |task: &TaskIdx| dag.order.iter().position(|other| other == task);
    let wrong = dag.indices().find(|task| dag.task(*task).upstream.iter().any(|up| place(up) >= place(task)));
    wrong.map_or(Ok(()), |task| Err(format!("`{}` comes before what it waits for", dag.task(task).id)))
}

/// Tasks and edges as listed.
fn plain(case: &Value) -> DagDef {
    DagDef::new("d").define(|d| {
        let names = texts(&case["task_ids"]);
        let nodes: Vec<Node<'_>> = names.iter().map(|id| d.add(Empty::new().id(*id)).node()).collect();
        let find = |id: &Value| nodes[names.iter().position(|name| id == *name).expect("a known task")];
        for edge in case["edges"].as_array().expect("edges") {
            d.order(find(&edge[0]) >> find(&edge[1]));
        }
    })
}

/// The cases that are told in words.
fn described(what: &str) -> DagDef {
    DagDef::new("d").define(|d| {
        let add = |id: &str| d.add(Empty::new().id(id));
        match what {
            "two tasks with the same task_id" => {
                add("a");
                add("a");
            }
            "task 'a' in group 'g', then a task 'g.a' outside" => {
                d.group("g", |d| {
                    d.add(Empty::new().id("a"));
                });
                add("g.a");
            }
            "as_teardown() on a task with trigger_rule all_done" => {
                d.add(Empty::new().id("a").trigger_rule(TriggerRule::AllDone).teardown());
            }
            "as_teardown(setups=a) where a was not marked as setup" => {
                let a = add("a");
                d.add(Empty::new().id("b").teardown_of(a));
            }
            repeated if repeated.starts_with("same group_id") => repeat_group(d, repeated),
            other => panic!("unknown case {other}: teach this test to build it"),
        }
    })
}

/// Two or three groups of one id; all but the first may take another one.
fn repeat_group(d: &Dag, what: &str) {
    let times = if what.contains("three") { 3 } else { 2 };
    for (number, task) in ["a", "b", "c"].iter().enumerate().take(times) {
        let mut group = TaskGroup::new("g");
        if number > 0 && what.contains("add_suffix_on_collision=True") {
            group = group.add_suffix_on_collision();
        }
        d.add_group(group, |d| {
            d.add(Empty::new().id(*task));
        });
    }
}

fn add_tree(d: &Dag, tree: &Value) {
    let mut group = TaskGroup::new(text(&tree["group_id"]));
    if tree["prefix_group_id"] == false {
        group = group.no_prefix();
    }
    d.add_group(group, |d| {
        for child in tree["children"].as_array().expect("children") {
            match child.as_str() {
                Some(id) => {
                    d.add(Empty::new().id(id));
                }
                None => add_tree(d, child),
            }
        }
    });
}

/// The tasks and groups that `chain` and the operators are tried on.
fn fixture<'d>(d: &'d Dag) -> BTreeMap<String, Named<'d>> {
    let mut named = BTreeMap::new();
    for number in 1..=9 {
        let id = format!("t{number}");
        named.insert(id.clone(), Named::Task(d.add(Empty::new().id(id)).node()));
    }
    let node = |d: &'d Dag, id: &str| d.add(Empty::new().id(id)).node();
    let (left, ()) = d.add_group(TaskGroup::new("g"), |d| {
        let tasks = ["a", "b", "c"].map(|id| node(d, id));
        d.order(tasks[0] >> [tasks[1], tasks[2]]);
        named.extend(tasks.map(|task| (task.id(), Named::Task(task))));
    });
    let (right, inner) = d.add_group(TaskGroup::new("h"), |d| {
        named.extend(["x", "y"].map(|id| node(d, id)).map(|task| (task.id(), Named::Task(task))));
        let (inner, ()) = d.add_group(TaskGroup::new("inner"), |d| {
            d.order(node(d, "p") >> node(d, "q"));
        });
        inner
    });
    let (empty, ()) = d.add_group(TaskGroup::new("empty"), |_| {});
    let groups = [("g", left), ("h", right), ("h.inner", inner), ("empty", empty)];
    named.extend(groups.map(|(id, group)| (id.to_owned(), Named::Group(group))));
    named
}

fn new_edges(dag: &CompiledDag) -> Value {
    let old = [["g.a", "g.b"], ["g.a", "g.c"], ["h.inner.p", "h.inner.q"]].map(|edge| json!(edge));
    let all = edges(dag);
    Value::Array(all.as_array().expect("a list").iter().filter(|edge| !old.contains(edge)).cloned().collect())
}

fn named<'d>(known: &BTreeMap<String, Named<'d>>, word: &Value) -> Named<'d> {
    match word {
        Value::Array(list) => Named::List(list.iter().map(|word| named(known, word)).collect()),
        word => known[text(word)].clone(),
    }
}

fn joined(case: &Value) -> DagDef {
    DagDef::new("d").define(|d| {
        let known = fixture(d);
        let all: Vec<Named<'_>> = case["arguments"]
            .as_array()
            .map(|words| words.iter().map(|word| named(&known, word)).collect())
            .unwrap_or_default();
        match case["group"].as_str().expect("a group") {
            "chain" => d.chain(all),
            "chain_linear" => d.chain_linear(all),
            "cross_downstream" => d.cross_downstream(all[0].clone(), all[1].clone()),
            _ => shift(d, &known, case["expression"].as_array().expect("an expression")),
        }
    })
}

/// An expression from left to right, through the operators of the types.
fn shift<'d>(d: &'d Dag, known: &BTreeMap<String, Named<'d>>, words: &[Value]) {
    let mut left = named(known, &words[0]);
    for pair in words[1..].chunks(2) {
        let right = named(known, &pair[1]);
        left = match (left, right, pair[0] == ">>") {
            (Named::Task(left), right, true) => left >> right,
            (Named::Task(left), right, false) => left << right,
            (Named::Group(left), right, true) => left >> right,
            (Named::Group(left), right, false) => left << right,
            (Named::List(left), Named::Task(right), true) => Named::Task(left >> right),
            (Named::List(left), Named::Task(right), false) => Named::Task(left << right),
            (Named::List(left), Named::Group(right), true) => Named::Group(left >> right),
            (Named::List(left), Named::Group(right), false) => Named::Group(left << right),
            (Named::List(_), Named::List(_), _) => panic!("two lists are excluded"),
        };
    }
    d.order(left);
}

/// A part of the dag, through the relatives of the chosen tasks.
fn subset(case: &Value, dag: &CompiledDag) -> Result<(), String> {
    let mut chosen: BTreeSet<TaskIdx> = BTreeSet::new();
    for name in texts(&case["task_ids_selected"]) {
        let task = dag.find(name).expect("a known task");
        chosen.insert(task);
        if case["include_upstream"] == true {
            chosen.extend(dag.ancestors(task));
        }
        if case["include_downstream"] == true {
            chosen.extend(dag.descendants(task));
        }
    }
    if case["include_direct_upstream"] == true {
        let direct: Vec<TaskIdx> =
            chosen.iter().flat_map(|task| dag.task(*task).upstream.iter().copied()).collect();
        chosen.extend(direct);
    }
    let inside = ids(dag, chosen);
    let wanted = &case["expected"]["task_ids"];
    if sorted(wanted) == sorted(&inside) { Ok(()) } else { Err(format!("expected {wanted}, got {inside}")) }
}
