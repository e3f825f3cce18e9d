//! What happened, in the order in which it was written.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};

use crate::id::{MapIndex, RunPk, TaskId};
use crate::state::{RunState, TaskState};
use crate::store::Unit;

/// How many changes are kept; the oldest go first. More than anyone reads, and a bound for long simulations.
const KEPT: usize = 200_000;

/// A change of a task instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestEvent {
    /// When, on the simulated clock.
    pub at: DateTime<Utc>,
    /// The task.
    pub task_id: TaskId,
    /// The instance.
    pub map_index: MapIndex,
    /// The state before.
    pub from: TaskState,
    /// The state after.
    pub to: TaskState,
}

impl fmt::Display for TestEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.task_id)?;
        if let Some(index) = self.map_index.get() {
            write!(f, "[{index}]")?;
        }
        write!(f, " {} -> {}", self.from, self.to)
    }
}

/// One line of the journal.
#[derive(Debug, Clone)]
pub(super) enum Line {
    Task(RunPk, TestEvent),
    Run(RunPk, DateTime<Utc>, RunState, RunState),
}

impl Line {
    pub(super) fn run(&self) -> RunPk {
        match self {
            Self::Task(run, _) | Self::Run(run, ..) => *run,
        }
    }

    pub(super) fn at(&self) -> DateTime<Utc> {
        match self {
            Self::Task(_, event) => event.at,
            Self::Run(_, at, ..) => *at,
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(_, event) => event.fmt(f),
            Self::Run(_, _, from, to) => write!(f, "run {from} -> {to}"),
        }
    }
}

/// All lines. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Journal(Arc<Mutex<Vec<Line>>>);

impl Journal {
    pub(super) fn note(&self, unit: &Unit) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= KEPT {
            lines.drain(..KEPT / 2);
        }
        for change in &unit.tis {
            let event = TestEvent {
                at: unit.at,
                task_id: change.task_id.clone(),
                map_index: change.map_index,
                from: change.transition.from(),
                to: change.transition.to(),
            };
            lines.push(Line::Task(unit.run, event));
        }
        if let Some(change) = &unit.run_change {
            lines.push(Line::Run(unit.run, unit.at, change.transition.from(), change.transition.to()));
        }
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What happened to the task instances of one run.
    pub(super) fn of_run(&self, run: RunPk) -> Vec<TestEvent> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_run = |line: &Line| match line {
            Line::Task(pk, event) if *pk == run => Some(event.clone()),
            _ => None,
        };
        lines.iter().filter_map(of_run).collect()
    }
}
