//! Configuration: `airflow.cfg` and `AIRFLOW__SECTION__KEY`, with Airflow's rules of precedence.
//!
//! [`Config`] answers what a value is and where it comes from; it knows no option by name. Which options there are, and
//! what they do, stands in [`options`]; [`Settings`](options::Settings) is all of them, read and checked.

mod expand;
mod ini;
mod number;
pub mod options;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::TimeDelta;
use serde_json::Value;

pub use ini::{Ini, IniError, InterpolationError};
pub(crate) use number::python_float;
pub(crate) use number::python_int;
use number::python_strip;

/// Options that may come from a command (`…_cmd`) or a secrets backend (`…_secret`), because they are secret.
pub const SENSITIVE: [(&str, &str); 11] = [
    ("core", "fernet_key"),
    ("database", "sql_alchemy_conn"),
    ("database", "sql_alchemy_engine_args"),
    ("logging", "remote_task_handler_kwargs"),
    ("secrets", "backend_kwargs"),
    ("sentry", "sentry_dsn"),
    ("smtp", "smtp_password"),
    ("webserver", "secret_key"),
    ("celery", "broker_url"),
    ("celery_broker_transport_options", "sentinel_kwargs"),
    ("broker", "signing_keys"),
];

/// Where the log of an attempt lies below the log folder, unless `logging.log_filename_template` says otherwise.
pub const LOG_TEMPLATE: &str = "dag_id={{ ti.dag_id }}/run_id={{ ti.run_id }}/task_id={{ ti.task_id }}/\
                                {% if ti.map_index >= 0 %}map_index={{ ti.map_index }}/{% endif %}\
                                attempt={{ try_number }}.log";

/// Names that an option had before: section and option now, then before.
const RENAMED: [(&str, &str, &str, &str); 6] = [
    ("core", "max_active_tasks_per_dag", "core", "dag_concurrency"),
    ("database", "sql_alchemy_conn", "core", "sql_alchemy_conn"),
    ("logging", "base_log_folder", "core", "base_log_folder"),
    ("logging", "log_filename_template", "core", "log_filename_template"),
    ("logging", "logging_level", "core", "logging_level"),
    ("core", "hide_sensitive_var_conn_fields", "admin", "hide_sensitive_variable_fields"),
];

/// The longest timespan that Python has, in seconds.
const MAX_TIMEDELTA: i128 = 999_999_999 * 86_400 + 86_399;

/// Why a setting cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be opened.
    #[error("the configuration {path} cannot be read: {why}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// The file is not well-formed.
    #[error("the configuration{}: {error}", place(.path.as_deref()))]
    File {
        /// The file, if it is one.
        path: Option<PathBuf>,
        /// What is wrong.
        error: IniError,
    },
    /// Nobody has set it.
    #[error("there is no setting `{section}.{key}`")]
    Missing {
        /// The section.
        section: String,
        /// The option.
        key: String,
    },
    /// It is secret, and was asked for where secrets are not to be.
    #[error("`{section}.{key}` is secret and cannot be read here; keep secrets in connections or variables")]
    Secret {
        /// The section.
        section: String,
        /// The option.
        key: String,
    },
    /// `%(name)s` in the file cannot be replaced.
    #[error("`{section}.{key}`: {error}")]
    Interpolation {
        /// The section.
        section: String,
        /// The option.
        key: String,
        /// What is wrong.
        error: InterpolationError,
    },
    /// The command that should write the value failed.
    #[error("`{section}.{key}`: the command for its value: {why}")]
    Command {
        /// The section.
        section: String,
        /// The option.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The value is of another kind.
    #[error("`{section}.{key}` ({source_name}) is `{value}`: write {wanted}")]
    Invalid {
        /// The section.
        section: String,
        /// The option.
        key: String,
        /// Where the value comes from.
        source_name: String,
        /// The value; `***` if it is secret.
        value: String,
        /// What it should be.
        wanted: String,
    },
    /// Variables of the environment that name each other without end.
    #[error("`{section}.{key}`: `$` and `~` in its value do not come to an end")]
    Expansion {
        /// The section.
        section: String,
        /// The option.
        key: String,
    },
}

fn place(path: Option<&Path>) -> String {
    path.map(|path| format!(" {}", path.display())).unwrap_or_default()
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// A variable of the environment.
    Env(String),
    /// The file: its path, and the option if it has another name there.
    File(Option<PathBuf>, Option<String>),
    /// An argument of the command.
    Argument(&'static str),
    /// The code of the program.
    Program,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Env(name) => write!(f, "env {name}"),
            Self::File(path, option) => {
                f.write_str("file")?;
                path.iter().try_for_each(|path| write!(f, " {}", path.display()))?;
                option.iter().try_for_each(|option| write!(f, " ({option})"))
            }
            Self::Argument(name) => write!(f, "argument {name}"),
            Self::Program => f.write_str("program"),
        }
    }
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<T = String> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub source: Source,
}

/// What a file and the environment say.
///
/// ```
/// use airflow_core::config::Config;
///
/// let config = Config::parse("[core]\nparallelism = 8\nhome = /srv\nlogs = %(home)s/logs\n")?
///     .with_env([("AIRFLOW__CORE__PARALLELISM", "16")]);
/// assert_eq!(config.int("core", "parallelism")?, 16);
/// assert_eq!(config.text("core", "logs")?, "/srv/logs");
/// # Ok::<(), airflow_core::config::ConfigError>(())
/// ```
#[derive(Clone, Default)]
pub struct Config {
    file: Ini,
    path: Option<PathBuf>,
    env: BTreeMap<String, String>,
    /// What secrets backends answered, by the name that was asked for.
    secrets: BTreeMap<String, String>,
    /// What commands answered: each is run once. Clones share it.
    commands: Arc<Mutex<BTreeMap<String, Result<String, String>>>>,
}

/// Values may be secret.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Config {
    /// Reads a text in the form of `airflow.cfg`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::File`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file = Ini::parse(text).map_err(|error| ConfigError::File { path: None, error })?;
        Ok(Self { file, ..Self::default() })
    }

    /// Reads a file; one that does not exist is empty.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unreadable`], [`ConfigError::File`].
    pub fn read(path: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let path = path.into();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(ConfigError::Unreadable { path, why: error.to_string() }),
        };
        match Ini::parse(&text) {
            Ok(file) => Ok(Self { file, path: Some(path), ..Self::default() }),
            Err(error) => Err(ConfigError::File { path: Some(path), error }),
        }
    }

    /// The same with variables of an environment; they win over the file.
    #[must_use]
    pub fn with_env<K: Into<String>, V: Into<String>>(
        mut self,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.commands = Arc::default();
        self.env.extend(env.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// The same with what secrets backends answered to [`secret_names`](Self::secret_names).
    #[must_use]
    pub fn with_secrets(mut self, secrets: BTreeMap<String, String>) -> Self {
        self.secrets = secrets;
        self
    }

    /// The file, if there was one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What the file says.
    pub fn file(&self) -> &Ini {
        &self.file
    }

    /// The variables of the environment.
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// The variable of the environment that sets an option.
    pub fn env_name(section: &str, key: &str) -> String {
        format!("AIRFLOW__{}__{}", section.replace('.', "_").to_uppercase(), key.to_uppercase())
    }

    /// Whether an option may come from a command or a secrets backend, and is never shown.
    pub fn is_sensitive(section: &str, key: &str) -> bool {
        SENSITIVE.contains(&(section, key))
    }

    /// What secrets backends are to be asked for: the values of all `…_secret`.
    pub fn secret_names(&self) -> Vec<String> {
        let names = SENSITIVE.iter().filter_map(|(section, key)| {
            let env = self.env.get(&format!("{}_SECRET", Self::env_name(section, key))).cloned();
            env.or_else(|| self.file.get(section, &format!("{key}_secret")).ok().flatten())
        });
        names.collect()
    }

    /// The value of an option and where it comes from: environment, command of the environment, secret of the
    /// environment, file, command of the file, secret of the file, in this order.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if what was found cannot be used.
    pub fn find(&self, section: &str, key: &str) -> Result<Option<Found>, ConfigError> {
        self.look(section, key, false)
    }

    /// As [`find`](Self::find), but `%` in the file stands for itself.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find).
    pub fn find_raw(&self, section: &str, key: &str) -> Result<Option<Found>, ConfigError> {
        self.look(section, key, true)
    }

    fn look(&self, section: &str, key: &str, raw: bool) -> Result<Option<Found>, ConfigError> {
        let (section, key) = (section.to_lowercase(), key.to_lowercase());
        let before = RENAMED.iter().filter(|(s, k, ..)| (*s, *k) == (section.as_str(), key.as_str()));
        let before = before.map(|(.., s, k)| (*s, *k));
        let names: Vec<(&str, &str)> = [(section.as_str(), key.as_str())].into_iter().chain(before).collect();
        for (s, k) in &names {
            if let Some(found) = self.of_environment(s, k)? {
                return Ok(Some(found));
            }
        }
        for (s, k) in &names {
            if let Some(found) = self.of_file(s, k, raw)? {
                let other = (*k != key || *s != section).then(|| format!("{s}.{k}"));
                return Ok(Some(Found { value: found, source: Source::File(self.path.clone(), other) }));
            }
        }
        for (s, k) in names.iter().filter(|(s, k)| Self::is_sensitive(s, k)) {
            for (suffix, take) in [("cmd", Self::command as Fetch), ("secret", Self::secret)] {
                let option = format!("{k}_{suffix}");
                let Some(text) = self.interpolated(s, &option)? else { continue };
                if let Some(value) = take(self, s, k, &text)?.filter(|value| !value.is_empty()) {
                    return Ok(Some(Found { value, source: Source::File(self.path.clone(), Some(option)) }));
                }
            }
        }
        Ok(None)
    }

    fn of_environment(&self, section: &str, key: &str) -> Result<Option<Found>, ConfigError> {
        let name = Self::env_name(section, key);
        if let Some(value) = self.env.get(&name) {
            let value = self.expand(section, key, value)?;
            return Ok(Some(Found { value, source: Source::Env(name) }));
        }
        if !Self::is_sensitive(section, key) {
            return Ok(None);
        }
        for (suffix, take) in [("CMD", Self::command as Fetch), ("SECRET", Self::secret)] {
            let name = format!("{name}_{suffix}");
            let Some(text) = self.env.get(&name) else { continue };
            if let Some(value) = take(self, section, key, text)? {
                return Ok(Some(Found { value, source: Source::Env(name) }));
            }
        }
        Ok(None)
    }

    fn of_file(&self, section: &str, key: &str, raw: bool) -> Result<Option<String>, ConfigError> {
        let value = if raw {
            self.file.raw(section, key).map(str::to_owned)
        } else {
            self.interpolated(section, key)?
        };
        value.map(|value| self.expand(section, key, &value)).transpose()
    }

    fn interpolated(&self, section: &str, key: &str) -> Result<Option<String>, ConfigError> {
        let (of, option) = (section.to_owned(), key.to_owned());
        self.file.get(section, key).map_err(|error| ConfigError::Interpolation {
            section: of,
            key: option,
            error,
        })
    }

    fn expand(&self, section: &str, key: &str, value: &str) -> Result<String, ConfigError> {
        let endless = || ConfigError::Expansion { section: section.to_owned(), key: key.to_owned() };
        expand::expand(value, &self.env).ok_or_else(endless)
    }

    fn command(&self, section: &str, key: &str, command: &str) -> Result<Option<String>, ConfigError> {
        let mut answers = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = answers.entry(command.to_owned()).or_insert_with(|| expand::run(command, &self.env));
        answer.clone().map(Some).map_err(|why| ConfigError::Command {
            section: section.to_owned(),
            key: key.to_owned(),
            why,
        })
    }

    #[expect(clippy::unnecessary_wraps, reason = "stands beside `command`")]
    fn secret(&self, _: &str, _: &str, name: &str) -> Result<Option<String>, ConfigError> {
        Ok(self.secrets.get(name).cloned())
    }

    fn needed(&self, section: &str, key: &str) -> Result<Found, ConfigError> {
        let missing = || ConfigError::Missing { section: section.to_lowercase(), key: key.to_lowercase() };
        self.find(section, key)?.ok_or_else(missing)
    }

    /// An option as text.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it is not set or cannot be used.
    pub fn text(&self, section: &str, key: &str) -> Result<String, ConfigError> {
        self.needed(section, key).map(|found| found.value)
    }

    /// An option as `true` or `false`: `t`, `true`, `1`, `f`, `false`, `0` in any case; what follows `#` is left out.
    ///
    /// # Errors
    ///
    /// As [`text`](Self::text).
    pub fn boolean(&self, section: &str, key: &str) -> Result<bool, ConfigError> {
        let found = self.needed(section, key)?;
        parse_bool(&found.value).ok_or_else(|| Self::invalid(section, key, &found, "`true` or `false`"))
    }

    /// An option as a whole number.
    ///
    /// # Errors
    ///
    /// As [`text`](Self::text).
    pub fn int(&self, section: &str, key: &str) -> Result<i128, ConfigError> {
        let found = self.needed(section, key)?;
        parse_int(&found.value).ok_or_else(|| Self::invalid(section, key, &found, "a whole number"))
    }

    /// An option as a number.
    ///
    /// # Errors
    ///
    /// As [`text`](Self::text).
    pub fn float(&self, section: &str, key: &str) -> Result<f64, ConfigError> {
        let found = self.needed(section, key)?;
        python_float(&found.value).ok_or_else(|| Self::invalid(section, key, &found, "a number"))
    }

    /// An option as texts separated by commas.
    ///
    /// # Errors
    ///
    /// As [`text`](Self::text).
    pub fn list(&self, section: &str, key: &str) -> Result<Vec<String>, ConfigError> {
        let text = self.text(section, key)?;
        Ok(text.split(',').map(|item| python_strip(item).to_owned()).collect())
    }

    /// An option as JSON; `None` if it is empty.
    ///
    /// # Errors
    ///
    /// As [`text`](Self::text).
    pub fn json(&self, section: &str, key: &str) -> Result<Option<Value>, ConfigError> {
        let found = self.needed(section, key)?;
        if found.value.is_empty() {
            return Ok(None);
        }
        let json = serde_json::from_str(&found.value);
        json.map(Some).map_err(|_| Self::invalid(section, key, &found, "JSON"))
    }

    /// An option as a timespan in whole seconds; `None` if it is empty.
    ///
    /// # Errors
    ///
    /// As [`text`](Self::text).
    pub fn seconds(&self, section: &str, key: &str) -> Result<Option<TimeDelta>, ConfigError> {
        let found = self.needed(section, key)?;
        if found.value.is_empty() {
            return Ok(None);
        }
        let seconds = parse_int(&found.value).filter(|n| n.abs() <= MAX_TIMEDELTA);
        let span = seconds.and_then(|n| i64::try_from(n).ok()).and_then(TimeDelta::try_seconds);
        span.map(Some).ok_or_else(|| Self::invalid(section, key, &found, "a whole number of seconds"))
    }

    /// That a value is of another kind than `wanted`.
    pub(crate) fn invalid(section: &str, key: &str, found: &Found, wanted: &str) -> ConfigError {
        let (section, key) = (section.to_lowercase(), key.to_lowercase());
        let secret = Self::is_sensitive(&section, &key);
        let value = if secret { crate::secret::HIDDEN.to_owned() } else { found.value.clone() };
        let source_name = found.source.to_string();
        ConfigError::Invalid { section, key, source_name, value, wanted: wanted.to_owned() }
    }
}

/// Fetches a value that an option only points to.
type Fetch = fn(&Config, &str, &str, &str) -> Result<Option<String>, ConfigError>;

/// A value as `true` or `false`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    let text = text.to_lowercase();
    match python_strip(text.split('#').next().unwrap_or_default()) {
        "t" | "true" | "1" => Some(true),
        "f" | "false" | "0" => Some(false),
        _ => None,
    }
}

/// A value as a whole number.
pub(crate) fn parse_int(text: &str) -> Option<i128> {
    python_int(text)?.parse().ok()
}

#[cfg(test)]
mod tests;
