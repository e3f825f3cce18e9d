//! Whole runs: how each task and each run ends.

use std::time::Duration;

use airflow_core::dag::{Dag, DagDef, Node, Spec, TaskExt, TaskOptions};
use airflow_core::operator::Operator;
use airflow_core::trigger_rule::TriggerRule;
use serde_json::{Map, Value, json};

use super::engine::{Keeps, Order, Sim, Stood, block_on, mistakes};
use super::script::{Asks, Chooses, Script, Scripted};

/// More than any case has.
const SLOTS: usize = 10_000;

/// Over every store.
pub(crate) fn check(case: &Value) -> Result<(), String> {
    Keeps::ALL
        .into_iter()
        .try_for_each(|keeps| check_over(case, keeps).map_err(|mismatch| format!("{keeps:?}: {mismatch}")))
}

fn check_over(case: &Value, keeps: Keeps) -> Result<(), String> {
    let runs = case["runs"].as_array().expect("runs is a list");
    let def = dag_of(&case["dag"], runs);
    // A dag that stops at its first failure shows what has not begun: one attempt at a time.
    let slots = if case["dag"]["fail_stop"] == true { 1 } else { SLOTS };
    let got = block_on(async {
        let mut sim = Sim::new(def, Order { slots, picked: false }, 1024, keeps)
            .await
            .map_err(|errors| mistakes(&errors.dags))?;
        for run in runs {
            let date = run["logical_date"].as_str().expect("a date").parse().expect("a date");
            sim.create(run["run_id"].as_str().expect("an id"), date).await;
        }
        sim.run_to_rest().await;
        let mut shown = Vec::new();
        for run in sim.runs().await {
            shown.push(show(run.run_id.as_str(), &sim.stood(run.pk).await));
        }
        Ok::<_, String>(Value::Array(shown))
    })?;
    let expected = &case["expected"];
    let possible = case["possible_outcomes"].as_array().map_or(&[][..], Vec::as_slice);
    if got == *expected || possible.contains(&got) {
        return Ok(());
    }
    let order = if case["order_dependent"] == true { "order decides; " } else { "" };
    Err(format!("{order}{}", difference(expected, &got)))
}

/// The dag of a case.
pub(crate) fn dag_of(dag: &Value, runs: &[Value]) -> DagDef {
    let tasks = dag["tasks"].as_array().expect("tasks is a list");
    let most = u32::try_from(dag["max_active_runs"].as_u64().expect("a number")).expect("a small number");
    DagDef::new("d")
        .schedule("@daily")
        .start_date("2024-01-01")
        .catchup(true)
        .max_active_runs(most)
        .max_active_tasks(10_000)
        .fail_fast(dag["fail_stop"] == true)
        .default_args(TaskOptions::new().retry_delay(Duration::ZERO))
        .define(|d| {
            let mut nodes: Vec<(&str, Node<'_>)> = Vec::new();
            for task in tasks {
                let id = task["task_id"].as_str().expect("an id");
                let node = add(d, task, id, runs, &nodes);
                nodes.push((id, node));
            }
            for task in tasks {
                let node = find(&nodes, task["task_id"].as_str().expect("an id"));
                for up in texts(&task["upstream_task_ids"]) {
                    d.order(find(&nodes, up) >> node);
                }
            }
        })
}

fn add<'d>(d: &'d Dag, task: &Value, id: &str, runs: &[Value], nodes: &[(&str, Node<'d>)]) -> Node<'d> {
    let script = Script::of(id, runs);
    match task["operator"].as_str().expect("an operator") {
        "scripted" => d.add(with_options(Scripted(script), task, id, nodes)).node(),
        "branch" => {
            let choice = d.add(with_options(Chooses(script), task, id, nodes));
            d.branch_by_id(choice);
            choice.node()
        }
        "short_circuit" => {
            let condition = d.add(with_options(Asks(script), task, id, nodes));
            if task["ignore_downstream_trigger_rules"] == false {
                d.skip_unless(condition).node()
            } else {
                d.short_circuit(condition).node()
            }
        }
        other => panic!("unknown operator {other}"),
    }
}

fn with_options<O: Operator>(operator: O, task: &Value, id: &str, nodes: &[(&str, Node<'_>)]) -> Spec<O> {
    let rule = TriggerRule::parse(task["trigger_rule"].as_str().expect("a rule")).expect("a known rule");
    let retries = u32::try_from(task["retries"].as_u64().expect("a number")).expect("a small number");
    let mut spec = operator.id(id).retries(retries).trigger_rule(rule);
    if task["depends_on_past"] == true {
        spec = spec.depends_on_past(true);
    }
    if task["wait_for_downstream"] == true {
        spec = spec.wait_for_downstream(true);
    }
    if task["is_setup"] == true {
        spec = spec.setup();
    }
    if task["is_teardown"] == true {
        let setups = texts(&task["setups"]);
        let setups: Vec<Node<'_>> = setups.iter().map(|setup| find(nodes, setup)).collect();
        spec = spec.teardown_of(setups);
        if task["on_failure_fail_dagrun"] == true {
            spec = spec.on_failure_fail_dagrun();
        }
    }
    spec
}

fn find<'d>(nodes: &[(&str, Node<'d>)], id: &str) -> Node<'d> {
    nodes.iter().find(|(other, _)| *other == id).unwrap_or_else(|| panic!("no task {id} yet")).1
}

pub(crate) fn texts(list: &Value) -> Vec<&str> {
    list.as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(Value::as_str).collect()
}

/// The words of the cases.
fn show(run_id: &str, stood: &Stood) -> Value {
    let mut tis = Map::new();
    for ((task, _), (state, try_number)) in &stood.tis {
        let state =
            if *state == airflow_core::state::TaskState::None { Value::Null } else { json!(state.as_str()) };
        tis.insert(task.clone(), json!({ "state": state, "try_number": try_number }));
    }
    json!({ "run_id": run_id, "task_instances": tis, "dag_run_state": stood.run.as_str() })
}

/// What differs, run by run and task by task.
fn difference(expected: &Value, got: &Value) -> String {
    let mut found = Vec::new();
    for (want, have) in expected.as_array().into_iter().flatten().zip(got.as_array().into_iter().flatten()) {
        if want["dag_run_state"] != have["dag_run_state"] {
            found.push(format!("run: expected {}, got {}", want["dag_run_state"], have["dag_run_state"]));
        }
        for (task, ti) in want["task_instances"].as_object().into_iter().flatten() {
            let other = &have["task_instances"][task];
            if ti != other {
                let short = |ti: &Value| format!("{}#{}", ti["state"], ti["try_number"]);
                found.push(format!("{task}: expected {}, got {}", short(ti), short(other)));
            }
        }
    }
    found.join(", ")
}
