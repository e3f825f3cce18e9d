//! How an attempt can end other than well.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::template::TemplateError;
use crate::xcom::XComError;

use super::input::InputError;
use super::wait::Deferral;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// How an attempt ended, if not with a result.
///
/// Any error becomes [`TaskError::Error`] through `?`; it is tried again while retries are left. The other kinds are
/// made on purpose:
///
/// ```
/// use airflow_core::operator::{Result, TaskError};
///
/// fn newest(files: &[String]) -> Result<String> {
///     match files.last() {
///         Some(file) => Ok(file.clone()),
///         None => Err(TaskError::skip("no file arrived")),
///     }
/// }
/// assert!(matches!(newest(&[]), Err(TaskError::Skip(_))));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum TaskError {
    /// An ordinary error: the attempt failed and is tried again while retries are left.
    Error(BoxError),
    /// Failed for good, whatever retries are left.
    Fail(String),
    /// Not to be executed: the task ends as skipped.
    Skip(String),
    /// Failed; to be tried again after this time instead of the configured one, while retries are left.
    Retry {
        /// How long to wait.
        after: Duration,
        /// Why.
        reason: String,
    },
    /// Not done yet: run again at this time, without using a retry.
    Reschedule(DateTime<Utc>),
    /// Waits for something without a slot, then goes on. Made from a [`Deferral`].
    Defer(Box<Deferral>),
}

impl TaskError {
    /// An ordinary error with this message.
    pub fn msg(message: impl fmt::Display) -> Self {
        Self::Error(message.to_string().into())
    }

    /// What a boxed error stands for: a task error that was boxed, or an ordinary one.
    pub fn from_boxed(error: BoxError) -> Self {
        match error.downcast::<Carried>() {
            Ok(carried) => carried.0,
            Err(error) => Self::Error(error),
        }
    }

    /// Fails for good.
    pub fn fail(reason: impl fmt::Display) -> Self {
        Self::Fail(reason.to_string())
    }

    /// Ends as skipped.
    pub fn skip(reason: impl fmt::Display) -> Self {
        Self::Skip(reason.to_string())
    }

    /// Fails, to be tried again after `after`.
    pub fn retry(after: Duration, reason: impl fmt::Display) -> Self {
        Self::Retry { after, reason: reason.to_string() }
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => {
                write!(f, "{error}")?;
                let mut cause = error.source();
                while let Some(next) = cause {
                    write!(f, ": {next}")?;
                    cause = next.source();
                }
                Ok(())
            }
            Self::Fail(reason) | Self::Skip(reason) | Self::Retry { reason, .. } => f.write_str(reason),
            Self::Reschedule(at) => write!(f, "rescheduled to {at}"),
            Self::Defer(deferral) => write!(f, "deferred until `{}` fires", deferral.kind),
        }
    }
}

// `TaskError` is no `std::error::Error`, as this conversion, which makes `?` work, would collide with the identity.
impl<E: std::error::Error + Send + Sync + 'static> From<E> for TaskError {
    fn from(error: E) -> Self {
        let error: BoxError = Box::new(error);
        let error = match error.downcast::<Carried>() {
            Ok(carried) => return carried.0,
            Err(error) => error,
        };
        // Neither gets better by trying again: the code or the dag must change.
        if error.is::<TemplateError>() || error.is::<XComError>() || error.is::<InputError>() {
            return Self::Fail(error.to_string());
        }
        Self::Error(error)
    }
}

/// Carries a [`TaskError`] through code that speaks of boxed errors.
#[derive(Debug)]
struct Carried(TaskError);

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Carried {}

impl From<TaskError> for BoxError {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Error(error) => error,
            other => Box::new(Carried(other)),
        }
    }
}

/// What a task function may return: a `Result` with any error, or nothing.
#[diagnostic::on_unimplemented(
    message = "a task cannot return `{Self}`",
    label = "not a `Result`",
    note = "return `Result<T>`; a task that cannot fail still says `Ok(value)`"
)]
pub trait TaskReturn {
    /// What the task hands to others.
    type Output;

    /// As the engine wants it.
    ///
    /// # Errors
    ///
    /// What the function returned.
    fn into_result(self) -> Result<Self::Output, TaskError>;
}

impl TaskReturn for () {
    type Output = ();

    fn into_result(self) -> Result<(), TaskError> {
        Ok(())
    }
}

impl<T, E: Into<BoxError>> TaskReturn for Result<T, E> {
    type Output = T;

    fn into_result(self) -> Result<T, TaskError> {
        self.map_err(|error| TaskError::from_boxed(error.into()))
    }
}

/// Turns any error into a [`TaskError`], where `?` cannot: errors that are only displayable, or boxed.
pub trait ResultExt<T> {
    /// The error becomes an ordinary, retryable one.
    ///
    /// # Errors
    ///
    /// The same, as a [`TaskError`].
    fn task_err(self) -> Result<T, TaskError>;

    /// As [`task_err`](Self::task_err), with words in front that say what was tried.
    ///
    /// # Errors
    ///
    /// The same, as a [`TaskError`].
    fn context(self, what: impl fmt::Display) -> Result<T, TaskError>;
}

impl<T, E: Into<BoxError>> ResultExt<T> for Result<T, E> {
    fn task_err(self) -> Result<T, TaskError> {
        self.into_result()
    }

    fn context(self, what: impl fmt::Display) -> Result<T, TaskError> {
        self.map_err(|error| TaskError::msg(format_args!("{what}: {}", error.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_error_survives_a_boxed_detour() {
        let boxed: Result<(), BoxError> = Err(TaskError::skip("nothing to do").into());
        assert!(matches!(boxed.into_result(), Err(TaskError::Skip(reason)) if reason == "nothing to do"));
    }

    #[test]
    fn an_ordinary_error_is_retryable_and_shows_its_causes() {
        let error: TaskError = "x".parse::<i32>().unwrap_err().into();
        assert!(matches!(error, TaskError::Error(_)));
        assert_eq!(error.to_string(), "invalid digit found in string");
        let named = "x".parse::<i32>().context("cannot read the port").unwrap_err();
        assert_eq!(named.to_string(), "cannot read the port: invalid digit found in string");
    }
}
