//! By when runs should be done, and whether they were.

use chrono::{DateTime, TimeDelta, Utc};

use crate::compile::{CompiledDag, CompiledDeadline, DeadlineStart};
use crate::hash::Hash;
use crate::id::{IncarnationId, MapIndex};
use crate::state::RunState;
use crate::store::{DeadlineRow, NewDeadline, NewRun, Notice, Settlement};

/// What the event of a missed deadline begins with; its name follows.
pub const EVENT: &str = "deadline:";

/// The digits of a hash that are a number of 28 bits.
const KEY_DIGITS: usize = 7;

fn due(deadline: &CompiledDeadline, logical_date: DateTime<Utc>, queued_at: DateTime<Utc>) -> DateTime<Utc> {
    let start = match deadline.start {
        DeadlineStart::QueuedAt => queued_at,
        DeadlineStart::LogicalDate => logical_date,
        DeadlineStart::Fixed(at) => return at,
    };
    let after = TimeDelta::from_std(deadline.after).unwrap_or(TimeDelta::MAX);
    start.checked_add_signed(after).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// The run with its deadlines. Of a run by assets the logical date is not known yet: it is looked at again at once.
pub fn with_deadlines(dag: &CompiledDag, run: NewRun) -> NewRun {
    let deadlines = dag.settings.deadlines.iter().map(|deadline| {
        let is_open = run.assets.is_some() && deadline.start == DeadlineStart::LogicalDate;
        let due = if is_open { run.queued_at } else { due(deadline, run.logical_date, run.queued_at) };
        NewDeadline { name: deadline.name.clone(), due }
    });
    NewRun { deadlines: deadlines.collect(), ..run }
}

/// What becomes of a deadline whose time seems to be over.
pub fn settle(row: &DeadlineRow, dag: &CompiledDag, now: DateTime<Utc>, owner: IncarnationId) -> Settlement {
    let run = &row.run;
    let Some(deadline) = dag.settings.deadlines.iter().find(|one| one.name == row.name) else {
        return Settlement::Met;
    };
    let due = due(deadline, run.logical_date, run.queued_at);
    if run.state == RunState::Success && run.ended_at.is_none_or(|ended| ended <= due) {
        return Settlement::Met;
    }
    if due > now {
        return Settlement::Later(due);
    }
    let mut hash = Hash::default();
    hash.add(&row.name);
    let key = u32::from_str_radix(&hash.hex(KEY_DIGITS), 16).expect("hexadecimal digits are a number");
    Settlement::Missed(Box::new(Notice {
        task_id: None,
        // No task and no end of a run has this index; the name tells deadlines apart.
        map_index: MapIndex(-2),
        epoch: key,
        event: format!("{EVENT}{}", row.name),
        try_number: 0,
        reason: Some(format!("the deadline `{}` was over at {}", row.name, due.format("%Y-%m-%dT%H:%M:%SZ"))),
        at: now,
        owner,
    }))
}
