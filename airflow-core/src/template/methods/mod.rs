//! The methods of strings, lists, dicts and numbers.
//!
//! The engine asks here for every method that a value does not have itself.

mod list;
pub(super) mod string;

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use std::fmt;
use std::sync::Arc;

pub(super) use self::list::pairs_of;
use super::error::undefined;
use super::ops::forbid_internal;
use super::py::{as_float, as_int, class_of, to_repr};

/// Calls the method `name` of `value`.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    forbid_internal(value, name)?;
    let found = match value.kind() {
        ValueKind::String => string::call(state, value, name, args),
        ValueKind::Map => list::dict(value, name, args),
        ValueKind::Seq | ValueKind::Iterable => list::list(value, name, args),
        ValueKind::Number => number(value, name),
        ValueKind::Undefined => return Err(undefined("a method of an undefined value was called")),
        _ => Err(unknown()),
    };
    match found {
        // A value stored under the name may be callable; the engine tries that next.
        Err(error) if error.kind() == ErrorKind::UnknownMethod => {
            let what = format!("'{}' object has no attribute '{name}'", class_of(value));
            Err(Error::new(ErrorKind::UnknownMethod, what))
        }
        found => found,
    }
}

fn unknown() -> Error {
    Error::from(ErrorKind::UnknownMethod)
}

fn number(value: &Value, name: &str) -> Result<Value, Error> {
    match (name, as_int(value), as_float(value)) {
        ("is_integer", None, Some(number)) => Ok(Value::from(number.fract() == 0.0)),
        ("bit_length", Some(number), _) => Ok(Value::from(128 - number.unsigned_abs().leading_zeros())),
        _ => Err(unknown()),
    }
}

/// What `keys()`, `values()` and `items()` return: prints as Python's views do, iterates as a list.
#[derive(Debug)]
pub(super) struct View {
    name: &'static str,
    values: Vec<Value>,
}

impl View {
    fn value(name: &'static str, values: Vec<Value>) -> Value {
        Value::from_object(Self { name, values })
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.values.clone())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.values.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name, to_repr(&Value::from(self.values.clone())).map_err(|_| fmt::Error)?)
    }
}

/// Whether the value prints itself rather than as a list of its items.
pub(super) fn prints_itself(value: &Value) -> bool {
    value.downcast_object_ref::<View>().is_some()
        || value.downcast_object_ref::<super::containers::Range>().is_some()
        || super::filters::is_group(value)
}
