//! Assets, their events, what waits for dags; and deadlines.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::asset::{AssetEventId, AssetKey, AssetRef, WatcherKey, interval_of};
use crate::id::{DagId, MapIndex, RunPk, TaskId};
use crate::store::rules::{self, Taken, micros, storable};
use crate::store::{
    AssetEvent, AssetEventFilter, AssetRole, AssetRow, DagRecord, DeadlineKey, DeadlineRow, NewRun,
    QueueFilter, QueuedAsset, QueuedEvent, Settlement,
};
use crate::timetable::DataInterval;

use super::State;
use super::watchers::Watcher;

/// What waits for a dag: an event, by the asset or alias that its schedule names; and whether it makes a run.
type Queue = BTreeMap<(DagId, AssetEventId, AssetKey), bool>;

/// The rows of assets.
#[derive(Debug, Default)]
pub(in crate::store::memory) struct Assets {
    pub(super) known: BTreeMap<AssetKey, AssetRow>,
    pub(super) watchers: BTreeMap<WatcherKey, Watcher>,
    pub(super) refs: BTreeSet<(AssetKey, AssetRole, DagId, TaskId)>,
    events: BTreeMap<AssetEventId, AssetEvent>,
    queue: Queue,
    /// Which events made a run.
    pub(super) made: BTreeSet<(RunPk, AssetEventId)>,
}

fn row(key: AssetKey, is_alias: bool, [name, uri, group]: [&str; 3], extra: Value) -> AssetRow {
    AssetRow {
        key,
        is_alias,
        name: storable(name).into_owned(),
        uri: uri.to_owned(),
        group: storable(group).into_owned(),
        extra,
        consumers: Vec::new(),
        producers: Vec::new(),
        readers: Vec::new(),
        watchers: Vec::new(),
        events: 0,
        last_event: None,
    }
}

impl Assets {
    pub(super) fn sync(&mut self, record: &DagRecord) {
        let dag = &record.dag_id;
        self.refs.retain(|(_, _, other, _)| other != dag);
        for named in &record.assets {
            let key = named.asset.key();
            let task = named.task_id.clone().unwrap_or_else(|| TaskId::new(""));
            self.refs.insert((key.clone(), named.role, dag.clone(), task));
            let new = match &named.asset {
                AssetRef::Asset(asset) => {
                    let words = [asset.name(), asset.uri(), asset.group_name()];
                    row(key.clone(), false, words, asset.facts().clone())
                }
                AssetRef::Alias(alias) => {
                    row(key.clone(), true, [alias.name(), "", alias.group_name()], Value::Null)
                }
            };
            self.known.insert(key, new);
        }
    }

    /// Forgets what waits for a dag and is not named by its schedule any more.
    pub(in crate::store::memory) fn unqueue(&mut self, dag: &DagId) {
        let (refs, no_task) = (&self.refs, TaskId::new(""));
        self.queue.retain(|(other, _, key), _| {
            let named = (key.clone(), AssetRole::Schedule, dag.clone(), no_task.clone());
            other != dag || refs.contains(&named)
        });
    }

    pub(super) fn forget_dag(&mut self, dag: &DagId) {
        self.refs.retain(|(_, _, other, _)| other != dag);
        self.queue.retain(|(other, _, _), _| other != dag);
    }

    pub(super) fn forget_run(&mut self, run: RunPk) {
        self.made.retain(|(other, _)| *other != run);
    }

    pub(in crate::store::memory) fn list(&self) -> Vec<AssetRow> {
        let mut all = self.known.clone();
        for (key, role, dag, task) in &self.refs {
            let Some(asset) = all.get_mut(key) else { continue };
            match role {
                AssetRole::Schedule => asset.consumers.push(dag.clone()),
                AssetRole::Outlet => asset.producers.push((dag.clone(), task.clone())),
                AssetRole::Inlet => asset.readers.push((dag.clone(), task.clone())),
                AssetRole::Watcher => asset.watchers.push(task.to_string()),
            }
        }
        for asset in all.values_mut() {
            asset.watchers.sort();
            asset.watchers.dedup();
        }
        for event in self.events.values() {
            if let Some(asset) = all.get_mut(&event.key()) {
                asset.events += 1;
                asset.last_event = asset.last_event.max(Some(event.at));
            }
        }
        let mut all: Vec<AssetRow> = all.into_values().collect();
        all.sort_by(|a, b| (&a.name, &a.uri, &a.key).cmp(&(&b.name, &b.uri, &b.key)));
        all
    }

    pub(in crate::store::memory) fn events(&self, filter: &AssetEventFilter) -> Vec<AssetEvent> {
        let fits = |event: &&AssetEvent| {
            let source = event.source.as_ref();
            filter.asset.as_ref().is_none_or(|key| event.key() == *key)
                && filter.alias.as_ref().is_none_or(|alias| event.aliases.contains(alias))
                && filter.dag_id.as_ref().is_none_or(|id| source.is_some_and(|source| source.dag_id == *id))
                && filter.run_id.as_ref().is_none_or(|id| source.is_some_and(|source| source.run_id == *id))
                && filter.task_id.as_ref().is_none_or(|id| source.is_some_and(|source| source.task_id == *id))
                && filter
                    .map_index
                    .is_none_or(|index| source.map_or(MapIndex::UNMAPPED, |source| source.map_index) == index)
                && filter.triggered.is_none_or(|run| self.made.contains(&(run, event.id.clone())))
                && filter.from.is_none_or(|from| event.at >= from)
                && filter.to.is_none_or(|to| event.at <= to)
        };
        let mut found: Vec<&AssetEvent> = self.events.values().filter(fits).collect();
        found.sort_by_key(|event| {
            let source = event.source.as_ref();
            let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
            (
                event.at,
                text(source.map(|source| source.dag_id.as_str())),
                text(source.map(|source| source.run_id.as_str())),
                text(source.map(|source| source.task_id.as_str())),
                source.map_or(MapIndex::UNMAPPED, |source| source.map_index),
                event.id.clone(),
            )
        });
        if filter.newest_first {
            found.reverse();
        }
        let limit = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        found.into_iter().take(limit).cloned().map(|event| self.with_group(event)).collect()
    }

    pub(in crate::store::memory) fn queued(&self) -> Vec<QueuedAsset> {
        let mut counts: BTreeMap<(&DagId, &AssetKey), u64> = BTreeMap::new();
        for ((dag, _, asset), _) in self.queue.iter().filter(|(_, counts)| **counts) {
            *counts.entry((dag, asset)).or_default() += 1;
        }
        let queued = |((dag, asset), events): ((&DagId, &AssetKey), u64)| QueuedAsset {
            dag_id: dag.clone(),
            asset: asset.clone(),
            events,
        };
        counts.into_iter().map(queued).collect()
    }

    pub(in crate::store::memory) fn queued_events(&self, filter: &QueueFilter) -> Vec<QueuedEvent> {
        let queued = self.queue.iter().filter_map(|((dag, event, asset), counts)| {
            let at = self.events.get(event)?.at;
            let fits = filter.dag_id.as_ref().is_none_or(|wanted| wanted == dag)
                && filter.asset.as_ref().is_none_or(|wanted| wanted == asset)
                && filter.until.is_none_or(|until| at <= until);
            let (dag_id, asset, event) = (dag.clone(), asset.clone(), event.clone());
            fits.then_some(QueuedEvent { dag_id, asset, event, at, counts: *counts })
        });
        let mut all: Vec<QueuedEvent> = queued.collect();
        all.sort_by(|a, b| (&a.dag_id, &a.asset, a.at, &a.event).cmp(&(&b.dag_id, &b.asset, b.at, &b.event)));
        all
    }

    pub(in crate::store::memory) fn unqueue_events(&mut self, filter: &QueueFilter) -> u64 {
        let gone = self.queued_events(filter);
        for one in &gone {
            self.queue.remove(&(one.dag_id.clone(), one.event.clone(), one.asset.clone()));
        }
        gone.len() as u64
    }

    /// The run as it is to be inserted; `None` if its events are another run's.
    pub(super) fn taking(&self, run: &NewRun) -> Option<NewRun> {
        let Some(trigger) = &run.assets else { return Some(run.clone()) };
        let waiting = || self.queue.iter().filter(|((dag, _, _), _)| *dag == run.dag_id);
        let has = |key: &AssetKey| waiting().any(|((_, _, asset), counts)| *counts && asset == key);
        if trigger.needs.is_empty() || !trigger.needs.iter().all(has) {
            return None;
        }
        let events: Vec<&AssetEvent> =
            waiting().filter_map(|((_, event, _), _)| self.events.get(event)).collect();
        let intervals = events.iter().map(|event| interval_of(event.source.as_ref(), event.at));
        let intervals: Vec<DataInterval> = intervals.collect();
        let interval = DataInterval {
            start: intervals.iter().map(|interval| interval.start).min()?,
            end: intervals.iter().map(|interval| interval.end).max()?,
        };
        let newest = events.iter().map(|event| event.at).max()?;
        let least = events.iter().map(|event| event.id.as_str()).min()?;
        Some(rules::taking(run, Taken { newest, interval, least }))
    }

    /// Gives a run all that waits for its dag.
    pub(super) fn take(&mut self, dag: &DagId, run: RunPk) {
        let taken = self.queue.keys().filter(|(other, _, _)| other == dag);
        self.made.extend(taken.map(|(_, event, _)| (run, event.clone())));
        self.queue.retain(|(other, _, _), _| other != dag);
    }

    /// Events that wait for no run and made none, by time.
    pub(super) fn old(&self, before: DateTime<Utc>) -> Vec<AssetEvent> {
        let waits: BTreeSet<&AssetEventId> = self.queue.keys().map(|(_, event, _)| event).collect();
        let made: BTreeSet<&AssetEventId> = self.made.iter().map(|(_, event)| event).collect();
        let old = |event: &&AssetEvent| {
            event.at < before && !waits.contains(&event.id) && !made.contains(&event.id)
        };
        let mut found: Vec<AssetEvent> = self.events.values().filter(old).cloned().collect();
        found.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        found.into_iter().map(|event| self.with_group(event)).collect()
    }

    pub(super) fn delete_event(&mut self, id: &AssetEventId) {
        self.events.remove(id);
    }

    /// An event with the group that its asset has now.
    fn with_group(&self, event: AssetEvent) -> AssetEvent {
        let known = self.known.get(&event.key());
        let group = known.map_or_else(|| event.group.clone(), |row| row.group.clone());
        AssetEvent { group, ..event }
    }
}

impl State {
    pub(in crate::store::memory) fn add_asset_event(&mut self, event: &AssetEvent) {
        let assets = &mut self.assets;
        let key = event.key();
        let words = [event.name.as_str(), &event.uri, &event.group];
        assets.known.entry(key.clone()).or_insert_with(|| row(key, false, words, Value::Null));
        let source = event.source.as_ref().map(|source| crate::asset::EventSource {
            data_interval: rules::interval(source.data_interval),
            ..source.clone()
        });
        let stored = AssetEvent { at: micros(event.at), source, ..event.clone() };
        assets.events.entry(event.id.clone()).or_insert(stored);
        for asset in event.refs() {
            let schedules =
                assets.refs.iter().filter(|(key, role, _, _)| *key == asset && *role == AssetRole::Schedule);
            for (_, _, dag, _) in schedules {
                let counts = self.dags.get(dag).is_some_and(|row| !row.is_paused);
                let queued = (dag.clone(), event.id.clone(), asset.clone());
                assets.queue.entry(queued).or_insert(counts);
            }
        }
    }

    fn deadline_rows(&self) -> impl Iterator<Item = DeadlineRow> {
        self.deadlines.iter().filter_map(|((run, name), (due, missed_at))| {
            let run = self.runs.get(run)?.clone();
            Some(DeadlineRow { run, name: name.clone(), due: *due, missed_at: *missed_at })
        })
    }

    pub(in crate::store::memory) fn deadlines(
        &self,
        dags: &[DagId],
        until: Option<DateTime<Utc>>,
        limit: u32,
    ) -> Vec<DeadlineRow> {
        let mut rows: Vec<DeadlineRow> = self.deadline_rows().filter(|row| row.missed_at.is_none()).collect();
        rows.retain(|row| dags.contains(&row.run.dag_id) && until.is_none_or(|until| row.due <= until));
        rows.sort_by(|a, b| (a.due, a.run.pk, &a.name).cmp(&(b.due, b.run.pk, &b.name)));
        rows.truncate(limit as usize);
        rows
    }

    pub(in crate::store::memory) fn missed_deadlines(
        &self,
        dag: Option<&DagId>,
        limit: u32,
    ) -> Vec<DeadlineRow> {
        let mut rows: Vec<DeadlineRow> = self.deadline_rows().filter(|row| row.missed_at.is_some()).collect();
        rows.retain(|row| dag.is_none_or(|dag| row.run.dag_id == *dag));
        rows.sort_by(|a, b| (b.missed_at, b.run.pk, &a.name).cmp(&(a.missed_at, a.run.pk, &b.name)));
        rows.truncate(limit as usize);
        rows
    }

    pub(in crate::store::memory) fn settle_deadline(
        &mut self,
        seen: &DeadlineKey,
        settlement: Settlement,
    ) -> bool {
        let key = (seen.run, seen.name.clone());
        let due = micros(seen.due);
        if self.deadlines.get(&key) != Some(&(due, None)) {
            return false;
        }
        match settlement {
            Settlement::Later(due) => {
                self.deadlines.insert(key, (micros(due), None));
            }
            Settlement::Met => {
                self.deadlines.remove(&key);
            }
            Settlement::Missed(notice) => {
                self.deadlines.insert(key, (due, Some(micros(notice.at))));
                self.insert_notice(seen.run, &notice);
            }
        }
        true
    }
}
