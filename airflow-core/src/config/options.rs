//! The options of `airflow.cfg` that have an effect here, what they are by default, and what they say: [`Settings`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Config, ConfigError, Found, Source, parse_bool, parse_int};
use crate::id::suggestion;
use crate::mask::MaskRules;
use crate::secret::HIDDEN;

/// What an option may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Boolean,
    /// A whole number, at least this.
    Number(i128),
    /// A whole number of seconds, at least this.
    Seconds(i128),
    Zone,
    Level,
    Keys,
    /// The name of a secrets backend.
    Backend,
    /// A JSON object.
    Object,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// An option that has an effect.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Its section.
    pub section: &'static str,
    /// Its name.
    pub key: &'static str,
    /// Its value if nobody says anything; `{home}` is the home of the program.
    pub default: &'static str,
    /// What it does.
    pub what: &'static str,
    kind: Kind,
}

const fn known(
    section: &'static str,
    key: &'static str,
    default: &'static str,
    kind: Kind,
    what: &'static str,
) -> Known {
    Known { section, key, default, what, kind }
}

/// Every option that has an effect, by section and name.
#[rustfmt::skip]
pub const OPTIONS: &[Known] = &[
    known("broker", "delivery_limit", "50", Kind::Number(1), "how often RabbitMQ delivers a message before it is set aside"),
    known("broker", "max_length", "", Kind::Number(1), "the most messages of a queue of RabbitMQ; what is more is sent later"),
    known("broker", "prefix", "", Kind::Text, "what names at the broker begin with; `airflow:` on Redis and `airflow.` on RabbitMQ if empty"),
    known("broker", "queue_type", "quorum", Kind::OneOf(&["quorum", "classic"]), "how RabbitMQ keeps queues: quorum or classic"),
    known("broker", "signing_keys", "", Kind::Text, "keys that sign messages, separated by commas; the first signs. If empty, one that is kept in the database"),
    known("celery", "broker_url", "", Kind::Text, "the broker between schedulers and workers: redis:// or amqp://; further ones after `;`"),
    known("celery", "ssl_active", "False", Kind::Boolean, "whether the broker is spoken to with TLS, whatever its address says"),
    known("celery", "ssl_cacert", "", Kind::Text, "the file with the certificate of the authority that is trusted"),
    known("celery", "ssl_cert", "", Kind::Text, "the file with the certificate of this program, for the broker"),
    known("celery", "ssl_key", "", Kind::Text, "the file with the key of that certificate"),
    known("celery", "ssl_mutual_tls", "True", Kind::Boolean, "whether that certificate is shown"),
    known("celery", "worker_autoscale", "", Kind::Text, "at most and at least how many tasks run at once in a worker, such as 16,4; worker_concurrency does not count then"),
    known("celery", "worker_concurrency", "16", Kind::Number(1), "tasks that run at once in a worker"),
    known("celery_broker_transport_options", "global_keyprefix", "", Kind::Text, "what keys in Redis begin with, if broker.prefix does not say"),
    known("celery_broker_transport_options", "master_name", "", Kind::Text, "the master that sentinels are asked for, if the address does not say"),
    known("celery_broker_transport_options", "sentinel_kwargs", "", Kind::Object, "the password of sentinels, as {\"password\": \"..\"}"),
    known("core", "check_slas", "True", Kind::Boolean, "whether the `sla` of tasks is looked at"),
    known("core", "dags_are_paused_at_creation", "False", Kind::Boolean, "whether new dags begin paused"),
    known("core", "default_pool_task_slot_count", "128", Kind::Number(-1), "slots of `default_pool` in a new database"),
    known("core", "default_task_execution_timeout", "", Kind::Seconds(1), "seconds an attempt may take, for tasks without a timeout"),
    known("core", "default_task_retries", "0", Kind::Number(0), "retries of tasks that say nothing"),
    known("core", "default_task_retry_delay", "300", Kind::Seconds(0), "seconds before a retry, for tasks that say nothing"),
    known("core", "default_timezone", "utc", Kind::Zone, "zone of dags that name none"),
    known("core", "executor", "LocalExecutor", Kind::Text, "what runs tasks: LocalExecutor, SequentialExecutor, CeleryExecutor for workers; several with a comma"),
    known("core", "fernet_key", "", Kind::Keys, "keys that encrypt passwords, extras and variables, separated by commas; the first encrypts"),
    known("core", "hide_sensitive_var_conn_fields", "True", Kind::Boolean, "whether values with sensitive names are hidden"),
    known("core", "killed_task_cleanup_time", "60", Kind::Seconds(0), "seconds between the request to stop and the end of a task in a process of its own"),
    known("core", "max_active_runs_per_dag", "16", Kind::Number(1), "active runs of a dag that says nothing"),
    known("core", "max_active_tasks_per_dag", "16", Kind::Number(1), "active tasks of a dag that says nothing"),
    known("core", "max_map_length", "1024", Kind::Number(1), "instances a mapping may have"),
    known("core", "parallelism", "32", Kind::Number(1), "tasks that run at once in this process"),
    known("core", "sensitive_var_conn_names", "", Kind::Text, "further parts of sensitive names, separated by commas"),
    known("database", "sql_alchemy_conn", "sqlite://{home}/airflow.db", Kind::Text, "the database"),
    known("database", "sql_alchemy_max_overflow", "0", Kind::Number(-1), "connections to a database server beyond sql_alchemy_pool_size; -1 for as many as are needed"),
    known("database", "sql_alchemy_pool_pre_ping", "True", Kind::Boolean, "whether a connection is tried before it is used"),
    known("database", "sql_alchemy_pool_recycle", "1800", Kind::Number(-1), "seconds after which a connection is made anew; -1 for never"),
    known("database", "sql_alchemy_pool_size", "10", Kind::Number(1), "connections of a process to a database server, at least 3"),
    known("logging", "base_log_folder", "{home}/logs", Kind::Text, "folder of the task logs"),
    known("logging", "log_filename_template", super::LOG_TEMPLATE, Kind::Text, "where the log of an attempt lies in that folder"),
    known("logging", "logging_level", "INFO", Kind::Level, "DEBUG, INFO, WARNING or ERROR"),
    known("logging", "min_length_masked_secret", "5", Kind::Number(1), "the shortest secret that is hidden in logs"),
    known("logging", "ship_task_logs", "auto", Kind::Text, "whether task logs are kept in the database: always, never, or auto: with workers or a database on a server"),
    known("logging", "task_log_quota", "16777216", Kind::Number(0), "bytes of what a task says that are kept of one attempt"),
    known("logging", "worker_log_server_host", "", Kind::Text, "the address at which a worker serves its logs, if it does; all of its machine if empty"),
    known("logging", "worker_log_server_port", "8793", Kind::Number(0), "the port at which a worker serves its logs, if it does"),
    known("operators", "default_deferrable", "False", Kind::Boolean, "whether sensors that say nothing wait deferred, without a slot"),
    known("scheduler", "adopt_runs", "True", Kind::Boolean, "whether runs of versions that no scheduler has any more go on with the version that is there"),
    known("scheduler", "job_heartbeat_sec", "5", Kind::Seconds(1), "seconds between signs of life of a process"),
    known("scheduler", "scheduler_health_check_threshold", "20", Kind::Seconds(3), "seconds without a sign of life after which a process is dead"),
    known("scheduler", "scheduler_idle_sleep_time", "1", Kind::Seconds(1), "seconds between looks for changes by other processes"),
    known("scheduler", "use_job_schedule", "True", Kind::Boolean, "whether timetables make runs"),
    known("secrets", "backend", "", Kind::Backend, "a place for connections and variables that is asked before the others: `file`"),
    known("secrets", "backend_kwargs", "", Kind::Object, "arguments of that backend, a JSON object"),
    known("sensors", "default_timeout", "604800", Kind::Seconds(1), "seconds a sensor waits in all that says nothing"),
    known("webserver", "base_url", "", Kind::Text, "where the pages are that `ti.log_url` in templates points to; there is no address if empty"),
];

/// Sections whose options are all known: a name that is neither here nor Airflow's is a mistake.
const OWNED: [&str; 9] =
    ["broker", "celery", "core", "database", "logging", "operators", "scheduler", "secrets", "sensors"];

/// Airflow's section for what Celery's clients of brokers know.
const TRANSPORT_OPTIONS: &str = "celery_broker_transport_options";

/// Options of these sections that Airflow has and that have no effect here.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    (
        "celery",
        "celery_app_name celery_config_options extra_celery_config flower_basic_auth flower_host flower_port \
        flower_url_prefix operation_timeout pool result_backend result_backend_sqlalchemy_engine_options \
        stalled_task_timeout sync_parallelism task_acks_late \
        task_adoption_timeout task_publish_max_retries task_track_started worker_enable_remote_control \
        worker_precheck worker_prefetch_multiplier worker_umask",
    ),
    (
        "core",
        "auth_manager allowed_deserialization_classes allowed_deserialization_classes_regexp \
        compress_serialized_dags daemon_umask dag_file_processor_timeout dag_ignore_file_syntax \
        dag_run_conf_overrides_params dagbag_import_error_traceback_depth dagbag_import_error_tracebacks \
        dagbag_import_timeout dags_folder database_access_isolation dataset_manager_class dataset_manager_kwargs \
        default_impersonation default_task_weight_rule donot_pickle enable_xcom_pickling execution_api_server_url \
        execute_tasks_new_python_interpreter hostname_callable internal_api_url internal_api_secret_key \
        lazy_discover_providers lazy_load_plugins load_examples max_consecutive_failed_dag_runs_per_dag \
        max_num_rendered_ti_fields_per_task max_task_retry_delay max_templated_field_length might_contain_dag_callable \
        min_serialized_dag_fetch_interval min_serialized_dag_update_interval mp_start_method multi_team plugins_folder \
        security simple_auth_manager_all_admins simple_auth_manager_users simple_auth_manager_passwords_file \
        strict_asset_uri_validation strict_dataset_uri_validation task_runner task_success_overtime test_connection \
        unit_test_mode xcom_backend default_task_queued_timeout num_dag_runs_to_retain_rendered_fields asset_manager_class \
        asset_manager_kwargs dag_concurrency sql_alchemy_conn base_log_folder log_filename_template logging_level",
    ),
    (
        "database",
        "alembic_ini_file_path check_migrations external_db_managers load_default_connections max_db_retries \
        migration_batch_size sql_alchemy_connect_args sql_alchemy_engine_args \
        sql_alchemy_pool_enabled sql_alchemy_schema \
        sql_alchemy_session_maker sql_alchemy_conn_async sql_engine_collation_for_ids sql_engine_encoding",
    ),
    (
        "logging",
        "azure_remote_log_level callsite_parameters celery_logging_level celery_stdout_stderr_separation \
        color_log_error_keywords color_log_warning_keywords colored_console_log colored_formatter_class colored_log_format \
        dag_processor_child_process_log_directory dag_processor_log_format dag_processor_log_target \
        dag_processor_manager_log_location dag_processor_manager_log_stdout delete_local_logs enable_task_context_logger \
        encrypt_s3_logs extra_logger_names fab_logging_level file_task_handler_new_file_permissions \
        file_task_handler_new_folder_permissions google_key_path interleave_timestamp_parser json_logs \
        log_format log_formatter_class log_processor_filename_template logging_config_class namespace_levels \
        remote_base_log_folder remote_log_conn_id remote_logging remote_task_handler_kwargs secret_mask_adapter \
        simple_log_format task_log_prefix_template task_log_reader trigger_log_server_port",
    ),
    (
        "operators",
        "allow_illegal_arguments default_cpus default_disk default_gpus default_owner default_queue default_ram",
    ),
    ("secrets", "cache_ttl_seconds use_cache"),
    (
        "scheduler",
        "allow_trigger_in_future allowed_run_id_pattern catchup_by_default child_process_log_directory \
        create_cron_data_intervals create_delta_data_intervals dag_dir_list_interval dag_stale_not_seen_duration \
        enable_health_check enable_tracemalloc file_parsing_sort_mode ignore_first_depends_on_past_by_default \
        local_task_job_heartbeat_sec max_callbacks_per_loop max_dagruns_per_loop_to_schedule \
        max_dagruns_to_create_per_loop max_tis_per_query min_file_process_interval num_runs num_stuck_in_queued_retries \
        orphaned_tasks_check_interval parsing_cleanup_interval parsing_pre_import_modules parsing_processes \
        pool_metrics_interval print_stats_interval running_metrics_interval scheduler_health_check_server_host \
        scheduler_health_check_server_port scheduler_heartbeat_sec scheduler_zombie_task_threshold schedule_after_task_execution \
        standalone_dag_processor stalled_task_timeout task_instance_heartbeat_sec task_instance_heartbeat_timeout \
        task_instance_heartbeat_timeout_detection_interval task_queued_timeout task_queued_timeout_check_interval \
        trigger_timeout_check_interval use_row_level_locking zombie_detection_interval",
    ),
];

/// Secrets backends that a configuration can name, and what each is: our name, and that of the class in Airflow.
const BACKENDS: [(&str, &str); 2] =
    [("file", "file"), ("airflow.secrets.local_filesystem.LocalFilesystemBackend", "file")];

/// The values of all options, checked.
#[derive(Clone)]
pub struct Settings {
    home: PathBuf,
    config: Config,
    values: BTreeMap<(&'static str, &'static str), Found>,
}

/// Secrets are not shown.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown =
            self.shown().map(|(option, value, _)| (format!("{}.{}", option.section, option.key), value));
        f.debug_map().entries(shown).finish()
    }
}

/// The defaults of all options.
impl Default for Settings {
    fn default() -> Self {
        Self::read(&Config::default(), "airflow_home").expect("what stands in the table makes sense")
    }
}

/// What is wrong or without effect in a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lint {
    /// Mistakes: names that nobody knows, values that make no sense.
    pub errors: Vec<String>,
    /// Options of Airflow that have no effect here.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads all options, for a program whose files are in `home`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a value that makes no sense.
    pub fn read(config: &Config, home: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let home = home.into();
        let mut values = BTreeMap::new();
        for option in OPTIONS {
            let found = option.read(config, &home)?;
            values.insert((option.section, option.key), found);
        }
        Ok(Self { home, config: config.clone(), values })
    }

    /// What anybody may read, by name: an option of the table or any other one of the file and the environment, such as
    /// those of a section of one's own.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Secret`] for what is secret, by its option or by its name; [`ConfigError::Missing`].
    pub fn public(&self, section: &str, key: &str) -> Result<String, ConfigError> {
        let (section, key) = (section.to_lowercase(), key.to_lowercase());
        if Config::is_sensitive(&section, &key) || self.mask_rules().is_sensitive(&key) {
            return Err(ConfigError::Secret { section, key });
        }
        match find(&section, &key) {
            Some(option) => Ok(self.text(option.section, option.key).to_owned()),
            None => self.config.text(&section, &key),
        }
    }

    /// The home of the program.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Every option with its value and where it comes from; secrets are `***`.
    pub fn shown(&self) -> impl Iterator<Item = (&'static Known, String, &Source)> {
        OPTIONS.iter().map(|option| {
            let found = self.found(option.section, option.key);
            (option, option.shown(&found.value), &found.source)
        })
    }

    /// Replaces a value: an argument or the program itself says otherwise.
    ///
    /// # Panics
    ///
    /// If there is no such option.
    pub fn set(&mut self, section: &str, key: &str, value: impl ToString, source: Source) {
        let option = find(section, key).expect("an option of the table");
        self.values.insert((option.section, option.key), Found { value: value.to_string(), source });
    }

    /// An option that is a whole number, or `None` if it is empty.
    ///
    /// # Panics
    ///
    /// If there is no such option.
    pub fn maybe_number<T: TryFrom<i128> + Default>(&self, section: &str, key: &str) -> Option<T> {
        (!self.text(section, key).is_empty()).then(|| self.number(section, key))
    }

    /// The value of an option as text, and where it comes from.
    ///
    /// # Panics
    ///
    /// If there is no such option.
    pub fn found(&self, section: &str, key: &str) -> &Found {
        let option = find(section, key).expect("an option of the table");
        &self.values[&(option.section, option.key)]
    }

    /// The value of an option as text.
    ///
    /// # Panics
    ///
    /// If there is no such option.
    pub fn text(&self, section: &str, key: &str) -> &str {
        &self.found(section, key).value
    }

    /// Whether somebody has set an option.
    ///
    /// # Panics
    ///
    /// If there is no such option.
    pub fn is_set(&self, section: &str, key: &str) -> bool {
        self.found(section, key).source != Source::Default
    }

    /// An option that is `true` or `false`.
    ///
    /// # Panics
    ///
    /// If there is no such option.
    pub fn boolean(&self, section: &str, key: &str) -> bool {
        parse_bool(self.text(section, key)).unwrap_or_default()
    }

    /// An option that is a whole number; the nearest that `T` can hold.
    ///
    /// # Panics
    ///
    /// If there is no such option.
    pub fn number<T: TryFrom<i128> + Default>(&self, section: &str, key: &str) -> T {
        let number = parse_int(self.text(section, key)).unwrap_or_default();
        T::try_from(number).or_else(|_| T::try_from(i128::from(i32::MAX))).unwrap_or_default()
    }

    /// An option that is a timespan; `None` if it is empty.
    ///
    /// # Panics
    ///
    /// If there is no such option.
    pub fn seconds(&self, section: &str, key: &str) -> Option<Duration> {
        let seconds = parse_int(self.text(section, key))?;
        u64::try_from(seconds).ok().map(Duration::from_secs)
    }

    /// Which secrets backend is named, by our name, and its arguments.
    pub fn secrets_backend(&self) -> Option<(&'static str, serde_json::Map<String, serde_json::Value>)> {
        let name = self.text("secrets", "backend");
        let (_, ours) = BACKENDS.iter().find(|(known, _)| *known == name)?;
        let args = serde_json::from_str(self.text("secrets", "backend_kwargs")).unwrap_or_default();
        Some((ours, args))
    }

    /// What is hidden in logs.
    pub fn mask_rules(&self) -> MaskRules {
        let names = self.text("core", "sensitive_var_conn_names").split(',');
        MaskRules {
            by_name: self.boolean("core", "hide_sensitive_var_conn_fields"),
            more_names: names
                .map(|name| name.trim().to_lowercase())
                .filter(|name| !name.is_empty())
                .collect(),
            min_length: self.number("logging", "min_length_masked_secret"),
        }
    }
}

impl Lint {
    /// Looks at everything that a file and the environment say.
    pub fn of(config: &Config, home: &Path) -> Self {
        let mut lint = Self::default();
        for (section, keys) in config.file().sections() {
            for key in keys {
                lint.name(section, key, &format!("[{section}] {key}"));
            }
        }
        for name in config.env().keys() {
            let parts = name.strip_prefix("AIRFLOW__").and_then(|rest| rest.split_once("__"));
            if let Some((section, key)) = parts {
                lint.name(&section.to_lowercase(), &key.to_lowercase(), name);
            }
        }
        for option in OPTIONS {
            if let Err(error) = option.read(config, home) {
                lint.errors.push(error.to_string());
            }
        }
        lint
    }

    fn name(&mut self, section: &str, key: &str, shown: &str) {
        let plain = |suffix: &str| {
            let plain = key.strip_suffix(suffix)?;
            Config::is_sensitive(section, plain).then_some(plain)
        };
        let key = plain("_cmd").or_else(|| plain("_secret")).unwrap_or(key);
        if find(section, key).is_some() {
            return;
        }
        if let Some((.., now, name)) = renamed(section, key) {
            self.warnings.push(format!("{shown}: the name is `{now}.{name}` now; the old one still works"));
            return;
        }
        if section == TRANSPORT_OPTIONS {
            // Whatever the client of a broker knows may stand there.
            self.warnings.push(format!("{shown}: has no effect here"));
            return;
        }
        if !OWNED.contains(&section) {
            self.warnings.push(format!("{shown}: the section has no effect here"));
            return;
        }
        let of_airflow = WITHOUT_EFFECT.iter().filter(|(of, _)| *of == section);
        if of_airflow.flat_map(|(_, keys)| keys.split_whitespace()).any(|known| known == key) {
            self.warnings.push(format!("{shown}: has no effect here"));
            return;
        }
        let ours = OPTIONS.iter().filter(|option| option.section == section);
        let hint = suggestion(key, ours.map(|option| option.key.to_owned()));
        self.errors.push(format!("{shown}: there is no option `{section}.{key}`{hint}"));
    }
}

fn find(section: &str, key: &str) -> Option<&'static Known> {
    OPTIONS.iter().find(|option| option.section == section && option.key == key)
}

fn renamed(section: &str, key: &str) -> Option<(&'static str, &'static str, &'static str, &'static str)> {
    let found = super::RENAMED.iter().find(|(.., s, k)| *s == section && *k == key)?;
    Some((found.2, found.3, found.0, found.1))
}

impl Known {
    /// Whether it is never shown.
    pub fn is_sensitive(&self) -> bool {
        Config::is_sensitive(self.section, self.key)
    }

    /// A value of it for people: secrets and passwords in addresses are `***`.
    fn shown(&self, value: &str) -> String {
        if !self.is_sensitive() || value.is_empty() {
            return value.to_owned();
        }
        match value.split_once("://") {
            // An address says where; only what stands in front of the host is secret.
            Some((scheme, rest)) if self.key == "sql_alchemy_conn" => {
                let (before, after) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
                let host = before.rsplit_once('@').map_or(before, |(_, host)| host);
                let mark = if host.len() < before.len() { format!("{HIDDEN}@") } else { String::new() };
                let after = after.split('?').next().unwrap_or_default();
                format!("{scheme}://{mark}{host}{after}")
            }
            _ => HIDDEN.to_owned(),
        }
    }

    fn read(&self, config: &Config, home: &Path) -> Result<Found, ConfigError> {
        let Some(mut found) = config.find(self.section, self.key)? else {
            let value = self.default.replace("{home}", &home.display().to_string());
            return Ok(Found { value, source: Source::Default });
        };
        if self.is_sensitive() {
            // Commands end what they write with a line break.
            found.value.truncate(found.value.trim_end_matches(['\n', '\r']).len());
        }
        if self.kind == Kind::Zone && found.value.eq_ignore_ascii_case("utc") {
            "UTC".clone_into(&mut found.value);
        }
        let wanted = self.wanted(&found.value);
        wanted
            .map_or(Ok(found.clone()), |wanted| Err(Config::invalid(self.section, self.key, &found, &wanted)))
    }

    /// What a value should be, if it is something else.
    fn wanted(&self, value: &str) -> Option<String> {
        let number = |least: i128, what: &str| match parse_int(value) {
            Some(number) if number >= least && i32::try_from(number).is_ok() => None,
            _ => Some(format!("{what} from {least} to {}", i32::MAX)),
        };
        match self.kind {
            Kind::Text => None,
            Kind::Boolean => parse_bool(value).is_none().then(|| "`True` or `False`".to_owned()),
            Kind::Seconds(_) if value.is_empty() && self.default.is_empty() => None,
            Kind::Seconds(least) => number(least, "a number of seconds"),
            Kind::Number(_) if value.is_empty() && self.default.is_empty() => None,
            Kind::Number(least) => number(least, "a whole number"),
            Kind::OneOf(words) if words.contains(&value) => None,
            Kind::OneOf(words) => Some(format!("`{}`", words.join("` or `"))),
            Kind::Zone => crate::timetable::parse_zone(value)
                .is_err()
                .then(|| "the name of a time zone, such as `Europe/Berlin` or `utc`".to_owned()),
            Kind::Level => {
                let known = ["DEBUG", "INFO", "WARNING", "WARN", "ERROR", "CRITICAL", "FATAL"];
                let is_known = known.contains(&value.to_uppercase().as_str());
                (!is_known).then(|| "DEBUG, INFO, WARNING or ERROR".to_owned())
            }
            Kind::Backend if value.is_empty() || BACKENDS.iter().any(|(name, _)| *name == value) => None,
            Kind::Backend => {
                let ours: Vec<&str> = BACKENDS.iter().map(|(name, _)| *name).collect();
                let ours = ours.join("`, `");
                Some(format!("one of `{ours}`; other backends are given in code, with `secrets_backend(..)`"))
            }
            Kind::Object if value.is_empty() => None,
            Kind::Object => {
                let is_object = serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(value).is_ok();
                (!is_object).then(|| {
                    "a JSON object, such as `{\"connections_file_path\": \"/etc/x.json\"}`".to_owned()
                })
            }
            Kind::Keys => crate::fernet::Fernet::new(value).err().map(|error| error.to_string()),
        }
    }
}
