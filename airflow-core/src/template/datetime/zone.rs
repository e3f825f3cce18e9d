//! Time zones as values: UTC, a named zone, or a fixed offset; and the way from wall-clock time to an offset.

use std::fmt;
use std::sync::Arc;

use chrono::{MappedLocalTime, NaiveDateTime, Offset as _, TimeDelta, TimeZone as _};
use minijinja::value::{Object, ObjectRepr};
use minijinja::{Error, Value};

use super::super::error::value_error;
use super::super::py::put;

/// A time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Zone {
    Utc,
    Named(chrono_tz::Tz),
    /// Seconds east of UTC, less than a day.
    Fixed(i32),
}

/// How far a fixed offset may be from UTC.
const MAX_OFFSET_SECONDS: i32 = 86_400 - 1;

impl Zone {
    /// The zone called `name`.
    ///
    /// # Errors
    ///
    /// Names that are neither in the time zone database nor an offset such as `+02:00`.
    pub(super) fn named(name: &str) -> Result<Self, Error> {
        if matches!(name, "UTC" | "utc" | "Z") {
            return Ok(Self::Utc);
        }
        if let Ok(zone) = name.parse::<chrono_tz::Tz>() {
            return Ok(Self::Named(zone));
        }
        parse_offset(name).map(Self::Fixed).ok_or_else(|| value_error(format!("unknown time zone '{name}'")))
    }

    pub(super) fn fixed(seconds: i64) -> Option<Self> {
        let seconds = i32::try_from(seconds).ok().filter(|s| s.abs() <= MAX_OFFSET_SECONDS)?;
        Some(if seconds == 0 { Self::Utc } else { Self::Fixed(seconds) })
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Utc => "UTC".to_owned(),
            Self::Named(zone) => zone.name().to_owned(),
            Self::Fixed(seconds) => offset_text(seconds, true),
        }
    }

    /// The abbreviation in use at an instant, e.g. `CET`.
    pub(super) fn abbreviation(self, utc: NaiveDateTime) -> String {
        match self {
            Self::Named(zone) => zone.from_utc_datetime(&utc).format("%Z").to_string(),
            other => other.name(),
        }
    }

    pub(super) fn offset_at(self, utc: NaiveDateTime) -> i32 {
        match self {
            Self::Utc => 0,
            Self::Fixed(seconds) => seconds,
            Self::Named(zone) => zone.offset_from_utc_datetime(&utc).fix().local_minus_utc(),
        }
    }

    /// The wall-clock time and offset that `local` means. A time that a clock change skips moves forward by the
    /// length of the gap; of two, `later` chooses.
    pub(super) fn resolve(self, local: NaiveDateTime, later: bool) -> (NaiveDateTime, i32) {
        let Self::Named(zone) = self else { return (local, self.offset_at(local)) };
        match zone.offset_from_local_datetime(&local) {
            MappedLocalTime::Single(offset) => (local, offset.fix().local_minus_utc()),
            MappedLocalTime::Ambiguous(first, second) => {
                (local, if later { second } else { first }.fix().local_minus_utc())
            }
            MappedLocalTime::None => {
                // The offset before the gap, applied to a time inside it, lands behind the gap.
                let before = local.checked_sub_signed(TimeDelta::days(1)).unwrap_or(local);
                let offset = self.offset_at(before);
                let utc = local.checked_sub_signed(TimeDelta::seconds(offset.into())).unwrap_or(local);
                let after = self.offset_at(utc);
                (utc.checked_add_signed(TimeDelta::seconds(after.into())).unwrap_or(local), after)
            }
        }
    }
}

impl Object for Zone {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        matches!(key.as_str()?, "name" | "key").then(|| Value::from(self.name()))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// `+HH:MM`, or `+HHMM` without the colon; seconds only if there are any.
pub(super) fn offset_text(seconds: i32, colon: bool) -> String {
    let sign = if seconds < 0 { '-' } else { '+' };
    let size = seconds.abs();
    let colon = if colon { ":" } else { "" };
    let mut text = format!("{sign}{:02}{colon}{:02}", size / 3600, size / 60 % 60);
    if size % 60 != 0 {
        put(&mut text, format_args!("{colon}{:02}", size % 60));
    }
    text
}

/// Seconds east of UTC of `Z`, `+HH`, `+HHMM`, `+HH:MM` or `+HH:MM:SS`.
pub(super) fn parse_offset(text: &str) -> Option<i32> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let (sign, digits) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let digits = digits.replace(':', "");
    if !matches!(digits.len(), 2 | 4 | 6) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |at: usize| digits.get(at..at + 2).map_or(Some(0), |d| d.parse::<i32>().ok());
    let seconds = part(0)? * 3600 + part(2)? * 60 + part(4)?;
    (seconds <= MAX_OFFSET_SECONDS && part(2)? < 60 && part(4)? < 60).then_some(sign * seconds)
}
