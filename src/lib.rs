//! Workflow orchestration in Rust: Airflow's job as a library.
//!
//! A *dag* is a graph of *tasks*, written as Rust functions. A scheduler makes *runs* of it, by a timetable or on request,
//! and starts each task when what it depends on is done. Everything that happens is kept in a *store*, so that a program
//! that dies goes on where it was.
//!
//! ```
//! use airflow::prelude::*;
//!
//! #[task]
//! async fn numbers() -> Result<Vec<i64>> {
//!     Ok(vec![1, 2, 3])
//! }
//!
//! #[task(retries = 2, retry_delay = "10s")]
//! async fn square(n: i64) -> Result<i64> {
//!     Ok(n * n)
//! }
//!
//! #[task]
//! async fn total(all: Vec<i64>) -> Result<i64> {
//!     Ok(all.iter().sum())
//! }
//!
//! #[dag(tags = ["example"])]
//! fn squares(d: &Dag) {
//!     let numbers = d.add(numbers::call());
//!     let squares = d.map(numbers, |n| square::call(n)); // one task instance for each number
//!     d.add(total::call(squares));
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let airflow = Airflow::builder()
//!     .store(MemoryStore::new())
//!     .executor(LocalExecutor::new(4))
//!     .dag(squares())
//!     .build()
//!     .await?;
//! let running = airflow.start();
//!
//! let run = airflow.trigger("squares").await?;
//! let run = airflow.wait(&run).await?;
//! assert_eq!(run.state, RunState::Success);
//! assert_eq!(airflow.result::<i64>(&run, "total").await?, 14);
//!
//! running.stop(secs(5)).await?;
//! # Ok(()) }
//! ```
//!
//! # Where to find what
//!
//! Begin with [`prelude`]: a file with dags needs nothing else.
//!
//! - Writing dags: [`macro@task`], [`macro@dag`], [`DagDef`](dag::DagDef) and [`Dag`](dag::Dag) in [`mod@dag`]; kinds of tasks of one's own,
//!   [`TaskContext`](operator::TaskContext) and [`TaskError`](operator::TaskError) in [`operator`]; values between tasks in
//!   [`xcom`]; [`trigger_rule`], [`callback`], [`retry`], [`template`].
//! - When runs are made: [`timetable`], [`asset`]; durations and clocks: [`time`].
//! - Settings and secrets: [`config`], [`connection`], [`secrets`], [`mask`], [`fernet`].
//! - Running them: [`Airflow`] and its builder in [`app`]; where everything is kept: [`store`]; what runs attempts:
//!   [`executor`], [`LocalExecutor`].
//! - What is happening: [`state`], the rows in [`store::model`], [`decide::explain`].
//! - The engine, for those who change it or drive it: [`compile`], [`registry`], [`plan`], [`decide`], [`scheduler`],
//!   [`attempt`], [`discovery`], [`id`].
//!
//! # Features
//!
//! | feature | gives | default |
//! |---|---|---|
//! | `macros` | `#[task]`, `#[dag]`, `#[derive(Operator)]`, `#[derive(Branch)]` | yes |
//! | `local` | [`LocalExecutor`] | yes |
//! | `sqlite` | `SqliteStore` | yes |
//! | `postgres` | `PostgresStore` | no |
//! | `mysql` | `MysqlStore`, for MySQL and MariaDB | no |
//! | `redis`, `rabbitmq` | workers on other machines behind that broker: `remote` | no |
//! | `worker-logs` | workers that serve their log files, and readers that ask them | no |
//! | `cli` | the command line: [`cli()`](cli()) | yes |
//! | `testing` | suites that hold stores and executors of yours to their contracts | no |
//!
//! Without any of them there is the engine with the store in memory; bring an executor of your own.

#[cfg(feature = "macros")]
mod macros;

pub use airflow_core::app::{self, Airflow, AirflowBuilder, Running};
pub use airflow_core::{
    asset, attempt, builtin, callback, compile, config, connection, dag, decide, discovery, executor, fernet,
    id, mask, operator, plan, registry, retry, scheduler, secret, secrets, state, store, template, testing,
    time, timetable, trigger_rule, xcom,
};

#[cfg(feature = "testing")]
pub use airflow_core::executor_conformance;

#[cfg(feature = "local")]
pub use airflow_executors::LocalExecutor;

#[cfg(any(feature = "local", feature = "redis", feature = "rabbitmq"))]
pub use airflow_executors::ProcessCommand;

#[cfg(any(feature = "redis", feature = "rabbitmq", feature = "worker-logs"))]
pub use airflow_executors::remote;

#[cfg(feature = "cli")]
pub use airflow_cli::{self as cli, cli, cli_async};

#[cfg(feature = "macros")]
pub use macros::{Branch, Operator, dag, sensor, task};

/// What a file with dags needs: `use airflow::prelude::*;`.
pub mod prelude {
    pub use airflow_core::app::{Airflow, AirflowBuilder, Running};
    pub use airflow_core::asset::{
        Asset, AssetAlias, AssetCondition, AssetFeed, AssetWatcher, Seen, WatchContext,
    };
    pub use airflow_core::builtin::{
        DateTimeSensor, DayOfWeekSensor, ExternalTaskSensor, FileSensor, FileWatcher, TimeDeltaSensor,
        TimeSensor, TriggerDagRun, WaitSensor,
    };
    pub use airflow_core::callback::CallbackContext;
    pub use airflow_core::connection::{Conn, Connection, ConnectionKind};
    pub use airflow_core::dag::{
        Dag, DagDef, Group, Handle, Isolation, Mapped, Node, Nodes, SensorExt, TaskExt, TaskGroup,
        TaskOptions, concat, label, product, zip, zip_longest,
    };
    // Not the trait `Operator`: beside `Execute`, a call of `execute` would be ambiguous.
    pub use airflow_core::operator::{
        Branch, Deferral, Elem, Empty, Execute, In, IntoIn, Params, Poke, Result, ResultExt, Resumed, Sensor,
        SensorMode, TaskContext, TaskError, Trigger, template,
    };
    pub use airflow_core::secret::Secret;
    pub use airflow_core::state::{RunState, TaskState};
    pub use airflow_core::store::MemoryStore;
    #[cfg(feature = "mysql")]
    pub use airflow_core::store::MysqlStore;
    #[cfg(feature = "postgres")]
    pub use airflow_core::store::PostgresStore;
    #[cfg(feature = "sqlite")]
    pub use airflow_core::store::SqliteStore;
    pub use airflow_core::testing::{DagTest, Sim};
    pub use airflow_core::time::{days, hours, mins, secs};
    pub use airflow_core::timetable::{AssetOrTimeSchedule, Schedule};
    pub use airflow_core::trigger_rule::{TriggerRule, WeightRule};

    #[cfg(feature = "local")]
    pub use airflow_executors::LocalExecutor;

    #[cfg(feature = "macros")]
    pub use crate::macros::{Branch, Operator, dag, sensor, task};

    pub use chrono::{DateTime, NaiveDate, Utc};
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};
}

/// Compiles the Rust code in the README and in the book.
#[cfg(doctest)]
mod book;

/// What the macros write refers to. Not part of the API.
#[doc(hidden)]
pub mod __private {
    pub use airflow_core::__private::*;
}
