//! What task bodies really did, in a file that shares nothing with the database.
//!
//! Each record is one `write` to a file opened for appending: the kernel keeps it, whatever becomes of the writer.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use airflow_core::operator::TaskContext;

/// Nanoseconds since the boot of the machine, the same for all processes, whatever is done to the wall clock.
pub(crate) fn boot_nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Where bodies write that they started and ended.
#[derive(Debug)]
pub(crate) struct Ledger(Mutex<File>);

impl Ledger {
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self(Mutex::new(OpenOptions::new().create(true).append(true).open(path)?)))
    }

    fn note(&self, what: char, who: &str) {
        let line = format!("{what} {who} {} {}\n", std::process::id(), boot_nanos());
        let mut file = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(line.as_bytes()).expect("the ledger can be written");
    }
}

/// A body that runs: noted at its start, at its end, and if it is stopped before.
#[derive(Debug)]
pub(crate) struct Running {
    ledger: Arc<Ledger>,
    who: String,
    ended: bool,
}

impl Running {
    pub(crate) fn begin(ledger: Arc<Ledger>, cx: &TaskContext) -> Self {
        let ti = cx.ti();
        let (dag, run, task) = (cx.dag_id(), cx.run_id(), cx.task_id());
        let who = format!("{} {dag}/{run}/{task}/{} {}", ti.attempt_id, ti.map_index.0, cx.try_number());
        ledger.note('S', &who);
        Self { ledger, who, ended: false }
    }

    pub(crate) fn end(mut self) {
        self.ended = true;
        self.ledger.note('E', &self.who);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.ledger.note('C', &self.who);
        }
    }
}

/// One start of a body, and its end if it came to that.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub attempt: String,
    pub pid: u32,
    pub started: u64,
    pub ended: Option<u64>,
    /// It did not end by itself.
    pub stopped: bool,
}

/// All bodies, by task instance, in the order of their starts.
pub(crate) type Bodies = BTreeMap<String, Vec<Body>>;

/// Reads a ledger; what is being written to it now is left out.
pub(crate) fn read(path: &Path) -> Result<Bodies, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        // Nothing has run yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    parse(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
}

pub(crate) fn parse(text: &str) -> Result<Bodies, String> {
    let mut bodies = Bodies::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [what, attempt, ti, _, pid, at] = fields[..] else {
            return Err(format!("a torn record: {line}"));
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("a torn record: {line}"));
        let (pid, at) = (u32::try_from(number(pid)?).unwrap_or(0), number(at)?);
        let of_ti = bodies.entry(ti.to_owned()).or_default();
        match what {
            "S" => {
                let attempt = attempt.to_owned();
                of_ti.push(Body { attempt, pid, started: at, ended: None, stopped: false });
            }
            end => {
                let body = of_ti.iter_mut().rev().find(|body| body.attempt == attempt && body.pid == pid);
                let body = body.ok_or_else(|| format!("an end without a start: {line}"))?;
                (body.ended, body.stopped) = (Some(at), end == "C");
            }
        }
    }
    Ok(bodies)
}
