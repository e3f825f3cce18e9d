//! Logs of attempts, read from the workers that wrote them: for deployments that keep them out of the database, and for
//! the part of a log that the database did not take.
//!
//! Off by default: logs are [shipped](airflow_core::attempt::LogShipping) to the store, so that nobody has to reach a worker. A
//! worker with [`LogServerOptions`] serves the files of its folder, read-only, to whoever shows a [`ticket`]: signed with the
//! key of the deployment, for one file of one worker, for a few minutes.

#[cfg(feature = "worker-logs")]
mod client;
#[cfg(feature = "worker-logs")]
mod files;
#[cfg(feature = "worker-logs")]
mod range;
#[cfg(feature = "worker-logs")]
mod server;
#[cfg(feature = "worker-logs")]
mod ticket;

#[cfg(feature = "worker-logs")]
pub use files::WorkerLogFiles;
#[cfg(feature = "worker-logs")]
pub(super) use server::LogServer;

/// The port of workers that serve their logs, as Airflow's.
pub const LOG_PORT: u16 = 8793;

/// The most bytes of a log in one answer.
#[cfg(feature = "worker-logs")]
const PART: u64 = 1024 * 1024;

/// Where a worker serves its logs.
///
/// ```
/// use airflow_executors::remote::{LogServerOptions, WorkerOptions};
///
/// let serve = LogServerOptions { address: Some("gpu-1.internal".into()), ..LogServerOptions::default() };
/// let options = WorkerOptions { log_server: Some(serve), ..WorkerOptions::default() };
/// # drop(options);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogServerOptions {
    /// The address of its machine at which it listens; empty for all.
    pub host: String,
    /// The port; 0 for any that is free. Default [`LOG_PORT`].
    pub port: u16,
    /// By which others reach it, with or without a port. Default the name of the machine, or `host` if that is a single
    /// address.
    pub address: Option<String>,
}

impl Default for LogServerOptions {
    fn default() -> Self {
        Self { host: String::new(), port: LOG_PORT, address: None }
    }
}

#[cfg(feature = "worker-logs")]
impl LogServerOptions {
    /// By which others reach a server that listens at `at`, on the machine of this name.
    fn advertised(&self, at: std::net::SocketAddr, machine: &str) -> String {
        let port = at.port();
        match &self.address {
            Some(address) if has_port(address) => address.clone(),
            Some(address) => format!("{address}:{port}"),
            None if at.ip().is_unspecified() => format!("{machine}:{port}"),
            None => at.to_string(),
        }
    }
}

/// Whether an address ends with a port. One of IPv6 stands in brackets then.
#[cfg(feature = "worker-logs")]
fn has_port(address: &str) -> bool {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
}

/// Stands for the server in a program that was built without it.
#[cfg(not(feature = "worker-logs"))]
#[derive(Debug)]
pub(super) struct LogServer(std::convert::Infallible);

#[cfg(not(feature = "worker-logs"))]
impl LogServer {
    #[expect(clippy::unused_async, reason = "the same signature as with the feature")]
    pub(super) async fn start(
        _: &LogServerOptions,
        _: super::worker::Serves<'_>,
    ) -> Result<Self, super::WorkerError> {
        let why = "this program was built without the feature `worker-logs` of `airflow`, so its worker cannot serve \
                   its logs; add it in Cargo.toml";
        Err(super::WorkerError::Invalid(why.to_owned()))
    }

    pub(super) fn address(&self) -> String {
        match self.0 {}
    }
}

#[cfg(all(test, feature = "worker-logs"))]
mod tests {
    use super::*;

    #[test]
    fn a_worker_says_by_what_it_can_be_reached() {
        for (given, listens, said) in [
            (None, "0.0.0.0:8793", "machine:8793"),
            (None, "[::]:8793", "machine:8793"),
            (None, "127.0.0.1:99", "127.0.0.1:99"),
            (Some("w1"), "0.0.0.0:8793", "w1:8793"),
            (Some("w1:80"), "0.0.0.0:8793", "w1:80"),
            (Some("[::1]"), "[::]:8793", "[::1]:8793"),
            (Some("[::1]:80"), "[::]:8793", "[::1]:80"),
        ] {
            let options = LogServerOptions { address: given.map(str::to_owned), ..Default::default() };
            assert_eq!(options.advertised(listens.parse().unwrap(), "machine"), said);
        }
    }
}
