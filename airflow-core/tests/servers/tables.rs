//! Migrations, the host's own tables, and what is shown of an address.

use airflow_core::id::{AttemptId, MapIndex};
use airflow_core::state::{TaskEvent, TaskState};
use airflow_core::store::{
    AttemptStart, AttemptState, MysqlOptions, MysqlStore, PostgresOptions, PostgresStore, StoreError,
    UnitResult,
};
use airflow_core::testing::proxy::{Cut, CuttingProxy};
use airflow_core::testing::servers::{Server, TestDatabase};
use sqlx::Connection as _;

use super::kit::{BOTH, Opened, launch, run, store};

async fn execute(server: Server, database: &TestDatabase, sql: &'static str) {
    match server {
        Server::Postgres => {
            let mut conn = sqlx::PgConnection::connect(&database.url()).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        }
        Server::Mysql => {
            let mut conn = sqlx::MySqlConnection::connect(&database.url()).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        }
    }
}

async fn count(server: Server, database: &TestDatabase, sql: &'static str) -> i64 {
    match server {
        Server::Postgres => {
            let mut conn = sqlx::PgConnection::connect(&database.url()).await.unwrap();
            sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap()
        }
        Server::Mysql => {
            let mut conn = sqlx::MySqlConnection::connect(&database.url()).await.unwrap();
            sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap()
        }
    }
}

#[tokio::test]
async fn every_call_before_the_migration_says_so_and_a_newer_schema_is_refused() {
    for server in BOTH {
        let Some((database, opened)) = store(server).await else { continue };
        let early = opened.shared();
        assert_eq!(early.check().await.unwrap().version, 0);
        let says_so = |error: Option<StoreError>| {
            assert!(matches!(error, Some(StoreError::NotMigrated { found: 0, .. })), "{error:?}");
        };
        says_so(early.dags().await.err());
        says_so(early.commit(vec![]).await.err());
        says_so(early.set_paused(&"d".into(), true).await.err());
        let migrated = early.migrate().await.unwrap();
        assert_eq!((migrated.from, migrated.to), (0, early.check().await.unwrap().needed));
        assert_eq!(early.dags().await.unwrap(), []);
        let sql = match server {
            Server::Postgres => {
                "INSERT INTO airflow.airflow_schema (version, serves, at) VALUES (99, 99, now())"
            }
            Server::Mysql => "INSERT INTO airflow_schema (version, serves, at) VALUES (99, 99, now(6))",
        };
        execute(server, &database, sql).await;
        let late = Opened::at(server, &database.url()).await.unwrap().shared();
        for error in [late.dags().await.err(), late.migrate().await.err()] {
            assert!(matches!(error, Some(StoreError::Newer { found: 99, .. })), "{error:?}");
        }
    }
}

/// Goal: migrators do not disturb each other or the host. Method: several at once, beside tables of the host with names
/// like ours and like those of its own migrations.
#[tokio::test(flavor = "multi_thread")]
async fn migrators_at_once_make_the_tables_once_and_leave_the_host_alone() {
    for server in BOTH {
        let Some((database, opened)) = store(server).await else { continue };
        execute(
            server,
            &database,
            "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY); CREATE TABLE run (pk BIGINT PRIMARY KEY);
             INSERT INTO run VALUES (7); INSERT INTO _sqlx_migrations VALUES (1)",
        )
        .await;
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let other = Opened::at(server, &database.url()).await.unwrap().shared();
            tasks.push(tokio::spawn(async move { other.migrate().await.unwrap() }));
        }
        let mut made = 0;
        for task in tasks {
            made += u32::from(task.await.unwrap().from == 0);
        }
        assert_eq!(made, 1, "{server:?}: one of them made the tables");
        opened.shared().reset().await.unwrap();
        for sql in [
            "SELECT count(*) FROM run WHERE pk = 7",
            "SELECT count(*) FROM _sqlx_migrations WHERE version = 1",
        ] {
            assert_eq!(count(server, &database, sql).await, 1);
        }
    }
}

/// Goal: a migration that was interrupted goes on. Method: cut the connection at each of its statements, then let it
/// through; the result must work like a fresh one.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_migration_goes_on() {
    for (server, tables) in [
        (Server::Postgres, ["af_dag_version", "af_commit_units_1"]),
        (Server::Mysql, ["af_attempt (", "af_commit ("]),
    ] {
        for table in tables {
            for before in [true, false] {
                let Some(database) = TestDatabase::on(server).await else { continue };
                let proxy = CuttingProxy::start(&database.host()).await.unwrap();
                let opened = Opened::at(server, &database.url_by(&proxy.address())).await.unwrap();
                let mark = table.as_bytes().to_vec();
                proxy.cut(if before { Cut::Before(mark) } else { Cut::After(mark) });
                // PostgreSQL takes it back and tries again by itself.
                opened.shared().migrate().await.ok();
                assert_eq!(proxy.cuts(), 1, "{table}");
                let shared = opened.shared();
                let row = run(&shared, "r").await;
                assert_eq!(shared.check().await.unwrap().version, shared.check().await.unwrap().needed);
                assert_eq!(shared.pools().await.unwrap().len(), 1);
                let unit = launch(&row, "a", "s", 10);
                assert_eq!(shared.commit(vec![unit]).await.unwrap(), [UnitResult::Committed]);
            }
        }
    }
}

/// A database of the version of now, with runs and task instances in it.
async fn with_rows(server: Server) -> Option<(TestDatabase, Opened)> {
    let (database, opened) = store(server).await?;
    let shared = opened.shared();
    for name in ["r1", "r2", "r3"] {
        let row = run(&shared, name).await;
        let unit = launch(&row, "a", "s", 10);
        assert_eq!(shared.commit(vec![unit]).await.unwrap(), [UnitResult::Committed]);
    }
    Some((database, opened))
}

/// How many rows there are of what was there before the next version, and of what it brings.
async fn rows(server: Server, database: &TestDatabase, of: &'static [&'static str]) -> Vec<i64> {
    let mut counts = Vec::new();
    for sql in of {
        let sql =
            if server == Server::Postgres { sql.replace("af_", "airflow.af_") } else { (*sql).to_owned() };
        counts.push(count(server, database, Box::leak(sql.into_boxed_str())).await);
    }
    counts
}

const BEFORE: &[&str] = &[
    "SELECT count(*) FROM af_run",
    "SELECT count(*) FROM af_ti WHERE state = 'running'",
    "SELECT count(*) FROM af_event",
    "SELECT count(*) FROM af_attempt",
    "SELECT count(*) FROM af_pool",
];
const ADDED: &[&str] =
    &["SELECT count(*) FROM af_run WHERE of_tests = run_id", "SELECT count(*) FROM af_of_tests"];

/// Goal: programs of two versions work on one database, until the newer one takes away what the older one needs.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_program_works_as_long_as_the_tables_serve_it() {
    for server in BOTH {
        let Some((database, older)) = with_rows(server).await else { continue };
        let older_shared = older.shared();
        let now = older_shared.check().await.unwrap().version;
        let newer = Opened::at(server, &database.url()).await.unwrap();
        newer.need(1);
        let early = newer.shared().dags().await.err();
        assert!(matches!(early, Some(StoreError::NotMigrated { .. })), "{early:?}");
        let migrated = newer.shared().migrate().await.unwrap();
        assert_eq!((migrated.from, migrated.to), (now, now + 1), "{server:?}");
        // One that was there, and one that comes now.
        let late = Opened::at(server, &database.url()).await.unwrap();
        for (name, opened) in [("old", &older), ("late", &late), ("new", &newer)] {
            let shared = opened.shared();
            let migrated = shared.migrate().await.unwrap();
            assert_eq!((migrated.from, migrated.to), (now + 1, now + 1), "{server:?} {name}");
            let row = run(&shared, name).await;
            let unit = launch(&row, "a", name, 100);
            assert_eq!(
                shared.commit(vec![unit]).await.unwrap(),
                [UnitResult::Committed],
                "{server:?} {name}"
            );
        }
        let status = late.shared().check().await.unwrap();
        assert_eq!((status.version, status.needed, status.serves), (now + 1, now, now));

        let newest = Opened::at(server, &database.url()).await.unwrap();
        newest.need(2);
        newest.shared().migrate().await.unwrap();
        let refused = Opened::at(server, &database.url()).await.unwrap().shared();
        for error in [refused.dags().await.err(), refused.migrate().await.err()] {
            let Some(StoreError::Newer { found, known }) = error else { panic!("{server:?}: {error:?}") };
            assert_eq!((found, known), (now + 2, now));
        }
        assert_eq!(newer.shared().dags().await.unwrap().len(), 1, "{server:?}: the one between goes on");
    }
}

/// Goal: a migration over rows goes on wherever it was interrupted, and nothing is lost or done twice. Method: cut the
/// connection at each of its statements, before it is done and after.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_migration_over_rows_goes_on() {
    let postgres: &[(u32, &str)] =
        &[(1, "ADD COLUMN of_tests"), (1, "af_commit_units_1"), (2, "DROP COLUMN of_tests")];
    let mysql: &[(u32, &str)] = &[
        (1, "ADD COLUMN of_tests"),
        (1, "SET of_tests"),
        (1, "af_of_tests ("),
        (1, "INTO af_of_tests"),
        (2, "DROP COLUMN of_tests"),
    ];
    for (server, places) in [(Server::Postgres, postgres), (Server::Mysql, mysql)] {
        for (versions, place) in places {
            for is_before in [true, false] {
                let Some((database, _older)) = with_rows(server).await else { continue };
                let before = rows(server, &database, BEFORE).await;
                let proxy = CuttingProxy::start(&database.host()).await.unwrap();
                let opened = Opened::at(server, &database.url_by(&proxy.address())).await.unwrap();
                opened.need(*versions);
                let mark = place.as_bytes().to_vec();
                proxy.cut(if is_before { Cut::Before(mark) } else { Cut::After(mark) });
                // PostgreSQL takes it back and tries again by itself.
                opened.shared().migrate().await.ok();
                assert_eq!(proxy.cuts(), 1, "{server:?} {place}");
                let status = opened.shared().migrate().await.map(|done| done.to);
                assert_eq!(
                    status.unwrap(),
                    opened.shared().check().await.unwrap().needed,
                    "{server:?} {place}"
                );
                assert_eq!(rows(server, &database, BEFORE).await, before, "{server:?} {place}");
                let added = rows(server, &database, if *versions == 1 { ADDED } else { &ADDED[1..] }).await;
                assert!(added.iter().all(|count| *count == 3), "{server:?} {place}: {added:?}");
            }
        }
    }
}

/// Goal: two migrators over rows do it once. Method: several at once.
#[tokio::test(flavor = "multi_thread")]
async fn migrators_at_once_over_rows_do_it_once() {
    for server in BOTH {
        let Some((database, older)) = with_rows(server).await else { continue };
        let now = older.shared().check().await.unwrap().version;
        let before = rows(server, &database, BEFORE).await;
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let other = Opened::at(server, &database.url()).await.unwrap();
            other.need(1);
            tasks.push(tokio::spawn(async move { other.shared().migrate().await.unwrap() }));
        }
        let mut done = 0;
        for task in tasks {
            let migrated = task.await.unwrap();
            assert_eq!(migrated.to, now + 1);
            done += u32::from(migrated.from == now);
        }
        assert_eq!(done, 1, "{server:?}");
        assert_eq!(rows(server, &database, BEFORE).await, before, "{server:?}");
        assert_eq!(rows(server, &database, ADDED).await, [3, 3], "{server:?}");
    }
}

/// Goal: a host can lend its own pool, even one of a single connection.
#[tokio::test]
async fn a_pool_of_the_host_is_enough() {
    for server in BOTH {
        let Some(database) = TestDatabase::on(server).await else { continue };
        let shared: airflow_core::store::SharedStore = match server {
            Server::Postgres => {
                let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1);
                let pool = pool.connect(&database.url()).await.unwrap();
                std::sync::Arc::new(PostgresStore::from_pool_in_schema(pool, "my \"own\" schema"))
            }
            Server::Mysql => {
                let pool = sqlx::mysql::MySqlPoolOptions::new().max_connections(1);
                std::sync::Arc::new(MysqlStore::from_pool(pool.connect(&database.url()).await.unwrap()))
            }
        };
        let row = run(&shared, "r").await;
        for task in ["a", "b"] {
            let results = shared.commit(vec![launch(&row, task, "s", 10)]).await.unwrap();
            assert_eq!(results, [UnitResult::Committed]);
            shared.change_token().await.unwrap();
        }
        assert_eq!(shared.task_instances(row.pk).await.unwrap().len(), 2);
    }
}

/// The tables whose rows go with their dag.
const OF_A_DAG: [&str; 17] = [
    "af_dag",
    "af_dag_version",
    "af_run",
    "af_ti",
    "af_event",
    "af_attempt",
    "af_xcom",
    "af_expansion",
    "af_notice",
    "af_run_owner",
    "af_report",
    "af_log_chunk",
    "af_asset_ref",
    "af_asset_queue",
    "af_run_asset_event",
    "af_deadline",
    "af_slot",
];

/// The tables that know no dag, or tell what was.
const OF_NO_DAG: [&str; 14] = [
    "af_asset",
    "af_asset_event",
    "af_audit",
    "af_carried",
    "af_commit",
    "af_connection",
    "af_dead_letter",
    "af_incarnation",
    "af_pool",
    "af_setting",
    "af_variable",
    "af_watcher",
    "af_worker",
    // Only of tests.
    "af_of_tests",
];

/// Rows in all tables of a dag in which the run and its task instance have left none. Any id of a process will do.
const MORE_ROWS: &str = "
    INSERT INTO af_xcom SELECT pk, 'a', -1, 'k', '2026-01-01', '1' FROM af_run;
    INSERT INTO af_expansion (run, owner, length) SELECT pk, 'a', 2 FROM af_run;
    INSERT INTO af_notice (run, task_id, map_index, epoch, event, try_number, at, owner)
        SELECT run, task_id, map_index, 1, 'success', 1, at, attempt_id FROM af_attempt;
    INSERT INTO af_run_owner (run, incarnation) SELECT run, attempt_id FROM af_attempt;
    INSERT INTO af_report (attempt_id, run, task_id, map_index, at, body)
        SELECT attempt_id, run, task_id, map_index, at, '{}' FROM af_attempt;
    INSERT INTO af_log_chunk (attempt_id, chunk, at, body) SELECT attempt_id, 1, at, 'x' FROM af_attempt;
    INSERT INTO af_asset (asset_key, is_alias, name, uri, group_name, extra) VALUES ('k', false, 'n', 'u', 'g', '{}');
    INSERT INTO af_asset_ref (asset_key, role, dag_id, task_id) VALUES ('k', 'outlet', 'd', 'a');
    INSERT INTO af_asset_event (event_id, asset_key, at, extra, aliases, from_dag, from_run, from_task, from_index)
        VALUES ('e', 'k', '2026-01-01', '{}', '[]', 'd', 'r', 'a', -1);
    INSERT INTO af_asset_queue (dag_id, event_id, asset_key, counts) VALUES ('d', 'e', 'k', true);
    INSERT INTO af_run_asset_event (run, event_id) SELECT pk, 'e' FROM af_run;
    INSERT INTO af_deadline (run, name, due_at) SELECT pk, 'x', '2026-01-01' FROM af_run";

/// The tables of ours that there are, with one row each for a query that counts.
const ALL_TABLES: [&str; 2] = [
    "SELECT tablename::text FROM pg_catalog.pg_tables WHERE schemaname = 'airflow' AND tablename LIKE 'af\\_%'",
    "SELECT CAST(table_name AS CHAR) FROM information_schema.tables
     WHERE table_schema = DATABASE() AND table_name LIKE 'af\\_%'",
];

async fn all_tables(server: Server, database: &TestDatabase) -> Vec<String> {
    match server {
        Server::Postgres => {
            let mut conn = sqlx::PgConnection::connect(&database.url()).await.unwrap();
            sqlx::query_scalar(ALL_TABLES[0]).fetch_all(&mut conn).await.unwrap()
        }
        Server::Mysql => {
            let mut conn = sqlx::MySqlConnection::connect(&database.url()).await.unwrap();
            sqlx::query_scalar(ALL_TABLES[1]).fetch_all(&mut conn).await.unwrap()
        }
    }
}

/// Goal: nothing refers to a dag or a run that is gone. Method: rows in every table that can have some of a dag, delete
/// it, and count all rows. A new table must be told to this test.
#[tokio::test]
async fn deleting_a_dag_leaves_no_orphan_rows() {
    for server in BOTH {
        let Some((database, opened)) = store(server).await else { continue };
        let shared = opened.shared();
        let row = run(&shared, "r").await;
        let mut unit = launch(&row, "a", "s", 10);
        unit.tis[0].transition = TaskState::None.on(TaskEvent::MarkedSuccess).unwrap();
        unit.started.push(AttemptStart {
            attempt_id: AttemptId(uuid::Uuid::now_v7()),
            task_id: "a".into(),
            map_index: MapIndex::UNMAPPED,
            number: 1,
            try_number: 1,
            state: AttemptState::Running,
            incarnation: None,
            queue: "default".into(),
            at: super::kit::at(5),
        });
        shared.commit(vec![unit]).await.unwrap();
        for table in all_tables(server, &database).await {
            let is_known = OF_A_DAG.contains(&table.as_str()) || OF_NO_DAG.contains(&table.as_str());
            assert!(is_known, "{server:?}: do rows of `{table}` go with their dag?");
        }
        let path = if server == Server::Postgres { "SET search_path = airflow; " } else { "" };
        execute(server, &database, Box::leak(format!("{path}{MORE_ROWS}").into_boxed_str())).await;
        let rows = async |table: &str| {
            let of_the_dag = if table == "af_slot" { " WHERE kind NOT IN (0, 4)" } else { "" };
            let schema = if server == Server::Postgres { "airflow." } else { "" };
            let sql = format!("SELECT count(*) FROM {schema}{table}{of_the_dag}");
            count(server, &database, Box::leak(sql.into_boxed_str())).await
        };
        for table in OF_A_DAG {
            assert!(rows(table).await > 0, "{server:?}: there is no row in {table}");
        }
        shared.delete_dag(&"d".into()).await.unwrap();
        for table in OF_A_DAG {
            assert_eq!(rows(table).await, 0, "{server:?}: {table}");
        }
    }
}

/// Goal: no secret is shown. Method: look at all that can be printed of stores and errors.
#[tokio::test]
async fn nothing_shows_the_password() {
    const SECRET: &str = "hunter2";
    let urls = [
        format!("postgres://me:{SECRET}@127.0.0.1:1/db"),
        format!("mysql://me:{SECRET}@127.0.0.1:1/db"),
        format!("postgres://me:{SECRET}@127.0.0.1:notaport/db"),
        format!("mysql://me:{SECRET}@127.0.0.1:1"),
    ];
    for url in &urls {
        let mut seen = Vec::new();
        if url.starts_with("postgres") {
            match PostgresOptions::new(url) {
                Ok(options) => {
                    let options =
                        options.pool(|pool| pool.acquire_timeout = std::time::Duration::from_millis(50));
                    seen.push(format!("{options:?} {}", options.place()));
                    let error = PostgresStore::connect_with(options).await.unwrap_err();
                    seen.push(format!("{error} {error:?}"));
                }
                Err(error) => seen.push(format!("{error} {error:?}")),
            }
        } else {
            match MysqlOptions::new(url) {
                Ok(options) => {
                    let options =
                        options.pool(|pool| pool.acquire_timeout = std::time::Duration::from_millis(50));
                    seen.push(format!("{options:?} {}", options.place()));
                    let error = MysqlStore::connect_with(options).await.unwrap_err();
                    seen.push(format!("{error} {error:?}"));
                }
                Err(error) => seen.push(format!("{error} {error:?}")),
            }
        }
        assert!(!seen.is_empty());
        for text in seen {
            assert!(text.contains("127.0.0.1") && !text.contains(SECRET), "{text}");
        }
    }
    if let Some((_database, opened)) = store(Server::Postgres).await {
        assert!(format!("{opened:?}").contains("schema airflow"));
    }
}
