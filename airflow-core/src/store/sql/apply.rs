//! The writes of units, as sets: one statement for each kind of change, whatever the number of units.
//!
//! Each compares before it writes. What must have been touched is for the caller to count, unless it has judged the units
//! on locked rows before. The units of one call are of different runs; see [`apart_by_run`].

use std::collections::BTreeMap;

use crate::state::{RunState, TaskState};
use crate::store::Unit;
use crate::store::judge::net_slots;

use super::assets;
use super::json::{Rows, apart};
use super::keys::slot_columns;
use super::notices::task_column;
use super::task_logs;
use super::text::Kind;
use super::written;

/// Which of the lists a statement reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum List {
    Runs,
    Tis,
    Expansions,
    Clears,
    XComs,
    Starts,
    Ends,
    Notices,
    AssetEvents,
    AssetRefs,
    Logs,
    Slots,
}

impl List {
    /// All lists, in the order in which they are handed over.
    pub(in crate::store) const ALL: [Self; 12] = [
        Self::Runs,
        Self::Tis,
        Self::Expansions,
        Self::Clears,
        Self::XComs,
        Self::Starts,
        Self::Ends,
        Self::Notices,
        Self::AssetEvents,
        Self::AssetRefs,
        Self::Logs,
        Self::Slots,
    ];
}

/// What changes of a run: its generation, its state if `goal` is there.
pub(in crate::store) const RUNS: &str = "
    UPDATE af_run SET generation = af_run.generation + j.bump, state = coalesce(j.goal, af_run.state),
        started_at = CASE WHEN j.goal IS NULL THEN af_run.started_at ELSE j.began END,
        ended_at = CASE WHEN j.goal IS NULL THEN af_run.ended_at ELSE j.done END,
        reason = CASE WHEN j.goal IS NULL THEN af_run.reason ELSE j.why END,
        queued_at = coalesce(j.asked, af_run.queued_at)
    FROM ROWS(?1, id INT, seen INT, bump INT, origin NAME, goal NAME, began TIME, done TIME, why TEXT, asked TIME) j
    WHERE af_run.pk = j.id AND af_run.generation = j.seen AND (j.origin IS NULL OR af_run.state = j.origin)
        AND (j.bump > 0 OR j.goal IS NOT NULL)";

macro_rules! tis {
    () => {
        "ROWS(?1, of_run INT, task NAME, ix INT, origin NAME, seen INT, goal NAME, what NAME, who TEXT, moment TIME,
              tries INT, most INT, gone INT, attempt ID, due TIME, began TIME, done TIME, result FLAG, len INT, why TEXT,
              pause TEXT, took TEXT) j"
    };
}

/// The first change of an instance: there is no row, or the primary key refuses.
pub(in crate::store) const FIRST: &str = concat!(
    "INSERT INTO af_ti (run, task_id, map_index, state, epoch, try_number, max_tries, lost, attempt_id, next_try_at,
                        started_at, ended_at, has_result, map_length, reason, wait, holds)
     SELECT j.of_run, j.task, j.ix, j.goal, 1, j.tries, j.most, j.gone, j.attempt, j.due, j.began, j.done, j.result,
            j.len, j.why, j.pause, j.took
     FROM ",
    tis!(),
    " WHERE j.seen = 0 AND j.origin = 'none'"
);

/// A later change: the row is in the state and epoch that were seen.
pub(in crate::store) const NEXT: &str = concat!(
    "UPDATE af_ti SET state = j.goal, epoch = j.seen + 1, try_number = j.tries, max_tries = j.most, lost = j.gone,
        attempt_id = j.attempt, next_try_at = j.due, started_at = j.began, ended_at = j.done, has_result = j.result,
        map_length = j.len, reason = j.why, wait = j.pause, holds = j.took
     FROM ",
    tis!(),
    " WHERE af_ti.run = j.of_run AND af_ti.task_id = j.task AND af_ti.map_index = j.ix
        AND af_ti.state = j.origin AND af_ti.epoch = j.seen AND (j.seen > 0 OR j.origin <> 'none')"
);

const EVENTS: &str = concat!(
    "INSERT INTO af_event (run, task_id, map_index, epoch, from_state, to_state, event, actor, at)
     SELECT j.of_run, j.task, j.ix, j.seen + 1, j.origin, j.goal, j.what, j.who, j.moment FROM ",
    tis!()
);

const EXPAND: &str = "
    INSERT INTO af_expansion (run, owner, length)
    SELECT j.of_run, j.what, j.len FROM ROWS(?1, of_run INT, what NAME, len INT) j WHERE true
    ON CONFLICT (run, owner) DO UPDATE SET length = excluded.length";

const CLEAR: &str = "
    DELETE FROM af_xcom WHERE (run, task_id, map_index) IN
        (SELECT j.of_run, j.task, j.ix FROM ROWS(?1, of_run INT, task NAME, ix INT) j)";

const PUT: &str = "
    INSERT INTO af_xcom (run, task_id, map_index, \"key\", at, value)
    SELECT j.of_run, j.task, j.ix, j.word, j.moment, j.content
    FROM ROWS(?1, of_run INT, task NAME, ix INT, word NAME, moment TIME, content TEXT) j WHERE true
    ON CONFLICT (run, task_id, map_index, \"key\") DO UPDATE SET at = excluded.at, value = excluded.value";

macro_rules! starts {
    () => {
        "ROWS(?1, of_run INT, task NAME, ix INT, num INT, id ID, nth INT, goal NAME, process ID, way NAME, moment TIME) j"
    };
}

/// A queued attempt that is claimed.
pub(in crate::store) const CLAIM: &str = concat!(
    "UPDATE af_attempt SET state = 'running', start_state = 'running', incarnation = j.process FROM ",
    starts!(),
    " WHERE af_attempt.attempt_id = j.id AND af_attempt.state = 'queued' AND j.goal = 'running'
        AND af_attempt.run = j.of_run AND af_attempt.task_id = j.task AND af_attempt.map_index = j.ix
        AND af_attempt.number = j.num"
);

/// An attempt that is new.
pub(in crate::store) const START: &str = concat!(
    "INSERT INTO af_attempt (run, task_id, map_index, number, attempt_id, try_number, start_state, state, incarnation,
                             queue, at)
     SELECT j.of_run, j.task, j.ix, j.num, j.id, j.nth, j.goal, j.goal, j.process, j.way, j.moment FROM ",
    starts!(),
    " WHERE NOT EXISTS (SELECT 1 FROM af_attempt a WHERE a.attempt_id = j.id)"
);

/// An attempt that has ended, or belongs to another run, is left as it is. The second half of the last condition never
/// holds: it keeps PostgreSQL from going through the index of open attempts for each that ends.
const END: &str = "
    UPDATE af_attempt SET state = j.goal, ended_at = j.moment, error = j.why, rendered = j.shown
    FROM ROWS(?1, of_run INT, id ID, goal NAME, moment TIME, why TEXT, shown TEXT) j
    WHERE af_attempt.attempt_id = j.id AND af_attempt.run = j.of_run
        AND (af_attempt.ended_at IS NULL OR j.id IS NULL)";

const TELL: &str = "
    INSERT INTO af_notice (run, task_id, map_index, epoch, event, try_number, reason, at, owner)
    SELECT j.of_run, j.task, j.ix, j.nth, j.what, j.tries, j.why, j.moment, j.process
    FROM ROWS(?1, of_run INT, task NAME, ix INT, nth INT, what NAME, tries INT, why TEXT, moment TIME, process ID) j
    WHERE true
    ON CONFLICT (run, task_id, map_index, epoch) DO UPDATE SET event = excluded.event,
        try_number = excluded.try_number, reason = excluded.reason, at = excluded.at, owner = excluded.owner";

/// A limit as a row: by how much `used` changes in all, below what it cannot end (it is never negative meanwhile), the
/// highest it stands meanwhile after something was taken, compared to its start and in itself, and the smallest limit.
macro_rules! slots {
    () => {
        "ROWS(?1, sort INT, who NAME, task NAME, total INT, least INT, most INT, low INT, cap INT) j"
    };
    ($alias:literal) => {
        concat!(
            "ROWS(?1, sort INT, who NAME, task NAME, total INT, least INT, most INT, low INT, cap INT) ",
            $alias
        )
    };
}
#[cfg(feature = "postgres")]
pub(in crate::store) use slots;

const TAKE: &str = concat!(
    "UPDATE af_slot SET used = greatest(j.least, af_slot.used + j.total) FROM ",
    slots!(),
    " WHERE af_slot.kind = j.sort AND af_slot.name = j.who AND af_slot.task_id = j.task"
);

/// The statements in the order in which they run, each with the list it reads.
pub(in crate::store) const STEPS: [(List, &str); 16] = [
    (List::Runs, RUNS),
    (List::Tis, FIRST),
    (List::Tis, NEXT),
    (List::Tis, EVENTS),
    (List::Expansions, EXPAND),
    (List::Clears, CLEAR),
    (List::XComs, PUT),
    (List::Starts, CLAIM),
    (List::Starts, START),
    (List::Ends, END),
    (List::Notices, TELL),
    (List::AssetEvents, assets::MEET),
    (List::AssetEvents, assets::EMIT),
    (List::AssetRefs, assets::QUEUE),
    (List::Logs, task_logs::ADD),
    (List::Slots, TAKE),
];

/// The lists of some units; that of values in several parts, if it is long and the database wants short messages.
#[derive(Debug)]
pub(in crate::store) struct Lists {
    all: [Option<String>; List::ALL.len()],
    more_xcoms: Vec<String>,
}

/// How long a part of the list of values may become before the next begins, where messages are limited: with the
/// statement around it, twice as long as a literal, it fits into what every server accepts.
const PART_BYTES: usize = 1024 * 1024;

/// Splits units so that no two of a part are of one run, in their order.
pub(in crate::store) fn apart_by_run<'u>(units: &[&'u Unit]) -> Vec<Vec<&'u Unit>> {
    let parts = apart(units, |unit| vec![unit.run]);
    parts.into_iter().map(|part| part.into_iter().map(|(_, unit)| *unit).collect()).collect()
}

impl Lists {
    /// The lists of units of different runs.
    pub(in crate::store) fn new(kind: Kind, units: &[&Unit]) -> Self {
        let mut lists: [Rows; List::ALL.len()] = std::array::from_fn(|_| Rows::new(kind));
        let [runs, tis, expansions, clears, xcoms, starts, ends, notices, events, refs, logs, slots] =
            &mut lists;
        let mut more_xcoms = Vec::new();
        for unit in units {
            write_run(runs, unit);
            write_tis(tis, unit);
            let lengths: BTreeMap<_, _> =
                unit.expansions.iter().map(|one| (&one.owner, one.length)).collect();
            for (owner, length) in lengths {
                expansions.row().int(unit.run.0).text(owner.as_str()).int(length).end();
            }
            for (task, map_index) in &unit.xcom_clears {
                clears.row().int(unit.run.0).text(task.as_str()).int(map_index.0).end();
            }
            for_each_xcom(unit, |row| {
                if kind.sends_batches() && xcoms.len() > PART_BYTES {
                    more_xcoms.extend(std::mem::replace(xcoms, Rows::new(kind)).finish());
                }
                row(xcoms);
            });
            write_attempts(starts, ends, unit);
            write_notices(notices, unit);
            unit.asset_events.iter().for_each(|event| assets::write_event(events, refs, event));
            unit.logs.iter().for_each(|chunk| task_logs::write_chunk(logs, chunk));
        }
        write_slots(slots, units);
        Self { all: lists.map(Rows::finish), more_xcoms }
    }

    /// One list, if there is anything in it.
    pub(in crate::store) fn get(&self, list: List) -> Option<&str> {
        self.all[list as usize].as_deref()
    }

    /// The parts of one list.
    pub(in crate::store) fn parts(&self, list: List) -> impl Iterator<Item = &str> {
        let more = if list == List::XComs { self.more_xcoms.as_slice() } else { &[] };
        more.iter().map(String::as_str).chain(self.get(list))
    }
}

fn write_run(rows: &mut Rows, unit: &Unit) {
    let change = unit.run_change.as_ref();
    let (from, to) = (change.map(|c| c.transition.from()), change.map(|c| c.transition.to()));
    let row = rows.row().int(unit.run.0).int(unit.generation).int(unit.by_user);
    let row = row.maybe_text(from.map(RunState::as_str)).maybe_text(to.map(RunState::as_str));
    let row = row.maybe_time(change.and_then(|c| c.started_at)).maybe_time(change.and_then(|c| c.ended_at));
    let row = row.maybe_text(change.and_then(|c| c.reason.as_deref()));
    row.maybe_time((to == Some(RunState::Queued)).then_some(unit.at)).end();
}

fn write_tis(rows: &mut Rows, unit: &Unit) {
    for change in &unit.tis {
        let (transition, data) = (change.transition, &change.data);
        let row = rows.row().int(unit.run.0).text(change.task_id.as_str()).int(change.map_index.0);
        let row = row.text(TaskState::as_str(transition.from())).int(change.epoch);
        let row = row.text(transition.to().as_str()).text(transition.event().as_str());
        let row = row.text(&unit.actor).time(unit.at).int(data.try_number).int(data.max_tries);
        let row = row.int(data.lost).maybe_id(data.attempt_id.map(|id| id.0)).maybe_time(data.next_try_at);
        let row = row.maybe_time(data.started_at).maybe_time(data.ended_at).int(data.has_result);
        let row = row.maybe_int(data.map_length).maybe_text(data.reason.as_deref());
        let row = row.maybe_text(data.wait.as_deref().map(written::wait_text).as_deref());
        row.maybe_text(data.holds.as_deref().map(written::held_text).as_deref()).end();
    }
}

/// Has each value of a unit written.
fn for_each_xcom(unit: &Unit, mut write: impl FnMut(&dyn Fn(&mut Rows))) {
    // Of two values under one key the later stays.
    let values: BTreeMap<_, _> =
        unit.xcoms.iter().map(|xcom| ((&xcom.task_id, xcom.map_index, &xcom.key), &xcom.value)).collect();
    for ((task, map_index, key), value) in values {
        write(&|rows| {
            let row = rows.row().int(unit.run.0).text(task.as_str()).int(map_index.0);
            row.text(key).time(unit.at).text(value.text()).end();
        });
    }
}

fn write_attempts(starts: &mut Rows, ends: &mut Rows, unit: &Unit) {
    for start in &unit.started {
        let row = starts.row().int(unit.run.0).text(start.task_id.as_str()).int(start.map_index.0);
        let row = row.int(start.number).maybe_id(Some(start.attempt_id.0)).int(start.try_number);
        let row = row.text(start.state.as_str()).maybe_id(start.incarnation.map(|id| id.0));
        row.text(&start.queue).time(start.at).end();
    }
    // Of two ends of one attempt the first counts.
    let mut ended = BTreeMap::new();
    for end in &unit.ended {
        ended.entry(end.attempt_id).or_insert(end);
    }
    for end in ended.values() {
        let rendered = end.data.rendered.as_ref().map(ToString::to_string);
        let row = ends.row().int(unit.run.0).maybe_id(Some(end.attempt_id.0)).text(end.state.as_str());
        row.time(end.data.at).maybe_text(end.data.error.as_deref()).maybe_text(rendered.as_deref()).end();
    }
}

fn write_notices(rows: &mut Rows, unit: &Unit) {
    let last: BTreeMap<_, _> = unit.notices.iter().map(|notice| (notice.key(unit.run), notice)).collect();
    for notice in last.values() {
        let row = rows.row().int(unit.run.0).text(task_column(notice.task_id.as_ref()));
        let row = row.int(notice.map_index.0).int(notice.epoch).text(&notice.event).int(notice.try_number);
        row.maybe_text(notice.reason.as_deref()).time(notice.at).maybe_id(Some(notice.owner.0)).end();
    }
}

/// What a row of limits says, of all changes of one limit in their order.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sum {
    total: i64,
    least: i64,
    most: Option<i64>,
    low: i64,
    cap: Option<i64>,
}

impl Sum {
    fn add(&mut self, delta: i64, limit: Option<i64>) {
        self.total = self.total.saturating_add(delta);
        self.least = self.least.saturating_add(delta).max(0);
        if delta > 0 {
            self.most = self.most.max(Some(self.total));
            self.low = self.low.max(self.least);
            self.cap = self.cap.into_iter().chain(limit.filter(|limit| *limit >= 0)).min();
        }
    }
}

/// Sorted by kind, name and task: the order in which they are locked.
fn write_slots(rows: &mut Rows, units: &[&Unit]) {
    let nets: Vec<_> = units.iter().flat_map(|unit| net_slots(unit)).filter(|net| net.delta != 0).collect();
    let mut sums: BTreeMap<_, Sum> = BTreeMap::new();
    for net in &nets {
        sums.entry(slot_columns(&net.key)).or_default().add(net.delta, net.limit);
    }
    for ((kind, name, task), sum) in sums {
        let row = rows.row().int(kind).text(name).text(task).int(sum.total).int(sum.least);
        row.maybe_int(sum.most).int(sum.low).maybe_int(sum.cap).end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the sums of many changes stand for the changes one after the other. Method: try short lists of changes
    /// from every start.
    #[test]
    fn sums_of_limits_stand_for_their_changes_in_order() {
        const DELTAS: [i64; 5] = [-3, -1, 1, 2, 4];
        let lists = (0..125).map(|n| [n / 25, n / 5 % 5, n % 5].map(|at: usize| DELTAS[at]));
        for list in lists {
            let mut sum = Sum::default();
            list.iter().for_each(|delta| sum.add(*delta, None));
            for start in 0..6_i64 {
                let (mut used, mut highest) = (start, None);
                for delta in list {
                    used = (used + delta).max(0);
                    if delta > 0 {
                        highest = highest.max(Some(used));
                    }
                }
                assert_eq!(sum.least.max(start + sum.total), used, "{list:?} from {start}");
                assert_eq!(
                    sum.most.map(|most| (start + most).max(sum.low)),
                    highest,
                    "{list:?} from {start}"
                );
            }
        }
    }
}
