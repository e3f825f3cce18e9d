//! Dags that announce themselves: `#[dag]` functions without arguments.
//!
//! A crate that the binary never names is not linked, and then its dags are not found: the builder logs how many it
//! found. Naming a dag with `.dag(x)` always works.

use crate::dag::DagDef;

/// A dag function that announced itself. Written by `#[dag]`.
#[derive(Debug, Clone, Copy)]
pub struct DiscoveredDag {
    /// The id of the dag.
    pub id: &'static str,
    /// The file of the function.
    pub file: &'static str,
    /// The line of the function.
    pub line: u32,
    /// Makes the dag.
    pub make: fn() -> DagDef,
}

inventory::collect!(DiscoveredDag);

/// All dags that announced themselves, by id, then by place: the order of the linker differs between builds.
pub fn discovered() -> Vec<DiscoveredDag> {
    let mut found: Vec<_> = inventory::iter::<DiscoveredDag>().copied().collect();
    found.sort_by_key(|dag| (dag.id, dag.file, dag.line));
    found
}
