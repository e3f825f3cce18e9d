//! Faults on purpose: our own processes over a real database, killed, frozen, stopped and started while they work; then
//! everything is compared with what the plan says must come of it.
//!
//! `faults [--store sqlite|postgres|mysql] [--broker redis|rabbitmq] [--seed N] [--runs N] [--quick] [NAME..]` runs the
//! named tests, or all of them, and prints one line of JSON for each. With a broker, tasks run in worker processes. A test fails if anything was lost, doubled without a reason or against a limit, and if its faults did
//! not happen.
#![expect(clippy::print_stdout, reason = "the results are what this program is for")]

mod app;
mod brokers;
mod clients;
mod clocks;
mod database;
mod fleet;
mod frozen;
mod ledger;
mod logs;
mod messages;
mod oracle;
mod points;
mod severed;
mod stand;
mod storm;
mod tests;
mod unruly;
mod upgrade;
mod versions;
mod workload;

use std::process::ExitCode;

use airflow_executors::remote::testing::BrokerServer;
use stand::Options;
use tests::{TESTS, Test};

fn options() -> Result<Options, String> {
    let mut options = Options::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} wants a value"));
        match arg.as_str() {
            "--store" => {
                let store = value()?;
                if !["sqlite", "postgres", "mysql"].contains(&store.as_str()) {
                    return Err(format!("{store} is no store; there are sqlite, postgres, mysql"));
                }
                options.store = Some(store);
            }
            "--broker" => {
                options.broker = Some(match value()?.as_str() {
                    "redis" => BrokerServer::Redis,
                    "rabbitmq" => BrokerServer::Rabbitmq,
                    other => return Err(format!("{other} is no broker; there are redis, rabbitmq")),
                });
            }
            "--quick" => options.is_quick = true,
            "--seed" => options.seed = value()?.parse().map_err(|_| "--seed wants a number")?,
            "--runs" => options.runs = value()?.parse().map_err(|_| "--runs wants a number")?,
            name if TESTS.iter().any(|test| test.name == name) => options.names.push(name.to_owned()),
            other => {
                let names: Vec<&str> = TESTS.iter().map(|test| test.name).collect();
                return Err(format!("{other} is no test; there are {}", names.join(", ")));
            }
        }
    }
    Ok(options)
}

#[tokio::main]
async fn main() -> ExitCode {
    if let Some(setup) = app::Setup::of_this_process() {
        return match app::run(&setup).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            println!("{error}");
            return ExitCode::from(2);
        }
    };
    let mut failed = 0;
    for test in TESTS.iter().filter(|test| options.wants(test.name)) {
        let (line, ok) = line(test, &options).await;
        println!("{line}");
        failed += u32::from(!ok);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one test; gives its line, and whether all is well.
async fn line(test: &'static Test, options: &Options) -> (serde_json::Value, bool) {
    let store = options.store.as_deref().unwrap_or("sqlite");
    let broker = options.broker_name();
    let bare = |ok: bool, what: &str, why: String| {
        let line =
            serde_json::json!({ "test": test.name, "store": store, "broker": broker, "ok": ok, what: why });
        (line, ok)
    };
    if !test.stores.contains(&store) || !test.work.is_for(options.broker) {
        return bare(true, "not_for", format!("{store} with {broker}"));
    }
    if let Some(server) = options.server()
        && tokio::task::spawn_blocking(move || server.address()).await.is_ok_and(|address| address.is_none())
    {
        return bare(true, "not_run", "*** NOT RUN: there is no such server ***".to_owned());
    }
    match (test.run)(test, options).await {
        Ok(outcome) => outcome,
        Err(error) => bare(false, "error", error.to_string()),
    }
}
