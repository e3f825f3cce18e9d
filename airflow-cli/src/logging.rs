//! The log of the process: to standard error, or to standard output while tasks are tested. Task logs go to their
//! files besides.

use airflow_core::attempt::log::TaskLogLayer;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::Cli;
use crate::home::variable;
use crate::host::Host;

/// Installs the log, unless the program has installed one.
pub(crate) fn install(host: &mut Host, cli: &Cli) {
    if !host.is_process() || tracing::dispatcher::has_been_set() {
        return;
    }
    let configured = host.env(&variable("logging", "logging_level")).map(level);
    if configured == Some(None) {
        host.note("warning: the logging level is none of DEBUG, INFO, WARNING, ERROR; INFO is used");
    }
    let configured = configured.flatten();
    let tells = cli.command.is_role() || cli.command.tests_tasks();
    let shown = match cli.global.verbose {
        0 if tells => configured.unwrap_or(LevelFilter::INFO),
        // A short command answers; it tells of its steps only if it is asked to.
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let in_files = configured.unwrap_or(LevelFilter::INFO).max(shown);
    let colors = host.env("NO_COLOR").is_none();
    let format = tracing_subscriber::fmt::layer().with_target(false);
    let to_stdout = cli.command.tests_tasks();
    let layer = if to_stdout {
        format.with_ansi(host.colors()).with_writer(std::io::stdout).boxed()
    } else {
        format.with_ansi(colors && host.draws_progress()).with_writer(std::io::stderr).boxed()
    };
    // What libraries say about themselves is of use in details only.
    let quiet =
        |level: LevelFilter| Targets::new().with_default(level).with_target("sqlx", LevelFilter::WARN);
    let registry = tracing_subscriber::registry()
        .with(layer.with_filter(quiet(shown)))
        .with(TaskLogLayer.with_filter(quiet(in_files)));
    // Somebody else may have been faster; then theirs is used.
    let _ = registry.try_init();
}

fn level(name: &str) -> Option<LevelFilter> {
    match name.to_uppercase().as_str() {
        "DEBUG" => Some(LevelFilter::DEBUG),
        "INFO" => Some(LevelFilter::INFO),
        "WARNING" | "WARN" => Some(LevelFilter::WARN),
        "ERROR" | "CRITICAL" => Some(LevelFilter::ERROR),
        _ => None,
    }
}
