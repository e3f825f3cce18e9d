//! Processes that stand still in the middle of their work, for longer than their lease.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::stand::{Error, Options, Stand, Verdict};
use crate::workload::{LOAD, LONG};

/// Freezing lasts longer than the lease of 20 s; on SQLite, where a process may have to wait for others that write, than
/// its lease of 45 s.
const FROZEN: Duration = Duration::from_secs(25);
const FROZEN_SQLITE: Duration = Duration::from_secs(50);

/// How many bodies must be running in a process that is frozen.
const BUSY: usize = 3;

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
    let time = if options.server().is_none() { FROZEN_SQLITE } else { FROZEN };
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
