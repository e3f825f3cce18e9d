//! `date` and `time` objects, and the attributes that dates and datetimes share.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use chrono::{Datelike as _, NaiveDate, NaiveTime, Timelike as _};
use minijinja::value::{DynObject, Object, ObjectRepr};
use minijinja::{Error, State, Value};

use super::super::error::value_error;
use super::super::py::put;
use super::methods;
use super::stamp::time_text;

/// A `datetime.date`, or a `pendulum.Date`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Date {
    pub(super) day: NaiveDate,
    pub(super) pendulum: bool,
}

impl Date {
    /// # Errors
    ///
    /// Days that no calendar has, and years outside 1 to 9999.
    pub(super) fn from_parts(year: i128, month: i128, day: i128) -> Result<NaiveDate, Error> {
        let year = i32::try_from(year)
            .ok()
            .filter(|y| (1..=9999).contains(y))
            .ok_or_else(|| value_error(format!("year {year} is out of range")))?;
        let month = u32::try_from(month)
            .ok()
            .filter(|m| (1..=12).contains(m))
            .ok_or_else(|| value_error("month must be in 1..12"))?;
        let day = u32::try_from(day).ok().and_then(|day| NaiveDate::from_ymd_opt(year, month, day));
        day.ok_or_else(|| value_error("day is out of range for month"))
    }

    pub(super) fn value(self) -> Value {
        Value::from_object(self)
    }

    pub(super) fn iso(self) -> String {
        self.day.format("%Y-%m-%d").to_string()
    }

    pub(super) fn repr(self) -> String {
        let name = if self.pendulum { "Date" } else { "datetime.date" };
        format!("{name}({}, {}, {})", self.day.year(), self.day.month(), self.day.day())
    }
}

/// `year`, `month` and `day`.
pub(super) fn basic_attribute(date: NaiveDate, name: &str) -> Option<Value> {
    match name {
        "year" => Some(Value::from(date.year())),
        "month" => Some(Value::from(date.month())),
        "day" => Some(Value::from(date.day())),
        _ => None,
    }
}

/// What pendulum adds to a date.
pub(super) fn pendulum_attribute(date: NaiveDate, name: &str) -> Option<Value> {
    Some(match name {
        // Monday is 0, as in pendulum 3.
        "day_of_week" => Value::from(date.weekday().num_days_from_monday()),
        "day_of_year" => Value::from(date.ordinal()),
        "week_of_year" => Value::from(date.iso_week().week()),
        "week_of_month" => {
            let first = date.with_day(1).unwrap_or(date).weekday().num_days_from_monday();
            Value::from((date.day() + first - 1) / 7 + 1)
        }
        "days_in_month" => Value::from(date.num_days_in_month()),
        "quarter" => Value::from((date.month() - 1) / 3 + 1),
        _ => return basic_attribute(date, name),
    })
}

impl Object for Date {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        if self.pendulum { pendulum_attribute(self.day, name) } else { basic_attribute(self.day, name) }
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        name: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        methods::date(**self, name, args)
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        Some(self.day.cmp(&other.downcast_ref::<Self>()?.day))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iso())
    }
}

/// A `datetime.time`, or a `pendulum.Time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) clock: NaiveTime,
    pub(super) pendulum: bool,
}

impl Time {
    pub(super) fn repr(&self) -> String {
        let (time, micros) = (self.clock, self.clock.nanosecond() / 1000);
        let mut text = format!("{}, {}", time.hour(), time.minute());
        if self.pendulum || time.second() > 0 || micros > 0 {
            put(&mut text, format_args!(", {}", time.second()));
        }
        if micros > 0 {
            put(&mut text, format_args!(", {micros}"));
        }
        if self.pendulum { format!("Time({text})") } else { format!("datetime.time({text})") }
    }
}

impl Object for Time {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        Some(match key.as_str()? {
            "hour" => Value::from(self.clock.hour()),
            "minute" => Value::from(self.clock.minute()),
            "second" => Value::from(self.clock.second()),
            "microsecond" => Value::from(self.clock.nanosecond() / 1000),
            "tzinfo" => Value::from(()),
            _ => return None,
        })
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        name: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        methods::time(self, name, args)
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        Some(self.clock.cmp(&other.downcast_ref::<Self>()?.clock))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&time_text(self.clock))
    }
}
