//! The process of one attempt, seen from the one that started it.
//!
//! Its group is killed while the process itself is dead but not yet waited for: until then nobody else can get its number.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::Duration;

use airflow_core::attempt::process::{HELLO, MARKER, SHIPS_LOGS, STOP, order, report_in};
use airflow_core::operator::Cancel;
use airflow_core::plan::{Attempt, Outcome, Report};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::Notify;

use super::feed::Feed;
use super::{ProcessCommand, end, failed};

/// How long after its time a process that does not end its attempt itself is left alone.
const LEEWAY: Duration = Duration::from_secs(1);

/// A process that was started. When it is dropped the process sees its socket close, and kills itself and its group; it does
/// so too when it hears for too long of no renewal of the lease.
pub(super) struct Child {
    process: tokio::process::Child,
    socket: tokio::net::UnixStream,
    /// The same socket, for a word that must not wait.
    stop: UnixStream,
}

/// Why a process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Cancelled,
    TookTooLong,
}

impl Child {
    /// Starts a process.
    pub(super) async fn start(command: &ProcessCommand, ships_logs: bool) -> Result<Self, Outcome> {
        let mut command = command.clone();
        if ships_logs {
            command = command.env(SHIPS_LOGS, "1");
        }
        // It takes as long as the system needs to load a program; no other attempt is to wait for that.
        let started = tokio::task::spawn_blocking(move || Self::spawn(&command)).await;
        let started = started.unwrap_or_else(|error| Err(io::Error::other(error)));
        started.map_err(|error| failed(format!("no process can be started for the attempt: {error}")))
    }

    fn spawn(command: &ProcessCommand) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = OwnedFd::from(theirs);
        let number = File::from(theirs.try_clone()?).metadata()?.ino();
        ours.set_nonblocking(true)?;
        let mut starting = Command::new(&command.program);
        starting.arg0(&command.name).args(&command.args).envs(command.env.iter().cloned());
        starting.env(MARKER, number.to_string()).stdin(Stdio::from(theirs));
        // Nothing runs between fork and exec, so the standard library needs no fork: much faster from a large process.
        starting.process_group(0).kill_on_drop(true);
        let process = starting.spawn()?;
        let stop = ours.try_clone()?;
        Ok(Self { process, socket: tokio::net::UnixStream::from_std(ours)?, stop })
    }

    /// Tells the process its attempt and waits for its end. An outcome is what became of an attempt that did not report.
    pub(super) async fn attend(
        mut self,
        attempt: &Attempt,
        cancel: &Cancel,
        kill_after: Duration,
        mut feed: Feed,
    ) -> Result<Report, Outcome> {
        let group = self.process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let mut said = Vec::new();
        let reason = {
            let is_told = Notify::new();
            let talk = talk(&mut self.socket, order(attempt, feed.until()), &is_told, &mut said);
            tokio::select! {
                biased;
                reason = watch(talk, &self.stop, group, attempt, cancel, kill_after) => reason,
                never = feed.run(&self.stop, &is_told) => match never {},
            }
        };
        // The other end is closed: the process is dead, or has become something else that must not live.
        signal(group, Signal::KILL);
        let _ = self.process.start_kill();
        let status = self.process.wait().await;
        match (report_in(&said, attempt), reason) {
            (Some(report), _) => Ok(report),
            (None, Some(Reason::Cancelled)) => Err(Outcome::Cancelled),
            (None, Some(Reason::TookTooLong)) => {
                let limit = attempt.terms.timeout.unwrap_or_default();
                Err(failed(format!(
                    "the attempt took longer than its timeout of {limit:?} and did not stop; its process was killed"
                )))
            }
            (None, None) if feed.has_lapsed() && was_killed(&status) => {
                tracing::warn!(
                    task = %attempt.ti.task_id,
                    "the lease of this process was not renewed in time: the process of the attempt has ended itself"
                );
                Err(Outcome::HandedBack)
            }
            (None, None) => Err(failed(match status {
                Ok(status) => end::text(status, said.first() == Some(&HELLO)),
                Err(error) => format!("the process of the attempt is gone: {error}"),
            })),
        }
    }
}

/// Sends the order, says so, and collects all that is said until the process closes its end.
async fn talk(socket: &mut tokio::net::UnixStream, order: Vec<u8>, is_told: &Notify, said: &mut Vec<u8>) {
    // A process that is dead reads nothing; its end is seen below.
    if socket.write_all(&order).await.is_ok() {
        is_told.notify_one();
        let _ = socket.read_to_end(said).await;
    }
}

fn was_killed(status: &io::Result<std::process::ExitStatus>) -> bool {
    status.as_ref().is_ok_and(|status| status.signal() == Some(Signal::KILL.as_raw()))
}

/// Waits for the end of the talk; asks the process to stop when it is to, and kills its group when it does not.
async fn watch(
    talk: impl Future<Output = ()>,
    stop: &UnixStream,
    group: Option<Pid>,
    attempt: &Attempt,
    cancel: &Cancel,
    kill_after: Duration,
) -> Option<Reason> {
    let mut talk = std::pin::pin!(talk);
    let too_long = async {
        match attempt.terms.timeout {
            Some(timeout) => tokio::time::sleep(timeout + LEEWAY).await,
            None => std::future::pending().await,
        }
    };
    let reason = tokio::select! {
        biased;
        () = &mut talk => return None,
        () = cancel.cancelled() => Reason::Cancelled,
        () = too_long => Reason::TookTooLong,
    };
    if reason == Reason::Cancelled {
        // If there is no room for it, nobody reads; then the time below ends it.
        let _ = (&*stop).write(&[STOP]);
    }
    signal(group, Signal::TERM);
    if tokio::time::timeout(kill_after, &mut talk).await.is_err() {
        signal(group, Signal::KILL);
        talk.await;
    }
    Some(reason)
}

/// Tells all processes of a group; one that is empty hears nothing.
fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        let _ = rustix::process::kill_process_group(group, signal);
    }
}
