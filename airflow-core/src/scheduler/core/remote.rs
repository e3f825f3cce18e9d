//! Attempts that workers claim: sent again if nobody does, and reported through the store.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::id::{AttemptId, RunPk, TiKey};
use crate::map::HashMap;
use crate::plan::{Report, RunView, Said, from_body};
use crate::scheduler::effects::{Effects, attempt_of};
use crate::state::{TaskEvent, TaskState};
use crate::store::{AttemptState, FoundAttempt, StoredReport, TiRow};

use super::out::Sent;
use super::{Core, Timer};

/// How long a queued attempt waits for a worker before it is sent again, in seconds; each time twice as long, up to the
/// second number. A message may have been lost, and a copy does no harm.
const SEND_AGAIN_S: i64 = 20;
const SEND_AGAIN_MOST_S: i64 = 600;

/// What is known of attempts elsewhere beside that they are out.
#[derive(Debug, Default)]
pub(super) struct Remote {
    /// Queued attempts to look up: is one still queued, it is sent again. With how often it was sent.
    due: BTreeMap<AttemptId, u32>,
    /// Reports of the store that were heard of and not deleted yet.
    heard: BTreeMap<AttemptId, RunPk>,
    /// Those of runs that are not in memory.
    waiting: HashMap<RunPk, Vec<StoredReport>>,
    /// Those that were taken in or do not count, to be deleted.
    done: Vec<AttemptId>,
}

impl Core {
    /// Queued attempts that nobody seems to have claimed.
    pub(super) fn look_up(&self) -> Vec<AttemptId> {
        self.remote.due.keys().copied().collect()
    }

    /// It is time to look whether an attempt was claimed.
    pub(super) fn may_be_unclaimed(&mut self, id: AttemptId, times: u32) {
        let Some(sent) = self.out.get(id) else { return };
        let ti = self.runs.get(&sent.run).and_then(|live| live.view.ti(sent.key));
        if ti.is_some_and(|ti| ti.state == TaskState::Queued && ti.data.attempt_id == Some(id)) {
            self.remote.due.insert(id, times);
        }
    }

    /// An attempt was handed over for the n-th time.
    pub(super) fn was_sent(&mut self, run: RunPk, id: AttemptId, times: u32, now: DateTime<Utc>) {
        let pause = SEND_AGAIN_S.saturating_mul(1 << times.min(10)).min(SEND_AGAIN_MOST_S);
        let at = now + TimeDelta::seconds(pause);
        self.timers.push(Reverse((at, Timer::Unclaimed(run, id, times))));
    }

    /// How the store knows the attempts that were looked up.
    pub(in crate::scheduler) fn found(
        &mut self,
        asked: &[AttemptId],
        found: &[FoundAttempt],
        now: DateTime<Utc>,
    ) -> Effects {
        let mut effects = Effects::default();
        let found: HashMap<AttemptId, &FoundAttempt> =
            found.iter().map(|row| (row.start.attempt_id, row)).collect();
        for id in asked {
            let times = self.remote.due.remove(id).unwrap_or(0);
            let Some(sent) = self.out.get(*id).copied() else { continue };
            let Some(live) = self.runs.get_mut(&sent.run) else { continue };
            match found.get(id).map(|row| (row.state, row)) {
                Some((AttemptState::Queued, _)) => {
                    tracing::info!(attempt = %id, times, "nobody has claimed the attempt; it is sent again");
                    let attempt = attempt_of(&live.view, sent.key, *id, now);
                    effects.submit.push((sent.place, attempt));
                    self.was_sent(sent.run, *id, times + 1, now);
                }
                Some((AttemptState::Running, row)) if note_claim(&mut live.view, sent.key, &row.ti) => {}
                // Ended, or changed by somebody else.
                _ => {
                    self.load.insert(sent.run);
                    self.dirty.insert(sent.run);
                }
            }
        }
        effects
    }

    /// Compares queued attempts of a run that was loaded with what this process has sent.
    pub(super) fn adopt_remote(&mut self, view: &RunView, effects: &mut Effects, now: DateTime<Utc>) {
        let pk = view.run.pk;
        for (key, ti) in view.all() {
            let Some(id) = ti.data.attempt_id else { continue };
            if !matches!(ti.state, TaskState::Queued | TaskState::Running) || self.out.get(id).is_some() {
                continue;
            }
            let place = self.out.routes().of(view.dag.task(key.task), view.run.queue.as_deref());
            match (ti.state, self.out.routes().is_remote(place)) {
                (TaskState::Queued, true) => {
                    self.out.insert(id, Sent { run: pk, key, place });
                    effects.submit.push((place, attempt_of(view, key, id, now)));
                    self.was_sent(pk, id, 0, now);
                }
                (TaskState::Running, true) => self.out.insert(id, Sent { run: pk, key, place }),
                // Its executor was a remote one once: nobody would ever send it.
                (TaskState::Queued, false) => {
                    self.inbox.entry(pk).or_default().push(Report::handed_back(pk, key, id, now));
                }
                _ => {}
            }
        }
        for report in self.remote.waiting.remove(&pk).unwrap_or_default() {
            self.take_stored(view, &report);
        }
    }

    /// Reports that workers have left in the store.
    pub(in crate::scheduler) fn stored(&mut self, reports: Vec<StoredReport>) {
        for report in reports {
            if self.remote.heard.insert(report.attempt_id, report.run).is_some() {
                continue;
            }
            match self.runs.remove(&report.run) {
                Some(mut live) if !self.load.contains(&report.run) => {
                    if let Some(task) = live.view.dag.find(report.task_id.as_str()) {
                        claimed(&mut live.view, TiKey { task, map: report.map_index }, report.attempt_id);
                    }
                    self.take_stored(&live.view, &report);
                    self.runs.insert(report.run, live);
                }
                live => {
                    if let Some(live) = live {
                        self.runs.insert(report.run, live);
                    }
                    self.load.insert(report.run);
                    self.dirty.insert(report.run);
                    self.remote.waiting.entry(report.run).or_default().push(report);
                }
            }
        }
    }

    fn take_stored(&mut self, view: &RunView, stored: &StoredReport) {
        let id = stored.attempt_id;
        self.out.remove(id);
        self.rests_until = None;
        let Some(task) = view.dag.find(stored.task_id.as_str()) else {
            self.report_is_done(id);
            return;
        };
        let Said { outcome, pushed, asset_events, rendered, log } = from_body(&stored.body);
        let report = Report {
            run: stored.run,
            key: TiKey { task, map: stored.map_index },
            attempt_id: id,
            outcome,
            pushed,
            asset_events,
            rendered,
            log,
            at: stored.at,
        };
        self.dirty.insert(stored.run);
        self.inbox.entry(stored.run).or_default().push(report);
    }

    /// A report was taken in, or does not count.
    pub(super) fn report_is_done(&mut self, id: AttemptId) {
        if self.remote.heard.contains_key(&id) {
            self.remote.done.push(id);
        }
    }

    /// A run is over: what is still reported of it does not count.
    pub(super) fn drop_reports(&mut self, run: RunPk) {
        let inbox = self.inbox.remove(&run).unwrap_or_default();
        let waiting = self.remote.waiting.remove(&run).unwrap_or_default();
        self.late_logs.extend(inbox.iter().filter_map(|report| report.log.clone()));
        let ids = inbox.iter().map(|report| report.attempt_id);
        ids.chain(waiting.iter().map(|report| report.attempt_id)).for_each(|id| self.report_is_done(id));
    }

    /// Somebody else decides about this run now, and reads its reports.
    pub(super) fn leave_reports(&mut self, run: RunPk) {
        self.remote.waiting.remove(&run);
        self.remote.heard.retain(|_, of| *of != run);
    }

    /// How many reports can be deleted.
    pub(in crate::scheduler) fn done_reports(&self) -> usize {
        self.remote.done.len()
    }

    /// Reports that can be deleted.
    pub(in crate::scheduler) fn take_done_reports(&mut self) -> Vec<AttemptId> {
        std::mem::take(&mut self.remote.done)
    }

    /// They are gone from the store; `false` if they may still be there.
    pub(in crate::scheduler) fn reports_deleted(&mut self, ids: Vec<AttemptId>, gone: bool) {
        if gone {
            for id in ids {
                self.remote.heard.remove(&id);
            }
        } else {
            self.remote.done.extend(ids);
        }
    }
}

/// Takes a claim over into the view, if it is the next change there; else the run must be loaded.
fn note_claim(view: &mut RunView, key: TiKey, row: &TiRow) -> bool {
    let Some(ti) = view.ti(key) else { return false };
    if row.state != TaskState::Running || ti.data.attempt_id != row.data.attempt_id {
        return false;
    }
    if ti.state == TaskState::Queued && ti.epoch + 1 == row.epoch {
        claimed(view, key, row.data.attempt_id.expect("a running instance has an attempt"));
        return true;
    }
    ti.state == TaskState::Running && ti.epoch == row.epoch
}

/// What has a report was claimed before.
fn claimed(view: &mut RunView, key: TiKey, id: AttemptId) {
    let Some(ti) = view.ti(key) else { return };
    if ti.data.attempt_id != Some(id) {
        return;
    }
    if let (TaskState::Queued, Ok(change)) = (ti.state, ti.state.on(TaskEvent::Claimed)) {
        let data = ti.data.clone();
        view.apply(key, change, data);
    }
}
