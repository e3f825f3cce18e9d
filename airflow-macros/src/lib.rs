//! The macros of `airflow`: use them through that crate, which also has the examples.
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

/// - The function looks once, and is called again and again. It returns `Result<Poke<T>>`, or `Result<bool>` if there
///   is nothing to hand on.
/// - Options: those of [`macro@task`], and `mode` (`"poke"`, `"reschedule"`, `"deferred"`), `poke_interval`,
///   `poke_backoff`, `max_wait`, `soft_fail`, `silent_fail`, `never_fail`. `timeout` is that of the whole wait,
///   `execution_timeout` that of one attempt.
#[proc_macro_attribute]
pub fn sensor(options: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(options.into(), &item.into(), task::Flavour::Sensor).into()
}

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

/// The variants carry no data; they are written and read as serde does it, and need both of its traits.
#[proc_macro_derive(Branch, attributes(branch))]
pub fn branch(item: TokenStream) -> TokenStream {
    branch::expand(item.into()).into()
}
