//! By when runs should be done.

use chrono::{DateTime, Utc};

use crate::id::{DagId, RunPk};
use crate::store::{DeadlineKey, DeadlineRow, NewRun, Notice, Settlement, StoreResult};

use super::notices::task_column;
use super::runs::run_row;
use super::{Conn, Row, query};

/// Adds the deadlines of new runs. Runs in a transaction of the caller; says nothing if there are none.
pub(in crate::store) async fn add(conn: &mut Conn<'_>, new: &[(RunPk, &NewRun)]) -> StoreResult<()> {
    const ADD: &str = "
        INSERT INTO af_deadline (run, name, due_at)
        SELECT j.of_run, j.called, j.moment FROM ROWS(?1, of_run INT, called TEXT, moment TIME) j WHERE true
        ON CONFLICT (run, name) DO NOTHING";
    let mut rows = conn.rows();
    for (pk, deadline) in new.iter().flat_map(|(pk, run)| run.deadlines.iter().map(move |one| (pk, one))) {
        rows.row().int(pk.0).text(&deadline.name).time(deadline.due).end();
    }
    let Some(list) = rows.finish() else { return Ok(()) };
    query(ADD).bind(list).execute(conn).await.map(|_| ())
}

/// Those of some dags that are not settled.
pub(in crate::store) async fn list(
    conn: &mut Conn<'_>,
    dags: &[DagId],
    until: Option<DateTime<Utc>>,
    limit: u32,
) -> StoreResult<Vec<DeadlineRow>> {
    const OPEN: &str = "
        SELECT d.name AS deadline_name, d.due_at, d.missed_at, r.* FROM af_deadline d CROSS JOIN af_run r ON r.pk = d.run
        WHERE d.missed_at IS NULL AND r.dag_id IN (SELECT j.id FROM ROWS(?1, id NAME) j)
        ORDER BY d.due_at, d.run, d.name LIMIT ?2";
    const OVER: &str = "
        SELECT d.name AS deadline_name, d.due_at, d.missed_at, r.* FROM af_deadline d CROSS JOIN af_run r ON r.pk = d.run
        WHERE d.missed_at IS NULL AND d.due_at <= ?3 AND r.dag_id IN (SELECT j.id FROM ROWS(?1, id NAME) j)
        ORDER BY d.due_at, d.run, d.name LIMIT ?2";
    let ids = conn.list(dags.iter().map(DagId::as_str));
    let open = match until {
        Some(until) => query(OVER).bind(ids).bind(limit).bind(until),
        None => query(OPEN).bind(ids).bind(limit),
    };
    open.fetch_all(conn).await?.iter().map(deadline_row).collect()
}

fn deadline_row(row: &Row) -> StoreResult<DeadlineRow> {
    Ok(DeadlineRow {
        run: run_row(row)?,
        name: row.text("deadline_name")?,
        due: row.time("due_at")?,
        missed_at: row.maybe_time("missed_at")?,
    })
}

/// Those that were missed, of all dags or of one.
pub(in crate::store) async fn missed(
    conn: &mut Conn<'_>,
    dag: Option<&DagId>,
    limit: u32,
) -> StoreResult<Vec<DeadlineRow>> {
    const OF_ALL: &str = "
        SELECT d.name AS deadline_name, d.due_at, d.missed_at, r.* FROM af_deadline d JOIN af_run r ON r.pk = d.run
        WHERE d.missed_at IS NOT NULL ORDER BY d.missed_at DESC, d.run DESC, d.name LIMIT ?1";
    const OF_DAG: &str = "
        SELECT d.name AS deadline_name, d.due_at, d.missed_at, r.* FROM af_deadline d JOIN af_run r ON r.pk = d.run
        WHERE d.missed_at IS NOT NULL AND r.dag_id = ?2 ORDER BY d.missed_at DESC, d.run DESC, d.name LIMIT ?1";
    let missed = match dag {
        Some(dag) => query(OF_DAG).bind(limit).bind(dag.as_str()),
        None => query(OF_ALL).bind(limit),
    };
    missed.fetch_all(conn).await?.iter().map(deadline_row).collect()
}

/// Settles one, if it is as it was seen. Runs in a transaction of the caller.
pub(in crate::store) async fn settle(
    conn: &mut Conn<'_>,
    seen: &DeadlineKey,
    settlement: &Settlement,
) -> StoreResult<bool> {
    const FORGET: &str =
        "DELETE FROM af_deadline WHERE run = ?1 AND name = ?2 AND due_at = ?3 AND missed_at IS NULL";
    const MOVE: &str = "
        UPDATE af_deadline SET due_at = ?4 WHERE run = ?1 AND name = ?2 AND due_at = ?3 AND missed_at IS NULL";
    const MISS: &str = "
        UPDATE af_deadline SET missed_at = ?4 WHERE run = ?1 AND name = ?2 AND due_at = ?3 AND missed_at IS NULL";
    let (text, moment) = match settlement {
        Settlement::Met => (FORGET, None),
        Settlement::Later(due) => (MOVE, Some(*due)),
        Settlement::Missed(notice) => (MISS, Some(notice.at)),
    };
    let mut change = query(text).bind(seen.run.0).bind(seen.name.as_str()).bind(seen.due);
    if let Some(moment) = moment {
        change = change.bind(moment);
    }
    let was_so = change.execute(conn).await? > 0;
    if let (true, Settlement::Missed(notice)) = (was_so, settlement) {
        tell(conn, seen.run, notice).await?;
    }
    Ok(was_so)
}

async fn tell(conn: &mut Conn<'_>, run: RunPk, notice: &Notice) -> StoreResult<()> {
    const TELL: &str = "
        INSERT INTO af_notice (run, task_id, map_index, epoch, event, try_number, reason, at, owner)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let told = query(TELL).bind(run.0).bind(task_column(notice.task_id.as_ref())).bind(notice.map_index.0);
    let told = told.bind(notice.epoch).bind(notice.event.as_str()).bind(notice.try_number);
    let told = told.bind(notice.reason.as_deref()).bind(notice.at).bind(notice.owner.0);
    told.execute(conn).await.map(|_| ())
}
