//! The doctor: sound databases are found sound, also while work goes on, and what is broken on purpose is found.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use airflow::app::{Checkup, ClearOptions, Mark, Selection, Severity, doctor};
use airflow::prelude::*;
use airflow::store::{MysqlStore, PostgresStore, SharedStore, SqliteStore};
use airflow::testing::servers::{Server, TestDatabase};
use airflow::time::{SimClock, SystemClock};
use sqlx::{AssertSqlSafe, Connection as _};

#[task]
async fn orders() -> Result<Vec<i64>> {
    Ok((1..=5).collect())
}

#[task]
async fn price(order: i64) -> Result<i64> {
    Ok(order * 100)
}

#[task]
async fn total(prices: Vec<i64>) -> Result<i64> {
    Ok(prices.iter().sum())
}

#[task(retries = 1, retry_delay = "0s")]
async fn flaky(cx: &TaskContext) -> Result<()> {
    if cx.ti().try_number == 1 { Err(TaskError::retry(secs(0), "not yet")) } else { Ok(()) }
}

#[task]
async fn fails() -> Result<()> {
    Err(TaskError::fail("closed"))
}

#[task]
async fn waits(cx: &TaskContext) -> Result<()> {
    cx.cancelled().await;
    Ok(())
}

async fn told(_: airflow::callback::CallbackContext) {}

#[dag(schedule = "@daily", start_date = "2026-03-01", end_date = "2026-03-03", catchup = true)]
fn shop(d: &Dag) {
    let prices = d.map(d.add(orders::call()), price::call);
    d.add(total::call(prices));
    d.add(flaky::call().on_success(told).max_active_tis_per_dag(4));
    let _ = d.add(fails::call().on_failure(told)) >> d.add(Empty::new().id("after"));
    d.add(WaitSensor::of(secs(0)).id("deferred").mode(SensorMode::Deferred));
}

#[dag]
fn long(d: &Dag) {
    d.add(waits::call());
}

/// A database with a store, and a way past it.
struct Db {
    server: Option<Server>,
    url: String,
    store: SharedStore,
    _folder: Option<tempfile::TempDir>,
    _database: Option<TestDatabase>,
}

impl Db {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("airflow.db").display());
        let store = Arc::new(SqliteStore::open(&url).await.unwrap());
        Self { server: None, url, store, _folder: Some(folder), _database: None }
    }

    async fn on(server: Server) -> Option<Self> {
        let database = TestDatabase::on(server).await?;
        let url = database.url();
        let store: SharedStore = match server {
            Server::Postgres => Arc::new(PostgresStore::connect(&url).await.unwrap()),
            Server::Mysql => Arc::new(MysqlStore::connect(&url).await.unwrap()),
        };
        Some(Self { server: Some(server), url, store, _folder: None, _database: Some(database) })
    }

    /// Runs statements with foreign keys off. `{id}` is an id that nobody has, `{old}` a time long ago.
    async fn break_by(&self, sql: &str) {
        let (id, old) = match self.server {
            None => ("x'00000000000000000000000000000009'", "0"),
            Some(Server::Postgres) => ("'00000000-0000-0000-0000-000000000009'", "'2020-01-01'"),
            Some(Server::Mysql) => ("x'00000000000000000000000000000009'", "'2020-01-01'"),
        };
        let sql = sql.replace("{id}", id).replace("{old}", old);
        let run = |head: &str| AssertSqlSafe(format!("{head}; {sql}"));
        match self.server {
            None => {
                let mut conn = sqlx::SqliteConnection::connect(&self.url).await.unwrap();
                sqlx::raw_sql(run("PRAGMA foreign_keys = off")).execute(&mut conn).await.unwrap();
                conn.close().await.unwrap();
            }
            Some(Server::Postgres) => {
                let mut conn = sqlx::PgConnection::connect(&self.url).await.unwrap();
                let head = "SET search_path = airflow; SET session_replication_role = replica";
                sqlx::raw_sql(run(head)).execute(&mut conn).await.unwrap();
            }
            Some(Server::Mysql) => {
                let mut conn = sqlx::MySqlConnection::connect(&self.url).await.unwrap();
                sqlx::raw_sql(run("SET foreign_key_checks = 0")).execute(&mut conn).await.unwrap();
            }
        }
    }
}

async fn look(db: &Db) -> Checkup {
    doctor(&*db.store, &SystemClock).await.unwrap()
}

/// Nothing but what the settings of a server for tests deserve.
fn assert_sound(db: &Db, checkup: &Checkup) {
    let of_rows: Vec<_> = checkup.findings.iter().filter(|finding| finding.check != "durability").collect();
    assert!(of_rows.is_empty(), "{}: {of_rows:#?}", db.store.kind());
    assert!(checkup.is_sound() && checkup.more.is_empty());
}

/// Real runs of all kinds, looked at all the while.
async fn work(db: &Db) -> Airflow {
    let builder = Airflow::builder().shared_store(Arc::clone(&db.store)).executor(LocalExecutor::new(4));
    let airflow = builder.dag(shop()).dag(long()).build().await.unwrap();
    let running = airflow.start();
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(airflow.trigger("shop").run_id(format!("r{n}")).await.unwrap());
        assert_sound(db, &look(db).await);
    }
    let held = airflow.trigger("long").run_id("held").await.unwrap();
    for run in &ids {
        assert_eq!(airflow.wait(run).await.unwrap().state, RunState::Failed);
        assert_sound(db, &look(db).await);
    }
    // By users: run again, declare, end.
    let select = Selection { tasks: vec!["price".into()], downstream: true, ..Selection::default() };
    let options = ClearOptions { select, ..ClearOptions::default() };
    assert!(!airflow.clear(&ids[0].dag_id, &ids[0].run_id, &options, "ada").await.unwrap().is_empty());
    assert_sound(db, &look(db).await);
    let select = Selection { tasks: vec!["fails".into()], ..Selection::default() };
    airflow.mark(&ids[1].dag_id, &ids[1].run_id, &select, Mark::Success, "ada").await.unwrap();
    assert_sound(db, &look(db).await);
    airflow.wait(&ids[0]).await.unwrap();
    airflow.mark_run(&held.dag_id, &held.run_id, false, "ada").await.unwrap();
    airflow.wait(&held).await.unwrap();
    running.stop(secs(5)).await.unwrap();
    assert_sound(db, &look(db).await);
    airflow
}

/// What to break in the rows of the run `r2`, and which check finds it where.
const BREAKS: [(&str, &str, &str); 17] = [
    ("DELETE FROM af_event WHERE task_id = 'orders' AND epoch = 1", "epochs_contiguous", "task `orders`"),
    (
        "UPDATE af_event SET from_state = 'deferred' WHERE task_id = 'total' AND epoch = 1",
        "events_chained",
        "task `total`",
    ),
    (
        "UPDATE af_event SET event = 'claimed' WHERE task_id = 'flaky' AND epoch = 1",
        "transitions_legal",
        "task `flaky`",
    ),
    (
        "UPDATE af_event SET event = 'danced' WHERE task_id = 'after' AND epoch = 1",
        "transitions_legal",
        "task `after`",
    ),
    (
        "UPDATE af_ti SET state = 'skipped' WHERE task_id = 'deferred'",
        "state_is_last_event",
        "task `deferred`",
    ),
    ("DELETE FROM af_ti WHERE task_id = 'price' AND map_index = 3", "state_is_last_event", "instance 3"),
    (
        "UPDATE af_attempt SET ended_at = NULL, state = 'running' WHERE task_id = 'flaky'",
        "one_open_attempt",
        "task `flaky`",
    ),
    ("UPDATE af_ti SET state = 'running' WHERE task_id = 'total'", "attempts_fit_states", "task `total`"),
    ("UPDATE af_ti SET state = 'up_for_retry' WHERE task_id = 'fails'", "runs_fit_instances", "task `fails`"),
    (
        "UPDATE af_attempt SET ended_at = NULL, state = 'running', incarnation = {id} WHERE task_id = 'orders'",
        "attempts_of_the_living",
        "task `orders`",
    ),
    ("UPDATE af_run SET ended_at = NULL WHERE run_id = 'r0'", "runs_fit_instances", "run `r0`"),
    (
        "INSERT INTO af_notice (run, task_id, map_index, epoch, event, try_number, at, owner)
         SELECT pk, 'fails', -1, 99, 'failure', 1, {old}, {id} FROM af_run WHERE run_id = 'r1'",
        "notices_told",
        "task `fails`",
    ),
    (
        "UPDATE af_run SET state = 'queued', ended_at = NULL WHERE run_id = 'r1';
         DELETE FROM af_run_owner;
         INSERT INTO af_run_owner (run, incarnation) SELECT pk, {id} FROM af_run WHERE run_id = 'r1'",
        "owners_alive",
        "run `r1`",
    ),
    (
        "UPDATE af_attempt SET ended_at = NULL, state = 'queued', incarnation = NULL, queue = 'gpus', at = {old}
         WHERE task_id = 'deferred'",
        "queued_are_sent",
        "task `deferred`",
    ),
    ("UPDATE af_attempt SET queue = 'tpus' WHERE queue = 'gpus'", "stranded", "queue `tpus`"),
    (
        "INSERT INTO af_expansion (run, owner, length) VALUES (987654, 'price', 5)",
        "no_orphan_rows",
        "all rows",
    ),
    (
        "INSERT INTO af_slot (kind, name, task_id, used) VALUES (1, 'gone', '', 2)",
        "no_orphan_rows",
        "dag `gone`",
    ),
];

async fn finds_what_is_broken(db: &Db) {
    work(db).await;
    for (sql, check, place) in BREAKS {
        let found = |checkup: &Checkup| {
            checkup.findings.iter().any(|finding| finding.check == check && finding.place.ends_with(place))
        };
        let before = look(db).await;
        assert!(!found(&before), "{check} at {place} was there before: {before:#?}");
        db.break_by(sql).await;
        let after = look(db).await;
        assert!(found(&after), "{}: {check} at {place} is not found: {after:#?}", db.store.kind());
        assert!(after.findings.iter().all(|finding| !finding.cure.is_empty() && !finding.found.is_empty()));
    }
    assert!(!look(db).await.is_sound());
    breaks_limits(db).await;
    breaks_dates(db).await;
}

async fn breaks_limits(db: &Db) {
    let of = async |check: &str, place: &str| {
        let found = look(db).await.findings.into_iter();
        let found: Vec<_> =
            found.filter(|finding| finding.check == check && finding.place == place).collect();
        found.first().map(|finding| (finding.severity, finding.found.clone()))
    };
    // Some instances were broken into running above.
    let before = of("slots_counted", "pool:default_pool").await.expect("they hold what was not taken");
    assert!(before.1.starts_with("0 are taken"), "{before:?}");
    db.break_by("UPDATE af_slot SET used = 3 WHERE kind = 0").await;
    let (_, found) = of("slots_counted", "pool:default_pool").await.expect("the count is wrong");
    assert!(found.starts_with("3 are taken"), "{found}");
    assert_eq!(of("limits_kept", "pool:default_pool").await, None);
    db.break_by("UPDATE af_pool SET slots = 2 WHERE name = 'default_pool'").await;
    let (severity, found) = of("limits_kept", "pool:default_pool").await.expect("three of two");
    assert_eq!((severity, found.as_str()), (Severity::Warning, "3 are taken, there are 2"));
    let task = airflow::store::SlotKey::Task("shop".into(), "flaky".into()).to_string();
    assert_eq!(of("limits_kept", &task).await, None);
    db.break_by("UPDATE af_slot SET used = 5 WHERE kind = 2 AND task_id = 'flaky'").await;
    let (severity, found) = of("limits_kept", &task).await.expect("five of four");
    assert_eq!((severity, found.as_str()), (Severity::Warning, "5 are taken, there are 4"));
}

async fn breaks_dates(db: &Db) {
    db.break_by(match db.server {
        None => "DROP INDEX af_run_once",
        Some(Server::Postgres) => "DROP INDEX airflow.af_run_once",
        Some(Server::Mysql) => {
            "ALTER TABLE af_run DROP FOREIGN KEY af_run_ibfk_1; ALTER TABLE af_run DROP INDEX af_run_once"
        }
    })
    .await;
    assert!(look(db).await.findings.iter().all(|finding| finding.check != "one_run_per_date"));
    db.break_by(
        "UPDATE af_run SET run_type = 'scheduled', logical_date = {old} WHERE run_id IN ('r0', 'r1')",
    )
    .await;
    let found = look(db).await.findings;
    let found: Vec<_> = found.iter().filter(|finding| finding.check == "one_run_per_date").collect();
    assert!(found.len() == 1 && found[0].place.contains("run `r0`"), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_what_is_broken_in_sqlite() {
    finds_what_is_broken(&Db::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_what_is_broken_in_postgres() {
    if let Some(db) = Db::on(Server::Postgres).await {
        finds_what_is_broken(&db).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_what_is_broken_in_mysql() {
    if let Some(db) = Db::on(Server::Mysql).await {
        finds_what_is_broken(&db).await;
    }
}

/// Goal: settings, versions and clocks. Method: a server that does not wait for its disk, a table of another version, a
/// clock that is an hour behind.
#[tokio::test]
async fn the_doctor_finds_what_is_wrong_around_the_rows() {
    let db = Db::sqlite().await;
    let empty = look(&db).await;
    assert_eq!((empty.findings.len(), empty.findings[0].check, empty.is_sound()), (1, "schema", false));
    assert!(empty.findings[0].cure.contains("db migrate"), "{empty:?}");
    db.store.migrate().await.unwrap();
    assert_sound(&db, &look(&db).await);
    for (seconds, severity) in [(-3600, Severity::Error), (10, Severity::Warning)] {
        let clock = SimClock::new(Utc::now() + chrono::TimeDelta::seconds(seconds));
        let found = doctor(&*db.store, &clock).await.unwrap().findings;
        assert_eq!((found.len(), found[0].check, found[0].severity), (1, "clock", severity), "{found:?}");
    }
    db.break_by("INSERT INTO airflow_schema (version, at) VALUES (99, 0)").await;
    let newer = look(&db).await;
    assert!(newer.findings[0].found.contains("have version 99"), "{newer:?}");

    let Some(db) = Db::on(Server::Postgres).await else { return };
    db.store.migrate().await.unwrap();
    let found = look(&db).await.findings;
    assert!(found.iter().any(|finding| finding.check == "durability"), "tests switch it off: {found:?}");

    let error = doctor(&MemoryStore::new(), &SystemClock).await.unwrap_err();
    assert!(error.to_string().contains("use a database"), "{error}");
}

/// Goal: a watcher that fails is seen, and one of an asset that is not there.
#[tokio::test]
async fn the_doctor_finds_watchers_that_fail() {
    let db = Db::sqlite().await;
    let file = Asset::new("file:///in").watcher("w", FileWatcher::new("/in"));
    let dag = DagDef::new("d").schedule(file).define(|d| {
        d.add(Empty::new().id("a"));
    });
    Airflow::builder().shared_store(Arc::clone(&db.store)).dag(dag).build().await.unwrap();
    assert_sound(&db, &look(&db).await);
    db.break_by("UPDATE af_watcher SET failures = 3, error = 'the queue is away'").await;
    let found = look(&db).await.findings;
    assert_eq!((found.len(), found[0].check, found[0].severity), (1, "watchers_work", Severity::Warning));
    assert_eq!(found[0].place, "watcher `w` of asset `file:///in`");
    assert_eq!(found[0].found, "it has failed 3 times in a row: the queue is away");
    db.break_by("UPDATE af_watcher SET asset_key = 'gone'").await;
    let found = look(&db).await.findings;
    assert_eq!((found.len(), found[0].check), (1, "no_orphan_rows"), "{found:?}");
    assert_eq!(found[0].found, "1 rows of `af_watcher` have no asset");
}

/// Goal: a scheduler that lives makes errors of what else only waits for one. Method: the same rows with and without.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_scheduler_is_an_error_only_beside_one() {
    let db = Db::sqlite().await;
    let builder = Airflow::builder().shared_store(Arc::clone(&db.store)).executor(LocalExecutor::new(4));
    let airflow = builder.dag(long()).build().await.unwrap();
    airflow.set_paused(&"long".into(), true, "ada").await.unwrap();
    airflow.trigger("long").await.unwrap();
    db.break_by("INSERT INTO af_run_owner (run, incarnation) SELECT pk, {id} FROM af_run").await;
    let severity = async || {
        let found = look(&db).await.findings;
        assert_eq!((found.len(), found[0].check), (1, "owners_alive"), "{found:#?}");
        found[0].severity
    };
    assert_eq!(severity().await, Severity::Warning);
    let running = airflow.start();
    let alive = async || db.store.incarnations().await.unwrap().len() == 1;
    while !alive().await {
        tokio::task::yield_now().await;
    }
    assert_eq!(severity().await, Severity::Error);
    running.stop(secs(5)).await.unwrap();
}
