//! Every store against the contract, the two stores against each other, and what only SQLite promises.

#![expect(clippy::unwrap_used, reason = "a test stops at the first error")]

#[path = "stores/differential.rs"]
mod differential;
#[path = "stores/sqlite.rs"]
mod sqlite;

use std::sync::Arc;

use airflow_core::store::{MemoryStore, SharedStore, SqliteStore};
use airflow_core::testing::store_suite::run_all;

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    run_all(Arc::new(MemoryStore::new())).await.unwrap();
}

#[tokio::test]
async fn the_sqlite_store_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path().join("a.db").to_str().unwrap()).await.unwrap();
    run_all(Arc::new(store)).await.unwrap();
}

/// Goal: SQLite's statements do what the plain maps do. Each list costs about 50 ms in a debug build.
#[test]
fn memory_and_sqlite_give_the_same_answers() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let sqlite: SharedStore = Arc::new(runtime.block_on(SqliteStore::open(path.to_str().unwrap())).unwrap());
    differential::same_as_memory(&runtime, &sqlite, 200, async || sqlite.reset().await.unwrap());
}
