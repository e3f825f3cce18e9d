//! Which run of a dag comes next, and when.

use std::ops::RangeInclusive;

use chrono::{DateTime, Datelike as _, TimeZone, Utc};
use serde_json::Value;

use crate::compile::CompiledDag;
use crate::id::RunId;
use crate::state::RunType;
use crate::store::{Advance, DagRow, NewRun, NextRun};
use crate::time::YEARS;
use crate::timetable::{DataInterval, TimetableError};

use super::deadline::with_deadlines;

/// The next run of the timetable after the interval `last`.
///
/// # Errors
///
/// [`TimetableError`] if there is no answer at this instant; ask again later.
pub fn next_run(
    dag: &CompiledDag,
    last: Option<DataInterval>,
    now: DateTime<Utc>,
) -> Result<Option<NextRun>, TimetableError> {
    if !dag.timetable.can_be_scheduled() {
        return Ok(None);
    }
    let info = dag.timetable.next_dagrun_info(last, &dag.settings.restriction, now)?;
    Ok(info.map(|info| NextRun { data_interval: info.data_interval, run_after: info.run_after }))
}

/// The run to create now, with how far the timetable has come by it; `None` if none is due.
///
/// # Errors
///
/// [`TimetableError`] as [`next_run`].
pub fn due_run(
    dag: &CompiledDag,
    row: &DagRow,
    now: DateTime<Utc>,
) -> Result<Option<NewRun>, TimetableError> {
    let Some(next) = row.next.filter(|next| next.run_after <= now) else { return Ok(None) };
    let following = next_run(dag, Some(next.data_interval), now)?;
    let logical_date = next.data_interval.start;
    Ok(Some(with_deadlines(
        dag,
        NewRun {
            dag_id: dag.id.clone(),
            run_id: run_id(RunType::Scheduled, &logical_date),
            run_type: RunType::Scheduled,
            logical_date,
            data_interval: next.data_interval,
            run_after: next.run_after,
            queued_at: now,
            conf: None,
            fingerprint: dag.fingerprint.clone(),
            triggered_by: "timetable".into(),
            ignores_past: false,
            queue: None,
            advance: Some(Advance { last_interval: Some(next.data_interval), next: following }),
            assets: None,
            deadlines: Vec::new(),
        },
    )))
}

/// Refuses the logical date of a run that lies outside of `years`.
///
/// # Errors
///
/// [`TimetableError::LogicalDate`] with the years.
pub fn check_logical_date(at: DateTime<Utc>, years: &RangeInclusive<i32>) -> Result<(), TimetableError> {
    if years.contains(&at.year()) {
        return Ok(());
    }
    Err(TimetableError::LogicalDate { at, first: *years.start(), last: *years.end() })
}

/// A run made by hand for `logical_date`.
///
/// # Errors
///
/// [`TimetableError`] if the date lies outside of the [`YEARS`], or if the timetable cannot tell what a run at this date is about.
pub fn manual_run(
    dag: &CompiledDag,
    run_id_given: Option<RunId>,
    logical_date: DateTime<Utc>,
    conf: Option<Value>,
    triggered_by: &str,
    now: DateTime<Utc>,
) -> Result<NewRun, TimetableError> {
    check_logical_date(logical_date, &YEARS)?;
    let data_interval = dag.timetable.infer_manual_data_interval(logical_date)?;
    Ok(with_deadlines(
        dag,
        NewRun {
            dag_id: dag.id.clone(),
            run_id: run_id_given.unwrap_or_else(|| run_id(RunType::Manual, &logical_date)),
            run_type: RunType::Manual,
            logical_date,
            data_interval,
            run_after: logical_date.min(now),
            queued_at: now,
            conf,
            fingerprint: dag.fingerprint.clone(),
            triggered_by: triggered_by.to_owned(),
            ignores_past: false,
            queue: None,
            advance: None,
            assets: None,
            deadlines: Vec::new(),
        },
    ))
}

/// `<type>__<date>`, with microseconds only if there are any, and with the offset that the date carries.
pub fn run_id<Z: TimeZone>(run_type: RunType, date: &DateTime<Z>) -> RunId
where
    Z::Offset: std::fmt::Display,
{
    let format =
        if date.timestamp_subsec_micros() == 0 { "%Y-%m-%dT%H:%M:%S%:z" } else { "%Y-%m-%dT%H:%M:%S%.6f%:z" };
    RunId::new(format!("{run_type}__{}", date.format(format)))
}
