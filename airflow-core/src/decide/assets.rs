//! Which assets are new by a success, and the runs that new assets make.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::asset::{Asset, AssetCondition, AssetEventId, AssetKey, AssetRef, EventSource, OutletEvent};
use crate::compile::CompiledDag;
use crate::plan::{Report, RunView};
use crate::state::RunType;
use crate::store::{AssetEvent, AssetTrigger, NewRun};
use crate::timetable::DataInterval;

use super::deadline::with_deadlines;
use super::timetable::run_id;

/// The events of a successful attempt: one for each asset among its outlets, with what its code said of it, and one for
/// each asset that it made under an alias.
pub fn events_of(view: &RunView, report: &Report) -> Vec<AssetEvent> {
    let task = view.dag.task(report.key.task);
    let outlets = &task.settings.outlets;
    if outlets.is_empty() {
        return Vec::new();
    }
    let source = EventSource {
        dag_id: view.run.dag_id.clone(),
        run_id: view.run.run_id.clone(),
        task_id: task.id.clone(),
        map_index: report.key.map,
        data_interval: view.run.data_interval,
    };
    let said = |asset: &Asset| {
        report.asset_events.iter().find(|said| said.aliases.is_empty() && said.asset == *asset)
    };
    let plain = outlets.iter().filter_map(AssetRef::asset).map(|asset| OutletEvent {
        asset: asset.clone(),
        aliases: Vec::new(),
        extra: said(asset).map_or_else(|| Value::Object(Map::new()), |said| said.extra.clone()),
    });
    let is_alias = |name: &String| outlets.iter().any(|one| one.asset().is_none() && one.name() == name);
    let under = report.asset_events.iter().filter(|said| said.aliases.iter().any(is_alias)).cloned();
    let events = plain.chain(under).enumerate().map(|(nth, event)| AssetEvent {
        id: AssetEventId::of_attempt(report.attempt_id, &event.asset.key(), nth),
        name: event.asset.name().to_owned(),
        uri: event.asset.uri().to_owned(),
        group: event.asset.group_name().to_owned(),
        aliases: event.aliases,
        extra: event.extra,
        at: report.at,
        source: Some(source.clone()),
    });
    events.collect()
}

/// Whether new assets are reason enough for a run.
pub fn is_due(condition: &AssetCondition, new: &BTreeSet<AssetKey>) -> bool {
    condition.holds(&|key| new.contains(key))
}

/// The run that new assets make. The store gives it its dates and its id.
pub fn asset_run(dag: &CompiledDag, new: &BTreeSet<AssetKey>, now: DateTime<Utc>) -> NewRun {
    let run = NewRun {
        dag_id: dag.id.clone(),
        run_id: run_id(RunType::AssetTriggered, &now),
        run_type: RunType::AssetTriggered,
        logical_date: now,
        data_interval: DataInterval::exact(now),
        run_after: now,
        queued_at: now,
        conf: None,
        fingerprint: dag.fingerprint.clone(),
        triggered_by: "asset".into(),
        ignores_past: false,
        queue: None,
        advance: None,
        assets: Some(AssetTrigger { needs: new.iter().cloned().collect() }),
        deadlines: Vec::new(),
    };
    with_deadlines(dag, run)
}
