use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::options::{Lint, OPTIONS, Settings};
use super::*;

fn config(text: &str) -> Config {
    Config::parse(text).expect("a configuration")
}

/// Goal: of all the ways to set a secret option the one that Airflow takes wins. Method: take away the winner, one by one.
#[test]
fn the_places_of_a_secret_option_have_airflows_order() {
    let mut env: BTreeMap<String, String> = [
        ("AIRFLOW__CORE__FERNET_KEY", "plain"),
        ("AIRFLOW__CORE__FERNET_KEY_CMD", "echo command"),
        ("AIRFLOW__CORE__FERNET_KEY_SECRET", "path/one"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let mut lines =
        vec!["fernet_key = file", "fernet_key_cmd = echo file-command", "fernet_key_secret = path/two"];
    let secrets: BTreeMap<String, String> =
        [("path/one".into(), "secret".into()), ("path/two".into(), "file-secret".into())].into();
    let mut order = Vec::new();
    loop {
        let config = config(&format!("[core]\n{}\n", lines.join("\n"))).with_env(env.clone());
        let config = config.with_secrets(secrets.clone());
        let Some(found) = config.find("core", "fernet_key").expect("usable") else { break };
        order.push(found.value.trim_end().to_owned());
        match &found.source {
            Source::Env(name) => _ = env.remove(name),
            _ => _ = lines.remove(0),
        }
    }
    assert_eq!(order, ["plain", "command", "secret", "file", "file-command", "file-secret"]);
}

#[test]
fn commands_and_secrets_are_for_secret_options_only() {
    let config = config("[core]\nparallelism_cmd = echo 3\n")
        .with_env([("AIRFLOW__CORE__MAX_MAP_LENGTH_CMD", "echo 3")]);
    assert_eq!(config.find("core", "parallelism"), Ok(None));
    assert_eq!(config.find("core", "max_map_length"), Ok(None));
}

#[test]
fn a_command_that_fails_says_why() {
    for (command, why) in [
        ("false", "failed with exit status: 1"),
        ("no-such-program x", "`no-such-program` cannot be started"),
        ("echo 'open", "a ' is not closed"),
        ("", "it is empty"),
    ] {
        let config = config("").with_env([("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD", command)]);
        let error = config.find("database", "sql_alchemy_conn").expect_err(command).to_string();
        assert!(error.starts_with("`database.sql_alchemy_conn`") && error.contains(why), "{error}");
    }
}

/// Goal: a command that asks for a password asks once. Method: it counts its calls in a file.
#[test]
fn a_command_runs_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("calls");
    let command = format!("sh -c 'echo x >> {0}; cat {0}'", file.display());
    let config = config("").with_env([("AIRFLOW__CORE__FERNET_KEY_CMD", command)]);
    for config in [&config, &config.clone()] {
        assert_eq!(config.text("core", "fernet_key").as_deref(), Ok("x\n"));
    }
}

#[test]
fn variables_that_name_each_other_end_in_an_error() {
    let config = config("[core]\nx = $A\n").with_env([("A", "$B$B"), ("B", "$A")]);
    assert!(matches!(config.text("core", "x"), Err(ConfigError::Expansion { .. })));
    let config = config.with_env([("A", "/a/$C"), ("C", "c")]);
    assert_eq!(config.text("core", "x").as_deref(), Ok("/a/c"));
}

#[test]
fn an_old_name_still_works_and_says_so() {
    let config = config("[core]\ndag_concurrency = 7\n");
    let settings = Settings::read(&config, "home").expect("settings");
    let found = settings.found("core", "max_active_tasks_per_dag");
    assert_eq!((found.value.as_str(), found.source.to_string()), ("7", "file (core.dag_concurrency)".into()));
    let lint = Lint::of(&config, Path::new("home"));
    assert!(lint.errors.is_empty() && lint.warnings[0].contains("core.max_active_tasks_per_dag"), "{lint:?}");
}

/// Goal: a slip of the pen is an error with its cure, an option of Airflow without effect here a warning.
#[test]
fn unknown_options_are_errors_only_where_nobody_knows_them() {
    let config = config(
        "[core]\nparalelism = 3\nload_examples = False\n[celery]\nworker_umask = 4\n\
         [celery_broker_transport_options]\nvisibility_timeout = 9\nmaster_name = m\n[smtp]\nsmtp_port = 25\n",
    )
    .with_env([("AIRFLOW__SCHEDULER__USE_JOB_SCHEDUL", "True"), ("AIRFLOW__CORE__FERNET_KEY_CMD", "true")]);
    let lint = Lint::of(&config, Path::new("home"));
    assert_eq!(
        lint.errors,
        [
            "[core] paralelism: there is no option `core.paralelism`; did you mean `parallelism`?",
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDUL: there is no option `scheduler.use_job_schedul`; did you mean \
             `use_job_schedule`?"
        ]
    );
    assert_eq!(
        lint.warnings,
        [
            "[celery] worker_umask: has no effect here",
            "[celery_broker_transport_options] visibility_timeout: has no effect here",
            "[core] load_examples: has no effect here",
            "[smtp] smtp_port: the section has no effect here"
        ]
    );
}

#[test]
fn a_value_that_makes_no_sense_is_an_error_with_its_place() {
    for (section, key, value, wanted) in [
        ("core", "parallelism", "0", "a whole number from 1 to 2147483647"),
        ("core", "parallelism", "many", "a whole number from 1"),
        ("core", "default_timezone", "Mars/North", "the name of a time zone"),
        ("core", "default_task_retry_delay", "-1", "a number of seconds from 0"),
        ("core", "fernet_key", "short", "a key is 32 random bytes"),
        ("logging", "logging_level", "LOUD", "DEBUG, INFO, WARNING or ERROR"),
        ("scheduler", "use_job_schedule", "perhaps", "`True` or `False`"),
        ("broker", "queue_type", "mirrored", "`quorum` or `classic`"),
        ("broker", "max_length", "0", "a whole number from 1"),
        ("database", "sql_alchemy_pool_size", "0", "a whole number from 1"),
    ] {
        let name = Config::env_name(section, key);
        let config = config("").with_env([(name.as_str(), value)]);
        let error = Settings::read(&config, "home").expect_err(value).to_string();
        assert!(
            error.contains(&format!("`{section}.{key}` (env {name})")) && error.contains(wanted),
            "{error}"
        );
        assert_eq!(error.contains(value), key != "fernet_key", "{error}");
    }
}

#[test]
fn what_may_be_left_out_is_empty_or_a_number() {
    let read = |text: &str| Settings::read(&config(text), "home").expect("settings");
    assert_eq!(read("").maybe_number::<u32>("broker", "max_length"), None);
    assert_eq!(read("[broker]\nmax_length = 7\n").maybe_number::<u32>("broker", "max_length"), Some(7));
}

#[test]
fn every_default_is_a_value_of_its_kind() {
    for option in OPTIONS {
        let config = config("").with_env([(Config::env_name(option.section, option.key), option.default)]);
        assert!(Settings::read(&config, "home").is_ok(), "{}.{}", option.section, option.key);
    }
}

#[test]
fn settings_are_typed_and_secrets_are_not_shown() {
    let key = crate::fernet::Fernet::generate_key().expect("random bytes");
    let text = format!(
        "[core]\nfernet_key = {key}\ndefault_task_retry_delay = 30\nsensitive_var_conn_names = IBAN, ,pin \n\
         [database]\nsql_alchemy_conn = postgresql://u:p%%40ss@db:5432/airflow?sslkey=x\n"
    );
    let settings = Settings::read(&config(&text), "home").expect("settings");
    assert_eq!(settings.seconds("core", "default_task_retry_delay"), Some(Duration::from_secs(30)));
    assert_eq!(settings.seconds("core", "default_task_execution_timeout"), None);
    assert_eq!(settings.mask_rules().more_names, ["iban", "pin"]);
    assert_eq!(settings.text("core", "fernet_key"), key);
    assert_eq!(settings.text("logging", "base_log_folder"), "home/logs");
    let shown: BTreeMap<&str, String> =
        settings.shown().map(|(option, value, _)| (option.key, value)).collect();
    assert_eq!(shown["fernet_key"], "***");
    assert!(!format!("{settings:?} {:?}", config(&text)).contains(&key));
    assert_eq!(shown["sql_alchemy_conn"], "postgresql://***@db:5432/airflow");
}
