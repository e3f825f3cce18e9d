//! The start of a worker, as programs ask for it and as tests do.

use std::sync::Arc;

use airflow_core::app::Airflow;
#[cfg(feature = "testing")]
use airflow_core::executor::AttemptRunner;

use crate::remote::transport::Transport;

use super::{Worker, WorkerError, WorkerOptions};

impl Worker {
    /// Checks the broker, makes the worker known and begins to take work. `airflow` needs no executor; its dags,
    /// resources, secrets and settings are those of the attempts.
    ///
    /// # Errors
    ///
    /// [`WorkerError`]: the broker or the store cannot serve, or another worker of this name is alive.
    pub async fn start(
        airflow: &Airflow,
        transport: Arc<dyn Transport>,
        options: WorkerOptions,
    ) -> Result<Self, WorkerError> {
        let runner = Arc::new(airflow.runner().beside_workers());
        Self::start_with(airflow, transport, options, runner).await
    }

    /// The same with something around what runs the attempts, for tests that watch them.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub async fn start_around(
        airflow: &Airflow,
        transport: Arc<dyn Transport>,
        options: WorkerOptions,
        around: impl FnOnce(Arc<dyn AttemptRunner>) -> Arc<dyn AttemptRunner>,
    ) -> Result<Self, WorkerError> {
        let runner = around(Arc::new(airflow.runner().beside_workers()));
        Self::start_with(airflow, transport, options, runner).await
    }
}
