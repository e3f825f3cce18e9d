//! Assets: what dags say of them, their events, and what waits for dags to run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use chrono::{DateTime, Utc};

use crate::asset::{AssetKey, AssetRef, EventSource};
use crate::id::{DagId, MapIndex, RunId, TaskId};
use crate::store::rules;
use crate::store::{AssetEvent, AssetEventFilter, AssetRole, AssetRow, DagRecord, StoreResult};
use crate::timetable::DataInterval;

use super::json::Rows;
use super::{Arg, Conn, Query, Row, query, watchers};

/// An event as a row.
macro_rules! events {
    () => {
        "ROWS(?1, id NAME, asset NAME, called TEXT, place TEXT, team TEXT, moment TIME, facts TEXT, also TEXT, dag NAME,
              of_run NAME, task NAME, ix INT, begins TIME, ends TIME) j"
    };
}

/// An asset that no dag has named yet.
pub(in crate::store) const MEET: &str = concat!(
    "INSERT INTO af_asset (asset_key, is_alias, name, uri, group_name, extra)
     SELECT j.asset, false, j.called, j.place, j.team, 'null' FROM ",
    events!(),
    " WHERE true ON CONFLICT (asset_key) DO NOTHING"
);

/// An event; one that exists is left as it is.
pub(in crate::store) const EMIT: &str = concat!(
    "INSERT INTO af_asset_event (event_id, asset_key, at, extra, aliases, from_dag, from_run, from_task, from_index,
                                 from_start, from_end)
     SELECT j.id, j.asset, j.moment, j.facts, j.also, j.dag, j.of_run, j.task, j.ix, j.begins, j.ends FROM ",
    events!(),
    " WHERE true ON CONFLICT (event_id) DO NOTHING"
);

/// What waits for the dags whose schedules name the asset, or an alias of the event.
pub(in crate::store) const QUEUE: &str = "
    INSERT INTO af_asset_queue (dag_id, event_id, asset_key, counts)
    SELECT r.dag_id, j.id, j.asset, NOT d.is_paused
    FROM ROWS(?1, id NAME, asset NAME) j
        CROSS JOIN af_asset_ref r ON r.asset_key = j.asset AND r.role = 'schedule'
        CROSS JOIN af_dag d ON d.dag_id = r.dag_id
    WHERE true ON CONFLICT (dag_id, event_id, asset_key) DO NOTHING";

/// Adds an event to the rows that [`MEET`] and [`EMIT`] read, and to those of [`QUEUE`].
pub(in crate::store) fn write_event(events: &mut Rows, refs: &mut Rows, event: &AssetEvent) {
    let source = event.source.as_ref();
    let row = events.row().text(event.id.as_str()).text(event.key().as_str()).text(&event.name);
    let row = row.text(&event.uri).text(&event.group).time(event.at).text(&event.extra.to_string());
    let row = row.text(&aliases_text(&event.aliases));
    let row = row.text(source.map_or("", |source| source.dag_id.as_str()));
    let row = row.text(source.map_or("", |source| source.run_id.as_str()));
    let row = row.text(source.map_or("", |source| source.task_id.as_str()));
    let row = row.int(source.map_or(MapIndex::UNMAPPED, |source| source.map_index).0);
    let row = row.maybe_time(source.map(|source| source.data_interval.start));
    row.maybe_time(source.map(|source| source.data_interval.end)).end();
    for asset in event.refs() {
        refs.row().text(event.id.as_str()).text(asset.as_str()).end();
    }
}

/// The names of aliases as they are stored.
pub(in crate::store) fn aliases_text(aliases: &[String]) -> String {
    serde_json::Value::from(aliases).to_string()
}

/// Writes events from outside. Runs in a transaction of the caller.
pub(in crate::store) async fn add(conn: &mut Conn<'_>, events: &[AssetEvent]) -> StoreResult<()> {
    let (mut rows, mut refs) = (conn.rows(), conn.rows());
    events.iter().for_each(|event| write_event(&mut rows, &mut refs, event));
    let (Some(rows), Some(refs)) = (rows.finish(), refs.finish()) else { return Ok(()) };
    for (sql, list) in [(MEET, &rows), (EMIT, &rows), (QUEUE, &refs)] {
        query(sql).bind(list.as_str()).execute(conn).await?;
    }
    Ok(())
}

/// Keeps what dags say of assets, and forgets what they said before. Runs in a transaction of the caller.
pub(in crate::store) async fn sync(
    conn: &mut Conn<'_>,
    records: &[DagRecord],
    now: DateTime<Utc>,
) -> StoreResult<()> {
    const FORGET: &str = "DELETE FROM af_asset_ref WHERE dag_id IN (SELECT j.id FROM ROWS(?1, id NAME) j)";
    const ASSETS: &str = "
        INSERT INTO af_asset (asset_key, is_alias, name, uri, group_name, extra)
        SELECT j.asset, j.alias, j.called, j.place, j.team, j.facts
        FROM ROWS(?1, asset NAME, alias FLAG, called TEXT, place TEXT, team TEXT, facts TEXT) j WHERE true
        ON CONFLICT (asset_key) DO UPDATE SET group_name = excluded.group_name, extra = excluded.extra";
    const REFS: &str = "
        INSERT INTO af_asset_ref (asset_key, role, dag_id, task_id)
        SELECT j.asset, j.part, j.dag, j.task FROM ROWS(?1, asset NAME, part NAME, dag NAME, task NAME) j
        WHERE true ON CONFLICT (asset_key, role, dag_id, task_id) DO NOTHING";
    // What a schedule no longer names keeps nobody waiting.
    const UNQUEUE: &str = "
        DELETE FROM af_asset_queue WHERE dag_id IN (SELECT j.id FROM ROWS(?1, id NAME) j)
        AND NOT EXISTS (SELECT 1 FROM af_asset_ref r WHERE r.dag_id = af_asset_queue.dag_id
                        AND r.asset_key = af_asset_queue.asset_key AND r.role = 'schedule')";
    // Of two processes that carry different versions of a dag, the last one counts.
    let dags: BTreeMap<&DagId, &DagRecord> = records.iter().map(|record| (&record.dag_id, record)).collect();
    if dags.is_empty() {
        return Ok(());
    }
    let ids = conn.list(dags.keys().map(|id| id.as_str()));
    query(FORGET).bind(ids.as_str()).execute(conn).await?;
    let mut refs = conn.rows();
    for (dag, named) in dags.iter().flat_map(|(dag, record)| record.assets.iter().map(move |one| (dag, one)))
    {
        let row = refs.row().text(named.asset.key().as_str()).text(named.role.as_str()).text(dag.as_str());
        row.text(named.task_id.as_ref().map_or("", TaskId::as_str)).end();
    }
    let assets = records.iter().flat_map(|record| &record.assets);
    let assets: BTreeMap<AssetKey, &AssetRef> =
        assets.map(|named| (named.asset.key(), &named.asset)).collect();
    let mut rows = conn.rows();
    for (key, asset) in assets {
        let row = rows.row().text(key.as_str());
        match asset {
            AssetRef::Asset(asset) => {
                let row = row.int(false).text(asset.name()).text(asset.uri()).text(asset.group_name());
                row.text(&asset.facts().to_string()).end();
            }
            AssetRef::Alias(alias) => {
                row.int(true).text(alias.name()).text("").text(alias.group_name()).text("null").end();
            }
        }
    }
    for (sql, list) in [(ASSETS, rows.finish()), (REFS, refs.finish())] {
        if let Some(list) = list {
            query(sql).bind(list).execute(conn).await?;
        }
    }
    query(UNQUEUE).bind(ids.as_str()).execute(conn).await?;
    let named = dags.values().flat_map(|record| &record.assets).filter(|one| one.role == AssetRole::Watcher);
    let named: BTreeSet<(AssetKey, String)> =
        named.filter_map(|one| Some((one.asset.key(), one.task_id.as_ref()?.to_string()))).collect();
    let named: Vec<(&str, &str)> =
        named.iter().map(|(asset, name)| (asset.as_str(), name.as_str())).collect();
    watchers::sync(conn, &named, now).await
}

/// All assets and aliases.
pub(in crate::store) async fn list(conn: &mut Conn<'_>) -> StoreResult<Vec<AssetRow>> {
    const ASSETS: &str = "SELECT * FROM af_asset";
    const REFS: &str = "SELECT * FROM af_asset_ref ORDER BY dag_id, task_id";
    const NEWEST: &str =
        "SELECT asset_key, count(*) AS n, max(at) AS at FROM af_asset_event GROUP BY asset_key";
    let mut all: BTreeMap<String, AssetRow> = BTreeMap::new();
    for row in query(ASSETS).fetch_all(conn).await? {
        let key = row.text("asset_key")?;
        let asset = AssetRow {
            key: AssetKey::from(key.clone()),
            is_alias: row.flag("is_alias")?,
            name: row.text("name")?,
            uri: row.text("uri")?,
            group: row.text("group_name")?,
            extra: row.json("extra")?,
            consumers: Vec::new(),
            producers: Vec::new(),
            readers: Vec::new(),
            watchers: Vec::new(),
            events: 0,
            last_event: None,
        };
        all.insert(key, asset);
    }
    for row in query(REFS).fetch_all(conn).await? {
        let Some(asset) = all.get_mut(row.str("asset_key")?) else { continue };
        let (dag, task) = (DagId::from(row.text("dag_id")?), TaskId::from(row.text("task_id")?));
        match row.word::<AssetRole>("role")? {
            AssetRole::Schedule => asset.consumers.push(dag),
            AssetRole::Outlet => asset.producers.push((dag, task)),
            AssetRole::Inlet => asset.readers.push((dag, task)),
            AssetRole::Watcher => asset.watchers.push(task.to_string()),
        }
    }
    for row in query(NEWEST).fetch_all(conn).await? {
        if let Some(asset) = all.get_mut(row.str("asset_key")?) {
            (asset.events, asset.last_event) = (row.num("n")?, row.maybe_time("at")?);
        }
    }
    let mut all: Vec<AssetRow> = all.into_values().collect();
    for asset in &mut all {
        asset.watchers.sort();
        asset.watchers.dedup();
    }
    all.sort_by(|a, b| (&a.name, &a.uri, &a.key).cmp(&(&b.name, &b.uri, &b.key)));
    Ok(all)
}

/// Lists events. The text is built of fixed parts; all that the filter says is bound.
pub(in crate::store) async fn events(
    conn: &mut Conn<'_>,
    filter: &AssetEventFilter,
) -> StoreResult<Vec<AssetEvent>> {
    let alias = filter.alias.as_ref().map(|name| containing(name));
    let parts: [(&str, Option<Arg<'_>>); 9] = [
        ("e.asset_key = ?", filter.asset.as_ref().map(|key| key.as_str().into())),
        ("e.aliases LIKE ? ESCAPE '!'", alias.as_deref().map(Into::into)),
        ("e.from_dag = ?", filter.dag_id.as_ref().map(|id| id.as_str().into())),
        ("e.from_run = ?", filter.run_id.as_ref().map(|id| id.as_str().into())),
        ("e.from_task = ?", filter.task_id.as_ref().map(|id| id.as_str().into())),
        ("e.from_index = ?", filter.map_index.map(|index| i64::from(index.0).into())),
        (
            "e.event_id IN (SELECT t.event_id FROM af_run_asset_event t WHERE t.run = ?)",
            filter.triggered.map(|run| run.0.into()),
        ),
        ("e.at >= ?", filter.from.map(|from| rules::ceil_micros(from).into())),
        ("e.at <= ?", filter.to.map(Into::into)),
    ];
    let mut sql = String::from(
        "SELECT e.*, a.name, a.uri, a.group_name FROM af_asset_event e
         CROSS JOIN af_asset a ON a.asset_key = e.asset_key WHERE true",
    );
    let mut args = Vec::new();
    for (part, arg) in parts {
        let Some(arg) = arg else { continue };
        args.push(arg);
        write!(sql, " AND {}", part.replace('?', &format!("?{}", args.len())))
            .expect("writing to a string never fails");
    }
    let direction = if filter.newest_first { " DESC" } else { "" };
    let keys = ["at", "from_dag", "from_run", "from_task", "from_index", "event_id"];
    let order: Vec<String> = keys.iter().map(|key| format!("e.{key}{direction}")).collect();
    write!(sql, " ORDER BY {} LIMIT ?{}", order.join(", "), args.len() + 1)
        .expect("writing to a string never fails");
    args.push(filter.limit.map_or(i64::MAX, i64::from).into());
    let bound = args.into_iter().fold(query(sql), Query::bind);
    bound.fetch_all(conn).await?.iter().map(event_row).collect()
}

/// What a list of names is like that contains `name`; `!` stands before what would mean something else.
fn containing(name: &str) -> String {
    let written = serde_json::Value::from(name).to_string();
    let escaped = written.replace('!', "!!").replace('%', "!%").replace('_', "!_");
    format!("%{escaped}%")
}

/// Reads a row of `af_asset_event` with the names of its asset.
pub(super) fn event_row(row: &Row) -> StoreResult<AssetEvent> {
    let interval = row.maybe_time("from_start")?.zip(row.maybe_time("from_end")?);
    let source = match interval {
        Some((start, end)) => Some(EventSource {
            dag_id: row.text("from_dag")?.into(),
            run_id: RunId::from(row.text("from_run")?),
            task_id: row.text("from_task")?.into(),
            map_index: MapIndex(row.num("from_index")?),
            data_interval: DataInterval { start, end },
        }),
        None => None,
    };
    Ok(AssetEvent {
        id: row.text("event_id")?.into(),
        name: row.text("name")?,
        uri: row.text("uri")?,
        group: row.text("group_name")?,
        aliases: row.json("aliases")?,
        extra: row.json("extra")?,
        at: row.time("at")?,
        source,
    })
}
