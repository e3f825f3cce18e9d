//! What the timetables promise, beyond the cases in `tests/conformance/timetables.json`: changes of the clocks, laws,
//! and the words of errors.

mod clocks;
mod errors;
mod kinds;
mod laws;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::*;

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().expect(text)
}

fn zone(name: &str) -> Tz {
    name.parse().expect(name)
}

fn made(schedule: impl Into<Schedule>) -> Arc<dyn Timetable> {
    schedule.into().timetable(Tz::UTC).expect("the schedule is valid")
}

/// All runs from `start` on, made up for, at most `n`.
fn runs_from(timetable: &dyn Timetable, start: &str, n: usize) -> Vec<DagRunInfo> {
    let restriction = TimeRestriction { earliest: Some(utc(start)), latest: None, catchup: true };
    upcoming(timetable, None, &restriction, utc(start), n).expect("there are runs")
}
