//! Assets and their events, as templates see them.

use std::sync::Arc;

use minijinja::Value;

use crate::asset::{AssetEvent, AssetRef};

use super::containers::{Dict, List, from_json};
use super::datetime::Stamp;
use super::values::Thing;

/// The assets of one attempt.
#[derive(Debug, Clone, Default)]
pub struct TemplateAssets {
    /// `inlets`.
    pub inlets: Arc<[AssetRef]>,
    /// `outlets`.
    pub outlets: Arc<[AssetRef]>,
    /// `triggering_asset_events`: what made the run, by time.
    pub triggering: Vec<AssetEvent>,
    /// `inlet_events`: past events of the inlets, by time.
    pub past: Vec<AssetEvent>,
}

impl TemplateAssets {
    /// The variable called `name`.
    pub(super) fn value(&self, name: &str) -> Value {
        match name {
            "inlets" => List::value(self.inlets.iter().map(asset).collect()),
            "outlets" => List::value(self.outlets.iter().map(asset).collect()),
            "inlet_events" => by_uri(&self.past),
            _ => by_uri(&self.triggering),
        }
    }
}

fn asset(one: &AssetRef) -> Value {
    match one {
        AssetRef::Asset(asset) => Thing::new(asset.uri())
            .with("name", asset.name())
            .with("uri", asset.uri())
            .with("group", asset.group_name())
            .with("extra", from_json(asset.facts()))
            .value(),
        AssetRef::Alias(alias) => {
            Thing::new(alias.name()).with("name", alias.name()).with("group", alias.group_name()).value()
        }
    }
}

/// Lists of events, by the URI of their asset, in the order of their first ones.
fn by_uri(events: &[AssetEvent]) -> Value {
    let mut lists: Vec<(&str, Vec<Value>)> = Vec::new();
    for one in events {
        let at = lists.iter().position(|(uri, _)| *uri == one.uri).unwrap_or_else(|| {
            lists.push((&one.uri, Vec::new()));
            lists.len() - 1
        });
        lists[at].1.push(event(one));
    }
    Dict::value(lists.into_iter().map(|(uri, list)| (Value::from(uri), List::value(list))))
}

fn event(event: &AssetEvent) -> Value {
    let thing = Thing::new(format!("<AssetEvent {} at {}>", event.uri, event.at.to_rfc3339()))
        .with("name", event.name.as_str())
        .with("uri", event.uri.as_str())
        .with("asset", asset(&AssetRef::Asset(event.asset())))
        .with("extra", from_json(&event.extra))
        .with("timestamp", Stamp::utc_value(event.at));
    let Some(source) = &event.source else {
        return thing
            .with("source_dag_id", ())
            .with("source_run_id", ())
            .with("source_task_id", ())
            .with("source_map_index", -1)
            .with("source_dag_run", ())
            .value();
    };
    let run = Thing::new(format!("<DagRun {} {}>", source.dag_id, source.run_id))
        .with("dag_id", source.dag_id.as_str())
        .with("run_id", source.run_id.as_str())
        .with("data_interval_start", Stamp::utc_value(source.data_interval.start))
        .with("data_interval_end", Stamp::utc_value(source.data_interval.end));
    thing
        .with("source_dag_id", source.dag_id.as_str())
        .with("source_run_id", source.run_id.as_str())
        .with("source_task_id", source.task_id.as_str())
        .with("source_map_index", i64::from(source.map_index.0))
        .with("source_dag_run", run.value())
        .value()
}
