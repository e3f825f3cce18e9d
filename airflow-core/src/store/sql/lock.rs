//! Locks what the units of a commit name, and reads it, so that they can be judged.
//!
//! The order is the same everywhere, so that nobody waits in a circle: dags, runs by number, limits by kind, name and
//! task. Everything else of a run is changed only by those who hold its row.

use std::collections::BTreeSet;

use crate::id::{AttemptId, MapIndex, RunPk};
use crate::store::judge::{View, net_slots};
use crate::store::{SlotKey, StoreResult, Unit};

use super::keys::slot_columns;
use super::text::Kind;
use super::{Query, Row, admin, json::Rows, query};

const RUNS: &str = "
    SELECT r.pk, r.generation, r.state FROM ROWS(?1, id INT) j CROSS JOIN af_run r ON r.pk = j.id
    ORDER BY r.pk FOR NO KEY UPDATE";

/// Also makes the rows that are missing: what does not exist cannot be locked.
const LOCK_SLOTS: &str = "
    INSERT INTO af_slot (kind, name, task_id, used)
    SELECT j.sort, j.who, j.task, 0 FROM ROWS(?1, sort INT, who NAME, task NAME) j WHERE true
    ORDER BY j.ord
    ON CONFLICT (kind, name, task_id) DO UPDATE SET used = af_slot.used";

const SLOTS: &str = "
    SELECT s.* FROM ROWS(?1, sort INT, who NAME, task NAME) j CROSS JOIN af_slot s
        ON s.kind = j.sort AND s.name = j.who AND s.task_id = j.task";

const POOLS: &str = "
    SELECT p.name, p.slots, p.include_deferred FROM ROWS(?1, sort INT, who NAME) j CROSS JOIN af_pool p
        ON j.sort = 0 AND p.name = j.who";

const TIS: &str = "
    SELECT t.run, t.task_id, t.map_index, t.state, t.epoch
    FROM ROWS(?1, of_run INT, task NAME, ix INT) j CROSS JOIN af_ti t
        ON t.run = j.of_run AND t.task_id = j.task AND t.map_index = j.ix";

const ATTEMPTS: &str = "
    SELECT a.attempt_id, a.run, a.task_id, a.map_index, a.number, a.state
    FROM ROWS(?1, id ID) j CROSS JOIN af_attempt a ON a.attempt_id = j.id";

const NUMBERS: &str = "
    SELECT a.run, a.task_id, a.map_index, a.number
    FROM ROWS(?1, of_run INT, task NAME, ix INT, num INT) j CROSS JOIN af_attempt a
        ON a.run = j.of_run AND a.task_id = j.task AND a.map_index = j.ix AND a.number = j.num";

/// How many statements there are.
const STATEMENTS: usize = 7;

/// The statements that lock and read; they run inside of a transaction, in this order.
pub(in crate::store) fn statements(kind: Kind, units: &[Unit]) -> [Query<'static>; STATEMENTS] {
    let (mut runs, mut keys) = (BTreeSet::new(), BTreeSet::new());
    let [mut run_rows, mut slots, mut tis, mut attempts, mut numbers]: [Rows; 5] =
        std::array::from_fn(|_| Rows::new(kind));
    for unit in units {
        runs.insert(unit.run);
        keys.extend(net_slots(unit).into_iter().filter(|net| net.delta != 0).map(|net| net.key));
        for change in &unit.tis {
            tis.row().int(unit.run.0).text(change.task_id.as_str()).int(change.map_index.0).end();
        }
        for start in &unit.started {
            attempts.row().maybe_id(Some(start.attempt_id.0)).end();
            let row = numbers.row().int(unit.run.0).text(start.task_id.as_str());
            row.int(start.map_index.0).int(start.number).end();
        }
        for end in &unit.ended {
            attempts.row().maybe_id(Some(end.attempt_id.0)).end();
        }
    }
    for run in runs {
        run_rows.row().int(run.0).end();
    }
    // What is deferred may be part of what a pool has room for.
    let deferred = |key: &SlotKey| match key {
        SlotKey::Pool(name) => Some(SlotKey::Deferred(name.clone())),
        _ => None,
    };
    keys.extend(keys.iter().filter_map(deferred).collect::<Vec<_>>());
    let sorted: BTreeSet<_> = keys.iter().map(slot_columns).collect();
    for (kind, name, task) in sorted {
        slots.row().int(kind).text(name).text(task).end();
    }
    let text = |rows: Rows| rows.finish().unwrap_or_else(|| "[]".to_owned());
    let slots = text(slots);
    [
        query(RUNS).bind(text(run_rows)),
        query(LOCK_SLOTS).bind(slots.clone()),
        query(SLOTS).bind(slots.clone()),
        query(POOLS).bind(slots),
        query(TIS).bind(text(tis)),
        query(ATTEMPTS).bind(text(attempts)),
        query(NUMBERS).bind(text(numbers)),
    ]
}

/// Reads the answers to these statements.
pub(in crate::store) fn read(answers: &[Vec<Row>]) -> StoreResult<View> {
    let [runs, _, slots, pools, tis, attempts, numbers] = answers else {
        return Err(super::errors::corrupt("an answer is missing"));
    };
    let mut view = View::default();
    let ti = |row: &Row| {
        Ok((RunPk(row.num("run")?), row.text("task_id")?.into(), MapIndex(row.num("map_index")?)))
    };
    for row in runs {
        view.runs.insert(RunPk(row.num("pk")?), (row.num("generation")?, row.word("state")?));
    }
    for row in slots {
        let (key, used) = admin::slot(row)?;
        view.used.insert(key, used);
    }
    for row in pools {
        let name = row.text("name")?;
        if row.flag("include_deferred")? {
            view.with_deferred.insert(name.clone());
        }
        view.pools.insert(name, row.num("slots")?);
    }
    for row in tis {
        view.tis.insert(ti(row)?, (row.word("state")?, row.num("epoch")?));
    }
    for row in attempts {
        let attempt = (ti(row)?, row.num("number")?, row.word("state")?);
        view.attempts.insert(AttemptId(row.id("attempt_id")?), attempt);
    }
    for row in numbers {
        view.numbers.insert((ti(row)?, row.num("number")?));
    }
    Ok(view)
}
