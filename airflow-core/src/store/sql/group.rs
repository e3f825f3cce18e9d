//! The one task that commits.
//!
//! What it writes with belongs to it: a caller that is cancelled cannot stop a transaction halfway. Callers that wait
//! while a transaction is in progress share the next one (group commit), because a transaction costs more than what is
//! written in it. Each gets its own answer; if one asks for what cannot be, each is tried alone.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use crate::store::{CreatedRun, NewRun, StoreError, StoreResult, Unit, UnitResult};

/// How many units or runs of several callers share a transaction. More gains nothing (the cost of the transaction is
/// spread thin by then) and lets other processes wait longer for the lock.
const MOST_SHARED: usize = 500;

/// How many callers may wait for the writer before further ones wait for a place: far more than share a transaction.
const QUEUE: usize = 4096;

/// What commits: it has connections, begins and ends transactions.
pub(in crate::store) trait Backend: Send + 'static {
    /// Writes the units that hold, all in one transaction.
    fn commit<'c>(&'c mut self, units: &'c [Unit]) -> Work<'c, Vec<UnitResult>>;

    /// Creates runs, all in one transaction.
    fn create<'c>(&'c mut self, runs: &'c [NewRun]) -> Work<'c, Vec<CreatedRun>>;
}

/// What is done with a backend.
pub(in crate::store) type Work<'c, T> = Pin<Box<dyn Future<Output = StoreResult<T>> + Send + 'c>>;

type Boxed<B> = Box<dyn for<'c> FnOnce(&'c mut B) -> Pin<Box<dyn Future<Output = ()> + Send + 'c>> + Send>;
type Reply<T> = oneshot::Sender<StoreResult<T>>;

struct Call<I, O> {
    items: Vec<I>,
    reply: Reply<Vec<O>>,
}

enum Job<B> {
    Commit(Call<Unit, UnitResult>),
    Create(Call<NewRun, CreatedRun>),
    Other(Boxed<B>),
}

/// Takes a job if it is of one kind, else gives it back.
type Pick<I, O, B> = fn(Job<B>) -> Result<Call<I, O>, Job<B>>;

/// A handle to the writing task; the task ends when all handles are gone.
#[derive(Debug)]
pub(in crate::store) struct Writer<B> {
    jobs: mpsc::Sender<Job<B>>,
    transactions: Arc<AtomicU64>,
}

fn gone() -> StoreError {
    StoreError::Database("the writer of the database has stopped with the runtime it was opened in".into())
}

impl<B: Backend> Writer<B> {
    /// Starts the task that owns `backend`.
    pub(in crate::store) fn start(backend: B) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let transactions = Arc::new(AtomicU64::new(0));
        tokio::spawn(serve(backend, queue, Arc::clone(&transactions)));
        Self { jobs, transactions }
    }

    /// How many transactions with units or runs there were.
    pub(in crate::store) fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    pub(in crate::store) async fn commit(&self, items: Vec<Unit>) -> StoreResult<Vec<UnitResult>> {
        self.ask(|reply| Job::Commit(Call { items, reply })).await
    }

    pub(in crate::store) async fn create_runs(&self, items: Vec<NewRun>) -> StoreResult<Vec<CreatedRun>> {
        self.ask(|reply| Job::Create(Call { items, reply })).await
    }

    /// Does `work` on the backend.
    #[cfg_attr(
        not(feature = "sqlite"),
        expect(dead_code, reason = "only SQLite does everything on one connection")
    )]
    pub(in crate::store) async fn with<T, F>(&self, work: F) -> StoreResult<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut B) -> Work<'c, T> + Send + 'static,
    {
        self.ask(|reply| {
            Job::Other(Box::new(move |conn| {
                Box::pin(async move {
                    // A caller that no longer waits is no error.
                    reply.send(work(conn).await).ok();
                })
            }))
        })
        .await
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job<B>) -> StoreResult<T> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn serve<B: Backend>(mut conn: B, mut queue: mpsc::Receiver<Job<B>>, transactions: Arc<AtomicU64>) {
    let mut left = None;
    loop {
        let next = match left.take() {
            Some(job) => Some(job),
            None => queue.recv().await,
        };
        let Some(job) = next else { return };
        match job {
            Job::Other(work) => work(&mut conn).await,
            Job::Commit(first) => {
                let calls = gather(first, &mut queue, &mut left, |job| match job {
                    Job::Commit(call) => Ok(call),
                    other => Err(other),
                });
                share(&mut conn, calls, &transactions, B::commit).await;
            }
            Job::Create(first) => {
                let calls = gather(first, &mut queue, &mut left, |job| match job {
                    Job::Create(call) => Ok(call),
                    other => Err(other),
                });
                share(&mut conn, calls, &transactions, B::create).await;
            }
        }
    }
}

/// The calls of one kind that wait at the head of the queue. The first one of another kind goes to `left`.
fn gather<I, O, B>(
    first: Call<I, O>,
    queue: &mut mpsc::Receiver<Job<B>>,
    left: &mut Option<Job<B>>,
    pick: Pick<I, O, B>,
) -> Vec<Call<I, O>> {
    let mut size = first.items.len();
    let mut calls = vec![first];
    while size < MOST_SHARED
        && let Ok(job) = queue.try_recv()
    {
        match pick(job) {
            Ok(call) => {
                size += call.items.len();
                calls.push(call);
            }
            Err(other) => {
                *left = Some(other);
                break;
            }
        }
    }
    calls
}

/// Does the work of all `calls` at once, or, if that fails, of each alone.
async fn share<B, I: Sync, O>(
    conn: &mut B,
    mut calls: Vec<Call<I, O>>,
    transactions: &AtomicU64,
    work: impl for<'c> Fn(&'c mut B, &'c [I]) -> Work<'c, Vec<O>>,
) {
    if calls.len() > 1 {
        let sizes: Vec<usize> = calls.iter().map(|call| call.items.len()).collect();
        let all: Vec<I> = calls.iter_mut().flat_map(|call| std::mem::take(&mut call.items)).collect();
        transactions.fetch_add(1, Ordering::Relaxed);
        match work(conn, &all).await {
            Ok(results) => {
                let mut results = results.into_iter();
                for (call, size) in calls.into_iter().zip(sizes) {
                    call.reply.send(Ok(results.by_ref().take(size).collect())).ok();
                }
                return;
            }
            // One of them asked for something that cannot be: the others are not to suffer.
            Err(StoreError::NotFound(_)) => {}
            // The database failed, and would fail each of them after the same wait.
            Err(error) => {
                for call in calls {
                    let same = match &error {
                        StoreError::NoRoom(why) => StoreError::NoRoom(why.to_string().into()),
                        other => StoreError::Database(other.to_string().into()),
                    };
                    call.reply.send(Err(same)).ok();
                }
                return;
            }
        }
        let mut all = all.into_iter();
        for (call, size) in calls.iter_mut().zip(sizes) {
            call.items = all.by_ref().take(size).collect();
        }
    }
    for call in calls {
        transactions.fetch_add(1, Ordering::Relaxed);
        call.reply.send(work(conn, &call.items).await).ok();
    }
}
