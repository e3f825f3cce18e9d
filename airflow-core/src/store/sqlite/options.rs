//! How a database is opened.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use crate::store::StoreError;

/// How long a writer waits for another process: far longer than any transaction of ours takes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// How many connections read: enough to list and load side by side on a small machine; each is a thread.
const READERS: u32 = 4;

/// To how many bytes the log of the database is cut back after a burst, so that it does not keep the disk.
const WAL_LIMIT: &str = "67108864";

/// After how many pages the log goes into the file: 16 MiB. SQLite's own 1000 make every hundredth commit wait for the
/// disk; more of them would also make the first reads of a new process slower.
const CHECKPOINT_PAGES: &str = "4000";

/// How much of the file the writing connection keeps in memory, in KiB (a negative number says so): the upper pages of
/// all tables and the leaves that are being written.
const CACHE: &str = "-16384";

/// When a commit counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// When the operating system has it: survives the death of any process, may lose the last commits if the power
    /// fails. The file stays sound. Two to three times as fast.
    #[default]
    Normal,
    /// When the disk has it.
    Full,
}

/// How to open a database.
///
/// ```
/// use airflow_core::store::{SqliteOptions, Synchronous};
///
/// let options = SqliteOptions { synchronous: Synchronous::Full, ..SqliteOptions::new("airflow.db") };
/// assert_eq!(options.busy_timeout.as_secs(), 30);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteOptions {
    /// The file; it is created if it is missing.
    pub path: PathBuf,
    /// When a commit counts as durable.
    pub synchronous: Synchronous,
    /// How long a writer waits while another process writes, before it fails.
    pub busy_timeout: Duration,
    /// How many connections read, at least 1.
    pub readers: u32,
}

impl SqliteOptions {
    /// The usual options for the file `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            synchronous: Synchronous::default(),
            busy_timeout: BUSY_TIMEOUT,
            readers: READERS,
        }
    }

    pub(super) fn connect(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .foreign_keys(true)
            .busy_timeout(self.busy_timeout)
            .pragma("temp_store", "memory")
            .disable_statement_logging()
    }

    pub(super) fn writing(&self) -> SqliteConnectOptions {
        let synchronous = match self.synchronous {
            Synchronous::Normal => SqliteSynchronous::Normal,
            Synchronous::Full => SqliteSynchronous::Full,
        };
        self.connect()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .pragma("journal_size_limit", WAL_LIMIT)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            .pragma("cache_size", CACHE)
    }
}

impl FromStr for SqliteOptions {
    type Err = StoreError;

    /// Reads a path, or an address such as `sqlite://airflow.db` or `sqlite:/var/lib/airflow.db`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:")).unwrap_or(text);
        if path.is_empty() || path.contains(":memory:") {
            let why = "a file is needed; use the memory store for tests".to_owned();
            return Err(StoreError::Unreachable { place: text.to_owned(), why });
        }
        Ok(Self::new(path))
    }
}
