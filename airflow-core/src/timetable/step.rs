//! A length of time that may contain calendar months.

use std::fmt;

use chrono::{DateTime, Months, TimeDelta, Utc};

use super::{TimetableError, ticks::in_years};

/// A length of time: calendar months, then a fixed duration.
///
/// Adding goes months first: from 31 January, a month and a day later is 1 March (29 February exists
/// in leap years only, so the day is cut to the month's last before the fixed part is added). Days are
/// 24 h of UTC, whatever the clocks of a place do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    months: i32,
    fixed: TimeDelta,
}

impl Step {
    /// Nothing.
    pub const ZERO: Self = Self { months: 0, fixed: TimeDelta::zero() };

    /// `months` calendar months and `fixed` on top.
    pub const fn new(months: i32, fixed: TimeDelta) -> Self {
        Self { months, fixed }
    }

    /// The calendar months.
    pub const fn months(&self) -> i32 {
        self.months
    }

    /// The part that is not months.
    pub const fn fixed(&self) -> TimeDelta {
        self.fixed
    }

    /// Whether time moves on by this: no negative part, and not nothing.
    pub fn is_positive(&self) -> bool {
        self.months >= 0 && self.fixed >= TimeDelta::zero() && *self != Self::ZERO
    }

    /// Both lengths together; the largest possible if that is too long.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            months: self.months.saturating_add(other.months),
            fixed: self.fixed.checked_add(&other.fixed).unwrap_or(TimeDelta::MAX),
        }
    }

    /// `time` and this.
    pub(super) fn after(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        self.shift(time, self.months, self.fixed)
    }

    /// `time` less this.
    pub(super) fn before(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        self.shift(time, self.months.saturating_neg(), -self.fixed)
    }

    fn shift(
        &self,
        time: DateTime<Utc>,
        months: i32,
        fixed: TimeDelta,
    ) -> Result<DateTime<Utc>, TimetableError> {
        let count = Months::new(months.unsigned_abs());
        let moved = if months < 0 { time.checked_sub_months(count) } else { time.checked_add_months(count) };
        let moved = moved.and_then(|moved| moved.checked_add_signed(fixed));
        in_years(moved.ok_or_else(|| TimetableError::OutOfRange { at: format!("{time} with {self}") })?)
    }

    /// The length in microseconds, a month taken as 30 days and twelve months as 365.
    ///
    /// Only for rounding the current time: which grid the runs of a monthly delta fall on.
    fn nominal_micros(&self) -> i128 {
        let days = i128::from(self.months / 12) * 365 + i128::from(self.months % 12) * 30;
        let fixed =
            i128::from(self.fixed.num_seconds()) * 1_000_000 + i128::from(self.fixed.subsec_nanos()) / 1_000;
        days * 86_400_000_000 + fixed
    }

    /// `time` down to a multiple of the nominal length since 1970.
    pub(super) fn floor(&self, time: DateTime<Utc>) -> Result<DateTime<Utc>, TimetableError> {
        let out_of_range =
            || TimetableError::OutOfRange { at: format!("{time} down to a multiple of {self}") };
        let length = self.nominal_micros();
        if length <= 0 {
            return Err(out_of_range());
        }
        let micros = i128::from(time.timestamp_micros());
        let floored = i64::try_from(micros - micros.rem_euclid(length)).ok();
        in_years(floored.and_then(DateTime::from_timestamp_micros).ok_or_else(out_of_range)?)
    }
}

impl Step {
    /// "Every 15 minutes", "Every day", "Every 1 month and 2 days".
    pub(super) fn describe(&self) -> String {
        let seconds = self.fixed.num_seconds();
        let parts = [
            (i64::from(self.months / 12), "year"),
            (i64::from(self.months % 12), "month"),
            (seconds / 86_400, "day"),
            (seconds / 3_600 % 24, "hour"),
            (seconds / 60 % 60, "minute"),
            (seconds % 60, "second"),
            (i64::from(self.fixed.subsec_micros()), "microsecond"),
        ];
        let said: Vec<String> = parts.into_iter().filter_map(|(number, word)| count(number, word)).collect();
        match said.as_slice() {
            [] => "Never".to_owned(),
            [only] => format!("Every {}", only.strip_prefix("1 ").unwrap_or(only)),
            [most @ .., last] => format!("Every {} and {last}", most.join(", ")),
        }
    }
}

/// "1 day", "2 days", or nothing for none.
fn count(number: i64, word: &str) -> Option<String> {
    (number != 0).then(|| format!("{number} {word}{}", if number.abs() == 1 { "" } else { "s" }))
}

impl From<TimeDelta> for Step {
    fn from(fixed: TimeDelta) -> Self {
        Self { months: 0, fixed }
    }
}

impl From<std::time::Duration> for Step {
    /// A duration beyond all calendars becomes the longest one; a schedule with it is refused.
    fn from(duration: std::time::Duration) -> Self {
        Self { months: 0, fixed: TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX) }
    }
}

/// `1 year, 2 months, 3 days, 4:05:06`, as Airflow's DAG list shows a duration.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (years, months) = (self.months / 12, self.months % 12);
        let mut parts: Vec<String> =
            [count(years.into(), "year"), count(months.into(), "month")].into_iter().flatten().collect();
        if !self.fixed.is_zero() || parts.is_empty() {
            let seconds = self.fixed.num_seconds() - i64::from(self.fixed.subsec_nanos() < 0);
            let micros = self.fixed.subsec_nanos().rem_euclid(1_000_000_000) / 1_000;
            let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
            parts.extend(count(days, "day"));
            let clock = format!("{}:{:02}:{:02}", rest / 3_600, rest / 60 % 60, rest % 60);
            parts.push(if micros == 0 { clock } else { format!("{clock}.{micros:06}") });
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_reads_as_a_sentence() {
        let table = [
            (Step::from(TimeDelta::days(1)), "Every day"),
            (Step::from(TimeDelta::minutes(15)), "Every 15 minutes"),
            (Step::from(TimeDelta::seconds(90_061)), "Every 1 day, 1 hour, 1 minute and 1 second"),
            (Step::new(1, TimeDelta::days(2)), "Every 1 month and 2 days"),
            (Step::new(12, TimeDelta::zero()), "Every year"),
        ];
        for (step, text) in table {
            assert_eq!(step.describe(), text);
        }
    }

    #[test]
    fn a_step_reads_as_in_airflows_dag_list() {
        let table = [
            (Step::from(TimeDelta::days(1)), "1 day, 0:00:00"),
            (Step::from(TimeDelta::hours(1)), "1:00:00"),
            (Step::from(TimeDelta::seconds(90_061)), "1 day, 1:01:01"),
            (Step::from(TimeDelta::milliseconds(1_500)), "0:00:01.500000"),
            (Step::from(TimeDelta::milliseconds(-500)), "-1 day, 23:59:59.500000"),
            (Step::new(14, TimeDelta::zero()), "1 year, 2 months"),
            (Step::new(1, TimeDelta::days(1)), "1 month, 1 day, 0:00:00"),
            (Step::ZERO, "0:00:00"),
        ];
        for (step, text) in table {
            assert_eq!(step.to_string(), text);
        }
    }

    #[test]
    fn months_are_added_before_days_and_cut_to_the_month() {
        let step = Step::new(1, TimeDelta::days(1));
        let from = "2023-01-31T06:00:00Z".parse().expect("a date");
        let to = "2023-03-01T06:00:00Z".parse().expect("a date");
        assert_eq!(step.after(from), Ok(to));
        assert!(step.after(DateTime::<Utc>::MAX_UTC).is_err());
        assert!(Step::new(i32::MAX, TimeDelta::MAX).before(from).is_err());
    }
}
