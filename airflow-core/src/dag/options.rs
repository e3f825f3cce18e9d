//! The options of a task and of a dag, as given ([`TaskOptions`]) and as they hold after all defaults
//! ([`TaskSettings`]).
//!
//! Order of precedence, strongest first: the use (`price::call(..).retries(2)`), the definition
//! (`#[task(retries = 3)]`), the innermost group's `default_args`, outer groups, the dag's `default_args`, the
//! built-in default.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use crate::asset::{AssetRef, IntoAssetRefs};
use crate::callback::{Callbacks, IntoCallback};
use crate::operator::{DEFAULT_POKE_INTERVAL, DEFAULT_SENSOR_TIMEOUT, SensorMode, SensorSettings};
use crate::retry::RetryPolicy;
use crate::trigger_rule::{TriggerRule, WeightRule};

use super::isolation::Isolation;

/// The pool of tasks that name none.
pub const DEFAULT_POOL: &str = "default_pool";

/// The slots of the default pool in a new database.
pub const DEFAULT_POOL_SLOTS: i32 = 128;

/// The queue of tasks that name none.
pub const DEFAULT_QUEUE: &str = "default";

/// The wait before a retry, if nothing else is said.
pub const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(300);

macro_rules! task_options {
    ($($(#[$doc:meta])* $field:ident: $ty:ty),+ $(,)?) => {
        /// Options of a task; what is `None` comes from the next weaker place.
        ///
        /// They can be read from a configuration file as well: durations are text (`"5m"`) or seconds, moments are
        /// RFC 3339, callbacks are code and cannot be given. A name that does not exist is an error.
        ///
        /// ```
        /// # use std::time::Duration;
        /// # use airflow_core::dag::TaskOptions;
        /// let defaults: TaskOptions =
        ///     serde_json::from_str(r#"{"retries": 2, "retry_delay": "1m", "trigger_rule": "none_failed"}"#)?;
        /// assert_eq!(defaults.retry_delay, Some(Duration::from_secs(60)));
        /// let error = serde_json::from_str::<TaskOptions>(r#"{"retires": 2}"#).unwrap_err();
        /// assert!(error.to_string().starts_with("unknown field `retires`, expected one of `retries`"));
        /// # Ok::<(), serde_json::Error>(())
        /// ```
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct TaskOptions {
            $($(#[$doc])* pub $field: Option<$ty>,)+
            /// What to call when something happens to the task.
            #[serde(skip)]
            pub callbacks: Callbacks,
        }

        impl TaskOptions {
            /// Fills what is not set from `weaker`.
            #[must_use]
            pub fn or(self, weaker: &Self) -> Self {
                Self {
                    $($field: self.$field.or_else(|| weaker.$field.clone()),)+
                    callbacks: self.callbacks.or(&weaker.callbacks),
                }
            }
        }
    };
}

task_options! {
    /// How many attempts may follow the first. Default 0.
    retries: u32,
    /// The wait before a retry. Default 5 minutes.
    #[serde(deserialize_with = "crate::time::optional_duration")]
    retry_delay: Duration,
    /// The factor by which the wait grows with each retry; 0 switches back-off off. Default 0.
    retry_exponential_backoff: f64,
    /// The longest wait before a retry; applies with back-off only. Default: a day.
    #[serde(deserialize_with = "crate::time::optional_duration")]
    max_retry_delay: Duration,
    /// How long one attempt may take; of a sensor: how long it waits in all. Default: no limit; a week.
    #[serde(deserialize_with = "crate::time::optional_duration")]
    timeout: Duration,
    /// How long one attempt may take, also of a sensor. Default: `timeout`, but for sensors; no limit.
    #[serde(deserialize_with = "crate::time::optional_duration")]
    execution_timeout: Duration,
    /// How long after the end of the data interval of a scheduled run it should have succeeded; the dag says who is told
    /// if it has not. Default: none.
    #[serde(deserialize_with = "crate::time::optional_duration")]
    sla: Duration,
    /// Where a sensor waits. Default `poke`.
    mode: SensorMode,
    /// The pause between two pokes of a sensor. Default 1 minute.
    #[serde(deserialize_with = "crate::time::optional_duration")]
    poke_interval: Duration,
    /// Whether the pauses of a sensor grow. Default false.
    poke_backoff: bool,
    /// The longest pause of a sensor. Default: no limit.
    #[serde(deserialize_with = "crate::time::optional_duration")]
    max_wait: Duration,
    /// A sensor whose time is over, or that fails for good, is skipped. Default false.
    soft_fail: bool,
    /// Errors of pokes count as "not yet". Default false.
    silent_fail: bool,
    /// A sensor whose poke fails is skipped. Default false.
    never_fail: bool,
    /// The pool whose slots the task takes. Default `default_pool`.
    pool: String,
    /// How many slots of the pool it takes. Default 1.
    pool_slots: u32,
    /// What the task adds to the priority of itself and its relatives. Default 1.
    priority_weight: i32,
    /// Whose weights count. Default `downstream`.
    weight_rule: WeightRule,
    /// The queue that workers listen to. Default `default`.
    queue: String,
    /// The name of the executor, where several are configured. Default: that of its queue, else the first.
    executor: String,
    /// What the executor is to know of the task; what it means is the executor's affair. Default: nothing.
    executor_config: Value,
    /// Whether attempts run in processes of their own. Default: as the executor or the worker is set.
    isolation: Isolation,
    /// The condition on its upstream tasks. Default `all_success`.
    trigger_rule: TriggerRule,
    /// Wait until the same task succeeded or was skipped in the previous run. Default false.
    depends_on_past: bool,
    /// As `depends_on_past`, and the tasks directly downstream of it in the previous run as well. Default false.
    wait_for_downstream: bool,
    /// How many instances of the task may be active over all runs. Default: no limit.
    max_active_tis_per_dag: u32,
    /// How many instances of the task may be active in one run. Default: no limit.
    max_active_tis_per_dagrun: u32,
    /// No instance in runs with an earlier logical date. Default: in all.
    start_date: DateTime<Utc>,
    /// No instance in runs with a later logical date. Default: in all.
    end_date: DateTime<Utc>,
    /// Whether the result is stored for other tasks. Default true.
    do_xcom_push: bool,
    /// Who answers for the task. Default: the owner of the dag, else `airflow`.
    owner: String,
    /// Documentation in Markdown. Default: none.
    doc: String,
    /// The name shown to people, where it differs from the id. Default: the id.
    display_name: String,
    /// The assets it makes: each of its successes is an event of them. Default: none.
    outlets: Vec<AssetRef>,
    /// The assets it reads, for people and for [`inlet_events`](crate::operator::TaskContext::inlet_events). Default: none.
    inlets: Vec<AssetRef>,
}

/// The options of one task after all defaults.
#[derive(Debug, Clone)]
pub struct TaskSettings {
    /// Retries and their delays.
    pub retry: RetryPolicy,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// How long after the end of the data interval it should have succeeded.
    pub sla: Option<Duration>,
    /// How it waits, if it is a sensor.
    pub sensor: Option<SensorSettings>,
    /// The pool.
    pub pool: String,
    /// Slots taken in the pool.
    pub pool_slots: u32,
    /// Own weight.
    pub priority_weight: i32,
    /// Whose weights count.
    pub weight_rule: WeightRule,
    /// The queue.
    pub queue: String,
    /// Whether the task names that queue itself, so that the queue of a run does not replace it.
    pub names_queue: bool,
    /// The executor, if one is named.
    pub executor: Option<String>,
    /// What the executor is to know.
    pub executor_config: Option<Arc<Value>>,
    /// Whether attempts run in processes of their own, if the task says.
    pub isolation: Option<Isolation>,
    /// The condition on the upstream tasks.
    pub trigger_rule: TriggerRule,
    /// Wait for the same task of the previous run.
    pub depends_on_past: bool,
    /// Wait for the direct downstream tasks of the previous run.
    pub wait_for_downstream: bool,
    /// Limit over all runs.
    pub max_active_tis_per_dag: Option<u32>,
    /// Limit inside one run.
    pub max_active_tis_per_dagrun: Option<u32>,
    /// Earliest logical date.
    pub start_date: Option<DateTime<Utc>>,
    /// Latest logical date.
    pub end_date: Option<DateTime<Utc>>,
    /// Whether the result is stored.
    pub do_xcom_push: bool,
    /// Who answers for it.
    pub owner: String,
    /// Documentation.
    pub doc: Option<String>,
    /// The name shown to people.
    pub display_name: Option<String>,
    /// The assets it makes.
    pub outlets: Arc<[AssetRef]>,
    /// The assets it reads.
    pub inlets: Arc<[AssetRef]>,
    /// What to call when something happens.
    pub callbacks: Callbacks,
}

impl From<&TaskOptions> for SensorSettings {
    fn from(o: &TaskOptions) -> Self {
        Self {
            mode: o.mode.unwrap_or(SensorMode::Poke),
            poke_interval: o.poke_interval.unwrap_or(DEFAULT_POKE_INTERVAL),
            timeout: o.timeout.unwrap_or(DEFAULT_SENSOR_TIMEOUT),
            soft_fail: o.soft_fail.unwrap_or(false),
            silent_fail: o.silent_fail.unwrap_or(false),
            never_fail: o.never_fail.unwrap_or(false),
            exponential_backoff: o.poke_backoff.unwrap_or(false),
            max_wait: o.max_wait,
        }
    }
}

impl TaskSettings {
    /// The settings of a sensor: its `timeout` is that of the whole wait.
    pub fn of_sensor(options: TaskOptions) -> Self {
        let (sensor, timeout) = (SensorSettings::from(&options), options.execution_timeout);
        Self { sensor: Some(sensor), timeout, ..Self::from(options) }
    }

    /// The queue of the task in a run that may have a queue of its own: that one takes the place of the default, be it
    /// the dag's or nobody's, and never of one that the task names itself.
    pub fn queue_in<'a>(&'a self, of_run: Option<&'a str>) -> &'a str {
        of_run.filter(|_| !self.names_queue).unwrap_or(&self.queue)
    }
}

impl From<TaskOptions> for TaskSettings {
    fn from(o: TaskOptions) -> Self {
        let wait_for_downstream = o.wait_for_downstream.unwrap_or(false);
        Self {
            retry: RetryPolicy {
                retries: o.retries.unwrap_or(0),
                delay: o.retry_delay.unwrap_or(DEFAULT_RETRY_DELAY),
                backoff: o.retry_exponential_backoff.filter(|factor| *factor > 0.0),
                max_delay: o.max_retry_delay,
            },
            timeout: o.execution_timeout.or(o.timeout),
            sla: o.sla,
            sensor: None,
            pool: o.pool.unwrap_or_else(|| DEFAULT_POOL.into()),
            pool_slots: o.pool_slots.unwrap_or(1),
            priority_weight: o.priority_weight.unwrap_or(1),
            weight_rule: o.weight_rule.unwrap_or(WeightRule::Downstream),
            names_queue: o.queue.is_some(),
            queue: o.queue.unwrap_or_else(|| DEFAULT_QUEUE.into()),
            executor: o.executor,
            executor_config: o.executor_config.map(Arc::new),
            isolation: o.isolation,
            trigger_rule: o.trigger_rule.unwrap_or(TriggerRule::AllSuccess),
            depends_on_past: o.depends_on_past.unwrap_or(false) || wait_for_downstream,
            wait_for_downstream,
            max_active_tis_per_dag: o.max_active_tis_per_dag,
            max_active_tis_per_dagrun: o.max_active_tis_per_dagrun,
            start_date: o.start_date,
            end_date: o.end_date,
            do_xcom_push: o.do_xcom_push.unwrap_or(true),
            owner: o.owner.unwrap_or_else(|| "airflow".into()),
            doc: o.doc,
            display_name: o.display_name,
            outlets: o.outlets.unwrap_or_default().into(),
            inlets: o.inlets.unwrap_or_default().into(),
            callbacks: o.callbacks,
        }
    }
}

/// Makes the setter methods of [`TaskOptions`] available under their names on whatever carries one.
macro_rules! task_option_setters {
    ($vis:vis, $out:ty, $opts:ident) => {
        /// How many attempts may follow the first. Default 0.
        #[must_use]
        $vis fn retries(self, retries: u32) -> $out {
            self.$opts(|o| o.retries = Some(retries))
        }

        /// The wait before a retry. Default 5 minutes.
        #[must_use]
        $vis fn retry_delay(self, delay: Duration) -> $out {
            self.$opts(|o| o.retry_delay = Some(delay))
        }

        /// Doubles the wait with each retry. Default: it stays the same.
        #[must_use]
        $vis fn exponential_backoff(self) -> $out {
            self.retry_exponential_backoff(2.0)
        }

        /// Multiplies the wait by `factor` with each retry; 0 switches back-off off. Default 0.
        #[must_use]
        $vis fn retry_exponential_backoff(self, factor: f64) -> $out {
            self.$opts(|o| o.retry_exponential_backoff = Some(factor))
        }

        /// The longest wait before a retry; applies with back-off only. Default: a day.
        #[must_use]
        $vis fn max_retry_delay(self, delay: Duration) -> $out {
            self.$opts(|o| o.max_retry_delay = Some(delay))
        }

        /// How long one attempt may take, also of a sensor. Default: `timeout`, but for sensors; no limit.
        #[must_use]
        $vis fn execution_timeout(self, timeout: Duration) -> $out {
            self.$opts(|o| o.execution_timeout = Some(timeout))
        }

        /// How long one attempt may take; of a sensor: how long it waits in all, from its first attempt on. Default: no limit;
        /// a week.
        #[must_use]
        $vis fn timeout(self, timeout: Duration) -> $out {
            self.$opts(|o| o.timeout = Some(timeout))
        }

        /// How long after the end of the data interval of a scheduled run it should have succeeded or been skipped. If it
        /// has not, that is written down and told to
        /// [`on_sla_miss`](crate::dag::DagDef::on_sla_miss) of the dag; nothing else changes. Default: none.
        #[must_use]
        $vis fn sla(self, sla: Duration) -> $out {
            self.$opts(|o| o.sla = Some(sla))
        }

        /// The pool whose slots the task takes. Default `default_pool`.
        #[must_use]
        $vis fn pool(self, pool: impl Into<String>) -> $out {
            let pool = pool.into();
            self.$opts(|o| o.pool = Some(pool))
        }

        /// How many slots of the pool it takes, at least 1. Default 1.
        #[must_use]
        $vis fn pool_slots(self, slots: u32) -> $out {
            self.$opts(|o| o.pool_slots = Some(slots))
        }

        /// What the task adds to the priority of itself and its relatives; more is earlier. Default 1.
        #[must_use]
        $vis fn priority_weight(self, weight: i32) -> $out {
            self.$opts(|o| o.priority_weight = Some(weight))
        }

        /// Whose weights count for its priority. Default `downstream`: its own and those of all that follows it.
        #[must_use]
        $vis fn weight_rule(self, rule: WeightRule) -> $out {
            self.$opts(|o| o.weight_rule = Some(rule))
        }

        /// The queue that workers listen to. Default `default`.
        #[must_use]
        $vis fn queue(self, queue: impl Into<String>) -> $out {
            let queue = queue.into();
            self.$opts(|o| o.queue = Some(queue))
        }

        /// The executor that runs it, where several are configured. Default: that of its queue, else the first.
        #[must_use]
        $vis fn executor(self, name: impl Into<String>) -> $out {
            let name = name.into();
            self.$opts(|o| o.executor = Some(name))
        }

        /// What the executor is to know of the task, as JSON; what it means is the executor's affair. Default: nothing.
        #[must_use]
        $vis fn executor_config(self, config: impl Into<serde_json::Value>) -> $out {
            let config = config.into();
            self.$opts(|o| o.executor_config = Some(config))
        }

        /// Whether attempts run in processes of their own. Default: as the executor or the worker is set.
        #[must_use]
        $vis fn isolation(self, isolation: $crate::dag::Isolation) -> $out {
            self.$opts(|o| o.isolation = Some(isolation))
        }

        /// The condition on its upstream tasks. Default `all_success`.
        #[must_use]
        $vis fn trigger_rule(self, rule: TriggerRule) -> $out {
            self.$opts(|o| o.trigger_rule = Some(rule))
        }

        /// Short for [`trigger_rule`](Self::trigger_rule).
        #[must_use]
        $vis fn when(self, rule: TriggerRule) -> $out {
            self.$opts(|o| o.trigger_rule = Some(rule))
        }

        /// Wait until the same task succeeded or was skipped in the previous run. Default false.
        #[must_use]
        $vis fn depends_on_past(self, yes: bool) -> $out {
            self.$opts(|o| o.depends_on_past = Some(yes))
        }

        /// As `depends_on_past`, and the tasks directly downstream of it in the previous run as well. Default false.
        #[must_use]
        $vis fn wait_for_downstream(self, yes: bool) -> $out {
            self.$opts(|o| o.wait_for_downstream = Some(yes))
        }

        /// How many instances of the task may be active (queued, running or deferred) over all runs. Default: no limit.
        #[must_use]
        $vis fn max_active_tis_per_dag(self, limit: u32) -> $out {
            self.$opts(|o| o.max_active_tis_per_dag = Some(limit))
        }

        /// How many instances of the task may be active (queued, running or deferred) in one run. Default: no limit.
        #[must_use]
        $vis fn max_active_tis_per_dagrun(self, limit: u32) -> $out {
            self.$opts(|o| o.max_active_tis_per_dagrun = Some(limit))
        }

        /// Whether the result is stored for other tasks. Default true.
        #[must_use]
        $vis fn do_xcom_push(self, yes: bool) -> $out {
            self.$opts(|o| o.do_xcom_push = Some(yes))
        }

        /// Who answers for the task. Default: the owner of the dag, else `airflow`.
        #[must_use]
        $vis fn owner(self, owner: impl Into<String>) -> $out {
            let owner = owner.into();
            self.$opts(|o| o.owner = Some(owner))
        }

        /// Documentation in Markdown. Default: none.
        #[must_use]
        $vis fn doc(self, doc: impl Into<String>) -> $out {
            let doc = doc.into();
            self.$opts(|o| o.doc = Some(doc))
        }

        /// The name shown to people, where it differs from the id. Default: the id.
        #[must_use]
        $vis fn display_name(self, name: impl Into<String>) -> $out {
            let name = name.into();
            self.$opts(|o| o.display_name = Some(name))
        }

        /// The assets it makes: each of its successes is an event of them. Default: none.
        #[must_use]
        $vis fn outlets(self, assets: impl IntoAssetRefs) -> $out {
            let assets = assets.into_refs();
            self.$opts(|o| o.outlets = Some(assets))
        }

        /// The assets it reads. Default: none.
        #[must_use]
        $vis fn inlets(self, assets: impl IntoAssetRefs) -> $out {
            let assets = assets.into_refs();
            self.$opts(|o| o.inlets = Some(assets))
        }

        /// No instance in runs with an earlier logical date. Default: in all.
        #[must_use]
        $vis fn start_date(self, date: DateTime<Utc>) -> $out {
            self.$opts(|o| o.start_date = Some(date))
        }

        /// No instance in runs with a later logical date. Default: in all.
        #[must_use]
        $vis fn end_date(self, date: DateTime<Utc>) -> $out {
            self.$opts(|o| o.end_date = Some(date))
        }

        /// Called just before the task body. May be said several times.
        #[must_use]
        $vis fn on_execute(self, callback: impl IntoCallback) -> $out {
            let callback = callback.into_callback();
            self.$opts(|o| o.callbacks.on_execute.push(callback))
        }

        /// Called when an attempt succeeded. May be said several times.
        #[must_use]
        $vis fn on_success(self, callback: impl IntoCallback) -> $out {
            let callback = callback.into_callback();
            self.$opts(|o| o.callbacks.on_success.push(callback))
        }

        /// Called when the task failed and no retry is left. May be said several times.
        #[must_use]
        $vis fn on_failure(self, callback: impl IntoCallback) -> $out {
            let callback = callback.into_callback();
            self.$opts(|o| o.callbacks.on_failure.push(callback))
        }

        /// Called when an attempt failed and another one follows. May be said several times.
        #[must_use]
        $vis fn on_retry(self, callback: impl IntoCallback) -> $out {
            let callback = callback.into_callback();
            self.$opts(|o| o.callbacks.on_retry.push(callback))
        }

        /// Called when the task body asked to be skipped. May be said several times.
        #[must_use]
        $vis fn on_skipped(self, callback: impl IntoCallback) -> $out {
            let callback = callback.into_callback();
            self.$opts(|o| o.callbacks.on_skipped.push(callback))
        }
    };
}
pub(crate) use task_option_setters;

/// As [`task_option_setters`], for what only sensors have.
macro_rules! sensor_option_setters {
    ($vis:vis, $out:ty, $opts:ident) => {
        /// Where the sensor waits between two pokes. Default `poke`: in its slot.
        #[must_use]
        $vis fn mode(self, mode: SensorMode) -> $out {
            self.$opts(|o| o.mode = Some(mode))
        }

        /// Short for the mode `reschedule`: the slot is given back between two pokes.
        #[must_use]
        $vis fn reschedule(self) -> $out {
            self.$opts(|o| o.mode = Some(SensorMode::Reschedule))
        }

        /// Short for the mode `deferred`: the wait holds no slot and survives a restart.
        #[must_use]
        $vis fn deferred(self) -> $out {
            self.$opts(|o| o.mode = Some(SensorMode::Deferred))
        }

        /// The pause between two pokes. Default 1 minute.
        #[must_use]
        $vis fn poke_interval(self, pause: Duration) -> $out {
            self.$opts(|o| o.poke_interval = Some(pause))
        }

        /// Short for [`poke_interval`](Self::poke_interval).
        #[must_use]
        $vis fn poke_every(self, pause: Duration) -> $out {
            self.$opts(|o| o.poke_interval = Some(pause))
        }

        /// Lets the pauses grow: about doubled with each poke, and spread so that sensors do not poke together. Default false.
        #[must_use]
        $vis fn poke_backoff(self, yes: bool) -> $out {
            self.$opts(|o| o.poke_backoff = Some(yes))
        }

        /// The longest pause between two pokes. Default: no limit.
        #[must_use]
        $vis fn max_wait(self, pause: Duration) -> $out {
            self.$opts(|o| o.max_wait = Some(pause))
        }

        /// Skips the sensor if its time is over or it fails for good, instead of failing it. Default false.
        #[must_use]
        $vis fn soft_fail(self, yes: bool) -> $out {
            self.$opts(|o| o.soft_fail = Some(yes))
        }

        /// Logs errors of pokes and counts them as "not yet". Default false.
        #[must_use]
        $vis fn silent_fail(self, yes: bool) -> $out {
            self.$opts(|o| o.silent_fail = Some(yes))
        }

        /// Skips the sensor if a poke fails. Default false.
        #[must_use]
        $vis fn never_fail(self, yes: bool) -> $out {
            self.$opts(|o| o.never_fail = Some(yes))
        }
    };
}
pub(crate) use sensor_option_setters;

impl TaskOptions {
    /// No options: everything comes from a weaker place.
    pub fn new() -> Self {
        Self::default()
    }

    fn set(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    task_option_setters!(pub, Self, set);
    sensor_option_setters!(pub, Self, set);
}
