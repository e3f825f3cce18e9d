//! Where parts of logs may be beside the store and this machine: on workers that serve their files.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use crate::id::IncarnationId;
use crate::store::StoreResult;

/// The log files of workers, for what the store does not have.
#[async_trait]
pub trait WorkerLogs: fmt::Debug + Send + Sync + 'static {
    /// The workers that may have files of attempts that these processes ran.
    ///
    /// # Errors
    ///
    /// If the store fails.
    async fn of(&self, processes: &[IncarnationId]) -> StoreResult<Vec<Arc<dyn LogFile>>>;
}

/// A place with log files that is not here.
#[async_trait]
pub trait LogFile: fmt::Debug + Send + Sync + 'static {
    /// Its name, which tells it apart from others.
    fn name(&self) -> &str;

    /// The bytes of a file from this one on, as many as fit well into one answer; none if there are no more, or there is no
    /// such file. `path` is relative to the folder of the logs.
    ///
    /// # Errors
    ///
    /// Why it cannot be asked, for people.
    async fn read(&self, path: &Path, from: u64) -> Result<Vec<u8>, String>;
}
