//! A process that is known to the store and keeps its lease: what workers have in common with schedulers.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::executor::LeaseWatch;
use crate::id::IncarnationId;
use crate::store::{SharedStore, StoreResult};
use crate::time::Clock;

use super::lease::Lease;
use super::process::IncarnationSpec;
use super::{OnLeaseLoss, SchedulerConfig};

/// A process that has made itself known and renews its lease in the background. Say [`leave`](Self::leave) at its end;
/// dropped without it, the lease runs out.
///
/// ```
/// use std::sync::Arc;
///
/// use airflow_core::scheduler::{Member, SchedulerConfig};
/// use airflow_core::store::{MemoryStore, SharedStore, Store};
/// use airflow_core::time::SystemClock;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store: SharedStore = Arc::new(MemoryStore::new());
/// let config = SchedulerConfig::default();
/// let member = Member::join(&store, Arc::new(SystemClock), "worker", &config).await?;
/// assert_eq!(store.incarnations().await?[0].process.id, member.id());
/// assert!(member.is_trusted());
/// member.leave().await?;
/// assert!(store.incarnations().await?.is_empty());
/// # Ok(()) }
/// ```
pub struct Member {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    process: Mutex<IncarnationSpec>,
    lease: Lease,
    on_loss: OnLeaseLoss,
    beats: AbortHandle,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("process", &*self.process()).finish_non_exhaustive()
    }
}

impl Member {
    /// Makes this process known as a `kind`, with the lease and the beat of `config`. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn join(
        store: &SharedStore,
        clock: Arc<dyn Clock>,
        kind: &'static str,
        config: &SchedulerConfig,
    ) -> StoreResult<Self> {
        let process = IncarnationSpec::of_this_process(kind);
        let lease = Lease::new(Arc::clone(&clock), process.id, config.lease_on(&**store));
        let begun = clock.elapsed();
        store.register(process.new_incarnation(lease.length())).await?;
        lease.begin(process.id, begun);
        let keep = lease.clone().keep(Arc::clone(store), config.beat, || false);
        let beats = tokio::spawn(keep).abort_handle();
        let (store, process) = (Arc::clone(store), Mutex::new(process));
        let on_loss = config.on_lease_loss.clone().unwrap_or(OnLeaseLoss::KeepRunning);
        Ok(Self { store, clock, process, lease, on_loss, beats })
    }

    fn process(&self) -> MutexGuard<'_, IncarnationSpec> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its id; another one after a death that was declared.
    pub fn id(&self) -> IncarnationId {
        self.process().id
    }

    /// Whether what this process does outside is its own: nobody may have taken over yet.
    pub fn is_trusted(&self) -> bool {
        self.lease.is_trusted()
    }

    /// When attempts that run outside of this process must be dead, if it stands still.
    pub fn lease_watch(&self) -> LeaseWatch {
        self.lease.watch()
    }

    /// Returns when the process must stop what it does.
    pub async fn lost(&self) {
        self.lease.lost().await;
    }

    /// How long attempts that were told to stop may take to do so.
    pub fn time_to_stop(&self) -> Duration {
        let now = self.clock.elapsed();
        // Declared dead while it still trusted itself: it has no time left, and takes what is needed to stop.
        self.lease.end().max(now + self.lease.margin()).saturating_sub(now)
    }

    /// Does what is to be done about attempts that still run when the time is over; may end the process.
    pub fn cannot_stop(&self, running: usize) {
        self.on_loss.act(running);
    }

    /// Goes on after a loss: in the same life if nobody declared this process dead and `whole` says that it lost
    /// nothing of what it was about; else in a new one, under a new id. Says whether it is a new one.
    ///
    /// # Errors
    ///
    /// If the store fails: try again.
    pub async fn rejoin(&self, whole: bool) -> StoreResult<bool> {
        let (old, begun) = (self.id(), self.clock.elapsed());
        if whole && self.store.beat(old).await? {
            tracing::info!("the lease goes on");
            self.lease.begin(old, begun);
            return Ok(false);
        }
        self.store.end_incarnation(old).await?;
        let process = self.process().again();
        let begun = self.clock.elapsed();
        self.store.register(process.new_incarnation(self.lease.length())).await?;
        tracing::warn!(%old, new = %process.id, "this process begins anew");
        self.lease.begin(process.id, begun);
        *self.process() = process;
        Ok(true)
    }

    /// Says goodbye.
    ///
    /// # Errors
    ///
    /// If the store fails; the lease runs out by itself then.
    pub async fn leave(&self) -> StoreResult<()> {
        self.beats.abort();
        self.store.end_incarnation(self.id()).await
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.beats.abort();
    }
}
