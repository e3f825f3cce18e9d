//! The settings of a program: from its arguments, the environment, or a default, in this order. Code has the last
//! word: the settings are what the builder begins with.

use std::path::PathBuf;

use airflow_core::app::AirflowBuilder;
use airflow_core::executor::Executor as _;
use airflow_executors::LocalExecutor;

use crate::args::Global;
use crate::error::CliError;
use crate::host::Host;

/// The home of a program in development, if `AIRFLOW_HOME` does not name another one.
const DEFAULT_HOME: &str = "airflow_home";

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody said anything.
    Default,
    /// A variable of the environment.
    Env(String),
    /// An argument of the command.
    Argument(&'static str),
    /// The code of the program.
    Program,
}

impl Source {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::Env(name) => format!("env {name}"),
            Self::Argument(name) => format!("argument {name}"),
            Self::Program => "program".to_owned(),
        }
    }
}

/// A value and where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) source: Source,
}

/// Everything that is not said in code.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) home: Setting<PathBuf>,
    pub(crate) database: Setting<String>,
    pub(crate) logs: Setting<PathBuf>,
    pub(crate) slots: Setting<usize>,
    pub(crate) paused_at_creation: Setting<bool>,
    pub(crate) use_schedules: Setting<bool>,
    pub(crate) max_map_length: Setting<usize>,
}

/// The variable of the environment for an option, in Airflow's spelling.
pub(crate) fn variable(section: &str, option: &str) -> String {
    format!("AIRFLOW__{}__{}", section.to_uppercase(), option.to_uppercase())
}

struct Reader<'h>(&'h Host);

impl Reader<'_> {
    fn read<T>(
        &self,
        section: &str,
        option: &str,
        parse: impl Fn(&str) -> Result<T, String>,
        default: impl FnOnce() -> T,
    ) -> Result<Setting<T>, CliError> {
        let name = variable(section, option);
        match self.0.env(&name) {
            Some(text) => match parse(text) {
                Ok(value) => Ok(Setting { value, source: Source::Env(name) }),
                Err(why) => Err(CliError::Usage(format!("`{name}` is `{text}`: {why}"))),
            },
            None => Ok(Setting { value: default(), source: Source::Default }),
        }
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "true" | "t" | "1" => Ok(true),
        "false" | "f" | "0" => Ok(false),
        _ => Err("write `true` or `false`".to_owned()),
    }
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "write a whole number above 0".to_owned())
}

impl Settings {
    pub(crate) fn read(host: &Host, global: &Global, slots: Option<usize>) -> Result<Self, CliError> {
        let home = match host.env("AIRFLOW_HOME") {
            Some(home) => Setting { value: PathBuf::from(home), source: Source::Env("AIRFLOW_HOME".into()) },
            None => Setting { value: PathBuf::from(DEFAULT_HOME), source: Source::Default },
        };
        let read = Reader(host);
        let text = |text: &str| Ok(text.to_owned());
        let in_home = |name: &str| home.value.join(name);
        let mut database = read.read("database", "sql_alchemy_conn", text, || {
            format!("sqlite://{}", in_home("airflow.db").display())
        })?;
        if let Some(given) = &global.database {
            database = Setting { value: given.clone(), source: Source::Argument("--database") };
        }
        let path = |text: &str| Ok(PathBuf::from(text));
        let mut parallelism = read.read("core", "parallelism", count, || LocalExecutor::default().slots())?;
        if let Some(given) = slots {
            parallelism = Setting { value: given, source: Source::Argument("--slots") };
        }
        let scheduler = airflow_core::scheduler::SchedulerConfig::default();
        Ok(Self {
            database,
            logs: read.read("logging", "base_log_folder", path, || in_home("logs"))?,
            slots: parallelism,
            paused_at_creation: read
                .read("core", "dags_are_paused_at_creation", boolean, || scheduler.paused_at_creation)?,
            use_schedules: read.read("scheduler", "use_job_schedule", boolean, || scheduler.use_schedules)?,
            max_map_length: read.read("core", "max_map_length", count, || scheduler.max_map_length)?,
            home,
        })
    }

    /// A builder that knows these settings. The store and the executor come later, if the program brings none.
    pub(crate) fn builder(&self, with_logs: bool) -> AirflowBuilder {
        let builder = AirflowBuilder::default().scheduler(|scheduler| {
            scheduler.paused_at_creation = self.paused_at_creation.value;
            scheduler.use_schedules = self.use_schedules.value;
            scheduler.max_map_length = self.max_map_length.value;
        });
        if with_logs { builder.log_folder(&self.logs.value) } else { builder }
    }

    /// Takes over what the program set itself.
    pub(crate) fn note_program(&mut self, builder: &AirflowBuilder) {
        fn note<T: PartialEq>(setting: &mut Setting<T>, now: T) {
            if setting.value != now {
                *setting = Setting { value: now, source: Source::Program };
            }
        }
        let scheduler = builder.scheduler_config();
        note(&mut self.paused_at_creation, scheduler.paused_at_creation);
        note(&mut self.use_schedules, scheduler.use_schedules);
        note(&mut self.max_map_length, scheduler.max_map_length);
        if let Some(folder) = &builder.runner_config().log_folder {
            note(&mut self.logs, folder.clone());
        }
        if let Some(store) = builder.given_store() {
            let place = format!("{}: {}", store.kind(), store.place());
            self.database = Setting { value: place, source: Source::Program };
        }
    }
}
