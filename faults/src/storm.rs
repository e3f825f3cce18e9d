//! F31: other sessions hold the locks that commits need, for longer than anybody waits, and lock in another order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use airflow_core::testing::servers::Server;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};

use crate::stand::{Error, Options, Stand, Verdict};
use crate::workload::LOAD;

/// How long locks are held: longer than the 4 s for which a statement waits for them.
const HELD: Duration = Duration::from_millis(4_500);

/// What the sessions do that lock the wrong way round: limits first, then runs. They have more to lose than a commit of
/// ours, or look for circles later, so it is the commit that is taken back.
const ROUND: [&str; 2] = ["SELECT * FROM af_slot FOR UPDATE", "SELECT pk FROM af_run FOR UPDATE"];

/// What they did.
#[derive(Debug, Default)]
struct Storm {
    over: AtomicBool,
    rounds: AtomicU64,
    holds: AtomicU64,
    own_failures: AtomicU64,
}

/// Runs it.
pub(crate) async fn locks(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let kind = options.server().ok_or("only servers lock rows")?;
    let runs = options.runs(60, 20);
    let stand = Stand::new(options, 0).await?;
    let mut fleet = stand.fleet(2)?;
    let storm = Arc::new(Storm::default());
    let url = stand.setup.store.clone();
    let weather: Vec<_> =
        (0..2).map(|_| tokio::spawn(wrong_way_round(kind, url.clone(), Arc::clone(&storm)))).collect();
    stand.trigger(LOAD, 0..runs / 2).await?;
    for _ in 0..options.pick(3, 1) {
        hold(kind, &url, &storm).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    stand.trigger(LOAD, runs / 2..runs).await?;
    tokio::time::sleep(Duration::from_secs(options.pick(10, 3))).await;
    storm.over.store(true, Ordering::Relaxed);
    for one in weather {
        one.await?.map_err(|error| error.to_string())?;
    }
    stand.wait(&mut fleet, runs).await?;
    let mut codes = BTreeMap::new();
    for line in fleet.said(&["a call of the database failed"])? {
        let code = line.split("code=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("none");
        *codes.entry(code.trim_matches('"').to_owned()).or_insert(0) += 1;
    }
    let exhausted = fleet.said(&["the store failed"])?.len();
    let mut wrong = Vec::new();
    wrong.extend(fleet.ended_by_themselves());
    let known: &[&str] = if kind == Server::Mysql { &["1213", "1205"] } else { &["40P01", "55P03"] };
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let hit = known.iter().any(|code| codes.contains_key(*code));
    let nemesis = json!({
        "rounds_of_locking_the_wrong_way": get(&storm.rounds), "taken_back_of_those": get(&storm.own_failures),
        "long_holds": get(&storm.holds), "failed_calls_by_code": codes,
        "turns_of_the_loop_that_failed": exhausted, "runs": runs,
    });
    stand.close(fleet, Verdict::new(name, nemesis, hit, wrong)).await
}

/// Runs statements on a connection of its own, in one transaction, with a pause after each; then takes it back.
async fn session(
    kind: Server,
    url: &str,
    statements: &[&'static str],
    pause: Duration,
) -> Result<(), sqlx::Error> {
    match kind {
        Server::Postgres => {
            let mut conn = sqlx::PgConnection::connect(url).await?;
            conn.execute("SET search_path = airflow, public; SET deadlock_timeout = '20s'; BEGIN").await?;
            for sql in statements {
                conn.execute(*sql).await?;
                tokio::time::sleep(pause).await;
            }
            conn.execute("ROLLBACK").await?;
            conn.close().await
        }
        Server::Mysql => {
            let mut conn = sqlx::MySqlConnection::connect(url).await?;
            conn.execute("START TRANSACTION").await?;
            for sql in statements {
                conn.execute(*sql).await?;
                tokio::time::sleep(pause).await;
            }
            conn.execute("ROLLBACK").await?;
            conn.close().await
        }
    }
}

/// Holds all limits.
async fn hold(kind: Server, url: &str, storm: &Storm) -> Result<(), Error> {
    session(kind, url, &ROUND[..1], HELD).await.or_else(|error| failed(storm, error))?;
    storm.holds.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// One that was itself taken back has done its part.
fn failed(storm: &Storm, error: sqlx::Error) -> Result<(), sqlx::Error> {
    match error {
        sqlx::Error::Database(_) => {
            storm.own_failures.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        error => Err(error),
    }
}

async fn wrong_way_round(kind: Server, url: String, storm: Arc<Storm>) -> Result<(), sqlx::Error> {
    // Rows that were changed weigh more than rows that were locked when a victim is chosen.
    const WEIGHTY: [&str; 3] =
        ["UPDATE af_audit SET extra = concat(coalesce(extra, ''), '.')", ROUND[0], ROUND[1]];
    while !storm.over.load(Ordering::Relaxed) {
        let done = session(kind, &url, &WEIGHTY, Duration::from_millis(40)).await;
        done.or_else(|error| failed(&storm, error))?;
        storm.rounds.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    Ok(())
}
