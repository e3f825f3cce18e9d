//! The list of tests, and those in which processes are only started and ended.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::stand::{Error, Options, Random, Stand, Verdict};
use crate::workload::LOAD;
use crate::{clients, clocks, database, frozen, points, storm, upgrade};

/// What a test gives: its line, and whether all is well.
type Outcome<'o> = LocalBoxFuture<'o, Result<(Value, bool), Error>>;

/// A test.
pub(crate) struct Test {
    pub name: &'static str,
    /// The stores it makes sense on.
    pub stores: &'static [&'static str],
    pub run: for<'o> fn(&'static Test, &'o Options) -> Outcome<'o>,
}

const ALL: &[&str] = &["sqlite", "postgres", "mysql"];
const SERVERS: &[&str] = &["postgres", "mysql"];

macro_rules! test {
    ($name:literal, $stores:expr, $run:path) => {
        Test { name: $name, stores: $stores, run: |test, options| Box::pin($run(test.name, options)) }
    };
}

/// All tests.
pub(crate) const TESTS: &[Test] = &[
    test!("F1", ALL, one_process_dies),
    test!("F2", ALL, one_of_two_dies),
    test!("F3", ALL, all_die),
    test!("F4", ALL, points::all),
    test!("F6", SERVERS, database::restarts),
    test!("F7", SERVERS, database::cuts),
    test!("F8", ALL, frozen::schedulers),
    test!("F9", ALL, frozen::long_tasks),
    test!("F10", ALL, crowd),
    test!("F15", ALL, clocks::wrong),
    test!("F17", &["sqlite"], locked_file),
    test!("F22", ALL, rolled),
    test!("F24", ALL, upgrade::migrations),
    test!("F26", ALL, clients::users),
    test!("F31", SERVERS, storm::locks),
];

/// What is done to the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL to one after the other.
    Kill,
    /// SIGKILL to all at once.
    KillAll,
    /// SIGTERM to one after the other.
    Roll,
    /// Another process holds the lock of the SQLite file.
    Lock,
}

/// How often something is done, and how long after the time before, in milliseconds.
type Times = (usize, u64, u64);

/// Within how many milliseconds after new runs began a fault strikes.
const STRIKE: u64 = 100;

/// How long others may take to continue the work of a scheduler that died, and how long it may stand still without any,
/// in milliseconds: the promises.
const TAKEN_OVER: u64 = 10_000;
const STARTED_AGAIN: u64 = 30_000;

async fn one_process_dies(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    ended(name, options, Fault::Kill, 1, (12, 200, 1_200), STARTED_AGAIN).await
}

async fn one_of_two_dies(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    ended(name, options, Fault::Kill, 2, (12, 200, 1_200), TAKEN_OVER).await
}

async fn all_die(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    ended(name, options, Fault::KillAll, 2, (8, 500, 1_500), STARTED_AGAIN).await
}

async fn rolled(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    ended(name, options, Fault::Roll, 2, (8, 300, 1_500), STARTED_AGAIN).await
}

async fn locked_file(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    ended(name, options, Fault::Lock, 2, (4, 300, 800), STARTED_AGAIN).await
}

/// Lets faults happen while there is work: each time a part of the runs begins.
async fn ended(
    name: &'static str,
    options: &Options,
    fault: Fault,
    processes: usize,
    (times, least, most): Times,
    promised: u64,
) -> Result<(Value, bool), Error> {
    let (times, runs) = (options.pick(times, times.div_ceil(2)), options.runs(40));
    let stand = Stand::new(options, 0).await?;
    let mut fleet = stand.fleet(processes)?;
    let mut random = Random(options.seed);
    let (mut numbers, mut hit) = (0..runs, 0);
    for round in 0..times {
        stand.trigger(LOAD, numbers.by_ref().take(runs.div_ceil(times))).await?;
        // In the middle of the work, and then again some time later.
        tokio::time::sleep(Duration::from_millis(20 + random.below(STRIKE))).await;
        fleet.revive()?;
        hit += usize::from(!stand.open_bodies()?.is_empty());
        let one = round % fleet.len();
        match fault {
            Fault::Kill => fleet.kill(one).await?,
            Fault::KillAll => fleet.kill_all().await?,
            Fault::Roll => fleet.roll(one).await?,
            Fault::Lock => hold_lock(&stand, Duration::from_secs([1, 5, 1, 8][round % 4])).await?,
        }
        tokio::time::sleep(Duration::from_millis(least + random.below(most - least))).await;
    }
    stand.wait(&mut fleet, runs).await?;
    let bodies = stand.bodies()?;
    let (_, _, slowest) = crate::stand::recovery(&bodies, &fleet.strikes);
    let mut wrong = Vec::new();
    if slowest > promised {
        wrong.push(format!("work was continued after {slowest} ms; promised are {promised} ms"));
    }
    if fleet.ended > 0 {
        wrong.push(format!("{} processes ended by themselves", fleet.ended));
    }
    let nemesis = json!({ "faults": times, "while_bodies_ran": hit, "runs": runs });
    stand.close(fleet, Verdict::new(name, nemesis, hit > 0, wrong)).await
}

/// Holds the write lock of the SQLite file for a time.
async fn hold_lock(stand: &Stand, time: Duration) -> Result<(), Error> {
    use sqlx::Connection as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(stand.asks.store().place());
    let mut conn =
        sqlx::SqliteConnection::connect_with(&options.busy_timeout(Duration::from_secs(20))).await?;
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut conn).await?;
    tokio::time::sleep(time).await;
    sqlx::query("ROLLBACK").execute(&mut conn).await?;
    Ok(())
}

/// The least part of the attempts that each of three schedulers must start, in hundredths.
const LEAST_SHARE: usize = 10;

/// F10: everything is due at once, for three schedulers.
async fn crowd(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let (runs, points) = (options.runs(100), options.pick(1_000, 150));
    let stand = Stand::new(options, points).await?;
    let mut fleet: Fleet = stand.fleet(3)?;
    stand.trigger(LOAD, 0..runs).await?;
    stand.wait(&mut fleet, runs + usize::try_from(points)?).await?;
    let shares = stand.shares().await?;
    let sums: Vec<usize> = shares.iter().map(|[load, points, _]| load + points).collect();
    let (all, least) = (sums.iter().sum::<usize>(), sums.iter().min().copied().unwrap_or(0));
    let mut wrong = Vec::new();
    if sums.len() < 3 || least * 100 < all * LEAST_SHARE {
        wrong.push(format!("the smallest of the shares {sums:?} is below {LEAST_SHARE} %"));
    }
    let seconds = stand.began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let nemesis = json!({
        "runs": runs, "points": points, "attempts_of_load_and_points_and_runs": shares,
        "least_share": least as f64 / all.max(1) as f64, "attempts_per_second": all as f64 / seconds,
    });
    stand.close(fleet, Verdict::new(name, nemesis, sums.len() > 1, wrong)).await
}
