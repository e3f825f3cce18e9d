//! `tasks logs`: the log of a task instance, on whatever machine it runs.

use std::sync::Arc;
use std::time::Duration;

use airflow_core::attempt::LogReader;
use airflow_core::id::TaskId;
use airflow_core::store::SharedStore;
use clap::Args;

use crate::cx::Cx;
use crate::error::{CliError, failed};
use crate::fields::{TiArgs, find_run};

/// How often a log that is followed is looked at: processes send what was said once a second.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    ti: TiArgs,
    /// The try, instead of the newest
    #[arg(long = "try", value_name = "N")]
    try_number: Option<u32>,
    /// Go on until the task instance is finished
    #[arg(short, long)]
    follow: bool,
}

pub(crate) async fn show(cx: &mut Cx<'_>, args: &LogsArgs) -> Result<(), CliError> {
    let store = cx.store().await?;
    let run = find_run(&store, None, &args.ti.dag_id, &args.ti.run).await?;
    let folder = cx.settings.logs();
    let template = cx.builder().runner_config().log_template.clone();
    let task = TaskId::from(args.ti.task_id.as_str());
    let run_id = run.run_id.clone();
    let reader = LogReader::new(Arc::clone(&store), run, task.clone(), args.ti.map());
    let mut reader = or_workers(reader.or_files(folder.clone(), template), store, cx).await?;
    if let Some(number) = args.try_number {
        reader = reader.of_try(number);
    }
    let mut shown = false;
    let number = loop {
        let part = reader.next().await?;
        cx.host.raw(&part.text)?;
        for problem in &part.problems {
            cx.host.note(&format!("warning: a part of the log may be missing: {problem}"));
        }
        shown |= !part.text.is_empty();
        if part.is_over || (!args.follow && part.text.is_empty()) {
            break part.try_number;
        }
        if part.text.is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if shown {
        return Ok(());
    }
    if number == 0 {
        args.ti.key(&cx.dag(&args.ti.dag_id)?)?;
        return Err(failed(format!("task `{task}` has not been tried in run `{run_id}`")));
    }
    let folder = folder.display();
    Err(failed(format!(
        "there is no log of try {number} of task `{task}` in the database or in {folder}; other machines keep their \
         own files, and send logs to the database unless `logging.ship_task_logs` says otherwise"
    )))
}

/// Lets a reader ask the workers that serve their files.
#[cfg(feature = "worker-logs")]
async fn or_workers(reader: LogReader, store: SharedStore, cx: &mut Cx<'_>) -> Result<LogReader, CliError> {
    let keys = crate::broker::signing_keys(cx);
    let workers = airflow_executors::remote::WorkerLogFiles::new(store, &keys).await;
    Ok(reader.or_workers(Arc::new(workers.map_err(|error| failed(error.to_string()))?)))
}

#[cfg(not(feature = "worker-logs"))]
#[expect(clippy::unused_async, reason = "the same signature as with the feature")]
async fn or_workers(reader: LogReader, _: SharedStore, _: &mut Cx<'_>) -> Result<LogReader, CliError> {
    Ok(reader)
}
