//! Measures ours and theirs by turns and prints what came of it.

use std::process::Stdio;

use clap::ValueEnum;
use serde::Serialize;
use tokio::process::Command;

use crate::args::{Args, Engine, Orders, StoreKind, Workload};
use crate::measure::Measured;
use crate::{Fallible, ORDERS, place};

/// All measurements of one workload on two engines.
#[derive(Debug, Serialize)]
struct Comparison {
    workload: Workload,
    size: usize,
    store: StoreKind,
    peer: Engine,
    ours: Vec<Measured>,
    theirs: Vec<Measured>,
    /// What went wrong, or took too long, in measurements that are missing.
    failures: Vec<String>,
}

/// The least, the median and the most of some figures.
#[derive(Debug, Clone, Copy)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(all: &[Measured], figure: impl Fn(&Measured) -> f64) -> Option<Self> {
        let mut figures: Vec<f64> = all.iter().map(figure).collect();
        figures.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        Some(Self { min, median: figures[figures.len() / 2], max })
    }
}

/// Measures and prints everything that the arguments name.
///
/// # Errors
///
/// If there is no place to measure in. What an engine fails at is told with its row.
pub(crate) async fn compare(args: &Args) -> Fallible<()> {
    if !args.json {
        if args.store == StoreKind::Postgres {
            println!("{}\n", place::durability(&args.url).await?);
        }
        print_head();
    }
    let mut number = 0;
    for workload in args.workloads() {
        for peer in args.peers(workload) {
            let comparison = by_turns(args, workload, peer, &mut number).await?;
            if args.json {
                println!("{}", serde_json::to_string(&comparison)?);
            } else {
                print_row(&comparison);
            }
        }
    }
    Ok(())
}

/// Ours, theirs, ours, theirs: what the machine does meanwhile hits both.
async fn by_turns(args: &Args, workload: Workload, peer: Engine, number: &mut usize) -> Fallible<Comparison> {
    let (mut ours, mut theirs, mut failures, mut size) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..args.repeat.max(1) {
        for (engine, all) in [(Engine::Airflow, &mut ours), (peer, &mut theirs)] {
            *number += 1;
            let (orders, measured) = once(args, engine, workload, *number).await?;
            size = orders.size;
            match measured {
                Ok(measured) => all.push(measured),
                Err(error) => failures.push(format!("{}: {error}", name(engine))),
            }
        }
    }
    Ok(Comparison { workload, size, store: args.store, peer, ours, theirs, failures })
}

/// One measurement in a place of its own, which is removed whatever happens.
async fn once(
    args: &Args,
    engine: Engine,
    workload: Workload,
    number: usize,
) -> Fallible<(Orders, Fallible<Measured>)> {
    let place = place::make(args.store, &args.url, args.folder.as_deref(), number).await?;
    let orders = args.orders(engine, workload, &place);
    let measured = in_a_process(args, &orders).await;
    place::remove(&args.url, &place).await?;
    Ok((orders, measured))
}

async fn in_a_process(args: &Args, orders: &Orders) -> Fallible<Measured> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(ORDERS, serde_json::to_string(orders)?).kill_on_drop(true).stderr(Stdio::inherit());
    let Ok(output) = tokio::time::timeout(args.limit(), command.output()).await else {
        return Err(format!("not within {} s", args.limit().as_secs()).into());
    };
    let output = output?;
    if !output.status.success() {
        return Err(format!("failed ({})", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn print_head() {
    println!(
        "Medians (least–most). A ratio is ours / theirs: of hops less than 1 is quicker, of tasks/s more than 1.\n"
    );
    println!(
        "| workload | store | with | hop ours (µs) | hop theirs (µs) | ratio | tasks/s ours | tasks/s theirs | ratio |"
    );
    println!("|---|---|---|--:|--:|--:|--:|--:|--:|");
}

fn print_row(row: &Comparison) {
    let peer = name(row.peer);
    let hops = cells(row, |measured| measured.hop_p50_us);
    let rates = cells(row, |measured| measured.tasks_per_s);
    println!("| {} {} | {} | {peer} | {hops} | {rates} |", name(row.workload), row.size, name(row.store));
    for failure in &row.failures {
        eprintln!("{failure}");
    }
}

/// What the command line calls it.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Ours, theirs and their ratio.
fn cells(row: &Comparison, figure: fn(&Measured) -> f64) -> String {
    let cell = |spread: Option<Spread>| {
        spread.map_or("–".to_owned(), |it| format!("{:.0} ({:.0}–{:.0})", it.median, it.min, it.max))
    };
    let (ours, theirs) = (Spread::of(&row.ours, figure), Spread::of(&row.theirs, figure));
    let ratio = ours
        .zip(theirs)
        .map_or("–".to_owned(), |(ours, theirs)| format!("**{:.2}**", ours.median / theirs.median));
    format!("{} | {} | {ratio}", cell(ours), cell(theirs))
}
