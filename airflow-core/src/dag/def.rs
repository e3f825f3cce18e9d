//! A defined dag: its options and what was added to it.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::callback::{Callback, Callbacks, IntoCallback};
use crate::template::{TemplateOptions, Undefined};
use crate::timetable::Schedule;

use super::builder::{Dag, Definition};
use super::deadline::DeadlineAlert;
use super::options::TaskOptions;
use super::problem::Place;

/// A moment as written in a definition. Text is read in the time zone of the dag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// `2026-01-01`, `2026-01-01T06:00`, with an offset if wanted.
    Text(String),
    /// A moment.
    At(DateTime<Utc>),
}

impl From<&str> for When {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for When {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<DateTime<Utc>> for When {
    fn from(at: DateTime<Utc>) -> Self {
        Self::At(at)
    }
}

impl From<NaiveDate> for When {
    fn from(date: NaiveDate) -> Self {
        Self::Text(date.to_string())
    }
}

/// The parameters of a dag: their JSON Schema and their defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamsSpec {
    /// What is allowed.
    pub schema: Value,
    /// What holds if nothing else is given.
    pub defaults: Value,
}

/// The options of a dag as given.
#[derive(Debug, Clone, Default)]
pub struct DagOptions {
    /// When runs are made.
    pub schedule: Option<Schedule>,
    /// The zone of the schedule and of dates without offset. Default UTC.
    pub timezone: Option<String>,
    /// The earliest logical date.
    pub start_date: Option<When>,
    /// The latest logical date.
    pub end_date: Option<When>,
    /// Whether missed intervals are made up for. Default false.
    pub catchup: bool,
    /// How many runs may be active at once. Default 16.
    pub max_active_runs: Option<u32>,
    /// How many task instances may be active at once over all runs. Default 16.
    pub max_active_tasks: Option<u32>,
    /// How long a run may take from its start.
    pub dagrun_timeout: Option<Duration>,
    /// Options for all tasks, weaker than their own.
    pub default_args: TaskOptions,
    /// Parameters.
    pub params: Option<ParamsSpec>,
    /// Why the parameters could not be described.
    pub params_error: Option<String>,
    /// Labels for filtering.
    pub tags: Vec<String>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// One line for lists.
    pub description: Option<String>,
    /// Documentation in Markdown.
    pub doc: Option<String>,
    /// The name shown to people.
    pub display_name: Option<String>,
    /// Whether it is paused when a database first sees it.
    pub paused_at_creation: Option<bool>,
    /// Whether the first failure of a task stops the run.
    pub fail_fast: bool,
    /// What to call when a run ends.
    pub callbacks: Callbacks,
    /// By when runs should be done.
    pub deadlines: Vec<DeadlineAlert>,
    /// What to call when a task has missed its `sla`.
    pub on_sla_miss: Vec<Callback>,
    /// After how many failed runs in a row the dag pauses itself; 0 = never.
    pub max_consecutive_failed_dag_runs: u32,
    /// How templates are rendered, and what they may use beside what is built in.
    pub templates: TemplateOptions,
    /// What holds where the dag says nothing; set by the application.
    pub inherited: Option<Arc<DagDefaults>>,
}

impl DagOptions {
    /// What holds where the dag says nothing.
    pub(crate) fn inherited(&self) -> &DagDefaults {
        static NOTHING: LazyLock<DagDefaults> = LazyLock::new(DagDefaults::default);
        self.inherited.as_deref().unwrap_or(&NOTHING)
    }
}

/// What dags of an application have in common, weaker than what they say themselves.
#[derive(Debug, Clone, Default)]
pub struct DagDefaults {
    /// The zone of the schedule and of dates without offset.
    pub timezone: Option<String>,
    /// How many runs may be active at once.
    pub max_active_runs: Option<u32>,
    /// How many task instances may be active at once over all runs.
    pub max_active_tasks: Option<u32>,
    /// Options of tasks.
    pub task: TaskOptions,
    /// Options of sensors, before those of tasks. Their `timeout` is that of the whole wait.
    pub sensor: TaskOptions,
    /// Whether the `sla` of tasks is looked at. Default true.
    pub check_slas: Option<bool>,
}

/// A dag: made with [`DagDef::new`], filled with [`define`](Self::define), given to the `Airflow` builder.
///
/// ```
/// use airflow_core::dag::{DagDef, TaskExt};
/// use airflow_core::operator::Empty;
/// use airflow_core::time::hours;
///
/// fn nightly(tenant: &str) -> DagDef {
///     DagDef::new(format!("nightly_{tenant}"))
///         .schedule("30 2 * * *")
///         .timezone("America/New_York")
///         .start_date("2026-01-01")
///         .max_active_runs(1)
///         .dagrun_timeout(hours(4))
///         .define(|d| {
///             let begin = d.add(Empty::new().id("begin"));
///             let end = d.add(Empty::new().id("end"));
///             d.order(begin >> end);
///         })
/// }
///
/// assert_eq!(nightly("acme").id(), "nightly_acme");
/// let dag = nightly("acme").compile()?;
/// assert_eq!(dag.tasks.len(), 2);
/// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
/// ```
///
/// What else can be said of a dag, with the values that hold otherwise:
///
/// ```
/// use airflow_core::dag::{DagDef, TaskExt, TaskOptions};
/// use airflow_core::operator::Empty;
/// use airflow_core::time::{hours, mins};
///
/// let tasks = |d: &airflow_core::dag::Dag| d.add(Empty::new().id("load").pool("lake")).node().id();
/// let dag = DagDef::new("orders")
///     .schedule("@hourly") // default: only triggered
///     .start_date("2026-01-01T06:00") // none, so needed for `catchup`
///     .end_date("2026-12-31") // none
///     .catchup(true) // false: only the newest missed interval
///     .max_active_runs(2) // 16 runs
///     .max_active_tasks(40) // 16 task instances, over all runs
///     .dagrun_timeout(hours(2)) // no limit
///     .fail_fast(true) // false
///     .max_consecutive_failed_dag_runs(3) // 0: never paused by itself
///     .paused_at_creation(true) // as configured: false
///     .default_args(TaskOptions::new().retries(2).retry_delay(mins(1))) // none
///     .tags(["sales", "hourly"]) // none
///     .owner("ada") // airflow
///     .description("Orders into the lake") // none
///     .display_name("Orders") // the id
///     .doc("Runs after each full hour.") // none
///     .user_defined_macro("bucket", "s3://lake") // none
///     .define(tasks)
///     .compile()?;
/// let (said, load) = (&dag.settings, &dag.tasks[0].settings);
/// assert_eq!((said.max_active_runs, said.max_active_tasks, said.dagrun_timeout), (2, 40, Some(hours(2))));
/// assert_eq!((load.retry.retries, load.owner.as_str(), load.pool.as_str()), (2, "ada", "lake"));
///
/// let silent = DagDef::new("silent").define(tasks).compile()?;
/// let said = &silent.settings;
/// assert_eq!((said.max_active_runs, said.max_active_tasks, said.dagrun_timeout), (16, 16, None));
/// assert!(!said.restriction.catchup && !said.fail_fast && said.tags.is_empty());
/// assert_eq!((said.owners.as_str(), said.max_consecutive_failed_dag_runs), ("airflow", 0));
/// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
/// ```
///
/// With `#[dag]` the same is an attribute on a function.
#[derive(Clone)]
pub struct DagDef {
    pub(crate) id: String,
    pub(crate) place: Place,
    pub(crate) options: DagOptions,
    /// Shared by copies of the dag.
    pub(crate) definition: Arc<Definition>,
}

impl fmt::Debug for DagDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DagDef")
            .field("id", &self.id)
            .field("tasks", &self.definition.tasks.len())
            .finish_non_exhaustive()
    }
}

impl DagDef {
    /// A dag without tasks and without a schedule.
    #[track_caller]
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            place: Place::caller(),
            options: DagOptions::default(),
            definition: Arc::default(),
        }
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The options as given.
    pub fn options(&self) -> &DagOptions {
        &self.options
    }

    /// The line that made it.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Adds the tasks: `define` gets the [`Dag`] to add them to. What it returns is dropped.
    #[must_use]
    pub fn define<R>(mut self, define: impl FnOnce(&Dag) -> R) -> Self {
        let dag = Dag::new(&self.id);
        drop(define(&dag));
        self.definition = Arc::new(dag.finish());
        self
    }

    fn set(mut self, change: impl FnOnce(&mut DagOptions)) -> Self {
        change(&mut self.options);
        self
    }

    /// When runs are made: a cron expression, a preset such as `@daily`, a duration, `Cron`, `Delta`, or any
    /// timetable. Default: none, so that runs are only triggered.
    #[must_use]
    pub fn schedule(self, schedule: impl Into<Schedule>) -> Self {
        let schedule = schedule.into();
        self.set(|o| o.schedule = Some(schedule))
    }

    /// The time zone of the schedule and of dates without offset, such as `Europe/Paris`. Default UTC.
    #[must_use]
    pub fn timezone(self, zone: impl Into<String>) -> Self {
        let zone = zone.into();
        self.set(|o| o.timezone = Some(zone))
    }

    /// The earliest logical date. Default: none.
    #[must_use]
    pub fn start_date(self, date: impl Into<When>) -> Self {
        let date = date.into();
        self.set(|o| o.start_date = Some(date))
    }

    /// The latest logical date. Default: none.
    #[must_use]
    pub fn end_date(self, date: impl Into<When>) -> Self {
        let date = date.into();
        self.set(|o| o.end_date = Some(date))
    }

    /// Whether a run is made for every interval missed since the start date, or only for the newest one. Default false.
    #[must_use]
    pub fn catchup(self, yes: bool) -> Self {
        self.set(|o| o.catchup = yes)
    }

    /// How many runs may be active at once, at least 1. Default 16.
    #[must_use]
    pub fn max_active_runs(self, limit: u32) -> Self {
        self.set(|o| o.max_active_runs = Some(limit))
    }

    /// How many task instances may be active at once, over all runs, at least 1. Default 16.
    #[must_use]
    pub fn max_active_tasks(self, limit: u32) -> Self {
        self.set(|o| o.max_active_tasks = Some(limit))
    }

    /// How long a run may take from its start; then it fails and its unfinished tasks are skipped. Default: no limit.
    #[must_use]
    pub fn dagrun_timeout(self, timeout: Duration) -> Self {
        self.set(|o| o.dagrun_timeout = Some(timeout))
    }

    /// Options for all tasks, weaker than their own. Default: none.
    #[must_use]
    pub fn default_args(self, options: TaskOptions) -> Self {
        self.set(|o| o.default_args = options)
    }

    /// Typed parameters: `P` gives the JSON Schema, `P::default()` the values that hold if a run brings none. Default: any
    /// object may be given.
    ///
    /// ```
    /// # use airflow_core::dag::{DagDef, TaskExt};
    /// # use airflow_core::operator::Empty;
    /// #[derive(serde::Serialize, schemars::JsonSchema, Default)]
    /// struct Limits {
    ///     #[schemars(range(max = 10))]
    ///     rows: u32,
    /// }
    ///
    /// let dag = DagDef::new("limited").params::<Limits>().define(|d| d.add(Empty::new()).node().id());
    /// let dag = dag.compile()?;
    /// assert_eq!(dag.params(None), Ok(serde_json::json!({ "rows": 0 })));
    /// assert!(dag.params(Some(&serde_json::json!({ "rows": 11 }))).is_err());
    /// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
    /// ```
    #[must_use]
    pub fn params<P: JsonSchema + Serialize + Default>(self) -> Self {
        self.params_with(&P::default())
    }

    /// As [`params`](Self::params), with these defaults.
    #[must_use]
    pub fn params_with<P: JsonSchema + Serialize>(self, defaults: &P) -> Self {
        let schema = schemars::schema_for!(P).to_value();
        match serde_json::to_value(defaults) {
            Ok(defaults) => self.set(|o| o.params = Some(ParamsSpec { schema, defaults })),
            Err(error) => self.set(|o| o.params_error = Some(error.to_string())),
        }
    }

    /// Parameters by a schema of one's own.
    #[must_use]
    pub fn params_schema(self, schema: Value, defaults: Value) -> Self {
        self.set(|o| o.params = Some(ParamsSpec { schema, defaults }))
    }

    /// Labels for filtering, each of 1 to 100 characters. Default: none.
    #[must_use]
    pub fn tags<T: Into<String>>(self, tags: impl IntoIterator<Item = T>) -> Self {
        let tags = tags.into_iter().map(Into::into).collect();
        self.set(|o| o.tags = tags)
    }

    /// Who answers for the dag and for tasks that name nobody. Default `airflow`.
    #[must_use]
    pub fn owner(self, owner: impl Into<String>) -> Self {
        let owner = owner.into();
        self.set(|o| o.owner = Some(owner))
    }

    /// One line for lists. Default: none.
    #[must_use]
    pub fn description(self, text: impl Into<String>) -> Self {
        let text = text.into();
        self.set(|o| o.description = Some(text))
    }

    /// Documentation in Markdown. Default: none.
    #[must_use]
    pub fn doc(self, text: impl Into<String>) -> Self {
        let text = text.into();
        self.set(|o| o.doc = Some(text))
    }

    /// The name shown to people, where it differs from the id. Default: the id.
    #[must_use]
    pub fn display_name(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.set(|o| o.display_name = Some(name))
    }

    /// Whether it is paused when a database first sees it. Default false.
    #[must_use]
    pub fn paused_at_creation(self, yes: bool) -> Self {
        self.set(|o| o.paused_at_creation = Some(yes))
    }

    /// Whether the first failure of a task stops the whole run. Default false.
    #[must_use]
    pub fn fail_fast(self, yes: bool) -> Self {
        self.set(|o| o.fail_fast = yes)
    }

    /// Pauses the dag after this many failed runs in a row; 0 = never. Default 0.
    #[must_use]
    pub fn max_consecutive_failed_dag_runs(self, limit: u32) -> Self {
        self.set(|o| o.max_consecutive_failed_dag_runs = limit)
    }

    /// Called when a run ended well. May be said several times.
    #[must_use]
    pub fn on_success(self, callback: impl IntoCallback) -> Self {
        let callback = callback.into_callback();
        self.set(|o| o.callbacks.on_success.push(callback))
    }

    /// Called when a run failed; the reason is in the context. May be said several times.
    #[must_use]
    pub fn on_failure(self, callback: impl IntoCallback) -> Self {
        let callback = callback.into_callback();
        self.set(|o| o.callbacks.on_failure.push(callback))
    }

    /// By when a run should have succeeded, and who is told if it has not. May be said several times.
    #[must_use]
    pub fn deadline(self, alert: DeadlineAlert) -> Self {
        self.set(|o| o.deadlines.push(alert))
    }

    /// Called when a task of a scheduled run has missed its `sla`, once for each; which one is in the context, and what it
    /// waits for is in the reason. The event is `sla_miss`.
    ///
    /// ```
    /// use airflow_core::callback::CallbackContext;
    /// use airflow_core::dag::{DagDef, TaskExt};
    /// use airflow_core::operator::Empty;
    /// use airflow_core::time::mins;
    ///
    /// async fn page(late: CallbackContext) {
    ///     println!("{} {:?}: {}", late.run_id, late.task_id, late.reason.unwrap_or_default());
    /// }
    ///
    /// let dag = DagDef::new("sales").schedule("@daily").on_sla_miss(page).define(|d| {
    ///     d.add(Empty::new().id("load").sla(mins(90)));
    /// });
    /// assert_eq!(dag.compile()?.settings.deadlines[0].after, mins(90));
    /// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
    /// ```
    #[must_use]
    pub fn on_sla_miss(self, callback: impl IntoCallback) -> Self {
        let callback = callback.into_callback();
        self.set(|o| o.on_sla_miss.push(callback))
    }

    /// A name that templates of this dag may use, with its value. May be said several times. Part of the dag's version.
    #[must_use]
    pub fn user_defined_macro(self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        let (name, value) = (name.into(), value.into());
        self.set(|o| o.templates.add_value(name, value))
    }

    /// A function that templates of this dag may call with positional arguments. What it gives as `Err` fails the
    /// rendering with that text. Its name is part of the dag's version, what it does is not.
    ///
    /// ```
    /// use airflow_core::dag::DagDef;
    /// use airflow_core::operator::template;
    /// # use airflow_core::operator::{Description, In, IntoIn as _, Operator, Result, TaskContext};
    /// # struct Say(In<String>);
    /// # impl Operator for Say {
    /// #     type Output = String;
    /// #     const NAME: &'static str = "say";
    /// #     fn describe(&self, description: &mut Description) {
    /// #         description.input(&self.0);
    /// #     }
    /// #     async fn execute(&self, cx: &TaskContext) -> Result<String> {
    /// #         Ok(self.0.get(cx)?)
    /// #     }
    /// # }
    /// # fn say(text: airflow_core::operator::TemplateText) -> Say {
    /// #     Say(text.into_in())
    /// # }
    /// use airflow_core::testing::DagTest;
    /// use serde_json::{Value, json};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// fn cents(args: &[Value]) -> Result<Value, String> {
    ///     let euros = args.first().and_then(Value::as_i64).ok_or("it takes a number")?;
    ///     Ok(json!(euros * 100))
    /// }
    ///
    /// let dag = DagDef::new("sales")
    ///     .user_defined_function("cents", cents)
    ///     .user_defined_filter("quoted", |value, _| Ok(json!(format!("<{}>", value.as_str().unwrap_or_default()))))
    ///     .define(|d| {
    ///         d.add(say(template("{{ cents(3) }} {{ ds | quoted }}")));
    ///     });
    /// let run = DagTest::new(dag).at("2026-03-02").run().await;
    /// assert_eq!(run.output_of::<String>("say").as_deref(), Some("300 <2026-03-02>"));
    /// # }
    /// ```
    #[must_use]
    pub fn user_defined_function<F>(self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(&[Value]) -> Result<Value, String> + Send + Sync + 'static,
    {
        let name = name.into();
        self.set(|o| o.templates.add_function(name, function))
    }

    /// A filter that templates of this dag may use: a function of the filtered value and its further arguments, as
    /// [`user_defined_function`](Self::user_defined_function).
    #[must_use]
    pub fn user_defined_filter<F>(self, name: impl Into<String>, filter: F) -> Self
    where
        F: Fn(&Value, &[Value]) -> Result<Value, String> + Send + Sync + 'static,
    {
        let name = name.into();
        self.set(|o| o.templates.add_filter(name, filter))
    }

    /// What a name does in templates that does not exist: an error, when the dag is built and when it is rendered
    /// ([`Undefined::Strict`], as it is unless set), or nothing.
    ///
    /// ```
    /// use airflow_core::dag::DagDef;
    /// use airflow_core::template::Undefined;
    ///
    /// let dag = DagDef::new("d").template_undefined(Undefined::Lenient).define(|_| ());
    /// assert!(dag.compile().is_ok());
    /// ```
    #[must_use]
    pub fn template_undefined(self, undefined: Undefined) -> Self {
        self.set(|o| o.templates.undefined = undefined)
    }

    /// Whether template fields that are JSON keep the types of values: `"{{ params.n }}"` becomes a number, and a text
    /// that is a Python literal is read as one. Fields of type `String` stay texts.
    ///
    /// ```
    /// use airflow_core::dag::DagDef;
    ///
    /// let dag = || DagDef::new("d").define(|_| ());
    /// let native = dag().render_template_as_native_obj(true).compile()?;
    /// assert_ne!(native.fingerprint, dag().compile()?.fingerprint, "it is part of the version");
    /// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
    /// ```
    #[must_use]
    pub fn render_template_as_native_obj(self, yes: bool) -> Self {
        self.set(|o| o.templates.native = yes)
    }

    /// The folders in which templates find others that they `include`, `import` or `extend`; the first that has a file of
    /// the name wins. A relative folder is one of the process that runs the task, so name absolute ones where there are
    /// several machines.
    ///
    /// ```
    /// use airflow_core::dag::DagDef;
    ///
    /// // Its templates may say `{% include 'orders.sql' %}`.
    /// let dag = DagDef::new("d").template_searchpath(["/srv/dags/sql", "/srv/shared"]).define(|_| ());
    /// assert!(dag.compile().is_ok());
    /// ```
    #[must_use]
    pub fn template_searchpath<P: Into<PathBuf>>(self, folders: impl IntoIterator<Item = P>) -> Self {
        let folders = folders.into_iter().map(Into::into).collect();
        self.set(|o| o.templates.searchpath = folders)
    }
}
