//! What users write where a preset or a cron string does not say enough.
//!
//! Builders check nothing: a mistake is reported when the DAG is built, with all its other mistakes,
//! by [`Schedule::timetable`](super::Schedule::timetable).

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::{
    CronDataInterval, CronExpression, CronTicks, CronTrigger, DeltaDataInterval, DeltaTrigger,
    EventsTimetable, ScheduleError, Step, Timetable, parse_zone,
};

/// A schedule by cron expression, with what a plain string cannot say.
///
/// ```
/// use std::time::Duration;
/// use airflow_core::timetable::{Cron, Schedule};
///
/// let nightly = Cron::daily("02:30").tz("America/New_York");
/// let sampled = Cron::new("*/5 * * * *").interval(Duration::from_secs(300));
/// assert!(Schedule::from(nightly).timetable(chrono_tz::UTC).is_ok());
/// assert!(Schedule::from(sampled).timetable(chrono_tz::UTC).is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    source: Source,
    zone: Option<String>,
    /// The interval before each tick, or `None` for the interval between ticks.
    trigger: Option<Step>,
    key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Expression(String),
    Daily(String),
}

impl Cron {
    /// A schedule by `expression`: minute, hour, day of month, month, day of week; or a preset such as
    /// `@daily`. A run covers the time between two ticks and starts when that is over.
    pub fn new(expression: impl Into<String>) -> Self {
        Self { source: Source::Expression(expression.into()), zone: None, trigger: None, key: None }
    }

    /// Every day at `time`, such as `02:30`.
    pub fn daily(time: impl Into<String>) -> Self {
        Self { source: Source::Daily(time.into()), ..Self::new("") }
    }

    /// Every hour on the hour.
    pub fn hourly() -> Self {
        Self::new("0 * * * *")
    }

    /// Follows the clocks of `zone` (an IANA name, such as `Europe/Paris`) rather than those of the DAG.
    #[must_use]
    pub fn tz(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Starts a run at each tick, about that instant, rather than about the time between two ticks.
    #[must_use]
    pub fn trigger(mut self) -> Self {
        self.trigger.get_or_insert(Step::ZERO);
        self
    }

    /// As [`trigger`](Self::trigger), and each run is about the `interval` before its tick.
    #[must_use]
    pub fn interval(mut self, interval: impl Into<Step>) -> Self {
        self.trigger = Some(interval.into());
        self
    }

    /// Lets an `R` in the expression depend on `key` instead of on the expression, so that DAGs with
    /// the same expression start at different times. Each keeps its own time for good.
    #[must_use]
    pub fn spread_by(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    fn ticks(&self, dag_zone: Tz) -> Result<CronTicks, ScheduleError> {
        let text = match &self.source {
            Source::Expression(text) => text.clone(),
            Source::Daily(time) => daily(time)?,
        };
        let expression = CronExpression::parse_for(&text, self.key.as_deref().unwrap_or(&text))?;
        if !expression.fires() {
            return Err(ScheduleError::NeverFires { cron: text });
        }
        let zone = self.zone.as_deref().map(parse_zone).transpose()?.unwrap_or(dag_zone);
        Ok(CronTicks::new(expression, zone))
    }

    pub(super) fn timetable(&self, dag_zone: Tz) -> Result<Arc<dyn Timetable>, ScheduleError> {
        match self.trigger {
            None => Ok(Arc::new(CronDataInterval::new(self.ticks(dag_zone)?))),
            Some(_) => Ok(Arc::new(self.cron_trigger(dag_zone)?)),
        }
    }

    pub(super) fn cron_trigger(&self, dag_zone: Tz) -> Result<CronTrigger, ScheduleError> {
        let interval = self.trigger.unwrap_or(Step::ZERO);
        check_interval(interval)?;
        Ok(CronTrigger::new(self.ticks(dag_zone)?, interval))
    }
}

/// The expression for every day at `time`.
fn daily(time: &str) -> Result<String, ScheduleError> {
    let parts = || {
        let (hour, minute) = time.split_once(':')?;
        let number = |text: &str| {
            let digits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u32>().ok().filter(|_| digits)
        };
        Some((number(hour)?, number(minute)?)).filter(|(hour, minute)| *hour < 24 && *minute < 60)
    };
    let Some((hour, minute)) = parts() else { return Err(ScheduleError::NotATime { time: time.to_owned() }) };
    Ok(format!("{minute} {hour} * * *"))
}

/// A schedule by distance: a run every so often, counted from the start date.
///
/// ```
/// use airflow_core::timetable::{Delta, Schedule};
///
/// let schedule = Schedule::from(Delta::months(1).plus(Delta::days(1)));
/// assert_eq!(schedule.timetable(chrono_tz::UTC)?.summary(), "1 month, 1 day, 0:00:00");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    step: Step,
    trigger: Option<Step>,
}

impl Delta {
    /// A run every `step`.
    pub fn every(step: impl Into<Step>) -> Self {
        Self { step: step.into(), trigger: None }
    }

    /// A run every `n` seconds.
    pub fn seconds(n: u32) -> Self {
        Self::every(TimeDelta::seconds(n.into()))
    }

    /// A run every `n` minutes.
    pub fn minutes(n: u32) -> Self {
        Self::every(TimeDelta::minutes(n.into()))
    }

    /// A run every `n` hours.
    pub fn hours(n: u32) -> Self {
        Self::every(TimeDelta::hours(n.into()))
    }

    /// A run every `n` times 24 h, whatever the clocks do.
    pub fn days(n: u32) -> Self {
        Self::every(TimeDelta::days(n.into()))
    }

    /// A run every `n` weeks.
    pub fn weeks(n: u32) -> Self {
        Self::every(TimeDelta::weeks(n.into()))
    }

    /// A run every `n` calendar months.
    pub fn months(n: u32) -> Self {
        Self::every(Step::new(i32::try_from(n).unwrap_or(i32::MAX), TimeDelta::zero()))
    }

    /// A run every `n` calendar years.
    pub fn years(n: u32) -> Self {
        Self::months(n.saturating_mul(12))
    }

    /// Both distances together.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        self.step = self.step.plus(other.step);
        self
    }

    /// Makes each run about the instant it starts at, rather than about the time since the last one.
    #[must_use]
    pub fn trigger(mut self) -> Self {
        self.trigger.get_or_insert(Step::ZERO);
        self
    }

    /// As [`trigger`](Self::trigger), and each run is about the `interval` before its start.
    #[must_use]
    pub fn interval(mut self, interval: impl Into<Step>) -> Self {
        self.trigger = Some(interval.into());
        self
    }

    pub(super) fn timetable(self) -> Result<Arc<dyn Timetable>, ScheduleError> {
        if !self.step.is_positive() {
            return Err(ScheduleError::NotPositive { step: self.step });
        }
        // A step that leaves the calendar at once has no second run; say so now, not at run time.
        if self.step.after(DateTime::UNIX_EPOCH).is_err() {
            return Err(ScheduleError::TooLong);
        }
        match self.trigger {
            None => Ok(Arc::new(DeltaDataInterval::new(self.step))),
            Some(interval) => {
                check_interval(interval)?;
                Ok(Arc::new(DeltaTrigger::new(self.step, interval)))
            }
        }
    }
}

impl From<Delta> for Step {
    fn from(delta: Delta) -> Self {
        delta.step
    }
}

/// The interval before a tick may be empty, but must lie before it and in the calendar.
fn check_interval(interval: Step) -> Result<(), ScheduleError> {
    if interval != Step::ZERO && !interval.is_positive() {
        return Err(ScheduleError::NegativeInterval { interval });
    }
    interval.before(DateTime::UNIX_EPOCH).map(drop).map_err(|_| ScheduleError::TooLong)
}

/// A schedule by a list of instants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    events: Vec<DateTime<Utc>>,
    restrict: bool,
}

impl Events {
    /// A run at each of `events`, in any order.
    pub fn new(events: impl IntoIterator<Item = DateTime<Utc>>) -> Self {
        Self { events: events.into_iter().collect(), restrict: false }
    }

    /// Makes a run by hand about the latest event that has passed, not about the instant it starts at.
    #[must_use]
    pub fn restrict_to_events(mut self) -> Self {
        self.restrict = true;
        self
    }

    pub(super) fn timetable(&self) -> EventsTimetable {
        EventsTimetable::new(self.events.iter().copied(), self.restrict)
    }
}
