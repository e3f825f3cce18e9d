//! Making runs: trigger, backfill, and a test run in this process.

use std::time::Duration;

use airflow_core::app::{Airflow, BackfillOptions, BackfillOutcome, Reprocess};
use airflow_core::id::{DagId, RunId};
use airflow_core::state::RunState;
use airflow_core::store::{MemoryStore, RunRow, SharedStore, Store as _};
use airflow_executors::LocalExecutor;
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::cx::{Cx, sync};
use crate::dags::runs_table;
use crate::error::{CliError, failed};
use crate::fields::{moment, object};
use crate::output::{OutputArg, Table, row};
use crate::progress::Progress;
use crate::roles::live_schedulers;
use crate::tasks::states_table;

/// How often a run that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long tasks may go on after a test run has ended.
const TEST_GRACE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Args)]
pub(crate) struct TriggerArgs {
    /// The dag
    dag_id: String,
    /// What the run gets: a JSON object that overrides the parameters of the dag
    #[arg(short, long, value_parser = object)]
    conf: Option<Value>,
    /// The id of the run, instead of one made of the logical date
    #[arg(short, long)]
    run_id: Option<String>,
    /// What the run is about, instead of now
    #[arg(short, long, value_parser = moment)]
    logical_date: Option<DateTime<Utc>>,
    /// The queue of the tasks of this run, but for those that name a queue themselves
    #[arg(short, long)]
    queue: Option<String>,
    /// Wait until the run has ended; exit with 1 if it failed
    #[arg(short, long)]
    wait: bool,
    #[command(flatten)]
    output: OutputArg,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BackfillArgs {
    /// The dag
    dag_id: String,
    /// The earliest logical date
    #[arg(short, long, value_parser = moment, visible_alias = "from-date")]
    start_date: DateTime<Utc>,
    /// The latest logical date
    #[arg(short, long, value_parser = moment, visible_alias = "to-date")]
    end_date: DateTime<Utc>,
    /// What the runs get: a JSON object
    #[arg(short, long, value_parser = object)]
    conf: Option<Value>,
    /// What to do about dates that have a run
    #[arg(long, value_enum, default_value_t = Again::None, visible_alias = "reprocess-behavior")]
    reprocess: Again,
    /// Newest date first
    #[arg(long)]
    run_backwards: bool,
    /// Only tell which runs there would be
    #[arg(long)]
    dry_run: bool,
    /// Wait until the runs have ended; exit with 1 if one failed
    #[arg(short, long)]
    wait: bool,
    #[command(flatten)]
    output: OutputArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Again {
    /// Leave them
    None,
    /// Run what failed again
    Failed,
    /// Run all that are finished again
    Completed,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TestArgs {
    /// The dag
    dag_id: String,
    /// What the run is about, instead of now
    #[arg(value_parser = moment)]
    logical_date: Option<DateTime<Utc>>,
    /// What the run gets: a JSON object
    #[arg(short, long, value_parser = object)]
    conf: Option<Value>,
    #[command(flatten)]
    output: OutputArg,
}

pub(crate) async fn trigger(cx: &mut Cx<'_>, args: TriggerArgs) -> Result<(), CliError> {
    let dag = cx.dag(&args.dag_id)?;
    // What would be refused must not even make the dag known.
    dag.params(args.conf.as_ref())
        .map_err(|why| airflow_core::app::TriggerError::Conf(dag.id.clone(), why))?;
    let actor = cx.actor();
    let airflow = cx.airflow().await?;
    sync(&airflow, &dag).await?;
    let mut trigger = airflow.trigger(&dag.id).actor(actor);
    if let Some(conf) = &args.conf {
        trigger = trigger.conf(conf);
    }
    if let Some(id) = args.run_id {
        trigger = trigger.run_id(id);
    }
    if let Some(date) = args.logical_date {
        trigger = trigger.logical_date(date);
    }
    if let Some(queue) = args.queue {
        trigger = trigger.queue(queue);
    }
    let mut run = trigger.await?;
    if args.wait {
        warn_if_nothing_works(cx, airflow.store()).await?;
        run = watch(cx, &airflow, run).await?;
    }
    runs_table(airflow.store(), std::slice::from_ref(&run)).await?.print(cx.host, args.output)?;
    if run.state == RunState::Failed { Err(CliError::Shown) } else { Ok(()) }
}

/// Says why waiting may take for ever.
async fn warn_if_nothing_works(cx: &mut Cx<'_>, store: &SharedStore) -> Result<(), CliError> {
    if live_schedulers(store).await?.is_empty() {
        let program = cx.program.clone();
        cx.host.note(&format!("no scheduler is alive: nothing happens until `{program} scheduler` runs"));
    }
    Ok(())
}

/// Waits for a run and shows how many of its tasks are finished.
async fn watch(cx: &mut Cx<'_>, airflow: &Airflow, run: RunRow) -> Result<RunRow, CliError> {
    let mut progress = Progress::new(cx.host, 0);
    loop {
        let view = airflow.view(&run.dag_id, run.pk).await?;
        let (done, all) = (view.totals().finished(), view.totals().total());
        progress.update(cx.host, u64::from(done), u64::from(all), &format!("tasks, run {}", view.run.state));
        if view.run.state.is_finished() {
            progress.finish();
            return Ok(view.run);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(crate) async fn backfill(cx: &mut Cx<'_>, args: BackfillArgs) -> Result<(), CliError> {
    let dag = cx.dag(&args.dag_id)?;
    let actor = cx.actor();
    let airflow = cx.airflow().await?;
    let mut options = BackfillOptions {
        from: args.start_date,
        to: args.end_date,
        conf: args.conf,
        run_backwards: args.run_backwards,
        reprocess: match args.reprocess {
            Again::None => Reprocess::None,
            Again::Failed => Reprocess::Failed,
            Again::Completed => Reprocess::Completed,
        },
        dry_run: true,
        actor,
    };
    // A dry run first: what would be refused must not even make the dag known.
    let mut outcomes = airflow.backfill(&dag.id, &options).await?;
    if !args.dry_run {
        sync(&airflow, &dag).await?;
        options.dry_run = false;
        outcomes = airflow.backfill(&dag.id, &options).await?;
    }
    let mut table = Table::new(["run_id", "what"]);
    let mut active = Vec::new();
    for outcome in &outcomes {
        let (run_id, what) = match outcome {
            BackfillOutcome::New(id) => (id, "new"),
            BackfillOutcome::Again(id) => (id, "again"),
            BackfillOutcome::Left(id) => (id, "left"),
        };
        table.push(row![run_id.as_str(), what]);
        if what != "left" {
            active.push(run_id.clone());
        }
    }
    table.print(cx.host, args.output)?;
    if args.wait && !args.dry_run {
        warn_if_nothing_works(cx, airflow.store()).await?;
        wait_for_all(cx, &airflow, &dag.id, &active).await?;
    }
    Ok(())
}

async fn wait_for_all(
    cx: &mut Cx<'_>,
    airflow: &Airflow,
    dag: &DagId,
    runs: &[RunId],
) -> Result<(), CliError> {
    let length = runs.len() as u64;
    let mut progress = Progress::new(cx.host, length);
    let mut failures = Vec::new();
    for (done, id) in runs.iter().enumerate() {
        progress.update(cx.host, done as u64, length, &format!("runs, waiting for {id}"));
        if airflow.wait_for(dag, id).await?.state == RunState::Failed {
            failures.push(id.to_string());
        }
    }
    progress.update(cx.host, length, length, "runs");
    progress.finish();
    if failures.is_empty() {
        return Ok(());
    }
    Err(failed(format!("{} of {length} runs failed: {}", failures.len(), failures.join(", "))))
}

/// One run in this process, in memory. Tasks see the variables and pools of the database, if there is one.
pub(crate) async fn test(cx: &mut Cx<'_>, args: TestArgs) -> Result<(), CliError> {
    let dag = cx.dag(&args.dag_id)?;
    let memory = MemoryStore::new();
    if let Some(store) = cx.store_if_ready().await? {
        for variable in store.variables().await? {
            memory.set_variable(variable).await?;
        }
        for pool in store.pools().await? {
            memory.set_pool(pool.spec).await?;
        }
    }
    let actor = cx.actor();
    // Here and now, whatever executor it has otherwise.
    let executor = LocalExecutor::new(cx.settings.slots());
    let builder = cx.take_builder().store(memory).executor(executor);
    let builder = builder.scheduler(|scheduler| scheduler.use_schedules = false);
    let airflow = builder.build().await?;
    airflow.set_paused(&dag.id, false, &actor).await?;
    let mut trigger = airflow.trigger(&dag.id).actor(&actor);
    if let Some(date) = args.logical_date {
        trigger = trigger.logical_date(date);
    }
    if let Some(conf) = &args.conf {
        trigger = trigger.conf(conf);
    }
    let run = trigger.await?;
    let running = airflow.start();
    let ended = airflow.wait_for(&run.dag_id, &run.run_id).await;
    running.stop(TEST_GRACE).await?;
    let run = ended?;
    states_table(&airflow.view(&run.dag_id, run.pk).await?).print(cx.host, args.output)?;
    let reason = run.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    cx.host.note(&format!("run {} of dag {}: {}{reason}", run.run_id, run.dag_id, run.state));
    if run.state == RunState::Success { Ok(()) } else { Err(CliError::Shown) }
}
