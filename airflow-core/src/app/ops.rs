//! What users do to runs and task instances: clear and mark. The same state machine, the same store contract; the
//! run's generation grows, so that a scheduler that decided on the view before is refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use crate::compile::CompiledDag;
use crate::decide::outcome::{cancel_attempt, stop};
pub use crate::id::suggestion;
use crate::id::{DagId, MapIndex, RunId, RunPk, TaskIdx, TiKey};
use crate::plan::{Planner, RunView};
use crate::scheduler::Wake;
use crate::state::{RunEvent, RunState, TaskEvent, TaskState};
use crate::store::{AuditEntry, PastQuery, RunFilter, RunRow, StoreError, UnitResult};

use super::Airflow;

/// How often a user's change is decided again if somebody else was faster.
const TRIES: u32 = 10;

/// Why an operation was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// This process carries no such dag.
    #[error("there is no dag `{0}`{1}")]
    UnknownDag(String, String),
    /// The dag has no such run.
    #[error("dag `{0}` has no run `{1}`")]
    UnknownRun(String, String),
    /// The dag has no such task.
    #[error("dag `{0}` has no task `{1}`{2}")]
    UnknownTask(String, String, String),
    /// The task left no result.
    #[error(
        "task `{0}` of run `{1}` left no result: it has not succeeded, returns nothing, or is mapped (use `results`)"
    )]
    NoResult(String, String),
    /// The result is of another type.
    #[error("the result of task `{task}` of run `{run}` cannot be read as `{wanted}`: {why}")]
    Unreadable {
        /// The task.
        task: String,
        /// The run.
        run: String,
        /// The type that was asked for.
        wanted: &'static str,
        /// What does not fit.
        why: String,
    },
    /// Others changed the run all the time.
    #[error("run `{0}` is being changed by others; try again")]
    Busy(String),
}

/// Which task instances of a run.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// These tasks or groups; all if empty.
    pub tasks: Vec<String>,
    /// One instance of a mapped task.
    pub map_index: Option<MapIndex>,
    /// Everything before them as well.
    pub upstream: bool,
    /// Everything after them as well.
    pub downstream: bool,
}

/// What to clear.
#[derive(Debug, Clone, Default)]
pub struct ClearOptions {
    /// Which task instances.
    pub select: Selection,
    /// Only those that failed.
    pub only_failed: bool,
    /// Only those that run.
    pub only_running: bool,
    /// Change nothing, only tell what would be cleared.
    pub dry_run: bool,
}

/// A task instance that was cleared or marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleared {
    /// The run.
    pub run_id: RunId,
    /// The task.
    pub task_id: crate::id::TaskId,
    /// The instance.
    pub map_index: MapIndex,
    /// Its state before.
    pub was: TaskState,
}

/// What a user declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Done.
    Success,
    /// Failed.
    Failed,
    /// Skipped.
    Skipped,
}

impl Mark {
    fn event(self) -> TaskEvent {
        match self {
            Self::Success => TaskEvent::MarkedSuccess,
            Self::Failed => TaskEvent::MarkedFailed,
            Self::Skipped => TaskEvent::MarkedSkipped,
        }
    }
}

impl Airflow {
    /// A dag of this process.
    ///
    /// # Errors
    ///
    /// [`OpError::UnknownDag`] names a similar one.
    pub fn dag(&self, dag_id: &DagId) -> Result<Arc<CompiledDag>, OpError> {
        self.registry().get(dag_id).cloned().ok_or_else(|| {
            let names = self.registry().iter().map(|dag| dag.id.to_string());
            OpError::UnknownDag(dag_id.to_string(), suggestion(dag_id.as_str(), names))
        })
    }

    /// One run.
    ///
    /// # Errors
    ///
    /// [`OpError::UnknownRun`].
    pub async fn run(&self, dag_id: &DagId, run_id: &RunId) -> Result<RunRow, OpError> {
        let filter =
            RunFilter { dag_id: Some(dag_id.clone()), run_id: Some(run_id.clone()), ..RunFilter::default() };
        let found = self.store().runs(&filter).await?.into_iter().next();
        found.ok_or_else(|| OpError::UnknownRun(dag_id.to_string(), run_id.to_string()))
    }

    /// One run as decisions see it.
    ///
    /// # Errors
    ///
    /// If the dag or run is unknown, or the store fails.
    pub async fn view(&self, dag_id: &DagId, run: RunPk) -> Result<RunView, OpError> {
        let dag = self.dag(dag_id)?;
        let past = PastQuery { scheduled_only: dag.settings.restriction.catchup };
        let snapshot = self.store().load_run(run, dag.looks_back.then_some(&past)).await?;
        let snapshot = snapshot.ok_or_else(|| OpError::UnknownRun(dag_id.to_string(), run.to_string()))?;
        Ok(RunView::load(snapshot, dag))
    }

    /// Runs task instances again: they go back to their beginning, keep their history and get fresh retries; the run
    /// goes on. Attempts that run are stopped first.
    ///
    /// ```no_run
    /// use airflow_core::app::{ClearOptions, Selection};
    /// # use airflow_core::dag::{DagDef, TaskExt};
    /// # use airflow_core::operator::Empty;
    /// # use airflow_core::state::RunState;
    /// # use airflow_core::testing::Sim;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dag = DagDef::new("sales").define(|d| {
    /// #     d.order(d.add(Empty::new().id("price")) >> d.add(Empty::new().id("report")));
    /// # });
    /// # let sim = Sim::new([dag]).start("2026-03-02").await;
    /// # let airflow = sim.airflow();
    /// let run = airflow.trigger("sales").await?;
    /// # sim.settle().await;
    /// // `price` and all that follows it, once the run has ended or while it goes on:
    /// let select = Selection { tasks: vec!["price".into()], downstream: true, ..Selection::default() };
    /// let options = ClearOptions { select, ..ClearOptions::default() };
    /// let cleared = airflow.clear(&run.dag_id, &run.run_id, &options, "ada").await?;
    /// assert_eq!(cleared.len(), 2);
    /// assert_eq!(airflow.run(&run.dag_id, &run.run_id).await?.state, RunState::Queued);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If something is unknown, or the store fails.
    pub async fn clear(
        &self,
        dag_id: &DagId,
        run_id: &RunId,
        options: &ClearOptions,
        actor: &str,
    ) -> Result<Vec<Cleared>, OpError> {
        let run = self.run(dag_id, run_id).await?;
        let dag = self.dag(dag_id)?;
        let mut tasks = select(&dag, &options.select)?;
        add_setups(&dag, &mut tasks);
        let keys = |view: &RunView| -> Vec<TiKey> {
            let fits = |key: TiKey, state: TaskState| {
                let only = options.select.map_index.is_none_or(|map| map == key.map);
                let state = match (options.only_failed, options.only_running) {
                    (false, false) => state != TaskState::None,
                    (failed, running) => {
                        (failed && state.is_failure()) || (running && state == TaskState::Running)
                    }
                };
                only && state && tasks.contains(&key.task)
            };
            view.all().filter(|(key, ti)| fits(*key, ti.state)).map(|(key, _)| key).collect()
        };
        let change = |plan: &mut Planner<'_>| {
            let mut cleared = Vec::new();
            for key in keys(plan.view) {
                let ti = plan.view.ti(key).expect("it was just listed");
                let was = ti.state;
                let retries = dag.task(key.task).settings.retry.retries;
                let running = was == TaskState::Running;
                // What runs is stopped first and ends itself; nobody has begun what is queued.
                if was == TaskState::Queued {
                    cancel_attempt(plan, key, &format!("cleared by {actor}"));
                }
                let done = plan.change(key, TaskEvent::Cleared, |data| {
                    data.max_tries = data.try_number.saturating_add(retries).saturating_add(1);
                    data.reason = None;
                    data.next_try_at = None;
                    if !running {
                        data.attempt_id = None;
                        data.started_at = None;
                        data.ended_at = None;
                        data.has_result = false;
                        data.map_length = None;
                    }
                });
                if done.is_ok() {
                    let (task_id, map_index) = (dag.task(key.task).id.clone(), key.map);
                    cleared.push(Cleared { run_id: run_id.clone(), task_id, map_index, was });
                }
            }
            // A run that goes on takes notice of the change by its generation.
            if !cleared.is_empty() && plan.view.run.state.is_finished() {
                let queued = plan.change_run(RunEvent::Cleared, None);
                debug_assert!(queued.is_ok(), "a finished run can be queued again");
            }
            cleared
        };
        if !options.dry_run {
            // What runs again does so with the code that is there, unless a scheduler has that of the run.
            self.adopt(&run, &dag.fingerprint).await?;
        }
        let cleared = self.change_run_of(dag_id, &run, actor, options.dry_run, change).await?;
        if !options.dry_run && !cleared.is_empty() {
            let extra = json!({ "instances": cleared.len() }).to_string();
            self.note(actor, "clear", dag_id, Some(run_id), Some(extra)).await?;
        }
        Ok(cleared)
    }

    /// Declares task instances done, failed or skipped. An attempt that runs is stopped; its report no longer counts.
    ///
    /// # Errors
    ///
    /// If something is unknown, or the store fails.
    pub async fn mark(
        &self,
        dag_id: &DagId,
        run_id: &RunId,
        selection: &Selection,
        mark: Mark,
        actor: &str,
    ) -> Result<Vec<Cleared>, OpError> {
        let run = self.run(dag_id, run_id).await?;
        let dag = self.dag(dag_id)?;
        let tasks = select(&dag, selection)?;
        let change = |plan: &mut Planner<'_>| {
            let fits = |key: &TiKey| {
                tasks.contains(&key.task) && selection.map_index.is_none_or(|map| map == key.map)
            };
            let keys: Vec<TiKey> = plan.view.all().map(|(key, _)| key).filter(fits).collect();
            let mut marked = Vec::new();
            for key in keys {
                let was = plan.view.ti(key).expect("it was just listed").state;
                stop(plan, key, mark.event(), &format!("marked by {actor}"));
                if plan.is_touched(key) {
                    let (task_id, map_index) = (dag.task(key.task).id.clone(), key.map);
                    marked.push(Cleared { run_id: run_id.clone(), task_id, map_index, was });
                }
            }
            follow_leaves(plan);
            marked
        };
        let marked = self.change_run_of(dag_id, &run, actor, false, change).await?;
        let extra = json!({ "as": mark.event(), "instances": marked.len() }).to_string();
        self.note(actor, "mark", dag_id, Some(run_id), Some(extra)).await?;
        Ok(marked)
    }

    /// Declares a whole run done or failed: done marks its unfinished tasks as done; failed stops what runs and
    /// skips the rest.
    ///
    /// # Errors
    ///
    /// If something is unknown, or the store fails.
    pub async fn mark_run(
        &self,
        dag_id: &DagId,
        run_id: &RunId,
        success: bool,
        actor: &str,
    ) -> Result<(), OpError> {
        let run = self.run(dag_id, run_id).await?;
        let change = |plan: &mut Planner<'_>| {
            let open: Vec<TiKey> =
                plan.view.all().filter(|(_, ti)| !ti.state.is_finished()).map(|(key, _)| key).collect();
            for key in open {
                let event = if success { TaskEvent::MarkedSuccess } else { TaskEvent::Stopped };
                stop(plan, key, event, &format!("the run was marked by {actor}"));
            }
            let event = if success { RunEvent::MarkedSuccess } else { RunEvent::MarkedFailed };
            // A run that is in this state already needs no change.
            let _ = plan.change_run(event, (!success).then_some("marked_failed"));
            Vec::new()
        };
        self.change_run_of(dag_id, &run, actor, false, change).await?;
        let event = if success { "mark_run_success" } else { "mark_run_failed" };
        self.note(actor, event, dag_id, Some(run_id), None).await
    }

    /// Pauses or unpauses a dag.
    ///
    /// # Errors
    ///
    /// If the store does not know it, or fails.
    pub async fn set_paused(&self, dag_id: &DagId, paused: bool, actor: &str) -> Result<(), OpError> {
        if !self.store().set_paused(dag_id, paused).await? {
            let names = self.store().dags().await?.into_iter().map(|dag| dag.dag_id.to_string());
            return Err(OpError::UnknownDag(dag_id.to_string(), suggestion(dag_id.as_str(), names)));
        }
        self.note(actor, if paused { "pause" } else { "unpause" }, dag_id, None, None).await?;
        self.wake_all();
        Ok(())
    }

    /// Deletes a dag's rows, but for the audit log. Returns how many runs went.
    ///
    /// # Errors
    ///
    /// If a task of it is running, the store does not know it, or fails.
    pub async fn delete_dag(&self, dag_id: &DagId, actor: &str) -> Result<u64, OpError> {
        let runs = self.store().delete_dag(dag_id).await?;
        self.note(actor, "delete_dag", dag_id, None, Some(json!({ "runs": runs }).to_string())).await?;
        self.wake_all();
        Ok(runs)
    }

    /// Decides and writes a user's change, again if somebody was faster.
    async fn change_run_of(
        &self,
        dag_id: &DagId,
        run: &RunRow,
        actor: &str,
        dry_run: bool,
        change: impl Fn(&mut Planner<'_>) -> Vec<Cleared>,
    ) -> Result<Vec<Cleared>, OpError> {
        for _ in 0..TRIES {
            let mut view = self.view(dag_id, run.pk).await?;
            let mut plan = Planner::new(&mut view, actor, self.now());
            plan.unit.by_user = true;
            let changed = change(&mut plan);
            let unit = plan.unit;
            if dry_run || (unit.tis.is_empty() && unit.run_change.is_none()) {
                return Ok(changed);
            }
            if self.store().commit(vec![unit]).await? == [UnitResult::Committed] {
                if let Some(scheduler) = self.scheduler() {
                    let row = self.run(dag_id, &run.run_id).await?;
                    scheduler.wake(Wake::Run(Box::new(row)));
                    scheduler.wake(Wake::Refresh);
                }
                return Ok(changed);
            }
        }
        Err(OpError::Busy(run.run_id.to_string()))
    }

    fn wake_all(&self) {
        if let Some(scheduler) = self.scheduler() {
            scheduler.wake(Wake::Refresh);
        }
    }

    /// Writes to the audit log what a user did.
    pub(super) async fn note(
        &self,
        actor: &str,
        event: &str,
        dag_id: &DagId,
        run_id: Option<&RunId>,
        extra: Option<String>,
    ) -> Result<(), OpError> {
        self.note_of(actor, event, Some(dag_id), run_id, extra).await
    }

    /// The same, of something that may be of no dag.
    pub(super) async fn note_of(
        &self,
        actor: &str,
        event: &str,
        dag_id: Option<&DagId>,
        run_id: Option<&RunId>,
        extra: Option<String>,
    ) -> Result<(), OpError> {
        Ok(self.store().audit(self.entry(actor, event, dag_id, run_id, extra)).await?)
    }

    /// What the audit log says of what a user did.
    pub(super) fn entry(
        &self,
        actor: &str,
        event: &str,
        dag_id: Option<&DagId>,
        run_id: Option<&RunId>,
        extra: Option<String>,
    ) -> AuditEntry {
        AuditEntry {
            at: self.now(),
            actor: actor.to_owned(),
            event: event.to_owned(),
            dag_id: dag_id.cloned(),
            run_id: run_id.cloned(),
            task_id: None,
            map_index: None,
            extra,
        }
    }
}

/// A finished run follows its leaves if they were marked otherwise.
fn follow_leaves(plan: &mut Planner<'_>) {
    if !plan.view.run.state.is_finished() || plan.view.all().any(|(_, ti)| !ti.state.is_finished()) {
        return;
    }
    let dag = Arc::clone(&plan.view.dag);
    let failed = dag.leaves.iter().any(|leaf| plan.view.task(*leaf).own().sum(TaskState::is_failure) > 0);
    let (event, differs) = if failed {
        (RunEvent::MarkedFailed, plan.view.run.state == RunState::Success)
    } else {
        (RunEvent::MarkedSuccess, plan.view.run.state == RunState::Failed)
    };
    if differs {
        let done = plan.change_run(event, failed.then_some("task_failure"));
        debug_assert!(done.is_ok(), "a finished run can be marked the other way");
    }
}

/// The tasks of a selection.
fn select(dag: &CompiledDag, selection: &Selection) -> Result<BTreeSet<TaskIdx>, OpError> {
    if selection.tasks.is_empty() {
        return Ok(dag.indices().collect());
    }
    let mut chosen = BTreeSet::new();
    for name in &selection.tasks {
        let tasks = match dag.find(name) {
            Some(task) => vec![task],
            None => dag.group_tasks(name),
        };
        if tasks.is_empty() {
            let names = dag.tasks.iter().map(|task| task.id.to_string());
            return Err(OpError::UnknownTask(dag.id.to_string(), name.clone(), suggestion(name, names)));
        }
        for task in tasks {
            chosen.insert(task);
            if selection.upstream {
                chosen.extend(dag.ancestors(task));
            }
            if selection.downstream {
                chosen.extend(dag.descendants(task));
            }
        }
    }
    Ok(chosen)
}

/// Work needs its setups again, and they need their teardowns.
fn add_setups(dag: &CompiledDag, tasks: &mut BTreeSet<TaskIdx>) {
    use crate::dag::Role;
    let work: Vec<TaskIdx> =
        tasks.iter().copied().filter(|task| dag.task(*task).role == Role::Work).collect();
    for task in work {
        let direct = dag.task(task).upstream.iter().filter(|up| dag.task(**up).role == Role::Setup);
        let setups: Vec<TaskIdx> = dag.task(task).setups.iter().chain(direct).copied().collect();
        for setup in setups {
            tasks.insert(setup);
            tasks.extend(
                dag.task(setup).downstream.iter().copied().filter(|down| dag.task(*down).is_teardown()),
            );
        }
    }
}
