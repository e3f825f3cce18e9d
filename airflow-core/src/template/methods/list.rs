//! The methods of lists, tuples and dicts.

use minijinja::value::Tuple;
use minijinja::{Error, Value};

use super::super::args::Args;
use super::super::containers::{Dict, List, is_dict, may_hold, pairs};
use super::super::error::{TemplateErrorKind, raise, type_error, value_error};
use super::super::ops::{MAX_ITEMS, compare};
use super::super::py::{items, to_repr, too_large};
use super::{View, unknown};

fn none() -> Value {
    Value::from(())
}

/// Calls a method of a list or tuple.
pub(super) fn list(value: &Value, name: &str, raw: &[Value]) -> Result<Value, Error> {
    let args = Args::new("list method", raw);
    let result = match name {
        "index" => {
            let wanted = args.required(0, "value")?;
            let place = items(value)?.iter().position(|item| *item == wanted);
            Value::from(place.ok_or_else(|| value_error(format!("{} is not in list", shown(&wanted))))?)
        }
        "count" => {
            let wanted = args.required(0, "value")?;
            Value::from(items(value)?.iter().filter(|item| **item == wanted).count())
        }
        "copy" if !value.is_tuple() => List::value(items(value)?),
        "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "reverse" | "sort"
            if !value.is_tuple() =>
        {
            let list = value.downcast_object_ref::<List>().ok_or_else(|| {
                type_error(format!("{name}() cannot change this list; make one with `| list` first"))
            })?;
            change_list(value, list, name, &args)?
        }
        _ => return Err(unknown()),
    };
    args.done()?;
    Ok(result)
}

fn shown(value: &Value) -> String {
    to_repr(value).unwrap_or_else(|_| "the value".to_owned())
}

fn change_list(holder: &Value, list: &List, name: &str, args: &Args) -> Result<Value, Error> {
    let room = |extra: usize| {
        if list.change(|l| l.len()) + extra > MAX_ITEMS { Err(too_large()) } else { Ok(()) }
    };
    match name {
        "append" => {
            let item = args.required(0, "object")?;
            may_hold(Some(holder), &item)?;
            room(1)?;
            list.change(|l| l.push(item));
        }
        "extend" => {
            let more = items(&args.required(0, "iterable")?)?;
            more.iter().try_for_each(|item| may_hold(Some(holder), item))?;
            room(more.len())?;
            list.change(|l| l.extend(more));
        }
        "insert" => {
            let (at, item) = (args.int(0, "index")?, args.required(1, "object")?);
            may_hold(Some(holder), &item)?;
            room(1)?;
            list.change(|l| {
                let at = place(at, l.len()).min(l.len());
                l.insert(at, item);
            });
        }
        "pop" => {
            let at = args.int_or(0, "index", -1)?;
            let popped = list.change(|l| {
                let length = i128::try_from(l.len()).unwrap_or(i128::MAX);
                if at >= length || at < -length { None } else { Some(l.remove(place(at, l.len()))) }
            });
            return popped.ok_or_else(|| raise(TemplateErrorKind::Index, "pop index out of range"));
        }
        "remove" => {
            let wanted = args.required(0, "value")?;
            let place = list.snapshot().iter().position(|item| *item == wanted);
            let place = place.ok_or_else(|| value_error("list.remove(x): x not in list"))?;
            list.change(|l| l.remove(place));
        }
        "clear" => list.change(Vec::clear),
        "reverse" => list.change(|l| l.reverse()),
        _ => {
            let sorted = sort(list.snapshot(), args.named("reverse").is_some_and(|r| r.is_true()))?;
            list.change(|l| *l = sorted);
        }
    }
    Ok(none())
}

/// A possibly negative index as a place, clamped at the front.
fn place(index: i128, length: usize) -> usize {
    let length = i128::try_from(length).unwrap_or(i128::MAX);
    let index = if index < 0 { (index + length).max(0) } else { index };
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// Sorts by Python's order, stably.
///
/// # Errors
///
/// Values that Python cannot order.
pub(in super::super) fn sort(mut values: Vec<Value>, reverse: bool) -> Result<Vec<Value>, Error> {
    let mut fault = None;
    values.sort_by(|a, b| {
        let ordering = compare(a, b, "<").unwrap_or_else(|error| {
            fault.get_or_insert(error);
            std::cmp::Ordering::Equal
        });
        if reverse { ordering.reverse() } else { ordering }
    });
    fault.map_or(Ok(values), Err)
}

/// Calls a method of a dict.
pub(super) fn dict(value: &Value, name: &str, raw: &[Value]) -> Result<Value, Error> {
    let args = Args::new("dict method", raw);
    let find = |key: &Value| value.as_object().and_then(|object| object.get_value(key));
    let result = match name {
        "get" => {
            let key = args.required(0, "key")?;
            let default = args.get(1, "default").unwrap_or_else(none);
            find(&key).unwrap_or(default)
        }
        "keys" => View::value("dict_keys", pairs(value).into_iter().map(|(key, _)| key).collect()),
        "values" => View::value("dict_values", pairs(value).into_iter().map(|(_, item)| item).collect()),
        "items" => {
            let pair = |(key, item)| Value::from(Tuple::from([key, item]));
            View::value("dict_items", pairs(value).into_iter().map(pair).collect())
        }
        "copy" => Dict::value(pairs(value)),
        "update" | "setdefault" | "pop" | "popitem" | "clear" => {
            let dict = value.downcast_object_ref::<Dict>().ok_or_else(|| {
                type_error(format!("{name}() cannot change this dict; copy it with `dict(..)` first"))
            })?;
            change_dict(value, dict, name, &args)?
        }
        _ => return Err(unknown()),
    };
    args.done()?;
    Ok(result)
}

fn change_dict(holder: &Value, dict: &Dict, name: &str, args: &Args) -> Result<Value, Error> {
    let missing = |key: &Value| raise(TemplateErrorKind::Key, format!("the dict has no key {}", shown(key)));
    match name {
        "update" => {
            let mut entries = args.get(0, "other").map_or(Ok(Vec::new()), |other| pairs_of(&other))?;
            entries.extend(args.pairs().into_iter().map(|(key, item)| (Value::from(key), item)));
            entries.iter().try_for_each(|(_, item)| may_hold(Some(holder), item))?;
            dict.change(|d| entries.into_iter().for_each(|(key, item)| d.set(key, item)));
            Ok(none())
        }
        "setdefault" => {
            let (key, default) = (args.required(0, "key")?, args.get(1, "default").unwrap_or_else(none));
            may_hold(Some(holder), &default)?;
            Ok(dict.change(|d| {
                if d.get(&key).is_none() {
                    d.set(key.clone(), default);
                }
                d.get(&key).cloned().unwrap_or_default()
            }))
        }
        "pop" => {
            let key = args.required(0, "key")?;
            let default = args.get(1, "default");
            dict.change(|d| d.remove(&key)).or(default).ok_or_else(|| missing(&key))
        }
        "popitem" => {
            let popped = dict.change(|d| {
                let key = d.last_key()?;
                d.remove(&key).map(|item| Value::from(Tuple::from([key, item])))
            });
            popped.ok_or_else(|| raise(TemplateErrorKind::Key, "popitem(): dictionary is empty"))
        }
        _ => {
            dict.change(super::super::containers::Entries::clear);
            Ok(none())
        }
    }
}

/// The entries of a dict, or of a list of pairs.
pub(in super::super) fn pairs_of(value: &Value) -> Result<Vec<(Value, Value)>, Error> {
    if is_dict(value) {
        return Ok(pairs(value));
    }
    let pair = |item: &Value| match items(item)?.as_slice() {
        [key, value] => Ok((key.clone(), value.clone())),
        _ => Err(value_error("a dict is made of pairs")),
    };
    items(value)?.iter().map(pair).collect()
}
