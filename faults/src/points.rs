//! F4: a process dies, or its store fails, at each point that has a name, at the first, second and tenth time that it
//! gets there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use airflow_core::store::failpoint::{POINTS, Place, TRACE, VARIABLE};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::app::BEAT;
use crate::fleet::Fleet;
use crate::stand::{Error, Options, Stand, Verdict, spread};
use crate::workload::LOAD;

/// At which times.
const NUMBERS: [u32; 3] = [1, 2, 10];

/// How many cases run side by side: they mostly wait.
const BESIDE: usize = 4;

/// Runs before and after the victim is asked to stop.
const RUNS: usize = 2;

/// Runs that a schedule makes: more than the first process makes before it dies.
const BY_SCHEDULE: usize = 40;

/// What is added up over all cases.
const SUMS: [&str; 6] =
    ["bodies", "lost", "unexplained_duplicates", "explained_duplicates", "overlaps", "limit_violations"];

/// How long something is waited for that must happen.
const SOON: Duration = Duration::from_secs(20);

/// One case: a point, which time, and what happens.
#[derive(Debug, Clone, Copy)]
struct Case {
    point: &'static str,
    number: u32,
    action: &'static str,
}

/// What became of one case.
#[derive(Debug)]
struct Ended {
    fired: bool,
    line: Value,
    ok: bool,
}

/// Runs all of them.
pub(crate) async fn all(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let began = Instant::now();
    let store = options.store.as_deref().unwrap_or("sqlite").to_owned();
    let reached = record(options).await?;
    let here: Vec<_> =
        POINTS.iter().filter(|(point, place, _)| is_on(*place, &store) && !is_of_migration(point)).collect();
    let missing: Vec<_> =
        here.iter().map(|(point, ..)| *point).filter(|point| !reached.contains_key(*point)).collect();
    let mut cases = Vec::new();
    for (point, _, can_fail) in here {
        cases.extend(cases_of(point, *can_fail, reached.get(*point).copied().unwrap_or(0), options));
    }
    let count = cases.len();
    let beside = Arc::new(Semaphore::new(BESIDE));
    let running = cases.into_iter().map(|case| {
        let beside = Arc::clone(&beside);
        async move {
            let _place = beside.acquire().await;
            (case, one(options, case).await.map_err(|error| error.to_string()))
        }
    });
    let mut fired = BTreeSet::new();
    let mut sums: BTreeMap<&str, u64> = SUMS.iter().map(|name| (*name, 0)).collect();
    let mut recovery = Vec::new();
    let (mut not_fired, mut bad) = (Vec::new(), Vec::new());
    for done in futures_util::future::join_all(running).await {
        let (case, ended) = done;
        let what = format!("{} {} {}", case.point, case.number, case.action);
        match ended {
            Ok(ended) => {
                if ended.fired {
                    fired.insert(case.point);
                } else {
                    not_fired.push(what.clone());
                }
                for (name, sum) in &mut sums {
                    *sum += ended.line[*name].as_u64().unwrap_or(0);
                }
                recovery.extend(ended.line["recovery_ms"]["max"].as_u64());
                if !ended.ok {
                    bad.push(json!({ "case": what, "line": ended.line }));
                }
            }
            Err(error) => bad.push(json!({ "case": what, "error": error })),
        }
    }
    // Work takes another course each time: a tenth time may not come. A first time always does.
    let never: Vec<_> =
        reached.keys().filter(|point| !fired.contains(point.as_str()) && !is_of_migration(point)).collect();
    let ok = bad.is_empty() && missing.is_empty() && never.is_empty();
    bad.truncate(5);
    let (p50, p99, max) = spread(recovery);
    let mut line = json!({
        "test": name, "store": store, "seed": options.seed, "ok": ok,
        "recovery_ms": { "p50": p50, "p99": p99, "max": max }, "cases": count, "points": fired.len(),
        "points_never_reached": missing, "points_that_never_fired": never, "cases_that_did_not_fire": not_fired,
        "failed": bad, "seconds": began.elapsed().as_secs_f64(),
    });
    if let Value::Object(all) = &mut line {
        all.extend(sums.into_iter().map(|(name, sum)| (name.to_owned(), json!(sum))));
    }
    Ok((line, ok))
}

/// What is done at a point that is reached so many times.
fn cases_of(point: &'static str, can_fail: bool, times: u32, options: &Options) -> Vec<Case> {
    let numbers: &[u32] = options.pick(&NUMBERS, &NUMBERS[..1]);
    let mut cases = Vec::new();
    for number in numbers.iter().copied().filter(|number| *number <= times) {
        cases.push(Case { point, number, action: "abort" });
        // A failure at the start is the one that nobody has seen the process work before.
        if can_fail && (!options.is_quick || point.starts_with("prepare.")) {
            cases.push(Case { point, number, action: "error" });
        }
    }
    cases
}

fn is_on(place: Place, store: &str) -> bool {
    match place {
        Place::Anywhere => true,
        Place::Sqlite => store == "sqlite",
        Place::Servers => store != "sqlite",
        Place::Postgres => store == "postgres",
        Place::Mysql => store == "mysql",
    }
}

/// Those are reached where there are no tables yet: F24.
pub(crate) fn is_of_migration(point: &str) -> bool {
    point.starts_with("migrate.")
}

/// How often each point is reached when nothing happens there.
async fn record(options: &Options) -> Result<BTreeMap<String, u32>, Error> {
    let case = Case { point: "-", number: 0, action: "record" };
    let ended = one(options, case).await?;
    if !ended.ok {
        return Err(format!("without a fault: {}", ended.line).into());
    }
    let mut counts = BTreeMap::new();
    for point in ended.line["nemesis"]["reached"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        *counts.entry(point.to_owned()).or_insert(0) += 1;
    }
    Ok(counts)
}

/// What was noted of points.
pub(crate) fn trace(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The environment of a process in which something happens.
pub(crate) fn environment(point: &str, number: u32, action: &str, trace: &Path) -> Vec<(String, String)> {
    vec![
        (VARIABLE.to_owned(), format!("{point} {number} {action}")),
        (TRACE.to_owned(), trace.display().to_string()),
        (BEAT.to_owned(), "200".to_owned()),
    ]
}

/// One process dies in the middle of its work and leaves it to the victim. The victim works until it dies or is asked to
/// stop. Another one does what is left.
async fn one(options: &Options, case: Case) -> Result<Ended, Error> {
    let stand = Stand::new(options, i64::try_from(BY_SCHEDULE)?).await?;
    let path = stand.folder.path().join("trace");
    let mut fleet = Fleet::start(&stand.setup, 1, stand.folder.path())?;
    stand.trigger(LOAD, 0..RUNS).await?;
    let until = Instant::now() + SOON;
    while stand.open_bodies()?.is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // What takes its place is the victim, and what takes the place of that one is nobody special.
    fleet.environment = vec![environment(case.point, case.number, case.action, &path)];
    fleet.kill(0).await?;
    fleet.environment = vec![Vec::new()];
    stand.wait(&mut fleet, RUNS + BY_SCHEDULE).await?;
    stand.trigger(LOAD, RUNS..RUNS * 2).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    fleet.roll_any(0).await?;
    stand.wait(&mut fleet, RUNS * 2 + BY_SCHEDULE).await?;
    let trace = trace(&path);
    let reached: Vec<_> = trace.iter().filter_map(|line| line.strip_prefix("reached ")).collect();
    let fired = trace.iter().any(|line| line.starts_with("fired"));
    let nemesis = json!({ "reached": reached, "fired": fired });
    let (line, ok) = stand.close(fleet, Verdict::new("F4", nemesis, true, Vec::new())).await?;
    Ok(Ended { fired, line, ok })
}
