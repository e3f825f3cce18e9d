//! Runs the user code of one attempt: inputs, templates, the body, its limits, its log, its outcome.
//!
//! [`Runner::run`] never panics and always reports; what the user code does, including panics and time-outs, becomes
//! an [`Outcome`]. It changes nothing in the store: the report does, when the scheduler takes it.

mod inputs;
pub mod log;
mod log_merge;
mod log_path;
mod log_reader;
mod log_source;
mod names;
#[cfg(unix)]
pub mod process;
mod services;
mod waits;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use serde_json::{Map, Value};
use tracing::Instrument as _;

use crate::callback::{CallbackContext, panic_text};
use crate::compile::{CompiledDag, CompiledTask};
use crate::config::options::Settings;
use crate::executor::AttemptRunner;
use crate::fernet::Fernet;
use crate::mask::Masker;
use crate::operator::{
    AnyOperator, BoxError, Cancel, ContextParts, MadeRun, Resources, Returned, RunRequest, TaskContext,
    TaskError, TaskServices, TemplateField,
};
use crate::plan::{Attempt, Outcome, Report};
use crate::registry::Registry;
use crate::secrets::{Backends, EnvironmentSecrets, Secrets, Vault};
use crate::store::SharedStore;
use crate::time::Clock;
use crate::xcom::DEFAULT_XCOM_LIMIT;

use crate::shipping::Shipper;
use log::{AttemptLog, LogName, LogPlan, LogTemplate};
use services::StoreServices;

pub use crate::shipping::LateLogs;
pub use log_reader::{LogPart, LogReader};
pub use log_source::{LogFile, WorkerLogs};

/// How long `on_kill` may take: whatever holds it up longer must not hold up the executor's slot.
const ON_KILL_LIMIT: Duration = Duration::from_secs(10);

/// How many bytes of the log of one attempt are kept unless something else is said.
pub const DEFAULT_LOG_QUOTA: u64 = 16 * 1024 * 1024;

/// Whether the logs of attempts are kept in the store, beside their files: so they can be read from everywhere, and stay
/// when a machine goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogShipping {
    /// If there may be processes on other machines: with workers, and with a database on a server. One in a file is on
    /// the machine of all its processes, and so are the files of the logs.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never: who wants to read a log has to go to its machine.
    Never,
}

impl std::str::FromStr for LogShipping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            other => Err(format!("`{other}` is none of auto, always, never")),
        }
    }
}

/// How attempts are run.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// The folder of the log files; `None` writes none.
    pub log_folder: Option<PathBuf>,
    /// Where in that folder the log of an attempt lies.
    pub log_template: LogTemplate,
    /// Whether logs are kept in the store.
    pub log_shipping: LogShipping,
    /// How many bytes of what a task says are kept of one attempt; what is cut is counted in the log.
    pub log_quota: u64,
    /// The largest value that is stored, in bytes of JSON.
    pub xcom_limit: usize,
    /// What templates see as `conf`; the defaults of all options unless set.
    pub settings: Arc<Settings>,
    /// What templates see as `test_mode`: whether somebody only tries what tasks do.
    pub test_mode: bool,
}

impl Default for RunnerConfig {
    fn default() -> Self {
        Self {
            log_folder: None,
            log_template: LogTemplate::default(),
            log_shipping: LogShipping::default(),
            log_quota: DEFAULT_LOG_QUOTA,
            xcom_limit: DEFAULT_XCOM_LIMIT,
            settings: Arc::default(),
            test_mode: false,
        }
    }
}

/// Runs attempts of the dags of a registry.
#[derive(Debug, Clone)]
pub struct Runner {
    registry: Registry,
    store: SharedStore,
    resources: Resources,
    clock: Arc<dyn Clock>,
    config: RunnerConfig,
    sources: Arc<inputs::SourceCache>,
    overrides: Option<Arc<dyn Override>>,
    secrets: Secrets,
    runs: Option<Arc<dyn RunMaker>>,
    shipper: Option<Shipper>,
}

/// Makes runs for tasks that ask for them.
#[async_trait]
pub trait RunMaker: std::fmt::Debug + Send + Sync + 'static {
    /// As [`TaskServices::make_run`].
    ///
    /// # Errors
    ///
    /// As there.
    async fn make_run(&self, request: &RunRequest) -> Result<MadeRun, BoxError>;
}

/// Stands in for task bodies, for tests.
#[async_trait]
pub trait Override: std::fmt::Debug + Send + Sync + 'static {
    /// Asked before every task body, inside of its limits; `None` lets the body run.
    async fn instead(
        &self,
        operator: &dyn AnyOperator,
        cx: &TaskContext,
    ) -> Option<Result<Returned, TaskError>>;
}

impl Runner {
    /// What a task, or a watcher of an asset, can ask the outside world for.
    pub(crate) fn services(&self) -> Arc<dyn TaskServices> {
        Arc::new(StoreServices::new(self))
    }

    /// Runs attempts of `registry`, reading values from `store`. Variables and connections come from the environment
    /// and the store, without a key; see [`with_secrets`](Self::with_secrets).
    pub fn new(
        registry: Registry,
        store: SharedStore,
        resources: Resources,
        clock: Arc<dyn Clock>,
        config: RunnerConfig,
    ) -> Self {
        let vault = Vault::new(Arc::clone(&store), Fernet::default());
        let environment = EnvironmentSecrets::of_process();
        let secrets = Secrets::new(Backends::default(), environment, vault, Masker::default());
        let on_a_server = !matches!(store.kind(), "sqlite" | "memory");
        let ships = match config.log_shipping {
            LogShipping::Auto => on_a_server,
            LogShipping::Always => true,
            LogShipping::Never => false,
        };
        let shipper = ships.then(|| Shipper::new(Arc::clone(&store), Arc::clone(&clock)));
        let (sources, overrides, runs) = Default::default();
        Self { registry, store, resources, clock, config, sources, overrides, secrets, runs, shipper }
    }

    /// The same, with another place for variables and connections, and what hides them in logs.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Secrets) -> Self {
        self.secrets = secrets;
        self
    }

    /// The same, with task bodies replaced.
    #[must_use]
    pub fn with_override(mut self, overrides: Arc<dyn Override>) -> Self {
        self.overrides = Some(overrides);
        self
    }

    /// The same in a deployment with workers: logs go to the store, unless it was said that they never do.
    #[must_use]
    pub fn beside_workers(mut self) -> Self {
        if self.shipper.is_none() && self.config.log_shipping != LogShipping::Never {
            self.shipper = Some(Shipper::new(Arc::clone(&self.store), Arc::clone(&self.clock)));
        }
        self
    }

    /// What hides secrets in logs, errors and rendered fields.
    pub fn masker(&self) -> &Masker {
        self.secrets.masker()
    }

    /// The same, able to make runs for tasks that ask for them.
    #[must_use]
    pub fn with_runs(mut self, runs: Arc<dyn RunMaker>) -> Self {
        self.runs = Some(runs);
        self
    }

    /// The context of an attempt, with its inputs fetched.
    ///
    /// # Errors
    ///
    /// If the store cannot be read or the parameters do not fit.
    pub async fn context(
        &self,
        dag: &Arc<CompiledDag>,
        attempt: &Attempt,
        cancel: Cancel,
        log: Option<PathBuf>,
    ) -> Result<TaskContext, BoxError> {
        let task = dag.task(attempt.task);
        let params = Arc::new(dag.params(attempt.run.conf.as_ref())?);
        let mut inputs = inputs::fetch(self, dag, attempt).await?;
        let templates = services::template_parts(self, dag, attempt, &params).await?;
        let uses_template_inputs = !task.operator.description().input_templates.is_empty();
        if uses_template_inputs {
            inputs.renderer = Some(Arc::new(templates.renderer()));
        }
        Ok(TaskContext::new(ContextParts {
            run: Arc::clone(&attempt.run),
            ti: attempt.ti.clone(),
            params,
            inputs,
            resources: self.resources.clone(),
            services: self.services(),
            renderer: Box::new(move || templates.renderer()),
            has_templates: task.has_templates,
            pushes_result: task.settings.do_xcom_push,
            xcom_limit: self.config.xcom_limit,
            log_path: log,
            cancel,
            wait: attempt.wait.clone(),
            sensor: task.settings.sensor.clone(),
            started_at: attempt.at,
            clock: Arc::clone(&self.clock),
            timezone: dag.settings.timezone,
            retries: task.settings.retry.retries,
            assets: [Arc::clone(&task.settings.inlets), Arc::clone(&task.settings.outlets)],
        }))
    }

    /// Where the log of an attempt goes.
    pub fn log_path(&self, attempt: &Attempt) -> Option<PathBuf> {
        let folder = self.config.log_folder.as_ref()?;
        let (run, ti) = (&attempt.run, &attempt.ti);
        let name = LogName {
            dag: &run.dag_id,
            run: &run.run_id,
            logical_date: run.logical_date,
            data_interval: Some((run.data_interval.start, run.data_interval.end)),
            task: &ti.task_id,
            map_index: ti.map_index,
            try_number: ti.try_number,
        };
        let path = self.config.log_template.path(&name).unwrap_or_else(|error| {
            tracing::warn!(%error, "`logging.log_filename_template` cannot be rendered; the default is used");
            log::relative_path(name.dag, name.run, name.task, name.map_index, name.try_number)
        });
        Some(folder.join(path))
    }

    /// Begins the log of an attempt, or goes on with it, perhaps where another process has begun it. Then its pieces are
    /// numbered by the time, so that they come after those that are there, however often it is gone on with.
    fn open_log(&self, attempt: &Attempt, goes_on: bool) -> AttemptLog {
        let first = if goes_on { self.clock.now().timestamp_micros() } else { 0 };
        let outlet = self.shipper.as_ref().map(|shipper| shipper.open(attempt.ti.attempt_id, first));
        let plan = LogPlan { path: self.log_path(attempt), outlet, quota: self.config.log_quota };
        AttemptLog::open(plan, Arc::clone(&self.clock), self.masker().clone())
    }

    async fn run_logged(
        &self,
        attempt: &Attempt,
        cancel: Cancel,
        log: &AttemptLog,
    ) -> (Outcome, Option<TaskContext>) {
        let dag = match self.dag_of(attempt) {
            Ok(dag) => dag,
            Err(error) => return (failed(error, false), None),
        };
        let task = dag.task(attempt.task);
        let context = self.context(&dag, attempt, cancel.clone(), log.path().cloned()).await;
        let cx = match context {
            Ok(cx) => cx,
            Err(error) => return (failed(format!("cannot prepare the attempt: {error}"), true), None),
        };
        self.on_execute(task, attempt).await;
        // A task that goes on after a deferral is in the same stretch of work as before.
        let start = if cx.resumed().is_some() { attempt.try_started_at } else { self.clock.now() };
        let outcome = self.body(task, &cx, &cancel, start).await;
        (outcome, Some(cx))
    }

    /// The dag of an attempt, which has its task.
    fn dag_of(&self, attempt: &Attempt) -> Result<Arc<CompiledDag>, String> {
        let Some(dag) = self.registry.get(&attempt.run.dag_id) else {
            return Err(format!("code_missing: this process carries no dag `{}`", attempt.run.dag_id));
        };
        let task = dag.tasks.get(attempt.task.index()).filter(|task| task.id == attempt.ti.task_id);
        if task.is_none() {
            return Err(format!("code_missing: dag `{}` has no task `{}` here", dag.id, attempt.ti.task_id));
        }
        Ok(Arc::clone(dag))
    }

    async fn body(
        &self,
        task: &CompiledTask,
        cx: &TaskContext,
        cancel: &Cancel,
        start: DateTime<Utc>,
    ) -> Outcome {
        let work = async {
            if let Some(overrides) = &self.overrides
                && let Some(result) = overrides.instead(&*task.operator, cx).await
            {
                return result;
            }
            task.operator.run(cx).await
        };
        // Time that passes, not the time of day: nobody ends an attempt by setting a clock.
        let used = (self.clock.now() - start).to_std().unwrap_or_default();
        let left = task.settings.timeout.map(|timeout| timeout.saturating_sub(used));
        let time_is_up = async {
            match left {
                Some(left) => self.clock.sleep(left).await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            biased;
            result = AssertUnwindSafe(work).catch_unwind() => match result {
                Ok(Ok(returned)) => return Outcome::Success(returned.value),
                Ok(Err(error)) => return waits::checked(task, error),
                Err(panic) => return failed(format!("the task panicked: {}", panic_text(&*panic)), true),
            },
            () = cancel.cancelled() => Outcome::Cancelled,
            () = time_is_up => {
                let limit = task.settings.timeout.unwrap_or_default();
                waits::took_too_long(task, format!("the attempt took longer than its timeout of {limit:?}"))
            }
        };
        // Blocking code goes on until it looks at this.
        cx.is_over();
        on_kill(task, cx).await;
        outcome
    }

    async fn on_execute(&self, task: &CompiledTask, attempt: &Attempt) {
        for callback in &task.settings.callbacks.on_execute {
            let context = CallbackContext {
                dag_id: attempt.run.dag_id.clone(),
                run_id: attempt.run.run_id.clone(),
                logical_date: attempt.run.logical_date,
                task_id: Some(attempt.ti.task_id.clone()),
                map_index: attempt.ti.map_index,
                try_number: attempt.ti.try_number,
                event: "execute",
                reason: None,
                at: self.clock.now(),
            };
            if let Err(panic) = AssertUnwindSafe(callback.call(context)).catch_unwind().await {
                tracing::error!(callback = callback.name(), "the callback panicked: {}", panic_text(&*panic));
            }
        }
    }
}

#[async_trait]
impl AttemptRunner for Runner {
    fn ships_logs(&self) -> bool {
        self.shipper.is_some()
    }

    fn note_end(&self, attempt: &Attempt, outcome: &Outcome) {
        // The process of the attempt has sent what it said under numbers that nobody here knows.
        self.open_log(attempt, true).footer(attempt, outcome);
    }

    async fn run(&self, attempt: Attempt, cancel: Cancel) -> Report {
        let log = self.open_log(&attempt, false);
        log.header(&attempt);
        let work = AssertUnwindSafe(self.run_logged(&attempt, cancel, &log)).catch_unwind();
        let (outcome, cx) = match work.instrument(log.span(&attempt)).await {
            Ok(done) => done,
            Err(panic) => (failed(format!("the attempt panicked: {}", panic_text(&*panic)), true), None),
        };
        let (pushed, asset_events, rendered) = cx.map(|cx| cx.take_notes()).unwrap_or_default();
        let rendered = shown(self.masker(), rendered);
        let outcome = masked(self.masker(), outcome);
        log.footer(&attempt, &outcome);
        let last = log.close(&outcome).await;
        let pushed =
            if matches!(outcome, Outcome::Failed { .. } | Outcome::Cancelled) { Vec::new() } else { pushed };
        Report {
            run: attempt.run.pk,
            key: attempt.key(),
            attempt_id: attempt.ti.attempt_id,
            outcome,
            pushed,
            asset_events,
            rendered,
            log: last,
            at: self.clock.now(),
        }
    }
}

/// Rendered fields as people may see them.
fn shown(masker: &Masker, fields: Vec<TemplateField>) -> Option<Value> {
    let fields =
        fields.iter().map(|field| (field.name.to_owned(), masker.mask_json(field.name, &field.shown)));
    let fields: Map<String, Value> = fields.collect();
    (!fields.is_empty()).then_some(Value::Object(fields))
}

/// What is told about an attempt outside of it names no secret.
fn masked(masker: &Masker, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed { error, retryable, after } => {
            Outcome::Failed { error: masker.mask(&error).into_owned(), retryable, after }
        }
        Outcome::Skipped(why) => Outcome::Skipped(masker.mask(&why).into_owned()),
        other => other,
    }
}

/// Passes the news that it is being stopped to the operator.
async fn on_kill(task: &CompiledTask, cx: &TaskContext) {
    let on_kill = AssertUnwindSafe(task.operator.killed(cx)).catch_unwind();
    if !matches!(tokio::time::timeout(ON_KILL_LIMIT, on_kill).await, Ok(Ok(()))) {
        tracing::warn!("`on_kill` panicked or took longer than {ON_KILL_LIMIT:?}");
    }
}

fn failed(error: String, retryable: bool) -> Outcome {
    Outcome::Failed { error, retryable, after: None }
}
