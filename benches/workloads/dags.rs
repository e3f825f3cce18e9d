//! The dags of the workloads, and what their tasks note down.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use airflow::prelude::*;

use crate::args::Workload;

/// When a body began and ended, in nanoseconds of the time of day: workers are other processes of this machine.
pub(crate) type Mark = (u64, u64);

static MARKS: Mutex<Vec<Mark>> = Mutex::new(Vec::new());

pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn mark(begun: u64, ended: u64) {
    MARKS.lock().unwrap_or_else(PoisonError::into_inner).push((begun, ended));
}

/// What the bodies of this process have noted since the last call.
pub(crate) fn take_marks() -> Vec<Mark> {
    std::mem::take(&mut MARKS.lock().unwrap_or_else(PoisonError::into_inner))
}

#[task]
async fn nothing() -> Result<()> {
    let now = now();
    mark(now, now);
    Ok(())
}

fn fib_of(n: u32) -> u64 {
    if n < 2 { u64::from(n) } else { fib_of(n - 1) + fib_of(n - 2) }
}

#[task]
async fn fib(n: u32) -> Result<u64> {
    let begun = now();
    let value = std::hint::black_box(fib_of(std::hint::black_box(n)));
    mark(begun, now());
    Ok(value)
}

#[task]
async fn numbers(count: usize) -> Result<Vec<usize>> {
    Ok((0..count).collect())
}

#[task]
async fn take(number: usize) -> Result<()> {
    std::hint::black_box(number);
    nothing_done();
    Ok(())
}

fn nothing_done() {
    let now = now();
    mark(now, now);
}

/// The id of the dag of every workload that has one.
pub(crate) const DAG: &str = "workload";

/// As many of everything as there may be: what is measured is the engine, not its limits.
fn unlimited(id: &str) -> DagDef {
    DagDef::new(id).max_active_tasks(1_000_000).max_active_runs(100_000)
}

/// Tasks one after the other.
fn line(def: DagDef, count: usize, fib_of: Option<u32>) -> DagDef {
    def.define(|d| {
        let mut before: Option<Node<'_>> = None;
        for i in 0..count {
            let task = match fib_of {
                Some(n) => d.add(fib::call(n).id(format!("t{i}"))).node(),
                None => d.add(nothing::call().id(format!("t{i}"))).node(),
            };
            if let Some(before) = before {
                d.order(before >> task);
            }
            before = Some(task);
        }
    })
}

fn fanout(count: usize) -> DagDef {
    unlimited(DAG).define(|d| {
        let first = d.add(nothing::call().id("first")).node();
        let last = d.add(nothing::call().id("last")).node();
        for i in 0..count {
            let task = d.add(nothing::call().id(format!("t{i}"))).node();
            d.order(first >> task);
            d.order(task >> last);
        }
    })
}

fn diamond() -> DagDef {
    unlimited(DAG).define(|d| {
        let [first, left, middle, right, last] =
            ["a", "b", "c", "d", "e"].map(|id| d.add(nothing::call().id(id.to_owned())).node());
        d.order(first >> [left, middle, right]);
        d.order([left, middle, right] >> last);
    })
}

fn mapped(count: usize) -> DagDef {
    unlimited(DAG).define(|d| {
        let list = d.add(numbers::call(count));
        d.map(list, take::call);
    })
}

/// Pseudo-random numbers, the same each time (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap_or(0)
    }
}

/// Edges between random tasks, from the earlier to the later: 1.5 a task, so that a task has three neighbours.
fn random(id: &str, count: usize) -> DagDef {
    unlimited(id).define(|d| {
        let tasks: Vec<Node<'_>> =
            (0..count).map(|i| d.add(nothing::call().id(format!("t{i}"))).node()).collect();
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
        let mut edges = std::collections::BTreeSet::new();
        while count > 3 && edges.len() < count * 3 / 2 {
            let (a, b) = (dice.below(count), dice.below(count));
            if a != b {
                edges.insert((a.min(b), a.max(b)));
            }
        }
        for (a, b) in edges {
            d.order(tasks[a] >> tasks[b]);
        }
    })
}

fn idle(at: usize) -> DagDef {
    DagDef::new(format!("idle_{at}")).schedule("0 0 1 1 *").start_date("2100-01-01").define(|d| {
        d.add(nothing::call());
    })
}

/// How many tasks a run of the backfill has.
pub(crate) const BACKFILL_TASKS: usize = 10;

/// The dags of a workload of this size: tasks, runs or dags, as the workload says.
pub(crate) fn dags(workload: Workload, size: usize) -> Vec<DagDef> {
    match workload {
        Workload::Chain | Workload::ColdStart => vec![line(unlimited(DAG), size, None)],
        Workload::Fib10 => vec![line(unlimited(DAG), size, Some(10))],
        Workload::Fib33 => vec![line(unlimited(DAG), size, Some(33))],
        Workload::Fanout => vec![fanout(size)],
        Workload::Diamonds => vec![diamond()],
        Workload::Mapped => vec![mapped(size)],
        Workload::Big => vec![random(DAG, size)],
        Workload::Backfill => {
            let days = DagDef::new(DAG).schedule("@daily").start_date("2020-01-01").catchup(false);
            vec![line(days.max_active_tasks(1_000_000).max_active_runs(64), BACKFILL_TASKS, None)]
        }
        Workload::WideIdle => (0..size).map(idle).collect(),
        Workload::OneDefinition => vec![random(DAG, size)],
        Workload::ManyDefinitions => (0..size).map(|i| random(&format!("d{i}"), 100)).collect(),
    }
}
