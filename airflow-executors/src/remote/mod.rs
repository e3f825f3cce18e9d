//! Attempts on other machines.
//!
//! The database is the truth: an attempt is `queued` there before a message about it is sent, a worker takes it by
//! claiming it there, and how it ended is written there. A broker carries wake-ups that may be lost, doubled or late.
//! Start with [`Transport`], the contract between the two.

mod envelope;
mod executor;
#[cfg(any(feature = "redis", feature = "rabbitmq"))]
mod inbox;
mod keys;
mod logs;
mod monitor;
mod notices;
mod orders;
#[cfg(any(feature = "redis", feature = "rabbitmq"))]
mod pace;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
#[cfg(feature = "redis")]
pub mod redis;
mod signer;
#[cfg(any(feature = "redis", feature = "rabbitmq"))]
mod slot;
#[cfg(feature = "testing")]
pub mod testing;
mod transport;
mod worker;

pub use envelope::{Envelope, MAX_ENVELOPE, MAX_QUEUE};
pub use executor::RemoteExecutor;
#[cfg(feature = "worker-logs")]
pub use logs::WorkerLogFiles;
pub use logs::{LOG_PORT, LogServerOptions};
pub use monitor::{
    CarriedVersion, OrderError, QueueStatus, WorkerMonitor, WorkerState, WorkerStatus, carried_versions,
    find, workers,
};
pub use orders::{Autoscale, WorkerOrder};
pub use signer::{KeyError, MAX_AGE, MAX_PAYLOAD, MIN_KEY, MessageError, Purpose, Signed, Signer, VERSION};
pub use transport::{
    BrokerFacts, ConsumeOptions, Consumer, Delivery, Depth, Message, Settle, Subscription, Token, Transport,
    TransportError, TransportHealth,
};
pub use worker::{Counts, RunningAttempt, Worker, WorkerError, WorkerInfo, WorkerOptions};
