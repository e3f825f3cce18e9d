//! Where a workload keeps everything, and what that place allows: measured in the process that is about to use it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use airflow::prelude::*;
use airflow::store::{PoolSpec, PostgresOptions, SharedStore, SqliteOptions, Synchronous};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::args::Sync;

/// How many single-row commits are timed.
const COMMITS: usize = 1_000;

/// How many rows one statement writes, and how many such statements are timed.
const BATCH: usize = 1_000;
const BATCHES: usize = 20;

/// Times single statements, each a transaction of its own.
macro_rules! timed {
    ($db:expr, $sql:expr, $times:expr) => {{
        let sql: Arc<str> = $sql.into();
        let mut took = Vec::with_capacity($times);
        for _ in 0..$times {
            let start = Instant::now();
            let query = sqlx::query(AssertSqlSafe(Arc::clone(&sql)));
            query.execute($db).await.expect("rows");
            took.push(start.elapsed());
        }
        took
    }};
}

/// A database of one's own, known by name to other processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Place {
    Sqlite { folder: PathBuf, sync: Sync },
    Postgres { url: String, schema: String },
}

/// A store that is open.
pub(crate) enum Opened {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

impl Opened {
    pub(crate) fn shared(&self) -> SharedStore {
        match self {
            Self::Sqlite(store) => Arc::new(store.clone()),
            Self::Postgres(store) => Arc::new(store.clone()),
        }
    }

    /// Transactions that changed states or made runs.
    pub(crate) fn commits(&self) -> u64 {
        match self {
            Self::Sqlite(store) => store.transactions(),
            Self::Postgres(store) => store.transactions(),
        }
    }
}

/// What a store allows.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct StoreLimits {
    /// The median of single-row commits one after the other, in microseconds.
    pub(crate) commit_us: f64,
    /// How many of them there are in a second.
    pub(crate) commits_per_s: f64,
    /// Rows in a second, a thousand in a transaction.
    pub(crate) rows_per_s: f64,
}

impl Place {
    pub(crate) fn new(store: &str, sync: Sync) -> Self {
        let name = format!("airflow_bench_{}", std::process::id());
        if store.starts_with("postgres") {
            return Self::Postgres { url: store.to_owned(), schema: name };
        }
        let parent = store.strip_prefix("sqlite:").map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = parent.join(name);
        std::fs::create_dir_all(&folder).expect("a folder for the database");
        Self::Sqlite { folder, sync }
    }

    pub(crate) async fn open(&self) -> Opened {
        match self {
            Self::Sqlite { folder, sync } => {
                let synchronous = match sync {
                    Sync::Normal => Synchronous::Normal,
                    Sync::Full => Synchronous::Full,
                };
                let options = SqliteOptions { synchronous, ..SqliteOptions::new(folder.join("airflow.db")) };
                Opened::Sqlite(SqliteStore::open_with(options).await.expect("a database"))
            }
            Self::Postgres { url, schema } => {
                let options = PostgresOptions::new(url).expect("an address").schema(schema);
                Opened::Postgres(PostgresStore::connect_with(options).await.expect("a database"))
            }
        }
    }

    /// Makes the tables, and a pool that never is the limit.
    pub(crate) async fn prepare(&self) {
        let store = self.open().await.shared();
        store.migrate().await.expect("tables");
        let pool = PoolSpec {
            name: "default_pool".into(),
            slots: 1_000_000,
            description: String::new(),
            include_deferred: false,
        };
        store.set_pool(pool).await.expect("a pool");
    }

    pub(crate) async fn remove(&self) {
        match self {
            Self::Sqlite { folder, .. } => {
                let _ = std::fs::remove_dir_all(folder);
            }
            Self::Postgres { url, schema } => {
                let mut db = PgConnection::connect(url).await.expect("a database");
                let sql = format!("DROP SCHEMA IF EXISTS {schema} CASCADE");
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut db).await.expect("the schema goes");
            }
        }
    }

    pub(crate) async fn limits(&self) -> StoreLimits {
        match self {
            Self::Sqlite { folder, sync } => {
                let synchronous = match sync {
                    Sync::Normal => SqliteSynchronous::Normal,
                    Sync::Full => SqliteSynchronous::Full,
                };
                let options = SqliteConnectOptions::new()
                    .filename(folder.join("limits.db"))
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(synchronous);
                let mut db = SqliteConnection::connect_with(&options).await.expect("a database");
                let create = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)";
                sqlx::query(create).execute(&mut db).await.expect("a table");
                let commits = timed!(&mut db, "INSERT INTO t (v) VALUES ('x')", COMMITS);
                let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
                            INSERT INTO t (v) SELECT 'x' || i FROM n";
                limits(commits, timed!(&mut db, many, BATCHES))
            }
            Self::Postgres { url, schema } => {
                let mut db = PgConnection::connect(url).await.expect("a database");
                let table = format!("{schema}.limits");
                let create = format!("CREATE TABLE {table} (id BIGSERIAL PRIMARY KEY, v TEXT)");
                sqlx::query(AssertSqlSafe(create)).execute(&mut db).await.expect("a table");
                let commits = timed!(&mut db, format!("INSERT INTO {table} (v) VALUES ('x')"), COMMITS);
                let many =
                    format!("INSERT INTO {table} (v) SELECT 'x' || i FROM generate_series(1, {BATCH}) i");
                limits(commits, timed!(&mut db, many, BATCHES))
            }
        }
    }
}

fn limits(mut commits: Vec<Duration>, batches: Vec<Duration>) -> StoreLimits {
    let all: Duration = commits.iter().sum();
    commits.sort_unstable();
    let rows: Duration = batches.iter().sum();
    StoreLimits {
        commit_us: commits[commits.len() / 2].as_secs_f64() * 1e6,
        commits_per_s: commits.len() as f64 / all.as_secs_f64(),
        rows_per_s: (BATCH * batches.len()) as f64 / rows.as_secs_f64(),
    }
}
