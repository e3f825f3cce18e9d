//! The scheduler's side: sends messages about queued attempts until the broker keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use airflow_core::executor::{Executor, ExecutorServices, SubmitError};
use airflow_core::id::AttemptId;
use airflow_core::plan::{Attempt, Outcome, Report};
use airflow_core::secret::Secret;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::envelope::Envelope;
use super::keys::signer_at_last;
use super::notices::{REPORTS, announce_cancels, is_ours};
use super::signer::Signer;
use super::transport::{Message, Transport, TransportError, TransportHealth};

/// How many attempts of a queue may be queued and running at once, unless configured otherwise. It bounds what lies in the
/// broker and in the memory of a scheduler; what is more waits in the database. Each queue has as many, so that one that
/// nobody serves does not stop the others.
const DEFAULT_PARALLELISM: usize = 4096;

/// How many messages go to the broker at once.
const BATCH: usize = 256;

/// How often the broker is asked whether it is there when there is nothing to send: health is to tell before there is work.
const PROBE: Duration = Duration::from_secs(5);

/// A queue that it is asked about then; there need not be one.
const PROBED: &str = "default";

/// The longest pause between two looks whether a broker that could not serve at the start can now.
const CHECK_LAST: Duration = Duration::from_secs(30);

/// How long a queue rests whose message the broker did not keep: at first, and at most.
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
    /// Why the broker cannot serve, if that was found at the start and has not changed since.
    unfit: Arc<Mutex<Option<String>>>,
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
    /// Queues that did not keep what they were sent: the others go on meanwhile.
    resting: BTreeMap<String, Rest>,
    stopping: bool,
}

/// When a queue is tried again.
#[derive(Debug)]
struct Rest {
    until: Instant,
    pause: Duration,
}

/// What is to be sent now.
struct Batch {
    attempts: Vec<Attempt>,
    cancels: Vec<AttemptId>,
    /// When there may be more although nothing happens: a queue has rested.
    next: Option<Instant>,
}

impl Waiting {
    fn take(&mut self, now: Instant) -> Batch {
        let attempts = self.attempts.values();
        let is_awake =
            |attempt: &&Attempt| self.resting.get(&attempt.queue).is_none_or(|rest| rest.until <= now);
        let attempts = attempts.filter(is_awake).take(BATCH).cloned().collect();
        let next = self.resting.values().map(|rest| rest.until).filter(|until| *until > now).min();
        Batch { attempts, cancels: std::mem::take(&mut self.cancels), next }
    }

    /// The broker has said of messages whether it keeps them.
    fn answered(
        &mut self,
        sent: &[(AttemptId, String)],
        answers: &[Result<(), TransportError>],
        now: Instant,
    ) {
        let mut refused = BTreeSet::new();
        for ((id, queue), answer) in sent.iter().zip(answers) {
            match answer {
                Ok(()) => drop(self.attempts.remove(id)),
                Err(_) => drop(refused.insert(queue)),
            }
        }
        for (_, queue) in sent.iter().filter(|(_, queue)| !refused.contains(queue)) {
            self.resting.remove(queue);
        }
        for queue in refused {
            let pause = self.resting.get(queue).map_or(PAUSE_FIRST, |rest| (rest.pause * 2).min(PAUSE_LAST));
            self.resting.insert(queue.clone(), Rest { until: now + pause, pause });
        }
    }
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
            unfit: Arc::default(),
            tasks: Mutex::default(),
        }
    }

    /// Another name, for tasks that ask for it.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many attempts may be queued and running at once in each queue. Default 4096.
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

    fn problem(&self) -> Option<String> {
        let unfit = self.unfit.lock().unwrap_or_else(PoisonError::into_inner).clone();
        unfit.or_else(|| problem(&self.transport.place(), self.transport.health()))
    }

    async fn check(&self) -> Result<(), String> {
        self.transport.check().await.map(drop).map_err(|error| error.to_string())
    }

    fn start(&self, services: ExecutorServices) {
        let (transport, outbox, keys) =
            (Arc::clone(&self.transport), Arc::clone(&self.outbox), self.keys.clone());
        let (asked, unfit) = (Arc::clone(&self.transport), Arc::clone(&self.unfit));
        let probing = tokio::spawn(async move {
            until_fit(&asked, &unfit).await;
            probe(&*asked).await;
        });
        let task = tokio::spawn(async move {
            let Some(signer) = signer_at_last(&services.store, &keys).await else { return };
            let hear = hear(&*transport, &signer, &services);
            let send =
                Sender { transport: &*transport, signer: &signer, outbox: &outbox, services: &services };
            tokio::join!(hear, send.run());
        });
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend([task, probing]);
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

/// What is wrong with a connection, for people.
fn problem(place: &str, health: TransportHealth) -> Option<String> {
    if let Some(why) = health.blocked {
        return Some(format!("the broker {place} takes no messages for now: {why}"));
    }
    health.last_error.filter(|_| !health.is_connected)
}

/// Looks whether the broker can serve, again and again until it can: work goes on as far as it can meanwhile.
async fn until_fit(transport: &Arc<dyn Transport>, unfit: &Mutex<Option<String>>) {
    let mut pause = PAUSE_LAST;
    loop {
        // Goes on if this executor is stopped meanwhile: what it makes at the broker it takes away at its end.
        let asked = Arc::clone(transport);
        let Ok(checked) = tokio::spawn(async move { asked.check().await }).await else { return };
        *unfit.lock().unwrap_or_else(PoisonError::into_inner) =
            checked.as_ref().err().map(ToString::to_string);
        match checked {
            Ok(facts) => {
                facts.warnings.iter().for_each(|warning| tracing::warn!(broker = facts.server, warning));
                return;
            }
            Err(error) => {
                tracing::error!(%error, "the broker cannot serve: no worker hears of attempts; trying again");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(CHECK_LAST);
    }
}

/// Asks the broker something now and then: its connection tells how that went.
async fn probe(transport: &dyn Transport) {
    loop {
        tokio::time::sleep(PROBE).await;
        if let Err(error) = transport.depth(PROBED).await {
            tracing::debug!(%error, "the broker does not answer");
        }
    }
}

/// Passes on that reports wait in the store.
async fn hear(transport: &dyn Transport, signer: &Signer, services: &ExecutorServices) {
    let mut reports = transport.subscribe(REPORTS);
    while let Some(notice) = reports.next().await {
        if is_ours(signer, &*services.clock, &notice) {
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
        loop {
            let Batch { attempts, cancels, next } = self.outbox.lock().take(Instant::now());
            if attempts.is_empty() && cancels.is_empty() {
                self.wait(next).await;
                continue;
            }
            announce_cancels(self.transport, self.signer, &*self.services.clock, &cancels).await;
            // They stay in the outbox until the broker keeps their messages.
            self.send(attempts).await;
        }
    }

    /// Returns when there is something new, or a queue has rested.
    async fn wait(&self, next: Option<Instant>) {
        let rested = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.outbox.changed.notified() => {}
            () = rested => {}
        }
    }

    async fn send(&self, attempts: Vec<Attempt>) {
        let mut sent = Vec::with_capacity(attempts.len());
        let mut messages = Vec::with_capacity(attempts.len());
        for attempt in attempts {
            match message_of(&attempt, self.signer, self.services.clock.now()) {
                Ok(message) => {
                    messages.push(message);
                    sent.push((attempt.ti.attempt_id, attempt.queue.clone()));
                }
                Err(error) => self.cannot_be_sent(&attempt, error),
            }
        }
        let answers = self.transport.publish(messages).await;
        let left = {
            let mut waiting = self.outbox.lock();
            waiting.answered(&sent, &answers, Instant::now());
            waiting.attempts.len()
        };
        if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
            tracing::warn!(%error, waiting = left, "the broker did not keep messages; trying again");
        }
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

fn message_of(attempt: &Attempt, signer: &Signer, issued_at: DateTime<Utc>) -> Result<Message, String> {
    let envelope = Envelope {
        attempt: attempt.ti.attempt_id,
        run: attempt.run.pk,
        epoch: attempt.ti.epoch,
        queue: attempt.queue.clone(),
        dag: attempt.run.dag_id.clone(),
        fingerprint: attempt.fingerprint.clone(),
        issued_at,
    };
    let body = envelope.encode(signer).map_err(|error| format!("no message can be made of it: {error}"))?;
    Ok(Message { queue: attempt.queue.clone(), body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_blocked_or_broken_is_a_problem_and_one_that_nobody_needed_is_none() {
        let health = TransportHealth::default;
        assert_eq!(problem("b", health()), None, "it was not needed yet");
        let broken = TransportHealth { last_error: Some("gone".into()), ..health() };
        assert_eq!(problem("b", broken.clone()).as_deref(), Some("gone"));
        assert_eq!(problem("b", TransportHealth { is_connected: true, ..broken }), None, "it is back");
        let blocked =
            TransportHealth { is_connected: true, blocked: Some("low on memory".into()), ..health() };
        let said = "the broker b takes no messages for now: low on memory";
        assert_eq!(problem("b", blocked).as_deref(), Some(said));
    }

    fn attempt(number: u128, queue: &str) -> Attempt {
        let text = r#"{"run":{"pk":1,"dag_id":"d","run_id":"r","run_type":"manual","logical_date":"2026-01-01T00:00:00Z",
            "data_interval":{"start":"2026-01-01T00:00:00Z","end":"2026-01-01T00:00:00Z"},"run_after":"2026-01-01T00:00:00Z",
            "queued_at":"2026-01-01T00:00:00Z","started_at":null,"conf":null},"fingerprint":"f","task":3,
            "ti":{"task_id":"t","map_index":-1,"try_number":1,"max_tries":2,
            "attempt_id":"00000000-0000-0000-0000-000000000001","epoch":2},"queue":"default",
            "terms":{"isolation":null,"timeout":null,"executor_config":null},"at":"2026-01-01T00:00:00Z",
            "try_started_at":"2026-01-01T00:00:00Z","wait":null,"source_stamp":0}"#;
        let mut attempt: Attempt = serde_json::from_str(text).unwrap();
        attempt.ti.attempt_id = AttemptId(uuid::Uuid::from_u128(number));
        attempt.queue = queue.to_owned();
        attempt
    }

    /// Goal: messages that the broker does not keep stay, rest for a while, and leave the others their turn. Method: more of them
    /// than are sent at once, all older than the one that is kept.
    #[tokio::test(start_paused = true)]
    async fn a_queue_that_keeps_nothing_does_not_hold_up_the_others() {
        let many = BATCH + 44;
        let mut waiting = Waiting::default();
        let dead = (0..many as u128).map(|number| attempt(number, "dead"));
        waiting.attempts.extend(dead.chain([attempt(9_999, "served")]).map(|one| (one.ti.attempt_id, one)));
        let full = || Err(TransportError::Rejected { queue: "dead".into(), why: "it is full".into() });
        let sent = |batch: &Batch| -> Vec<_> {
            batch.attempts.iter().map(|one| (one.ti.attempt_id, one.queue.clone())).collect()
        };
        let now = Instant::now();
        let first = waiting.take(now);
        assert_eq!(first.attempts.len(), BATCH);
        waiting.answered(&sent(&first), &vec![full(); BATCH], now);
        assert_eq!(waiting.attempts.len(), many + 1, "nothing is dropped");
        let second = waiting.take(now);
        let queues: Vec<&str> = second.attempts.iter().map(|one| one.queue.as_str()).collect();
        assert_eq!(queues, ["served"]);
        assert_eq!(second.next, Some(now + PAUSE_FIRST));
        waiting.answered(&sent(&second), &[Ok(())], now);
        assert!(waiting.take(now).attempts.is_empty());
        let later = now + PAUSE_FIRST;
        let third = waiting.take(later);
        assert_eq!(third.attempts.len(), BATCH, "it is tried again");
        waiting.answered(&sent(&third), &vec![full(); BATCH], later);
        assert_eq!(waiting.take(later).next, Some(later + PAUSE_FIRST * 2));
        let again = waiting.take(later + PAUSE_FIRST * 2);
        waiting.answered(&sent(&again), &vec![Ok(()); BATCH], later);
        assert_eq!(waiting.take(later).attempts.len(), many - BATCH, "the rest follows at once");
    }
}
