//! `queues`: what waits in them, and who takes it.

use airflow_executors::remote::QueueStatus;
use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;

use crate::cx::Cx;
use crate::error::CliError;
use crate::orders::monitor;
use crate::output::{OutputArg, Table, row};

/// What is said of a queue that no live worker takes work from.
const NOBODY: &str = "nobody consumes it";

#[derive(Debug, Subcommand)]
pub(crate) enum QueuesCommand {
    /// List the queues that workers take work from, or in which something waits
    List(OutputArg),
}

pub(crate) async fn run(cx: &mut Cx<'_>, command: QueuesCommand) -> Result<(), CliError> {
    let QueuesCommand::List(output) = command;
    let queues = monitor(cx).await?.queues().await?;
    table(&queues, Utc::now()).print(cx.host, output)
}

/// `waiting` counts what nobody has claimed, by the database; `ready` and `unsettled` what the broker holds of it.
pub(crate) fn table(queues: &[QueueStatus], now: DateTime<Utc>) -> Table {
    let mut table = Table::new(["queue", "waiting", "oldest", "ready", "unsettled", "consumers", "workers"]);
    for queue in queues {
        let workers = if queue.workers.is_empty() { NOBODY.to_owned() } else { queue.workers.join(", ") };
        table.push(row![
            queue.name.clone(),
            queue.waiting,
            queue.oldest.map(|oldest| age(now - oldest)),
            queue.depth.ready,
            queue.depth.unsettled,
            queue.depth.consumers,
            workers
        ]);
    }
    table
}

/// How long something takes, in its largest unit.
pub(crate) fn age(time: TimeDelta) -> String {
    let seconds = time.num_seconds().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
