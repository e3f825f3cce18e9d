//! Dags that run when something outside says so: a file that somebody drops, and a shop with numbered orders.
//!
//! The watchers run beside the scheduler and hold no slot. How far each has come is kept with its events, so that
//! nothing is lost or doubled when another process takes over.
//!
//! `cargo run --example 16_watchers`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::{Path, PathBuf};

use airflow::prelude::*;
use tokio::sync::watch;

/// Looks for the orders of a shop. A real one would ask a service or a queue.
struct Orders {
    newest: watch::Receiver<u32>,
}

impl AssetWatcher for Orders {
    /// What the task sees of an order.
    type Event = String;
    /// The number of the last order that was seen.
    type Cursor = u32;

    async fn next(&self, after: Option<u32>, _: &WatchContext) -> Result<Seen<String, u32>> {
        let wanted = after.unwrap_or(0) + 1;
        self.newest.clone().wait_for(|newest| *newest >= wanted).await?;
        Ok(Seen::new(format!("order {wanted}"), wanted))
    }
}

/// What is new, as the watchers say it.
#[task]
async fn report(cx: &TaskContext) -> Result<Vec<String>> {
    let new = cx.triggering_asset_events().await?;
    let facts = new.values().flatten().map(|event| event.extra["payload"].clone());
    Ok(facts
        .map(|payload| payload.as_str().map_or_else(|| payload["size"].to_string(), Into::into))
        .collect())
}

fn prices(path: &Path) -> DagDef {
    let file = Asset::new("file:///in/prices.csv")
        .watcher("file", FileWatcher::new(path).every(std::time::Duration::from_millis(20)));
    DagDef::new("prices").schedule(file).define(|d| {
        d.add(report::call());
    })
}

fn orders(newest: watch::Receiver<u32>) -> DagDef {
    let shop = Asset::new("x-shop://orders").watcher("shop", Orders { newest });
    DagDef::new("orders").schedule(shop).define(|d| {
        d.add(report::call());
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path: PathBuf = std::env::temp_dir().join(format!("airflow-prices-{}.csv", std::process::id()));
    let (shop, newest) = watch::channel(0);
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::default())
        .dag(prices(&path))
        .dag(orders(newest))
        .build()
        .await?;
    let running = airflow.start();
    let mut ended = running.scheduler().ended_runs();

    // Somebody drops a file: written beside and renamed, so that nobody sees half of it.
    let beside = path.with_extension("part");
    std::fs::write(&beside, "EUR,1.08\n")?;
    std::fs::rename(beside, &path)?;
    let run = ended.recv().await?;
    let run = airflow.run(&run.dag_id, &run.run_id).await?;
    let sizes: Vec<String> = airflow.result(&run, "report").await?;
    println!("{} ran by {}: {} bytes", run.dag_id, run.triggered_by, sizes.join(", "));

    // Somebody orders, three times.
    let mut seen: Vec<String> = Vec::new();
    shop.send(3)?;
    while seen.len() < 3 {
        let run = ended.recv().await?;
        let run = airflow.run(&run.dag_id, &run.run_id).await?;
        seen.extend(airflow.result::<Vec<String>>(&run, "report").await?);
    }
    println!("orders: {}", seen.join(", "));
    assert_eq!(seen, ["order 1", "order 2", "order 3"], "each once, in order");

    for row in airflow.watchers().await? {
        let cursor = row.cursor.filter(serde_json::Value::is_number).map(|cursor| format!(" up to {cursor}"));
        println!("{} of {}: {} events{}", row.key.name, row.asset, row.events, cursor.unwrap_or_default());
    }
    running.stop(secs(5)).await?;
    std::fs::remove_file(&path)?;
    Ok(())
}
