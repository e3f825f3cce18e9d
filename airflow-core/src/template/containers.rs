//! Python's mutable list and dict, and `range`, as template values; and the way from JSON and back.
//!
//! The engine's own lists never change; `{% do items.append(x) %}` needs ones that do. A value that would contain
//! itself is refused when it is put in, so that no walk over values can run for ever.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, Value};

use super::error::{TemplateErrorKind, raise, value_error};
use super::py::{MAX_DEPTH, too_deep};

/// The longest `range()`, as in Jinja's sandbox.
const MAX_RANGE: i128 = 100_000;
/// The most values looked at to make sure that a list does not come to contain itself.
const MAX_NESTING_CHECKS: usize = 100_000;

/// A list that methods can change.
#[derive(Debug, Default)]
pub(super) struct List(RwLock<Vec<Value>>);

impl List {
    pub(super) fn value(items: Vec<Value>) -> Value {
        Value::from_object(Self(RwLock::new(items)))
    }

    pub(super) fn snapshot(&self) -> Vec<Value> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs `change` on the items; the caller has checked what it puts in with [`may_hold`].
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Vec<Value>) -> R) -> R {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = key.as_usize()?;
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(index).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.snapshot())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).len())
    }
}

/// A dict that keeps the order of insertion and that methods can change.
#[derive(Debug, Default)]
pub(super) struct Dict(RwLock<Entries>);

#[derive(Debug, Default, Clone)]
pub(super) struct Entries {
    pairs: Vec<(Value, Value)>,
    places: HashMap<Value, usize>,
}

impl Entries {
    pub(super) fn get(&self, key: &Value) -> Option<&Value> {
        self.places.get(&same_key(key)).map(|place| &self.pairs[*place].1)
    }

    pub(super) fn set(&mut self, key: Value, value: Value) {
        let same = same_key(&key);
        if let Some(place) = self.places.get(&same) {
            self.pairs[*place].1 = value;
        } else {
            self.places.insert(same, self.pairs.len());
            self.pairs.push((key, value));
        }
    }

    pub(super) fn remove(&mut self, key: &Value) -> Option<Value> {
        let place = *self.places.get(&same_key(key))?;
        let (_, value) = self.pairs.remove(place);
        self.places = self.pairs.iter().enumerate().map(|(i, (k, _))| (same_key(k), i)).collect();
        Some(value)
    }

    pub(super) fn last_key(&self) -> Option<Value> {
        self.pairs.last().map(|(key, _)| key.clone())
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What a key is found by: `True` and 1 are the same key in Python.
fn same_key(key: &Value) -> Value {
    if key.kind() == ValueKind::Bool { Value::from(i64::from(key.is_true())) } else { key.clone() }
}

impl Dict {
    pub(super) fn value(pairs: impl IntoIterator<Item = (Value, Value)>) -> Value {
        let mut entries = Entries::default();
        for (key, value) in pairs {
            entries.set(key, value);
        }
        Value::from_object(Self(RwLock::new(entries)))
    }

    /// Runs `change` on the entries; the caller has checked what it puts in with [`may_hold`].
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Entries) -> R) -> R {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Enumerator::Values(entries.pairs.iter().map(|(key, _)| key.clone()).collect())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).pairs.len())
    }
}

/// The pairs of any dict-like value.
pub(super) fn pairs(value: &Value) -> Vec<(Value, Value)> {
    value.as_object().and_then(minijinja::value::DynObject::try_iter_pairs).into_iter().flatten().collect()
}

/// Whether the value is a dict (ours, the engine's, or keyword arguments).
pub(super) fn is_dict(value: &Value) -> bool {
    value.kind() == ValueKind::Map
}

/// A shallow copy of a literal or an engine value that methods can change.
pub(super) fn mutable(value: &Value) -> Result<Value, Error> {
    let copy = match value.kind() {
        ValueKind::Map => Dict::value(pairs(value)),
        ValueKind::Seq | ValueKind::Iterable if !value.is_tuple() => List::value(super::py::items(value)?),
        _ => return Ok(value.clone()),
    };
    may_hold(None, &copy)?;
    Ok(copy)
}

/// Whether the value is one of our lists or dicts.
pub(super) fn is_mutable(value: &Value) -> bool {
    value.downcast_object_ref::<List>().is_some() || value.downcast_object_ref::<Dict>().is_some()
}

/// Whether both are the same mutable object.
pub(super) fn is_same(a: &Value, b: &Value) -> bool {
    match (a.downcast_object::<List>(), b.downcast_object::<List>()) {
        (Some(a), Some(b)) => Arc::ptr_eq(&a, &b),
        _ => match (a.downcast_object::<Dict>(), b.downcast_object::<Dict>()) {
            (Some(a), Some(b)) => Arc::ptr_eq(&a, &b),
            _ => false,
        },
    }
}

/// Refuses `item` if putting it into `holder` would nest too deep or make `holder` contain itself.
pub(super) fn may_hold(holder: Option<&Value>, item: &Value) -> Result<(), Error> {
    fn walk(holder: Option<&Value>, item: &Value, depth: usize, left: &mut usize) -> Result<(), Error> {
        if !(super::py::is_seq(item) || is_dict(item)) {
            return Ok(());
        }
        if holder.is_some_and(|holder| is_same(holder, item)) {
            return Err(value_error("a list or dict cannot contain itself"));
        }
        // One level is kept for the holder.
        if depth + 1 >= MAX_DEPTH {
            return Err(too_deep());
        }
        if *left == 0 {
            return Err(raise(TemplateErrorKind::Limit, "the value has too many nested parts"));
        }
        *left -= 1;
        let children: Vec<Value> = if is_dict(item) {
            pairs(item).into_iter().map(|(_, value)| value).collect()
        } else {
            item.try_iter()?.checked().collect::<Result<_, _>>()?
        };
        children.iter().try_for_each(|child| walk(holder, child, depth + 1, left))
    }
    walk(holder, item, 0, &mut { MAX_NESTING_CHECKS })
}

/// `range(start, end, step)`.
#[derive(Debug)]
pub(super) struct Range {
    start: i128,
    end: i128,
    step: i128,
}

impl Range {
    /// # Errors
    ///
    /// A step of zero, and ranges longer than [`MAX_RANGE`].
    pub(super) fn value(start: i128, end: i128, step: i128) -> Result<Value, Error> {
        if step == 0 {
            return Err(value_error("range() arg 3 must not be zero"));
        }
        let range = Self { start, end, step };
        if range.len() > MAX_RANGE {
            return Err(raise(
                TemplateErrorKind::Overflow,
                format!("range too big, the limit is {MAX_RANGE} items"),
            ));
        }
        Ok(Value::from_object(range))
    }

    fn len(&self) -> i128 {
        let (distance, step) = if self.step > 0 {
            (self.end.saturating_sub(self.start), self.step)
        } else {
            (self.start.saturating_sub(self.end), self.step.saturating_neg())
        };
        if distance <= 0 { 0 } else { (distance - 1) / step + 1 }
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = i128::try_from(key.as_usize()?).ok()?;
        (index < self.len()).then(|| super::py::int_value(self.start + index * self.step))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(usize::try_from(self.len()).unwrap_or(0))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.step == 1 {
            write!(f, "range({}, {})", self.start, self.end)
        } else {
            write!(f, "range({}, {}, {})", self.start, self.end, self.step)
        }
    }
}

/// JSON as a template value: lists and dicts as Python's.
pub(super) fn from_json(json: &serde_json::Value) -> Value {
    use serde_json::Value as J;
    match json {
        J::Null => Value::from(()),
        J::Bool(b) => Value::from(*b),
        J::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), _, _) => Value::from(n),
            (_, Some(n), _) => Value::from(n),
            (_, _, n) => Value::from(n.unwrap_or(f64::NAN)),
        },
        J::String(s) => Value::from(s.as_str()),
        J::Array(items) => List::value(items.iter().map(from_json).collect()),
        J::Object(map) => Dict::value(map.iter().map(|(k, v)| (Value::from(k.as_str()), from_json(v)))),
    }
}

/// A template value as JSON: dates and other objects as their text, keys as text.
///
/// # Errors
///
/// Undefined values, and lists and dicts that nest too deep.
pub(super) fn to_json(value: &Value) -> Result<serde_json::Value, Error> {
    to_json_at(value, 0)
}

fn to_json_at(value: &Value, depth: usize) -> Result<serde_json::Value, Error> {
    use serde_json::Value as J;
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(super::error::undefined("the value is undefined")),
        ValueKind::None => J::Null,
        ValueKind::Bool => J::Bool(value.is_true()),
        ValueKind::Number => number_to_json(value),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
            J::Array(items.iter().map(|item| to_json_at(item, depth + 1)).collect::<Result<_, _>>()?)
        }
        ValueKind::Map => {
            let mut map = serde_json::Map::new();
            for (key, item) in pairs(value) {
                map.insert(super::py::to_str(&key)?, to_json_at(&item, depth + 1)?);
            }
            J::Object(map)
        }
        _ => J::String(super::py::to_str(value)?),
    })
}

fn number_to_json(value: &Value) -> serde_json::Value {
    use serde_json::{Number, Value as J};
    let integer = super::py::as_int(value);
    if let Some(n) = integer.and_then(|n| i64::try_from(n).ok()) {
        return J::from(n);
    }
    if let Some(n) = integer.and_then(|n| u64::try_from(n).ok()) {
        return J::from(n);
    }
    // JSON has neither infinities nor integers beyond 64 bits in this library; their text survives.
    let float = super::py::as_float(value).filter(|_| integer.is_none());
    float.and_then(Number::from_f64).map_or_else(|| J::String(value.to_string()), J::Number)
}
