//! The command line of `airflow`: a program with dags gets every role and every admin command.
//!
//! Use it through the `airflow` crate. Start with [`cli`]; [`run_with`] is the same without a process around it. The
//! commands fetch and change through [`Airflow`](airflow_core::app::Airflow) and its store only, and decide nothing;
//! `output` is the one place that lays out what people see, `host` the one that touches the standard streams.

mod args;
mod assets;
mod attempts;
mod broker;
mod change;
mod config;
mod connections;
mod cx;
mod dag_info;
mod dags;
mod db;
mod doctor;
mod error;
mod fields;
mod home;
mod host;
mod jobs;
mod letters;
mod logging;
mod logs;
mod orders;
mod output;
mod pools;
mod progress;
mod queues;
mod roles;
mod runs;
mod screen;
mod tasks;
mod top;
mod variables;
mod workers;
mod xcom;
mod yaml;

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt::Display;
use std::process::ExitCode;

use airflow_core::app::AirflowBuilder;
use clap::{CommandFactory as _, FromArgMatches as _};

use args::{Cli, Command};
use cx::Cx;
use error::CliError;

pub use host::Host;

/// Runs the command line of a program with dags.
///
/// `make` adds dags, resources and, if the defaults do not fit, a store and an executor. It is called only if the
/// command needs them: `version` and `completions` do not. Without a store the program uses
/// `$AIRFLOW_HOME/airflow.db`, or the folder `airflow_home` if `AIRFLOW_HOME` is not set.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     airflow_cli::cli(|builder| builder.discovered_dags())
/// }
/// ```
pub fn cli(make: impl FnOnce(AirflowBuilder) -> AirflowBuilder) -> ExitCode {
    cli_async(async move |builder| Ok::<_, Infallible>(make(builder)))
}

/// As [`cli`], for a program that must await something to put itself together, or that may fail at it.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     airflow_cli::cli_async(async |builder| {
///         let address = std::fs::read_to_string("warehouse.txt")?;
///         Ok::<_, std::io::Error>(builder.resource(address).discovered_dags())
///     })
/// }
/// ```
pub fn cli_async<F, E>(make: F) -> ExitCode
where
    F: AsyncFnOnce(AirflowBuilder) -> Result<AirflowBuilder, E>,
    E: Display,
{
    let mut host = Host::process();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(run_with(std::env::args_os(), make, &mut host));
            // Blocking task code that was given up must not keep the process alive.
            runtime.shutdown_background();
            ExitCode::from(code)
        }
        Err(error) => {
            host.error(&format!("cannot start a runtime: {error}"));
            ExitCode::from(error::FAILED)
        }
    }
}

/// Runs one command with these arguments, the first of which is the name of the program, and returns its exit code:
/// 0 done, 1 failed, 2 wrong arguments. Needs a tokio runtime.
pub async fn run_with<I, A, F, E>(args: I, make: F, host: &mut Host) -> u8
where
    I: IntoIterator<Item = A>,
    A: Into<OsString> + Clone,
    F: AsyncFnOnce(AirflowBuilder) -> Result<AirflowBuilder, E>,
    E: Display,
{
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let result = match parse(&args) {
        Ok((cli, program)) => execute(cli, program, make, host).await,
        Err(error) => Err(CliError::Clap(error)),
    };
    match result {
        Ok(()) => error::DONE,
        Err(error) => error.report(host),
    }
}

/// Reads the arguments; help speaks of the program by its own name.
fn parse(args: &[OsString]) -> Result<(Cli, String), clap::Error> {
    let program = args.first().map(std::path::Path::new).and_then(std::path::Path::file_name);
    let program = program.map_or_else(|| "airflow".to_owned(), |name| name.to_string_lossy().into_owned());
    let command = Cli::command().display_name(program.clone()).bin_name(program.clone());
    let matches = command.try_get_matches_from(args)?;
    Ok((Cli::from_arg_matches(&matches)?, program))
}

async fn execute<F, E>(cli: Cli, program: String, make: F, host: &mut Host) -> Result<(), CliError>
where
    F: AsyncFnOnce(AirflowBuilder) -> Result<AirflowBuilder, E>,
    E: Display,
{
    match &cli.command {
        Command::Version => return Ok(host.line(env!("CARGO_PKG_VERSION"))?),
        Command::Completions { shell } => {
            let mut command = Cli::command();
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut command, program, &mut script);
            return Ok(host.raw(&String::from_utf8_lossy(&script))?);
        }
        _ => {}
    }
    let leniently = matches!(cli.command, Command::Config(_));
    let mut cx = Cx::new(host, &cli.global, program, leniently)?;
    logging::install(&mut cx, &cli);
    let defaults = cx.defaults(&cli.command);
    let builder = make(defaults).await.map_err(|error| CliError::Failed(error.to_string()))?;
    cx.given(builder).await?;
    #[cfg(unix)]
    if airflow_core::attempt::process::AttemptProcess::is_awaited() {
        return cx.attempt().await;
    }
    cx.note_lint(cli.command.is_role());
    match cli.command {
        Command::Standalone(args) => roles::standalone(&mut cx, args).await,
        Command::Scheduler(args) => roles::scheduler(&mut cx, args).await,
        Command::Worker(args) => workers::worker(&mut cx, args).await,
        Command::Workers(command) => workers::run(&mut cx, command).await,
        Command::Queues(command) => queues::run(&mut cx, command).await,
        Command::DeadLetters(command) => letters::run(&mut cx, command).await,
        Command::Dags(command) => dags::run(&mut cx, command).await,
        Command::Tasks(command) => tasks::run(&mut cx, command).await,
        Command::Assets(command) => assets::run(&mut cx, command).await,
        Command::Pools(command) => pools::run(&mut cx, command).await,
        Command::Variables(command) => variables::run(&mut cx, command).await,
        Command::Connections(command) => connections::run(&mut cx, command).await,
        Command::RotateFernetKey => connections::rotate(&mut cx).await,
        Command::Xcom(command) => xcom::run(&mut cx, command).await,
        Command::Db(command) => db::run(&mut cx, command).await,
        Command::Doctor(format) => doctor::run(&mut cx, format).await,
        Command::Health => jobs::health(&mut cx).await,
        Command::Jobs(command) => jobs::run(&mut cx, command).await,
        Command::Config(command) => config::run(&mut cx, command),
        Command::Info(format) => config::info(&mut cx, format).await,
        Command::Version | Command::Completions { .. } => Ok(()),
    }
}
