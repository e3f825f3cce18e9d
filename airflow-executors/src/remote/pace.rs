//! What both brokers do between a failure and the next try, and what they tell about it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::transport::TransportHealth;

/// The first pause: a server that restarts at once is not kept waiting.
const FIRST: Duration = Duration::from_millis(100);
/// The longest: what comes back is found within a second, so that work goes on well within the ten that are promised. A try
/// at a server that is not there costs next to nothing.
pub(super) const LONGEST: Duration = Duration::from_secs(1);

/// Pauses that grow from 100 ms to 1 s.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u32,
}

impl Pace {
    /// It worked: begin from the first pause.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure. Up to half of it is random, so that all processes do not come back at once.
    pub(super) fn next(&mut self) -> Duration {
        let pause = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let random = uuid::Uuid::new_v4().as_bytes()[0];
        pause / 2 + pause / 2 * u32::from(random) / 255
    }
}

/// How a connection is, for all who ask.
#[derive(Debug, Clone, Default)]
pub(super) struct Health(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    told: TransportHealth,
    was_connected: bool,
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection was made.
    pub(super) fn connected(&self) {
        let mut health = self.lock();
        health.told.is_connected = true;
        health.told.blocked = None;
        health.told.reconnects += u64::from(health.was_connected);
        health.was_connected = true;
    }

    /// What was asked for was done.
    pub(super) fn worked(&self) {
        self.lock().told.is_connected = true;
    }

    /// It was not.
    pub(super) fn failed(&self, why: impl Into<String>) {
        let mut health = self.lock();
        health.told.is_connected = false;
        health.told.last_error = Some(why.into());
    }

    /// The broker wants nothing published, or takes it again.
    #[cfg_attr(not(feature = "rabbitmq"), expect(dead_code, reason = "only RabbitMQ says so by itself"))]
    pub(super) fn blocked(&self, why: Option<String>) {
        self.lock().told.blocked = why;
    }

    /// All of it.
    pub(super) fn told(&self) -> TransportHealth {
        self.lock().told.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_again() {
        let mut pace = Pace::default();
        let pauses: Vec<Duration> = (0..40).map(|_| pace.next()).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] <= FIRST, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST), "{pauses:?}");
        assert!(pauses[39] >= LONGEST / 2, "{pauses:?}");
        pace.reset();
        assert!(pace.next() <= FIRST);
    }

    #[test]
    fn only_a_connection_after_the_first_is_a_reconnect() {
        let health = Health::default();
        assert!(!health.told().is_connected);
        health.connected();
        health.failed("gone");
        let told = health.told();
        assert_eq!((told.is_connected, told.reconnects), (false, 0));
        assert_eq!(told.last_error.as_deref(), Some("gone"));
        health.connected();
        assert_eq!((health.told().is_connected, health.told().reconnects), (true, 1));
    }
}
