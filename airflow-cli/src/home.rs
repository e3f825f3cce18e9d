//! The settings of a program: from its arguments, the environment, `airflow.cfg`, or a default, in this order. Code has
//! the last word: the settings are what the builder begins with.

use std::path::PathBuf;
use std::time::Duration;

use airflow_core::app::AirflowBuilder;
use airflow_core::config::options::{Lint, Settings as Options};
use airflow_core::config::{Config, ConfigError, Found, Source};
use airflow_core::executor::Executor as _;
use airflow_core::mask::Masker;
use airflow_core::secrets::EnvironmentSecrets;
use airflow_executors::LocalExecutor;
use airflow_executors::remote::{Autoscale, LogServerOptions};

use crate::args::Global;
use crate::error::CliError;
use crate::host::Host;

/// The home of a program in development, if `AIRFLOW_HOME` does not name another one.
const DEFAULT_HOME: &str = "airflow_home";

/// As many connections as anybody needs: room for each is kept in memory, and no server allows more.
#[cfg(any(feature = "postgres", feature = "mysql"))]
const MANY_CONNECTIONS: i64 = 1000;

/// Longer than any process lives.
#[cfg(any(feature = "postgres", feature = "mysql"))]
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Everything that is not said in code.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) home: Found<PathBuf>,
    pub(crate) config: Config,
    pub(crate) all: Options,
    /// What is wrong and what has no effect.
    pub(crate) lint: Lint,
}

impl Settings {
    /// Reads everything. What is wrong is kept for later if `leniently`.
    pub(crate) fn read(host: &Host, global: &Global, leniently: bool) -> Result<Self, CliError> {
        let home = match host.env("AIRFLOW_HOME") {
            Some(home) => Found { value: PathBuf::from(home), source: Source::Env("AIRFLOW_HOME".into()) },
            None => Found { value: PathBuf::from(DEFAULT_HOME), source: Source::Default },
        };
        let path = host.env("AIRFLOW_CONFIG").map_or_else(|| home.value.join("airflow.cfg"), PathBuf::from);
        let mut lint = Lint::default();
        let config = match Config::read(path) {
            Ok(config) => config,
            Err(error) if leniently => {
                lint.errors.push(error.to_string());
                Config::default()
            }
            Err(error) => return Err(wrong(error)),
        };
        let config = config.with_env(host.vars().clone());
        let found = Lint::of(&config, &home.value);
        lint.errors.extend(found.errors);
        lint.warnings.extend(found.warnings);
        if let Some(first) = lint.errors.first().filter(|_| !leniently) {
            let more = match lint.errors.len() {
                1 => String::new(),
                count => format!(" (and {} more; `config lint` lists all)", count - 1),
            };
            return Err(CliError::Usage(format!("{first}{more}")));
        }
        let all = match Options::read(&config, &home.value) {
            Ok(all) => all,
            Err(error) if !leniently => return Err(wrong(error)),
            Err(_) => Options::read(&Config::default(), &home.value).map_err(wrong)?,
        };
        let mut settings = Self { home, config, all, lint };
        settings.fill(global);
        Ok(settings)
    }

    /// What a default depends on, and what the arguments say.
    fn fill(&mut self, global: &Global) {
        if !self.all.is_set("core", "parallelism") {
            self.all.set("core", "parallelism", LocalExecutor::default().slots(), Source::Default);
        }
        if let Some(given) = &global.database {
            self.set("database", "sql_alchemy_conn", given, "--database");
        }
    }

    /// Takes an argument of the command.
    pub(crate) fn set(&mut self, section: &str, key: &str, value: impl ToString, argument: &'static str) {
        self.all.set(section, key, value, Source::Argument(argument));
    }

    /// Reads the options again whose values secrets backends know. Those of arguments and of the program stay.
    pub(crate) async fn ask_backends(&mut self, builder: AirflowBuilder) -> Result<AirflowBuilder, CliError> {
        let names = self.config.secret_names();
        if names.is_empty() || builder.backends().is_empty() {
            return Ok(builder);
        }
        let mut secrets = std::collections::BTreeMap::new();
        for name in names {
            if let Some(found) = builder.backends().config(&name).await {
                secrets.insert(name, found.into_exposed());
            }
        }
        self.config = self.config.clone().with_secrets(secrets);
        let again = Options::read(&self.config, self.all.home()).map_err(wrong)?;
        let mut builder = builder;
        for (section, key) in [
            ("core", "fernet_key"),
            ("database", "sql_alchemy_conn"),
            ("celery", "broker_url"),
            ("celery_broker_transport_options", "sentinel_kwargs"),
            ("broker", "signing_keys"),
        ] {
            let found = again.found(section, key).clone();
            if self.all.is_set(section, key) || found.source == Source::Default {
                continue;
            }
            if key == "fernet_key" {
                builder = builder.fernet_key(found.value.clone());
            }
            self.all.set(section, key, found.value, found.source);
        }
        Ok(builder)
    }

    pub(crate) fn database(&self) -> &str {
        self.all.text("database", "sql_alchemy_conn")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.all.text("logging", "base_log_folder").into()
    }

    pub(crate) fn executor(&self) -> &str {
        self.all.text("core", "executor")
    }

    /// How the connections to a server are kept.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub(crate) fn set_pool(&self, pool: &mut airflow_core::store::PoolSettings) {
        let number = |key| self.all.number::<i64>("database", key);
        let beyond = match number("sql_alchemy_max_overflow") {
            -1 => MANY_CONNECTIONS,
            beyond => beyond,
        };
        let most = number("sql_alchemy_pool_size").saturating_add(beyond).min(MANY_CONNECTIONS);
        pool.max_connections = u32::try_from(most).unwrap_or(u32::MAX);
        pool.max_lifetime = match u64::try_from(number("sql_alchemy_pool_recycle")) {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => NEVER,
        };
        pool.test_before_use = self.all.boolean("database", "sql_alchemy_pool_pre_ping");
    }

    /// Between how many slots a worker keeps itself, if it does.
    pub(crate) fn autoscale(&self) -> Result<Option<Autoscale>, CliError> {
        let text = self.all.text("celery", "worker_autoscale").trim();
        if text.is_empty() {
            return Ok(None);
        }
        let read: Result<Autoscale, String> = text.parse();
        read.map(Some).map_err(|error| CliError::Usage(format!("celery.worker_autoscale: {error}")))
    }

    pub(crate) fn worker_slots(&self) -> usize {
        self.all.number("celery", "worker_concurrency")
    }

    /// How long a task in a process of its own may take after it was asked to stop.
    pub(crate) fn kill_after(&self) -> Duration {
        self.all.seconds("core", "killed_task_cleanup_time").unwrap_or_default()
    }

    /// Where a worker serves its logs.
    pub(crate) fn log_server(&self, address: Option<String>) -> LogServerOptions {
        let host = self.all.text("logging", "worker_log_server_host").to_owned();
        LogServerOptions { host, port: self.all.number("logging", "worker_log_server_port"), address }
    }

    pub(crate) fn slots(&self) -> usize {
        self.all.number("core", "parallelism")
    }

    /// A builder that knows these settings. The store and the executor come later, if the program brings none.
    pub(crate) fn builder(&self, with_logs: bool, masker: &Masker) -> AirflowBuilder {
        let environment = EnvironmentSecrets::of(self.config.env().clone());
        let builder = AirflowBuilder::default().environment(environment).masker(masker.clone());
        let builder = builder.settings(&self.all);
        if with_logs { builder.log_folder(self.logs()) } else { builder.without_logs() }
    }

    /// Takes over what the program set itself.
    pub(crate) fn note_program(&mut self, builder: &AirflowBuilder) {
        let begun = AirflowBuilder::default().settings(&self.all);
        let mut note = |section: &str, key: &str, before: String, now: String| {
            if before != now {
                self.all.set(section, key, now, Source::Program);
            }
        };
        let (before, now) = (begun.scheduler_config(), builder.scheduler_config());
        let flag = |yes: bool| if yes { "True".to_owned() } else { "False".to_owned() };
        let seconds = |time: std::time::Duration| time.as_secs().to_string();
        note(
            "core",
            "dags_are_paused_at_creation",
            flag(before.paused_at_creation),
            flag(now.paused_at_creation),
        );
        note("scheduler", "use_job_schedule", flag(before.use_schedules), flag(now.use_schedules));
        note("core", "max_map_length", before.max_map_length.to_string(), now.max_map_length.to_string());
        note("scheduler", "job_heartbeat_sec", seconds(before.beat), seconds(now.beat));
        note("scheduler", "scheduler_health_check_threshold", seconds(before.lease), seconds(now.lease));
        note(
            "scheduler",
            "scheduler_idle_sleep_time",
            seconds(before.poll_interval),
            seconds(now.poll_interval),
        );
        note("core", "fernet_key", begun.fernet_keys().to_owned(), builder.fernet_keys().to_owned());
        if let Some(folder) = &builder.runner_config().log_folder {
            let before = self.logs().display().to_string();
            let now = folder.display().to_string();
            if before != now {
                self.all.set("logging", "base_log_folder", now, Source::Program);
            }
        }
        if builder.has_executor() {
            self.all.set("core", "executor", "of the program", Source::Program);
        }
        if let Some(store) = builder.given_store() {
            let place = format!("{}: {}", store.kind(), store.place());
            self.all.set("database", "sql_alchemy_conn", place, Source::Program);
        }
    }
}

fn wrong(error: ConfigError) -> CliError {
    CliError::Usage(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        let config = Config::parse(text).expect("a file of settings");
        let all = Options::read(&config, "home").expect("settings");
        let home = Found { value: PathBuf::from("home"), source: Source::Default };
        Settings { home, config, all, lint: Lint::default() }
    }

    #[cfg(any(feature = "postgres", feature = "mysql"))]
    #[test]
    fn the_pool_is_as_airflows_options_say() {
        let pool = |text: &str| {
            let mut pool = airflow_core::store::PoolSettings::default();
            settings(&format!("[database]\n{text}\n")).set_pool(&mut pool);
            pool
        };
        assert_eq!(pool(""), airflow_core::store::PoolSettings::default(), "nothing is said twice");
        let said =
            pool("sql_alchemy_pool_size = 7\nsql_alchemy_max_overflow = 3\nsql_alchemy_pool_recycle = 60");
        assert_eq!((said.max_connections, said.max_lifetime), (10, Duration::from_secs(60)));
        let said = pool("sql_alchemy_max_overflow = -1\nsql_alchemy_pool_recycle = -1");
        assert_eq!((said.max_connections, said.max_lifetime), (1000, NEVER));
        assert!(said.test_before_use && !pool("sql_alchemy_pool_pre_ping = False").test_before_use);
    }

    #[test]
    fn workers_scale_as_airflows_option_says() {
        let of = |text: &str| settings(&format!("[celery]\nworker_autoscale = {text}\n")).autoscale();
        assert_eq!(of("").expect("nothing is said"), None);
        assert_eq!(of("16,4").expect("it is sound"), Some(Autoscale { max: 16, min: 4 }));
        let refused = of("4,16").expect_err("the wrong way round").to_string();
        assert!(refused.starts_with("celery.worker_autoscale: "), "{refused}");
    }
}
