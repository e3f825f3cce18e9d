//! How long this process may trust that nobody has declared it dead.
//!
//! A renewal that begins at a moment holds until that moment plus the lease, less a margin, on a clock that nobody can
//! set and that goes on while the machine is suspended. The database counts from when it writes, which is later, so the
//! process always gives up before anybody may take over. A process that stands still cannot give up: what runs attempts
//! outside of it is told when they must be dead ([`LeaseEnd`]), in the middle of the margin.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::executor::{LeaseEnd, LeaseWatch};
use crate::id::IncarnationId;
use crate::store::SharedStore;
use crate::store::points::pass_point;
use crate::time::{Clock, since_boot};

/// The most that is held back at the end of a lease, for attempts to end in.
const MOST_MARGIN: Duration = Duration::from_secs(2);

/// The code of a process that ends itself because it lost its lease: the usual one for "try again later".
const EXIT_CODE: i32 = 75;

/// What a process does if attempts still run when its lease ends: others may start them again from then on.
#[derive(Clone)]
pub enum OnLeaseLoss {
    /// Ends the process: nothing can run twice at the same time. What the roles of the command line do.
    Exit,
    /// Leaves them running, and takes no new work in their place. They cannot write their result any more; what they
    /// do outside may happen twice at the same time. Attempts in processes of their own are killed nevertheless.
    KeepRunning,
    /// Calls this with the number of attempts that still run.
    Call(Arc<dyn Fn(usize) + Send + Sync>),
}

impl fmt::Debug for OnLeaseLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exit => "Exit",
            Self::KeepRunning => "KeepRunning",
            Self::Call(_) => "Call(..)",
        })
    }
}

impl OnLeaseLoss {
    /// Does it.
    pub(super) fn act(&self, running: usize) {
        tracing::error!(running, "attempts still run at the end of this process's lease");
        match self {
            Self::Exit => std::process::exit(EXIT_CODE),
            Self::KeepRunning => {}
            Self::Call(call) => call(running),
        }
    }
}

/// What this process holds.
#[derive(Debug)]
struct Held {
    id: IncarnationId,
    /// Until when, by its own clock; `None` before it is watched.
    until: Option<Duration>,
    /// Somebody declared it dead.
    refused: bool,
    /// When it was last renewed.
    renewed: Option<Duration>,
}

/// The lease of this process. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    clock: Arc<dyn Clock>,
    length: Duration,
    held: Arc<Mutex<Held>>,
    changed: Arc<Notify>,
    ends: Arc<watch::Sender<Option<LeaseEnd>>>,
}

impl Lease {
    pub(super) fn new(clock: Arc<dyn Clock>, id: IncarnationId, length: Duration) -> Self {
        let held = Held { id, until: None, refused: false, renewed: None };
        let ends = Arc::new(watch::channel(None).0);
        Self { clock, length, held: Arc::new(Mutex::new(held)), changed: Arc::default(), ends }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held back at the end.
    pub(super) fn margin(&self) -> Duration {
        MOST_MARGIN.min(self.length / 5)
    }

    /// How long a renewal holds that began at this moment.
    fn trusted_until(&self, begun: Duration) -> Duration {
        (begun + self.length).saturating_sub(self.margin())
    }

    pub(super) fn length(&self) -> Duration {
        self.length
    }

    /// The process is known to the store since a call that began at `begun`.
    pub(super) fn begin(&self, id: IncarnationId, begun: Duration) {
        let until = self.trusted_until(begun);
        *self.lock() = Held { id, until: Some(until), refused: false, renewed: Some(begun) };
        self.tell_end(id, until);
        self.changed.notify_waiters();
    }

    /// For what runs attempts outside of this process.
    pub(super) fn watch(&self) -> LeaseWatch {
        LeaseWatch::new(self.ends.subscribe())
    }

    /// Says when attempts of a life must be dead that is trusted until then: they have half of the margin to stop when they
    /// are told to, and the other half is left to kill them.
    fn tell_end(&self, life: IncarnationId, until: Duration) {
        // Asked first: a pause in between makes the time shorter, not longer.
        let boot = since_boot();
        let left = (until + self.margin() / 2).saturating_sub(self.clock.elapsed());
        self.ends.send_replace(Some(LeaseEnd { life, at: boot + left }));
    }

    /// A life was ended by somebody else: its attempts have no more time than they need to stop.
    fn tell_refusal(&self, life: IncarnationId) {
        let soon = since_boot() + self.margin();
        self.ends.send_modify(|end| {
            if let Some(end) = end.as_mut().filter(|end| end.life == life) {
                end.at = end.at.min(soon);
            }
        });
    }

    /// Whether what this process does outside is its own: always, as long as nobody watches.
    pub(super) fn is_trusted(&self) -> bool {
        let held = self.lock();
        !held.refused && held.until.is_none_or(|until| self.clock.elapsed() < until)
    }

    /// How long ago it was renewed.
    pub(super) fn age(&self) -> Option<Duration> {
        let renewed = self.lock().renewed?;
        Some(self.clock.elapsed().saturating_sub(renewed))
    }

    /// When attempts must have ended, by the process's own clock.
    pub(super) fn end(&self) -> Duration {
        let margin = self.margin();
        self.lock().until.map_or(Duration::MAX, |until| until + margin)
    }

    /// Returns when the process must stop what it does.
    pub(super) async fn lost(&self) {
        loop {
            let changed = self.changed.notified();
            let left = {
                let held = self.lock();
                if held.refused {
                    return;
                }
                held.until.map(|until| until.saturating_sub(self.clock.elapsed()))
            };
            match left {
                Some(Duration::ZERO) => return,
                Some(left) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = self.clock.sleep(left) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Asks the store once more; `Some(true)` if the lease goes on, `Some(false)` if the process was declared dead.
    pub(super) async fn renew(&self, store: &SharedStore) -> Option<bool> {
        let (id, begun) = (self.lock().id, self.clock.elapsed());
        pass_point!("lease.before_beat");
        let answer = tokio::select! {
            biased;
            answer = store.beat(id) => answer,
            () = self.clock.sleep(self.length) => return None,
        };
        pass_point!("lease.after_beat");
        match answer {
            Ok(true) => {
                let mut held = self.lock();
                if held.id == id {
                    let until = self.trusted_until(begun);
                    let until = held.until.map_or(until, |old| old.max(until));
                    held.until = Some(until);
                    held.renewed = Some(begun);
                    drop(held);
                    self.tell_end(id, until);
                    self.changed.notify_waiters();
                }
                Some(true)
            }
            Ok(false) => {
                let mut held = self.lock();
                if held.id == id {
                    tracing::error!("this process was declared dead; it stops its attempts and begins anew");
                    held.refused = true;
                    drop(held);
                    self.tell_refusal(id);
                    self.changed.notify_waiters();
                }
                Some(false)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot renew the lease");
                None
            }
        }
    }

    /// Renews it again and again, as long as the loop gets on: one that stands still has no right to its lease, and is
    /// begun anew when it has lost it. Ends never.
    pub(super) async fn keep(self, store: SharedStore, every: Duration, is_stuck: impl Fn() -> bool + Send) {
        loop {
            self.clock.sleep(every).await;
            if self.lock().refused {
                continue;
            }
            if is_stuck() {
                tracing::error!("the scheduler does not get on; its lease is not renewed");
                continue;
            }
            self.renew(&store).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use uuid::Uuid;

    use super::*;
    use crate::scheduler::IncarnationSpec;
    use crate::store::MemoryStore;
    use crate::time::SimClock;

    const LENGTH: Duration = Duration::from_secs(20);

    fn clock() -> SimClock {
        SimClock::new("2026-01-01T00:00:00Z".parse().unwrap())
    }

    /// Goal: a loop that stands still has no right to its lease. Method: say that it does, and count the beats.
    #[tokio::test]
    async fn who_stands_still_beats_no_more_and_loses_the_lease() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let clock = clock();
        let start = clock.now();
        let store: SharedStore = Arc::new(MemoryStore::with_clock(clock.clone()));
        let process = IncarnationSpec::of_this_process("test");
        let lease = Lease::new(Arc::new(clock.clone()), process.id, LENGTH);
        store.register(process.new_incarnation(LENGTH)).await.unwrap();
        lease.begin(process.id, clock.elapsed());
        let stands = Arc::new(AtomicBool::new(false));
        let is_stuck = {
            let stands = Arc::clone(&stands);
            move || stands.load(Ordering::SeqCst)
        };
        let keeper = tokio::spawn(lease.clone().keep(Arc::clone(&store), Duration::from_secs(5), is_stuck));
        let beats_after = async |seconds| {
            // The keeper sleeps before the time moves on, and has done what it wakes up for before we look.
            for moved in [false, true] {
                if moved {
                    clock.set(start + TimeDelta::seconds(seconds));
                }
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
            }
            store.incarnations().await.unwrap()[0].beats
        };
        let before = beats_after(5).await;
        assert_eq!(beats_after(10).await, before + 1, "it gets on");
        stands.store(true, Ordering::SeqCst);
        for seconds in [15, 20, 25] {
            assert_eq!(beats_after(seconds).await, before + 1, "it stands still");
        }
        assert!(lease.is_trusted(), "10 + 20 - 2 is not over");
        beats_after(28).await;
        lease.lost().await;
        assert!(!lease.is_trusted());
        keeper.abort();
    }

    /// Goal: what was renewed counts from when the renewal began, less the margin.
    #[tokio::test]
    async fn trust_counts_from_the_beginning_of_a_renewal() {
        let clock = clock();
        let start = clock.now();
        let after = |seconds| clock.set(start + TimeDelta::seconds(seconds));
        let store: SharedStore = Arc::new(MemoryStore::with_clock(clock.clone()));
        let process = IncarnationSpec::of_this_process("test");
        let lease = Lease::new(Arc::new(clock.clone()), process.id, LENGTH);
        assert!(lease.is_trusted(), "nobody watches yet");
        store.register(process.new_incarnation(LENGTH)).await.unwrap();
        lease.begin(process.id, clock.elapsed());
        after(17);
        assert!(lease.is_trusted());
        assert_eq!(lease.renew(&store).await, Some(true));
        after(34);
        assert!(lease.is_trusted());
        after(35);
        assert!(!lease.is_trusted(), "17 + 20 - 2");
        lease.lost().await;
        assert_eq!(lease.end(), Duration::from_secs(37));
        assert_eq!(lease.renew(&store).await, Some(true), "nobody has ended it");
        assert!(lease.is_trusted());
        store.end_incarnation(process.id).await.unwrap();
        assert_eq!(lease.renew(&store).await, Some(false));
        assert!(!lease.is_trusted(), "it was declared dead");
        lease.begin(IncarnationId(Uuid::now_v7()), clock.elapsed());
        assert!(lease.is_trusted(), "a new life");
    }

    /// Goal: what runs outside is dead before the lease ends, and has the time to stop when it is asked to. Method: the moment
    /// that it is told, counted from now, beside what the lease says.
    #[tokio::test]
    async fn what_runs_outside_is_told_a_moment_within_the_margin() {
        let clock = clock();
        let start = clock.now();
        let store: SharedStore = Arc::new(MemoryStore::with_clock(clock.clone()));
        let process = IncarnationSpec::of_this_process("test");
        let lease = Lease::new(Arc::new(clock.clone()), process.id, LENGTH);
        let watch = lease.watch();
        assert_eq!(watch.end(), None, "nobody watches yet");
        let left = || {
            let end = watch.end().expect("it is watched");
            (end.life, end.at.saturating_sub(since_boot()).as_secs_f64())
        };
        store.register(process.new_incarnation(LENGTH)).await.unwrap();
        lease.begin(process.id, clock.elapsed());
        let (life, seconds) = left();
        assert_eq!(life, process.id);
        assert!((18.5..=19.0).contains(&seconds), "{seconds} of 20, less half of the margin of 2");
        clock.set(start + TimeDelta::seconds(15));
        assert_eq!(lease.renew(&store).await, Some(true));
        let (_, seconds) = left();
        assert!((18.5..=19.0).contains(&seconds), "{seconds}: renewed");
        store.end_incarnation(process.id).await.unwrap();
        assert_eq!(lease.renew(&store).await, Some(false));
        let (life, seconds) = left();
        assert_eq!(life, process.id);
        assert!(seconds <= 2.0, "{seconds}: others have it already");
        let next = IncarnationId(Uuid::now_v7());
        lease.begin(next, clock.elapsed());
        assert_eq!(left().0, next);
    }
}
