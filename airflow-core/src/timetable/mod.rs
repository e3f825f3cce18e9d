//! When runs happen, and which stretch of time each run is about.
//!
//! A DAG carries a [`Schedule`]: cheap, cloneable, not checked. [`Schedule::timetable`] checks it and
//! makes a [`Timetable`], which answers one question: given the interval of the last scheduled run and
//! the time now, what is the next run? Nothing here reads the clock, sleeps, stores or draws random
//! numbers; the same question has the same answer on every machine.
//!
//! Start with [`Timetable::next_dagrun_info`]; [`CronExpression`] reads cron, [`CronTicks`] puts it into
//! a time zone, [`upcoming`] lists runs ahead.
//!
//! ```
//! use airflow_core::timetable::{Cron, Schedule, TimeRestriction};
//!
//! let schedule = Schedule::from(Cron::daily("06:00").tz("Europe/Paris"));
//! let timetable = schedule.timetable(chrono_tz::UTC)?;
//! let restriction = TimeRestriction {
//!     earliest: Some("2026-03-28T00:00:00Z".parse()?),
//!     latest: None,
//!     catchup: true,
//! };
//! let now = "2026-04-01T00:00:00Z".parse()?;
//! let run = timetable.next_dagrun_info(None, &restriction, now)?.expect("a first run");
//! // 06:00 in Paris: an hour earlier in UTC from the second day on, when summer time starts.
//! assert_eq!(run.data_interval.start.to_rfc3339(), "2026-03-28T05:00:00+00:00");
//! assert_eq!(run.run_after.to_rfc3339(), "2026-03-29T04:00:00+00:00");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod assets;
mod builder;
mod cron;
mod events;
mod interval;
mod multiple;
mod nearest;
mod schedule;
mod simple;
mod step;
#[cfg(test)]
mod tests;
mod ticks;
mod trigger;
mod zone;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::asset::AssetCondition;

pub use assets::{AssetOrTimeSchedule, AssetTriggered};
pub use builder::{Cron, Delta, Events};
pub use cron::{CronError, CronExpression, CronField, CronProblem};
pub use events::EventsTimetable;
pub use interval::{CronDataInterval, DeltaDataInterval};
pub use multiple::MultipleCronTrigger;
pub use schedule::{Schedule, ScheduleError};
pub use simple::{Continuous, Manual, Once};
pub use step::Step;
pub use ticks::CronTicks;
pub use trigger::{CronTrigger, DeltaTrigger};
pub use zone::{UnknownZone, parse_zone};

/// The stretch of time a run is about: from `start` up to, but without, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DataInterval {
    /// The first instant.
    pub start: DateTime<Utc>,
    /// The first instant after it. May equal `start`, for a run that is about an instant.
    pub end: DateTime<Utc>,
}

impl DataInterval {
    /// From `start` up to `end`.
    pub const fn new(start: DateTime<Utc>, end: DateTime<Utc>) -> Self {
        Self { start, end }
    }

    /// The empty interval at `at`.
    pub const fn exact(at: DateTime<Utc>) -> Self {
        Self { start: at, end: at }
    }
}

/// A run to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DagRunInfo {
    /// The earliest instant at which the run may start.
    pub run_after: DateTime<Utc>,
    /// What the run is about.
    pub data_interval: DataInterval,
}

impl DagRunInfo {
    /// A run that is about `data_interval` and may start when that is over.
    pub const fn at_end_of(data_interval: DataInterval) -> Self {
        Self { run_after: data_interval.end, data_interval }
    }

    /// The name of the run among the runs of its DAG: the start of its interval.
    pub const fn logical_date(&self) -> DateTime<Utc> {
        self.data_interval.start
    }
}

/// Between which instants a DAG is scheduled, and whether missed runs are made up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRestriction {
    /// The start date of the DAG. Without one most timetables that catch up have no first run.
    pub earliest: Option<DateTime<Utc>>,
    /// The end date of the DAG: no run starts its interval (or triggers) after it.
    pub latest: Option<DateTime<Utc>>,
    /// Whether every missed run is created, or only the newest.
    pub catchup: bool,
}

/// Decides when the runs of a DAG happen.
///
/// # Contract
///
/// - Pure: the answer depends on the arguments and on `self` only. `now` is the only clock.
/// - Of the runs to come `next_dagrun_info` names the first one. It may lie in the past: then it is
///   due. The caller creates it once `run_after` has come, and asks again with its interval as `last`.
/// - `last` is the interval of the last *scheduled* run; manual runs do not move the schedule.
/// - An error means "no answer at this instant", not "never again": the caller logs it and asks again
///   later.
///
/// Implement it for schedules that no cron can say, and hand it over with [`Schedule::custom`].
pub trait Timetable: Send + Sync + std::fmt::Debug + 'static {
    /// The next run after the one about `last` (`None`: there was no scheduled run yet); `None` if
    /// there are no more.
    ///
    /// # Errors
    ///
    /// [`TimetableError`] if the next run cannot be computed.
    fn next_dagrun_info(
        &self,
        last: Option<DataInterval>,
        restriction: &TimeRestriction,
        now: DateTime<Utc>,
    ) -> Result<Option<DagRunInfo>, TimetableError>;

    /// What a run is about that somebody starts by hand at `run_after`.
    ///
    /// # Errors
    ///
    /// [`TimetableError`] if the interval cannot be computed.
    fn infer_manual_data_interval(&self, run_after: DateTime<Utc>) -> Result<DataInterval, TimetableError>;

    /// A few characters for the list of DAGs: `0 6 * * *`, `@daily`, `1 day, 0:00:00`, `Never`.
    fn summary(&self) -> String;

    /// One sentence in English, with a 24 h clock.
    fn description(&self) -> String;

    /// One text for all timetables that behave the same, stable across releases: it goes into the
    /// fingerprint of a DAG, so a new text means a new version of the DAG.
    fn identity(&self) -> String;

    /// Whether runs come again and again, rather than once or never.
    fn periodic(&self) -> bool {
        true
    }

    /// Whether there are scheduled runs at all.
    fn can_be_scheduled(&self) -> bool {
        true
    }

    /// The most runs that may be active at once, if the timetable itself sets a limit.
    fn active_runs_limit(&self) -> Option<u32> {
        None
    }

    /// The assets that make runs of the DAG, beside what the timetable says.
    fn asset_condition(&self) -> Option<&AssetCondition> {
        None
    }

    /// The time zone whose wall clock the timetable follows, if it follows one.
    fn timezone(&self) -> Option<chrono_tz::Tz> {
        None
    }
}

/// Why a timetable has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimetableError {
    /// A cron expression has no tick within 50 years.
    #[error("cron `{cron}` does not fire within 50 years of {near}: check its day, month and year")]
    NeverFires {
        /// The expression.
        cron: String,
        /// Where the search began.
        near: DateTime<Utc>,
    },
    /// A date before year 1 or after year 9999.
    #[error("{at} is outside the years 1 to 9999: check start date, end date and schedule")]
    OutOfRange {
        /// The date, or the sum that has none.
        at: String,
    },
    /// A run is asked for whose logical date lies outside of the years that its database knows.
    #[error("the logical date {at} is outside the years {first} to {last}: choose another one")]
    LogicalDate {
        /// The date.
        at: DateTime<Utc>,
        /// The first year that is known.
        first: i32,
        /// The last one.
        last: i32,
    },
    /// The last complete interval cannot be told apart from the next one, because the clocks were just
    /// put back. It passes by itself with the next tick.
    #[error(
        "cron `{cron}` has no complete interval at {now}, where the clocks of {zone} change: the next tick settles it"
    )]
    ClockChange {
        /// The expression.
        cron: String,
        /// The time zone.
        zone: chrono_tz::Tz,
        /// The current time of the question.
        now: DateTime<Utc>,
    },
    /// A timetable of the user's own failed.
    #[error("{reason}")]
    Custom {
        /// What went wrong, as the timetable says it.
        reason: String,
    },
}

/// The most runs that [`upcoming`] lists: more than anyone reads, few enough to be instant.
pub const MAX_UPCOMING: usize = 10_000;

/// Lists the next `n` runs (at most [`MAX_UPCOMING`]), as if each were created as soon as it is due.
///
/// The list is shorter if the schedule ends, or if it does not move on (a run that would come at the
/// same instant as the one before it).
///
/// # Errors
///
/// The first [`TimetableError`] that the timetable answers.
pub fn upcoming(
    timetable: &dyn Timetable,
    last: Option<DataInterval>,
    restriction: &TimeRestriction,
    now: DateTime<Utc>,
    n: usize,
) -> Result<Vec<DagRunInfo>, TimetableError> {
    let mut runs: Vec<DagRunInfo> = Vec::new();
    let (mut last, mut now) = (last, now);
    while runs.len() < n.min(MAX_UPCOMING) {
        let Some(run) = timetable.next_dagrun_info(last, restriction, now)? else { break };
        if runs.last().is_some_and(|previous| run.run_after <= previous.run_after) {
            break;
        }
        last = Some(run.data_interval);
        now = now.max(run.run_after);
        runs.push(run);
    }
    Ok(runs)
}
