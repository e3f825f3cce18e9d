//! Running and rendering one task instance: for real, for a test, or on paper.

use std::sync::Arc;
use std::time::Duration;

use airflow_core::app::Airflow;
use airflow_core::compile::CompiledDag;
use airflow_core::decide::outcome::{Accepted, Bounds, accept};
use airflow_core::decide::ready::{Readiness, readiness};
use airflow_core::decide::step::launch;
use airflow_core::decide::timetable::manual_run;
use airflow_core::executor::AttemptRunner as _;
use airflow_core::id::{AttemptId, IncarnationId, RunPk, TiKey};
use airflow_core::mask::Masker;
use airflow_core::operator::{Cancel, RunInfo, TiInfo};
use airflow_core::plan::{Attempt, Outcome, Planner, Report, RunView, Terms};
use airflow_core::scheduler::IncarnationSpec;
use airflow_core::state::TaskState;
use airflow_core::store::{MemoryStore, RunRow, SharedStore, Store as _, UnitResult};
use airflow_core::time::{Clock as _, SystemClock};
use chrono::Utc;
use clap::Args;
use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use crate::cx::{About, Cx};
use crate::error::{CliError, failed};
use crate::fields::{TiArgs, find_run, moment, object};
use crate::output::{Cell, OutputArg, Table, row};
use crate::tasks::Limits;

/// How often a change is decided again if somebody else was faster.
const TRIES: u32 = 10;

/// How long this process counts as alive after its last beat, and how often it renews that.
const LEASE: Duration = Duration::from_secs(20);
const BEAT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Args)]
pub(crate) struct RunTaskArgs {
    #[command(flatten)]
    ti: TiArgs,
    /// Run it whatever it waits for
    #[arg(short = 'A', long)]
    ignore_all_dependencies: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TestTaskArgs {
    #[command(flatten)]
    ti: TiArgs,
    /// What the run gets: a JSON object
    #[arg(short, long, value_parser = object, visible_alias = "task-params")]
    conf: Option<Value>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RenderArgs {
    #[command(flatten)]
    ti: TiArgs,
    #[command(flatten)]
    output: OutputArg,
}

/// The attempt that a test or a rendering pretends to be.
fn pretended(dag: &CompiledDag, key: TiKey, run: RunInfo, try_number: u32) -> Attempt {
    let task = dag.task(key.task);
    Attempt {
        run: Arc::new(run),
        fingerprint: dag.fingerprint.clone(),
        task: key.task,
        ti: TiInfo {
            task_id: task.id.clone(),
            map_index: key.map,
            try_number,
            max_tries: task.settings.retry.retries + 1,
            attempt_id: AttemptId(Uuid::now_v7()),
            epoch: 0,
        },
        queue: task.settings.queue.clone(),
        terms: Terms::of(task),
        at: Utc::now(),
        try_started_at: Utc::now(),
        wait: None,
        given: Vec::new(),
        source_stamp: 0,
    }
}

fn info_of(run: RunRow) -> RunInfo {
    RunInfo {
        pk: run.pk,
        dag_id: run.dag_id,
        run_id: run.run_id,
        run_type: run.run_type,
        logical_date: run.logical_date,
        data_interval: run.data_interval,
        run_after: run.run_after,
        queued_at: run.queued_at,
        started_at: run.started_at,
        conf: run.conf,
    }
}

/// The stored run, or one that might have been made for a date.
async fn run_info(
    store: Option<&SharedStore>,
    dag: &CompiledDag,
    run: &str,
    conf: Option<Value>,
) -> Result<RunInfo, CliError> {
    let date = moment(run);
    let found = match store {
        Some(store) => find_run(store, None, dag.id.as_str(), run).await,
        None => Err(failed(format!("there is no database, so no run `{run}`; write a logical date"))),
    };
    let mut info = match (found, date) {
        (Ok(row), _) => info_of(row),
        (Err(_), Ok(date)) => {
            let made = manual_run(dag, None, date, None, "test", Utc::now())?;
            RunInfo {
                // No store gives this number to a run: nothing is found for it.
                pk: RunPk(-1),
                dag_id: made.dag_id,
                run_id: made.run_id,
                run_type: made.run_type,
                logical_date: made.logical_date,
                data_interval: made.data_interval,
                run_after: made.run_after,
                queued_at: made.queued_at,
                started_at: Some(made.queued_at),
                conf: None,
            }
        }
        (Err(error), Err(_)) => return Err(error),
    };
    info.conf = conf.or(info.conf);
    Ok(info)
}

/// The application on the database if there is one that can be read, else on an empty store in memory.
async fn on_any_store(cx: &mut Cx<'_>) -> Result<(Airflow, bool), CliError> {
    if cx.store_if_ready().await?.is_some() {
        return Ok((cx.airflow().await?, true));
    }
    let memory = MemoryStore::new();
    memory.migrate().await?;
    Ok((cx.take_builder().store(memory).without_migration().build().await?, false))
}

pub(crate) async fn test(cx: &mut Cx<'_>, args: &TestTaskArgs) -> Result<(), CliError> {
    let dag = cx.dag(&args.ti.dag_id)?;
    let key = args.ti.key(&dag)?;
    let (airflow, stored) = on_any_store(cx).await?;
    let info = run_info(stored.then(|| airflow.store()), &dag, &args.ti.run, args.conf.clone()).await?;
    let report = airflow.runner().run(pretended(&dag, key, info, 1), Cancel::never()).await;
    show_rendered(cx, &report, airflow.secrets().masker())?;
    tell(cx, &report)
}

fn show_rendered(cx: &mut Cx<'_>, report: &Report, masker: &Masker) -> Result<(), CliError> {
    for (name, value) in report.rendered.as_ref().and_then(Value::as_object).into_iter().flatten() {
        cx.host.line(&format!("{name} = {value}"))?;
    }
    for (key, value) in &report.pushed {
        cx.host.line(&format!("pushed {key} = {}", masker.mask(value.text())))?;
    }
    Ok(())
}

/// Says how an attempt ended; a failed one fails the command.
fn tell(cx: &mut Cx<'_>, report: &Report) -> Result<(), CliError> {
    let line = match &report.outcome {
        Outcome::Success(Some(value)) => format!("success, returned {}", value.text()),
        Outcome::Success(None) => "success".to_owned(),
        Outcome::Skipped(why) => format!("skipped: {why}"),
        Outcome::Rescheduled(at) => format!("asks to be run again at {}", at.to_rfc3339()),
        Outcome::Failed { error, .. } => return Err(failed(format!("the task failed: {error}"))),
        Outcome::Deferred(to) => format!("is deferred until `{}` fires", to.kind()),
        Outcome::Fired(event) => format!("is resumed with {event}"),
        Outcome::Cancelled | Outcome::Lost | Outcome::HandedBack => "stopped".to_owned(),
    };
    Ok(cx.host.line(&line)?)
}

pub(crate) async fn render(cx: &mut Cx<'_>, args: &RenderArgs) -> Result<(), CliError> {
    let dag = cx.dag(&args.ti.dag_id)?;
    let key = args.ti.key(&dag)?;
    let (airflow, stored) = on_any_store(cx).await?;
    let info = run_info(stored.then(|| airflow.store()), &dag, &args.ti.run, None).await?;
    let attempt = pretended(&dag, key, info, 1);
    let context = airflow.runner().context(&dag, &attempt, Cancel::never(), None).await;
    let context = context.map_err(|error| failed(error.to_string()))?;
    let fields = dag.task(key.task).operator.render(context.renderer());
    let fields = fields.map_err(|error| failed(error.to_string()))?;
    if fields.is_empty() {
        cx.host.note(&format!("task `{}` has no template fields", args.ti.task_id));
    }
    let mut table = Table::new(["field", "value"]);
    let masker = airflow.secrets().masker();
    for field in fields {
        table.push(row![field.name, Cell::json(masker.mask_json(field.name, &field.shown))]);
    }
    table.print(cx.host, args.output)
}

/// Runs one instance of a stored run: claims it through the store, so that no scheduler starts it as well.
pub(crate) async fn run(cx: &mut Cx<'_>, args: &RunTaskArgs) -> Result<(), CliError> {
    let dag = cx.dag(&args.ti.dag_id)?;
    let key = args.ti.key(&dag)?;
    let airflow = cx.airflow().await?;
    let row = find_run(airflow.store(), Some(airflow.registry()), &args.ti.dag_id, &args.ti.run).await?;
    let process = IncarnationSpec::of_this_process("task_run");
    let lease = LEASE.max(airflow.store().longest_wait() + BEAT * 3);
    airflow.store().register(process.new_incarnation(lease)).await?;
    let (stop, cancel) = Cancel::pair();
    let alive = tokio::spawn(keep_alive(Arc::clone(airflow.store()), process.id, lease, stop));
    let mine = Mine { process: process.id, cancel };
    let worked = work(cx, &airflow, &dag, &row, key, &mine, args.ignore_all_dependencies).await;
    alive.abort();
    airflow.store().end_incarnation(process.id).await?;
    tell(cx, &worked?)
}

/// The process that runs the attempt, and what stops it.
struct Mine {
    process: IncarnationId,
    cancel: Cancel,
}

/// Renews the lease; stops the attempt if that fails for so long that somebody else may start it again.
async fn keep_alive(store: SharedStore, id: IncarnationId, lease: Duration, stop: watch::Sender<bool>) {
    let clock = SystemClock;
    let mut trusted = (clock.elapsed() + lease).saturating_sub(BEAT);
    loop {
        tokio::time::sleep(BEAT).await;
        let begun = clock.elapsed();
        let answer = tokio::time::timeout(trusted.saturating_sub(begun), store.beat(id)).await;
        match answer {
            Ok(Ok(true)) => trusted = (begun + lease).saturating_sub(BEAT),
            Ok(Ok(false)) => trusted = Duration::ZERO,
            Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease"),
            Err(_) => tracing::warn!("cannot renew the lease: the database does not answer"),
        }
        if clock.elapsed() >= trusted {
            tracing::error!("the lease of this process is lost: the attempt is stopped");
            stop.send_replace(true);
            return;
        }
    }
}

async fn work(
    cx: &mut Cx<'_>,
    airflow: &Airflow,
    dag: &Arc<CompiledDag>,
    row: &RunRow,
    key: TiKey,
    mine: &Mine,
    ignore: bool,
) -> Result<Report, CliError> {
    let attempt = claim(cx, airflow, row, key, mine.process, ignore).await?;
    let about = About {
        dag: Some(&dag.id),
        run: Some(&row.run_id),
        task: Some(&attempt.ti.task_id),
        ..About::default()
    };
    cx.note(airflow.store(), "run_task", about).await?;
    let report = airflow.runner().run(attempt, mine.cancel.clone()).await;
    let config = airflow.scheduler_config();
    let bounds = Bounds { max_map_length: config.max_map_length, max_lost: config.max_lost_attempts };
    for _ in 0..TRIES {
        let mut view = airflow.view(&row.dag_id, row.pk).await?;
        let mut plan = Planner::new(&mut view, &cx.actor(), Utc::now());
        plan.unit.by_user = true;
        if accept(&mut plan, &report, bounds) != Accepted::Yes {
            return Err(failed(
                "the instance was changed by somebody else meanwhile: the result does not count",
            ));
        }
        let unit = plan.unit;
        if airflow.store().commit(vec![unit]).await? == [UnitResult::Committed] {
            return Ok(report);
        }
    }
    Err(failed("the run is being changed by others all the time: the result was not stored"))
}

async fn claim(
    cx: &mut Cx<'_>,
    airflow: &Airflow,
    row: &RunRow,
    key: TiKey,
    process: IncarnationId,
    ignore: bool,
) -> Result<Attempt, CliError> {
    for _ in 0..TRIES {
        let mut view = airflow.view(&row.dag_id, row.pk).await?;
        refuse(airflow, &view, key, ignore).await?;
        let mut plan = Planner::new(&mut view, &cx.actor(), Utc::now());
        plan.unit.by_user = true;
        let id = AttemptId(Uuid::now_v7());
        launch(&mut plan, key, id, Some(process)).map_err(|error| failed(error.to_string()))?;
        if ignore {
            // Who asks for it whatever it waits for does not wait for slots either.
            plan.unit.slots.iter_mut().for_each(|slot| slot.limit = None);
        }
        let unit = plan.unit;
        let started = unit.started[0].clone();
        match airflow.store().commit(vec![unit]).await?.as_slice() {
            [UnitResult::Committed] => {
                let mut attempt = pretended(&view.dag, key, view.info(), started.try_number);
                let ti = view.ti(key).expect("it was just started");
                attempt.ti.attempt_id = id;
                attempt.ti.max_tries = ti.data.max_tries;
                attempt.ti.epoch = ti.epoch;
                attempt.at = started.at;
                attempt.try_started_at = ti.data.started_at.unwrap_or(started.at);
                attempt.wait.clone_from(&ti.data.wait);
                return Ok(attempt);
            }
            [UnitResult::Full(slot)] => return Err(failed(format!("the limit `{slot}` is full"))),
            _ => {}
        }
    }
    Err(failed(format!("run `{}` is being changed by others; try again", row.run_id)))
}

/// Refuses an instance that runs, is done, or waits for something.
async fn refuse(airflow: &Airflow, view: &RunView, key: TiKey, ignore: bool) -> Result<(), CliError> {
    let Some(ti) = view.ti(key) else {
        return Err(failed("the run has no such task instance; `tasks states-for-dag-run` lists them"));
    };
    let startable = ti.state.is_schedulable() || ti.state == TaskState::Scheduled;
    let ready = match readiness(view, key, ti, Utc::now()) {
        _ if !startable => false,
        _ if ti.state == TaskState::Scheduled => true,
        Readiness::Ready => true,
        Readiness::Expand(_) => {
            return Err(failed("it is mapped and not expanded yet: the scheduler makes its instances first"));
        }
        _ => ignore,
    };
    if ready {
        return Ok(());
    }
    let reasons = Limits::load(airflow, &view.dag.id).await?.reasons(view, key);
    let cure = if startable {
        "`--ignore-all-dependencies` runs it all the same"
    } else {
        "`tasks clear` runs it again"
    };
    Err(failed(format!("it does not run: {}; {cure}", reasons.join("; "))))
}
