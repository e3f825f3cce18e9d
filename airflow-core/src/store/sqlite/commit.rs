//! Units of a commit, written in one statement.
//!
//! A round trip to the thread of the connection costs more than the work, so a commit is one `INSERT` of many rows into
//! a view: each row is one small step ([`steps`](super::steps)), and temporary triggers, one for each kind of step, compare,
//! refuse or write. Steps are taken in order and see what those before them wrote. One statement is its own
//! transaction: it happens or does not, and leaves none open, whatever becomes of the caller. The triggers belong to
//! the connection, not to the file, so other versions of this library never meet them.
//!
//! That is the common case, in which every unit holds. If one does not, the statement refuses all, and the slower way
//! reads the rows the units name, has [`View::judge`](crate::store::judge::View::judge) say what becomes of each, and
//! writes the others.

use std::sync::{Arc, LazyLock};

use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::store::points::reach_point;
use crate::store::{StoreResult, Unit, UnitResult};

use crate::store::sql::errors::failed;

use super::errors::is_refused;
use super::steps::{Kind, Steps, WIDTH};
use super::view;

/// An instance that has no row yet: the primary key refuses one that has.
macro_rules! first {
    () => {
        "INSERT INTO af_ti (run, task_id, map_index, state, epoch, try_number, max_tries, lost, attempt_id,
                            next_try_at, started_at, ended_at, has_result, map_length, reason, wait, holds)
             VALUES (NEW.a, NEW.b, NEW.c, NEW.f, 1, NEW.j, NEW.k, NEW.l, NEW.m, NEW.n, NEW.o, NEW.p, NEW.q, NEW.r,
                     NEW.s, NEW.t, NEW.u);
         INSERT INTO af_event (run, task_id, map_index, epoch, from_state, to_state, event, actor, at)
             VALUES (NEW.a, NEW.b, NEW.c, 1, NEW.d, NEW.f, NEW.g, NEW.h, NEW.i);"
    };
}

/// One whose row is in the state and epoch that were seen.
macro_rules! next {
    () => {
        "UPDATE af_ti SET state = NEW.f, epoch = NEW.e + 1, try_number = NEW.j, max_tries = NEW.k, lost = NEW.l,
             attempt_id = NEW.m, next_try_at = NEW.n, started_at = NEW.o, ended_at = NEW.p, has_result = NEW.q,
             map_length = NEW.r, reason = NEW.s, wait = NEW.t, holds = NEW.u
             WHERE run = NEW.a AND task_id = NEW.b AND map_index = NEW.c AND state = NEW.d AND epoch = NEW.e;
         SELECT RAISE(ABORT, 'stale') WHERE changes() = 0;
         INSERT INTO af_event (run, task_id, map_index, epoch, from_state, to_state, event, actor, at)
             VALUES (NEW.a, NEW.b, NEW.c, NEW.e + 1, NEW.d, NEW.f, NEW.g, NEW.h, NEW.i);"
    };
}

/// An attempt that begins. One that exists may only be claimed; anything else meets the NOT NULL of `state`.
macro_rules! begin {
    ($number:literal, $id:literal, $try:literal, $state:literal, $process:literal, $queue:literal, $at:literal) => {
        concat!(
            "INSERT INTO af_attempt (run, task_id, map_index, number, attempt_id, try_number, start_state, state,
                                     incarnation, queue, at)
                 VALUES (NEW.a, NEW.b, NEW.c, NEW.", $number, ", NEW.", $id, ", NEW.", $try, ", NEW.", $state,
                         ", NEW.", $state, ", NEW.", $process, ", NEW.", $queue, ", NEW.", $at, ")
                 ON CONFLICT DO UPDATE SET
                     state = iif(state = 'queued' AND excluded.state = 'running' AND attempt_id = excluded.attempt_id
                                 AND run = excluded.run AND task_id = excluded.task_id
                                 AND map_index = excluded.map_index AND number = excluded.number, 'running', NULL),
                     start_state = 'running', incarnation = excluded.incarnation;"
        )
    };
}

/// An attempt that ends. One that has ended, or belongs to another run, is left as it is.
macro_rules! end {
    ($id:literal, $state:literal, $at:literal, $error:literal, $rendered:literal) => {
        concat!(
            "UPDATE af_attempt SET state = NEW.",
            $state,
            ", ended_at = NEW.",
            $at,
            ", error = NEW.",
            $error,
            ", rendered = NEW.",
            $rendered,
            " WHERE attempt_id = NEW.",
            $id,
            " AND run = NEW.a AND ended_at IS NULL;"
        )
    };
}

/// What each kind of step does; its columns stand in `a` to `z`, and what they mean in [`steps`](super::steps).
const TRIGGERS: [(Kind, &str); 17] = [
    // The run is as it was seen.
    (
        Kind::Guard,
        "SELECT RAISE(ABORT, 'stale') WHERE NOT EXISTS (SELECT 1 FROM af_run WHERE pk = NEW.a AND generation = NEW.b);",
    ),
    // The run is as it was seen, and changes: its state only if `d` is there.
    (
        Kind::Change,
        "UPDATE af_run SET generation = generation + NEW.c, state = coalesce(NEW.e, state),
             started_at = iif(NEW.e IS NULL, started_at, NEW.f), ended_at = iif(NEW.e IS NULL, ended_at, NEW.g),
             reason = iif(NEW.e IS NULL, reason, NEW.h), queued_at = coalesce(NEW.i, queued_at)
             WHERE pk = NEW.a AND generation = NEW.b AND (NEW.d IS NULL OR state = NEW.d);
         SELECT RAISE(ABORT, 'stale') WHERE changes() = 0;",
    ),
    (Kind::First, first!()),
    (Kind::Next, next!()),
    (Kind::FirstBegins, concat!(first!(), begin!("v", "m", "j", "w", "x", "y", "z"))),
    (Kind::NextBegins, concat!(next!(), begin!("v", "m", "j", "w", "x", "y", "z"))),
    (Kind::NextEnds, concat!(next!(), end!("v", "w", "x", "y", "z"))),
    (
        Kind::Expand,
        "INSERT INTO af_expansion (run, owner, length) VALUES (NEW.a, NEW.b, NEW.c)
             ON CONFLICT DO UPDATE SET length = excluded.length;",
    ),
    (Kind::Clear, "DELETE FROM af_xcom WHERE run = NEW.a AND task_id = NEW.b AND map_index = NEW.c;"),
    (
        Kind::Put,
        "INSERT INTO af_xcom (run, task_id, map_index, key, at, value)
             VALUES (NEW.a, NEW.b, NEW.c, NEW.d, NEW.e, NEW.f)
             ON CONFLICT DO UPDATE SET at = excluded.at, value = excluded.value;",
    ),
    (Kind::Begin, begin!("d", "e", "f", "g", "h", "i", "j")),
    (Kind::End, end!("b", "c", "d", "e", "f")),
    // A limit: a pool has the room that it says, and none if nobody knows it.
    (
        Kind::Take,
        "INSERT INTO af_slot (kind, name, task_id, used) VALUES (NEW.a, NEW.b, NEW.c, max(0, NEW.d))
             ON CONFLICT DO UPDATE SET used = max(0, used + NEW.d);
         SELECT RAISE(ABORT, 'full') FROM af_slot WHERE NEW.d > 0 AND kind = NEW.a AND name = NEW.b AND task_id = NEW.c
             AND used > iif(NEW.a = 0, coalesce((SELECT iif(slots < 0, used, slots - iif(include_deferred, coalesce(
                 (SELECT used FROM af_slot WHERE kind = 4 AND name = NEW.b AND task_id = ''), 0), 0))
                 FROM af_pool WHERE name = NEW.b), 0),
                            coalesce(NEW.e, used));",
    ),
    (
        Kind::Tell,
        "INSERT INTO af_notice (run, task_id, map_index, epoch, event, try_number, reason, at, owner)
             VALUES (NEW.a, NEW.b, NEW.c, NEW.d, NEW.e, NEW.f, NEW.g, NEW.h, NEW.i);",
    ),
    (
        Kind::Emit,
        "INSERT INTO af_asset (asset_key, is_alias, name, uri, group_name, extra)
             VALUES (NEW.b, 0, NEW.c, NEW.d, NEW.e, 'null') ON CONFLICT DO NOTHING;
         INSERT INTO af_asset_event (event_id, asset_key, at, extra, aliases, from_dag, from_run, from_task,
                                     from_index, from_start, from_end)
             VALUES (NEW.a, NEW.b, NEW.f, NEW.g, NEW.h, NEW.i, NEW.j, NEW.k, NEW.l, NEW.m, NEW.n)
             ON CONFLICT DO NOTHING;",
    ),
    (
        Kind::Queue,
        "INSERT INTO af_asset_queue (dag_id, event_id, asset_key, counts)
             SELECT r.dag_id, NEW.a, NEW.b, NOT d.is_paused
             FROM af_asset_ref r CROSS JOIN af_dag d ON d.dag_id = r.dag_id
             WHERE r.asset_key = NEW.b AND r.role = 'schedule' ON CONFLICT DO NOTHING;",
    ),
    (
        Kind::Log,
        "INSERT INTO af_log_chunk (attempt_id, chunk, at, body)
             SELECT NEW.a, NEW.b, NEW.c, NEW.d WHERE EXISTS (SELECT 1 FROM af_attempt x WHERE x.attempt_id = NEW.a)
             ON CONFLICT DO NOTHING;",
    ),
];

/// The view that takes all kinds of steps, and the one for commits that have only the usual ones: each trigger of a view
/// looks at each row.
const VIEWS: [&str; 2] = ["af_step", "af_usual_step"];

/// What the writing connection needs beside the tables.
fn setup() -> impl Iterator<Item = String> {
    let columns = ('a'..='z').map(|column| format!("0 AS {column}")).collect::<Vec<_>>().join(", ");
    let view = move |view| format!("CREATE TEMP VIEW IF NOT EXISTS {view} AS SELECT 0 AS kind, {columns}");
    let trigger = |view| {
        let all = TRIGGERS.iter().filter(move |(kind, _)| view == VIEWS[0] || kind.is_usual());
        all.map(move |(kind, body)| {
            let number = *kind as u8;
            format!(
                "CREATE TEMP TRIGGER IF NOT EXISTS {view}_{number} INSTEAD OF INSERT ON {view}
                 WHEN NEW.kind = {number} BEGIN {body} END"
            )
        })
    };
    VIEWS.into_iter().flat_map(move |name| std::iter::once(view(name)).chain(trigger(name)))
}

/// The numbers of rows for which there is a statement: the connection keeps each prepared. The rest of the rows is left
/// empty and does nothing, which is not free either, so the sizes lie close together.
const SIZES: [usize; 22] =
    [2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256];

/// One statement for each of the [`SIZES`], for each of the [`VIEWS`].
static STATEMENTS: LazyLock<[[Arc<str>; SIZES.len()]; VIEWS.len()]> = LazyLock::new(|| {
    let row = format!("({})", vec!["?"; WIDTH].join(","));
    VIEWS.map(|view| {
        SIZES.map(|size| format!("INSERT INTO {view} VALUES {}", vec![row.as_str(); size].join(",")).into())
    })
});

/// Gives the connection what a commit needs. Does nothing if it has it.
pub(super) async fn prepare(conn: &mut SqliteConnection) -> StoreResult<()> {
    let sql = setup().collect::<Vec<_>>().join(";");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map_err(failed).map(|_| ())
}

/// Writes the units that hold, all in one transaction.
pub(super) async fn commit(conn: &mut SqliteConnection, units: &[Unit]) -> StoreResult<Vec<UnitResult>> {
    reach_point!("sqlite.before_commit");
    match apply_alone(conn, Steps::new(units)).await {
        Ok(()) => {
            reach_point!("sqlite.after_commit");
            return Ok(vec![UnitResult::Committed; units.len()]);
        }
        Err(error) if is_refused(&error) => {}
        Err(error) => return Err(failed(error)),
    }
    let result = judge_and_apply(conn, units).await;
    if result.is_err() {
        rollback(conn).await;
    }
    result
}

/// Takes steps in a transaction of their own.
async fn apply_alone(conn: &mut SqliteConnection, steps: Steps<'_>) -> Result<(), sqlx::Error> {
    if steps.len() <= SIZES[SIZES.len() - 1] {
        // One statement, or none, needs no BEGIN and no COMMIT.
        return apply(conn, steps).await;
    }
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *conn).await?;
    let result = match apply(conn, steps).await {
        Ok(()) => sqlx::query("COMMIT").execute(&mut *conn).await.map(|_| ()),
        Err(error) => Err(error),
    };
    if result.is_err() {
        rollback(conn).await;
    }
    result
}

/// Takes back what is open, if anything is: SQLite may have done it by itself.
async fn rollback(conn: &mut SqliteConnection) {
    sqlx::query("ROLLBACK").execute(conn).await.ok();
}

/// Takes steps, as many as fit into one statement at a time.
async fn apply(conn: &mut SqliteConnection, mut steps: Steps<'_>) -> Result<(), sqlx::Error> {
    let statements = &STATEMENTS[usize::from(steps.are_usual())];
    let mut from = 0;
    while from < steps.len() {
        let left = steps.len() - from;
        let which = SIZES.iter().position(|size| *size >= left).unwrap_or(SIZES.len() - 1);
        let sql = AssertSqlSafe(Arc::clone(&statements[which]));
        let values = steps.take(from, SIZES[which]).map_err(sqlx::Error::Encode)?;
        sqlx::query_with(sql, values).execute(&mut *conn).await?;
        from += SIZES[which];
    }
    Ok(())
}

/// The slower way: reads what the units name, judges them in order, and writes those that hold.
async fn judge_and_apply(conn: &mut SqliteConnection, units: &[Unit]) -> StoreResult<Vec<UnitResult>> {
    let mut view = view::begin_and_load(conn, units).await?;
    let results: Vec<UnitResult> = units.iter().map(|unit| view.judge(unit)).collect();
    let held = units.iter().zip(&results).filter(|(_, result)| **result == UnitResult::Committed);
    apply(conn, Steps::new(held.map(|(unit, _)| unit))).await.map_err(failed)?;
    sqlx::query("COMMIT").execute(conn).await.map_err(failed)?;
    Ok(results)
}
