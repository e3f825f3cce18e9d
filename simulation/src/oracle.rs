//! What must hold at every step. It believes nobody: it keeps its own books from what the store has written and from
//! what the code of tasks says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use airflow_core::asset::AssetEventId;
use airflow_core::id::{AttemptId, DagId, IncarnationId, MapIndex, RunPk, TaskId};
use airflow_core::plan::Attempt;
use airflow_core::state::{RunState, TaskEvent, TaskState};
use airflow_core::store::{AssetEvent, AttemptState, Incarnation, RunRow, SlotKey, TiRow, Unit};
use tokio::time::Instant;

use super::clock::Gate;
use super::crew::Crew;
use super::plan::{Plan, TaskPlan};
use super::random::Hash;
use super::values::Values;

/// How many lines of what happened are kept for a failure.
const KEPT: usize = 5_000;

/// More calls in ten seconds than any plan has work for.
const MOST_CALLS: u64 = 4_000;

/// Who stands still for so long may be given up: the shortest lease, but for clocks that run too fast.
const GIVEN_UP: Duration = Duration::from_secs(19);

/// How long code may go on that a user has taken away, in a process that cannot reach the store: until its lease ends.
const TIME_TO_CANCEL: Duration = Duration::from_secs(21);

pub(crate) type Ti = (RunPk, TaskId, MapIndex);

/// What was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) law: &'static str,
    pub(crate) text: String,
}

/// The code of an attempt that runs.
pub(crate) struct Running {
    pub(crate) ti: Ti,
    pub(crate) process: usize,
    pub(crate) gate: Arc<Gate>,
    stood: Duration,
}

/// An attempt as the store knows it.
pub(crate) struct Known {
    pub(crate) ti: Ti,
    pub(crate) incarnation: Option<IncarnationId>,
    pub(crate) open: bool,
    /// Its process was declared dead.
    lost: bool,
    /// When a user took it away.
    pub(crate) cancelled: Option<Instant>,
}

/// A process as the store knows it.
pub(crate) struct Life {
    beats: u64,
    /// When it last renewed its lease, in true time.
    renewed: Instant,
    lease: Duration,
    pub(crate) gate: Arc<Gate>,
}

#[derive(Default)]
pub(crate) struct Oracle {
    pub(crate) violation: Option<Violation>,
    pub(crate) hash: Hash,
    pub(crate) lines: Vec<String>,
    pub(crate) seen: BTreeMap<&'static str, u64>,
    pub(crate) units: u64,
    pub(crate) attempts: u64,
    start: Option<Instant>,
    plan: Option<Arc<Plan>>,
    /// Which process calls the store at the moment.
    pub(crate) caller: Option<usize>,
    runs: BTreeMap<RunPk, (DagId, RunState)>,
    deciders: BTreeMap<RunPk, BTreeSet<usize>>,
    tis: BTreeMap<Ti, (TaskState, u32)>,
    pub(crate) known: BTreeMap<AttemptId, Known>,
    begun: BTreeSet<AttemptId>,
    pub(crate) running: BTreeMap<AttemptId, Running>,
    used: BTreeMap<SlotKey, i64>,
    pub(crate) lives: BTreeMap<IncarnationId, Life>,
    /// Events of the asset that were written with units.
    events: BTreeSet<AssetEventId>,
    /// Ten seconds, and how often the store was called in them.
    calls: (u64, u64),
    pub(crate) crew: Crew,
    pub(crate) values: Values,
}

impl Oracle {
    pub(crate) fn new(plan: Arc<Plan>) -> Self {
        Self { plan: Some(plan), start: Some(Instant::now()), ..Self::default() }
    }

    pub(crate) fn plan(&self) -> Arc<Plan> {
        Arc::clone(self.plan.as_ref().expect("it was given"))
    }

    /// Whether the store is called all the time.
    pub(crate) fn is_busy(&mut self) -> bool {
        let second = self.start.expect("it was given").elapsed().as_secs() / 10;
        if self.calls.0 != second {
            self.calls = (second, 0);
        }
        self.calls.1 += 1;
        let most = MOST_CALLS * if self.plan().has_worker() { 2 } else { 1 };
        if self.calls.1 == most {
            self.broken("no busy loop", format!("{most} calls of the store within ten seconds"));
        }
        self.calls.1 >= most
    }

    pub(crate) fn line(&mut self, text: &str) {
        let at = self.start.expect("it was given").elapsed().as_micros();
        let line = format!("{at} {text}");
        self.hash.add(&line);
        if self.lines.len() >= KEPT * 2 {
            self.lines.drain(..KEPT);
        }
        self.lines.push(line);
    }

    /// Notes that a situation was reached.
    pub(crate) fn seen(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub(crate) fn broken(&mut self, law: &'static str, text: String) {
        self.line(&format!("BROKEN {law}: {text}"));
        self.violation.get_or_insert(Violation { law, text });
    }

    pub(crate) fn created(&mut self, row: &RunRow) {
        // The ids of runs by an asset are random.
        self.line(&format!("created {} {} {} {}", row.dag_id, row.pk, row.run_type, row.logical_date));
        self.runs.insert(row.pk, (row.dag_id.clone(), row.state));
        let every = self.plan().dags[super::world::number_of(&row.dag_id)].every;
        if row.run_type.to_string() == "asset_triggered" {
            self.seen("an asset makes a run");
        }
        if row.run_type.to_string() == "scheduled" {
            let second = row.logical_date.timestamp();
            if second % i64::try_from(every * 60).expect("small") != 0 {
                self.broken("I6", format!("run {} is on no point of its schedule", row.run_id));
            }
        }
    }

    /// A unit that was written: it must follow from what was written before.
    pub(crate) fn written(&mut self, unit: &Unit) {
        self.units += 1;
        let caller = self.caller.map_or_else(|| "user".to_owned(), |process| format!("p{process}"));
        self.line(&format!("unit {caller} run {} by {} changes {}", unit.run, unit.actor, unit.tis.len()));
        if let Some(process) = self.caller.filter(|process| !self.plan().is_worker(*process)) {
            let deciders = self.deciders.entry(unit.run).or_default();
            deciders.insert(process);
            if deciders.len() > 1 {
                self.seen("a run is taken over");
            }
        }
        let Some((dag, run_state)) = self.runs.get(&unit.run).cloned() else {
            return self.broken("I1", format!("a unit of run {}, which nobody created", unit.run));
        };
        let finished = run_state.is_finished();
        if finished && !unit.by_user && !(unit.tis.is_empty() && unit.run_change.is_none()) {
            self.broken("I13", format!("run {} of {dag} had ended and is changed", unit.run));
        }
        for change in &unit.tis {
            self.changed(&dag, unit, change);
        }
        if let Some(change) = &unit.run_change {
            let (from, to) = (change.transition.from(), change.transition.to());
            self.line(&format!("run {} {from} -> {to}", unit.run));
            if from != run_state {
                self.broken("I2", format!("run {} goes from {from} but is {run_state}", unit.run));
            }
            let open =
                self.tis.iter().find(|((run, ..), (state, _))| *run == unit.run && !state.is_finished());
            if let (true, false, Some((ti, (state, _)))) = (to.is_finished(), unit.by_user, open) {
                let text = format!("run {} of {dag} ends, but {ti:?} is {state}", unit.run);
                self.broken("I7", text);
            }
            let delta = i64::from(to == RunState::Running) - i64::from(run_state == RunState::Running);
            *self.used.entry(SlotKey::Runs(dag.clone())).or_default() += delta;
            self.runs.insert(unit.run, (dag.clone(), to));
        }
        self.events.extend(unit.asset_events.iter().map(|event| event.id.clone()));
        self.values.written(unit);
        self.attempts_of(unit);
        self.attempts_fit(unit);
    }

    fn changed(&mut self, dag: &DagId, unit: &Unit, change: &airflow_core::store::TiChange) {
        let ti = (unit.run, change.task_id.clone(), change.map_index);
        let (state, epoch) = self.tis.get(&ti).copied().unwrap_or((TaskState::None, 0));
        let (from, to, event) = (change.transition.from(), change.transition.to(), change.transition.event());
        self.line(&format!("{} {} {} {event} {from} -> {to}", unit.run, change.task_id, change.map_index.0));
        if (from, change.epoch) != (state, epoch) {
            let text =
                format!("{ti:?} goes from {from} at epoch {}, but is {state} at epoch {epoch}", change.epoch);
            self.broken("I2", text);
        }
        // As in Airflow, the word of a branch counts even if it comes after what its downstream task has done.
        if state.is_finished() && !unit.by_user && event != TaskEvent::BranchSkipped {
            self.broken("I13", format!("{ti:?} was {state} and became {to} by itself"));
        }
        match event {
            TaskEvent::Lost => self.seen("an attempt is lost"),
            TaskEvent::GivenUp => self.seen("a task is given up"),
            TaskEvent::HandedBack => self.seen("an attempt is handed back"),
            TaskEvent::Cleared if from == TaskState::Running => self.seen("a running task is cleared"),
            TaskEvent::Retried => self.seen("a retry"),
            TaskEvent::Deferred => self.seen("a task is deferred"),
            TaskEvent::Rescheduled => self.seen("a sensor is run again later"),
            // To what comes after it, or to the end of the task.
            TaskEvent::Ready | TaskEvent::Succeeded if from == TaskState::Deferred => {
                self.seen("a wait is over");
            }
            _ => {}
        }
        let delta = i64::from(to.is_executing()) - i64::from(state.is_executing());
        *self.used.entry(SlotKey::Dag(dag.clone())).or_default() += delta;
        let pool = if self.is_pooled(dag, &change.task_id) { "small" } else { "default_pool" };
        *self.used.entry(SlotKey::Pool(pool.into())).or_default() += delta;
        let waits = i64::from(to == TaskState::Deferred) - i64::from(state == TaskState::Deferred);
        *self.used.entry(SlotKey::Deferred(pool.into())).or_default() += waits;
        // A deferred instance gives the slots of its pool and dag back, and keeps that of its task.
        if self.task_plan(dag, &change.task_id).most.is_some() {
            let key = SlotKey::Task(dag.clone(), change.task_id.clone());
            *self.used.entry(key).or_default() += delta + waits;
        }
        self.tis.insert(ti, (to, change.epoch + 1));
        if delta + waits > 0 {
            self.run_is_within_limits(dag, unit.run, &change.task_id);
        }
    }

    /// No more instances of a task are under way in a run than it says.
    fn run_is_within_limits(&mut self, dag: &DagId, run: RunPk, task: &TaskId) {
        let Some(most) = self.task_plan(dag, task).most_of_run else { return };
        let first = (run, task.clone(), MapIndex(i32::MIN));
        let of_task = self.tis.range(first..).take_while(|((of, id, _), _)| *of == run && id == task);
        let under_way = |state: TaskState| state.is_executing() || state == TaskState::Deferred;
        let count = of_task.filter(|(_, (state, _))| under_way(*state)).count();
        if count > most as usize {
            self.broken("I5", format!("{count} of {most} instances of {task} are under way in run {run}"));
        }
        if count == most as usize {
            self.seen("a task is at its limit in a run");
        }
    }

    /// A refusal has changed nothing: the instances of the run are as the last units that were written left them.
    pub(crate) fn is_unchanged(&mut self, run: RunPk, stored: &[TiRow]) {
        let stored: BTreeMap<Ti, (TaskState, u32)> =
            stored.iter().map(|ti| ((run, ti.task_id.clone(), ti.map_index), (ti.state, ti.epoch))).collect();
        let first = (run, TaskId::new(""), MapIndex(i32::MIN));
        let of_run = self.tis.range(first..).take_while(|((of, ..), _)| *of == run);
        let known: BTreeMap<Ti, (TaskState, u32)> = of_run.map(|(ti, state)| (ti.clone(), *state)).collect();
        if stored != known {
            self.broken(
                "I9",
                format!("a unit of run {run} was refused, and there is {stored:?}, not {known:?}"),
            );
        }
    }

    /// A process has handed out an attempt; so many are out now.
    pub(crate) fn are_out(&mut self, process: usize, out: usize, slots: usize) {
        if out > slots {
            self.broken("I12", format!("p{process} has {out} attempts out, and {slots} slots"));
        }
    }

    /// What became of the events of the asset, as one dag sees it that waits for it.
    pub(crate) fn events_are_taken_once(
        &mut self,
        events: &[AssetEvent],
        waits: &BTreeMap<AssetEventId, bool>,
        taken: &BTreeMap<AssetEventId, u64>,
    ) {
        for event in events {
            let (waits, runs) = (waits.get(&event.id), taken.get(&event.id).copied().unwrap_or(0));
            match (waits, runs) {
                (None, 1) => self.seen("an event makes a run"),
                (Some(false), 0) => self.seen("an event of a pause waits for the next one"),
                _ => {
                    let id = event.id.as_str();
                    self.broken("assets", format!("event {id} is in {runs} runs and waits: {waits:?}"));
                }
            }
        }
        let mut stored: Vec<_> =
            events.iter().filter(|event| event.source.is_some()).map(|event| &event.id).collect();
        stored.sort();
        if !stored.iter().copied().eq(self.events.iter()) {
            let text = format!("tasks made {:?}, stored are {stored:?}", self.events);
            self.broken("assets", text);
        }
    }

    fn is_pooled(&self, dag: &DagId, task: &TaskId) -> bool {
        self.task_plan(dag, task).pooled
    }

    fn task_plan(&self, dag: &DagId, task: &TaskId) -> TaskPlan {
        let number: usize = task.as_str()[1..].parse().expect("tasks are numbered");
        self.plan().dags[super::world::number_of(dag)].tasks[number].clone()
    }

    fn attempts_of(&mut self, unit: &Unit) {
        for start in &unit.started {
            let ti = (unit.run, start.task_id.clone(), start.map_index);
            if start.state == AttemptState::Running && self.is_claimed(start.attempt_id, start.incarnation) {
                continue;
            }
            if start.state == AttemptState::Queued {
                self.crew.is_queued(start.attempt_id);
            }
            self.crew.opens(&ti, start.attempt_id);
            let incarnation = start.incarnation;
            let known = Known { ti, incarnation, open: true, lost: false, cancelled: None };
            if self.known.insert(start.attempt_id, known).is_some() {
                self.broken("I3", format!("attempt of {} is written twice", start.task_id));
            }
        }
        for end in &unit.ended {
            self.crew.is_over(end.attempt_id);
            if let Some(known) = self.known.get_mut(&end.attempt_id).filter(|known| known.open) {
                known.open = false;
                known.cancelled = (end.state == AttemptState::Cancelled).then(Instant::now);
                known.lost = end.state == AttemptState::Lost;
                if end.state != AttemptState::Lost {
                    continue;
                }
                // A lost attempt is of a process that has ended.
                if known.incarnation.is_some_and(|id| self.lives.contains_key(&id)) {
                    let ti = known.ti.clone();
                    self.broken(
                        "I11",
                        format!("the attempt of {ti:?} is called lost; its process has not ended"),
                    );
                }
            }
        }
    }

    /// What the store says is taken is what a count says, and no more than there is.
    pub(crate) fn slots_are(&mut self, stored: &[(SlotKey, i64)]) {
        let plan = self.plan();
        let stored: BTreeMap<SlotKey, i64> = stored.iter().cloned().collect();
        let counted: BTreeMap<SlotKey, i64> = self
            .used
            .iter()
            .filter(|(_, used)| **used != 0)
            .map(|(key, used)| (key.clone(), *used))
            .collect();
        if stored != counted {
            return self
                .broken("I5", format!("the store says {stored:?} is taken, a count says {counted:?}"));
        }
        for (key, used) in counted {
            let limit = match &key {
                SlotKey::Pool(name) if name == "small" => i64::from(plan.pool),
                SlotKey::Pool(_) => 128,
                SlotKey::Dag(dag) => i64::from(plan.dags[super::world::number_of(dag)].max_active_tasks),
                SlotKey::Runs(dag) => i64::from(plan.dags[super::world::number_of(dag)].max_active_runs),
                SlotKey::Task(dag, task) => self.task_plan(dag, task).most.map_or(0, i64::from),
                // Only counted: the pools of these plans do not count deferred instances.
                SlotKey::Deferred(_) => i64::MAX,
            };
            if used == limit && matches!(key, SlotKey::Task(..)) {
                self.seen("a task is at its limit");
            }
            if used > limit {
                self.broken("I5", format!("{used} of {limit} are taken of {key}"));
            }
        }
    }

    /// The code of an attempt begins.
    pub(crate) fn begins(&mut self, attempt: &Attempt, process: usize, gate: &Arc<Gate>) {
        self.attempts += 1;
        let ti = (attempt.run.pk, attempt.ti.task_id.clone(), attempt.ti.map_index);
        self.line(&format!("begins {ti:?} try {}", attempt.ti.try_number));
        let id = attempt.ti.attempt_id;
        if !self.known.contains_key(&id) {
            self.broken("P3", format!("{ti:?} begins, and the store knows nothing of the attempt"));
        }
        if self.crew.waits(id) {
            self.broken("P3", format!("{ti:?} begins, and nobody has claimed the attempt"));
        }
        // Who stood still for a while may not know yet that it was given up.
        if self.known.get(&id).is_some_and(|known| known.lost) && gate.stood() < GIVEN_UP {
            self.broken("I10", format!("{ti:?} begins in a process that was declared dead"));
        }
        if !self.begun.insert(id) {
            self.broken("I3", format!("an attempt of {ti:?} begins twice"));
        }
        let other = self.running.iter().find(|(other_id, other)| {
            let still = !other.gate.is_dead() && !other.gate.is_paused();
            // What a process did that stood still for a while and goes on is the admitted case.
            let stood = other.gate.stood() > other.stood + Duration::from_millis(500);
            // A user has taken it away a moment ago, and its worker may not have heard of it.
            let known = self.known.get(*other_id);
            let cancelled = known.and_then(|known| known.cancelled);
            let is_stopping = cancelled.is_some_and(|at| at.elapsed() < TIME_TO_CANCEL);
            other.ti == ti && still && !stood && !is_stopping
        });
        if other.is_some() {
            self.broken("I4", format!("two attempts of {ti:?} run at the same time"));
        }
        self.running.insert(id, Running { ti, process, gate: Arc::clone(gate), stood: gate.stood() });
    }

    /// The code of an attempt has ended.
    pub(crate) fn ends(&mut self, id: AttemptId) {
        if let Some(running) = self.running.remove(&id) {
            self.line(&format!("ends {:?}", running.ti));
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.values().any(|running| !running.gate.is_dead())
    }

    /// The processes that the store counts as alive, after a call by the process of `gate`.
    pub(crate) fn lives_are(&mut self, alive: &[Incarnation], call: &str, gate: &Arc<Gate>) {
        for one in alive {
            let life = self.lives.entry(one.process.id).or_insert_with(|| Life {
                beats: one.beats,
                renewed: Instant::now(),
                lease: one.process.lease,
                gate: Arc::clone(gate),
            });
            if life.beats != one.beats {
                (life.beats, life.renewed) = (one.beats, Instant::now());
            }
        }
        let ended: Vec<IncarnationId> =
            self.lives.keys().filter(|id| !alive.iter().any(|one| one.process.id == **id)).copied().collect();
        for id in ended {
            let life = self.lives.remove(&id).expect("it was just listed");
            let by_itself = call == "end_incarnation";
            self.line(&format!("a process ended by {call}"));
            let quiet = life.renewed.elapsed();
            if by_itself {
                continue;
            }
            self.seen("a process is declared dead");
            // Clocks may run a few percent too fast.
            if !life.gate.is_dead() && quiet < life.lease.mul_f64(0.96) {
                self.broken(
                    "I11",
                    format!("a process that renewed its lease {quiet:?} ago is declared dead"),
                );
            }
        }
    }

    /// At the end: everything is over, and everything was done.
    pub(crate) fn everything_is_over(&mut self, rows: &[RunRow]) {
        let rows: BTreeMap<RunPk, &RunRow> = rows.iter().map(|row| (row.pk, row)).collect();
        for (pk, (dag, _)) in self.runs.clone() {
            match rows.get(&pk) {
                None => self.broken("I1", format!("a run of {dag} is gone")),
                Some(row) if !row.state.is_finished() => {
                    let open =
                        self.tis.iter().filter(|((run, ..), (state, _))| *run == pk && !state.is_finished());
                    let open: Vec<_> = open
                        .map(|((_, task, map), (state, _))| format!("{task}[{}] {state}", map.0))
                        .collect();
                    let text = format!(
                        "run {} ({pk}) of {dag} is {} for ever; {}",
                        row.run_id,
                        row.state,
                        open.join(", ")
                    );
                    self.broken("I14", text);
                }
                Some(_) => {}
            }
        }
        if self.violation.is_none() && self.is_running() {
            self.broken("I14", "code of attempts runs although everything has ended".into());
        }
        self.points_are_complete(&rows);
    }

    fn points_are_complete(&mut self, rows: &BTreeMap<RunPk, &RunRow>) {
        let plan = self.plan();
        for (number, dag) in plan.dags.iter().enumerate() {
            if dag.by_asset {
                continue;
            }
            let of_dag = rows.values().filter(|row| super::world::number_of(&row.dag_id) == number);
            let mut dates: Vec<i64> = of_dag
                .filter(|row| row.run_type.to_string() == "scheduled")
                .map(|row| (row.logical_date - super::clock::base()).num_seconds())
                .collect();
            dates.sort_unstable();
            let step = i64::try_from(dag.every * 60).expect("small");
            let last = i64::try_from(plan.minutes * 60).expect("small") / step * step;
            let expected: Vec<i64> = (0..=last / step).map(|n| n * step).collect();
            if dates != expected {
                let missing: Vec<_> = expected.iter().filter(|date| !dates.contains(date)).collect();
                let text = format!(
                    "dag {number} has {} scheduled runs, not {}; missing {missing:?}",
                    dates.len(),
                    expected.len()
                );
                self.broken("I6", text);
            }
        }
    }
}
