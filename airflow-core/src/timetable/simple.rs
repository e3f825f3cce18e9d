//! The timetables without ticks: by hand, once, and one run after the other.

use chrono::{DateTime, Utc};

use super::{DagRunInfo, DataInterval, TimeRestriction, Timetable, TimetableError};

/// No scheduled runs; somebody, or another DAG, starts each run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manual;

/// One run at the start date, whether that has passed or not, and none without a start date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Once;

/// A run as soon as the one before it has ended; only one at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Continuous;

impl Timetable for Manual {
    fn next_dagrun_info(
        &self,
        _last: Option<DataInterval>,
        _restriction: &TimeRestriction,
        _now: DateTime<Utc>,
    ) -> Result<Option<DagRunInfo>, TimetableError> {
        Ok(None)
    }

    fn infer_manual_data_interval(&self, run_after: DateTime<Utc>) -> Result<DataInterval, TimetableError> {
        Ok(DataInterval::exact(run_after))
    }

    fn summary(&self) -> String {
        "Never".to_owned()
    }

    fn description(&self) -> String {
        "Never, external triggers only".to_owned()
    }

    fn identity(&self) -> String {
        "manual".to_owned()
    }

    fn periodic(&self) -> bool {
        false
    }

    fn can_be_scheduled(&self) -> bool {
        false
    }
}

impl Timetable for Once {
    fn next_dagrun_info(
        &self,
        last: Option<DataInterval>,
        restriction: &TimeRestriction,
        _now: DateTime<Utc>,
    ) -> Result<Option<DagRunInfo>, TimetableError> {
        let at = restriction.earliest.filter(|at| restriction.latest.is_none_or(|latest| *at <= latest));
        Ok(at.filter(|_| last.is_none()).map(|at| DagRunInfo::at_end_of(DataInterval::exact(at))))
    }

    fn infer_manual_data_interval(&self, run_after: DateTime<Utc>) -> Result<DataInterval, TimetableError> {
        Ok(DataInterval::exact(run_after))
    }

    fn summary(&self) -> String {
        "@once".to_owned()
    }

    fn description(&self) -> String {
        "Once, as soon as possible".to_owned()
    }

    fn identity(&self) -> String {
        "once".to_owned()
    }

    fn periodic(&self) -> bool {
        false
    }
}

impl Timetable for Continuous {
    fn next_dagrun_info(
        &self,
        last: Option<DataInterval>,
        restriction: &TimeRestriction,
        now: DateTime<Utc>,
    ) -> Result<Option<DagRunInfo>, TimetableError> {
        let Some(earliest) = restriction.earliest else { return Ok(None) };
        // A last interval that ends after `now` gives one that ends before it starts, as in Airflow.
        let interval = match last {
            Some(last) => DataInterval::new(last.end, now),
            None => DataInterval::new(earliest, now.max(earliest)),
        };
        let over = restriction.latest.is_some_and(|latest| interval.end > latest);
        Ok((!over).then(|| DagRunInfo::at_end_of(interval)))
    }

    fn infer_manual_data_interval(&self, run_after: DateTime<Utc>) -> Result<DataInterval, TimetableError> {
        Ok(DataInterval::exact(run_after))
    }

    fn summary(&self) -> String {
        "@continuous".to_owned()
    }

    fn description(&self) -> String {
        "As frequently as possible, but only one run at a time".to_owned()
    }

    fn identity(&self) -> String {
        "continuous".to_owned()
    }

    fn periodic(&self) -> bool {
        false
    }

    fn active_runs_limit(&self) -> Option<u32> {
        Some(1)
    }
}
