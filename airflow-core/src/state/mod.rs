//! The states of task instances and runs, and the only functions that change them.

pub mod run;
pub mod task;

pub use run::{RunEvent, RunState, RunTransition, RunType};
pub use task::{Counts, TaskEvent, TaskState, Transition};

/// An event came in a state in which it cannot happen: it was decided on an old view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{event}` cannot happen in state `{from}`")]
pub struct IllegalTransition {
    /// The state.
    pub from: &'static str,
    /// The event.
    pub event: &'static str,
}
