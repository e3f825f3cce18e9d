//! Units as a list of small steps, each a row of as many columns as the longest needs.

use std::iter::Peekable;
use std::slice;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::Arguments as _;
use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;
use uuid::Uuid;

use crate::id::MapIndex;
use crate::map::HashMap;
use crate::state::{RunState, TaskState};
use crate::store::judge::net_slots;
use crate::store::sql::assets::aliases_text;
use crate::store::sql::keys::slot_columns;
use crate::store::sql::notices::task_column;
use crate::store::sql::written;
use crate::store::{AssetEvent, AttemptEnd, AttemptStart, Held, SlotKey, TiChange, Unit, rules};

/// The columns of a row: the kind of the step, and as many as a change of a task instance needs that begins an attempt.
pub(super) const WIDTH: usize = 27;

/// The columns that a change of a task instance has, with its kind; behind them stand those of an attempt.
const OF_INSTANCE: usize = 22;

/// What a step does. The number is what the triggers of a commit look at; 0 does nothing. Those that are not
/// [usual](Self::is_usual) have no trigger where a commit has none of them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// run, generation
    Guard = 1,
    /// run, generation, by user, from, to, start, end, reason, queued at
    Change = 2,
    /// run, task, index, from, epoch, to, event, actor, at, tries, most tries, lost, attempt, next, start, end, has
    /// result, map length, reason, wait, holds
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
    /// As `First`, and an attempt of this instance and try begins: number, state, process, queue, at
    FirstBegins = 15,
    /// As `Next`, and the same
    NextBegins = 16,
    /// As `Next`, and any attempt of this run ends: id, state, at, error, rendered
    NextEnds = 17,
}

impl Kind {
    /// Whether a hop from one task to the next may have it. The fewer triggers are asked, the sooner a row is written.
    pub(super) fn is_usual(self) -> bool {
        use Kind::{Change, First, FirstBegins, Guard, Log, Next, NextBegins, NextEnds, Put, Take};
        matches!(self, Guard | Change | First | Next | FirstBegins | NextBegins | NextEnds | Put | Take | Log)
    }
}

/// One column of a step.
#[derive(Debug, Clone, Default)]
enum Cell<'a> {
    #[default]
    Null,
    Int(i64),
    /// One that other steps are likely to have as well.
    Word(&'a str),
    Shared(Arc<str>),
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
        std::borrow::Cow::Borrowed(text) => Cell::Word(text),
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

/// The words of the steps of a commit, each kept once.
#[derive(Debug, Default)]
struct Words<'a>(HashMap<&'a str, Arc<str>>);

impl<'a> Words<'a> {
    fn get(&mut self, word: &'a str) -> Arc<str> {
        Arc::clone(self.0.entry(word).or_insert_with(|| word.into()))
    }
}

/// Steps in the order in which they are taken.
#[derive(Debug)]
pub(super) struct Steps<'a> {
    cells: Vec<Cell<'a>>,
    words: Words<'a>,
    are_usual: bool,
    /// What an instance held last, as text: many hold the same.
    held: Option<(&'a Held, Arc<str>)>,
}

impl<'a> Steps<'a> {
    /// The steps of units, one unit after the other.
    pub(super) fn new(units: impl IntoIterator<Item = &'a Unit>) -> Self {
        let mut steps = Self { cells: Vec::new(), words: Words::default(), are_usual: true, held: None };
        for unit in units {
            steps.add(unit);
        }
        steps
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.cells.len() / WIDTH
    }

    /// Whether all are of a kind that most commits have.
    pub(super) fn are_usual(&self) -> bool {
        self.are_usual
    }

    /// Takes out the values of at most `size` steps from the step `from` on, without the empty ones at their end: what is not
    /// bound is NULL, and a row of these does nothing.
    ///
    /// # Errors
    ///
    /// Never: numbers, text and bytes can be bound.
    pub(super) fn take(&mut self, from: usize, size: usize) -> Result<SqliteArguments, BoxDynError> {
        let end = self.cells.len().min((from + size) * WIDTH);
        let cells = &mut self.cells[from * WIDTH..end];
        let last = cells.iter().rposition(|cell| !matches!(cell, Cell::Null)).map_or(0, |last| last + 1);
        let mut arguments = SqliteArguments::default();
        arguments.reserve(last, 0);
        for cell in &mut cells[..last] {
            match std::mem::take(cell) {
                Cell::Null => arguments.add(None::<i64>)?,
                Cell::Int(value) => arguments.add(value)?,
                Cell::Word(value) => arguments.add(self.words.get(value))?,
                Cell::Shared(value) => arguments.add(value)?,
                Cell::Owned(value) => arguments.add(value)?,
                Cell::Blob(value) => arguments.add(value.as_bytes().to_vec())?,
            }
        }
        Ok(arguments)
    }

    fn push<const N: usize>(&mut self, kind: Kind, cells: [Cell<'a>; N]) {
        const { assert!(N < WIDTH, "a step has a kind and at most 26 columns") };
        self.begin(kind);
        self.cells.extend(cells);
        self.fill();
    }

    fn begin(&mut self, kind: Kind) {
        self.are_usual &= kind.is_usual();
        self.cells.push(Cell::Int(kind as i64));
    }

    /// Leaves the rest of the row empty.
    fn fill(&mut self) {
        self.cells.resize(self.cells.len().next_multiple_of(WIDTH), Cell::Null);
    }

    fn add(&mut self, unit: &'a Unit) {
        let run = Cell::Int(unit.run.0);
        self.add_run(unit);
        let (mut starts, mut ends) = (unit.started.iter().peekable(), unit.ended.iter());
        for change in &unit.tis {
            self.add_ti(unit, change, &mut starts, &mut ends);
        }
        for expansion in &unit.expansions {
            self.push(Kind::Expand, [run.clone(), expansion.owner.as_str().into(), expansion.length.into()]);
        }
        for (task, map_index) in &unit.xcom_clears {
            self.push(Kind::Clear, [run.clone(), Cell::Shared(task.shared()), map_index.0.into()]);
        }
        for xcom in &unit.xcoms {
            let (task, key) = (Cell::Shared(xcom.task_id.shared()), (&xcom.key).into());
            let cells =
                [run.clone(), task, xcom.map_index.0.into(), key, unit.at.into(), xcom.value.text().into()];
            self.push(Kind::Put, cells);
        }
        for start in starts {
            self.add_start(&run, start);
        }
        for end in ends {
            self.begin(Kind::End);
            self.cells.push(run.clone());
            self.add_end(end);
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

    /// The change of an instance; with it goes the attempt that it begins, or an attempt that ends.
    fn add_ti(
        &mut self,
        unit: &'a Unit,
        change: &'a TiChange,
        starts: &mut Peekable<slice::Iter<'a, AttemptStart>>,
        ends: &mut slice::Iter<'a, AttemptEnd>,
    ) {
        let (transition, data) = (change.transition, &change.data);
        let is_first = change.epoch == 0 && transition.from() == TaskState::None;
        let start = starts.next_if(|start| {
            (&start.task_id, start.map_index, start.try_number)
                == (&change.task_id, change.map_index, data.try_number)
                && data.attempt_id == Some(start.attempt_id)
        });
        let end = if is_first || start.is_some() { None } else { ends.next() };
        let kind = match (is_first, start, end) {
            (true, Some(_), _) => Kind::FirstBegins,
            (true, None, _) => Kind::First,
            (false, Some(_), _) => Kind::NextBegins,
            (false, None, Some(_)) => Kind::NextEnds,
            (false, None, None) => Kind::Next,
        };
        let holds = data.holds.as_deref().map_or(Cell::Null, |held| self.held(held));
        self.begin(kind);
        self.cells.extend([
            unit.run.0.into(),
            Cell::Shared(change.task_id.shared()),
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
            data.wait.as_deref().map(written::wait_text).into(),
            holds,
        ]);
        debug_assert_eq!(self.cells.len() % WIDTH, OF_INSTANCE, "what follows has columns of its own");
        if let Some(start) = start {
            self.cells.extend([
                start.number.into(),
                start.state.as_str().into(),
                start.incarnation.map(|id| id.0).into(),
                (&start.queue).into(),
                start.at.into(),
            ]);
        }
        match end {
            Some(end) => self.add_end(end),
            None => self.fill(),
        }
    }

    /// What an instance holds, as it is stored.
    fn held(&mut self, held: &'a Held) -> Cell<'a> {
        if !matches!(&self.held, Some((last, _)) if *last == held) {
            self.held = Some((held, written::held_text(held).into()));
        }
        self.held.as_ref().map_or(Cell::Null, |(_, text)| Cell::Shared(Arc::clone(text)))
    }

    fn add_start(&mut self, run: &Cell<'a>, start: &'a AttemptStart) {
        let cells = [
            run.clone(),
            Cell::Shared(start.task_id.shared()),
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

    /// An attempt that ends: the last columns of a row.
    fn add_end(&mut self, end: &'a AttemptEnd) {
        let rendered = end.data.rendered.as_ref().map(ToString::to_string);
        self.cells.extend([
            end.attempt_id.0.into(),
            end.state.as_str().into(),
            end.data.at.into(),
            end.data.error.as_ref().into(),
            rendered.into(),
        ]);
        self.fill();
    }
}
