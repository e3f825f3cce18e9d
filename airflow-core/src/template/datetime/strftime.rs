//! `strftime` and `strptime` as the C library and Python's `_strptime` define them, in the C locale.

use std::fmt::Write as _;

use chrono::{Datelike as _, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike as _, Weekday};
use minijinja::Error;

use super::super::error::value_error;
use super::stamp::Stamp;
use super::zone::{Zone, offset_text, parse_offset};

pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
pub(super) const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

pub(super) fn month_name(month: u32) -> &'static str {
    usize::try_from(month).ok().and_then(|m| MONTHS.get(m.wrapping_sub(1))).copied().unwrap_or_default()
}

pub(super) fn day_name(day: Weekday) -> &'static str {
    DAYS.get(day.num_days_from_monday() as usize).copied().unwrap_or_default()
}

/// `stamp.strftime(format)`. Unknown directives stay as they are, as in the GNU C library.
pub(super) fn strftime(stamp: &Stamp, format: &str) -> String {
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut flag = None;
        while let Some(f @ ('-' | '_' | '0' | '^' | '#')) = chars.peek().copied() {
            flag = Some(f);
            chars.next();
        }
        let Some(directive) = chars.next() else {
            out.push('%');
            break;
        };
        if let Some(text) = directive_text(stamp, directive, flag) {
            out.push_str(&text);
        } else {
            out.push('%');
            out.extend(flag);
            out.push(directive);
        }
    }
    out
}

fn padded(number: impl Into<i64>, width: usize, fill: char, flag: Option<char>) -> String {
    let number: i64 = number.into();
    match (flag, fill) {
        (Some('-'), _) => number.to_string(),
        (Some('_'), _) | (None, ' ') => format!("{number:>width$}"),
        _ => format!("{number:0>width$}"),
    }
}

fn directive_text(stamp: &Stamp, directive: char, flag: Option<char>) -> Option<String> {
    let local = stamp.local();
    let (date, time) = (local.date(), local.time());
    let two = |number: u32| padded(number, 2, '0', flag);
    let hour12 = time.hour12().1;
    let text = match directive {
        'a' => day_name(date.weekday())[..3].to_owned(),
        'A' => day_name(date.weekday()).to_owned(),
        'b' | 'h' => month_name(date.month())[..3].to_owned(),
        'B' => month_name(date.month()).to_owned(),
        'c' => strftime(stamp, "%a %b %e %H:%M:%S %Y"),
        'C' => padded(date.year() / 100, 2, '0', flag),
        'd' => two(date.day()),
        'D' | 'x' => strftime(stamp, "%m/%d/%y"),
        'e' => padded(date.day(), 2, ' ', flag),
        'f' => format!("{:06}", stamp.microsecond()),
        'F' => strftime(stamp, "%Y-%m-%d"),
        'g' => padded(date.iso_week().year().rem_euclid(100), 2, '0', flag),
        'G' => date.iso_week().year().to_string(),
        'H' => two(time.hour()),
        'I' => two(hour12),
        'j' => padded(date.ordinal(), 3, '0', flag),
        'k' => padded(time.hour(), 2, ' ', flag),
        'l' => padded(hour12, 2, ' ', flag),
        'm' => two(date.month()),
        'M' => two(time.minute()),
        'n' => "\n".to_owned(),
        'p' => if time.hour() < 12 { "AM" } else { "PM" }.to_owned(),
        'P' => if time.hour() < 12 { "am" } else { "pm" }.to_owned(),
        'r' => strftime(stamp, "%I:%M:%S %p"),
        'R' => strftime(stamp, "%H:%M"),
        's' => local.and_utc().timestamp().to_string(),
        'S' => two(time.second()),
        't' => "\t".to_owned(),
        'T' | 'X' => strftime(stamp, "%H:%M:%S"),
        'u' => date.weekday().number_from_monday().to_string(),
        'U' => two((date.ordinal() + 6 - date.weekday().num_days_from_sunday()) / 7),
        'V' => two(date.iso_week().week()),
        'w' => date.weekday().num_days_from_sunday().to_string(),
        'W' => two((date.ordinal() + 6 - date.weekday().num_days_from_monday()) / 7),
        'y' => padded(date.year().rem_euclid(100), 2, '0', flag),
        'Y' => date.year().to_string(),
        'z' => stamp.offset().map(|o| offset_text(o, false)).unwrap_or_default(),
        'Z' => stamp.zone_abbreviation().unwrap_or_default(),
        '%' => "%".to_owned(),
        _ => return None,
    };
    Some(if matches!(flag, Some('^')) { text.to_uppercase() } else { text })
}

/// What `strptime` has read so far.
struct Read {
    year: Option<i32>,
    month: u32,
    day: u32,
    ordinal: Option<u32>,
    hour: u32,
    afternoon: Option<bool>,
    minute: u32,
    second: u32,
    micro: u32,
    zone: Option<Zone>,
    weekday: Option<u32>,
    week: Option<(u32, bool)>,
}

/// `datetime.strptime(text, format)`.
///
/// # Errors
///
/// Text that does not match the format, and dates that do not exist.
pub(in super::super) fn strptime(text: &str, format: &str) -> Result<Stamp, Error> {
    let mismatch = || value_error(format!("time data '{text}' does not match format '{format}'"));
    let mut read = Read {
        year: None,
        month: 1,
        day: 1,
        ordinal: None,
        hour: 0,
        afternoon: None,
        minute: 0,
        second: 0,
        micro: 0,
        zone: None,
        weekday: None,
        week: None,
    };
    let mut rest = text;
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_whitespace() {
            while chars.next_if(|c| c.is_whitespace()).is_some() {}
            let trimmed = rest.trim_start();
            if trimmed.len() == rest.len() {
                return Err(mismatch());
            }
            rest = trimmed;
        } else if c == '%' {
            let directive =
                chars.next().ok_or_else(|| value_error(format!("stray % in format '{format}'")))?;
            rest = read_directive(&mut read, directive, rest, format)?.ok_or_else(mismatch)?;
        } else {
            // The matching ignores case, literal text included.
            let first =
                rest.chars().next().filter(|r| r.to_lowercase().eq(c.to_lowercase())).ok_or_else(mismatch)?;
            rest = &rest[first.len_utf8()..];
        }
    }
    if !rest.is_empty() {
        return Err(value_error(format!("unconverted data remains: {rest}")));
    }
    assemble(&read)
        .ok_or_else(|| value_error(format!("'{text}' is no date: the day is out of range for the month")))
}

/// The directives that `strptime` knows.
const READABLE: &str = "YymdjHIMSwuUWfbhBaApzZ%";

/// Reads one directive; `Ok(None)` if the text does not match it.
fn read_directive<'a>(
    read: &mut Read,
    directive: char,
    rest: &'a str,
    format: &str,
) -> Result<Option<&'a str>, Error> {
    if !READABLE.contains(directive) {
        return Err(value_error(format!("'{directive}' is a bad directive in format '{format}'")));
    }
    Ok(read_number(read, directive, rest).or_else(|| read_word(read, directive, rest)))
}

/// Reads a directive that stands for digits.
fn read_number<'a>(read: &mut Read, directive: char, rest: &'a str) -> Option<&'a str> {
    let mut rest = rest;
    let mut take = |most: usize, low: u32, high: u32| -> Option<u32> {
        let (number, after) = digits(rest, most, low, high)?;
        rest = after;
        Some(number)
    };
    match directive {
        'Y' => {
            let year = rest.get(..4).filter(|y| y.bytes().all(|b| b.is_ascii_digit()))?;
            read.year = Some(year.parse().ok()?);
            rest = &rest[4..];
        }
        'y' => {
            let year = i32::try_from(take(2, 0, 99)?).ok()?;
            read.year = Some(if year < 69 { 2000 + year } else { 1900 + year });
        }
        'm' => read.month = take(2, 1, 12)?,
        'd' => read.day = take(2, 1, 31)?,
        'j' => read.ordinal = Some(take(3, 1, 366)?),
        'H' => read.hour = take(2, 0, 23)?,
        'I' => {
            read.hour = take(2, 1, 12)?;
            read.afternoon = read.afternoon.or(Some(false));
        }
        'M' => read.minute = take(2, 0, 59)?,
        'S' => read.second = take(2, 0, 61)?,
        'w' => read.weekday = Some((take(1, 0, 6)? + 6) % 7),
        'u' => read.weekday = Some(take(1, 1, 7)? - 1),
        'U' => read.week = Some((take(2, 0, 53)?, false)),
        'W' => read.week = Some((take(2, 0, 53)?, true)),
        'f' => {
            let length = rest.bytes().take(6).take_while(u8::is_ascii_digit).count();
            let number: u32 = rest.get(..length).filter(|d| !d.is_empty())?.parse().ok()?;
            read.micro = number * 10_u32.pow(u32::try_from(6 - length).ok()?);
            rest = &rest[length..];
        }
        _ => return None,
    }
    Some(rest)
}

/// Reads a directive that stands for a name, a zone or a sign.
fn read_word<'a>(read: &mut Read, directive: char, rest: &'a str) -> Option<&'a str> {
    let mut rest = rest;
    match directive {
        'b' | 'h' | 'B' => {
            let (index, after) = name(rest, &MONTHS, directive == 'B')?;
            (read.month, rest) = (index + 1, after);
        }
        'a' | 'A' => {
            let (index, after) = name(rest, &DAYS, directive == 'A')?;
            (read.weekday, rest) = (Some(index), after);
        }
        'p' => {
            read.afternoon = Some(match rest.get(..2)?.to_ascii_lowercase().as_str() {
                "am" => false,
                "pm" => true,
                _ => return None,
            });
            rest = &rest[2..];
        }
        'z' => {
            let (zone, after) = offset(rest)?;
            (read.zone, rest) = (Some(zone), after);
        }
        'Z' => {
            let zone = ["UTC", "GMT"]
                .into_iter()
                .find(|z| rest.get(..3).is_some_and(|r| r.eq_ignore_ascii_case(z)))?;
            rest = &rest[zone.len()..];
        }
        '%' => rest = rest.strip_prefix('%')?,
        _ => return None,
    }
    Some(rest)
}

/// Up to `most` digits that make a number in range; fewer if that is what it takes.
fn digits(rest: &str, most: usize, low: u32, high: u32) -> Option<(u32, &str)> {
    let length = rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
    (1..=length).rev().find_map(|length| {
        let number = rest[..length].parse().ok()?;
        (low..=high).contains(&number).then_some((number, &rest[length..]))
    })
}

fn name<'a>(rest: &'a str, names: &[&str], full: bool) -> Option<(u32, &'a str)> {
    names.iter().enumerate().find_map(|(index, name)| {
        let name = if full { name } else { &name[..3] };
        let head = rest.get(..name.len())?;
        head.eq_ignore_ascii_case(name).then(|| (u32::try_from(index).unwrap_or(0), &rest[name.len()..]))
    })
}

fn offset(rest: &str) -> Option<(Zone, &str)> {
    if let Some(after) = rest.strip_prefix('Z') {
        return Some((Zone::Utc, after));
    }
    let length = rest.find(|c: char| !matches!(c, '+' | '-' | ':' | '0'..='9')).unwrap_or(rest.len());
    Some((Zone::fixed(parse_offset(&rest[..length])?.into())?, &rest[length..]))
}

fn assemble(read: &Read) -> Option<Stamp> {
    let year = read.year.unwrap_or(1900);
    let date = match (read.ordinal, read.week, read.weekday) {
        (Some(ordinal), _, _) => NaiveDate::from_yo_opt(year, ordinal)?,
        (None, Some((week, monday)), Some(weekday)) => {
            let first = NaiveDate::from_ymd_opt(year, 1, 1)?.weekday();
            let (first, wanted) = if monday {
                (first.num_days_from_monday(), weekday)
            } else {
                (first.num_days_from_sunday(), (weekday + 1) % 7)
            };
            let day = i64::from(week) * 7 + i64::from(wanted) - i64::from(if first == 0 { 7 } else { first });
            NaiveDate::from_ymd_opt(year, 1, 1)?.checked_add_signed(TimeDelta::days(day))?
        }
        _ => NaiveDate::from_ymd_opt(year, read.month, read.day)?,
    };
    let hour = match read.afternoon {
        Some(true) if read.hour < 12 => read.hour + 12,
        Some(false) if read.hour == 12 => 0,
        _ => read.hour,
    };
    let time = NaiveTime::from_hms_micro_opt(hour, read.minute, read.second, read.micro)?;
    Some(Stamp::plain(NaiveDateTime::new(date, time), read.zone))
}

/// Pendulum's names for whole formats, longest first.
const LOCAL_FORMATS: [(&str, &str); 6] = [
    ("LLLL", "dddd, MMMM D, YYYY h:mm A"),
    ("LLL", "MMMM D, YYYY h:mm A"),
    ("LTS", "h:mm:ss A"),
    ("LT", "h:mm A"),
    ("LL", "MMMM D, YYYY"),
    ("L", "MM/DD/YYYY"),
];

/// Pendulum's `format` tokens, e.g. `YYYY-MM-DD HH:mm:ss`; text in `[...]` stays as it is.
pub(super) fn pendulum_format(stamp: &Stamp, format: &str) -> String {
    const TOKENS: [&str; 39] = [
        "YYYY", "YY", "Y", "Qo", "Q", "MMMM", "MMM", "MM", "Mo", "M", "DDDD", "DDD", "DD", "Do", "D", "dddd",
        "ddd", "dd", "do", "d", "E", "HH", "H", "hh", "h", "mm", "m", "ss", "s", "SSSSSS", "SSSSS", "SSSS",
        "SSS", "SS", "S", "A", "ZZ", "Z", "X",
    ];
    let mut out = String::new();
    let mut rest = format;
    while let Some(c) = rest.chars().next() {
        if c == '['
            && let Some(end) = rest.find(']')
        {
            out.push_str(&rest[1..end]);
            rest = &rest[end + 1..];
        } else if c == '\\' {
            let escaped = rest.chars().nth(1);
            out.extend(escaped);
            rest = &rest[1 + escaped.map_or(0, char::len_utf8)..];
        } else if let Some((name, whole)) = LOCAL_FORMATS.iter().find(|(name, _)| rest.starts_with(name)) {
            out += &pendulum_format(stamp, whole);
            rest = &rest[name.len()..];
        } else if let Some(zone) = rest.strip_prefix("zz").or_else(|| rest.strip_prefix('z')) {
            let long = rest.starts_with("zz");
            out += &if long { stamp.zone_abbreviation() } else { stamp.zone().map(Zone::name) }
                .unwrap_or_default();
            rest = zone;
        } else if let Some(after) = rest.strip_prefix('x') {
            write!(out, "{}", stamp.utc().and_utc().timestamp_millis())
                .expect("writing to a string cannot fail");
            rest = after;
        } else if let Some(token) = TOKENS.iter().find(|token| rest.starts_with(**token)) {
            out += &pendulum_token(stamp, token);
            rest = &rest[token.len()..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

fn pendulum_token(stamp: &Stamp, token: &str) -> String {
    let local = stamp.local();
    let (date, time) = (local.date(), local.time());
    let quarter = (date.month() - 1) / 3 + 1;
    let hour12 = time.hour12().1;
    match token {
        "YYYY" => format!("{:04}", date.year()),
        "YY" => format!("{:02}", date.year().rem_euclid(100)),
        "Y" => date.year().to_string(),
        "Q" => quarter.to_string(),
        "Qo" => ordinal(quarter),
        "MMMM" => month_name(date.month()).to_owned(),
        "MMM" => month_name(date.month())[..3].to_owned(),
        "MM" => format!("{:02}", date.month()),
        "Mo" => ordinal(date.month()),
        "M" => date.month().to_string(),
        "DDDD" => format!("{:03}", date.ordinal()),
        "DDD" => date.ordinal().to_string(),
        "DD" => format!("{:02}", date.day()),
        "Do" => ordinal(date.day()),
        "D" => date.day().to_string(),
        "dddd" => day_name(date.weekday()).to_owned(),
        "ddd" => day_name(date.weekday())[..3].to_owned(),
        "dd" => day_name(date.weekday())[..2].to_owned(),
        "do" => ordinal(date.weekday().num_days_from_monday() + 1),
        "d" => date.weekday().num_days_from_sunday().to_string(),
        "E" => date.weekday().number_from_monday().to_string(),
        "HH" => format!("{:02}", time.hour()),
        "H" => time.hour().to_string(),
        "hh" => format!("{hour12:02}"),
        "h" => hour12.to_string(),
        "mm" => format!("{:02}", time.minute()),
        "m" => time.minute().to_string(),
        "ss" => format!("{:02}", time.second()),
        "s" => time.second().to_string(),
        "A" => if time.hour() < 12 { "AM" } else { "PM" }.to_owned(),
        "ZZ" => stamp.offset().map(|o| offset_text(o, false)).unwrap_or_default(),
        "Z" => stamp.offset().map(|o| offset_text(o, true)).unwrap_or_default(),
        "X" => stamp.utc().and_utc().timestamp().to_string(),
        fraction => format!("{:06}", stamp.microsecond())[..fraction.len()].to_owned(),
    }
}

fn ordinal(number: u32) -> String {
    let suffix = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strptime_reads_what_python_reads() {
        for (text, format, expected) in [
            ("2024-03-15", "%Y-%m-%d", Some("2024-03-15 00:00:00")),
            ("1/5/2015", "%m/%d/%Y", Some("2015-01-05 00:00:00")),
            ("20240315T010203.5", "%Y%m%dT%H%M%S.%f", Some("2024-03-15 01:02:03.500000")),
            ("5 Feb 69 12:30 am", "%d %b %y %I:%M %p", Some("1969-02-05 00:30:00")),
            ("2024-03-15T01:00:00+0530", "%Y-%m-%dT%H:%M:%S%z", Some("2024-03-15 01:00:00+05:30")),
            ("2024 075", "%Y %j", Some("2024-03-15 00:00:00")),
            ("2024 10 5", "%Y %U %w", Some("2024-03-15 00:00:00")),
            ("2024-02-30", "%Y-%m-%d", None),
            ("2024-03-15 ", "%Y-%m-%d", None),
            ("not-a-date", "%Y-%m-%d", None),
            ("2024", "%Q", None),
        ] {
            let read = strptime(text, format).ok().map(|stamp| stamp.iso(" "));
            assert_eq!(read.as_deref(), expected, "{text} {format}");
        }
    }
}
