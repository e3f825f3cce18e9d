//! What workers are told: through the broker, and obeyed when the command returns.

use airflow_executors::remote::{Autoscale, OrderError, WorkerMonitor, WorkerOrder};
use clap::Subcommand;

use crate::broker;
use crate::cx::{About, Cx};
use crate::error::{CliError, failed};

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum OrderCommand {
    /// Let a worker finish what it runs, take nothing new, and end
    Shutdown {
        /// The worker
        name: String,
    },
    /// Let a worker run more tasks at once
    PoolGrow {
        /// The worker
        name: String,
        /// How many more
        #[arg(default_value_t = 1)]
        slots: usize,
    },
    /// Let a worker run fewer tasks at once; what runs goes on
    PoolShrink {
        /// The worker
        name: String,
        /// How many fewer
        #[arg(default_value_t = 1)]
        slots: usize,
    },
    /// Let the number of tasks that a worker runs at once follow the work
    Autoscale {
        /// The worker
        name: String,
        /// At most and at least how many, such as `10,3`
        #[arg(value_name = "MAX,MIN")]
        between: Autoscale,
    },
    /// Let a worker take work from one more queue
    AddConsumer {
        /// The worker
        name: String,
        /// The queue
        queue: String,
    },
    /// Let a worker take no more work from a queue
    CancelConsumer {
        /// The worker
        name: String,
        /// The queue
        queue: String,
    },
}

impl OrderCommand {
    /// The worker, the order, and what is said when it has been obeyed.
    fn read(self) -> (String, WorkerOrder, String) {
        match self {
            Self::Shutdown { name } => {
                let done = format!("{name} takes no new work and ends when it is done");
                (name, WorkerOrder::Shutdown, done)
            }
            Self::PoolGrow { name, slots } => {
                let done = format!("{name} runs {slots} more at once");
                (name, WorkerOrder::Grow(slots), done)
            }
            Self::PoolShrink { name, slots } => {
                let done = format!("{name} runs {slots} fewer at once");
                (name, WorkerOrder::Shrink(slots), done)
            }
            Self::Autoscale { name, between } => {
                let done = format!("{name} runs {} to {} at once", between.min, between.max);
                (name, WorkerOrder::Autoscale(between), done)
            }
            Self::AddConsumer { name, queue } => {
                let done = format!("{name} takes work from {queue}");
                (name, WorkerOrder::AddQueue(queue), done)
            }
            Self::CancelConsumer { name, queue } => {
                let done = format!("{name} takes no more work from {queue}");
                (name, WorkerOrder::DropQueue(queue), done)
            }
        }
    }
}

impl From<OrderError> for CliError {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::Store(error) => error.into(),
            OrderError::Senseless(why) => Self::Usage(why),
            other => failed(other.to_string()),
        }
    }
}

/// A monitor over the store and the broker of this program.
pub(crate) async fn monitor(cx: &mut Cx<'_>) -> Result<WorkerMonitor, CliError> {
    let transport = broker::open(cx)?;
    let keys = broker::signing_keys(cx);
    Ok(WorkerMonitor::new(cx.store().await?, transport, &keys).await?)
}

pub(crate) async fn run(cx: &mut Cx<'_>, command: OrderCommand) -> Result<(), CliError> {
    let monitor = monitor(cx).await?;
    let (name, order, done) = command.read();
    let store = cx.store().await?;
    cx.note(&store, "worker order", About::only(format!("{name}: {order:?}"))).await?;
    monitor.order(&name, order).await?;
    Ok(cx.host.line(&done)?)
}
