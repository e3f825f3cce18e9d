//! Days of schedule in milliseconds.

use std::ops::Deref;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use futures_util::FutureExt as _;

use crate::app::{Airflow, ClearOptions, Cleared, Mark, Selection, Trigger};
use crate::asset::AssetEvent;
use crate::compile::GraphFormat;
use crate::dag::{DagDef, When};
use crate::id::{DagId, RunId};
use crate::operator::{Operator, Result, TaskContext, TaskError};
use crate::state::RunState;
use crate::store::{DeadlineRow, RunFilter, RunRow};
use crate::time::Clock as _;

use super::dag_test::moment;
use super::mocks::For;
use super::report::TestRun;
use super::setup::{Setup, complain, setup_methods};
use super::world::{Stage, World, at_once};

/// Who changes things in a simulation, for the audit log.
const ACTOR: &str = "test";

/// A simulation that is being set up; [`start`](Self::start) begins it.
#[derive(Debug)]
#[must_use = "a simulation begins with `start`"]
pub struct SimBuilder {
    setup: Setup,
}

impl SimBuilder {
    setup_methods!();

    /// Begins at this moment, UTC unless it has an offset. Nothing happens before the first
    /// [`advance`](Sim::advance).
    ///
    /// # Panics
    ///
    /// If the dags have mistakes, a resource is missing, or a mock fits no task.
    pub async fn start(self, at: impl Into<When>) -> Sim {
        let start = moment(&at.into(), Tz::UTC);
        let world = World::new(self.setup, start, true).await;
        Sim { stage: world.stage.clone(), world: tokio::sync::Mutex::new(world) }
    }
}

/// Dags with a scheduler, a store in memory and a clock of its own: whole days of schedule pass in milliseconds.
///
/// Time moves from event to event, so everything happens exactly when it is due. Attempts take no time unless
/// [`takes`](Self::takes) says so. The same simulation takes the same course each time.
///
/// ```
/// use airflow_core::dag::DagDef;
/// use airflow_core::operator::Empty;
/// use airflow_core::testing::Sim;
/// use airflow_core::time::days;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let dag = DagDef::new("sales").timezone("Europe/Paris").schedule("0 6 * * *");
/// let dag = dag.start_date("2026-03-27").catchup(true).define(|d| { d.add(Empty::new()); });
/// let sim = Sim::new([dag]).start("2026-03-27T12:00Z").await;
/// sim.advance(days(3)).await;
/// assert_eq!(sim.runs("sales").local_times(), ["03-28 06:00", "03-29 06:00", "03-30 06:00"]);
/// # }
/// ```
pub struct Sim {
    stage: Stage,
    world: tokio::sync::Mutex<World>,
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim").field("now", &self.now()).finish_non_exhaustive()
    }
}

impl Sim {
    /// A simulation of these dags.
    #[expect(clippy::new_ret_no_self, reason = "it is set up first, and begins with `start`")]
    pub fn new(dags: impl IntoIterator<Item = DagDef>) -> SimBuilder {
        SimBuilder { setup: Setup::new(dags) }
    }

    /// The time on its clock.
    pub fn now(&self) -> DateTime<Utc> {
        self.stage.clock.now()
    }

    /// The application: everything that users can do can be done here. What is done happens with the next
    /// [`advance`](Self::advance) or [`settle`](Self::settle).
    pub fn airflow(&self) -> &Airflow {
        &self.stage.airflow
    }

    /// Lets time pass, event by event.
    pub async fn advance(&self, time: Duration) {
        let time = TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX);
        let Some(target) = self.now().checked_add_signed(time) else {
            complain("the clock has no moment that far away")
        };
        self.world.lock().await.advance_to(target).await;
    }

    /// Lets time pass up to this moment, UTC unless it has an offset.
    ///
    /// # Panics
    ///
    /// If it has passed already.
    pub async fn advance_to(&self, at: impl Into<When>) {
        let target = moment(&at.into(), Tz::UTC);
        if target < self.now() {
            complain(&format!("{target} has passed: it is {}", self.now()));
        }
        self.world.lock().await.advance_to(target).await;
    }

    /// Lets everything happen that can happen without time passing.
    pub async fn settle(&self) {
        self.world.lock().await.work().await;
    }

    /// Kills the process: attempts that run are lost. Another process takes over on the same store.
    pub async fn kill(&self) {
        self.world.lock().await.kill().await;
    }

    /// The next attempt of a task made from `O` fails with this error, such as `TaskError::msg("db down")`.
    pub fn fail_next<O: Operator>(&self, error: impl Into<TaskError>) {
        self.stage.mocks.fail_next(For::operator::<O>(), [error.into()]);
    }

    /// The next `n` attempts of tasks made from `O` fail with this message.
    pub fn fail_next_n<O: Operator>(&self, n: usize, message: &str) {
        self.stage.mocks.fail_next(For::operator::<O>(), (0..n).map(|_| TaskError::msg(message)));
    }

    /// From now on `answer` runs instead of the body of every task made from `O`.
    pub fn mock<O: Operator>(
        &self,
        answer: impl Fn(&TaskContext) -> Result<O::Output> + Send + Sync + 'static,
    ) {
        self.stage.mocks.answer(For::operator::<O>(), true, answer);
    }

    /// From now on attempts of tasks made from `O` take this long.
    pub fn takes<O: Operator>(&self, duration: Duration) {
        self.stage.mocks.takes(For::operator::<O>(), duration);
    }

    /// Asks for a run of a dag: `sim.trigger("sales").conf(&order).await?`. It starts with the next
    /// [`advance`](Self::advance) or [`settle`](Self::settle).
    pub fn trigger(&self, dag_id: impl Into<DagId>) -> Trigger<'_> {
        self.stage.airflow.trigger(dag_id)
    }

    /// Says that an asset is new, and lets the dags run that wait for it.
    ///
    /// # Panics
    ///
    /// If no dag names the asset.
    pub async fn asset_event(&self, asset: &str) -> AssetEvent {
        let event = expect(self.stage.airflow.asset_event(asset).actor(ACTOR).await);
        self.settle().await;
        event
    }

    /// Pauses a dag.
    ///
    /// # Panics
    ///
    /// If there is no such dag.
    pub async fn pause(&self, dag_id: &str) {
        self.set_paused(dag_id, true).await;
    }

    /// Unpauses a dag.
    ///
    /// # Panics
    ///
    /// If there is no such dag.
    pub async fn unpause(&self, dag_id: &str) {
        self.set_paused(dag_id, false).await;
    }

    async fn set_paused(&self, dag_id: &str, paused: bool) {
        expect(self.stage.airflow.set_paused(&DagId::new(dag_id), paused, ACTOR).await);
        self.settle().await;
    }

    /// Clears tasks of a run with everything after them, all tasks if none is named, and lets them start again.
    ///
    /// # Panics
    ///
    /// If there is no such dag, run or task.
    pub async fn clear(&self, dag_id: &str, run_id: &str, tasks: &[&str]) -> Vec<Cleared> {
        let select = Selection { downstream: true, ..selection(tasks) };
        let options = ClearOptions { select, ..ClearOptions::default() };
        let airflow = &self.stage.airflow;
        let cleared = expect(airflow.clear(&DagId::new(dag_id), &RunId::new(run_id), &options, ACTOR).await);
        self.settle().await;
        cleared
    }

    /// Declares tasks of a run done, failed or skipped.
    ///
    /// # Panics
    ///
    /// If there is no such dag, run or task.
    pub async fn mark(&self, dag_id: &str, run_id: &str, tasks: &[&str], mark: Mark) -> Vec<Cleared> {
        let (airflow, select) = (&self.stage.airflow, selection(tasks));
        let marked = airflow.mark(&DagId::new(dag_id), &RunId::new(run_id), &select, mark, ACTOR).await;
        let marked = expect(marked);
        self.settle().await;
        marked
    }

    /// All runs of a dag, by logical date.
    ///
    /// # Panics
    ///
    /// If there is no such dag.
    #[track_caller]
    pub fn runs(&self, dag_id: &str) -> SimRuns {
        let dag = expect(self.stage.airflow.dag(&DagId::new(dag_id)));
        let zone = dag.timetable.timezone().unwrap_or(dag.settings.timezone);
        let runs = self.stage.runs(dag_id);
        SimRuns(runs.into_iter().map(|run| SimRun { report: TestRun::of(&self.stage, &run), zone }).collect())
    }

    /// One run, by its id.
    ///
    /// # Panics
    ///
    /// If there is no such dag or run.
    #[track_caller]
    pub fn run(&self, dag_id: &str, run_id: &str) -> TestRun {
        let (dag_id, run_id) = (DagId::new(dag_id), RunId::new(run_id));
        let run = self.stage.airflow.run(&dag_id, &run_id).now_or_never();
        let run = expect(run.expect("the store in memory answers at once"));
        TestRun::of(&self.stage, &run)
    }

    /// One line for each task instance of a run: name, state, tries, reason.
    ///
    /// # Panics
    ///
    /// If there is no such dag or run.
    #[track_caller]
    pub fn states(&self, dag_id: &str, run_id: &str) -> String {
        self.run(dag_id, run_id).states()
    }

    /// The dag as a Mermaid flowchart.
    ///
    /// # Panics
    ///
    /// If there is no such dag.
    #[track_caller]
    pub fn graph(&self, dag_id: &str) -> String {
        expect(self.stage.airflow.dag(&DagId::new(dag_id))).draw(GraphFormat::Mermaid, &|_| None)
    }

    /// Everything that happened, a line each, in order: time, run, change. The same simulation gives the same text.
    pub fn trace(&self) -> String {
        let runs = at_once(self.stage.airflow.store().runs(&RunFilter::default()));
        let mut out = String::new();
        for line in self.stage.journal.lines() {
            let run = runs.iter().find(|run| run.pk == line.run());
            let run = run.map(|run| format!("{} {}", run.dag_id, run.run_id)).unwrap_or_default();
            out += &format!("{} {run} {line}\n", line.at().format("%Y-%m-%dT%H:%M:%S%.fZ"));
        }
        out
    }

    /// Deadlines of runs and SLAs of tasks that were missed, those missed last first.
    pub fn missed_deadlines(&self) -> Vec<DeadlineRow> {
        at_once(self.stage.airflow.store().missed_deadlines(None, u32::MAX))
    }

    /// Fails the test if a run is queued or running.
    ///
    /// # Panics
    ///
    /// With the states and reasons of those runs.
    #[track_caller]
    pub fn assert_idle(&self) {
        let states = vec![RunState::Queued, RunState::Running];
        let active = at_once(self.stage.airflow.store().runs(&RunFilter { states, ..RunFilter::default() }));
        if !active.is_empty() {
            let runs: Vec<String> =
                active.iter().map(|run| TestRun::of(&self.stage, run).to_string()).collect();
            complain(&format!("{} runs are not over at {}:\n{}", runs.len(), self.now(), runs.join("\n")));
        }
    }
}

fn selection(tasks: &[&str]) -> Selection {
    Selection { tasks: tasks.iter().map(|task| (*task).to_owned()).collect(), ..Selection::default() }
}

#[track_caller]
fn expect<T>(result: std::result::Result<T, impl std::fmt::Display>) -> T {
    result.unwrap_or_else(|error| complain(&error.to_string()))
}

/// A run of a simulation.
#[derive(Debug, Clone)]
pub struct SimRun {
    report: TestRun,
    zone: Tz,
}

impl SimRun {
    /// When it was due, in the zone of its dag: `03-27 06:00`.
    pub fn local_time(&self) -> String {
        self.report.run().run_after.with_timezone(&self.zone).format("%m-%d %H:%M").to_string()
    }

    /// The row: id, dates, state.
    pub fn row(&self) -> &RunRow {
        self.report.run()
    }
}

impl Deref for SimRun {
    type Target = TestRun;

    fn deref(&self) -> &TestRun {
        &self.report
    }
}

/// The runs of a dag, by logical date.
#[derive(Debug, Clone)]
pub struct SimRuns(Vec<SimRun>);

impl SimRuns {
    /// When they were due, in the zone of the dag: `03-27 06:00`.
    pub fn local_times(&self) -> Vec<String> {
        self.0.iter().map(SimRun::local_time).collect()
    }

    /// Their logical dates.
    pub fn logical_dates(&self) -> Vec<DateTime<Utc>> {
        self.0.iter().map(|run| run.row().logical_date).collect()
    }

    /// Their states.
    pub fn states(&self) -> Vec<RunState> {
        self.0.iter().map(|run| run.state()).collect()
    }

    /// Their ids.
    pub fn ids(&self) -> Vec<String> {
        self.0.iter().map(|run| run.row().run_id.to_string()).collect()
    }
}

impl Deref for SimRuns {
    type Target = [SimRun];

    fn deref(&self) -> &[SimRun] {
        &self.0
    }
}
