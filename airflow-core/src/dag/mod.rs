//! How users define a dag: [`DagDef`] holds its options, [`Dag`] collects tasks, groups and edges.
//!
//! Nothing is checked here beyond what the types prove; `compile` checks the whole and reports all mistakes at once.
//! Start with [`DagDef::new`] and [`Dag::add`].

mod builder;
mod deadline;
mod def;
mod edges;
mod handle;
mod isolation;
mod mapping;
mod options;
mod problem;
mod spec;

pub use builder::{Branching, Dag, TaskGroup};
pub use deadline::{DeadlineAlert, DeadlineReference};
pub use def::{DagDef, DagDefaults, DagOptions, ParamsSpec, When};
pub use edges::{Chain, Endpoint, Label, Labeled, NodeSet, label};
pub use handle::{Group, Handle, Mapped, Node, Nodes};
pub use isolation::Isolation;
pub use mapping::{Concat, MapOver, Outside, Product, Zip, concat, product, zip, zip_longest};
pub use options::{
    DEFAULT_POOL, DEFAULT_POOL_SLOTS, DEFAULT_QUEUE, DEFAULT_RETRY_DELAY, TaskOptions, TaskSettings,
};
pub use problem::{Place, Problem, ProblemKind};
pub use spec::{IntoSpec, IsSensor, Role, SensorExt, Spec, TaskExt};

pub(crate) use builder::{Definition, EdgeDef, ScopeOwner};
