//! What the benches of the engine have in common: whole runs of dags of three shapes, from the first decision to the
//! last, without a store and without executors.
//!
//! A turn is what the scheduler does with the news of one run. The reports of the attempts that ended are applied, what
//! follows is decided, and that is applied: what is ready starts, or is scheduled if there is no slot. All of it is
//! code of the engine; here it is only put in a row. [`apply_reports`], [`decide`] and [`apply_decisions`] are what is
//! timed and counted.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use airflow::compile::CompiledDag;
use airflow::decide::outcome::{Accepted, Bounds, DEFAULT_MAX_MAP_LENGTH, MAX_LOST_ATTEMPTS, accept};
use airflow::decide::step::{Settled, finish, launch, schedule, settle, settle_all};
use airflow::id::{AttemptId, IncarnationId, RunId, RunPk, TiKey};
use airflow::operator::Resources;
use airflow::plan::{Outcome, Planner, Report, RunView};
use airflow::prelude::*;
use airflow::registry::Registry;
use airflow::state::{RunEvent, RunType};
use airflow::store::{RunRow, RunSnapshot};
use airflow::timetable::DataInterval;
use uuid::Uuid;

/// How many attempts of a run go on at once. So many reports at most come in one turn.
const SLOTS: usize = 16;

/// When everything happens: decisions read no clock.
const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// How the tasks of a dag depend on each other.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// One after the other.
    Line,
    /// The first, then all but one, then the last.
    Fanout,
    /// 1.5 edges a task between random tasks, from the earlier to the later: a task has three neighbours.
    Random,
}

impl Shape {
    /// A dag of this shape.
    pub(crate) fn define(self, tasks: usize) -> DagDef {
        DagDef::new("bench").define(|d| {
            let nodes: Vec<Node<'_>> =
                (0..tasks).map(|at| d.add(nothing::call().id(format!("t{at}"))).node()).collect();
            for (above, below) in self.edges(tasks) {
                d.order(nodes[above] >> nodes[below]);
            }
        })
    }

    fn edges(self, tasks: usize) -> Vec<(usize, usize)> {
        let last = tasks - 1;
        match self {
            Self::Line => (0..last).map(|at| (at, at + 1)).collect(),
            Self::Fanout => (1..last).flat_map(|at| [(0, at), (at, last)]).collect(),
            Self::Random => {
                let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
                let mut edges = BTreeSet::new();
                while edges.len() < tasks * 3 / 2 {
                    let (one, other) = (dice.below(tasks), dice.below(tasks));
                    if one != other {
                        edges.insert((one.min(other), one.max(other)));
                    }
                }
                edges.into_iter().collect()
            }
        }
    }
}

/// Pseudo-random numbers, the same each time (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("it is below a `usize`")
    }
}

/// Nobody runs it: the benches make up its reports.
#[task]
async fn nothing() -> Result<()> {
    Ok(())
}

/// Makes a registry of definitions without mistakes.
pub(crate) fn registry(definitions: &[DagDef]) -> Registry {
    Registry::compile(definitions, &Resources::default()).expect("a dag without mistakes")
}

/// A compiled dag of this shape.
pub(crate) fn dag(shape: Shape, tasks: usize) -> Arc<CompiledDag> {
    let registry = registry(&[shape.define(tasks)]);
    Arc::clone(registry.iter().next().expect("the one that was compiled"))
}

/// The time that the parts of a run took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    /// In [`apply_reports`] and [`apply_decisions`].
    pub(crate) apply: Duration,
    /// In [`decide`].
    pub(crate) decide: Duration,
}

/// A run in memory, with what the scheduler keeps beside it.
pub(crate) struct Run {
    view: RunView,
    /// Nothing of it was looked at yet.
    fresh: bool,
    /// Changes whose followers are still to be looked at.
    rest: Vec<TiKey>,
    /// Scheduled instances, in the order in which they became ready.
    waiting: VecDeque<TiKey>,
    /// What the attempts that were started will report.
    reports: Vec<Report>,
    /// How many attempts were started.
    attempts: u128,
}

impl Run {
    /// A run that has just started.
    pub(crate) fn new(dag: &Arc<CompiledDag>) -> Self {
        let (tis, expansions, skips) = (Vec::new(), Vec::new(), Vec::new());
        let snapshot = RunSnapshot { run: row(dag), tis, expansions, skips, past: None };
        Self {
            view: RunView::load(snapshot, Arc::clone(dag)),
            fresh: true,
            rest: Vec::new(),
            waiting: VecDeque::new(),
            reports: Vec::new(),
            attempts: 0,
        }
    }

    /// Goes on until nothing is left to do.
    ///
    /// # Panics
    ///
    /// If the run does not end as it should: then something else was measured than was meant.
    pub(crate) fn finish(&mut self) -> Spent {
        let mut spent = Spent::default();
        let ended = loop {
            if let Some(ended) = self.turn(&mut spent) {
                break ended;
            }
            assert!(!self.reports.is_empty() || !self.rest.is_empty(), "the run is stuck");
        };
        assert_eq!(ended, RunEvent::Succeeded, "every attempt succeeded");
        assert_eq!(self.attempts, self.view.dag.tasks.len() as u128, "every task ran once");
        spent
    }

    fn turn(&mut self, spent: &mut Spent) -> Option<RunEvent> {
        let begun = Instant::now();
        let mut plan = apply_reports(&mut self.view, &self.reports);
        let applied = Instant::now();
        let (settled, ended) = decide(&mut plan, self.fresh, &self.rest);
        let decided = Instant::now();
        let started = apply_decisions(&mut plan, settled.ready, &mut self.waiting, &mut self.attempts);
        spent.apply += (applied - begun) + decided.elapsed();
        spent.decide += decided - applied;

        self.fresh = false;
        self.rest = settled.rest;
        let run = self.view.run.pk;
        self.reports = started.into_iter().map(|(key, attempt_id)| report(run, key, attempt_id)).collect();
        ended
    }
}

fn row(dag: &CompiledDag) -> RunRow {
    RunRow {
        queue: None,
        pk: RunPk(1),
        dag_id: dag.id.clone(),
        run_id: RunId::new("manual__bench"),
        run_type: RunType::Manual,
        state: RunState::Running,
        logical_date: NOW,
        data_interval: DataInterval::new(NOW, NOW),
        run_after: NOW,
        queued_at: NOW,
        started_at: Some(NOW),
        ended_at: None,
        conf: None,
        fingerprint: dag.fingerprint.clone(),
        generation: 0,
        triggered_by: String::new(),
        ignores_past: false,
        reason: None,
    }
}

fn report(run: RunPk, key: TiKey, attempt_id: AttemptId) -> Report {
    let (pushed, asset_events) = (Vec::new(), Vec::new());
    let outcome = Outcome::Success(None);
    Report { run, key, attempt_id, outcome, pushed, asset_events, rendered: None, log: None, at: NOW }
}

/// Begins a unit and takes the ends of attempts into it and into the view.
#[inline(never)]
fn apply_reports<'v>(view: &'v mut RunView, reports: &[Report]) -> Planner<'v> {
    let bounds = Bounds { max_map_length: DEFAULT_MAX_MAP_LENGTH, max_lost: MAX_LOST_ATTEMPTS };
    let mut plan = Planner::new(view, "scheduler", NOW);
    for report in reports {
        assert_eq!(accept(&mut plan, report, bounds), Accepted::Yes);
    }
    plan
}

/// What follows from what has changed: which instances are ready, and whether the run is over.
#[inline(never)]
fn decide(plan: &mut Planner<'_>, fresh: bool, rest: &[TiKey]) -> (Settled, Option<RunEvent>) {
    let settled = if fresh { settle_all(plan) } else { settle(plan, &[], rest) };
    let ended = finish(plan, settled.is_pending());
    (settled, ended)
}

/// Starts attempts in the slots that are free, which is all of them: every attempt has reported. The rest is scheduled.
#[inline(never)]
fn apply_decisions(
    plan: &mut Planner<'_>,
    ready: BTreeSet<TiKey>,
    waiting: &mut VecDeque<TiKey>,
    attempts: &mut u128,
) -> Vec<(TiKey, AttemptId)> {
    let mut ready = ready.into_iter();
    let mut started = Vec::with_capacity(SLOTS);
    while started.len() < SLOTS
        && let Some(key) = waiting.pop_front().or_else(|| ready.next())
    {
        *attempts += 1;
        let id = AttemptId(Uuid::from_u128(*attempts));
        launch(plan, key, id, Some(IncarnationId(Uuid::nil()))).expect("it is ready");
        started.push((key, id));
    }
    for key in ready {
        schedule(plan, key).expect("it is ready");
        waiting.push_back(key);
    }
    started
}
