//! A value that is not shown: [`Secret`].

use std::fmt;

/// What is shown in place of a secret.
pub const HIDDEN: &str = "***";

/// A value that cannot be printed, logged or stored by accident: `Debug` and `Display` give `***`, and there is no
/// `Serialize`, so it cannot be the result of a task or a part of one.
///
/// ```
/// use airflow_core::secret::Secret;
///
/// let password = Secret::new("pa55".to_owned());
/// assert_eq!(format!("{password} {password:?}"), "*** ***");
/// assert_eq!(password.expose(), "pa55");
/// ```
///
/// ```compile_fail
/// # use airflow_core::secret::Secret;
/// // A secret is no data that travels between tasks.
/// serde_json::to_string(&Secret::new("pa55"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret<T = String>(T);

impl<T> Secret<T> {
    /// Hides a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value. What is made of it is not hidden any more.
    pub fn expose(&self) -> &T {
        &self.0
    }

    /// The value, for good.
    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl<T> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}
