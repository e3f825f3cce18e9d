//! Several cron expressions for one DAG.

use std::{cmp::Reverse, fmt::Write as _};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{CronTrigger, DagRunInfo, DataInterval, TimeRestriction, Timetable, TimetableError};

/// A run at every tick of any of several cron expressions; one run where ticks coincide.
///
/// With catch-up the earliest tick of all comes next. Without, it is the newest one that has passed,
/// or the earliest to come if none has.
#[derive(Clone, Debug)]
pub struct MultipleCronTrigger {
    first: CronTrigger,
    others: Vec<CronTrigger>,
}

impl MultipleCronTrigger {
    /// Puts `first` and `others` together. What a run by hand is about, `first` decides.
    pub fn new(first: CronTrigger, others: Vec<CronTrigger>) -> Self {
        Self { first, others }
    }

    fn all(&self) -> impl Iterator<Item = &CronTrigger> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn join(&self, separator: &str, say: impl Fn(&CronTrigger) -> String) -> String {
        self.all().map(say).collect::<Vec<_>>().join(separator)
    }
}

impl Timetable for MultipleCronTrigger {
    fn next_dagrun_info(
        &self,
        last: Option<DataInterval>,
        restriction: &TimeRestriction,
        now: DateTime<Utc>,
    ) -> Result<Option<DagRunInfo>, TimetableError> {
        let mut runs = Vec::with_capacity(1 + self.others.len());
        for trigger in self.all() {
            runs.extend(trigger.next_dagrun_info(last, restriction, now)?);
        }
        let earliest = runs.iter().min_by_key(|run| run.run_after).copied();
        if restriction.catchup {
            return Ok(earliest);
        }
        // Of equals the first one counts, hence the smallest of the reversed and not the largest.
        let passed = runs.iter().filter(|run| run.run_after <= now).min_by_key(|run| Reverse(run.run_after));
        Ok(passed.copied().or(earliest))
    }

    fn infer_manual_data_interval(&self, run_after: DateTime<Utc>) -> Result<DataInterval, TimetableError> {
        self.first.infer_manual_data_interval(run_after)
    }

    fn summary(&self) -> String {
        self.join(", ", Timetable::summary)
    }

    fn description(&self) -> String {
        self.join("; ", Timetable::description)
    }

    fn identity(&self) -> String {
        let mut text = "crons".to_owned();
        for trigger in self.all() {
            write!(text, " [{}]", trigger.identity()).expect("writing to a string does not fail");
        }
        text
    }

    /// The zone of all expressions, if it is one.
    fn timezone(&self) -> Option<Tz> {
        let zone = self.first.timezone();
        zone.filter(|_| self.others.iter().all(|other| other.timezone() == zone))
    }
}
