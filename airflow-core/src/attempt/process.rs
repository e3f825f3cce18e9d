//! The inside of a process that was started to run one attempt.
//!
//! An executor starts the program again with a socket as its standard input ([`MARKER`] says which). The program puts
//! its application together as ever; `AirflowBuilder::build` finds the socket, runs
//! the attempt that it is told there, answers with its report, and ends the process: nothing after it happens. The process has no
//! scheduler and takes nothing from a queue; claims and reports in the store are the affair of the one that started it.
//!
//! If the other end of the socket closes, whoever started this process is dead: it kills its process group, and with it
//! what the task has started. The death signal of Linux would reach this process alone, and would come when the *thread*
//! that started it ends. One that stands still closes nothing. So it says, with each renewal of its lease, until when the
//! attempt may run, and when that moment has passed without another word the group is killed as well.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::executor::AttemptRunner;
use crate::operator::Cancel;
use crate::plan::{Attempt, Outcome, Report, Said, from_body, to_body};
use crate::time::since_boot;

/// The variable with the number of the socket that is the standard input. What a task starts inherits the variable, but
/// not the socket.
pub const MARKER: &str = "AIRFLOW_ATTEMPT_SOCKET";

/// The variable that says that the log of the attempt is to be kept in the store.
pub const SHIPS_LOGS: &str = "AIRFLOW_ATTEMPT_SHIPS_LOGS";

/// The first byte of an answer: the program has found its socket.
pub const HELLO: u8 = b'h';

/// What asks the process to stop its attempt.
pub const STOP: u8 = b's';

/// The first byte of a word that says until when the attempt may run.
const LEASE: u8 = b'l';

/// The length of that word: its first byte, and the moment in nanoseconds.
const LEASE_LENGTH: usize = 9;

/// For how long the process that started this one is listened to before the time is looked at again: while the machine is
/// suspended the wait stands still, and the time does not.
const LOOK: Duration = Duration::from_secs(1);

/// A wait must have a length. What lies there is heard, however late it is.
const SHORTEST: Duration = Duration::from_millis(1);

/// The longest message, in bytes: values that an attempt returns have limits of their own, far below.
const MAX_MESSAGE: usize = 1 << 30;

/// What the process that runs an attempt is told first; `until` is the moment, as [`since_boot`] tells it, at which it must be
/// dead unless it is told of a later one.
///
/// # Panics
///
/// Never: an attempt is always JSON.
pub fn order(attempt: &Attempt, until: Option<Duration>) -> Vec<u8> {
    let attempt = framed(&serde_json::to_vec(attempt).expect("an attempt is always JSON"));
    [&lease_word(until)[..], &attempt].concat()
}

/// The word that says when the process must be dead from now on, if nothing else is said; `None` if never.
pub fn lease_word(until: Option<Duration>) -> [u8; LEASE_LENGTH] {
    let nanos = until.map_or(u64::MAX, |until| u64::try_from(until.as_nanos()).unwrap_or(u64::MAX));
    let mut word = [LEASE; LEASE_LENGTH];
    word[1..].copy_from_slice(&nanos.to_be_bytes());
    word
}

/// The moment in such a word.
fn moment(nanos: [u8; 8]) -> Option<Duration> {
    let nanos = u64::from_be_bytes(nanos);
    (nanos != u64::MAX).then(|| Duration::from_nanos(nanos))
}

/// A message with its length in front.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), message].concat()
}

/// What a process answers at the end of its attempt.
fn answer(report: &Report) -> Vec<u8> {
    let body = to_body(report).expect("what runs in a process of its own is neither lost nor a wait");
    framed(format!("{}\n{body}", report.at.to_rfc3339()).as_bytes())
}

/// The report of `attempt` in all that its process has said. `None` if there is none, or only a part of it: the process
/// died before.
pub fn report_in(said: &[u8], attempt: &Attempt) -> Option<Report> {
    let (length, rest) = said.strip_prefix(&[HELLO])?.split_first_chunk()?;
    let text = rest.get(..u32::from_be_bytes(*length) as usize)?;
    let (at, body) = std::str::from_utf8(text).ok()?.split_once('\n')?;
    let at: DateTime<Utc> = at.parse().ok()?;
    let Said { outcome, pushed, asset_events, rendered, log } = from_body(body);
    let (run, key, attempt_id) = (attempt.run.pk, attempt.key(), attempt.ti.attempt_id);
    Some(Report { run, key, attempt_id, outcome, pushed, asset_events, rendered, log, at })
}

/// This process, started to run an attempt.
#[derive(Debug)]
pub struct AttemptProcess {
    socket: UnixStream,
    attempt: Attempt,
    until: Option<Duration>,
}

impl AttemptProcess {
    /// Finds out whether this process was started to run an attempt, and what is to be run. Says so once: after that the
    /// standard input is empty. If whoever started it is gone already, the process ends here.
    pub fn of_this_process() -> Option<Self> {
        match take_over(UnixStream::from(OwnedFd::from(own_socket()?))) {
            Ok(process) => Some(process),
            // It must not go on as what the program does otherwise, such as a second scheduler.
            Err(_) => std::process::exit(1),
        }
    }

    /// Whether that has still to happen: then nothing else of the program is wanted.
    pub fn is_awaited() -> bool {
        own_socket().is_some()
    }

    /// The attempt.
    pub fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    /// Whether its log is to be kept in the store.
    pub fn ships_logs(&self) -> bool {
        std::env::var_os(SHIPS_LOGS).is_some()
    }

    /// Runs the attempt, answers, and ends the process. `runner` is what went wrong if there is none.
    pub async fn run(self, runner: Result<Arc<dyn AttemptRunner>, String>) -> std::convert::Infallible {
        let Self { mut socket, attempt, until } = self;
        let (sender, cancel) = Cancel::pair();
        let report = match runner {
            Ok(runner) => {
                // Only the socket asks to stop: whoever stops a whole group or unit means the one that started this.
                let _ignored = signal(SignalKind::terminate());
                match listen(&socket, until, sender) {
                    Ok(()) => runner.run(attempt, cancel).await,
                    Err(error) => failed(&attempt, format!("its process cannot start a thread: {error}")),
                }
            }
            Err(error) => failed(&attempt, error),
        };
        let sent = socket.write_all(&answer(&report));
        // Here ends what the program is for; what stands after `build` is not.
        std::process::exit(i32::from(sent.is_err()))
    }
}

/// The standard input, if it is the socket that the variable names.
fn own_socket() -> Option<File> {
    let marker: u64 = std::env::var(MARKER).ok()?.parse().ok()?;
    let input = File::from(io::stdin().as_fd().try_clone_to_owned().ok()?);
    (input.metadata().ok()?.ino() == marker).then_some(input)
}

/// Reads the order, and leaves an empty standard input to the task and to what it starts.
fn take_over(mut socket: UnixStream) -> io::Result<AttemptProcess> {
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    socket.write_all(&[HELLO])?;
    let (mut word, mut nanos) = ([0], [0; 8]);
    socket.read_exact(&mut word)?;
    socket.read_exact(&mut nanos)?;
    if word != [LEASE] {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut order = vec![0; length];
    socket.read_exact(&mut order)?;
    Ok(AttemptProcess { attempt: serde_json::from_slice(&order)?, until: moment(nanos), socket })
}

/// Stops the attempt when that is asked for, and everything when nobody is left to ask or the time is over.
fn listen(socket: &UnixStream, until: Option<Duration>, cancel: watch::Sender<bool>) -> io::Result<()> {
    let mut line = Line { socket: socket.try_clone()?, part: Vec::new(), until, cancel };
    // The one that started this may have stood still since: then nothing begins.
    while line.is_over() {
        line.go_on_or_die();
    }
    let listening = move || {
        loop {
            line.go_on_or_die();
        }
    };
    std::thread::Builder::new().name("attempt".into()).spawn(listening).map(drop)
}

/// What this process hears from the one that started it.
struct Line {
    socket: UnixStream,
    /// The beginning of a word, the rest of which is on its way.
    part: Vec<u8>,
    /// When this process must be dead.
    until: Option<Duration>,
    cancel: watch::Sender<bool>,
}

/// What listening for a while has come to.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// Some words, or nothing that matters.
    Something,
    /// Nothing, and the time is over.
    TooLittle,
    /// Nobody is there any more.
    TheEnd,
}

impl Line {
    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| since_boot() >= until)
    }

    fn go_on_or_die(&mut self) {
        match self.hear() {
            Heard::Something => {}
            Heard::TooLittle | Heard::TheEnd => kill_all(),
        }
    }

    /// Waits for words, at most until the time is over.
    fn hear(&mut self) -> Heard {
        let wait = self.until.map(|until| until.saturating_sub(since_boot()).clamp(SHORTEST, LOOK));
        let mut bytes = [0; 256];
        let read = self.socket.set_read_timeout(wait).and_then(|()| self.socket.read(&mut bytes));
        match read {
            Ok(0) => Heard::TheEnd,
            Ok(count) => {
                self.part.extend_from_slice(&bytes[..count]);
                self.take_words();
                Heard::Something
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if self.is_over() => Heard::TooLittle,
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {
                    Heard::Something
                }
                _ => Heard::TheEnd,
            },
        }
    }

    /// Obeys all words that have come as a whole.
    fn take_words(&mut self) {
        let mut rest = self.part.as_slice();
        while let Some((first, after)) = rest.split_first() {
            match *first {
                LEASE => match after.split_first_chunk() {
                    Some((nanos, after)) => {
                        self.until = moment(*nanos);
                        rest = after;
                    }
                    None => break,
                },
                word => {
                    if word == STOP {
                        self.cancel.send_replace(true);
                    }
                    rest = after;
                }
            }
        }
        self.part = rest.to_vec();
    }
}

/// Kills this process and what it has started.
fn kill_all() {
    let own = rustix::process::getpid();
    if rustix::process::getpgrp() == own {
        let _ = rustix::process::kill_current_process_group(Signal::KILL);
    }
    let _ = rustix::process::kill_process(own, Signal::KILL);
}

fn failed(attempt: &Attempt, error: String) -> Report {
    let outcome = Outcome::Failed { error, retryable: true, after: None };
    let report = Report::handed_back(attempt.run.pk, attempt.key(), attempt.ti.attempt_id, attempt.at);
    Report { outcome, ..report }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{MapIndex, TaskIdx};

    fn attempt() -> Attempt {
        let text = r#"{"run":{"pk":1,"dag_id":"d","run_id":"r","run_type":"manual","logical_date":"2026-01-01T00:00:00Z",
            "data_interval":{"start":"2026-01-01T00:00:00Z","end":"2026-01-01T00:00:00Z"},"run_after":"2026-01-01T00:00:00Z",
            "queued_at":"2026-01-01T00:00:00Z","started_at":null,"conf":{"a":[1]}},"fingerprint":"f","task":3,
            "ti":{"task_id":"t","map_index":-1,"try_number":1,"max_tries":2,
            "attempt_id":"00000000-0000-0000-0000-000000000001","epoch":2},"queue":"default",
            "terms":{"isolation":"process","timeout":null,"executor_config":{"pod":"big"}},"at":"2026-01-01T00:00:00Z",
            "try_started_at":"2026-01-01T00:00:00Z","wait":null,"source_stamp":0}"#;
        serde_json::from_str(text).unwrap()
    }

    /// Goal: what a process is told and what it answers arrives; what is cut off is no report. Method: every prefix.
    #[test]
    fn orders_and_answers_arrive_whole_or_not_at_all() {
        let attempt = attempt();
        assert_eq!((attempt.task, attempt.ti.map_index), (TaskIdx(3), MapIndex::UNMAPPED));
        let order = order(&attempt, None);
        let back: Attempt = serde_json::from_slice(&order[LEASE_LENGTH + 4..]).unwrap();
        assert_eq!(format!("{attempt:?}"), format!("{back:?}"));
        let mut said = vec![HELLO];
        said.extend(answer(&failed(&attempt, "no".into())));
        let report = report_in(&said, &attempt).expect("it is whole");
        assert!(matches!(report.outcome, Outcome::Failed { error, .. } if error == "no"));
        for end in 0..said.len() {
            assert!(report_in(&said[..end], &attempt).is_none(), "{end} bytes");
        }
    }

    /// A process that listens until `until`, the other end of its line, and whether it was asked to stop.
    fn line(until: Option<Duration>) -> (Line, UnixStream, watch::Receiver<bool>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (cancel, cancelled) = watch::channel(false);
        (Line { socket: ours, part: Vec::new(), until, cancel }, theirs, cancelled)
    }

    /// Goal: a process lives as long as it hears of later moments, and no longer. Method: a line on which words come whole, in
    /// parts, late and not at all.
    #[test]
    fn a_process_ends_when_its_time_has_passed_without_a_word() {
        let (mut line, mut other, cancelled) = line(Some(Duration::ZERO));
        assert_eq!(line.hear(), Heard::TooLittle, "its time was over before it listened");
        let later = since_boot() + Duration::from_secs(60);
        other.write_all(&lease_word(Some(later))).unwrap();
        assert_eq!(line.hear(), Heard::Something, "a word that lies there counts, however late it is heard");
        assert_eq!((line.until, line.is_over()), (Some(later), false));
        // A word that comes in two parts, with another one behind it.
        let soon = since_boot() + Duration::from_millis(200);
        let words = [&lease_word(Some(soon))[..], &[STOP]].concat();
        other.write_all(&words[..4]).unwrap();
        assert_eq!(line.hear(), Heard::Something);
        assert_eq!((line.until, *cancelled.borrow()), (Some(later), false));
        other.write_all(&words[4..]).unwrap();
        assert_eq!(line.hear(), Heard::Something);
        assert_eq!((line.until, *cancelled.borrow()), (Some(soon), true));
        while line.hear() == Heard::Something {
            assert!(since_boot() < soon + LOOK, "it goes on after its time");
        }
        assert!(line.is_over());
        // A lease that nobody can take away any more.
        other.write_all(&lease_word(None)).unwrap();
        assert_eq!(line.hear(), Heard::Something);
        assert_eq!(line.until, None);
        drop(other);
        assert_eq!(line.hear(), Heard::TheEnd);
    }
}
