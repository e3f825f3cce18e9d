//! Writes down how attempts ended, until the store has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use airflow_core::id::{AttemptId, IncarnationId};
use airflow_core::plan::{Outcome, Report, to_body};
use airflow_core::store::{LogChunk, StoredReport};
use tokio::sync::mpsc;

use super::Shared;
use super::desk::Counts;

/// How many reports go to the store at once.
const BATCH: usize = 128;

/// How long it waits after the store failed: at first, and at most.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(5);

/// Writes reports as they come, those that come meanwhile together.
pub(super) async fn run(shared: Arc<Shared>, mut finished: mpsc::UnboundedReceiver<Report>) {
    let mut batch = Vec::with_capacity(BATCH);
    while finished.recv_many(&mut batch, BATCH).await > 0 {
        let reports = batch.drain(..).filter_map(|report| own(&shared, report)).collect();
        write(&shared, reports).await;
    }
}

/// A report by the attempt itself, if it counts.
fn own(shared: &Shared, mut report: Report) -> Option<(IncarnationId, Report)> {
    let Some((process, is_stopped)) = shared.desk.whose(report.attempt_id) else {
        // Given back before, and reported then.
        shared.desk.end(report.attempt_id, |_| {});
        return None;
    };
    if is_stopped && matches!(report.outcome, Outcome::Cancelled) {
        report.outcome = Outcome::HandedBack;
    }
    Some((process, report))
}

/// Writes reports, each for the life of the process in which its attempt was claimed.
pub(super) async fn write(shared: &Shared, reports: Vec<(IncarnationId, Report)>) {
    let mut lives: BTreeMap<IncarnationId, Vec<Report>> = BTreeMap::new();
    for (process, report) in reports {
        lives.entry(process).or_default().push(report);
    }
    for (process, reports) in lives {
        let mut reports = reports;
        let stored: Vec<StoredReport> = reports.iter_mut().filter_map(stored).collect();
        let ids: Vec<AttemptId> = stored.iter().map(|report| report.attempt_id).collect();
        let written = until_written(shared, process, stored).await;
        let is_written = |id| ids.iter().zip(&written).any(|(known, written)| *known == id && *written);
        for report in &reports {
            let refused = !is_written(report.attempt_id);
            if refused {
                tracing::warn!(attempt = %report.attempt_id, "the attempt was taken away; what it did does not count");
            }
            shared.desk.end(report.attempt_id, |counts| count(counts, &report.outcome, refused));
        }
        if written.contains(&true) {
            shared.reported.notify_one();
        }
    }
}

fn stored(report: &mut Report) -> Option<StoredReport> {
    let log = report.log.take();
    Some(StoredReport {
        attempt_id: report.attempt_id,
        run: report.run,
        // The store fills in what it knows of the attempt.
        task_id: "".into(),
        map_index: report.key.map,
        at: report.at,
        body: to_body(report)?,
        log,
    })
}

/// Writes reports, with the ends of their logs unless these may be why that fails: then these come later.
async fn until_written(shared: &Shared, process: IncarnationId, mut reports: Vec<StoredReport>) -> Vec<bool> {
    let mut pause = PAUSE_FIRST;
    if shared.late_logs.is_waiting() {
        shared.late_logs.send(take_logs(&mut reports));
    }
    loop {
        match shared.store.add_reports(process, reports.clone()).await {
            Ok(written) => return written,
            Err(error) if reports.iter().any(|report| report.log.is_some()) => {
                tracing::warn!(%error, reports = reports.len(), "reports cannot be written; trying without their logs");
                shared.late_logs.send(take_logs(&mut reports));
            }
            Err(error) => {
                tracing::warn!(%error, reports = reports.len(), "reports cannot be written; trying again");
                shared.rest(pause).await;
                pause = (pause * 2).min(PAUSE_LAST);
            }
        }
    }
}

fn take_logs(reports: &mut [StoredReport]) -> Vec<LogChunk> {
    reports.iter_mut().filter_map(|report| report.log.take()).collect()
}

fn count(counts: &mut Counts, outcome: &Outcome, refused: bool) {
    match outcome {
        _ if refused => counts.refused += 1,
        Outcome::Failed { .. } | Outcome::Lost => counts.failed += 1,
        Outcome::Cancelled => counts.cancelled += 1,
        Outcome::HandedBack => counts.handed_back += 1,
        Outcome::Success(_)
        | Outcome::Skipped(_)
        | Outcome::Rescheduled(_)
        | Outcome::Deferred(_)
        | Outcome::Fired(_) => counts.succeeded += 1,
    }
}
