//! What decisions see and ask for: one run in memory ([`RunView`]), an attempt to be made ([`Attempt`]), how it ended
//! ([`Report`]), and the change being put together ([`Planner`]).

mod attempt;
mod planner;
mod view;

pub use attempt::{Attempt, Outcome, Report};
pub use planner::Planner;
pub(crate) use planner::slots_of;
pub use view::{RunView, TaskView, Ti};
