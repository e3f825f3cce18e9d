//! The ticks of a schedule as instants.
//!
//! A cron expression says a wall-clock time; here it meets a time zone. Never asks for the current
//! time. Start with [`CronTicks::next`].

use chrono::{DateTime, Datelike, MappedLocalTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use super::{CronExpression, TimetableError};
use crate::time::YEARS;

/// Where a schedule's next and previous ticks are. Both timetables (interval and trigger) and all
/// sources of ticks (cron and delta) meet here.
pub(super) trait Ticks {
    /// The first tick after `time`.
    fn next(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError>;
    /// The last tick before `time`.
    fn prev(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError>;
    /// `time` if it is a tick, otherwise the next one.
    fn align_to_next(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError>;
    /// `time` if it is a tick, otherwise the previous one.
    fn align_to_prev(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError>;
}

/// A cron expression in a time zone.
///
/// At a change of the clocks:
///
/// - A tick in the hour that is **left out** moves on by the length of the gap: 02:30 in New York on
///   2024-03-10 happens at 03:30.
/// - A tick in the hour that comes **twice** happens the second time only.
/// - If the hour field is `*`, ticks follow elapsed time instead: they happen in both passes of the
///   repeated hour.
///
/// [`prev`](Self::prev) of a tick that was moved out of a gap is that same instant (Airflow does so,
/// too): do not loop on `prev` without a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronTicks {
    expression: CronExpression,
    zone: Tz,
}

impl CronTicks {
    /// Puts `expression` into `zone`.
    pub fn new(expression: CronExpression, zone: Tz) -> Self {
        Self { expression, zone }
    }

    /// The expression.
    pub fn expression(&self) -> &CronExpression {
        &self.expression
    }

    /// The time zone.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first tick after `time`.
    ///
    /// # Errors
    ///
    /// [`TimetableError::NeverFires`] if there is none within 50 years, and
    /// [`TimetableError::OutOfRange`] outside the years 1 to 9999.
    pub fn next(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        let naive = self.to_local(time)?;
        let tick = self.expression.next_after(naive).ok_or_else(|| self.never_fires(time))?;
        self.instant_of(time, naive, tick)
    }

    /// The last tick before `time`.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn prev(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        let naive = self.to_local(time)?;
        let tick = self.expression.prev_before(naive).ok_or_else(|| self.never_fires(time))?;
        self.instant_of(time, naive, tick)
    }

    /// `time` if it is a tick, otherwise the next one.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn align_to_next(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        let next = self.next(time)?;
        Ok(if self.prev(next)? == time { time } else { next })
    }

    /// `time` if it is a tick, otherwise the previous one.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn align_to_prev(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        let prev = self.prev(time)?;
        Ok(if self.next(prev)? == time { time } else { prev })
    }

    fn to_local(&self, time: DateTime<Utc>) -> Result<NaiveDateTime, TimetableError> {
        in_years(time)?;
        Ok(time.with_timezone(&self.zone).naive_local())
    }

    fn instant_of(
        &self,
        time: DateTime<Utc>,
        naive: NaiveDateTime,
        tick: NaiveDateTime,
    ) -> Result<DateTime<Utc>, TimetableError> {
        if self.expression.covers_every_hour() {
            return in_years(time + (tick - naive));
        }
        in_years(to_utc(self.zone, tick).ok_or(TimetableError::OutOfRange { at: tick.to_string() })?)
    }

    fn never_fires(&self, near: DateTime<Utc>) -> TimetableError {
        TimetableError::NeverFires { cron: self.expression.text().to_owned(), near }
    }
}

impl Ticks for CronTicks {
    fn next(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        Self::next(self, time)
    }

    fn prev(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        Self::prev(self, time)
    }

    fn align_to_next(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        Self::align_to_next(self, time)
    }

    fn align_to_prev(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        Self::align_to_prev(self, time)
    }
}

/// Passes on an instant in the years 1 to 9999.
pub(super) fn in_years(time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
    if YEARS.contains(&time.year()) {
        Ok(time)
    } else {
        Err(TimetableError::OutOfRange { at: time.naive_utc().to_string() })
    }
}

/// The instant at which the clocks of `zone` show `local`: the second one if there are two, and past
/// the gap by as much as `local` lies in it if there is none.
fn to_utc(zone: Tz, local: NaiveDateTime) -> Option<DateTime<Utc>> {
    // The longest gap is the day that Samoa left out in 2011; steps of a quarter of an hour reach
    // valid time before any gap without passing over an earlier change of the clocks.
    const STEP: TimeDelta = TimeDelta::minutes(15);
    const MAX_STEPS: i32 = 26 * 4;

    match zone.from_local_datetime(&local) {
        MappedLocalTime::Single(time) => return Some(time.to_utc()),
        MappedLocalTime::Ambiguous(_, second) => return Some(second.to_utc()),
        MappedLocalTime::None => {}
    }
    let valid = (1..=MAX_STEPS)
        .find_map(|steps| zone.from_local_datetime(&local.checked_sub_signed(STEP * steps)?).latest())?;
    // With the offset of before the gap, the gap's length is added without being computed.
    let offset = valid.offset().fix().local_minus_utc();
    local.checked_sub_signed(TimeDelta::seconds(offset.into())).map(|utc| utc.and_utc())
}
