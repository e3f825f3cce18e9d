//! What workloads cost, beside what the database and the broker allow in the same process.
//!
//! `cargo bench --bench workloads --features postgres,redis,rabbitmq -- --workload chain --store sqlite` measures one,
//! `-- --table` all that have a target ([`table`]), `-- --help` tells the rest. Each repetition is a process of its own:
//! the peak of the memory is then that of one thing, and nothing is warm. Without `--bench`, as `cargo test` calls it,
//! it is the guard of what workloads cost in commits and calls ([`guard`]).
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]
#![expect(clippy::cast_precision_loss, reason = "times and counts are far from where that begins")]

mod args;
mod broker;
mod dags;
mod guard;
mod machine;
mod measure;
mod place;
mod table;

use std::process::{Command, Stdio};

use clap::Parser as _;

use args::Args;
use measure::Measured;

/// The arguments of a process that measures once and prints it as JSON.
const ONE: &str = "AIRFLOW_BENCH_ONE";

/// Measures in processes of their own, as often as the arguments say.
fn repeat(args: &Args) -> impl Iterator<Item = Measured> {
    let orders = serde_json::to_string(args).expect("plain data");
    (0..args.repeat.max(1)).map(move |_| {
        let mut one = Command::new(std::env::current_exe().expect("a path"));
        let output = one.env(ONE, &orders).stderr(Stdio::inherit()).output().expect("it runs");
        assert!(output.status.success(), "a measurement failed: {orders}");
        serde_json::from_slice(&output.stdout).expect("a measurement")
    })
}

fn main() {
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    if std::env::var_os(measure::NOTHING).is_some() {
        return;
    }
    if let Ok(orders) = std::env::var(measure::ATTEMPT) {
        // One attempt needs no threads to share work with.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        return runtime.expect("a runtime").block_on(measure::be_an_attempt(&orders));
    }
    if let Ok(orders) = std::env::var(broker::WORKER) {
        return runtime().block_on(broker::work(&orders));
    }
    if let Ok(orders) = std::env::var(measure::COLD) {
        return runtime().block_on(measure::be_cold(&orders));
    }
    if let Ok(orders) = std::env::var(ONE) {
        let args: Args = serde_json::from_str(&orders).expect("orders");
        let measured = runtime().block_on(measure::measure(&args));
        println!("{}", serde_json::to_string(&measured).expect("plain data"));
        return;
    }
    if !std::env::args().any(|arg| arg == "--bench") {
        return runtime().block_on(guard::run());
    }
    let args = Args::parse();
    if args.table {
        table::print(&args);
    } else {
        for measured in repeat(&args) {
            if args.json {
                println!("{}", serde_json::to_string(&measured).expect("plain data"));
            } else {
                println!("{}", measured.line());
            }
        }
    }
}
