//! What tests need.
//!
//! [`DagTest`] runs one dag once; [`Sim`] lets days of schedule pass in milliseconds. Both run the real scheduler, the
//! real attempts and the store in memory on a clock that moves by itself; nothing waits, and the same test takes the
//! same course each time. `world` holds that together, `mocks` what stands in for task bodies.
//!
//! Behind the feature `testing`: suites that hold an implementation to its contract.

mod dag_test;
mod executor;
mod journal;
mod mocks;
mod report;
mod setup;
mod sim;
mod world;

#[cfg(feature = "testing")]
pub mod executor_suite;
#[cfg(feature = "testing")]
pub mod proxy;
#[cfg(all(feature = "testing", any(feature = "postgres", feature = "mysql")))]
pub mod servers;
#[cfg(feature = "testing")]
pub mod store_suite;

pub use dag_test::DagTest;
pub use journal::TestEvent;
pub use report::{TestRun, TestTask};
pub use sim::{Sim, SimBuilder, SimRun, SimRuns};
