//! A program with dags and the whole command line. Try:
//!
//! ```text
//! cargo run --example 12_command_line -- dags test sales 2026-03-02 --conf '{"region": "south"}'
//! cargo run --example 12_command_line -- standalone
//! cargo run --example 12_command_line -- --help
//! ```

use std::process::ExitCode;

use airflow::prelude::*;

/// What a run of `sales` can be told.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct SalesParams {
    /// Which region is reported.
    region: String,
    /// From which amount on an order counts.
    at_least: i64,
}

impl Default for SalesParams {
    fn default() -> Self {
        Self { region: "north".into(), at_least: 10 }
    }
}

#[task]
async fn orders(cx: &TaskContext) -> Result<Vec<i64>> {
    let params: SalesParams = cx.params()?;
    tracing::info!(region = params.region, "reading orders");
    Ok([12, 7, 30].into_iter().filter(|amount| *amount >= params.at_least).collect())
}

#[task]
async fn price(order: i64) -> Result<i64> {
    Ok(order * 100)
}

#[task]
async fn total(prices: Vec<i64>) -> Result<i64> {
    Ok(prices.iter().sum())
}

#[derive(Operator)]
struct Report {
    #[template]
    text: String,
    #[input]
    total: In<i64>,
}

impl Execute for Report {
    type Output = String;

    async fn execute(&self, cx: &TaskContext) -> Result<String> {
        let text = format!("{}: {}", self.text, self.total.get(cx)?);
        tracing::info!("{text}");
        Ok(text)
    }
}

#[dag(schedule = "@daily", start_date = "2026-01-01", tags = ["example"], params = SalesParams)]
fn sales(d: &Dag) {
    let orders = d.add(orders::call());
    let prices = d.map(orders, price::call);
    let total = d.add(total::call(prices));
    d.add(Report { text: "{{ params.region }} on {{ ds }}".into(), total: total.into_in() });
}

#[task]
async fn fails() -> Result<()> {
    Err(TaskError::fail("the warehouse is closed"))
}

#[task]
async fn after() -> Result<()> {
    Ok(())
}

#[dag]
fn broken(d: &Dag) {
    let _ = d.add(fails::call()) >> d.add(after::call());
}

fn main() -> ExitCode {
    airflow::cli(AirflowBuilder::discovered_dags)
}
