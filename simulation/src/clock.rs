//! Clocks of the simulated machines. True time is tokio's paused time, which nobody but the runtime moves.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use airflow_core::time::Clock;
use async_trait::async_trait;
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The moment at which every simulation begins.
pub(crate) fn base() -> DateTime<Utc> {
    static BASE: LazyLock<DateTime<Utc>> = LazyLock::new(|| "2026-01-05T00:00:00Z".parse().expect("a date"));
    *BASE
}

/// Whether a process goes on.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    dead: AtomicBool,
    paused: AtomicBool,
    moved: Notify,
    /// How long it stood still in all, and since when it does now.
    stood: Mutex<(Duration, Option<Instant>)>,
}

impl Gate {
    /// Returns when the process goes on; never, if it is dead.
    pub(crate) async fn pass(&self) {
        loop {
            let moved = self.moved.notified();
            if self.is_dead() {
                std::future::pending::<()>().await;
            }
            if !self.is_paused() {
                return;
            }
            moved.await;
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.moved.notify_waiters();
    }

    pub(crate) fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
        self.stood.lock().expect("no panic").1.get_or_insert_with(Instant::now);
    }

    pub(crate) fn resume(&self) {
        self.paused.store(false, Ordering::Relaxed);
        let mut stood = self.stood.lock().expect("no panic");
        if let Some(since) = stood.1.take() {
            stood.0 += since.elapsed();
        }
        drop(stood);
        self.moved.notify_waiters();
    }

    /// How long it has stood still.
    pub(crate) fn stood(&self) -> Duration {
        let stood = self.stood.lock().expect("no panic");
        stood.0 + stood.1.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// The clock of one process: it may be wrong, run too fast, and be set.
#[derive(Debug, Clone)]
pub(crate) struct ProcessClock {
    start: Instant,
    offset: Arc<AtomicI64>,
    drift: i64,
    gate: Arc<Gate>,
}

impl ProcessClock {
    pub(crate) fn new(start: Instant, offset: Arc<AtomicI64>, drift: i64, gate: Arc<Gate>) -> Self {
        Self { start, offset, drift, gate }
    }

    /// What time it truly is, which no process of the real world knows.
    pub(crate) fn truth(&self) -> DateTime<Utc> {
        let micros = i64::try_from(self.start.elapsed().as_micros()).expect("a short simulation");
        base() + TimeDelta::microseconds(micros)
    }

    /// Returns when the process goes on; never, if it is dead.
    pub(crate) async fn pass(&self) {
        self.gate.pass().await;
    }

    fn micros(&self) -> i64 {
        let truth = i64::try_from(self.start.elapsed().as_micros()).expect("a short simulation");
        truth + truth / 1_000_000 * self.drift + truth % 1_000_000 * self.drift / 1_000_000
    }

    /// True time for a time on this clock; a little more, so that nobody wakes too early.
    fn truly(&self, time: Duration) -> Duration {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 2_000_000);
        let rate = u64::try_from(1_000_000 + self.drift).expect("a small drift");
        Duration::from_micros(micros.saturating_mul(1_000) / rate * 1_000 + 1_000)
    }
}

#[async_trait]
impl Clock for ProcessClock {
    fn now(&self) -> DateTime<Utc> {
        let offset = TimeDelta::milliseconds(self.offset.load(Ordering::Relaxed));
        (base() + TimeDelta::microseconds(self.micros()) + offset).trunc_subsecs(6)
    }

    async fn sleep_until(&self, moment: DateTime<Utc>) {
        while let Ok(left) = (moment - self.now()).to_std() {
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(self.truly(left.min(Duration::from_secs(60)))).await;
            self.gate.pass().await;
        }
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.micros()).expect("it runs forward"))
    }

    async fn sleep(&self, time: Duration) {
        if !time.is_zero() {
            tokio::time::sleep(self.truly(time)).await;
        }
        self.gate.pass().await;
    }
}
