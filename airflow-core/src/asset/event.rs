//! That an asset is new.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::hash::Hash;
use crate::id::{AttemptId, DagId, MapIndex, RunId, RunPk, TaskId};
use crate::timetable::DataInterval;

use super::{Asset, AssetAlias, AssetKey};

/// Which event: 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AssetEventId(String);

impl AssetEventId {
    /// The event number `nth` about `asset` by an attempt: the same whenever it is decided, so it is written once.
    pub fn of_attempt(attempt: AttemptId, asset: &AssetKey, nth: usize) -> Self {
        let mut hash = Hash::default();
        let texts = [attempt.0.simple().to_string(), asset.as_str().to_owned(), nth.to_string()];
        texts.iter().for_each(|text| hash.add(text));
        Self(hash.hex(32))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for AssetEventId {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// What an attempt says of an asset it has made: facts about this update, and the aliases it goes by.
#[derive(Debug, Clone, PartialEq)]
pub struct OutletEvent {
    /// The asset.
    pub asset: Asset,
    /// The names of aliases under which it was added; none if the asset is an outlet itself.
    pub aliases: Vec<String>,
    /// The facts: a JSON object.
    pub extra: Value,
}

/// The task instance that made an asset new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSource {
    /// The dag.
    pub dag_id: DagId,
    /// The run.
    pub run_id: RunId,
    /// The task.
    pub task_id: TaskId,
    /// The instance.
    pub map_index: MapIndex,
    /// What the run was about.
    pub data_interval: DataInterval,
}

/// That an asset is new. Written once: one of the same id that exists is left as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct AssetEvent {
    /// Which event.
    pub id: AssetEventId,
    /// The name of the asset.
    pub name: String,
    /// Its URI.
    pub uri: String,
    /// Its group, used if the asset is new to the store.
    pub group: String,
    /// The names of aliases under which it was made.
    pub aliases: Vec<String>,
    /// Facts about this update: a JSON object.
    pub extra: Value,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// Who made it; `None` if it came from outside.
    pub source: Option<EventSource>,
}

impl AssetEvent {
    /// The event of an asset from outside, with no facts.
    pub fn from_outside(id: AssetEventId, asset: &Asset, at: DateTime<Utc>) -> Self {
        Self {
            id,
            name: asset.name().to_owned(),
            uri: asset.uri().to_owned(),
            group: asset.group_name().to_owned(),
            aliases: Vec::new(),
            extra: Value::Object(serde_json::Map::new()),
            at,
            source: None,
        }
    }

    /// The asset.
    pub fn asset(&self) -> Asset {
        let asset = Asset::new(&self.uri);
        if self.name == self.uri { asset } else { asset.named(&self.name) }
    }

    /// What tells the asset from all others.
    pub fn key(&self) -> AssetKey {
        self.asset().key()
    }

    /// The keys of the asset and of its aliases: what schedules may wait for.
    pub(crate) fn refs(&self) -> Vec<AssetKey> {
        let aliases = self.aliases.iter().map(|alias| AssetAlias::new(alias).key());
        let mut refs: Vec<AssetKey> = std::iter::once(self.key()).chain(aliases).collect();
        refs.sort();
        refs.dedup();
        refs
    }
}

/// Which events of assets, and in which order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AssetEventFilter {
    /// Of this asset.
    pub asset: Option<AssetKey>,
    /// Made under the alias of this name.
    pub alias: Option<String>,
    /// Made by this dag.
    pub dag_id: Option<DagId>,
    /// Made by this run.
    pub run_id: Option<RunId>,
    /// Made by this task.
    pub task_id: Option<TaskId>,
    /// Made by this instance.
    pub map_index: Option<MapIndex>,
    /// That made this run.
    pub triggered: Option<RunPk>,
    /// Not before this time.
    pub from: Option<DateTime<Utc>>,
    /// Not after this time.
    pub to: Option<DateTime<Utc>>,
    /// Newest first instead of oldest first.
    pub newest_first: bool,
    /// How many at most.
    pub limit: Option<u32>,
}

impl AssetEventFilter {
    /// The events of one asset.
    pub fn of(asset: &Asset) -> Self {
        Self { asset: Some(asset.key()), ..Self::default() }
    }

    /// The events that made a run.
    pub fn that_made(run: RunPk) -> Self {
        Self { triggered: Some(run), ..Self::default() }
    }
}

/// The moment, or the interval, an event is about: of the run that made it, else when it came.
pub(crate) fn interval_of(source: Option<&EventSource>, at: DateTime<Utc>) -> DataInterval {
    source.map_or_else(|| DataInterval::exact(at), |source| source.data_interval)
}
