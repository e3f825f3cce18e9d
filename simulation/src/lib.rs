//! Whole deployments in virtual time: several schedulers on one store, with executors of their own or workers behind a
//! broker, users who change things, and everything that goes wrong. One seed is one course of events, the same each time.
//!
//! `AIRFLOW_SIM_SEEDS=2000 cargo test --release -p airflow-simulation` runs so many seeds; a seed that breaks a law is
//! printed with its smallest plan and what happened at the end. `AIRFLOW_SIM_SEED=17` runs that one only.

#![cfg(test)]

mod broker;
mod clock;
mod crew;
mod deployment;
mod mutants;
mod oracle;
mod plan;
mod process;
mod random;
mod remote;
mod shrink;
mod values;
mod work;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use mutants::Mutant;
use plan::Plan;

/// Seeds that are run unless somebody asks for more.
const FEW: u64 = if cfg!(debug_assertions) { 60 } else { 300 };

/// Seeds within which each mistake must be noticed.
const MOST_FOR_A_MUTANT: u64 = 1000;

/// What the seeds must have reached, or the simulation does not test what it says. Only looked at beyond `ENOUGH`
/// seeds: some of it is rare.
const SITUATIONS: &[&str] = &[
    "a call fails",
    "a call hangs",
    "a commit is written after its caller gave up",
    "a commit without answer was not written",
    "a commit without answer was written",
    "a crash after a beat",
    "a crash after a commit, before its effects",
    "a crash after runs were claimed",
    "a crash after runs were made",
    "a crash at the start",
    "a crash before a commit",
    "a crash before a report",
    "a crash during a submit",
    "a full limit refuses a unit",
    "a lease has run out",
    "a process is declared dead",
    "a process is killed",
    "a process is stopped",
    "a process stands still for longer than its lease",
    "a report comes twice",
    "a result is handed on",
    "a result is set by a user",
    "a report is late",
    "a retry",
    "a sensor is run again later",
    "a task is at its limit",
    "a task is at its limit in a run",
    "a task is deferred",
    "a wait is over",
    "an asset makes a run",
    "an event of a pause waits for the next one",
    "somebody says that an asset is new",
    "a run exists already",
    "a run is taken over",
    "a run is triggered",
    "a running task is cleared",
    "a stale unit is refused",
    "a task is given up",
    "an attempt is handed back",
    "an attempt is lost",
    "a cancel reaches a worker",
    "a message comes after its attempt has ended",
    "a message comes after its attempt was taken away",
    "a message comes twice",
    "a message is lost and sent again",
    "a publish fails",
    "a worker drains",
    "a worker is killed before it claims",
    "a worker is killed with claimed attempts",
    "a worker stands still for longer than its lease",
    "an announcement is lost",
    "an attempt is claimed",
    "the broker is away",
    "the broker loses all its data",
    "the name of a worker is still taken",
];
const ENOUGH: u64 = 250;

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
                        println!("seed {seed}: {:x} {:?}", outcome.hash, outcome.violation);
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
        "seed {} breaks {}: {}\nreplay: AIRFLOW_SIM_SEED={} cargo test --release -p airflow-simulation seeds\n\
         smallest plan: {small:#?}\nwith {:?}\nlast events:\n{}",
        plan.seed,
        violation.law,
        violation.text,
        plan.seed,
        outcome.violation,
        outcome.lines[last..].join("\n")
    )
}

/// Goal: no law is broken, whatever happens, and enough happens. Method: random plans; the laws are looked at after
/// every write.
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
    if count >= ENOUGH {
        let missing: Vec<_> = SITUATIONS.iter().filter(|what| !seen.contains_key(**what)).collect();
        assert!(missing.is_empty(), "never reached in {count} seeds: {missing:?}");
    }
}

/// Goal: what was found once stays away. Method: seeds that have broken a law, as long as plans stay as they are.
#[test]
fn seeds_that_found_mistakes_keep_the_laws() {
    for (seed, mistake) in [
        (224, "an attempt that was left open by a clear"),
        (3574, "a claim that was written late, and that an idle worker did not run"),
    ] {
        let broken = world::run(&Plan::of_seed(seed), None).violation;
        assert_eq!(broken, None, "seed {seed}: {mistake}");
    }
}

/// Goal: a seed can be replayed. Method: twice the same seed, twice the same course of events.
#[test]
fn a_seed_takes_the_same_course_each_time() {
    let with_workers = (0..).map(Plan::of_seed).filter(Plan::has_worker).take(8);
    for plan in [3, 7, 8, 42].map(Plan::of_seed).into_iter().chain(with_workers) {
        let seed = plan.seed;
        let (first, second) = (world::run(&plan, None), world::run(&plan, None));
        let differs = first.lines.iter().zip(&second.lines).position(|(first, second)| first != second);
        if let Some(at) = differs {
            let begin = at.saturating_sub(10);
            let (first, second) = (&first.lines[begin..=at], &second.lines[begin..=at]);
            panic!("seed {seed}, twice the same seed:\n{first:#?}\n{second:#?}");
        }
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert!(first.units > 0 && first.attempts > 0, "seed {seed} does something");
    }
}

/// Goal: the simulation is awake. Method: known mistakes, each of which it must notice within some seeds.
#[test]
fn mistakes_are_noticed() {
    let mut missed = Vec::new();
    let all_seeds = number("AIRFLOW_SIM_MUTANTS").is_some();
    for (mutant, known) in mutants::ALL {
        let at_once = !all_seeds && world::run(&Plan::of_seed(known), Some(mutant)).violation.is_some();
        let seed = if at_once { Some(known) } else { all(0..MOST_FOR_A_MUTANT, Some(mutant)).0 };
        match seed {
            Some(seed) => println!("{mutant:?}: noticed with seed {seed}"),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "not noticed in {MOST_FOR_A_MUTANT} seeds: {missed:?}");
}

/// Goal: the comparisons of states and generations are tested too. The first repeats that of epochs, which change with
/// every state, and the second matters in a moment of milliseconds, so hardly any course of events shows that they are
/// missing; the suite for stores does.
#[tokio::test]
#[should_panic(expected = "assertion")]
async fn a_store_that_overlooks_generations_fails_its_suite() {
    let clock = airflow_core::time::SystemClock;
    let blind = Some(airflow_core::store::Blind::Generation);
    let store = std::sync::Arc::new(airflow_core::store::MemoryStore::blinded(clock, blind, |_| {}));
    let checked = airflow_core::testing::store_suite::a_user_change_refuses_older_decisions(store).await;
    checked.expect("the store in memory does not fail");
}

#[tokio::test]
#[should_panic(expected = "assertion")]
async fn a_store_that_overlooks_states_fails_its_suite() {
    let clock = airflow_core::time::SystemClock;
    let store =
        airflow_core::store::MemoryStore::blinded(clock, Some(airflow_core::store::Blind::State), |_| {});
    let checked =
        airflow_core::testing::store_suite::a_stale_state_or_epoch_is_refused(std::sync::Arc::new(store))
            .await;
    checked.expect("the store in memory does not fail");
}

/// Goal: what breaks is made small. Method: a mistake that is noticed with many events is noticed with fewer.
#[test]
fn a_plan_that_breaks_a_law_is_made_smaller() {
    let mutant = Some(Mutant::RunKeyFromNow);
    let plan = (0..100).map(Plan::of_seed).find(|plan| plan.events.len() > 8).expect("some plan is large");
    let law = world::run(&plan, mutant).violation.expect("it is noticed").law;
    let small = shrink::shrunk(&plan, mutant, law);
    assert!(small.events.is_empty() && small.dags.len() == 1 && small.minutes < plan.minutes, "{small:#?}");
    assert_eq!(world::run(&small, mutant).violation.expect("it is still noticed").law, law);
}

/// Goal: what workers have no part in is told without them. Method: the same mistake in a plan with several of them and a
/// bad broker.
#[test]
fn workers_and_their_broker_are_left_out_if_they_do_not_matter() {
    let mutant = Some(Mutant::RunKeyFromNow);
    let is_large =
        |plan: &Plan| plan.has_worker() && plan.events.iter().any(|event| event.what.is_of_broker());
    let plan = (0..100).map(Plan::of_seed).find(is_large).expect("some plan has a bad broker");
    let law = world::run(&plan, mutant).violation.expect("it is noticed").law;
    let small = shrink::shrunk(&plan, mutant, law);
    assert!(small.events.is_empty() && !small.has_worker() && small.processes.len() == 1, "{small:#?}");
    assert_eq!(world::run(&small, mutant).violation.expect("it is still noticed").law, law);
}

/// Goal: a day of a larger deployment. Method: 24 hours with three schedulers, four workers and twenty dags in release
/// builds, two hours else.
#[test]
fn a_day_of_three_schedulers_and_four_workers_keeps_the_laws() {
    let hours = number("AIRFLOW_SIM_HOURS").unwrap_or(if cfg!(debug_assertions) { 2 } else { 24 });
    let plan = Plan::long(1, hours, 3, 4, 20);
    let outcome = world::run(&plan, None);
    if let Some(violation) = outcome.violation {
        let last = outcome.lines.len().saturating_sub(50);
        panic!("{violation:?}\nlast events:\n{}", outcome.lines[last..].join("\n"));
    }
    println!("{hours} hours: {} units, {} attempts", outcome.units, outcome.attempts);
    assert!(outcome.attempts > hours * 40, "{} attempts", outcome.attempts);
}
