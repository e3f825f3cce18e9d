//! A task that is about to be added: the operator with the options of this use.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::asset::IntoAssetRefs;
use crate::callback::IntoCallback;
use crate::operator::{Operator, SensorMode};
use crate::trigger_rule::{TriggerRule, WeightRule};

use super::edges::{Endpoint, NodeSet};
use super::options::{TaskOptions, sensor_option_setters, task_option_setters};

/// What part a task plays beside its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// An ordinary task.
    #[default]
    Work,
    /// Prepares something for others.
    Setup,
    /// Cleans up what a setup prepared; runs even if the work between failed.
    Teardown {
        /// Whether its failure fails the run.
        on_failure_fail_dagrun: bool,
    },
}

/// An operator with the options of one use.
pub struct Spec<O> {
    pub(crate) operator: O,
    pub(crate) options: TaskOptions,
    pub(crate) id: Option<String>,
    pub(crate) role: Role,
    pub(crate) teardown_of: Vec<(u64, Endpoint)>,
}

impl<O: Operator> Spec<O> {
    /// The operator with no options.
    pub fn new(operator: O) -> Self {
        let role = operator.role();
        Self { operator, options: TaskOptions::default(), id: None, role, teardown_of: Vec::new() }
    }

    /// The operator.
    pub fn operator(&self) -> &O {
        &self.operator
    }

    /// The part it plays.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The options of the task: those of this use, then those of its kind.
    pub fn effective_options(&self) -> TaskOptions {
        self.options.clone().or(&self.operator.defaults())
    }
}

impl<O> fmt::Debug for Spec<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spec").field("id", &self.id).field("role", &self.role).finish_non_exhaustive()
    }
}

/// What can be added to a dag: an operator, or one with options.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a task that can be added",
    label = "not an operator",
    note = "put `#[task]` on the function and add `name::call(..)`, or derive `Operator` for the struct"
)]
pub trait IntoSpec {
    /// The operator.
    type Op: Operator;

    /// As a spec.
    fn into_spec(self) -> Spec<Self::Op>;
}

#[diagnostic::do_not_recommend]
impl<O: Operator> IntoSpec for O {
    type Op = O;

    fn into_spec(self) -> Spec<O> {
        Spec::new(self)
    }
}

impl<O: Operator> IntoSpec for Spec<O> {
    type Op = O;

    fn into_spec(self) -> Self {
        self
    }
}

/// The options of a task as methods, on every operator: `price::call(order).retries(2).pool("warehouse")`.
pub trait TaskExt: IntoSpec + Sized {
    /// Changes the options of this use.
    #[must_use]
    fn options(self, change: impl FnOnce(&mut TaskOptions)) -> Spec<Self::Op> {
        let mut spec = self.into_spec();
        change(&mut spec.options);
        spec
    }

    /// The id, inside its group. Without it the name of the function or struct is used, with `__1`, `__2` behind it
    /// for further uses.
    #[must_use]
    fn id(self, id: impl Into<String>) -> Spec<Self::Op> {
        let mut spec = self.into_spec();
        spec.id = Some(id.into());
        spec
    }

    /// Makes it a setup: it prepares something for others.
    #[must_use]
    fn setup(self) -> Spec<Self::Op> {
        let mut spec = self.into_spec();
        spec.role = Role::Setup;
        spec
    }

    /// Makes it the teardown of `setups`: it runs once the tasks between are finished, even if they failed, if a
    /// setup succeeded. Adds the edges from the setups, and makes setups of them if they are none.
    #[must_use]
    fn teardown_of(self, setups: impl NodeSet) -> Spec<Self::Op> {
        let mut spec = self.teardown();
        setups.endpoints(&mut spec.teardown_of);
        spec
    }

    /// Makes it a teardown without a setup.
    #[must_use]
    fn teardown(self) -> Spec<Self::Op> {
        let mut spec = self.into_spec();
        if !matches!(spec.role, Role::Teardown { .. }) {
            spec.role = Role::Teardown { on_failure_fail_dagrun: false };
        }
        spec
    }

    /// Makes the run fail if this teardown fails.
    #[must_use]
    fn on_failure_fail_dagrun(self) -> Spec<Self::Op> {
        let mut spec = self.teardown();
        spec.role = Role::Teardown { on_failure_fail_dagrun: true };
        spec
    }

    task_option_setters!(, Spec<Self::Op>, options);
}

impl<S: IntoSpec> TaskExt for S {}

/// What is a sensor: made by `#[sensor]` or `#[operator(sensor)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no sensor",
    label = "only sensors have this option",
    note = "write `#[sensor]` instead of `#[task]`, or `#[operator(sensor)]` and `impl Sensor`"
)]
pub trait IsSensor: Operator {}

/// The options of a sensor as methods: `FileSensor::new("/in/{{ ds }}.csv").poke_every(mins(1)).reschedule()`.
pub trait SensorExt: IntoSpec<Op: IsSensor> + Sized {
    sensor_option_setters!(, Spec<Self::Op>, sensor_options);

    #[doc(hidden)]
    #[must_use]
    fn sensor_options(self, change: impl FnOnce(&mut TaskOptions)) -> Spec<Self::Op> {
        let mut spec = self.into_spec();
        change(&mut spec.options);
        spec
    }
}

impl<S: IntoSpec<Op: IsSensor>> SensorExt for S {}
