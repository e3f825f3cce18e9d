//! Pools, limits and the audit log.

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection, SqlitePool};

use crate::id::{DagId, MapIndex, RunId, TaskId};
use crate::store::{AuditEntry, AuditFilter, PoolRow, PoolSpec, SlotKey, StoreResult};

use super::errors::{corrupt, failed};
use super::json::time;
use super::steps::slot_key;

/// Pools and what is taken of them.
pub(super) async fn pools(pool: &SqlitePool) -> StoreResult<Vec<PoolRow>> {
    const LIST: &str = "
        SELECT p.name, p.slots, p.description, p.include_deferred, coalesce(s.used, 0), coalesce(d.used, 0)
        FROM af_pool p LEFT JOIN af_slot s ON s.kind = 0 AND s.name = p.name AND s.task_id = ''
            LEFT JOIN af_slot d ON d.kind = 4 AND d.name = p.name AND d.task_id = ''
        ORDER BY p.name";
    let rows: Vec<(String, i32, String, bool, i64, i64)> =
        sqlx::query_as(LIST).fetch_all(pool).await.map_err(failed)?;
    let row = |(name, slots, description, include_deferred, used, deferred)| PoolRow {
        spec: PoolSpec { name, slots, description, include_deferred },
        used,
        deferred,
    };
    Ok(rows.into_iter().map(row).collect())
}

/// Creates or replaces a pool.
pub(super) async fn set_pool(conn: &mut SqliteConnection, pool: PoolSpec) -> StoreResult<()> {
    const SET: &str = "
        INSERT INTO af_pool (name, slots, description, include_deferred) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO UPDATE SET slots = excluded.slots, description = excluded.description,
            include_deferred = excluded.include_deferred";
    let query =
        sqlx::query(SET).bind(pool.name).bind(pool.slots).bind(pool.description).bind(pool.include_deferred);
    query.execute(conn).await.map_err(failed).map(|_| ())
}

/// Deletes a pool; says whether there was one.
pub(super) async fn delete_pool(conn: &mut SqliteConnection, name: String) -> StoreResult<bool> {
    const DELETE: &str = "DELETE FROM af_pool WHERE name = ?1";
    Ok(sqlx::query(DELETE).bind(name).execute(conn).await.map_err(failed)?.rows_affected() > 0)
}

/// Limits of which something is taken.
pub(super) async fn slots(pool: &SqlitePool) -> StoreResult<Vec<(SlotKey, i64)>> {
    const LIST: &str =
        "SELECT kind, name, task_id, used FROM af_slot WHERE used > 0 ORDER BY kind, name, task_id";
    let rows: Vec<(i64, String, String, i64)> = sqlx::query_as(LIST).fetch_all(pool).await.map_err(failed)?;
    let slot = |(kind, name, task, used): (i64, String, String, i64)| {
        let key =
            slot_key(kind, name, &task).ok_or_else(|| corrupt(format!("{kind} is no kind of limit")))?;
        Ok((key, used))
    };
    rows.into_iter().map(slot).collect()
}

/// Adds to the audit log.
pub(super) async fn audit(conn: &mut SqliteConnection, entry: AuditEntry) -> StoreResult<()> {
    const ADD: &str = "
        INSERT INTO af_audit (at, actor, event, dag_id, run_id, task_id, map_index, extra)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let query = sqlx::query(ADD)
        .bind(entry.at.timestamp_micros())
        .bind(entry.actor)
        .bind(entry.event)
        .bind(entry.dag_id.as_ref().map(DagId::as_str))
        .bind(entry.run_id.as_ref().map(RunId::as_str))
        .bind(entry.task_id.as_ref().map(TaskId::as_str))
        .bind(entry.map_index.map(|index| index.0))
        .bind(entry.extra);
    query.execute(conn).await.map_err(failed).map(|_| ())
}

/// The newest entries that match.
pub(super) async fn audit_log(pool: &SqlitePool, filter: &AuditFilter) -> StoreResult<Vec<AuditEntry>> {
    let mut sql = String::from("SELECT * FROM af_audit WHERE true");
    let parts = [(filter.dag_id.is_some(), " AND dag_id = ?1"), (filter.event.is_some(), " AND event = ?2")];
    sql.extend(parts.iter().filter(|(wanted, _)| *wanted).map(|(_, part)| *part));
    sql.push_str(" ORDER BY at DESC, id DESC LIMIT ?3");
    let query = sqlx::query(AssertSqlSafe(sql))
        .bind(filter.dag_id.as_ref().map(DagId::as_str))
        .bind(filter.event.as_deref())
        .bind(filter.limit.map_or(-1, i64::from));
    query.fetch_all(pool).await.map_err(failed)?.iter().map(audit_entry).collect()
}

fn audit_entry(row: &SqliteRow) -> StoreResult<AuditEntry> {
    let maybe = |name: &str| row.try_get::<Option<String>, _>(name).map_err(failed);
    let map_index: Option<i32> = row.try_get("map_index").map_err(failed)?;
    Ok(AuditEntry {
        at: time(row.try_get("at").map_err(failed)?)?,
        actor: row.try_get("actor").map_err(failed)?,
        event: row.try_get("event").map_err(failed)?,
        dag_id: maybe("dag_id")?.map(Into::into),
        run_id: maybe("run_id")?.map(Into::into),
        task_id: maybe("task_id")?.map(Into::into),
        map_index: map_index.map(MapIndex),
        extra: maybe("extra")?,
    })
}
