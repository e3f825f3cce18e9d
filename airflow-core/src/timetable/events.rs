//! Runs at listed instants, such as the matches of a season.

use std::{fmt::Write as _, sync::Arc};

use chrono::{DateTime, Utc};

use super::{DagRunInfo, DataInterval, TimeRestriction, Timetable, TimetableError};

/// A run at each of a list of instants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsTimetable {
    /// Sorted, without repetition.
    events: Arc<[DateTime<Utc>]>,
    restrict_to_events: bool,
}

impl EventsTimetable {
    /// A run at each of `events`, in any order. With `restrict_to_events` a run by hand is about the
    /// latest event that has passed (before the first one: about the first); otherwise about the
    /// instant it is started at.
    pub fn new(events: impl IntoIterator<Item = DateTime<Utc>>, restrict_to_events: bool) -> Self {
        let mut events: Vec<_> = events.into_iter().collect();
        events.sort_unstable();
        events.dedup();
        Self { events: events.into(), restrict_to_events }
    }
}

impl Timetable for EventsTimetable {
    fn next_dagrun_info(
        &self,
        last: Option<DataInterval>,
        restriction: &TimeRestriction,
        now: DateTime<Utc>,
    ) -> Result<Option<DagRunInfo>, TimetableError> {
        let earliest = restriction.earliest.max((!restriction.catchup).then_some(now));
        let before = |event: &DateTime<Utc>| {
            earliest.is_some_and(|earliest| *event < earliest) || last.is_some_and(|last| *event <= last.end)
        };
        let next = self.events.get(self.events.partition_point(before));
        let next = next.filter(|event| restriction.latest.is_none_or(|latest| **event <= latest));
        Ok(next.map(|event| DagRunInfo::at_end_of(DataInterval::exact(*event))))
    }

    fn infer_manual_data_interval(&self, run_after: DateTime<Utc>) -> Result<DataInterval, TimetableError> {
        let passed = self.events.partition_point(|event| *event <= run_after);
        let event = self.events.get(passed.saturating_sub(1)).filter(|_| self.restrict_to_events);
        Ok(DataInterval::exact(*event.unwrap_or(&run_after)))
    }

    fn summary(&self) -> String {
        format!("{} event{}", self.events.len(), if self.events.len() == 1 { "" } else { "s" })
    }

    fn description(&self) -> String {
        let say = |time: &DateTime<Utc>| time.format("%Y-%m-%d %H:%M").to_string();
        match &*self.events {
            [] => "No events".to_owned(),
            [event] => format!("1 event, at {} (UTC)", say(event)),
            [first, .., last] => {
                format!("{} events between {} and {} (UTC)", self.events.len(), say(first), say(last))
            }
        }
    }

    fn identity(&self) -> String {
        let mut text = format!("events {}", self.restrict_to_events);
        for event in &*self.events {
            write!(text, " {}", event.to_rfc3339()).expect("writing to a string does not fail");
        }
        text
    }
}
