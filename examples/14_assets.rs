//! A dag that runs when the data it needs is new, whoever has made it.
//!
//! Orders come every hour, rates whenever somebody says so. The report wants both.
//!
//! `cargo run --example 14_assets`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use airflow::prelude::*;

fn orders() -> Asset {
    Asset::new("s3://lake/orders")
}

fn rates() -> Asset {
    Asset::new("s3://lake/rates")
}

#[task(outlets = orders())]
async fn load(cx: &TaskContext) -> Result<()> {
    cx.outlet_event(orders()).set("rows", &97)
}

#[task(inlets = [orders(), rates()])]
async fn report(cx: &TaskContext) -> Result<String> {
    let new = cx.triggering_asset_events().await?;
    let parts = new.iter().map(|(uri, events)| {
        let from = |event: &airflow::asset::AssetEvent| match &event.source {
            Some(source) => format!("{} of {}", event.extra, source.dag_id),
            None => format!("{} from outside", event.extra),
        };
        format!("{uri}: {}", events.iter().map(from).collect::<Vec<_>>().join(", "))
    });
    Ok(parts.collect::<Vec<_>>().join("; "))
}

#[dag]
fn loading(d: &Dag) {
    d.add(load::call());
}

#[dag(schedule = orders() & rates())]
fn reporting(d: &Dag) {
    d.add(report::call());
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::default())
        .dag(loading())
        .dag(reporting())
        .build()
        .await?;
    airflow.sync_dags().await?;
    let running = airflow.start();
    let mut ended = running.scheduler().ended_runs();

    println!("the report runs by: {}", airflow.dag(&"reporting".into())?.timetable.description());
    let loaded = airflow.trigger("loading").await?;
    airflow.wait(&loaded).await?;
    airflow.asset_event("s3://lake/rates").extra(&serde_json::json!({ "EUR": 1.08 })).await?;

    let reported = loop {
        let run = ended.recv().await?;
        if run.dag_id.as_str() == "reporting" {
            break airflow.run(&run.dag_id, &run.run_id).await?;
        }
    };
    println!("{} by {}", reported.run_type, reported.triggered_by);
    println!("{}", airflow.result::<String>(&reported, "report").await?);
    for asset in airflow.assets().await? {
        println!("{}: {} event, waits for it: {}", asset.uri, asset.events, asset.consumers[0]);
    }
    running.stop(secs(5)).await?;
    Ok(())
}
