//! Small tasks that the tests are made of.

use airflow::prelude::*;
use serde_json::{Value, json};

pub(crate) struct Database;
pub(crate) struct Rates(pub(crate) i64);

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Order {
    pub(crate) id: u64,
    pub(crate) cents: i64,
}

#[task]
pub(crate) async fn extract(_db: &Database) -> Result<Vec<Order>> {
    Err(TaskError::msg("there is no database in a test"))
}
#[task]
pub(crate) async fn price(o: Order, rates: &Rates) -> Result<i64> {
    Ok(o.cents * rates.0)
}
#[task]
pub(crate) async fn total(all: Vec<i64>) -> Result<i64> {
    Ok(all.iter().sum())
}
#[task]
pub(crate) async fn report(cents: i64, to: String) -> Result<String> {
    Ok(format!("{to}: {cents}"))
}

#[dag(schedule = "0 6 * * *", tz = "Europe/Paris", start = "2026-01-01", catchup = false)]
pub(crate) fn sales(d: &Dag) {
    let orders = d.add(extract::call());
    let prices = d.map(orders, |o| price::call(o).retries(2).retry_delay(secs(30)));
    let sum = d.add(total::call(prices));
    d.add(report::call(sum, "finance@example.org"));
}

/// Does nothing, well.
#[task]
pub(crate) async fn work() -> Result<()> {
    Ok(())
}

/// Always fails.
#[task]
pub(crate) async fn broken() -> Result<()> {
    Err(TaskError::msg("it is broken"))
}

/// Never ends.
#[task]
pub(crate) async fn stuck() -> Result<()> {
    std::future::pending::<()>().await;
    Ok(())
}

/// A dag of one `work`.
pub(crate) fn one_task(id: &str) -> DagDef {
    DagDef::new(id).define(|d| {
        d.add(work::call());
    })
}

/// What a run was triggered with, or null.
#[task]
pub(crate) async fn conf(cx: &TaskContext) -> Result<Value> {
    Ok(cx.conf().cloned().unwrap_or(json!({})))
}
