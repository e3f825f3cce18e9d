//! The workloads on `dbos`: each run is a workflow, each task a step of it.
//!
//! Steps that run beside each other are built in order and then driven together, as the documentation of `dbos::step`
//! says. They take fewer rows than a child workflow for each task, and no queue has to be polled.

use std::time::Instant;

use dbos::{Config, DBOS, WorkflowRef, step};
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sqlx::{Connection as _, PgConnection};

use crate::Fallible;
use crate::args::{Orders, Workload};
use crate::bodies::body;
use crate::measure::settle;

/// Connections beside those of the tasks that run at once.
const SPARE_CONNECTIONS: u32 = 4;

/// What workflows are told: how many tasks, and how many of them at once.
type Input = (u64, usize);

#[expect(clippy::unused_async, reason = "the body of a step is a future")]
async fn pass(before: u64) -> dbos::Result<u64> {
    Ok(body(before))
}

async fn chain((count, _): Input) -> dbos::Result<u64> {
    let mut value = 0;
    for _ in 0..count {
        value = step("task", move || pass(value)).await?;
    }
    Ok(value)
}

async fn fanout((count, slots): Input) -> dbos::Result<u64> {
    let first = step("first", || pass(0)).await?;
    // All are built before one is polled: that is what numbers them.
    let middle: Vec<_> = (0..count).map(|_| step("task", move || pass(first))).collect();
    let values: Vec<u64> = stream::iter(middle).buffered(slots).try_collect().await?;
    let total = values.iter().sum();
    step("last", move || pass(total)).await
}

async fn diamond(_: Input) -> dbos::Result<u64> {
    let a = step("a", || pass(0)).await?;
    let [b, c, d] = ["b", "c", "d"].map(|name| step(name, move || pass(a)));
    let (b, c, d) = tokio::try_join!(b, c, d)?;
    step("e", move || pass(b + c + d)).await
}

/// Runs a workload; the answer is when it was asked for.
///
/// # Errors
///
/// If anything fails, or if not every task has left its row.
pub(crate) async fn run(orders: &Orders) -> Fallible<Instant> {
    let url = orders.place.url.as_deref().ok_or("dbos keeps everything in PostgreSQL")?;
    let (dbos, workflow) = application(orders, url)?;
    dbos.launch().await?;
    settle().await;
    let asked = Instant::now();
    let input: Input = (orders.size as u64, orders.slots);
    let starts = (0..orders.runs()).map(|_| workflow.start(input));
    let handles = try_join_all(starts).await?;
    try_join_all(handles.into_iter().map(dbos::WorkflowHandle::result)).await?;
    check(orders, url).await?;
    dbos.shutdown().await;
    Ok(asked)
}

fn application(orders: &Orders, url: &str) -> Fallible<(DBOS, WorkflowRef<Input, u64>)> {
    let dbos = DBOS::new(Config {
        app_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        max_connections: u32::try_from(orders.slots)? + SPARE_CONNECTIONS,
        ..Config::new("compare", url)
    });
    let workflow = match orders.workload {
        Workload::Chain => dbos.register_workflow("chain", chain)?,
        Workload::Fanout => dbos.register_workflow("fanout", fanout)?,
        Workload::Diamonds => dbos.register_workflow("diamond", diamond)?,
    };
    Ok((dbos, workflow))
}

/// Looks whether each task has left its row.
async fn check(orders: &Orders, url: &str) -> Fallible<()> {
    let mut server = PgConnection::connect(url).await?;
    let sql = "SELECT count(*) FROM dbos.operation_outputs";
    let rows: i64 = sqlx::query_scalar(sql).fetch_one(&mut server).await?;
    if usize::try_from(rows)? == orders.tasks() {
        return Ok(());
    }
    Err(format!("dbos has recorded {rows} steps instead of {}", orders.tasks()).into())
}
