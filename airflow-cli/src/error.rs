//! Why a command failed, and how the user hears of it: one line, no internals.

use airflow_core::app::{AssetOpError, BuildError, OpError, TriggerError};
use airflow_core::registry::RegistryErrors;
use airflow_core::store::StoreError;
use airflow_core::time::InvalidMoment;
use airflow_core::timetable::TimetableError;

use crate::host::Host;

/// Exit code of a command that did what it should.
pub(crate) const DONE: u8 = 0;

/// Exit code of a command that failed, or that watched a run or task fail.
pub(crate) const FAILED: u8 = 1;

/// Exit code of a command that was called with wrong arguments.
pub(crate) const USAGE: u8 = 2;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The arguments make no sense by themselves, or help was asked for.
    #[error("{0}")]
    Clap(#[from] clap::Error),
    /// The arguments make no sense here.
    #[error("{0}")]
    Usage(String),
    /// It did not work.
    #[error("{0}")]
    Failed(String),
    /// It worked, and what it shows is a failure: everything has been said.
    #[error("failed")]
    Shown,
    /// What is shown cannot be written.
    #[error("cannot write: {0}")]
    Io(#[from] std::io::Error),
    /// The dags have mistakes.
    #[error("{0}")]
    Dags(#[from] RegistryErrors),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Something is unknown.
    #[error("{0}")]
    Op(#[from] OpError),
    /// A run was not made.
    #[error("{0}")]
    Trigger(#[from] TriggerError),
    /// Something was not done with an asset.
    #[error("{0}")]
    Asset(#[from] AssetOpError),
    /// The application cannot be built.
    #[error("{0}")]
    Build(#[from] BuildError),
    /// A timetable has no answer.
    #[error("{0}")]
    Timetable(#[from] TimetableError),
    /// An argument is no date.
    #[error("{0}")]
    Moment(#[from] InvalidMoment),
    /// Something is no JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

impl CliError {
    /// Tells the user and answers with the exit code.
    pub(crate) fn report(self, host: &mut Host) -> u8 {
        match self {
            Self::Clap(error) => {
                let text = error.render();
                let text = if host.colors() { text.ansi().to_string() } else { text.to_string() };
                // A reader that has gone away needs no help.
                let _ = if error.use_stderr() { host.raw_err(&text) } else { host.raw(&text) };
                u8::try_from(error.exit_code()).unwrap_or(USAGE)
            }
            // `program dags list | head` is no failure.
            Self::Io(error) if error.kind() == std::io::ErrorKind::BrokenPipe => DONE,
            Self::Shown => FAILED,
            Self::Usage(_) | Self::Moment(_) => {
                host.error(&self.to_string());
                USAGE
            }
            other => {
                host.error(&other.to_string());
                FAILED
            }
        }
    }
}

/// Says that something failed, in one line.
pub(crate) fn failed(why: impl Into<String>) -> CliError {
    CliError::Failed(why.into())
}
