//! The same workloads on this crate and on others, by turns, on the same database with the same durability.
//!
//! `cargo run --release -- chain --store sqlite --tasks 200`, `-- --help` tells the rest, `README.md` what the figures
//! mean. Start reading in [`compare`]; what each engine does is in [`ours`], [`with_dbos`] and [`with_apalis`]. Each
//! measurement is a process of its own: the program started again with its orders in a variable.
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]
#![expect(clippy::print_stderr, reason = "and says what went wrong")]
#![expect(clippy::cast_precision_loss, reason = "times and counts are far from where that begins")]

mod args;
mod bodies;
mod compare;
mod measure;
mod ours;
mod place;
mod with_apalis;
mod with_dbos;

use clap::Parser as _;

use args::{Args, Orders};

/// An answer, or whatever went wrong.
pub(crate) type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The variable with the orders of a process that measures once and prints the result as JSON.
pub(crate) const ORDERS: &str = "AIRFLOW_COMPARE_ORDERS";

#[tokio::main]
async fn main() -> Fallible<()> {
    if let Ok(orders) = std::env::var(ORDERS) {
        let orders: Orders = serde_json::from_str(&orders)?;
        println!("{}", serde_json::to_string(&measure::measure(&orders).await?)?);
        return Ok(());
    }
    compare::compare(&Args::parse()).await
}
