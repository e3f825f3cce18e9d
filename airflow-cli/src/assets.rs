//! `assets`: data that dags make and wait for.

use std::collections::BTreeMap;

use airflow_core::app::Airflow;
use airflow_core::asset::{AssetEvent, AssetEventFilter, AssetKey};
use airflow_core::store::{AssetRow, QueueFilter, QueuedEvent, WatcherRow};
use clap::Subcommand;
use serde_json::Value;

use crate::cx::Cx;
use crate::dags::runs_table;
use crate::error::CliError;
use crate::fields::{YesArg, moment, object};
use crate::output::{OutputArg, Table, row};

#[derive(Debug, Subcommand)]
pub(crate) enum AssetsCommand {
    /// List all assets with who makes them and who waits for them
    List {
        /// List the aliases instead
        #[arg(long)]
        alias: bool,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one asset
    #[command(visible_alias = "details")]
    Show {
        /// The asset: its name or its URI
        asset: String,
        #[command(flatten)]
        output: OutputArg,
    },
    /// List past events, oldest first
    Events {
        /// The asset: its name or its URI; all assets if it is left out
        asset: Option<String>,
        /// Only events that this dag has made
        #[arg(short, long)]
        dag_id: Option<String>,
        /// Only events from this time on
        #[arg(long, value_parser = moment)]
        from: Option<chrono::DateTime<chrono::Utc>>,
        /// How many of the newest
        #[arg(short, long, default_value_t = 100)]
        limit: u32,
        #[command(flatten)]
        output: OutputArg,
    },
    /// List events that wait for dags to run
    Queued {
        /// The asset: its name or its URI; all assets and aliases if it is left out
        asset: Option<String>,
        /// Only what waits for this dag
        #[arg(short, long)]
        dag_id: Option<String>,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Let events wait no longer, so that they make no run
    #[command(group = clap::ArgGroup::new("which").args(["asset", "dag_id"]).required(true).multiple(true))]
    Unqueue {
        /// The asset: its name or its URI; with `--dag-id` all assets and aliases if it is left out
        asset: Option<String>,
        /// Only what waits for this dag
        #[arg(short, long)]
        dag_id: Option<String>,
        /// Only events of this time and before
        #[arg(long, value_parser = moment)]
        before: Option<chrono::DateTime<chrono::Utc>>,
        #[command(flatten)]
        yes: YesArg,
    },
    /// List watchers: what runs them, how far they have come, what went wrong last
    Watchers {
        /// Only watchers that have failed and have not worked since
        #[arg(long)]
        failing: bool,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Say that an asset is new; dags that wait for it will run
    #[command(visible_alias = "create-event")]
    Event {
        /// The asset: its name or its URI
        asset: String,
        /// Facts about this update: a JSON object
        #[arg(short, long, value_parser = object)]
        extra: Option<Value>,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Start the dag that makes an asset
    Materialize {
        /// The asset: its name or its URI
        asset: String,
        #[command(flatten)]
        output: OutputArg,
    },
}

pub(crate) async fn run(cx: &mut Cx<'_>, command: AssetsCommand) -> Result<(), CliError> {
    let actor = cx.actor();
    let airflow = cx.airflow().await?;
    if matches!(command, AssetsCommand::Event { .. } | AssetsCommand::Materialize { .. }) {
        // What this program says of assets need not have been told the database yet.
        airflow.sync_dags().await?;
    }
    match command {
        AssetsCommand::List { alias, output } => {
            let all = airflow.assets().await?;
            let wanted: Vec<AssetRow> = all.into_iter().filter(|row| row.is_alias == alias).collect();
            assets_table(&wanted).print(cx.host, output)
        }
        AssetsCommand::Show { asset, output } => {
            assets_table(&[airflow.asset(&asset).await?]).print(cx.host, output)
        }
        AssetsCommand::Events { asset, dag_id, from, limit, output } => {
            let asset: Option<AssetKey> = match asset {
                Some(asset) => Some(airflow.asset(&asset).await?.key),
                None => None,
            };
            let filter = AssetEventFilter {
                asset,
                dag_id: dag_id.map(Into::into),
                from,
                newest_first: true,
                limit: Some(limit),
                ..AssetEventFilter::default()
            };
            let mut events = airflow.asset_events(&filter).await?;
            events.reverse();
            events_table(&events).print(cx.host, output)
        }
        AssetsCommand::Queued { asset, dag_id, output } => {
            let filter = queue_filter(&airflow, asset, dag_id, None).await?;
            let names = airflow.assets().await?.into_iter().map(|row| (row.key, row.name)).collect();
            queue_table(&airflow.queued_events(&filter).await?, &names).print(cx.host, output)
        }
        AssetsCommand::Unqueue { asset, dag_id, before, yes } => {
            let filter = queue_filter(&airflow, asset, dag_id, before).await?;
            let number = airflow.queued_events(&filter).await?.len();
            yes.ask(cx.host, &format!("Let {number} events wait no longer? They will make no run."))?;
            let gone = airflow.delete_queued_events(&filter, &actor).await?;
            Ok(cx.host.line(&format!("{gone} events wait no longer"))?)
        }
        AssetsCommand::Watchers { failing, output } => {
            let mut all = airflow.watchers().await?;
            all.retain(|row| !failing || row.failures > 0);
            all.sort_by(|a, b| (&a.asset, &a.key.name).cmp(&(&b.asset, &b.key.name)));
            watchers_table(&all).print(cx.host, output)
        }
        AssetsCommand::Event { asset, extra, output } => {
            let mut event = airflow.asset_event(asset).actor(actor);
            if let Some(extra) = &extra {
                event = event.extra(extra);
            }
            events_table(&[event.await?]).print(cx.host, output)
        }
        AssetsCommand::Materialize { asset, output } => {
            let run = airflow.materialize(&asset, &actor).await?;
            runs_table(airflow.store(), std::slice::from_ref(&run)).await?.print(cx.host, output)
        }
    }
}

async fn queue_filter(
    airflow: &Airflow,
    asset: Option<String>,
    dag_id: Option<String>,
    until: Option<chrono::DateTime<chrono::Utc>>,
) -> Result<QueueFilter, CliError> {
    let asset = match asset {
        Some(asset) => Some(airflow.asset(&asset).await?.key),
        None => None,
    };
    Ok(QueueFilter { dag_id: dag_id.map(Into::into), asset, until })
}

fn queue_table(events: &[QueuedEvent], names: &BTreeMap<AssetKey, String>) -> Table {
    let mut table = Table::new(["dag_id", "asset", "timestamp", "event_id", "counts"]);
    for event in events {
        table.push(row![
            event.dag_id.as_str(),
            names.get(&event.asset).map(String::as_str),
            event.at,
            event.event.as_str(),
            event.counts
        ]);
    }
    table
}

fn assets_table(assets: &[AssetRow]) -> Table {
    let mut table = Table::new(["name", "uri", "group", "producers", "consumers", "events", "last_event"]);
    for asset in assets {
        let makes = asset.producers.iter().map(|(dag, task)| format!("{dag}.{task}"));
        let waits = asset.consumers.iter().map(ToString::to_string);
        table.push(row![
            asset.name.as_str(),
            asset.uri.as_str(),
            asset.group.as_str(),
            makes.collect::<Vec<String>>(),
            waits.collect::<Vec<String>>(),
            asset.events,
            asset.last_event
        ]);
    }
    table
}

fn watchers_table(watchers: &[WatcherRow]) -> Table {
    let mut table = Table::new([
        "asset",
        "watcher",
        "state",
        "events",
        "last_event",
        "cursor",
        "failures",
        "failed_at",
        "error",
        "process",
    ]);
    for watcher in watchers {
        let state = match watcher {
            row if !row.is_named => "unnamed",
            row if !row.is_wanted => "paused",
            row if row.owner.is_none() => "waiting",
            row if row.failures > 0 => "failing",
            _ => "watching",
        };
        table.push(row![
            watcher.asset.as_str(),
            watcher.key.name.as_str(),
            state,
            watcher.events,
            watcher.last_event,
            watcher.cursor.clone().map(crate::output::Cell::json),
            watcher.failures,
            watcher.failed_at,
            watcher.error.as_deref(),
            watcher.owner.map(|owner| owner.to_string())
        ]);
    }
    table
}

fn events_table(events: &[AssetEvent]) -> Table {
    let mut table = Table::new(["timestamp", "asset", "dag_id", "run_id", "task_id", "map_index", "extra"]);
    for event in events {
        let source = event.source.as_ref();
        table.push(row![
            event.at,
            event.name.as_str(),
            source.map(|source| source.dag_id.as_str()),
            source.map(|source| source.run_id.as_str()),
            source.map(|source| source.task_id.as_str()),
            source.map(|source| source.map_index.0),
            crate::output::Cell::json(event.extra.clone())
        ]);
    }
    table
}
