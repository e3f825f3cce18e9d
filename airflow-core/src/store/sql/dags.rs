//! Dags and their versions.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::id::DagId;
use crate::state::TaskState;
use crate::store::rules;
use crate::store::{Advance, DagRecord, DagRow, DagVersion, NextRun, StoreResult};
use crate::timetable::DataInterval;

use super::errors::corrupt;
use super::json::{Rows, apart};
use super::{Conn, Row, assets, query, watchers};

/// Makes dags and their versions known. Runs in a transaction of the caller.
pub(in crate::store) async fn sync(
    conn: &mut Conn<'_>,
    records: &[DagRecord],
    now: DateTime<Utc>,
) -> StoreResult<Vec<DagRow>> {
    // MySQL sets columns from left to right: what others are computed from comes last.
    const DAGS: &str = "
        INSERT INTO af_dag (dag_id, is_paused, fingerprint, version, schedule, description, owners, tags,
                            next_start, next_end, next_after, last_seen)
        SELECT j.id, j.paused, j.print, 1, j.timing, j.words, j.people, j.labels, j.a, j.b, j.c, ?2
        FROM ROWS(?1, id NAME, paused FLAG, print NAME, timing TEXT, words TEXT, people TEXT, labels TEXT, a TIME, b TIME,
                  c TIME) j
        WHERE true ORDER BY j.ord
        ON CONFLICT (dag_id) DO UPDATE SET
            next_start = CASE WHEN af_dag.next_after IS NULL THEN excluded.next_start ELSE af_dag.next_start END,
            next_end = CASE WHEN af_dag.next_after IS NULL THEN excluded.next_end ELSE af_dag.next_end END,
            next_after = coalesce(af_dag.next_after, excluded.next_after),
            fingerprint = excluded.fingerprint, schedule = excluded.schedule, description = excluded.description,
            owners = excluded.owners, tags = excluded.tags, last_seen = excluded.last_seen";
    const UNKNOWN: &str = "
        SELECT j.id FROM ROWS(?1, id NAME, paused FLAG, print NAME) j
        WHERE NOT EXISTS (SELECT 1 FROM af_dag_version v WHERE v.dag_id = j.id AND v.fingerprint = j.print)
        ORDER BY j.ord";
    // A statement for each: the structure may be long, and is rarely new. SQLite would copy it twice if the statement that writes
    // it also read the table.
    const NEXT: &str = "SELECT 1 + coalesce(max(number), 0) AS number FROM af_dag_version WHERE dag_id = ?1";
    const VERSION: &str = "
        INSERT INTO af_dag_version (dag_id, number, fingerprint, structure, created_at) VALUES (?1, ?2, ?3, ?4, ?5)";
    const CURRENT: &str = "
        UPDATE af_dag SET version = (SELECT v.number FROM af_dag_version v
                                     WHERE v.dag_id = af_dag.dag_id AND v.fingerprint = af_dag.fingerprint)
        FROM ROWS(?1, id NAME) j WHERE af_dag.dag_id = j.id";
    for mut part in apart(records, |record| vec![record.dag_id.clone()]) {
        // In the order in which dags are locked.
        part.sort_by_key(|(_, record)| &record.dag_id);
        let mut rows = conn.rows();
        for (_, record) in &part {
            write_record(&mut rows, record)?;
        }
        let json = rows.finish();
        query(DAGS).bind(json.as_deref()).bind(now).execute(conn).await?;
        for row in query(UNKNOWN).bind(json.as_deref()).fetch_all(conn).await? {
            let id = row.text("id")?;
            let Ok(at) = part.binary_search_by(|(_, record)| record.dag_id.as_str().cmp(&id)) else {
                continue;
            };
            let (_, record) = part[at];
            let next = query(NEXT).bind(record.dag_id.as_str()).fetch_all(conn).await?;
            let number: i64 = next.first().map_or(Ok(1), |row| row.num("number"))?;
            let version = query(VERSION).bind(record.dag_id.as_str()).bind(number);
            let version = version.bind(record.fingerprint.as_str()).bind(record.structure.to_text());
            version.bind(now).execute(conn).await?;
        }
        query(CURRENT).bind(json.as_deref()).execute(conn).await?;
    }
    assets::sync(conn, records, now).await?;
    listed(conn, records).await
}

fn write_record(rows: &mut Rows, record: &DagRecord) -> StoreResult<()> {
    let tags = serde_json::to_string(&record.tags).map_err(corrupt)?;
    let row =
        rows.row().text(record.dag_id.as_str()).int(record.paused_at_creation).text(&record.fingerprint);
    let row = row.text(&record.schedule).maybe_text(record.description.as_deref()).text(&record.owners);
    let row = row.text(&tags).maybe_time(record.next.map(|next| next.data_interval.start));
    let row = row.maybe_time(record.next.map(|next| next.data_interval.end));
    row.maybe_time(record.next.map(|next| next.run_after)).end();
    Ok(())
}

async fn listed(conn: &mut Conn<'_>, records: &[DagRecord]) -> StoreResult<Vec<DagRow>> {
    const LISTED: &str =
        "SELECT d.* FROM ROWS(?1, id NAME) j CROSS JOIN af_dag d ON d.dag_id = j.id ORDER BY j.ord";
    let ids = conn.list(records.iter().map(|record| record.dag_id.as_str()));
    query(LISTED).bind(ids).fetch_all(conn).await?.iter().map(dag_row).collect()
}

/// All dags.
pub(in crate::store) async fn list(conn: &mut Conn<'_>) -> StoreResult<Vec<DagRow>> {
    const LIST: &str = "SELECT * FROM af_dag ORDER BY dag_id";
    query(LIST).fetch_all(conn).await?.iter().map(dag_row).collect()
}

/// One dag.
pub(in crate::store) async fn get(conn: &mut Conn<'_>, dag_id: &DagId) -> StoreResult<Option<DagRow>> {
    const GET: &str = "SELECT * FROM af_dag WHERE dag_id = ?1";
    query(GET).bind(dag_id.as_str()).fetch_optional(conn).await?.as_ref().map(dag_row).transpose()
}

fn dag_row(row: &Row) -> StoreResult<DagRow> {
    let interval = |start: Option<DateTime<Utc>>, end: Option<DateTime<Utc>>| {
        Some(DataInterval { start: start?, end: end? })
    };
    let next = interval(row.maybe_time("next_start")?, row.maybe_time("next_end")?);
    let next = next.zip(row.maybe_time("next_after")?);
    Ok(DagRow {
        dag_id: row.text("dag_id")?.into(),
        is_paused: row.flag("is_paused")?,
        fingerprint: row.text("fingerprint")?,
        version: row.num("version")?,
        schedule: row.text("schedule")?,
        description: row.maybe_text("description")?,
        owners: row.text("owners")?,
        tags: row.json("tags")?,
        last_interval: interval(row.maybe_time("last_start")?, row.maybe_time("last_end")?),
        next: next.map(|(data_interval, run_after)| NextRun { data_interval, run_after }),
        last_seen: row.time("last_seen")?,
    })
}

/// All versions of a dag, newest first.
pub(in crate::store) async fn versions(conn: &mut Conn<'_>, dag_id: &DagId) -> StoreResult<Vec<DagVersion>> {
    const LIST: &str = "SELECT * FROM af_dag_version WHERE dag_id = ?1 ORDER BY number DESC";
    query(LIST).bind(dag_id.as_str()).fetch_all(conn).await?.iter().map(version_row).collect()
}

/// Reads a row of `af_dag_version`.
pub(super) fn version_row(row: &Row) -> StoreResult<DagVersion> {
    Ok(DagVersion {
        number: row.num("number")?,
        fingerprint: row.text("fingerprint")?,
        structure: row.json("structure")?,
        created_at: row.time("created_at")?,
    })
}

/// Pauses or unpauses a dag; says whether there is one.
pub(in crate::store) async fn set_paused(
    conn: &mut Conn<'_>,
    dag_id: &DagId,
    paused: bool,
) -> StoreResult<bool> {
    const SET: &str = "UPDATE af_dag SET is_paused = ?2 WHERE dag_id = ?1";
    Ok(query(SET).bind(dag_id.as_str()).bind(paused).execute(conn).await? > 0)
}

/// Remembers how far the timetables of dags have come. Dags that do not exist are passed over; says how many did.
pub(in crate::store) async fn advance_all(
    conn: &mut Conn<'_>,
    advances: &BTreeMap<&DagId, Advance>,
) -> StoreResult<u64> {
    const ADVANCE: &str = "
        UPDATE af_dag SET last_start = coalesce(j.a, last_start), last_end = coalesce(j.b, last_end),
            next_start = j.c, next_end = j.d, next_after = j.e
        FROM ROWS(?1, id NAME, a TIME, b TIME, c TIME, d TIME, e TIME) j WHERE af_dag.dag_id = j.id";
    let mut rows = conn.rows();
    for (dag_id, advance) in advances {
        let (last, next) = (advance.last_interval, advance.next);
        let row = rows.row().text(dag_id.as_str()).maybe_time(last.map(|last| last.start));
        let row = row.maybe_time(last.map(|last| last.end));
        let row = row.maybe_time(next.map(|next| next.data_interval.start));
        let row = row.maybe_time(next.map(|next| next.data_interval.end));
        row.maybe_time(next.map(|next| next.run_after)).end();
    }
    let Some(json) = rows.finish() else { return Ok(0) };
    query(ADVANCE).bind(json).execute(conn).await
}

/// Remembers how far the timetable of one dag has come.
pub(in crate::store) async fn advance(
    conn: &mut Conn<'_>,
    dag_id: &DagId,
    advance: Advance,
) -> StoreResult<()> {
    match advance_all(conn, &BTreeMap::from([(dag_id, advance)])).await? {
        0 => Err(rules::no_dag(dag_id)),
        _ => Ok(()),
    }
}

/// Refuses dags that do not exist, and keeps others from changing those that do until the transaction ends. Dags are
/// locked before runs and runs before limits, each in the order of their keys, so that nobody waits in a circle.
pub(in crate::store) async fn lock_all(
    conn: &mut Conn<'_>,
    dags: impl Iterator<Item = &DagId>,
) -> StoreResult<()> {
    const LOCK: &str = "
        SELECT d.dag_id FROM ROWS(?1, id NAME) j CROSS JOIN af_dag d ON d.dag_id = j.id
        ORDER BY d.dag_id FOR NO KEY UPDATE";
    let ids: Vec<&DagId> = dags.collect();
    let list = conn.list(ids.iter().collect::<BTreeSet<_>>().into_iter().map(|id| id.as_str()));
    let found = query(LOCK).bind(list).fetch_all(conn).await?;
    let found: BTreeSet<DagId> =
        found.iter().map(|row| Ok(row.text("dag_id")?.into())).collect::<StoreResult<_>>()?;
    match ids.into_iter().find(|id| !found.contains(*id)) {
        Some(missing) => Err(rules::no_dag(missing)),
        None => Ok(()),
    }
}

/// Deletes a dag; its versions and runs go with it. Says how many runs. Runs in a transaction of the caller.
pub(in crate::store) async fn delete(conn: &mut Conn<'_>, dag_id: &DagId) -> StoreResult<u64> {
    const RUNS: &str = "SELECT pk FROM af_run WHERE dag_id = ?1 ORDER BY pk FOR UPDATE";
    const BUSY: &str = "
        SELECT count(*) AS busy FROM af_run r JOIN af_ti t ON t.run = r.pk
        WHERE r.dag_id = ?1 AND t.state IN (SELECT j.state FROM ROWS(?2, state NAME) j)";
    const SLOTS: &str = "DELETE FROM af_slot WHERE kind NOT IN (0, 4) AND name = ?1";
    const DELETE: &str = "DELETE FROM af_dag WHERE dag_id = ?1";
    lock_all(conn, std::iter::once(dag_id)).await?;
    let runs = query(RUNS).bind(dag_id.as_str()).fetch_all(conn).await?.len();
    let keeping = TaskState::ALL.iter().filter(|state| rules::keeps_dag(**state)).map(|state| state.as_str());
    let keeping = conn.list(keeping);
    let row = query(BUSY).bind(dag_id.as_str()).bind(keeping).fetch_one(conn).await?;
    if row.num::<i64>("busy")? > 0 {
        return Err(rules::still_running(dag_id));
    }
    watchers::forget_dag(conn, dag_id).await?;
    for sql in [SLOTS, DELETE] {
        query(sql).bind(dag_id.as_str()).execute(conn).await?;
    }
    u64::try_from(runs).map_err(corrupt)
}
