//! The mark that each transaction leaves, by which it can be told whether it was committed.
//!
//! A transaction writes a number of its own into `af_commit`. Who does not know what became of it writes the same number
//! on another connection: the primary key lets one of the two in, and waits while the other has not ended. So the
//! answer is certain, and a transaction that was given up can never be committed later. The next transaction of this
//! process takes the mark of the one before away; what is there changes with each, which is what
//! [`change_token`](crate::store::Store::change_token) looks at.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::store::StoreResult;
use crate::store::sql::errors::corrupt;
use crate::store::sql::{Conn, Query, query};

/// How many marks one transaction takes away: there are more only after many calls at once.
const MOST_SPENT: usize = 100;

/// After how long the marks of processes that died are taken away, in days: far longer than any transaction lives.
const KEPT_DAYS: i64 = 1;

/// How many marks of transactions of hosts may be there before they are taken away: each is read with each look.
const MOST_LENT: usize = 100;

const LEAVE: &str = "INSERT INTO af_commit (nonce, fenced) VALUES (?1, ?2)";

const DROP: &str = "DELETE FROM af_commit WHERE nonce IN (SELECT j.id FROM ROWS(?1, id ID) j)";

/// The marks of this process.
#[derive(Debug, Default)]
pub(in crate::store) struct Nonces(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// All that may be in the table.
    own: HashSet<Uuid>,
    /// Those of transactions that have ended: the next transaction takes them away.
    spent: Vec<Uuid>,
}

/// The mark of one transaction, and those it takes away.
#[derive(Debug)]
pub(in crate::store) struct Nonce {
    pub(in crate::store) id: Uuid,
    pub(in crate::store) spent: Vec<Uuid>,
}

impl Nonces {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new mark.
    pub(in crate::store) fn next(&self) -> Nonce {
        let id = Uuid::now_v7();
        let mut state = self.state();
        state.own.insert(id);
        let from = state.spent.len().saturating_sub(MOST_SPENT);
        Nonce { id, spent: state.spent.split_off(from) }
    }

    /// The transaction was committed.
    pub(in crate::store) fn committed(&self, nonce: Nonce) {
        let mut state = self.state();
        for spent in &nonce.spent {
            state.own.remove(spent);
        }
        state.spent.push(nonce.id);
    }

    /// Nobody knows whether the transaction was committed, and nobody has to: it may be repeated.
    #[cfg(feature = "postgres")]
    pub(in crate::store) fn unknown(&self, nonce: Nonce) {
        let mut state = self.state();
        state.spent.extend(nonce.spent);
        state.spent.push(nonce.id);
    }

    /// The transaction was not committed.
    pub(in crate::store) fn undone(&self, nonce: Nonce) {
        self.state().spent.extend(nonce.spent);
    }

    /// A number made of the marks of all others.
    pub(in crate::store) async fn token(&self, conn: &mut Conn<'_>) -> StoreResult<u64> {
        const ALL: &str = "SELECT nonce FROM af_commit";
        let rows = query(ALL).fetch_all(conn).await?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id("nonce")).collect::<StoreResult<_>>()?;
        let lent: Vec<Uuid> = ids.iter().copied().filter(is_lent).collect();
        if lent.len() > MOST_LENT {
            // First a new one: so no process can miss that there were others.
            lend().execute(conn).await?;
            let mut rows = conn.rows();
            lent.iter().for_each(|id| rows.row().maybe_id(Some(*id)).end());
            query(DROP).bind(rows.finish()).execute(conn).await?;
        }
        let state = self.state();
        let others = ids.iter().filter(|id| !state.own.contains(id));
        // Whatever their order: a sum of what each is mixed to.
        Ok(others.map(|id| mixed(*id)).fold(0, u64::wrapping_add))
    }
}

/// Leaves a mark in a transaction of the host. It is nobody's, so every process notices it, this one too, and what
/// became of the transaction is the business of the host.
pub(in crate::store) fn lend() -> Query<'static> {
    query(LEAVE).bind(Uuid::new_v4()).bind(false)
}

/// Whether a mark is of a transaction of a host; ours are of another version.
fn is_lent(id: &Uuid) -> bool {
    id.get_version() == Some(uuid::Version::Random)
}

/// Spreads the bits of an id, whose first half is mostly time.
fn mixed(id: Uuid) -> u64 {
    let (high, low) = id.as_u64_pair();
    let sum = (high ^ low.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    sum ^ (sum >> 29)
}

impl Nonce {
    /// The statements by which a transaction leaves its mark.
    pub(in crate::store) fn statements(&self, conn: &Conn<'_>) -> Vec<Query<'static>> {
        let mut all = vec![query(LEAVE).bind(self.id).bind(false)];
        if let Some(spent) = self.spent_list(conn) {
            all.push(query(DROP).bind(spent));
        }
        all
    }

    /// The marks it takes away, as a list.
    pub(in crate::store) fn spent_list(&self, conn: &Conn<'_>) -> Option<String> {
        let mut rows = conn.rows();
        for id in &self.spent {
            rows.row().maybe_id(Some(*id)).end();
        }
        rows.finish()
    }
}

/// Keeps the transaction with this mark from being committed, unless it was; says whether it was. Must run outside of a
/// transaction.
pub(in crate::store) async fn fence(conn: &mut Conn<'_>, nonce: Uuid) -> StoreResult<bool> {
    const WHOSE: &str = "SELECT fenced FROM af_commit WHERE nonce = ?1";
    match query(LEAVE).bind(nonce).bind(true).execute(conn).await {
        Ok(_) => Ok(false),
        // Its own mark, or that of an earlier fence whose answer was lost.
        Err(error) if super::retry::is_duplicate(&error) => {
            let row = query(WHOSE).bind(nonce).fetch_optional(conn).await?;
            let row = row.ok_or_else(|| corrupt(format!("the mark {nonce} of a transaction has gone")))?;
            Ok(!row.flag("fenced")?)
        }
        Err(error) => Err(error),
    }
}

/// Takes away the marks of processes that died long ago.
pub(in crate::store) async fn sweep(conn: &mut Conn<'_>) -> StoreResult<()> {
    const SWEEP: &str = "DELETE FROM af_commit WHERE at < AFTER_MICROS(?1)";
    query(SWEEP).bind(-KEPT_DAYS * 86_400 * 1_000_000).execute(conn).await.map(|_| ())
}
