//! Timetables whose runs are about the time between two ticks, and start when it is over.
//!
//! This is what a plain cron expression or a plain delta means. Start with [`next`].

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{
    CronTicks, DagRunInfo, DataInterval, Step, TimeRestriction, Timetable, TimetableError, ticks::Ticks,
};

/// A run per interval between two ticks of a cron expression.
#[derive(Clone, Debug)]
pub struct CronDataInterval {
    ticks: CronTicks,
}

impl CronDataInterval {
    /// A run for every interval between neighbouring `ticks`.
    pub fn new(ticks: CronTicks) -> Self {
        Self { ticks }
    }

    /// Without catch-up: the newest interval that is complete at `now`.
    fn newest(&self, now: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        let last = self.ticks.prev(now)?;
        let next = self.ticks.next(last)?;
        match next.cmp(&now) {
            std::cmp::Ordering::Equal => Ok(last),
            std::cmp::Ordering::Greater => self.ticks.prev(last),
            std::cmp::Ordering::Less => Err(TimetableError::ClockChange {
                cron: self.ticks.expression().text().to_owned(),
                zone: self.ticks.zone(),
                now,
            }),
        }
    }
}

impl Timetable for CronDataInterval {
    fn next_dagrun_info(
        &self,
        last: Option<DataInterval>,
        restriction: &TimeRestriction,
        now: DateTime<Utc>,
    ) -> Result<Option<DagRunInfo>, TimetableError> {
        next(&self.ticks, || self.newest(now), last, restriction)
    }

    fn infer_manual_data_interval(&self, run_after: DateTime<Utc>) -> Result<DataInterval, TimetableError> {
        let end = self.ticks.align_to_prev(run_after)?;
        Ok(DataInterval::new(self.ticks.prev(end)?, end))
    }

    fn summary(&self) -> String {
        self.ticks.expression().text().to_owned()
    }

    fn description(&self) -> String {
        describe_cron(&self.ticks)
    }

    fn identity(&self) -> String {
        format!("cron-interval {} {}", self.ticks.expression().canonical(), self.ticks.zone())
    }

    fn timezone(&self) -> Option<Tz> {
        Some(self.ticks.zone())
    }
}

/// A run per interval of a fixed length, counted from the start date.
#[derive(Clone, Debug)]
pub struct DeltaDataInterval {
    ticks: DeltaTicks,
}

impl DeltaDataInterval {
    /// A run for every interval of length `step`.
    ///
    /// `step` must be positive ([`Step::is_positive`]); [`Schedule`](super::Schedule) checks that.
    pub fn new(step: Step) -> Self {
        Self { ticks: DeltaTicks(step) }
    }
}

impl Timetable for DeltaDataInterval {
    fn next_dagrun_info(
        &self,
        last: Option<DataInterval>,
        restriction: &TimeRestriction,
        now: DateTime<Utc>,
    ) -> Result<Option<DagRunInfo>, TimetableError> {
        let newest = || self.ticks.prev(self.ticks.0.floor(now)?);
        next(&self.ticks, newest, last, restriction)
    }

    fn infer_manual_data_interval(&self, run_after: DateTime<Utc>) -> Result<DataInterval, TimetableError> {
        Ok(DataInterval::new(self.ticks.prev(run_after)?, run_after))
    }

    fn summary(&self) -> String {
        self.ticks.0.to_string()
    }

    fn description(&self) -> String {
        self.ticks.0.describe()
    }

    fn identity(&self) -> String {
        format!("delta-interval {}", self.ticks.0)
    }
}

/// Ticks at any distance of a whole step from any instant: every instant counts as aligned.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeltaTicks(pub(super) Step);

impl Ticks for DeltaTicks {
    fn next(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        self.0.after(time)
    }

    fn prev(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        self.0.before(time)
    }

    fn align_to_next(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        Ok(time)
    }

    fn align_to_prev(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        Ok(time)
    }
}

/// The next interval; `newest` is the start of the newest complete one, asked without catch-up only.
fn next(
    ticks: &impl Ticks,
    newest: impl FnOnce() -> Result<DateTime<Utc>, TimetableError>,
    last: Option<DataInterval>,
    restriction: &TimeRestriction,
) -> Result<Option<DagRunInfo>, TimetableError> {
    let first = restriction.earliest.map(|earliest| ticks.align_to_next(earliest));
    let earliest = if restriction.catchup {
        first.transpose()?
    } else {
        let newest = newest()?;
        Some(first.transpose()?.map_or(newest, |first| first.max(newest)))
    };
    // The end of the last interval need not be a tick: the schedule may have been changed since.
    let follows = last.map(|last| ticks.align_to_prev(last.end)).transpose()?;
    let Some(start) = follows.max(earliest) else { return Ok(None) };
    if restriction.latest.is_some_and(|latest| start > latest) {
        return Ok(None);
    }
    Ok(Some(DagRunInfo::at_end_of(DataInterval::new(start, ticks.next(start)?))))
}

/// The expression as a sentence with its time zone.
pub(super) fn describe_cron(ticks: &CronTicks) -> String {
    format!("{} ({})", ticks.expression().describe(), ticks.zone())
}
