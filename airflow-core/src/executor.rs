//! The contract between the engine and whatever runs attempts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc, watch};

use crate::id::{AttemptId, IncarnationId};
use crate::operator::Cancel;
use crate::plan::{Attempt, Outcome, Report};
use crate::store::SharedStore;
use crate::time::Clock;

/// Why an attempt was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// No slot is free: nothing was taken.
    #[error("every slot of the executor `{0}` is taken")]
    Full(String),
    /// The executor is stopping.
    #[error("the executor `{0}` is stopping")]
    Stopping(String),
}

/// Runs the user code of one attempt and says how it ended. Never panics, whatever the user code does.
#[async_trait]
pub trait AttemptRunner: Send + Sync + 'static {
    /// Runs the attempt to its end; `cancel` asks it to stop.
    async fn run(&self, attempt: Attempt, cancel: Cancel) -> Report;

    /// Writes into the log of an attempt how it ended, for one that ran elsewhere and could not say so itself: its
    /// process crashed.
    fn note_end(&self, _attempt: &Attempt, _outcome: &Outcome) {}

    /// Whether it sends the logs of attempts to the store; processes that it starts for them do the same.
    fn ships_logs(&self) -> bool {
        false
    }
}

/// Runs the waits of deferred task instances. Never panics, whatever the user code does.
#[async_trait]
pub trait WaitRunner: Send + Sync + 'static {
    /// Waits for what `attempt.wait` says and tells what became of it: [`Outcome::Fired`],
    /// or the end of the task. `cancel` asks it to stop for good: a user cleared or marked the instance.
    async fn wait(&self, attempt: Attempt, cancel: Cancel) -> Report;
}

/// Keeps the waits of a process going, all beside each other.
///
/// # Contract
///
/// - [`watch`](Self::watch) returns at once; the end of the wait is reported like that of an attempt.
/// - A wait that is watched already is not begun again.
pub trait Waiter: Send + Sync + fmt::Debug + 'static {
    /// How many waits it keeps going at most.
    fn capacity(&self) -> usize;

    /// Begins a wait.
    fn watch(&self, attempt: Attempt);

    /// Stops a wait for good: the instance is not deferred any more. Unknown ones are ignored: they have ended.
    fn forget(&self, attempt: AttemptId);

    /// Drops a wait, which goes on elsewhere. Unknown ones are ignored.
    fn leave(&self, attempt: AttemptId);

    /// Drops all waits, for another process to take over.
    fn stop(&self);
}

/// When attempts of a life of this process must be dead at the latest: others may begin them anew after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseEnd {
    /// The life.
    pub life: IncarnationId,
    /// The moment, as [`since_boot`](crate::time::since_boot) tells it.
    pub at: Duration,
}

/// Tells whatever runs attempts outside of this process when they must be dead, should this process stand still: the
/// moment moves on with each renewal of the lease. What runs inside stops by itself.
#[derive(Debug, Clone)]
pub struct LeaseWatch(watch::Receiver<Option<LeaseEnd>>);

impl LeaseWatch {
    /// Listens to these moments.
    pub fn new(ends: watch::Receiver<Option<LeaseEnd>>) -> Self {
        Self(ends)
    }

    /// Of a process that has no lease: nobody takes its attempts away.
    pub fn none() -> Self {
        Self(watch::channel(None).1)
    }

    /// The moment as far as it is known now; `None` if nobody may take over.
    pub fn end(&self) -> Option<LeaseEnd> {
        *self.0.borrow()
    }

    /// Returns when it has changed since the last call.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody is left who renews it.
            std::future::pending::<()>().await;
        }
    }
}

/// What an executor gets when it starts.
#[derive(Clone)]
pub struct ExecutorServices {
    /// Runs attempts.
    pub runner: Arc<dyn AttemptRunner>,
    /// Takes reports. Never full: there is one report for each attempt that was taken, and those are bounded by the
    /// executor's slots.
    pub reports: mpsc::UnboundedSender<Report>,
    /// To be told by a remote executor when reports may wait in the store. A word that gets lost costs a second.
    pub reports_wait: Arc<Notify>,
    /// Where everything is kept.
    pub store: SharedStore,
    /// The time, as the whole application knows it.
    pub clock: Arc<dyn Clock>,
    /// When attempts that run outside of this process must be dead, if it stands still.
    pub lease: LeaseWatch,
}

impl fmt::Debug for ExecutorServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutorServices").finish_non_exhaustive()
    }
}

/// Runs attempts somewhere: on a task of this process, in a process of their own, on another machine.
///
/// # Contract
///
/// - Accepting is not running: [`submit`](Self::submit) returns once the attempt is taken.
/// - An accepted attempt gives one report, unless the process dies; the scheduler finds such lost attempts by the
///   lease of the process, never by asking.
/// - [`cancel`](Self::cancel) asks an attempt to stop; it still reports.
#[async_trait]
pub trait Executor: Send + Sync + fmt::Debug + 'static {
    /// Its name, for tasks that ask for it.
    fn name(&self) -> &str;

    /// How many attempts it runs at once; of a remote one, how many may be queued and running at once in each queue.
    fn slots(&self) -> usize;

    /// Whether other processes run the attempts. They are `queued` in the store when they are submitted; who runs one
    /// claims it there, and leaves its report there ([`Store::add_reports`](crate::store::Store::add_reports)). What
    /// nobody claims is submitted again, with the same attempt id.
    fn is_remote(&self) -> bool {
        false
    }

    /// What keeps it from handing over attempts, for people; `None` if nothing does. Asks nobody, as health is asked for often.
    fn problem(&self) -> Option<String> {
        None
    }

    /// Looks whether it can hand over attempts. May take some seconds; for those who look from another process than the
    /// one that it was started in.
    ///
    /// # Errors
    ///
    /// What keeps it from that, for people.
    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Gets ready. Called once, before anything is submitted.
    fn start(&self, services: ExecutorServices);

    /// Takes an attempt.
    ///
    /// # Errors
    ///
    /// [`SubmitError`]: nothing was taken.
    fn submit(&self, attempt: Attempt) -> Result<(), SubmitError>;

    /// Asks an attempt to stop. Unknown ones are ignored: they have ended.
    fn cancel(&self, attempt: AttemptId);

    /// Takes nothing more, waits up to `grace` for what runs, then gives the rest back. Returns once every accepted
    /// attempt has reported.
    async fn stop(&self, grace: Duration);
}
