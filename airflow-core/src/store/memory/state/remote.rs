//! Attempts that run in other processes, and the workers that run them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::id::{AttemptId, DagId, IncarnationId, RunPk};
use crate::store::rules::micros;
use crate::store::{
    AttemptRow, AttemptState, Carrier, FoundAttempt, MissingVersion, QueuedAttempts, StoredReport, TiRow,
    WorkerRow,
};

use super::State;

/// The rows.
#[derive(Debug, Default)]
pub(super) struct Remote {
    pub(super) reports: BTreeMap<AttemptId, StoredReport>,
    workers: BTreeMap<String, (IncarnationId, Value, DateTime<Utc>)>,
    pub(super) carried: BTreeSet<(DagId, String, IncarnationId)>,
    settings: BTreeMap<String, String>,
}

impl State {
    pub(in crate::store::memory) fn find_attempts(&self, ids: &[AttemptId]) -> Vec<FoundAttempt> {
        let found = |id: &AttemptId| {
            let key = self.attempt_keys.get(id)?;
            let attempt = self.attempts.get(key)?;
            let (run, task_id, map_index) = &key.0;
            let (state, epoch, data) = self.tis.get(&key.0)?.clone();
            let ti = TiRow { task_id: task_id.clone(), map_index: *map_index, state, epoch, data };
            let run = self.runs.get(run)?.clone();
            Some(FoundAttempt { run, ti, start: attempt.start.clone(), state: attempt.state })
        };
        ids.iter().filter_map(found).collect()
    }

    pub(in crate::store::memory) fn open_attempts_of(&self, process: IncarnationId) -> Vec<AttemptId> {
        let of_process = self.open_attempts().filter(|row| row.start.incarnation == Some(process));
        let mut ids: Vec<AttemptId> = of_process.map(|row| row.start.attempt_id).collect();
        ids.retain(|id| !self.remote.reports.contains_key(id));
        ids.sort_unstable();
        ids
    }

    pub(in crate::store::memory) fn queued_attempts(&self) -> Vec<QueuedAttempts> {
        let mut queues: BTreeMap<String, QueuedAttempts> = BTreeMap::new();
        for row in self.open_attempts().filter(|row| row.state == AttemptState::Queued) {
            let (queue, at) = (row.start.queue.clone(), row.start.at);
            let new = QueuedAttempts { queue: queue.clone(), count: 0, oldest: at };
            let queued = queues.entry(queue).or_insert(new);
            queued.count += 1;
            queued.oldest = queued.oldest.min(at);
        }
        queues.into_values().collect()
    }

    pub(in crate::store::memory) fn add_reports(
        &mut self,
        process: IncarnationId,
        reports: Vec<StoredReport>,
    ) -> Vec<bool> {
        let ids: Vec<AttemptId> = reports.iter().map(|report| report.attempt_id).collect();
        for mut report in reports {
            self.add_log_chunks(report.log.take().into_iter().collect());
            let attempt = self.attempt_keys.get(&report.attempt_id).and_then(|key| self.attempts.get(key));
            let is_open =
                |row: &&crate::store::AttemptRow| row.end.is_none() && row.start.incarnation == Some(process);
            let Some(attempt) = attempt.filter(is_open).filter(|_| self.processes.is_alive(process)) else {
                continue;
            };
            report.run = attempt.run;
            report.task_id = attempt.start.task_id.clone();
            report.map_index = attempt.start.map_index;
            report.at = micros(report.at);
            self.remote.reports.entry(report.attempt_id).or_insert(report);
        }
        ids.iter().map(|id| self.remote.reports.contains_key(id)).collect()
    }

    pub(in crate::store::memory) fn reports(&self, process: IncarnationId, limit: u32) -> Vec<StoredReport> {
        let is_mine = |report: &&StoredReport| self.processes.owners.get(&report.run) == Some(&process);
        let mut reports: Vec<StoredReport> = self.remote.reports.values().filter(is_mine).cloned().collect();
        reports.sort_by_key(|report| (report.at, report.attempt_id));
        reports.truncate(limit as usize);
        reports
    }

    pub(in crate::store::memory) fn delete_reports(&mut self, ids: &[AttemptId]) {
        ids.iter().for_each(|id| drop(self.remote.reports.remove(id)));
    }

    pub(in crate::store::memory) fn register_worker(
        &mut self,
        process: IncarnationId,
        name: &str,
        info: &Value,
        now: DateTime<Utc>,
    ) -> bool {
        let is_taken = |holder: &IncarnationId| *holder != process && self.processes.is_alive(*holder);
        if self.remote.workers.get(name).is_some_and(|(holder, ..)| is_taken(holder)) {
            return false;
        }
        self.remote.workers.insert(name.to_owned(), (process, info.clone(), micros(now)));
        true
    }

    pub(in crate::store::memory) fn update_worker(
        &mut self,
        process: IncarnationId,
        name: &str,
        info: &Value,
        now: DateTime<Utc>,
    ) -> bool {
        let worker = self.remote.workers.get_mut(name).filter(|(holder, ..)| *holder == process);
        worker.map(|worker| *worker = (process, info.clone(), micros(now))).is_some()
    }

    pub(in crate::store::memory) fn workers(&self) -> Vec<WorkerRow> {
        let row =
            |(name, (process, info, at)): (&String, &(IncarnationId, Value, DateTime<Utc>))| WorkerRow {
                name: name.clone(),
                process: *process,
                info: info.clone(),
                at: *at,
                has_ended: !self.processes.is_alive(*process),
            };
        self.remote.workers.iter().map(row).collect()
    }

    pub(in crate::store::memory) fn forget_worker(&mut self, name: &str) -> bool {
        let has_ended =
            |(process, ..): &(IncarnationId, Value, DateTime<Utc>)| !self.processes.is_alive(*process);
        self.remote.workers.get(name).is_some_and(has_ended) && self.remote.workers.remove(name).is_some()
    }

    pub(in crate::store::memory) fn carry(&mut self, process: IncarnationId, versions: Vec<(DagId, String)>) {
        self.remote.carried.extend(versions.into_iter().map(|(dag, print)| (dag, print, process)));
    }

    pub(in crate::store::memory) fn carriers(&self, dag_id: &DagId) -> Vec<Carrier> {
        let carrier = |(dag, print, process): &(DagId, String, IncarnationId)| {
            let kind = self.processes.kind_of(*process).filter(|_| dag == dag_id)?;
            let (dag_id, fingerprint) = (dag.clone(), print.clone());
            Some(Carrier { dag_id, fingerprint, process: *process, kind })
        };
        self.remote.carried.iter().filter_map(carrier).collect()
    }

    fn is_carried(&self, kind: &str, dag_id: &DagId, fingerprint: &str) -> bool {
        let mut carriers = self.carriers(dag_id).into_iter();
        carriers.any(|carrier| carrier.kind == kind && carrier.fingerprint == fingerprint)
    }

    fn waiting_attempts(&self) -> impl Iterator<Item = &AttemptRow> {
        self.open_attempts().filter(|row| row.state == AttemptState::Queued)
    }

    pub(in crate::store::memory) fn missing_versions(&self) -> Vec<MissingVersion> {
        let active = self.runs.values().filter(|run| !run.state.is_finished());
        let runs = active.map(|run| ("scheduler", run, run.queued_at));
        let attempts =
            self.waiting_attempts().filter_map(|row| Some((self.runs.get(&row.run)?, row.start.at)));
        let attempts = attempts.map(|(run, at)| ("worker", run, at));
        let mut missing = BTreeMap::new();
        for (kind, run, since) in runs.chain(attempts) {
            let (dag_id, fingerprint) = (&run.dag_id, run.fingerprint.as_str());
            if self.is_carried(kind, dag_id, fingerprint) {
                continue;
            }
            let version = missing.entry((kind, dag_id, fingerprint)).or_insert(MissingVersion {
                kind: kind.to_owned(),
                dag_id: dag_id.clone(),
                fingerprint: fingerprint.to_owned(),
                waiting: 0,
                since,
            });
            (version.waiting, version.since) = (version.waiting + 1, version.since.min(since));
        }
        missing.into_values().collect()
    }

    pub(in crate::store::memory) fn move_run(&mut self, run: RunPk, from: &str, to: &str) -> bool {
        let dag_id = self.runs.get(&run).map(|row| row.dag_id.clone());
        if dag_id.is_none_or(|dag_id| self.is_carried("scheduler", &dag_id, from)) {
            return false;
        }
        let Some(row) = self.runs.get_mut(&run).filter(|row| row.fingerprint == from) else { return false };
        (row.fingerprint, row.generation) = (to.to_owned(), row.generation + 1);
        true
    }

    pub(in crate::store::memory) fn keep_setting(&mut self, name: &str, value: &str) -> String {
        self.remote.settings.entry(name.to_owned()).or_insert_with(|| value.to_owned()).clone()
    }
}
