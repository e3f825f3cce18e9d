//! Task instances, attempts, events and values.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection, SqlitePool};
use uuid::Uuid;

use crate::id::{AttemptId, IncarnationId, MapIndex, RunPk, TaskId};
use crate::state::TaskState;
use crate::store::rules;
use crate::store::{
    AttemptEndData, AttemptRow, AttemptStart, EventRow, StoreResult, TiData, TiRow, XComFilter, XComRow,
    XComWrite,
};
use crate::xcom::XComValue;

use super::errors::{corrupt, failed};
use super::json::{maybe_time, time};
use super::view;

/// The task instances of a run as one JSON array.
macro_rules! tis_sql {
    ($run:literal) => {
        concat!(
            "SELECT json_group_array(json_array(task_id, map_index, state, epoch, try_number, max_tries, lost,
                lower(hex(attempt_id)), next_try_at, started_at, ended_at, has_result, map_length, reason, wait)
                ORDER BY task_id, map_index) FROM af_ti WHERE run = ",
            $run
        )
    };
}
pub(super) use tis_sql;

/// One task instance in such an array.
type TiColumns = (
    TaskId,
    MapIndex,
    TaskState,
    u32,
    u32,
    u32,
    u32,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    u8,
    Option<u32>,
    Option<String>,
    Option<String>,
);

/// Reads such an array from a column.
pub(super) fn ti_rows(row: &SqliteRow, name: &str) -> StoreResult<Vec<TiRow>> {
    view::column::<TiColumns>(row, name)?.into_iter().map(ti_row).collect()
}

#[rustfmt::skip]
fn ti_row(
    (task_id, map_index, state, epoch, try_number, max_tries, lost, attempt, next, started, ended, has_result,
     map_length, reason, wait): TiColumns,
) -> StoreResult<TiRow> {
    // `hex` of nothing is an empty text.
    let attempt = attempt.filter(|text| !text.is_empty());
    let attempt_id = attempt.map(|text| Uuid::try_parse(&text)).transpose().map_err(corrupt)?.map(AttemptId);
    let data = TiData {
        try_number,
        max_tries,
        lost,
        attempt_id,
        next_try_at: maybe_time(next)?,
        started_at: maybe_time(started)?,
        ended_at: maybe_time(ended)?,
        has_result: has_result != 0,
        map_length,
        reason,
        wait: rules::wait_of(wait.as_deref())?,
    };
    Ok(TiRow { task_id, map_index, state, epoch, data })
}

/// The task instances of a run.
pub(super) async fn task_instances(pool: &SqlitePool, run: RunPk) -> StoreResult<Vec<TiRow>> {
    const LIST: &str = concat!("SELECT (", tis_sql!("?1"), ") AS tis");
    ti_rows(&sqlx::query(LIST).bind(run.0).fetch_one(pool).await.map_err(failed)?, "tis")
}

/// The rows of a run, or of one task instance of it.
async fn of_run(
    pool: &SqlitePool,
    (all, one): (&'static str, &'static str),
    run: RunPk,
    task: Option<(&TaskId, MapIndex)>,
) -> StoreResult<Vec<SqliteRow>> {
    let query = match task {
        Some((task, map_index)) => sqlx::query(one).bind(run.0).bind(task.as_str()).bind(map_index.0),
        None => sqlx::query(all).bind(run.0),
    };
    query.fetch_all(pool).await.map_err(failed)
}

/// The attempts of a run, or of one task instance.
pub(super) async fn attempts(
    pool: &SqlitePool,
    run: RunPk,
    task: Option<(&TaskId, MapIndex)>,
) -> StoreResult<Vec<AttemptRow>> {
    const ALL: &str = "SELECT * FROM af_attempt WHERE run = ?1 ORDER BY task_id, map_index, number";
    const ONE: &str =
        "SELECT * FROM af_attempt WHERE run = ?1 AND task_id = ?2 AND map_index = ?3 ORDER BY number";
    of_run(pool, (ALL, ONE), run, task).await?.iter().map(attempt_row).collect()
}

/// Attempts that have not ended and whose process has.
pub(super) async fn orphans(pool: &SqlitePool) -> StoreResult<Vec<AttemptRow>> {
    const ORPHANS: &str = "
        SELECT a.* FROM af_incarnation i CROSS JOIN af_attempt a INDEXED BY af_attempt_open
            ON a.incarnation = i.id AND a.ended_at IS NULL
        WHERE i.ended_at IS NOT NULL ORDER BY a.run, a.task_id, a.map_index, a.number";
    sqlx::query(ORPHANS).fetch_all(pool).await.map_err(failed)?.iter().map(attempt_row).collect()
}

fn attempt_row(row: &SqliteRow) -> StoreResult<AttemptRow> {
    let word = |name: &str| row.try_get::<&str, _>(name).map_err(failed)?.parse().map_err(corrupt);
    let rendered: Option<&str> = row.try_get("rendered").map_err(failed)?;
    let rendered = rendered.map(serde_json::from_str::<Value>).transpose().map_err(corrupt)?;
    let incarnation: Option<&[u8]> = row.try_get("incarnation").map_err(failed)?;
    let incarnation = incarnation.map(Uuid::from_slice).transpose().map_err(corrupt)?;
    let attempt_id = Uuid::from_slice(row.try_get("attempt_id").map_err(failed)?).map_err(corrupt)?;
    let error = row.try_get("error").map_err(failed)?;
    let ended = maybe_time(row.try_get("ended_at").map_err(failed)?)?;
    Ok(AttemptRow {
        run: RunPk(row.try_get("run").map_err(failed)?),
        start: AttemptStart {
            attempt_id: AttemptId(attempt_id),
            task_id: row.try_get::<String, _>("task_id").map_err(failed)?.into(),
            map_index: MapIndex(row.try_get("map_index").map_err(failed)?),
            number: row.try_get("number").map_err(failed)?,
            try_number: row.try_get("try_number").map_err(failed)?,
            state: word("start_state")?,
            incarnation: incarnation.map(IncarnationId),
            queue: row.try_get("queue").map_err(failed)?,
            at: time(row.try_get("at").map_err(failed)?)?,
        },
        state: word("state")?,
        end: ended.map(|at| AttemptEndData { at, error, rendered }),
    })
}

/// The events of a run, or of one task instance.
pub(super) async fn events(
    pool: &SqlitePool,
    run: RunPk,
    task: Option<(&TaskId, MapIndex)>,
) -> StoreResult<Vec<EventRow>> {
    const ALL: &str = "SELECT * FROM af_event WHERE run = ?1 ORDER BY task_id, map_index, epoch";
    const ONE: &str =
        "SELECT * FROM af_event WHERE run = ?1 AND task_id = ?2 AND map_index = ?3 ORDER BY epoch";
    of_run(pool, (ALL, ONE), run, task).await?.iter().map(event_row).collect()
}

fn event_row(row: &SqliteRow) -> StoreResult<EventRow> {
    let text = |name: &str| row.try_get::<String, _>(name).map_err(failed);
    Ok(EventRow {
        task_id: text("task_id")?.into(),
        map_index: MapIndex(row.try_get("map_index").map_err(failed)?),
        epoch: row.try_get("epoch").map_err(failed)?,
        from: text("from_state")?.parse().map_err(corrupt)?,
        to: text("to_state")?.parse().map_err(corrupt)?,
        event: text("event")?.parse().map_err(corrupt)?,
        actor: text("actor")?,
        at: time(row.try_get("at").map_err(failed)?)?,
    })
}

/// The condition that a filter of values stands for; all it says is bound by [`bind_filter`].
fn xcom_where(filter: &XComFilter) -> String {
    let parts = [
        (!filter.tasks.is_empty(), " AND task_id IN (SELECT value FROM json_each(?2))"),
        (filter.map_index.is_some(), " AND map_index = ?3"),
        (filter.key.is_some(), " AND key = ?4"),
    ];
    let mut sql = String::from(" FROM af_xcom WHERE run = ?1");
    sql.extend(parts.iter().filter(|(wanted, _)| *wanted).map(|(_, part)| *part));
    sql
}

type Bound<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

fn bind_filter<'q>(query: Bound<'q>, filter: &'q XComFilter) -> StoreResult<Bound<'q>> {
    let tasks = serde_json::to_string(&filter.tasks).map_err(corrupt)?;
    let map_index = filter.map_index.map(|index| index.0);
    Ok(query.bind(filter.run.0).bind(tasks).bind(map_index).bind(filter.key.as_deref()))
}

/// Values that match.
pub(super) async fn xcoms(pool: &SqlitePool, filter: &XComFilter) -> StoreResult<Vec<XComRow>> {
    let sql = format!("SELECT *{} ORDER BY task_id, map_index, key", xcom_where(filter));
    let query = bind_filter(sqlx::query(AssertSqlSafe(sql)), filter)?;
    query.fetch_all(pool).await.map_err(failed)?.iter().map(xcom_row).collect()
}

fn xcom_row(row: &SqliteRow) -> StoreResult<XComRow> {
    Ok(XComRow {
        run: RunPk(row.try_get("run").map_err(failed)?),
        task_id: row.try_get::<String, _>("task_id").map_err(failed)?.into(),
        map_index: MapIndex(row.try_get("map_index").map_err(failed)?),
        key: row.try_get("key").map_err(failed)?,
        value: XComValue::from_text(row.try_get::<String, _>("value").map_err(failed)?),
        at: time(row.try_get("at").map_err(failed)?)?,
    })
}

/// Deletes values that match; says how many.
pub(super) async fn delete_xcoms(conn: &mut SqliteConnection, filter: XComFilter) -> StoreResult<u64> {
    let sql = format!("DELETE{}", xcom_where(&filter));
    let query = bind_filter(sqlx::query(AssertSqlSafe(sql)), &filter)?;
    Ok(query.execute(conn).await.map_err(failed)?.rows_affected())
}

/// Writes a value, if there is such a run.
pub(super) async fn set_xcom(
    conn: &mut SqliteConnection,
    run: RunPk,
    xcom: XComWrite,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    const SET: &str = "
        INSERT INTO af_xcom (run, task_id, map_index, key, at, value)
        SELECT pk, ?2, ?3, ?4, ?5, ?6 FROM af_run WHERE pk = ?1
        ON CONFLICT DO UPDATE SET at = excluded.at, value = excluded.value";
    let value = Arc::clone(&xcom.value);
    let query = sqlx::query(SET)
        .bind(run.0)
        .bind(xcom.task_id.as_str())
        .bind(xcom.map_index.0)
        .bind(&xcom.key)
        .bind(now.timestamp_micros())
        .bind(value.text());
    match query.execute(conn).await.map_err(failed)?.rows_affected() {
        0 => Err(rules::no_run(run)),
        _ => Ok(()),
    }
}
