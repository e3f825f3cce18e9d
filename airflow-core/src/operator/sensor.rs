//! Sensors: tasks that wait until something outside is so.
//!
//! A person writes [`Sensor::poke`]; [`watch`] calls it again and again, in the attempt or, without a slot, as the wait of
//! a deferred task. The rules for timeouts and failures are Airflow's.

use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::retry::{RetrySeed, hash_modulo};
use crate::state::task::words;
use crate::xcom::Data;

use super::{Deferral, Operator, Result, TaskContext, TaskError};

/// The pause between two pokes, unless the sensor says otherwise.
pub const DEFAULT_POKE_INTERVAL: Duration = Duration::from_secs(60);

/// How long a sensor waits, unless it says otherwise: a week.
pub const DEFAULT_SENSOR_TIMEOUT: Duration = Duration::from_secs(7 * 86_400);

/// What a poke found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poke<T = ()> {
    /// It is so; this is the result of the task.
    Ready(T),
    /// It is not so yet.
    NotYet,
    /// It cannot be so before this moment: it is looked at then, whatever the poke interval.
    NotBefore(DateTime<Utc>),
}

impl Poke {
    /// Ready if `yes`.
    pub fn when(yes: bool) -> Self {
        if yes { Self::Ready(()) } else { Self::NotYet }
    }
}

impl<T> From<Option<T>> for Poke<T> {
    fn from(found: Option<T>) -> Self {
        found.map_or(Self::NotYet, Self::Ready)
    }
}

/// What a function under `#[sensor]` may return.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a sensor cannot return `{Self}`",
    label = "not a `Poke`",
    note = "return `Result<Poke<T>>`: `Poke::Ready(value)` once it is so, `Poke::NotYet` until then"
)]
pub trait PokeReturn {
    /// The result of the sensor.
    type Ready: Data;

    /// As a poke.
    fn into_poke(self) -> Poke<Self::Ready>;
}

#[diagnostic::do_not_recommend]
impl<T: Data> PokeReturn for Poke<T> {
    type Ready = T;

    fn into_poke(self) -> Self {
        self
    }
}

impl PokeReturn for bool {
    type Ready = ();

    fn into_poke(self) -> Poke {
        Poke::when(self)
    }
}

/// The question of a sensor struct. The rest of [`Operator`] comes from `#[derive(Operator)]` with
/// `#[operator(sensor)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is a sensor but has no `impl Sensor`",
    label = "nothing says what this sensor looks for",
    note = "write `impl Sensor for {Self} {{ type Output = (); async fn poke(&self, cx: &TaskContext) -> Result<Poke> {{ .. }} }}`"
)]
pub trait Sensor: Send + Sync + 'static {
    /// What it returns once it is ready.
    type Output: Data;

    /// Looks once. In the mode `deferred` this runs beside many others: it must not block.
    fn poke(&self, cx: &TaskContext) -> impl Future<Output = Result<Poke<Self::Output>>> + Send;

    /// Called when a running attempt is cancelled or timed out.
    fn on_kill(&self, cx: &TaskContext) -> impl Future<Output = ()> + Send {
        let _ = cx;
        async {}
    }
}

words! {
    /// Where a sensor waits between two pokes.
    SensorMode {
        /// In its attempt: it holds its slot. For waits of seconds.
        Poke = "poke",
        /// Nowhere: the attempt ends, a new one starts for the next poke. For waits of hours with rare looks.
        Reschedule = "reschedule",
        /// As a future in a process that schedules: it holds no slot and survives a restart.
        Deferred = "deferred",
    }
}

/// The options of a sensor after all defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct SensorSettings {
    /// Where it waits.
    pub mode: SensorMode,
    /// The pause between two pokes.
    pub poke_interval: Duration,
    /// How long it waits in all, from its first attempt on; retries do not start it anew, a clear does.
    pub timeout: Duration,
    /// A timeout or an error that no retry can heal skips the task instead of failing it.
    pub soft_fail: bool,
    /// An error of a poke is logged and counts as "not yet".
    pub silent_fail: bool,
    /// Any error of a poke skips the task.
    pub never_fail: bool,
    /// Whether the pauses grow.
    pub exponential_backoff: bool,
    /// The longest pause.
    pub max_wait: Option<Duration>,
}

impl SensorSettings {
    /// How long it may still wait; nothing if its time is over.
    pub(crate) fn left(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> Option<TimeDelta> {
        let timeout = TimeDelta::from_std(self.timeout).unwrap_or(TimeDelta::MAX);
        timeout.checked_sub(&(now - since)).filter(|left| *left > TimeDelta::zero())
    }

    /// What to end with once its time is over.
    pub(crate) fn timed_out(&self) -> TaskError {
        let why = format!("the sensor waited longer than its timeout of {:?}", self.timeout);
        if self.soft_fail { TaskError::Skip(why) } else { TaskError::Fail(why) }
    }

    /// The pause after poke number `pokes`, in whole seconds if it grows. The same formula as Airflow's.
    fn pause(&self, cx: &TaskContext, since: DateTime<Utc>, pokes: u32) -> Duration {
        let mut pause = self.poke_interval;
        if self.exponential_backoff {
            let seed = RetrySeed {
                dag_id: cx.dag_id().as_str(),
                task_id: cx.task_id().as_str(),
                logical_date: since,
            };
            pause = grown(self.poke_interval, pokes, seed);
        }
        self.max_wait.map_or(pause, |most| pause.min(most))
    }

    /// What an error of a poke means: it is passed on, or it counts as "not yet".
    fn judge(&self, error: TaskError) -> Result<()> {
        match error {
            TaskError::Fail(why) if self.soft_fail || self.never_fail => Err(TaskError::Skip(why)),
            TaskError::Error(_) | TaskError::Retry { .. } if self.silent_fail => {
                tracing::error!("the poke failed, which counts as not yet: {error}");
                Ok(())
            }
            TaskError::Error(_) | TaskError::Retry { .. } if self.never_fail => {
                Err(TaskError::Skip(error.to_string()))
            }
            other => Err(other),
        }
    }
}

/// Beyond this many seconds a pause is cut by the timeout anyway.
const LONGEST_PAUSE: f64 = 1e9;

/// `b + hash mod b` seconds, with `b = interval * 2^(pokes - 2)`, at least 1.
fn grown(interval: Duration, pokes: u32, seed: RetrySeed<'_>) -> Duration {
    let exponent = i32::try_from(pokes).unwrap_or(i32::MAX).saturating_sub(2);
    let base = (interval.as_secs_f64() * 2f64.powi(exponent)).floor().clamp(1.0, LONGEST_PAUSE);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: 1 <= base <= 1e9")]
    let base = base as u64;
    Duration::from_secs(base + hash_modulo(pokes, seed, base))
}

/// One look, with the rules for errors: a result, or when to look again at the earliest.
async fn look<O: Operator>(
    sensor: &O,
    cx: &TaskContext,
    settings: &SensorSettings,
) -> Result<Result<O::Output, Option<DateTime<Utc>>>> {
    match sensor.poke(cx).await {
        Ok(Poke::Ready(value)) => Ok(Ok(value)),
        Ok(Poke::NotYet) => Ok(Err(None)),
        Ok(Poke::NotBefore(at)) => Ok(Err(Some(at))),
        Err(error) => settings.judge(error).map(|()| Err(None)),
    }
}

/// When to look again after poke number `pokes`.
fn next_look(
    cx: &TaskContext,
    settings: &SensorSettings,
    not_before: Option<DateTime<Utc>>,
    pokes: u32,
) -> Result<DateTime<Utc>> {
    let (since, now) = (cx.waits_since(), cx.now());
    let left = settings.left(since, now).ok_or_else(|| settings.timed_out())?;
    let pause = match not_before.filter(|at| *at > now) {
        Some(at) => at - now,
        None => TimeDelta::from_std(settings.pause(cx, since, pokes)).unwrap_or(TimeDelta::MAX),
    };
    Ok(now + pause.min(left))
}

/// The attempt of a sensor: looks until it is ready, or leaves in its mode.
#[doc(hidden)]
pub async fn watch<O: Operator>(sensor: &O, cx: &TaskContext) -> Result<O::Output> {
    let settings = cx.sensor();
    let mut pokes = cx.pokes();
    loop {
        let not_before = match look(sensor, cx, settings).await? {
            Ok(value) => return Ok(value),
            Err(not_before) => not_before,
        };
        pokes = pokes.saturating_add(1);
        let next = next_look(cx, settings, not_before, pokes)?;
        match settings.mode {
            SensorMode::Poke => cx.sleep_until(next).await,
            SensorMode::Reschedule => return Err(TaskError::Reschedule(next)),
            SensorMode::Deferred => return Err(Deferral::pokes().into()),
        }
    }
}

/// The wait of a deferred sensor, which has just looked: looks until it is ready.
pub(crate) async fn watch_deferred<O: Operator>(sensor: &O, cx: &TaskContext) -> Result<O::Output> {
    let settings = cx.sensor();
    let mut pokes = 0_u32;
    loop {
        let not_before = match look(sensor, cx, settings).await? {
            Ok(value) => return Ok(value),
            Err(not_before) => not_before,
        };
        pokes = pokes.saturating_add(1);
        let next = next_look(cx, settings, not_before, pokes)?;
        cx.sleep_until(next).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the growth is Airflow's: `max(floor(interval * 2^(n - 2)), 1)` and up to once more of it on top.
    #[test]
    fn pauses_grow_inside_their_band() {
        let since = "2026-01-01T00:00:00Z".parse().expect("a date");
        let seed = RetrySeed { dag_id: "d", task_id: "t", logical_date: since };
        for (pokes, base) in [(1, 30), (2, 60), (3, 120), (8, 3840)] {
            let pause = grown(Duration::from_secs(60), pokes, seed).as_secs();
            assert!((base..2 * base).contains(&pause), "{pokes}: {pause}");
            assert_eq!(pause, grown(Duration::from_secs(60), pokes, seed).as_secs());
        }
        assert_eq!(grown(Duration::from_millis(100), 1, seed).as_secs(), 1);
        assert!(grown(Duration::from_secs(60), u32::MAX, seed).as_secs() < 2_000_000_000);
    }
}
