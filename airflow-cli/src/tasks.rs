//! `tasks`: what tasks a dag has, how their instances stand, why they wait, and running them again.

use std::collections::BTreeMap;

use airflow_core::app::{Airflow, why_stranded};
use airflow_core::compile::{CompiledDag, GraphFormat};
use airflow_core::decide::explain::reasons;
use airflow_core::id::{DagId, TiKey};
use airflow_core::plan::RunView;
use airflow_core::state::TaskState;
use airflow_core::store::{SlotKey, TiRow};
use chrono::Utc;
use clap::Subcommand;

use crate::attempts::{self, RenderArgs, RunTaskArgs, TestTaskArgs};
use crate::change::{self, ClearArgs, MarkArgs};
use crate::cx::Cx;
use crate::error::CliError;
use crate::fields::{TiArgs, find_run};
use crate::logs::{self, LogsArgs};
use crate::output::{OutputArg, Table, row};
use crate::roles::live_schedulers;

#[derive(Debug, Subcommand)]
pub(crate) enum TasksCommand {
    /// List the tasks of a dag
    List {
        /// The dag
        dag_id: String,
        /// Draw them as a tree
        #[arg(long)]
        tree: bool,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Run one task instance of a stored run now, as the scheduler would
    Run(RunTaskArgs),
    /// Run one task without looking at what it depends on, and without recording its state
    Test(TestTaskArgs),
    /// Run task instances again
    Clear(ClearArgs),
    /// Declare task instances done, failed or skipped
    Mark(MarkArgs),
    /// Show the state of a task instance
    State(TiArgs),
    /// Show the states of all task instances of a run
    StatesForDagRun {
        /// The dag
        dag_id: String,
        /// The run: its id or its logical date
        run: String,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show why a task instance does not run
    FailedDeps(TiArgs),
    /// Show the template fields of a task instance, rendered
    Render(RenderArgs),
    /// Show the log of a task instance
    Logs(LogsArgs),
}

pub(crate) async fn run(cx: &mut Cx<'_>, command: TasksCommand) -> Result<(), CliError> {
    match command {
        TasksCommand::List { dag_id, tree, output } => list(cx, &dag_id, tree, output),
        TasksCommand::Run(args) => attempts::run(cx, &args).await,
        TasksCommand::Test(args) => attempts::test(cx, &args).await,
        TasksCommand::Clear(args) => change::clear(cx, args).await,
        TasksCommand::Mark(args) => change::mark(cx, args).await,
        TasksCommand::State(args) => state(cx, &args).await,
        TasksCommand::StatesForDagRun { dag_id, run, output } => states(cx, &dag_id, &run, output).await,
        TasksCommand::FailedDeps(args) => failed_deps(cx, &args).await,
        TasksCommand::Render(args) => attempts::render(cx, &args).await,
        TasksCommand::Logs(args) => logs::show(cx, &args).await,
    }
}

fn list(cx: &mut Cx<'_>, dag_id: &str, tree: bool, output: OutputArg) -> Result<(), CliError> {
    let dag = cx.dag(dag_id)?;
    if tree {
        return Ok(cx.host.raw(&dag.draw(GraphFormat::Text, &|_| None))?);
    }
    let mut table =
        Table::new(["task_id", "operator", "trigger_rule", "retries", "pool", "mapped", "downstream"]);
    for task in &dag.tasks {
        let after = task.downstream.iter().map(|next| dag.task(*next).id.to_string());
        table.push(row![
            task.id.as_str(),
            task.operator.name(),
            task.settings.trigger_rule.to_string(),
            task.settings.retry.retries,
            task.settings.pool.as_str(),
            task.scope.is_some(),
            after.collect::<Vec<_>>(),
        ]);
    }
    table.print(cx.host, output)
}

async fn state(cx: &mut Cx<'_>, args: &TiArgs) -> Result<(), CliError> {
    let store = cx.store().await?;
    let run = find_run(&store, None, &args.dag_id, &args.run).await?;
    let tis = store.task_instances(run.pk).await?;
    let mine = |ti: &&TiRow| ti.task_id == *args.task_id.as_str() && ti.map_index == args.map();
    let state = match tis.iter().find(mine) {
        Some(ti) => ti.state,
        None => {
            // Without a row an instance is in its first state, if there is such a task at all.
            args.key(&cx.dag(&args.dag_id)?)?;
            TaskState::None
        }
    };
    Ok(cx.host.line(state.as_str())?)
}

async fn states(cx: &mut Cx<'_>, dag_id: &str, run: &str, output: OutputArg) -> Result<(), CliError> {
    let airflow = cx.airflow().await?;
    let run = find_run(airflow.store(), Some(airflow.registry()), dag_id, run).await?;
    if airflow.registry().get(&run.dag_id).is_none() {
        cx.host.note("this program does not carry the dag: only what is stored is shown");
        let mut table =
            Table::new(["task_id", "map_index", "state", "try", "started_at", "ended_at", "reason"]);
        for ti in airflow.store().task_instances(run.pk).await? {
            let (data, map) = (ti.data, ti.map_index.get());
            let times = (data.started_at, data.ended_at);
            table.push(row![
                ti.task_id.as_str(),
                map,
                ti.state,
                data.try_number,
                times.0,
                times.1,
                data.reason
            ]);
        }
        return table.print(cx.host, output);
    }
    states_table(&airflow.view(&run.dag_id, run.pk).await?).print(cx.host, output)
}

/// All task instances of a run.
pub(crate) fn states_table(view: &RunView) -> Table {
    let mut table = Table::new(["task_id", "map_index", "state", "try", "started_at", "ended_at", "reason"]);
    for (key, ti) in view.all() {
        table.push(row![
            view.dag.task(key.task).id.as_str(),
            key.map.get(),
            ti.state,
            ti.data.try_number,
            ti.data.started_at,
            ti.data.ended_at,
            ti.data.reason.clone(),
        ]);
    }
    table
}

/// What is taken of each limit, and how much there is.
pub(crate) struct Limits {
    paused: bool,
    works: bool,
    used: BTreeMap<SlotKey, (i64, Option<i64>)>,
}

impl Limits {
    pub(crate) async fn load(airflow: &Airflow, dag: &DagId) -> Result<Self, CliError> {
        let store = airflow.store();
        let paused = store.dag(dag).await?.is_some_and(|row| row.is_paused);
        let mut used: BTreeMap<SlotKey, (i64, Option<i64>)> =
            store.slots().await?.into_iter().map(|(key, taken)| (key, (taken, None))).collect();
        used.retain(|key, _| !matches!(key, SlotKey::Pool(_)));
        for pool in store.pools().await? {
            let taken = (pool.occupied(), Some(i64::from(pool.spec.slots)));
            used.insert(SlotKey::Pool(pool.spec.name), taken);
        }
        let works = !live_schedulers(store).await?.is_empty();
        Ok(Self { paused, works, used })
    }

    /// Why an instance does not run now.
    pub(crate) fn reasons(&self, view: &RunView, key: TiKey) -> Vec<String> {
        let used = |slot: &SlotKey| match (self.used.get(slot), slot) {
            (None, SlotKey::Pool(_)) => None,
            (known, _) => Some(known.copied().unwrap_or((0, None))),
        };
        let mut found = reasons(view, key, self.paused, &used, Utc::now());
        let waits = view.ti(key).is_some_and(|ti| !ti.state.is_finished() && !ti.state.is_executing());
        if waits && !self.works {
            found.insert(0, "no scheduler is alive".to_owned());
        }
        found
    }
}

/// Every instance of a run that waits, with the reasons.
pub(crate) async fn waiting_reasons(
    airflow: &Airflow,
    view: &RunView,
) -> Result<Vec<(String, Vec<String>)>, CliError> {
    let limits = Limits::load(airflow, &view.dag.id).await?;
    let stranded = why_stranded(&**airflow.store(), &view.run, None, Utc::now()).await?;
    let waits = |state: TaskState| !state.is_finished() && state != TaskState::Running;
    let open = view.all().filter(|(_, ti)| waits(ti.state));
    let reasons = |key| stranded.iter().cloned().chain(limits.reasons(view, key)).collect();
    Ok(open.map(|(key, _)| (name_of(&view.dag, key), reasons(key))).collect())
}

fn name_of(dag: &CompiledDag, key: TiKey) -> String {
    let task = &dag.task(key.task).id;
    key.map.get().map_or_else(|| task.to_string(), |index| format!("{task}[{index}]"))
}

async fn failed_deps(cx: &mut Cx<'_>, args: &TiArgs) -> Result<(), CliError> {
    let dag = cx.dag(&args.dag_id)?;
    let key = args.key(&dag)?;
    let airflow = cx.airflow().await?;
    let run = find_run(airflow.store(), Some(airflow.registry()), &args.dag_id, &args.run).await?;
    let view = airflow.view(&dag.id, run.pk).await?;
    let tis = airflow.store().task_instances(run.pk).await?;
    let ti = tis.iter().find(|ti| ti.task_id == *args.task_id.as_str() && ti.map_index == args.map());
    let mut reasons = why_stranded(&**airflow.store(), &run, ti, Utc::now()).await?;
    reasons.extend(Limits::load(&airflow, &dag.id).await?.reasons(&view, key));
    if reasons.is_empty() {
        let state = view.ti(key).map_or(TaskState::None, |ti| ti.state);
        cx.host.line(&format!("Task instance dependencies are all met: it is {state}"))?;
        return Ok(());
    }
    for reason in reasons {
        cx.host.line(&reason)?;
    }
    Ok(())
}
