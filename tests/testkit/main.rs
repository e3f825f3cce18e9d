//! The user's test kit, and through it the engine: one run (`DagTest`) and days of schedule (`Sim`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod assets;
mod builtins;
mod chaos;
mod deadlines;
mod flow;
mod limits;
mod one_run;
mod rerun;
mod schedule;
mod tasks;
mod templates;
mod told;
mod waiting;
