//! Events of assets that wait for dags to run.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::asset::AssetKey;
use crate::id::{DagId, RunPk};
use crate::store::rules::{self, Taken};
use crate::store::{NewRun, QueueFilter, QueuedAsset, QueuedEvent, StoreResult};
use crate::timetable::DataInterval;

use super::{Arg, Conn, Query, Row, dags, query};

/// What waits for dags.
pub(in crate::store) async fn queue(conn: &mut Conn<'_>) -> StoreResult<Vec<QueuedAsset>> {
    const WAITING: &str = "SELECT dag_id, asset_key, count(*) AS n FROM af_asset_queue WHERE counts
                           GROUP BY dag_id, asset_key ORDER BY dag_id, asset_key";
    let queued = |row: &Row| {
        Ok(QueuedAsset {
            dag_id: row.text("dag_id")?.into(),
            asset: row.text("asset_key")?.into(),
            events: row.num("n")?,
        })
    };
    query(WAITING).fetch_all(conn).await?.iter().map(queued).collect()
}

/// Which rows of the queue `q` with their events `e` a filter means, with what it binds. The text is built of fixed parts.
fn meant(filter: &QueueFilter) -> (String, Vec<Arg<'_>>) {
    let parts: [(&str, Option<Arg<'_>>); 3] = [
        ("q.dag_id = ?", filter.dag_id.as_ref().map(|id| id.as_str().into())),
        ("q.asset_key = ?", filter.asset.as_ref().map(|key| key.as_str().into())),
        ("e.at <= ?", filter.until.map(Into::into)),
    ];
    let (mut sql, mut args) = (String::new(), Vec::new());
    for (part, arg) in parts {
        let Some(arg) = arg else { continue };
        args.push(arg);
        write!(sql, " AND {}", part.replace('?', &format!("?{}", args.len())))
            .expect("writing to a string never fails");
    }
    (sql, args)
}

/// What waits for dags, one by one.
pub(in crate::store) async fn events(
    conn: &mut Conn<'_>,
    filter: &QueueFilter,
) -> StoreResult<Vec<QueuedEvent>> {
    let (meant, args) = meant(filter);
    let sql = format!(
        "SELECT q.dag_id, q.asset_key, q.event_id, q.counts, e.at
         FROM af_asset_queue q CROSS JOIN af_asset_event e ON e.event_id = q.event_id WHERE true{meant}
         ORDER BY q.dag_id, q.asset_key, e.at, q.event_id"
    );
    let queued = |row: &Row| {
        Ok(QueuedEvent {
            dag_id: row.text("dag_id")?.into(),
            asset: row.text("asset_key")?.into(),
            event: row.text("event_id")?.into(),
            at: row.time("at")?,
            counts: row.flag("counts")?,
        })
    };
    let bound = args.into_iter().fold(query(sql), Query::bind);
    bound.fetch_all(conn).await?.iter().map(queued).collect()
}

/// Lets events wait no longer. Locks their dags, so that no run takes them meanwhile. Runs in a transaction of the caller.
pub(in crate::store) async fn unqueue(conn: &mut Conn<'_>, filter: &QueueFilter) -> StoreResult<u64> {
    const FORGET: &str = "
        DELETE FROM af_asset_queue WHERE EXISTS (
            SELECT 1 FROM ROWS(?1, dag NAME, id NAME, asset NAME) j WHERE j.dag = af_asset_queue.dag_id
                AND j.id = af_asset_queue.event_id AND j.asset = af_asset_queue.asset_key)";
    let dags: BTreeSet<DagId> = events(conn, filter).await?.into_iter().map(|one| one.dag_id).collect();
    dags::lock_all(conn, dags.iter()).await?;
    let mut rows = conn.rows();
    for one in events(conn, filter).await?.iter().filter(|one| dags.contains(&one.dag_id)) {
        rows.row().text(one.dag_id.as_str()).text(one.event.as_str()).text(one.asset.as_str()).end();
    }
    let Some(list) = rows.finish() else { return Ok(0) };
    query(FORGET).bind(list).execute(conn).await
}

/// The runs as they are to be inserted; `None` where the events are another run's. Their dags are locked before. Asks
/// nothing of the database if no run is by assets.
pub(in crate::store) async fn taking(
    conn: &mut Conn<'_>,
    runs: &[NewRun],
) -> StoreResult<Vec<Option<NewRun>>> {
    // Who queues an event refers to the dag, so nothing is queued for it until the transaction ends.
    const STILL: &str = "SELECT d.dag_id FROM af_dag d WHERE d.dag_id = ?1 FOR UPDATE";
    const NEEDED: &str = "
        SELECT count(DISTINCT q.asset_key) AS n FROM af_asset_queue q
        WHERE q.dag_id = ?1 AND q.counts AND q.asset_key IN (SELECT j.asset FROM ROWS(?2, asset NAME) j)";
    const TOGETHER: &str = "
        SELECT max(e.at) AS newest, min(coalesce(e.from_start, e.at)) AS begins,
               max(coalesce(e.from_end, e.at)) AS ends, min(e.event_id) AS least
        FROM af_asset_queue q CROSS JOIN af_asset_event e ON e.event_id = q.event_id WHERE q.dag_id = ?1";
    let mut all = Vec::with_capacity(runs.len());
    // Of two runs of one call for one dag, the first takes everything.
    let mut served = BTreeSet::new();
    for run in runs {
        let Some(trigger) = &run.assets else {
            all.push(Some(run.clone()));
            continue;
        };
        let dag = run.dag_id.as_str();
        query(STILL).bind(dag).fetch_all(conn).await?;
        let needs: BTreeSet<&str> = trigger.needs.iter().map(AssetKey::as_str).collect();
        let list = conn.list(needs.iter().copied());
        let found: usize = query(NEEDED).bind(dag).bind(list).fetch_one(conn).await?.num("n")?;
        if needs.is_empty() || found < needs.len() || !served.insert(&run.dag_id) {
            all.push(None);
            continue;
        }
        let row = query(TOGETHER).bind(dag).fetch_one(conn).await?;
        let interval = DataInterval { start: row.time("begins")?, end: row.time("ends")? };
        let taken = Taken { newest: row.time("newest")?, interval, least: row.str("least")? };
        all.push(Some(rules::taking(run, taken)));
    }
    Ok(all)
}

/// Gives a new run all events that wait for its dag.
pub(in crate::store) async fn take(conn: &mut Conn<'_>, dag: &DagId, run: RunPk) -> StoreResult<()> {
    const GIVE: &str = "
        INSERT INTO af_run_asset_event (run, event_id)
        SELECT DISTINCT r.pk, q.event_id FROM af_asset_queue q CROSS JOIN af_run r ON r.pk = ?2
        WHERE q.dag_id = ?1";
    const CLEAR: &str = "DELETE FROM af_asset_queue WHERE dag_id = ?1";
    query(GIVE).bind(dag.as_str()).bind(run.0).execute(conn).await?;
    query(CLEAR).bind(dag.as_str()).execute(conn).await.map(|_| ())
}
