//! `tasks logs`: the log file of a task instance.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use airflow_core::attempt::log::LogName;
use airflow_core::id::TaskId;
use airflow_core::store::{RunRow, SharedStore, TiRow};
use clap::Args;

use crate::cx::Cx;
use crate::error::{CliError, failed};
use crate::fields::{TiArgs, find_run};

/// How often a log that is followed is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

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
    let mut shown = 0;
    let mut watched: Option<u32> = None;
    loop {
        // The state first: what is written before a task is finished is read after.
        let ti = find_ti(&store, &run, args).await?;
        let newest = ti.as_ref().map_or(0, |ti| ti.data.try_number);
        let finished = ti.is_some_and(|ti| ti.state.is_finished()) || run_ended(&store, &run).await?;
        let number = args.try_number.unwrap_or(newest);
        if watched != Some(number) {
            (watched, shown) = (Some(number), 0);
        }
        let name = LogName {
            dag: &run.dag_id,
            run: &run.run_id,
            logical_date: run.logical_date,
            data_interval: Some((run.data_interval.start, run.data_interval.end)),
            task: &task,
            map_index: args.ti.map(),
            try_number: number,
        };
        let path = folder.join(template.path(&name).map_err(crate::connections::fail)?);
        shown += copy(cx, &path, shown)?;
        if !args.follow || finished {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if shown > 0 {
        return Ok(());
    }
    if find_ti(&store, &run, args).await?.is_none() {
        args.ti.key(&cx.dag(&args.ti.dag_id)?)?;
        return Err(failed(format!("task `{task}` has not been tried in run `{}`", run.run_id)));
    }
    let number = watched.unwrap_or(0);
    let folder = folder.display();
    Err(failed(format!(
        "there is no log of try {number} of task `{task}` in {folder}; other machines keep their own"
    )))
}

async fn find_ti(store: &SharedStore, run: &RunRow, args: &LogsArgs) -> Result<Option<TiRow>, CliError> {
    let tis = store.task_instances(run.pk).await?;
    let mine = |ti: &TiRow| ti.task_id == *args.ti.task_id.as_str() && ti.map_index == args.ti.map();
    Ok(tis.into_iter().find(mine))
}

async fn run_ended(store: &SharedStore, run: &RunRow) -> Result<bool, CliError> {
    let filter = airflow_core::store::RunFilter {
        dag_id: Some(run.dag_id.clone()),
        run_id: Some(run.run_id.clone()),
        ..Default::default()
    };
    Ok(store.runs(&filter).await?.first().is_none_or(|run| run.state.is_finished()))
}

/// Writes what a file holds from `offset` on; returns how many bytes that is.
fn copy(cx: &mut Cx<'_>, path: &Path, offset: u64) -> Result<u64, CliError> {
    let Ok(mut file) = std::fs::File::open(path) else { return Ok(0) };
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    cx.host.raw(&String::from_utf8_lossy(&bytes))?;
    Ok(bytes.len() as u64)
}
