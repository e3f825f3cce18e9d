//! Pools, limits and the audit log.

use crate::id::{DagId, MapIndex, RunId, TaskId};
use crate::store::{AuditEntry, AuditFilter, PoolRow, PoolSpec, SlotKey, StoreResult};

use super::errors::corrupt;
use super::keys::slot_key;
use super::{Conn, Row, query};

/// Pools and what is taken of them.
pub(in crate::store) async fn pools(conn: &mut Conn<'_>) -> StoreResult<Vec<PoolRow>> {
    const LIST: &str = "
        SELECT p.name, p.slots, p.description, p.include_deferred, coalesce(s.used, 0) AS used,
               coalesce(d.used, 0) AS deferred
        FROM af_pool p LEFT JOIN af_slot s ON s.kind = 0 AND s.name = p.name AND s.task_id = ''
            LEFT JOIN af_slot d ON d.kind = 4 AND d.name = p.name AND d.task_id = ''
        ORDER BY p.name";
    let pool = |row: &Row| {
        let spec = PoolSpec {
            name: row.text("name")?,
            slots: row.num("slots")?,
            description: row.text("description")?,
            include_deferred: row.flag("include_deferred")?,
        };
        Ok(PoolRow { spec, used: row.num("used")?, deferred: row.num("deferred")? })
    };
    query(LIST).fetch_all(conn).await?.iter().map(pool).collect()
}

/// Creates or replaces a pool.
pub(in crate::store) async fn set_pool(conn: &mut Conn<'_>, pool: &PoolSpec) -> StoreResult<()> {
    const SET: &str = "
        INSERT INTO af_pool (name, slots, description, include_deferred) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (name) DO UPDATE SET slots = excluded.slots, description = excluded.description,
            include_deferred = excluded.include_deferred";
    let query = query(SET).bind(&pool.name).bind(pool.slots).bind(&pool.description);
    query.bind(pool.include_deferred).execute(conn).await.map(|_| ())
}

/// Deletes a pool; says whether there was one.
pub(in crate::store) async fn delete_pool(conn: &mut Conn<'_>, name: &str) -> StoreResult<bool> {
    const DELETE: &str = "DELETE FROM af_pool WHERE name = ?1";
    Ok(query(DELETE).bind(name).execute(conn).await? > 0)
}

/// Limits of which something is taken.
pub(in crate::store) async fn slots(conn: &mut Conn<'_>) -> StoreResult<Vec<(SlotKey, i64)>> {
    const LIST: &str =
        "SELECT kind, name, task_id, used FROM af_slot WHERE used > 0 ORDER BY kind, name, task_id";
    query(LIST).fetch_all(conn).await?.iter().map(slot).collect()
}

/// Reads a row of `af_slot`.
pub(in crate::store) fn slot(row: &Row) -> StoreResult<(SlotKey, i64)> {
    let kind: i64 = row.num("kind")?;
    let key = slot_key(kind, row.text("name")?, row.str("task_id")?);
    let key = key.ok_or_else(|| corrupt(format!("{kind} is no kind of limit")))?;
    Ok((key, row.num("used")?))
}

/// Adds to the audit log.
pub(in crate::store) async fn audit(conn: &mut Conn<'_>, entry: &AuditEntry) -> StoreResult<()> {
    const ADD: &str = "
        INSERT INTO af_audit (at, actor, event, dag_id, run_id, task_id, map_index, extra)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let query = query(ADD)
        .bind(entry.at)
        .bind(&entry.actor)
        .bind(&entry.event)
        .bind(entry.dag_id.as_ref().map(DagId::as_str))
        .bind(entry.run_id.as_ref().map(RunId::as_str))
        .bind(entry.task_id.as_ref().map(TaskId::as_str))
        .bind(entry.map_index.map(|index| index.0))
        .bind(entry.extra.as_deref());
    query.execute(conn).await.map(|_| ())
}

/// The newest entries that match.
pub(in crate::store) async fn audit_log(
    conn: &mut Conn<'_>,
    filter: &AuditFilter,
) -> StoreResult<Vec<AuditEntry>> {
    let mut sql = String::from("SELECT * FROM af_audit WHERE true");
    let mut args = Vec::new();
    for (name, wanted) in
        [("dag_id", filter.dag_id.as_ref().map(DagId::as_str)), ("event", filter.event.as_deref())]
    {
        if let Some(wanted) = wanted {
            args.push(wanted);
            sql.push_str(&format!(" AND {name} = ?{}", args.len()));
        }
    }
    sql.push_str(&format!(" ORDER BY at DESC, id DESC LIMIT ?{}", args.len() + 1));
    let bound = args.into_iter().fold(query(sql), super::Query::bind);
    let bound = bound.bind(filter.limit.map_or(i64::MAX, i64::from));
    bound.fetch_all(conn).await?.iter().map(audit_entry).collect()
}

pub(super) fn audit_entry(row: &Row) -> StoreResult<AuditEntry> {
    Ok(AuditEntry {
        at: row.time("at")?,
        actor: row.text("actor")?,
        event: row.text("event")?,
        dag_id: row.maybe_text("dag_id")?.map(Into::into),
        run_id: row.maybe_text("run_id")?.map(Into::into),
        task_id: row.maybe_text("task_id")?.map(Into::into),
        map_index: row.maybe_num("map_index")?.map(MapIndex),
        extra: row.maybe_text("extra")?,
    })
}
