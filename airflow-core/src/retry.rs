//! When a failed attempt is tried again.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

/// No retry waits longer than this, whatever the formula says (Airflow's limit: one day).
pub const LONGEST_RETRY_DELAY: Duration = Duration::from_secs(86_400);

/// The waiting time between attempts of a task.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// How many attempts may follow the first.
    pub retries: u32,
    /// The wait after the first failure, and after each one without back-off.
    pub delay: Duration,
    /// Multiplies the wait after each failure; `None` keeps it constant.
    pub backoff: Option<f64>,
    /// An upper limit for the wait; applies with back-off only.
    pub max_delay: Option<Duration>,
}

/// What makes the spread of waits differ between task instances without being random.
#[derive(Debug, Clone, Copy)]
pub struct RetrySeed<'a> {
    /// The dag.
    pub dag_id: &'a str,
    /// The task.
    pub task_id: &'a str,
    /// The logical date of the run.
    pub logical_date: DateTime<Utc>,
}

impl RetryPolicy {
    /// The wait after try number `try_number` (1 = first) failed.
    ///
    /// With back-off the base doubles (or grows by the factor) with each try, and a share that depends on the seed
    /// only is added, so that instances that failed together do not come back together: the wait lies in
    /// `[base, 2 * base)`. Equal to Airflow's, to the second.
    pub fn delay_after(&self, try_number: u32, seed: RetrySeed<'_>) -> Duration {
        let Some(factor) = self.backoff else { return self.delay };
        let exponent = i32::try_from(try_number.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = (self.delay.as_secs_f64() * factor.powi(exponent)).ceil().max(1.0);
        let longest = LONGEST_RETRY_DELAY.as_secs();
        let spread = if grown < 1e18 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked: 1 <= grown < 1e18"
            )]
            let base = grown as u64;
            base.saturating_add(hash_modulo(try_number, seed, base))
        } else {
            longest
        };
        let wait = Duration::from_secs(spread.min(longest));
        match self.max_delay {
            Some(max) if !max.is_zero() => wait.min(max),
            _ => wait,
        }
    }

    /// The moment of the next try, for a try that ended at `ended`.
    pub fn next_try(&self, ended: DateTime<Utc>, try_number: u32, seed: RetrySeed<'_>) -> DateTime<Utc> {
        let delay = TimeDelta::from_std(self.delay_after(try_number, seed)).unwrap_or(TimeDelta::MAX);
        ended.checked_add_signed(delay).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

/// The SHA-1 of the instance's name as one big number, modulo `base`.
pub(crate) fn hash_modulo(try_number: u32, seed: RetrySeed<'_>, base: u64) -> u64 {
    let date = python_date(seed.logical_date);
    let digest = Sha1::digest(format!("{}#{}#{date}#{try_number}", seed.dag_id, seed.task_id));
    let rest = digest.iter().fold(0u128, |rest, byte| (rest * 256 + u128::from(*byte)) % u128::from(base));
    u64::try_from(rest).expect("a rest is smaller than its divisor")
}

/// A date as Airflow prints it into the hash: microseconds only if there are any.
fn python_date(date: DateTime<Utc>) -> String {
    let format = if date.timestamp_subsec_micros() == 0 {
        "%Y-%m-%d %H:%M:%S+00:00"
    } else {
        "%Y-%m-%d %H:%M:%S%.6f+00:00"
    };
    date.format(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> RetrySeed<'static> {
        RetrySeed { dag_id: "d", task_id: "t", logical_date: "2024-01-01T00:00:00Z".parse().expect("a date") }
    }

    #[test]
    fn without_back_off_the_wait_is_constant_and_the_maximum_ignored() {
        let policy = RetryPolicy {
            retries: 3,
            delay: Duration::from_secs(300),
            backoff: None,
            max_delay: Some(Duration::from_secs(10)),
        };
        assert_eq!(policy.delay_after(1, seed()), Duration::from_secs(300));
        assert_eq!(policy.delay_after(9, seed()), Duration::from_secs(300));
    }

    #[test]
    fn back_off_grows_inside_its_band_and_ends_at_the_limits() {
        let policy =
            RetryPolicy { retries: 9, delay: Duration::from_secs(30), backoff: Some(2.0), max_delay: None };
        for try_number in 1..=9u32 {
            let base = 30 * 2u64.pow(try_number - 1);
            let wait = policy.delay_after(try_number, seed()).as_secs();
            assert!(
                (base..2 * base).contains(&wait),
                "try {try_number}: {wait} is not in [{base}, {})",
                2 * base
            );
        }
        assert_eq!(policy.delay_after(u32::MAX, seed()), LONGEST_RETRY_DELAY);
        let capped = RetryPolicy { max_delay: Some(Duration::from_secs(45)), ..policy };
        assert_eq!(capped.delay_after(5, seed()), Duration::from_secs(45));
    }
}
