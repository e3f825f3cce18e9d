//! Decisions: pure functions from a view (and the time) to what should change.
//!
//! No clock, no I/O, no randomness, no hash-map order. [`step`] works off everything that changed in one run;
//! [`rule`] knows the trigger rules, [`outcome`] what the end of an attempt means, [`timetable`] which run comes next.

pub mod assets;
pub mod deadline;
pub mod explain;
pub mod outcome;
pub mod ready;
pub mod rule;
pub mod step;
pub mod timetable;
