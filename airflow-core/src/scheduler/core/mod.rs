//! The scheduler without I/O: takes news, says what to load, what to write and what to start.
//!
//! The loop around it ([`super::Scheduler`]) talks to the store and to executors; a simulation can drive the same
//! core. Nothing here waits, reads a clock or draws a random number. Everything it remembers may be lost.

mod assets;
mod deadlines;
mod deciding;
mod news;
mod out;
mod remote;
mod results;
mod share;
mod versions;
mod waits;
mod wants;
mod written;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use self::out::Out;
use self::remote::Remote;
use self::results::Results;
use self::share::Share;
use crate::compile::CompiledDag;
use crate::id::{AttemptId, DagId, IncarnationId, RunPk, TiKey};
use crate::map::{HashMap, HashSet};
use crate::plan::{Report, RunView};
use crate::scheduler::backlog::Backlog;
use crate::scheduler::limits::Limits;
use crate::scheduler::routes::{Place, Routes};
use crate::state::{RunEvent, RunType};
use crate::store::{Advance, AttemptRow, DagRow, LogChunk, NewRun, PastQuery, RunRow, Unit};

/// How often a run's change may be refused in a row before the scheduler waits a moment: refusals mean that somebody
/// else changes the run, and then one of us should be quiet.
const STALE_IN_A_ROW: u32 = 5;

/// How long it then waits, in milliseconds.
const STALE_PAUSE_MS: i64 = 200;

/// How long a timetable that has no answer is left alone, in seconds.
const TIMETABLE_PAUSE_S: i64 = 60;

/// How long a timetable that names the run it has just named is left alone, in seconds: no time has passed for it, and
/// without a pause the scheduler would ask it for ever.
const SAME_RUN_PAUSE_S: i64 = 1;

/// How long nothing is started after the executor refused an attempt, unless one ends before, in milliseconds.
const REFUSED_PAUSE_MS: i64 = 1_000;

/// How often an attempt is looked for whose commit had no answer, and how long it takes from one look to the next, in
/// seconds: a commit that is on its way may still happen after its caller has given up.
const UNSURE_LOOKS: u32 = 12;
const UNSURE_PAUSE_S: i64 = 5;

/// How a scheduler is set up.
#[derive(Debug, Clone)]
pub(super) struct CoreConfig {
    pub incarnation: IncarnationId,
    pub routes: Routes,
    pub max_map_length: usize,
    pub max_lost: u32,
    pub new_id: fn() -> AttemptId,
    /// Whether the timetables make runs (Airflow's `use_job_schedule`).
    pub use_schedules: bool,
}

/// What the loop has to fetch or write outside of the hot path.
#[derive(Debug, Default)]
pub(super) struct Wants {
    /// Runs that this process wants to decide about.
    pub claim: Vec<RunPk>,
    pub load: Vec<(RunPk, Option<PastQuery>)>,
    pub create: Vec<NewRun>,
    pub limits: bool,
    pub advance: Vec<(DagId, Advance)>,
    /// What waits for dags that run by assets.
    pub asset_queue: bool,
    /// Deadlines that are over.
    pub deadlines: bool,
    /// Queued attempts that may have been claimed.
    pub look_up: Vec<AttemptId>,
}

impl Wants {
    pub(super) fn is_empty(&self) -> bool {
        self.claim.is_empty()
            && self.load.is_empty()
            && self.create.is_empty()
            && !self.limits
            && self.advance.is_empty()
            && !self.asset_queue
            && !self.deadlines
            && self.look_up.is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Instance(RunPk, TiKey),
    RunTimeout(RunPk),
    /// A run whose changes were refused too often is loaded again.
    Again(RunPk),
    /// A queued attempt may not have been claimed; with how often it was sent before.
    Unclaimed(RunPk, AttemptId, u32),
}

/// The first is the one that comes next.
type Timers = BinaryHeap<Reverse<(DateTime<Utc>, Timer)>>;

/// Runs by what starts first: whether it is of a backfill, from when on it may start, its number.
type Order = (bool, DateTime<Utc>, RunPk);

#[derive(Debug)]
struct DagLane {
    dag: Arc<CompiledDag>,
    /// How many tasks a run begins with, at least one.
    width: usize,
    row: DagRow,
    queued: BTreeMap<Order, RunRow>,
    running: BTreeSet<RunPk>,
    /// Active runs of other versions, which are left to schedulers that have them.
    others: BTreeMap<RunPk, String>,
    /// Not asked before this moment: its timetable had no answer.
    ask_after: Option<DateTime<Utc>>,
}

impl DagLane {
    fn order_of(run: &RunRow) -> Order {
        (run.run_type == RunType::Backfill, run.run_after, run.pk)
    }

    /// Whether a queued run has no rows of task instances yet, as far as is known: a user who changes one takes the run
    /// to its next generation, and a scheduler starts the run first. If that is wrong the first commit is refused, and
    /// the run is loaded.
    fn is_untouched(&self, run: &RunRow) -> bool {
        run.generation == 0 && run.started_at.is_none() && !self.dag.looks_back
    }

    fn active(&self) -> usize {
        self.queued.len() + self.running.len() + self.others.len()
    }

    /// Whether another run may be made.
    fn has_room(&self) -> bool {
        let most = self.dag.settings.max_active_runs as usize;
        let limit = self.dag.timetable.active_runs_limit();
        self.active() < limit.map_or(most, |limit| most.min(limit as usize))
    }
}

#[derive(Debug)]
struct Live {
    view: RunView,
    /// It was loaded and not looked at as a whole yet.
    fresh: bool,
    due: Vec<TiKey>,
    /// Changes whose followers are still to be looked at.
    rest: Vec<TiKey>,
    timed_out: bool,
    stale: u32,
}

/// A unit that is being written, and what to do if it is refused.
#[derive(Debug)]
struct InFlight {
    unit: Unit,
    /// The instances that it changes.
    touched: HashSet<TiKey>,
    reports: Vec<Report>,
    ended: Option<RunEvent>,
}

#[derive(Debug)]
pub(super) struct Core {
    config: CoreConfig,
    dags: BTreeMap<DagId, DagLane>,
    runs: HashMap<RunPk, Live>,
    dag_of: HashMap<RunPk, DagId>,
    dirty: BTreeSet<RunPk>,
    inbox: HashMap<RunPk, Vec<Report>>,
    orphans: HashMap<RunPk, Vec<AttemptRow>>,
    load: BTreeSet<RunPk>,
    /// Runs among these that nothing can have happened in: there is nothing to load.
    unread: HashMap<RunPk, RunRow>,
    /// Runs whose changes were refused too often, until their timer.
    resting: BTreeSet<RunPk>,
    backlog: Backlog,
    limits: Limits,
    limits_unknown: bool,
    /// A limit was full that should have had room. Then nothing is started with what other units of the same round give
    /// back: two units that each wait for what the other one gives back would refuse each other for ever.
    is_careful: bool,
    /// Attempts that were handed to an executor and have not reported.
    out: Out,
    remote: Remote,
    /// Results that attempts need not read.
    results: Results,
    /// The ends of logs that are not written with the ends of their attempts.
    late_logs: Vec<LogChunk>,
    /// A commit failed that had ends of logs in it: maybe because of them.
    keeps_logs_apart: bool,
    /// Started in a commit of which it is not known whether it happened, or still will; looked for so many times more.
    unsure: BTreeMap<AttemptId, (RunPk, u32)>,
    waits: waits::Waits,
    /// Slots that nothing in the backlog could use when attempts were last started.
    spare: usize,
    /// All slots that there are.
    slots: usize,
    /// The executor refused an attempt: nothing is started before this moment.
    rests_until: Option<DateTime<Utc>>,
    /// Which runs this process decides about, and which others have.
    share: Share,
    last_tick: Option<DateTime<Utc>>,
    timers: Timers,
    dag_timers: BTreeSet<(DateTime<Utc>, DagId)>,
    fed: assets::Fed,
    deadlines: deadlines::Deadlines,
    writing: Vec<InFlight>,
    stamp: u64,
    closed: bool,
}

impl Core {
    pub(super) fn new(config: CoreConfig) -> Self {
        let out = Out::new(config.routes.clone());
        let slots = out.room().total();
        Self {
            spare: slots,
            slots,
            config,
            dags: BTreeMap::new(),
            runs: HashMap::default(),
            dag_of: HashMap::default(),
            dirty: BTreeSet::new(),
            inbox: HashMap::default(),
            orphans: HashMap::default(),
            load: BTreeSet::new(),
            unread: HashMap::default(),
            resting: BTreeSet::new(),
            backlog: Backlog::default(),
            limits: Limits::default(),
            limits_unknown: true,
            is_careful: false,
            out,
            remote: Remote::default(),
            results: Results::default(),
            late_logs: Vec::new(),
            keeps_logs_apart: false,
            unsure: BTreeMap::new(),
            waits: waits::Waits::default(),
            rests_until: None,
            share: Share::default(),
            last_tick: None,
            timers: BinaryHeap::new(),
            dag_timers: BTreeSet::new(),
            fed: assets::Fed::default(),
            deadlines: deadlines::Deadlines::default(),
            writing: Vec::new(),
            stamp: 0,
            closed: false,
        }
    }

    /// Starts nothing any more; reports are still taken.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// A dag paused or unpaused itself, or was by somebody in this process.
    pub(super) fn set_paused(&mut self, id: &DagId, paused: bool) {
        if let Some(lane) = self.dags.get_mut(id) {
            lane.row.is_paused = paused;
        }
    }

    /// The runs that are in memory.
    pub(super) fn views(&self) -> impl Iterator<Item = &RunView> {
        self.runs.values().map(|live| &live.view)
    }

    /// How many attempts run in this process.
    pub(super) fn running_attempts(&self) -> usize {
        self.out.here().count()
    }

    /// Attempts that run in this process.
    pub(super) fn attempts_here(&self) -> Vec<(AttemptId, Place)> {
        self.out.here().collect()
    }

    /// The ends of logs that no commit of a run writes.
    pub(super) fn take_late_logs(&mut self) -> Vec<LogChunk> {
        std::mem::take(&mut self.late_logs)
    }

    /// Says whether commits have the ends of the logs of attempts that end.
    pub(super) fn write_logs_with_ends(&mut self, with: bool) {
        self.keeps_logs_apart = !with;
    }

    /// Whether they have not.
    pub(super) fn keeps_logs_apart(&self) -> bool {
        self.keeps_logs_apart
    }

    /// Attempts of an earlier life that still run.
    pub(super) fn keep_strays(&mut self, strays: Vec<(AttemptId, Place)>) {
        self.out.keep_strays(strays);
    }

    /// Since when the instance waits that is ready for the longest time.
    pub(super) fn waits_since(&self) -> Option<DateTime<Utc>> {
        self.backlog.waits_since()
    }

    /// Whether the executor had no room a moment ago.
    fn rests(&self, now: DateTime<Utc>) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }
}

/// When a run has taken too long.
fn timeout_of(view: &RunView) -> Option<DateTime<Utc>> {
    let timeout = TimeDelta::from_std(view.dag.settings.dagrun_timeout?).ok()?;
    view.run.started_at?.checked_add_signed(timeout)
}
