//! The README and the pages of the book, so that `cargo test --doc` compiles and runs their Rust code.

#[doc = include_str!("../README.md")]
pub struct Readme;

#[doc = include_str!("../docs/book/introduction.md")]
pub struct Introduction;

#[doc = include_str!("../docs/book/first-dag.md")]
pub struct FirstDag;

#[doc = include_str!("../docs/book/concepts.md")]
pub struct Concepts;

#[doc = include_str!("../docs/book/data.md")]
pub struct Data;

#[doc = include_str!("../docs/book/mapping.md")]
pub struct Mapping;

#[doc = include_str!("../docs/book/branching.md")]
pub struct Branching;

#[doc = include_str!("../docs/book/schedules.md")]
pub struct Schedules;

#[doc = include_str!("../docs/book/assets.md")]
pub struct Assets;

#[doc = include_str!("../docs/book/failures.md")]
pub struct Failures;

#[doc = include_str!("../docs/book/waiting.md")]
pub struct Waiting;

#[doc = include_str!("../docs/book/limits.md")]
pub struct Limits;

#[doc = include_str!("../docs/book/testing.md")]
pub struct Testing;

#[doc = include_str!("../docs/book/embedding.md")]
pub struct Embedding;

#[doc = include_str!("../docs/book/databases.md")]
pub struct Databases;

#[doc = include_str!("../docs/book/cli.md")]
pub struct Cli;

#[doc = include_str!("../docs/book/configuration.md")]
pub struct Configuration;

#[doc = include_str!("../docs/book/workers.md")]
pub struct Workers;

#[doc = include_str!("../docs/book/connections.md")]
pub struct Connections;

#[doc = include_str!("../docs/book/operating.md")]
pub struct Operating;

#[doc = include_str!("../docs/book/task-states.md")]
pub struct TaskStates;

#[doc = include_str!("../docs/book/coming-from-airflow.md")]
pub struct ComingFromAirflow;
