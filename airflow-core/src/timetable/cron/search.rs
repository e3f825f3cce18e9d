//! The walk over the calendar: the next and the previous tick of an expression.
//!
//! A walk looks at days, skipping whole months and years that cannot match, and then picks the time
//! of day from bit sets. It ends after [`MAX_YEARS`] at the latest.

use std::collections::BTreeSet;

use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike};

use super::{CronExpression, Days, MonthDays, WeekDays};
use crate::time::YEARS;

/// How far a search goes before it gives up. The rarest useful day, 29 February on a given weekday,
/// comes after 40 years at most; Airflow stops at the same distance.
const MAX_YEARS: i32 = 50;

/// A set of numbers below 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bits(u64);

impl Bits {
    pub(super) fn of(numbers: &BTreeSet<u32>) -> Self {
        Self(numbers.iter().filter(|number| **number < 64).fold(0, |bits, number| bits | 1 << number))
    }

    pub(super) fn range((low, high): (u32, u32)) -> Self {
        Self((low..=high.min(63)).fold(0, |bits, number| bits | 1 << number))
    }

    pub(super) fn contains(self, number: u32) -> bool {
        self.0.checked_shr(number).is_some_and(|bits| bits & 1 == 1)
    }

    pub(super) fn iter(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |number| self.contains(*number))
    }

    fn at_or_after(self, number: u32) -> Option<u32> {
        let rest = u64::MAX.checked_shl(number).map_or(0, |mask| self.0 & mask);
        (rest != 0).then(|| rest.trailing_zeros())
    }

    fn at_or_before(self, number: u32) -> Option<u32> {
        let rest = self.0 & (u64::MAX >> (63 - number.min(63)));
        rest.checked_ilog2()
    }

    fn before(self, number: u32) -> Option<u32> {
        self.at_or_before(number.checked_sub(1)?)
    }
}

/// Hour, minute and second.
type Clock = (u32, u32, u32);

fn clock(time: NaiveTime) -> Clock {
    (time.hour(), time.minute(), time.second())
}

impl CronExpression {
    /// The first tick after `time`, or `None` if there is none within 50 years.
    pub fn next_after(&self, time: NaiveDateTime) -> Option<NaiveDateTime> {
        let from = time.with_nanosecond(0)?.checked_add_signed(TimeDelta::seconds(1))?;
        if self.date_matches(from.date())
            && let Some(found) = self.clock_at_or_after(clock(from.time()))
        {
            return at(from.date(), found);
        }
        let last_year = from.year().saturating_add(MAX_YEARS).min(*YEARS.end());
        let mut date = from.date().succ_opt()?;
        while date.year() <= last_year {
            date = if !self.year_matches(date.year()) {
                NaiveDate::from_ymd_opt(date.year() + 1, 1, 1)?
            } else if !self.month.contains(date.month()) {
                first_of_next_month(date)?
            } else if self.days.contain(date) {
                return at(date, self.clock_at_or_after((0, 0, 0))?);
            } else {
                date.succ_opt()?
            };
        }
        None
    }

    /// The last tick before `time`, or `None` if there is none within 50 years.
    pub fn prev_before(&self, time: NaiveDateTime) -> Option<NaiveDateTime> {
        let floor = time.with_nanosecond(0)?;
        let from = if floor < time { floor } else { floor.checked_sub_signed(TimeDelta::seconds(1))? };
        if self.date_matches(from.date())
            && let Some(found) = self.clock_at_or_before(clock(from.time()))
        {
            return at(from.date(), found);
        }
        let first_year = from.year().saturating_sub(MAX_YEARS).max(*YEARS.start());
        let mut date = from.date().pred_opt()?;
        while date.year() >= first_year {
            date = if !self.year_matches(date.year()) {
                NaiveDate::from_ymd_opt(date.year() - 1, 12, 31)?
            } else if !self.month.contains(date.month()) {
                date.with_day(1)?.pred_opt()?
            } else if self.days.contain(date) {
                return at(date, self.clock_at_or_before((23, 59, 59))?);
            } else {
                date.pred_opt()?
            };
        }
        None
    }

    /// Whether the expression ever fires; `0 0 31 2 *` does not.
    pub fn fires(&self) -> bool {
        // Without a year field any start does: the calendar repeats, and a search spans more than
        // the longest gap between two ticks.
        let any_year = [2000];
        let years = if self.years.is_empty() { &any_year[..] } else { &self.years[..] };
        years.iter().any(|year| {
            let before = i32::try_from(*year).ok().and_then(|year| NaiveDate::from_ymd_opt(year - 1, 12, 31));
            let before = before.and_then(|date| date.and_hms_opt(23, 59, 59));
            before.and_then(|before| self.next_after(before)).is_some()
        })
    }

    fn date_matches(&self, date: NaiveDate) -> bool {
        self.year_matches(date.year()) && self.month.contains(date.month()) && self.days.contain(date)
    }

    fn year_matches(&self, year: i32) -> bool {
        self.years.is_empty() || u32::try_from(year).is_ok_and(|year| self.years.binary_search(&year).is_ok())
    }

    fn clock_at_or_after(&self, (hour, minute, second): Clock) -> Option<Clock> {
        let [first_minute, first_second] = [self.minute, self.second].map(|bits| bits.at_or_after(0));
        if self.hour.contains(hour) {
            if self.minute.contains(minute)
                && let Some(second) = self.second.at_or_after(second)
            {
                return Some((hour, minute, second));
            }
            if let Some(minute) = self.minute.at_or_after(minute + 1) {
                return Some((hour, minute, first_second?));
            }
        }
        Some((self.hour.at_or_after(hour + 1)?, first_minute?, first_second?))
    }

    fn clock_at_or_before(&self, (hour, minute, second): Clock) -> Option<Clock> {
        let [last_minute, last_second] = [self.minute, self.second].map(|bits| bits.at_or_before(63));
        if self.hour.contains(hour) {
            if self.minute.contains(minute)
                && let Some(second) = self.second.at_or_before(second)
            {
                return Some((hour, minute, second));
            }
            if let Some(minute) = self.minute.before(minute) {
                return Some((hour, minute, last_second?));
            }
        }
        Some((self.hour.before(hour)?, last_minute?, last_second?))
    }
}

impl Days {
    /// Two restricted day fields are alternatives; one alone decides.
    fn contain(&self, date: NaiveDate) -> bool {
        match (&self.of_month, &self.of_week) {
            (None, None) => true,
            (Some(month), None) => month.contain(date),
            (None, Some(week)) => week.contain(date),
            (Some(month), Some(week)) => month.contain(date) || week.contain(date),
        }
    }
}

impl MonthDays {
    fn contain(self, date: NaiveDate) -> bool {
        self.days.contains(date.day()) || (self.last && date.day() == u32::from(date.num_days_in_month()))
    }
}

impl WeekDays {
    fn contain(&self, date: NaiveDate) -> bool {
        let weekday = date.weekday().num_days_from_sunday();
        match self {
            Self::Each(weekdays) => weekdays.contains(weekday),
            Self::Nth(pairs) => pairs.iter().any(|(wanted, places)| {
                let week = date.day().div_ceil(7);
                let is_last = date.day() + 7 > u32::from(date.num_days_in_month());
                *wanted == weekday && (places.weeks >> week & 1 == 1 || (places.last && is_last))
            }),
        }
    }
}

fn first_of_next_month(date: NaiveDate) -> Option<NaiveDate> {
    let (year, month) =
        if date.month() == 12 { (date.year() + 1, 1) } else { (date.year(), date.month() + 1) };
    NaiveDate::from_ymd_opt(year, month, 1)
}

fn at(date: NaiveDate, (hour, minute, second): Clock) -> Option<NaiveDateTime> {
    date.and_hms_opt(hour, minute, second)
}
