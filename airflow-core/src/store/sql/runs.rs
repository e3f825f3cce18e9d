//! Runs: created, listed, deleted, cleaned. How one is loaded stands in [`load`](super::load).

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use crate::id::{DagId, RunId, RunPk, TaskId};
use crate::state::TaskState;
use crate::store::points::reach_point;
use crate::store::rules;
use crate::store::{Advance, CreatedRun, Held, NewRun, RunFilter, RunRow, StoreError, StoreResult};
use crate::timetable::DataInterval;

use super::json::{Rows, apart};
use super::keys::slot_columns;
use super::{Arg, Conn, Query, Row, asset_queue, dags, deadlines, query, written};

/// How many runs one statement inserts where it names each.
const INSERT_RUNS: usize = 50;

/// A run to be created, as a row.
macro_rules! new_runs {
    () => {
        "ROWS(?1, dag NAME, name NAME, type NAME, date TIME, begins TIME, ends TIME, due TIME, asked TIME, args TEXT,
              print NAME, who TEXT, alone FLAG, lane TEXT) j"
    };
}

/// The number of the run of the same id, else of the same logical date.
macro_rules! same_run {
    () => {
        "coalesce((SELECT a.pk FROM af_run a WHERE a.dag_id = j.dag AND a.run_id = j.name),
                  (SELECT min(b.pk) FROM af_run b WHERE j.type IN ('backfill', 'scheduled') AND b.dag_id = j.dag
                      AND b.logical_date = j.date AND b.run_type IN ('backfill', 'scheduled')))"
    };
}

/// Creates runs. Runs in a transaction of the caller.
pub(in crate::store) async fn create(conn: &mut Conn<'_>, runs: &[NewRun]) -> StoreResult<Vec<CreatedRun>> {
    dags::lock_all(conn, runs.iter().map(|run| &run.dag_id)).await?;
    reach_point!("create.begin");
    let as_they_will_be = asset_queue::taking(conn, runs).await?;
    let to_insert: Vec<NewRun> = as_they_will_be.iter().flatten().cloned().collect();
    let created = insert(conn, &to_insert).await?;
    let new = created.iter().zip(&to_insert).filter_map(|(created, run)| match created {
        CreatedRun::New(row) => Some((row.pk, run)),
        CreatedRun::Exists(_) | CreatedRun::Taken => None,
    });
    let new: Vec<(RunPk, &NewRun)> = new.collect();
    for (pk, run) in new.iter().filter(|(_, run)| run.assets.is_some()) {
        asset_queue::take(conn, &run.dag_id, *pk).await?;
    }
    deadlines::add(conn, &new).await?;
    dags::advance_all(conn, &advances(runs)).await?;
    reach_point!("create.end");
    let mut created = created.into_iter();
    let answer = |run: &Option<NewRun>| run.as_ref().map_or(Some(CreatedRun::Taken), |_| created.next());
    Ok(as_they_will_be.iter().filter_map(answer).collect())
}

/// How often a run is made that is deleted at the same time.
const MOST_LOOKS: usize = 10;

/// Inserts those that do not exist. One answer for each, in order.
async fn insert(conn: &mut Conn<'_>, runs: &[NewRun]) -> StoreResult<Vec<CreatedRun>> {
    let mut created = Vec::with_capacity(runs.len());
    let name = |run: &NewRun| (run.dag_id.clone(), Ok(run.run_id.clone()));
    let date = |run: &NewRun| (run.dag_id.clone(), Err(run.logical_date));
    for part in apart(runs, |run| vec![name(run), date(run)]) {
        let mut rows = conn.rows();
        for (_, run) in &part {
            write_new(&mut rows, run);
        }
        let json = rows.finish().unwrap_or_default();
        let (mut new, mut rows) = (HashSet::new(), Vec::new());
        // A run that was there may be deleted before it is read; then there is room for it.
        for _ in 0..MOST_LOOKS {
            new.extend(if conn.kind().has_returning() {
                insert_returning(conn, &json).await?
            } else {
                insert_missing(conn, &json, &part).await?
            });
            rows = existing(conn, &json).await?;
            if rows.len() == part.len() {
                break;
            }
        }
        if rows.len() < part.len() {
            return Err(StoreError::Database("a run is deleted again and again while it is made".into()));
        }
        for row in rows {
            let is_new = new.contains(&row.pk);
            created.push(if is_new {
                CreatedRun::New(Box::new(row))
            } else {
                CreatedRun::Exists(Box::new(row))
            });
        }
    }
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
    let row = row.text(&run.fingerprint).text(&run.triggered_by).int(run.ignores_past);
    row.maybe_text(run.queue.as_deref()).end();
}

/// Inserts the runs that do not exist; says which numbers they got.
async fn insert_returning(conn: &mut Conn<'_>, json: &str) -> StoreResult<HashSet<RunPk>> {
    const INSERT: &str = concat!(
        "INSERT INTO af_run (dag_id, run_id, run_type, state, logical_date, interval_start, interval_end, run_after,
                             queued_at, conf, fingerprint, generation, triggered_by, ignores_past, queue)
         SELECT j.dag, j.name, j.type, 'queued', j.date, j.begins, j.ends, j.due, j.asked, j.args, j.print, 0, j.who,
                j.alone, j.lane
         FROM ",
        new_runs!(),
        " WHERE ",
        same_run!(),
        " IS NULL ORDER BY j.ord RETURNING pk"
    );
    let new = query(INSERT).bind(json).fetch_all(conn).await?;
    new.iter().map(|row| Ok(RunPk(row.num("pk")?))).collect()
}

/// The same without `RETURNING`: looks which are missing, and names each of them, so that their numbers have no gaps.
/// The dags are locked, so nobody else creates runs of them meanwhile.
async fn insert_missing(
    conn: &mut Conn<'_>,
    json: &str,
    part: &[(usize, &NewRun)],
) -> StoreResult<HashSet<RunPk>> {
    const KNOWN: &str = concat!("SELECT ", same_run!(), " AS pk FROM ", new_runs!(), " ORDER BY j.ord");
    const INSERT: &str = "
        INSERT INTO af_run (dag_id, run_id, run_type, state, logical_date, interval_start, interval_end, run_after,
                            queued_at, conf, fingerprint, generation, triggered_by, ignores_past, queue) VALUES ";
    let rows = query(KNOWN).bind(json).fetch_all(conn).await?;
    let known: Vec<Option<i64>> = rows.iter().map(|row| row.maybe_num("pk")).collect::<StoreResult<_>>()?;
    let missing: Vec<&NewRun> =
        part.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|((_, run), _)| *run).collect();
    for runs in missing.chunks(INSERT_RUNS) {
        let mut sql = String::from(INSERT);
        let mut args: Vec<Arg<'_>> = Vec::new();
        for run in runs {
            let at = args.len();
            let separator = if at == 0 { "" } else { ", " };
            let place = |n: usize| format!("?{}", at + n);
            let head = format!("{}, {}, {}", place(1), place(2), place(3));
            let tail: Vec<String> = (4..=10).map(place).collect();
            write!(
                sql,
                "{separator}({head}, 'queued', {}, 0, {}, {}, {})",
                tail.join(", "),
                place(11),
                place(12),
                place(13)
            )
            .expect("writing to a string never fails");
            args.extend(new_args(run));
        }
        args.into_iter().fold(query(sql), Query::bind).execute(conn).await?;
    }
    let old: HashSet<RunPk> = known.into_iter().flatten().map(RunPk).collect();
    let all = existing(conn, json).await?;
    Ok(all.into_iter().map(|run| run.pk).filter(|pk| !old.contains(pk)).collect())
}

fn new_args(run: &NewRun) -> [Arg<'_>; 13] {
    [
        run.dag_id.as_str().into(),
        run.run_id.as_str().into(),
        run.run_type.as_str().into(),
        run.logical_date.into(),
        run.data_interval.start.into(),
        run.data_interval.end.into(),
        run.run_after.into(),
        run.queued_at.into(),
        run.conf.as_ref().map(ToString::to_string).into(),
        (&run.fingerprint).into(),
        (&run.triggered_by).into(),
        run.ignores_past.into(),
        run.queue.as_deref().into(),
    ]
}

/// The run of the same id, else of the same logical date, for each of the runs just inserted.
async fn existing(conn: &mut Conn<'_>, json: &str) -> StoreResult<Vec<RunRow>> {
    const EXISTING: &str = concat!(
        "SELECT r.* FROM ",
        new_runs!(),
        " CROSS JOIN af_run r ON r.pk = ",
        same_run!(),
        " ORDER BY j.ord"
    );
    query(EXISTING).bind(json).fetch_all(conn).await?.iter().map(run_row).collect()
}

/// Reads a row of `af_run`.
pub(super) fn run_row(row: &Row) -> StoreResult<RunRow> {
    Ok(RunRow {
        pk: RunPk(row.num("pk")?),
        dag_id: row.text("dag_id")?.into(),
        run_id: row.text("run_id")?.into(),
        run_type: row.word("run_type")?,
        state: row.word("state")?,
        logical_date: row.time("logical_date")?,
        data_interval: DataInterval { start: row.time("interval_start")?, end: row.time("interval_end")? },
        run_after: row.time("run_after")?,
        queued_at: row.time("queued_at")?,
        started_at: row.maybe_time("started_at")?,
        ended_at: row.maybe_time("ended_at")?,
        conf: row.maybe_json("conf")?,
        fingerprint: row.text("fingerprint")?,
        generation: row.num("generation")?,
        triggered_by: row.text("triggered_by")?,
        ignores_past: row.flag("ignores_past")?,
        queue: row.maybe_text("queue")?,
        reason: row.maybe_text("reason")?,
    })
}

/// Lists runs. The text is built of fixed parts; all that the filter says is bound.
pub(in crate::store) async fn list(conn: &mut Conn<'_>, filter: &RunFilter) -> StoreResult<Vec<RunRow>> {
    // Said in words, the states of runs that are not finished lead to the index of these few runs.
    let only_active = !filter.states.is_empty() && filter.states.iter().all(|state| !state.is_finished());
    let mut sql = String::from(if only_active {
        "SELECT * FROM af_run INDEXED BY af_run_active WHERE state IN ('queued', 'running')"
    } else {
        "SELECT * FROM af_run WHERE true"
    });
    let states = conn.list(filter.states.iter().map(|state| state.as_str()));
    let types = conn.list(filter.types.iter().map(|kind| kind.as_str()));
    let parts: [(bool, &str, Arg<'_>); 7] = [
        (filter.dag_id.is_some(), "dag_id = ?", filter.dag_id.as_ref().map(DagId::as_str).into()),
        (filter.run_id.is_some(), "run_id = ?", filter.run_id.as_ref().map(RunId::as_str).into()),
        (!filter.states.is_empty(), "state IN (SELECT j.word FROM ROWS(?, word NAME) j)", states.into()),
        (!filter.types.is_empty(), "run_type IN (SELECT j.word FROM ROWS(?, word NAME) j)", types.into()),
        (filter.from.is_some(), "logical_date >= ?", filter.from.map(rules::ceil_micros).into()),
        (filter.to.is_some(), "logical_date <= ?", filter.to.into()),
        (filter.ended_by.is_some(), "ended_at <= ?", filter.ended_by.into()),
    ];
    let mut args = Vec::new();
    for (_, part, arg) in parts.into_iter().filter(|(wanted, ..)| *wanted) {
        args.push(arg);
        write!(sql, " AND {}", part.replace('?', &format!("?{}", args.len())))
            .expect("writing to a string never fails");
    }
    let direction = if filter.newest_first { " DESC" } else { "" };
    let (limit, offset) = (args.len() + 1, args.len() + 2);
    write!(sql, " ORDER BY logical_date{direction}, pk{direction} LIMIT ?{limit} OFFSET ?{offset}")
        .expect("writing to a string never fails");
    args.push(filter.limit.map_or(i64::MAX, i64::from).into());
    args.push(filter.offset.into());
    let bound = args.into_iter().fold(query(sql), Query::bind);
    bound.fetch_all(conn).await?.iter().map(run_row).collect()
}

/// Deletes a run, with what refers to it, and gives back what it and its task instances have taken. Runs in a transaction
/// of the caller.
pub(in crate::store) async fn delete(conn: &mut Conn<'_>, run: RunPk) -> StoreResult<bool> {
    // Nobody changes the instances of a run without its row.
    const LOCK: &str = "SELECT dag_id, state FROM af_run WHERE pk = ?1 FOR UPDATE";
    const HELD: &str = "SELECT task_id, state, holds FROM af_ti WHERE run = ?1 AND holds IS NOT NULL";
    const GIVE_BACK: &str = "
        UPDATE af_slot SET used = CASE WHEN used > ?4 THEN used - ?4 ELSE 0 END
        WHERE kind = ?1 AND name = ?2 AND task_id = ?3";
    const DELETE: &str = "DELETE FROM af_run WHERE pk = ?1";
    let Some(row) = query(LOCK).bind(run.0).fetch_optional(conn).await? else { return Ok(false) };
    let (dag, state) = (DagId::from(row.text("dag_id")?), row.word("state")?);
    let mut held: Vec<(TaskId, TaskState, Arc<Held>)> = Vec::new();
    for row in query(HELD).bind(run.0).fetch_all(conn).await? {
        if let Some(one) = written::held_of(row.maybe_text("holds")?.as_deref())? {
            held.push((row.text("task_id")?.into(), row.word("state")?, one));
        }
    }
    let instances = held.iter().map(|(task, state, held)| (task, *state, &**held));
    for (key, count) in &rules::held_by(&dag, state, instances) {
        let (kind, name, task) = slot_columns(key);
        query(GIVE_BACK).bind(kind).bind(name).bind(task).bind(*count).execute(conn).await?;
    }
    Ok(query(DELETE).bind(run.0).execute(conn).await? > 0)
}
