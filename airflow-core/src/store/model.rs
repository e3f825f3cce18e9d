//! The rows of a store.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{AttemptId, DagId, IncarnationId, MapIndex, RunId, RunPk, TaskId};
use crate::operator::Wait;
use crate::state::task::words;
use crate::state::{RunState, RunType, TaskEvent, TaskState};
use crate::timetable::DataInterval;
use crate::xcom::XComValue;

use super::{AssetTrigger, DagAsset, DagStructure, Held, NewDeadline};

/// A process that wants to be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewIncarnation {
    /// Its id, made at its start.
    pub id: IncarnationId,
    /// `scheduler`, `worker`, …
    pub kind: String,
    /// The machine.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// What tells apart two processes of one pid: the boot of the machine and the start of the process.
    pub birth: String,
    /// How long it counts as alive after it was made known, and after each beat.
    pub lease: Duration,
}

/// A process that is known. All times are of the store's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incarnation {
    /// What it said of itself.
    pub process: NewIncarnation,
    /// When it was made known.
    pub started_at: DateTime<Utc>,
    /// Until when it counts as alive.
    pub lease_until: DateTime<Utc>,
    /// How often it renewed its lease.
    pub beats: u64,
    /// When it last did.
    pub last_beat: DateTime<Utc>,
    /// Whether its lease had run out when it was read; see [`Store::expire`](super::Store::expire).
    pub expired: bool,
}

/// What a process says of a dag it carries.
#[derive(Debug, Clone, PartialEq)]
pub struct DagRecord {
    /// The dag.
    pub dag_id: DagId,
    /// Identifies this version of it.
    pub fingerprint: String,
    /// Its tasks, edges and options, for people and for runs whose code is gone.
    pub structure: DagStructure,
    /// The schedule in one word.
    pub schedule: String,
    /// One line.
    pub description: Option<String>,
    /// Who answers for it.
    pub owners: String,
    /// Labels.
    pub tags: Vec<String>,
    /// Whether a new dag begins paused.
    pub paused_at_creation: bool,
    /// The next run of the timetable as seen now, kept only if the dag is new or has no next run.
    pub next: Option<NextRun>,
    /// The assets it names.
    pub assets: Vec<DagAsset>,
}

/// The next run a timetable will make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextRun {
    /// What it will be about.
    pub data_interval: DataInterval,
    /// When it may be made.
    pub run_after: DateTime<Utc>,
}

/// How far a timetable has been worked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// The interval of the newest run it made; `None` keeps the stored one.
    pub last_interval: Option<DataInterval>,
    /// The next one; `None` if there is no further run.
    pub next: Option<NextRun>,
}

/// A known dag.
#[derive(Debug, Clone, PartialEq)]
pub struct DagRow {
    /// The dag.
    pub dag_id: DagId,
    /// Whether no runs are made and started.
    pub is_paused: bool,
    /// The newest version that was seen.
    pub fingerprint: String,
    /// Its number, 1 for the first.
    pub version: u32,
    /// The schedule in one word.
    pub schedule: String,
    /// One line.
    pub description: Option<String>,
    /// Who answers for it.
    pub owners: String,
    /// Labels.
    pub tags: Vec<String>,
    /// The interval of the newest run that the timetable made.
    pub last_interval: Option<DataInterval>,
    /// The next run of the timetable.
    pub next: Option<NextRun>,
    /// When a process last carried it.
    pub last_seen: DateTime<Utc>,
}

/// One version of a dag.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DagVersion {
    /// Its number, 1 for the first.
    pub number: u32,
    /// What identifies it.
    pub fingerprint: String,
    /// Its tasks, edges and options.
    pub structure: Value,
    /// When it was first seen.
    pub created_at: DateTime<Utc>,
}

/// A run to be created, in state `queued`.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRun {
    /// The dag.
    pub dag_id: DagId,
    /// Its name, unique in the dag.
    pub run_id: RunId,
    /// Where it comes from.
    pub run_type: RunType,
    /// What it is about; unique in the dag among runs that a timetable or backfill makes ([`RunType::is_timed`]).
    pub logical_date: DateTime<Utc>,
    /// The data it covers.
    pub data_interval: DataInterval,
    /// The earliest moment it may start.
    pub run_after: DateTime<Utc>,
    /// When it is created.
    pub queued_at: DateTime<Utc>,
    /// What it is triggered with.
    pub conf: Option<Value>,
    /// The version of the dag it runs.
    pub fingerprint: String,
    /// Who made it: `timetable`, `cli`, `api`, …
    pub triggered_by: String,
    /// Whether it counts as the first of its kind for `depends_on_past`.
    pub ignores_past: bool,
    /// The queue of its tasks that name none themselves.
    pub queue: Option<String>,
    /// How far the timetable has come with it.
    pub advance: Option<Advance>,
    /// Of a run by assets: which of them it is made for. Its dates and its id are those of the events it takes.
    pub assets: Option<AssetTrigger>,
    /// By when it should be done.
    pub deadlines: Vec<NewDeadline>,
}

/// What became of a run to be created.
#[derive(Debug, Clone, PartialEq)]
pub enum CreatedRun {
    /// It was created.
    New(Box<RunRow>),
    /// A run of this id or logical date was there before.
    Exists(Box<RunRow>),
    /// The events of assets that it was to take are another run's.
    Taken,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunRow {
    /// Its number.
    pub pk: RunPk,
    /// The dag.
    pub dag_id: DagId,
    /// Its name.
    pub run_id: RunId,
    /// Where it comes from.
    pub run_type: RunType,
    /// Where it stands.
    pub state: RunState,
    /// What it is about.
    pub logical_date: DateTime<Utc>,
    /// The data it covers.
    pub data_interval: DataInterval,
    /// The earliest moment it may start.
    pub run_after: DateTime<Utc>,
    /// When it was last queued.
    pub queued_at: DateTime<Utc>,
    /// When it started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// What it was triggered with.
    pub conf: Option<Value>,
    /// The version of the dag it runs.
    pub fingerprint: String,
    /// Grows with every change by a user, so that decisions on an older view are refused.
    pub generation: u32,
    /// Who made it.
    pub triggered_by: String,
    /// Whether it counts as the first of its kind for `depends_on_past`.
    pub ignores_past: bool,
    /// The queue of its tasks that name none themselves, if it has one of its own.
    pub queue: Option<String>,
    /// Why it failed: `task_failure`, `all_tasks_deadlocked`, `timed_out`.
    pub reason: Option<String>,
}

/// Which runs, and in which order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunFilter {
    /// One dag.
    pub dag_id: Option<DagId>,
    /// One name.
    pub run_id: Option<RunId>,
    /// Any of these states; all if empty.
    pub states: Vec<RunState>,
    /// Any of these types; all if empty.
    pub types: Vec<RunType>,
    /// The earliest logical date, inclusive.
    pub from: Option<DateTime<Utc>>,
    /// The latest logical date, inclusive.
    pub to: Option<DateTime<Utc>>,
    /// The latest end, inclusive; what has not ended does not count.
    pub ended_by: Option<DateTime<Utc>>,
    /// Newest logical date first instead of oldest first; equal dates by number, in the same direction.
    pub newest_first: bool,
    /// How many at most.
    pub limit: Option<u32>,
    /// How many to pass over.
    pub offset: u32,
}

impl RunFilter {
    /// All runs of one dag.
    pub fn of_dag(dag_id: impl Into<DagId>) -> Self {
        Self { dag_id: Some(dag_id.into()), ..Self::default() }
    }
}

/// A task instance as stored. Without a row it is in state `none` with epoch 0 and no tries.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TiRow {
    /// The task.
    pub task_id: TaskId,
    /// The instance.
    pub map_index: MapIndex,
    /// Where it stands.
    pub state: TaskState,
    /// How many changes it has seen.
    pub epoch: u32,
    /// The rest.
    pub data: TiData,
}

/// What is known of a task instance beside its state. All times UTC.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct TiData {
    /// The number of the current or last try, 0 before the first.
    pub try_number: u32,
    /// How many tries there may be: retries + 1, more after a clear.
    pub max_tries: u32,
    /// How many attempts of the current try were lost.
    pub lost: u32,
    /// The current or last attempt.
    pub attempt_id: Option<AttemptId>,
    /// When it may go on, if it waits for a retry or to be rescheduled.
    pub next_try_at: Option<DateTime<Utc>>,
    /// When the first attempt of this try started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it finished.
    pub ended_at: Option<DateTime<Utc>>,
    /// Whether its result is stored.
    pub has_result: bool,
    /// The length of its result, if something is mapped over it.
    pub map_length: Option<u32>,
    /// Why it is in this state: the error, the reason of a skip.
    pub reason: Option<String>,
    /// What it waits for, and goes on with.
    pub wait: Option<Box<Wait>>,
    /// What it has taken of limits, while it executes or is deferred.
    pub holds: Option<Arc<Held>>,
}

words! {
    /// How an attempt stands.
    AttemptState {
        /// Handed to an executor elsewhere; not claimed yet.
        Queued = "queued",
        /// Executing.
        Running = "running",
        /// Ended well.
        Success = "success",
        /// Ended with an error.
        Failed = "failed",
        /// Asked to be skipped.
        Skipped = "skipped",
        /// Asked to be run again later.
        Rescheduled = "rescheduled",
        /// Waits for an outside event.
        Deferred = "deferred",
        /// Its process died.
        Lost = "lost",
        /// Given back by a process that stopped.
        HandedBack = "handed_back",
        /// Stopped: cleared, marked, or its run was ended.
        Cancelled = "cancelled",
    }
}

impl AttemptState {
    /// Whether it is over.
    pub const fn is_ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// An attempt as stored: written at its start, claimed at most once if it was queued, completed once at its end, never
/// changed after.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttemptRow {
    /// Its run.
    pub run: RunPk,
    /// Its start.
    pub start: AttemptStart,
    /// How it stands.
    pub state: AttemptState,
    /// Its end.
    pub end: Option<AttemptEndData>,
}

/// The start of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttemptStart {
    /// Its id.
    pub attempt_id: AttemptId,
    /// The task.
    pub task_id: TaskId,
    /// The instance.
    pub map_index: MapIndex,
    /// Orders the attempts of the instance: its epoch at the start of this one.
    pub number: u32,
    /// The try it belongs to.
    pub try_number: u32,
    /// Running at once (dispatched and claimed in one), or queued for an executor elsewhere.
    pub state: AttemptState,
    /// The process that runs it, if it is known.
    pub incarnation: Option<IncarnationId>,
    /// The queue.
    pub queue: String,
    /// When it was dispatched.
    pub at: DateTime<Utc>,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptEnd {
    /// Its id.
    pub attempt_id: AttemptId,
    /// How it ended.
    pub state: AttemptState,
    /// The rest.
    pub data: AttemptEndData,
}

/// What is known at the end of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttemptEndData {
    /// When it ended.
    pub at: DateTime<Utc>,
    /// The error, or why it was skipped.
    pub error: Option<String>,
    /// The template fields as rendered: name to value.
    pub rendered: Option<Value>,
}

/// What happened to a task instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventRow {
    /// The task.
    pub task_id: TaskId,
    /// The instance.
    pub map_index: MapIndex,
    /// The epoch after it: 1, 2, 3, … for each instance.
    pub epoch: u32,
    /// The state before.
    pub from: TaskState,
    /// The state after.
    pub to: TaskState,
    /// What happened.
    pub event: TaskEvent,
    /// Who did it: `scheduler`, `executor`, a user.
    pub actor: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// What a branch or short circuit decided, by task id. Kept so that the same tasks are skipped again after a clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipRecord {
    /// Only these of its direct downstream tasks run.
    Followed(Vec<TaskId>),
    /// These are skipped.
    Skipped(Vec<TaskId>),
}

/// One run with all that decisions need.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSnapshot {
    /// The run.
    pub run: RunRow,
    /// Its task instances that have a row, by task id and map index.
    pub tis: Vec<TiRow>,
    /// The lengths of mappings that are known, ordered by the id of the mapped task or group.
    pub expansions: Vec<Expansion>,
    /// What branches decided, ordered by the branching task and map index: the values under
    /// [`SKIP_KEY`](crate::xcom::SKIP_KEY) that can be read as such.
    pub skips: Vec<(TaskId, MapIndex, SkipRecord)>,
    /// The task instances of the run before, if they were asked for and there is one.
    pub past: Option<PastRun>,
}

impl RunSnapshot {
    /// A run in which nothing has happened yet.
    pub(crate) fn untouched(run: RunRow) -> Self {
        Self { run, tis: Vec::new(), expansions: Vec::new(), skips: Vec::new(), past: None }
    }
}

/// The length of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expansion {
    /// The id of the mapped task or group.
    pub owner: TaskId,
    /// How many instances it has.
    pub length: u32,
}

/// Which run counts as the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastQuery {
    /// Only runs made by the timetable or a backfill count (a dag with catch-up), else all.
    pub scheduled_only: bool,
}

/// The run before, as far as decisions need it.
#[derive(Debug, Clone, PartialEq)]
pub struct PastRun {
    /// Its number.
    pub pk: RunPk,
    /// Its task instances that have a row.
    pub tis: Vec<TiRow>,
}

/// A stored value.
#[derive(Debug, Clone)]
pub struct XComRow {
    /// The run.
    pub run: RunPk,
    /// The task.
    pub task_id: TaskId,
    /// The instance.
    pub map_index: MapIndex,
    /// The key.
    pub key: String,
    /// The value.
    pub value: Arc<XComValue>,
    /// When it was written.
    pub at: DateTime<Utc>,
}

/// Which values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XComFilter {
    /// The run.
    pub run: RunPk,
    /// Any of these tasks; all if empty.
    pub tasks: Vec<TaskId>,
    /// One instance.
    pub map_index: Option<MapIndex>,
    /// One key.
    pub key: Option<String>,
}

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariableRow {
    /// Its name, at most 250 characters.
    pub key: String,
    /// Its value, or the token it was encrypted to.
    pub value: String,
    /// What it is for.
    pub description: Option<String>,
    /// Whether the value is encrypted.
    pub is_encrypted: bool,
}

/// A pool as a user describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpec {
    /// Its name, at most 250 characters.
    pub name: String,
    /// Its slots; -1 = unlimited, 0 = nothing starts.
    pub slots: i32,
    /// What it is for.
    pub description: String,
    /// Whether deferred task instances keep their slots.
    pub include_deferred: bool,
}

/// A pool and what is taken of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRow {
    /// The pool.
    pub spec: PoolSpec,
    /// The slots that are taken by instances that are queued or running.
    pub used: i64,
    /// The slots of deferred instances; taken as well if the pool says `include_deferred`.
    pub deferred: i64,
}

impl PoolRow {
    /// The slots that count against its size.
    pub fn occupied(&self) -> i64 {
        self.used + if self.spec.include_deferred { self.deferred } else { 0 }
    }
}

/// Who did what to what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// What: `trigger`, `pause`, `clear`, …
    pub event: String,
    /// The dag.
    pub dag_id: Option<DagId>,
    /// The run.
    pub run_id: Option<RunId>,
    /// The task.
    pub task_id: Option<TaskId>,
    /// The instance.
    pub map_index: Option<MapIndex>,
    /// The rest.
    pub extra: Option<String>,
}

/// Which entries of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditFilter {
    /// One dag.
    pub dag_id: Option<DagId>,
    /// One kind of event.
    pub event: Option<String>,
    /// How many at most.
    pub limit: Option<u32>,
}
