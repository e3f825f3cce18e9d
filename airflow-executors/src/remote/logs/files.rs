//! The log files of all workers that serve theirs, for whoever reads logs.

use std::path::Path;
use std::sync::Arc;

use airflow_core::attempt::{LogFile, WorkerLogs};
use airflow_core::id::IncarnationId;
use airflow_core::secret::Secret;
use airflow_core::store::{SharedStore, StoreResult};
use airflow_core::time::{Clock as _, SystemClock};
use async_trait::async_trait;

use super::{client, ticket};
use crate::remote::keys::signer;
use crate::remote::monitor::workers;
use crate::remote::signer::Signer;
use crate::remote::worker::WorkerError;

/// How many workers are asked for a log of which it is not known who has it.
const MOST_ASKED: usize = 16;

/// Reads the log files of workers that [serve them](super::LogServerOptions): give it to
/// [`LogReader::or_workers`](airflow_core::attempt::LogReader::or_workers), or to
/// [`AirflowBuilder::worker_logs`](airflow_core::app::AirflowBuilder::worker_logs).
///
/// A worker is asked for the attempts of its process. If that is not there any more, all that are alive are asked: it may
/// have been started again.
///
/// ```
/// use std::sync::Arc;
///
/// use airflow_core::app::Airflow;
/// use airflow_core::store::{MemoryStore, SharedStore};
/// use airflow_executors::remote::WorkerLogFiles;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store: SharedStore = Arc::new(MemoryStore::new());
/// let workers = WorkerLogFiles::new(Arc::clone(&store), &[]).await?;
/// let airflow = Airflow::builder().shared_store(store).worker_logs(Arc::new(workers)).build().await?;
/// # drop(airflow);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct WorkerLogFiles {
    store: SharedStore,
    signer: Signer,
}

impl WorkerLogFiles {
    /// Of the workers of a deployment; `keys` are those of messages, if the deployment was given some.
    ///
    /// # Errors
    ///
    /// If the store does not tell the key, or a given one cannot be used.
    pub async fn new(store: SharedStore, keys: &[Secret]) -> Result<Self, WorkerError> {
        let signer = signer(&store, keys).await?;
        Ok(Self { store, signer })
    }
}

#[async_trait]
impl WorkerLogs for WorkerLogFiles {
    async fn of(&self, processes: &[IncarnationId]) -> StoreResult<Vec<Arc<dyn LogFile>>> {
        let all = workers(&self.store).await?;
        let is_known = |process: &IncarnationId| all.iter().any(|one| one.row.process == *process);
        let are_all_known = processes.iter().all(is_known);
        let alive = all.iter().filter(|one| one.is_alive());
        let serving = alive.filter_map(|one| Some((&one.row, one.info.as_ref()?.log_server.clone()?)));
        let asked = serving.filter(|(row, _)| !are_all_known || processes.contains(&row.process));
        let file = |(row, address): (&airflow_core::store::WorkerRow, String)| -> Arc<dyn LogFile> {
            Arc::new(FilesOf { worker: row.name.clone(), address, signer: self.signer.clone() })
        };
        Ok(asked.take(MOST_ASKED).map(file).collect())
    }
}

/// The files of one worker.
#[derive(Debug)]
struct FilesOf {
    worker: String,
    address: String,
    signer: Signer,
}

#[async_trait]
impl LogFile for FilesOf {
    fn name(&self) -> &str {
        &self.worker
    }

    async fn read(&self, path: &Path, from: u64) -> Result<Vec<u8>, String> {
        let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
        let path = parts.join("/");
        let ticket = ticket::write(&self.signer, &self.worker, &path, SystemClock.now());
        client::ask(&self.address, &ticket.map_err(|error| error.to_string())?, &path, from).await
    }
}
