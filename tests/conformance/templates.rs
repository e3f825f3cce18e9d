//! Templates: what each renders to in the contexts of its file. Each context is an attempt of a dag with that schedule, over a
//! store with the variables, connections and the run before; the runner makes its renderer, as it does for every attempt.

use std::sync::Arc;

use airflow_core::app::Airflow;
use airflow_core::attempt::Runner;
use airflow_core::compile::CompiledDag;
use airflow_core::dag::{DagDef, TaskExt};
use airflow_core::id::{AttemptId, MapIndex, RunPk};
use airflow_core::operator::{
    Cancel, Description, In, IntoIn, Operator, Result as TaskResult, RunInfo, TaskContext, TiInfo, template,
};
use airflow_core::plan::{Attempt, Planner, Terms};
use airflow_core::secrets::EnvironmentSecrets;
use airflow_core::state::{RunEvent, RunState, RunType};
use airflow_core::store::{CreatedRun, MemoryStore, NewRun, UnitResult};
use airflow_core::template::{TemplateError, TemplateErrorKind, Undefined};
use airflow_core::timetable::{DataInterval, Delta, Schedule};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::connection_uris::of_fields;
use super::engine::block_on;
use super::report::field;

/// Mentions all that is fetched only if a template names it: a case's own template may be one that no dag is made with.
const MENTIONS: &str = "{# {{ var.value.get(x) }} {{ conn.get(x) }} {{ prev_ds }} #}";

/// A task of which only the context is looked at.
struct Mentions(In<String>);

impl Operator for Mentions {
    type Output = ();
    const NAME: &'static str = "mentions";

    fn describe(&self, description: &mut Description) {
        description.input(&self.0);
    }

    async fn execute(&self, _: &TaskContext) -> TaskResult<()> {
        Ok(())
    }
}

fn time(value: &Value) -> Option<DateTime<Utc>> {
    value.as_str().map(|text| DateTime::parse_from_rfc3339(text).expect("an ISO time").to_utc())
}

fn interval(value: &Value) -> DataInterval {
    DataInterval::new(time(&value[0]).expect("a start"), time(&value[1]).expect("an end"))
}

/// The dag of a context, with what a case says of its templates.
fn dag_of(raw: &Value, case: &Value) -> DagDef {
    let task = field(raw, "task_id");
    let data = interval(&raw["data_interval"]);
    let schedule: Schedule = match data.end - data.start {
        day if day == TimeDelta::days(1) => "@daily".into(),
        length => Delta::every(length).into(),
    };
    let undefined = match case["template_undefined"].as_str() {
        Some("Undefined") => Undefined::Lenient,
        Some("StrictUndefined") | None => Undefined::Strict,
        Some(other) => panic!("unknown kind of undefined {other}"),
    };
    DagDef::new(field(raw, "dag_id"))
        .schedule(schedule)
        .owner(field(raw, "owner"))
        .params_schema(json!({}), raw["params"].clone())
        .template_undefined(undefined)
        .render_template_as_native_obj(case["render_template_as_native_obj"] == true)
        .define(|d| {
            let mentions = || Mentions(template(MENTIONS).into_in());
            match task.split_once('.') {
                Some((group, task)) => d.group(group, |d| {
                    d.add(mentions().id(task));
                }),
                None => {
                    d.add(mentions().id(task));
                }
            }
        })
}

/// The run of a context, as the scheduler hands it out.
fn run_of(raw: &Value, dag: &CompiledDag) -> RunInfo {
    let logical_date = time(&raw["logical_date"]).expect("a logical date");
    let data_interval = interval(&raw["data_interval"]);
    RunInfo {
        pk: RunPk(1_000),
        dag_id: dag.id.clone(),
        run_id: field(raw, "run_id").into(),
        run_type: field(raw, "run_type").parse().expect("a type of runs"),
        logical_date,
        data_interval,
        run_after: data_interval.end,
        queued_at: data_interval.end,
        started_at: Some(data_interval.end),
        conf: Some(raw["conf"].clone()),
    }
}

fn attempt_of(raw: &Value, dag: &CompiledDag) -> Attempt {
    let number =
        |name: &str| raw[name].as_i64().and_then(|number| i32::try_from(number).ok()).expect("a number");
    let run = run_of(raw, dag);
    let at = run.run_after;
    let ti = TiInfo {
        task_id: field(raw, "task_id").into(),
        map_index: MapIndex(number("map_index")),
        try_number: u32::try_from(number("try_number")).expect("a try"),
        max_tries: 4,
        attempt_id: AttemptId(uuid::Uuid::nil()),
        epoch: 1,
    };
    Attempt {
        run: Arc::new(run),
        fingerprint: dag.fingerprint.clone(),
        task: dag.find(field(raw, "task_id")).expect("the task"),
        ti,
        queue: "default".into(),
        terms: Terms::default(),
        at,
        try_started_at: at,
        wait: None,
        given: Vec::new(),
        source_stamp: 0,
    }
}

/// Stores the successful run before, with its start and its end.
async fn store_previous(airflow: &Airflow, dag: &CompiledDag, raw: &Value) {
    let data_interval = interval(&raw["data_interval"]);
    let run = NewRun {
        queue: None,
        dag_id: dag.id.clone(),
        run_id: "before".into(),
        run_type: RunType::Scheduled,
        logical_date: time(&raw["logical_date"]).expect("a logical date"),
        data_interval,
        run_after: data_interval.end,
        queued_at: data_interval.end,
        conf: None,
        fingerprint: dag.fingerprint.clone(),
        triggered_by: "test".into(),
        ignores_past: false,
        advance: None,
        assets: None,
        deadlines: Vec::new(),
    };
    let Some(CreatedRun::New(run)) = airflow.store().create_runs(vec![run]).await.expect("a run").pop()
    else {
        panic!("there is a run already");
    };
    for (event, at) in [(RunEvent::Started, &raw["start_date"]), (RunEvent::Succeeded, &raw["end_date"])] {
        let mut view = airflow.view(&dag.id, run.pk).await.expect("the run");
        let mut plan = Planner::new(&mut view, "test", time(at).expect("a time"));
        plan.change_run(event, None).expect("it can change so");
        let unit = plan.unit;
        assert_eq!(airflow.store().commit(vec![unit]).await.expect("a commit"), [UnitResult::Committed]);
    }
    let run = airflow.run(&dag.id, &"before".into()).await.expect("the run");
    assert_eq!(run.state, RunState::Success);
}

/// The context of the attempt of a case, made by the runner of an application.
async fn context(file: &Value, case: &Value) -> TaskContext {
    let raw = &file["contexts"][field(case, "context")];
    let builder = Airflow::builder().store(MemoryStore::new()).dag(dag_of(raw, case)).without_logs();
    let environment = EnvironmentSecrets::of(Vec::<(String, String)>::new());
    let airflow = builder.environment(environment).build().await.expect("an application");
    let dag = Arc::clone(airflow.registry().iter().next().expect("the dag"));
    for (key, value) in file["variables"].as_object().expect("variables") {
        let value = value.as_str().expect("a text");
        airflow.secrets().vault().set_variable(key, value, None).await.expect("it is stored");
    }
    for (id, fields) in file["connections"].as_object().expect("connections") {
        let mut connection = of_fields(fields).expect("a connection");
        connection.conn_id.clone_from(id);
        airflow.secrets().vault().set_connection(&connection).await.expect("it is stored");
    }
    if raw["previous_success"].is_object() {
        store_previous(&airflow, &dag, &raw["previous_success"]).await;
    }
    let runner: Runner = airflow.runner();
    let context = runner.context(&dag, &attempt_of(raw, &dag), Cancel::never(), None).await;
    context.expect("a context")
}

fn python_class(error: &TemplateError) -> &'static str {
    match error.kind {
        TemplateErrorKind::Syntax => "TemplateSyntaxError",
        TemplateErrorKind::UnknownFilter => "TemplateAssertionError",
        TemplateErrorKind::Undefined => "UndefinedError",
        TemplateErrorKind::Forbidden => "SecurityError",
        TemplateErrorKind::MissingVariable | TemplateErrorKind::Key => "KeyError",
        TemplateErrorKind::MissingConnection => "AirflowNotFoundException",
        TemplateErrorKind::NotJson => "JSONDecodeError",
        TemplateErrorKind::TemplateNotFound => "TemplateNotFound",
        TemplateErrorKind::DivisionByZero => "ZeroDivisionError",
        TemplateErrorKind::Value => "ValueError",
        TemplateErrorKind::Attribute => "AttributeError",
        TemplateErrorKind::Index => "IndexError",
        TemplateErrorKind::Overflow => "OverflowError",
        TemplateErrorKind::Type => "TypeError",
        _ => "(a limit)",
    }
}

fn outcome(file: &Value, case: &Value) -> Value {
    let context = block_on(context(file, case));
    match context.renderer().render_value(&case["template"]) {
        Ok(value) => json!({ "rendered": value }),
        Err(error) => json!({ "raises": python_class(&error) }),
    }
}

pub(crate) fn check(file: &Value, case: &Value) -> Result<(), String> {
    let got = outcome(file, case);
    let expected = &case["expected"];
    if got == *expected {
        return Ok(());
    }
    Err(format!("{} expected {expected}, got {got}", case["template"]))
}

/// Goal: the language behind the cases is Jinja's, not just the sample's. Method: expressions for every operator, filter,
/// test and method, with the results of Jinja, pendulum and dateutil themselves.
#[test]
fn expressions_have_the_results_of_jinja_and_pendulum() {
    let read = |path: &str| -> Value {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path);
        let text = std::fs::read_to_string(path).expect("the file is there");
        serde_json::from_str(&text).expect("it is JSON")
    };
    let (world, more) = (read("conformance/templates.json"), read("data/jinja.json"));
    // Their parameters are those of the dag alone: what a run is triggered with would be among them.
    let mut plain = world.clone();
    plain["contexts"]["manual_microseconds"]["conf"] = json!({});
    let world_of =
        |case: &Value| if case["template"].to_string().contains(".conf") { &world } else { &plain };
    let cases = more["cases"].as_array().expect("a list of cases");
    let failures: Vec<String> = cases.iter().filter_map(|case| check(world_of(case), case).err()).collect();
    assert!(!cases.is_empty() && failures.is_empty(), "{}", failures.join("\n"));
}
