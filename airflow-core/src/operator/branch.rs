//! Typed branching: an enum whose variants are the ways a run can go.

use crate::xcom::Data;

/// An enum without fields whose value decides which tasks run. Written by `#[derive(Branch)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a branch",
    note = "derive `Branch` for the enum that the branching task returns"
)]
pub trait Branch: Data {
    /// All variants, in the order of their declaration.
    fn variants() -> Vec<Self>;

    /// The name of the variant.
    fn name(&self) -> &'static str;
}
