//! Attempts in processes of their own: the program is started again for each.
//!
//! Claims, limits and reports stay with the process that starts the others; what happens in those is in
//! `airflow_core::attempt::process`. [`ProcessRunner`] stands where a runner stands, so all executors have it.

#[cfg(unix)]
mod child;
#[cfg(unix)]
mod end;
#[cfg(unix)]
mod feed;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use airflow_core::dag::Isolation;
use airflow_core::executor::{AttemptRunner, LeaseWatch};
use airflow_core::operator::Cancel;
use airflow_core::plan::{Attempt, Outcome, Report};
use airflow_core::time::{Clock as _, SystemClock};
use async_trait::async_trait;

/// How long a process that was asked to stop may take; Airflow's `killed_task_cleanup_time`.
const KILL_AFTER: Duration = Duration::from_secs(60);

/// How the processes of attempts are started.
///
/// By default the program starts itself again with its own arguments and environment. It must then come to
/// [`AirflowBuilder::build`](airflow_core::app::AirflowBuilder::build), or to `airflow::cli`, with the same dags: there the attempt
/// runs, and the process ends. What the program does before, it does in each of these processes.
///
/// ```
/// use std::time::Duration;
///
/// use airflow_executors::ProcessCommand;
///
/// let command = ProcessCommand::default().env("MALLOC_ARENA_MAX", "2").kill_after(Duration::from_secs(5));
/// # drop(command);
/// ```
#[derive(Debug, Clone)]
pub struct ProcessCommand {
    program: PathBuf,
    name: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    kill_after: Duration,
}

impl Default for ProcessCommand {
    fn default() -> Self {
        let mut args = std::env::args_os();
        let name = args.next().unwrap_or_else(|| "airflow".into());
        Self { program: own_program(), name, args: args.collect(), env: Vec::new(), kill_after: KILL_AFTER }
    }
}

/// This program. On Linux by a name that leads to it even if another version has taken its place: the attempts need the
/// version that this process has.
fn own_program() -> PathBuf {
    if cfg!(target_os = "linux") {
        return "/proc/self/exe".into();
    }
    std::env::current_exe().unwrap_or_else(|_| std::env::args_os().next().unwrap_or_default().into())
}

impl ProcessCommand {
    /// Another program, without arguments: a launcher, say, which starts this one in the end. It must leave the standard input
    /// and the environment to it.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        let name = program.clone().into_os_string();
        Self { program, name, args: Vec::new(), ..Self::default() }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The arguments instead of those so far.
    #[must_use]
    pub fn only_args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a variable beside those of this process.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// How long a process that was asked to stop may take before it is killed. Default a minute.
    #[must_use]
    pub fn kill_after(mut self, time: Duration) -> Self {
        self.kill_after = time;
        self
    }
}

/// Whether an attempt gets a process of its own, in an executor with this isolation.
pub(crate) fn is_isolated(attempt: &Attempt, isolation: Isolation) -> bool {
    attempt.terms.isolation.unwrap_or(isolation) == Isolation::Process
}

/// Runs attempts in processes of their own where their tasks or the executor say so, and the others here.
pub(crate) struct ProcessRunner {
    inner: Arc<dyn AttemptRunner>,
    isolation: Isolation,
    command: ProcessCommand,
    #[cfg_attr(not(unix), expect(dead_code, reason = "there are no processes to tell"))]
    lease: LeaseWatch,
}

impl ProcessRunner {
    /// Around `inner`; `isolation` is that of tasks that do not say. Processes end with the lease.
    pub(crate) fn new(
        inner: Arc<dyn AttemptRunner>,
        isolation: Isolation,
        command: ProcessCommand,
        lease: LeaseWatch,
    ) -> Self {
        Self { inner, isolation, command, lease }
    }

    #[cfg(unix)]
    async fn in_process(&self, attempt: &Attempt, cancel: &Cancel) -> Result<Report, Outcome> {
        // What comes after the loss of a lease would get a process with the next one.
        if cancel.is_cancelled() {
            return Err(Outcome::Cancelled);
        }
        let feed = feed::Feed::new(self.lease.clone());
        let child = child::Child::start(&self.command, self.inner.ships_logs()).await?;
        child.attend(attempt, cancel, self.command.kill_after, feed).await
    }

    #[cfg(not(unix))]
    async fn in_process(&self, _: &Attempt, _: &Cancel) -> Result<Report, Outcome> {
        Err(failed("attempts run in processes of their own on Unix only; leave out the isolation".into()))
    }
}

#[async_trait]
impl AttemptRunner for ProcessRunner {
    async fn run(&self, attempt: Attempt, cancel: Cancel) -> Report {
        if !is_isolated(&attempt, self.isolation) {
            return self.inner.run(attempt, cancel).await;
        }
        match self.in_process(&attempt, &cancel).await {
            Ok(report) => report,
            Err(outcome) => {
                self.inner.note_end(&attempt, &outcome);
                let at = SystemClock.now();
                let report = Report::handed_back(attempt.run.pk, attempt.key(), attempt.ti.attempt_id, at);
                Report { outcome, ..report }
            }
        }
    }

    fn ships_logs(&self) -> bool {
        self.inner.ships_logs()
    }

    fn note_end(&self, attempt: &Attempt, outcome: &Outcome) {
        self.inner.note_end(attempt, outcome);
    }
}

fn failed(error: String) -> Outcome {
    Outcome::Failed { error, retryable: true, after: None }
}
