//! What a look at the rows may find that the contract of the store forbids. How it is looked at stands with the
//! databases; what it means for people in `app/doctor.rs`.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::id::{DagId, MapIndex, RunId, RunPk, TaskId};
use crate::state::TaskState;
use crate::state::task::words;

use super::{Held, SlotKey};

words! {
    /// A rule that rows may break.
    Rule {
        /// The epochs of the events of a task instance are 1, 2, 3, …
        EpochsContiguous = "epochs_contiguous",
        /// Each event starts from the state to which the one before it led.
        EventsChained = "events_chained",
        /// Each event is one that the state machine knows.
        TransitionsLegal = "transitions_legal",
        /// A task instance is what its last event says.
        StateIsLastEvent = "state_is_last_event",
        /// At most one attempt of a task instance is open.
        OneOpenAttempt = "one_open_attempt",
        /// A task instance that is executing has an open attempt, and only such a one has.
        AttemptsFitStates = "attempts_fit_states",
        /// An open attempt is of a process that lives.
        AttemptsOfTheLiving = "attempts_of_the_living",
        /// What is taken of a limit is what task instances and runs hold.
        SlotsCounted = "slots_counted",
        /// No more is taken of a limit than there is.
        LimitsKept = "limits_kept",
        /// There is one run for each logical date, but for manual ones.
        OneRunPerDate = "one_run_per_date",
        /// A run that has ended has no task instances that have not, and its times fit its state.
        RunsFitInstances = "runs_fit_instances",
        /// A row that refers to another finds it.
        NoOrphanRows = "no_orphan_rows",
        /// Of a run in which an attempt waits for a worker, somebody decides: else nobody sends it again.
        QueuedAreSent = "queued_are_sent",
        /// What callbacks are to be told is told soon.
        NoticesTold = "notices_told",
        /// The process that decides about an active run lives.
        OwnersAlive = "owners_alive",
    }
}

/// Something that breaks a rule, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anomaly {
    /// Which rule.
    pub rule: Rule,
    /// The dag, if it is of one.
    pub dag_id: Option<DagId>,
    /// The run, if it is of one.
    pub run_id: Option<RunId>,
    /// The task, if it is of one.
    pub task_id: Option<TaskId>,
    /// The instance of the task.
    pub map_index: Option<MapIndex>,
    /// What was found, in words.
    pub found: String,
}

/// Which rows to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Those of the next runs after this one, a limited number of them.
    OfRunsAfter(RunPk),
    /// Those that are of no run, or that say something of all runs.
    OfAll,
}

/// What was found in some rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Examined {
    /// Rows that break a rule; of each rule a limited number.
    pub anomalies: Vec<Anomaly>,
    /// The last run that was looked at; nothing if there was none.
    pub last: Option<RunPk>,
}

/// What is taken of limits, and who takes it, all of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotCount {
    /// The time of the database.
    pub now: DateTime<Utc>,
    /// What the store says is taken.
    pub taken: Vec<(SlotKey, i64)>,
    /// Who takes something: instances that are queued, running, restarting or deferred.
    pub instances: Vec<Holders>,
    /// How many runs of a dag are running.
    pub runs: Vec<(DagId, i64)>,
    /// What the current versions of the dags say that occur above.
    pub dags: Vec<DagLimits>,
}

/// Instances of one task in one state that hold the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holders {
    /// The dag.
    pub dag_id: DagId,
    /// The task.
    pub task_id: TaskId,
    /// Their state.
    pub state: TaskState,
    /// What each holds; `None` if an older version of this library has started it, which did not write it down.
    pub holds: Option<Arc<Held>>,
    /// How many there are.
    pub number: i64,
}

/// What a dag says of limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DagLimits {
    /// The dag.
    pub dag_id: DagId,
    /// How many of its runs may run at once.
    pub max_active_runs: Option<i64>,
    /// How many of its task instances may execute at once.
    pub max_active_tasks: Option<i64>,
    /// The pools of its tasks that are active, and how many slots an instance takes.
    pub pools: Vec<(TaskId, String, i64)>,
    /// How many instances of a task may be active over all runs, for its tasks that are active and say so.
    pub tasks: Vec<(TaskId, i64)>,
}
