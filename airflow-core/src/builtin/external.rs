//! Waits for another dag.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::dag::IsSensor;
use crate::id::{DagId, TaskId};
use crate::operator::{Description, FoundRun, Operator, Poke, Result, RunsQuery, TaskContext, TaskError};
use crate::state::TaskState;
use crate::template::{Renderer, Template as _, TemplateError};

use super::sensor_parts;

type Dates = Arc<dyn Fn(DateTime<Utc>) -> Vec<DateTime<Utc>> + Send + Sync>;

/// Waits until a run of another dag, or tasks of it, are in the wanted states: for the run of the same logical date, unless
/// told otherwise.
///
/// That the other one failed is nothing that it notices by itself: it waits on, as the other may be run again. Say
/// [`failed_states`](Self::failed_states) to fail with it.
///
/// ```
/// use airflow_core::builtin::ExternalTaskSensor;
/// use airflow_core::dag::{DagDef, SensorExt, TaskExt};
/// use airflow_core::state::TaskState;
/// use airflow_core::time::hours;
///
/// let dag = DagDef::new("report").schedule("0 7 * * *").define(|d| {
///     // The run of six o'clock.
///     let load = ExternalTaskSensor::task("sales", "load").execution_delta(hours(1));
///     d.add(load.failed_states([TaskState::Failed, TaskState::UpstreamFailed]).id("sales_loaded").deferred());
/// });
/// assert_eq!(dag.compile()?.tasks.len(), 1);
/// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
/// ```
#[derive(Clone)]
pub struct ExternalTaskSensor {
    dag_id: String,
    /// Tasks or groups; the whole run if there are none.
    tasks: Vec<String>,
    allowed: Vec<TaskState>,
    skipped: Vec<TaskState>,
    failed: Vec<TaskState>,
    dates: Option<Dates>,
    check_existence: bool,
}

impl fmt::Debug for ExternalTaskSensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalTaskSensor")
            .field("dag_id", &self.dag_id)
            .field("tasks", &self.tasks)
            .finish_non_exhaustive()
    }
}

impl ExternalTaskSensor {
    /// Waits for a whole run of this dag.
    pub fn dag(dag_id: impl Into<String>) -> Self {
        Self {
            dag_id: dag_id.into(),
            tasks: Vec::new(),
            allowed: vec![TaskState::Success],
            skipped: Vec::new(),
            failed: Vec::new(),
            dates: None,
            check_existence: false,
        }
    }

    /// Waits for a task or a group of this dag.
    pub fn task(dag_id: impl Into<String>, task_id: impl Into<String>) -> Self {
        Self::dag(dag_id).and(task_id)
    }

    /// Waits for this task or group too.
    #[must_use]
    pub fn and(mut self, task_id: impl Into<String>) -> Self {
        self.tasks.push(task_id.into());
        self
    }

    /// The states that are waited for. Default `success`. Of a whole run, those that runs have too count.
    #[must_use]
    pub fn allowed_states(mut self, states: impl IntoIterator<Item = TaskState>) -> Self {
        self.allowed = states.into_iter().collect();
        self
    }

    /// States with which the sensor is skipped.
    #[must_use]
    pub fn skipped_states(mut self, states: impl IntoIterator<Item = TaskState>) -> Self {
        self.skipped = states.into_iter().collect();
        self
    }

    /// States with which the sensor fails. They win over those with which it is skipped.
    #[must_use]
    pub fn failed_states(mut self, states: impl IntoIterator<Item = TaskState>) -> Self {
        self.failed = states.into_iter().collect();
        self
    }

    /// Waits for the run whose logical date is this much earlier.
    #[must_use]
    pub fn execution_delta(self, earlier: Duration) -> Self {
        let earlier = TimeDelta::from_std(earlier).unwrap_or(TimeDelta::MAX);
        self.execution_date_fn(move |date| date.checked_sub_signed(earlier).into_iter().collect())
    }

    /// Waits for the runs of the logical dates that `dates` makes of the own one; all of them.
    #[must_use]
    pub fn execution_date_fn(
        mut self,
        dates: impl Fn(DateTime<Utc>) -> Vec<DateTime<Utc>> + Send + Sync + 'static,
    ) -> Self {
        self.dates = Some(Arc::new(dates));
        self
    }

    /// Fails if there is no such dag or task, instead of waiting for it.
    #[must_use]
    pub fn check_existence(mut self, yes: bool) -> Self {
        self.check_existence = yes;
        self
    }

    /// The tasks that are meant, groups resolved; fails if `check_existence` says so.
    async fn targets(&self, cx: &TaskContext, dag_id: &DagId) -> Result<Vec<TaskId>> {
        let known = cx.services().dag_tasks(dag_id, &self.tasks).await.map_err(TaskError::Error)?;
        let Some(known) = known else {
            if self.check_existence {
                return Err(TaskError::msg(format_args!("the external dag `{dag_id}` does not exist")));
            }
            return Ok(self.tasks.iter().map(TaskId::new).collect());
        };
        for (name, tasks) in self.tasks.iter().zip(&known) {
            if tasks.is_empty() && self.check_existence {
                return Err(TaskError::msg(format_args!(
                    "the external dag `{dag_id}` has no task or group `{name}`"
                )));
            }
        }
        let resolve = |(name, tasks): (&String, Vec<TaskId>)| {
            if tasks.is_empty() { vec![TaskId::new(name)] } else { tasks }
        };
        Ok(self.tasks.iter().zip(known).flat_map(resolve).collect())
    }

    /// The states that count of one run; nothing of tasks that have not begun.
    async fn states(
        &self,
        cx: &TaskContext,
        run: &FoundRun,
        targets: &[TaskId],
    ) -> Result<Vec<&'static str>> {
        if targets.is_empty() {
            return Ok(vec![run.state.as_str()]);
        }
        let all = cx.services().task_states(run.pk).await.map_err(TaskError::Error)?;
        let mut states = Vec::new();
        for target in targets {
            let before = states.len();
            states.extend(all.iter().filter(|(task, _, _)| task == target).map(|(_, _, s)| s.as_str()));
            if states.len() == before {
                states.push(TaskState::None.as_str());
            }
        }
        Ok(states)
    }

    fn what(&self) -> String {
        match self.tasks.as_slice() {
            [] => format!("dag `{}`", self.dag_id),
            tasks => format!("`{}` of dag `{}`", tasks.join("`, `"), self.dag_id),
        }
    }
}

impl Operator for ExternalTaskSensor {
    type Output = ();
    sensor_parts!("ExternalTaskSensor");

    fn default_id(&self) -> String {
        "external_task_sensor".to_owned()
    }

    fn describe(&self, description: &mut Description) {
        description.template("external_dag_id", &self.dag_id);
        description.template("external_task_ids", &self.tasks);
    }

    fn rendered(&self, renderer: &Renderer) -> Result<Option<Self>, TemplateError> {
        let (dag_id, tasks) = (self.dag_id.render(renderer)?, self.tasks.render(renderer)?);
        Ok(Some(Self { dag_id, tasks, ..self.clone() }))
    }

    async fn poke(&self, cx: &TaskContext) -> Result<Poke> {
        let overlap = |a: &[TaskState], b: &[TaskState]| a.iter().any(|state| b.contains(state));
        if overlap(&self.allowed, &self.failed)
            || overlap(&self.allowed, &self.skipped)
            || overlap(&self.skipped, &self.failed)
        {
            return Err(TaskError::fail(
                "a state is in two of `allowed_states`, `skipped_states` and `failed_states`",
            ));
        }
        let dag_id = DagId::new(&self.dag_id);
        let targets = self.targets(cx, &dag_id).await?;
        let dates =
            self.dates.as_ref().map_or_else(|| vec![cx.logical_date()], |dates| dates(cx.logical_date()));
        let (mut ready, mut skip) = (true, false);
        for date in dates {
            let query = RunsQuery { dag_id: dag_id.clone(), run_id: None, logical_date: Some(date) };
            let runs = cx.services().find_runs(&query).await.map_err(TaskError::Error)?;
            let Some(run) = runs.last() else {
                ready = false;
                continue;
            };
            let states = self.states(cx, run, &targets).await?;
            let any = |of: &[TaskState]| states.iter().any(|s| of.iter().any(|wanted| wanted.as_str() == *s));
            if any(&self.failed) {
                let why = format!("{} failed in the run `{}`", self.what(), run.run_id);
                return Err(if cx.sensor().soft_fail { TaskError::Skip(why) } else { TaskError::msg(why) });
            }
            skip |= any(&self.skipped);
            ready &= states.iter().all(|s| self.allowed.iter().any(|wanted| wanted.as_str() == *s));
        }
        if skip {
            return Err(TaskError::skip(format_args!("{} is in a state to be skipped with", self.what())));
        }
        Ok(Poke::when(ready))
    }
}

impl IsSensor for ExternalTaskSensor {}
