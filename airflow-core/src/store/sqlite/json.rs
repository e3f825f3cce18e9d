//! Rows as one JSON array of arrays: the way in which many rows go into one statement, and come out of it.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::errors::corrupt;
use crate::store::StoreResult;

/// Writes `[[…],[…]]`.
#[derive(Debug, Default)]
pub(super) struct Rows {
    text: String,
}

/// Writes one `[…]`.
#[derive(Debug)]
pub(super) struct RowWriter<'a> {
    text: &'a mut String,
}

impl Rows {
    /// Adds a row.
    pub(super) fn row(&mut self) -> RowWriter<'_> {
        self.text.push_str(if self.text.is_empty() { "[[" } else { ",[" });
        RowWriter { text: &mut self.text }
    }

    /// The text, or nothing if there are no rows.
    pub(super) fn finish(mut self) -> Option<String> {
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
    pub(super) fn int(self, value: impl Into<i64>) -> Self {
        self.maybe_int(Some(value))
    }

    /// A number or null.
    pub(super) fn maybe_int(self, value: Option<impl Into<i64>>) -> Self {
        self.value(|text| match value {
            Some(value) => write!(text, "{}", value.into()).expect("writing to a string never fails"),
            None => text.push_str("null"),
        })
    }

    /// A text.
    pub(super) fn text(self, value: &str) -> Self {
        self.maybe_text(Some(value))
    }

    /// A text or null.
    pub(super) fn maybe_text(self, value: Option<&str>) -> Self {
        self.value(|text| match value {
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
    pub(super) fn time(self, value: DateTime<Utc>) -> Self {
        self.int(value.timestamp_micros())
    }

    /// A moment or null.
    pub(super) fn maybe_time(self, value: Option<DateTime<Utc>>) -> Self {
        self.maybe_int(value.map(|time| time.timestamp_micros()))
    }

    /// An id in hexadecimal, or null.
    pub(super) fn maybe_id(self, value: Option<Uuid>) -> Self {
        let mut buffer = Uuid::encode_buffer();
        self.maybe_text(value.map(|id| &*id.simple().encode_lower(&mut buffer)))
    }

    /// Ends the row.
    pub(super) fn end(self) {
        self.text.push(']');
    }
}

/// A stored time.
pub(super) fn time(micros: i64) -> StoreResult<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros).ok_or_else(|| corrupt(format!("{micros} is no time")))
}

/// A stored time, or none.
pub(super) fn maybe_time(micros: Option<i64>) -> StoreResult<Option<DateTime<Utc>>> {
    micros.map(time).transpose()
}

/// Splits items so that no two of a part share a key: a statement that writes many rows looks at the tables before it
/// writes the first.
pub(super) fn apart<'a, T, K: std::hash::Hash + Eq>(
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
