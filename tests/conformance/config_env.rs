//! The configuration: precedence, interpolation, commands, and how values are read.

use airflow_core::config::{Config, ConfigError, IniError, InterpolationError};
use serde_json::{Value, json};

use super::report::{field, same};

pub(crate) fn check(case: &Value) -> Result<(), String> {
    let text = field(case, "config");
    let environment = case["environment"].as_object().expect("an object");
    let environment = environment.iter().map(|(name, value)| (name, value.as_str().unwrap_or_default()));
    let config = match Config::parse(text) {
        Ok(config) => config.with_env(environment),
        Err(error) => return same(&case["parse_raises"].as_str(), &Some(class_of(&error))),
    };
    if !case["parse_raises"].is_null() {
        return same(&case["parse_raises"], &Value::Null);
    }
    let queries = case["queries"].as_array().expect("queries");
    queries.iter().try_for_each(|query| {
        same(&query["expected"], &answer(&config, query)).map_err(|why| format!("{query}: {why}"))
    })
}

/// The Python exception that stands for an error of ours.
fn class_of(error: &ConfigError) -> &'static str {
    match error {
        ConfigError::File { error, .. } => match error {
            IniError::NoSection { .. } => "MissingSectionHeaderError",
            IniError::DuplicateSection { .. } => "DuplicateSectionError",
            IniError::DuplicateOption { .. } => "DuplicateOptionError",
            _ => "ParsingError",
        },
        ConfigError::Interpolation { error, .. } => match error {
            InterpolationError::Missing(_) => "InterpolationMissingOptionError",
            InterpolationError::Depth => "InterpolationDepthError",
            _ => "InterpolationSyntaxError",
        },
        _ => "AirflowConfigException",
    }
}

/// Asks one getter; a value that nobody has set is the fallback, if the query has one.
fn answer(config: &Config, query: &Value) -> Value {
    let (section, key) = (query["section"].as_str().expect("text"), query["key"].as_str().expect("text"));
    let arguments = &query["arguments"];
    let fallback = arguments.get("fallback");
    let found = match query["getter"].as_str().expect("text") {
        "get" if arguments["raw"] == json!(true) => {
            let missing = ConfigError::Missing { section: section.into(), key: key.into() };
            config
                .find_raw(section, key)
                .and_then(|found| found.ok_or(missing))
                .map(|found| found.value.into())
        }
        "get" => config.text(section, key).map(Value::from),
        "getboolean" => config.boolean(section, key).map(Value::from),
        "getint" => config.int(section, key).map(number),
        "getfloat" => config.float(section, key).map(float),
        "getlist" => config.list(section, key).map(Value::from),
        "getjson" => config.json(section, key).map(|json| json.or_else(|| fallback.cloned()).into()),
        "gettimedelta" => config.seconds(section, key).map(|span| match span {
            Some(span) => json!({ "seconds": span.as_seconds_f64() }),
            None => fallback.cloned().into(),
        }),
        other => return json!({ "raises": format!("no getter {other}") }),
    };
    match (found, fallback) {
        (Ok(value), _) => json!({ "value": value }),
        (Err(ConfigError::Missing { .. }), Some(fallback)) => json!({ "value": fallback }),
        (Err(error), _) => json!({ "raises": class_of(&error) }),
    }
}

fn number(value: i128) -> Value {
    u64::try_from(value)
        .map(Value::from)
        .or_else(|_| i64::try_from(value).map(Value::from))
        .unwrap_or_default()
}

fn float(value: f64) -> Value {
    match value {
        value if value.is_nan() => json!({ "float": "nan" }),
        f64::INFINITY => json!({ "float": "inf" }),
        f64::NEG_INFINITY => json!({ "float": "-inf" }),
        value => json!(value),
    }
}
