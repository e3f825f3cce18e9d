//! One field of a cron expression: its bounds, its names, and the numbers it stands for.
//!
//! Reading is done on lower-case text. What is accepted, and which numbers a range means, follows
//! croniter 6 even where that surprises; `docs/decisions/0002-cron.md` lists those places.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::problem::CronProblem;

/// The fields in the order they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CronField {
    /// 0-59.
    Minute,
    /// 0-23.
    Hour,
    /// 1-31, `L` for the last.
    DayOfMonth,
    /// 1-12 or `JAN`-`DEC`.
    Month,
    /// 0-7 or `SUN`-`SAT`; 0 and 7 are Sunday.
    DayOfWeek,
    /// 0-59; the sixth field, not the first.
    Second,
    /// 1970-2099.
    Year,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl CronField {
    const ALL: [Self; 7] =
        [Self::Minute, Self::Hour, Self::DayOfMonth, Self::Month, Self::DayOfWeek, Self::Second, Self::Year];

    /// The smallest and the largest number.
    pub(super) const fn bounds(self) -> (u32, u32) {
        match self {
            Self::Minute | Self::Second => (0, 59),
            Self::Hour => (0, 23),
            Self::DayOfMonth => (1, 31),
            Self::Month => (1, 12),
            Self::DayOfWeek => (0, 6),
            Self::Year => (1970, 2099),
        }
    }

    fn name_to_number(self, name: &str) -> Option<u32> {
        let (names, first): (&[&str], u32) = match self {
            Self::Month => (&MONTHS, 1),
            Self::DayOfWeek => (&WEEKDAYS, 0),
            _ => return None,
        };
        (first..).zip(names).find(|(_, known)| **known == name).map(|(number, _)| number)
    }
}

impl fmt::Display for CronField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek => "day of week",
            Self::Second => "second",
            Self::Year => "year",
        })
    }
}

/// Which of the (up to five) Fridays of a month: bit n for the n-th, and the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) weeks: u8,
    pub(super) last: bool,
}

/// What one field selects.
#[derive(Clone, Debug, Default)]
pub(super) struct FieldValues {
    pub(super) numbers: BTreeSet<u32>,
    star: bool,
    /// `L` in the day of month.
    pub(super) last: bool,
    /// `5#2` and `L5` in the day of week.
    pub(super) places: BTreeMap<u32, Places>,
}

impl FieldValues {
    /// Whether the field lets everything pass: a `*` somewhere in it.
    pub(super) fn any(&self) -> bool {
        self.star
    }

    /// Whether the field is `*` and nothing else. (`*,5` lets everything pass, too, but is written as
    /// a list; the rule for the repeated hour tells the two apart.)
    pub(super) fn is_plain_star(&self) -> bool {
        self.star && self.numbers.is_empty()
    }

    /// Turns a field that lists all its numbers into `*`.
    fn collapse(&mut self, field: CronField) {
        let (min, max) = field.bounds();
        let listed = self.numbers.len() + usize::from(self.star) + usize::from(self.last);
        if listed == (max - min + 1) as usize {
            self.numbers.clear();
            self.last = false;
            self.star = true;
        }
    }
}

/// How many fields an expression has. Some spellings mean something only in some layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout(usize);

impl Layout {
    pub(super) fn of(parts: &[&str]) -> Result<Self, CronProblem> {
        let found = parts.len();
        if (5..=7).contains(&found) { Ok(Self(found)) } else { Err(CronProblem::FieldCount { found }) }
    }

    /// Puts values in the place of `R`; `parts` are the fields in lower case.
    pub(super) fn resolve(parts: &[&str], key: &str) -> Result<Vec<String>, CronProblem> {
        CronField::ALL.into_iter().zip(parts).map(|(field, text)| random_value(field, text, key)).collect()
    }

    /// Reads all fields, in lower case and without `R`.
    pub(super) fn parse_all(self, parts: &[String]) -> Result<Vec<FieldValues>, CronProblem> {
        let mut all = Vec::with_capacity(parts.len());
        for (field, text) in CronField::ALL.into_iter().zip(parts) {
            let mut values = Reader { field, layout: self }.field(text)?;
            // A day field that names every day still counts as restricted (and is OR-ed with the
            // other), unless the other one has a `*`, when it makes no difference.
            let other = match field {
                CronField::DayOfMonth => &parts[CronField::DayOfWeek as usize],
                CronField::DayOfWeek => &parts[CronField::DayOfMonth as usize],
                _ => "*",
            };
            let all_weekdays = values.numbers.len() + usize::from(values.star) == 7;
            if other.contains('*') {
                values.collapse(field);
            }
            let plain = values.numbers.iter().any(|number| !values.places.contains_key(number));
            if !values.places.is_empty() && plain && !all_weekdays {
                return Err(CronProblem::MixedWeekdays { item: text.clone() });
            }
            all.push(values);
        }
        Ok(all)
    }

    /// 7 is Sunday in five fields only; 0 is day 1 in six fields only. Odd, but so it is.
    fn alias(self, field: CronField, number: u32) -> u32 {
        match (field, self.0, number) {
            (CronField::DayOfWeek, 5, 7) => 0,
            (CronField::DayOfMonth, 6, 0) => 1,
            _ => number,
        }
    }
}

/// Replaces `r`, `r(2-9)`, `r/15` and `r(0-29)/10` by a value that depends on `key` and the field.
fn random_value(field: CronField, text: &str, key: &str) -> Result<String, CronProblem> {
    let hashed = text.starts_with('h');
    let Some(rest) = text.strip_prefix(['r', 'h']) else { return Ok(text.to_owned()) };
    let digits =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let (min, max) = field.bounds();
    let parsed = (|| {
        let (range, divisor) = match rest.split_once('/') {
            Some((range, divisor)) => (range, Some(digits(divisor)?)),
            None => (rest, None),
        };
        if range.is_empty() {
            return Some(((min, max), divisor));
        }
        let (low, high) = range.strip_prefix('(')?.strip_suffix(')')?.split_once('-')?;
        Some(((digits(low)?, digits(high)?), divisor))
    })();
    let Some(((low, high), divisor)) = parsed else { return Ok(text.to_owned()) };
    if hashed {
        return Err(CronProblem::HashNeedsKey { field, item: text.to_owned() });
    }
    if low < min || high > max || low > high || (low == high && rest.starts_with('(')) {
        let cure = format!("write a range within {min}-{max}, such as `R({min}-{max})`");
        return Err(CronProblem::NotAValue { field, item: text.to_owned(), cure });
    }
    match divisor {
        None => Ok((low + spread(key, field, high - low + 1)).to_string()),
        Some(0) => Err(CronProblem::ZeroStep { field, item: text.to_owned() }),
        Some(step) => {
            let first = low + spread(key, field, step.min(high - low + 1));
            // A range from a number to itself would mean the whole field.
            Ok(if first == high { first.to_string() } else { format!("{first}-{high}/{step}") })
        }
    }
}

/// A number below `span` that looks random but is the same on every machine and every day
/// (64-bit FNV-1a): a schedule must not move when the process restarts.
fn spread(key: &str, field: CronField, span: u32) -> u32 {
    let bytes = key.bytes().chain([field as u8]);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    u32::try_from((hash >> 16) % u64::from(span.max(1))).expect("the remainder of a u32 fits a u32")
}

/// Reads the text of one field.
struct Reader {
    field: CronField,
    layout: Layout,
}

/// A list item before its numbers are known: the part before `#`, and the places.
struct Item<'a> {
    body: &'a str,
    places: Option<Places>,
}

impl Reader {
    fn field(&self, text: &str) -> Result<FieldValues, CronProblem> {
        let mut values = FieldValues::default();
        if text.contains('?') {
            if text == "?" && matches!(self.field, CronField::DayOfMonth | CronField::DayOfWeek) {
                values.star = true;
                return Ok(values);
            }
            return Err(CronProblem::MisplacedQuestionMark { field: self.field, item: text.to_owned() });
        }
        for text in text.split(',') {
            let item = self.item(text)?;
            match item.body {
                "*" => values.star = true,
                "l" if self.field == CronField::DayOfMonth => values.last = true,
                body => {
                    let numbers = self.numbers(body, text)?;
                    if let Some(places) = item.places {
                        for number in &numbers {
                            let known = values.places.entry(*number).or_default();
                            known.weeks |= places.weeks;
                            known.last |= places.last;
                        }
                    }
                    values.numbers.extend(numbers);
                }
            }
        }
        Ok(values)
    }

    /// Splits `5#2`, `mon-fri#1` and `l5`, which only the day of week knows.
    fn item<'a>(&self, text: &'a str) -> Result<Item<'a>, CronProblem> {
        let plain = Item { body: text, places: None };
        if self.field != CronField::DayOfWeek {
            return Ok(plain);
        }
        if let Some(weekday) = text.strip_prefix('l').filter(|rest| is_number(rest)) {
            return Ok(Item { body: weekday, places: Some(Places { weeks: 0, last: true }) });
        }
        let Some((body, week)) = text.split_once('#') else { return Ok(plain) };
        let word = body.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let named_range = body.split_once('-').is_some_and(|(from, to)| {
            self.field.name_to_number(from).is_some() && self.field.name_to_number(to).is_some()
        });
        if !(word || named_range) {
            return Ok(plain);
        }
        match week.parse::<u8>() {
            Ok(week @ 1..=5) if is_number(text.rsplit('#').next().unwrap_or_default()) => {
                Ok(Item { body, places: Some(Places { weeks: 1 << week, last: false }) })
            }
            _ => Err(CronProblem::NoSuchWeek { item: text.to_owned() }),
        }
    }

    /// The numbers of `7`, `1-5`, `*/2`, `1-5/2` and `3/2` (from 3 to the end).
    fn numbers(&self, body: &str, whole: &str) -> Result<Vec<u32>, CronProblem> {
        let (min, max) = self.field.bounds();
        let (range, step) = match body.rsplit_once('/') {
            Some((range, step)) if is_number(step) => (range, Some(step)),
            Some(_) => return Err(self.not_a_value(whole)),
            None => (body, None),
        };
        let (low, high) = match (range, range.split_once('-'), step) {
            ("*", _, Some(_)) => (min, max),
            (_, Some((low, "l")), _) if self.field == CronField::DayOfMonth => {
                (self.number(low, whole)?, max)
            }
            (_, Some((low, high)), _) => (self.number(low, whole)?, self.number(high, whole)?),
            (_, None, Some(_)) => (self.number(range, whole)?, max),
            (_, None, None) => {
                let number = self.number(range, whole)?;
                self.check(number, number)?;
                return Ok(vec![number]);
            }
        };
        // A step too large for its type selects the first number only, as any large step does.
        let step = step.map_or(1, |step| step.parse().unwrap_or(u32::MAX));
        if step == 0 {
            return Err(CronProblem::ZeroStep { field: self.field, item: whole.to_owned() });
        }
        if low <= max && high <= max && low > high {
            self.check(low, low)?;
            return Ok(self.wrapped(low, high, step));
        }
        // From a number to itself means once around, not once.
        let (low, high) = if low == high && high <= max { (min, max) } else { (low, high) };
        self.check(low, high)?;
        Ok(stepped(low, high, step).collect())
    }

    /// The numbers of a range that runs over the end of its field, such as `22-2`.
    ///
    /// A step that does not meet the end exactly goes on one number late on the other side: `22-2/3`
    /// is 22 and 2, not 22 and 1. Airflow fires so, hence we do.
    fn wrapped(&self, low: u32, high: u32, step: u32) -> Vec<u32> {
        let (min, max) = self.field.bounds();
        let mut numbers: Vec<u32> = stepped(low, max, step).collect();
        let left = max - numbers.last().copied().unwrap_or(low);
        let skip = if step > left + 1 { step - left } else { 0 };
        numbers.extend(stepped(min.saturating_add(skip), high, step));
        numbers
    }

    fn number(&self, text: &str, whole: &str) -> Result<u32, CronProblem> {
        if is_number(text) {
            let number = text.parse().map_err(|_| self.out_of_range(text.to_owned()))?;
            return Ok(self.layout.alias(self.field, number));
        }
        self.field.name_to_number(text).ok_or_else(|| self.not_a_value(whole))
    }

    fn check(&self, low: u32, high: u32) -> Result<(), CronProblem> {
        let (min, max) = self.field.bounds();
        match [low, high].into_iter().find(|number| !(min..=max).contains(number)) {
            Some(number) => Err(self.out_of_range(number.to_string())),
            None => Ok(()),
        }
    }

    fn out_of_range(&self, value: String) -> CronProblem {
        let (min, max) = self.field.bounds();
        let sunday_twice = self.field == CronField::DayOfWeek && self.layout.0 == 5;
        CronProblem::OutOfRange { field: self.field, value, min, max: if sunday_twice { 7 } else { max } }
    }

    fn not_a_value(&self, item: &str) -> CronProblem {
        let (min, max) = self.field.bounds();
        let abbreviation = item.get(..3).filter(|name| self.field.name_to_number(name).is_some());
        let cure = match (self.field, abbreviation) {
            (CronField::Month | CronField::DayOfWeek, Some(name)) if is_word(item) => {
                format!("write the first three letters, `{}`", name.to_uppercase())
            }
            (CronField::DayOfWeek, _) if item.strip_suffix('l').is_some_and(is_number) => {
                format!("for the last such weekday of a month write `L{}`", item.trim_end_matches('l'))
            }
            (CronField::DayOfMonth, _) if item.contains('w') => {
                "the nearest workday (`W`) is not supported; write a day, or a timetable of your own"
                    .to_owned()
            }
            (CronField::DayOfMonth, _) => {
                format!("write {min}-{max}, a range `1-7`, a step `*/2`, a list `1,15`, or `L`")
            }
            (CronField::Month, _) => "write 1-12 or JAN-DEC, a range, a step `*/3`, or a list".to_owned(),
            (CronField::DayOfWeek, _) => {
                "write 0-7 or SUN-SAT, a range `MON-FRI`, a list, `5#2` or `L5`".to_owned()
            }
            _ => format!("write {min}-{max}, a range `{min}-{}`, a step `*/2`, or a list", min + 4),
        };
        CronProblem::NotAValue { field: self.field, item: item.to_owned(), cure }
    }
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphabetic())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn stepped(low: u32, high: u32, step: u32) -> impl Iterator<Item = u32> {
    (low..=high).step_by(step as usize)
}
