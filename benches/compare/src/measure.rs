//! One measurement, in a process that does nothing else.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::args::{Engine, Orders, Workload};
use crate::{Fallible, bodies, ours, with_apalis, with_dbos};

/// How long an engine has been idle before it is asked: what it does once at its start is not what is measured.
const SETTLING: Duration = Duration::from_millis(500);

/// How long bodies that should not run at all are waited for.
const LATE: Duration = Duration::from_millis(200);

/// What one engine did once.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// From the request to the last body.
    pub(crate) wall_s: f64,
    pub(crate) tasks_per_s: f64,
    /// From the end of one task to the start of the next, the median; in microseconds.
    pub(crate) hop_p50_us: f64,
    /// CPU of this process: without the database server.
    pub(crate) cpu_s: f64,
}

/// Returns when an engine that was just started is idle.
pub(crate) async fn settle() {
    tokio::time::sleep(SETTLING).await;
}

/// Does what it was told.
///
/// # Errors
///
/// If the engine fails, or if another number of bodies has run than was asked for.
pub(crate) async fn measure(orders: &Orders) -> Fallible<Measured> {
    bodies::expect(orders.tasks());
    let asked = match orders.engine {
        Engine::Airflow => Box::pin(ours::run(orders)).await?,
        Engine::Dbos => Box::pin(with_dbos::run(orders)).await?,
        Engine::ApalisGraph => Box::pin(with_apalis::run_graph(orders)).await?,
        Engine::ApalisStepped => Box::pin(with_apalis::run_stepped(orders)).await?,
    };
    let cpu_s = cpu_seconds();
    tokio::time::sleep(LATE).await;
    let begun = bodies::begun();
    if begun.len() != orders.tasks() {
        return Err(format!("{} bodies have run instead of {}", begun.len(), orders.tasks()).into());
    }
    Ok(measured(orders, asked, &begun, cpu_s))
}

fn measured(orders: &Orders, asked: Instant, begun: &[Instant], cpu_s: f64) -> Measured {
    let wall_s = begun.last().map_or(0.0, |last| last.duration_since(asked).as_secs_f64());
    let tasks = orders.tasks() as f64;
    let mut hops: Vec<f64> = begun.windows(2).map(|two| (two[1] - two[0]).as_secs_f64() * 1e6).collect();
    hops.sort_unstable_by(f64::total_cmp);
    let hop_p50_us = match orders.workload {
        Workload::Chain => hops.get(hops.len() / 2).copied().unwrap_or_default(),
        // Tasks run beside each other: between two of them there is no hop that could be seen.
        Workload::Fanout | Workload::Diamonds => wall_s * 1e6 / tasks,
    };
    Measured { wall_s, tasks_per_s: tasks / wall_s, hop_p50_us, cpu_s }
}

/// CPU seconds of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
    ticks / 100.0
}
