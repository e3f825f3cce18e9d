//! Mistakes in a definition: what is wrong, where, and what to write instead.

use std::fmt;
use std::panic::Location;

use crate::asset::AssetError;
use crate::id::InvalidId;

/// A line of the user's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(&'static Location<'static>);

impl Place {
    /// The line of the caller.
    #[track_caller]
    pub fn caller() -> Self {
        Self(Location::caller())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.file(), self.0.line())
    }
}

/// One mistake and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// What is wrong.
    pub kind: ProblemKind,
    /// Where.
    pub place: Place,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.kind, self.place)
    }
}

/// What can be wrong with a definition.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProblemKind {
    /// An id has characters that are not allowed, or too many.
    #[error("{what} id: {error}")]
    BadId {
        /// `dag`, `task` or `group`.
        what: &'static str,
        /// What is wrong with it.
        error: InvalidId,
    },
    /// Two tasks, two groups, or a task and a group share an id.
    #[error("the id `{id}` is used twice, first at {first}; give one of them another `.id(..)`")]
    DuplicateId {
        /// The id.
        id: String,
        /// Where it was used first.
        first: Place,
    },
    /// The tasks wait for each other.
    #[error("the tasks wait for each other in a circle: {}", path.join(" >> "))]
    Cycle {
        /// The tasks of the circle, the first one again at the end.
        path: Vec<String>,
    },
    /// A handle of another dag was used.
    #[error("a handle of another dag is used in dag `{dag}`; each dag has its own tasks")]
    ForeignHandle {
        /// The dag being built.
        dag: String,
    },
    /// An option has a value that makes no sense.
    #[error("`{option}` of {of}: {why}")]
    BadOption {
        /// The option.
        option: &'static str,
        /// The dag or task.
        of: String,
        /// What is wrong, and what to write.
        why: String,
    },
    /// The schedule cannot be understood.
    #[error("schedule: {0}")]
    BadSchedule(String),
    /// The time zone does not exist.
    #[error("timezone: {0}")]
    BadTimezone(String),
    /// A template cannot be understood.
    #[error("task `{task}`: {error}")]
    BadTemplate {
        /// The task.
        task: String,
        /// What the template engine says.
        error: String,
    },
    /// An inlet or outlet cannot be used.
    #[error("task `{task}`: {error}")]
    BadAsset {
        /// The task.
        task: String,
        /// What is wrong with it.
        error: AssetError,
    },
    /// A watcher of an asset is of another type elsewhere.
    #[error(
        "the watcher `{name}` of the asset `{asset}` is a `{kind}`, but a `{other}` elsewhere ({first}); give one of them \
         another name"
    )]
    TwoWatchers {
        /// The name.
        name: String,
        /// The asset.
        asset: String,
        /// The type here.
        kind: &'static str,
        /// The type elsewhere.
        other: &'static str,
        /// Where that is.
        first: Place,
    },
    /// Two assets share a name or a URI, but not both.
    #[error(
        "the asset `{name}` at `{uri}` is also called `{other_name}` at `{other_uri}` ({first}); give an asset one name \
         and one URI everywhere"
    )]
    TwoAssets {
        /// The name here.
        name: String,
        /// The URI here.
        uri: String,
        /// The name elsewhere.
        other_name: String,
        /// The URI elsewhere.
        other_uri: String,
        /// Where that is.
        first: Place,
    },
    /// A task directly after a setup does not use the default rule.
    #[error(
        "task `{task}` follows the setup `{setup}` and must use the trigger rule `all_success`, not `{rule}`"
    )]
    SetupRule {
        /// The task.
        task: String,
        /// The setup.
        setup: String,
        /// Its rule.
        rule: String,
    },
    /// `fail_fast` and other rules do not go together.
    #[error(
        "task `{task}` uses the trigger rule `{rule}`, but a dag with `fail_fast` allows only `all_success`"
    )]
    FailFastRule {
        /// The task.
        task: String,
        /// Its rule.
        rule: String,
    },
    /// A mapping inside a mapped group.
    #[error(
        "`{inner}` is mapped inside the mapped group `{outer}`; a mapping inside a mapping is not possible"
    )]
    NestedMapping {
        /// The inner task or group.
        inner: String,
        /// The outer group.
        outer: String,
    },
    /// An element or a handle is used outside of its mapping.
    #[error("task `{task}` uses {what} outside of its mapping; use what `d.map` or `d.map_group` returns")]
    OutsideMapping {
        /// The task.
        task: String,
        /// What it uses.
        what: String,
    },
    /// `chain` cannot pair lists of different lengths.
    #[error("`chain` cannot join lists of {left} and {right} tasks one to one; use `cross_downstream`")]
    UnequalChain {
        /// Length of the left list.
        left: usize,
        /// Length of the right list.
        right: usize,
    },
    /// `chain_linear` made no edge.
    #[error("`chain_linear` needs at least two arguments that have tasks")]
    ShortChain,
    /// A constant cannot be written as JSON.
    #[error("a constant cannot be written as JSON: {0}")]
    BadConstant(String),
    /// Parameters do not fit their schema.
    #[error("params: {0}")]
    BadParams(String),
    /// A branch is ambiguous.
    #[error("branch on task `{task}`: {why}")]
    BadBranch {
        /// The branching task.
        task: String,
        /// What is wrong.
        why: String,
    },
    /// A task needs something that the application did not register.
    #[error("task `{task}` needs a `{resource}` that nobody registered; add `.resource(..)` to the builder")]
    MissingResource {
        /// The task.
        task: String,
        /// The type.
        resource: String,
    },
    /// A task names a pool that does not exist.
    #[error("task `{task}` uses the pool `{pool}`, which does not exist; {cure}")]
    UnknownPool {
        /// The task.
        task: String,
        /// The pool.
        pool: String,
        /// What to do.
        cure: String,
    },
}
