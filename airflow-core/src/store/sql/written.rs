//! What columns of text hold: words without NUL, and what is kept as JSON.

use std::sync::Arc;

use crate::operator::Wait;
use crate::store::{Held, StoreError, StoreResult};

/// A text as it is stored, as `storable` says it, of one that is not needed any more.
pub(in crate::store) fn stored(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// What an instance waits for, as it is stored.
pub(in crate::store) fn wait_text(wait: &Wait) -> String {
    serde_json::to_string(wait).expect("names, times and JSON can be written as JSON")
}

/// Reads what an instance waits for.
pub(in crate::store) fn wait_of(text: Option<&str>) -> StoreResult<Option<Box<Wait>>> {
    let read = |text| serde_json::from_str(text).map_err(|error| StoreError::Corrupt(error.to_string()));
    text.map(read).transpose()
}

/// What an instance holds, as it is stored.
pub(in crate::store) fn held_text(held: &Held) -> String {
    serde_json::to_string(held).expect("a name and numbers can be written as JSON")
}

/// Reads what an instance holds.
pub(in crate::store) fn held_of(text: Option<&str>) -> StoreResult<Option<Arc<Held>>> {
    let read = |text| serde_json::from_str(text).map_err(|error| StoreError::Corrupt(error.to_string()));
    text.map(read).transpose()
}
