//! The task that commits: its connection, and the two ways of a commit.
//!
//! The fast way is for PostgreSQL, where a function of the database compares and writes everything in one message, which
//! is one transaction. It refuses all if anything does not hold; then, and always on MySQL, the units are judged: what
//! they name is locked and read, [`View::judge`] says what becomes of each, and those that hold are written.
//!
//! [`View::judge`]: crate::store::judge::View::judge

use std::sync::Arc;

use crate::store::sql::apply::{Lists, STEPS, apart_by_run};
use crate::store::sql::group::{Backend, Work};
use crate::store::sql::{Query, lock, query, runs};
use crate::store::{CreatedRun, NewRun, StoreResult, Unit, UnitResult};

use super::core::{Core, Done, Tx, begin_sql};
use super::link::{Lease, Link};
use super::retry::Tries;
use super::schema;

/// How many connections a pool must have before the committing task keeps one for itself.
const ENOUGH_TO_KEEP_ONE: u32 = 3;

/// What commits. It keeps its connection from one transaction to the next.
#[derive(Debug)]
pub(in crate::store) struct Committer {
    core: Arc<Core>,
    kept: Option<Link>,
}

impl Committer {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core, kept: None }
    }

    async fn lease(&mut self) -> StoreResult<Lease> {
        match self.kept.take() {
            Some(link) => Ok(Lease::new(link)),
            None => self.core.lease().await,
        }
    }

    fn keep(&mut self, link: Option<Link>) {
        if self.core.pool.size() >= ENOUGH_TO_KEEP_ONE {
            self.kept = link;
        }
    }

    async fn commit_units(&mut self, units: &[Unit]) -> StoreResult<Vec<UnitResult>> {
        schema::ready(&self.core).await?;
        if units.is_empty() {
            return Ok(Vec::new());
        }
        let mut tries = Tries::new();
        #[cfg(feature = "postgres")]
        let mut is_fast = crate::store::postgres::is_fast(self.core.kind(), units);
        loop {
            let error = match self.lease().await {
                Ok(lease) => {
                    let core = Arc::clone(&self.core);
                    #[cfg(feature = "postgres")]
                    let done = if is_fast {
                        match crate::store::postgres::commit(&core, lease, units).await {
                            // Refused as a whole: each is to get its own answer.
                            Done::Over(Ok(None), link) => {
                                self.keep(link);
                                is_fast = false;
                                continue;
                            }
                            Done::Over(result, link) => {
                                Done::Over(result.map(Option::unwrap_or_default), link)
                            }
                            Done::Undone(error) => Done::Undone(error),
                        }
                    } else {
                        judged(&core, lease, units).await
                    };
                    #[cfg(not(feature = "postgres"))]
                    let done = judged(&core, lease, units).await;
                    match done {
                        Done::Over(result, link) => {
                            self.keep(link);
                            return result;
                        }
                        Done::Undone(error) => error,
                    }
                }
                Err(error) => error,
            };
            if !tries.again(&error).await {
                return Err(error);
            }
        }
    }

    async fn create_runs(&mut self, new: &[NewRun]) -> StoreResult<Vec<CreatedRun>> {
        schema::ready(&self.core).await?;
        let mut tries = Tries::new();
        loop {
            let error = match self.core.begin().await {
                Ok(mut tx) => {
                    let result = runs::create(&mut tx.conn(), new).await;
                    match tx.end(result).await {
                        Done::Over(result, _) => return result,
                        Done::Undone(error) => error,
                    }
                }
                Err(error) => error,
            };
            if !tries.again(&error).await {
                return Err(error);
            }
        }
    }
}

/// Locks, judges, writes.
async fn judged(core: &Core, lease: Lease, units: &[Unit]) -> Done<Vec<UnitResult>> {
    let mut tx = Tx::on(core, lease);
    let result = judge(&mut tx, units).await;
    tx.end_with(result).await
}

async fn judge<'q>(tx: &mut Tx<'_>, units: &[Unit]) -> StoreResult<(Vec<UnitResult>, Vec<Query<'q>>)> {
    let kind = tx.conn().kind();
    let mut view = lock::read(&locked(tx, units).await?)?;
    let results: Vec<UnitResult> = units.iter().map(|unit| view.judge(unit)).collect();
    let held = units.iter().zip(&results).filter(|(_, result)| **result == UnitResult::Committed);
    let held: Vec<&Unit> = held.map(|(unit, _)| unit).collect();
    let mut writes = Vec::new();
    for part in apart_by_run(&held) {
        let lists = Lists::new(kind, &part);
        for (list, sql) in STEPS {
            for rows in lists.parts(list) {
                writes.push(query(sql).bind(rows.to_owned()));
            }
        }
    }
    Ok((results, writes))
}

/// Begins the transaction, locks and reads.
async fn locked(tx: &mut Tx<'_>, units: &[Unit]) -> StoreResult<Vec<Vec<crate::store::sql::Row>>> {
    let kind = tx.conn().kind();
    let statements = lock::statements(kind, units);
    if !kind.sends_batches() {
        tx.lease().raw(begin_sql(kind), crate::store::sql::errors::STATEMENT_DEADLINE).await?;
        return tx.conn().batch(statements.into()).await;
    }
    let begin: Vec<&'static str> = begin_sql(kind).split("; ").collect();
    let head = begin.len();
    let mut all: Vec<Query<'_>> = begin.into_iter().map(query).collect();
    all.extend(statements);
    let mut answers = tx.conn().batch(all).await?;
    Ok(answers.split_off(head))
}

impl Backend for Committer {
    fn commit<'c>(&'c mut self, units: &'c [Unit]) -> Work<'c, Vec<UnitResult>> {
        Box::pin(self.commit_units(units))
    }

    fn create<'c>(&'c mut self, new: &'c [NewRun]) -> Work<'c, Vec<CreatedRun>> {
        Box::pin(self.create_runs(new))
    }
}
