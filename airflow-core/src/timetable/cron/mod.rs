//! A cron expression: read once, then asked for the next or the previous tick.
//!
//! Everything here happens on *naive* time, the wall clock of no particular place: a time zone never
//! enters (see [`CronTicks`](super::CronTicks) for that), nor does the clock. The dialect is the one
//! Airflow's users write: five fields, or six with the seconds **last**, or seven with the year.
//! Start reading at [`CronExpression::parse`]; `field` reads one field, `search` walks the calendar,
//! `describe` says it in English.

mod describe;
mod field;
mod problem;
mod search;

use std::fmt;

pub use field::CronField;
pub use problem::{CronError, CronProblem};

use field::{FieldValues, Layout};
use search::Bits;

/// Names for common expressions; any case.
pub(super) const PRESETS: [(&str, &str); 8] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@quarterly", "0 0 1 */3 *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// A parsed cron expression.
///
/// That an expression parses does not mean that it ever fires: `0 0 31 2 *` is well-formed. Ask
/// [`fires`](Self::fires).
///
/// ```
/// use airflow_core::timetable::CronExpression;
///
/// let cron = CronExpression::parse("30 6 * * MON-FRI")?;
/// let friday = "2026-01-02T06:30:00".parse()?;
/// assert_eq!(cron.next_after(friday), Some("2026-01-05T06:30:00".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronExpression {
    text: String,
    canonical: String,
    second: Bits,
    minute: Bits,
    hour: Bits,
    month: Bits,
    days: Days,
    /// Sorted; empty means every year.
    years: Vec<u32>,
    every_hour: bool,
}

/// Which days of a month an expression selects.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Days {
    /// `None` if the day of the month does not matter.
    of_month: Option<MonthDays>,
    of_week: Option<WeekDays>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MonthDays {
    days: Bits,
    last: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum WeekDays {
    /// Every such weekday.
    Each(Bits),
    /// Only some of them in each month: pairs of a weekday and its places.
    Nth(Vec<(u32, field::Places)>),
}

impl CronExpression {
    /// Reads `text`: five, six or seven fields, or a preset such as `@daily`.
    ///
    /// # Errors
    ///
    /// [`CronError`] names the expression, the field and the cure.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        Self::parse_for(text, text)
    }

    /// As [`parse`](Self::parse); an `R` field gets a value that depends on `key` only, so that many
    /// schedules with the same text can be spread over the hour, and one of them never moves.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn parse_for(text: &str, key: &str) -> Result<Self, CronError> {
        let fail = |problem| CronError { expression: text.to_owned(), problem };
        let lower = text.to_lowercase();
        let expanded = expand_preset(&lower).map_err(fail)?;
        let parts: Vec<&str> = expanded.split_whitespace().collect();
        let layout = Layout::of(&parts).map_err(fail)?;
        let parts = Layout::resolve(&parts, key).map_err(fail)?;
        let fields = layout.parse_all(&parts).map_err(fail)?;
        Ok(Self::assemble(text, parts.join(" "), &fields))
    }

    fn assemble(text: &str, canonical: String, fields: &[FieldValues]) -> Self {
        let bits = |field: CronField| {
            let values = fields.get(field as usize)?;
            Some(if values.any() { Bits::range(field.bounds()) } else { Bits::of(&values.numbers) })
        };
        let [minute, hour, month] = [CronField::Minute, CronField::Hour, CronField::Month]
            .map(|field| bits(field).expect("the layout has at least five fields"));
        let day = &fields[CronField::DayOfMonth as usize];
        let weekday = &fields[CronField::DayOfWeek as usize];
        let days = Days {
            of_month: (!day.any()).then(|| MonthDays { days: Bits::of(&day.numbers), last: day.last }),
            of_week: match (weekday.places.is_empty(), weekday.any()) {
                (true, true) => None,
                (true, false) => Some(WeekDays::Each(Bits::of(&weekday.numbers))),
                (false, _) => Some(WeekDays::Nth(weekday.places.clone().into_iter().collect())),
            },
        };
        let years = fields.get(CronField::Year as usize).filter(|years| !years.any());
        Self {
            text: text.to_owned(),
            canonical,
            second: bits(CronField::Second).unwrap_or(Bits::range((0, 0))),
            minute,
            hour,
            month,
            days,
            years: years.map(|years| years.numbers.iter().copied().collect()).unwrap_or_default(),
            every_hour: fields[CronField::Hour as usize].is_plain_star(),
        }
    }

    /// The text as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// One text for all spellings that differ only in case, blanks or the name of a preset; an `R` field
    /// shows the value that was chosen.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// Whether the hour field is `*`.
    ///
    /// Such a schedule follows elapsed time across a change of the clocks: it also fires in the
    /// repeated hour, where a schedule for fixed hours does not.
    pub fn covers_every_hour(&self) -> bool {
        self.every_hour
    }

    /// Says the expression in English with a 24 h clock, without the time zone.
    pub fn describe(&self) -> String {
        describe::describe(self)
    }
}

impl fmt::Display for CronExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Replaces a preset by its expression.
fn expand_preset(lower: &str) -> Result<&str, CronProblem> {
    if let Some((_, expression)) = PRESETS.iter().find(|(name, _)| *name == lower) {
        return Ok(expression);
    }
    if lower.trim_start().starts_with('@') {
        let names = PRESETS.iter().map(|(name, _)| *name);
        return Err(CronProblem::UnknownPreset { nearest: super::nearest::nearest(lower.trim(), names) });
    }
    Ok(lower)
}
