//! Runs when assets are new, alone or beside a timetable.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::asset::AssetCondition;

use super::{DagRunInfo, DataInterval, Manual, Schedule, TimeRestriction, Timetable, TimetableError};

/// A schedule by time, and by assets beside it: a run for each tick, and one whenever the condition holds.
///
/// ```
/// use airflow_core::asset::Asset;
/// use airflow_core::timetable::{AssetOrTimeSchedule, Schedule};
///
/// let orders = Asset::new("s3://lake/orders");
/// let schedule = Schedule::from(AssetOrTimeSchedule::new("0 6 * * *", &orders));
/// let timetable = schedule.timetable(chrono_tz::UTC)?;
/// assert_eq!(timetable.summary(), "Asset or 0 6 * * *");
/// assert_eq!(timetable.description(), "Triggered by assets or At 06:00 every day (UTC)");
/// # Ok::<(), airflow_core::timetable::ScheduleError>(())
/// ```
#[derive(Clone, Debug)]
pub struct AssetOrTimeSchedule {
    pub(super) schedule: Schedule,
    pub(super) condition: AssetCondition,
}

impl AssetOrTimeSchedule {
    /// Runs by `schedule`, and whenever `assets` hold.
    pub fn new(schedule: impl Into<Schedule>, assets: impl Into<AssetCondition>) -> Self {
        Self { schedule: schedule.into(), condition: assets.into() }
    }
}

/// Runs whenever a condition on assets holds; see [`AssetOrTimeSchedule`] and [`Schedule`].
#[derive(Clone, Debug)]
pub struct AssetTriggered {
    /// What makes runs by time; [`Manual`] if nothing does.
    inner: Arc<dyn Timetable>,
    is_alone: bool,
    condition: AssetCondition,
}

impl AssetTriggered {
    /// Runs by assets only.
    pub fn new(condition: AssetCondition) -> Self {
        Self { inner: Arc::new(Manual), is_alone: true, condition }
    }

    /// Runs by `inner`, and by assets.
    pub fn beside(inner: Arc<dyn Timetable>, condition: AssetCondition) -> Self {
        Self { inner, is_alone: false, condition }
    }
}

impl Timetable for AssetTriggered {
    fn next_dagrun_info(
        &self,
        last: Option<DataInterval>,
        restriction: &TimeRestriction,
        now: DateTime<Utc>,
    ) -> Result<Option<DagRunInfo>, TimetableError> {
        self.inner.next_dagrun_info(last, restriction, now)
    }

    fn infer_manual_data_interval(&self, run_after: DateTime<Utc>) -> Result<DataInterval, TimetableError> {
        self.inner.infer_manual_data_interval(run_after)
    }

    fn summary(&self) -> String {
        if self.is_alone { "Asset".to_owned() } else { format!("Asset or {}", self.inner.summary()) }
    }

    fn description(&self) -> String {
        if self.is_alone {
            "Triggered by assets".to_owned()
        } else {
            format!("Triggered by assets or {}", self.inner.description())
        }
    }

    fn identity(&self) -> String {
        format!("assets {} beside {}", self.condition.expression(), self.inner.identity())
    }

    fn periodic(&self) -> bool {
        !self.is_alone && self.inner.periodic()
    }

    fn can_be_scheduled(&self) -> bool {
        self.inner.can_be_scheduled()
    }

    fn active_runs_limit(&self) -> Option<u32> {
        self.inner.active_runs_limit()
    }

    fn asset_condition(&self) -> Option<&AssetCondition> {
        Some(&self.condition)
    }

    fn timezone(&self) -> Option<chrono_tz::Tz> {
        self.inner.timezone()
    }
}
