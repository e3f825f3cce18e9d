//! Reads dates written by people: ISO 8601 strictly, and the common forms that `dateutil.parser.parse` accepts.

use chrono::{Datelike as _, Days, NaiveDate, NaiveDateTime, NaiveTime};
use minijinja::{Error, Value};

use super::super::args::Args;
use super::super::error::value_error;
use super::stamp::{Stamp, from_parts};
use super::strftime::{DAYS, MONTHS};
use super::zone::{Zone, parse_offset};

/// `dateutil.parser.parse(text)`; missing parts are taken from `default`, the present day.
pub(in super::super) fn parse(default: NaiveDate, raw: &[Value]) -> Result<Value, Error> {
    let args = Args::new("parse", raw);
    let text = args.text(0, "timestr")?;
    let day_first = args.named("dayfirst").is_some_and(|v| v.is_true());
    let default =
        args.named("default").and_then(|v| super::stamp_of(&v)).map_or(default, |s| s.local().date());
    args.done()?;
    Ok(read(&text, default, day_first)?.value())
}

/// A date in any form that `parse` knows; missing parts are those of 1 January 1970.
pub(super) fn loose(text: &str) -> Result<Stamp, Error> {
    read(text, chrono::DateTime::UNIX_EPOCH.date_naive(), false)
}

/// `datetime.fromisoformat(text)`.
///
/// # Errors
///
/// Anything but ISO 8601.
pub(in super::super) fn iso(text: &str) -> Result<Stamp, Error> {
    iso_parts(text).ok_or_else(|| value_error(format!("invalid isoformat string: '{text}'")))
}

fn iso_parts(text: &str) -> Option<Stamp> {
    let (date, length) = iso_date(text)?;
    let rest = &text[length..];
    if rest.is_empty() {
        return Some(Stamp::plain(date.and_time(NaiveTime::MIN), None));
    }
    let rest = &rest[rest.chars().next()?.len_utf8()..];
    let zone_at = rest.find(['+', '-', 'Z', 'z']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(zone_at);
    let zone = if zone.is_empty() { None } else { Some(Zone::fixed(parse_offset(zone)?.into())?) };
    Some(Stamp::plain(date.and_time(iso_clock(clock)?), zone))
}

fn iso_date(text: &str) -> Option<(NaiveDate, usize)> {
    let number = |from: usize, to: usize| -> Option<u32> {
        text.get(from..to).filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
    };
    let year = i32::try_from(number(0, 4)?).ok().filter(|year| *year > 0)?;
    let (month, day, length) = if text.as_bytes().get(4) == Some(&b'-') {
        (number(5, 7)?, text.as_bytes().get(7).filter(|b| **b == b'-').and_then(|_| number(8, 10))?, 10)
    } else {
        (number(4, 6)?, number(6, 8)?, 8)
    };
    Some((NaiveDate::from_ymd_opt(year, month, day)?, length))
}

fn iso_clock(clock: &str) -> Option<NaiveTime> {
    let (whole, fraction) = clock.split_once(['.', ',']).unwrap_or((clock, ""));
    let digits: String = whole.chars().filter(|c| *c != ':').collect();
    if !matches!(digits.len(), 2 | 4 | 6)
        || !digits.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let part = |at: usize| digits.get(at..at + 2).map_or(Some(0), |d| d.parse::<u32>().ok());
    let micros: u32 = format!("{fraction:0<6}")[..6].parse().ok()?;
    NaiveTime::from_hms_micro_opt(part(0)?, part(2)?, part(4)?, micros)
}

/// What has been recognised of a date.
#[derive(Default)]
struct Found {
    year: Option<i32>,
    /// Whether the year stood before every other number.
    year_first: bool,
    month: Option<u32>,
    numbers: Vec<(u32, usize)>,
    weekday: Option<u32>,
    clock: Option<NaiveTime>,
    afternoon: Option<bool>,
    zone: Option<Zone>,
}

fn read(text: &str, default: NaiveDate, day_first: bool) -> Result<Stamp, Error> {
    if let Some(stamp) = iso_parts(text.trim()) {
        return Ok(stamp);
    }
    let unknown = || value_error(format!("unknown string format: '{text}'"));
    let mut found = Found::default();
    let spaced: String = split_words(text);
    let words: Vec<&str> = spaced.split_whitespace().collect();
    if words.is_empty() {
        return Err(value_error("string does not contain a date"));
    }
    for word in words {
        recognise(&mut found, word).ok_or_else(unknown)?;
    }
    assemble(&found, default, day_first).ok_or_else(unknown)
}

/// Separates what people write together: `Jan-5`, `10:00AM`, `05/01/2024`, `2024-01-05T10:00Z`.
fn split_words(text: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    let mut in_clock = false;
    for c in text.chars() {
        if c == ':' {
            in_clock = true;
        } else if c.is_whitespace() {
            in_clock = false;
        }
        let joined =
            (c.is_ascii_digit() && before.is_alphabetic()) || (c.is_alphabetic() && before.is_ascii_digit());
        if joined || (in_clock && matches!(c, '+' | '-')) {
            out.push(' ');
        }
        match c {
            ',' | '/' => out.push(' '),
            '-' | '.' if !in_clock => out.push(' '),
            c => out.push(c),
        }
        if c.is_alphabetic() && before.is_ascii_digit() {
            in_clock = false;
        }
        before = c;
    }
    out
}

fn recognise(found: &mut Found, word: &str) -> Option<()> {
    let lower = word.to_ascii_lowercase();
    let named = |names: &[&str]| {
        let index = names.iter().position(|name| {
            let name = name.to_ascii_lowercase();
            name == lower || name[..3] == lower || (name == "september" && lower == "sept")
        })?;
        u32::try_from(index).ok()
    };
    if let Some(month) = named(&MONTHS) {
        found.month = Some(month + 1);
    } else if let Some(day) = named(&DAYS) {
        found.weekday = Some(day);
    } else if word.contains(':') {
        found.clock = Some(iso_clock(&pad_hour(word))?);
    } else if word.starts_with(['+', '-']) {
        found.zone = Zone::fixed(parse_offset(word)?.into());
    } else if word.bytes().all(|b| b.is_ascii_digit()) {
        number(found, word)?;
    } else {
        match lower.as_str() {
            "am" | "a" => found.afternoon = Some(false),
            "pm" | "p" => found.afternoon = Some(true),
            "utc" | "gmt" | "z" => found.zone = Some(Zone::Utc),
            // Words that join or decorate a date.
            "at" | "on" | "and" | "of" | "t" | "st" | "nd" | "rd" | "th" | "m" | "ad" => {}
            _ => return None,
        }
    }
    // An hour without minutes is only an hour because am or pm follows it.
    if found.afternoon.is_some() && found.clock.is_none() {
        let (hour, _) = found.numbers.pop()?;
        found.clock = NaiveTime::from_hms_opt(hour, 0, 0);
    }
    Some(())
}

fn pad_hour(word: &str) -> String {
    if word.find(':') == Some(1) { format!("0{word}") } else { word.to_owned() }
}

fn number(found: &mut Found, word: &str) -> Option<()> {
    let part = |from: usize, to: usize| word.get(from..to)?.parse::<u32>().ok();
    match word.len() {
        8 | 12 | 14 => {
            found.year = i32::try_from(part(0, 4)?).ok();
            found.month = part(4, 6);
            found.numbers.push((part(6, 8)?, 2));
            if word.len() > 8 {
                let second = if word.len() == 14 { part(12, 14)? } else { 0 };
                found.clock = NaiveTime::from_hms_opt(part(8, 10)?, part(10, 12)?, second);
            }
        }
        // Digits right behind the date are the clock of a basic ISO time.
        6 if !found.numbers.is_empty() => {
            found.clock = NaiveTime::from_hms_opt(part(0, 2)?, part(2, 4)?, part(4, 6)?);
        }
        3 | 4 if found.year.is_none() => {
            found.year = Some(i32::try_from(part(0, word.len())?).ok()?);
            found.year_first = found.numbers.is_empty() && found.month.is_none();
        }
        1 | 2 => found.numbers.push((word.parse().ok()?, word.len())),
        _ => return None,
    }
    Some(())
}

fn assemble(found: &Found, default: NaiveDate, day_first: bool) -> Option<Stamp> {
    let mut numbers: Vec<u32> = found.numbers.iter().map(|(n, _)| *n).collect();
    let mut year = found.year;
    if year.is_none() && numbers.len() + usize::from(found.month.is_some()) == 3 {
        // Two digits: the century that is nearest to the present.
        let last = if numbers[0] > 31 { numbers.remove(0) } else { numbers.pop()? };
        let century = default.year() / 100 * 100;
        let near = century + i32::try_from(last).ok()?;
        year = Some(if near >= default.year() + 50 { near - 100 } else { near });
    }
    let (month, day) = match (found.month, numbers.as_slice()) {
        (Some(month), []) => (month, None),
        (Some(month), [day]) => (month, Some(*day)),
        (None, []) => (default.month(), None),
        (None, [one]) if year.is_some() => (*one, None),
        (None, [one]) => (default.month(), Some(*one)),
        (None, [a, b]) if *a > 12 || (day_first && !found.year_first && *b <= 12) => (*b, Some(*a)),
        (None, [a, b]) => (*a, Some(*b)),
        _ => return None,
    };
    let year = year.unwrap_or(default.year());
    let first = NaiveDate::from_ymd_opt(year, month, 1)?;
    let day = day.unwrap_or_else(|| default.day().min(first.num_days_in_month().into()));
    let mut date = NaiveDate::from_ymd_opt(year, month, day)?;
    if let (Some(weekday), true) = (found.weekday, numbers.is_empty() && found.month.is_none()) {
        let ahead = (weekday + 7 - date.weekday().num_days_from_monday()) % 7;
        date = date.checked_add_days(Days::new(ahead.into()))?;
    }
    let clock = clock(found)?;
    let parts = [clock.0, clock.1, clock.2, clock.3].map(i128::from);
    let local: NaiveDateTime =
        from_parts(date.year().into(), date.month().into(), date.day().into(), parts).ok()?;
    Some(Stamp::plain(local, found.zone))
}

fn clock(found: &Found) -> Option<(u32, u32, u32, u32)> {
    use chrono::Timelike as _;
    let time = found.clock.unwrap_or(NaiveTime::MIN);
    let hour = match (found.afternoon, time.hour()) {
        (Some(_), hour) if hour > 12 => return None,
        (Some(true), hour) if hour < 12 => hour + 12,
        (Some(false), 12) => 0,
        (_, hour) => hour,
    };
    Some((hour, time.minute(), time.second(), time.nanosecond() / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the forms people write are read as dateutil reads them. The expected values are dateutil's own.
    #[test]
    fn common_forms_are_read_as_dateutil_reads_them() {
        let default = NaiveDate::from_ymd_opt(2024, 3, 15).expect("a day of the calendar");
        for (text, expected) in [
            ("2024-01-05 10:00", Some("2024-01-05 10:00:00")),
            ("2024-01-05T10:00:00Z", Some("2024-01-05 10:00:00+00:00")),
            ("2024-01-05T10:00:00.25+02:00", Some("2024-01-05 10:00:00.250000+02:00")),
            ("20240105", Some("2024-01-05 00:00:00")),
            ("20240105T101112", Some("2024-01-05 10:11:12")),
            ("Jan 5 2024", Some("2024-01-05 00:00:00")),
            ("5 January 2024 3:30 PM", Some("2024-01-05 15:30:00")),
            ("January 5th, 2024", Some("2024-01-05 00:00:00")),
            ("01/05/2024", Some("2024-01-05 00:00:00")),
            ("25/12/2024", Some("2024-12-25 00:00:00")),
            ("Fri, 15 Mar 2024 10:11:12 GMT", Some("2024-03-15 10:11:12+00:00")),
            ("10:15", Some("2024-03-15 10:15:00")),
            ("3pm", Some("2024-03-15 15:00:00")),
            ("2024/1/5", Some("2024-01-05 00:00:00")),
            ("March 2024", Some("2024-03-15 00:00:00")),
            ("hello", None),
            ("", None),
        ] {
            let stamp = read(text, default, false).ok().map(|stamp| stamp.iso(" "));
            assert_eq!(stamp.as_deref(), expected, "{text}");
        }
    }
}
