//! Goal: templates render to what Airflow renders. Method: every case of `templates.json`, which a real Airflow
//! made, goes through the public renderer. Set `AIRFLOW_CONFORMANCE_DIR` to use another copy of the vectors.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use airflow_core::template::{
    Lookups, PreviousRun, Renderer, TemplateConnection, TemplateContext, TemplateError, TemplateErrorKind,
    Undefined,
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

/// Groups that are not run, each with the reason. Empty: nothing in the vectors needs Python itself.
const EXCLUDED: [(&str, &str); 0] = [];

struct World {
    variables: Value,
    connections: Value,
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

impl Lookups for World {
    fn variable(&self, key: &str) -> Option<String> {
        text(&self.variables[key])
    }

    fn connection(&self, id: &str) -> Option<TemplateConnection> {
        let found = self.connections.get(id)?;
        Some(TemplateConnection {
            conn_id: id.to_owned(),
            conn_type: text(&found["conn_type"]).unwrap_or_default(),
            description: text(&found["description"]),
            host: text(&found["host"]),
            login: text(&found["login"]),
            password: text(&found["password"]),
            schema: text(&found["schema"]),
            port: found["port"].as_u64().and_then(|port| u16::try_from(port).ok()),
            extra: text(&found["extra"]),
            uri: None,
        })
    }

    fn xcom(&self, _: &str, _: &str, _: Option<i32>) -> Option<Value> {
        None
    }
}

fn time(value: &Value) -> Option<DateTime<Utc>> {
    value.as_str().map(|text| DateTime::parse_from_rfc3339(text).expect("an ISO time").to_utc())
}

fn interval(value: &Value) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    Some((time(&value[0])?, time(&value[1])?))
}

fn context(raw: &Value) -> TemplateContext {
    let previous = &raw["previous_success"];
    let logical_date = time(&raw["logical_date"]);
    let data_interval = interval(&raw["data_interval"]);
    // The schedules of the vectors are regular: neighbours are one interval away.
    let length = data_interval.map(|(start, end)| end - start);
    let neighbour = |steps: i32| Some(logical_date? + length? * steps);
    TemplateContext {
        dag_id: text(&raw["dag_id"]).expect("dag_id"),
        task_id: text(&raw["task_id"]).expect("task_id"),
        owner: text(&raw["owner"]).expect("owner"),
        run_id: text(&raw["run_id"]).expect("run_id"),
        run_type: text(&raw["run_type"]).expect("run_type"),
        logical_date,
        data_interval,
        previous_logical_date: neighbour(-1),
        next_logical_date: neighbour(1),
        previous_success: previous.is_object().then(|| PreviousRun {
            logical_date: time(&previous["logical_date"]),
            data_interval: interval(&previous["data_interval"]),
            start_date: time(&previous["start_date"]),
            end_date: time(&previous["end_date"]),
        }),
        try_number: raw["try_number"].as_u64().and_then(|n| u32::try_from(n).ok()).expect("try_number"),
        map_index: raw["map_index"].as_i64().and_then(|n| u32::try_from(n).ok()),
        params: raw["params"].clone(),
        conf: Some(raw["conf"].clone()),
        now: Utc::now(),
        ..TemplateContext::default()
    }
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
    let world = World { variables: file["variables"].clone(), connections: file["connections"].clone() };
    let name = case["context"].as_str().expect("a context");
    let undefined = match case["template_undefined"].as_str() {
        Some("Undefined") => Undefined::Lenient,
        _ => Undefined::Strict,
    };
    let renderer = Renderer::new(context(&file["contexts"][name]), Arc::new(world))
        .with_undefined(undefined)
        .with_native(case["render_template_as_native_obj"] == true);
    match renderer.render_value(&case["template"]) {
        Ok(value) => json!({ "rendered": value }),
        Err(error) => json!({ "raises": python_class(&error) }),
    }
}

fn read(path: &Path) -> Value {
    let source =
        std::fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    serde_json::from_str(&source).expect("the vectors are JSON")
}

fn vectors() -> Value {
    let own = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance");
    read(&std::env::var_os("AIRFLOW_CONFORMANCE_DIR").map_or_else(own, PathBuf::from).join("templates.json"))
}

/// Runs every case in the contexts of `world` and reports the counts; fails with every difference.
fn run(name: &str, world: &Value, cases: &Value) {
    let (mut passed, mut failed, mut excluded) = (0, Vec::new(), 0);
    for case in cases.as_array().expect("a list of cases") {
        if EXCLUDED.iter().any(|(group, _)| case["group"] == *group) {
            excluded += 1;
            continue;
        }
        let got = outcome(world, case);
        if got == case["expected"] {
            passed += 1;
        } else {
            failed.push(format!(
                "{}: {} expected {} got {got}",
                case["id"], case["template"], case["expected"]
            ));
        }
    }
    let summary = format!("{name}: {passed} passed, {} failed, {excluded} excluded", failed.len());
    assert!(failed.is_empty() && passed > 0, "{summary}\n{}", failed.join("\n"));
    report(&summary);
}

#[test]
fn templates_render_as_airflow_renders_them() {
    let file = vectors();
    run("templates", &file, &file["cases"]);
}

/// Goal: the language behind the vectors is Jinja's, not just the sample's. Method: expressions for every operator,
/// filter, test and method, with the results of Jinja, pendulum and dateutil themselves.
#[test]
fn expressions_have_the_results_of_jinja_and_pendulum() {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance/templates.json");
    let more = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/jinja.json");
    run("more templates", &read(&own), &read(&more)["cases"]);
}

#[expect(clippy::print_stdout, reason = "the counts are what a reader of the test's output looks for")]
fn report(summary: &str) {
    println!("{summary}");
}
