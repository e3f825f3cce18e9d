//! Makes a run of another dag, and may wait for it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::hash::Hash;
use crate::id::{DagId, RunId};
use crate::operator::{
    DEFAULT_POKE_INTERVAL, Deferral, Description, Operator, Result, Resumed, RunRequest, RunsQuery,
    TaskContext, TaskError, Trigger,
};
use crate::state::RunState;
use crate::template::{Renderer, Template as _, TemplateError};
use crate::time::parse_moment;

/// Where it goes on after it has waited.
const ENDED: &str = "run_ended";

/// Makes a run of another dag. Its result is the id of that run.
///
/// A retry finds the run that the first try made, and makes no second one; a clear makes a new one.
///
/// ```
/// use airflow_core::builtin::TriggerDagRun;
/// use airflow_core::dag::{DagDef, TaskExt};
///
/// let dag = DagDef::new("sales").define(|d| {
///     let report = TriggerDagRun::new("report").conf(&serde_json::json!({ "day": "{{ ds }}" }));
///     d.add(report.wait_for_completion(true).id("report"));
/// });
/// assert_eq!(dag.compile()?.tasks[0].id.as_str(), "report");
/// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
/// ```
#[derive(Debug, Clone)]
pub struct TriggerDagRun {
    dag_id: String,
    run_id: Option<String>,
    logical_date: Option<String>,
    conf: Value,
    reset: bool,
    skip_existing: bool,
    fail_if_paused: bool,
    wait: bool,
    poke_interval: Duration,
    allowed: Vec<RunState>,
    failed: Vec<RunState>,
}

impl TriggerDagRun {
    /// Makes a run of this dag; the id may be a template.
    pub fn new(dag_id: impl Into<String>) -> Self {
        Self {
            dag_id: dag_id.into(),
            run_id: None,
            logical_date: None,
            conf: Value::Null,
            reset: false,
            skip_existing: false,
            fail_if_paused: false,
            wait: false,
            poke_interval: DEFAULT_POKE_INTERVAL,
            allowed: vec![RunState::Success],
            failed: vec![RunState::Failed],
        }
    }

    /// What the run gets; the texts in it may be templates. What cannot be written as JSON fails the task.
    #[must_use]
    pub fn conf<T: Serialize + ?Sized>(mut self, conf: &T) -> Self {
        self.conf = serde_json::to_value(conf).unwrap_or_else(|error| Value::String(error.to_string()));
        self
    }

    /// The id of the run, which may be a template, instead of one made of this task instance.
    #[must_use]
    pub fn run_id(mut self, run_id: impl Into<String>) -> Self {
        self.run_id = Some(run_id.into());
        self
    }

    /// What the run is about, instead of now; may be a template.
    #[must_use]
    pub fn logical_date(mut self, moment: impl Into<String>) -> Self {
        self.logical_date = Some(moment.into());
        self
    }

    /// Clears a run of this id that is there already, so that it runs again. Without it such a run is an error.
    #[must_use]
    pub fn reset_dag_run(mut self, yes: bool) -> Self {
        self.reset = yes;
        self
    }

    /// Is skipped if a run of this id is there already.
    #[must_use]
    pub fn skip_when_already_exists(mut self, yes: bool) -> Self {
        self.skip_existing = yes;
        self
    }

    /// Fails if the other dag is paused, instead of making a run that waits.
    #[must_use]
    pub fn fail_when_dag_is_paused(mut self, yes: bool) -> Self {
        self.fail_if_paused = yes;
        self
    }

    /// Waits for the end of the run, without a slot.
    #[must_use]
    pub fn wait_for_completion(mut self, yes: bool) -> Self {
        self.wait = yes;
        self
    }

    /// How often the run is looked at. Default 1 minute.
    #[must_use]
    pub fn poke_interval(mut self, pause: Duration) -> Self {
        self.poke_interval = pause;
        self
    }

    /// The ends of the run that are good. Default `success`.
    #[must_use]
    pub fn allowed_states(mut self, states: impl IntoIterator<Item = RunState>) -> Self {
        self.allowed = states.into_iter().collect();
        self
    }

    /// The ends of the run that fail this task. Default `failed`.
    #[must_use]
    pub fn failed_states(mut self, states: impl IntoIterator<Item = RunState>) -> Self {
        self.failed = states.into_iter().collect();
        self
    }

    fn request(&self, cx: &TaskContext) -> Result<RunRequest> {
        let moment = |text: &String| parse_moment(text, cx.timezone()).map_err(TaskError::fail);
        let conf = (!self.conf.is_null()).then(|| self.conf.clone());
        Ok(RunRequest {
            dag_id: DagId::new(&self.dag_id),
            run_id: self.run_id.as_ref().map_or_else(|| own_id(cx), RunId::new),
            logical_date: self.logical_date.as_ref().map(moment).transpose()?,
            conf,
            by: requester(cx),
            reset: self.reset,
            fail_if_paused: self.fail_if_paused,
        })
    }

    fn judge(&self, run_id: String, state: RunState) -> Result<String> {
        let dag_id = &self.dag_id;
        if self.failed.contains(&state) {
            return Err(TaskError::msg(format_args!(
                "the run `{run_id}` of dag `{dag_id}` ended as {state}"
            )));
        }
        if self.allowed.contains(&state) {
            return Ok(run_id);
        }
        Err(TaskError::fail(format_args!(
            "the run `{run_id}` of dag `{dag_id}` ended as {state}, which is neither allowed nor failed"
        )))
    }
}

/// Names this instance since it was last cleared: the same for all of its tries.
fn requester(cx: &TaskContext) -> String {
    let ti = cx.ti();
    let first_try = ti.max_tries.saturating_sub(cx.retries()).max(1);
    format!("task:{}/{}/{}/{}#{first_try}", cx.dag_id(), cx.run_id(), ti.task_id, ti.map_index)
}

/// A run id that is the same for all tries of this instance and unlike any other.
fn own_id(cx: &TaskContext) -> RunId {
    let mut hash = Hash::default();
    hash.add(&requester(cx));
    let date = cx.logical_date().format("%Y-%m-%dT%H:%M:%S+00:00");
    RunId::new(format!("triggered__{date}__{}", hash.hex(16)))
}

impl Operator for TriggerDagRun {
    type Output = String;
    const NAME: &'static str = "TriggerDagRun";

    fn default_id(&self) -> String {
        "trigger_dag_run".to_owned()
    }

    fn describe(&self, description: &mut Description) {
        description.template("trigger_dag_id", &self.dag_id);
        description.template("trigger_run_id", &self.run_id);
        description.template("logical_date", &self.logical_date);
        description.template("conf", &self.conf);
        description.trigger::<RunEnds>();
    }

    fn rendered(&self, renderer: &Renderer) -> Result<Option<Self>, TemplateError> {
        Ok(Some(Self {
            dag_id: self.dag_id.render(renderer)?,
            run_id: self.run_id.render(renderer)?,
            logical_date: self.logical_date.render(renderer)?,
            conf: self.conf.render(renderer)?,
            ..self.clone()
        }))
    }

    async fn execute(&self, cx: &TaskContext) -> Result<String> {
        let request = self.request(cx)?;
        let made = cx.services().make_run(&request).await.map_err(TaskError::from_boxed)?;
        if made.is_foreign && !self.reset {
            let why = format!("dag `{}` has a run `{}` already", request.dag_id, request.run_id);
            let cure = "choose another run id, `reset_dag_run` or `skip_when_already_exists`";
            if self.skip_existing {
                return Err(TaskError::Skip(why));
            }
            return Err(TaskError::fail(format_args!("{why}; {cure}")));
        }
        tracing::info!("triggered the run `{}` of dag `{}`", request.run_id, request.dag_id);
        if !self.wait {
            return Ok(request.run_id.to_string());
        }
        let (dag_id, run_id) = (request.dag_id, request.run_id);
        Err(Deferral::until(RunEnds { dag_id, run_id, poke_interval: self.poke_interval })
            .resume_at(ENDED)
            .into())
    }

    async fn resume(&self, _: &TaskContext, resumed: &Resumed) -> Result<String> {
        match resumed.method() {
            ENDED => {
                let (run_id, state) = resumed.event::<(String, RunState)>()?;
                self.judge(run_id, state)
            }
            other => Err(resumed.unknown(other)),
        }
    }
}

/// Fires when a run of a dag has ended, with its id and state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunEnds {
    /// The dag.
    pub dag_id: DagId,
    /// The run.
    pub run_id: RunId,
    /// How often to look.
    pub poke_interval: Duration,
}

impl Trigger for RunEnds {
    type Event = (String, RunState);
    const KIND: &'static str = "airflow::RunEnds";

    async fn wait(&self, cx: &TaskContext) -> Result<(String, RunState)> {
        let query =
            RunsQuery { dag_id: self.dag_id.clone(), run_id: Some(self.run_id.clone()), logical_date: None };
        loop {
            let runs = cx.services().find_runs(&query).await.map_err(TaskError::Error)?;
            let Some(run) = runs.last() else {
                return Err(TaskError::msg(format_args!(
                    "the run `{}` of dag `{}` is gone",
                    self.run_id, self.dag_id
                )));
            };
            if run.state.is_finished() {
                return Ok((run.run_id.to_string(), run.state));
            }
            cx.sleep(self.poke_interval).await;
        }
    }
}
