//! Reads the rows that the units of a commit name, in one call.

use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use uuid::Uuid;

use crate::id::{AttemptId, MapIndex, RunPk, TaskId};
use crate::state::{RunState, TaskState};
use crate::store::judge::{View, net_slots};
use crate::store::{AttemptState, SlotKey, StoreResult, Unit};

use crate::store::sql::errors::{corrupt, failed};
use crate::store::sql::json::Rows;
use crate::store::sql::keys::{slot_columns, slot_key};
use crate::store::sql::text::Kind;

/// One row of six columns, each a JSON array of arrays.
const BEGIN_AND_LOAD: &str = "
BEGIN IMMEDIATE;
SELECT
(SELECT json_group_array(json_array(r.pk, r.generation, r.state)) FROM json_each(?1) j
    CROSS JOIN af_run r ON r.pk = j.value ->> 0) AS runs,
(SELECT json_group_array(json_array(t.run, t.task_id, t.map_index, t.state, t.epoch)) FROM json_each(?2) j
    CROSS JOIN af_ti t ON t.run = j.value ->> 0 AND t.task_id = j.value ->> 1
        AND t.map_index = j.value ->> 2) AS tis,
(SELECT json_group_array(json_array(lower(hex(a.attempt_id)), a.run, a.task_id, a.map_index, a.number, a.state))
    FROM json_each(?3) j CROSS JOIN af_attempt a ON a.attempt_id = unhex(j.value ->> 0)) AS attempts,
(SELECT json_group_array(json_array(a.run, a.task_id, a.map_index, a.number)) FROM json_each(?4) j
    CROSS JOIN af_attempt a ON a.run = j.value ->> 0 AND a.task_id = j.value ->> 1
        AND a.map_index = j.value ->> 2 AND a.number = j.value ->> 3) AS numbers,
(SELECT json_group_array(json_array(s.kind, s.name, s.task_id, s.used)) FROM json_each(?5) j
    CROSS JOIN af_slot s ON s.kind = j.value ->> 0 AND s.name = j.value ->> 1
        AND s.task_id = j.value ->> 2) AS slots,
(SELECT json_group_array(json_array(p.name, p.slots, p.include_deferred)) FROM json_each(?5) j
    CROSS JOIN af_pool p ON j.value ->> 0 = 0 AND p.name = j.value ->> 1) AS pools";

/// Begins a transaction and loads what `units` name.
pub(super) async fn begin_and_load(conn: &mut SqliteConnection, units: &[Unit]) -> StoreResult<View> {
    let mut columns: [Rows; 5] = std::array::from_fn(|_| Rows::new(Kind::Sqlite));
    let [runs, tis, attempts, numbers, slots] = &mut columns;
    for unit in units {
        let run = unit.run.0;
        runs.row().int(run).end();
        for change in &unit.tis {
            tis.row().int(run).text(change.task_id.as_str()).int(change.map_index.0).end();
        }
        for start in &unit.started {
            attempts.row().maybe_id(Some(start.attempt_id.0)).end();
            let row = numbers.row().int(run).text(start.task_id.as_str());
            row.int(start.map_index.0).int(start.number).end();
        }
        for end in &unit.ended {
            attempts.row().maybe_id(Some(end.attempt_id.0)).end();
        }
        for net in net_slots(unit) {
            let (kind, name, task) = slot_columns(&net.key);
            slots.row().int(kind).text(name).text(task).end();
            if let SlotKey::Pool(name) = &net.key {
                let deferred = SlotKey::Deferred(name.clone());
                let (kind, name, task) = slot_columns(&deferred);
                slots.row().int(kind).text(name).text(task).end();
            }
        }
    }
    let query =
        columns.map(Rows::finish).into_iter().fold(sqlx::query(BEGIN_AND_LOAD), sqlx::query::Query::bind);
    read(&query.fetch_one(conn).await.map_err(failed)?)
}

fn read(row: &SqliteRow) -> StoreResult<View> {
    let mut view = View::default();
    for (pk, generation, state) in column::<(RunPk, u32, RunState)>(row, "runs")? {
        view.runs.insert(pk, (generation, state));
    }
    for (run, task, map_index, state, epoch) in
        column::<(RunPk, TaskId, MapIndex, TaskState, u32)>(row, "tis")?
    {
        view.tis.insert((run, task, map_index), (state, epoch));
    }
    for (id, run, task, map_index, number, state) in
        column::<(Uuid, RunPk, TaskId, MapIndex, u32, AttemptState)>(row, "attempts")?
    {
        view.attempts.insert(AttemptId(id), ((run, task, map_index), number, state));
    }
    for (run, task, map_index, number) in column::<(RunPk, TaskId, MapIndex, u32)>(row, "numbers")? {
        view.numbers.insert(((run, task, map_index), number));
    }
    for (kind, name, task, used) in column::<(i64, String, String, i64)>(row, "slots")? {
        let key =
            slot_key(kind, name, &task).ok_or_else(|| corrupt(format!("{kind} is no kind of limit")))?;
        view.used.insert(key, used);
    }
    for (name, slots, with_deferred) in column::<(String, i32, u8)>(row, "pools")? {
        if with_deferred != 0 {
            view.with_deferred.insert(name.clone());
        }
        view.pools.insert(name, slots);
    }
    Ok(view)
}

/// Reads a column that holds a JSON array of arrays.
pub(super) fn column<T: DeserializeOwned>(row: &SqliteRow, name: &str) -> StoreResult<Vec<T>> {
    let text: &str = row.try_get(name).map_err(failed)?;
    serde_json::from_str(text).map_err(corrupt)
}
