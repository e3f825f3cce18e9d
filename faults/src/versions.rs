//! F23: processes with the old and with the new version of a dag work side by side; then the old ones are gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use airflow_core::id::DagId;
use airflow_core::store::{RunFilter, RunRow};
use serde_json::{Value, json};

use crate::app::{Setup, VERSION, WORKER};
use crate::fleet::Fleet;
use crate::ledger::Bodies;
use crate::oracle::parts_of;
use crate::stand::{Error, Options, Stand, Verdict};
use crate::workload::{LOAD, NEW, OLD};

/// Within how long what has begun with the old version is done by the new one: nothing may hang for longer.
const GOES_ON: Duration = Duration::from_secs(60);

/// How long the work is waited for in whose middle the old processes end.
const SOON: Duration = Duration::from_secs(30);

/// Runs it.
pub(crate) async fn side_by_side(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let (runs, late) = (options.runs(120, 16), options.pick(20, 6));
    let stand = Stand::new(options, 0).await?;
    let new = Setup { version: NEW, ..stand.setup.clone() }.build(0).await?;
    let mut fleet = fleet(&stand)?;
    let mut version_of = BTreeMap::new();
    for (place, pid) in fleet.pids().into_iter().enumerate() {
        version_of.insert(pid.ok_or("a process has ended at once")?, version_at(place));
    }
    wait_until_all_are_there(&stand, fleet.len()).await?;
    for number in 0..runs {
        let asks = if number % 2 == 0 { &stand.asks } else { &new };
        asks.trigger(LOAD).run_id(format!("r{number}")).await?;
    }
    stand.wait(&mut fleet, runs).await?;
    let mut wrong: Vec<String> = fleet.ended_by_themselves().into_iter().collect();
    let bodies = stand.bodies()?;
    let beside = beside_each_other(&bodies, &version_of);
    wrong.extend(elsewhere(&runs_of(&stand).await?, &stand, &bodies, &version_of)?);

    // In the middle of their work all that know the old version end.
    stand.trigger(LOAD, runs..runs + late).await?;
    let old: Vec<usize> = (0..fleet.len()).filter(|place| version_at(*place) == OLD).collect();
    let runner = fleet.runners().into_iter().find(|place| old.contains(place)).ok_or("nobody is old")?;
    let in_the_middle = stand.wait_for_bodies(fleet.pids()[runner], SOON).await?;
    for place in old {
        fleet.end(place).await?;
    }
    let gone = Instant::now();
    stand.wait(&mut fleet, runs + late).await?;
    let took = gone.elapsed();
    if took > GOES_ON {
        wrong.push(format!("what the old version had begun took {took:?} more; promised are {GOES_ON:?}"));
    }
    let version = new.registry().get(&DagId::from(LOAD)).ok_or("there is no load")?.fingerprint.clone();
    let is_late = |run: &&RunRow| number_of(run).is_some_and(|number| number >= runs);
    let all = runs_of(&stand).await?;
    let adopted = all.iter().filter(is_late).filter(|run| run.fingerprint == version).count();
    let nemesis = json!({
        "runs": runs, "bodies_beside_other_version": beside, "begun_with_the_old_version": late,
        "bodies_when_it_went": in_the_middle, "went_on_with_the_new_one": adopted, "seconds": took.as_secs_f64(),
    });
    let hit = beside > 0 && in_the_middle > 0 && adopted > 0;
    stand.close(fleet, Verdict::new(name, nemesis, hit, wrong)).await
}

/// Processes of both versions: one scheduler of each, and one worker of each if there is a broker.
fn fleet(stand: &Stand) -> Result<Fleet, Error> {
    let mut members = vec![Vec::new(), Vec::new()];
    if stand.setup.broker.is_some() {
        members.extend((0..2).map(|number| vec![(WORKER.to_owned(), format!("w{number}"))]));
    }
    for (place, member) in members.iter_mut().enumerate() {
        member.push((VERSION.to_owned(), version_at(place).to_string()));
    }
    Fleet::start_in(&stand.setup, members, stand.folder.path())
}

/// What no scheduler has goes on with the version that one has, so the runs begin when both are there.
async fn wait_until_all_are_there(stand: &Stand, count: usize) -> Result<(), Error> {
    let until = Instant::now() + SOON;
    while stand.asks.store().carriers(&DagId::from(LOAD)).await?.len() < count {
        if Instant::now() > until {
            return Err("not all processes have begun".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn version_at(place: usize) -> u64 {
    if place.is_multiple_of(2) { OLD } else { NEW }
}

async fn runs_of(stand: &Stand) -> Result<Vec<RunRow>, Error> {
    let filter = RunFilter { dag_id: Some(DagId::from(LOAD)), ..RunFilter::default() };
    Ok(stand.asks.store().runs(&filter).await?)
}

fn number_of(run: &RunRow) -> Option<usize> {
    run.run_id.as_str().strip_prefix('r')?.parse().ok()
}

/// How many bodies ran while one of the other version did.
fn beside_each_other(bodies: &Bodies, version_of: &BTreeMap<u32, u64>) -> usize {
    let mut spans: Vec<(u64, u64, u64)> = Vec::new();
    for body in bodies.values().flatten() {
        if let (Some(version), Some(end)) = (version_of.get(&body.pid), body.ended) {
            spans.push((body.started, end, *version));
        }
    }
    let meets = |one: &(u64, u64, u64)| {
        spans.iter().any(|other| other.2 != one.2 && other.0 < one.1 && one.0 < other.1)
    };
    spans.iter().filter(|one| meets(one)).count()
}

/// Words on each run that has another version than it began with, and on each body that ran in a process of another one.
fn elsewhere(
    runs: &[RunRow],
    stand: &Stand,
    bodies: &Bodies,
    version_of: &BTreeMap<u32, u64>,
) -> Result<Vec<String>, Error> {
    let mut wrong = Vec::new();
    let old = &stand.asks.registry().get(&DagId::from(LOAD)).ok_or("there is no load")?.fingerprint;
    for run in runs {
        let begun_as = if number_of(run).is_some_and(|number| number % 2 == 0) { OLD } else { NEW };
        let is = if run.fingerprint == *old { OLD } else { NEW };
        if is != begun_as {
            wrong.push(format!("the run {} began with version {begun_as} and has version {is}", run.run_id));
        }
        let of_run = bodies.iter().filter(|(ti, _)| parts_of(ti).0 == run.run_id.as_str());
        let strange = of_run.flat_map(|(_, list)| list);
        let strange = strange.filter(|body| version_of.get(&body.pid) != Some(&begun_as)).count();
        if strange > 0 {
            wrong.push(format!("{strange} bodies of the run {} ran with another version", run.run_id));
        }
    }
    Ok(wrong)
}
