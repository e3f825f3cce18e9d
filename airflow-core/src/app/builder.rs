//! Puts an application together and checks it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::attempt::{LogShipping, RunnerConfig, WorkerLogs};
use crate::compile::DefinitionErrors;
use crate::dag::{DEFAULT_POOL, DagDef, DagDefaults, Problem, ProblemKind};
use crate::discovery::discovered;
#[cfg(unix)]
use crate::executor::AttemptRunner;
use crate::executor::Executor;
use crate::fernet::Fernet;
use crate::mask::Masker;
use crate::operator::{AnyOperator, Resources};
#[cfg(unix)]
use crate::plan::Attempt;
use crate::registry::{Registry, RegistryErrors};
use crate::scheduler::{Executors, SchedulerConfig};
use crate::secret::Secret;
use crate::secrets::{Backends, EnvironmentSecrets, Secrets, SecretsBackend, Vault};
use crate::store::{PoolSpec, SharedStore, Store, StoreError};
use crate::time::{Clock, SystemClock};

use super::{Airflow, Parts};

/// Why an application cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The dags have mistakes.
    #[error("{0}")]
    Dags(#[from] RegistryErrors),
    /// The store cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A part is missing.
    #[error("the application has no {0}")]
    Missing(&'static str),
    /// A setting makes no sense.
    #[error("{0}")]
    Config(String),
}

/// What is missing without a store.
const NO_STORE: &str = "store; add `.store(..)`";

/// Says which tasks may lack resources, by id and operator.
type Excused = Box<dyn Fn(&str, &dyn AnyOperator) -> bool + Send + Sync>;

/// Collects the parts of an application. See [`Airflow::builder`].
#[derive(Debug, Default)]
pub struct AirflowBuilder {
    dags: Vec<DagDef>,
    resources: Resources,
    store: Option<SharedStore>,
    executor: Option<Arc<dyn Executor>>,
    more_executors: Vec<(Vec<String>, Arc<dyn Executor>)>,
    clock: Option<Arc<dyn Clock>>,
    pub(super) scheduler: SchedulerConfig,
    pub(super) runner: RunnerConfig,
    pools: Vec<PoolSpec>,
    no_migration: bool,
    any_pool: bool,
    excused: Excuse,
    pub(super) defaults: DagDefaults,
    pub(super) default_pool: Option<i32>,
    pub(super) fernet_keys: Option<Secret>,
    pub(super) backends: Backends,
    /// What is wrong with the settings that were given.
    pub(super) wrong_settings: Option<String>,
    environment: Option<EnvironmentSecrets>,
    pub(super) masker: Masker,
    worker_logs: Option<Arc<dyn WorkerLogs>>,
}

#[derive(Default)]
struct Excuse(Option<Excused>);

impl std::fmt::Debug for Excuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Excuse").field(&self.0.is_some()).finish()
    }
}

impl AirflowBuilder {
    /// Adds a dag.
    #[must_use]
    pub fn dag(mut self, dag: DagDef) -> Self {
        self.dags.push(dag);
        self
    }

    /// Adds dags.
    #[must_use]
    pub fn dags(mut self, dags: impl IntoIterator<Item = DagDef>) -> Self {
        self.dags.extend(dags);
        self
    }

    /// Adds every `#[dag]` function without arguments that is linked into the program, but for those added already.
    #[must_use]
    pub fn discovered_dags(mut self) -> Self {
        let found: Vec<DagDef> = discovered().iter().map(|dag| (dag.make)()).collect();
        tracing::info!(count = found.len(), "discovered dags");
        // A dag that was added by hand announces itself as well: the same line of code is the same dag.
        let known = |dag: &DagDef, all: &[DagDef]| all.iter().any(|o| o.id == dag.id && o.place == dag.place);
        for dag in found {
            if !known(&dag, &self.dags) {
                self.dags.push(dag);
            }
        }
        self
    }

    /// Registers a value that tasks borrow: `db: &PgPool` takes the `PgPool`.
    #[must_use]
    pub fn resource<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.resources.insert(value);
        self
    }

    /// A pool with so many slots (-1 = unlimited), made if the store does not have it. Its size in the store wins.
    #[must_use]
    pub fn pool(mut self, name: impl Into<String>, slots: i32) -> Self {
        let (name, description) = (name.into(), String::new());
        self.pools.push(PoolSpec { name, slots, description, include_deferred: false });
        self
    }

    /// Lets tasks name pools that do not exist yet: for tools that look at dags or create the pools. Such tasks wait.
    #[must_use]
    pub fn without_pool_check(mut self) -> Self {
        self.any_pool = true;
        self
    }

    /// Where everything is kept.
    #[must_use]
    pub fn store(self, store: impl Store) -> Self {
        self.shared_store(Arc::new(store))
    }

    /// As [`store`](Self::store), for one that is shared.
    #[must_use]
    pub fn shared_store(mut self, store: SharedStore) -> Self {
        self.store = Some(store);
        self
    }

    /// What runs attempts.
    #[must_use]
    pub fn executor(mut self, executor: impl Executor) -> Self {
        self.executor = Some(Arc::new(executor));
        self
    }

    /// As [`executor`](Self::executor), for one that is shared.
    #[must_use]
    pub fn shared_executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executor = Some(executor);
        self
    }

    /// As [`executor_for`](Self::executor_for), for one that is shared.
    #[must_use]
    pub fn shared_executor_for(mut self, queues: Vec<String>, executor: Arc<dyn Executor>) -> Self {
        self.more_executors.push((queues, executor));
        self
    }

    /// Another executor, which runs the tasks of these queues, and those that name it as their `executor`.
    #[must_use]
    pub fn executor_for<Q: Into<String>>(
        mut self,
        queues: impl IntoIterator<Item = Q>,
        executor: impl Executor,
    ) -> Self {
        let queues = queues.into_iter().map(Into::into).collect();
        self.more_executors.push((queues, Arc::new(executor)));
        self
    }

    /// Another clock than the machine's.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Changes how the scheduler works.
    #[must_use]
    pub fn scheduler(mut self, change: impl FnOnce(&mut SchedulerConfig)) -> Self {
        change(&mut self.scheduler);
        self
    }

    /// Adds a place for connections and variables that is asked before the environment and the store. See
    /// [`SecretsBackend`].
    #[must_use]
    pub fn secrets_backend(mut self, backend: impl SecretsBackend) -> Self {
        self.backends.push(backend);
        self
    }

    /// Encrypts passwords, extras and values of variables in the store. Several keys are separated by commas: the first
    /// encrypts, any decrypts. Without a key they are kept as plain text.
    #[must_use]
    pub fn fernet_key(mut self, keys: impl Into<String>) -> Self {
        self.fernet_keys = Some(Secret::new(keys.into()));
        self
    }

    /// Another environment than the process's for `AIRFLOW_VAR_…` and `AIRFLOW_CONN_…`.
    #[must_use]
    pub fn environment(mut self, environment: EnvironmentSecrets) -> Self {
        self.environment = Some(environment);
        self
    }

    /// What hides secrets in task logs, errors and rendered fields; for those who hide them elsewhere as well.
    #[must_use]
    pub fn masker(mut self, masker: Masker) -> Self {
        self.masker = masker;
        self
    }

    /// Writes no logs, whatever was said before.
    #[must_use]
    pub fn without_logs(mut self) -> Self {
        self.runner.log_folder = None;
        self.runner.log_shipping = LogShipping::Never;
        self
    }

    /// The keys that were given, as text.
    pub fn fernet_keys(&self) -> &str {
        self.fernet_keys.as_ref().map_or("", |keys| keys.expose())
    }

    /// The environment that was given.
    pub fn given_environment(&self) -> Option<&EnvironmentSecrets> {
        self.environment.as_ref()
    }

    /// The backends that were given.
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    /// Writes one log file for each attempt below this folder.
    #[must_use]
    pub fn log_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.runner.log_folder = Some(folder.into());
        self
    }

    /// Whether logs of attempts are kept in the store, where they can be read from every machine.
    #[must_use]
    pub fn log_shipping(mut self, shipping: LogShipping) -> Self {
        self.runner.log_shipping = shipping;
        self
    }

    /// How many bytes of what a task says are kept of one attempt; 16 MiB unless set. What is cut is counted in the log.
    #[must_use]
    pub fn log_quota(mut self, bytes: u64) -> Self {
        self.runner.log_quota = bytes;
        self
    }

    /// Where [`Airflow::task_log`] finds the log files of workers, for what the store does not have of a log.
    #[must_use]
    pub fn worker_logs(mut self, workers: Arc<dyn WorkerLogs>) -> Self {
        self.worker_logs = Some(workers);
        self
    }

    /// The largest value that a task may return or push, in bytes of JSON.
    #[must_use]
    pub fn xcom_limit(mut self, bytes: usize) -> Self {
        self.runner.xcom_limit = bytes;
        self
    }

    /// Says that somebody only tries what tasks do: templates see `test_mode` as true. The test commands of the command
    /// line say so.
    #[must_use]
    pub fn test_mode(mut self) -> Self {
        self.runner.test_mode = true;
        self
    }

    /// Leaves the tables as they are: `build` fails if they are missing or old.
    #[must_use]
    pub fn without_migration(mut self) -> Self {
        self.no_migration = true;
        self
    }

    /// Whether a store was given.
    pub fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// Whether an executor was given.
    pub fn has_executor(&self) -> bool {
        self.executor.is_some()
    }

    /// The store that was given.
    pub fn given_store(&self) -> Option<&SharedStore> {
        self.store.as_ref()
    }

    /// The definitions that were added, not checked yet.
    pub fn definitions(&self) -> &[DagDef] {
        &self.dags
    }

    /// How its scheduler will work.
    pub fn scheduler_config(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// How its attempts will be run.
    pub fn runner_config(&self) -> &RunnerConfig {
        &self.runner
    }

    /// Compiles the dags without touching a store.
    ///
    /// # Errors
    ///
    /// [`RegistryErrors`] lists all mistakes of all dags.
    pub fn compile(&self) -> Result<Registry, RegistryErrors> {
        self.registry_of(self.dags.clone())
    }

    /// Compiles dags, which are not needed any more.
    fn registry_of(&self, mut dags: Vec<DagDef>) -> Result<Registry, RegistryErrors> {
        let excused = |id: &str, operator: &dyn AnyOperator| match &self.excused.0 {
            Some(excused) => excused(id, operator),
            None => false,
        };
        let defaults = Arc::new(self.defaults.clone());
        for dag in &mut dags {
            dag.options.inherited = Some(Arc::clone(&defaults));
        }
        Registry::compile_but(&dags, &self.resources, &excused)
    }

    /// Lets tasks lack the resources they borrow: a test runs something else in their place.
    #[must_use]
    pub(crate) fn excuse(
        mut self,
        excused: impl Fn(&str, &dyn AnyOperator) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.excused = Excuse(Some(Box::new(excused)));
        self
    }

    /// Checks all dags, prepares the store and puts everything together.
    ///
    /// # Errors
    ///
    /// [`BuildError`] lists all mistakes of all dags, or says what is wrong with the store.
    ///
    /// In a process that was started to run one attempt ([`Isolation::Process`](crate::dag::Isolation::Process)) this is
    /// where the attempt runs: the call does not return.
    pub async fn build(mut self) -> Result<Airflow, BuildError> {
        #[cfg(unix)]
        if let Some(process) = crate::attempt::process::AttemptProcess::of_this_process() {
            let application = self.only(process.attempt(), process.ships_logs());
            match Box::pin(process.run(application)).await {}
        }
        let dags = std::mem::take(&mut self.dags);
        let registry = self.registry_of(dags)?;
        if self.scheduler.lease < self.scheduler.beat * 3 {
            return Err(BuildError::Config(format!(
                "a lease of {:?} is shorter than three beats of {:?}: one late beat would look like a death",
                self.scheduler.lease, self.scheduler.beat
            )));
        }
        let executors = executors(self.executor.take(), std::mem::take(&mut self.more_executors), &registry)?;
        if let Some(wrong) = self.wrong_settings.take() {
            return Err(BuildError::Config(wrong));
        }
        let store = self.store.clone().ok_or(BuildError::Missing(NO_STORE))?;
        let prepares = !self.no_migration;
        let (pools, any_pool, default_slots) = (self.pools.clone(), self.any_pool, self.default_pool);
        let airflow = self.put_together(registry, executors)?;
        if prepares {
            let migrated = store.migrate().await?;
            if let Some(slots) = default_slots.filter(|_| migrated.from == 0 && migrated.to > 0) {
                store.set_pool(default_pool(slots)).await?;
            }
        }
        let known = prepare_pools(&store, &pools, !prepares).await?;
        if !any_pool {
            check_pools(airflow.registry(), &known)?;
        }
        if prepares {
            airflow.sync_dags().await?;
        }
        Ok(airflow)
    }

    /// The parts as they are, without a look at the store.
    fn put_together(self, registry: Registry, executors: Executors) -> Result<Airflow, BuildError> {
        let fernet = Fernet::new(self.fernet_keys());
        let fernet = fernet.map_err(|error| BuildError::Config(error.to_string()))?;
        let store = self.store.ok_or(BuildError::Missing(NO_STORE))?;
        let vault = Vault::new(Arc::clone(&store), fernet);
        let environment = self.environment.unwrap_or_else(EnvironmentSecrets::of_process);
        Ok(Airflow(Arc::new(Parts {
            store,
            registry,
            resources: self.resources,
            clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock)),
            executors,
            scheduler: self.scheduler,
            runner: self.runner,
            secrets: Secrets::new(self.backends, environment, vault, self.masker),
            worker_logs: self.worker_logs,
            running: std::sync::Mutex::new(None),
        })))
    }

    /// What runs one attempt, without preparing anything else.
    #[cfg(unix)]
    fn only(mut self, attempt: &Attempt, ships_logs: bool) -> Result<Arc<dyn AttemptRunner>, String> {
        let (dag_id, wanted) = (&attempt.run.dag_id, &attempt.fingerprint);
        let mut dags = std::mem::take(&mut self.dags);
        dags.retain(|dag| dag.id() == dag_id.as_str());
        let registry = self.registry_of(dags).map_err(|error| error.to_string())?;
        match registry.get(dag_id) {
            Some(dag) if dag.fingerprint == *wanted => {}
            Some(_) => {
                return Err(format!(
                    "code_missing: the dag `{dag_id}` is another one in the process of the attempt: a program must \
                     make the same dags each time it starts"
                ));
            }
            None => {
                return Err(format!("code_missing: the process of the attempt carries no dag `{dag_id}`"));
            }
        }
        let airflow = self.put_together(registry, Executors::default()).map_err(|error| error.to_string())?;
        let runner = airflow.runner();
        Ok(Arc::new(if ships_logs { runner.beside_workers() } else { runner }))
    }
}

/// The executors, if they have names of their own and all tasks find theirs. Without any, nothing is checked: the
/// application only looks.
fn executors(
    first: Option<Arc<dyn Executor>>,
    more: Vec<(Vec<String>, Arc<dyn Executor>)>,
    registry: &Registry,
) -> Result<Executors, BuildError> {
    let mut all = Executors::default();
    first.into_iter().for_each(|executor| all.push(executor));
    more.into_iter().for_each(|(queues, executor)| all.push_for(queues, executor));
    let mut names: Vec<&str> = all.iter().map(|executor| executor.name()).collect();
    if names.is_empty() {
        return Ok(all);
    }
    let tasks = registry.iter().flat_map(|dag| dag.tasks.iter().map(move |task| (dag, task)));
    let unknown = tasks.filter_map(|(dag, task)| {
        let name = task.settings.executor.as_ref().filter(|name| !names.contains(&name.as_str()))?;
        let near = super::ops::suggestion(name, names.iter().map(|name| (*name).to_owned()));
        let place = task.place;
        Some(format!(
            "the task `{}.{}` ({place}) names the executor `{name}`, which there is not{near}",
            dag.id, task.id
        ))
    });
    let unknown: Vec<String> = unknown.collect();
    if !unknown.is_empty() {
        return Err(BuildError::Config(unknown.join("\n")));
    }
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            Err(BuildError::Config(format!("two executors are called `{}`; give one another name", pair[0])))
        }
        None => Ok(all),
    }
}

/// `default_pool` with so many slots.
fn default_pool(slots: i32) -> PoolSpec {
    PoolSpec { name: DEFAULT_POOL.into(), slots, description: "Default pool".into(), include_deferred: false }
}

/// Makes the pools of the application that are missing; returns the names of all.
async fn prepare_pools(
    store: &SharedStore,
    wanted: &[PoolSpec],
    read_only: bool,
) -> Result<Vec<String>, StoreError> {
    let mut known: Vec<String> = store.pools().await?.into_iter().map(|pool| pool.spec.name).collect();
    for pool in wanted {
        if !known.contains(&pool.name) {
            if !read_only {
                store.set_pool(pool.clone()).await?;
            }
            known.push(pool.name.clone());
        }
    }
    Ok(known)
}

/// A task whose pool does not exist would wait for ever.
fn check_pools(registry: &Registry, known: &[String]) -> Result<(), RegistryErrors> {
    let mut errors = RegistryErrors { dags: Vec::new(), duplicates: Vec::new() };
    for dag in registry.iter() {
        let unknown = dag.tasks.iter().filter(|task| !known.contains(&task.settings.pool));
        let problems: Vec<Problem> = unknown
            .map(|task| {
                let pool = task.settings.pool.clone();
                let cure = match super::ops::suggestion(&pool, known.iter().cloned()) {
                    near if near.is_empty() => {
                        "create it with `.pool(..)` on the builder or `pools set`".to_owned()
                    }
                    near => near.trim_start_matches("; ").to_owned(),
                };
                Problem {
                    kind: ProblemKind::UnknownPool { task: task.id.to_string(), pool, cure },
                    place: task.place,
                }
            })
            .collect();
        if !problems.is_empty() {
            errors.dags.push(DefinitionErrors { dag_id: dag.id.to_string(), place: dag.place, problems });
        }
    }
    if errors.dags.is_empty() { Ok(()) } else { Err(errors) }
}
