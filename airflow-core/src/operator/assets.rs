//! Assets for a task that runs: what it says of those it makes, and the events of those it reads.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::asset::{Asset, AssetAlias, AssetEvent, AssetEventFilter, AssetRef, OutletEvent};

use super::Result;
use super::context::TaskContext;
use super::error::TaskError;

/// How many past events of an asset a task gets at most, the newest of them.
const MOST_PAST_EVENTS: u32 = 10_000;

/// What a task says of one of its outlets; from [`TaskContext::outlet_event`].
#[derive(Debug)]
#[must_use = "without `extra` or `set` nothing is said"]
pub struct OutletNote<'c> {
    cx: &'c TaskContext,
    asset: Asset,
}

/// What a task has made under an alias; from [`TaskContext::alias_event`].
#[derive(Debug)]
#[must_use = "without `add` nothing is said"]
pub struct AliasNote<'c> {
    cx: &'c TaskContext,
    alias: AssetAlias,
}

impl OutletNote<'_> {
    /// Facts about this update, an object; they replace those that were given before.
    ///
    /// # Errors
    ///
    /// [`TaskError::Fail`] if the asset is no outlet of the task, or the facts are no JSON object.
    pub fn extra<T: Serialize + ?Sized>(self, extra: &T) -> Result<()> {
        let facts = facts(extra)?;
        self.change(|extra| *extra = facts)
    }

    /// One fact beside those that were given before.
    ///
    /// # Errors
    ///
    /// [`TaskError::Fail`] if the asset is no outlet of the task, or the value is no JSON.
    pub fn set<T: Serialize + ?Sized>(self, name: &str, value: &T) -> Result<()> {
        let value = serde_json::to_value(value).map_err(|error| not_json(&error))?;
        self.change(|extra| {
            extra.insert(name.to_owned(), value);
        })
    }

    fn change(self, change: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
        let outlets = self.cx.outlets().iter().filter_map(AssetRef::asset);
        let asked = self.asset.name();
        let Some(asset) = outlets.into_iter().find(|one| **one == self.asset || one.is_called(asked)) else {
            return Err(TaskError::fail(format_args!(
                "`{asked}` is no outlet of task `{}`; add it with `.outlets([..])`",
                self.cx.task_id()
            )));
        };
        self.cx.note_asset_events(|said| {
            let known = said.iter().position(|one| one.aliases.is_empty() && one.asset == *asset);
            let at = known.unwrap_or_else(|| {
                let extra = Value::Object(Map::new());
                said.push(OutletEvent { asset: asset.clone(), aliases: Vec::new(), extra });
                said.len() - 1
            });
            if let Value::Object(extra) = &mut said[at].extra {
                change(extra);
            }
        });
        Ok(())
    }
}

impl AliasNote<'_> {
    /// The task has made this asset.
    ///
    /// # Errors
    ///
    /// [`TaskError::Fail`] if the alias is no outlet of the task, or the asset cannot be used.
    #[expect(clippy::should_implement_trait, reason = "it is no sum; Airflow calls it so")]
    pub fn add(self, asset: impl Into<Asset>) -> Result<()> {
        self.add_with(asset, &Map::new())
    }

    /// The same, with facts about this update.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add), and if the facts are no JSON object.
    pub fn add_with<T: Serialize + ?Sized>(self, asset: impl Into<Asset>, extra: &T) -> Result<()> {
        let (asset, extra) = (asset.into(), Value::Object(facts(extra)?));
        asset.check().map_err(TaskError::fail)?;
        let name = self.alias.name();
        let is_this = |one: &&AssetRef| one.asset().is_none() && one.name() == name;
        if self.cx.outlets().iter().find(is_this).is_none() {
            return Err(TaskError::fail(format_args!(
                "the alias `{name}` is no outlet of task `{}`; add it with `.outlets([AssetAlias::new(..)])`",
                self.cx.task_id()
            )));
        }
        self.cx.note_asset_events(|said| {
            // One update under two aliases is one event.
            let same =
                |one: &&mut OutletEvent| !one.aliases.is_empty() && one.asset == asset && one.extra == extra;
            match said.iter_mut().find(same) {
                Some(known) if known.aliases.iter().any(|alias| alias == name) => {}
                Some(known) => known.aliases.push(name.to_owned()),
                None => said.push(OutletEvent { asset, aliases: vec![name.to_owned()], extra }),
            }
        });
        Ok(())
    }
}

fn facts<T: Serialize + ?Sized>(extra: &T) -> Result<Map<String, Value>> {
    match serde_json::to_value(extra).map_err(|error| not_json(&error))? {
        Value::Object(facts) => Ok(facts),
        other => {
            Err(TaskError::fail(format_args!("the extra of an asset event is an object, not `{other}`")))
        }
    }
}

fn not_json(error: &serde_json::Error) -> TaskError {
    TaskError::fail(format_args!("the extra of an asset event cannot be written as JSON: {error}"))
}

impl TaskContext {
    /// Says something of an outlet of the task, which goes into the event that its success makes.
    ///
    /// ```
    /// use airflow_core::operator::{Result, TaskContext};
    ///
    /// async fn load(cx: &TaskContext) -> Result<()> {
    ///     cx.outlet_event("s3://lake/orders").set("rows", &97)
    /// }
    /// # let _ = load;
    /// ```
    pub fn outlet_event(&self, asset: impl Into<Asset>) -> OutletNote<'_> {
        OutletNote { cx: self, asset: asset.into() }
    }

    /// Says which assets the task has made under an alias among its outlets.
    ///
    /// ```
    /// use airflow_core::operator::{Result, TaskContext};
    ///
    /// async fn export(cx: &TaskContext) -> Result<()> {
    ///     cx.alias_event("exports").add(format!("s3://lake/exports/{}", cx.logical_date().date_naive()))
    /// }
    /// # let _ = export;
    /// ```
    pub fn alias_event(&self, alias: impl Into<AssetAlias>) -> AliasNote<'_> {
        AliasNote { cx: self, alias: alias.into() }
    }

    /// The events that made the run, by the URI of their asset, each list by time; empty if it was made otherwise.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn triggering_asset_events(&self) -> Result<BTreeMap<String, Vec<AssetEvent>>> {
        let filter = AssetEventFilter::that_made(self.run().pk);
        let events = self.services().asset_events(&filter).await.map_err(TaskError::Error)?;
        let mut by_uri: BTreeMap<String, Vec<AssetEvent>> = BTreeMap::new();
        for event in events {
            by_uri.entry(event.uri.clone()).or_default().push(event);
        }
        Ok(by_uri)
    }

    /// The past events of an asset or alias by time, the newest last; at most the newest ten thousand.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn inlet_events(&self, asset: impl Into<AssetRef>) -> Result<Vec<AssetEvent>> {
        let filter = AssetEventFilter {
            newest_first: true,
            limit: Some(MOST_PAST_EVENTS),
            ..match asset.into() {
                AssetRef::Asset(asset) => AssetEventFilter::of(&self.meant(asset)),
                AssetRef::Alias(alias) => {
                    AssetEventFilter { alias: Some(alias.name().to_owned()), ..AssetEventFilter::default() }
                }
            }
        };
        let mut events = self.services().asset_events(&filter).await.map_err(TaskError::Error)?;
        events.reverse();
        Ok(events)
    }

    /// The asset that somebody means who says only its name or URI.
    fn meant(&self, asset: Asset) -> Asset {
        let known = self.inlets().iter().chain(self.outlets()).filter_map(AssetRef::asset);
        let called = known.into_iter().find(|one| one.is_called(asset.name())).cloned();
        called.unwrap_or(asset)
    }
}
