//! The faults, one test each.

use std::time::{Duration, Instant};

use airflow_core::app::Airflow;
use airflow_core::id::DagId;
use airflow_core::state::RunState;
use airflow_core::store::RunFilter;
use airflow_core::testing::servers::{Server, TestDatabase};
use serde_json::{Value, json};

use crate::app::Setup;
use crate::fleet::Fleet;
use crate::ledger::{self, Bodies};
use crate::oracle::{self, Kill};
use crate::workload::{LOAD, POINTS, Plan};

type Error = Box<dyn std::error::Error>;

/// What the command line says.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub store: Option<String>,
    pub seed: u64,
    /// Runs of the load; 0 for what the test says.
    pub runs: usize,
    pub names: Vec<String>,
}

impl Options {
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

/// What is done to the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL to one after the other.
    Kill,
    /// SIGKILL to all at once.
    KillAll,
    /// SIGSTOP for longer than a lease, then SIGCONT.
    Freeze,
    /// SIGTERM to one after the other.
    Roll,
    /// Another process holds the lock of the SQLite file.
    Lock,
    /// None: only the load itself.
    Crowd,
}

/// A test.
#[derive(Debug)]
pub(crate) struct Test {
    pub name: &'static str,
    fault: Fault,
    processes: usize,
    /// Runs of the load, and points of the schedule.
    load: (usize, i64),
    /// How often the fault happens, and how long after the one before, in milliseconds.
    faults: (usize, u64, u64),
}

/// All tests.
pub(crate) const TESTS: &[Test] = &[
    Test { name: "F1", fault: Fault::Kill, processes: 1, load: (40, 0), faults: (12, 200, 1_200) },
    Test { name: "F2", fault: Fault::Kill, processes: 2, load: (40, 0), faults: (12, 200, 1_200) },
    Test { name: "F3", fault: Fault::KillAll, processes: 2, load: (40, 0), faults: (8, 500, 1_500) },
    Test { name: "F8", fault: Fault::Freeze, processes: 3, load: (60, 0), faults: (3, 200, 500) },
    Test { name: "F10", fault: Fault::Crowd, processes: 3, load: (60, 300), faults: (0, 0, 0) },
    Test { name: "F17", fault: Fault::Lock, processes: 2, load: (20, 0), faults: (4, 300, 800) },
    Test { name: "F22", fault: Fault::Roll, processes: 2, load: (40, 0), faults: (8, 300, 1_500) },
];

/// After this long without an end a test has failed.
const LIMIT: Duration = Duration::from_secs(240);

/// Within how many milliseconds after new runs began a fault strikes.
const STRIKE: u64 = 100;

/// How often the database is looked at for the end.
const LOOK: Duration = Duration::from_millis(100);

/// Freezing lasts longer than the lease of 20 s.
const FROZEN: Duration = Duration::from_secs(25);

/// Attempts at once of one process.
const SLOTS: usize = 12;

/// Runs one test; says what came of it, and whether that is good.
pub(crate) async fn run(test: &Test, options: &Options) -> Result<(Value, bool), Error> {
    if test.fault == Fault::Lock && options.store.as_deref().is_some_and(|store| store != "sqlite") {
        return Ok((json!({ "test": test.name, "ok": true, "not_for": options.store }), true));
    }
    let folder = tempfile::tempdir()?;
    let server = match options.store.as_deref() {
        Some("postgres") => Some(Server::Postgres),
        Some("mysql") => Some(Server::Mysql),
        _ => None,
    };
    // A database of its own, gone with this.
    let database = match server {
        Some(server) => Some(TestDatabase::on(server).await.ok_or("there is no such server")?),
        None => None,
    };
    let file = || format!("sqlite://{}", folder.path().join("airflow.db").display());
    let store = database.as_ref().map_or_else(file, TestDatabase::url);
    let plan = Plan { seed: options.seed };
    let setup =
        Setup { store, ledger: folder.path().join("ledger"), plan, slots: SLOTS, points: test.load.1 };
    let asks = setup.build(0).await?;
    let runs = if options.runs > 0 { options.runs } else { test.load.0 };
    let began = Instant::now();
    let mut fleet = Fleet::start(&setup, test.processes, folder.path())?;
    let mut random = Random(options.seed);
    let done = tokio::time::timeout(LIMIT, async {
        let happened = disturb(test, &mut fleet, &asks, runs, &mut random).await?;
        wait_for_the_end(&asks, &mut fleet, runs, test.load.1).await?;
        Ok::<usize, Error>(happened)
    });
    let happened = match done.await {
        Ok(happened) => happened?,
        Err(_) => return Err(format!("not at rest after {LIMIT:?}; {}", standing(&asks).await?).into()),
    };
    let took = began.elapsed();
    let cries = fleet.cries()?;
    let kills = fleet.stop().await?;
    let bodies = ledger::read(&setup.ledger)?;
    let found = oracle::look(asks.store(), &bodies, &kills, plan).await?;
    let share = least_share(&asks).await?;
    let (p50, p99, max) = recovery(&bodies, &kills);
    // Faults that hit nobody prove nothing.
    let hit = !matches!(test.fault, Fault::Kill | Fault::KillAll) || found.explained > 0;
    let enough = happened >= test.faults.0 && hit;
    let ok = found.is_clean() && enough && cries.is_empty();
    let mut result = json!({
        "test": test.name, "store": asks.store().kind(), "seed": options.seed, "ok": ok, "faults": happened,
        "processes": test.processes, "runs": runs, "bodies": bodies.values().map(Vec::len).sum::<usize>(),
        "seconds": took.as_secs_f64(), "recovery_ms": { "p50": p50, "p99": p99, "max": max },
        "least_share": share, "panics": cries,
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut result, found.to_json()) {
        all.extend(more);
    }
    Ok((result, ok))
}

/// Lets the faults happen while there is work: each time a part of the runs begins. Says how many faults happened.
async fn disturb(
    test: &Test,
    fleet: &mut Fleet,
    asks: &Airflow,
    runs: usize,
    random: &mut Random,
) -> Result<usize, Error> {
    let (times, least, most) = test.faults;
    let part = runs.div_ceil(times.max(1));
    let mut numbers = 0..runs;
    for round in 0..times.max(1) {
        for number in numbers.by_ref().take(part) {
            asks.trigger(LOAD).run_id(format!("r{number}")).await?;
        }
        // In the middle of the work, and then again some time later.
        tokio::time::sleep(Duration::from_millis(20 + random.below(STRIKE))).await;
        fleet.revive()?;
        let one = round % fleet.len();
        match test.fault {
            Fault::Kill => fleet.kill(one).await?,
            Fault::KillAll => fleet.kill_all().await?,
            Fault::Freeze => fleet.freeze(one, FROZEN).await?,
            Fault::Roll => fleet.roll(one).await?,
            Fault::Lock => hold_lock(asks, Duration::from_secs([1, 5, 1, 8][round % 4])).await?,
            Fault::Crowd => {}
        }
        tokio::time::sleep(Duration::from_millis(least + random.below(most - least))).await;
    }
    Ok(times)
}

/// Holds the write lock of the SQLite file for a time.
async fn hold_lock(asks: &Airflow, time: Duration) -> Result<(), Error> {
    use sqlx::Connection as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(asks.store().place());
    let mut conn =
        sqlx::SqliteConnection::connect_with(&options.busy_timeout(Duration::from_secs(20))).await?;
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut conn).await?;
    tokio::time::sleep(time).await;
    sqlx::query("ROLLBACK").execute(&mut conn).await?;
    Ok(())
}

async fn wait_for_the_end(asks: &Airflow, fleet: &mut Fleet, runs: usize, points: i64) -> Result<(), Error> {
    let all = runs + usize::try_from(points)?;
    loop {
        let filter = RunFilter { states: vec![RunState::Success, RunState::Failed], ..RunFilter::default() };
        if asks.store().runs(&filter).await?.len() >= all {
            return Ok(());
        }
        fleet.revive()?;
        tokio::time::sleep(LOOK).await;
    }
}

/// Where it stands, for a test that does not end.
async fn standing(asks: &Airflow) -> Result<String, Error> {
    let mut counts = std::collections::BTreeMap::new();
    for run in asks.store().runs(&RunFilter::default()).await? {
        *counts.entry(format!("{} {}", run.dag_id, run.state)).or_insert(0) += 1;
        if !run.state.is_finished() {
            for ti in asks.store().task_instances(run.pk).await? {
                *counts.entry(format!("{} {}", ti.task_id, ti.state)).or_insert(0) += 1;
            }
        }
    }
    Ok(format!("{counts:?}"))
}

/// The smallest share of the attempts that any process started which was there from the beginning to the end.
async fn least_share(asks: &Airflow) -> Result<f64, Error> {
    let mut counts = std::collections::BTreeMap::new();
    for dag in [LOAD, POINTS] {
        let filter = RunFilter { dag_id: Some(DagId::from(dag)), ..RunFilter::default() };
        for run in asks.store().runs(&filter).await? {
            for attempt in asks.store().attempts(run.pk, None).await? {
                *counts.entry(attempt.start.incarnation).or_insert(0_u32) += 1;
            }
        }
    }
    let all: u32 = counts.values().sum();
    let least = counts.values().min().copied().unwrap_or(0);
    Ok(f64::from(least) / f64::from(all.max(1)))
}

/// From each kill to the start of the next body in another process, in milliseconds: median, 99 of 100, longest. Kills
/// after the last body do not count.
fn recovery(bodies: &Bodies, kills: &[Kill]) -> (u64, u64, u64) {
    let mut waits: Vec<u64> = Vec::new();
    for (pid, at) in kills {
        // What was running in it when it was killed, and when that started again.
        for list in bodies.values() {
            let cut = list.iter().position(|body| {
                body.pid == *pid && body.started < *at && body.ended.is_none_or(|ended| ended > *at)
            });
            let next = cut.and_then(|index| list.get(index + 1));
            waits.extend(next.map(|body| body.started.saturating_sub(*at) / 1_000_000));
        }
    }
    waits.sort_unstable();
    let of =
        |hundredth: usize| waits.get(waits.len() * hundredth / 100).or(waits.last()).copied().unwrap_or(0);
    (of(50), of(99), waits.last().copied().unwrap_or(0))
}

/// Numbers from a seed, by the method `SplitMix64`.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % most.max(1)
    }
}
