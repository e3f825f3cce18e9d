//! The macros of `airflow`: use them through that crate.
//!
//! Each macro has a module: [`task`](macro@task), [`dag`](macro@dag), [`Operator`](macro@Operator),
//! [`Branch`](macro@Branch). Which options exist is a table in `keys`; `value` checks literals. Generated code names
//! everything through `::airflow::__private`, or through the crate given as `crate = path`. After a mistake the user's
//! item is still there, and as much generated code as makes sense, so that one mistake is one error.

mod args;
mod branch;
mod dag;
mod errors;
mod item;
mod keys;
mod operator;
mod params;
mod task;
mod value;

use proc_macro::TokenStream;

/// Makes a function a task.
///
/// ```
/// use airflow::prelude::*;
///
/// struct Rates(i64);
///
/// /// Converts a price to cents.
/// #[task(retries = 3, retry_delay = "30s", timeout = "5m", pool = "warehouse")]
/// async fn price(euros: i64, rates: &Rates) -> Result<i64> {
///     Ok(euros * rates.0)
/// }
///
/// let sales = DagDef::new("sales").define(|d| {
///     let first = d.add(price::call(5));
///     d.add(price::call(first).retries(0));
/// });
/// # assert_eq!(sales.id(), "sales");
/// ```
///
/// - An owned parameter is data: a constant, or the result of an upstream task. A borrowed parameter is injected:
///   `&TaskContext`, `&Params<T>`, or a resource that the application registered.
/// - The function stays as it is; `price::call(..)` makes a task of it, `price::ID` is its id.
/// - An `async fn` runs on the runtime; a plain `fn` runs on a thread that may block, which `blocking` says aloud.
/// - Options: `id`, `retries`, `retry_delay`, `retry_exponential_backoff`, `max_retry_delay`, `timeout`, `execution_timeout`, `sla`, `pool`,
///   `pool_slots`, `priority_weight`, `weight_rule`, `queue`, `executor`, `executor_config`, `isolation`,
///   `trigger_rule`, `depends_on_past`,
///   `wait_for_downstream`, `max_active_tis_per_dag`, `max_active_tis_per_dagrun`, `start_date`, `end_date`,
///   `do_xcom_push`, `owner`, `doc` (default: the doc comment), `display_name`, `outlets`, `inlets`, `on_execute`,
///   `on_success`, `on_failure`, `on_retry`, `on_skipped`, `setup`, `teardown`, `on_failure_fail_dagrun`, `blocking`,
///   `triggers(..)` (what it may defer to: `Deferral`), and `crate` if
///   `airflow` has another name. They take literals or any expression; a use may override them: `.retries(2)`.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(options.into(), &item.into(), task::Flavour::Task).into()
}

/// Makes a function a sensor: a task that waits until something is so.
///
/// ```
/// use airflow::prelude::*;
///
/// /// Returns the size of the file once it is there.
/// #[sensor(poke_interval = "30s", timeout = "6h", mode = "reschedule")]
/// async fn arrived(path: String) -> Result<Poke<u64>> {
///     match std::fs::metadata(path) {
///         Ok(file) => Ok(Poke::Ready(file.len())),
///         Err(_) => Ok(Poke::NotYet),
///     }
/// }
///
/// #[task]
/// async fn load(bytes: u64) -> Result<()> { Ok(()) }
///
/// #[dag]
/// fn imports(d: &Dag) {
///     let bytes = d.add(arrived::call("/in/orders.csv".to_owned()).poke_every(mins(1)));
///     d.add(load::call(bytes));
/// }
/// # assert_eq!(imports().id(), "imports");
/// ```
///
/// - The function looks once, and is called again and again. It returns `Result<Poke<T>>`, or `Result<bool>` if there
///   is nothing to hand on.
/// - Options: those of [`macro@task`], and `mode` (`"poke"`, `"reschedule"`, `"deferred"`), `poke_interval`,
///   `poke_backoff`, `max_wait`, `soft_fail`, `silent_fail`, `never_fail`. `timeout` is that of the whole wait,
///   `execution_timeout` that of one attempt.
#[proc_macro_attribute]
pub fn sensor(options: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(options.into(), &item.into(), task::Flavour::Sensor).into()
}

/// Makes a function the definition of a dag.
///
/// ```
/// use airflow::prelude::*;
///
/// #[task] async fn extract() -> Result<Vec<i64>> { Ok(vec![1, 2]) }
/// #[task] async fn total(all: Vec<i64>) -> Result<i64> { Ok(all.iter().sum()) }
///
/// #[dag(schedule = "0 6 * * *", timezone = "Europe/Paris", start_date = "2026-01-01", tags = ["sales"])]
/// fn sales(d: &Dag) {
///     let all = d.add(extract::call());
///     d.add(total::call(all));
/// }
///
/// let sales: DagDef = sales();
/// # assert_eq!(sales.id(), "sales");
/// ```
///
/// - The function returns a `DagDef` afterwards, and announces itself for `discovered_dags()`.
/// - Parameters after `d` stay parameters of the function; the options may use them (`id = format!("load_{tenant}")`).
///   Such a dag is not announced: give it to the builder with `.dag(..)`.
/// - `a >> b;` does not warn about an unused result.
/// - Options: `id`, `schedule`, `timezone`, `start_date`, `end_date`, `catchup`, `max_active_runs`,
///   `max_active_tasks`, `dagrun_timeout`, `tags`, `owner`, `description`, `doc` (default: the doc comment),
///   `display_name`, `paused_at_creation`, `fail_fast`, `max_consecutive_failed_dag_runs`, `on_success`, `on_failure`,
///   `on_sla_miss`, `deadline`, `params`, `default_args`, `render_template_as_native_obj`, `template_undefined`,
///   `template_searchpath`, `crate`.
#[proc_macro_attribute]
pub fn dag(options: TokenStream, item: TokenStream) -> TokenStream {
    dag::expand(options.into(), &item.into()).into()
}

/// Makes a struct a kind of task; what it does is in its `impl Execute`.
///
/// ```
/// use airflow::prelude::*;
///
/// #[derive(Operator)]
/// #[operator(color = "#4a154b", doc = "Posts a message.", retries = 2)]
/// struct SlackPost {
///     #[template]
///     text: String,
///     #[input]
///     total: In<i64>,
///     channel: String,
/// }
///
/// impl Execute for SlackPost {
///     type Output = String;
///
///     async fn execute(&self, cx: &TaskContext) -> Result<String> {
///         Ok(format!("{}: {} {}", self.channel, self.text, self.total.get(cx)?))
///     }
/// }
///
/// let dag = DagDef::new("sales").define(|d| {
///     d.add(SlackPost { text: "{{ ds }}".into(), total: 5.into_in(), channel: "#sales".into() });
/// });
/// # assert_eq!(dag.id(), "sales");
/// ```
///
/// - `#[template]` fields are rendered before the task body runs. An `In<T>` comes from upstream; `#[input]` says so
///   aloud. All other fields are only cloned.
/// - `#[operator(..)]` takes the options of [`macro@task`] but `blocking`, and `name` (default: the name of the struct),
///   `color`, and `needs(PgPool, Rates)`: the resources that `execute` asks the context for, so that a missing one is
///   found when the application starts. `triggers(JobDone)` names the triggers that it defers to. The default of `id` is
///   the name of the struct in `snake_case`.
/// - `#[operator(sensor)]` makes it a sensor, with `impl Sensor` instead of `impl Execute`, and the further options of
///   [`macro@sensor`].
#[proc_macro_derive(Operator, attributes(operator, template, input))]
pub fn operator(item: TokenStream) -> TokenStream {
    operator::expand(item.into()).into()
}

/// Makes an enum without data a branch: the value that a task returns decides which tasks run.
///
/// ```
/// use airflow::prelude::*;
///
/// #[derive(Serialize, Deserialize, Branch)]
/// enum Load {
///     Full,
///     Nothing,
/// }
///
/// #[task] async fn choose() -> Result<Load> { Ok(Load::Full) }
/// #[task] async fn load() -> Result<()> { Ok(()) }
///
/// #[dag]
/// fn nightly(d: &Dag) {
///     let load = d.add(load::call());
///     d.branch(d.add(choose::call()), |way| match way {
///         Load::Full => load.into(),
///         Load::Nothing => Nodes::none(),
///     });
/// }
/// # assert_eq!(nightly().id(), "nightly");
/// ```
#[proc_macro_derive(Branch, attributes(branch))]
pub fn branch(item: TokenStream) -> TokenStream {
    branch::expand(item.into()).into()
}
