//! What a template can see: the facts of one attempt, and lazy lookups of Variables, Connections and `XComs`.
//!
//! [`TemplateContext`] is plain data that the attempt runner fills in. Each variable is built when a template first
//! names it. Nothing here touches a store; start reading at [`Root::build`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use minijinja::value::{Object, ObjectRepr};
use minijinja::{Error, Value};
use serde_json::{Map, Value as Json};

use super::args::Args;
use super::assets::TemplateAssets;
use super::conf::conf;
use super::containers::{Dict, List, from_json};
use super::datetime::{self, Stamp};
use super::error::{TemplateErrorKind, raise};
use super::json;
use super::macros::macros;
use super::py::{as_int, items};
use super::values::Thing;
use crate::config::ConfigError;

/// The latest earlier run of the DAG that succeeded.
#[derive(Debug, Clone, Default)]
pub struct PreviousRun {
    /// Its logical date.
    pub logical_date: Option<DateTime<Utc>>,
    /// Start and end of its data interval.
    pub data_interval: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// When it really started.
    pub start_date: Option<DateTime<Utc>>,
    /// When it really ended.
    pub end_date: Option<DateTime<Utc>>,
}

/// The facts of one attempt that templates can name; the attempt runner fills them in.
///
/// All times are UTC. Absent dates make the variables that depend on them undefined, as in Airflow 3.
#[derive(Debug, Clone, Default)]
pub struct TemplateContext {
    /// `dag.dag_id`.
    pub dag_id: String,
    /// `task.task_id`, with its groups: `group.task`.
    pub task_id: String,
    /// `dag.dag_display_name`; the id if absent.
    pub dag_display_name: Option<String>,
    /// `task.task_display_name`; the id if absent.
    pub task_display_name: Option<String>,
    /// `task.owner`.
    pub owner: String,
    /// `task.task_type` and `ti.operator`: the name of the operator.
    pub operator: String,
    /// Further attributes of `dag`, such as `description` or `tags`.
    pub dag_fields: Map<String, Json>,
    /// Further attributes of `task`, such as `retries`, `pool` or `queue`; `ti` has those as well.
    pub task_fields: Map<String, Json>,
    /// `run_id`.
    pub run_id: String,
    /// `dag_run.run_type`: `scheduled`, `manual`, `backfill` or `asset_triggered`.
    pub run_type: String,
    /// `logical_date`.
    pub logical_date: Option<DateTime<Utc>>,
    /// `data_interval_start` and `data_interval_end`.
    pub data_interval: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// The logical date before this one, by the schedule: `prev_ds`.
    pub previous_logical_date: Option<DateTime<Utc>>,
    /// The logical date after this one, by the schedule: `next_ds`.
    pub next_logical_date: Option<DateTime<Utc>>,
    /// `prev_data_interval_start_success` and its kin.
    pub previous_success: Option<PreviousRun>,
    /// `try_number` and `ti.try_number`, counted from 1.
    pub try_number: u32,
    /// `task_reschedule_count`: how often this try has asked to be run again later.
    pub task_reschedule_count: u32,
    /// `ti.max_tries`: retries that the task is allowed.
    pub max_tries: u32,
    /// `ti.map_index`; absent (-1 in templates) if the task is not mapped.
    pub map_index: Option<u32>,
    /// `expanded_ti_count`: how many instances the mapped task has.
    pub expanded_ti_count: Option<u32>,
    /// `ti.start_date`.
    pub start_date: Option<DateTime<Utc>>,
    /// `ti.hostname`.
    pub hostname: String,
    /// `ti.log_url`.
    pub log_url: String,
    /// `params`, merged and validated.
    pub params: Json,
    /// `dag_run.conf`; an empty dict if absent.
    pub conf: Option<Json>,
    /// `dag_run.state`.
    pub run_state: String,
    /// `dag_run.start_date`.
    pub run_start_date: Option<DateTime<Utc>>,
    /// `dag_run.queued_at`.
    pub run_queued_at: Option<DateTime<Utc>>,
    /// `dag_run.note`.
    pub run_note: Option<String>,
    /// `test_mode`.
    pub test_mode: bool,
    /// The present, for `macros.datetime.now()` and `macros.time`.
    pub now: DateTime<Utc>,
    /// `inlets`, `outlets`, `triggering_asset_events` and `inlet_events`.
    pub assets: Box<TemplateAssets>,
    /// Further top-level variables, such as `templates_dict`.
    pub extra: Map<String, Json>,
}

/// A Connection as templates see it.
#[derive(Debug, Clone, Default)]
pub struct TemplateConnection {
    /// `conn.ID.conn_id`.
    pub conn_id: String,
    /// `conn.ID.conn_type`.
    pub conn_type: String,
    /// `conn.ID.description`.
    pub description: Option<String>,
    /// `conn.ID.host`.
    pub host: Option<String>,
    /// `conn.ID.login`.
    pub login: Option<String>,
    /// `conn.ID.password`.
    pub password: Option<String>,
    /// `conn.ID.schema`.
    pub schema: Option<String>,
    /// `conn.ID.port`.
    pub port: Option<u16>,
    /// `conn.ID.extra`: JSON text; `extra_dejson` is its content.
    pub extra: Option<String>,
    /// `conn.ID.get_uri()`.
    pub uri: Option<String>,
}

/// Values that a template asks for by name while it renders.
///
/// Synchronous, so the implementer fetches what the templates may name before rendering, or answers from a cache.
pub trait Lookups: Send + Sync {
    /// The text of a Variable.
    fn variable(&self, key: &str) -> Option<String>;
    /// A Connection.
    fn connection(&self, id: &str) -> Option<TemplateConnection>;
    /// An `XCom` of the same run; `map_index` is absent if the template named none.
    fn xcom(&self, task_id: &str, key: &str, map_index: Option<i32>) -> Option<Json>;
    /// A setting that is no secret.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Missing`] if there is none, [`ConfigError::Secret`] if it is not to be seen.
    fn setting(&self, section: &str, key: &str) -> Result<String, ConfigError> {
        Err(ConfigError::Missing { section: section.to_owned(), key: key.to_owned() })
    }
}

/// Variables, Connections and `XComs` that do not exist: for templates that name none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLookups;

impl Lookups for NoLookups {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn connection(&self, _: &str) -> Option<TemplateConnection> {
        None
    }

    fn xcom(&self, _: &str, _: &str, _: Option<i32>) -> Option<Json> {
        None
    }
}

/// Every variable that a template may name without having set it.
pub(super) const NAMES: [&str; 49] = [
    "conf",
    "conn",
    "dag",
    "dag_run",
    "data_interval_end",
    "data_interval_start",
    "ds",
    "ds_nodash",
    "execution_date",
    "expanded_ti_count",
    "inlet_events",
    "inlets",
    "logical_date",
    "macros",
    "map_index_template",
    "next_ds",
    "next_ds_nodash",
    "next_execution_date",
    "outlets",
    "params",
    "partition_date",
    "partition_key",
    "prev_data_interval_end_success",
    "prev_data_interval_start_success",
    "prev_ds",
    "prev_ds_nodash",
    "prev_end_date_success",
    "prev_execution_date",
    "prev_execution_date_success",
    "prev_start_date_success",
    "run_id",
    "task",
    "task_instance",
    "task_instance_key_str",
    "task_reschedule_count",
    "templates_dict",
    "test_mode",
    "ti",
    "tomorrow_ds",
    "tomorrow_ds_nodash",
    "triggering_asset_events",
    "triggering_dataset_events",
    "try_number",
    "ts",
    "ts_nodash",
    "ts_nodash_with_tz",
    "var",
    "yesterday_ds",
    "yesterday_ds_nodash",
];

/// Variables that Airflow has and templates here have not, each with the reason.
pub(super) const REFUSED: [(&str, &str); 3] = [
    (
        "exception",
        "templates are rendered before their task runs; a callback finds the error in its `reason`",
    ),
    ("outlet_events", "templates only read; a task says something of its outlets with `cx.outlet_event(..)`"),
    ("reason", "templates are rendered before anything has ended; a callback finds it in its `reason`"),
];

/// The root of all names in a template; builds each once, when it is first named.
pub(super) struct Root {
    context: Arc<TemplateContext>,
    lookups: Arc<dyn Lookups>,
    built: Mutex<HashMap<String, Option<Value>>>,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Root")
    }
}

impl Object for Root {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let held = self.built.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        held.unwrap_or_else(|| {
            let value = self.build(key);
            self.built.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), value.clone());
            value
        })
    }
}

fn optional(time: Option<DateTime<Utc>>) -> Value {
    time.map_or_else(|| Value::from(()), Stamp::utc_value)
}

fn text(value: Option<&String>) -> Value {
    value.map_or_else(|| Value::from(()), |text| Value::from(text.as_str()))
}

impl Root {
    pub(super) fn new(context: Arc<TemplateContext>, lookups: Arc<dyn Lookups>) -> Self {
        Self { context, lookups, built: Mutex::default() }
    }

    /// Builds the variable called `name`; `None` if there is none.
    fn build(&self, name: &str) -> Option<Value> {
        let context = &self.context;
        if let Some(value) = context.extra.get(name) {
            return Some(from_json(value));
        }
        Some(match name {
            "run_id" => Value::from(context.run_id.as_str()),
            "params" => match &context.params {
                Json::Null => Dict::value([]),
                params => from_json(params),
            },
            "dag" => self.dag(),
            "task" => self.task(),
            "ti" | "task_instance" => self.task_instance(),
            "dag_run" => self.dag_run(),
            "macros" => macros(context.now).value(),
            "var" => variables(&self.lookups),
            "conn" => connections(&self.lookups),
            "conf" => conf(&self.lookups),
            "try_number" => Value::from(context.try_number),
            "task_reschedule_count" => Value::from(context.task_reschedule_count),
            "test_mode" => Value::from(context.test_mode),
            "expanded_ti_count" => context.expanded_ti_count.map_or_else(|| Value::from(()), Value::from),
            "inlets"
            | "outlets"
            | "inlet_events"
            | "triggering_asset_events"
            | "triggering_dataset_events" => context.assets.value(name),
            "map_index_template" | "partition_key" | "partition_date" | "templates_dict" => Value::from(()),
            "task_instance_key_str" => Value::from(self.key_text()),
            "data_interval_start" => Stamp::utc_value(context.data_interval?.0),
            "data_interval_end" => Stamp::utc_value(context.data_interval?.1),
            _ if name.ends_with("_success") => return self.previous_success(name),
            _ => return self.dated(name),
        })
    }

    /// The variables made of the logical date; absent if the run has none.
    fn dated(&self, name: &str) -> Option<Value> {
        let date = self.context.logical_date?;
        if let Some(own) = form(date, name) {
            return Some(own);
        }
        if matches!(name, "logical_date" | "execution_date") {
            return Some(Stamp::utc_value(date));
        }
        let (base, nodash) = name.strip_suffix("_nodash").map_or((name, false), |base| (base, true));
        let manual = self.context.run_type == "manual";
        let time = match base {
            "yesterday_ds" => date.checked_sub_signed(TimeDelta::days(1)),
            "tomorrow_ds" => date.checked_add_signed(TimeDelta::days(1)),
            "prev_ds" | "prev_execution_date" | "next_ds" | "next_execution_date" if manual => Some(date),
            "prev_ds" | "prev_execution_date" => self.context.previous_logical_date,
            "next_ds" | "next_execution_date" => self.context.next_logical_date,
            _ => return None,
        };
        Some(match time {
            Some(time) if base.ends_with("_date") => Stamp::utc_value(time),
            Some(time) => form(time, if nodash { "ds_nodash" } else { "ds" }).unwrap_or_default(),
            None => Value::from(()),
        })
    }

    fn previous_success(&self, name: &str) -> Option<Value> {
        let run = self.context.previous_success.as_ref();
        let interval = run.and_then(|run| run.data_interval);
        Some(optional(match name {
            "prev_data_interval_start_success" => interval.map(|i| i.0),
            "prev_data_interval_end_success" => interval.map(|i| i.1),
            "prev_start_date_success" => run.and_then(|run| run.start_date),
            "prev_end_date_success" => run.and_then(|run| run.end_date),
            "prev_execution_date_success" => run.and_then(|run| run.logical_date),
            _ => return None,
        }))
    }

    /// `dag__task__date`, or the run id in place of the date if the run has none.
    fn key_text(&self) -> String {
        let context = &self.context;
        let date = context.logical_date.map(|date| date.format("%Y%m%d").to_string());
        format!("{}__{}__{}", context.dag_id, context.task_id, date.as_ref().unwrap_or(&context.run_id))
    }

    fn dag(&self) -> Value {
        let context = &self.context;
        let display = context.dag_display_name.as_ref().unwrap_or(&context.dag_id);
        let dag = Thing::new(format!("<DAG: {}>", context.dag_id))
            .with("dag_id", context.dag_id.as_str())
            .with("dag_display_name", display.as_str())
            .with("owner", context.owner.as_str());
        with_fields(dag, &context.dag_fields).value()
    }

    fn task(&self) -> Value {
        let context = &self.context;
        let display = context.task_display_name.as_ref().unwrap_or(&context.task_id);
        let label = context.task_id.rsplit('.').next().unwrap_or_default();
        let task = Thing::new(format!("<Task({}): {}>", context.operator, context.task_id))
            .with("task_id", context.task_id.as_str())
            .with("task_display_name", display.as_str())
            .with("label", label)
            .with("owner", context.owner.as_str())
            .with("dag_id", context.dag_id.as_str())
            .with("task_type", context.operator.as_str())
            .with("operator_name", context.operator.as_str())
            .with("dag", self.dag());
        with_fields(task, &context.task_fields).value()
    }

    fn task_instance(&self) -> Value {
        let context = &self.context;
        let index = context.map_index.map_or(-1, i64::from);
        let mapped = context.map_index.map_or_else(String::new, |index| format!(" map_index={index}"));
        let shown = format!(
            "<TaskInstance: {}.{} {}{mapped} [running]>",
            context.dag_id, context.task_id, context.run_id
        );
        let ti = Thing::new(shown)
            .with("task_id", context.task_id.as_str())
            .with("dag_id", context.dag_id.as_str())
            .with("run_id", context.run_id.as_str())
            .with("try_number", context.try_number)
            .with("max_tries", context.max_tries)
            .with("map_index", index)
            .with("state", "running")
            .with("operator", context.operator.as_str())
            .with("hostname", context.hostname.as_str())
            .with("log_url", context.log_url.as_str())
            .with("start_date", optional(context.start_date))
            .with("end_date", ())
            .with("duration", ())
            .with("logical_date", optional(context.logical_date))
            .with("execution_date", optional(context.logical_date))
            .with("task", self.task())
            .with("dag_run", self.dag_run());
        let (own, lookups) = (context.clone(), self.lookups.clone());
        with_fields(ti, &context.task_fields)
            .method("xcom_pull", move |args| xcom_pull(&own, &*lookups, args))
            .value()
    }

    fn dag_run(&self) -> Value {
        let context = &self.context;
        let date =
            context.logical_date.map_or_else(|| "None".to_owned(), |d| Stamp::utc_value(d).to_string());
        let queued =
            context.run_queued_at.map_or_else(|| "None".to_owned(), |d| Stamp::utc_value(d).to_string());
        let state = if context.run_state.is_empty() { "running" } else { &context.run_state };
        let manual = if context.run_type == "manual" { "True" } else { "False" };
        Thing::new(format!(
            "<DagRun {} @ {date}: {}, state:{state}, queued_at: {queued}. externally triggered: {manual}>",
            context.dag_id, context.run_id,
        ))
        .with("dag_id", context.dag_id.as_str())
        .with("run_id", context.run_id.as_str())
        .with("run_type", context.run_type.as_str())
        .with("state", state)
        .with(
            "conf",
            context.conf.as_ref().filter(|c| !c.is_null()).map_or_else(|| Dict::value([]), from_json),
        )
        .with("logical_date", optional(context.logical_date))
        .with("execution_date", optional(context.logical_date))
        .with("data_interval_start", optional(context.data_interval.map(|i| i.0)))
        .with("data_interval_end", optional(context.data_interval.map(|i| i.1)))
        .with("start_date", optional(context.run_start_date))
        .with("end_date", ())
        .with("queued_at", optional(context.run_queued_at))
        .with("note", text(context.run_note.as_ref()))
        .with("external_trigger", context.run_type == "manual")
        .value()
    }
}

fn with_fields(thing: Thing, fields: &Map<String, Json>) -> Thing {
    fields.iter().fold(thing, |thing, (name, value)| thing.with(name.as_str(), from_json(value)))
}

/// A date in one of Airflow's forms.
fn form(date: DateTime<Utc>, name: &str) -> Option<Value> {
    let known = matches!(name, "ds" | "ds_nodash" | "ts" | "ts_nodash" | "ts_nodash_with_tz");
    let text = known.then(|| datetime::airflow_filter(&Stamp::utc_value(date), name))?;
    text.map(Value::from)
}

/// `var`: `.value.NAME`, `.json.NAME`, and `.get(name, default)` of both.
fn variables(lookups: &Arc<dyn Lookups>) -> Value {
    let accessor = |is_json: bool| {
        let read = {
            let lookups = lookups.clone();
            move |key: &str| -> Option<Result<Value, Error>> {
                let text = lookups.variable(key)?;
                Some(if is_json { json::loads(&text) } else { Ok(Value::from(text)) })
            }
        };
        let missing = |key: &str| {
            raise(
                TemplateErrorKind::MissingVariable,
                format!("the Variable `{key}` does not exist; create it first"),
            )
        };
        let by_name = read.clone();
        Thing::new("<Variables>")
            .lookup(move |key| {
                Some(by_name(key).unwrap_or_else(|| Err(missing(key))).unwrap_or_else(Value::from))
            })
            .method("get", move |args| {
                let args = Args::new("get", args);
                let key = args.text(0, "key")?;
                let default = args.get(1, "default").or_else(|| args.named("default_var"));
                args.done()?;
                match (read(&key), default) {
                    (Some(found), _) => found,
                    (None, Some(default)) => Ok(default),
                    (None, None) => Err(missing(&key)),
                }
            })
            .value()
    };
    Thing::new("<Variables>").with("value", accessor(false)).with("json", accessor(true)).value()
}

/// `conn`: `.ID`, and `.get(id, default)`.
fn connections(lookups: &Arc<dyn Lookups>) -> Value {
    let missing = |id: &str| {
        let message = format!("the connection `{id}` isn't defined; create it first");
        raise(TemplateErrorKind::MissingConnection, message)
    };
    let by_name = lookups.clone();
    let getter = lookups.clone();
    Thing::new("<Connections>")
        .lookup(move |id| {
            Some(by_name.connection(id).map_or_else(|| Value::from(missing(id)), |found| connection(&found)))
        })
        .method("get", move |args| {
            let args = Args::new("get", args);
            let id = args.text(0, "key")?;
            let default = args.get(1, "default_conn").or_else(|| args.named("default"));
            args.done()?;
            let none = || Value::from(());
            Ok(getter
                .connection(&id)
                .map_or_else(|| default.unwrap_or_else(none), |found| connection(&found)))
        })
        .value()
}

fn connection(found: &TemplateConnection) -> Value {
    let extra = found.extra.as_deref().and_then(|extra| json::loads(extra).ok());
    let (uri, password) = (found.uri.clone(), found.password.clone());
    Thing::new(found.conn_id.as_str())
        .with("conn_id", found.conn_id.as_str())
        .with("conn_type", found.conn_type.as_str())
        .with("description", text(found.description.as_ref()))
        .with("host", text(found.host.as_ref()))
        .with("login", text(found.login.as_ref()))
        .with("password", text(found.password.as_ref()))
        .with("schema", text(found.schema.as_ref()))
        .with("port", found.port.map_or_else(|| Value::from(()), Value::from))
        .with("extra", text(found.extra.as_ref()))
        .with("extra_dejson", extra.unwrap_or_else(|| Dict::value([])))
        .method("get_uri", move |args| {
            Args::new("get_uri", args).done()?;
            Ok(text(uri.as_ref()))
        })
        .method("get_password", move |args| {
            Args::new("get_password", args).done()?;
            Ok(text(password.as_ref()))
        })
        .value()
}

/// `ti.xcom_pull(task_ids, key, map_indexes, default)`; a list of task ids or indexes gives a list.
fn xcom_pull(own: &TemplateContext, lookups: &dyn Lookups, raw: &[Value]) -> Result<Value, Error> {
    let args = Args::new("xcom_pull", raw);
    let tasks = args.get(0, "task_ids").filter(|t| !t.is_none());
    // The second place is the DAG id in Airflow; only the own DAG's XComs are at hand.
    let dag = args.get(1, "dag_id").filter(|d| !d.is_none());
    if dag.is_some_and(|dag| dag.as_str() != Some(&own.dag_id)) {
        return Err(super::error::value_error("xcom_pull() in a template reads the own DAG only"));
    }
    let key = args
        .get(2, "key")
        .filter(|k| !k.is_none())
        .map_or(Ok("return_value".to_owned()), |k| super::py::to_str(&k))?;
    args.named("include_prior_dates");
    let indexes = args.named("map_indexes").filter(|i| !i.is_none());
    let default = args.named("default").unwrap_or_else(|| Value::from(()));
    args.done()?;
    let many =
        tasks.as_ref().is_some_and(super::py::is_seq) || indexes.as_ref().is_some_and(super::py::is_seq);
    let list = |value: &Value| if super::py::is_seq(value) { items(value) } else { Ok(vec![value.clone()]) };
    let tasks = tasks.map_or(Ok(vec![Value::from(own.task_id.as_str())]), |tasks| list(&tasks))?;
    let indexes = match indexes {
        None => vec![None],
        Some(indexes) => {
            list(&indexes)?.iter().map(|i| as_int(i).and_then(|i| i32::try_from(i).ok())).collect()
        }
    };
    let mut found = Vec::new();
    for task in &tasks {
        let task = super::py::to_str(task)?;
        found.extend(
            indexes.iter().filter_map(|index| lookups.xcom(&task, &key, *index)).map(|v| from_json(&v)),
        );
    }
    Ok(if many { List::value(found) } else { found.into_iter().next().unwrap_or(default) })
}
