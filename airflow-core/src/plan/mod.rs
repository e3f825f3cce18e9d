//! What decisions see and ask for: one run in memory ([`RunView`]), an attempt to be made ([`Attempt`]), how it ended
//! ([`Report`]), and the change being put together ([`Planner`]).

mod attempt;
mod claim;
mod planner;
mod view;
mod wire;

pub use attempt::{Attempt, Outcome, Report, Terms};
pub use claim::{claim, claimed_attempt};
pub use planner::Planner;
pub(crate) use planner::slots_of;
pub use view::{RunView, TaskView, Ti};
pub use wire::{Said, from_body, to_body};
