//! `timedelta`, and pendulum's `Duration` and `Interval`, which are timedeltas that print differently.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use chrono::{Datelike as _, NaiveDateTime, TimeDelta, Timelike as _};
use minijinja::value::{DynObject, Object, ObjectRepr};
use minijinja::{Error, State, Value};

use super::super::args::Args;
use super::super::error::{TemplateErrorKind, raise};
use super::super::py::put;
use super::date::Date;
use super::stamp::{Amounts, Stamp, shifted};

pub(super) const SECOND: i64 = 1_000_000;
pub(super) const MINUTE: i64 = 60 * SECOND;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;
/// Python's largest timedelta.
const MAX_DAYS: i64 = 999_999_999;

/// One end of an interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    Stamp(Stamp),
    Date(Date),
}

impl End {
    pub(super) fn clock(&self) -> NaiveDateTime {
        match self {
            Self::Stamp(stamp) => stamp.local(),
            Self::Date(date) => date.day.and_time(chrono::NaiveTime::MIN),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Stamp(stamp) => stamp.iso(" "),
            Self::Date(date) => date.iso(),
        }
    }

    fn value(self) -> Value {
        match self {
            Self::Stamp(stamp) => stamp.value(),
            Self::Date(date) => date.value(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Plain,
    Duration,
    Interval(End, End),
}

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Delta {
    pub(super) micros: i64,
    pub(super) kind: Kind,
}

/// The calendar parts between two times, all non-negative.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Parts {
    pub(super) years: i64,
    pub(super) months: i64,
    pub(super) days: i64,
    pub(super) clock: i64,
}

impl Delta {
    /// # Errors
    ///
    /// Lengths beyond Python's largest timedelta.
    pub(super) fn new(micros: i128, kind: Kind) -> Result<Self, Error> {
        let too_long = || raise(TemplateErrorKind::Overflow, "timedelta is out of range");
        let micros = i64::try_from(micros).map_err(|_| too_long())?;
        if micros.div_euclid(DAY).abs() > MAX_DAYS { Err(too_long()) } else { Ok(Self { micros, kind }) }
    }

    pub(super) fn value(self) -> Value {
        Value::from_object(self)
    }

    /// The interval between two ends.
    pub(super) fn between(start: End, end: End) -> Self {
        let instant = |end: &End| match end {
            End::Stamp(stamp) => stamp.utc(),
            End::Date(_) => end.clock(),
        };
        let micros = (instant(&end) - instant(&start)).num_microseconds().unwrap_or(i64::MAX);
        Self { micros, kind: Kind::Interval(start, end) }
    }

    fn parts(&self) -> Parts {
        let Kind::Interval(start, end) = self.kind else {
            let size = self.micros.abs();
            return Parts { days: size / DAY, clock: size % DAY, ..Parts::default() };
        };
        let (from, to) = (start.clock(), end.clock());
        if from <= to { calendar_parts(from, to) } else { calendar_parts(to, from) }
    }

    /// The calendar parts as amounts to add.
    pub(super) fn amounts(&self, sign: i64) -> Amounts {
        let (parts, sign) = (self.parts(), sign * self.sign());
        Amounts {
            years: sign * parts.years,
            months: sign * parts.months,
            days: sign * parts.days,
            micros: sign * parts.clock,
        }
    }

    fn sign(&self) -> i64 {
        if self.micros < 0 { -1 } else { 1 }
    }

    pub(super) fn seconds(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "Python's total_seconds() is a float as well")]
        let micros = self.micros as f64;
        micros / 1_000_000.0
    }

    pub(super) fn text(&self) -> String {
        match &self.kind {
            Kind::Plain => self.plain_text(),
            Kind::Duration => self.words(),
            Kind::Interval(start, end) => format!("<Interval [{} -> {}]>", start.text(), end.text()),
        }
    }

    fn plain_text(&self) -> String {
        let (days, rest) = (self.micros.div_euclid(DAY), self.micros.rem_euclid(DAY));
        let mut text = match days {
            0 => String::new(),
            1 | -1 => format!("{days} day, "),
            _ => format!("{days} days, "),
        };
        put(&mut text, format_args!("{}:{:02}:{:02}", rest / HOUR, rest / MINUTE % 60, rest / SECOND % 60));
        if rest % SECOND > 0 {
            put(&mut text, format_args!(".{:06}", rest % SECOND));
        }
        text
    }

    pub(super) fn repr(&self) -> String {
        let (days, rest) = (self.micros.div_euclid(DAY), self.micros.rem_euclid(DAY));
        let named = |parts: &[(&str, i64)]| {
            let given: Vec<String> =
                parts.iter().filter(|p| p.1 != 0).map(|(n, v)| format!("{n}={v}")).collect();
            given.join(", ")
        };
        match self.kind {
            Kind::Plain => {
                let parts =
                    named(&[("days", days), ("seconds", rest / SECOND), ("microseconds", rest % SECOND)]);
                format!("datetime.timedelta({})", if parts.is_empty() { "0" } else { &parts })
            }
            Kind::Duration => {
                let parts = [
                    ("weeks", days / 7),
                    ("days", days % 7),
                    ("hours", rest / HOUR),
                    ("minutes", rest / MINUTE % 60),
                    ("seconds", rest / SECOND % 60),
                    ("microseconds", rest % SECOND),
                ];
                format!("Duration({})", named(&parts))
            }
            Kind::Interval(..) => self.text(),
        }
    }

    /// `in_words()`: `1 week 2 days 3 hours`.
    fn words(&self) -> String {
        let (parts, sign) = (self.parts(), self.sign());
        let amounts = [
            ("year", parts.years),
            ("month", parts.months),
            ("week", parts.days / 7),
            ("day", parts.days % 7),
            ("hour", parts.clock / HOUR),
            ("minute", parts.clock / MINUTE % 60),
            ("second", parts.clock / SECOND % 60),
        ];
        let words: Vec<String> = amounts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(unit, count)| format!("{} {unit}{}", sign * count, if count == 1 { "" } else { "s" }))
            .collect();
        if words.is_empty() {
            let fraction = self.micros % SECOND;
            return if fraction == 0 {
                "0 microseconds".to_owned()
            } else {
                format!("{:.2} second", self.seconds())
            };
        }
        words.join(" ")
    }

    /// `2 days before`, `in 3 hours`: the length in its largest unit.
    pub(super) fn for_humans(&self, to_now: bool) -> String {
        let Parts { years, months, days, clock } = self.parts();
        let (weeks, rest, hours) = (days / 7, days % 7, clock / HOUR);
        let (unit, count) = if years > 0 {
            ("year", years + i64::from(months > 6))
        } else if months == 11 && days > 15 {
            ("year", 1)
        } else if months > 0 {
            ("month", months + i64::from(days >= 27))
        } else if weeks > 0 {
            ("week", weeks + i64::from(rest > 3))
        } else if rest > 0 {
            ("day", rest + i64::from(hours >= 22))
        } else if hours > 0 {
            ("hour", hours)
        } else if clock / MINUTE > 0 {
            ("minute", clock / MINUTE)
        } else if clock / SECOND > 10 {
            ("second", clock / SECOND)
        } else {
            ("a few seconds", 0)
        };
        let amount = match count {
            0 => unit.to_owned(),
            1 => format!("1 {unit}"),
            _ => format!("{count} {unit}s"),
        };
        match (to_now, self.micros > 0) {
            (true, true) => format!("{amount} ago"),
            (true, false) => format!("in {amount}"),
            (false, true) => format!("{amount} before"),
            (false, false) => format!("{amount} after"),
        }
    }

    fn attribute(&self, name: &str) -> Option<Value> {
        let sign = self.sign();
        if let Kind::Plain = self.kind {
            return Some(Value::from(match name {
                "days" => self.micros.div_euclid(DAY),
                "seconds" => self.micros.rem_euclid(DAY) / SECOND,
                "microseconds" => self.micros.rem_euclid(SECOND),
                _ => return None,
            }));
        }
        let parts = self.parts();
        if let Kind::Interval(start, end) = self.kind {
            match name {
                "start" => return Some(start.value()),
                "end" => return Some(end.value()),
                _ => {}
            }
        }
        Some(Value::from(match name {
            "days" => sign * (self.micros.abs() / DAY),
            "seconds" => sign * (self.micros.abs() % DAY / SECOND),
            "microseconds" => sign * (self.micros.abs() % SECOND),
            "years" => sign * parts.years,
            "months" => sign * parts.months,
            "weeks" => sign * (parts.days / 7),
            "remaining_days" => sign * (parts.days % 7),
            "hours" => sign * (parts.clock / HOUR),
            "minutes" => sign * (parts.clock / MINUTE % 60),
            "remaining_seconds" => sign * (parts.clock / SECOND % 60),
            "invert" => return Some(Value::from(self.micros < 0)),
            _ => return None,
        }))
    }

    /// `in_days()` and its kin: whole units; days of an interval are counted on the calendar.
    fn whole(&self, unit: &str) -> Option<i64> {
        let days = match self.kind {
            Kind::Interval(start, end) => (end.clock().date() - start.clock().date()).num_days(),
            _ => self.micros / DAY,
        };
        let parts = self.parts();
        Some(match unit {
            "in_years" => self.sign() * parts.years,
            "in_months" => self.sign() * (parts.years * 12 + parts.months),
            "in_weeks" => days / 7,
            "in_days" => days,
            "in_hours" => self.micros / HOUR,
            "in_minutes" => self.micros / MINUTE,
            "in_seconds" => self.micros / SECOND,
            _ => return None,
        })
    }
}

/// Years, months, days and the rest between two wall-clock times, `from` not after `to`.
pub(super) fn calendar_parts(from: NaiveDateTime, to: NaiveDateTime) -> Parts {
    let mut months =
        i64::from(to.year() - from.year()) * 12 + i64::from(to.month()) - i64::from(from.month());
    let reach = |months: i64| {
        let amounts = Amounts { months, ..Amounts::default() };
        shifted(from.date(), amounts).map_or(from, |date| date.and_time(from.time()))
    };
    if reach(months) > to {
        months -= 1;
    }
    let rest = (to - reach(months)).num_microseconds().unwrap_or(0);
    Parts { years: months / 12, months: months % 12, days: rest / DAY, clock: rest % DAY }
}

impl Object for Delta {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.attribute(key.as_str()?)
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.micros != 0
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        name: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let unknown = || Error::from(minijinja::ErrorKind::UnknownMethod);
        let unit = |size: f64| Value::from(self.seconds() / size);
        let pendulum = self.kind != Kind::Plain;
        let value = match name {
            "total_seconds" => unit(1.0),
            _ if !pendulum => return Err(unknown()),
            "total_minutes" => unit(60.0),
            "total_hours" => unit(3600.0),
            "total_days" => unit(86_400.0),
            "total_weeks" => unit(604_800.0),
            "in_words" => Value::from(self.words()),
            "as_timedelta" => Self { kind: Kind::Plain, ..**self }.value(),
            "as_duration" => Self { kind: Kind::Duration, ..**self }.value(),
            other => Value::from(self.whole(other).ok_or_else(unknown)?),
        };
        Args::new("timedelta method", args).done()?;
        Ok(value)
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        Some(self.micros.cmp(&other.downcast_ref::<Self>()?.micros))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// `timedelta(days=0, seconds=0, microseconds=0, milliseconds=0, minutes=0, hours=0, weeks=0)`.
pub(super) fn construct(args: &[Value]) -> Result<Value, Error> {
    const UNITS: [(&str, i64); 7] = [
        ("days", DAY),
        ("seconds", SECOND),
        ("microseconds", 1),
        ("milliseconds", 1000),
        ("minutes", MINUTE),
        ("hours", HOUR),
        ("weeks", 7 * DAY),
    ];
    let args = Args::new("timedelta", args);
    let mut total: i128 = 0;
    for (place, (name, size)) in UNITS.iter().enumerate() {
        let Some(amount) = args.get(place, name) else { continue };
        total = total.saturating_add(scaled(&amount, *size)?);
    }
    args.done()?;
    Ok(Delta::new(total, Kind::Plain)?.value())
}

/// `amount` units of `size` microseconds, fractions rounded half to even.
pub(super) fn scaled(amount: &Value, size: i64) -> Result<i128, Error> {
    if let Some(whole) = super::super::py::as_int(amount) {
        return Ok(whole.saturating_mul(size.into()));
    }
    let number = super::super::py::as_float(amount).filter(|n| n.is_finite());
    let number = number.ok_or_else(|| super::super::error::type_error("a timedelta is made of numbers"))?;
    #[expect(clippy::cast_precision_loss, reason = "unit sizes are far below 2^53")]
    let micros = (number * size as f64).round_ties_even();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the cast saturates and `Delta::new` checks the range"
    )]
    Ok(micros as i128)
}

/// A chrono length in microseconds.
pub(super) fn micros(length: TimeDelta) -> i128 {
    length.num_microseconds().map_or(i128::MAX, i128::from)
}

/// The microseconds since midnight.
pub(super) fn since_midnight(time: chrono::NaiveTime) -> i64 {
    i64::from(time.num_seconds_from_midnight()) * SECOND + i64::from(time.nanosecond() / 1000)
}
