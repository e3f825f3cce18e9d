//! Processes that stand still in the middle of their work, for longer than their lease.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use airflow_core::testing::servers::Server;
use serde_json::{Value, json};

use crate::app::ISOLATED;
use crate::fleet::Fleet;
use crate::ledger::boot_nanos;
use crate::stand::{Error, Options, Stand, Verdict};
use crate::workload::{LASTING, LOAD, LONG};

/// Freezing lasts longer than the lease of 20 s; on SQLite, where a process may have to wait for others that write, than
/// its lease of 45 s; on MySQL and MariaDB, where others may have to wait for rows that it has locked, than that wait too.
fn frozen(options: &Options) -> Duration {
    Duration::from_secs(match options.server() {
        None => 50,
        Some(Server::Postgres) => 25,
        Some(Server::Mysql) => 35,
    })
}

/// How many bodies must be running in a process that is frozen.
const BUSY: usize = 3;

/// How much longer than a freeze the tasks take that are to be seen to end in it, in seconds.
const BEYOND: u64 = 15;

/// The lease of a process.
fn lease(options: &Options) -> Duration {
    Duration::from_secs(if options.server().is_none() { 45 } else { 20 })
}

/// How long before the end of a freeze its processes are looked at last: while it lasts nobody waits for those that have ended.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// How long one is looked for that has so much to do.
const SEARCH: Duration = Duration::from_secs(20);

/// F8: three schedulers that are busy with short tasks.
pub(crate) async fn schedulers(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    froze(name, options, LOAD, 3, options.pick(3, 1), options.runs(90, 30)).await
}

/// F9: two processes, all tasks of which take long.
pub(crate) async fn long_tasks(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    froze(name, options, LONG, 2, options.pick(2, 1), options.pick(24, 12)).await
}

async fn froze(
    name: &'static str,
    options: &Options,
    dag: &str,
    processes: usize,
    rounds: usize,
    runs: usize,
) -> Result<(Value, bool), Error> {
    let stand = Stand::new(options, 0).await?;
    let mut fleet = stand.fleet(processes)?;
    let time = frozen(options);
    let (mut numbers, mut victims) = (0..runs, Vec::new());
    for _ in 0..rounds {
        stand.trigger(dag, numbers.by_ref().take(runs.div_ceil(rounds))).await?;
        let Some((index, bodies)) = busiest(&stand, &mut fleet).await? else { continue };
        victims.push(bodies);
        fleet.freeze(index, time).await?;
    }
    stand.wait(&mut fleet, runs).await?;
    let refused = stand.refused_ends(&fleet.strikes).await?;
    let stale = fleet.said(&["declared dead", "begins anew"])?.len();
    let nemesis = json!({
        "freezes": victims.len(), "seconds_each": time.as_secs(), "bodies_running_when_frozen": victims,
        "late_ends_refused": refused, "lives_that_ended": stale, "processes_that_ended": fleet.ended, "runs": runs,
    });
    let hit = victims.len() == rounds && stale > 0;
    stand.close(fleet, Verdict::new(name, nemesis, hit, Vec::new())).await
}

/// The process with the most bodies that run, once one has enough of them.
async fn busiest(stand: &Stand, fleet: &mut Fleet) -> Result<Option<(usize, usize)>, Error> {
    let until = Instant::now() + SEARCH;
    while Instant::now() < until {
        fleet.revive()?;
        let open = stand.open_bodies()?.into_iter();
        let known = open.filter_map(|(pid, count)| Some((count, fleet.place_of(pid)?)));
        if let Some((count, index)) = known.max().filter(|(count, _)| *count >= BUSY) {
            return Ok(Some((index, count)));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(None)
}

/// F9, of attempts in processes of their own: only the process that started them is frozen, and they are not.
pub(crate) async fn processes(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let (rounds, runs) = (options.pick(2, 1), options.runs(6, 3));
    let time = frozen(options);
    let stand = Stand::new(options, 0).await?;
    let lasting = (time.as_secs() + BEYOND).to_string();
    let mut fleet = stand.fleet_with(2, &[(ISOLATED, "1".to_owned()), (LASTING, lasting)])?;
    let (mut numbers, mut victims, mut ended_ms, mut wrong) = (0..runs, Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        stand.trigger(LONG, numbers.by_ref().take(runs.div_ceil(rounds))).await?;
        let Some((index, parent)) = parent_of_many(&stand, &mut fleet).await? else { continue };
        let begun = boot_nanos();
        // Nobody sees their ends but us: they are killed while the one that started them cannot say so.
        let (ends, frozen) = tokio::join!(deaths(parent, time), fleet.freeze(index, time));
        frozen?;
        victims.push(ends.len());
        for (pid, end) in ends {
            match end {
                Some(end) => {
                    fleet.strikes.kills.push((pid, end));
                    ended_ms.push(end.saturating_sub(begun) / 1_000_000);
                }
                None => wrong.push(format!("the process {pid} of an attempt went on for {time:?}")),
            }
        }
    }
    stand.wait(&mut fleet, runs).await?;
    let lease = lease(options).as_millis();
    wrong.extend(
        ended_ms
            .iter()
            .filter(|took| u128::from(**took) > lease)
            .map(|took| format!("the process of an attempt went on for {took} ms; the lease is {lease} ms")),
    );
    let nemesis = json!({
        "freezes": victims.len(), "seconds_each": time.as_secs(), "processes_of_attempts_then": victims,
        "they_ended_after_ms": ended_ms, "runs": runs,
    });
    let hit = victims.len() == rounds && !ended_ms.is_empty();
    stand.close(fleet, Verdict::new(name, nemesis, hit, wrong)).await
}

/// A process that has started many in which bodies run: its place, and its id.
async fn parent_of_many(stand: &Stand, fleet: &mut Fleet) -> Result<Option<(usize, u32)>, Error> {
    let until = Instant::now() + SEARCH;
    while Instant::now() < until {
        fleet.revive()?;
        let mut counts = BTreeMap::new();
        for parent in stand.open_bodies()?.into_keys().filter_map(|pid| Some(stat(pid)?.1)) {
            *counts.entry(parent).or_insert(0) += 1;
        }
        let mut many = counts.into_iter().filter(|(_, count)| *count >= BUSY);
        if let Some(found) = many.find_map(|(pid, _)| Some((fleet.place_of(pid)?, pid))) {
            return Ok(Some(found));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(None)
}

/// When each of the processes was seen dead first that this one has started, if it was within this time.
async fn deaths(parent: u32, within: Duration) -> BTreeMap<u32, Option<u64>> {
    let mut ends: BTreeMap<u32, Option<u64>> = BTreeMap::new();
    let until = Instant::now() + within.saturating_sub(LAST_LOOK);
    while Instant::now() < until {
        for pid in children(parent) {
            let end = ends.entry(pid).or_default();
            if end.is_none() && is_dead(pid) {
                *end = Some(boot_nanos());
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ends
}

/// The processes that this one has started and has not waited for.
fn children(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(_, of)| of == parent)).collect()
}

/// Whether a process has ended, be it that nobody has waited for it.
fn is_dead(pid: u32) -> bool {
    stat(pid).is_none_or(|(state, _)| state == 'Z' || state == 'X')
}

/// The state of a process, and which one started it.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
