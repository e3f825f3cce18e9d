//! Timetables whose runs start at a tick; what they are about is said apart.
//!
//! The run of a tick is about the `interval` before it, which is empty by default. Start with [`next`].

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{
    CronTicks, DagRunInfo, DataInterval, Step, TimeRestriction, Timetable, TimetableError,
    interval::{DeltaTicks, describe_cron},
    ticks::Ticks,
};

/// A run at every tick of a cron expression.
#[derive(Clone, Debug)]
pub struct CronTrigger {
    ticks: CronTicks,
    interval: Step,
}

impl CronTrigger {
    /// A run at each of `ticks`, about the `interval` before it.
    pub fn new(ticks: CronTicks, interval: Step) -> Self {
        Self { ticks, interval }
    }

    /// The ticks.
    pub fn ticks(&self) -> &CronTicks {
        &self.ticks
    }
}

impl Timetable for CronTrigger {
    fn next_dagrun_info(
        &self,
        last: Option<DataInterval>,
        restriction: &TimeRestriction,
        now: DateTime<Utc>,
    ) -> Result<Option<DagRunInfo>, TimetableError> {
        next(&self.ticks, self.interval, last, restriction, now)
    }

    fn infer_manual_data_interval(&self, run_after: DateTime<Utc>) -> Result<DataInterval, TimetableError> {
        Ok(DataInterval::new(self.interval.before(run_after)?, run_after))
    }

    fn summary(&self) -> String {
        self.ticks.expression().text().to_owned()
    }

    fn description(&self) -> String {
        describe_cron(&self.ticks)
    }

    fn identity(&self) -> String {
        let expression = self.ticks.expression().canonical();
        format!("cron-trigger {expression} {} {}", self.ticks.zone(), self.interval)
    }

    fn timezone(&self) -> Option<Tz> {
        Some(self.ticks.zone())
    }
}

/// A run whenever a length of time has passed since the last one.
#[derive(Clone, Debug)]
pub struct DeltaTrigger {
    ticks: DeltaTicks,
    interval: Step,
}

impl DeltaTrigger {
    /// A run every `step`, about the `interval` before it.
    ///
    /// `step` must be positive ([`Step::is_positive`]); [`Schedule`](super::Schedule) checks that.
    pub fn new(step: Step, interval: Step) -> Self {
        Self { ticks: DeltaTicks(step), interval }
    }
}

impl Timetable for DeltaTrigger {
    fn next_dagrun_info(
        &self,
        last: Option<DataInterval>,
        restriction: &TimeRestriction,
        now: DateTime<Utc>,
    ) -> Result<Option<DagRunInfo>, TimetableError> {
        next(&self.ticks, self.interval, last, restriction, now)
    }

    fn infer_manual_data_interval(&self, run_after: DateTime<Utc>) -> Result<DataInterval, TimetableError> {
        Ok(DataInterval::new(self.interval.before(run_after)?, run_after))
    }

    fn summary(&self) -> String {
        self.ticks.0.to_string()
    }

    fn description(&self) -> String {
        self.ticks.0.describe()
    }

    fn identity(&self) -> String {
        format!("delta-trigger {} {}", self.ticks.0, self.interval)
    }
}

/// The next tick. Without catch-up the newest one that has passed, unless it has had its run.
fn next(
    ticks: &impl Ticks,
    interval: Step,
    last: Option<DataInterval>,
    restriction: &TimeRestriction,
    now: DateTime<Utc>,
) -> Result<Option<DagRunInfo>, TimetableError> {
    let follows = last.map(|last| ticks.next(last.end)).transpose()?;
    let first = || restriction.earliest.map(|earliest| ticks.align_to_next(earliest)).transpose();
    let tick = match follows {
        Some(tick) if restriction.catchup => Some(tick),
        None if restriction.catchup => first()?,
        _ => follows.max(first()?).max(Some(ticks.align_to_prev(now)?)),
    };
    let Some(tick) = tick else { return Ok(None) };
    if restriction.latest.is_some_and(|latest| tick > latest) {
        return Ok(None);
    }
    Ok(Some(DagRunInfo::at_end_of(DataInterval::new(interval.before(tick)?, tick))))
}
