//! Attempts that run in other processes, and the workers that run them.

use std::collections::HashSet;

use serde_json::Value;

use crate::id::{AttemptId, DagId, IncarnationId, MapIndex, RunPk};
use crate::store::{
    AttemptStart, Carrier, FoundAttempt, MissingVersion, QueuedAttempts, StoreResult, StoredReport, TiData,
    TiRow, WorkerRow,
};

use super::runs::run_row;
use super::{Conn, Row, query, task_logs, written};

/// Looks attempts up by id, in the order given; those that do not exist are left out.
pub(in crate::store) async fn find(conn: &mut Conn<'_>, ids: &[AttemptId]) -> StoreResult<Vec<FoundAttempt>> {
    const FIND: &str = "
        SELECT r.*, t.state AS ti_state, t.epoch, t.try_number AS ti_try, t.max_tries, t.lost,
            t.attempt_id AS ti_attempt, t.next_try_at, t.started_at AS ti_started, t.ended_at AS ti_ended,
            t.has_result, t.map_length, t.reason AS ti_reason, t.wait, t.holds,
            a.attempt_id, a.task_id, a.map_index, a.number, a.try_number, a.start_state, a.state AS attempt_state,
            a.incarnation, a.queue AS attempt_queue, a.at
        FROM ROWS(?1, id ID) j CROSS JOIN af_attempt a ON a.attempt_id = j.id
            CROSS JOIN af_ti t ON t.run = a.run AND t.task_id = a.task_id AND t.map_index = a.map_index
            CROSS JOIN af_run r ON r.pk = a.run
        ORDER BY j.ord";
    let Some(list) = id_list(conn, ids) else { return Ok(Vec::new()) };
    query(FIND).bind(list).fetch_all(conn).await?.iter().map(found).collect()
}

fn id_list(conn: &Conn<'_>, ids: &[AttemptId]) -> Option<String> {
    let mut rows = conn.rows();
    for id in ids {
        rows.row().maybe_id(Some(id.0)).end();
    }
    rows.finish()
}

fn found(row: &Row) -> StoreResult<FoundAttempt> {
    let (task_id, map_index) = (row.text("task_id")?, MapIndex(row.num("map_index")?));
    let data = TiData {
        try_number: row.num("ti_try")?,
        max_tries: row.num("max_tries")?,
        lost: row.num("lost")?,
        attempt_id: row.maybe_id("ti_attempt")?.map(AttemptId),
        next_try_at: row.maybe_time("next_try_at")?,
        started_at: row.maybe_time("ti_started")?,
        ended_at: row.maybe_time("ti_ended")?,
        has_result: row.flag("has_result")?,
        map_length: row.maybe_num("map_length")?,
        reason: row.maybe_text("ti_reason")?,
        wait: written::wait_of(row.maybe_text("wait")?.as_deref())?,
        holds: written::held_of(row.maybe_text("holds")?.as_deref())?,
    };
    let task_id: crate::id::TaskId = task_id.into();
    Ok(FoundAttempt {
        run: run_row(row)?,
        ti: TiRow {
            task_id: task_id.clone(),
            map_index,
            state: row.word("ti_state")?,
            epoch: row.num("epoch")?,
            data,
        },
        start: AttemptStart {
            attempt_id: AttemptId(row.id("attempt_id")?),
            task_id,
            map_index,
            number: row.num("number")?,
            try_number: row.num("try_number")?,
            state: row.word("start_state")?,
            incarnation: row.maybe_id("incarnation")?.map(IncarnationId),
            queue: row.text("attempt_queue")?,
            at: row.time("at")?,
        },
        state: row.word("attempt_state")?,
    })
}

/// Attempts of a process that have not ended and of which there is no report.
pub(in crate::store) async fn open_attempts(
    conn: &mut Conn<'_>,
    process: IncarnationId,
) -> StoreResult<Vec<AttemptId>> {
    const LIST: &str = "
        SELECT a.attempt_id FROM af_attempt a INDEXED BY af_attempt_open
        WHERE a.incarnation = ?1 AND a.ended_at IS NULL
            AND NOT EXISTS (SELECT 1 FROM af_report p WHERE p.attempt_id = a.attempt_id)
        ORDER BY a.attempt_id";
    let rows = query(LIST).bind(process.0).fetch_all(conn).await?;
    rows.iter().map(|row| row.id("attempt_id").map(AttemptId)).collect()
}

/// What waits in each queue in which something does.
pub(in crate::store) async fn queued_attempts(conn: &mut Conn<'_>) -> StoreResult<Vec<QueuedAttempts>> {
    const COUNT: &str = "
        SELECT a.queue, COUNT(*) AS waiting, MIN(a.at) AS oldest FROM af_attempt a INDEXED BY af_attempt_open
        WHERE a.incarnation IS NULL AND a.ended_at IS NULL AND a.state = 'queued' GROUP BY a.queue ORDER BY a.queue";
    let queued = |row: &Row| {
        Ok(QueuedAttempts {
            queue: row.text("queue")?,
            count: row.num("waiting")?,
            oldest: row.time("oldest")?,
        })
    };
    query(COUNT).fetch_all(conn).await?.iter().map(queued).collect()
}

macro_rules! add {
    () => {
        "INSERT INTO af_report (attempt_id, run, task_id, map_index, at, body)
         SELECT a.attempt_id, a.run, a.task_id, a.map_index, j.ended, j.text
         FROM ROWS(?1, id ID, ended TIME, text TEXT) j CROSS JOIN af_attempt a ON a.attempt_id = j.id
         WHERE a.ended_at IS NULL AND a.incarnation = ?2
             AND EXISTS (SELECT 1 FROM af_incarnation i WHERE i.id = ?2 AND i.ended_at IS NULL)
         ON CONFLICT (attempt_id) DO NOTHING"
    };
}

/// Writes reports down whose attempts are open and this process's, unless it has ended. Says of each whether it is
/// written now. Keeps the ends of their logs in any case.
pub(in crate::store) async fn add_reports(
    conn: &mut Conn<'_>,
    process: IncarnationId,
    reports: &[StoredReport],
) -> StoreResult<Vec<bool>> {
    let Some(list) = report_list(conn, reports) else { return Ok(Vec::new()) };
    if let Some(logs) = log_list(conn, reports) {
        query(task_logs::ADD).bind(logs).execute(conn).await?;
    }
    query(add!()).bind(list).bind(process.0).execute(conn).await?;
    written(conn, reports).await
}

/// Says of each report whether it is written.
async fn written(conn: &mut Conn<'_>, reports: &[StoredReport]) -> StoreResult<Vec<bool>> {
    const WRITTEN: &str = "
        SELECT p.attempt_id FROM ROWS(?1, id ID) j CROSS JOIN af_report p ON p.attempt_id = j.id";
    let ids: Vec<AttemptId> = reports.iter().map(|report| report.attempt_id).collect();
    let list = id_list(conn, &ids).unwrap_or_default();
    which(&query(WRITTEN).bind(list).fetch_all(conn).await?, reports)
}

/// The same in one statement, which is its own transaction and leaves `mark` for others to notice it; takes the marks of
/// `spent` away. It may be repeated: what is written stays as it is.
#[cfg(feature = "postgres")]
pub(in crate::store) async fn add_reports_at_once(
    conn: &mut Conn<'_>,
    process: IncarnationId,
    reports: &[StoredReport],
    mark: uuid::Uuid,
    spent: Option<String>,
) -> StoreResult<Vec<bool>> {
    macro_rules! at_once {
        ($logs:expr) => {
            concat!(
                "WITH added AS (",
                add!(),
                " RETURNING attempt_id),
                mark AS (INSERT INTO af_commit (nonce, fenced) VALUES (?3, false)),
                gone AS (DELETE FROM af_commit WHERE nonce IN (SELECT s.id FROM ROWS(?4, id ID) s))",
                $logs,
                " SELECT attempt_id FROM added"
            )
        };
    }
    const ADD: &str = at_once!("");
    const ADD_WITH_LOGS: &str = at_once!(concat!(", logs AS (", task_logs::add_chunks!("?5"), ")"));
    let Some(list) = report_list(conn, reports) else { return Ok(Vec::new()) };
    let spent = spent.unwrap_or_else(|| "[]".to_owned());
    let logs = log_list(conn, reports);
    // Without logs their table is not even named: the database may lack it.
    let sql = if logs.is_some() { ADD_WITH_LOGS } else { ADD };
    let mut add = query(sql).bind(list).bind(process.0).bind(mark).bind(spent);
    if let Some(logs) = logs {
        add = add.bind(logs);
    }
    let now = which(&add.fetch_all(conn).await?, reports)?;
    // One that is missing may have been written meanwhile: by the same call, whose answer was lost.
    if now.contains(&false) { written(conn, reports).await } else { Ok(now) }
}

fn report_list(conn: &Conn<'_>, reports: &[StoredReport]) -> Option<String> {
    let mut rows = conn.rows();
    for report in reports {
        rows.row().maybe_id(Some(report.attempt_id.0)).time(report.at).text(&report.body).end();
    }
    rows.finish()
}

/// The ends of logs that come with reports.
fn log_list(conn: &Conn<'_>, reports: &[StoredReport]) -> Option<String> {
    let mut rows = conn.rows();
    reports
        .iter()
        .filter_map(|report| report.log.as_ref())
        .for_each(|log| task_logs::write_chunk(&mut rows, log));
    rows.finish()
}

/// Which of the reports are among the rows.
fn which(rows: &[Row], reports: &[StoredReport]) -> StoreResult<Vec<bool>> {
    let written: HashSet<_> = rows.iter().map(|row| row.id("attempt_id")).collect::<StoreResult<_>>()?;
    Ok(reports.iter().map(|report| written.contains(&report.attempt_id.0)).collect())
}

/// Reports of the runs that a process decides about, oldest first.
pub(in crate::store) async fn reports(
    conn: &mut Conn<'_>,
    process: IncarnationId,
    limit: u32,
) -> StoreResult<Vec<StoredReport>> {
    const LIST: &str = "
        SELECT p.* FROM af_report p JOIN af_run_owner o ON o.run = p.run AND o.incarnation = ?1
        ORDER BY p.at, p.attempt_id LIMIT ?2";
    let report = |row: &Row| {
        Ok(StoredReport {
            attempt_id: AttemptId(row.id("attempt_id")?),
            run: RunPk(row.num("run")?),
            task_id: row.text("task_id")?.into(),
            map_index: MapIndex(row.num("map_index")?),
            at: row.time("at")?,
            body: row.text("body")?,
            log: None,
        })
    };
    query(LIST).bind(process.0).bind(limit).fetch_all(conn).await?.iter().map(report).collect()
}

/// Deletes reports that were taken in.
pub(in crate::store) async fn delete_reports(conn: &mut Conn<'_>, ids: &[AttemptId]) -> StoreResult<()> {
    const DELETE: &str = "DELETE FROM af_report WHERE attempt_id IN (SELECT j.id FROM ROWS(?1, id ID) j)";
    let Some(list) = id_list(conn, ids) else { return Ok(()) };
    query(DELETE).bind(list).execute(conn).await.map(|_| ())
}

/// Gives a name to a worker, unless somebody else has it who has not ended. Says whether the worker has it now.
pub(in crate::store) async fn register_worker(
    conn: &mut Conn<'_>,
    process: IncarnationId,
    name: &str,
    info: &Value,
) -> StoreResult<bool> {
    const FREE: &str = "
        DELETE FROM af_worker WHERE name = ?1 AND NOT EXISTS (
            SELECT 1 FROM af_incarnation i WHERE i.id = af_worker.incarnation AND i.ended_at IS NULL)";
    const TAKE: &str = "
        INSERT INTO af_worker (name, incarnation, info, at) VALUES (?1, ?2, ?3, CLOCK())
        ON CONFLICT (name) DO NOTHING";
    query(FREE).bind(name).execute(conn).await?;
    query(TAKE).bind(name).bind(process.0).bind(info.to_string()).execute(conn).await?;
    update_worker(conn, process, name, info).await
}

/// Replaces what a worker says of itself; `false` if the name is not its own any more.
pub(in crate::store) async fn update_worker(
    conn: &mut Conn<'_>,
    process: IncarnationId,
    name: &str,
    info: &Value,
) -> StoreResult<bool> {
    const UPDATE: &str = "UPDATE af_worker SET info = ?3, at = CLOCK() WHERE name = ?1 AND incarnation = ?2";
    Ok(query(UPDATE).bind(name).bind(process.0).bind(info.to_string()).execute(conn).await? > 0)
}

/// All workers that have not been forgotten, by name.
pub(in crate::store) async fn workers(conn: &mut Conn<'_>) -> StoreResult<Vec<WorkerRow>> {
    const LIST: &str = "
        SELECT w.*, NOT EXISTS (SELECT 1 FROM af_incarnation i
                                WHERE i.id = w.incarnation AND i.ended_at IS NULL) AS has_ended
        FROM af_worker w ORDER BY w.name";
    let worker = |row: &Row| {
        Ok(WorkerRow {
            name: row.text("name")?,
            process: IncarnationId(row.id("incarnation")?),
            info: row.json("info")?,
            at: row.time("at")?,
            has_ended: row.flag("has_ended")?,
        })
    };
    query(LIST).fetch_all(conn).await?.iter().map(worker).collect()
}

/// Forgets a worker that has ended; says whether there was one.
pub(in crate::store) async fn forget_worker(conn: &mut Conn<'_>, name: &str) -> StoreResult<bool> {
    const FORGET: &str = "
        DELETE FROM af_worker WHERE name = ?1 AND NOT EXISTS (
            SELECT 1 FROM af_incarnation i WHERE i.id = af_worker.incarnation AND i.ended_at IS NULL)";
    Ok(query(FORGET).bind(name).execute(conn).await? > 0)
}

/// Says which versions of dags a process carries.
pub(in crate::store) async fn carry(
    conn: &mut Conn<'_>,
    process: IncarnationId,
    versions: &[(DagId, String)],
) -> StoreResult<()> {
    const CARRY: &str = "
        INSERT INTO af_carried (incarnation, dag_id, fingerprint)
        SELECT ?2, j.dag, j.print FROM ROWS(?1, dag NAME, print NAME) j WHERE true
        ON CONFLICT (incarnation, dag_id, fingerprint) DO NOTHING";
    let mut rows = conn.rows();
    for (dag_id, fingerprint) in versions {
        rows.row().text(dag_id.as_str()).text(fingerprint).end();
    }
    let Some(list) = rows.finish() else { return Ok(()) };
    query(CARRY).bind(list).bind(process.0).execute(conn).await.map(|_| ())
}

/// Who carries versions of a dag, of those that have not ended.
pub(in crate::store) async fn carriers(conn: &mut Conn<'_>, dag_id: &DagId) -> StoreResult<Vec<Carrier>> {
    const LIST: &str = "
        SELECT c.fingerprint, c.incarnation, i.kind FROM af_carried c
        JOIN af_incarnation i ON i.id = c.incarnation AND i.ended_at IS NULL
        WHERE c.dag_id = ?1 ORDER BY c.fingerprint, c.incarnation";
    let carrier = |row: &Row| {
        Ok(Carrier {
            dag_id: dag_id.clone(),
            fingerprint: row.text("fingerprint")?,
            process: IncarnationId(row.id("incarnation")?),
            kind: row.text("kind")?,
        })
    };
    query(LIST).bind(dag_id.as_str()).fetch_all(conn).await?.iter().map(carrier).collect()
}

/// What waits for versions that nobody carries.
pub(in crate::store) async fn missing_versions(conn: &mut Conn<'_>) -> StoreResult<Vec<MissingVersion>> {
    const RUNS: &str = "
        SELECT r.dag_id, r.fingerprint, count(*) AS n, min(r.queued_at) AS since FROM af_run r
        WHERE r.state IN ('queued', 'running') AND NOT EXISTS (
            SELECT 1 FROM af_carried c JOIN af_incarnation i ON i.id = c.incarnation AND i.ended_at IS NULL
            WHERE c.dag_id = r.dag_id AND c.fingerprint = r.fingerprint AND i.kind = 'scheduler')
        GROUP BY r.dag_id, r.fingerprint ORDER BY r.dag_id, r.fingerprint";
    const ATTEMPTS: &str = "
        SELECT r.dag_id, r.fingerprint, count(*) AS n, min(a.at) AS since
        FROM af_attempt a INDEXED BY af_attempt_open JOIN af_run r ON r.pk = a.run
        WHERE a.incarnation IS NULL AND a.ended_at IS NULL AND a.state = 'queued' AND NOT EXISTS (
            SELECT 1 FROM af_carried c JOIN af_incarnation i ON i.id = c.incarnation AND i.ended_at IS NULL
            WHERE c.dag_id = r.dag_id AND c.fingerprint = r.fingerprint AND i.kind = 'worker')
        GROUP BY r.dag_id, r.fingerprint ORDER BY r.dag_id, r.fingerprint";
    let mut missing = Vec::new();
    for (kind, list) in [("scheduler", RUNS), ("worker", ATTEMPTS)] {
        for row in query(list).fetch_all(conn).await? {
            missing.push(MissingVersion {
                kind: kind.to_owned(),
                dag_id: row.text("dag_id")?.into(),
                fingerprint: row.text("fingerprint")?,
                waiting: row.num("n")?,
                since: row.time("since")?,
            });
        }
    }
    Ok(missing)
}

/// Gives a run another version, if no scheduler that has not ended carries its own.
pub(in crate::store) async fn move_run(
    conn: &mut Conn<'_>,
    run: RunPk,
    from: &str,
    to: &str,
) -> StoreResult<bool> {
    const MOVE: &str = "
        UPDATE af_run SET fingerprint = ?3, generation = generation + 1
        WHERE pk = ?1 AND fingerprint = ?2 AND NOT EXISTS (
            SELECT 1 FROM af_carried c JOIN af_incarnation i ON i.id = c.incarnation AND i.ended_at IS NULL
            WHERE c.dag_id = af_run.dag_id AND c.fingerprint = ?2 AND i.kind = 'scheduler')";
    Ok(query(MOVE).bind(run.0).bind(from).bind(to).execute(conn).await? > 0)
}

/// Keeps a setting of the deployment, unless it is kept already; returns what is kept.
pub(in crate::store) async fn keep_setting(
    conn: &mut Conn<'_>,
    name: &str,
    value: &str,
) -> StoreResult<String> {
    const KEEP: &str = "INSERT INTO af_setting (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING";
    const KEPT: &str = "SELECT value FROM af_setting WHERE name = ?1";
    query(KEEP).bind(name).bind(value).execute(conn).await?;
    query(KEPT).bind(name).fetch_one(conn).await?.text("value")
}
