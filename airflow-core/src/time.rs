//! Time: the only place that reads a clock, and durations as people write them.
//!
//! Everything that waits or compares times takes a [`Clock`], so that a test can move time itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use tokio::sync::Notify;

/// A source of time.
///
/// # Contract
///
/// `now` never panics and is cheap; [`sleep_until`](Self::sleep_until) returns at once if the moment has passed,
/// and is cancelled by dropping it. What must not depend on how somebody sets the time (leases, timeouts, pauses) uses
/// [`elapsed`](Self::elapsed) and [`sleep`](Self::sleep).
#[async_trait]
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The current moment, cut to microseconds: what every database can store.
    fn now(&self) -> DateTime<Utc>;

    /// Returns when `moment` has come.
    async fn sleep_until(&self, moment: DateTime<Utc>);

    /// How much time has passed since a moment that stays the same for this process. It goes on while the machine is
    /// suspended, and nobody can set it.
    fn elapsed(&self) -> Duration;

    /// Returns after this time, whatever somebody does to the time of day.
    async fn sleep(&self, time: Duration);
}

tokio::task_local! {
    /// Of the work that a test runs: whether it waits for the clock, and so for nothing else.
    pub(crate) static WAITS: Arc<AtomicBool>;
}

/// While it lives, the work that runs waits for the clock and for nothing else.
pub(crate) struct Waits(Option<Arc<AtomicBool>>);

impl Waits {
    pub(crate) fn begin() -> Self {
        let flag = WAITS.try_with(Arc::clone).ok();
        flag.iter().for_each(|flag| flag.store(true, Ordering::Relaxed));
        Self(flag)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.iter().for_each(|flag| flag.store(false, Ordering::Relaxed));
    }
}

/// Waits for this time to pass and for nothing else.
pub(crate) async fn wait_for(clock: &dyn Clock, time: Duration) {
    let _waits = Waits::begin();
    clock.sleep(time).await;
}

/// Waits for a moment and for nothing else.
pub(crate) async fn wait_until(clock: &dyn Clock, moment: DateTime<Utc>) {
    let _waits = Waits::begin();
    clock.sleep_until(moment).await;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// The longest single sleep: wall clocks are set, so a long wait looks at the clock again now and then.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }

    async fn sleep_until(&self, moment: DateTime<Utc>) {
        while let Ok(left) = (moment - Utc::now()).to_std() {
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
        }
    }

    fn elapsed(&self) -> Duration {
        since_boot().saturating_sub(*START)
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// How long this machine has been up, suspension included: one moment is the same for all of its processes, and nobody can
/// set it.
pub fn since_boot() -> Duration {
    #[cfg(unix)]
    {
        use rustix::time::{ClockId, clock_gettime};
        // What others call monotonic goes on during a suspension; on Linux it does not.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        const CLOCK: ClockId = ClockId::Boottime;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        const CLOCK: ClockId = ClockId::Monotonic;
        let now = clock_gettime(CLOCK);
        Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
    }
    #[cfg(not(unix))]
    {
        static FIRST_CALL: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
        FIRST_CALL.elapsed()
    }
}

/// The moment that [`SystemClock::elapsed`] counts from.
static START: LazyLock<Duration> = LazyLock::new(since_boot);

/// A clock that stands still until it is set. Clones share one time.
#[derive(Debug, Clone)]
pub struct SimClock {
    time: Arc<Mutex<SimTime>>,
    moved: Arc<Notify>,
}

#[derive(Debug)]
struct SimTime {
    start: DateTime<Utc>,
    now: DateTime<Utc>,
    /// The moments that are waited for, and by how many.
    awaited: BTreeMap<DateTime<Utc>, usize>,
}

impl SimClock {
    /// A clock that shows `start`.
    pub fn new(start: DateTime<Utc>) -> Self {
        Self {
            time: Arc::new(Mutex::new(SimTime { start, now: start, awaited: BTreeMap::new() })),
            moved: Arc::new(Notify::new()),
        }
    }

    /// Moves the clock to `moment` and wakes whoever waits for it. Never moves backwards.
    pub fn set(&self, moment: DateTime<Utc>) {
        {
            let mut time = self.lock();
            time.now = moment.max(time.now);
        }
        self.moved.notify_waiters();
    }

    /// The earliest moment that somebody waits for.
    pub fn next_awaited(&self) -> Option<DateTime<Utc>> {
        self.lock().awaited.keys().next().copied()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SimTime> {
        self.time.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One wait; its end, also by being dropped, takes it off the list.
struct Wait<'c>(&'c SimClock, DateTime<Utc>);

impl<'c> Wait<'c> {
    fn new(clock: &'c SimClock, moment: DateTime<Utc>) -> Self {
        *clock.lock().awaited.entry(moment).or_default() += 1;
        Self(clock, moment)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut time = self.0.lock();
        if let Some(count) = time.awaited.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                time.awaited.remove(&self.1);
            }
        }
    }
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> DateTime<Utc> {
        self.lock().now
    }

    async fn sleep_until(&self, moment: DateTime<Utc>) {
        let _wait = Wait::new(self, moment);
        loop {
            let moved = self.moved.notified();
            if self.now() >= moment {
                return;
            }
            moved.await;
        }
    }

    fn elapsed(&self) -> Duration {
        let time = self.lock();
        (time.now - time.start).to_std().unwrap_or_default()
    }

    async fn sleep(&self, time: Duration) {
        let until = TimeDelta::from_std(time).ok().and_then(|time| self.now().checked_add_signed(time));
        self.sleep_until(until.unwrap_or(DateTime::<Utc>::MAX_UTC)).await;
    }
}

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no duration: {why}; write numbers with units, such as `30s`, `5m`, `1h30m`, `2d` or `250ms`"
)]
pub struct InvalidDuration {
    text: String,
    why: &'static str,
}

/// Reads a duration such as `30s`, `5m`, `1h30m`, `2d`, `1w` or `250ms`.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(airflow_core::time::parse_duration("1h30m")?, Duration::from_secs(5400));
/// # Ok::<(), airflow_core::time::InvalidDuration>(())
/// ```
///
/// # Errors
///
/// [`InvalidDuration`] if a number lacks its unit, a unit is unknown, or the sum does not fit.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let fail = |why| InvalidDuration { text: text.to_owned(), why };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(fail("it is empty"));
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits =
            rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| fail("a number lacks its unit"))?;
        if digits == 0 {
            return Err(fail("a number is missing"));
        }
        let number: u64 = rest[..digits].parse().map_err(|_| fail("a number is too large"))?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let millis: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" | "sec" | "secs" => 1_000,
            "m" | "min" | "mins" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            "w" | "week" | "weeks" => 604_800_000,
            "" => return Err(fail("a number lacks its unit")),
            _ => return Err(fail("a unit is unknown")),
        };
        rest = rest[letters..].trim_start();
        let part =
            number.checked_mul(millis).map(Duration::from_millis).ok_or_else(|| fail("it is too long"))?;
        total = total.checked_add(part).ok_or_else(|| fail("it is too long"))?;
    }
    Ok(total)
}

/// Reads a duration from text or a number of seconds: a field that may be missing.
pub(crate) fn optional_duration<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<Duration>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged, expecting = "a duration is text such as `5m`, or a number of seconds")]
    enum Written {
        Text(String),
        Seconds(f64),
    }
    let written: Option<Written> = serde::Deserialize::deserialize(from)?;
    match written {
        None => Ok(None),
        Some(Written::Text(text)) => parse_duration(&text).map(Some).map_err(serde::de::Error::custom),
        Some(Written::Seconds(seconds)) => {
            Duration::try_from_secs_f64(seconds).map(Some).map_err(serde::de::Error::custom)
        }
    }
}

/// `n` seconds.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `n` minutes.
pub const fn mins(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

/// `n` hours.
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

/// `n` days of 24 hours.
pub const fn days(n: u64) -> Duration {
    Duration::from_secs(n * 86_400)
}

/// The years that a date of a run may lie in: those that the ids of runs and Airflow's dates know. A database may know
/// fewer.
pub const YEARS: std::ops::RangeInclusive<i32> = 1..=9999;

/// Reads a moment: RFC 3339 (`2026-03-02T06:00+01:00`), or a date with optional time, which is then local to `zone`.
///
/// # Errors
///
/// [`InvalidMoment`] if the text has none of these forms, names a local time that `zone` skips, or lies outside of the
/// [`YEARS`], in UTC.
pub fn parse_moment(text: &str, zone: chrono_tz::Tz) -> Result<DateTime<Utc>, InvalidMoment> {
    use chrono::Datelike as _;
    let moment =
        read_moment(text, zone).ok_or_else(|| InvalidMoment::Unreadable { text: text.to_owned(), zone })?;
    if YEARS.contains(&moment.year()) {
        return Ok(moment);
    }
    Err(InvalidMoment::OutOfRange { text: text.to_owned() })
}

fn read_moment(text: &str, zone: chrono_tz::Tz) -> Option<DateTime<Utc>> {
    use chrono::{NaiveDate, NaiveDateTime, TimeZone as _};
    let trimmed = text.trim();
    for format in
        ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z"]
    {
        if let Ok(moment) = DateTime::parse_from_str(&trimmed.replace('Z', "+00:00"), format) {
            return Some(moment.with_timezone(&Utc));
        }
    }
    let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(trimmed, format).ok())
        .or_else(|| NaiveDate::parse_from_str(trimmed, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))?;
    zone.from_local_datetime(&naive).latest().map(|local| local.with_timezone(&Utc))
}

/// The moment of a local time: of two the first, of a time that the zone skips the one after the gap by as much.
pub(crate) fn local_moment(local: chrono::NaiveDateTime, zone: chrono_tz::Tz) -> DateTime<Utc> {
    use chrono::{Offset as _, TimeZone as _};
    match zone.from_local_datetime(&local).earliest() {
        Some(moment) => moment.with_timezone(&Utc),
        None => {
            let day_before = local - chrono::TimeDelta::days(1);
            let offset = zone.offset_from_utc_datetime(&day_before).fix();
            (local - offset).and_utc()
        }
    }
}

/// Why a text is no moment in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMoment {
    /// It has another form, or names a local time that the zone skips.
    #[error(
        "`{text}` is no moment in {zone}; write `2026-01-31`, `2026-01-31T06:00` or `2026-01-31T06:00+01:00`"
    )]
    Unreadable {
        /// The text.
        text: String,
        /// The zone of local times.
        zone: chrono_tz::Tz,
    },
    /// It lies outside of the [`YEARS`].
    #[error("`{text}` is outside the years {} to {} (UTC)", YEARS.start(), YEARS.end())]
    OutOfRange {
        /// The text.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in
            [("30s", 30_000), ("5m", 300_000), ("1h30m", 5_400_000), ("250ms", 250), ("2 d", 172_800_000)]
        {
            assert_eq!(parse_duration(text).unwrap().as_millis(), millis, "{text}");
        }
        for bad in ["", "5", "-5s", "5x", "s", "1h30", "99999999999999999999s"] {
            let error = parse_duration(bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{bad}` is no duration")), "{error}");
        }
    }

    #[test]
    fn moments_are_local_to_the_zone_unless_they_say_otherwise() {
        let paris = chrono_tz::Europe::Paris;
        for (text, utc) in [
            ("2026-03-02T06:00+01:00", "2026-03-02T05:00:00Z"),
            ("2026-03-02", "2026-03-01T23:00:00Z"),
            ("2026-07-02 06:00", "2026-07-02T04:00:00Z"),
            ("2026-07-02T06:00:00Z", "2026-07-02T06:00:00Z"),
        ] {
            assert_eq!(parse_moment(text, paris).unwrap(), utc.parse::<DateTime<Utc>>().unwrap(), "{text}");
        }
        assert!(parse_moment("2026-13-01", paris).is_err());
    }

    /// Goal: no date gets in that a run cannot have. Method: both ends, to the second, with and without an offset.
    #[test]
    fn moments_lie_in_the_years_that_dates_of_runs_may_lie_in() {
        let utc = chrono_tz::UTC;
        for good in
            ["0001-01-01", "9999-12-31T23:59:59", "0001-01-01T01:00+01:00", "9999-12-31T22:59:59-01:00"]
        {
            assert!(parse_moment(good, utc).is_ok(), "{good}");
        }
        for bad in [
            "0000-12-31T23:59:59",
            "0001-01-01T00:59+01:00",
            "9999-12-31T23:00:00-01:00",
            "+10000-01-01",
            "-0044-03-15",
        ] {
            let error = parse_moment(bad, utc).unwrap_err().to_string();
            assert_eq!(error, format!("`{bad}` is outside the years 1 to 9999 (UTC)"));
        }
    }

    #[test]
    fn a_skipped_local_time_is_moved_past_the_gap() {
        let paris = chrono_tz::Europe::Paris;
        for (local, utc) in [
            ("2026-03-29T02:30:00", "2026-03-29T01:30:00Z"),
            ("2026-03-29T03:30:00", "2026-03-29T01:30:00Z"),
            ("2026-10-25T02:30:00", "2026-10-25T00:30:00Z"),
            ("2026-07-01T06:00:00", "2026-07-01T04:00:00Z"),
        ] {
            let expected: DateTime<Utc> = utc.parse().unwrap();
            assert_eq!(local_moment(local.parse().unwrap(), paris), expected, "{local}");
        }
    }

    /// Goal: a wait on the simulated clock ends exactly when the clock gets there.
    #[tokio::test]
    async fn the_simulated_clock_wakes_waiters() {
        let start: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        let clock = SimClock::new(start);
        let waiter = {
            let clock = clock.clone();
            tokio::spawn(async move { clock.sleep_until(start + chrono::TimeDelta::hours(1)).await })
        };
        tokio::task::yield_now().await;
        clock.set(start + chrono::TimeDelta::minutes(59));
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        assert_eq!(clock.next_awaited(), Some(start + chrono::TimeDelta::hours(1)));
        clock.set(start + chrono::TimeDelta::hours(1));
        waiter.await.unwrap();
        assert_eq!(clock.next_awaited(), None);
        assert_eq!(clock.elapsed(), hours(1));
    }

    #[test]
    fn time_that_has_passed_never_goes_back() {
        let clock = SystemClock;
        let mut last = clock.elapsed();
        for _ in 0..100 {
            let now = clock.elapsed();
            assert!(now >= last, "{now:?} after {last:?}");
            last = now;
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_time_since_the_boot_is_that_of_the_system() {
        let uptime = || {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
        };
        let before = uptime();
        let now = since_boot();
        // The system tells it in hundredths.
        let after = uptime() + Duration::from_millis(10);
        assert!((before..=after).contains(&now), "{before:?} {now:?} {after:?}");
    }
}
