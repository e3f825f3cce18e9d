//! Executors: what runs attempts.
//!
//! Use them through the `airflow` crate. [`LocalExecutor`] runs attempts on the tokio runtime of the process itself.

#[cfg(feature = "local")]
mod local;
#[cfg(any(feature = "local", feature = "remote"))]
mod process;
#[cfg(feature = "remote")]
pub mod remote;

#[cfg(feature = "local")]
pub use local::LocalExecutor;
#[cfg(any(feature = "local", feature = "remote"))]
pub use process::ProcessCommand;
