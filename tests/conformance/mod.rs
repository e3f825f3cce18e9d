//! The families of cases, and what holds the library to each.

#[expect(dead_code, reason = "the property tests use more of it")]
mod engine;
mod exclusions;
mod graph_validation;
mod mapped_tasks;
mod numbers;
mod report;
mod run_outcomes;
mod script;
mod templates;
mod timetables;
mod trigger_rules;

use report::hold;
use serde_json::Value;

/// Compares what the library does in a case with what Airflow did: the file, the case.
type Check = fn(&Value, &Value) -> Result<(), String>;

/// Every family, with its check.
const FAMILIES: &[(&str, Check)] = &[
    ("graph_validation", |_, case| graph_validation::check(case)),
    ("mapped_tasks", |_, case| mapped_tasks::check(case)),
    ("priority_weights", |_, case| numbers::check_weights(case)),
    ("retry_delays", |_, case| numbers::check_delay(case)),
    ("run_outcomes", |_, case| run_outcomes::check(case)),
    ("templates", templates::check),
    ("timetables", |_, case| timetables::check(case)),
    ("trigger_rules_airflow_3", |_, case| trigger_rules::check(case)),
];

/// The check of a family.
fn check(family: &str) -> Check {
    FAMILIES.iter().find(|(name, _)| *name == family).expect("the family is in the list").1
}

macro_rules! hold_families {
    ($($(#[$doc:meta])* $test:ident: $family:literal),+ $(,)?) => {
        $(
            $(#[$doc])*
            #[test]
            fn $test() {
                hold($family, check($family));
            }
        )+

        #[test]
        fn every_family_has_its_test_and_every_file_its_family() {
            let tested = [$($family),+];
            let names: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, tested);
            report::every_file_is_known();
        }
    };
}

hold_families! {
    definitions_are_accepted_and_wired_as_in_airflow: "graph_validation",
    mapped_tasks_run_as_in_airflow: "mapped_tasks",
    priorities_are_those_of_airflow: "priority_weights",
    waits_between_tries_are_those_of_airflow_to_the_second: "retry_delays",
    runs_end_as_in_airflow: "run_outcomes",
    templates_render_as_in_airflow: "templates",
    timetables_answer_as_in_airflow: "timetables",
    the_rule_of_airflow_3_decides_as_there: "trigger_rules_airflow_3",
}
