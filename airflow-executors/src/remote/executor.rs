//! The scheduler's side: sends messages about queued attempts until the broker keeps them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use airflow_core::executor::{Executor, ExecutorServices, SubmitError};
use airflow_core::id::AttemptId;
use airflow_core::plan::{Attempt, Outcome, Report};
use airflow_core::secret::Secret;
use airflow_core::time::{Clock, SystemClock};
use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::envelope::Envelope;
use super::keys::signer_at_last;
use super::notices::{REPORTS, announce_cancels, is_ours};
use super::signer::Signer;
use super::transport::{Message, Transport, TransportHealth};

/// How many attempts of a remote executor may be queued and running at once, unless configured otherwise. It bounds what
/// lies in the broker and in the memory of a scheduler; what is more waits in the database.
const DEFAULT_PARALLELISM: usize = 4096;

/// How many messages go to the broker at once.
const BATCH: usize = 256;

/// How long it waits after the broker did not keep a message: at first, and at most.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// It adds to the pause of the connection, so it is no longer: work is to go on soon after the broker is back.
const PAUSE_LAST: Duration = Duration::from_secs(1);

/// Has attempts run by workers, which hear of them through a broker.
///
/// The message is a wake-up and holds only names: workers claim the attempt in the database, and leave there how it
/// ended. See [`Worker`](super::Worker).
pub struct RemoteExecutor {
    name: String,
    parallelism: usize,
    keys: Vec<Secret>,
    transport: Arc<dyn Transport>,
    outbox: Arc<Outbox>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for RemoteExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteExecutor")
            .field("name", &self.name)
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

/// What is to be sent.
#[derive(Debug, Default)]
struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    attempts: BTreeMap<AttemptId, Attempt>,
    cancels: Vec<AttemptId>,
    stopping: bool,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RemoteExecutor {
    /// Sends through this broker, under its name: `redis`, `rabbitmq`.
    pub fn new(transport: impl Transport) -> Self {
        Self::shared(Arc::new(transport))
    }

    /// The same, through a transport that others use too.
    pub fn shared(transport: Arc<dyn Transport>) -> Self {
        Self {
            name: transport.name().to_owned(),
            parallelism: DEFAULT_PARALLELISM,
            keys: Vec::new(),
            transport,
            outbox: Arc::default(),
            tasks: Mutex::default(),
        }
    }

    /// Another name, for tasks that ask for it.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many attempts may be queued and running at once. Default 4096.
    ///
    /// # Panics
    ///
    /// If it is 0: nothing would ever run.
    #[must_use]
    pub fn parallelism(mut self, attempts: usize) -> Self {
        assert!(attempts > 0, "an executor without slots runs nothing");
        self.parallelism = attempts;
        self
    }

    /// The keys that sign messages: the first signs. Workers need them too. Without, the deployment makes one and keeps
    /// it in its database.
    #[must_use]
    pub fn signing_keys(mut self, keys: impl IntoIterator<Item = Secret>) -> Self {
        self.keys = keys.into_iter().collect();
        self
    }

    /// How the connection to the broker is.
    pub fn health(&self) -> TransportHealth {
        self.transport.health()
    }

    /// How many attempts wait for the broker to keep their messages.
    pub fn unsent(&self) -> usize {
        self.outbox.lock().attempts.len()
    }
}

#[async_trait]
impl Executor for RemoteExecutor {
    fn name(&self) -> &str {
        &self.name
    }

    fn slots(&self) -> usize {
        self.parallelism
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn start(&self, services: ExecutorServices) {
        let (transport, outbox, keys) =
            (Arc::clone(&self.transport), Arc::clone(&self.outbox), self.keys.clone());
        let task = tokio::spawn(async move {
            let Some(signer) = signer_at_last(&services.store, &keys).await else { return };
            let hear = hear(&*transport, &signer, &services);
            let send =
                Sender { transport: &*transport, signer: &signer, outbox: &outbox, services: &services };
            tokio::join!(hear, send.run());
        });
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    fn submit(&self, attempt: Attempt) -> Result<(), SubmitError> {
        let mut waiting = self.outbox.lock();
        if waiting.stopping {
            return Err(SubmitError::Stopping(self.name.clone()));
        }
        waiting.attempts.insert(attempt.ti.attempt_id, attempt);
        drop(waiting);
        self.outbox.changed.notify_one();
        Ok(())
    }

    fn cancel(&self, attempt: AttemptId) {
        let mut waiting = self.outbox.lock();
        // It may have been sent before, so its worker is told in any case.
        waiting.attempts.remove(&attempt);
        waiting.cancels.push(attempt);
        drop(waiting);
        self.outbox.changed.notify_one();
    }

    async fn stop(&self, _: Duration) {
        // What waits to be sent is queued in the database, and sent by whoever decides about its run next.
        self.outbox.lock().stopping = true;
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for RemoteExecutor {
    fn drop(&mut self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(JoinHandle::abort);
    }
}

/// Passes on that reports wait in the store.
async fn hear(transport: &dyn Transport, signer: &Signer, services: &ExecutorServices) {
    let mut reports = transport.subscribe(REPORTS);
    while let Some(notice) = reports.next().await {
        if is_ours(signer, &SystemClock, &notice) {
            services.reports_wait.notify_one();
        }
    }
}

/// Sends what waits.
struct Sender<'a> {
    transport: &'a dyn Transport,
    signer: &'a Signer,
    outbox: &'a Outbox,
    services: &'a ExecutorServices,
}

impl Sender<'_> {
    async fn run(&self) {
        let mut pause = PAUSE_FIRST;
        loop {
            let (attempts, cancels) = self.take();
            if attempts.is_empty() && cancels.is_empty() {
                self.outbox.changed.notified().await;
                continue;
            }
            announce_cancels(self.transport, self.signer, &SystemClock, &cancels).await;
            if self.send(attempts).await {
                pause = PAUSE_FIRST;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_LAST);
            }
        }
    }

    /// The next batch. Attempts stay in the outbox until the broker keeps their messages.
    fn take(&self) -> (Vec<Attempt>, Vec<AttemptId>) {
        let mut waiting = self.outbox.lock();
        let attempts = waiting.attempts.values().take(BATCH).cloned().collect();
        (attempts, std::mem::take(&mut waiting.cancels))
    }

    /// Says whether the broker keeps all.
    async fn send(&self, attempts: Vec<Attempt>) -> bool {
        let mut sent = Vec::with_capacity(attempts.len());
        let mut messages = Vec::with_capacity(attempts.len());
        for attempt in attempts {
            match message_of(&attempt, self.signer) {
                Ok(message) => {
                    messages.push(message);
                    sent.push(attempt.ti.attempt_id);
                }
                Err(error) => self.cannot_be_sent(&attempt, error),
            }
        }
        let answers = self.transport.publish(messages).await;
        let mut first_error = None;
        let mut waiting = self.outbox.lock();
        for (id, answer) in sent.iter().zip(answers) {
            match answer {
                Ok(()) => drop(waiting.attempts.remove(id)),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        let left = waiting.attempts.len();
        drop(waiting);
        if let Some(error) = &first_error {
            tracing::warn!(%error, waiting = left, "the broker did not keep messages; trying again");
        }
        first_error.is_none()
    }

    /// No worker will ever hear of it.
    fn cannot_be_sent(&self, attempt: &Attempt, error: String) {
        self.outbox.lock().attempts.remove(&attempt.ti.attempt_id);
        let outcome = Outcome::Failed { error, retryable: false, after: None };
        let (run, key, id) = (attempt.run.pk, attempt.key(), attempt.ti.attempt_id);
        let report = Report { outcome, ..Report::handed_back(run, key, id, attempt.at) };
        // A scheduler that is gone takes no report.
        let _ = self.services.reports.send(report);
    }
}

fn message_of(attempt: &Attempt, signer: &Signer) -> Result<Message, String> {
    let envelope = Envelope {
        attempt: attempt.ti.attempt_id,
        run: attempt.run.pk,
        epoch: attempt.ti.epoch,
        queue: attempt.queue.clone(),
        dag: attempt.run.dag_id.clone(),
        fingerprint: attempt.fingerprint.clone(),
        issued_at: SystemClock.now(),
    };
    let body = envelope.encode(signer).map_err(|error| format!("no message can be made of it: {error}"))?;
    Ok(Message { queue: attempt.queue.clone(), body })
}
