//! Runs: created, listed, loaded, deleted, cleaned.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _, Sqlite, SqliteConnection, SqlitePool};

use crate::id::{DagId, MapIndex, RunId, RunPk, TaskId};
use crate::state::RunType;
use crate::store::rules;
use crate::store::{
    Advance, CreatedRun, Expansion, NewRun, PastQuery, PastRun, RunFilter, RunRow, RunSnapshot, StoreResult,
};
use crate::timetable::DataInterval;

use super::errors::{corrupt, failed};
use super::json::{Rows, apart, maybe_time, time};
use super::tasks::{self, tis_sql};
use super::{dags, view};

/// How many runs are deleted in one transaction of a clean-up: each may have thousands of rows, and others wait.
const CLEAN_RUNS: i64 = 50;

/// How many entries of the audit log are deleted in one transaction.
const CLEAN_AUDIT: i64 = 5000;

/// Creates runs. Runs in a transaction of the caller.
pub(super) async fn create(conn: &mut SqliteConnection, runs: &[NewRun]) -> StoreResult<Vec<CreatedRun>> {
    dags::all_known(conn, runs.iter().map(|run| &run.dag_id)).await?;
    let mut created = Vec::with_capacity(runs.len());
    let name = |run: &NewRun| (run.dag_id.clone(), Ok(run.run_id.clone()));
    let date = |run: &NewRun| (run.dag_id.clone(), Err(run.logical_date));
    for part in apart(runs, |run| vec![name(run), date(run)]) {
        let mut rows = Rows::default();
        for (_, run) in &part {
            write_new(&mut rows, run);
        }
        let json = rows.finish();
        let new = insert(conn, json.as_deref()).await?;
        for row in existing(conn, json.as_deref()).await? {
            let is_new = new.contains(&row.pk);
            created.push(if is_new {
                CreatedRun::New(Box::new(row))
            } else {
                CreatedRun::Exists(Box::new(row))
            });
        }
    }
    dags::advance_all(conn, &advances(runs)).await?;
    Ok(created)
}

/// What all runs together say of how far the timetables have come.
fn advances(runs: &[NewRun]) -> BTreeMap<&DagId, Advance> {
    let mut all: BTreeMap<&DagId, Advance> = BTreeMap::new();
    for run in runs {
        let Some(advance) = run.advance else { continue };
        let last = all.get(&run.dag_id).and_then(|before| before.last_interval);
        all.insert(
            &run.dag_id,
            Advance { last_interval: advance.last_interval.or(last), next: advance.next },
        );
    }
    all
}

fn write_new(rows: &mut Rows, run: &NewRun) {
    let conf = run.conf.as_ref().map(ToString::to_string);
    let row = rows.row().text(run.dag_id.as_str()).text(run.run_id.as_str()).text(run.run_type.as_str());
    let row = row.time(run.logical_date).time(run.data_interval.start).time(run.data_interval.end);
    let row = row.time(run.run_after).time(run.queued_at).maybe_text(conf.as_deref());
    row.text(&run.fingerprint).text(&run.triggered_by).int(run.ignores_past).end();
}

/// Inserts the runs that do not exist; says which numbers they got.
async fn insert(conn: &mut SqliteConnection, json: Option<&str>) -> StoreResult<HashSet<RunPk>> {
    const INSERT: &str = "
        INSERT INTO af_run (dag_id, run_id, run_type, state, logical_date, interval_start, interval_end, run_after,
                            queued_at, conf, fingerprint, generation, triggered_by, ignores_past)
        SELECT j.value ->> 0, j.value ->> 1, j.value ->> 2, 'queued', j.value ->> 3, j.value ->> 4, j.value ->> 5,
               j.value ->> 6, j.value ->> 7, j.value ->> 8, j.value ->> 9, 0, j.value ->> 10, j.value ->> 11
        FROM json_each(?1) j
        WHERE NOT EXISTS (SELECT 1 FROM af_run WHERE dag_id = j.value ->> 0 AND run_id = j.value ->> 1)
          AND (j.value ->> 2 = 'manual' OR NOT EXISTS
                (SELECT 1 FROM af_run WHERE dag_id = j.value ->> 0 AND logical_date = j.value ->> 3
                    AND run_type <> 'manual'))
        ORDER BY j.key RETURNING pk";
    let new: Vec<i64> = sqlx::query_scalar(INSERT).bind(json).fetch_all(conn).await.map_err(failed)?;
    Ok(new.into_iter().map(RunPk).collect())
}

/// The run of the same id, else of the same logical date, for each of the runs just inserted.
async fn existing(conn: &mut SqliteConnection, json: Option<&str>) -> StoreResult<Vec<RunRow>> {
    const EXISTING: &str = "
        SELECT r.* FROM json_each(?1) j JOIN af_run r ON r.pk = coalesce(
            (SELECT pk FROM af_run WHERE dag_id = j.value ->> 0 AND run_id = j.value ->> 1),
            (SELECT pk FROM af_run WHERE dag_id = j.value ->> 0 AND logical_date = j.value ->> 3
                AND run_type <> 'manual'))
        ORDER BY j.key";
    let rows = sqlx::query(EXISTING).bind(json).fetch_all(conn).await.map_err(failed)?;
    rows.iter().map(run_row).collect()
}

/// Reads a row of `af_run`.
fn run_row(row: &SqliteRow) -> StoreResult<RunRow> {
    let text = |name: &str| row.try_get::<String, _>(name).map_err(failed);
    let at = |name: &str| time(row.try_get(name).map_err(failed)?);
    let maybe_at = |name: &str| maybe_time(row.try_get(name).map_err(failed)?);
    let conf: Option<&str> = row.try_get("conf").map_err(failed)?;
    Ok(RunRow {
        pk: RunPk(row.try_get("pk").map_err(failed)?),
        dag_id: text("dag_id")?.into(),
        run_id: text("run_id")?.into(),
        run_type: text("run_type")?.parse().map_err(corrupt)?,
        state: text("state")?.parse().map_err(corrupt)?,
        logical_date: at("logical_date")?,
        data_interval: DataInterval { start: at("interval_start")?, end: at("interval_end")? },
        run_after: at("run_after")?,
        queued_at: at("queued_at")?,
        started_at: maybe_at("started_at")?,
        ended_at: maybe_at("ended_at")?,
        conf: conf.map(serde_json::from_str::<Value>).transpose().map_err(corrupt)?,
        fingerprint: text("fingerprint")?,
        generation: row.try_get("generation").map_err(failed)?,
        triggered_by: text("triggered_by")?,
        ignores_past: row.try_get("ignores_past").map_err(failed)?,
        reason: row.try_get("reason").map_err(failed)?,
    })
}

/// Lists runs. The text is built of fixed parts; all that the filter says is bound.
pub(super) async fn list(pool: &SqlitePool, filter: &RunFilter) -> StoreResult<Vec<RunRow>> {
    // Said in words, the states of runs that are not finished lead to the index of these few runs.
    let only_active = !filter.states.is_empty() && filter.states.iter().all(|state| !state.is_finished());
    let mut sql = String::from(if only_active {
        "SELECT * FROM af_run INDEXED BY af_run_active WHERE state IN ('queued', 'running')"
    } else {
        "SELECT * FROM af_run WHERE true"
    });
    let words = |states: Vec<&str>| serde_json::to_string(&states).map_err(corrupt);
    let states = words(filter.states.iter().map(|state| state.as_str()).collect())?;
    let types = words(filter.types.iter().map(|kind| kind.as_str()).collect())?;
    let parts = [
        (filter.dag_id.is_some(), " AND dag_id = ?1"),
        (filter.run_id.is_some(), " AND run_id = ?2"),
        (!filter.states.is_empty(), " AND state IN (SELECT value FROM json_each(?3))"),
        (!filter.types.is_empty(), " AND run_type IN (SELECT value FROM json_each(?4))"),
        (filter.from.is_some(), " AND logical_date >= ?5"),
        (filter.to.is_some(), " AND logical_date <= ?6"),
    ];
    sql.extend(parts.iter().filter(|(wanted, _)| *wanted).map(|(_, part)| *part));
    sql.push_str(if filter.newest_first {
        " ORDER BY logical_date DESC, pk DESC"
    } else {
        " ORDER BY logical_date, pk"
    });
    sql.push_str(" LIMIT ?7 OFFSET ?8");
    let query: Query<'_, Sqlite, SqliteArguments> = sqlx::query(AssertSqlSafe(sql))
        .bind(filter.dag_id.as_ref().map(DagId::as_str))
        .bind(filter.run_id.as_ref().map(RunId::as_str))
        .bind(states)
        .bind(types)
        .bind(filter.from.map(ceil_micros))
        .bind(filter.to.map(|time| time.timestamp_micros()))
        .bind(filter.limit.map_or(-1, i64::from))
        .bind(i64::from(filter.offset));
    query.fetch_all(pool).await.map_err(failed)?.iter().map(run_row).collect()
}

/// The first stored time that is not before `time`.
fn ceil_micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros() + i64::from(rules::micros(time) < time)
}

/// Loads a run and all that decisions need in one statement, so that all of it is of one moment.
pub(super) async fn load(
    pool: &SqlitePool,
    run: RunPk,
    past: Option<&PastQuery>,
) -> StoreResult<Option<RunSnapshot>> {
    const LOAD: &str = concat!(
        "SELECT r.*, (",
        tis_sql!("r.pk"),
        ") AS tis,
        (SELECT json_group_array(json_array(owner, length) ORDER BY owner) FROM af_expansion
            WHERE run = r.pk) AS expansions,
        (SELECT json_group_array(json_array(task_id, map_index, value) ORDER BY task_id, map_index) FROM af_xcom
            WHERE run = r.pk AND key = 'skipmixin_key') AS skips,
        p.pk AS past_pk, (",
        tis_sql!("p.pk"),
        ") AS past_tis
        FROM af_run r LEFT JOIN af_run p ON p.pk =
            (SELECT b.pk FROM af_run b WHERE ?2 AND b.dag_id = r.dag_id AND b.logical_date < r.logical_date
                AND (NOT ?3 OR b.run_type IN (?4, ?5)) ORDER BY b.logical_date DESC, b.pk DESC LIMIT 1)
        WHERE r.pk = ?1"
    );
    let query = sqlx::query(LOAD)
        .bind(run.0)
        .bind(past.is_some())
        .bind(past.is_some_and(|query| query.scheduled_only))
        .bind(RunType::Scheduled.as_str())
        .bind(RunType::Backfill.as_str());
    let Some(row) = query.fetch_optional(pool).await.map_err(failed)? else { return Ok(None) };
    let expansions = view::column::<(TaskId, u32)>(&row, "expansions")?;
    let skips = view::column::<(TaskId, MapIndex, String)>(&row, "skips")?;
    let skip = |(task, map_index, text): (TaskId, MapIndex, String)| {
        let value: Value = serde_json::from_str(&text).ok()?;
        Some((task, map_index, rules::skip_record(&value)?))
    };
    let past_pk: Option<i64> = row.try_get("past_pk").map_err(failed)?;
    let past = match past_pk {
        Some(pk) => Some(PastRun { pk: RunPk(pk), tis: tasks::ti_rows(&row, "past_tis")? }),
        None => None,
    };
    Ok(Some(RunSnapshot {
        run: run_row(&row)?,
        tis: tasks::ti_rows(&row, "tis")?,
        expansions: expansions.into_iter().map(|(owner, length)| Expansion { owner, length }).collect(),
        skips: skips.into_iter().filter_map(skip).collect(),
        past,
    }))
}

/// Deletes a run; what refers to it goes with it.
pub(super) async fn delete(conn: &mut SqliteConnection, run: RunPk) -> StoreResult<bool> {
    const DELETE: &str = "DELETE FROM af_run WHERE pk = ?1";
    let done = sqlx::query(DELETE).bind(run.0).execute(conn).await.map_err(failed)?;
    Ok(done.rows_affected() > 0)
}

/// Which runs a clean-up deletes: ended before `?1`, and not the newest of their dag. Numbers above `?2`.
macro_rules! cleanable {
    () => {
        "SELECT pk FROM af_run r WHERE r.state IN ('success', 'failed') AND r.ended_at < ?1 AND r.pk > ?2
         AND EXISTS (SELECT 1 FROM af_run n WHERE n.dag_id = r.dag_id
                     AND (n.logical_date > r.logical_date OR (n.logical_date = r.logical_date AND n.pk > r.pk)))
         ORDER BY pk LIMIT ?3"
    };
}

/// The rows of the next runs to delete: highest number, and one count for each table.
const COUNT_BATCH: &str = concat!(
    "WITH gone AS MATERIALIZED (",
    cleanable!(),
    ") SELECT (SELECT max(pk) FROM gone) AS last, (SELECT count(*) FROM gone) AS runs,
       (SELECT count(*) FROM af_ti WHERE run IN (SELECT pk FROM gone)) AS tis,
       (SELECT count(*) FROM af_attempt WHERE run IN (SELECT pk FROM gone)) AS attempts,
       (SELECT count(*) FROM af_event WHERE run IN (SELECT pk FROM gone)) AS events,
       (SELECT count(*) FROM af_xcom WHERE run IN (SELECT pk FROM gone)) AS xcoms"
);

/// Counts, and unless it is a rehearsal deletes, the next runs after `after`. Says the last of them, if there are any.
pub(super) async fn clean_batch(
    conn: &mut SqliteConnection,
    before: DateTime<Utc>,
    after: RunPk,
    dry_run: bool,
) -> StoreResult<Option<(RunPk, [u64; 5])>> {
    const DELETE: &str = concat!("DELETE FROM af_run WHERE pk IN (", cleanable!(), ")");
    let before = ceil_micros(before);
    let query = sqlx::query(COUNT_BATCH).bind(before).bind(after.0).bind(CLEAN_RUNS);
    let row = query.fetch_one(&mut *conn).await.map_err(failed)?;
    let last: Option<i64> = row.try_get("last").map_err(failed)?;
    let Some(last) = last else { return Ok(None) };
    let mut counts = [0; 5];
    for (count, name) in counts.iter_mut().zip(["runs", "tis", "attempts", "events", "xcoms"]) {
        let rows: i64 = row.try_get(name).map_err(failed)?;
        *count = u64::try_from(rows).map_err(corrupt)?;
    }
    if !dry_run {
        let query = sqlx::query(DELETE).bind(before).bind(after.0).bind(CLEAN_RUNS);
        query.execute(conn).await.map_err(failed)?;
    }
    Ok(Some((RunPk(last), counts)))
}

/// Deletes some old entries of the audit log; says how many.
pub(super) async fn clean_audit(conn: &mut SqliteConnection, before: DateTime<Utc>) -> StoreResult<u64> {
    const DELETE: &str =
        "DELETE FROM af_audit WHERE id IN (SELECT id FROM af_audit WHERE at < ?1 ORDER BY at LIMIT ?2)";
    let query = sqlx::query(DELETE).bind(ceil_micros(before)).bind(CLEAN_AUDIT);
    Ok(query.execute(conn).await.map_err(failed)?.rows_affected())
}

/// How many entries of the audit log are old.
pub(super) async fn count_audit(conn: &mut SqliteConnection, before: DateTime<Utc>) -> StoreResult<u64> {
    const COUNT: &str = "SELECT count(*) FROM af_audit WHERE at < ?1";
    let count: i64 =
        sqlx::query_scalar(COUNT).bind(ceil_micros(before)).fetch_one(conn).await.map_err(failed)?;
    u64::try_from(count).map_err(corrupt)
}
