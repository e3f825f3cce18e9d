//! The log of the process: to standard error, or to standard output while tasks are tested. Task logs go to their
//! files besides.

use std::io::Write;

use airflow_core::attempt::log::TaskLogLayer;
use airflow_core::mask::Masker;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::Cli;
use crate::cx::Cx;

/// Installs the log, unless the program has installed one.
pub(crate) fn install(cx: &mut Cx<'_>, cli: &Cli) {
    if !cx.host.is_process() || tracing::dispatcher::has_been_set() {
        return;
    }
    let configured = level(cx.settings.all.text("logging", "logging_level"));
    let masker = cx.masker().clone();
    let host = &*cx.host;
    let tells = cli.command.is_role() || cli.command.tests_tasks();
    let shown = match cli.global.verbose {
        0 if tells => configured,
        // A short command answers; it tells of its steps only if it is asked to.
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let in_files = configured.max(shown);
    let colors = host.env("NO_COLOR").is_none();
    let format = tracing_subscriber::fmt::layer().with_target(false);
    let to_stdout = cli.command.tests_tasks();
    let layer = if to_stdout {
        format.with_ansi(host.colors()).with_writer(move || Masked(std::io::stdout(), masker.clone())).boxed()
    } else {
        format
            .with_ansi(colors && host.draws_progress())
            .with_writer(move || Masked(std::io::stderr(), masker.clone()))
            .boxed()
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

fn level(name: &str) -> LevelFilter {
    match name.to_uppercase().as_str() {
        "DEBUG" => LevelFilter::DEBUG,
        "WARNING" | "WARN" => LevelFilter::WARN,
        "ERROR" | "CRITICAL" | "FATAL" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    }
}

/// Hides secrets in what is written; a line of the log comes as a whole.
struct Masked<W>(W, Masker);

impl<W: Write> Write for Masked<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.write_all(self.1.mask(&text).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}
