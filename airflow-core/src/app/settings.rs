//! What `airflow.cfg` and the environment say, handed to an application.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::attempt::log::LogTemplate;
use crate::config::options::Settings;
use crate::id::suggestion;
use crate::operator::SensorMode;
use crate::secrets::FileSecrets;

use super::AirflowBuilder;

impl AirflowBuilder {
    /// Begins with these settings; what is said to the builder afterwards wins. They do not choose the store and the
    /// executor, and set the folder of the logs only if somebody named one.
    ///
    /// ```
    /// use airflow_core::app::Airflow;
    /// use airflow_core::config::{Config, options::Settings};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = Config::parse("[core]\ndefault_task_retries = 2\n")?.with_env(std::env::vars());
    /// let builder = Airflow::builder().settings(&Settings::read(&config, "airflow_home")?);
    /// # drop(builder);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn settings(mut self, settings: &Settings) -> Self {
        let number = |key| settings.number::<u32>("core", key);
        let set = |key| settings.is_set("core", key);
        let defaults = &mut self.defaults;
        if set("default_timezone") {
            defaults.timezone = Some(settings.text("core", "default_timezone").to_owned());
        }
        if set("max_active_runs_per_dag") {
            defaults.max_active_runs = Some(number("max_active_runs_per_dag"));
        }
        if set("max_active_tasks_per_dag") {
            defaults.max_active_tasks = Some(number("max_active_tasks_per_dag"));
        }
        if set("default_task_retries") {
            defaults.task.retries = Some(number("default_task_retries"));
        }
        if set("default_task_retry_delay") {
            defaults.task.retry_delay = settings.seconds("core", "default_task_retry_delay");
        }
        if set("check_slas") {
            defaults.check_slas = Some(settings.boolean("core", "check_slas"));
        }
        defaults.task.timeout = settings.seconds("core", "default_task_execution_timeout");
        if settings.is_set("sensors", "default_timeout") {
            defaults.sensor.timeout = settings.seconds("sensors", "default_timeout");
        }
        if settings.is_set("operators", "default_deferrable") {
            let deferred = settings.boolean("operators", "default_deferrable");
            defaults.sensor.mode = Some(if deferred { SensorMode::Deferred } else { SensorMode::Poke });
        }
        if set("default_pool_task_slot_count") {
            self.default_pool = Some(settings.number("core", "default_pool_task_slot_count"));
        }
        let scheduler = &mut self.scheduler;
        scheduler.paused_at_creation = settings.boolean("core", "dags_are_paused_at_creation");
        scheduler.max_map_length = settings.number("core", "max_map_length");
        scheduler.adopt_runs = settings.boolean("scheduler", "adopt_runs");
        scheduler.use_schedules = settings.boolean("scheduler", "use_job_schedule");
        let seconds = |key| settings.seconds("scheduler", key);
        scheduler.beat = seconds("job_heartbeat_sec").unwrap_or(scheduler.beat);
        scheduler.lease = seconds("scheduler_health_check_threshold").unwrap_or(scheduler.lease);
        scheduler.poll_interval = seconds("scheduler_idle_sleep_time").unwrap_or(scheduler.poll_interval);
        if settings.is_set("logging", "base_log_folder") {
            self.runner.log_folder = Some(settings.text("logging", "base_log_folder").into());
        }
        self.runner.log_quota = settings.number("logging", "task_log_quota");
        match settings.text("logging", "ship_task_logs").parse() {
            Ok(shipping) => self.runner.log_shipping = shipping,
            Err(why) => self.wrong_settings = Some(format!("`logging.ship_task_logs`: {why}")),
        }
        self.runner.log_template = LogTemplate::new(settings.text("logging", "log_filename_template"));
        match settings.secrets_backend().map(|(_, args)| file_secrets(&args)) {
            Some(Ok(files)) => self.backends.push(files),
            Some(Err(why)) => self.wrong_settings = Some(format!("`secrets.backend_kwargs`: {why}")),
            None => {}
        }
        self.runner.settings = Arc::new(settings.clone());
        self.fernet_keys = Some(settings.text("core", "fernet_key").into());
        self.masker = self.masker.with_rules(settings.mask_rules());
        self
    }
}

/// The backend that reads files, with Airflow's names of arguments.
fn file_secrets(args: &Map<String, Value>) -> Result<FileSecrets, String> {
    let mut files = FileSecrets::default();
    for (name, value) in args {
        let path = value.as_str().ok_or_else(|| format!("`{name}` is no path: {value}"))?;
        let read = match name.as_str() {
            "connections_file_path" => files.with_connections(path),
            "variables_file_path" => files.with_variables(path),
            other => {
                let known = ["connections_file_path", "variables_file_path"];
                let hint = suggestion(other, known.map(str::to_owned).into_iter());
                return Err(format!("the backend has no argument `{other}`{hint}"));
            }
        };
        files = read.map_err(|error| error.to_string())?;
    }
    Ok(files)
}
