//! Several processes on one database, and servers that end connections.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use airflow_core::store::{SlotKey, StoreError, UnitResult, VariableRow};
use airflow_core::testing::proxy::CuttingProxy;
use airflow_core::testing::servers::{Server, TestDatabase};
use sqlx::Connection as _;

use super::kit::{BOTH, Opened, launch, new_run, record, run, store};

/// Goal: of those that decide on one view one wins, and limits hold. Method: four stores, each with its own connections,
/// all launch the same tasks of several runs, of which only some have room.
#[tokio::test(flavor = "multi_thread")]
async fn several_schedulers_win_each_task_once_within_the_limit() {
    const SLOTS: i64 = 30;
    for server in BOTH {
        let Some((database, first)) = store(server).await else { continue };
        let shared = first.shared();
        let runs = [run(&shared, "r1").await, run(&shared, "r2").await];
        let mut tasks = Vec::new();
        for who in 0..4 {
            let other = Opened::at(server, &database.url()).await.unwrap().shared();
            for number in 0..20 {
                // Runs in different orders, so that locks in the order of the units would meet in a circle.
                let order = if who % 2 == 0 { [0, 1] } else { [1, 0] };
                let units: Vec<_> = order
                    .iter()
                    .map(|run| launch(&runs[*run], &format!("t{number}"), &format!("s{who}"), SLOTS))
                    .collect();
                let other = Arc::clone(&other);
                tasks.push(tokio::spawn(async move { other.commit(units).await.unwrap() }));
            }
        }
        let (mut won, mut full) = (0, 0);
        for task in tasks {
            for result in task.await.unwrap() {
                match result {
                    UnitResult::Committed => won += 1,
                    UnitResult::Full(_) => full += 1,
                    UnitResult::Stale => {}
                }
            }
        }
        let mut rows = 0;
        for run in &runs {
            rows += shared.task_instances(run.pk).await.unwrap().len();
        }
        assert_eq!((rows, won), (30, 30), "{server:?}");
        assert!(full > 0, "{server:?}: somebody met the limit");
        let used = shared.slots().await.unwrap();
        let dag = used.iter().find(|(key, _)| *key == SlotKey::Dag("d".into())).unwrap();
        assert_eq!(dag.1, SLOTS, "{server:?}");
    }
}

/// Goal: a run is made once, whoever asks. Method: several stores create the same runs at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_created_once_by_many() {
    for server in BOTH {
        let Some((database, first)) = store(server).await else { continue };
        let shared = first.shared();
        shared.migrate().await.unwrap();
        shared.sync_dags(vec![record("d"), record("e")], super::kit::at(0)).await.unwrap();
        let mut tasks = Vec::new();
        for who in 0..4 {
            let other = Opened::at(server, &database.url()).await.unwrap().shared();
            for number in 0..10 {
                let dags = if who % 2 == 0 { ["d", "e"] } else { ["e", "d"] };
                let runs = dags.map(|dag| new_run(dag, &format!("r{number}"))).to_vec();
                let other = Arc::clone(&other);
                tasks.push(tokio::spawn(async move { other.create_runs(runs).await.unwrap() }));
            }
        }
        let mut new = 0;
        for task in tasks {
            let made = task.await.unwrap();
            new += made.iter().filter(|one| matches!(one, airflow_core::store::CreatedRun::New(_))).count();
        }
        assert_eq!(new, 20, "{server:?}");
    }
}

/// Ends all connections of others to the database.
async fn end_connections(server: Server, database: &TestDatabase) {
    let url = database.url();
    match server {
        Server::Postgres => {
            const END: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
            let mut conn = sqlx::PgConnection::connect(&url).await.unwrap();
            sqlx::raw_sql(END).execute(&mut conn).await.unwrap();
        }
        Server::Mysql => {
            const LIST: &str = "SELECT id FROM information_schema.processlist
                WHERE db = DATABASE() AND id <> CONNECTION_ID()";
            let mut conn = sqlx::MySqlConnection::connect(&url).await.unwrap();
            let ids: Vec<i64> = sqlx::query_scalar(LIST).fetch_all(&mut conn).await.unwrap();
            for id in ids {
                let sql = sqlx::AssertSqlSafe(format!("KILL {id}"));
                sqlx::raw_sql(sql).execute(&mut conn).await.ok();
            }
        }
    }
}

/// Goal: a server that ends connections costs time only. Method: end all of them again and again while commits, reads
/// and settings go on; none may fail, and each happens once.
#[tokio::test(flavor = "multi_thread")]
async fn ended_connections_cost_nothing_but_time() {
    const TASKS: usize = 60;
    for server in BOTH {
        let Some((database, first)) = store(server).await else { continue };
        let shared = first.shared();
        let row = run(&shared, "r").await;
        let database = Arc::new(database);
        let done = Arc::new(AtomicBool::new(false));
        let nemesis = tokio::spawn({
            let (database, done) = (Arc::clone(&database), Arc::clone(&done));
            async move {
                let mut strikes = 0;
                while !done.load(Ordering::SeqCst) && strikes < 15 {
                    end_connections(server, &database).await;
                    strikes += 1;
                }
                strikes
            }
        });
        for number in 0..TASKS {
            let unit = launch(&row, &format!("t{number}"), "s", 1_000);
            assert_eq!(shared.commit(vec![unit]).await.unwrap(), [UnitResult::Committed], "{server:?}");
            shared.change_token().await.unwrap();
            assert_eq!(shared.task_instances(row.pk).await.unwrap().len(), number + 1);
        }
        done.store(true, Ordering::SeqCst);
        assert!(nemesis.await.unwrap() > 0, "the server was unkind at least once");
        assert_eq!(shared.events(row.pk, None).await.unwrap().len(), TASKS, "{server:?}");
        assert_eq!(first.unknown().unresolved, 0);
    }
}

/// A connection of the test's own, which lists those of others.
enum Looker {
    Postgres(sqlx::PgConnection),
    Mysql(sqlx::MySqlConnection),
}

impl Looker {
    async fn at(server: Server, database: &TestDatabase) -> Self {
        match server {
            Server::Postgres => Self::Postgres(sqlx::PgConnection::connect(&database.url()).await.unwrap()),
            Server::Mysql => Self::Mysql(sqlx::MySqlConnection::connect(&database.url()).await.unwrap()),
        }
    }

    /// The connections of stores to the database, as the server numbers them.
    async fn connections(&mut self) -> BTreeSet<i64> {
        const IN_POSTGRES: &str = "SELECT pid::int8 FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'airflow'";
        const IN_MYSQL: &str = "SELECT CAST(id AS SIGNED) FROM information_schema.processlist
            WHERE db = DATABASE() AND id <> CONNECTION_ID()";
        let ids: Vec<i64> = match self {
            Self::Postgres(conn) => sqlx::query_scalar(IN_POSTGRES).fetch_all(conn).await.unwrap(),
            Self::Mysql(conn) => sqlx::query_scalar(IN_MYSQL).fetch_all(conn).await.unwrap(),
        };
        ids.into_iter().collect()
    }
}

/// Looks until it is so.
async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looking).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Goal: what is said of the connections holds, in the eyes of the server.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_as_they_are_asked_for() {
    for server in BOTH {
        let Some(database) = TestDatabase::on(server).await else { continue };
        let kept = Opened::with(server, &database.url(), |pool| {
            (pool.min_connections, pool.max_connections) = (4, 5);
        })
        .await;
        let shared = kept.shared();
        shared.migrate().await.unwrap();
        let mut looker = Looker::at(server, &database).await;
        until("as many as are to be kept", async || looker.connections().await.len() >= 4).await;
        let reads: Vec<_> = (0..300)
            .map(|_| {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move { shared.dags().await.unwrap().len() })
            })
            .collect();
        let mut most = 0;
        while !reads.iter().all(tokio::task::JoinHandle::is_finished) {
            most = most.max(looker.connections().await.len());
        }
        assert!(most <= 5, "{server:?}: {most} connections");
    }
}

/// Goal: a connection is made anew when it is old, and tried before it is used unless nobody wants that. Method: the
/// server's numbers of connections, and messages counted by a link.
#[tokio::test(flavor = "multi_thread")]
async fn connections_grow_old_and_are_tried() {
    const READS: u64 = 10;
    for server in BOTH {
        let Some(database) = TestDatabase::on(server).await else { continue };
        let url = database.url();
        let young = Opened::with(server, &url, |pool| pool.max_lifetime = Duration::from_millis(300)).await;
        let shared = young.shared();
        shared.migrate().await.unwrap();
        let mut looker = Looker::at(server, &database).await;
        let old = looker.connections().await;
        assert!(!old.is_empty());
        until("others take their places", async || {
            shared.dags().await.unwrap();
            looker.connections().await.is_disjoint(&old)
        })
        .await;

        let mut messages = Vec::new();
        for tested in [true, false] {
            let proxy = CuttingProxy::start(&database.host()).await.unwrap();
            let url = database.url_by(&proxy.address());
            let store = Opened::with(server, &url, |pool| pool.test_before_use = tested).await.shared();
            store.dags().await.unwrap();
            let before = proxy.messages();
            for _ in 0..READS {
                store.dags().await.unwrap();
            }
            messages.push(proxy.messages() - before);
        }
        assert!(messages[0] > messages[1], "{server:?}: {messages:?}");
    }
}

/// Goal: a full disk is named; what is written meanwhile is tried again, and done when there is room. Method: a trigger
/// that says what the server says then, twice or always.
#[tokio::test]
async fn a_full_disk_is_named_and_what_did_not_fit_is_tried_again() {
    const IN_POSTGRES: &[&str] = &[
        "CREATE SEQUENCE airflow.tries",
        "CREATE FUNCTION airflow.no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.key = 'never' OR nextval('airflow.tries') < 3 THEN
                RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100';
            END IF; RETURN NEW; END $$",
        "CREATE TRIGGER no_room BEFORE INSERT ON airflow.af_variable FOR EACH ROW EXECUTE FUNCTION airflow.no_room()",
    ];
    const IN_MYSQL: &[&str] = &[
        "CREATE TABLE tries (n INT) ENGINE = MyISAM",
        "INSERT INTO tries VALUES (0)",
        "CREATE TRIGGER no_room BEFORE INSERT ON af_variable FOR EACH ROW BEGIN
            UPDATE tries SET n = n + 1;
            IF NEW.`key` = 'never' OR (SELECT n FROM tries) < 3 THEN
                SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1114, MESSAGE_TEXT = 'The table is full';
            END IF; END",
    ];
    for server in BOTH {
        let Some((database, opened)) = store(server).await else { continue };
        let shared = opened.shared();
        shared.migrate().await.unwrap();
        match server {
            Server::Postgres => {
                let mut conn = sqlx::PgConnection::connect(&database.url()).await.unwrap();
                for sql in IN_POSTGRES {
                    sqlx::raw_sql(*sql).execute(&mut conn).await.unwrap();
                }
            }
            Server::Mysql => {
                let mut conn = sqlx::MySqlConnection::connect(&database.url()).await.unwrap();
                for sql in IN_MYSQL {
                    sqlx::raw_sql(*sql).execute(&mut conn).await.unwrap();
                }
            }
        }
        let variable = |key: &str| VariableRow {
            key: key.into(),
            value: "v".into(),
            description: None,
            is_encrypted: false,
        };
        shared.set_variable(variable("k")).await.unwrap();
        assert!(shared.variable("k").await.unwrap().is_some(), "{server:?}: the third try was done");
        let refused = shared.set_variable(variable("never")).await.unwrap_err();
        assert!(matches!(&refused, StoreError::NoRoom(_)), "{server:?}: {refused:?}");
        assert!(refused.to_string().starts_with("the database has no room to write: "), "{refused}");
        assert_eq!(shared.variable("never").await.unwrap(), None);
    }
}

/// Goal: a process learns that another one has written, and not that itself has.
#[tokio::test]
async fn the_change_token_tells_of_other_processes_only() {
    for server in BOTH {
        let Some((database, first)) = store(server).await else { continue };
        let one = first.shared();
        let row = run(&one, "r").await;
        let two = Opened::at(server, &database.url()).await.unwrap().shared();
        let before = one.change_token().await.unwrap();
        one.commit(vec![launch(&row, "a", "s", 10)]).await.unwrap();
        one.set_paused(&"d".into(), true).await.unwrap();
        assert_eq!(one.change_token().await.unwrap(), before, "{server:?}");
        for task in ["b", "c"] {
            let before = one.change_token().await.unwrap();
            two.commit(vec![launch(&row, task, "s", 10)]).await.unwrap();
            let after = one.change_token().await.unwrap();
            assert_ne!(after, before, "{server:?}");
            assert_eq!(one.change_token().await.unwrap(), after);
        }
        let before = one.change_token().await.unwrap();
        two.set_paused(&"d".into(), false).await.unwrap();
        assert_ne!(one.change_token().await.unwrap(), before, "{server:?}");
    }
}

/// Goal: large values of many tasks at once are written, although a message to the server has a limit. Method: one
/// commit of 12 MiB, which as literals is more than MariaDB accepts in one message.
#[tokio::test]
async fn large_values_go_in_several_messages() {
    const VALUES: usize = 12;
    for server in BOTH {
        let Some((_database, first)) = store(server).await else { continue };
        let shared = first.shared();
        let row = run(&shared, "r").await;
        let text = format!("\"{}\"", "x\\n".repeat(340_000));
        let mut unit = launch(&row, "a", "s", 10);
        for number in 0..VALUES {
            unit.xcoms.push(airflow_core::store::XComWrite {
                task_id: "a".into(),
                map_index: airflow_core::id::MapIndex::UNMAPPED,
                key: format!("k{number}"),
                value: airflow_core::xcom::XComValue::from_text(text.clone()),
            });
        }
        assert_eq!(shared.commit(vec![unit]).await.unwrap(), [UnitResult::Committed], "{server:?}");
        let filter =
            airflow_core::store::XComFilter { run: row.pk, tasks: vec![], map_index: None, key: None };
        let stored = shared.xcoms(&filter).await.unwrap();
        assert_eq!(stored.len(), VALUES, "{server:?}");
        assert!(stored.iter().all(|xcom| xcom.value.text() == text), "{server:?}");
    }
}
