//! What the tests on servers share.

use std::sync::Arc;

use airflow_core::id::MapIndex;
use airflow_core::state::{RunType, TaskEvent, TaskState};
use airflow_core::store::{
    CreatedRun, DagRecord, MysqlOptions, MysqlStore, NewRun, PoolSettings, PostgresOptions, PostgresStore,
    RunRow, SharedStore, SlotChange, SlotKey, StoreResult, TiChange, TiData, Unit, UnknownCommits,
};
use airflow_core::testing::servers::{Server, TestDatabase};
use airflow_core::timetable::DataInterval;
use chrono::{DateTime, TimeDelta, Utc};

/// Both servers: most of what is promised, both promise.
pub(crate) const BOTH: [Server; 2] = [Server::Postgres, Server::Mysql];

/// A store of either kind.
#[derive(Debug, Clone)]
pub(crate) enum Opened {
    Postgres(PostgresStore),
    Mysql(MysqlStore),
}

impl Opened {
    pub(crate) async fn at(server: Server, url: &str) -> StoreResult<Self> {
        Ok(match server {
            Server::Postgres => Self::Postgres(PostgresStore::connect(url).await?),
            Server::Mysql => Self::Mysql(MysqlStore::connect(url).await?),
        })
    }

    /// With connections that are kept otherwise.
    pub(crate) async fn with(server: Server, url: &str, change: impl FnOnce(&mut PoolSettings)) -> Self {
        match server {
            Server::Postgres => {
                let options = PostgresOptions::new(url).unwrap().pool(change);
                Self::Postgres(PostgresStore::connect_with(options).await.unwrap())
            }
            Server::Mysql => {
                let options = MysqlOptions::new(url).unwrap().pool(change);
                Self::Mysql(MysqlStore::connect_with(options).await.unwrap())
            }
        }
    }

    pub(crate) fn shared(&self) -> SharedStore {
        match self {
            Self::Postgres(store) => Arc::new(store.clone()),
            Self::Mysql(store) => Arc::new(store.clone()),
        }
    }

    /// From now on it is a program that needs so many versions more, which only tests have.
    pub(crate) fn need(&self, versions: u32) {
        match self {
            Self::Postgres(store) => store.need_versions_of_tests(versions),
            Self::Mysql(store) => store.need_versions_of_tests(versions),
        }
    }

    pub(crate) fn unknown(&self) -> UnknownCommits {
        match self {
            Self::Postgres(store) => store.unknown_commits(),
            Self::Mysql(store) => store.unknown_commits(),
        }
    }
}

/// A store in an empty database of its own; nothing if there is no such server.
pub(crate) async fn store(server: Server) -> Option<(TestDatabase, Opened)> {
    let database = TestDatabase::on(server).await?;
    let store = Opened::at(server, &database.url()).await.unwrap();
    Some((database, store))
}

pub(crate) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

pub(crate) fn record(dag: &str) -> DagRecord {
    DagRecord {
        dag_id: dag.into(),
        fingerprint: "v".into(),
        structure: serde_json::Value::Null.into(),
        schedule: String::new(),
        description: None,
        owners: String::new(),
        tags: vec![],
        paused_at_creation: false,
        next: None,
        assets: Vec::new(),
    }
}

pub(crate) fn new_run(dag: &str, run_id: &str) -> NewRun {
    NewRun {
        dag_id: dag.into(),
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
    }
}

/// Makes the dag `d` known, with one run.
pub(crate) async fn run(store: &SharedStore, run_id: &str) -> RunRow {
    store.migrate().await.unwrap();
    store.sync_dags(vec![record("d")], at(0)).await.unwrap();
    match store.create_runs(vec![new_run("d", run_id)]).await.unwrap().remove(0) {
        CreatedRun::New(row) | CreatedRun::Exists(row) => *row,
        CreatedRun::Taken => panic!("it is not by assets"),
    }
}

/// Launches a task that has not run yet, by `actor`; it takes one of so many slots of the dag.
pub(crate) fn launch(run: &RunRow, task: &str, actor: &str, slots: i64) -> Unit {
    let mut unit = Unit::new(run, actor, at(5));
    unit.tis.push(TiChange {
        task_id: task.into(),
        map_index: MapIndex::UNMAPPED,
        transition: TaskState::None.on(TaskEvent::Launched).unwrap(),
        epoch: 0,
        data: TiData::default(),
    });
    unit.slots.push(SlotChange { key: SlotKey::Dag("d".into()), delta: 1, limit: Some(slots) });
    unit.slots.push(SlotChange { key: SlotKey::Pool("default_pool".into()), delta: 1, limit: None });
    unit
}
