//! What can be wrong with a cron expression, in words that say what to write instead.

use super::CronField;

/// A cron expression that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cron `{expression}`: {problem}")]
pub struct CronError {
    /// The whole expression, as it was written.
    pub expression: String,
    /// What is wrong with it.
    pub problem: CronProblem,
}

/// The one thing that is wrong with a cron expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CronProblem {
    /// Not five, six or seven fields.
    #[error(
        "has {found} field{s}, but a cron has 5 (minute hour day-of-month month day-of-week), 6 (with the seconds last) \
         or 7 (with the year)",
        s = if *found == 1 { "" } else { "s" }
    )]
    FieldCount {
        /// How many fields there are.
        found: usize,
    },
    /// A word that starts with `@` and is no preset.
    #[error("is no preset{}", did_you_mean(*.nearest))]
    UnknownPreset {
        /// The preset that looks most like it.
        nearest: Option<&'static str>,
    },
    /// A number outside the bounds of its field.
    #[error("{field} {value} is not in {min}-{max}{}", cure_for_range(*.field, .value))]
    OutOfRange {
        /// The field.
        field: CronField,
        /// The number, as it was written.
        value: String,
        /// The smallest number the field takes.
        min: u32,
        /// The largest number the field takes.
        max: u32,
    },
    /// Text that is no value, range, step or list.
    #[error("{field} `{item}` is not understood: {cure}")]
    NotAValue {
        /// The field.
        field: CronField,
        /// The part that is not understood.
        item: String,
        /// What to write instead.
        cure: String,
    },
    /// A step of zero.
    #[error("{field} `{item}` has a step of 0: the smallest step is 1")]
    ZeroStep {
        /// The field.
        field: CronField,
        /// The part with the step.
        item: String,
    },
    /// `?` beside other characters, or outside the two day fields.
    #[error("{field} `{item}`: `?` stands alone, and only for day of month or day of week; write `*`")]
    MisplacedQuestionMark {
        /// The field.
        field: CronField,
        /// The text of the field.
        item: String,
    },
    /// `H` asks for a value by hash, which needs a key that a schedule does not have.
    #[error(
        "{field} `{item}`: `H` is not supported; write a number, or `R` for one that is chosen once and kept"
    )]
    HashNeedsKey {
        /// The field.
        field: CronField,
        /// The text of the field.
        item: String,
    },
    /// `5#6`: no month has a sixth Friday.
    #[error("day of week `{item}`: after `#` comes the week of the month, 1-5")]
    NoSuchWeek {
        /// The part with the `#`.
        item: String,
    },
    /// Plain weekdays beside `#` or `L`.
    #[error("day of week `{item}` mixes plain weekdays with `#` or `L`: split it into two schedules")]
    MixedWeekdays {
        /// The text of the field.
        item: String,
    },
}

fn did_you_mean(nearest: Option<&'static str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

fn cure_for_range(field: CronField, value: &str) -> &'static str {
    match (field, value) {
        (CronField::DayOfWeek, "7") => " in an expression with seconds; write 0 for Sunday",
        (CronField::Hour, "24") => "; write 0 for midnight",
        (CronField::Minute | CronField::Second, "60") => "; write 0 for the full turn",
        _ => "",
    }
}
