//! What the command line says.

use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

/// What is measured. The size is the number of what stands in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// Tasks in a line (tasks).
    Chain,
    /// One task, then many at once, then one (tasks in the middle).
    Fanout,
    /// a → {b, c, d} → e, all runs at once (runs).
    Diamonds,
    /// A line of tasks that compute fib(10), a tenth of a millisecond or less (tasks).
    #[value(name = "fib-10")]
    #[serde(rename = "fib-10")]
    Fib10,
    /// A line of tasks that compute fib(33), some ten milliseconds (tasks).
    #[value(name = "fib-33")]
    #[serde(rename = "fib-33")]
    Fib33,
    /// Dags that are not due (dags).
    WideIdle,
    /// Ten tasks in a line for each day of a range (days).
    Backfill,
    /// One task over a list (elements).
    Mapped,
    /// One run with random edges, three neighbours a task (tasks).
    Big,
    /// Define and compile one dag (tasks).
    OneDefinition,
    /// Define and compile dags of 100 tasks (dags).
    ManyDefinitions,
    /// From the start of a process to its first task, in a database that has its tables.
    ColdStart,
}

impl Workload {
    /// The size that the targets speak of.
    pub(crate) fn usual_size(self) -> usize {
        match self {
            Self::Chain | Self::WideIdle | Self::Backfill | Self::ManyDefinitions => 1_000,
            Self::Fanout | Self::Mapped => 10_000,
            Self::Diamonds => 2_000,
            Self::Fib10 => 40,
            Self::Fib33 => 10,
            Self::Big | Self::OneDefinition => 100_000,
            Self::ColdStart => 1,
        }
    }

    /// How many task instances that are.
    pub(crate) fn tasks(self, size: usize) -> usize {
        match self {
            Self::Fanout => size + 2,
            Self::Diamonds => size * 5,
            Self::Mapped => size + 1,
            Self::Backfill => size * crate::dags::BACKFILL_TASKS,
            Self::ManyDefinitions => size * 100,
            Self::WideIdle => 0,
            _ => size,
        }
    }

    /// Whether its tasks come one after the other, so that the time between two is the cost of a hop.
    pub(crate) fn is_line(self) -> bool {
        matches!(self, Self::Chain | Self::Fib10 | Self::Fib33)
    }
}

/// What runs the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ExecutorKind {
    /// The process of the scheduler.
    Local,
    /// A process of its own for each attempt, started by that of the scheduler.
    Process,
    /// Worker processes behind Redis.
    Redis,
    /// Worker processes behind RabbitMQ.
    Rabbitmq,
}

impl ExecutorKind {
    /// Whether workers behind a broker run the attempts.
    pub(crate) fn is_remote(self) -> bool {
        matches!(self, Self::Redis | Self::Rabbitmq)
    }
}

/// When SQLite calls a commit durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sync {
    /// When the operating system has it.
    Normal,
    /// When the disk has it.
    Full,
}

/// What one process measures.
#[derive(Debug, Clone, Parser, Serialize, Deserialize)]
#[command(about = "Measures workloads, and what the database and the broker allow, in the same process.")]
pub(crate) struct Args {
    /// Makes the whole table of targets, as markdown.
    #[arg(long)]
    pub(crate) table: bool,
    /// Of the table, only the rows whose name contains this.
    #[arg(long, default_value = "")]
    pub(crate) only: String,
    /// What is measured.
    #[arg(long, value_enum, default_value = "chain")]
    pub(crate) workload: Workload,
    /// Its size: tasks, runs, days or dags. That of the targets by default.
    #[arg(long)]
    pub(crate) tasks: Option<usize>,
    /// `sqlite` for a file of its own in the temporary folder, `sqlite:FOLDER` for one there, or the address of a
    /// PostgreSQL, where a schema of its own is made and dropped.
    #[arg(long, default_value = "sqlite")]
    pub(crate) store: String,
    /// When SQLite calls a commit durable.
    #[arg(long, value_enum, default_value = "normal")]
    pub(crate) sync: Sync,
    /// What runs the tasks.
    #[arg(long, value_enum, default_value = "local")]
    pub(crate) executor: ExecutorKind,
    /// How many worker processes there are.
    #[arg(long, default_value_t = 1)]
    pub(crate) workers: usize,
    /// How many attempts run at once, here or in each worker.
    #[arg(long, default_value_t = 16)]
    pub(crate) slots: usize,
    /// How often everything is repeated, each time in a process of its own.
    #[arg(long, default_value_t = 1)]
    pub(crate) repeat: usize,
    /// How many seconds dags are watched that are not due.
    #[arg(long, default_value_t = 30)]
    pub(crate) seconds: u64,
    /// Prints one line of JSON a repetition.
    #[arg(long)]
    pub(crate) json: bool,
    /// What `cargo bench` says of itself.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

impl Args {
    pub(crate) fn size(&self) -> usize {
        self.tasks.unwrap_or_else(|| self.workload.usual_size())
    }

    pub(crate) fn watch(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}
