//! Rows as one JSON array of arrays: the way in which many rows go into one statement, and come out of it.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{StoreResult, rules};

use super::errors::corrupt;
use super::text::Kind;

/// Writes `[[…],[…]]`.
#[derive(Debug)]
pub(in crate::store) struct Rows {
    text: String,
    /// Whether the database has a type for times; else they are written as numbers.
    has_times: bool,
}

/// Writes one `[…]`.
#[derive(Debug)]
pub(in crate::store) struct RowWriter<'a> {
    text: &'a mut String,
    has_times: bool,
}

impl Rows {
    /// An empty list in the form that a database reads.
    pub(in crate::store) fn new(kind: Kind) -> Self {
        Self { text: String::new(), has_times: kind.has_types() }
    }

    /// How long it is.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub(in crate::store) fn len(&self) -> usize {
        self.text.len()
    }

    /// Adds a row.
    pub(in crate::store) fn row(&mut self) -> RowWriter<'_> {
        self.text.push_str(if self.text.is_empty() { "[[" } else { ",[" });
        RowWriter { text: &mut self.text, has_times: self.has_times }
    }

    /// The text, or nothing if there are no rows.
    pub(in crate::store) fn finish(mut self) -> Option<String> {
        if self.text.is_empty() {
            return None;
        }
        self.text.push(']');
        Some(self.text)
    }
}

impl RowWriter<'_> {
    fn value(self, write: impl FnOnce(&mut String)) -> Self {
        if !self.text.ends_with('[') {
            self.text.push(',');
        }
        write(self.text);
        self
    }

    /// A number.
    pub(in crate::store) fn int(self, value: impl Into<i64>) -> Self {
        self.maybe_int(Some(value))
    }

    /// A number or null.
    pub(in crate::store) fn maybe_int(self, value: Option<impl Into<i64>>) -> Self {
        self.value(|text| match value {
            Some(value) => write!(text, "{}", value.into()).expect("writing to a string never fails"),
            None => text.push_str("null"),
        })
    }

    /// A text.
    pub(in crate::store) fn text(self, value: &str) -> Self {
        self.maybe_text(Some(value))
    }

    /// A text or null.
    pub(in crate::store) fn maybe_text(self, value: Option<&str>) -> Self {
        let value = value.map(rules::storable);
        self.value(|text| match value.as_deref() {
            Some(value) if value.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') => {
                text.push('"');
                text.push_str(value);
                text.push('"');
            }
            Some(value) => text.push_str(&serde_json::Value::from(value).to_string()),
            None => text.push_str("null"),
        })
    }

    /// A moment.
    pub(in crate::store) fn time(self, value: DateTime<Utc>) -> Self {
        self.maybe_time(Some(value))
    }

    /// A moment or null.
    pub(in crate::store) fn maybe_time(self, value: Option<DateTime<Utc>>) -> Self {
        if self.has_times {
            let value = value.map(|time| rules::micros(time).naive_utc().to_string());
            return self.maybe_text(value.as_deref());
        }
        self.maybe_int(value.map(|time| time.timestamp_micros()))
    }

    /// An id in hexadecimal, or null.
    pub(in crate::store) fn maybe_id(self, value: Option<Uuid>) -> Self {
        let mut buffer = Uuid::encode_buffer();
        self.maybe_text(value.map(|id| &*id.simple().encode_lower(&mut buffer)))
    }

    /// Ends the row.
    pub(in crate::store) fn end(self) {
        self.text.push(']');
    }
}

/// A stored time.
pub(in crate::store) fn time(micros: i64) -> StoreResult<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros).ok_or_else(|| corrupt(format!("{micros} is no time")))
}

/// A stored time, or none.
#[cfg(feature = "sqlite")]
pub(in crate::store) fn maybe_time(micros: Option<i64>) -> StoreResult<Option<DateTime<Utc>>> {
    micros.map(time).transpose()
}

/// Splits items so that no two of a part share a key: a statement that writes many rows looks at the tables before it
/// writes the first.
pub(in crate::store) fn apart<'a, T, K: std::hash::Hash + Eq>(
    items: &'a [T],
    keys: impl Fn(&'a T) -> Vec<K>,
) -> Vec<Vec<(usize, &'a T)>> {
    let mut parts: Vec<Vec<(usize, &T)>> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let keys = keys(item);
        if parts.is_empty() || keys.iter().any(|key| seen.contains(key)) {
            parts.push(Vec::new());
            seen.clear();
        }
        seen.extend(keys);
        parts.last_mut().expect("a part was pushed").push((index, item));
    }
    parts
}
