//! Jinja's filters and tests with Python's results, and Airflow's date filters.
//!
//! The engine's own version of a filter stays where it agrees with Jinja's. Start reading at [`register`].

mod sequence;
mod text;

pub(super) use self::sequence::is_group;
pub(super) use self::text::html;
use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, State, UndefinedBehavior, Value};

use super::args::Args;
use super::error::{TemplateErrorKind, raise, undefined};
use super::py::{class_of, to_str};
use super::{containers, datetime, ops};

type Filter = fn(&mut State<'_, '_>, &Value, &Args) -> Result<Value, Error>;

/// Airflow's filters, which work on any date.
const AIRFLOW: [&str; 5] = ["ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz"];
/// What the engine has and Jinja has not.
const FOREIGN_FILTERS: [&str; 5] = ["bool", "lines", "split", "chain", "zip"];
const FOREIGN_TESTS: [&str; 2] = ["startingwith", "endingwith"];

/// Registers every filter and test.
pub(super) fn register(env: &mut Environment<'_>) {
    for name in FOREIGN_FILTERS {
        env.remove_filter(name);
    }
    for name in FOREIGN_TESTS {
        env.remove_test(name);
    }
    for name in AIRFLOW {
        env.add_filter(name, move |value: &Value| airflow(value, name));
    }
    for (name, filter) in text::FILTERS.iter().chain(&sequence::FILTERS) {
        add(env, name, *filter);
    }
    env.add_test("callable", |value: &Value| super::values::is_callable(value));
    env.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    env.add_test("iterable", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::String | ValueKind::Map)
    });
    env.add_test("in", |state: &State<'_, '_>, a: &Value, b: &Value| ops::contains(state, b, a));
    // Two lists or dicts are the same if they are one object; other values have no identity here but their own.
    env.add_test("sameas", |a: &Value, b: &Value| {
        a.kind() == b.kind() && (containers::is_same(a, b) || (a == b && !containers::is_mutable(a)))
    });
}

fn add(env: &mut Environment<'_>, name: &'static str, filter: Filter) {
    env.add_filter(name, move |state: &mut State<'_, '_>, value: &Value, rest: Rest<ValueOrKwargs>| {
        let args = Args::new(name, &rest.into_values());
        let result = filter(state, value, &args)?;
        args.done()?;
        Ok::<_, Error>(result)
    });
}

/// Fails on an undefined value in strict mode; otherwise it counts as nothing.
fn defined(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_undefined() && state.undefined_behavior() == UndefinedBehavior::Strict {
        return Err(undefined("the filtered value is undefined"));
    }
    Ok(())
}

/// The text a filter works on.
fn text_of(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    defined(state, value)?;
    to_str(value)
}

/// `value | ds` and its kin: `None` stays `None`.
fn airflow(value: &Value, name: &str) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::None => Ok(Value::from(())),
        ValueKind::Undefined => Err(undefined(format!("the value given to `{name}` is undefined"))),
        _ => datetime::airflow_filter(value, name).map(Value::from).ok_or_else(|| {
            let message = format!("filter `{name}` wants a datetime, not {}", class_of(value));
            raise(TemplateErrorKind::Attribute, message)
        }),
    }
}

/// `a.b.0`: the attribute or item at the end of the path; undefined if there is none.
fn attribute(value: &Value, path: &Value) -> Result<Value, Error> {
    let Some(path) = path.as_str() else { return value.get_item(path) };
    let mut found = value.clone();
    for part in path.split('.') {
        super::ops::forbid_internal(&found, part)?;
        let key = part.parse::<i64>().map_or_else(|_| Value::from(part), Value::from);
        found = found.get_item(&key)?;
    }
    Ok(found)
}
