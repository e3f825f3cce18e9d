//! Dates and times as Python's `datetime` and `pendulum` show them to templates.
//!
//! Values are immutable; the present is never read here (see `macros` for `now()`). Start reading at [`Stamp`];
//! this file holds the operators between the types and the classes that templates call.

mod date;
mod delta;
mod methods;
pub(super) mod parse;
mod relative;
mod stamp;
mod strftime;
mod zone;

use std::cmp::Ordering;

use chrono::{DateTime, TimeDelta, Utc};
use minijinja::value::DynObject;
use minijinja::{Error, Value};

use self::date::{Date, Time};
use self::delta::{Delta, End, Kind, micros};
pub(super) use self::relative::construct as relativedelta;
pub(super) use self::stamp::Stamp;
use self::stamp::{Amounts, out_of_range, shifted};
pub(super) use self::strftime::strptime;
use self::zone::Zone;
use super::args::Args;
use super::error::{TemplateErrorKind, raise, type_error};
use super::py::{as_float, as_int};

/// `repr()` of one of our date and time objects.
pub(super) fn repr_of(object: &DynObject) -> Option<String> {
    if let Some(stamp) = object.downcast_ref::<Stamp>() {
        return Some(stamp.repr());
    }
    if let Some(delta) = object.downcast_ref::<Delta>() {
        return Some(delta.repr());
    }
    if let Some(zone) = object.downcast_ref::<Zone>() {
        return Some(format!("Timezone('{}')", zone.name()));
    }
    let date = object.downcast_ref::<Date>().map(|date| date.repr());
    date.or_else(|| object.downcast_ref::<Time>().map(Time::repr))
}

/// The Python class of one of our date and time objects.
pub(super) fn class_name(object: &DynObject) -> Option<&'static str> {
    if let Some(stamp) = object.downcast_ref::<Stamp>() {
        return Some(if stamp.is_pendulum() { "DateTime" } else { "datetime.datetime" });
    }
    if object.downcast_ref::<Delta>().is_some() {
        return Some("datetime.timedelta");
    }
    object.downcast_ref::<Date>().map(|_| "datetime.date")
}

fn stamp_of(value: &Value) -> Option<Stamp> {
    value.downcast_object_ref::<Stamp>().copied()
}

fn date_of(value: &Value) -> Option<Date> {
    value.downcast_object_ref::<Date>().copied()
}

fn delta_of(value: &Value) -> Option<Delta> {
    value.downcast_object_ref::<Delta>().copied()
}

type Operation = Option<Result<Value, Error>>;

/// `a + b`; `None` if neither is a date or a length of time.
pub(super) fn add(a: &Value, b: &Value) -> Operation {
    if let Some(result) = relative::add(a, b) {
        return Some(result);
    }
    match (delta_of(a), delta_of(b)) {
        (Some(a), Some(b)) => Some(sum(a, b, 1)),
        (None, Some(length)) => moved(a, length, 1),
        (Some(length), None) => moved(b, length, 1),
        (None, None) => None,
    }
}

/// `a - b`; `None` if the two have nothing to do with dates.
pub(super) fn sub(a: &Value, b: &Value) -> Operation {
    if let Some(result) = relative::sub(a, b) {
        return Some(result);
    }
    if let Some(length) = delta_of(b) {
        return match delta_of(a) {
            Some(a) => Some(sum(a, length, -1)),
            None => moved(a, length, -1),
        };
    }
    if let (Some(a), Some(b)) = (stamp_of(a), stamp_of(b)) {
        return Some(stamp_difference(a, b));
    }
    let (a, b) = (date_of(a)?, date_of(b)?);
    if a.pendulum || b.pendulum {
        return Some(Ok(Delta::between(End::Date(b), End::Date(a)).value()));
    }
    Some(Delta::new(micros(a.day - b.day), Kind::Plain).map(Delta::value))
}

fn stamp_difference(a: Stamp, b: Stamp) -> Result<Value, Error> {
    if a.is_pendulum() || b.is_pendulum() {
        if a.zone().is_some() != b.zone().is_some() && !(a.is_pendulum() ^ b.is_pendulum()) {
            return Err(type_error("can't subtract offset-naive and offset-aware datetimes"));
        }
        return Ok(Delta::between(End::Stamp(b.as_pendulum()), End::Stamp(a.as_pendulum())).value());
    }
    if a.zone().is_some() != b.zone().is_some() {
        return Err(type_error("can't subtract offset-naive and offset-aware datetimes"));
    }
    Ok(Delta::new(micros(a.utc() - b.utc()), Kind::Plain)?.value())
}

fn sum(a: Delta, b: Delta, sign: i128) -> Result<Value, Error> {
    let kind = if a.kind == Kind::Plain && b.kind == Kind::Plain { Kind::Plain } else { Kind::Duration };
    Ok(Delta::new(i128::from(a.micros) + sign * i128::from(b.micros), kind)?.value())
}

fn moved(time: &Value, length: Delta, sign: i64) -> Operation {
    if let Some(stamp) = stamp_of(time) {
        // Pendulum moves by the calendar parts of an interval, and by the instant otherwise.
        let amounts = if let (true, Kind::Interval(..)) = (stamp.is_pendulum(), length.kind) {
            length.amounts(sign)
        } else {
            Amounts { micros: sign * length.micros, ..Amounts::default() }
        };
        return Some(stamp.add(amounts).map(Stamp::value));
    }
    let date = date_of(time)?;
    let amounts = Amounts { days: sign * length.micros.div_euclid(delta::DAY), ..Amounts::default() };
    Some(shifted(date.day, amounts).map(|day| Date { day, ..date }.value()).ok_or_else(out_of_range))
}

fn kept(kind: Kind) -> Kind {
    if kind == Kind::Plain { Kind::Plain } else { Kind::Duration }
}

/// `a * b` with a length of time on one side.
pub(super) fn mul(a: &Value, b: &Value) -> Operation {
    let (length, factor) = delta_of(a).map(|d| (d, b)).or_else(|| delta_of(b).map(|d| (d, a)))?;
    as_float(factor)?;
    Some(
        delta::scaled(factor, length.micros).and_then(|m| Delta::new(m, kept(length.kind))).map(Delta::value),
    )
}

/// `a / b` with a length of time on the left.
pub(super) fn div(a: &Value, b: &Value) -> Operation {
    let length = delta_of(a)?;
    let zero = || raise(TemplateErrorKind::DivisionByZero, "division by zero");
    if let Some(other) = delta_of(b) {
        return Some(if other.micros == 0 {
            Err(zero())
        } else {
            Ok(Value::from(length.seconds() / other.seconds()))
        });
    }
    let divisor = as_float(b)?;
    if divisor == 0.0 {
        return Some(Err(zero()));
    }
    let micros = (length.seconds() / divisor * 1_000_000.0).round_ties_even();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the cast saturates and `Delta::new` checks the range"
    )]
    Some(Delta::new(micros as i128, kept(length.kind)).map(Delta::value))
}

/// `a // b` with a length of time on the left.
pub(super) fn floor_div(a: &Value, b: &Value) -> Operation {
    let length = delta_of(a)?;
    let zero = || raise(TemplateErrorKind::DivisionByZero, "integer division or modulo by zero");
    if let Some(other) = delta_of(b) {
        let whole = || Value::from(length.micros.div_euclid(other.micros));
        return Some(if other.micros == 0 { Err(zero()) } else { Ok(whole()) });
    }
    let divisor = as_int(b)?;
    if divisor == 0 {
        return Some(Err(zero()));
    }
    Some(Delta::new(i128::from(length.micros).div_euclid(divisor), kept(length.kind)).map(Delta::value))
}

/// `-a` of a length of time.
pub(super) fn negate(a: &Value) -> Operation {
    let length = delta_of(a)?;
    Some(Ok(match length.kind {
        Kind::Interval(start, end) => Delta::between(end, start).value(),
        kind => Delta { micros: -length.micros, kind }.value(),
    }))
}

/// Python's order of two dates, times or lengths; `None` for other values.
pub(super) fn compare(a: &Value, b: &Value) -> Option<Result<Ordering, Error>> {
    if let (Some(a), Some(b)) = (stamp_of(a), stamp_of(b)) {
        return Some(
            a.order(&b).ok_or_else(|| type_error("can't compare offset-naive and offset-aware datetimes")),
        );
    }
    if let (Some(a), Some(b)) = (delta_of(a), delta_of(b)) {
        return Some(Ok(a.micros.cmp(&b.micros)));
    }
    if let (Some(a), Some(b)) = (date_of(a), date_of(b)) {
        return Some(Ok(a.day.cmp(&b.day)));
    }
    let (a, b) = (a.downcast_object_ref::<Time>()?, b.downcast_object_ref::<Time>()?);
    Some(Ok(a.clock.cmp(&b.clock)))
}

/// `format(value, spec)` of a date or datetime: `strftime`, or pendulum's tokens if there is no `%`.
pub(super) fn format_spec(value: &Value, spec: &str) -> Option<Result<String, Error>> {
    let stamp = match (stamp_of(value), date_of(value)) {
        (Some(stamp), _) => stamp,
        (None, Some(date)) => Stamp::plain(date.day.and_time(chrono::NaiveTime::MIN), None),
        (None, None) => return None,
    };
    let tokens = stamp.is_pendulum() && !spec.contains('%');
    Some(Ok(if tokens { strftime::pendulum_format(&stamp, spec) } else { strftime::strftime(&stamp, spec) }))
}

/// The text that Airflow's filter `name` makes of a date or datetime.
pub(super) fn airflow_filter(value: &Value, name: &str) -> Option<String> {
    let format = match name {
        "ds" => "%Y-%m-%d",
        "ds_nodash" => "%Y%m%d",
        "ts_nodash" => "%Y%m%dT%H%M%S",
        _ => "",
    };
    let (stamp, iso) = match (stamp_of(value), date_of(value)) {
        (Some(stamp), _) => (stamp, stamp.iso("T")),
        (None, Some(date)) => (Stamp::plain(date.day.and_time(chrono::NaiveTime::MIN), None), date.iso()),
        (None, None) => return None,
    };
    Some(match name {
        "ts" => iso,
        "ts_nodash_with_tz" => iso.replace(['-', ':'], ""),
        _ => strftime::strftime(&stamp, format),
    })
}

/// `datetime(year, month, day, hour=0, minute=0, second=0, microsecond=0, tzinfo=None)`.
pub(super) fn construct(args: &[Value]) -> Result<Value, Error> {
    let args = Args::new("datetime", args);
    let local = stamp::from_parts(
        args.int(0, "year")?,
        args.int(1, "month")?,
        args.int(2, "day")?,
        [
            args.int_or(3, "hour", 0)?,
            args.int_or(4, "minute", 0)?,
            args.int_or(5, "second", 0)?,
            args.int_or(6, "microsecond", 0)?,
        ],
    )?;
    let zone =
        args.get(7, "tzinfo").filter(|z| !z.is_none()).map(|zone| methods::zone_of(&zone)).transpose()?;
    args.done()?;
    Ok(Stamp::plain(local, zone).value())
}

/// A class method of `datetime`; `now` is the present.
pub(super) fn class_method(now: DateTime<Utc>, name: &str, raw: &[Value]) -> Result<Value, Error> {
    let args = Args::new("datetime method", raw);
    let value = match name {
        "strptime" => strptime(&args.text(0, "date_string")?, &args.text(1, "format")?)?.value(),
        "fromisoformat" => parse::iso(&args.text(0, "date_string")?)?.value(),
        "now" | "today" => match args.get(0, "tz").filter(|tz| !tz.is_none()) {
            Some(tz) => {
                Stamp::plain(now.naive_utc(), Some(Zone::Utc)).in_zone(methods::zone_of(&tz)?).value()
            }
            None => Stamp::plain(now.naive_utc(), None).value(),
        },
        "utcnow" => Stamp::plain(now.naive_utc(), None).value(),
        "fromtimestamp" | "utcfromtimestamp" => {
            let micros = delta::scaled(&args.required(0, "timestamp")?, delta::SECOND)?;
            let length = i64::try_from(micros).map(TimeDelta::microseconds).map_err(|_| out_of_range())?;
            let utc = DateTime::UNIX_EPOCH.naive_utc().checked_add_signed(length).ok_or_else(out_of_range)?;
            match args.get(1, "tz").filter(|tz| !tz.is_none()) {
                Some(tz) => Stamp::plain(utc, Some(Zone::Utc)).in_zone(methods::zone_of(&tz)?).value(),
                None => Stamp::plain(utc, None).value(),
            }
        }
        "combine" => {
            let date = args.required(0, "date")?;
            let time = args.required(1, "time")?;
            match (date_of(&date), time.downcast_object_ref::<Time>()) {
                (Some(date), Some(time)) => Stamp::plain(date.day.and_time(time.clock), None).value(),
                _ => return Err(type_error("combine() wants a date and a time")),
            }
        }
        _ => return Err(Error::from(minijinja::ErrorKind::UnknownMethod)),
    };
    args.done()?;
    Ok(value)
}

/// `timedelta(...)`.
pub(super) fn timedelta(args: &[Value]) -> Result<Value, Error> {
    delta::construct(args)
}

/// A time zone by name, as a value.
pub(super) fn zone(name: &str) -> Result<Value, Error> {
    Zone::named(name).map(Value::from_object)
}

/// `macros.datetime_diff_for_humans(dt, since)`.
pub(super) fn diff_for_humans(
    now: DateTime<Utc>,
    time: &Value,
    since: Option<&Value>,
) -> Result<Value, Error> {
    let read = |value: &Value| match (stamp_of(value), value.as_str()) {
        (Some(stamp), _) => Ok(stamp.as_pendulum()),
        (None, Some(text)) => parse::loose(text).map(Stamp::as_pendulum),
        (None, None) => Err(type_error("datetime_diff_for_humans() wants datetimes or their text")),
    };
    let present = Stamp::at(now.naive_utc(), Zone::Utc);
    let end = since.filter(|s| !s.is_none()).map_or(Ok(present), &read)?;
    let length = Delta::between(End::Stamp(read(time)?), End::Stamp(end));
    Ok(Value::from(length.for_humans(since.is_none_or(Value::is_none))))
}

/// `stamp.strftime(format)`.
pub(super) fn formatted(stamp: &Stamp, format: &str) -> String {
    strftime::strftime(stamp, format)
}

/// `abs(value)` of a length of time.
pub(super) fn absolute(value: &Value) -> Option<Value> {
    let length = delta_of(value)?;
    if length.micros >= 0 { Some(value.clone()) } else { negate(value)?.ok() }
}
