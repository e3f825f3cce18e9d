//! What callbacks are to be told.

use crate::id::{DagId, IncarnationId, MapIndex, RunId, RunPk, TaskId};
use crate::store::{Notice, NoticeKey, NoticeRow, StoreResult};

use super::{Conn, Row, query};

/// What stands for the task of a notice that is of the run: no task has an empty id.
pub(in crate::store) fn task_column(task: Option<&TaskId>) -> &str {
    task.map_or("", TaskId::as_str)
}

/// All that wait.
pub(in crate::store) async fn list(conn: &mut Conn<'_>) -> StoreResult<Vec<NoticeRow>> {
    const LIST: &str = "
        SELECT n.run, n.task_id, n.map_index, n.epoch, n.event, n.try_number, n.reason, n.at, n.owner,
               r.dag_id, r.run_id, r.logical_date
        FROM af_notice n JOIN af_run r ON r.pk = n.run
        ORDER BY n.run, n.task_id, n.map_index, n.epoch";
    query(LIST).fetch_all(conn).await?.iter().map(row).collect()
}

fn row(row: &Row) -> StoreResult<NoticeRow> {
    let task = row.text("task_id")?;
    Ok(NoticeRow {
        run: RunPk(row.num("run")?),
        dag_id: DagId::new(row.text("dag_id")?),
        run_id: RunId::new(row.text("run_id")?),
        logical_date: row.time("logical_date")?,
        notice: Notice {
            task_id: (!task.is_empty()).then(|| TaskId::new(task)),
            map_index: MapIndex(row.num("map_index")?),
            epoch: row.num("epoch")?,
            event: row.text("event")?,
            try_number: row.num("try_number")?,
            reason: row.maybe_text("reason")?,
            at: row.time("at")?,
            owner: IncarnationId(row.id("owner")?),
        },
    })
}

/// Gives one to another process, if it is still that of the one named.
pub(in crate::store) async fn take(
    conn: &mut Conn<'_>,
    key: &NoticeKey,
    from: IncarnationId,
    to: IncarnationId,
) -> StoreResult<bool> {
    const TAKE: &str = "
        UPDATE af_notice SET owner = ?6
        WHERE run = ?1 AND task_id = ?2 AND map_index = ?3 AND epoch = ?4 AND owner = ?5";
    let query = query(TAKE)
        .bind(key.run.0)
        .bind(task_column(key.task_id.as_ref()))
        .bind(key.map_index.0)
        .bind(key.epoch)
        .bind(from.0)
        .bind(to.0);
    Ok(query.execute(conn).await? > 0)
}

/// Forgets those that were told.
pub(in crate::store) async fn delete(conn: &mut Conn<'_>, keys: &[NoticeKey]) -> StoreResult<()> {
    const DELETE: &str = "
        DELETE FROM af_notice WHERE (run, task_id, map_index, epoch) IN
            (SELECT j.of_run, j.task, j.ix, j.nth FROM ROWS(?1, of_run INT, task NAME, ix INT, nth INT) j)";
    let mut rows = conn.rows();
    for key in keys {
        let row = rows.row().int(key.run.0).text(task_column(key.task_id.as_ref()));
        row.int(key.map_index.0).int(key.epoch).end();
    }
    let Some(list) = rows.finish() else { return Ok(()) };
    query(DELETE).bind(list).execute(conn).await.map(|_| ())
}
