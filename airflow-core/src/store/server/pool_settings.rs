//! How connections are kept.

use std::time::Duration;

use sqlx::Database;
use sqlx::pool::PoolOptions;

/// How the connections to a server are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// How many there are at most, at least 3: one commits, the others read, write settings and renew the lease. 10
    /// unless set; the server must allow as many for each process.
    pub max_connections: u32,
    /// How many are kept open although nobody needs them; 1 unless set.
    pub min_connections: u32,
    /// How long a call waits for a connection; 10 s unless set.
    pub acquire_timeout: Duration,
    /// After how long a connection is closed, so that a failover or a new address of the server is noticed in time;
    /// 30 minutes unless set.
    pub max_lifetime: Duration,
    /// After how long without use a connection is closed; 5 minutes unless set.
    pub idle_timeout: Duration,
    /// Whether a connection is asked for a sign of life before it is used, which costs a message; on unless set.
    pub test_before_use: bool,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            max_connections: 10,
            min_connections: 1,
            acquire_timeout: Duration::from_secs(10),
            max_lifetime: Duration::from_secs(30 * 60),
            idle_timeout: Duration::from_secs(5 * 60),
            test_before_use: true,
        }
    }
}

impl PoolSettings {
    pub(in crate::store) fn options<D: Database>(&self) -> PoolOptions<D> {
        PoolOptions::new()
            .max_connections(self.max_connections.max(3))
            .min_connections(self.min_connections)
            .acquire_timeout(self.acquire_timeout)
            .max_lifetime(self.max_lifetime)
            .idle_timeout(self.idle_timeout)
            .test_before_acquire(self.test_before_use)
    }
}
