//! F13: tasks that abort, take all memory or kill themselves, in processes of their own among good ones.

use airflow_core::id::DagId;
use airflow_core::store::RunFilter;
use serde_json::{Value, json};

use crate::stand::{Error, Options, Stand, Verdict};
use crate::workload::{LOAD, TRIES, UNRULY, UNRULY_TASKS};

/// Runs it.
pub(crate) async fn tasks(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let (good, bad) = (options.runs(60, 12), options.pick(20, 4));
    let stand = Stand::new(options, 0).await?;
    let mut fleet = stand.fleet(1)?;
    let before = fleet.pids();
    for number in 0..bad {
        stand.trigger(LOAD, good * number / bad..good * (number + 1) / bad).await?;
        stand.trigger(UNRULY, [number]).await?;
    }
    stand.wait(&mut fleet, good + bad).await?;
    let mut wrong: Vec<String> = fleet.ended_by_themselves().into_iter().collect();
    if fleet.pids() != before {
        wrong.push("a process that runs attempts was taken along".to_owned());
    }
    let mut deaths = 0;
    let filter = RunFilter { dag_id: Some(DagId::from(UNRULY)), ..RunFilter::default() };
    for run in stand.asks.store().runs(&filter).await? {
        let ends =
            stand.asks.store().attempts(run.pk, None).await?.into_iter().filter_map(|row| row.end?.error);
        deaths += ends.filter(|error| error.contains("killed by signal")).count();
    }
    let beyond = crate::stand::beyond_the_plan(&stand.bodies()?, stand.setup.plan);
    if beyond > 0 {
        wrong.push(format!("{beyond} attempts of good tasks were lost with bad ones"));
    }
    let nemesis = json!({ "good_runs": good, "bad_runs": bad, "deaths_that_were_named": deaths });
    let hit = deaths == bad * UNRULY_TASKS.len() * TRIES;
    stand.close(fleet, Verdict::new(name, nemesis, hit, wrong)).await
}
