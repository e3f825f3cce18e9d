//! Processes with their leases, and which process decides about a run.
//!
//! All times are read inside of the statement that writes, so that one clock counts for all processes.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::id::{IncarnationId, RunPk};
use crate::store::points::reach_point;
use crate::store::{Incarnation, NewIncarnation, StoreResult};

use super::errors::corrupt;
use super::{Conn, Row, query};

/// Makes a process known.
pub(in crate::store) async fn register(conn: &mut Conn<'_>, process: &NewIncarnation) -> StoreResult<()> {
    const REGISTER: &str = "
        INSERT INTO af_incarnation
            (id, kind, host, pid, birth, lease, started_at, lease_until, beats, last_beat)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, CLOCK(), AFTER_MICROS(?6), 0, CLOCK()) ON CONFLICT (id) DO NOTHING";
    let lease = i64::try_from(process.lease.as_micros()).map_err(corrupt)?;
    let query = query(REGISTER)
        .bind(process.id.0)
        .bind(&process.kind)
        .bind(&process.host)
        .bind(process.pid)
        .bind(&process.birth)
        .bind(lease);
    query.execute(conn).await.map(|_| ())
}

/// Renews a lease, unless the process has ended; says whether it did.
pub(in crate::store) async fn beat(conn: &mut Conn<'_>, process: IncarnationId) -> StoreResult<bool> {
    const BEAT: &str = "
        UPDATE af_incarnation SET beats = beats + 1, last_beat = CLOCK(), lease_until = AFTER_MICROS(lease)
        WHERE id = ?1 AND ended_at IS NULL";
    Ok(query(BEAT).bind(process.0).execute(conn).await? > 0)
}

/// Ends a process, unless it has ended.
pub(in crate::store) async fn end(conn: &mut Conn<'_>, process: IncarnationId) -> StoreResult<()> {
    const END: &str = "UPDATE af_incarnation SET ended_at = CLOCK() WHERE id = ?1 AND ended_at IS NULL";
    query(END).bind(process.0).execute(conn).await.map(|_| ())
}

/// Ends a process whose lease has run out, if it has not beaten since the caller looked; says whether it did.
pub(in crate::store) async fn expire(
    conn: &mut Conn<'_>,
    process: IncarnationId,
    beats: u64,
) -> StoreResult<bool> {
    const EXPIRE: &str = "
        UPDATE af_incarnation SET ended_at = CLOCK()
        WHERE id = ?1 AND beats = ?2 AND ended_at IS NULL
            AND (lease_until < CLOCK() OR lease_until > AFTER_MICROS(lease))";
    let query = query(EXPIRE).bind(process.0).bind(i64::try_from(beats).map_err(corrupt)?);
    Ok(query.execute(conn).await? > 0)
}

/// Processes that have not ended.
pub(in crate::store) async fn list(conn: &mut Conn<'_>) -> StoreResult<Vec<Incarnation>> {
    const LIST: &str = "
        SELECT i.*, (i.lease_until < CLOCK() OR i.lease_until > AFTER_MICROS(i.lease)) AS expired
        FROM af_incarnation i WHERE i.ended_at IS NULL ORDER BY i.started_at, i.id";
    let incarnation = |row: &Row| {
        Ok(Incarnation {
            process: NewIncarnation {
                id: IncarnationId(row.id("id")?),
                kind: row.text("kind")?,
                host: row.text("host")?,
                pid: row.num("pid")?,
                birth: row.text("birth")?,
                lease: Duration::from_micros(row.num("lease")?),
            },
            started_at: row.time("started_at")?,
            lease_until: row.time("lease_until")?,
            beats: row.num("beats")?,
            last_beat: row.time("last_beat")?,
            expired: row.flag("expired")?,
        })
    };
    query(LIST).fetch_all(conn).await?.iter().map(incarnation).collect()
}

/// Deletes processes that ended long ago and of which no attempt is open.
pub(in crate::store) async fn forget(conn: &mut Conn<'_>, before: DateTime<Utc>) -> StoreResult<u64> {
    const FORGET: &str = "
        DELETE FROM af_incarnation WHERE ended_at < ?1 AND NOT EXISTS (
            SELECT 1 FROM af_attempt a WHERE a.incarnation = af_incarnation.id AND a.ended_at IS NULL)";
    query(FORGET).bind(before).execute(conn).await
}

/// Gives runs to a process that nobody alive has; returns those that it has now.
pub(in crate::store) async fn claim(
    conn: &mut Conn<'_>,
    runs: &[RunPk],
    process: IncarnationId,
) -> StoreResult<Vec<RunPk>> {
    // Who is alive is asked twice: first so that nothing is written for runs that are somebody's, then, on the row that
    // is locked, because somebody else may have been faster.
    const CLAIM: &str = "
        INSERT INTO af_run_owner (run, incarnation)
        SELECT r.pk, ?2 FROM ROWS(?1, id INT) j CROSS JOIN af_run r ON r.pk = j.id
        WHERE NOT EXISTS (SELECT 1 FROM af_run_owner o JOIN af_incarnation i ON i.id = o.incarnation
                          WHERE o.run = r.pk AND i.ended_at IS NULL)
        ORDER BY r.pk
        ON CONFLICT (run) DO UPDATE SET incarnation = CASE
            WHEN EXISTS (SELECT 1 FROM af_incarnation i
                         WHERE i.id = af_run_owner.incarnation AND i.ended_at IS NULL)
            THEN af_run_owner.incarnation ELSE excluded.incarnation END";
    const MINE: &str = "
        SELECT o.run FROM ROWS(?1, id INT) j CROSS JOIN af_run_owner o ON o.run = j.id
        WHERE o.incarnation = ?2 ORDER BY j.ord";
    let mut rows = conn.rows();
    for run in runs {
        rows.row().int(run.0).end();
    }
    let Some(list) = rows.finish() else { return Ok(Vec::new()) };
    query(CLAIM).bind(list.as_str()).bind(process.0).execute(conn).await?;
    reach_point!("claim.between");
    let mine = query(MINE).bind(list.as_str()).bind(process.0).fetch_all(conn).await?;
    mine.iter().map(|row| Ok(RunPk(row.num("run")?))).collect()
}
