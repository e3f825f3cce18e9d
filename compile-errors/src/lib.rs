//! What a mistake looks like: each file under `ui/` is one mistake, the `.stderr` beside it what the user reads.
//!
//! After a change of the macros, look at the new messages: `TRYBUILD=overwrite cargo test -p airflow-compile-errors`.

#![cfg(test)]

#[test]
fn mistakes_are_reported_where_they_are_made() {
    trybuild::TestCases::new().compile_fail("ui/*.rs");
}
