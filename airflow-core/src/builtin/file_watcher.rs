//! A watcher of a file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::asset::{AssetWatcher, Seen, WatchContext};
use crate::operator::{Result, TaskError, blocking};
use crate::time::secs;

/// How often a file is looked at unless something else is said: one call of the system.
const EVERY: Duration = secs(5);

/// Says that an asset is new when a file appears or changes: by its size, or by the time when it was written last.
///
/// A file that is there before the watcher ever ran is new. One that goes away is no event; when it comes back as
/// it was, neither is that. What is written between two looks is one event.
///
/// ```
/// use airflow_core::asset::Asset;
/// use airflow_core::builtin::FileWatcher;
/// use airflow_core::time::{mins, secs};
///
/// let prices = Asset::new("file:///in/prices.csv")
///     .watcher("file", FileWatcher::new("/in/prices.csv").every(secs(30)).settled(mins(1)));
/// assert!(prices.check().is_ok());
/// ```
#[derive(Debug, Clone)]
pub struct FileWatcher {
    path: PathBuf,
    every: Duration,
    settled: Duration,
}

impl FileWatcher {
    /// Watches this file, or this folder: of a folder what counts is which names are in it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), every: EVERY, settled: Duration::ZERO }
    }

    /// How often it looks; 5 seconds unless set.
    #[must_use]
    pub fn every(mut self, pause: Duration) -> Self {
        self.every = pause;
        self
    }

    /// For how long the file must not have been written to: for one that is written piece by piece. Zero unless set.
    #[must_use]
    pub fn settled(mut self, time: Duration) -> Self {
        self.settled = time;
        self
    }
}

/// What a [`FileWatcher`] says of a file that is new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEvent {
    /// Its path, as it was given.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written last.
    pub modified: DateTime<Utc>,
}

/// What a file is told by from how it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// Its size in bytes.
    pub size: u64,
    /// When it was written last.
    pub modified: DateTime<Utc>,
}

impl AssetWatcher for FileWatcher {
    type Event = FileEvent;
    type Cursor = FileState;

    async fn next(&self, after: Option<FileState>, cx: &WatchContext) -> Result<Seen<FileEvent, FileState>> {
        let settled = TimeDelta::from_std(self.settled).unwrap_or(TimeDelta::MAX);
        loop {
            let path = self.path.clone();
            if let Some(state) = blocking(move || look(&path)).await?
                && after != Some(state)
                && cx.now().signed_duration_since(state.modified) >= settled
            {
                let path = self.path.display().to_string();
                let event = FileEvent { path, size: state.size, modified: state.modified };
                return Ok(Seen::new(event, state));
            }
            cx.sleep(self.every).await;
        }
    }
}

/// How a file is now; `None` if there is none.
fn look(path: &Path) -> Result<Option<FileState>> {
    let facts = match std::fs::metadata(path) {
        Ok(facts) => facts,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(TaskError::msg(format_args!("cannot look at `{}`: {error}", path.display())));
        }
    };
    Ok(Some(FileState { size: facts.len(), modified: facts.modified()?.into() }))
}
