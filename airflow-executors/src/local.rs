//! Attempts on the tokio runtime of this process: no queue, no broker, no extra process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use airflow_core::dag::Isolation;
use airflow_core::executor::{Executor, ExecutorServices, SubmitError};
use airflow_core::id::AttemptId;
use airflow_core::operator::Cancel;
use airflow_core::plan::{Attempt, Report};
use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::process::{ProcessCommand, ProcessRunner, is_isolated};

/// How long attempts that were asked to stop at the end of the grace time may take to do so.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs up to a number of attempts at once, as tasks of the process's own runtime. Sync task functions run on
/// threads for blocking code, so they do not hold up others.
///
/// ```no_run
/// use std::time::Duration;
///
/// use airflow_core::app::Airflow;
/// use airflow_core::dag::{DagDef, TaskExt};
/// use airflow_core::operator::Empty;
/// use airflow_core::state::RunState;
/// use airflow_core::store::MemoryStore;
/// use airflow_executors::LocalExecutor;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let airflow = Airflow::builder()
///     .store(MemoryStore::new())
///     .executor(LocalExecutor::new(8))
///     .dag(DagDef::new("d").define(|d| {
///         d.add(Empty::new().id("work"));
///     }))
///     .build()
///     .await?;
/// let running = airflow.start();
/// let run = airflow.wait(&airflow.trigger("d").await?).await?;
/// assert_eq!(run.state, RunState::Success);
/// running.stop(Duration::from_secs(5)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct LocalExecutor {
    slots: usize,
    isolation: Isolation,
    command: ProcessCommand,
    shared: Arc<Shared>,
    services: OnceLock<ExecutorServices>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    running: BTreeMap<AttemptId, Running>,
    /// Attempts whose code has not returned: those that run, and those that were given back.
    /// With what ends those that have processes of their own.
    alive: BTreeMap<AttemptId, Option<AbortHandle>>,
    stopping: bool,
}

#[derive(Debug)]
struct Running {
    attempt: Attempt,
    cancel: watch::Sender<bool>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LocalExecutor {
    /// An executor with `slots` places.
    ///
    /// # Panics
    ///
    /// If `slots` is 0: nothing would ever run.
    pub fn new(slots: usize) -> Self {
        assert!(slots > 0, "an executor without slots runs nothing");
        Self {
            slots,
            isolation: Isolation::None,
            command: ProcessCommand::default(),
            shared: Arc::default(),
            services: OnceLock::new(),
        }
    }

    /// Where attempts run whose tasks do not say: beside each other in this process, or each in one of its own.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// How processes of attempts are started, if not as this program with its own arguments.
    #[must_use]
    pub fn process_command(mut self, command: ProcessCommand) -> Self {
        self.command = command;
        self
    }
}

impl Default for LocalExecutor {
    /// Four places for each core: attempts mostly wait for others.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::new(cores * 4)
    }
}

#[async_trait]
impl Executor for LocalExecutor {
    fn name(&self) -> &'static str {
        "local"
    }

    fn slots(&self) -> usize {
        self.slots
    }

    fn start(&self, services: ExecutorServices) {
        let lease = services.lease.clone();
        let runner = ProcessRunner::new(services.runner, self.isolation, self.command.clone(), lease);
        let services = ExecutorServices { runner: Arc::new(runner), ..services };
        // A second start would only change who gets reports; the first scheduler owns this executor.
        let _ = self.services.set(services);
    }

    fn submit(&self, attempt: Attempt) -> Result<(), SubmitError> {
        let services = self.services.get().ok_or_else(|| SubmitError::Stopping("local".into()))?.clone();
        let id = attempt.ti.attempt_id;
        let is_isolated = is_isolated(&attempt, self.isolation);
        let shared = Arc::clone(&self.shared);
        // Held until the end, so that nothing can end before it is known.
        let mut state = self.shared.lock();
        if state.stopping {
            return Err(SubmitError::Stopping("local".into()));
        }
        if state.running.contains_key(&id) {
            return Ok(());
        }
        if state.running.len() >= self.slots {
            return Err(SubmitError::Full("local".into()));
        }
        let (sender, cancel) = Cancel::pair();
        state.running.insert(id, Running { attempt: attempt.clone(), cancel: sender });
        let task = tokio::spawn(async move {
            let report = services.runner.run(attempt, cancel).await;
            {
                // Under the lock, so that whoever sees that nothing runs any more finds the report sent.
                let mut state = shared.lock();
                state.alive.remove(&id);
                // Whoever was given up at the end of the grace time has been reported already.
                if state.running.remove(&id).is_some() {
                    // A scheduler that is gone takes no report; the attempt is found lost by the next one.
                    let _ = services.reports.send(report);
                }
            }
            shared.ended.notify_waiters();
        });
        state.alive.insert(id, is_isolated.then(|| task.abort_handle()));
        Ok(())
    }

    fn cancel(&self, attempt: AttemptId) {
        if let Some(running) = self.shared.lock().running.get(&attempt) {
            running.cancel.send_replace(true);
        }
    }

    async fn stop(&self, grace: Duration) {
        self.shared.lock().stopping = true;
        if tokio::time::timeout(grace, self.until(|state| state.running.is_empty())).await.is_ok() {
            return;
        }
        self.give_back();
        // Async code stops at its next await; give it the chance before the process goes on.
        let _ = tokio::time::timeout(LAST_WORDS, self.until(|state| state.alive.is_empty())).await;
        // Others may begin them anew now: what can be killed is.
        self.shared.lock().alive.values().flatten().for_each(AbortHandle::abort);
    }
}

impl LocalExecutor {
    /// Gives back what still runs: it costs no retry. It is told to stop, and its own report is dropped.
    fn give_back(&self) {
        let Some(services) = self.services.get() else { return };
        // All under the lock: another call of `stop` that sees that nothing runs any more finds the reports sent.
        let mut state = self.shared.lock();
        for (_, Running { attempt, cancel }) in std::mem::take(&mut state.running) {
            tracing::warn!(task = %attempt.ti.task_id, "the attempt did not end in time and is given back");
            // No clock is asked here: its start is the last thing known of it.
            let report =
                Report::handed_back(attempt.run.pk, attempt.key(), attempt.ti.attempt_id, attempt.at);
            // A scheduler that is gone takes no report; the attempt is found lost by the next one.
            let _ = services.reports.send(report);
            cancel.send_replace(true);
        }
        drop(state);
        self.shared.ended.notify_waiters();
    }

    /// Returns when that holds; looked at whenever an attempt has ended.
    async fn until(&self, holds: impl Fn(&State) -> bool + Send) {
        loop {
            let ended = self.shared.ended.notified();
            if holds(&self.shared.lock()) {
                return;
            }
            ended.await;
        }
    }
}
