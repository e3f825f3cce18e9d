//! A clock for tests in virtual time.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// A clock in tokio's virtual time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Virtual(tokio::time::Instant);

impl Virtual {
    pub(crate) fn new() -> Self {
        Self(tokio::time::Instant::now())
    }
}

#[async_trait::async_trait]
impl airflow::time::Clock for Virtual {
    fn now(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + self.0.elapsed()
    }

    async fn sleep_until(&self, moment: DateTime<Utc>) {
        self.sleep((moment - self.now()).to_std().unwrap_or_default()).await;
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}
