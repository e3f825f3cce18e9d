//! What callbacks are to be told.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, SqlitePool};
use uuid::Uuid;

use crate::id::{DagId, IncarnationId, MapIndex, RunId, RunPk, TaskId};
use crate::store::{Notice, NoticeKey, NoticeRow, StoreResult};

use super::errors::{corrupt, failed};
use super::json::time;

/// What stands for the task of a notice that is of the run: no task has an empty id.
pub(super) fn task_column(task: Option<&TaskId>) -> &str {
    task.map_or("", TaskId::as_str)
}

/// All that wait.
pub(super) async fn list(pool: &SqlitePool) -> StoreResult<Vec<NoticeRow>> {
    const LIST: &str = "
        SELECT n.run, n.task_id, n.map_index, n.epoch, n.event, n.try_number, n.reason, n.at, n.owner,
               r.dag_id, r.run_id, r.logical_date
        FROM af_notice n JOIN af_run r ON r.pk = n.run
        ORDER BY n.run, n.task_id, n.map_index, n.epoch";
    sqlx::query(LIST).fetch_all(pool).await.map_err(failed)?.iter().map(row).collect()
}

fn row(row: &SqliteRow) -> StoreResult<NoticeRow> {
    let text = |name: &str| row.try_get::<String, _>(name).map_err(failed);
    let task = text("task_id")?;
    let owner: &[u8] = row.try_get("owner").map_err(failed)?;
    Ok(NoticeRow {
        run: RunPk(row.try_get("run").map_err(failed)?),
        dag_id: DagId::new(text("dag_id")?),
        run_id: RunId::new(text("run_id")?),
        logical_date: time(row.try_get("logical_date").map_err(failed)?)?,
        notice: Notice {
            task_id: (!task.is_empty()).then(|| TaskId::new(task)),
            map_index: MapIndex(row.try_get("map_index").map_err(failed)?),
            epoch: row.try_get("epoch").map_err(failed)?,
            event: text("event")?,
            try_number: row.try_get("try_number").map_err(failed)?,
            reason: row.try_get("reason").map_err(failed)?,
            at: time(row.try_get("at").map_err(failed)?)?,
            owner: IncarnationId(Uuid::from_slice(owner).map_err(corrupt)?),
        },
    })
}

/// Gives one to another process, if it is still that of the one named.
pub(super) async fn take(
    conn: &mut SqliteConnection,
    key: NoticeKey,
    from: IncarnationId,
    to: IncarnationId,
) -> StoreResult<bool> {
    const TAKE: &str = "
        UPDATE af_notice SET owner = ?6
        WHERE run = ?1 AND task_id = ?2 AND map_index = ?3 AND epoch = ?4 AND owner = ?5";
    let query = sqlx::query(TAKE)
        .bind(key.run.0)
        .bind(task_column(key.task_id.as_ref()).to_owned())
        .bind(key.map_index.0)
        .bind(key.epoch)
        .bind(from.0.as_bytes().to_vec())
        .bind(to.0.as_bytes().to_vec());
    Ok(query.execute(conn).await.map_err(failed)?.rows_affected() > 0)
}

/// Forgets those that were told.
pub(super) async fn delete(conn: &mut SqliteConnection, keys: Vec<NoticeKey>) -> StoreResult<()> {
    const DELETE: &str =
        "DELETE FROM af_notice WHERE run = ?1 AND task_id = ?2 AND map_index = ?3 AND epoch = ?4";
    for key in keys {
        let query = sqlx::query(DELETE)
            .bind(key.run.0)
            .bind(task_column(key.task_id.as_ref()).to_owned())
            .bind(key.map_index.0)
            .bind(key.epoch);
        query.execute(&mut *conn).await.map_err(failed)?;
    }
    Ok(())
}
