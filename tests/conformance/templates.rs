//! Templates: what each renders to in the contexts of its file, through the public renderer.

use std::sync::Arc;

use airflow_core::template::{
    Lookups, PreviousRun, Renderer, TemplateConnection, TemplateContext, TemplateError, TemplateErrorKind,
    Undefined,
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

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
    let cases = more["cases"].as_array().expect("a list of cases");
    let failures: Vec<String> = cases.iter().filter_map(|case| check(&world, case).err()).collect();
    assert!(!cases.is_empty() && failures.is_empty(), "{}", failures.join("\n"));
}
