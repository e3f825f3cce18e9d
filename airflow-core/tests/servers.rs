//! The stores on database servers: the contract, against the memory store, and what only they promise.

#![expect(clippy::unwrap_used, reason = "a test stops at the first error")]

use std::sync::Arc;

use airflow_core::store::{MysqlStore, PostgresStore, SharedStore};
use airflow_core::testing::servers::{Server, TestDatabase};
use airflow_core::testing::store_suite::run_all;

/// A store in a database of its own.
async fn store(server: Server) -> Option<(TestDatabase, SharedStore)> {
    let database = TestDatabase::on(server).await?;
    let store: SharedStore = match server {
        Server::Postgres => Arc::new(PostgresStore::connect(&database.url()).await.unwrap()),
        Server::Mysql => Arc::new(MysqlStore::connect(&database.url()).await.unwrap()),
    };
    Some((database, store))
}

#[tokio::test]
async fn postgres_keeps_the_contract() {
    let Some((_database, store)) = store(Server::Postgres).await else { return };
    run_all(store).await.unwrap();
}

#[tokio::test]
async fn mysql_keeps_the_contract() {
    let Some((_database, store)) = store(Server::Mysql).await else { return };
    run_all(store).await.unwrap();
}
