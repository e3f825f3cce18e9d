//! The parameters of a run as a type of the user's.

use std::ops::Deref;

use serde::de::DeserializeOwned;

use super::{Result, TaskContext};

/// The parameters of the run, read as `T`. A task function borrows them:
///
/// ```
/// use airflow_core::operator::{Params, Result};
///
/// #[derive(serde::Deserialize)]
/// struct Nightly {
///     table: String,
/// }
///
/// async fn load(params: &Params<Nightly>) -> Result<String> {
///     Ok(format!("select * from {}", params.table))
/// }
/// # let _ = load(&Params(Nightly { table: "t".into() }));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> Params<T> {
    /// Reads the parameters of the run that `cx` belongs to.
    ///
    /// # Errors
    ///
    /// [`TaskError::Fail`](super::TaskError::Fail) if they do not fit `T`.
    pub fn of(cx: &TaskContext) -> Result<Self> {
        cx.params().map(Self)
    }
}

impl<T> Deref for Params<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
