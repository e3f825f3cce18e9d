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
    /// What was set, if anything was: most of what there is to move.
    options: Option<Box<TaskOptions>>,
    pub(crate) id: Option<String>,
    pub(crate) role: Role,
    pub(crate) teardown_of: Vec<(u64, Endpoint)>,
}

impl<O: Operator> Spec<O> {
    /// The operator with no options.
    pub fn new(operator: O) -> Self {
        let role = operator.role();
        Self { operator, options: None, id: None, role, teardown_of: Vec::new() }
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
        let of_kind = self.operator.defaults();
        match &self.options {
            Some(own) => TaskOptions::clone(own).or(&of_kind),
            None => of_kind,
        }
    }

    fn change(mut self, change: impl FnOnce(&mut TaskOptions)) -> Self {
        change(self.options.get_or_insert_default());
        self
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
///
/// ```
/// use airflow_core::dag::{DagDef, Isolation, TaskExt};
/// use airflow_core::operator::Empty;
/// use airflow_core::time::{hours, mins, secs};
/// use airflow_core::trigger_rule::{TriggerRule, WeightRule};
///
/// let dag = DagDef::new("d").define(|d| {
///     let task = Empty::new()
///         .id("load") // default: the name of the operator
///         .retries(3) // 0
///         .retry_delay(secs(10)) // 5 minutes
///         .exponential_backoff() // each wait as long as the one before
///         .max_retry_delay(mins(5)) // a day
///         .timeout(hours(1)) // no limit
///         .sla(hours(2)) // none
///         .pool("lake") // default_pool
///         .pool_slots(2) // 1 slot
///         .priority_weight(10) // 1
///         .weight_rule(WeightRule::Absolute) // downstream
///         .queue("large") // default
///         .isolation(Isolation::Process) // as the executor is set
///         .trigger_rule(TriggerRule::NoneFailed) // all_success
///         .depends_on_past(true) // false
///         .max_active_tis_per_dag(4) // no limit
///         .max_active_tis_per_dagrun(2) // no limit
///         .do_xcom_push(false) // true
///         .owner("ada") // that of the dag
///         .display_name("Load") // the id
///         .outlets("s3://lake/orders"); // none
///     d.add(task);
///     d.add(Empty::new());
/// });
/// let dag = dag.compile()?;
/// let [load, silent] = [0, 1].map(|index| &dag.tasks[index].settings);
/// assert_eq!((load.retry.retries, load.retry.backoff, load.timeout), (3, Some(2.0), Some(hours(1))));
/// assert_eq!((load.pool.as_str(), load.pool_slots, load.queue.as_str()), ("lake", 2, "large"));
/// assert_eq!((silent.retry.retries, silent.retry.delay, silent.timeout), (0, mins(5), None));
/// assert_eq!((silent.pool.as_str(), silent.pool_slots, silent.queue.as_str()), ("default_pool", 1, "default"));
/// assert_eq!((silent.trigger_rule, silent.do_xcom_push), (TriggerRule::AllSuccess, true));
/// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
/// ```
pub trait TaskExt: IntoSpec + Sized {
    /// Changes the options of this use.
    #[must_use]
    fn options(self, change: impl FnOnce(&mut TaskOptions)) -> Spec<Self::Op> {
        self.into_spec().change(change)
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
///
/// ```
/// use airflow_core::builtin::FileSensor;
/// use airflow_core::dag::{DagDef, SensorExt, TaskExt};
/// use airflow_core::operator::SensorMode;
/// use airflow_core::time::{days, hours, mins, secs};
///
/// let dag = DagDef::new("d").define(|d| {
///     let sensor = FileSensor::new("/in/{{ ds }}.csv")
///         .poke_interval(secs(30)) // default: 1 minute
///         .poke_backoff(true) // false
///         .max_wait(mins(10)) // no limit
///         .mode(SensorMode::Reschedule) // poke
///         .soft_fail(true) // false
///         .silent_fail(true) // false
///         .timeout(hours(6)); // a week
///     d.add(sensor.id("file"));
///     d.add(FileSensor::new("/in/other.csv").id("other").never_fail(true)); // false
/// });
/// let dag = dag.compile()?;
/// let sensors: Vec<_> = dag.tasks.iter().filter_map(|task| task.settings.sensor.as_ref()).collect();
/// let (file, other) = (sensors[0], sensors[1]);
/// assert_eq!((file.mode, file.poke_interval, file.timeout), (SensorMode::Reschedule, secs(30), hours(6)));
/// assert_eq!((other.mode, other.poke_interval, other.timeout), (SensorMode::Poke, mins(1), days(7)));
/// assert!(file.soft_fail && other.never_fail && !other.soft_fail);
/// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
/// ```
pub trait SensorExt: IntoSpec<Op: IsSensor> + Sized {
    sensor_option_setters!(, Spec<Self::Op>, sensor_options);

    #[doc(hidden)]
    #[must_use]
    fn sensor_options(self, change: impl FnOnce(&mut TaskOptions)) -> Spec<Self::Op> {
        self.into_spec().change(change)
    }
}

impl<S: IntoSpec<Op: IsSensor>> SensorExt for S {}
