//! The `conf` object: the configuration, as far as it is no secret.

use std::sync::Arc;

use minijinja::{Error, Value};

use super::args::Args;
use super::containers::List;
use super::context::Lookups;
use super::error::{TemplateErrorKind, raise, value_error};
use super::values::Thing;
use crate::config::{ConfigError, parse_bool, parse_int, python_float};

/// How a text is read; `None` if it is something else.
type Read = fn(&str) -> Option<Value>;

/// The ways to ask, and what a value must be for each.
const WAYS: [(&str, Read, &str); 5] = [
    ("get", |text| Some(Value::from(text)), "a text"),
    ("getboolean", |text| parse_bool(text).map(Value::from), "`True` or `False`"),
    ("getint", |text| parse_int(text).map(Value::from), "a whole number"),
    ("getfloat", |text| python_float(text).map(Value::from), "a number"),
    ("getlist", |text| Some(list(text)), "a list"),
];

fn list(text: &str) -> Value {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    List::value(parts.map(Value::from).collect())
}

/// Builds `conf`.
pub(super) fn conf(lookups: &Arc<dyn Lookups>) -> Value {
    let mut conf = Thing::new("<AirflowConfigParser>");
    for (name, read, wanted) in WAYS {
        let lookups = lookups.clone();
        conf = conf.method(name, move |args| ask(&*lookups, name, (read, wanted), args));
    }
    let lookups = lookups.clone();
    conf.method("has_option", move |args| {
        let args = Args::new("has_option", args);
        let (section, key) = (args.text(0, "section")?, args.text(1, "option")?);
        args.done()?;
        Ok(Value::from(lookups.setting(&section, &key).is_ok()))
    })
    .value()
}

fn ask(
    lookups: &dyn Lookups,
    name: &'static str,
    (read, wanted): (Read, &str),
    args: &[Value],
) -> Result<Value, Error> {
    let args = Args::new(name, args);
    let (section, key) = (args.text(0, "section")?, args.text(1, "key")?);
    let fallback = args.named("fallback");
    args.done()?;
    match lookups.setting(&section, &key) {
        Ok(text) => read(&text).ok_or_else(|| {
            value_error(format!("the setting `{section}.{key}` is `{text}`, which is not {wanted}"))
        }),
        Err(ConfigError::Missing { .. }) if fallback.is_some() => Ok(fallback.unwrap_or_default()),
        Err(error @ ConfigError::Secret { .. }) => {
            Err(raise(TemplateErrorKind::Forbidden, error.to_string()))
        }
        Err(error @ ConfigError::Missing { .. }) => Err(raise(TemplateErrorKind::Key, error.to_string())),
        Err(error) => Err(value_error(error.to_string())),
    }
}
