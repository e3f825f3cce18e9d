//! The world around a command: where it writes and reads, its environment, who runs it. The only place that touches
//! standard output, standard error and standard input.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// The world around a command. [`Host::process`] is this process; [`Host::captured`] is for tests.
pub struct Host {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    input: Box<dyn BufRead + Send>,
    env: BTreeMap<String, String>,
    user: String,
    out_terminal: bool,
    err_terminal: bool,
    is_process: bool,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Text that a captured command wrote. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// What was written since the last call.
    pub fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Host {
    /// This process: its streams, its environment, the user it runs as.
    pub fn process() -> Self {
        Self {
            out: Box::new(std::io::stdout()),
            err: Box::new(std::io::stderr()),
            input: Box::new(std::io::BufReader::new(std::io::stdin())),
            env: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            user: os_user(),
            out_terminal: std::io::stdout().is_terminal(),
            err_terminal: std::io::stderr().is_terminal(),
            is_process: true,
        }
    }

    /// A host that is no process: what it writes can be looked at, `input` is what the user types, and the environment
    /// is `env` alone. Gives standard output and standard error. It installs no log and handles no signals.
    pub fn captured(env: &[(&str, &str)], input: &str) -> (Self, Captured, Captured) {
        let (out, err) = (Captured::default(), Captured::default());
        let host = Self {
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            input: Box::new(std::io::Cursor::new(input.to_owned())),
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            user: "tester".to_owned(),
            out_terminal: false,
            err_terminal: false,
            is_process: false,
        };
        (host, out, err)
    }

    /// Makes a captured host take its output for a terminal, which may have colours.
    #[must_use]
    pub fn as_terminal(mut self) -> Self {
        self.out_terminal = true;
        self
    }

    /// A variable of the environment that is set and not empty.
    pub(crate) fn env(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The whole environment.
    pub(crate) fn vars(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// Whether it may install a log and handle signals.
    pub(crate) fn is_process(&self) -> bool {
        self.is_process
    }

    /// Whether standard output is a terminal.
    pub(crate) fn out_is_terminal(&self) -> bool {
        self.out_terminal
    }

    /// Whether standard output may have colours.
    pub(crate) fn colors(&self) -> bool {
        self.out_terminal && self.env("NO_COLOR").is_none() && self.env("TERM") != Some("dumb")
    }

    /// Whether a progress bar can be drawn on standard error.
    pub(crate) fn draws_progress(&self) -> bool {
        self.is_process && self.err_terminal && self.env("TERM") != Some("dumb")
    }

    pub(crate) fn line(&mut self, text: &str) -> std::io::Result<()> {
        writeln!(self.out, "{text}")
    }

    pub(crate) fn raw(&mut self, text: &str) -> std::io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    pub(crate) fn raw_err(&mut self, text: &str) -> std::io::Result<()> {
        self.err.write_all(text.as_bytes())
    }

    /// Something for people that is not the answer of the command.
    pub(crate) fn note(&mut self, text: &str) {
        // Nobody may be reading; the command goes on.
        let _ = writeln!(self.err, "{text}");
    }

    pub(crate) fn error(&mut self, text: &str) {
        self.note(&format!("error: {text}"));
    }

    /// Asks the user; no answer is a no.
    pub(crate) fn confirm(&mut self, question: &str) -> std::io::Result<bool> {
        write!(self.err, "{question} [y/N] ")?;
        self.err.flush()?;
        let mut answer = String::new();
        self.input.read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }
}

/// The name of the user that this process runs as, from the system if it says, else from the environment.
fn os_user() -> String {
    let known = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok();
    user_of_process().or(known).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(unix)]
fn user_of_process() -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let uid = std::fs::metadata("/proc/self").ok()?.uid().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let fields = |line: &str| -> Option<String> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    };
    users.lines().find_map(fields)
}

#[cfg(not(unix))]
fn user_of_process() -> Option<String> {
    std::env::var("USERNAME").ok()
}
