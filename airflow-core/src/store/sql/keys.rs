//! Limits as they are stored.

use crate::store::SlotKey;

/// A limit as it is stored: kind, name of the pool or dag, task.
pub(in crate::store) fn slot_columns(key: &SlotKey) -> (i64, &str, &str) {
    match key {
        SlotKey::Pool(name) => (0, name, ""),
        SlotKey::Dag(dag) => (1, dag.as_str(), ""),
        SlotKey::Task(dag, task) => (2, dag.as_str(), task.as_str()),
        SlotKey::Runs(dag) => (3, dag.as_str(), ""),
        SlotKey::Deferred(pool) => (4, pool, ""),
    }
}

/// The limit of a stored row; nothing if the kind is unknown.
pub(in crate::store) fn slot_key(kind: i64, name: String, task: &str) -> Option<SlotKey> {
    Some(match kind {
        0 => SlotKey::Pool(name),
        1 => SlotKey::Dag(name.into()),
        2 => SlotKey::Task(name.into(), task.into()),
        3 => SlotKey::Runs(name.into()),
        4 => SlotKey::Deferred(name),
        _ => return None,
    })
}
