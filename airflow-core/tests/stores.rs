//! Every store against the contract, the two stores against each other, and what only SQLite promises.

#![expect(clippy::unwrap_used, reason = "a test stops at the first error")]

#[path = "stores/differential.rs"]
mod differential;
#[path = "stores/sqlite.rs"]
mod sqlite;

use std::sync::Arc;

use airflow_core::store::{MemoryStore, SqliteStore};
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
