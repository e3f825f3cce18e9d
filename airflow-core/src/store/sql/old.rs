//! Old rows: counted, read, deleted.
//!
//! Each table has one condition that says what is old. It is asked again by the statement that deletes, so what somebody
//! has begun anew meanwhile stays.

use crate::id::{DagId, IncarnationId};
use crate::store::rules::ceil_micros;
use crate::store::{DagVersion, Old, OldKey, OldRow, OldTable, StoreResult};

use super::errors::corrupt;
use super::runs::run_row;
use super::{Conn, Query, Row, admin, assets, dags, query, task_logs, tasks, watchers};

/// The rows of a table that are old: ?1 is the moment, ?2 says whether ?3 lists the only dags, ?4 lists those that are left
/// alone.
struct Words {
    /// What is read.
    select: &'static str,
    /// Where from, and what is old.
    from: &'static str,
    /// In which order.
    order: &'static str,
    /// How a row is deleted whose key is in the list ?5; it repeats what is old.
    delete: &'static str,
}

macro_rules! dags {
    ($column:literal) => {
        concat!(
            " AND (NOT ?2 OR ",
            $column,
            " IN (SELECT j.id FROM ROWS(?3, id NAME) j)) AND ",
            $column,
            " NOT IN (SELECT j.id FROM ROWS(?4, id NAME) j)"
        )
    };
}

macro_rules! ended_runs {
    () => {
        concat!("r.state IN ('success', 'failed') AND r.ended_at < ?1", dags!("r.dag_id"))
    };
}

macro_rules! not_newest {
    ($dag:literal, $date:literal, $pk:literal) => {
        concat!(
            " AND EXISTS (SELECT 1 FROM af_run n WHERE n.dag_id = ",
            $dag,
            " AND (n.logical_date > ",
            $date,
            " OR (n.logical_date = ",
            $date,
            " AND n.pk > ",
            $pk,
            ")))"
        )
    };
}

const XCOMS: Words = Words {
    select: "SELECT x.*, r.dag_id, r.run_id",
    from: concat!(
        " FROM af_xcom x JOIN af_run r ON r.pk = x.run WHERE x.\"key\" <> 'skipmixin_key' AND ",
        ended_runs!()
    ),
    order: " ORDER BY x.run, x.task_id, x.map_index, x.\"key\"",
    delete: concat!(
        "DELETE FROM af_xcom WHERE (run, task_id, map_index, \"key\") IN (SELECT j.of_run, j.task, j.ix, j.name
             FROM ROWS(?5, of_run INT, task NAME, ix INT, name TEXT) j)
         AND run IN (SELECT r.pk FROM af_run r WHERE ",
        ended_runs!(),
        ")"
    ),
};

macro_rules! log_of_dags {
    ($chunk:literal) => {
        concat!(
            " AND EXISTS (SELECT 1 FROM af_attempt a JOIN af_run r ON r.pk = a.run WHERE a.attempt_id = ",
            $chunk,
            ".attempt_id",
            dags!("r.dag_id"),
            ")"
        )
    };
}

const TASK_LOGS: Words = Words {
    select: "SELECT c.*",
    from: concat!(" FROM af_log_chunk c WHERE c.at < ?1", log_of_dags!("c")),
    order: " ORDER BY c.at, c.attempt_id, c.chunk",
    delete: concat!(
        "DELETE FROM af_log_chunk WHERE (attempt_id, chunk) IN
             (SELECT j.name, j.nth FROM ROWS(?5, name ID, nth INT) j) AND at < ?1",
        log_of_dags!("af_log_chunk")
    ),
};

const RUNS: Words = Words {
    select: "SELECT r.*",
    from: concat!(" FROM af_run r WHERE ", ended_runs!(), not_newest!("r.dag_id", "r.logical_date", "r.pk")),
    order: " ORDER BY r.pk",
    // MySQL does not look into the table that it deletes from: whether it is the newest was asked before, and a run that
    // is not does not become so while a newer one is there.
    delete: concat!(
        "DELETE FROM af_run WHERE pk IN (SELECT j.id FROM ROWS(?5, id INT) j)
         AND state IN ('success', 'failed') AND ended_at < ?1",
        dags!("dag_id")
    ),
};

const VERSIONS: Words = Words {
    select: "SELECT v.dag_id, v.number, v.fingerprint, v.structure, v.created_at",
    from: concat!(
        " FROM af_dag_version v JOIN af_dag d ON d.dag_id = v.dag_id WHERE v.created_at < ?1
         AND v.fingerprint <> d.fingerprint AND NOT EXISTS
             (SELECT 1 FROM af_run r WHERE r.dag_id = v.dag_id AND r.fingerprint = v.fingerprint)",
        dags!("v.dag_id")
    ),
    order: " ORDER BY v.dag_id, v.number",
    delete: concat!(
        "DELETE FROM af_dag_version WHERE (dag_id, number) IN
             (SELECT j.dag, j.nth FROM ROWS(?5, dag NAME, nth INT) j) AND created_at < ?1
         AND NOT EXISTS (SELECT 1 FROM af_dag d WHERE d.dag_id = af_dag_version.dag_id
                         AND d.fingerprint = af_dag_version.fingerprint)
         AND NOT EXISTS (SELECT 1 FROM af_run r WHERE r.dag_id = af_dag_version.dag_id
                         AND r.fingerprint = af_dag_version.fingerprint)",
        dags!("dag_id")
    ),
};

macro_rules! idle_event {
    ($event:literal) => {
        concat!(
            " AND NOT EXISTS (SELECT 1 FROM af_asset_queue q WHERE q.event_id = ",
            $event,
            ".event_id) AND NOT EXISTS (SELECT 1 FROM af_run_asset_event t WHERE t.event_id = ",
            $event,
            ".event_id)"
        )
    };
}

const ASSET_EVENTS: Words = Words {
    select: "SELECT e.*, s.name, s.uri, s.group_name",
    from: concat!(
        " FROM af_asset_event e JOIN af_asset s ON s.asset_key = e.asset_key WHERE e.at < ?1",
        idle_event!("e"),
        dags!("e.from_dag")
    ),
    order: " ORDER BY e.at, e.event_id",
    delete: concat!(
        "DELETE FROM af_asset_event WHERE event_id IN (SELECT j.name FROM ROWS(?5, name NAME) j) AND at < ?1",
        idle_event!("af_asset_event"),
        dags!("from_dag")
    ),
};

macro_rules! unnamed {
    ($watcher:literal) => {
        concat!(
            " AND NOT EXISTS (SELECT 1 FROM af_asset_ref f WHERE f.asset_key = ",
            $watcher,
            ".asset_key AND f.role = 'watcher' AND f.task_id = ",
            $watcher,
            ".name)"
        )
    };
}

const WATCHERS: Words = Words {
    select: super::watchers::SELECT,
    from: concat!(
        " FROM af_watcher w JOIN af_asset s ON s.asset_key = w.asset_key WHERE w.updated_at < ?1",
        unnamed!("w"),
        dags!("''")
    ),
    order: " ORDER BY w.asset_key, w.name",
    delete: concat!(
        "DELETE FROM af_watcher WHERE (asset_key, name) IN
             (SELECT j.a, j.n FROM ROWS(?5, a NAME, n NAME) j) AND updated_at < ?1",
        unnamed!("af_watcher"),
        dags!("''")
    ),
};

const AUDIT: Words = Words {
    select: "SELECT a.*",
    from: concat!(" FROM af_audit a WHERE a.at < ?1", dags!("coalesce(a.dag_id, '')")),
    order: " ORDER BY a.at, a.id",
    delete: concat!(
        "DELETE FROM af_audit WHERE id IN (SELECT j.id FROM ROWS(?5, id INT) j) AND at < ?1",
        dags!("coalesce(dag_id, '')")
    ),
};

const PROCESSES: Words = Words {
    select: "SELECT i.id",
    from: concat!(
        " FROM af_incarnation i WHERE i.ended_at < ?1 AND NOT EXISTS
             (SELECT 1 FROM af_attempt a WHERE a.incarnation = i.id AND a.ended_at IS NULL)",
        dags!("''")
    ),
    order: " ORDER BY i.id",
    delete: concat!(
        "DELETE FROM af_incarnation WHERE id IN (SELECT j.name FROM ROWS(?5, name ID) j) AND ended_at < ?1
         AND NOT EXISTS (SELECT 1 FROM af_attempt a WHERE a.incarnation = af_incarnation.id AND a.ended_at IS NULL)",
        dags!("''")
    ),
};

fn words(table: OldTable) -> &'static Words {
    match table {
        OldTable::XComs => &XCOMS,
        OldTable::TaskLogs => &TASK_LOGS,
        OldTable::Runs => &RUNS,
        OldTable::Versions => &VERSIONS,
        OldTable::AssetEvents => &ASSET_EVENTS,
        OldTable::Watchers => &WATCHERS,
        OldTable::Audit => &AUDIT,
        OldTable::Processes => &PROCESSES,
    }
}

fn bound<'q>(conn: &Conn<'_>, sql: String, old: &Old) -> Query<'q> {
    let list = |dags: &[DagId]| conn.list(dags.iter().map(DagId::as_str));
    let query = query(sql).bind(ceil_micros(old.before)).bind(!old.dags.is_empty());
    query.bind(list(&old.dags)).bind(list(&old.not_dags))
}

/// How many there are.
pub(in crate::store) async fn count(conn: &mut Conn<'_>, old: &Old) -> StoreResult<u64> {
    let sql = format!("SELECT count(*) AS n{}", words(old.table).from);
    bound(conn, sql, old).fetch_one(conn).await?.num("n")
}

/// The first of them.
pub(in crate::store) async fn list(conn: &mut Conn<'_>, old: &Old, limit: u32) -> StoreResult<Vec<OldRow>> {
    let Words { select, from, order, .. } = words(old.table);
    let sql = format!("{select}{from}{order} LIMIT ?5");
    let rows = bound(conn, sql, old).bind(i64::from(limit)).fetch_all(conn).await?;
    rows.iter().map(|row| read(old.table, row)).collect()
}

fn read(table: OldTable, row: &Row) -> StoreResult<OldRow> {
    Ok(match table {
        OldTable::XComs => {
            let (dag, run) = (row.text("dag_id")?.into(), row.text("run_id")?.into());
            OldRow::XCom(dag, run, Box::new(tasks::xcom_row(row)?))
        }
        OldTable::TaskLogs => OldRow::TaskLog(Box::new(task_logs::chunk(row)?)),
        OldTable::Runs => OldRow::Run(Box::new(run_row(row)?)),
        OldTable::Versions => {
            let version: DagVersion = dags::version_row(row)?;
            OldRow::Version(row.text("dag_id")?.into(), Box::new(version))
        }
        OldTable::AssetEvents => OldRow::AssetEvent(Box::new(assets::event_row(row)?)),
        OldTable::Watchers => OldRow::Watcher(Box::new(watchers::watcher_row(row)?)),
        OldTable::Audit => OldRow::Audit(row.num("id")?, Box::new(admin::audit_entry(row)?)),
        OldTable::Processes => OldRow::Process(IncarnationId(row.id("id")?)),
    })
}

/// Deletes those of `keys` that are still old; says how many.
pub(in crate::store) async fn delete(conn: &mut Conn<'_>, old: &Old, keys: &[OldKey]) -> StoreResult<u64> {
    let mut rows = conn.rows();
    for key in keys {
        let row = rows.row();
        match (old.table, key) {
            (OldTable::XComs, OldKey::XCom(run, task, map_index, key)) => {
                row.int(run.0).text(task.as_str()).int(map_index.0).text(key).end();
            }
            (OldTable::TaskLogs, OldKey::TaskLog(attempt, chunk)) => {
                row.maybe_id(Some(attempt.0)).int(*chunk).end();
            }
            (OldTable::Runs, OldKey::Run(run)) => row.int(run.0).end(),
            (OldTable::Versions, OldKey::Version(dag, number)) => {
                row.text(dag.as_str()).int(*number).end();
            }
            (OldTable::AssetEvents, OldKey::AssetEvent(id)) => row.text(id.as_str()).end(),
            (OldTable::Watchers, OldKey::Watcher(key)) => {
                row.text(key.asset.as_str()).text(&key.name).end();
            }
            (OldTable::Audit, OldKey::Audit(id)) => row.int(*id).end(),
            (OldTable::Processes, OldKey::Process(id)) => row.maybe_id(Some(id.0)).end(),
            (table, key) => return Err(corrupt(format!("{key:?} is no key of `{table}`"))),
        }
    }
    let Some(list) = rows.finish() else { return Ok(0) };
    let sql = words(old.table).delete.to_owned();
    bound(conn, sql, old).bind(list).execute(conn).await
}
