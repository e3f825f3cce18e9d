//! Whole deployments in virtual time: several schedulers with local executors on one store, users who change things,
//! and everything that goes wrong. One seed is one course of events, the same each time.
//!
//! `AIRFLOW_SIM_SEEDS=2000 cargo test --release --test simulation` runs so many seeds; a seed that breaks a law is
//! printed with its smallest plan and what happened at the end. `AIRFLOW_SIM_SEED=17` runs that one only.

#[path = "simulation/clock.rs"]
mod clock;
#[path = "simulation/mutants.rs"]
mod mutants;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/plan.rs"]
mod plan;
#[path = "simulation/process.rs"]
mod process;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/shrink.rs"]
mod shrink;
#[path = "simulation/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use mutants::Mutant;
use plan::Plan;

/// Seeds that a debug build runs, and what it takes to see the situations below.
const FEW: u64 = 40;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs seeds on both cores; stops at the first one that breaks a law.
fn all(
    seeds: std::ops::Range<u64>,
    mutant: Option<Mutant>,
) -> (Option<u64>, BTreeMap<&'static str, u64>, u64) {
    let verbose = std::env::var_os("AIRFLOW_SIM_VERBOSE").is_some();
    let next = AtomicU64::new(seeds.start);
    let worst = AtomicU64::new(u64::MAX);
    let seen: Mutex<(BTreeMap<&'static str, u64>, u64)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || seed > worst.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = world::run(&Plan::of_seed(seed), mutant);
                    if verbose {
                        eprintln!("seed {seed}: {:x} {:?}", outcome.hash, outcome.violation);
                    }
                    if outcome.violation.is_some() {
                        worst.fetch_min(seed, Ordering::Relaxed);
                    }
                    let mut seen = seen.lock().expect("no panic");
                    seen.1 += outcome.attempts;
                    outcome
                        .seen
                        .into_iter()
                        .for_each(|(what, count)| *seen.0.entry(what).or_default() += count);
                }
            });
        }
    });
    let worst = worst.into_inner();
    let (seen, attempts) = seen.into_inner().expect("no panic");
    ((worst != u64::MAX).then_some(worst), seen, attempts)
}

/// What to say of a seed that breaks a law.
fn complaint(plan: &Plan, mutant: Option<Mutant>) -> String {
    let outcome = world::run(plan, mutant);
    let violation = outcome.violation.expect("it was broken a moment ago");
    let small = shrink::shrunk(plan, mutant, violation.law);
    let outcome = world::run(&small, mutant);
    let last =
        outcome.lines.len().saturating_sub(if number("AIRFLOW_SIM_VERBOSE").is_some() { 5_000 } else { 50 });
    format!(
        "seed {} breaks {}: {}\nreplay: AIRFLOW_SIM_SEED={} cargo test --release --test simulation seeds\n\
         smallest plan: {small:#?}\nwith {:?}\nlast events:\n{}",
        plan.seed,
        violation.law,
        violation.text,
        plan.seed,
        outcome.violation,
        outcome.lines[last..].join("\n")
    )
}

/// Goal: no law is broken, whatever happens. Method: random plans; the laws are looked at after every write.
#[test]
fn seeds_keep_the_laws() {
    let seeds = match number("AIRFLOW_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("AIRFLOW_SIM_SEEDS").unwrap_or(FEW),
    };
    let count = seeds.end - seeds.start;
    let (broken, seen, attempts) = all(seeds, None);
    if let Some(seed) = broken {
        panic!("{}", complaint(&Plan::of_seed(seed), None));
    }
    println!("{count} seeds, {attempts} attempts, {seen:#?}");
}
