//! Priorities and the waits between tries.

use std::time::Duration;

use airflow_core::dag::{DagDef, Node, TaskExt, TaskOptions};
use airflow_core::operator::Empty;
use airflow_core::retry::{RetryPolicy, RetrySeed};
use airflow_core::trigger_rule::WeightRule;
use serde_json::{Value, json};

use super::run_outcomes::texts;

/// The total weights of a dag, or whether options are accepted.
pub(crate) fn check_weights(case: &Value) -> Result<(), String> {
    if case["group"] == "validation" {
        let given = json!({ "priority_weight": case["priority_weight"], "weight_rule": case["weight_rule"] });
        let got = serde_json::from_value::<TaskOptions>(given);
        return if case["expected"]["accepted"] == got.is_ok() {
            Ok(())
        } else {
            Err(format!("got {got:?}"))
        };
    }
    let tasks = case["tasks"].as_array().expect("tasks is a list");
    let def = DagDef::new("d").define(|d| {
        let mut nodes: Vec<(&str, Node<'_>)> = Vec::new();
        for task in tasks {
            let id = task["task_id"].as_str().expect("an id");
            let weight = task["priority_weight"].as_i64().expect("a weight");
            let rule: WeightRule =
                task["weight_rule"].as_str().expect("a rule").parse().expect("a known rule");
            let empty = Empty::new().id(id).weight_rule(rule);
            let empty = empty.priority_weight(i32::try_from(weight).expect("a weight has 32 bits"));
            nodes.push((id, d.add(empty).node()));
        }
        for task in tasks {
            let find = |id: &str| nodes.iter().find(|(other, _)| *other == id).expect("a known task").1;
            for up in texts(&task["upstream_task_ids"]) {
                d.order(find(up) >> find(task["task_id"].as_str().expect("an id")));
            }
        }
    });
    let dag = def.compile().map_err(|errors| errors.to_string())?;
    let mut wrong = Vec::new();
    for (id, expected) in case["expected_priority_weight_total"].as_object().expect("weights") {
        let got = dag.priority(dag.find(id).expect("a known task"));
        if expected.as_i64() != Some(i64::from(got)) {
            wrong.push(format!("{id}: expected {expected}, got {got}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join(", ")) }
}

/// The wait after a try.
pub(crate) fn check_delay(case: &Value) -> Result<(), String> {
    let seconds = |key: &str| case[key].as_f64().map(Duration::from_secs_f64);
    let policy = RetryPolicy {
        retries: 100,
        delay: seconds("retry_delay_seconds").expect("a delay"),
        backoff: (case["retry_exponential_backoff"] == true).then_some(2.0),
        max_delay: seconds("max_retry_delay_seconds"),
    };
    let seed = RetrySeed {
        dag_id: case["dag_id"].as_str().expect("an id"),
        task_id: case["task_id"].as_str().expect("an id"),
        logical_date: case["logical_date"].as_str().expect("a date").parse().expect("a date"),
    };
    let try_number = u32::try_from(case["try_number"].as_u64().expect("a number")).expect("a small number");
    let got = policy.delay_after(try_number, seed);
    let expected = seconds_of(&case["expected"]["delay_exact_seconds"]);
    if got == expected { Ok(()) } else { Err(format!("expected {expected:?}, got {got:?}")) }
}

fn seconds_of(value: &Value) -> Duration {
    Duration::from_secs_f64(value.as_f64().expect("seconds"))
}
