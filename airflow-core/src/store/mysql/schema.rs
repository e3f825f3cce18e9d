//! The tables in MySQL and MariaDB.
//!
//! There a statement that makes a table commits by itself. So each step of a migration is one that does nothing if it was
//! done before, and leaves a mark; a migration that was interrupted goes on after the last mark. A named lock lets one
//! migrator in at a time. Migrations are only ever added.

use crate::store::points::reach_point;
use crate::store::server::{Core, Lease, NEEDED, STEP_DEADLINE, TABLES, Version, at_least, version};
use crate::store::sql::errors::{failed, within};
use crate::store::sql::{Conn, admin, query};
use crate::store::{Migrated, StoreError, StoreResult, rules};

/// The first versions that know all that is needed: `SKIP LOCKED`, `JSON_TABLE`, defaults that are computed.
const OLDEST_MYSQL: &str = "8.0.13";
const OLDEST_MARIADB: &str = "10.6";

/// How long a migrator waits for another one, in seconds.
const LOCK_SECONDS: i64 = 300;

/// The table of the steps that were done.
const STEPS: &str = "airflow_schema_step";

const CREATE_VERSIONS: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS airflow_schema (
        version BIGINT PRIMARY KEY, at DATETIME(6) NOT NULL, serves BIGINT NOT NULL) ENGINE = InnoDB",
    "CREATE TABLE IF NOT EXISTS airflow_schema_step (version BIGINT NOT NULL, step BIGINT NOT NULL,
        PRIMARY KEY (version, step)) ENGINE = InnoDB",
];

/// The migrations, the first one leads to version 1; each a list of steps.
const MIGRATIONS: [Version<Steps>; NEEDED as usize] = [Version { steps: Steps::Tables(&V1), serves: 1 }];

/// Versions that only tests need: one that adds, with what moves rows, and one that takes away.
#[cfg(feature = "testing")]
const OF_TESTS: [Version<Steps>; 2] = [
    Version {
        steps: Steps::Changes(&[
            Change::Column("af_run", "of_tests", "LONGTEXT"),
            Change::Again("UPDATE af_run SET of_tests = run_id"),
            Change::Table(
                "CREATE TABLE IF NOT EXISTS af_of_tests (
                    run BIGINT PRIMARY KEY, FOREIGN KEY (run) REFERENCES af_run (pk) ON DELETE CASCADE",
            ),
            Change::Again("INSERT IGNORE INTO af_of_tests SELECT pk FROM af_run"),
        ]),
        serves: NEEDED,
    },
    Version { steps: Steps::Changes(&[Change::NoColumn("af_run", "of_tests")]), serves: NEEDED + 1 },
];
#[cfg(not(feature = "testing"))]
const OF_TESTS: [Version<Steps>; 0] = [];

/// What leads to a version. Every step may be interrupted after it was done and before its mark was set, and is done
/// again then.
#[derive(Debug, Clone, Copy)]
enum Steps {
    /// New tables, each without its end.
    Tables(&'static [&'static str]),
    /// Changes of what is there.
    #[cfg_attr(not(feature = "testing"), expect(dead_code, reason = "for versions to come; tests have some"))]
    Changes(&'static [Change]),
}

/// A step that changes something.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "testing"), expect(dead_code, reason = "for versions to come; tests have some"))]
enum Change {
    /// A table, without its end.
    Table(&'static str),
    /// A column that is added: table, name, type.
    Column(&'static str, &'static str, &'static str),
    /// A column that is dropped: table and name.
    NoColumn(&'static str, &'static str),
    /// A statement that does no harm if it is done again.
    Again(&'static str),
}

impl Steps {
    fn changes(self) -> Vec<Change> {
        match self {
            Self::Tables(tables) => tables.iter().map(|table| Change::Table(table)).collect(),
            Self::Changes(changes) => changes.to_vec(),
        }
    }
}

impl Change {
    /// Its statement; nothing if it was done before.
    async fn sql(self, conn: &mut Conn<'_>) -> StoreResult<Option<String>> {
        Ok(match self {
            Self::Table(sql) => Some(format!("{sql}{END}")),
            Self::Column(table, column, kind) => {
                let is_there = has_column(conn, table, column).await?;
                (!is_there).then(|| format!("ALTER TABLE {table} ADD COLUMN {column} {kind}"))
            }
            Self::NoColumn(table, column) => {
                let is_there = has_column(conn, table, column).await?;
                is_there.then(|| format!("ALTER TABLE {table} DROP COLUMN {column}"))
            }
            Self::Again(sql) => Some(sql.to_owned()),
        })
    }
}

async fn has_column(conn: &mut Conn<'_>, table: &str, column: &str) -> StoreResult<bool> {
    const EXISTS: &str = "
        SELECT count(*) AS n FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = ?1 AND column_name = ?2";
    Ok(query(EXISTS).bind(table).bind(column).fetch_one(conn).await?.num::<i64>("n")? > 0)
}

/// What stands after the columns of each table: texts are compared byte by byte.
const END: &str = ") ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";

/// Each without its end.
const V1: [&str; 30] = [
    "CREATE TABLE IF NOT EXISTS af_dag (
        dag_id VARCHAR(250) PRIMARY KEY, is_paused BOOLEAN NOT NULL, fingerprint VARCHAR(250) NOT NULL,
        version BIGINT NOT NULL, schedule LONGTEXT NOT NULL, description LONGTEXT, owners LONGTEXT NOT NULL,
        tags LONGTEXT NOT NULL, last_start DATETIME(6), last_end DATETIME(6), next_start DATETIME(6),
        next_end DATETIME(6), next_after DATETIME(6), last_seen DATETIME(6) NOT NULL",
    "CREATE TABLE IF NOT EXISTS af_dag_version (
        dag_id VARCHAR(250) NOT NULL, number BIGINT NOT NULL, fingerprint VARCHAR(250) NOT NULL,
        structure LONGTEXT NOT NULL, created_at DATETIME(6) NOT NULL,
        PRIMARY KEY (dag_id, number), UNIQUE KEY (dag_id, fingerprint),
        FOREIGN KEY (dag_id) REFERENCES af_dag (dag_id) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_run (
        pk BIGINT AUTO_INCREMENT PRIMARY KEY, dag_id VARCHAR(250) NOT NULL, run_id VARCHAR(250) NOT NULL,
        run_type VARCHAR(40) NOT NULL, state VARCHAR(20) NOT NULL, logical_date DATETIME(6) NOT NULL,
        interval_start DATETIME(6) NOT NULL, interval_end DATETIME(6) NOT NULL, run_after DATETIME(6) NOT NULL,
        queued_at DATETIME(6) NOT NULL, started_at DATETIME(6), ended_at DATETIME(6), conf LONGTEXT,
        fingerprint VARCHAR(250) NOT NULL, generation BIGINT NOT NULL, triggered_by LONGTEXT NOT NULL,
        ignores_past BOOLEAN NOT NULL, reason LONGTEXT, queue VARCHAR(250),
        timed DATETIME(6) GENERATED ALWAYS AS (CASE WHEN run_type IN ('backfill', 'scheduled') THEN logical_date END) VIRTUAL,
        UNIQUE KEY (dag_id, run_id), UNIQUE KEY af_run_once (dag_id, timed), KEY af_run_of_dag (dag_id, logical_date),
        KEY af_run_by_date (logical_date), KEY af_run_by_state (state, logical_date),
        FOREIGN KEY (dag_id) REFERENCES af_dag (dag_id) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_ti (
        run BIGINT NOT NULL, task_id VARCHAR(250) NOT NULL, map_index BIGINT NOT NULL, state VARCHAR(20) NOT NULL,
        epoch BIGINT NOT NULL, try_number BIGINT NOT NULL, max_tries BIGINT NOT NULL, lost BIGINT NOT NULL,
        attempt_id BINARY(16), next_try_at DATETIME(6), started_at DATETIME(6), ended_at DATETIME(6),
        has_result BOOLEAN NOT NULL, map_length BIGINT, reason LONGTEXT, wait LONGTEXT,
        holds LONGTEXT,
        PRIMARY KEY (run, task_id, map_index), FOREIGN KEY (run) REFERENCES af_run (pk) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_event (
        run BIGINT NOT NULL, task_id VARCHAR(250) NOT NULL, map_index BIGINT NOT NULL, epoch BIGINT NOT NULL,
        from_state VARCHAR(20) NOT NULL, to_state VARCHAR(20) NOT NULL, event VARCHAR(40) NOT NULL,
        actor LONGTEXT NOT NULL, at DATETIME(6) NOT NULL,
        PRIMARY KEY (run, task_id, map_index, epoch), FOREIGN KEY (run) REFERENCES af_run (pk) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_attempt (
        run BIGINT NOT NULL, task_id VARCHAR(250) NOT NULL, map_index BIGINT NOT NULL, number BIGINT NOT NULL,
        attempt_id BINARY(16) NOT NULL, try_number BIGINT NOT NULL, start_state VARCHAR(20) NOT NULL,
        state VARCHAR(20) NOT NULL, incarnation BINARY(16), queue VARCHAR(250) NOT NULL, at DATETIME(6) NOT NULL,
        ended_at DATETIME(6), error LONGTEXT, rendered LONGTEXT,
        PRIMARY KEY (run, task_id, map_index, number), UNIQUE KEY (attempt_id),
        KEY af_attempt_open (incarnation, ended_at), FOREIGN KEY (run) REFERENCES af_run (pk) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_xcom (
        run BIGINT NOT NULL, task_id VARCHAR(250) NOT NULL, map_index BIGINT NOT NULL, `key` VARCHAR(512) NOT NULL,
        at DATETIME(6) NOT NULL, value LONGTEXT NOT NULL,
        PRIMARY KEY (run, task_id, map_index, `key`), KEY af_xcom_by_key (run, `key`),
        FOREIGN KEY (run) REFERENCES af_run (pk) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_expansion (
        run BIGINT NOT NULL, owner VARCHAR(250) NOT NULL, length BIGINT NOT NULL,
        PRIMARY KEY (run, owner), FOREIGN KEY (run) REFERENCES af_run (pk) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_notice (
        run BIGINT NOT NULL, task_id VARCHAR(250) NOT NULL, map_index BIGINT NOT NULL, epoch BIGINT NOT NULL,
        event VARCHAR(250) NOT NULL, try_number BIGINT NOT NULL, reason LONGTEXT, at DATETIME(6) NOT NULL,
        owner BINARY(16) NOT NULL,
        PRIMARY KEY (run, task_id, map_index, epoch), FOREIGN KEY (run) REFERENCES af_run (pk) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_run_owner (
        run BIGINT PRIMARY KEY, incarnation BINARY(16) NOT NULL,
        FOREIGN KEY (run) REFERENCES af_run (pk) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_slot (
        kind BIGINT NOT NULL, name VARCHAR(250) NOT NULL, task_id VARCHAR(250) NOT NULL, used BIGINT NOT NULL,
        PRIMARY KEY (kind, name, task_id)",
    "CREATE TABLE IF NOT EXISTS af_pool (
        name VARCHAR(250) PRIMARY KEY, slots BIGINT NOT NULL, description LONGTEXT NOT NULL,
        include_deferred BOOLEAN NOT NULL",
    "CREATE TABLE IF NOT EXISTS af_variable (
        `key` VARCHAR(250) PRIMARY KEY, value LONGTEXT NOT NULL, description LONGTEXT, is_encrypted BOOLEAN NOT NULL",
    "CREATE TABLE IF NOT EXISTS af_connection (
        conn_id VARCHAR(250) PRIMARY KEY, conn_type LONGTEXT, description LONGTEXT, host LONGTEXT, login LONGTEXT,
        password LONGTEXT, schema_name LONGTEXT, port BIGINT, extra LONGTEXT, is_encrypted BOOLEAN NOT NULL,
        is_extra_encrypted BOOLEAN NOT NULL",
    "CREATE TABLE IF NOT EXISTS af_incarnation (
        id BINARY(16) PRIMARY KEY, kind LONGTEXT NOT NULL, host LONGTEXT NOT NULL, pid BIGINT NOT NULL,
        birth LONGTEXT NOT NULL, lease BIGINT NOT NULL, started_at DATETIME(6) NOT NULL, lease_until DATETIME(6) NOT NULL,
        beats BIGINT NOT NULL, last_beat DATETIME(6) NOT NULL, ended_at DATETIME(6)",
    "CREATE TABLE IF NOT EXISTS af_report (
        attempt_id BINARY(16) PRIMARY KEY, run BIGINT NOT NULL, task_id VARCHAR(250) NOT NULL,
        map_index BIGINT NOT NULL, at DATETIME(6) NOT NULL, body LONGTEXT NOT NULL, KEY af_report_of_run (run),
        FOREIGN KEY (attempt_id) REFERENCES af_attempt (attempt_id) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_log_chunk (
        attempt_id BINARY(16) NOT NULL, chunk BIGINT NOT NULL, at DATETIME(6) NOT NULL, body LONGTEXT NOT NULL,
        PRIMARY KEY (attempt_id, chunk), KEY af_log_chunk_at (at),
        FOREIGN KEY (attempt_id) REFERENCES af_attempt (attempt_id) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_dead_letter (
        id VARCHAR(250) PRIMARY KEY, at DATETIME(6) NOT NULL, queue LONGTEXT NOT NULL, reason LONGTEXT NOT NULL,
        error LONGTEXT NOT NULL, key_id LONGTEXT, size BIGINT NOT NULL, head LONGTEXT NOT NULL, set_by LONGTEXT NOT NULL",
    "CREATE TABLE IF NOT EXISTS af_worker (
        name VARCHAR(250) PRIMARY KEY, incarnation BINARY(16) NOT NULL, info LONGTEXT NOT NULL,
        at DATETIME(6) NOT NULL",
    "CREATE TABLE IF NOT EXISTS af_carried (
        incarnation BINARY(16) NOT NULL, dag_id VARCHAR(250) NOT NULL, fingerprint VARCHAR(250) NOT NULL,
        PRIMARY KEY (incarnation, dag_id, fingerprint), KEY af_carried_of_dag (dag_id),
        FOREIGN KEY (incarnation) REFERENCES af_incarnation (id) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_setting (name VARCHAR(250) PRIMARY KEY, value LONGTEXT NOT NULL",
    "CREATE TABLE IF NOT EXISTS af_audit (
        id BIGINT AUTO_INCREMENT PRIMARY KEY, at DATETIME(6) NOT NULL, actor LONGTEXT NOT NULL,
        event VARCHAR(250) NOT NULL, dag_id VARCHAR(250), run_id LONGTEXT, task_id LONGTEXT, map_index BIGINT,
        extra LONGTEXT, KEY af_audit_at (at)",
    "CREATE TABLE IF NOT EXISTS af_asset (
        asset_key VARCHAR(40) PRIMARY KEY, is_alias BOOLEAN NOT NULL, name LONGTEXT NOT NULL, uri LONGTEXT NOT NULL,
        group_name LONGTEXT NOT NULL, extra LONGTEXT NOT NULL",
    "CREATE TABLE IF NOT EXISTS af_asset_ref (
        asset_key VARCHAR(40) NOT NULL, role VARCHAR(20) NOT NULL, dag_id VARCHAR(250) NOT NULL,
        task_id VARCHAR(250) NOT NULL, PRIMARY KEY (asset_key, role, dag_id, task_id),
        FOREIGN KEY (dag_id) REFERENCES af_dag (dag_id) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_watcher (
        asset_key VARCHAR(40) NOT NULL, name VARCHAR(250) NOT NULL, incarnation BINARY(16), reached LONGTEXT,
        events BIGINT NOT NULL, last_event DATETIME(6), failures BIGINT NOT NULL, error LONGTEXT, failed_at DATETIME(6),
        updated_at DATETIME(6) NOT NULL, PRIMARY KEY (asset_key, name)",
    "CREATE TABLE IF NOT EXISTS af_asset_event (
        event_id VARCHAR(40) PRIMARY KEY, asset_key VARCHAR(40) NOT NULL, at DATETIME(6) NOT NULL,
        extra LONGTEXT NOT NULL, aliases LONGTEXT NOT NULL, from_dag VARCHAR(250) NOT NULL,
        from_run VARCHAR(250) NOT NULL, from_task VARCHAR(250) NOT NULL, from_index BIGINT NOT NULL,
        from_start DATETIME(6), from_end DATETIME(6), KEY af_asset_event_of (asset_key, at), KEY af_asset_event_at (at),
        KEY af_asset_event_from (from_dag, from_run)",
    "CREATE TABLE IF NOT EXISTS af_asset_queue (
        dag_id VARCHAR(250) NOT NULL, event_id VARCHAR(40) NOT NULL, asset_key VARCHAR(40) NOT NULL,
        counts BOOLEAN NOT NULL, PRIMARY KEY (dag_id, event_id, asset_key),
        FOREIGN KEY (dag_id) REFERENCES af_dag (dag_id) ON DELETE CASCADE,
        FOREIGN KEY (event_id) REFERENCES af_asset_event (event_id) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_run_asset_event (
        run BIGINT NOT NULL, event_id VARCHAR(40) NOT NULL, PRIMARY KEY (run, event_id),
        FOREIGN KEY (run) REFERENCES af_run (pk) ON DELETE CASCADE,
        FOREIGN KEY (event_id) REFERENCES af_asset_event (event_id) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_deadline (
        run BIGINT NOT NULL, name VARCHAR(260) NOT NULL, due_at DATETIME(6) NOT NULL, missed_at DATETIME(6),
        PRIMARY KEY (run, name), KEY af_deadline_due (missed_at, due_at), FOREIGN KEY (run) REFERENCES af_run (pk) ON DELETE CASCADE",
    "CREATE TABLE IF NOT EXISTS af_commit (
        nonce BINARY(16) PRIMARY KEY, fenced BOOLEAN NOT NULL, at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6))",
];

/// Refuses a server that is too old, and a session that cuts what does not fit.
pub(in crate::store) async fn fits(conn: &mut Conn<'_>) -> StoreResult<()> {
    const VERSION: &str =
        "SELECT CAST(version() AS CHAR) AS version, CAST(@@SESSION.sql_mode AS CHAR) AS mode";
    let row = query(VERSION).fetch_one(conn).await?;
    let (version, mode) = (row.str("version")?, row.str("mode")?);
    // MariaDB before version 11 may put `5.5.5-` in front, for old clients.
    let version = version.strip_prefix("5.5.5-").unwrap_or(version);
    if version.contains("MariaDB") {
        at_least("MariaDB", version, OLDEST_MARIADB)?;
    } else {
        at_least("MySQL", version, OLDEST_MYSQL)?;
    }
    if !mode.contains("STRICT_") {
        let why = "the sessions of the pool are not strict, so the server would cut what does not fit; add \
                   `STRICT_ALL_TABLES` to their sql_mode";
        return Err(StoreError::Refused(why.to_owned()));
    }
    Ok(())
}

/// Whether there is a table of versions.
pub(in crate::store) async fn has_versions(conn: &mut Conn<'_>) -> StoreResult<i64> {
    const EXISTS: &str = "
        SELECT count(*) AS n FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?1";
    query(EXISTS).bind(crate::store::server::VERSIONS).fetch_one(conn).await?.num("n")
}

/// Facts for people.
pub(in crate::store) async fn facts(conn: &mut Conn<'_>) -> StoreResult<Vec<(String, String)>> {
    const FACTS: &str = "
        SELECT 'version' AS fact, CAST(version() AS CHAR) AS value
        UNION ALL SELECT 'innodb_flush_log_at_trx_commit', CAST(@@GLOBAL.innodb_flush_log_at_trx_commit AS CHAR)
        UNION ALL SELECT 'sync_binlog', CAST(@@GLOBAL.sync_binlog AS CHAR)
        UNION ALL SELECT 'max_allowed_packet', CAST(@@GLOBAL.max_allowed_packet AS CHAR)
        UNION ALL SELECT 'max_connections', CAST(@@GLOBAL.max_connections AS CHAR)";
    let rows = query(FACTS).fetch_all(conn).await?;
    rows.iter().map(|row| Ok((row.text("fact")?, row.text("value")?))).collect()
}

/// Brings the tables to the version that is needed, after dropping them if `anew` says so.
pub(in crate::store) async fn migrate(core: &Core, anew: bool) -> StoreResult<Migrated> {
    const LOCK: &str = "SELECT coalesce(GET_LOCK(concat('af:', md5(DATABASE())), ?1), 0) AS locked";
    const UNLOCK: &str = "SELECT RELEASE_LOCK(concat('af:', md5(DATABASE()))) AS locked";
    let mut lease = core.lease().await?;
    let mut conn = lease.conn(&core.dialect);
    fits(&mut conn).await?;
    conn.be_patient(STEP_DEADLINE);
    if query(LOCK).bind(LOCK_SECONDS).fetch_one(&mut conn).await?.num::<i64>("locked")? != 1 {
        return Err(StoreError::Refused(format!(
            "another process has been changing the tables for {LOCK_SECONDS} s; wait for it or end it"
        )));
    }
    let result = steps(&mut lease, core, anew).await;
    // If anything fails, the lock goes with the connection.
    if result.is_ok() {
        query(UNLOCK).fetch_one(&mut lease.conn(&core.dialect)).await?;
        drop(lease.clean());
    }
    result
}

async fn steps(lease: &mut Lease, core: &Core, anew: bool) -> StoreResult<Migrated> {
    const MARKED: &str = "SELECT count(*) AS n FROM airflow_schema_step WHERE version = ?1 AND step = ?2";
    const MARK: &str = "INSERT INTO airflow_schema_step (version, step) VALUES (?1, ?2)";
    const DONE: &str = "INSERT INTO airflow_schema (version, serves, at) VALUES (?1, ?2, UTC_TIMESTAMP(6))";
    if anew {
        ddl(lease, format!("DROP TABLE IF EXISTS {}, {STEPS}", TABLES.join(", "))).await?;
    }
    let found = version(&mut lease.conn(&core.dialect), core).await?;
    let Some(from) = found.to_migrate(core.needed())? else {
        return Ok(Migrated { from: found.version, to: found.version });
    };
    for sql in CREATE_VERSIONS {
        ddl(lease, sql.to_owned()).await?;
    }
    let all = (1..=core.needed()).zip(MIGRATIONS.iter().chain(&OF_TESTS));
    for (to, next) in all.skip(from as usize) {
        for (step, change) in (1u32..).zip(next.steps.changes()) {
            let marked = query(MARKED).bind(to).bind(step);
            if marked.fetch_one(&mut lease.conn(&core.dialect)).await?.num::<i64>("n")? == 0 {
                reach_point!("migrate.step");
                let sql = change.sql(&mut lease.conn(&core.dialect)).await?;
                if let Some(sql) = sql {
                    ddl(lease, sql).await?;
                }
                reach_point!("migrate.between");
                query(MARK).bind(to).bind(step).execute(&mut lease.conn(&core.dialect)).await?;
            }
        }
        if to == 1 {
            // Before the version is said to be there: who finds it finds the pool as well.
            admin::set_pool(&mut lease.conn(&core.dialect), &rules::default_pool()).await?;
        }
        reach_point!("migrate.done");
        query(DONE).bind(to).bind(next.serves).execute(&mut lease.conn(&core.dialect)).await?;
    }
    Ok(Migrated { from, to: core.needed() })
}

/// Runs a statement that makes or drops tables. Only texts of ours go into it.
async fn ddl(lease: &mut Lease, sql: String) -> StoreResult<()> {
    let conn = lease.mysql().ok_or_else(|| failed(sqlx::Error::PoolClosed))?;
    let work = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(conn);
    within(STEP_DEADLINE, work).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;

    /// Goal: nobody edits a version that may be in somebody's database. If this fails, add a version instead.
    #[test]
    fn versions_do_not_change() {
        let mut hash = Hash::default();
        V1.iter().for_each(|table| hash.add(table));
        assert!(matches!(MIGRATIONS[0].steps, Steps::Tables(tables) if tables == V1));
        assert_eq!(hash.hex(16), "43d2313237614db0");
    }
}
