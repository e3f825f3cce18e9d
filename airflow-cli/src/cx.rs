//! What a command works with: the host, the settings, and on demand the dags, the store and the application.

use std::sync::Arc;

use airflow_core::app::{Airflow, AirflowBuilder, OpError, suggestion};
use airflow_core::compile::CompiledDag;
use airflow_core::dag::Isolation;
use airflow_core::executor::Executor;
use airflow_core::fernet::Fernet;
use airflow_core::id::{DagId, RunId, TaskId};
use airflow_core::mask::Masker;
use airflow_core::registry::Registry;
use airflow_core::scheduler::OnLeaseLoss;
use airflow_core::secrets::{Secrets, Vault};
use airflow_core::store::{AuditEntry, SharedStore};
use airflow_executors::remote::RemoteExecutor;
use airflow_executors::{LocalExecutor, ProcessCommand};
use chrono::Utc;

use crate::args::{Command, Global};
use crate::broker::{self, ExecutorKind};
use crate::error::{CliError, failed};
use crate::home::Settings;
use crate::host::Host;

/// What a command works with.
pub(crate) struct Cx<'h> {
    pub(crate) host: &'h mut Host,
    pub(crate) program: String,
    pub(crate) settings: Settings,
    global: Global,
    isolation: Isolation,
    masker: Masker,
    builder: Option<AirflowBuilder>,
    store: Option<SharedStore>,
}

impl<'h> Cx<'h> {
    /// Reads the settings; mistakes in them are kept for `config` to show, and stop everything else.
    pub(crate) fn new(
        host: &'h mut Host,
        global: &Global,
        program: String,
        leniently: bool,
    ) -> Result<Self, CliError> {
        let settings = Settings::read(host, global, leniently)?;
        let masker = Masker::default();
        let (global, isolation) = (global.clone(), Isolation::None);
        Ok(Self { host, program, settings, global, isolation, masker, builder: None, store: None })
    }

    /// What hides secrets in the log of the process.
    pub(crate) fn masker(&self) -> &Masker {
        &self.masker
    }

    /// What the program's own closure begins with.
    pub(crate) fn defaults(&mut self, command: &Command) -> AirflowBuilder {
        self.isolation = command.isolation();
        if let Some(slots) = command.slots() {
            self.settings.set("core", "parallelism", slots, "--slots");
        }
        let builder = self.settings.builder(!command.tests_tasks(), &self.masker);
        if command.tests_tasks() { builder.test_mode() } else { builder }
    }

    /// Takes what the program's closure made.
    pub(crate) async fn given(&mut self, builder: AirflowBuilder) -> Result<(), CliError> {
        self.store = builder.given_store().cloned();
        if self.store.is_some() && self.global.database.is_some() {
            let why = "this program brings its own store, so `--database` has no effect; leave it out";
            return Err(CliError::Usage(why.to_owned()));
        }
        self.settings.note_program(&builder);
        self.builder = Some(self.settings.ask_backends(builder).await?);
        Ok(())
    }

    /// A process that stays tells once that options have no effect.
    pub(crate) fn note_lint(&mut self, stays: bool) {
        let count = self.settings.lint.warnings.len();
        if stays && count > 0 {
            self.host
                .note(&format!("warning: {count} options have no effect here; `config lint` lists them"));
        }
    }

    pub(crate) fn builder(&self) -> &AirflowBuilder {
        self.builder.as_ref().expect("a command builds the application at most once")
    }

    pub(crate) fn actor(&self) -> String {
        self.host.user().to_owned()
    }

    /// The dags, checked.
    pub(crate) fn registry(&self) -> Result<Registry, CliError> {
        Ok(self.builder().compile()?)
    }

    /// One dag, checked, without a store.
    pub(crate) fn dag(&self, dag_id: &str) -> Result<Arc<CompiledDag>, CliError> {
        let registry = self.registry()?;
        registry.get(&DagId::from(dag_id)).cloned().ok_or_else(|| {
            let names = registry.iter().map(|dag| dag.id.to_string());
            OpError::UnknownDag(dag_id.to_owned(), suggestion(dag_id, names)).into()
        })
    }

    /// Opens the store, whatever its tables look like; makes an empty database if `create` says so.
    pub(crate) async fn open(&mut self, create: bool) -> Result<SharedStore, CliError> {
        if let Some(store) = &self.store {
            return Ok(Arc::clone(store));
        }
        let address = self.settings.database().to_owned();
        let store = open_store(&address, create, &self.program, &self.settings).await?;
        self.store = Some(Arc::clone(&store));
        Ok(store)
    }

    /// The store, ready to be used.
    pub(crate) async fn store(&mut self) -> Result<SharedStore, CliError> {
        let store = self.open(false).await?;
        let status = store.check().await?;
        if status.version < status.needed {
            return Err(failed(format!(
                "the database {} has schema version {}, version {} is needed; run `{} db migrate`",
                store.place(),
                status.version,
                status.needed,
                self.program
            )));
        }
        Ok(store)
    }

    /// The store's connections and variables, readable.
    pub(crate) async fn vault(&mut self) -> Result<Vault, CliError> {
        let fernet = Fernet::new(self.builder().fernet_keys()).map_err(|e| failed(e.to_string()))?;
        Ok(Vault::new(self.store().await?, fernet))
    }

    /// Connections and variables, wherever they come from.
    pub(crate) async fn secrets(&mut self) -> Result<Secrets, CliError> {
        let vault = self.vault().await?;
        let environment = self.builder().given_environment().cloned().unwrap_or_default();
        // What this command shows is its answer, so nothing is hidden.
        Ok(Secrets::new(self.builder().backends().clone(), environment, vault, Masker::default()))
    }

    /// Says that what is about to be written can be read by everybody who can read the database.
    pub(crate) fn warn_plain(&mut self, vault: &Vault) {
        if !vault.is_encrypting() {
            self.host.note(
                "warning: no key is set, so this is kept as plain text; make one with `config generate-fernet-key` \
                 and set `core.fernet_key`",
            );
        }
    }

    /// The store, if there is one that is ready to be used.
    ///
    /// # Errors
    ///
    /// If there is one that cannot be read.
    pub(crate) async fn store_if_ready(&mut self) -> Result<Option<SharedStore>, CliError> {
        match self.store().await {
            Ok(store) => Ok(Some(store)),
            // No file, or no tables yet.
            Err(CliError::Failed(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The application on a store whose tables fit, without making anything known to it.
    pub(crate) async fn airflow(&mut self) -> Result<Airflow, CliError> {
        self.registry()?;
        let store = self.store().await?;
        let builder = self.take_builder().without_migration().shared_store(store);
        Ok(builder.build().await?)
    }

    /// The same for a process that runs a scheduler: with the executors of the program, or those that the settings name.
    pub(crate) async fn scheduling(&mut self) -> Result<Airflow, CliError> {
        self.registry()?;
        let store = self.store().await?;
        let builder = self.take_builder();
        let builder = self.with_executors(builder).await?;
        Ok(builder.without_migration().shared_store(store).build().await?)
    }

    /// Runs the attempt for which this process was started; does not return if there is one.
    #[cfg(unix)]
    pub(crate) async fn attempt(&mut self) -> Result<(), CliError> {
        let store = self.open(false).await?;
        self.take_builder().shared_store(store).build().await?;
        Ok(())
    }

    /// The builder itself.
    pub(crate) fn take_builder(&mut self) -> AirflowBuilder {
        let builder = self.builder.take().expect("a command builds the application at most once");
        let is_process = self.host.is_process();
        builder.scheduler(|config| {
            // A process of its own has nothing to lose but its attempts, and those may start elsewhere.
            if is_process && config.on_lease_loss.is_none() {
                config.on_lease_loss = Some(OnLeaseLoss::Exit);
            }
        })
    }

    /// Adds the executors that the settings name, unless the program brings its own.
    pub(crate) async fn with_executors(
        &mut self,
        mut builder: AirflowBuilder,
    ) -> Result<AirflowBuilder, CliError> {
        if builder.has_executor() {
            return Ok(builder);
        }
        for (number, kind) in broker::executors(self.settings.executor())?.into_iter().enumerate() {
            let executor: Arc<dyn Executor> = match kind {
                ExecutorKind::Local => self.local(self.settings.slots()),
                ExecutorKind::Sequential => self.local(1),
                ExecutorKind::Workers => {
                    let remote = RemoteExecutor::shared(broker::checked(self).await?);
                    Arc::new(remote.signing_keys(broker::signing_keys(self)))
                }
            };
            builder = match number {
                0 => builder.shared_executor(executor),
                _ => builder.shared_executor_for(Vec::new(), executor),
            };
        }
        Ok(builder)
    }

    fn local(&self, slots: usize) -> Arc<dyn Executor> {
        let command = ProcessCommand::default().kill_after(self.settings.kill_after());
        Arc::new(LocalExecutor::new(slots).isolation(self.isolation).process_command(command))
    }

    /// Adds to the audit log.
    pub(crate) async fn note(
        &self,
        store: &SharedStore,
        event: &str,
        about: About<'_>,
    ) -> Result<(), CliError> {
        let entry = AuditEntry {
            at: Utc::now(),
            actor: self.actor(),
            event: event.to_owned(),
            dag_id: about.dag.cloned(),
            run_id: about.run.cloned(),
            task_id: about.task.cloned(),
            map_index: None,
            extra: about.extra,
        };
        Ok(store.audit(entry).await?)
    }
}

/// What an entry of the audit log is about.
#[derive(Debug, Default)]
pub(crate) struct About<'a> {
    pub(crate) dag: Option<&'a DagId>,
    pub(crate) run: Option<&'a RunId>,
    pub(crate) task: Option<&'a TaskId>,
    pub(crate) extra: Option<String>,
}

impl About<'_> {
    /// About something that belongs to no dag.
    pub(crate) fn only(extra: impl Into<String>) -> Self {
        Self { extra: Some(extra.into()), ..Self::default() }
    }
}

/// Makes the current version of a dag known, if the store does not know it as such.
pub(crate) async fn sync(airflow: &Airflow, dag: &CompiledDag) -> Result<(), CliError> {
    let known = airflow.store().dag(&dag.id).await?;
    if known.is_none_or(|row| row.fingerprint != dag.fingerprint) {
        airflow.sync_dags().await?;
    }
    Ok(())
}

/// Opens the database at an address. What stands after a `+` in the scheme names a driver of Python, and is passed over.
async fn open_store(
    address: &str,
    create: bool,
    program: &str,
    settings: &Settings,
) -> Result<SharedStore, CliError> {
    let Some((scheme, rest)) = address.split_once("://") else {
        return open_sqlite(address, create, program).await;
    };
    let kind = scheme.split('+').next().unwrap_or_default();
    match kind {
        "sqlite" => open_sqlite(address, create, program).await,
        "postgres" | "postgresql" => open_postgres(&format!("postgres://{rest}"), settings).await,
        "mysql" | "mariadb" => open_mysql(&format!("mysql://{rest}"), settings).await,
        _ => Err(CliError::Usage(format!(
            "this program cannot open a `{kind}` database; write `sqlite:///absolute/path`, \
             `postgres://user:password@host/database` or `mysql://user:password@host/database`"
        ))),
    }
}

/// What is said of a database whose feature is off.
#[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "mysql")))]
fn without_feature(feature: &str) -> CliError {
    failed(format!(
        "this program was built without the feature `{feature}` of `airflow`: add it in Cargo.toml, or add a store \
         with `.store(..)`"
    ))
}

#[cfg(feature = "postgres")]
async fn open_postgres(address: &str, settings: &Settings) -> Result<SharedStore, CliError> {
    use airflow_core::store::{PostgresOptions, PostgresStore};
    let options = PostgresOptions::new(address)?.pool(|pool| settings.set_pool(pool));
    Ok(Arc::new(PostgresStore::connect_with(options).await?))
}

#[cfg(not(feature = "postgres"))]
#[expect(clippy::unused_async, reason = "the same signature as with the feature")]
async fn open_postgres(_: &str, _: &Settings) -> Result<SharedStore, CliError> {
    Err(without_feature("postgres"))
}

#[cfg(feature = "mysql")]
async fn open_mysql(address: &str, settings: &Settings) -> Result<SharedStore, CliError> {
    use airflow_core::store::{MysqlOptions, MysqlStore};
    let options = MysqlOptions::new(address)?.pool(|pool| settings.set_pool(pool));
    Ok(Arc::new(MysqlStore::connect_with(options).await?))
}

#[cfg(not(feature = "mysql"))]
#[expect(clippy::unused_async, reason = "the same signature as with the feature")]
async fn open_mysql(_: &str, _: &Settings) -> Result<SharedStore, CliError> {
    Err(without_feature("mysql"))
}

#[cfg(feature = "sqlite")]
async fn open_sqlite(address: &str, create: bool, program: &str) -> Result<SharedStore, CliError> {
    use airflow_core::store::{SqliteOptions, SqliteStore};
    let options: SqliteOptions = address.parse()?;
    if !options.path.exists() {
        if !create {
            let place = options.path.display();
            return Err(failed(format!("there is no database at {place}; run `{program} db migrate`")));
        }
        make_folder(&options.path)?;
    }
    Ok(Arc::new(SqliteStore::open_with(options).await?))
}

#[cfg(not(feature = "sqlite"))]
#[expect(clippy::unused_async, reason = "the same signature as with the feature")]
async fn open_sqlite(_: &str, _: bool, _: &str) -> Result<SharedStore, CliError> {
    Err(without_feature("sqlite"))
}

#[cfg(feature = "sqlite")]
fn make_folder(file: &std::path::Path) -> Result<(), CliError> {
    let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(|error| {
        let place = folder.display().to_string();
        let why = format!("its folder cannot be made: {error}");
        airflow_core::store::StoreError::Unreachable { place, why }.into()
    })
}
