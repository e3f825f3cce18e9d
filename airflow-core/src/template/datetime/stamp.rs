//! `datetime.datetime` and `pendulum.DateTime`: one type, which remembers which of the two it prints as.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use chrono::{
    DateTime, Datelike as _, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike as _, Utc,
};
use minijinja::value::{DynObject, Object, ObjectRepr};
use minijinja::{Error, State, Value};

use super::super::error::{TemplateErrorKind, raise, value_error};
use super::super::py::put;
use super::strftime::{day_name, month_name};
use super::zone::{Zone, offset_text};
use super::{Date, methods};

/// A point in time with its wall-clock reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in super::super) struct Stamp {
    local: NaiveDateTime,
    zone: Option<Zone>,
    offset: i32,
    pendulum: bool,
}

/// Amounts to add, as `pendulum.DateTime.add` takes them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Amounts {
    pub(super) years: i64,
    pub(super) months: i64,
    pub(super) days: i64,
    pub(super) micros: i64,
}

/// The error for times outside the years 1 to 9999.
pub(super) fn out_of_range() -> Error {
    raise(TemplateErrorKind::Overflow, "date value out of range")
}

impl Stamp {
    /// A Python `datetime`, naive if `zone` is absent.
    pub(super) fn plain(local: NaiveDateTime, zone: Option<Zone>) -> Self {
        // Python reads an ambiguous or skipped time with the offset before the change (`fold=0`).
        let offset = zone.map_or(0, |zone| zone.resolve(local, false).1);
        Self { local, zone, offset, pendulum: false }
    }

    /// A `pendulum.DateTime` at an instant, in `zone`.
    pub(super) fn at(utc: NaiveDateTime, zone: Zone) -> Self {
        let offset = zone.offset_at(utc);
        let local = utc.checked_add_signed(TimeDelta::seconds(offset.into())).unwrap_or(utc);
        Self { local, zone: Some(zone), offset, pendulum: true }
    }

    /// The instant as Airflow hands it to templates: pendulum, UTC, whole microseconds.
    pub(in super::super) fn utc_value(time: DateTime<Utc>) -> Value {
        let time = time.naive_utc();
        let whole = time.with_nanosecond(time.nanosecond() / 1000 * 1000).unwrap_or(time);
        Value::from_object(Self::at(whole, Zone::Utc))
    }

    pub(super) fn value(self) -> Value {
        Value::from_object(self)
    }

    pub(super) fn local(&self) -> NaiveDateTime {
        self.local
    }

    pub(super) fn zone(&self) -> Option<Zone> {
        self.zone
    }

    pub(super) fn is_pendulum(&self) -> bool {
        self.pendulum
    }

    /// Seconds east of UTC; absent for naive times.
    pub(super) fn offset(&self) -> Option<i32> {
        self.zone.map(|_| self.offset)
    }

    /// The instant; a naive time counts as UTC.
    pub(super) fn utc(&self) -> NaiveDateTime {
        self.local.checked_sub_signed(TimeDelta::seconds(self.offset.into())).unwrap_or(self.local)
    }

    pub(super) fn microsecond(&self) -> u32 {
        self.local.nanosecond() / 1000
    }

    pub(super) fn zone_abbreviation(&self) -> Option<String> {
        self.zone.map(|zone| zone.abbreviation(self.utc()))
    }

    /// The same wall clock reading at another time; the zone stays.
    ///
    /// # Errors
    ///
    /// Years outside 1 to 9999.
    pub(super) fn with_local(self, local: NaiveDateTime) -> Result<Self, Error> {
        if !(1..=9999).contains(&local.year()) {
            return Err(out_of_range());
        }
        let (local, offset) = match self.zone {
            Some(zone) if self.pendulum => zone.resolve(local, true),
            Some(zone) => (local, zone.resolve(local, false).1),
            None => (local, 0),
        };
        Ok(Self { local, offset, ..self })
    }

    pub(super) fn with_zone(self, zone: Option<Zone>) -> Result<Self, Error> {
        Self { zone, ..self }.with_local(self.local)
    }

    pub(super) fn in_zone(self, zone: Zone) -> Self {
        Self { pendulum: self.pendulum, ..Self::at(self.utc(), zone) }
    }

    pub(super) fn as_pendulum(self) -> Self {
        let zone = self.zone.unwrap_or(Zone::Utc);
        Self { zone: Some(zone), pendulum: true, ..self }
    }

    /// Calendar amounts move the wall clock, the rest moves the instant (a naive or plain `datetime` has only one).
    pub(super) fn add(self, amounts: Amounts) -> Result<Self, Error> {
        let moved = shift_date(self.local, amounts).ok_or_else(out_of_range)?;
        let moved = if amounts.years == 0 && amounts.months == 0 && amounts.days == 0 {
            self
        } else {
            self.with_local(moved)?
        };
        let step = TimeDelta::microseconds(amounts.micros);
        if !self.pendulum || self.zone.is_none() {
            return moved.with_local(moved.local.checked_add_signed(step).ok_or_else(out_of_range)?);
        }
        let utc = moved.utc().checked_add_signed(step).ok_or_else(out_of_range)?;
        let there = moved.in_zone(moved.zone.unwrap_or(Zone::Utc));
        let there = Self::at(utc, there.zone.unwrap_or(Zone::Utc));
        if !(1..=9999).contains(&there.local.year()) {
            return Err(out_of_range());
        }
        Ok(there)
    }

    /// `isoformat(separator)`.
    pub(super) fn iso(&self, separator: &str) -> String {
        let mut text =
            format!("{}{separator}{}", self.local.format("%Y-%m-%d"), time_text(self.local.time()));
        if let Some(offset) = self.offset() {
            text += &offset_text(offset, true);
        }
        text
    }

    pub(super) fn repr(&self) -> String {
        let (date, time) = (self.local.date(), self.local.time());
        let mut text =
            format!("{}, {}, {}, {}, {}", date.year(), date.month(), date.day(), time.hour(), time.minute());
        if self.pendulum || time.second() > 0 || self.microsecond() > 0 {
            put(&mut text, format_args!(", {}", time.second()));
        }
        if self.microsecond() > 0 {
            put(&mut text, format_args!(", {}", self.microsecond()));
        }
        match (self.zone, self.pendulum) {
            (Some(Zone::Fixed(seconds)), true) => {
                let name = offset_text(seconds, true);
                put(&mut text, format_args!(", tzinfo=FixedTimezone({seconds}, name=\"{name}\")"));
            }
            (Some(zone), true) => put(&mut text, format_args!(", tzinfo=Timezone('{}')", zone.name())),
            (Some(Zone::Utc), false) => text += ", tzinfo=datetime.timezone.utc",
            (Some(zone), false) => put(&mut text, format_args!(", tzinfo={}", zone.name())),
            (None, _) => {}
        }
        if self.pendulum { format!("DateTime({text})") } else { format!("datetime.datetime({text})") }
    }

    /// Python's order; `None` if only one of the two has a zone.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        (self.zone.is_some() == other.zone.is_some()).then(|| self.utc().cmp(&other.utc()))
    }

    /// Seconds since 1970.
    pub(super) fn timestamp(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "Python's timestamp() is a float as well")]
        let micros = self.utc().and_utc().timestamp_micros() as f64;
        micros / 1_000_000.0
    }

    fn attribute(&self, name: &str) -> Option<Value> {
        let (date, time) = (self.local.date(), self.local.time());
        let value = match name {
            "hour" => Value::from(time.hour()),
            "minute" => Value::from(time.minute()),
            "second" => Value::from(time.second()),
            "microsecond" => Value::from(self.microsecond()),
            "fold" => Value::from(0),
            "tzinfo" => self.zone.map_or_else(|| Value::from(()), Value::from_object),
            _ if self.pendulum => return self.pendulum_attribute(name),
            _ => return super::date::basic_attribute(date, name),
        };
        Some(value)
    }

    fn pendulum_attribute(&self, name: &str) -> Option<Value> {
        Some(match name {
            "timezone" | "tz" => self.zone.map_or_else(|| Value::from(()), Value::from_object),
            "timezone_name" => self.zone.map_or_else(|| Value::from(()), |zone| Value::from(zone.name())),
            "int_timestamp" => Value::from(self.utc().and_utc().timestamp()),
            "float_timestamp" => Value::from(self.timestamp()),
            "offset" => Value::from(self.offset),
            "offset_hours" => Value::from(f64::from(self.offset) / 3600.0),
            _ => return super::date::pendulum_attribute(self.local.date(), name),
        })
    }

    /// The date and time spelt out, for the methods named after formats.
    pub(super) fn spelt(&self, style: &str) -> Option<String> {
        let local = self.local;
        let (day, month) = (day_name(local.weekday()), month_name(local.month()));
        let short = |name: &str| name[..3].to_owned();
        let offset = self.offset;
        Some(match style {
            "to_date_string" => local.format("%Y-%m-%d").to_string(),
            "to_time_string" => local.format("%H:%M:%S").to_string(),
            "to_datetime_string" => local.format("%Y-%m-%d %H:%M:%S").to_string(),
            "to_formatted_date_string" => format!("{} {:02}, {}", short(month), local.day(), local.year()),
            "to_day_datetime_string" => {
                let (afternoon, hour) = local.time().hour12();
                let half = if afternoon { "PM" } else { "AM" };
                let date = format!("{}, {} {}, {}", short(day), short(month), local.day(), local.year());
                format!("{date} {hour}:{:02} {half}", local.minute())
            }
            "to_iso8601_string" if offset == 0 => format!("{}Z", self.iso("T").trim_end_matches("+00:00")),
            "to_iso8601_string" => self.iso("T"),
            "to_atom_string" | "to_rfc3339_string" | "to_w3c_string" => {
                if style == "to_rfc3339_string" {
                    self.iso("T")
                } else {
                    local.format("%Y-%m-%dT%H:%M:%S").to_string() + &offset_text(offset, true)
                }
            }
            "to_cookie_string" => {
                let zone = self.zone_abbreviation().unwrap_or_default();
                format!("{day}, {} {zone}", local.format("%d-%b-%Y %H:%M:%S"))
            }
            "to_rfc822_string" | "to_rfc1036_string" => {
                format!(
                    "{}, {} {}",
                    short(day),
                    local.format("%d %b %y %H:%M:%S"),
                    offset_text(offset, false)
                )
            }
            "to_rfc850_string" => {
                let zone = self.zone_abbreviation().unwrap_or_default();
                format!("{day}, {} {zone}", local.format("%d-%b-%y %H:%M:%S"))
            }
            "to_rfc1123_string" | "to_rfc2822_string" | "to_rss_string" => {
                format!(
                    "{}, {} {}",
                    short(day),
                    local.format("%d %b %Y %H:%M:%S"),
                    offset_text(offset, false)
                )
            }
            _ => return None,
        })
    }
}

/// `HH:MM:SS`, with microseconds only if there are any.
pub(super) fn time_text(time: NaiveTime) -> String {
    let micros = time.nanosecond() / 1000;
    let text = time.format("%H:%M:%S").to_string();
    if micros > 0 { format!("{text}.{micros:06}") } else { text }
}

fn shift_date(local: NaiveDateTime, amounts: Amounts) -> Option<NaiveDateTime> {
    let months = amounts.years.checked_mul(12)?.checked_add(amounts.months)?;
    let date = shift_months(local.date(), months)?;
    let days = Days::new(amounts.days.unsigned_abs());
    let date = if amounts.days < 0 { date.checked_sub_days(days)? } else { date.checked_add_days(days)? };
    Some(NaiveDateTime::new(date, local.time()))
}

fn shift_months(date: NaiveDate, months: i64) -> Option<NaiveDate> {
    let count = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
    if months < 0 { date.checked_sub_months(count) } else { date.checked_add_months(count) }
}

/// The date moved by amounts; `None` outside the years 1 to 9999.
pub(super) fn shifted(date: NaiveDate, amounts: Amounts) -> Option<NaiveDate> {
    let moved = shift_date(NaiveDateTime::new(date, NaiveTime::MIN), amounts)?.date();
    (1..=9999).contains(&moved.year()).then_some(moved)
}

/// A `datetime` from its parts.
///
/// # Errors
///
/// Parts out of range.
pub(super) fn from_parts(
    year: i128,
    month: i128,
    day: i128,
    clock: [i128; 4],
) -> Result<NaiveDateTime, Error> {
    let small = |part: i128| u32::try_from(part).unwrap_or(u32::MAX);
    let date = Date::from_parts(year, month, day)?;
    let [hour, minute, second, micro] = clock.map(small);
    let time = NaiveTime::from_hms_micro_opt(hour, minute, second, micro)
        .filter(|_| micro < 1_000_000)
        .ok_or_else(|| value_error("hour, minute, second or microsecond is out of range"))?;
    Ok(NaiveDateTime::new(date, time))
}

impl Object for Stamp {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.attribute(key.as_str()?)
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        name: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        methods::stamp(self, name, args)
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        let other = other.downcast_ref::<Self>()?;
        // Naive and aware times are never equal; a total order still needs one of them first.
        Some(self.order(other).unwrap_or_else(|| self.zone.is_some().cmp(&other.zone.is_some())))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iso(" "))
    }
}
