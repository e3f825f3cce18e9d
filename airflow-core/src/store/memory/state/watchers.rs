//! Watchers of assets: which process runs one, and how far it has come.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::asset::WatcherKey;
use crate::id::{DagId, IncarnationId};
use crate::store::rules::{micros, storable};
use crate::store::{AssetRole, WatchedEvent, WatcherRow};

use super::State;

/// What is kept of a watcher.
#[derive(Debug, Default)]
pub(in crate::store::memory) struct Watcher {
    owner: Option<IncarnationId>,
    cursor: Option<Value>,
    events: u64,
    last_event: Option<DateTime<Utc>>,
    failures: u32,
    error: Option<String>,
    failed_at: Option<DateTime<Utc>>,
    updated_at: DateTime<Utc>,
}

impl State {
    /// The dags that have to do with an asset in this way; of a watcher those that name the one of this name.
    fn dags_of<'s>(&'s self, key: &'s WatcherKey, role: AssetRole) -> impl Iterator<Item = &'s DagId> {
        let is_it = move |task: &str| role != AssetRole::Watcher || task == key.name;
        let refs = self.assets.refs.iter();
        refs.filter(move |(asset, other, _, task)| {
            *asset == key.asset && *other == role && is_it(task.as_str())
        })
        .map(|(_, _, dag, _)| dag)
    }

    fn watcher_row(&self, key: &WatcherKey, watcher: &Watcher) -> WatcherRow {
        let is_named = self.dags_of(key, AssetRole::Watcher).next().is_some();
        let runs = |dag: &DagId| self.dags.get(dag).is_some_and(|row| !row.is_paused);
        WatcherRow {
            key: key.clone(),
            asset: self.assets.known.get(&key.asset).map(|row| row.name.clone()).unwrap_or_default(),
            is_named,
            is_wanted: is_named && self.dags_of(key, AssetRole::Schedule).any(runs),
            owner: watcher.owner.filter(|owner| self.processes.is_alive(*owner)),
            cursor: watcher.cursor.clone(),
            events: watcher.events,
            last_event: watcher.last_event,
            failures: watcher.failures,
            error: watcher.error.clone(),
            failed_at: watcher.failed_at,
            updated_at: watcher.updated_at,
        }
    }

    pub(in crate::store::memory) fn watchers(&self) -> Vec<WatcherRow> {
        self.assets.watchers.iter().map(|(key, watcher)| self.watcher_row(key, watcher)).collect()
    }

    pub(in crate::store::memory) fn claim_watchers(
        &mut self,
        keys: &[WatcherKey],
        process: IncarnationId,
    ) -> Vec<WatcherRow> {
        let mut rows = self.watchers();
        rows.retain(|row| row.is_wanted && keys.contains(&row.key));
        let is_alive = self.processes.is_alive(process);
        for row in rows.iter_mut().filter(|row| row.owner.is_none() && is_alive) {
            row.owner = Some(process);
            if let Some(watcher) = self.assets.watchers.get_mut(&row.key) {
                watcher.owner = Some(process);
            }
        }
        rows.retain(|row| row.owner == Some(process));
        rows
    }

    pub(in crate::store::memory) fn add_watched(
        &mut self,
        process: IncarnationId,
        watched: &WatchedEvent,
    ) -> bool {
        let is_alive = self.processes.is_alive(process);
        let Some(watcher) = self.assets.watchers.get_mut(&watched.key) else { return false };
        if !is_alive || watcher.owner != Some(process) || watcher.events != watched.after {
            return false;
        }
        let at = micros(watched.event.at);
        watcher.cursor = Some(watched.cursor.clone());
        watcher.events += 1;
        (watcher.last_event, watcher.updated_at, watcher.failures) = (Some(at), at, 0);
        self.add_asset_event(&watched.event);
        true
    }

    pub(in crate::store::memory) fn note_watcher(
        &mut self,
        process: IncarnationId,
        key: &WatcherKey,
        error: Option<&str>,
        at: DateTime<Utc>,
    ) -> bool {
        let Some(watcher) = self.assets.watchers.get_mut(key) else { return false };
        if watcher.owner != Some(process) {
            return false;
        }
        watcher.updated_at = micros(at);
        watcher.failures = if error.is_some() { watcher.failures + 1 } else { 0 };
        if let Some(error) = error {
            (watcher.error, watcher.failed_at) = (Some(storable(error).into_owned()), Some(micros(at)));
        }
        true
    }

    /// Makes the watchers known that a dag names.
    pub(in crate::store::memory) fn meet_watchers(&mut self, dag: &DagId, now: DateTime<Utc>) {
        let refs = self.assets.refs.iter();
        let named = refs.filter(|(_, role, other, _)| *role == AssetRole::Watcher && other == dag);
        for (asset, _, _, name) in named {
            let key = WatcherKey { asset: asset.clone(), name: name.as_str().to_owned() };
            self.assets.watchers.entry(key).or_default().updated_at = micros(now);
        }
    }

    /// Deletes the watchers that only this dag names.
    pub(super) fn forget_watchers_of(&mut self, dag: &DagId) {
        let goes = |key: &WatcherKey| {
            let mut dags = self.dags_of(key, AssetRole::Watcher);
            dags.next() == Some(dag) && dags.next().is_none()
        };
        let gone: Vec<WatcherKey> = self.assets.watchers.keys().filter(|key| goes(key)).cloned().collect();
        gone.iter().for_each(|key| drop(self.assets.watchers.remove(key)));
    }

    /// Watchers that no dag names any more, last heard of before this moment.
    pub(super) fn old_watchers(&self, before: DateTime<Utc>) -> Vec<WatcherRow> {
        let old = |row: &WatcherRow| !row.is_named && row.updated_at < before;
        self.watchers().into_iter().filter(old).collect()
    }
}
