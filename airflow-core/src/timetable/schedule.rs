//! The schedule that a DAG carries, before it is checked.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::asset::{Asset, AssetAlias, AssetCondition, AssetError};

use super::{
    AssetOrTimeSchedule, AssetTriggered, Continuous, Cron, CronError, Delta, Events, Manual,
    MultipleCronTrigger, Once, Step, Timetable, UnknownZone,
};

/// When a DAG runs: what the user wrote, cheap to clone and not yet checked.
///
/// A string is a preset (`@daily`), a cron expression (`0 6 * * 1-5`), `@once`, `@continuous` or `none`;
/// a duration is a distance between runs. Anything else has a builder: [`Cron`], [`Delta`], [`Events`].
///
/// ```
/// use airflow_core::timetable::Schedule;
///
/// let timetable = Schedule::from("0 6 * * MON-FRI").timetable("Europe/Paris".parse()?)?;
/// assert_eq!(timetable.description(), "At 06:00 on Monday to Friday (Europe/Paris)");
///
/// let error = Schedule::from("61 * * * *").timetable(chrono_tz::UTC).unwrap_err();
/// assert_eq!(error.to_string(), "cron `61 * * * *`: minute 61 is not in 0-59");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Schedule(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Manual,
    Once,
    Continuous,
    Cron(Cron),
    Crons(Vec<Cron>),
    Delta(Delta),
    Events(Arc<Events>),
    Custom(Arc<dyn Timetable>),
    Assets(AssetCondition),
    AssetsOr(Box<Schedule>, AssetCondition),
}

/// Why a schedule makes no timetable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// The cron expression cannot be read.
    #[error(transparent)]
    Cron(#[from] CronError),
    /// The cron expression is well-formed, but no date matches it.
    #[error(
        "cron `{cron}` never fires: no date matches its day, month and year; for the last day of a month write `L`"
    )]
    NeverFires {
        /// The expression.
        cron: String,
    },
    /// No such time zone.
    #[error(transparent)]
    Zone(#[from] UnknownZone),
    /// Not a time of day.
    #[error("`{time}` is no time of day: write HH:MM, from 00:00 to 23:59")]
    NotATime {
        /// The text.
        time: String,
    },
    /// A distance between runs of nothing, or backwards.
    #[error("a run every `{step}` never moves on: the distance between runs must be longer than zero")]
    NotPositive {
        /// The distance.
        step: Step,
    },
    /// An interval that ends before it starts.
    #[error("the interval `{interval}` is negative: it is the length of the time before each run")]
    NegativeInterval {
        /// The interval.
        interval: Step,
    },
    /// A distance or interval of thousands of years.
    #[error("the distance between runs or their interval leaves the years 1 to 9999: write a shorter one")]
    TooLong,
    /// A list of no expressions.
    #[error("a schedule of several crons has none: give at least one, or use `Schedule::manual()`")]
    NoCrons,
    /// An asset that cannot be used, or a condition of none.
    #[error(transparent)]
    Asset(#[from] AssetError),
    /// Assets inside of what is combined with assets.
    #[error(
        "an `AssetOrTimeSchedule` takes a schedule by time beside its assets; put all assets into its condition"
    )]
    NestedAssets,
}

impl Schedule {
    /// No scheduled runs.
    pub fn manual() -> Self {
        Self(Kind::Manual)
    }

    /// One run, at the start date.
    pub fn once() -> Self {
        Self(Kind::Once)
    }

    /// A run as soon as the one before it has ended.
    pub fn continuous() -> Self {
        Self(Kind::Continuous)
    }

    /// A run at each of `events`, in any order. See [`Events`] for more.
    pub fn events(events: impl IntoIterator<Item = DateTime<Utc>>) -> Self {
        Events::new(events).into()
    }

    /// A run at every tick of any of `crons`, which trigger: one run where ticks coincide.
    pub fn any_of(crons: impl IntoIterator<Item = Cron>) -> Self {
        Self(Kind::Crons(crons.into_iter().collect()))
    }

    /// A timetable of your own.
    pub fn custom(timetable: impl Timetable) -> Self {
        Self(Kind::Custom(Arc::new(timetable)))
    }

    /// Checks the schedule; `dag_tz` is the time zone of a cron that names none.
    ///
    /// # Errors
    ///
    /// [`ScheduleError`] names what is wrong and what to write instead.
    pub fn timetable(&self, dag_tz: Tz) -> Result<Arc<dyn Timetable>, ScheduleError> {
        match &self.0 {
            Kind::Manual => Ok(Arc::new(Manual)),
            Kind::Once => Ok(Arc::new(Once)),
            Kind::Continuous => Ok(Arc::new(Continuous)),
            Kind::Cron(cron) => cron.timetable(dag_tz),
            Kind::Crons(crons) => {
                let (first, others) = crons.split_first().ok_or(ScheduleError::NoCrons)?;
                let first = first.cron_trigger(dag_tz)?;
                let others = others.iter().map(|cron| cron.cron_trigger(dag_tz)).collect::<Result<_, _>>()?;
                Ok(Arc::new(MultipleCronTrigger::new(first, others)))
            }
            Kind::Delta(delta) => delta.timetable(),
            Kind::Events(events) => Ok(Arc::new(events.timetable())),
            Kind::Custom(timetable) => Ok(Arc::clone(timetable)),
            Kind::Assets(condition) => {
                first_problem(condition)?;
                Ok(Arc::new(AssetTriggered::new(condition.clone())))
            }
            Kind::AssetsOr(schedule, condition) => {
                first_problem(condition)?;
                let inner = schedule.timetable(dag_tz)?;
                if inner.asset_condition().is_some() {
                    return Err(ScheduleError::NestedAssets);
                }
                Ok(Arc::new(AssetTriggered::beside(inner, condition.clone())))
            }
        }
    }
}

fn first_problem(condition: &AssetCondition) -> Result<(), ScheduleError> {
    condition.problems().into_iter().next().map_or(Ok(()), |error| Err(error.into()))
}

impl Default for Schedule {
    /// No scheduled runs.
    fn default() -> Self {
        Self::manual()
    }
}

impl From<&str> for Schedule {
    fn from(text: &str) -> Self {
        match text.trim().to_ascii_lowercase().as_str() {
            "none" | "@none" => Self::manual(),
            "@once" => Self::once(),
            "@continuous" => Self::continuous(),
            _ => Cron::new(text).into(),
        }
    }
}

impl From<String> for Schedule {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<std::time::Duration> for Schedule {
    fn from(distance: std::time::Duration) -> Self {
        Delta::every(distance).into()
    }
}

impl From<TimeDelta> for Schedule {
    fn from(distance: TimeDelta) -> Self {
        Delta::every(distance).into()
    }
}

impl From<Cron> for Schedule {
    fn from(cron: Cron) -> Self {
        Self(Kind::Cron(cron))
    }
}

impl From<Delta> for Schedule {
    fn from(delta: Delta) -> Self {
        Self(Kind::Delta(delta))
    }
}

impl From<Events> for Schedule {
    fn from(events: Events) -> Self {
        Self(Kind::Events(Arc::new(events)))
    }
}

impl From<AssetCondition> for Schedule {
    fn from(condition: AssetCondition) -> Self {
        Self(Kind::Assets(condition))
    }
}

/// One asset or alias.
macro_rules! from_one {
    ($($one:ty),+) => {
        $(impl From<$one> for Schedule {
            fn from(one: $one) -> Self {
                AssetCondition::from(one).into()
            }
        })+
    };
}
from_one!(Asset, &Asset, AssetAlias, &AssetAlias, &AssetCondition);

/// All of a list.
impl<T: Into<AssetCondition>, const N: usize> From<[T; N]> for Schedule {
    fn from(list: [T; N]) -> Self {
        Asset::all(list).into()
    }
}

impl<T: Into<AssetCondition>> From<Vec<T>> for Schedule {
    fn from(list: Vec<T>) -> Self {
        Asset::all(list).into()
    }
}

impl From<AssetOrTimeSchedule> for Schedule {
    fn from(schedule: AssetOrTimeSchedule) -> Self {
        Self(Kind::AssetsOr(Box::new(schedule.schedule), schedule.condition))
    }
}
