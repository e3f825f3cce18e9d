//! Holds the engine's decisions to what Apache Airflow 2.11 decided, case by case: real definitions, real compilation,
//! the real scheduler.
//!
//! The cases are in `tests/conformance/`; set `AIRFLOW_CONFORMANCE_DIR` to take the files from another directory.

#![expect(clippy::print_stdout, reason = "the summary of a conformance run is meant to be read")]

#[path = "decisions/graph.rs"]
mod graph;
#[path = "decisions/mapping.rs"]
mod mapping;
#[path = "decisions/numbers.rs"]
mod numbers;
#[path = "decisions/outcomes.rs"]
mod outcomes;
#[path = "decisions/report.rs"]
mod report;
#[path = "decisions/rules.rs"]
mod rules;
#[path = "decisions/script.rs"]
mod script;
#[path = "decisions/sim.rs"]
#[expect(dead_code, reason = "the property tests use more of it")]
mod sim;

use report::{Exclusion, hold};

/// Everything that is left out, with its reason.
const EXCLUDED: &[Exclusion] = &[
    (
        "mapped_tasks",
        |case| case["name"].as_str().is_some_and(|name| name.starts_with("reduce over empty")),
        "a reducer takes a list: over an empty mapping it sees an empty one, never `None`",
    ),
    (
        "mapped_tasks",
        |case| case["name"] == "concat dicts",
        "`concat` joins two lists of one element type: of a map that is its entries, not its keys",
    ),
    (
        "priority_weights",
        |case| case["group"] == "validation",
        "a weight is an `i32` and a rule an enum: other values do not compile",
    ),
    (
        "graph_validation",
        |case| case["group"] == "bad_reference" || case["group"] == "bad_argument",
        "references are handles and options have types: wrong ones do not compile",
    ),
    (
        "graph_validation",
        |case| {
            ["task_id", "dag_id", "group_id"]
                .iter()
                .any(|key| case["group"] == *key && !case[*key].is_string())
        },
        "an id is text: other types do not compile",
    ),
    (
        "graph_validation",
        |case| {
            ["task_id", "dag_id", "group_id"]
                .iter()
                .any(|key| case["group"] == *key && case[*key].as_str().is_some_and(|id| id.ends_with('\n')))
        },
        "an id that ends with a line break only slips through Python's `$`; it is refused here",
    ),
    (
        "graph_validation",
        graph::joins_lists,
        "`[a, b] >> [c, d]` does not compile, for the same reason for which it is a TypeError in Python",
    ),
    (
        "graph_validation",
        |case| case["what"].as_str().is_some_and(|what| what.contains("add_suffix_on_collision")),
        "groups have no suffix option: two of one id are a mistake, reported with both places",
    ),
];

#[test]
fn runs_end_as_in_airflow() {
    hold("run_outcomes", EXCLUDED, outcomes::check);
}

#[test]
fn mapped_tasks_run_as_in_airflow() {
    hold("mapped_tasks", EXCLUDED, mapping::check);
}

#[test]
fn priorities_are_those_of_airflow() {
    hold("priority_weights", EXCLUDED, numbers::check_weights);
}

#[test]
fn waits_between_tries_are_those_of_airflow_to_the_second() {
    hold("retry_delays", EXCLUDED, numbers::check_delay);
}

#[test]
fn the_rule_of_airflow_3_decides_as_there() {
    hold("trigger_rules_airflow_3", EXCLUDED, rules::check);
}

#[test]
fn definitions_are_accepted_and_wired_as_in_airflow() {
    hold("graph_validation", EXCLUDED, graph::check);
}
