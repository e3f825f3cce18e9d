//! When runs are made, what each is about, and what happens to dates that were missed.
//!
//! A run is made when its data interval is over, and is named after the start of the interval.
//!
//! `cargo run --example 07_schedules_and_catchup`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use airflow::app::{BackfillOptions, Reprocess};
use airflow::prelude::*;
use airflow::store::{RunFilter, RunRow};
use airflow::time::SimClock;

fn short(at: DateTime<Utc>) -> impl std::fmt::Display {
    at.format("%m-%d %H:%M")
}

#[task]
async fn load(cx: &TaskContext) -> Result<String> {
    let interval = cx.interval();
    Ok(format!("{} to {}", short(interval.start), short(interval.end)))
}

/// Every morning in Paris, and every morning since the start date that was missed.
#[dag(
    schedule = "0 6 * * *",
    timezone = "Europe/Paris",
    start_date = "2026-03-27",
    catchup,
    max_active_runs = 1
)]
fn every_morning(d: &Dag) {
    d.add(load::call());
}

/// Without `catchup`, only the newest interval that is over; those before it are passed over.
#[dag(schedule = "@daily", start_date = "2026-01-01")]
fn from_now_on(d: &Dag) {
    d.add(load::call());
}

/// A distance instead of a cron expression, up to a last date.
#[dag(schedule = hours(12), start_date = "2026-03-01", end_date = "2026-03-02", catchup, max_active_runs = 1)]
fn twice_a_day(d: &Dag) {
    d.add(load::call());
}

/// Past dates may be asked for as well, by a backfill: see `main`.
#[dag(schedule = "@weekly")]
fn weekly(d: &Dag) {
    d.add(load::call());
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::default())
        // A clock that stands still, so that this example always says the same. A real program leaves this out.
        .clock(SimClock::new("2026-03-31T12:00:00Z".parse()?))
        .dags([every_morning(), from_now_on(), twice_a_day(), weekly()])
        .build()
        .await?;
    let running = airflow.start();
    let range = BackfillOptions {
        from: "2026-02-01T00:00:00Z".parse()?,
        to: "2026-02-20T00:00:00Z".parse()?,
        conf: None,
        run_backwards: false,
        reprocess: Reprocess::None,
        dry_run: false,
        actor: "me".into(),
    };
    airflow.backfill(&"weekly".into(), &range).await?;
    let done = RunFilter { states: vec![RunState::Success], ..RunFilter::default() };
    while airflow.store().runs(&done).await?.len() < 12 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop(secs(5)).await?;

    let mut lines = Vec::new();
    for run in airflow.store().runs(&RunFilter::default()).await? {
        lines.push(describe(&airflow, &run).await?);
    }
    lines.sort();
    println!("{}", lines.join("\n"));
    let of = |dag: &str| lines.iter().filter(|line| line.starts_with(dag)).count();
    assert_eq!(["every_morning", "from_now_on", "twice_a_day", "weekly"].map(of), [4, 1, 3, 4]);
    // Six in Paris is five in UTC, and four from the last Sunday of March on.
    assert!(lines[1].ends_with("03-28 05:00 to 03-29 04:00, due 03-29 04:00"));
    Ok(())
}

async fn describe(airflow: &Airflow, run: &RunRow) -> Result<String, Box<dyn std::error::Error>> {
    let covers: String = airflow.result(run, "load").await?;
    let (dag, kind, due) = (&run.dag_id, &run.run_type, short(run.run_after));
    Ok(format!("{dag:<13} {kind:<9} {covers}, due {due}"))
}
