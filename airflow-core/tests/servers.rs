//! The stores on database servers: the contract, against the memory store, and what only they promise.

#![expect(clippy::unwrap_used, reason = "a test stops at the first error")]

#[path = "servers/cuts.rs"]
mod cuts;
#[path = "stores/differential.rs"]
mod differential;
#[path = "servers/kit.rs"]
mod kit;
#[path = "servers/many.rs"]
mod many;
#[path = "servers/tables.rs"]
mod tables;
#[path = "servers/tls.rs"]
mod tls;

use airflow_core::testing::servers::Server;
use airflow_core::testing::store_suite::run_all;
use kit::store;
use sqlx::Connection as _;

#[tokio::test]
async fn postgres_keeps_the_contract() {
    let Some((_database, store)) = store(Server::Postgres).await else { return };
    run_all(store.shared()).await.unwrap();
}

#[tokio::test]
async fn mysql_keeps_the_contract() {
    let Some((_database, store)) = store(Server::Mysql).await else { return };
    run_all(store.shared()).await.unwrap();
}

/// Goal: a date that MySQL's columns do not know is refused before it gets there. Method: the last one that is refused, the
/// first one that is kept and read back.
#[tokio::test]
async fn a_date_that_mysql_does_not_know_is_refused() {
    use airflow_core::{app::Airflow, dag::DagDef, dag::TaskExt as _, operator::Empty};
    let dag = || {
        DagDef::new("d").define(|d| {
            d.add(Empty::new().id("t"));
        })
    };
    let Some((_database, store)) = store(Server::Mysql).await else { return };
    let airflow = Airflow::builder().shared_store(store.shared()).dag(dag()).build().await.unwrap();
    let at = |text: &str| text.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let refused = airflow.trigger("d").logical_date(at("0999-12-31T23:59:59Z")).await.unwrap_err();
    assert!(refused.to_string().contains("is outside the years 1000 to 9999"), "{refused}");
    for date in ["1000-01-01T00:00:00Z", "9999-12-31T23:59:59Z"].map(at) {
        let run = airflow.trigger("d").logical_date(date).await.unwrap();
        assert_eq!(airflow.run(&run.dag_id, &run.run_id).await.unwrap().logical_date, date);
    }
}

/// How many lists of operations are tried on a server; each costs a fifth of a second in a debug build.
const LISTS: u32 = 25;

/// Goal: PostgreSQL's statements do what the plain maps do.
#[test]
fn memory_and_postgres_give_the_same_answers() {
    const EMPTY: &str = "
        TRUNCATE airflow.af_dag, airflow.af_asset, airflow.af_asset_event, airflow.af_run, airflow.af_slot, airflow.af_pool,
            airflow.af_watcher, airflow.af_incarnation, airflow.af_worker, airflow.af_dead_letter, airflow.af_setting,
            airflow.af_variable RESTART IDENTITY CASCADE;
        INSERT INTO airflow.af_pool VALUES ('default_pool', 128, 'Default pool', false)";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Some((database, store)) = runtime.block_on(store(Server::Postgres)) else { return };
    differential::same_as_memory(&runtime, &store.shared(), LISTS, async || {
        let mut conn = sqlx::PgConnection::connect(&database.url()).await.unwrap();
        sqlx::raw_sql(EMPTY).execute(&mut conn).await.unwrap();
    });
}

/// Goal: MySQL's statements do what the plain maps do.
#[test]
fn memory_and_mysql_give_the_same_answers() {
    const EMPTY: &str = "
        BEGIN; DELETE FROM af_dag; DELETE FROM af_asset; DELETE FROM af_asset_event; DELETE FROM af_slot; DELETE FROM af_pool;
        DELETE FROM af_watcher; DELETE FROM af_incarnation; DELETE FROM af_worker; DELETE FROM af_dead_letter;
        DELETE FROM af_setting; DELETE FROM af_variable;
        INSERT INTO af_pool VALUES ('default_pool', 128, 'Default pool', false); COMMIT;
        ALTER TABLE af_run AUTO_INCREMENT = 1";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Some((database, store)) = runtime.block_on(store(Server::Mysql)) else { return };
    differential::same_as_memory(&runtime, &store.shared(), LISTS, async || {
        let mut conn = sqlx::MySqlConnection::connect(&database.url()).await.unwrap();
        sqlx::raw_sql(EMPTY).execute(&mut conn).await.unwrap();
    });
}
