//! The tables, and how they come into a database.
//!
//! Our own list of migrations with our own table of versions: the host may keep its tables, and its own migrations, in
//! the same file. A migration is one transaction, so one that is interrupted has not happened; a second migrator waits
//! for the first and then finds nothing to do. Migrations are only ever added.

use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use crate::store::points::reach_point;
use crate::store::rules;
use crate::store::{Migrated, SchemaStatus, StoreResult};

use crate::store::sql::errors::{corrupt, failed};
use crate::store::sql::{Conn, admin};

/// The migrations, the first one leads to version 1.
const MIGRATIONS: [&str; 13] = [V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12, V13];

/// The version that this library needs.
pub(super) const NEEDED: u32 = 13;

/// The oldest version that a program may need to work with these tables. A migration that only adds leaves this as it
/// is; one that takes something away makes it the version since which no program uses that.
const SERVES: u32 = 13;

/// The statements that lead from one version to the next, for tests that begin with an old one.
#[cfg(feature = "testing")]
pub fn sqlite_migrations() -> &'static [&'static str] {
    &MIGRATIONS
}

const CREATE_VERSIONS: &str =
    "CREATE TABLE IF NOT EXISTS airflow_schema (version INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT";

/// Times are microseconds since 1970 (UTC), states are words, ids of attempts and processes are 16 bytes.
const V1: &str = "
CREATE TABLE af_dag (
    dag_id TEXT NOT NULL PRIMARY KEY, is_paused INTEGER NOT NULL, fingerprint TEXT NOT NULL,
    version INTEGER NOT NULL, schedule TEXT NOT NULL, description TEXT, owners TEXT NOT NULL, tags TEXT NOT NULL,
    last_start INTEGER, last_end INTEGER, next_start INTEGER, next_end INTEGER, next_after INTEGER,
    last_seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE af_dag_version (
    dag_id TEXT NOT NULL REFERENCES af_dag ON DELETE CASCADE, number INTEGER NOT NULL, fingerprint TEXT NOT NULL,
    structure TEXT NOT NULL, created_at INTEGER NOT NULL,
    PRIMARY KEY (dag_id, number), UNIQUE (dag_id, fingerprint)
) STRICT;
CREATE TABLE af_run (
    pk INTEGER PRIMARY KEY AUTOINCREMENT,
    dag_id TEXT NOT NULL REFERENCES af_dag ON DELETE CASCADE, run_id TEXT NOT NULL, run_type TEXT NOT NULL,
    state TEXT NOT NULL, logical_date INTEGER NOT NULL, interval_start INTEGER NOT NULL,
    interval_end INTEGER NOT NULL, run_after INTEGER NOT NULL, queued_at INTEGER NOT NULL, started_at INTEGER,
    ended_at INTEGER, conf TEXT, fingerprint TEXT NOT NULL, generation INTEGER NOT NULL, triggered_by TEXT NOT NULL,
    ignores_past INTEGER NOT NULL, reason TEXT,
    UNIQUE (dag_id, run_id)
) STRICT;
CREATE UNIQUE INDEX af_run_once ON af_run (dag_id, logical_date) WHERE run_type <> 'manual';
CREATE INDEX af_run_of_dag ON af_run (dag_id, logical_date);
CREATE INDEX af_run_by_date ON af_run (logical_date);
CREATE INDEX af_run_active ON af_run (logical_date) WHERE state IN ('queued', 'running');
CREATE TABLE af_ti (
    run INTEGER NOT NULL REFERENCES af_run ON DELETE CASCADE, task_id TEXT NOT NULL, map_index INTEGER NOT NULL,
    state TEXT NOT NULL, epoch INTEGER NOT NULL, try_number INTEGER NOT NULL, max_tries INTEGER NOT NULL,
    lost INTEGER NOT NULL, attempt_id BLOB, next_try_at INTEGER, started_at INTEGER, ended_at INTEGER,
    has_result INTEGER NOT NULL, map_length INTEGER, reason TEXT,
    PRIMARY KEY (run, task_id, map_index)
) STRICT, WITHOUT ROWID;
CREATE TABLE af_event (
    run INTEGER NOT NULL REFERENCES af_run ON DELETE CASCADE, task_id TEXT NOT NULL, map_index INTEGER NOT NULL,
    epoch INTEGER NOT NULL, from_state TEXT NOT NULL, to_state TEXT NOT NULL, event TEXT NOT NULL,
    actor TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (run, task_id, map_index, epoch)
) STRICT, WITHOUT ROWID;
CREATE TABLE af_attempt (
    run INTEGER NOT NULL REFERENCES af_run ON DELETE CASCADE, task_id TEXT NOT NULL, map_index INTEGER NOT NULL,
    number INTEGER NOT NULL, attempt_id BLOB NOT NULL UNIQUE, try_number INTEGER NOT NULL,
    start_state TEXT NOT NULL, state TEXT NOT NULL, incarnation BLOB, queue TEXT NOT NULL, at INTEGER NOT NULL,
    ended_at INTEGER, error TEXT, rendered TEXT,
    PRIMARY KEY (run, task_id, map_index, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX af_attempt_open ON af_attempt (incarnation) WHERE ended_at IS NULL;
CREATE TABLE af_xcom (
    run INTEGER NOT NULL REFERENCES af_run ON DELETE CASCADE, task_id TEXT NOT NULL, map_index INTEGER NOT NULL,
    key TEXT NOT NULL, at INTEGER NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (run, task_id, map_index, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX af_xcom_skips ON af_xcom (run) WHERE key = 'skipmixin_key';
CREATE TABLE af_expansion (
    run INTEGER NOT NULL REFERENCES af_run ON DELETE CASCADE, owner TEXT NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (run, owner)
) STRICT, WITHOUT ROWID;
CREATE TABLE af_slot (
    kind INTEGER NOT NULL, name TEXT NOT NULL, task_id TEXT NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (kind, name, task_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE af_pool (
    name TEXT NOT NULL PRIMARY KEY, slots INTEGER NOT NULL, description TEXT NOT NULL,
    include_deferred INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE af_variable (
    key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL, description TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE af_incarnation (
    id BLOB NOT NULL PRIMARY KEY, kind TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,
    birth TEXT NOT NULL, started_at INTEGER NOT NULL, lease_until INTEGER NOT NULL, beats INTEGER NOT NULL,
    last_beat INTEGER NOT NULL, ended_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE af_audit (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, actor TEXT NOT NULL, event TEXT NOT NULL, dag_id TEXT,
    run_id TEXT, task_id TEXT, map_index INTEGER, extra TEXT
) STRICT;
CREATE INDEX af_audit_at ON af_audit (at)";

/// What callbacks are to be told.
const V2: &str = "
CREATE TABLE af_notice (
    run INTEGER NOT NULL REFERENCES af_run ON DELETE CASCADE, task_id TEXT NOT NULL, map_index INTEGER NOT NULL,
    epoch INTEGER NOT NULL, event TEXT NOT NULL, try_number INTEGER NOT NULL, reason TEXT, at INTEGER NOT NULL,
    owner BLOB NOT NULL,
    PRIMARY KEY (run, task_id, map_index, epoch)
) STRICT, WITHOUT ROWID";

/// Leases in the database's own time, and which process decides about a run.
const V3: &str = "
ALTER TABLE af_incarnation ADD COLUMN lease INTEGER NOT NULL DEFAULT 20000000;
CREATE TABLE af_run_owner (
    run INTEGER PRIMARY KEY REFERENCES af_run ON DELETE CASCADE, incarnation BLOB NOT NULL
) STRICT";

/// Connections, and values of variables that are encrypted.
const V4: &str = "
ALTER TABLE af_variable ADD COLUMN is_encrypted INTEGER NOT NULL DEFAULT 0;
CREATE TABLE af_connection (
    conn_id TEXT NOT NULL PRIMARY KEY, conn_type TEXT, description TEXT, host TEXT, login TEXT, password TEXT,
    schema_name TEXT, port INTEGER, extra TEXT, is_encrypted INTEGER NOT NULL, is_extra_encrypted INTEGER NOT NULL
) STRICT, WITHOUT ROWID";

/// What task instances wait for, as JSON.
const V5: &str = "ALTER TABLE af_ti ADD COLUMN wait TEXT";

/// Assets, their events, what waits for dags and what made their runs; deadlines. Only runs by time are told apart by
/// their date.
const V6: &str = "
DROP INDEX af_run_once;
CREATE UNIQUE INDEX af_run_once ON af_run (dag_id, logical_date) WHERE run_type IN ('backfill', 'scheduled');
CREATE TABLE af_asset (
    asset_key TEXT NOT NULL PRIMARY KEY, is_alias INTEGER NOT NULL, name TEXT NOT NULL, uri TEXT NOT NULL,
    group_name TEXT NOT NULL, extra TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE af_asset_ref (
    asset_key TEXT NOT NULL, role TEXT NOT NULL, dag_id TEXT NOT NULL REFERENCES af_dag ON DELETE CASCADE,
    task_id TEXT NOT NULL, PRIMARY KEY (asset_key, role, dag_id, task_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX af_asset_ref_of_dag ON af_asset_ref (dag_id);
CREATE TABLE af_asset_event (
    event_id TEXT NOT NULL PRIMARY KEY, asset_key TEXT NOT NULL, at INTEGER NOT NULL, extra TEXT NOT NULL,
    aliases TEXT NOT NULL, from_dag TEXT NOT NULL, from_run TEXT NOT NULL, from_task TEXT NOT NULL,
    from_index INTEGER NOT NULL, from_start INTEGER, from_end INTEGER
) STRICT;
CREATE INDEX af_asset_event_of ON af_asset_event (asset_key, at);
CREATE INDEX af_asset_event_at ON af_asset_event (at);
CREATE INDEX af_asset_event_from ON af_asset_event (from_dag, from_run);
CREATE TABLE af_asset_queue (
    dag_id TEXT NOT NULL REFERENCES af_dag ON DELETE CASCADE,
    event_id TEXT NOT NULL REFERENCES af_asset_event ON DELETE CASCADE, asset_key TEXT NOT NULL,
    counts INTEGER NOT NULL, PRIMARY KEY (dag_id, event_id, asset_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX af_asset_queue_of ON af_asset_queue (event_id);
CREATE TABLE af_run_asset_event (
    run INTEGER NOT NULL REFERENCES af_run ON DELETE CASCADE,
    event_id TEXT NOT NULL REFERENCES af_asset_event ON DELETE CASCADE, PRIMARY KEY (run, event_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX af_run_asset_event_of ON af_run_asset_event (event_id);
CREATE TABLE af_deadline (
    run INTEGER NOT NULL REFERENCES af_run ON DELETE CASCADE, name TEXT NOT NULL, due_at INTEGER NOT NULL,
    PRIMARY KEY (run, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX af_deadline_due ON af_deadline (due_at)";

/// Attempts that run in other processes, and the workers that run them.
const V7: &str = "
CREATE TABLE af_report (
    attempt_id BLOB NOT NULL PRIMARY KEY REFERENCES af_attempt (attempt_id) ON DELETE CASCADE,
    run INTEGER NOT NULL, task_id TEXT NOT NULL, map_index INTEGER NOT NULL, at INTEGER NOT NULL, body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX af_report_of_run ON af_report (run);
CREATE TABLE af_worker (
    name TEXT NOT NULL PRIMARY KEY, incarnation BLOB NOT NULL, info TEXT NOT NULL, at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE af_carried (
    incarnation BLOB NOT NULL REFERENCES af_incarnation ON DELETE CASCADE, dag_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL, PRIMARY KEY (incarnation, dag_id, fingerprint)
) STRICT, WITHOUT ROWID;
CREATE INDEX af_carried_of_dag ON af_carried (dag_id);
CREATE TABLE af_setting (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID";

/// Deadlines that were missed are kept.
const V8: &str = "
ALTER TABLE af_deadline ADD COLUMN missed_at INTEGER;
DROP INDEX af_deadline_due;
CREATE INDEX af_deadline_due ON af_deadline (missed_at, due_at)";

/// What task instances have taken of limits, as JSON.
const V9: &str = "ALTER TABLE af_ti ADD COLUMN holds TEXT";

/// The logs of attempts, and messages of brokers that were set aside.
const V10: &str = "
CREATE TABLE af_log_chunk (
    attempt_id BLOB NOT NULL REFERENCES af_attempt (attempt_id) ON DELETE CASCADE, chunk INTEGER NOT NULL,
    at INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (attempt_id, chunk)
) STRICT;
CREATE INDEX af_log_chunk_at ON af_log_chunk (at);
CREATE TABLE af_dead_letter (
    id TEXT NOT NULL PRIMARY KEY, at INTEGER NOT NULL, queue TEXT NOT NULL, reason TEXT NOT NULL,
    error TEXT NOT NULL, key_id TEXT, size INTEGER NOT NULL, head TEXT NOT NULL, set_by TEXT NOT NULL
) STRICT";

/// Watchers of assets, who runs them, and how far they have come.
const V11: &str = "
CREATE TABLE af_watcher (
    asset_key TEXT NOT NULL, name TEXT NOT NULL, incarnation BLOB, reached TEXT, events INTEGER NOT NULL,
    last_event INTEGER, failures INTEGER NOT NULL, error TEXT, failed_at INTEGER, updated_at INTEGER NOT NULL,
    PRIMARY KEY (asset_key, name)
) STRICT, WITHOUT ROWID";

/// The queue of a run, if it has one of its own.
const V12: &str = "ALTER TABLE af_run ADD COLUMN queue TEXT";

/// Whom the tables serve: the oldest version that a program may need.
const V13: &str = "ALTER TABLE airflow_schema ADD COLUMN serves INTEGER";

/// All tables, those that refer to others first.
const TABLES: [&str; 30] = [
    "af_watcher",
    "af_log_chunk",
    "af_dead_letter",
    "af_deadline",
    "af_run_asset_event",
    "af_asset_queue",
    "af_asset_event",
    "af_asset_ref",
    "af_asset",
    "af_report",
    "af_worker",
    "af_carried",
    "af_setting",
    "af_notice",
    "af_audit",
    "af_incarnation",
    "af_variable",
    "af_connection",
    "af_pool",
    "af_slot",
    "af_expansion",
    "af_xcom",
    "af_attempt",
    "af_event",
    "af_ti",
    "af_run_owner",
    "af_run",
    "af_dag_version",
    "af_dag",
    "airflow_schema",
];

/// The version of the tables in the database; 0 if there are none.
pub(super) async fn version(conn: &mut SqliteConnection) -> StoreResult<u32> {
    const EXISTS: &str =
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'airflow_schema'";
    const VERSION: &str = "SELECT coalesce(max(version), 0) FROM airflow_schema";
    let tables: u32 = sqlx::query_scalar(EXISTS).fetch_one(&mut *conn).await.map_err(failed)?;
    if tables == 0 {
        return Ok(0);
    }
    sqlx::query_scalar(VERSION).fetch_one(conn).await.map_err(failed)
}

/// The version of the tables, and the oldest one that a program may need to work with them.
async fn found(conn: &mut SqliteConnection) -> StoreResult<SchemaStatus> {
    const SERVES: &str = "SELECT serves FROM airflow_schema ORDER BY version DESC LIMIT 1";
    let version = version(conn).await?;
    // Only what is newer than this program is asked, and has the column.
    let said: Option<u32> = match version {
        0..=NEEDED => Some(version),
        _ => sqlx::query_scalar(SERVES).fetch_one(conn).await.map_err(failed)?,
    };
    Ok(SchemaStatus { version, needed: NEEDED, serves: said.unwrap_or(version), facts: Vec::new() })
}

/// Refuses tables that do not fit; gives the connection what it needs to work with those that do.
pub(super) async fn ensure(conn: &mut SqliteConnection) -> StoreResult<()> {
    found(conn).await?.fits()?;
    super::commit::prepare(conn).await
}

/// The version of the tables, and facts about the database for people.
pub(super) async fn status(conn: &mut SqliteConnection) -> StoreResult<SchemaStatus> {
    Ok(SchemaStatus { facts: facts(conn).await?, ..found(conn).await? })
}

/// A number that changes when another connection has written. Those of this process that only read do not.
pub(super) async fn data_version(conn: &mut SqliteConnection) -> StoreResult<u64> {
    const TOKEN: &str = "PRAGMA data_version";
    let token: i64 = sqlx::query_scalar(TOKEN).fetch_one(conn).await.map_err(failed)?;
    u64::try_from(token).map_err(corrupt)
}

/// Brings the tables to the version that is needed. Runs in a transaction of the caller.
pub(super) async fn migrate(conn: &mut SqliteConnection) -> StoreResult<Migrated> {
    const DONE: &str = "INSERT INTO airflow_schema (version, at) VALUES (?1, unixepoch('subsec') * 1000000)";
    const SERVE: &str = "UPDATE airflow_schema SET serves = ?1 WHERE version = ?2";
    let found = found(conn).await?;
    let from = found.version;
    if from >= NEEDED {
        found.fits()?;
        reach_point!("migrate.done");
        return Ok(Migrated { from, to: from });
    }
    sqlx::query(CREATE_VERSIONS).execute(&mut *conn).await.map_err(failed)?;
    for (step, sql) in (1u32..).zip(MIGRATIONS).skip(from as usize) {
        reach_point!("migrate.step");
        sqlx::raw_sql(sql).execute(&mut *conn).await.map_err(failed)?;
        sqlx::query(DONE).bind(step).execute(&mut *conn).await.map_err(failed)?;
    }
    sqlx::query(SERVE).bind(SERVES).bind(NEEDED).execute(&mut *conn).await.map_err(failed)?;
    if from == 0 {
        admin::set_pool(&mut Conn::sqlite(conn), &rules::default_pool()).await?;
    }
    reach_point!("migrate.done");
    Ok(Migrated { from, to: NEEDED })
}

/// Drops all tables of ours and makes them again. Runs in a transaction of the caller.
pub(super) async fn reset(conn: &mut SqliteConnection) -> StoreResult<()> {
    for table in TABLES {
        // Only names of the list above go into the text.
        let sql = AssertSqlSafe(format!("DROP TABLE IF EXISTS {table}"));
        sqlx::query(sql).persistent(false).execute(&mut *conn).await.map_err(failed)?;
    }
    migrate(conn).await.map(|_| ())
}

async fn facts(conn: &mut SqliteConnection) -> StoreResult<Vec<(String, String)>> {
    const FACTS: &str = "
        SELECT 'sqlite' AS fact, sqlite_version() AS value
        UNION ALL SELECT 'journal_mode', journal_mode FROM pragma_journal_mode
        UNION ALL SELECT 'synchronous', CASE synchronous WHEN 2 THEN 'full' WHEN 1 THEN 'normal' ELSE 'off' END
            FROM pragma_synchronous
        UNION ALL SELECT 'page_count', CAST(page_count AS TEXT) FROM pragma_page_count";
    let rows = sqlx::query(FACTS).fetch_all(conn).await.map_err(failed)?;
    let fact = |row: &sqlx::sqlite::SqliteRow| Ok((row.try_get("fact")?, row.try_get("value")?));
    rows.iter().map(fact).collect::<Result<_, sqlx::Error>>().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;

    /// Goal: nobody edits a version that may be in somebody's database. If this fails, add a version instead.
    #[test]
    fn versions_do_not_change() {
        let mut hash = Hash::default();
        MIGRATIONS.iter().for_each(|version| hash.add(version));
        assert_eq!(hash.hex(16), "23a4428dac23ec92");
    }
}
