//! `dateutil.relativedelta`: calendar amounts to add, and fields to set before adding.

use std::fmt;
use std::sync::Arc;

use chrono::{Datelike as _, NaiveDate, NaiveDateTime, NaiveTime, Timelike as _};
use minijinja::value::{Object, ObjectRepr};
use minijinja::{Error, Value};

use super::super::args::Args;
use super::super::error::type_error;
use super::date::Date;
use super::delta::{DAY, End, HOUR, MINUTE, SECOND, calendar_parts};
use super::stamp::{Amounts, Stamp, from_parts, out_of_range, shifted};

/// A `relativedelta`.
#[derive(Debug, Clone, Default)]
struct Relative {
    add: Amounts,
    set: Vec<(&'static str, i128)>,
    weekday: Option<i64>,
}

const SETTABLE: [&str; 7] = ["year", "month", "day", "hour", "minute", "second", "microsecond"];

/// `relativedelta(dt1, dt2)` or `relativedelta(months=1, day=1, ...)`.
pub(in super::super) fn construct(args: &[Value]) -> Result<Value, Error> {
    let args = Args::new("relativedelta", args);
    let mut built = Relative::default();
    if let Some(first) = args.get(0, "dt1") {
        let second = args.required(1, "dt2")?;
        let (from, to) = (clock_of(&second)?, clock_of(&first)?);
        let (parts, sign) =
            if from <= to { (calendar_parts(from, to), 1) } else { (calendar_parts(to, from), -1) };
        built.add = Amounts {
            years: sign * parts.years,
            months: sign * parts.months,
            days: sign * parts.days,
            micros: sign * parts.clock,
        };
    }
    let named = |name: &str| -> Result<i64, Error> {
        i64::try_from(args.named_int(name)?.unwrap_or(0)).map_err(|_| out_of_range())
    };
    let months = named("years")?.checked_mul(12).and_then(|y| y.checked_add(named("months").ok()?));
    let months = months.ok_or_else(out_of_range)?;
    built.add.years += months / 12;
    built.add.months += months % 12;
    let weeks = named("weeks")?.checked_mul(7).ok_or_else(out_of_range)?;
    built.add.days = built
        .add
        .days
        .checked_add(named("days")?)
        .and_then(|d| d.checked_add(weeks))
        .ok_or_else(out_of_range)?;
    for (name, size) in [("hours", HOUR), ("minutes", MINUTE), ("seconds", SECOND), ("microseconds", 1)] {
        let amount = named(name)?.checked_mul(size).and_then(|m| m.checked_add(built.add.micros));
        built.add.micros = amount.ok_or_else(out_of_range)?;
    }
    // Like dateutil, hours beyond a day become days.
    built.add.days += built.add.micros / DAY;
    built.add.micros %= DAY;
    for name in SETTABLE {
        if let Some(value) = args.named_int(name)? {
            built.set.push((name, value));
        }
    }
    built.weekday = args.named_int("weekday")?.and_then(|day| i64::try_from(day).ok());
    args.done()?;
    Ok(Value::from_object(built))
}

fn clock_of(value: &Value) -> Result<NaiveDateTime, Error> {
    let end = super::stamp_of(value).map(End::Stamp).or_else(|| super::date_of(value).map(End::Date));
    Ok(end.ok_or_else(|| type_error("relativedelta only diffs datetime or date"))?.clock())
}

impl Relative {
    fn apply(&self, local: NaiveDateTime, sign: i64) -> Result<NaiveDateTime, Error> {
        let field = |name: &str, current: i128| {
            self.set.iter().find(|(set, _)| *set == name).map_or(current, |(_, value)| *value)
        };
        let (date, time) = (local.date(), local.time());
        let (year, month) = (field("year", date.year().into()), field("month", date.month().into()));
        let first = Date::from_parts(year, month, 1)?;
        // A day that the month does not have becomes its last.
        let day = field("day", date.day().into()).min(i128::from(first.num_days_in_month()));
        let clock = [
            field("hour", time.hour().into()),
            field("minute", time.minute().into()),
            field("second", time.second().into()),
            field("microsecond", (time.nanosecond() / 1000).into()),
        ];
        let set = from_parts(year, month, day, clock)?;
        let calendar = Amounts {
            years: sign * self.add.years,
            months: sign * self.add.months,
            days: sign * self.add.days,
            micros: 0,
        };
        let moved = shifted(set.date(), calendar).ok_or_else(out_of_range)?.and_time(set.time());
        let step = chrono::TimeDelta::microseconds(sign * self.add.micros);
        let moved = moved.checked_add_signed(step).ok_or_else(out_of_range)?;
        let Some(weekday) = self.weekday else { return Ok(moved) };
        let ahead = (weekday - i64::from(moved.weekday().num_days_from_monday())).rem_euclid(7);
        let days = Amounts { days: ahead, ..Amounts::default() };
        Ok(shifted(moved.date(), days).ok_or_else(out_of_range)?.and_time(moved.time()))
    }

    fn attributes(&self) -> [(&'static str, i64); 7] {
        let micros = self.add.micros;
        [
            ("years", self.add.years),
            ("months", self.add.months),
            ("days", self.add.days),
            ("hours", micros / HOUR),
            ("minutes", micros % HOUR / MINUTE),
            ("seconds", micros % MINUTE / SECOND),
            ("microseconds", micros % SECOND),
        ]
    }
}

fn applied(time: &Value, relative: &Relative, sign: i64) -> Option<Result<Value, Error>> {
    if let Some(stamp) = super::stamp_of(time) {
        return Some(relative.apply(stamp.local(), sign).and_then(|l| stamp.with_local(l)).map(Stamp::value));
    }
    let date = super::date_of(time)?;
    let midnight = |day: NaiveDate| day.and_time(NaiveTime::MIN);
    Some(relative.apply(midnight(date.day), sign).map(|local| Date { day: local.date(), ..date }.value()))
}

/// `a + b` with a `relativedelta` on one side.
pub(super) fn add(a: &Value, b: &Value) -> Option<Result<Value, Error>> {
    if let Some(relative) = b.downcast_object_ref::<Relative>() {
        return applied(a, relative, 1);
    }
    applied(b, a.downcast_object_ref::<Relative>()?, 1)
}

/// `a - b` with a `relativedelta` on the right.
pub(super) fn sub(a: &Value, b: &Value) -> Option<Result<Value, Error>> {
    applied(a, b.downcast_object_ref::<Relative>()?, -1)
}

impl Object for Relative {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        self.attributes().into_iter().find(|(attribute, _)| *attribute == name).map(|(_, v)| Value::from(v))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let added =
            self.attributes().into_iter().filter(|(_, v)| *v != 0).map(|(name, v)| format!("{name}={v:+}"));
        let set = self.set.iter().map(|(name, value)| format!("{name}={value}"));
        write!(f, "relativedelta({})", added.chain(set).collect::<Vec<_>>().join(", "))
    }
}
