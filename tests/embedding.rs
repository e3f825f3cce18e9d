//! A host with a database of its own: its transactions make runs, and its tables and migrations stay as they are.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use airflow::app::TriggerError;
use airflow::prelude::*;
use airflow::store::{AuditFilter, RunFilter, SharedStore, Store as _};
use airflow::testing::servers::{Server, TestDatabase};
use sqlx::migrate::Migrator;

#[derive(Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
struct Welcome {
    user: u64,
}

#[task]
async fn greet(welcome: &Params<Welcome>, greeted: &Arc<AtomicU32>) -> Result<u64> {
    greeted.fetch_add(1, Ordering::SeqCst);
    Ok(welcome.user)
}

#[dag(params = Welcome)]
fn welcome(d: &Dag) {
    d.add(greet::call());
}

#[dag]
fn other(d: &Dag) {
    d.add(Empty::new().id("nothing"));
}

async fn app(store: SharedStore, greeted: &Arc<AtomicU32>) -> Airflow {
    let builder =
        Airflow::builder().shared_store(store).executor(LocalExecutor::new(2)).dag(welcome()).dag(other());
    // So long that no test passes by the usual look for changes.
    let builder = builder.scheduler(|config| config.poll_interval = secs(600));
    builder.resource(Arc::clone(greeted)).build().await.unwrap()
}

/// The host's own migrations, as sqlx runs them.
async fn migrations() -> (tempfile::TempDir, Migrator) {
    let folder = tempfile::tempdir().unwrap();
    let users = "CREATE TABLE users (id BIGINT PRIMARY KEY, mail VARCHAR(100) NOT NULL);";
    std::fs::write(folder.path().join("1_users.sql"), users).unwrap();
    let migrator = Migrator::new(folder.path()).await.unwrap();
    (folder, migrator)
}

async fn runs(airflow: &Airflow) -> Vec<String> {
    let all = airflow.store().runs(&RunFilter::default()).await.unwrap();
    all.into_iter().map(|run| run.run_id.to_string()).collect()
}

/// What must hold on every database; `$pool` is of the host, `$store` is made of it.
macro_rules! host {
    ($pool:expr, $store:expr) => {{
        let pool = $pool;
        let (_folder, migrations) = migrations().await;
        migrations.run(&pool).await.unwrap();
        let store: SharedStore = Arc::new($store);
        let greeted = Arc::new(AtomicU32::new(0));
        let airflow = app(Arc::clone(&store), &greeted).await;

        // Rolled back: neither the user nor the run, nor a word in the log.
        let mut tx = pool.begin().await.unwrap();
        sqlx::raw_sql("INSERT INTO users VALUES (1, 'a@b')").execute(&mut *tx).await.unwrap();
        let made =
            airflow.trigger("welcome").run_id("user-1").conf(&Welcome { user: 1 }).in_tx(&mut tx).await;
        assert_eq!(made.unwrap().state, RunState::Queued);
        assert_eq!(runs(&airflow).await, [""; 0], "nobody sees it yet");
        tx.rollback().await.unwrap();
        assert_eq!(runs(&airflow).await, [""; 0]);
        assert_eq!(airflow.store().audit_log(&AuditFilter::default()).await.unwrap(), []);

        // Committed: the scheduler of this process starts it although its usual look is far away.
        let running = airflow.start();
        let mut tx = pool.begin().await.unwrap();
        sqlx::raw_sql("INSERT INTO users VALUES (2, 'c@d')").execute(&mut *tx).await.unwrap();
        let asked = airflow.trigger("welcome").run_id("user-2").conf(&Welcome { user: 2 }).actor("web");
        let run = asked.in_tx(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let run =
            tokio::time::timeout(secs(20), airflow.wait(&run)).await.expect("it starts at once").unwrap();
        assert_eq!(run.state, RunState::Success);
        assert_eq!(airflow.result::<u64>(&run, "greet").await.unwrap(), 2);
        let log = airflow.store().audit_log(&AuditFilter::default()).await.unwrap();
        assert_eq!((log.len(), log[0].actor.as_str(), log[0].event.as_str()), (1, "web", "trigger"));

        // The same checks as without a transaction; what is refused leaves the transaction usable.
        let mut tx = pool.begin().await.unwrap();
        sqlx::raw_sql("INSERT INTO users VALUES (3, 'e@f')").execute(&mut *tx).await.unwrap();
        let again = airflow.trigger("welcome").run_id("user-2").in_tx(&mut tx).await.unwrap_err();
        assert!(matches!(again, TriggerError::Exists(..)), "{again}");
        let conf = std::collections::BTreeMap::from([("user", "nobody")]);
        let error = airflow.trigger("welcome").conf(&conf).in_tx(&mut tx).await.unwrap_err();
        assert!(matches!(error, TriggerError::Conf(..)), "{error}");
        let error = airflow.trigger("welcom").in_tx(&mut tx).await.unwrap_err().to_string();
        assert!(error.contains("did you mean `welcome`"), "{error}");
        let error = airflow.trigger("welcome").run_id("a b").in_tx(&mut tx).await.unwrap_err();
        assert!(matches!(error, TriggerError::RunId(..)), "{error}");
        tx.commit().await.unwrap();
        assert_eq!(runs(&airflow).await, ["user-2"]);

        // A paused dag: the run is made and waits.
        airflow.set_paused(&"welcome".into(), true, "ada").await.unwrap();
        let mut tx = pool.begin().await.unwrap();
        let held = airflow.trigger("welcome").run_id("held").in_tx(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        // Another run that came later has ended by now, so this one would have started.
        let later = airflow.trigger("other").await.unwrap();
        airflow.wait(&later).await.unwrap();
        assert_eq!(airflow.run(&held.dag_id, &held.run_id).await.unwrap().state, RunState::Queued);
        airflow.set_paused(&"welcome".into(), false, "ada").await.unwrap();
        airflow.wait(&held).await.unwrap();
        running.stop(secs(5)).await.unwrap();
        assert_eq!(greeted.load(Ordering::SeqCst), 2);

        // Neither the tables nor the migrations of the host have changed: sqlx finds them as it left them.
        migrations.run(&pool).await.unwrap();
        store.reset().await.unwrap();
        migrations.run(&pool).await.unwrap();
        let users: i64 = sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(&pool).await.unwrap();
        assert_eq!(users, 2);
        let known: i64 =
            sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations").fetch_one(&pool).await.unwrap();
        assert_eq!(known, 1);
    }};
}

async fn sqlite(folder: &tempfile::TempDir) -> sqlx::SqlitePool {
    let path = folder.path().join("host.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    sqlx::SqlitePool::connect_with(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_a_host_makes_runs_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(&folder).await;
    host!(pool.clone(), SqliteStore::from_pool(&pool).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_a_host_makes_runs_in_postgres() {
    let Some(database) = TestDatabase::on(Server::Postgres).await else { return };
    let pool = sqlx::PgPool::connect(&database.url()).await.unwrap();
    host!(pool.clone(), PostgresStore::from_pool(pool.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_a_host_makes_runs_in_mysql() {
    let Some(database) = TestDatabase::on(Server::Mysql).await else { return };
    let pool = sqlx::MySqlPool::connect(&database.url()).await.unwrap();
    host!(pool.clone(), MysqlStore::from_pool(pool.clone()));
}

/// Goal: a transaction that cannot hold the run is named, with the cure. Method: other kinds, another file, no tables.
#[tokio::test]
async fn a_transaction_of_another_database_is_refused() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (pool, elsewhere) = (sqlite(&folder).await, sqlite(&other).await);
    let greeted = Arc::new(AtomicU32::new(0));
    let in_memory = app(Arc::new(MemoryStore::new()), &greeted).await;
    let error = in_memory.trigger("welcome").in_tx(&mut pool.begin().await.unwrap()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is of a database of the kind sqlite, but the store is of the kind memory")
    );

    let airflow = app(Arc::new(SqliteStore::from_pool(&pool).await.unwrap()), &greeted).await;
    let refused = async || {
        let mut tx = elsewhere.begin().await.unwrap();
        airflow.trigger("welcome").in_tx(&mut tx).await.unwrap_err().to_string()
    };
    let error = refused().await;
    assert!(error.contains("the transaction is not on the database that the store is in"), "{error}");
    // Even if that one is a store too.
    app(Arc::new(SqliteStore::from_pool(&elsewhere).await.unwrap()), &greeted).await;
    let error = refused().await;
    assert!(error.contains("host.db") && error.contains("is not on the database"), "{error}");

    let memory = sqlx::SqlitePool::connect("sqlite::memory:").await.unwrap();
    let error = SqliteStore::from_pool(&memory).await.unwrap_err().to_string();
    assert!(error.contains("a file is needed"), "{error}");

    let Some(database) = TestDatabase::on(Server::Postgres).await else { return };
    let pool = sqlx::PgPool::connect(&database.url()).await.unwrap();
    let error = airflow.trigger("welcome").in_tx(&mut pool.begin().await.unwrap()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is of a database of the kind postgres, but the store is of the kind sqlite")
    );
}

/// Goal: the marks by which others notice such runs do not pile up. Method: many of them, then look.
#[tokio::test]
async fn the_marks_of_many_transactions_are_taken_away() {
    let Some(database) = TestDatabase::on(Server::Postgres).await else { return };
    let pool = sqlx::PgPool::connect(&database.url()).await.unwrap();
    let airflow = app(Arc::new(PostgresStore::from_pool(pool.clone())), &Arc::default()).await;
    let other = PostgresStore::from_pool(pool.clone());
    for _ in 0..3 {
        let before = other.change_token().await.unwrap();
        let mut tx = pool.begin().await.unwrap();
        for n in 0..70 {
            let date = airflow.clock().now() + chrono::TimeDelta::microseconds(n);
            airflow.trigger("welcome").logical_date(date).in_tx(&mut tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        airflow.store().change_token().await.unwrap();
        assert_ne!(other.change_token().await.unwrap(), before, "another process notices");
    }
    let marks: i64 =
        sqlx::query_scalar("SELECT count(*) FROM airflow.af_commit").fetch_one(&pool).await.unwrap();
    assert!(marks < 110, "{marks}");
    assert_eq!(runs(&airflow).await.len(), 210);
}
