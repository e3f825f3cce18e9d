//! The methods of datetimes, dates and times.

use chrono::{Datelike as _, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike as _};
use minijinja::value::Tuple;
use minijinja::{Error, ErrorKind, Value};

use super::super::args::Args;
use super::super::error::{type_error, value_error};
use super::date::{Date, Time};
use super::delta::{DAY, Delta, End, HOUR, Kind, MINUTE, SECOND, scaled, since_midnight};
use super::stamp::{Amounts, Stamp, from_parts, shifted, time_text};
use super::strftime::{pendulum_format, strftime};
use super::zone::{Zone, offset_text};

fn unknown() -> Error {
    Error::from(ErrorKind::UnknownMethod)
}

/// Calls a method of a datetime.
pub(super) fn stamp(stamp: &Stamp, name: &str, raw: &[Value]) -> Result<Value, Error> {
    let args = Args::new("datetime method", raw);
    let value = match name {
        "strftime" => Value::from(strftime(stamp, &args.text(0, "format")?)),
        "isoformat" => iso_format(stamp, &args)?,
        "date" => Date { day: stamp.local().date(), pendulum: stamp.is_pendulum() }.value(),
        "time" => Value::from_object(Time { clock: stamp.local().time(), pendulum: stamp.is_pendulum() }),
        "timetz" => {
            let offset = stamp.offset().map(|o| offset_text(o, true)).unwrap_or_default();
            Value::from(time_text(stamp.local().time()) + &offset)
        }
        "timestamp" => Value::from(stamp.timestamp()),
        "utcoffset" => stamp.offset().map_or_else(|| Value::from(()), |o| seconds(o.into())),
        "ctime" => Value::from(strftime(stamp, "%c")),
        "tzname" => stamp.zone_abbreviation().map_or_else(|| Value::from(()), Value::from),
        "dst" if stamp.zone().is_none_or(|z| matches!(z, Zone::Utc)) => {
            stamp.zone().map_or_else(|| Value::from(()), |_| seconds(0))
        }
        "astimezone" => {
            let zone = args.get(0, "tz").map_or(Ok(Zone::Utc), |tz| zone_of(&tz))?;
            stamp.in_zone(zone).value()
        }
        "replace" => replaced(stamp, &args)?.value(),
        _ if stamp.is_pendulum() => pendulum_method(stamp, name, &args)?,
        _ => shared(stamp.local().date(), name)?,
    };
    args.done()?;
    Ok(value)
}

fn seconds(count: i64) -> Value {
    Delta { micros: count * SECOND, kind: Kind::Plain }.value()
}

/// The zone that a value names or is.
pub(super) fn zone_of(value: &Value) -> Result<Zone, Error> {
    if let Some(name) = value.as_str() {
        return Zone::named(name);
    }
    value
        .downcast_object_ref::<Zone>()
        .copied()
        .ok_or_else(|| type_error("a time zone or its name is wanted"))
}

fn iso_format(stamp: &Stamp, args: &Args) -> Result<Value, Error> {
    let separator = args.text_or(0, "sep", "T")?;
    let local = stamp.local();
    let clock = match args.text_or(1, "timespec", "auto")?.as_str() {
        "auto" => time_text(local.time()),
        "hours" => local.format("%H").to_string(),
        "minutes" => local.format("%H:%M").to_string(),
        "seconds" => local.format("%H:%M:%S").to_string(),
        "milliseconds" => format!("{}.{:03}", local.format("%H:%M:%S"), stamp.microsecond() / 1000),
        "microseconds" => format!("{}.{:06}", local.format("%H:%M:%S"), stamp.microsecond()),
        other => return Err(value_error(format!("unknown timespec value '{other}'"))),
    };
    let offset = stamp.offset().map(|o| offset_text(o, true)).unwrap_or_default();
    Ok(Value::from(format!("{}{separator}{clock}{offset}", local.format("%Y-%m-%d"))))
}

/// `replace(...)` and pendulum's `set(...)`.
fn replaced(stamp: &Stamp, args: &Args) -> Result<Stamp, Error> {
    let (date, time) = (stamp.local().date(), stamp.local().time());
    let (year, month) =
        (args.int_or(0, "year", date.year().into())?, args.int_or(1, "month", date.month().into())?);
    let day = args.int_or(2, "day", date.day().into())?;
    let clock = [
        args.int_or(3, "hour", time.hour().into())?,
        args.int_or(4, "minute", time.minute().into())?,
        args.int_or(5, "second", time.second().into())?,
        args.int_or(6, "microsecond", stamp.microsecond().into())?,
    ];
    let zone = match args.get(7, "tzinfo").or_else(|| args.named("tz")) {
        None => stamp.zone(),
        Some(none) if none.is_none() => None,
        Some(zone) => Some(zone_of(&zone)?),
    };
    let local = from_parts(year, month, day, clock)?;
    stamp.with_zone(zone)?.with_local(local)
}

/// Methods that dates and datetimes share.
fn shared(date: NaiveDate, name: &str) -> Result<Value, Error> {
    Ok(match name {
        "weekday" => Value::from(date.weekday().num_days_from_monday()),
        "isoweekday" => Value::from(date.weekday().number_from_monday()),
        "toordinal" => Value::from(date.num_days_from_ce()),
        "isocalendar" => {
            let week = date.iso_week();
            Value::from(Tuple::from([
                Value::from(week.year()),
                Value::from(week.week()),
                Value::from(date.weekday().number_from_monday()),
            ]))
        }
        "ctime" => Value::from(strftime(&Stamp::plain(date.and_time(NaiveTime::MIN), None), "%c")),
        "is_leap_year" => Value::from(date.leap_year()),
        _ => return Err(unknown()),
    })
}

fn pendulum_method(stamp: &Stamp, name: &str, args: &Args) -> Result<Value, Error> {
    if let Some(text) = stamp.spelt(name) {
        return Ok(Value::from(text));
    }
    let at = |local: NaiveDateTime| Ok::<_, Error>(stamp.with_local(local)?.value());
    Ok(match name {
        "add" => stamp.add(amounts(args, 1)?)?.value(),
        "subtract" => stamp.add(amounts(args, -1)?)?.value(),
        "in_timezone" | "in_tz" => stamp.in_zone(zone_of(&args.required(0, "tz")?)?).value(),
        "set" => replaced(stamp, args)?.value(),
        "on" => {
            let day = Date::from_parts(args.int(0, "year")?, args.int(1, "month")?, args.int(2, "day")?)?;
            at(day.and_time(stamp.local().time()))?
        }
        "at" => {
            let clock = [
                args.int(0, "hour")?,
                args.int_or(1, "minute", 0)?,
                args.int_or(2, "second", 0)?,
                args.int_or(3, "microsecond", 0)?,
            ];
            let date = stamp.local().date();
            at(from_parts(date.year().into(), date.month().into(), date.day().into(), clock)?)?
        }
        "naive" => stamp.with_zone(None)?.value(),
        "format" => Value::from(pendulum_format(stamp, &args.text(0, "fmt")?)),
        "start_of" | "first_of" => at(start_of(stamp.local(), &args.text(0, "unit")?)?)?,
        "end_of" => at(end_of(stamp.local(), &args.text(0, "unit")?)?)?,
        "last_of" => at(end_of(stamp.local(), &args.text(0, "unit")?)?.date().and_time(NaiveTime::MIN))?,
        "next" | "previous" => {
            let today = stamp.local().date().weekday().num_days_from_monday();
            let wanted = args.int_or(0, "day_of_week", today.into())?.rem_euclid(7);
            let days = days_to(today, wanted, name == "next");
            let amounts = Amounts { days, ..Amounts::default() };
            stamp
                .add(amounts)?
                .with_local(
                    shifted(stamp.local().date(), amounts)
                        .ok_or_else(super::stamp::out_of_range)?
                        .and_time(NaiveTime::MIN),
                )?
                .value()
        }
        "diff" => {
            let other = super::stamp_of(&args.required(0, "dt")?)
                .ok_or_else(|| type_error("diff() wants a datetime"))?;
            let absolute = args.flag_or(1, "abs", true);
            let (start, end) =
                if absolute && other.utc() < stamp.utc() { (other, *stamp) } else { (*stamp, other) };
            Delta::between(End::Stamp(start), End::Stamp(end)).value()
        }
        "diff_for_humans" => {
            let other = super::stamp_of(&args.required(0, "other")?).ok_or_else(|| {
                type_error("diff_for_humans() wants a datetime: the present is not known here")
            })?;
            Value::from(Delta::between(End::Stamp(*stamp), End::Stamp(other)).for_humans(false))
        }
        "is_utc" => Value::from(stamp.offset() == Some(0)),
        "is_same_day" => {
            let other = super::stamp_of(&args.required(0, "dt")?)
                .ok_or_else(|| type_error("a datetime is wanted"))?;
            Value::from(other.local().date() == stamp.local().date())
        }
        _ => shared(stamp.local().date(), name)?,
    })
}

/// Days from one weekday to the next or previous one; a whole week if they are the same.
fn days_to(today: u32, wanted: i128, forward: bool) -> i64 {
    let wanted = i64::try_from(wanted).expect("a weekday is below 7");
    let ahead = (wanted - i64::from(today)).rem_euclid(7);
    match (forward, ahead) {
        (true, 0) => 7,
        (true, days) => days,
        (false, 0) => -7,
        (false, days) => days - 7,
    }
}

/// The keyword amounts of `add` and `subtract`.
fn amounts(args: &Args, sign: i64) -> Result<Amounts, Error> {
    let count = |place: usize, name: &str| -> Result<i64, Error> {
        let number = args.int_or(place, name, 0)?;
        i64::try_from(number).ok().and_then(|n| n.checked_mul(sign)).ok_or_else(super::stamp::out_of_range)
    };
    let (years, months, weeks, days) =
        (count(0, "years")?, count(1, "months")?, count(2, "weeks")?, count(3, "days")?);
    let mut micros: i128 = 0;
    for (place, name, size) in
        [(4, "hours", HOUR), (5, "minutes", MINUTE), (6, "seconds", SECOND), (7, "microseconds", 1)]
    {
        if let Some(amount) = args.get(place, name) {
            micros = micros.saturating_add(scaled(&amount, size)?.saturating_mul(sign.into()));
        }
    }
    let days =
        weeks.checked_mul(7).and_then(|w| w.checked_add(days)).ok_or_else(super::stamp::out_of_range)?;
    let micros = i64::try_from(micros).map_err(|_| super::stamp::out_of_range())?;
    Ok(Amounts { years, months, days, micros })
}

fn start_of(local: NaiveDateTime, unit: &str) -> Result<NaiveDateTime, Error> {
    let (date, time) = (local.date(), local.time());
    let first = |year: i32, month: u32| NaiveDate::from_ymd_opt(year, month, 1).unwrap_or(date);
    let clock = |h, m, s| NaiveTime::from_hms_opt(h, m, s).unwrap_or(NaiveTime::MIN);
    let midnight = NaiveTime::MIN;
    Ok(match unit {
        "second" => date.and_time(clock(time.hour(), time.minute(), time.second())),
        "minute" => date.and_time(clock(time.hour(), time.minute(), 0)),
        "hour" => date.and_time(clock(time.hour(), 0, 0)),
        "day" => date.and_time(midnight),
        "week" => (date - TimeDelta::days(date.weekday().num_days_from_monday().into())).and_time(midnight),
        "month" => first(date.year(), date.month()).and_time(midnight),
        "quarter" => first(date.year(), (date.month() - 1) / 3 * 3 + 1).and_time(midnight),
        "year" => first(date.year(), 1).and_time(midnight),
        "decade" => first(date.year() / 10 * 10, 1).and_time(midnight),
        "century" => first((date.year() - 1) / 100 * 100 + 1, 1).and_time(midnight),
        other => return Err(value_error(format!("invalid unit '{other}'"))),
    })
}

fn end_of(local: NaiveDateTime, unit: &str) -> Result<NaiveDateTime, Error> {
    let start = start_of(local, unit)?;
    let months = |months| Amounts { months, ..Amounts::default() };
    let days = |days| Amounts { days, ..Amounts::default() };
    let next = |amounts| shifted(start.date(), amounts).map(|date| date.and_time(NaiveTime::MIN));
    let end = match unit {
        "second" => start.checked_add_signed(TimeDelta::seconds(1)),
        "minute" => start.checked_add_signed(TimeDelta::minutes(1)),
        "hour" => start.checked_add_signed(TimeDelta::hours(1)),
        "day" => next(days(1)),
        "week" => next(days(7)),
        "month" => next(months(1)),
        "quarter" => next(months(3)),
        "year" => next(months(12)),
        "decade" => next(months(120)),
        _ => next(months(1200)),
    };
    Ok(end.ok_or_else(super::stamp::out_of_range)? - TimeDelta::microseconds(1))
}

/// Calls a method of a date.
pub(super) fn date(date: Date, name: &str, raw: &[Value]) -> Result<Value, Error> {
    let args = Args::new("date method", raw);
    let midnight = Stamp::plain(date.day.and_time(NaiveTime::MIN), None);
    let moved = |amounts: Amounts| {
        let days = amounts.micros / DAY;
        let amounts = Amounts { days: amounts.days + days, ..amounts };
        let day = shifted(date.day, amounts).ok_or_else(super::stamp::out_of_range)?;
        Ok::<_, Error>(Date { day, ..date }.value())
    };
    let value = match name {
        "strftime" => Value::from(strftime(&midnight, &args.text(0, "format")?)),
        "isoformat" | "to_date_string" => Value::from(date.iso()),
        "replace" | "set" => {
            let day = Date::from_parts(
                args.int_or(0, "year", date.day.year().into())?,
                args.int_or(1, "month", date.day.month().into())?,
                args.int_or(2, "day", date.day.day().into())?,
            )?;
            Date { day, ..date }.value()
        }
        "add" if date.pendulum => moved(amounts(&args, 1)?)?,
        "subtract" if date.pendulum => moved(amounts(&args, -1)?)?,
        "format" if date.pendulum => Value::from(pendulum_format(&midnight, &args.text(0, "fmt")?)),
        "start_of" | "first_of" if date.pendulum => {
            Date { day: start_of(midnight.local(), &args.text(0, "unit")?)?.date(), ..date }.value()
        }
        "end_of" | "last_of" if date.pendulum => {
            Date { day: end_of(midnight.local(), &args.text(0, "unit")?)?.date(), ..date }.value()
        }
        _ => match midnight.spelt(name).filter(|_| date.pendulum && name == "to_formatted_date_string") {
            Some(text) => Value::from(text),
            None => shared(date.day, name)?,
        },
    };
    args.done()?;
    Ok(value)
}

/// Calls a method of a time of day.
pub(super) fn time(time: &Time, name: &str, raw: &[Value]) -> Result<Value, Error> {
    let args = Args::new("time method", raw);
    let value = match name {
        "isoformat" => Value::from(time_text(time.clock)),
        "strftime" => {
            let day = NaiveDate::from_ymd_opt(1900, 1, 1).expect("the first of January 1900 is a day");
            Value::from(strftime(&Stamp::plain(day.and_time(time.clock), None), &args.text(0, "format")?))
        }
        "replace" => {
            let clock = [
                args.int_or(0, "hour", time.clock.hour().into())?,
                args.int_or(1, "minute", time.clock.minute().into())?,
                args.int_or(2, "second", time.clock.second().into())?,
                args.int_or(3, "microsecond", (time.clock.nanosecond() / 1000).into())?,
            ];
            Value::from_object(Time { clock: from_parts(2000, 1, 1, clock)?.time(), ..*time })
        }
        "utcoffset" | "tzname" | "dst" => Value::from(()),
        "diff" if time.pendulum => {
            let other = args.required(0, "dt")?;
            let other = other.downcast_object_ref::<Time>().ok_or_else(|| type_error("a time is wanted"))?;
            let micros = since_midnight(other.clock) - since_midnight(time.clock);
            Delta { micros: micros.abs(), kind: Kind::Duration }.value()
        }
        _ => return Err(unknown()),
    };
    args.done()?;
    Ok(value)
}
