//! Filters that work on lists and dicts.

use std::cmp::Ordering;

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, State, Value};

use super::super::args::Args;
use super::super::containers::{List, is_dict, pairs};
use super::super::error::{TemplateErrorKind, raise, type_error, undefined};
use super::super::ops::{self, MAX_ITEMS};
use super::super::py::{self, Text, class_of, items, too_large};
use super::{Filter, attribute, defined};

pub(super) const FILTERS: [(&str, Filter); 17] = [
    ("list", |s, v, _| Ok(List::value(elements(s, v)?))),
    ("join", join),
    ("first", |s, v, _| Ok(elements(s, v)?.into_iter().next().unwrap_or_default())),
    ("last", |s, v, _| Ok(elements(s, v)?.pop().unwrap_or_default())),
    ("length", length),
    ("count", length),
    ("sort", sort),
    ("unique", unique),
    ("min", |s, v, a| extreme(s, v, a, Ordering::Less)),
    ("max", |s, v, a| extreme(s, v, a, Ordering::Greater)),
    ("sum", sum),
    ("batch", batch),
    ("slice", slice),
    ("dictsort", dictsort),
    ("items", |s, v, _| {
        defined(s, v)?;
        if v.is_undefined() {
            return Ok(List::value(Vec::new()));
        }
        if !is_dict(v) {
            return Err(type_error("can only get item pairs from a mapping"));
        }
        Ok(List::value(pairs(v).into_iter().map(|(k, i)| Value::from(Tuple::from([k, i]))).collect()))
    }),
    ("reverse", reverse),
    ("groupby", groupby),
];

/// The items of the filtered value; an undefined one has none in lenient mode.
fn elements(state: &State<'_, '_>, value: &Value) -> Result<Vec<Value>, Error> {
    defined(state, value)?;
    if value.is_undefined() { Ok(Vec::new()) } else { items(value) }
}

fn join(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let separator = args.get(0, "d").map_or(Ok(String::new()), |d| py::to_str(&d))?;
    let path = args.get(1, "attribute").filter(|a| !a.is_none());
    let mut out = Text::default();
    for (index, item) in elements(state, value)?.iter().enumerate() {
        if index > 0 {
            out.push(&separator)?;
        }
        let item = path.as_ref().map_or_else(|| Ok(item.clone()), |path| attribute(item, path))?;
        defined(state, &item)?;
        py::write_str(&item, &mut out)?;
    }
    Ok(Value::from(out.0))
}

fn length(state: &mut State<'_, '_>, value: &Value, _: &Args) -> Result<Value, Error> {
    defined(state, value)?;
    match value.len() {
        Some(length) => Ok(Value::from(length)),
        None if value.is_undefined() => Ok(Value::from(0)),
        None if matches!(value.kind(), ValueKind::Iterable) => Ok(Value::from(items(value)?.len())),
        None => Err(type_error(format!("object of type '{}' has no len()", class_of(value)))),
    }
}

/// What an item is compared by: its attribute, in lower case unless case matters.
fn key(item: &Value, path: Option<&Value>, case_sensitive: bool) -> Result<Value, Error> {
    let value = path.map_or_else(|| Ok(item.clone()), |path| attribute(item, path))?;
    Ok(match value.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => value,
    })
}

fn keyed(
    values: Vec<Value>,
    path: Option<&Value>,
    case_sensitive: bool,
) -> Result<Vec<(Value, Value)>, Error> {
    values.into_iter().map(|item| Ok((key(&item, path, case_sensitive)?, item))).collect()
}

/// Sorts by key, stably; a reversed sort keeps equal items in their order, as Python's does.
fn by_key(mut entries: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>, Error> {
    let mut fault = None;
    entries.sort_by(|a, b| {
        let ordering = ops::compare(&a.0, &b.0, "<").unwrap_or_else(|error| {
            fault.get_or_insert(error);
            Ordering::Equal
        });
        if reverse { ordering.reverse() } else { ordering }
    });
    fault.map_or(Ok(entries.into_iter().map(|(_, item)| item).collect()), Err)
}

fn sort(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let reverse = args.flag_or(0, "reverse", false);
    let case_sensitive = args.flag_or(1, "case_sensitive", false);
    let path = args.get(2, "attribute").filter(|a| !a.is_none());
    let values = elements(state, value)?;
    let Some(paths) = path.as_ref().and_then(Value::as_str).filter(|p| p.contains(',')) else {
        return by_key(keyed(values, path.as_ref(), case_sensitive)?, reverse).map(List::value);
    };
    let paths: Vec<Value> = paths.split(',').map(|p| Value::from(p.trim())).collect();
    let entry = |item: Value| {
        let keys =
            paths.iter().map(|path| key(&item, Some(path), case_sensitive)).collect::<Result<Vec<_>, _>>()?;
        Ok((Value::from(Tuple::from(keys)), item))
    };
    by_key(values.into_iter().map(entry).collect::<Result<_, Error>>()?, reverse).map(List::value)
}

fn unique(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let case_sensitive = args.flag_or(0, "case_sensitive", false);
    let path = args.get(1, "attribute").filter(|a| !a.is_none());
    let mut seen = std::collections::HashSet::new();
    let mut kept = Vec::new();
    for (key, item) in keyed(elements(state, value)?, path.as_ref(), case_sensitive)? {
        if seen.insert(key) {
            kept.push(item);
        }
    }
    Ok(List::value(kept))
}

fn extreme(state: &mut State<'_, '_>, value: &Value, args: &Args, wanted: Ordering) -> Result<Value, Error> {
    let case_sensitive = args.flag_or(0, "case_sensitive", false);
    let path = args.get(1, "attribute").filter(|a| !a.is_none());
    let mut best: Option<(Value, Value)> = None;
    for (key, item) in keyed(elements(state, value)?, path.as_ref(), case_sensitive)? {
        let better = match &best {
            Some((held, _)) => ops::compare(&key, held, "<")? == wanted,
            None => true,
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map(|(_, item)| item).unwrap_or_default())
}

fn sum(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let path = args.get(0, "attribute").filter(|a| !a.is_none());
    let mut total = args.get(1, "start").unwrap_or_else(|| Value::from(0));
    if total.as_str().is_some() {
        return Err(type_error("sum() can't sum strings; use `join`"));
    }
    for item in elements(state, value)? {
        let item = path.as_ref().map_or_else(|| Ok(item.clone()), |path| attribute(&item, path))?;
        total = ops::add(&total, &item)?;
    }
    Ok(total)
}

fn size(args: &Args, name: &str) -> Result<usize, Error> {
    let size = usize::try_from(args.int(0, name)?).ok().filter(|s| *s <= MAX_ITEMS).ok_or_else(too_large)?;
    if size == 0 {
        Err(raise(TemplateErrorKind::DivisionByZero, format!("{name} must not be zero")))
    } else {
        Ok(size)
    }
}

fn batch(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let size = size(args, "linecount")?;
    let fill = args.get(1, "fill_with").filter(|f| !f.is_none());
    let values = elements(state, value)?;
    let mut rows: Vec<Vec<Value>> = values.chunks(size).map(<[Value]>::to_vec).collect();
    if let (Some(last), Some(fill)) = (rows.last_mut(), fill) {
        last.resize(size, fill);
    }
    Ok(List::value(rows.into_iter().map(List::value).collect()))
}

fn slice(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let slices = size(args, "slices")?;
    let fill = args.get(1, "fill_with").filter(|f| !f.is_none());
    let values = elements(state, value)?;
    let (each, extra) = (values.len() / slices, values.len() % slices);
    let mut at = 0;
    let mut rows = Vec::new();
    for index in 0..slices {
        let end = at + each + usize::from(index < extra);
        let mut row = values[at..end].to_vec();
        if let (Some(fill), true) = (&fill, extra > 0 && index >= extra) {
            row.push(fill.clone());
        }
        rows.push(List::value(row));
        at = end;
    }
    Ok(List::value(rows))
}

fn dictsort(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let case_sensitive = args.flag_or(0, "case_sensitive", false);
    let by = args.text_or(1, "by", "key")?;
    let reverse = args.flag_or(2, "reverse", false);
    defined(state, value)?;
    let place = match by.as_str() {
        "key" => 0,
        "value" => 1,
        _ => return Err(raise(TemplateErrorKind::Value, "you can only sort by either \"key\" or \"value\"")),
    };
    let entries = pairs(value).into_iter().map(|(k, v)| Value::from(Tuple::from([k, v]))).collect();
    by_key(keyed(entries, Some(&Value::from(place)), case_sensitive)?, reverse).map(List::value)
}

fn reverse(state: &mut State<'_, '_>, value: &Value, _: &Args) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        return Ok(Value::from(text.chars().rev().collect::<String>()));
    }
    let mut values = elements(state, value)?;
    values.reverse();
    Ok(List::value(values))
}

/// A group: the pair of key and members, whose parts have names as well.
#[derive(Debug)]
struct Group(Value, Value);

impl minijinja::value::Object for Group {
    fn repr(self: &std::sync::Arc<Self>) -> minijinja::value::ObjectRepr {
        minijinja::value::ObjectRepr::Seq
    }

    fn get_value(self: &std::sync::Arc<Self>, key: &Value) -> Option<Value> {
        match (key.as_usize(), key.as_str()) {
            (Some(0), _) | (_, Some("grouper")) => Some(self.0.clone()),
            (Some(1), _) | (_, Some("list")) => Some(self.1.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &std::sync::Arc<Self>) -> minijinja::value::Enumerator {
        minijinja::value::Enumerator::Values(vec![self.0.clone(), self.1.clone()])
    }

    fn render(self: &std::sync::Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = py::to_repr(&Value::from(Tuple::from([self.0.clone(), self.1.clone()])));
        f.write_str(&text.map_err(|_| std::fmt::Error)?)
    }
}

/// Whether the value is a group, which prints as a tuple.
pub(in super::super) fn is_group(value: &Value) -> bool {
    value.downcast_object_ref::<Group>().is_some()
}

fn groupby(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let path = args.required(0, "attribute")?;
    let default = args.get(1, "default").filter(|d| !d.is_none());
    let case_sensitive = args.flag_or(2, "case_sensitive", false);
    let mut entries = Vec::new();
    for item in elements(state, value)? {
        let mut own = attribute(&item, &path)?;
        if own.is_undefined() {
            own = default.clone().ok_or_else(|| undefined("an item has no such attribute to group by"))?;
        }
        let folded = own.as_str().filter(|_| !case_sensitive).map(|t| Value::from(t.to_lowercase()));
        let folded = folded.unwrap_or_else(|| own.clone());
        entries.push((folded.clone(), Value::from(Tuple::from([folded, own, item]))));
    }
    let part = |entry: &Value, index: usize| entry.get_item_by_index(index).unwrap_or_default();
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for entry in by_key(entries, false)? {
        let folded = part(&entry, 0);
        match groups.last_mut() {
            Some(group) if group.0 == folded => group.2.push(part(&entry, 2)),
            _ => groups.push((folded, part(&entry, 1), vec![part(&entry, 2)])),
        }
    }
    let group = |(_, key, members)| Value::from_object(Group(key, List::value(members)));
    Ok(List::value(groups.into_iter().map(group).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reversed_sort_keeps_equal_items_in_order() {
        let pair = |a: i64, b: i64| Value::from(Tuple::from([Value::from(a), Value::from(b)]));
        let entries =
            vec![(Value::from(1), pair(1, 1)), (Value::from(2), pair(2, 1)), (Value::from(1), pair(1, 2))];
        assert_eq!(
            by_key(entries, true).expect("the keys can be ordered"),
            vec![pair(2, 1), pair(1, 1), pair(1, 2)]
        );
        assert!(by_key(vec![(Value::from(1), pair(1, 1)), (Value::from("a"), pair(1, 1))], false).is_err());
    }
}
