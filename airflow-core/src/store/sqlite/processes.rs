//! Processes with their leases, and which process decides about a run.
//!
//! All times are read inside of the statement that writes, so that one clock counts for all processes.

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, SqlitePool};
use uuid::Uuid;

use crate::id::{IncarnationId, RunPk};
use crate::store::{Incarnation, NewIncarnation, StoreResult};

use super::errors::{corrupt, failed};
use super::json::time;

fn bytes(id: IncarnationId) -> Vec<u8> {
    id.0.as_bytes().to_vec()
}

/// Makes a process known.
pub(super) async fn register(conn: &mut SqliteConnection, process: NewIncarnation) -> StoreResult<()> {
    const REGISTER: &str = "
        WITH clock(now) AS (SELECT CAST(unixepoch('subsec') * 1000000 AS INTEGER))
        INSERT INTO af_incarnation
            (id, kind, host, pid, birth, lease, started_at, lease_until, beats, last_beat)
        SELECT ?1, ?2, ?3, ?4, ?5, ?6, now, now + ?6, 0, now FROM clock WHERE true ON CONFLICT DO NOTHING";
    let lease = i64::try_from(process.lease.as_micros()).map_err(corrupt)?;
    let query = sqlx::query(REGISTER)
        .bind(bytes(process.id))
        .bind(process.kind)
        .bind(process.host)
        .bind(process.pid)
        .bind(process.birth)
        .bind(lease);
    query.execute(conn).await.map_err(failed).map(|_| ())
}

/// Renews a lease, unless the process has ended; says whether it did.
pub(super) async fn beat(conn: &mut SqliteConnection, process: IncarnationId) -> StoreResult<bool> {
    const BEAT: &str = "
        UPDATE af_incarnation SET beats = beats + 1,
            last_beat = CAST(unixepoch('subsec') * 1000000 AS INTEGER),
            lease_until = CAST(unixepoch('subsec') * 1000000 AS INTEGER) + lease
        WHERE id = ?1 AND ended_at IS NULL";
    let query = sqlx::query(BEAT).bind(bytes(process));
    Ok(query.execute(conn).await.map_err(failed)?.rows_affected() > 0)
}

/// Ends a process, unless it has ended.
pub(super) async fn end(conn: &mut SqliteConnection, process: IncarnationId) -> StoreResult<()> {
    const END: &str = "
        UPDATE af_incarnation SET ended_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER)
        WHERE id = ?1 AND ended_at IS NULL";
    sqlx::query(END).bind(bytes(process)).execute(conn).await.map_err(failed).map(|_| ())
}

/// Ends a process whose lease has run out, if it has not beaten since the caller looked; says whether it did.
pub(super) async fn expire(
    conn: &mut SqliteConnection,
    process: IncarnationId,
    beats: u64,
) -> StoreResult<bool> {
    const EXPIRE: &str = "
        UPDATE af_incarnation SET ended_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER)
        WHERE id = ?1 AND beats = ?2 AND ended_at IS NULL
            AND lease_until - CAST(unixepoch('subsec') * 1000000 AS INTEGER) NOT BETWEEN 0 AND lease";
    let query = sqlx::query(EXPIRE).bind(bytes(process)).bind(i64::try_from(beats).map_err(corrupt)?);
    Ok(query.execute(conn).await.map_err(failed)?.rows_affected() > 0)
}

/// Processes that have not ended.
pub(super) async fn list(pool: &SqlitePool) -> StoreResult<Vec<Incarnation>> {
    const LIST: &str = "
        SELECT *, lease_until - CAST(unixepoch('subsec') * 1000000 AS INTEGER) NOT BETWEEN 0 AND lease AS expired
        FROM af_incarnation WHERE ended_at IS NULL ORDER BY started_at, id";
    let at = |row: &SqliteRow, name: &str| time(row.try_get(name).map_err(failed)?);
    let incarnation = |row: &SqliteRow| {
        let id: &[u8] = row.try_get("id").map_err(failed)?;
        let beats: i64 = row.try_get("beats").map_err(failed)?;
        let lease: i64 = row.try_get("lease").map_err(failed)?;
        Ok(Incarnation {
            process: NewIncarnation {
                id: IncarnationId(Uuid::from_slice(id).map_err(corrupt)?),
                kind: row.try_get("kind").map_err(failed)?,
                host: row.try_get("host").map_err(failed)?,
                pid: row.try_get("pid").map_err(failed)?,
                birth: row.try_get("birth").map_err(failed)?,
                lease: std::time::Duration::from_micros(u64::try_from(lease).map_err(corrupt)?),
            },
            started_at: at(row, "started_at")?,
            lease_until: at(row, "lease_until")?,
            beats: u64::try_from(beats).map_err(corrupt)?,
            last_beat: at(row, "last_beat")?,
            expired: row.try_get("expired").map_err(failed)?,
        })
    };
    sqlx::query(LIST).fetch_all(pool).await.map_err(failed)?.iter().map(incarnation).collect()
}

/// Deletes processes that ended long ago and of which no attempt is open.
pub(super) async fn forget(conn: &mut SqliteConnection, before: DateTime<Utc>) -> StoreResult<u64> {
    const FORGET: &str = "
        DELETE FROM af_incarnation WHERE ended_at < ?1 AND NOT EXISTS (
            SELECT 1 FROM af_attempt a WHERE a.incarnation = af_incarnation.id AND a.ended_at IS NULL)";
    let query = sqlx::query(FORGET).bind(before.timestamp_micros());
    Ok(query.execute(conn).await.map_err(failed)?.rows_affected())
}

/// Gives runs to a process that nobody alive has; returns those that it has now.
pub(super) async fn claim(
    conn: &mut SqliteConnection,
    runs: Vec<RunPk>,
    process: IncarnationId,
) -> StoreResult<Vec<RunPk>> {
    const CLAIM: &str = "
        INSERT INTO af_run_owner (run, incarnation)
        SELECT r.pk, ?2 FROM json_each(?1) j JOIN af_run r ON r.pk = j.value
        WHERE true ON CONFLICT (run) DO UPDATE SET incarnation = excluded.incarnation
        WHERE NOT EXISTS (
            SELECT 1 FROM af_incarnation i WHERE i.id = af_run_owner.incarnation AND i.ended_at IS NULL)";
    const MINE: &str = "
        SELECT o.run FROM json_each(?1) j JOIN af_run_owner o ON o.run = j.value
        WHERE o.incarnation = ?2 ORDER BY j.key";
    let list = serde_json::json!(runs.iter().map(|run| run.0).collect::<Vec<_>>()).to_string();
    let query = sqlx::query(CLAIM).bind(&list).bind(bytes(process));
    query.execute(&mut *conn).await.map_err(failed)?;
    let query = sqlx::query_scalar(MINE).bind(&list).bind(bytes(process));
    let mine: Vec<i64> = query.fetch_all(conn).await.map_err(failed)?;
    Ok(mine.into_iter().map(RunPk).collect())
}
