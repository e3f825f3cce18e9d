//! The workloads on `apalis`: its workflows, on its SQLite and its PostgreSQL.
//!
//! A worker is told of new tasks by the hook or by `NOTIFY`, and also polls, as in the examples of both crates.

use std::pin::Pin;
use std::time::{Duration, Instant};

use apalis::prelude::*;
use apalis_core::backend::{BackendConfig, WireFormatBackend};
use apalis_postgres::{PgPool, PostgresStorage};
use apalis_sqlite::{JsonCodec, SqlitePool, SqliteStorage};
use apalis_workflow::sequential::repeat_until::RepeaterState;
use apalis_workflow::{GraphFlow, SteppedFlow};
use futures_util::{Sink, SinkExt as _, Stream, stream};
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqliteOperation, SqlitePoolOptions, SqliteSynchronous,
    UpdateHookResult,
};
use tokio::sync::mpsc;

use crate::Fallible;
use crate::args::{Orders, SyncKind, Workload};
use crate::bodies::{self, body};
use crate::measure::settle;

const QUEUE: &str = "compare";

/// Connections beside those of the tasks that run at once.
const SPARE_CONNECTIONS: u32 = 4;

/// How often it is asked whether all is written down, when nothing is measured any more.
const LOOK: Duration = Duration::from_millis(20);

/// How long a worker may take to write down what it has done.
const WRITING: Duration = Duration::from_secs(30);

/// A backend that keeps everything as JSON, as both databases do.
trait JsonBackend:
    Backend
    + BackendConfig
    + WireFormatBackend<Codec = JsonCodec<Vec<u8>>, Compact = Vec<u8>>
    + Send
    + Sync
    + 'static
{
}

impl<B> JsonBackend for B where
    B: Backend
        + BackendConfig
        + WireFormatBackend<Codec = JsonCodec<Vec<u8>>, Compact = Vec<u8>>
        + Send
        + Sync
        + 'static
{
}

/// An item for each task that was written.
type News = Pin<Box<dyn Stream<Item = ()> + Send + Sync>>;

async fn pass(before: u64) -> Result<u64, BoxDynError> {
    Ok(body(before))
}

async fn sum(all: Vec<u64>) -> Result<u64, BoxDynError> {
    Ok(body(all.iter().sum()))
}

async fn sum_of_three((b, c, d): (u64, u64, u64)) -> Result<u64, BoxDynError> {
    Ok(body(b + c + d))
}

fn chain<B: JsonBackend>(count: usize) -> GraphFlow<B> {
    let graph = GraphFlow::new("chain");
    let first = graph.add_node("t0", task_fn(pass));
    if count > 1 {
        let mut before = graph.add_node("t1", task_fn(pass)).depends_on(&first);
        for i in 2..count {
            before = graph.add_node(&format!("t{i}"), task_fn(pass)).depends_on(before);
        }
    }
    graph
}

fn fanout<B: JsonBackend>(count: usize) -> GraphFlow<B> {
    let graph = GraphFlow::new("fanout");
    let first = graph.add_node("first", task_fn(pass));
    let middle = |i: usize| graph.add_node(&format!("t{i}"), task_fn(pass)).depends_on(&first);
    let middle: Vec<_> = (0..count).map(middle).collect();
    graph.add_node("last", task_fn(sum)).depends_on(middle);
    graph
}

fn diamond<B: JsonBackend>() -> GraphFlow<B> {
    let graph = GraphFlow::new("diamond");
    let a = graph.add_node("a", task_fn(pass));
    let [b, c, d] = ["b", "c", "d"].map(|name| graph.add_node(name, task_fn(pass)).depends_on(&a));
    graph.add_node("e", task_fn(sum_of_three)).depends_on((&b, &c, &d));
    graph
}

fn graph<B: JsonBackend>(orders: &Orders) -> GraphFlow<B> {
    match orders.workload {
        Workload::Chain => chain(orders.size),
        Workload::Fanout => fanout(orders.size),
        Workload::Diamonds => diamond(),
    }
}

/// A loop of one step: a chain of steps that differ would be a type of that length.
macro_rules! stepped_chain {
    ($count:expr) => {{
        let count: usize = $count;
        SteppedFlow::new("chain").repeat_until(move |before: u64, state: Meta<RepeaterState>| async move {
            let value = body(before);
            Ok::<_, BoxDynError>((state.iterations() + 1 == count).then_some(value))
        })
    }};
}

/// One step that makes a list, one for each of its elements, one that gathers.
macro_rules! stepped_fanout {
    () => {
        SteppedFlow::new("fanout")
            .and_then(|count: u64| async move {
                body(count);
                Ok::<_, BoxDynError>((0..count).collect::<Vec<u64>>())
            })
            .filter_map(|before: u64| async move { Some(body(before)) })
            .and_then(sum)
    };
}

/// Runs a flow on a backend of any type: the bounds of a function would be longer than the code.
macro_rules! run_flow {
    ($orders:expr, $unwritten:expr, $backend:expr, $flow:expr, $input:expr) => {{
        let backend = $backend;
        let mut queue = backend.clone();
        let context = WorkerContext::new("worker");
        let worker = WorkerBuilder::new(&context)
            .backend(backend)
            .concurrency($orders.slots)
            .parallelize(tokio::spawn)
            .on_event(report)
            .build($flow);
        let worker = tokio::spawn(worker.run());
        settle().await;
        let asked = Instant::now();
        ask(&mut queue, $orders.runs(), $input).await?;
        bodies::all().await;
        all_written(&$unwritten).await?;
        context.stop()?;
        worker.await??;
        Ok(asked)
    }};
}

/// The backend that `examples/dag.rs` and `examples/stepped.rs` of `apalis-postgres` make.
macro_rules! postgres_backend {
    ($orders:expr, $pool:expr, $input:ty) => {
        PostgresStorage::<$input>::new(&$pool)
            .with_config(apalis_postgres::Config::default().queue(QUEUE).batch_size($orders.batch))
            .with_pubsub()
            .poll_with_interval(Duration::from_millis($orders.poll_ms))
    };
}

/// The backend that the documentation of `apalis-sqlite` makes for workers that wait for events.
macro_rules! sqlite_backend {
    ($orders:expr, $pool:expr, $listener:expr, $input:ty) => {{
        let polling = Strategy::new().stream($listener).interval(Duration::from_millis($orders.poll_ms));
        SqliteStorage::<$input>::new(&$pool)
            .with_config(apalis_sqlite::Config::default().queue(QUEUE).batch_size($orders.batch))
            .poll_with_strategy(polling)
    }};
}

fn report(_: &WorkerContext, event: &Event) {
    if let Event::Error(error) = event {
        eprintln!("apalis: {error}");
    }
}

/// Leaves runs in the queue, all in one transaction.
async fn ask<Q>(queue: &mut Q, runs: usize, input: u64) -> Fallible<()>
where
    Q: Sink<Task<Vec<u8>>, Error: std::error::Error + Send + Sync + 'static> + Unpin,
{
    let input = serde_json::to_vec(&input)?;
    for _ in 0..runs {
        queue.feed(TaskBuilder::new(input.clone()).build()).await?;
    }
    Ok(queue.flush().await?)
}

/// Runs a workload as a graph; the answer is when it was asked for.
///
/// # Errors
///
/// If anything fails, or if a task is not written down as done in the end.
pub(crate) async fn run_graph(orders: &Orders) -> Fallible<Instant> {
    if let Some(url) = &orders.place.url {
        let pool = postgres(orders, url).await?;
        let unwritten = async || unwritten_in_postgres(&pool).await;
        return run_flow!(orders, unwritten, postgres_backend!(orders, pool, Vec<u8>), graph(orders), 0);
    }
    let (pool, listener) = sqlite(orders).await?;
    let unwritten = async || unwritten_in_sqlite(&pool).await;
    run_flow!(orders, unwritten, sqlite_backend!(orders, pool, listener, Vec<u8>), graph(orders), 0)
}

/// Runs a workload as steps; the answer is when it was asked for.
///
/// # Errors
///
/// If anything fails, or if a task is not written down as done in the end.
pub(crate) async fn run_stepped(orders: &Orders) -> Fallible<Instant> {
    let count = orders.size as u64;
    if let Some(url) = &orders.place.url {
        let pool = postgres(orders, url).await?;
        let unwritten = async || unwritten_in_postgres(&pool).await;
        let backend = postgres_backend!(orders, pool, u64);
        return match orders.workload {
            Workload::Chain => run_flow!(orders, unwritten, backend, stepped_chain!(orders.size), 0),
            _ => run_flow!(orders, unwritten, backend, stepped_fanout!(), count),
        };
    }
    let (pool, listener) = sqlite(orders).await?;
    let unwritten = async || unwritten_in_sqlite(&pool).await;
    let backend = sqlite_backend!(orders, pool, listener, u64);
    match orders.workload {
        Workload::Chain => run_flow!(orders, unwritten, backend, stepped_chain!(orders.size), 0),
        _ => run_flow!(orders, unwritten, backend, stepped_fanout!(), count),
    }
}

async fn postgres(orders: &Orders, url: &str) -> Fallible<PgPool> {
    let connections = u32::try_from(orders.slots)? + SPARE_CONNECTIONS;
    let pool = PgPoolOptions::new().max_connections(connections).connect(url).await?;
    PostgresStorage::setup(&pool).await?;
    Ok(pool)
}

async fn unwritten_in_postgres(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM apalis.jobs WHERE status <> 'Done'").fetch_one(pool).await
}

/// Opens a file with a hook that tells of new tasks, as `SqliteStorage::connect_with_callback` does, but with one
/// connection: writers that wait for each other make everything take twice as long.
///
/// Without `SqliteStorage::setup`, which sets `synchronous` to `OFF` on whichever connection it gets: what it does
/// besides is in the options.
async fn sqlite(orders: &Orders) -> Fallible<(SqlitePool, News)> {
    let (told, mut news) = mpsc::unbounded_channel();
    let with_hook = SqlitePoolOptions::new().max_connections(1).after_connect(move |connection, _| {
        let told = told.clone();
        Box::pin(async move {
            let tell = move |change: UpdateHookResult<'_>| {
                if change.operation == SqliteOperation::Insert && change.table == "Jobs" {
                    // Nobody listens any more once the worker has stopped.
                    let _ = told.send(());
                }
            };
            connection.lock_handle().await?.set_update_hook(tell);
            Ok(())
        })
    });
    let pool = with_hook.connect_with(file(orders)).await?;
    SqliteStorage::migrations().run(&pool).await?;
    Ok((pool, Box::pin(stream::poll_fn(move |context| news.poll_recv(context)))))
}

fn file(orders: &Orders) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(orders.place.folder.join("apalis.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(match orders.sync {
            SyncKind::Normal => SqliteSynchronous::Normal,
            SyncKind::Full => SqliteSynchronous::Full,
        })
        .pragma("temp_store", "MEMORY")
        .pragma("cache_size", "64000")
        .pragma("journal_size_limit", "67108864")
}

async fn unwritten_in_sqlite(pool: &SqlitePool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM Jobs WHERE status <> 'Done'").fetch_one(pool).await
}

/// Returns when all tasks are done in the database as well.
async fn all_written(unwritten: impl AsyncFn() -> Result<i64, sqlx::Error>) -> Fallible<()> {
    let waiting = async {
        while unwritten().await? > 0 {
            tokio::time::sleep(LOOK).await;
        }
        Ok::<_, sqlx::Error>(())
    };
    Ok(tokio::time::timeout(WRITING, waiting).await.map_err(|_| "tasks of apalis are never done")??)
}
