//! A store in a PostgreSQL database: tables, connections, and a commit in one message.

mod function;
mod options;
pub(super) mod schema;

use crate::id::{IncarnationId, RunPk};
use crate::store::points::{pass_point, reach_point};
use crate::store::server::{Class, Core, Done, Lease, Nonce, Tries, class, code_of, is_duplicate, ready};
use crate::store::sql::apply::{List, Lists};
use crate::store::sql::text::Kind;
use crate::store::sql::{query, remote};
use crate::store::{StoreError, StoreResult, StoredReport, Unit, UnitResult};

pub use options::{PostgresOptions, PostgresStore};

/// A name in double quotes.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether the units can be written by the function: there, and of different runs, unless they only start attempts.
/// Each list of such units has one row an instance; if two name the same one, the function refuses them.
pub(super) fn is_fast(kind: Kind, units: &[Unit]) -> bool {
    let mut runs: Vec<RunPk> = units.iter().map(|unit| unit.run).collect();
    runs.sort_unstable();
    kind == Kind::Postgres
        && (runs.windows(2).all(|pair| pair[0] != pair[1]) || units.iter().all(only_starts))
}

/// Whether a unit does nothing but to start attempts, as the claims of a worker do.
fn only_starts(unit: &Unit) -> bool {
    unit.run_change.is_none()
        && !unit.by_user
        && unit.expansions.is_empty()
        && unit.xcom_clears.is_empty()
        && unit.xcoms.is_empty()
        && unit.ended.is_empty()
        && unit.notices.is_empty()
        && unit.asset_events.is_empty()
        && unit.logs.is_empty()
        && unit.slots.is_empty()
}

/// Writes all units in one message. `None`: they are refused, all of them, and none is written.
pub(super) async fn commit(core: &Core, mut lease: Lease, units: &[Unit]) -> Done<Option<Vec<UnitResult>>> {
    let units: Vec<&Unit> = units.iter().collect();
    let lists = Lists::new(Kind::Postgres, &units);
    let nonce = core.nonces.next();
    let is_shared = units.iter().all(|unit| unit.run_change.is_none() && !unit.by_user);
    let result = call(core, &mut lease, &nonce, is_shared, &lists).await;
    let all = || Some(vec![UnitResult::Committed; units.len()]);
    match result {
        Ok(()) => {
            core.nonces.committed(nonce);
            Done::Over(Ok(all()), Some(lease.clean()))
        }
        Err(error) if is_refused(&error) => {
            core.nonces.undone(nonce);
            Done::Over(Ok(None), Some(lease.clean()))
        }
        Err(error) if class(&error) == Class::Broken => {
            // The function may have been at work, or even done: the message was its own commit.
            drop(lease);
            match core.resolve(&nonce).await {
                Ok(true) => {
                    core.nonces.committed(nonce);
                    Done::Over(Ok(all()), None)
                }
                Ok(false) => {
                    core.nonces.undone(nonce);
                    Done::Undone(error)
                }
                Err(_) => Done::Over(Err(error), None),
            }
        }
        // The server said no, and with it took back what was its own transaction.
        Err(error) => {
            core.nonces.undone(nonce);
            match class(&error) {
                Class::Again => Done::Undone(error),
                _ => Done::Over(Err(error), Some(lease.clean())),
            }
        }
    }
}

async fn call(
    core: &Core,
    lease: &mut Lease,
    nonce: &Nonce,
    is_shared: bool,
    lists: &Lists,
) -> StoreResult<()> {
    let mut conn = lease.conn(&core.dialect);
    let spent = (!nonce.spent.is_empty())
        .then(|| serde_json::to_string(&nonce.spent))
        .transpose()
        .map_err(crate::store::sql::errors::corrupt)?;
    let mut call = query(function::CALL).bind(nonce.id).bind(spent).bind(is_shared);
    for list in List::ALL {
        call = call.bind(lists.get(list));
    }
    reach_point!("postgres.before_call");
    call.execute(&mut conn).await?;
    pass_point!("postgres.after_call");
    Ok(())
}

/// Writes reports in one message. If its answer is lost it is sent again, which changes nothing if it was written.
pub(super) async fn add_reports(
    core: &Core,
    process: IncarnationId,
    reports: &[StoredReport],
) -> StoreResult<Vec<bool>> {
    ready(core).await?;
    let mut tries = Tries::new();
    loop {
        let nonce = core.nonces.next();
        let result = match core.lease().await {
            Ok(mut lease) => {
                let mut conn = lease.conn(&core.dialect);
                let spent = nonce.spent_list(&conn);
                let result = remote::add_reports_at_once(&mut conn, process, reports, nonce.id, spent).await;
                if result.is_ok() {
                    drop(lease.clean());
                }
                result
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(written) => {
                core.nonces.committed(nonce);
                return Ok(written);
            }
            Err(error) => {
                core.nonces.unknown(nonce);
                if class(&error) == Class::Other || !tries.again(&error).await {
                    return Err(error);
                }
            }
        }
    }
}

/// Whether the units do not hold: the function says so, or a key that must be new is there.
fn is_refused(error: &StoreError) -> bool {
    let code = code_of(error).and_then(sqlx::error::DatabaseError::code);
    is_duplicate(error) || code.is_some_and(|code| [function::STALE, function::FULL].contains(&&*code))
}
