//! Looks for rows that break the rules of the store. Reads only.
//!
//! Each rule is one statement, so what it sees is of one moment although others write meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::id::{DagId, MapIndex, RunPk, TaskId};
use crate::state::{TaskEvent, TaskState};
use crate::store::{Anomaly, DagLimits, Examined, Holders, Rows, Rule, SlotCount, SlotKey, StoreResult};

use super::admin::slot;
use super::errors::corrupt;
use super::{Conn, Query, Row, query, written};

/// How many runs are looked at with one call: each may have thousands of rows.
const RUNS: i64 = 200;

/// How many findings one statement gives: whoever has more has one cause for all.
const MOST: i64 = 50;

/// For how long a dead process may have things, in microseconds: longer than any lease, and than another process needs
/// to notice.
const GRACE: i64 = 120_000_000;

/// How long a notice may wait for its callback, in microseconds.
const NOTICE_AGE: i64 = 3_600_000_000;

/// A rule, the statement that finds what breaks it, and the words for what it found: `{a}`, `{b}`, `{n}` and `{m}` stand
/// for columns.
type Look = (Rule, &'static str, &'static str);

/// Looks at runs after ?1 up to ?2, gives at most ?3 rows.
const OF_RUNS: [Look; 10] = [
    (
        Rule::EpochsContiguous,
        "SELECT r.dag_id, r.run_id, e.task_id, e.map_index, NULL AS a, NULL AS b, count(*) AS n, max(e.epoch) AS m
         FROM af_event e JOIN af_run r ON r.pk = e.run WHERE e.run > ?1 AND e.run <= ?2
         GROUP BY r.dag_id, r.run_id, e.run, e.task_id, e.map_index
         HAVING count(*) <> max(e.epoch) OR min(e.epoch) <> 1 LIMIT ?3",
        "there are {n} events up to epoch {m}",
    ),
    (
        Rule::EventsChained,
        "SELECT r.dag_id, r.run_id, e.task_id, e.map_index, e.prev AS a, e.from_state AS b, e.epoch AS n, e.epoch AS m
         FROM (SELECT run, task_id, map_index, epoch, from_state, coalesce(lag(to_state) OVER
                   (PARTITION BY run, task_id, map_index ORDER BY epoch), 'none') AS prev
               FROM af_event WHERE run > ?1 AND run <= ?2) e
         JOIN af_run r ON r.pk = e.run WHERE e.prev <> e.from_state LIMIT ?3",
        "the event of epoch {n} starts from `{b}`, the state was `{a}`",
    ),
    (
        Rule::StateIsLastEvent,
        "SELECT r.dag_id, r.run_id, t.task_id, t.map_index, t.state AS a, e.to_state AS b, t.epoch AS n, NULL AS m
         FROM af_ti t JOIN af_run r ON r.pk = t.run
             LEFT JOIN af_event e ON e.run = t.run AND e.task_id = t.task_id AND e.map_index = t.map_index
                 AND e.epoch = t.epoch
         WHERE t.run > ?1 AND t.run <= ?2 AND (e.epoch IS NULL OR e.to_state <> t.state) LIMIT ?3",
        "it is `{a}` with epoch {n}; the event of that epoch led to `{b}`",
    ),
    (
        Rule::StateIsLastEvent,
        "SELECT r.dag_id, r.run_id, e.task_id, e.map_index, e.to_state AS a, t.state AS b, e.epoch AS n, t.epoch AS m
         FROM af_event e JOIN af_run r ON r.pk = e.run
             LEFT JOIN af_ti t ON t.run = e.run AND t.task_id = e.task_id AND t.map_index = e.map_index
         WHERE e.run > ?1 AND e.run <= ?2 AND (t.run IS NULL OR t.epoch < e.epoch) LIMIT ?3",
        "there is an event of epoch {n} that led to `{a}`, but the instance is `{b}` with epoch {m}",
    ),
    (
        Rule::OneOpenAttempt,
        "SELECT r.dag_id, r.run_id, a.task_id, a.map_index, NULL AS a, NULL AS b, count(*) AS n, max(a.number) AS m
         FROM af_attempt a JOIN af_run r ON r.pk = a.run
         WHERE a.run > ?1 AND a.run <= ?2 AND a.ended_at IS NULL
         GROUP BY r.dag_id, r.run_id, a.run, a.task_id, a.map_index HAVING count(*) > 1 LIMIT ?3",
        "{n} attempts are open at once",
    ),
    (
        Rule::AttemptsFitStates,
        "SELECT r.dag_id, r.run_id, t.task_id, t.map_index, t.state AS a, NULL AS b, t.epoch AS n, NULL AS m
         FROM af_ti t JOIN af_run r ON r.pk = t.run
             LEFT JOIN af_attempt a ON a.attempt_id = t.attempt_id AND a.run = t.run AND a.task_id = t.task_id
                 AND a.map_index = t.map_index AND a.ended_at IS NULL
         WHERE t.run > ?1 AND t.run <= ?2 AND t.state IN ('queued', 'running', 'restarting') AND a.run IS NULL
         LIMIT ?3",
        "it is `{a}`, but its attempt is not open",
    ),
    (
        Rule::AttemptsFitStates,
        "SELECT r.dag_id, r.run_id, a.task_id, a.map_index, a.state AS a, t.state AS b, a.number AS n, NULL AS m
         FROM af_attempt a JOIN af_run r ON r.pk = a.run
             LEFT JOIN af_ti t ON t.run = a.run AND t.task_id = a.task_id AND t.map_index = a.map_index
                 AND t.state IN ('queued', 'running', 'restarting') AND t.attempt_id = a.attempt_id
         WHERE a.run > ?1 AND a.run <= ?2 AND a.ended_at IS NULL AND t.run IS NULL LIMIT ?3",
        "attempt {n} is open, but the instance does not execute it",
    ),
    (
        Rule::AttemptsFitStates,
        "SELECT r.dag_id, r.run_id, a.task_id, a.map_index, a.state AS a, NULL AS b, a.number AS n, NULL AS m
         FROM af_attempt a JOIN af_run r ON r.pk = a.run WHERE a.run > ?1 AND a.run <= ?2
             AND ((a.state IN ('queued', 'running') AND a.ended_at IS NOT NULL)
                  OR (a.state NOT IN ('queued', 'running') AND a.ended_at IS NULL)) LIMIT ?3",
        "attempt {n} is `{a}`, which does not fit the time of its end",
    ),
    (
        Rule::RunsFitInstances,
        "SELECT r.dag_id, r.run_id, t.task_id, t.map_index, t.state AS a, r.state AS b, t.epoch AS n, NULL AS m
         FROM af_ti t JOIN af_run r ON r.pk = t.run
         WHERE t.run > ?1 AND t.run <= ?2 AND r.state IN ('success', 'failed') AND t.state IN
             ('scheduled', 'queued', 'running', 'restarting', 'deferred', 'up_for_retry', 'up_for_reschedule') LIMIT ?3",
        "it is `{a}`, but its run has ended as `{b}`",
    ),
    (
        Rule::RunsFitInstances,
        "SELECT r.dag_id, r.run_id, NULL AS task_id, NULL AS map_index, r.state AS a, NULL AS b, r.pk AS n, NULL AS m
         FROM af_run r WHERE r.pk > ?1 AND r.pk <= ?2
             AND ((r.state IN ('success', 'failed') AND r.ended_at IS NULL)
                  OR (r.state NOT IN ('success', 'failed') AND r.ended_at IS NOT NULL)
                  OR (r.state = 'running' AND r.started_at IS NULL)) LIMIT ?3",
        "the run is `{a}`, which does not fit the times of its start and end",
    ),
];

/// Gives at most ?1 rows; ?2 is how long the dead may keep things, ?3 how long a notice may wait. The last column says how
/// many of these a statement names.
const OF_ALL: [(Rule, &str, &str, usize); 6] = [
    (
        Rule::OneRunPerDate,
        "SELECT dag_id, min(run_id) AS run_id, NULL AS task_id, NULL AS map_index, max(run_id) AS a, NULL AS b,
                count(*) AS n, NULL AS m
         FROM af_run WHERE run_type <> 'manual' GROUP BY dag_id, logical_date
         HAVING count(*) > 1 LIMIT ?1",
        "{n} runs have one logical date; another one is `{a}`",
        1,
    ),
    (
        Rule::AttemptsOfTheLiving,
        "SELECT r.dag_id, r.run_id, a.task_id, a.map_index, i.host AS a, CASE WHEN i.id IS NULL THEN 'unknown'
                WHEN i.ended_at IS NOT NULL THEN 'ended' ELSE 'silent' END AS b, i.pid AS n, a.number AS m
         FROM af_attempt a JOIN af_run r ON r.pk = a.run LEFT JOIN af_incarnation i ON i.id = a.incarnation
         WHERE a.ended_at IS NULL AND ((i.id IS NULL AND a.state = 'running')
             OR i.ended_at < AFTER_MICROS(?2) OR i.lease_until < AFTER_MICROS(?2)) LIMIT ?1",
        "attempt {m} is open; its process (pid {n} on {a}) is {b}",
        2,
    ),
    (
        Rule::NoticesTold,
        "SELECT r.dag_id, r.run_id, n.task_id, n.map_index, n.event AS a, CASE WHEN i.id IS NULL THEN 'unknown'
                WHEN i.ended_at IS NOT NULL THEN 'ended' ELSE 'alive' END AS b, n.epoch AS n, NULL AS m
         FROM af_notice n JOIN af_run r ON r.pk = n.run LEFT JOIN af_incarnation i ON i.id = n.owner
         WHERE n.at < AFTER_MICROS(?3) OR (n.at < AFTER_MICROS(?2) AND (i.id IS NULL OR i.ended_at < AFTER_MICROS(?2)))
         LIMIT ?1",
        "the callback for `{a}` has not been told; the process that should is {b}",
        3,
    ),
    (
        Rule::OwnersAlive,
        "SELECT r.dag_id, r.run_id, NULL AS task_id, NULL AS map_index, i.host AS a, CASE WHEN i.id IS NULL
                THEN 'unknown' WHEN i.ended_at IS NOT NULL THEN 'ended' ELSE 'silent' END AS b, i.pid AS n, NULL AS m
         FROM af_run r INDEXED BY af_run_active JOIN af_run_owner o ON o.run = r.pk
             LEFT JOIN af_incarnation i ON i.id = o.incarnation
         WHERE r.state IN ('queued', 'running')
             AND (i.id IS NULL OR i.ended_at < AFTER_MICROS(?2) OR i.lease_until < AFTER_MICROS(?2)) LIMIT ?1",
        "the process that decides about the run (pid {n} on {a}) is {b}",
        2,
    ),
    (
        Rule::QueuedAreSent,
        "SELECT r.dag_id, r.run_id, a.task_id, a.map_index, a.queue AS a, r.state AS b, a.number AS n, NULL AS m
         FROM af_attempt a JOIN af_run r ON r.pk = a.run LEFT JOIN af_run_owner o ON o.run = a.run
             LEFT JOIN af_incarnation i ON i.id = o.incarnation AND i.ended_at IS NULL
         WHERE a.ended_at IS NULL AND a.state = 'queued' AND a.at < AFTER_MICROS(?2) AND i.id IS NULL LIMIT ?1",
        "attempt {n} waits in the queue `{a}`, and no scheduler decides about its run, which is `{b}`: nobody sends it",
        2,
    ),
    (
        Rule::NoOrphanRows,
        "SELECT s.name AS dag_id, NULL AS run_id, NULL AS task_id, NULL AS map_index, NULL AS a, NULL AS b,
                s.kind AS n, s.used AS m
         FROM af_slot s LEFT JOIN af_dag d ON d.dag_id = s.name
         WHERE s.kind IN (1, 2, 3) AND s.used > 0 AND d.dag_id IS NULL LIMIT ?1",
        "{m} are taken of a limit of a dag that is not in the database",
        1,
    ),
];

/// Tables, what their rows refer to, and how many refer to nothing.
const ORPHANS: [(&str, &str, &str); 14] = [
    (
        "af_watcher",
        "asset",
        "SELECT count(*) AS n FROM af_watcher x LEFT JOIN af_asset p ON p.asset_key = x.asset_key
         WHERE p.asset_key IS NULL",
    ),
    (
        "af_ti",
        "run",
        "SELECT count(*) AS n FROM af_ti x LEFT JOIN af_run p ON p.pk = x.run WHERE p.pk IS NULL",
    ),
    (
        "af_event",
        "run",
        "SELECT count(*) AS n FROM af_event x LEFT JOIN af_run p ON p.pk = x.run WHERE p.pk IS NULL",
    ),
    (
        "af_attempt",
        "run",
        "SELECT count(*) AS n FROM af_attempt x LEFT JOIN af_run p ON p.pk = x.run WHERE p.pk IS NULL",
    ),
    (
        "af_xcom",
        "run",
        "SELECT count(*) AS n FROM af_xcom x LEFT JOIN af_run p ON p.pk = x.run WHERE p.pk IS NULL",
    ),
    (
        "af_expansion",
        "run",
        "SELECT count(*) AS n FROM af_expansion x LEFT JOIN af_run p ON p.pk = x.run WHERE p.pk IS NULL",
    ),
    (
        "af_notice",
        "run",
        "SELECT count(*) AS n FROM af_notice x LEFT JOIN af_run p ON p.pk = x.run WHERE p.pk IS NULL",
    ),
    (
        "af_run_owner",
        "run",
        "SELECT count(*) AS n FROM af_run_owner x LEFT JOIN af_run p ON p.pk = x.run WHERE p.pk IS NULL",
    ),
    (
        "af_run",
        "dag",
        "SELECT count(*) AS n FROM af_run x LEFT JOIN af_dag p ON p.dag_id = x.dag_id WHERE p.dag_id IS NULL",
    ),
    (
        "af_dag_version",
        "dag",
        "SELECT count(*) AS n FROM af_dag_version x LEFT JOIN af_dag p ON p.dag_id = x.dag_id WHERE p.dag_id IS NULL",
    ),
    (
        "af_report",
        "attempt",
        "SELECT count(*) AS n FROM af_report x LEFT JOIN af_attempt p ON p.attempt_id = x.attempt_id
         WHERE p.attempt_id IS NULL",
    ),
    (
        "af_log_chunk",
        "attempt",
        "SELECT count(*) AS n FROM af_log_chunk x LEFT JOIN af_attempt p ON p.attempt_id = x.attempt_id
         WHERE p.attempt_id IS NULL",
    ),
    (
        "af_carried",
        "process",
        "SELECT count(*) AS n FROM af_carried x LEFT JOIN af_incarnation p ON p.id = x.incarnation WHERE p.id IS NULL",
    ),
    (
        "af_dag",
        "current version",
        "SELECT count(*) AS n FROM af_dag x LEFT JOIN af_dag_version p ON p.dag_id = x.dag_id
             AND p.fingerprint = x.fingerprint WHERE p.dag_id IS NULL",
    ),
];

/// Looks at some rows.
pub(in crate::store) async fn examine(conn: &mut Conn<'_>, rows: Rows) -> StoreResult<Examined> {
    match rows {
        Rows::OfRunsAfter(after) => of_runs(conn, after).await,
        Rows::OfAll => of_all(conn).await,
    }
}

async fn of_runs(conn: &mut Conn<'_>, after: RunPk) -> StoreResult<Examined> {
    const NEXT: &str = "SELECT pk FROM af_run WHERE pk > ?1 ORDER BY pk LIMIT ?2";
    let runs = query(NEXT).bind(after.0).bind(RUNS).fetch_all(conn).await?;
    let Some(last) = runs.last().map(|row| row.num("pk")).transpose()?.map(RunPk) else {
        return Ok(Examined::default());
    };
    let mut anomalies = Vec::new();
    for (rule, sql, words) in OF_RUNS {
        let found = query(sql).bind(after.0).bind(last.0).bind(MOST).fetch_all(conn).await?;
        for row in &found {
            anomalies.push(anomaly(rule, row, words)?);
        }
    }
    illegal(conn, (after, last), &mut anomalies).await?;
    Ok(Examined { anomalies, last: Some(last) })
}

/// Events that the state machine does not know.
async fn illegal(
    conn: &mut Conn<'_>,
    (after, last): (RunPk, RunPk),
    anomalies: &mut Vec<Anomaly>,
) -> StoreResult<()> {
    const KINDS: &str = "
        SELECT DISTINCT from_state, event, to_state FROM af_event WHERE run > ?1 AND run <= ?2";
    const WHERE: &str = "
        SELECT r.dag_id, r.run_id, e.task_id, e.map_index, e.from_state AS a, e.to_state AS b, e.epoch AS n, NULL AS m
        FROM af_event e JOIN af_run r ON r.pk = e.run
        WHERE e.run > ?1 AND e.run <= ?2 AND e.from_state = ?3 AND e.event = ?4 AND e.to_state = ?5 LIMIT ?6";
    for kind in query(KINDS).bind(after.0).bind(last.0).fetch_all(conn).await? {
        let (from, event, to) = (kind.str("from_state")?, kind.str("event")?, kind.str("to_state")?);
        let parsed = (from.parse::<TaskState>(), event.parse::<TaskEvent>(), to.parse::<TaskState>());
        let is_legal = match parsed {
            (Ok(from), Ok(event), Ok(to)) => from.on(event).is_ok_and(|change| change.to() == to),
            _ => false,
        };
        if is_legal {
            continue;
        }
        let words = format!("at epoch {{n}} the event `{event}` led from `{{a}}` to `{{b}}`");
        let found = query(WHERE).bind(after.0).bind(last.0).bind(from).bind(event).bind(to).bind(MOST);
        for row in &found.fetch_all(conn).await? {
            anomalies.push(anomaly(Rule::TransitionsLegal, row, &words)?);
        }
    }
    Ok(())
}

async fn of_all(conn: &mut Conn<'_>) -> StoreResult<Examined> {
    let mut anomalies = Vec::new();
    for (rule, sql, words, args) in OF_ALL {
        let args = [MOST, -GRACE, -NOTICE_AGE].into_iter().take(args);
        let found = args.fold(query(sql), Query::bind).fetch_all(conn).await?;
        for row in &found {
            anomalies.push(anomaly(rule, row, words)?);
        }
    }
    for (table, parent, sql) in ORPHANS {
        let lost: i64 = query(sql).fetch_one(conn).await?.num("n")?;
        if lost > 0 {
            let found = format!("{lost} rows of `{table}` have no {parent}");
            anomalies.push(Anomaly {
                rule: Rule::NoOrphanRows,
                dag_id: None,
                run_id: None,
                task_id: None,
                map_index: None,
                found,
            });
        }
    }
    Ok(Examined { anomalies, last: None })
}

fn anomaly(rule: Rule, row: &Row, words: &str) -> StoreResult<Anomaly> {
    let text = |name| Ok(row.maybe_text(name)?.unwrap_or_else(|| "nothing".to_owned()));
    let number = |name| Ok(row.maybe_num::<i64>(name)?.map_or_else(|| "?".to_owned(), |n| n.to_string()));
    let found = words.replace("{n}", &number("n")?).replace("{m}", &number("m")?);
    let found = found.replace("{a}", &text("a")?).replace("{b}", &text("b")?);
    // What is of the run has an empty task.
    let task = row.maybe_text("task_id")?.filter(|task| !task.is_empty());
    Ok(Anomaly {
        rule,
        dag_id: row.maybe_text("dag_id")?.map(Into::into),
        run_id: row.maybe_text("run_id")?.map(Into::into),
        map_index: row.maybe_num("map_index")?.map(MapIndex).filter(|_| task.is_some()),
        task_id: task.map(Into::into),
        found,
    })
}

/// What is taken of limits, and who takes it: one statement, so of one moment.
pub(in crate::store) async fn slot_count(conn: &mut Conn<'_>) -> StoreResult<SlotCount> {
    const NOW: &str = "SELECT CLOCK() AS at";
    const COUNT: &str = "
        SELECT 'taken' AS what, name, task_id, kind, used, NULL AS holds FROM af_slot WHERE used <> 0
        UNION ALL
        SELECT t.state AS what, r.dag_id AS name, t.task_id, min(r.pk) AS kind, count(*) AS used,
               t.holds
        FROM af_ti t JOIN af_run r ON r.pk = t.run
        WHERE t.state IN ('queued', 'running', 'restarting', 'deferred') 
        GROUP BY t.state, r.dag_id, t.task_id, t.holds
        UNION ALL
        SELECT 'runs' AS what, dag_id AS name, '' AS task_id, min(pk) AS kind, count(*) AS used,
               NULL AS holds
        FROM af_run WHERE state = 'running' GROUP BY dag_id";
    let now = query(NOW).fetch_one(conn).await?.time("at")?;
    let (taken, instances, runs, dags) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut count = SlotCount { now, taken, instances, runs, dags };
    let mut tasks: BTreeMap<DagId, BTreeSet<TaskId>> = BTreeMap::new();
    for row in &query(COUNT).fetch_all(conn).await? {
        match row.str("what")? {
            "taken" => {
                let taken = slot(row)?;
                if let (SlotKey::Task(dag, task), _) = &taken {
                    tasks.entry(dag.clone()).or_default().insert(task.clone());
                }
                count.taken.push(taken);
            }
            "runs" => {
                let dag: DagId = row.text("name")?.into();
                tasks.entry(dag.clone()).or_default();
                count.runs.push((dag, row.num("used")?));
            }
            state => {
                let state = state.parse().map_err(corrupt)?;
                let (dag, task): (DagId, TaskId) = (row.text("name")?.into(), row.text("task_id")?.into());
                tasks.entry(dag.clone()).or_default().insert(task.clone());
                let holds = written::held_of(row.maybe_text("holds")?.as_deref())?;
                count.instances.push(Holders {
                    dag_id: dag,
                    task_id: task,
                    state,
                    holds,
                    number: row.num("used")?,
                });
            }
        }
    }
    for (dag, tasks) in tasks {
        count.dags.extend(limits(conn, dag, &tasks).await?);
    }
    Ok(count)
}

/// What the current version of a dag says of limits, as far as it is about these tasks. One dag at a time: what is stored
/// of one may be long.
async fn limits(
    conn: &mut Conn<'_>,
    dag_id: DagId,
    active: &BTreeSet<TaskId>,
) -> StoreResult<Option<DagLimits>> {
    const STRUCTURE: &str = "
        SELECT v.structure FROM af_dag d JOIN af_dag_version v ON v.dag_id = d.dag_id AND v.fingerprint = d.fingerprint
        WHERE d.dag_id = ?1";
    let Some(row) = query(STRUCTURE).bind(dag_id.as_str()).fetch_optional(conn).await? else {
        return Ok(None);
    };
    let stored: Structure = row.json("structure")?;
    let active: Vec<StoredTask> = stored.tasks.into_iter().filter(|task| active.contains(&task.id)).collect();
    let of_task = |task: &StoredTask| Some((task.id.clone(), task.max_active_tis_per_dag?));
    Ok(Some(DagLimits {
        dag_id,
        max_active_runs: stored.max_active_runs,
        max_active_tasks: stored.max_active_tasks,
        tasks: active.iter().filter_map(of_task).collect(),
        pools: active.into_iter().map(|task| (task.id, task.pool, task.pool_slots)).collect(),
    }))
}

/// A part of what is stored of a dag.
#[derive(Deserialize)]
struct Structure {
    max_active_runs: Option<i64>,
    max_active_tasks: Option<i64>,
    #[serde(default)]
    tasks: Vec<StoredTask>,
}

#[derive(Deserialize)]
struct StoredTask {
    id: TaskId,
    pool: String,
    pool_slots: i64,
    max_active_tis_per_dag: Option<i64>,
}
