//! Watchers of assets: which process runs one, and how far it has come.

use chrono::{DateTime, Utc};

use crate::asset::WatcherKey;
use crate::id::{DagId, IncarnationId};
use crate::store::{StoreResult, WatchedEvent, WatcherRow};

use super::errors::corrupt;
use super::{Conn, Row, assets, query};

/// Whether a dag that is not paused waits for the asset of a watcher that a dag names.
macro_rules! wanted {
    ($watcher:literal) => {
        concat!(
            "(EXISTS (SELECT 1 FROM af_asset_ref f WHERE f.asset_key = ",
            $watcher,
            ".asset_key AND f.role = 'watcher' AND f.task_id = ",
            $watcher,
            ".name) AND EXISTS (SELECT 1 FROM af_asset_ref f JOIN af_dag d ON d.dag_id = f.dag_id
                 WHERE f.asset_key = ",
            $watcher,
            ".asset_key AND f.role = 'schedule' AND NOT d.is_paused))"
        )
    };
}

/// What is read of watchers `w` and their assets `s`.
pub(super) const SELECT: &str = concat!(
    "SELECT w.*, s.name AS called,
        EXISTS (SELECT 1 FROM af_asset_ref f WHERE f.asset_key = w.asset_key AND f.role = 'watcher'
                AND f.task_id = w.name) AS is_named,
        EXISTS (SELECT 1 FROM af_incarnation i WHERE i.id = w.incarnation AND i.ended_at IS NULL) AS is_owned, ",
    wanted!("w"),
    " AS is_wanted"
);

/// All watchers.
pub(in crate::store) async fn list(conn: &mut Conn<'_>) -> StoreResult<Vec<WatcherRow>> {
    let list = format!(
        "{SELECT} FROM af_watcher w JOIN af_asset s ON s.asset_key = w.asset_key ORDER BY w.asset_key, w.name"
    );
    query(list).fetch_all(conn).await?.iter().map(watcher_row).collect()
}

/// Reads a row of `af_watcher` with what [`SELECT`] adds.
pub(super) fn watcher_row(row: &Row) -> StoreResult<WatcherRow> {
    let owner = row.maybe_id("incarnation")?.map(IncarnationId);
    let is_owned = row.flag("is_owned")?;
    Ok(WatcherRow {
        key: WatcherKey { asset: row.text("asset_key")?.into(), name: row.text("name")? },
        asset: row.text("called")?,
        is_named: row.flag("is_named")?,
        is_wanted: row.flag("is_wanted")?,
        owner: owner.filter(|_| is_owned),
        cursor: row.maybe_json("reached")?,
        events: row.num("events")?,
        last_event: row.maybe_time("last_event")?,
        failures: row.num("failures")?,
        error: row.maybe_text("error")?,
        failed_at: row.maybe_time("failed_at")?,
        updated_at: row.time("updated_at")?,
    })
}

/// Gives a process the watchers that are to run and that nobody alive has; returns those that it has now. Runs in a
/// transaction of the caller. Of two that ask at the same time the second waits for the row, and finds that the first has it:
/// who is alive is asked by the statement after the one that locks, as PostgreSQL does not ask again after a wait.
pub(in crate::store) async fn claim(
    conn: &mut Conn<'_>,
    keys: &[WatcherKey],
    process: IncarnationId,
) -> StoreResult<Vec<WatcherRow>> {
    const LOCK: &str = "
        SELECT w.name FROM ROWS(?1, a NAME, n NAME) j
            CROSS JOIN af_watcher w ON w.asset_key = j.a AND w.name = j.n
        ORDER BY w.asset_key, w.name FOR NO KEY UPDATE";
    const CLAIM: &str = concat!(
        "UPDATE af_watcher SET incarnation = ?2 FROM ROWS(?1, a NAME, n NAME) j
         WHERE af_watcher.asset_key = j.a AND af_watcher.name = j.n
            AND NOT EXISTS (SELECT 1 FROM af_incarnation i
                            WHERE i.id = af_watcher.incarnation AND i.ended_at IS NULL)
            AND EXISTS (SELECT 1 FROM af_incarnation i WHERE i.id = ?2 AND i.ended_at IS NULL) AND ",
        wanted!("af_watcher")
    );
    let mut rows = conn.rows();
    for key in keys {
        rows.row().text(key.asset.as_str()).text(&key.name).end();
    }
    let Some(listed) = rows.finish() else { return Ok(Vec::new()) };
    query(LOCK).bind(listed.as_str()).fetch_all(conn).await?;
    query(CLAIM).bind(listed.as_str()).bind(process.0).execute(conn).await?;
    let mut all = list(conn).await?;
    all.retain(|row| row.owner == Some(process) && row.is_wanted && keys.contains(&row.key));
    Ok(all)
}

/// Writes an event and how far its watcher has come, if the watcher is this process's and nobody has written since. Runs in
/// a transaction of the caller.
pub(in crate::store) async fn add(
    conn: &mut Conn<'_>,
    process: IncarnationId,
    watched: &WatchedEvent,
) -> StoreResult<bool> {
    const ADVANCE: &str = "
        UPDATE af_watcher SET reached = ?5, events = events + 1, last_event = ?6, updated_at = ?6, failures = 0
        WHERE asset_key = ?1 AND name = ?2 AND incarnation = ?3 AND events = ?4
            AND EXISTS (SELECT 1 FROM af_incarnation i WHERE i.id = ?3 AND i.ended_at IS NULL)";
    let advance = query(ADVANCE)
        .bind(watched.key.asset.as_str())
        .bind(&watched.key.name)
        .bind(process.0)
        .bind(i64::try_from(watched.after).map_err(corrupt)?)
        .bind(watched.cursor.to_string())
        .bind(watched.event.at);
    if advance.execute(conn).await? == 0 {
        return Ok(false);
    }
    assets::add(conn, std::slice::from_ref(&watched.event)).await.map(|()| true)
}

/// Notes that a watcher of this process has failed, or works again; says whether it is this process's.
pub(in crate::store) async fn note(
    conn: &mut Conn<'_>,
    process: IncarnationId,
    key: &WatcherKey,
    error: Option<&str>,
    at: DateTime<Utc>,
) -> StoreResult<bool> {
    const FAILED: &str = "
        UPDATE af_watcher SET failures = failures + 1, error = ?5, failed_at = ?4, updated_at = ?4
        WHERE asset_key = ?1 AND name = ?2 AND incarnation = ?3";
    const WORKS: &str = "
        UPDATE af_watcher SET failures = 0, updated_at = ?4
        WHERE asset_key = ?1 AND name = ?2 AND incarnation = ?3";
    let sql = if error.is_some() { FAILED } else { WORKS };
    let note = query(sql).bind(key.asset.as_str()).bind(&key.name).bind(process.0).bind(at);
    let note = if error.is_some() { note.bind(error) } else { note };
    Ok(note.execute(conn).await? > 0)
}

/// Makes the watchers known that dags name. Runs in a transaction of the caller.
pub(in crate::store) async fn sync(
    conn: &mut Conn<'_>,
    keys: &[(&str, &str)],
    now: DateTime<Utc>,
) -> StoreResult<()> {
    const MEET: &str = "
        INSERT INTO af_watcher (asset_key, name, events, failures, updated_at)
        SELECT j.a, j.n, 0, 0, ?2 FROM ROWS(?1, a NAME, n NAME) j WHERE true
        ON CONFLICT (asset_key, name) DO UPDATE SET updated_at = excluded.updated_at";
    let mut rows = conn.rows();
    for (asset, name) in keys {
        rows.row().text(asset).text(name).end();
    }
    let Some(list) = rows.finish() else { return Ok(()) };
    query(MEET).bind(list).bind(now).execute(conn).await.map(|_| ())
}

/// Deletes the watchers that only this dag names. Runs in a transaction of the caller, before the dag goes.
pub(in crate::store) async fn forget_dag(conn: &mut Conn<'_>, dag_id: &DagId) -> StoreResult<()> {
    const FORGET: &str = "
        DELETE FROM af_watcher WHERE EXISTS
            (SELECT 1 FROM af_asset_ref f WHERE f.asset_key = af_watcher.asset_key AND f.role = 'watcher'
                AND f.task_id = af_watcher.name AND f.dag_id = ?1)
        AND NOT EXISTS
            (SELECT 1 FROM af_asset_ref f WHERE f.asset_key = af_watcher.asset_key AND f.role = 'watcher'
                AND f.task_id = af_watcher.name AND f.dag_id <> ?1)";
    query(FORGET).bind(dag_id.as_str()).execute(conn).await.map(|_| ())
}
