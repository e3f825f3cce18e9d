//! Connections, transactions, and what becomes of them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::store::points::reach_point;
use crate::store::sql::errors::{COMMIT_DEADLINE, STATEMENT_DEADLINE};
use crate::store::sql::text::{Dialect, Kind};
use crate::store::sql::{Conn, Query, query};
use crate::store::{StoreError, StoreResult};

use super::link::{Lease, Link, Pool, unreachable};
use super::nonce::{Nonce, Nonces, fence};
use super::retry::{Class, Tries, class};
use super::schema::NEEDED;

/// How often it is looked what became of a commit. With the pauses between, about half a minute: as long as a restart of
/// a database takes.
const RESOLVE_TRIES: u32 = 20;

/// Commits whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnknownCommits {
    /// They turned out to be done.
    pub committed: u64,
    /// They turned out not to be done, and can never be any more. They were tried again.
    pub undone: u64,
    /// Nothing could be found out in time: the caller got an error, and the change may be there or not.
    pub unresolved: u64,
}

#[derive(Debug, Default)]
struct Counts {
    committed: AtomicU64,
    undone: AtomicU64,
    unresolved: AtomicU64,
}

/// What all parts of a store share.
#[derive(Debug)]
pub(in crate::store) struct Core {
    pub(in crate::store) pool: Pool,
    pub(in crate::store) dialect: Dialect,
    /// Where the tables are, if the database has such a thing.
    #[cfg(feature = "postgres")]
    schema: String,
    /// The address, without secrets.
    pub(in crate::store) place: String,
    pub(in crate::store) nonces: Nonces,
    /// Whether the tables are known to fit; they never stop to, but for a reset by another version.
    pub(super) ready: AtomicBool,
    /// How many versions of tests are needed beside ours.
    more: AtomicU32,
    counts: Counts,
}

impl Core {
    pub(in crate::store) fn new(pool: Pool, dialect: Dialect, place: String) -> Self {
        Self {
            pool,
            dialect,
            #[cfg(feature = "postgres")]
            schema: String::new(),
            place,
            nonces: Nonces::default(),
            ready: AtomicBool::new(false),
            more: AtomicU32::new(0),
            counts: Counts::default(),
        }
    }

    /// With the tables in this schema.
    #[cfg(feature = "postgres")]
    pub(in crate::store) fn in_schema(mut self, schema: &str) -> Self {
        schema.clone_into(&mut self.schema);
        self
    }

    /// The schema of the tables.
    #[cfg(feature = "postgres")]
    pub(in crate::store) fn schema(&self) -> &str {
        &self.schema
    }

    /// The version of the tables that this program needs.
    pub(in crate::store) fn needed(&self) -> u32 {
        NEEDED + self.more.load(Ordering::Relaxed)
    }

    #[cfg(feature = "testing")]
    pub(super) fn need_more(&self, count: u32) {
        self.more.store(count, Ordering::Relaxed);
        self.ready.store(false, Ordering::Release);
    }

    pub(super) fn kind(&self) -> Kind {
        self.dialect.kind()
    }

    /// A connection.
    pub(in crate::store) async fn lease(&self) -> StoreResult<Lease> {
        let link = self.pool.acquire().await.map_err(|error| unreachable(&self.place, error))?;
        Ok(Lease::new(link))
    }

    /// A transaction that has begun, on a connection of its own.
    pub(in crate::store) async fn begin(&self) -> StoreResult<Tx<'_>> {
        let mut lease = self.lease().await?;
        lease.raw(begin_sql(self.kind()), STATEMENT_DEADLINE).await?;
        Ok(Tx { core: self, lease: Some(lease) })
    }

    pub(super) fn unknown_commits(&self) -> UnknownCommits {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counts { committed, undone, unresolved } = &self.counts;
        UnknownCommits { committed: count(committed), undone: count(undone), unresolved: count(unresolved) }
    }

    /// Finds out whether the transaction of `nonce` was committed; if it was not, it never will be.
    pub(in crate::store) async fn resolve(&self, nonce: &Nonce) -> StoreResult<bool> {
        let mut tries = Tries::at_most(RESOLVE_TRIES);
        loop {
            let answer = async {
                let mut lease = self.lease().await?;
                let committed = fence(&mut lease.conn(&self.dialect), nonce.id).await?;
                drop(lease.clean());
                Ok::<bool, StoreError>(committed)
            };
            match answer.await {
                Ok(committed) => {
                    let counter = if committed { &self.counts.committed } else { &self.counts.undone };
                    counter.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(
                        committed,
                        "the answer to a commit was lost; the database knew what became of it"
                    );
                    return Ok(committed);
                }
                Err(error) => {
                    if class(&error) == Class::Other || !tries.again(&error).await {
                        self.counts.unresolved.fetch_add(1, Ordering::Relaxed);
                        tracing::error!(%error, "the answer to a commit was lost, and nothing tells what became of it");
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// How a transaction begins, with nothing stronger than what everything here is made for.
pub(in crate::store) fn begin_sql(kind: Kind) -> &'static str {
    match kind {
        #[cfg(feature = "mysql")]
        Kind::Mysql => "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION",
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        _ => "BEGIN ISOLATION LEVEL READ COMMITTED",
    }
}

/// What became of a try.
pub(in crate::store) enum Done<T> {
    /// It is over.
    Over(StoreResult<T>, Option<Link>),
    /// It left nothing behind, and trying again may help.
    Undone(StoreError),
}

/// A transaction. Dropped without an end it is taken back, with its connection.
#[derive(Debug)]
pub(in crate::store) struct Tx<'s> {
    core: &'s Core,
    lease: Option<Lease>,
}

impl<'s> Tx<'s> {
    /// On a connection on which nothing has begun yet.
    pub(in crate::store) fn on(core: &'s Core, lease: Lease) -> Self {
        Self { core, lease: Some(lease) }
    }

    pub(in crate::store) fn lease(&mut self) -> &mut Lease {
        self.lease.as_mut().expect("a transaction has its connection until it ends")
    }

    pub(in crate::store) fn conn(&mut self) -> Conn<'_> {
        let dialect = &self.core.dialect;
        self.lease().conn(dialect)
    }

    /// Lets the statements of this transaction take long: they touch as many rows as somebody has stored.
    pub(super) async fn be_patient(&mut self) -> StoreResult<()> {
        match self.core.kind() {
            #[cfg(feature = "postgres")]
            Kind::Postgres => self.lease().raw("SET LOCAL statement_timeout = 0", STATEMENT_DEADLINE).await,
            #[cfg(any(feature = "sqlite", feature = "mysql"))]
            _ => Ok(()),
        }
    }

    /// Ends a transaction that has only read.
    pub(super) async fn leave(mut self) {
        if let Some(mut lease) = self.lease.take()
            && lease.raw("ROLLBACK", STATEMENT_DEADLINE).await.is_ok()
        {
            drop(lease.clean());
        }
    }

    /// Ends the transaction of some work: commits what went well, and takes everything back if it did not.
    pub(in crate::store) async fn end<T>(self, result: StoreResult<T>) -> Done<T> {
        self.end_with(result.map(|value| (value, Vec::new()))).await
    }

    /// The same with last statements.
    pub(in crate::store) async fn end_with<T>(mut self, result: StoreResult<(T, Vec<Query<'_>>)>) -> Done<T> {
        let (value, last) = match result {
            Ok(done) => done,
            Err(error) => return self.undo(error).await,
        };
        let nonce = self.core.nonces.next();
        let mut sent = false;
        match self.commit(&nonce, last, &mut sent).await {
            Ok(()) => {
                self.core.nonces.committed(nonce);
                Done::Over(Ok(value), self.lease.take().map(Lease::clean))
            }
            Err(error) if !sent || class(&error) == Class::Again => {
                self.core.nonces.undone(nonce);
                self.undo(error).await
            }
            Err(error) => self.find_out(nonce, value, error).await,
        }
    }

    /// Leaves the mark and commits. `sent` says whether the server may have been told to commit.
    async fn commit(&mut self, nonce: &Nonce, last: Vec<Query<'_>>, sent: &mut bool) -> StoreResult<()> {
        let mut all = last;
        reach_point!("server.before_commit");
        let mut conn = self.conn();
        all.extend(nonce.statements(&conn));
        if conn.kind().sends_batches() {
            all.push(query("COMMIT"));
            *sent = true;
            conn.batch(all).await?;
        } else {
            conn.batch(all).await?;
            *sent = true;
            self.lease().raw("COMMIT", COMMIT_DEADLINE).await?;
        }
        reach_point!("server.after_commit");
        Ok(())
    }

    /// The answer to the commit did not come, or says nothing of use: asks the database what became of it.
    async fn find_out<T>(mut self, nonce: Nonce, value: T, error: StoreError) -> Done<T> {
        if class(&error) == Class::Other {
            // The connection may be good, with the transaction open on it: then nobody would know until it ends.
            self.lease().raw("ROLLBACK", STATEMENT_DEADLINE).await.ok();
        }
        self.lease = None;
        match self.core.resolve(&nonce).await {
            Ok(true) => {
                self.core.nonces.committed(nonce);
                Done::Over(Ok(value), None)
            }
            Ok(false) => {
                self.core.nonces.undone(nonce);
                if class(&error) == Class::Other { Done::Over(Err(error), None) } else { Done::Undone(error) }
            }
            Err(_) => Done::Over(Err(error), None),
        }
    }

    /// Takes everything back.
    async fn undo<T>(mut self, error: StoreError) -> Done<T> {
        let kind = class(&error);
        let mut link = None;
        if kind != Class::Broken
            && let Some(mut lease) = self.lease.take()
            && lease.raw("ROLLBACK", STATEMENT_DEADLINE).await.is_ok()
        {
            link = Some(lease.clean());
        }
        match kind {
            Class::Other => Done::Over(Err(error), link),
            Class::Again | Class::Broken => Done::Undone(error),
        }
    }
}
