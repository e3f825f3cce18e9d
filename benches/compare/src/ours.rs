//! The workloads on this crate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use airflow::config::Config;
use airflow::config::options::Settings;
use airflow::prelude::*;
use airflow::scheduler::EndedRun;
use airflow::store::{PoolSpec, PostgresOptions, SharedStore, SqliteOptions, Synchronous};
use futures_util::future::try_join_all;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::Fallible;
use crate::args::{Orders, SyncKind, Workload};
use crate::bodies::body;
use crate::measure::settle;

const DAG: &str = "workload";

/// How long a stop may take.
const GRACE: Duration = Duration::from_secs(10);

#[task]
async fn pass(before: u64) -> Result<u64> {
    Ok(body(before))
}

#[task]
async fn sum(all: Vec<u64>) -> Result<u64> {
    Ok(body(all.iter().sum()))
}

/// As many of everything as there may be: what is measured is the engine, not its limits.
fn unlimited() -> DagDef {
    DagDef::new(DAG).max_active_tasks(1_000_000).max_active_runs(100_000)
}

fn chain(orders: &Orders) -> DagDef {
    unlimited().define(|d| {
        let mut before = d.add(pass::call(0_u64).id("t0"));
        for i in 1..orders.size {
            before = after(d, orders, before, &format!("t{i}"));
        }
    })
}

fn fanout(orders: &Orders) -> DagDef {
    unlimited().define(|d| {
        let first = d.add(pass::call(0_u64).id("first"));
        let middle = (0..orders.size).map(|i| after(d, orders, first, &format!("t{i}"))).collect();
        gather(d, orders, middle, "last");
    })
}

fn diamond(orders: &Orders) -> DagDef {
    unlimited().define(|d| {
        let first = d.add(pass::call(0_u64).id("a"));
        gather(d, orders, ["b", "c", "d"].map(|id| after(d, orders, first, id)).into(), "e");
    })
}

/// A task that comes after another one, with its value unless tasks are only ordered.
fn after<'d>(d: &'d Dag, orders: &Orders, before: Handle<'d, u64>, id: &str) -> Handle<'d, u64> {
    if !orders.ordered {
        return d.add(pass::call(before).id(id));
    }
    let task = d.add(pass::call(0_u64).id(id));
    d.order(before.node() >> task.node());
    task
}

/// A task that comes after many, with their values unless tasks are only ordered.
fn gather<'d>(d: &'d Dag, orders: &Orders, before: Vec<Handle<'d, u64>>, id: &str) {
    if !orders.ordered {
        d.add(sum::call(before).id(id));
        return;
    }
    let task = d.add(pass::call(0_u64).id(id)).node();
    for one in before {
        d.order(one.node() >> task);
    }
}

/// Runs a workload; the answer is when it was asked for.
///
/// # Errors
///
/// If anything fails, a run included.
pub(crate) async fn run(orders: &Orders) -> Fallible<Instant> {
    let airflow = application(orders).await?;
    let running = airflow.start();
    let mut ended = running.scheduler().ended_runs();
    settle().await;
    let asked = Instant::now();
    let ask = |i: usize| {
        let trigger = airflow.trigger(DAG).run_id(format!("r{i}"));
        async move { trigger.await }
    };
    let asking = async { Fallible::Ok(try_join_all((0..orders.runs()).map(ask)).await?) };
    tokio::try_join!(asking, all_ended(&mut ended, orders.runs()))?;
    running.stop(GRACE).await?;
    Ok(asked)
}

/// Returns when that many runs have ended well.
async fn all_ended(ended: &mut broadcast::Receiver<EndedRun>, runs: usize) -> Fallible<()> {
    let mut seen = 0;
    while seen < runs {
        match ended.recv().await {
            Ok(run) if run.state == RunState::Success => seen += 1,
            Ok(run) => return Err(format!("the run `{}` is {}", run.run_id, run.state).into()),
            // Some of those that ended were not told one by one.
            Err(RecvError::Lagged(missed)) => seen += usize::try_from(missed)?,
            Err(RecvError::Closed) => return Err("the scheduler has ended".into()),
        }
    }
    Ok(())
}

async fn application(orders: &Orders) -> Fallible<Airflow> {
    let store = open(orders).await?;
    store.migrate().await?;
    let pool = PoolSpec {
        name: "default_pool".into(),
        slots: 1_000_000,
        description: String::new(),
        include_deferred: false,
    };
    store.set_pool(pool).await?;
    let settings = Settings::read(&Config::default(), &orders.place.folder)?;
    let dag = match orders.workload {
        Workload::Chain => chain(orders),
        Workload::Fanout => fanout(orders),
        Workload::Diamonds => diamond(orders),
    };
    let builder = Airflow::builder().settings(&settings).shared_store(store).dag(dag);
    Ok(builder.executor(LocalExecutor::new(orders.slots)).build().await?)
}

async fn open(orders: &Orders) -> Fallible<SharedStore> {
    if let Some(url) = &orders.place.url {
        return Ok(Arc::new(PostgresStore::connect_with(PostgresOptions::new(url)?).await?));
    }
    let synchronous = match orders.sync {
        SyncKind::Normal => Synchronous::Normal,
        SyncKind::Full => Synchronous::Full,
    };
    let options = SqliteOptions { synchronous, ..SqliteOptions::new(orders.place.folder.join("airflow.db")) };
    Ok(Arc::new(SqliteStore::open_with(options).await?))
}
