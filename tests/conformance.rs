//! Holds the library to what a real Apache Airflow 2.11 did (3.3 where a file says so), case by case: real definitions,
//! real compilation, the real scheduler over two stores, real timetables, templates and readers.
//!
//! The cases are the `*.json` files of `tests/conformance/`, or of the folder that `AIRFLOW_CONFORMANCE_DIR` names. A file
//! belongs to the family whose name it begins with; a file of no family fails, and a family without a file says `absent`. A
//! case fails whose group or fields its family does not know (`tests/conformance/known.rs`). What is left out, and why, is
//! in `tests/conformance/exclusions.rs`.
//!
//! ```text
//! cargo test --release --test conformance -- --nocapture
//! ```

#[path = "conformance/mod.rs"]
mod families;
