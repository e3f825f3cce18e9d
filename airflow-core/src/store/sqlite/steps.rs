//! Units as a list of small steps, each a row of as many columns as the longest needs.

use chrono::{DateTime, Utc};
use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use uuid::Uuid;

use crate::id::MapIndex;
use crate::state::{RunState, TaskState};
use crate::store::judge::net_slots;
use crate::store::sql::assets::aliases_text;
use crate::store::sql::keys::slot_columns;
use crate::store::sql::notices::task_column;
use crate::store::{AssetEvent, AttemptEnd, AttemptStart, SlotKey, TiChange, Unit, rules};

/// The columns of a row: the kind of the step, and as many as a change of a task instance needs.
pub(super) const WIDTH: usize = 22;

/// What a step does. The number is what the triggers of a commit look at; 0 does nothing.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// run, generation
    Guard = 1,
    /// run, generation, by user, from, to, start, end, reason, queued at
    Change = 2,
    /// run, task, index, from, epoch, to, event, actor, at, tries, most tries, lost, attempt, next, start, end, has
    /// result, map length, reason, wait
    First = 3,
    /// the same
    Next = 4,
    /// run, owner, length
    Expand = 5,
    /// run, task, index
    Clear = 6,
    /// run, task, index, key, at, value
    Put = 7,
    /// run, task, index, number, id, try, state, process, queue, at
    Begin = 8,
    /// run, id, state, at, error, rendered
    End = 9,
    /// kind, name, task, how much, limit
    Take = 10,
    /// run, task, index, epoch, event, try, reason, at, owner
    Tell = 11,
    /// event, asset, name, URI, group, at, extra, aliases, dag, run, task, index, start, end
    Emit = 12,
    /// event, asset or alias
    Queue = 13,
    /// attempt, number, at, text
    Log = 14,
}

/// One column of a step.
#[derive(Debug, Clone)]
enum Cell<'a> {
    Null,
    Int(i64),
    Text(&'a str),
    Owned(String),
    Blob(Uuid),
}

macro_rules! cells {
    ($($from:ty => |$value:ident| $cell:expr),+ $(,)?) => {
        $(impl<'a> From<$from> for Cell<'a> {
            fn from($value: $from) -> Self {
                $cell
            }
        })+
    };
}
cells! {
    i64 => |value| Cell::Int(value),
    i32 => |value| Cell::Int(value.into()),
    u32 => |value| Cell::Int(value.into()),
    bool => |value| Cell::Int(value.into()),
    &'a str => |value| match rules::storable(value) {
        std::borrow::Cow::Borrowed(text) => Cell::Text(text),
        std::borrow::Cow::Owned(text) => Cell::Owned(text),
    },
    &'a String => |value| value.as_str().into(),
    String => |value| Cell::Owned(value),
    Uuid => |value| Cell::Blob(value),
    DateTime<Utc> => |value| Cell::Int(value.timestamp_micros()),
}
impl<'a, T: Into<Cell<'a>>> From<Option<T>> for Cell<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Cell::Null, Into::into)
    }
}

/// Steps in the order in which they are taken.
#[derive(Debug)]
pub(super) struct Steps<'a> {
    cells: Vec<Cell<'a>>,
}

impl<'a> Steps<'a> {
    /// The steps of units, one unit after the other.
    pub(super) fn new(units: impl IntoIterator<Item = &'a Unit>) -> Self {
        let mut steps = Self { cells: Vec::new() };
        for unit in units {
            steps.add(unit);
        }
        steps
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.cells.len() / WIDTH
    }

    /// Binds `size` rows from the step `from` on; those that are too many do nothing.
    pub(super) fn bind<'q>(
        &self,
        query: Query<'q, Sqlite, SqliteArguments>,
        from: usize,
        size: usize,
    ) -> Query<'q, Sqlite, SqliteArguments> {
        let rows = self.cells.iter().skip(from * WIDTH).take(size * WIDTH);
        let rest = size.saturating_sub(self.len() - from) * WIDTH;
        rows.chain(std::iter::repeat_n(&Cell::Null, rest)).fold(query, |query, cell| match cell {
            Cell::Null => query.bind(None::<i64>),
            Cell::Int(value) => query.bind(*value),
            Cell::Text(value) => query.bind((*value).to_owned()),
            Cell::Owned(value) => query.bind(value.clone()),
            Cell::Blob(value) => query.bind(value.as_bytes().to_vec()),
        })
    }

    fn push<const N: usize>(&mut self, kind: Kind, cells: [Cell<'a>; N]) {
        const { assert!(N < WIDTH, "a step has a kind and at most 21 columns") };
        self.cells.push(Cell::Int(kind as i64));
        self.cells.extend(cells);
        self.cells.resize(self.cells.len() + WIDTH - 1 - N, Cell::Null);
    }

    fn add(&mut self, unit: &'a Unit) {
        let run = Cell::Int(unit.run.0);
        self.add_run(unit);
        for change in &unit.tis {
            self.add_ti(unit, change);
        }
        for expansion in &unit.expansions {
            self.push(Kind::Expand, [run.clone(), expansion.owner.as_str().into(), expansion.length.into()]);
        }
        for (task, map_index) in &unit.xcom_clears {
            self.push(Kind::Clear, [run.clone(), task.as_str().into(), map_index.0.into()]);
        }
        for xcom in &unit.xcoms {
            let (task, key) = (xcom.task_id.as_str().into(), (&xcom.key).into());
            let cells =
                [run.clone(), task, xcom.map_index.0.into(), key, unit.at.into(), xcom.value.text().into()];
            self.push(Kind::Put, cells);
        }
        for start in &unit.started {
            self.add_start(&run, start);
        }
        for end in &unit.ended {
            self.add_end(&run, end);
        }
        for notice in &unit.notices {
            let cells = [
                run.clone(),
                task_column(notice.task_id.as_ref()).into(),
                notice.map_index.0.into(),
                notice.epoch.into(),
                (&notice.event).into(),
                notice.try_number.into(),
                notice.reason.as_ref().into(),
                notice.at.into(),
                notice.owner.0.into(),
            ];
            self.push(Kind::Tell, cells);
        }
        unit.asset_events.iter().for_each(|event| self.add_asset_event(event));
        for chunk in &unit.logs {
            let cells =
                [chunk.attempt_id.0.into(), chunk.chunk.into(), chunk.at.into(), (&chunk.text).into()];
            self.push(Kind::Log, cells);
        }
        let (deferred, others): (Vec<_>, Vec<_>) = net_slots(unit)
            .into_iter()
            .filter(|net| net.delta != 0)
            .partition(|net| matches!(net.key, SlotKey::Deferred(_)));
        // What is deferred comes first: it is part of what a pool has room for.
        for net in deferred.into_iter().chain(others) {
            let (kind, name, task) = slot_columns(&net.key);
            let limit = net.limit.filter(|limit| *limit >= 0);
            let (name, task) = (name.to_owned().into(), task.to_owned().into());
            self.push(Kind::Take, [kind.into(), name, task, net.delta.into(), limit.into()]);
        }
    }

    fn add_run(&mut self, unit: &'a Unit) {
        let (run, generation) = (unit.run.0.into(), unit.generation.into());
        let Some(change) = &unit.run_change else {
            if unit.by_user {
                self.push(Kind::Change, [run, generation, true.into()]);
            } else {
                self.push(Kind::Guard, [run, generation]);
            }
            return;
        };
        let (from, to) = (change.transition.from(), change.transition.to());
        let queued_at = (to == RunState::Queued).then_some(unit.at);
        let cells = [
            run,
            generation,
            unit.by_user.into(),
            from.as_str().into(),
            to.as_str().into(),
            change.started_at.into(),
            change.ended_at.into(),
            change.reason.as_ref().into(),
            queued_at.into(),
        ];
        self.push(Kind::Change, cells);
    }

    fn add_ti(&mut self, unit: &'a Unit, change: &'a TiChange) {
        let (transition, data) = (change.transition, &change.data);
        let is_first = change.epoch == 0 && transition.from() == TaskState::None;
        let cells = [
            unit.run.0.into(),
            change.task_id.as_str().into(),
            change.map_index.0.into(),
            transition.from().as_str().into(),
            change.epoch.into(),
            transition.to().as_str().into(),
            transition.event().as_str().into(),
            (&unit.actor).into(),
            unit.at.into(),
            data.try_number.into(),
            data.max_tries.into(),
            data.lost.into(),
            data.attempt_id.map(|id| id.0).into(),
            data.next_try_at.into(),
            data.started_at.into(),
            data.ended_at.into(),
            data.has_result.into(),
            data.map_length.into(),
            data.reason.as_ref().into(),
            data.wait.as_deref().map(rules::wait_text).into(),
            data.holds.as_deref().map(rules::held_text).into(),
        ];
        self.push(if is_first { Kind::First } else { Kind::Next }, cells);
    }

    fn add_start(&mut self, run: &Cell<'a>, start: &'a AttemptStart) {
        let cells = [
            run.clone(),
            start.task_id.as_str().into(),
            start.map_index.0.into(),
            start.number.into(),
            start.attempt_id.0.into(),
            start.try_number.into(),
            start.state.as_str().into(),
            start.incarnation.map(|id| id.0).into(),
            (&start.queue).into(),
            start.at.into(),
        ];
        self.push(Kind::Begin, cells);
    }

    fn add_asset_event(&mut self, event: &'a AssetEvent) {
        let (id, source) = (Cell::from(event.id.as_str()), event.source.as_ref());
        let cells = [
            id.clone(),
            event.key().as_str().to_owned().into(),
            (&event.name).into(),
            (&event.uri).into(),
            (&event.group).into(),
            event.at.into(),
            event.extra.to_string().into(),
            aliases_text(&event.aliases).into(),
            source.map_or("", |source| source.dag_id.as_str()).into(),
            source.map_or("", |source| source.run_id.as_str()).into(),
            source.map_or("", |source| source.task_id.as_str()).into(),
            source.map_or(MapIndex::UNMAPPED, |source| source.map_index).0.into(),
            source.map(|source| source.data_interval.start).into(),
            source.map(|source| source.data_interval.end).into(),
        ];
        self.push(Kind::Emit, cells);
        for asset in event.refs() {
            self.push(Kind::Queue, [id.clone(), asset.as_str().to_owned().into()]);
        }
    }

    fn add_end(&mut self, run: &Cell<'a>, end: &'a AttemptEnd) {
        let rendered = end.data.rendered.as_ref().map(ToString::to_string);
        let cells = [
            run.clone(),
            end.attempt_id.0.into(),
            end.state.as_str().into(),
            end.data.at.into(),
            end.data.error.as_ref().into(),
            rendered.into(),
        ];
        self.push(Kind::End, cells);
    }
}
