//! Dags and their versions.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, SqlitePool};

use crate::id::DagId;
use crate::state::TaskState;
use crate::store::rules;
use crate::store::{Advance, DagRecord, DagRow, DagVersion, NextRun, StoreResult};
use crate::timetable::DataInterval;

use super::errors::{corrupt, failed};
use super::json::{Rows, apart, maybe_time, time};

/// Makes dags and their versions known. Runs in a transaction of the caller.
pub(super) async fn sync(
    conn: &mut SqliteConnection,
    records: Vec<DagRecord>,
    now: DateTime<Utc>,
) -> StoreResult<Vec<DagRow>> {
    const DAGS: &str = "
        INSERT INTO af_dag (dag_id, is_paused, fingerprint, version, schedule, description, owners, tags,
                            next_start, next_end, next_after, last_seen)
        SELECT j.value ->> 0, j.value ->> 1, j.value ->> 2, 1, j.value ->> 3, j.value ->> 4, j.value ->> 5,
               j.value ->> 6, j.value ->> 7, j.value ->> 8, j.value ->> 9, ?2
        FROM json_each(?1) j WHERE true
        ON CONFLICT DO UPDATE SET
            next_start = iif(next_after IS NULL, excluded.next_start, next_start),
            next_end = iif(next_after IS NULL, excluded.next_end, next_end),
            next_after = coalesce(next_after, excluded.next_after),
            fingerprint = excluded.fingerprint, schedule = excluded.schedule, description = excluded.description,
            owners = excluded.owners, tags = excluded.tags, last_seen = excluded.last_seen";
    const VERSIONS: &str = "
        INSERT INTO af_dag_version (dag_id, number, fingerprint, structure, created_at)
        SELECT j.value ->> 0,
               1 + coalesce((SELECT max(number) FROM af_dag_version v WHERE v.dag_id = j.value ->> 0), 0),
               j.value ->> 2, j.value ->> 10, ?2
        FROM json_each(?1) j WHERE true ON CONFLICT DO NOTHING";
    const CURRENT: &str = "
        UPDATE af_dag SET version = (SELECT number FROM af_dag_version v
                                     WHERE v.dag_id = af_dag.dag_id AND v.fingerprint = af_dag.fingerprint)
        WHERE dag_id IN (SELECT j.value ->> 0 FROM json_each(?1) j)";
    for part in apart(&records, |record| vec![record.dag_id.clone()]) {
        let mut rows = Rows::default();
        for (_, record) in part {
            write_record(&mut rows, record)?;
        }
        let json = rows.finish();
        for sql in [DAGS, VERSIONS, CURRENT] {
            let query = sqlx::query(sql).bind(json.as_deref()).bind(now.timestamp_micros());
            query.execute(&mut *conn).await.map_err(failed)?;
        }
    }
    listed(conn, &records).await
}

fn write_record(rows: &mut Rows, record: &DagRecord) -> StoreResult<()> {
    let tags = serde_json::to_string(&record.tags).map_err(corrupt)?;
    let row =
        rows.row().text(record.dag_id.as_str()).int(record.paused_at_creation).text(&record.fingerprint);
    let row = row.text(&record.schedule).maybe_text(record.description.as_deref()).text(&record.owners);
    let row = row.text(&tags).maybe_time(record.next.map(|next| next.data_interval.start));
    let row = row.maybe_time(record.next.map(|next| next.data_interval.end));
    row.maybe_time(record.next.map(|next| next.run_after)).text(&record.structure.to_string()).end();
    Ok(())
}

async fn listed(conn: &mut SqliteConnection, records: &[DagRecord]) -> StoreResult<Vec<DagRow>> {
    const LISTED: &str = "SELECT d.* FROM json_each(?1) j JOIN af_dag d ON d.dag_id = j.value ORDER BY j.key";
    let ids: Vec<&DagId> = records.iter().map(|record| &record.dag_id).collect();
    let ids = serde_json::to_string(&ids).map_err(corrupt)?;
    sqlx::query(LISTED).bind(ids).fetch_all(conn).await.map_err(failed)?.iter().map(dag_row).collect()
}

/// All dags.
pub(super) async fn list(pool: &SqlitePool) -> StoreResult<Vec<DagRow>> {
    const LIST: &str = "SELECT * FROM af_dag ORDER BY dag_id";
    sqlx::query(LIST).fetch_all(pool).await.map_err(failed)?.iter().map(dag_row).collect()
}

/// One dag.
pub(super) async fn get(pool: &SqlitePool, dag_id: &DagId) -> StoreResult<Option<DagRow>> {
    const GET: &str = "SELECT * FROM af_dag WHERE dag_id = ?1";
    let row = sqlx::query(GET).bind(dag_id.as_str()).fetch_optional(pool).await.map_err(failed)?;
    row.as_ref().map(dag_row).transpose()
}

fn dag_row(row: &SqliteRow) -> StoreResult<DagRow> {
    let text = |name: &str| row.try_get::<String, _>(name).map_err(failed);
    let maybe_at = |name: &str| maybe_time(row.try_get(name).map_err(failed)?);
    let interval = |start: Option<DateTime<Utc>>, end: Option<DateTime<Utc>>| {
        Some(DataInterval { start: start?, end: end? })
    };
    let next = interval(maybe_at("next_start")?, maybe_at("next_end")?);
    let next = next.zip(maybe_at("next_after")?);
    Ok(DagRow {
        dag_id: text("dag_id")?.into(),
        is_paused: row.try_get("is_paused").map_err(failed)?,
        fingerprint: text("fingerprint")?,
        version: row.try_get("version").map_err(failed)?,
        schedule: text("schedule")?,
        description: row.try_get("description").map_err(failed)?,
        owners: text("owners")?,
        tags: serde_json::from_str(&text("tags")?).map_err(corrupt)?,
        last_interval: interval(maybe_at("last_start")?, maybe_at("last_end")?),
        next: next.map(|(data_interval, run_after)| NextRun { data_interval, run_after }),
        last_seen: time(row.try_get("last_seen").map_err(failed)?)?,
    })
}

/// All versions of a dag, newest first.
pub(super) async fn versions(pool: &SqlitePool, dag_id: &DagId) -> StoreResult<Vec<DagVersion>> {
    const LIST: &str = "SELECT * FROM af_dag_version WHERE dag_id = ?1 ORDER BY number DESC";
    let rows = sqlx::query(LIST).bind(dag_id.as_str()).fetch_all(pool).await.map_err(failed)?;
    let version = |row: &SqliteRow| {
        let structure: &str = row.try_get("structure").map_err(failed)?;
        Ok(DagVersion {
            number: row.try_get("number").map_err(failed)?,
            fingerprint: row.try_get("fingerprint").map_err(failed)?,
            structure: serde_json::from_str(structure).map_err(corrupt)?,
            created_at: time(row.try_get("created_at").map_err(failed)?)?,
        })
    };
    rows.iter().map(version).collect()
}

/// Pauses or unpauses a dag; says whether there is one.
pub(super) async fn set_paused(
    conn: &mut SqliteConnection,
    dag_id: DagId,
    paused: bool,
) -> StoreResult<bool> {
    const SET: &str = "UPDATE af_dag SET is_paused = ?2 WHERE dag_id = ?1";
    let done = sqlx::query(SET).bind(dag_id.as_str()).bind(paused).execute(conn).await.map_err(failed)?;
    Ok(done.rows_affected() > 0)
}

/// Remembers how far the timetables of dags have come. Dags that do not exist are passed over; says how many did.
pub(super) async fn advance_all(
    conn: &mut SqliteConnection,
    advances: &BTreeMap<&DagId, Advance>,
) -> StoreResult<u64> {
    const ADVANCE: &str = "
        UPDATE af_dag SET last_start = coalesce(j.value ->> 1, last_start),
            last_end = coalesce(j.value ->> 2, last_end),
            next_start = j.value ->> 3, next_end = j.value ->> 4, next_after = j.value ->> 5
        FROM json_each(?1) j WHERE dag_id = j.value ->> 0";
    let mut rows = Rows::default();
    for (dag_id, advance) in advances {
        let (last, next) = (advance.last_interval, advance.next);
        let row = rows.row().text(dag_id.as_str()).maybe_time(last.map(|last| last.start));
        let row = row.maybe_time(last.map(|last| last.end));
        let row = row.maybe_time(next.map(|next| next.data_interval.start));
        let row = row.maybe_time(next.map(|next| next.data_interval.end));
        row.maybe_time(next.map(|next| next.run_after)).end();
    }
    let Some(json) = rows.finish() else { return Ok(0) };
    Ok(sqlx::query(ADVANCE).bind(json).execute(conn).await.map_err(failed)?.rows_affected())
}

/// Remembers how far the timetable of one dag has come.
pub(super) async fn advance(conn: &mut SqliteConnection, dag_id: DagId, advance: Advance) -> StoreResult<()> {
    match advance_all(conn, &BTreeMap::from([(&dag_id, advance)])).await? {
        0 => Err(rules::no_dag(&dag_id)),
        _ => Ok(()),
    }
}

/// Refuses dags that do not exist.
pub(super) async fn all_known(
    conn: &mut SqliteConnection,
    dags: impl Iterator<Item = &DagId>,
) -> StoreResult<()> {
    const MISSING: &str = "
        SELECT j.value FROM json_each(?1) j
        WHERE NOT EXISTS (SELECT 1 FROM af_dag WHERE dag_id = j.value) LIMIT 1";
    let mut seen = BTreeSet::new();
    let ids: Vec<&DagId> = dags.filter(|id| seen.insert(*id)).collect();
    let ids = serde_json::to_string(&ids).map_err(corrupt)?;
    let missing: Option<String> =
        sqlx::query_scalar(MISSING).bind(ids).fetch_optional(conn).await.map_err(failed)?;
    match missing {
        Some(id) => Err(rules::no_dag(&id.into())),
        None => Ok(()),
    }
}

/// Deletes a dag; its versions and runs go with it. Says how many runs. Runs in a transaction of the caller.
pub(super) async fn delete(conn: &mut SqliteConnection, dag_id: DagId) -> StoreResult<u64> {
    const STANDS: &str = "
        SELECT (SELECT count(*) FROM af_dag WHERE dag_id = ?1) AS dags,
               (SELECT count(*) FROM af_run WHERE dag_id = ?1) AS runs,
               EXISTS (SELECT 1 FROM af_run r JOIN af_ti t ON t.run = r.pk
                       WHERE r.dag_id = ?1 AND t.state IN (SELECT value FROM json_each(?2))) AS busy";
    const SLOTS: &str = "DELETE FROM af_slot WHERE kind <> 0 AND name = ?1";
    const DELETE: &str = "DELETE FROM af_dag WHERE dag_id = ?1";
    let keeping: Vec<TaskState> =
        TaskState::ALL.iter().copied().filter(|state| rules::keeps_dag(*state)).collect();
    let keeping = serde_json::to_string(&keeping).map_err(corrupt)?;
    let query = sqlx::query(STANDS).bind(dag_id.as_str()).bind(keeping);
    let row = query.fetch_one(&mut *conn).await.map_err(failed)?;
    let runs: i64 = row.try_get("runs").map_err(failed)?;
    if row.try_get::<i64, _>("dags").map_err(failed)? == 0 {
        return Err(rules::no_dag(&dag_id));
    }
    if row.try_get("busy").map_err(failed)? {
        return Err(rules::still_running(&dag_id));
    }
    for sql in [SLOTS, DELETE] {
        sqlx::query(sql).bind(dag_id.as_str()).execute(&mut *conn).await.map_err(failed)?;
    }
    u64::try_from(runs).map_err(corrupt)
}
