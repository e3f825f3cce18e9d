//! The rows of a memory store, and what is done to dags, runs and everything beside the units of a commit.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::id::{AttemptId, DagId, MapIndex, RunId, RunPk, TaskId};
use crate::state::{RunState, RunType, TaskState};
use crate::store::judge::TiId;
use crate::store::rules::{self, DEFAULT_POOL, interval, keeps_dag, micros, next_run, storable};
use crate::store::{
    Advance, AttemptRow, AuditEntry, AuditFilter, ConnectionRow, CreatedRun, DagRecord, DagRow, DagVersion,
    EventRow, Expansion, NewRun, Notice, NoticeKey, PastQuery, PastRun, PoolRow, PoolSpec, RunFilter, RunRow,
    RunSnapshot, SlotKey, StoreResult, TiData, TiRow, VariableRow, XComFilter, XComRow, XComWrite,
};
use crate::xcom::SKIP_KEY;

use processes::Processes;
use remote::Remote;
use task_logs::TaskLogs;

mod assets;
mod commit;
mod credentials;
mod notices;
mod old;
mod processes;
mod remote;
mod task_logs;
mod watchers;

/// When a deadline is over, and when it was found to be missed.
type Due = (DateTime<Utc>, Option<DateTime<Utc>>);

/// All rows.
#[derive(Debug)]
pub(super) struct State {
    last_pk: i64,
    dags: BTreeMap<DagId, DagRow>,
    versions: BTreeMap<DagId, Vec<DagVersion>>,
    runs: BTreeMap<RunPk, RunRow>,
    run_ids: BTreeMap<(DagId, RunId), RunPk>,
    run_dates: BTreeSet<(DagId, DateTime<Utc>, RunPk)>,
    tis: BTreeMap<TiId, (TaskState, u32, TiData)>,
    attempts: BTreeMap<(TiId, u32), AttemptRow>,
    attempt_keys: BTreeMap<AttemptId, (TiId, u32)>,
    /// Attempts that have not ended.
    open: BTreeSet<(TiId, u32)>,
    /// Runs that are queued or running.
    active: BTreeSet<RunPk>,
    events: BTreeMap<(TiId, u32), EventRow>,
    xcoms: BTreeMap<(TiId, String), XComRow>,
    expansions: BTreeMap<(RunPk, TaskId), u32>,
    slots: BTreeMap<SlotKey, i64>,
    processes: Processes,
    remote: Remote,
    task_logs: TaskLogs,
    notices: BTreeMap<NoticeKey, Notice>,
    pub(super) assets: assets::Assets,
    deadlines: BTreeMap<(RunPk, String), Due>,
    audit: Vec<AuditEntry>,
    pub(super) variables: BTreeMap<String, VariableRow>,
    pub(super) connections: BTreeMap<String, ConnectionRow>,
    pub(super) pools: BTreeMap<String, PoolSpec>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            last_pk: 0,
            dags: BTreeMap::new(),
            versions: BTreeMap::new(),
            runs: BTreeMap::new(),
            run_ids: BTreeMap::new(),
            run_dates: BTreeSet::new(),
            tis: BTreeMap::new(),
            attempts: BTreeMap::new(),
            attempt_keys: BTreeMap::new(),
            open: BTreeSet::new(),
            active: BTreeSet::new(),
            events: BTreeMap::new(),
            xcoms: BTreeMap::new(),
            expansions: BTreeMap::new(),
            slots: BTreeMap::new(),
            processes: Processes::default(),
            remote: Remote::default(),
            task_logs: TaskLogs::default(),
            notices: BTreeMap::new(),
            assets: assets::Assets::default(),
            deadlines: BTreeMap::new(),
            audit: Vec::new(),
            variables: BTreeMap::new(),
            connections: BTreeMap::new(),
            pools: BTreeMap::from([(DEFAULT_POOL.to_owned(), rules::default_pool())]),
        }
    }
}

/// The smallest id of an instance of a run.
fn first_of(run: RunPk) -> TiId {
    (run, TaskId::new(""), MapIndex(i32::MIN))
}

/// The rows of `map` that belong to `run`, or to one task instance of it.
fn of_run<'a, K: Ord, V>(
    map: &'a BTreeMap<(TiId, K), V>,
    run: RunPk,
    task: Option<(&'a TaskId, MapIndex)>,
    least: K,
) -> impl Iterator<Item = (&'a (TiId, K), &'a V)> {
    let start = match task {
        Some((task, index)) => (run, task.clone(), index),
        None => first_of(run),
    };
    map.range((start, least)..).take_while(move |(((pk, id, index), _), _)| {
        *pk == run && task.is_none_or(|(task, map_index)| id == task && *index == map_index)
    })
}

/// Removes the rows of `map` that belong to `run`, or to one task instance of it.
fn remove_of_run<K: Ord + Clone, V>(
    map: &mut BTreeMap<(TiId, K), V>,
    run: RunPk,
    task: Option<(&TaskId, MapIndex)>,
    least: K,
) {
    let keys: Vec<(TiId, K)> = of_run(map, run, task, least).map(|(key, _)| key.clone()).collect();
    for key in keys {
        map.remove(&key);
    }
}

impl State {
    pub(super) fn sync_dag(&mut self, record: &DagRecord, now: DateTime<Utc>) {
        let now = micros(now);
        let versions = self.versions.entry(record.dag_id.clone()).or_default();
        let known = versions.iter().find(|version| version.fingerprint == record.fingerprint);
        let number = if let Some(version) = known {
            version.number
        } else {
            let number = versions.last().map_or(0, |version| version.number) + 1;
            versions.push(DagVersion {
                number,
                fingerprint: record.fingerprint.clone(),
                structure: serde_json::from_str(&record.structure.to_text()).unwrap_or_default(),
                created_at: now,
            });
            number
        };
        let known = self.dags.get(&record.dag_id);
        let row = DagRow {
            dag_id: record.dag_id.clone(),
            is_paused: known.map_or(record.paused_at_creation, |row| row.is_paused),
            fingerprint: record.fingerprint.clone(),
            version: number,
            schedule: record.schedule.clone(),
            description: record.description.clone(),
            owners: record.owners.clone(),
            tags: record.tags.clone(),
            last_interval: known.and_then(|row| row.last_interval),
            next: known.and_then(|row| row.next).or(record.next.map(next_run)),
            last_seen: now,
        };
        self.dags.insert(record.dag_id.clone(), row);
        self.assets.sync(record);
    }

    pub(super) fn dags(&self) -> Vec<DagRow> {
        self.dags.values().cloned().collect()
    }

    pub(super) fn dag(&self, dag_id: &DagId) -> Option<DagRow> {
        self.dags.get(dag_id).cloned()
    }

    pub(super) fn dag_versions(&self, dag_id: &DagId) -> Vec<DagVersion> {
        self.versions.get(dag_id).into_iter().flatten().rev().cloned().collect()
    }

    pub(super) fn set_paused(&mut self, dag_id: &DagId, paused: bool) -> bool {
        match self.dags.get_mut(dag_id) {
            Some(row) => {
                row.is_paused = paused;
                true
            }
            None => false,
        }
    }

    pub(super) fn advance(&mut self, dag_id: &DagId, advance: Advance) -> StoreResult<()> {
        let row = self.dags.get_mut(dag_id).ok_or_else(|| rules::no_dag(dag_id))?;
        row.last_interval = advance.last_interval.map(interval).or(row.last_interval);
        row.next = advance.next.map(next_run);
        Ok(())
    }

    pub(super) fn delete_dag(&mut self, dag_id: &DagId) -> StoreResult<u64> {
        if !self.dags.contains_key(dag_id) {
            return Err(rules::no_dag(dag_id));
        }
        let runs: Vec<RunPk> = self.runs_of(dag_id).collect();
        let busy = |run: &RunPk| self.tis_of(*run).any(|(_, (state, _, _))| keeps_dag(*state));
        if runs.iter().any(busy) {
            return Err(rules::still_running(dag_id));
        }
        for run in &runs {
            self.delete_run(*run);
        }
        self.dags.remove(dag_id);
        self.forget_watchers_of(dag_id);
        self.assets.forget_dag(dag_id);
        self.versions.remove(dag_id);
        self.slots.retain(|key, _| match key {
            SlotKey::Pool(_) | SlotKey::Deferred(_) => true,
            SlotKey::Dag(dag) | SlotKey::Runs(dag) | SlotKey::Task(dag, _) => dag != dag_id,
        });
        Ok(runs.len() as u64)
    }

    fn runs_of(&self, dag_id: &DagId) -> impl DoubleEndedIterator<Item = RunPk> {
        let start = (dag_id.clone(), DateTime::<Utc>::MIN_UTC, RunPk(i64::MIN));
        let end = (dag_id.clone(), DateTime::<Utc>::MAX_UTC, RunPk(i64::MAX));
        self.run_dates.range(start..=end).map(|(_, _, run)| *run)
    }

    pub(super) fn create_runs(&mut self, runs: Vec<NewRun>) -> StoreResult<Vec<CreatedRun>> {
        if let Some(run) = runs.iter().find(|run| !self.dags.contains_key(&run.dag_id)) {
            return Err(rules::no_dag(&run.dag_id));
        }
        runs.into_iter().map(|run| self.create_run(run)).collect()
    }

    fn create_run(&mut self, run: NewRun) -> StoreResult<CreatedRun> {
        let advance = run.advance.map(|advance| (run.dag_id.clone(), advance));
        let created = match self.assets.taking(&run) {
            None => CreatedRun::Taken,
            Some(run) => match self.run_like(&run) {
                Some(row) => CreatedRun::Exists(Box::new(row)),
                None => CreatedRun::New(Box::new(self.insert_run(run))),
            },
        };
        if let Some((dag_id, advance)) = advance {
            self.advance(&dag_id, advance)?;
        }
        Ok(created)
    }

    /// The run of the same id; else the one of the same logical date, if neither is manual.
    fn run_like(&self, run: &NewRun) -> Option<RunRow> {
        if let Some(pk) = self.run_ids.get(&(run.dag_id.clone(), run.run_id.clone())) {
            return self.runs.get(pk).cloned();
        }
        let date = micros(run.logical_date);
        let range = (run.dag_id.clone(), date, RunPk(i64::MIN))..=(run.dag_id.clone(), date, RunPk(i64::MAX));
        let same_date = self.run_dates.range(range).filter_map(|(_, _, pk)| self.runs.get(pk));
        same_date
            .filter(|row| row.run_type.is_timed() && run.run_type.is_timed())
            .min_by_key(|row| row.pk)
            .cloned()
    }

    fn insert_run(&mut self, run: NewRun) -> RunRow {
        self.last_pk += 1;
        let row = RunRow {
            pk: RunPk(self.last_pk),
            dag_id: run.dag_id,
            run_id: run.run_id,
            run_type: run.run_type,
            state: RunState::Queued,
            logical_date: micros(run.logical_date),
            data_interval: interval(run.data_interval),
            run_after: micros(run.run_after),
            queued_at: micros(run.queued_at),
            started_at: None,
            ended_at: None,
            conf: run.conf,
            fingerprint: run.fingerprint,
            generation: 0,
            triggered_by: run.triggered_by,
            ignores_past: run.ignores_past,
            queue: run.queue,
            reason: None,
        };
        self.run_ids.insert((row.dag_id.clone(), row.run_id.clone()), row.pk);
        self.run_dates.insert((row.dag_id.clone(), row.logical_date, row.pk));
        self.active.insert(row.pk);
        self.runs.insert(row.pk, row.clone());
        for deadline in run.deadlines {
            self.deadlines.entry((row.pk, deadline.name)).or_insert_with(|| (micros(deadline.due), None));
        }
        if run.assets.is_some() {
            self.assets.take(&row.dag_id, row.pk);
        }
        row
    }

    pub(super) fn runs(&self, filter: &RunFilter) -> Vec<RunRow> {
        let fits = |row: &&RunRow| {
            filter.dag_id.as_ref().is_none_or(|dag| *dag == row.dag_id)
                && filter.run_id.as_ref().is_none_or(|id| *id == row.run_id)
                && (filter.states.is_empty() || filter.states.contains(&row.state))
                && (filter.types.is_empty() || filter.types.contains(&row.run_type))
                && filter.from.is_none_or(|from| row.logical_date >= from)
                && filter.to.is_none_or(|to| row.logical_date <= to)
                && filter.ended_by.is_none_or(|by| row.ended_at.is_some_and(|ended| ended <= by))
        };
        let only_active = !filter.states.is_empty() && !filter.states.iter().any(|state| state.is_finished());
        let mut rows: Vec<&RunRow> = if only_active {
            self.active.iter().filter_map(|pk| self.runs.get(pk)).filter(fits).collect()
        } else {
            self.runs.values().filter(fits).collect()
        };
        rows.sort_by_key(|row| (row.logical_date, row.pk));
        if filter.newest_first {
            rows.reverse();
        }
        let limit = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        rows.into_iter().skip(filter.offset as usize).take(limit).cloned().collect()
    }

    pub(super) fn load_run(&self, run: RunPk, past: Option<&PastQuery>) -> Option<RunSnapshot> {
        let row = self.runs.get(&run)?;
        let past = past.and_then(|query| self.run_before(row, *query));
        let expansions = self
            .expansions
            .range((run, TaskId::new(""))..)
            .take_while(|((pk, _), _)| *pk == run)
            .map(|((_, owner), length)| Expansion { owner: owner.clone(), length: *length });
        let skips = of_run(&self.xcoms, run, None, String::new())
            .filter(|((_, key), _)| key == SKIP_KEY)
            .filter_map(|(_, xcom)| {
                Some((xcom.task_id.clone(), xcom.map_index, rules::skip_record(xcom.value.value())?))
            });
        Some(RunSnapshot {
            run: row.clone(),
            tis: self.task_instances(run),
            expansions: expansions.collect(),
            skips: skips.collect(),
            past: past.map(|pk| PastRun { pk, tis: self.task_instances(pk) }),
        })
    }

    fn run_before(&self, row: &RunRow, query: PastQuery) -> Option<RunPk> {
        let start = (row.dag_id.clone(), DateTime::<Utc>::MIN_UTC, RunPk(i64::MIN));
        let end = (row.dag_id.clone(), row.logical_date, RunPk(i64::MIN));
        let counts = |kind| !query.scheduled_only || matches!(kind, RunType::Scheduled | RunType::Backfill);
        let mut before = self.run_dates.range(start..end).rev().map(|(_, _, pk)| *pk);
        before.find(|pk| self.runs.get(pk).is_some_and(|run| counts(run.run_type)))
    }

    pub(super) fn delete_run(&mut self, run: RunPk) -> bool {
        let Some(row) = self.runs.remove(&run) else { return false };
        let held = self.tis_of(run).filter_map(|((_, task, _), (state, _, data))| {
            data.holds.as_deref().map(|held| (task, *state, held))
        });
        for (key, count) in rules::held_by(&row.dag_id, row.state, held) {
            let used = self.slots.entry(key).or_default();
            *used = (*used - count).max(0);
        }
        self.run_ids.remove(&(row.dag_id.clone(), row.run_id));
        self.run_dates.remove(&(row.dag_id, row.logical_date, run));
        let tis: Vec<TiId> = self.tis_of(run).map(|(ti, _)| ti.clone()).collect();
        for ti in tis {
            self.tis.remove(&ti);
        }
        let attempts: Vec<AttemptId> =
            of_run(&self.attempts, run, None, 0).map(|(_, row)| row.start.attempt_id).collect();
        self.task_logs.chunks.retain(|(id, _), _| !attempts.contains(id));
        for key in attempts.iter().filter_map(|id| self.attempt_keys.remove(id)).collect::<Vec<_>>() {
            self.open.remove(&key);
        }
        self.active.remove(&run);
        self.processes.owners.remove(&run);
        remove_of_run(&mut self.attempts, run, None, 0);
        remove_of_run(&mut self.events, run, None, 0);
        remove_of_run(&mut self.xcoms, run, None, String::new());
        self.expansions.retain(|(pk, _), _| *pk != run);
        self.notices.retain(|key, _| key.run != run);
        self.deadlines.retain(|(pk, _), _| *pk != run);
        self.assets.forget_run(run);
        self.remote.reports.retain(|_, report| report.run != run);
        true
    }

    fn tis_of(&self, run: RunPk) -> impl Iterator<Item = (&TiId, &(TaskState, u32, TiData))> {
        self.tis.range(first_of(run)..).take_while(move |((pk, _, _), _)| *pk == run)
    }

    pub(super) fn task_instances(&self, run: RunPk) -> Vec<TiRow> {
        let row = |((_, task, map_index), (state, epoch, data)): (&TiId, &(TaskState, u32, TiData))| TiRow {
            task_id: task.clone(),
            map_index: *map_index,
            state: *state,
            epoch: *epoch,
            data: data.clone(),
        };
        self.tis_of(run).map(row).collect()
    }

    pub(super) fn attempts(&self, run: RunPk, task: Option<(&TaskId, MapIndex)>) -> Vec<AttemptRow> {
        of_run(&self.attempts, run, task, 0).map(|(_, row)| row.clone()).collect()
    }

    pub(super) fn events(&self, run: RunPk, task: Option<(&TaskId, MapIndex)>) -> Vec<EventRow> {
        of_run(&self.events, run, task, 0).map(|(_, row)| row.clone()).collect()
    }

    pub(super) fn xcoms(&self, filter: &XComFilter) -> Vec<XComRow> {
        of_run(&self.xcoms, filter.run, None, String::new())
            .filter(|(id, _)| matches(filter, id))
            .map(|(_, row)| row.clone())
            .collect()
    }

    pub(super) fn set_xcom(&mut self, run: RunPk, xcom: &XComWrite, now: DateTime<Utc>) -> StoreResult<()> {
        let Some(row) = self.runs.get_mut(&run) else { return Err(rules::no_run(run)) };
        row.generation += 1;
        self.write_xcom(run, xcom, now);
        Ok(())
    }

    fn write_xcom(&mut self, run: RunPk, xcom: &XComWrite, at: DateTime<Utc>) {
        let row = XComRow {
            run,
            task_id: xcom.task_id.clone(),
            map_index: xcom.map_index,
            key: xcom.key.clone(),
            value: std::sync::Arc::clone(&xcom.value),
            at: micros(at),
        };
        self.xcoms.insert(((run, row.task_id.clone(), row.map_index), row.key.clone()), row);
    }

    pub(super) fn delete_xcoms(&mut self, filter: &XComFilter) -> u64 {
        if let Some(run) = self.runs.get_mut(&filter.run) {
            run.generation += 1;
        }
        let before = self.xcoms.len();
        self.xcoms.retain(|id, _| !matches(filter, id));
        (before - self.xcoms.len()) as u64
    }

    pub(super) fn set_variable(&mut self, variable: VariableRow) {
        let known = self.variables.get(&variable.key).and_then(|row| row.description.clone());
        let description = variable.description.or(known);
        let key = storable(&variable.key).into_owned();
        let value = storable(&variable.value).into_owned();
        self.variables.insert(key.clone(), VariableRow { key, value, description, ..variable });
    }

    pub(super) fn pools(&self) -> Vec<PoolRow> {
        let used = |key: SlotKey| self.slots.get(&key).copied().unwrap_or(0);
        let row = |spec: &PoolSpec| PoolRow {
            spec: spec.clone(),
            used: used(SlotKey::Pool(spec.name.clone())),
            deferred: used(SlotKey::Deferred(spec.name.clone())),
        };
        self.pools.values().map(row).collect()
    }

    pub(super) fn slots(&self) -> Vec<(SlotKey, i64)> {
        self.slots.iter().filter(|(_, used)| **used > 0).map(|(key, used)| (key.clone(), *used)).collect()
    }

    pub(super) fn audit(&mut self, entry: AuditEntry) {
        self.audit.push(AuditEntry { at: micros(entry.at), ..entry });
    }

    pub(super) fn audit_log(&self, filter: &AuditFilter) -> Vec<AuditEntry> {
        let fits = |entry: &&AuditEntry| {
            filter.dag_id.as_ref().is_none_or(|dag| entry.dag_id.as_ref() == Some(dag))
                && filter.event.as_ref().is_none_or(|event| entry.event == *event)
        };
        // A stable sort of the reversed list: of equal times the one written last comes first.
        let mut entries: Vec<&AuditEntry> = self.audit.iter().rev().filter(fits).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.at));
        let limit = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        entries.into_iter().take(limit).cloned().collect()
    }
}

fn matches(filter: &XComFilter, ((run, task, map_index), key): &(TiId, String)) -> bool {
    *run == filter.run
        && (filter.tasks.is_empty() || filter.tasks.contains(task))
        && filter.map_index.is_none_or(|index| index == *map_index)
        && filter.key.as_ref().is_none_or(|wanted| wanted == key)
}
