//! The families of cases, and what holds the library to each.

mod config_env;
mod connection_uris;
#[expect(dead_code, reason = "the property tests use more of it")]
mod engine;
mod exclusions;
mod fernet;
mod graph_validation;
mod known;
mod mapped_tasks;
mod misc;
mod numbers;
mod report;
mod run_outcomes;
mod runner;
mod script;
mod templates;
mod timetables;
mod trigger_rules;

use report::hold;
use serde_json::Value;

/// Compares what the library does in a case with what Airflow did: the file, the case.
type Check = fn(&Value, &Value) -> Result<(), String>;

/// Every family; each has its test below.
const FAMILIES: &[&str] = &[
    "config_env",
    "connection_uris",
    "fernet",
    "graph_validation",
    "mapped_tasks",
    "misc_ids_paths_xcom",
    "priority_weights",
    "retry_delays",
    "run_outcomes",
    "templates",
    "timetables",
    "trigger_rules_airflow_3",
];

#[test]
fn settings_are_found_and_read_as_in_airflow() {
    hold("config_env", |_, case| config_env::check(case));
}

#[test]
fn connections_are_read_and_written_as_in_airflow() {
    hold("connection_uris", |_, case| connection_uris::check(case));
}

#[test]
fn tokens_are_those_of_airflow() {
    hold("fernet", |_, case| fernet::check(case));
}

#[test]
fn runs_have_the_ids_logs_and_values_of_airflow() {
    hold("misc_ids_paths_xcom", |_, case| misc::check(case));
}

#[test]
fn definitions_are_accepted_and_wired_as_in_airflow() {
    hold("graph_validation", |_, case| graph_validation::check(case));
}

#[test]
fn mapped_tasks_run_as_in_airflow() {
    hold("mapped_tasks", |_, case| mapped_tasks::check(case));
}

#[test]
fn priorities_are_those_of_airflow() {
    hold("priority_weights", |_, case| numbers::check_weights(case));
}

#[test]
fn waits_between_tries_are_those_of_airflow_to_the_second() {
    hold("retry_delays", |_, case| numbers::check_delay(case));
}

#[test]
fn runs_end_as_in_airflow() {
    hold("run_outcomes", |_, case| run_outcomes::check(case));
}

#[test]
fn templates_render_as_in_airflow() {
    hold("templates", templates::check);
}

#[test]
fn timetables_answer_as_in_airflow() {
    hold("timetables", |_, case| timetables::check(case));
}

#[test]
fn the_rule_of_airflow_3_decides_as_there() {
    hold("trigger_rules_airflow_3", |_, case| trigger_rules::check(case));
}

#[test]
fn every_family_has_its_test_and_every_file_its_family() {
    let tests = include_str!("mod.rs");
    for family in FAMILIES {
        assert!(tests.contains(&format!("hold(\"{family}\", ")), "{family} has no test");
    }
    report::every_file_is_known();
}
