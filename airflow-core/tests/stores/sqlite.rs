//! What only the SQLite store promises: files, migrations, several processes, group commit.

use std::sync::Arc;
use std::time::Duration;

use airflow_core::id::MapIndex;
use airflow_core::state::{RunType, TaskEvent, TaskState};
use airflow_core::store::{
    CreatedRun, DagRecord, NewRun, RunFilter, RunRow, SlotChange, SlotKey, SqliteOptions, SqliteStore, Store,
    StoreError, Synchronous, TiChange, TiData, Unit, UnitResult,
};
use airflow_core::timetable::DataInterval;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{Connection as _, SqliteConnection};
use tempfile::TempDir;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn file(dir: &TempDir) -> String {
    dir.path().join("a.db").to_str().unwrap().to_owned()
}

async fn open(dir: &TempDir) -> SqliteStore {
    let store = SqliteStore::open(&file(dir)).await.unwrap();
    store.migrate().await.unwrap();
    store
}

async fn raw(dir: &TempDir) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite://{}", file(dir))).await.unwrap()
}

async fn run(store: &SqliteStore, run_id: &str) -> RunRow {
    let record = DagRecord {
        dag_id: "d".into(),
        fingerprint: "v".into(),
        structure: serde_json::Value::Null.into(),
        schedule: String::new(),
        description: None,
        owners: String::new(),
        tags: vec![],
        paused_at_creation: false,
        next: None,
        assets: Vec::new(),
    };
    store.sync_dags(vec![record], at(0)).await.unwrap();
    let new = NewRun {
        dag_id: "d".into(),
        run_id: run_id.into(),
        run_type: RunType::Manual,
        logical_date: at(0),
        data_interval: DataInterval { start: at(0), end: at(1) },
        run_after: at(0),
        queued_at: at(0),
        conf: None,
        fingerprint: "v".into(),
        triggered_by: "test".into(),
        ignores_past: false,
        queue: None,
        advance: None,
        assets: None,
        deadlines: Vec::new(),
    };
    match store.create_runs(vec![new]).await.unwrap().remove(0) {
        CreatedRun::New(row) | CreatedRun::Exists(row) => *row,
        CreatedRun::Taken => panic!("it is not by assets"),
    }
}

fn launch(run: &RunRow, task: &str) -> Unit {
    let mut unit = Unit::new(run, "test", at(5));
    unit.tis.push(TiChange {
        task_id: task.into(),
        map_index: airflow_core::id::MapIndex::UNMAPPED,
        transition: TaskState::None.on(TaskEvent::Launched).unwrap(),
        epoch: 0,
        data: TiData::default(),
    });
    unit.slots.push(SlotChange { key: SlotKey::Dag("d".into()), delta: 1, limit: Some(1_000) });
    unit
}

#[tokio::test]
async fn a_path_that_cannot_be_written_is_refused_with_its_cure() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "x").unwrap();
    for (path, cure) in [
        (dir.path().join("missing/a.db"), "does not exist; create it"),
        (dir.path().to_owned(), "it is a directory; name a file in it"),
        (plain.join("a.db"), "is not a directory"),
        ("sqlite::memory:".into(), "a file is needed"),
    ] {
        let text = path.to_str().unwrap();
        match SqliteStore::open(text).await {
            Err(StoreError::Unreachable { place, why }) => {
                assert!(text.contains(&place) && why.contains(cure), "{place}: {why}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    // A file that is no database is not overwritten.
    std::fs::write(
        &plain,
        "this is a text and no database, and it is longer than the head of one ".repeat(20),
    )
    .unwrap();
    assert!(SqliteStore::open(plain.to_str().unwrap()).await.is_err());
    assert!(std::fs::read_to_string(&plain).unwrap().starts_with("this is a text"));
}

#[tokio::test]
async fn every_call_before_the_migration_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&format!("sqlite://{}", file(&dir))).await.unwrap();
    let status = store.check().await.unwrap();
    assert_eq!(status.version, 0);
    let says_so = |error: Option<StoreError>| {
        let Some(StoreError::NotMigrated { found: 0, needed }) = error else { panic!("{error:?}") };
        assert_eq!(needed, status.needed);
    };
    says_so(store.dags().await.err());
    says_so(store.commit(vec![]).await.err());
    says_so(store.set_paused(&"d".into(), true).await.err());
    says_so(store.change_token().await.err());
    let migrated = store.migrate().await.unwrap();
    assert_eq!((migrated.from, migrated.to), (0, status.needed));
    assert_eq!(store.dags().await.unwrap(), []);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir).await);
    let mut conn = raw(&dir).await;
    sqlx::query("INSERT INTO airflow_schema (version, at) VALUES (1000, 0)")
        .execute(&mut conn)
        .await
        .unwrap();
    let store = SqliteStore::open(&file(&dir)).await.unwrap();
    for error in [store.dags().await.err(), store.migrate().await.err()] {
        assert!(matches!(error, Some(StoreError::Newer { found: 1000, .. })), "{error:?}");
    }
}

/// Goal: an older program goes on beside a newer one that has only added something, and is refused once that has taken
/// something away. Method: do what the migration of a newer program does.
#[tokio::test]
async fn a_newer_schema_is_used_as_long_as_it_serves() {
    let dir = tempfile::tempdir().unwrap();
    let before = open(&dir).await;
    let status = before.check().await.unwrap();
    assert_eq!((status.version, status.serves), (status.needed, status.needed));
    let mut newer = raw(&dir).await;
    let expand = format!(
        "ALTER TABLE af_run ADD COLUMN later TEXT DEFAULT 'x'; CREATE TABLE af_later (x);
         INSERT INTO airflow_schema (version, at, serves) VALUES ({}, 0, {})",
        status.needed + 1,
        status.needed
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(expand)).execute(&mut newer).await.unwrap();
    let beside = SqliteStore::open(&file(&dir)).await.unwrap();
    for store in [&before, &beside] {
        let migrated = store.migrate().await.unwrap();
        assert_eq!((migrated.from, migrated.to), (status.needed + 1, status.needed + 1), "it is left alone");
    }
    let row = run(&beside, "r").await;
    assert_eq!(before.runs(&RunFilter::default()).await.unwrap(), [row]);
    let contract = "UPDATE airflow_schema SET serves = version";
    sqlx::raw_sql(contract).execute(&mut newer).await.unwrap();
    let late = SqliteStore::open(&file(&dir)).await.unwrap();
    for error in [late.dags().await.err(), late.migrate().await.err()] {
        assert!(matches!(error, Some(StoreError::Newer { .. })), "{error:?}");
    }
}

/// Goal: two migrators at once do no harm, and tables of the host stay. Method: eight of them on one new file.
#[tokio::test(flavor = "multi_thread")]
async fn migrators_wait_for_each_other_and_leave_the_tables_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let mut host = SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", file(&dir))).await.unwrap();
    sqlx::raw_sql("CREATE TABLE _sqlx_migrations (x); CREATE TABLE run (x); INSERT INTO run VALUES (1)")
        .execute(&mut host)
        .await
        .unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let path = file(&dir);
            tokio::spawn(async move { SqliteStore::open(&path).await.unwrap().migrate().await.unwrap() })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        let migrated = task.await.unwrap();
        made += u32::from(migrated.from == 0);
    }
    assert_eq!(made, 1, "one of them made the tables");
    SqliteStore::open(&file(&dir)).await.unwrap().reset().await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM run").fetch_one(&mut host).await.unwrap();
    assert_eq!(kept, 1);
}

/// Undoes the seventh migration and the ones after it.
async fn undo_workers(conn: &mut SqliteConnection) {
    const UNDO: &str =
        "DROP TABLE af_watcher; DROP TABLE af_log_chunk; DROP TABLE af_dead_letter; DROP TABLE af_report; DROP TABLE af_worker;
         DROP TABLE af_carried; DROP TABLE af_setting; ALTER TABLE af_ti DROP COLUMN holds; ALTER TABLE af_run DROP COLUMN queue;
         ALTER TABLE airflow_schema DROP COLUMN serves;";
    sqlx::raw_sql(UNDO).execute(conn).await.unwrap();
}

/// Goal: a database of version 3 keeps its variables, readable. Method: undo the fourth migration by hand.
#[tokio::test]
async fn variables_of_an_older_version_are_plain_text_after_the_migration() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir).await;
    let mut old = raw(&dir).await;
    undo_workers(&mut old).await;
    sqlx::raw_sql(
        "DROP TABLE af_connection; ALTER TABLE af_variable DROP COLUMN is_encrypted;
         ALTER TABLE af_ti DROP COLUMN wait; DROP TABLE af_deadline; DROP TABLE af_run_asset_event;
         DROP TABLE af_asset_queue; DROP TABLE af_asset_event; DROP TABLE af_asset_ref; DROP TABLE af_asset;
         DELETE FROM airflow_schema WHERE version > 3; INSERT INTO af_variable VALUES ('k', 'v', 'what')",
    )
    .execute(&mut old)
    .await
    .unwrap();
    let store = SqliteStore::open(&file(&dir)).await.unwrap();
    let migrated = store.migrate().await.unwrap();
    assert_eq!(migrated.from, 3);
    let row = store.variable("k").await.unwrap().unwrap();
    assert_eq!(
        (row.value.as_str(), row.description.as_deref(), row.is_encrypted),
        ("v", Some("what"), false)
    );
    assert!(store.connections().await.unwrap().is_empty());
}

/// Goal: an interrupted migration or transaction has not happened. Method: leave one open on a connection that is
/// then dropped, as when its process dies.
#[tokio::test]
async fn what_was_not_committed_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let row = run(&store, "r").await;
    let mut dying = raw(&dir).await;
    sqlx::raw_sql("BEGIN IMMEDIATE; DELETE FROM af_run; CREATE TABLE half (x)")
        .execute(&mut dying)
        .await
        .unwrap();
    drop(dying);
    assert_eq!(store.commit(vec![launch(&row, "a")]).await.unwrap(), [UnitResult::Committed]);
    assert_eq!(store.runs(&RunFilter::default()).await.unwrap().len(), 1);
    drop(store);
    let again = open(&dir).await;
    assert_eq!(again.task_instances(row.pk).await.unwrap().len(), 1, "what was committed is still there");
}

/// Goal: a caller that is cancelled does not leave a transaction open, which would stop everybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_caller_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let row = run(&store, "r").await;
    for number in 0..50_u32 {
        let task = tokio::spawn({
            let (store, unit) = (store.clone(), launch(&row, &format!("t{number}")));
            async move { store.commit(vec![unit.clone(), unit]).await }
        });
        tokio::task::yield_now().await;
        task.abort();
    }
    let other = open(&dir).await;
    assert_eq!(other.commit(vec![launch(&row, "last")]).await.unwrap(), [UnitResult::Committed]);
    assert_eq!(store.commit(vec![launch(&row, "last")]).await.unwrap(), [UnitResult::Stale]);
}

/// Goal: processes wait for each other, and of those that decide on one view one wins. Method: four stores on one
/// file, each with its own connections, all launch the same tasks.
#[tokio::test(flavor = "multi_thread")]
async fn several_writers_wait_for_each_other_and_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(&dir).await;
    let row = run(&first, "r").await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let store = open(&dir).await;
        for number in 0..25 {
            let (store, unit) = (store.clone(), launch(&row, &format!("t{number}")));
            tasks.push(tokio::spawn(async move { store.commit(vec![unit]).await.unwrap().remove(0) }));
        }
    }
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            UnitResult::Committed => won += 1,
            UnitResult::Stale => {}
            UnitResult::Full(key) => panic!("{key} has room"),
        }
    }
    assert_eq!(won, 25);
    assert_eq!(first.task_instances(row.pk).await.unwrap().len(), 25);
    assert_eq!(first.slots().await.unwrap(), [(SlotKey::Dag("d".into()), 25)]);
}

#[tokio::test]
async fn a_writer_gives_up_when_another_process_keeps_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let row = run(&store, "r").await;
    let options = SqliteOptions { busy_timeout: Duration::from_millis(20), ..SqliteOptions::new(file(&dir)) };
    let impatient = SqliteStore::open_with(options).await.unwrap();
    impatient.dags().await.unwrap();
    let mut other = raw(&dir).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let error = impatient.commit(vec![launch(&row, "a")]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Database(why) if why.to_string().contains("locked")), "{error}");
    assert_eq!(
        impatient.runs(&RunFilter::default()).await.unwrap().len(),
        1,
        "readers do not wait for writers"
    );
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(impatient.commit(vec![launch(&row, "a")]).await.unwrap(), [UnitResult::Committed]);
}

/// Goal: callers that wait share a transaction, and each gets its own answer. Method: hold the lock from outside while
/// 200 calls come in; one of them is stale.
#[tokio::test(flavor = "multi_thread")]
async fn callers_that_wait_share_a_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let row = run(&store, "r").await;
    assert_eq!(store.commit(vec![launch(&row, "t7")]).await.unwrap(), [UnitResult::Committed]);
    let before = store.transactions();
    let mut other = raw(&dir).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let (store, unit) = (store.clone(), launch(&row, &format!("t{number}")));
            tokio::spawn(async move { store.commit(vec![unit]).await.unwrap() })
        })
        .collect();
    // All calls are in the queue once the one that is answered last could have been asked.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    for (number, call) in calls.into_iter().enumerate() {
        let expected = if number == 7 { UnitResult::Stale } else { UnitResult::Committed };
        assert_eq!(call.await.unwrap(), [expected], "t{number}");
    }
    let used = store.transactions() - before;
    assert!(used < 20, "200 calls took {used} transactions");
    assert_eq!(store.task_instances(row.pk).await.unwrap().len(), 200);
}

#[tokio::test]
async fn runs_of_unknown_dags_do_not_spoil_the_calls_that_share_their_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let row = run(&store, "r").await;
    let new = |dag: &str, run_id: &str| NewRun {
        dag_id: dag.into(),
        run_id: run_id.into(),
        run_type: RunType::Manual,
        logical_date: at(3),
        data_interval: DataInterval { start: at(3), end: at(4) },
        run_after: at(3),
        queued_at: at(3),
        conf: None,
        fingerprint: "v".into(),
        triggered_by: "test".into(),
        ignores_past: false,
        queue: None,
        advance: None,
        assets: None,
        deadlines: Vec::new(),
    };
    let mut other = raw(&dir).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let held = store.commit(vec![launch(&row, "a")]);
    let (good, bad) = (store.create_runs(vec![new("d", "x")]), store.create_runs(vec![new("nobody", "y")]));
    let release = async {
        tokio::task::yield_now().await;
        sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    };
    let (_, good, bad, ()) = tokio::join!(held, good, bad, release);
    assert!(matches!(good.unwrap().as_slice(), [CreatedRun::New(_)]));
    assert!(matches!(bad, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn the_change_token_tells_of_other_processes_only() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(&dir).await, open(&dir).await);
    let row = run(&one, "r").await;
    let before = one.change_token().await.unwrap();
    one.commit(vec![launch(&row, "a")]).await.unwrap();
    assert_eq!(one.change_token().await.unwrap(), before);
    two.commit(vec![launch(&row, "b")]).await.unwrap();
    let after = one.change_token().await.unwrap();
    assert_ne!(after, before);
    assert_eq!(one.change_token().await.unwrap(), after);
}

#[tokio::test]
async fn durability_is_what_was_asked_for_and_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    for (synchronous, word) in [(Synchronous::Normal, "normal"), (Synchronous::Full, "full")] {
        let options = SqliteOptions { synchronous, ..SqliteOptions::new(file(&dir)) };
        let facts = SqliteStore::open_with(options).await.unwrap().check().await.unwrap().facts;
        let fact = |name: &str| facts.iter().find(|(fact, _)| fact == name).map(|(_, value)| value.clone());
        assert_eq!((fact("synchronous"), fact("journal_mode")), (Some(word.into()), Some("wal".into())));
        assert!(fact("sqlite").is_some());
    }
}

/// Goal: nothing refers to a run that is gone, in any table. Method: ask SQLite after a run and a dag were deleted.
#[tokio::test]
async fn deleting_leaves_no_orphan_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(open(&dir).await);
    let sqlite = open(&dir).await;
    let row = run(&sqlite, "r").await;
    let mut unit = launch(&row, "a");
    unit.tis[0].transition = TaskState::None.on(TaskEvent::MarkedSuccess).unwrap();
    store.commit(vec![unit]).await.unwrap();
    store.delete_dag(&"d".into()).await.unwrap();
    let mut conn = raw(&dir).await;
    for table in [
        "af_dag",
        "af_dag_version",
        "af_run",
        "af_ti",
        "af_event",
        "af_attempt",
        "af_xcom",
        "af_expansion",
        "af_notice",
        "af_asset_ref",
        "af_asset_queue",
        "af_run_asset_event",
        "af_deadline",
    ] {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let left: i64 = sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap();
        assert_eq!(left, 0, "{table}");
    }
    let bad = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut conn).await.unwrap();
    assert!(bad.is_empty());
}

/// Goal: a database of an earlier version comes to the current one with everything in it. Method: its tables as they
/// were, with a task instance in them.
#[tokio::test]
async fn an_old_database_keeps_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let row = run(&store, "r").await;
    let mut unit = Unit::new(&row, "me", row.queued_at);
    let transition = TaskState::None.on(TaskEvent::Launched).unwrap();
    let data = TiData { try_number: 3, reason: Some("why".into()), ..TiData::default() };
    let (task_id, map_index) = ("t".into(), MapIndex::UNMAPPED);
    unit.tis = vec![TiChange { task_id, map_index, transition, epoch: 0, data }];
    store.commit(vec![unit]).await.unwrap();
    let before = store.task_instances(row.pk).await.unwrap();
    drop(store);
    let mut conn = raw(&dir).await;
    undo_workers(&mut conn).await;
    let back = "ALTER TABLE af_ti DROP COLUMN wait; DELETE FROM airflow_schema WHERE version >= 5;
        DROP TABLE af_deadline; DROP TABLE af_run_asset_event; DROP TABLE af_asset_queue; DROP TABLE af_asset_event;
        DROP TABLE af_asset_ref; DROP TABLE af_asset";
    sqlx::raw_sql(back).execute(&mut conn).await.unwrap();
    let store = SqliteStore::open(&file(&dir)).await.unwrap();
    assert!(matches!(store.dags().await, Err(StoreError::NotMigrated { found: 4, .. })));
    assert_eq!(store.migrate().await.unwrap().from, 4);
    assert_eq!(store.task_instances(row.pk).await.unwrap(), before);
}
