//! Attempts, events and values.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use crate::id::{AttemptId, IncarnationId, MapIndex, RunPk, TaskId};
use crate::store::rules;
use crate::store::{
    AttemptEndData, AttemptRow, AttemptStart, EventRow, StoreResult, XComFilter, XComRow, XComWrite,
};
use crate::xcom::XComValue;

use super::{Arg, Conn, Query, Row, query};

/// The rows of a run, or of one task instance of it.
async fn of_run(
    conn: &mut Conn<'_>,
    (all, one): (&'static str, &'static str),
    run: RunPk,
    task: Option<(&TaskId, MapIndex)>,
) -> StoreResult<Vec<Row>> {
    let query = match task {
        Some((task, map_index)) => query(one).bind(run.0).bind(task.as_str()).bind(map_index.0),
        None => query(all).bind(run.0),
    };
    query.fetch_all(conn).await
}

/// The attempts of a run, or of one task instance.
pub(in crate::store) async fn attempts(
    conn: &mut Conn<'_>,
    run: RunPk,
    task: Option<(&TaskId, MapIndex)>,
) -> StoreResult<Vec<AttemptRow>> {
    const ALL: &str = "SELECT * FROM af_attempt WHERE run = ?1 ORDER BY task_id, map_index, number";
    const ONE: &str =
        "SELECT * FROM af_attempt WHERE run = ?1 AND task_id = ?2 AND map_index = ?3 ORDER BY number";
    of_run(conn, (ALL, ONE), run, task).await?.iter().map(attempt_row).collect()
}

/// Attempts that have not ended and whose process has.
pub(in crate::store) async fn orphans(conn: &mut Conn<'_>) -> StoreResult<Vec<AttemptRow>> {
    const ORPHANS: &str = "
        SELECT a.* FROM af_incarnation i CROSS JOIN af_attempt a INDEXED BY af_attempt_open
            ON a.incarnation = i.id AND a.ended_at IS NULL
        WHERE i.ended_at IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM af_report p WHERE p.attempt_id = a.attempt_id)
        ORDER BY a.run, a.task_id, a.map_index, a.number";
    query(ORPHANS).fetch_all(conn).await?.iter().map(attempt_row).collect()
}

fn attempt_row(row: &Row) -> StoreResult<AttemptRow> {
    let (error, rendered) = (row.maybe_text("error")?, row.maybe_json("rendered")?);
    Ok(AttemptRow {
        run: RunPk(row.num("run")?),
        start: AttemptStart {
            attempt_id: AttemptId(row.id("attempt_id")?),
            task_id: row.text("task_id")?.into(),
            map_index: MapIndex(row.num("map_index")?),
            number: row.num("number")?,
            try_number: row.num("try_number")?,
            state: row.word("start_state")?,
            incarnation: row.maybe_id("incarnation")?.map(IncarnationId),
            queue: row.text("queue")?,
            at: row.time("at")?,
        },
        state: row.word("state")?,
        end: row.maybe_time("ended_at")?.map(|at| AttemptEndData { at, error, rendered }),
    })
}

/// The events of a run, or of one task instance.
pub(in crate::store) async fn events(
    conn: &mut Conn<'_>,
    run: RunPk,
    task: Option<(&TaskId, MapIndex)>,
) -> StoreResult<Vec<EventRow>> {
    const ALL: &str = "SELECT * FROM af_event WHERE run = ?1 ORDER BY task_id, map_index, epoch";
    const ONE: &str =
        "SELECT * FROM af_event WHERE run = ?1 AND task_id = ?2 AND map_index = ?3 ORDER BY epoch";
    of_run(conn, (ALL, ONE), run, task).await?.iter().map(event_row).collect()
}

fn event_row(row: &Row) -> StoreResult<EventRow> {
    Ok(EventRow {
        task_id: row.text("task_id")?.into(),
        map_index: MapIndex(row.num("map_index")?),
        epoch: row.num("epoch")?,
        from: row.word("from_state")?,
        to: row.word("to_state")?,
        event: row.word("event")?,
        actor: row.text("actor")?,
        at: row.time("at")?,
    })
}

/// Of how many tasks values are looked up by their keys. To compare with a list of tasks, servers read all values of the
/// run.
const FEW_TASKS: usize = 16;

/// Statements on the values that a filter stands for, as one; for each task one if there are few.
fn matching<'q>(
    conn: &Conn<'_>,
    statement: &str,
    filter: &'q XComFilter,
    few_tasks: usize,
    tail: &str,
) -> Query<'q> {
    let mut args: Vec<Arg<'q>> = vec![filter.run.0.into()];
    let mut place = |arg: Arg<'q>| {
        args.push(arg);
        format!("?{}", args.len())
    };
    let index = filter.map_index.map(|index| format!(" AND map_index = {}", place(index.0.into())));
    let key = filter.key.as_deref().map(|key| format!(" AND \"key\" = {}", place(key.into())));
    let rest = format!("{}{}", index.unwrap_or_default(), key.unwrap_or_default());
    let tasks: BTreeSet<&str> = filter.tasks.iter().map(TaskId::as_str).collect();
    let of_tasks: Vec<String> = if tasks.is_empty() {
        vec![String::new()]
    } else if tasks.len() <= few_tasks {
        tasks.into_iter().map(|task| format!(" AND task_id = {}", place(task.into()))).collect()
    } else {
        let list = place(conn.list(tasks).into());
        vec![format!(" AND task_id IN (SELECT j.id FROM ROWS({list}, id NAME) j)")]
    };
    let parts: Vec<String> =
        of_tasks.iter().map(|task| format!("{statement} FROM af_xcom WHERE run = ?1{task}{rest}")).collect();
    args.into_iter().fold(query(parts.join(" UNION ALL ") + tail), Query::bind)
}

/// Values that match.
pub(in crate::store) async fn xcoms(conn: &mut Conn<'_>, filter: &XComFilter) -> StoreResult<Vec<XComRow>> {
    let query = matching(conn, "SELECT *", filter, FEW_TASKS, " ORDER BY task_id, map_index, \"key\"");
    query.fetch_all(conn).await?.iter().map(xcom_row).collect()
}

pub(super) fn xcom_row(row: &Row) -> StoreResult<XComRow> {
    Ok(XComRow {
        run: RunPk(row.num("run")?),
        task_id: row.text("task_id")?.into(),
        map_index: MapIndex(row.num("map_index")?),
        key: row.text("key")?,
        value: XComValue::from_text(row.text("value")?),
        at: row.time("at")?,
    })
}

/// Takes a run to its next generation, so that whoever remembers values of it reads them again. Says whether there is
/// such a run.
async fn next_generation(conn: &mut Conn<'_>, run: RunPk) -> StoreResult<bool> {
    const NEXT: &str = "UPDATE af_run SET generation = generation + 1 WHERE pk = ?1";
    Ok(query(NEXT).bind(run.0).execute(conn).await? > 0)
}

/// Deletes values that match; says how many.
pub(in crate::store) async fn delete_xcoms(conn: &mut Conn<'_>, filter: &XComFilter) -> StoreResult<u64> {
    next_generation(conn, filter.run).await?;
    matching(conn, "DELETE", filter, 1, "").execute(conn).await
}

/// Writes a value, if there is such a run.
pub(in crate::store) async fn set_xcom(
    conn: &mut Conn<'_>,
    run: RunPk,
    xcom: &XComWrite,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    const SET: &str = "
        INSERT INTO af_xcom (run, task_id, map_index, \"key\", at, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
        ON CONFLICT (run, task_id, map_index, \"key\") DO UPDATE SET at = excluded.at, value = excluded.value";
    if !next_generation(conn, run).await? {
        return Err(rules::no_run(run));
    }
    let query = query(SET).bind(run.0).bind(xcom.task_id.as_str()).bind(xcom.map_index.0).bind(&xcom.key);
    query.bind(now).bind(xcom.value.text()).execute(conn).await?;
    Ok(())
}
