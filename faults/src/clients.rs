//! F26: many users at once do all that they can do to runs that are going on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use airflow_core::app::Airflow;
use airflow_core::app::{ClearOptions, Mark, OpError, Selection, TriggerError};
use airflow_core::id::{DagId, RunId};
use airflow_core::store::RunFilter;
use serde_json::{Value, json};

use crate::stand::{Error, Options, Random, Stand, Verdict};
use crate::workload::LOAD;

/// How many users there are.
const USERS: u64 = 50;

/// How the names of runs begin that are deleted.
const DOOMED: &str = "doomed";

/// What they did.
#[derive(Debug, Default)]
struct Done {
    created: AtomicUsize,
    existed: AtomicUsize,
    cleared: AtomicUsize,
    marked: AtomicUsize,
    paused: AtomicUsize,
    deleted: AtomicUsize,
    busy: AtomicUsize,
}

impl Done {
    fn count(counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs it.
pub(crate) async fn users(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let (runs, rounds) = (options.pick(16, 6), options.pick(12, 5));
    let stand = Stand::new(options, 0).await?;
    let mut fleet = stand.fleet(2)?;
    let done = Arc::new(Done::default());
    let asks = Arc::new(stand.setup.build(0).await?);
    let users = (0..USERS).map(|user| {
        let (asks, done) = (Arc::clone(&asks), Arc::clone(&done));
        let random = Random(options.seed.wrapping_mul(USERS).wrapping_add(user));
        tokio::spawn(
            async move { use_it(&asks, &done, runs, rounds, random).await.map_err(|e| e.to_string()) },
        )
    });
    let mut wrong = Vec::new();
    for user in users.collect::<Vec<_>>() {
        if let Err(error) = user.await? {
            wrong.push(error);
        }
    }
    asks.set_paused(&DagId::from(LOAD), false, "user").await?;
    let left = stand.asks.store().runs(&RunFilter::default()).await?;
    let mut ids: Vec<_> = left.iter().map(|run| run.run_id.clone()).collect();
    ids.sort();
    ids.dedup();
    if ids.len() < left.len() {
        wrong.push("two runs of one id".to_owned());
    }
    stand.wait(&mut fleet, left.len()).await?;
    wrong.extend(fleet.ended_by_themselves());
    let get = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let deleted = get(&done.deleted);
    if get(&done.created) != left.len() + deleted {
        wrong.push(format!(
            "{} runs were made, {} are left, {deleted} deleted",
            get(&done.created),
            left.len()
        ));
    }
    let nemesis = json!({
        "users": USERS, "runs_made": get(&done.created), "refused_because_there": get(&done.existed),
        "cleared": get(&done.cleared), "marked": get(&done.marked), "paused_or_unpaused": get(&done.paused),
        "deleted": deleted, "given_up_as_busy": get(&done.busy),
    });
    let counters = [&done.created, &done.existed, &done.cleared, &done.marked, &done.paused, &done.deleted];
    let hit = counters.iter().all(|counter| get(counter) > 0);
    wrong.truncate(5);
    stand.close(fleet, Verdict { is_changed: true, ..Verdict::new(name, nemesis, hit, wrong) }).await
}

/// One user.
async fn use_it(
    asks: &Airflow,
    done: &Done,
    runs: u64,
    rounds: usize,
    mut random: Random,
) -> Result<(), Error> {
    let dag = DagId::from(LOAD);
    for _ in 0..rounds {
        let run = RunId::from(format!("r{}", random.below(runs)));
        match asks.trigger(LOAD).run_id(run.clone()).await {
            Ok(_) => Done::count(&done.created),
            Err(TriggerError::Exists(..)) => Done::count(&done.existed),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_millis(random.below(150))).await;
        let task = ["chain_3", "fan_2", "each", "gather", "start", "left"][usize::try_from(random.below(6))?];
        let select = Selection { tasks: vec![task.to_owned()], downstream: true, ..Selection::default() };
        match random.below(8) {
            0..=3 => {
                let options = ClearOptions { select, ..ClearOptions::default() };
                let cleared = asks.clear(&dag, &run, &options, "user").await;
                if known(cleared, done)?.is_some_and(|cleared| !cleared.is_empty()) {
                    Done::count(&done.cleared);
                }
            }
            4 | 5 => {
                let only = Selection { tasks: vec![task.to_owned()], ..Selection::default() };
                if known(asks.mark(&dag, &run, &only, Mark::Success, "user").await, done)?.is_some() {
                    Done::count(&done.marked);
                }
            }
            6 => {
                asks.set_paused(&dag, random.below(2) == 0, "user").await?;
                Done::count(&done.paused);
            }
            _ => delete(asks, done, &dag, &RunId::from(format!("{DOOMED}{}", random.below(runs)))).await?,
        }
    }
    Ok(())
}

/// Makes a run that only those who delete it touch, stops it, which a store asks for first, and deletes it.
async fn delete(asks: &Airflow, done: &Done, dag: &DagId, run: &RunId) -> Result<(), Error> {
    match asks.trigger(LOAD).run_id(run.clone()).await {
        Ok(_) => Done::count(&done.created),
        Err(TriggerError::Exists(..)) => Done::count(&done.existed),
        Err(error) => return Err(error.into()),
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    if known(asks.mark_run(dag, run, false, "user").await, done)?.is_none() {
        return Ok(());
    }
    let filter = RunFilter { dag_id: Some(dag.clone()), run_id: Some(run.clone()), ..RunFilter::default() };
    if let Some(row) = asks.store().runs(&filter).await?.first()
        && row.state.is_finished()
        && asks.store().delete_run(row.pk).await?
    {
        Done::count(&done.deleted);
    }
    Ok(())
}

/// What was done; `None` if the run is gone, or others changed it all the time.
fn known<T>(result: Result<T, OpError>, done: &Done) -> Result<Option<T>, OpError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(OpError::UnknownRun(..)) => Ok(None),
        Err(OpError::Busy(_)) => {
            Done::count(&done.busy);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
