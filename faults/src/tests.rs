//! The list of tests, and those in which processes are only started and ended.

use std::time::Duration;

use airflow_executors::remote::testing::BrokerServer;
use futures_util::future::LocalBoxFuture;
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::stand::{Error, Options, Random, Stand, Verdict};
use crate::workload::{LOAD, WIDE, WIDE_TASKS};
use crate::{
    brokers, clients, clocks, database, frozen, logs, messages, points, severed, storm, unruly, upgrade,
    versions,
};

/// What a test gives: its line, and whether all is well.
type Outcome<'o> = LocalBoxFuture<'o, Result<(Value, bool), Error>>;

/// A test.
pub(crate) struct Test {
    pub name: &'static str,
    /// The stores it makes sense on.
    pub stores: &'static [&'static str],
    /// Where tasks run in it.
    pub work: Work,
    pub run: for<'o> fn(&'static Test, &'o Options) -> Outcome<'o>,
}

/// Where the tasks of a test run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// In schedulers only.
    Here,
    /// In schedulers, or in workers if there is a broker.
    Anywhere,
    /// In workers only.
    Remote,
}

impl Work {
    /// Whether a test can do with this broker, or without.
    pub(crate) fn is_for(self, broker: Option<BrokerServer>) -> bool {
        match self {
            Self::Here => broker.is_none(),
            Self::Anywhere => true,
            Self::Remote => broker.is_some(),
        }
    }
}

const ALL: &[&str] = &["sqlite", "postgres", "mysql"];
const SERVERS: &[&str] = &["postgres", "mysql"];

macro_rules! test {
    ($name:literal, $stores:expr, $work:ident, $run:path) => {
        Test {
            name: $name,
            stores: $stores,
            work: Work::$work,
            run: |test, options| Box::pin($run(test.name, options)),
        }
    };
}

/// All tests.
pub(crate) const TESTS: &[Test] = &[
    test!("F1", ALL, Anywhere, one_process_dies),
    test!("F2", ALL, Anywhere, one_of_two_dies),
    test!("F3", ALL, Anywhere, all_die),
    test!("F4", ALL, Here, points::all),
    test!("F5", SERVERS, Remote, brokers::restarts),
    test!("F6", SERVERS, Anywhere, database::restarts),
    test!("F7", SERVERS, Here, database::cuts),
    test!("F8", ALL, Here, frozen::schedulers),
    test!("F9", ALL, Anywhere, frozen::long_tasks),
    test!("F9-processes", ALL, Anywhere, frozen::processes),
    test!("F10", ALL, Here, crowd),
    test!("F11", SERVERS, Remote, messages::copies),
    test!("F12", SERVERS, Remote, messages::strangers),
    test!("F13", ALL, Anywhere, unruly::tasks),
    test!("F15", ALL, Here, clocks::wrong),
    test!("F17", &["sqlite"], Here, locked_file),
    test!("F19", SERVERS, Remote, severed::worker),
    test!("F21", SERVERS, Remote, brokers::long_tasks),
    test!("F22", ALL, Anywhere, rolled),
    test!("F23", ALL, Anywhere, versions::side_by_side),
    test!("F24", ALL, Here, upgrade::migrations),
    test!("F25", SERVERS, Remote, brokers::no_room),
    test!("F26", ALL, Anywhere, clients::users),
    test!("F27", ALL, Anywhere, logs::volume),
    test!("F31", SERVERS, Anywhere, storm::locks),
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

/// Within how many milliseconds after tasks began a fault strikes.
const STRIKE: u64 = 100;

/// How long tasks are waited for that are to be struck.
const IN_THE_MIDDLE: Duration = Duration::from_secs(2);

/// How long others may take to continue the work of a scheduler that died, and how long it may stand still without any,
/// in milliseconds: the promises.
const TAKEN_OVER: u64 = 10_000;
const STARTED_AGAIN: u64 = 30_000;

/// Which processes it is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victims {
    Runners,
    Schedulers,
    All,
}

/// What one of these tests is.
#[derive(Debug, Clone, Copy)]
struct Case {
    fault: Fault,
    victims: Victims,
    schedulers: usize,
    /// How often something is done, in the whole suite and in the quick one.
    times: (usize, usize),
    /// How long after the time before, in milliseconds.
    pause: (u64, u64),
    /// Runs, in the whole suite and in the quick one.
    runs: (usize, usize),
    promised: u64,
}

const ONE_DIES: Case = Case {
    fault: Fault::Kill,
    victims: Victims::Runners,
    schedulers: 1,
    times: (60, 6),
    pause: (200, 2_700),
    runs: (186, 14),
    promised: STARTED_AGAIN,
};
const SCHEDULER_DIES: Case =
    Case { victims: Victims::Schedulers, schedulers: 2, promised: TAKEN_OVER, ..ONE_DIES };
const ALL_DIE: Case = Case {
    fault: Fault::KillAll,
    victims: Victims::All,
    times: (20, 4),
    pause: (500, 1_500),
    runs: (60, 14),
    promised: STARTED_AGAIN,
    ..SCHEDULER_DIES
};
const ROLLED: Case =
    Case { fault: Fault::Roll, times: (24, 4), pause: (300, 1_500), runs: (186, 14), ..ALL_DIE };
const LOCKED: Case = Case { fault: Fault::Lock, times: (4, 2), pause: (300, 800), runs: (40, 14), ..ALL_DIE };

async fn one_process_dies(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    ended(name, options, ONE_DIES).await
}

async fn one_of_two_dies(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    ended(name, options, SCHEDULER_DIES).await
}

async fn all_die(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    ended(name, options, ALL_DIE).await
}

async fn rolled(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    ended(name, options, ROLLED).await
}

async fn locked_file(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    ended(name, options, LOCKED).await
}

/// Lets faults happen while there is work: each time a part of the runs begins.
async fn ended(name: &'static str, options: &Options, case: Case) -> Result<(Value, bool), Error> {
    let (times, runs) = (options.pick(case.times.0, case.times.1), options.runs(case.runs.0, case.runs.1));
    let stand = Stand::new(options, 0).await?;
    let mut fleet = stand.fleet(case.schedulers)?;
    let victims = match case.victims {
        Victims::Runners => fleet.runners(),
        Victims::Schedulers => fleet.schedulers(),
        Victims::All => (0..fleet.len()).collect(),
    };
    let mut random = Random(options.seed);
    let (mut numbers, mut hit) = (0..runs, 0);
    for round in 0..times {
        stand.trigger(LOAD, numbers.by_ref().take(runs.div_ceil(times))).await?;
        // In the middle of the work, and then again some time later.
        let one = victims[round % victims.len()];
        let victim = fleet.pids()[one].filter(|_| case.victims == Victims::Runners);
        stand.wait_for_bodies(victim, IN_THE_MIDDLE).await?;
        tokio::time::sleep(Duration::from_millis(random.below(STRIKE))).await;
        fleet.revive()?;
        hit += usize::from(!stand.open_bodies()?.is_empty());
        match case.fault {
            Fault::Kill => fleet.kill(one).await?,
            Fault::KillAll => fleet.kill_all().await?,
            Fault::Roll => fleet.roll(one).await?,
            Fault::Lock => hold_lock(&stand, Duration::from_secs([1, 5, 1, 29][round % 4])).await?,
        }
        let (least, most) = case.pause;
        tokio::time::sleep(Duration::from_millis(least + random.below(most - least))).await;
    }
    stand.wait(&mut fleet, runs).await?;
    let bodies = stand.bodies()?;
    let (_, _, slowest) = crate::stand::recovery(&bodies, &fleet.strikes);
    let mut wrong = Vec::new();
    if slowest > case.promised {
        wrong.push(format!("work was continued after {slowest} ms; promised are {} ms", case.promised));
    }
    wrong.extend(fleet.ended_by_themselves());
    let beyond = crate::stand::beyond_the_plan(&bodies, stand.setup.plan);
    if beyond > 0 && stand.broker.is_some() && case.victims == Victims::Schedulers {
        wrong.push(format!("{beyond} attempts of workers were lost with schedulers"));
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

/// F10: everything is due at once, for three schedulers: tasks beside each other, runs of many tasks, points of a
/// schedule.
async fn crowd(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let (runs, points) = (options.runs(30, 34), options.pick(1_000, 150));
    let wide = options.pick(5, 0);
    let stand = Stand::new(options, points).await?;
    stand.trigger(WIDE, 0..wide).await?;
    stand.trigger(LOAD, 0..runs).await?;
    let mut fleet: Fleet = stand.fleet(3)?;
    stand.wait(&mut fleet, wide + runs + usize::try_from(points)?).await?;
    let shares = stand.shares().await?;
    let sums: Vec<usize> = shares.iter().map(|[load, points, wide, _]| load + points + wide).collect();
    let (all, least) = (sums.iter().sum::<usize>(), sums.iter().min().copied().unwrap_or(0));
    let mut wrong = Vec::new();
    if sums.len() < 3 || least * 100 < all * LEAST_SHARE {
        wrong.push(format!("the smallest of the shares {sums:?} is below {LEAST_SHARE} %"));
    }
    let seconds = stand.began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let nemesis = json!({
        "runs": runs, "points": points, "ready_at_once": wide * WIDE_TASKS, "attempts_of_load_points_wide_and_runs": shares,
        "least_share": least as f64 / all.max(1) as f64, "attempts_per_second": all as f64 / seconds,
    });
    stand.close(fleet, Verdict::new(name, nemesis, sums.len() > 1, wrong)).await
}
