//! Where connections and variables come from, and how they are kept.
//!
//! [`Secrets`] asks backends of the application ([`SecretsBackend`]), then the environment ([`EnvironmentSecrets`]), then
//! the store ([`Vault`]), and makes what it finds known to the [`Masker`]. [`Vault`] is the only place where values are
//! encrypted and decrypted.

mod environment;
mod files;
mod vault;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::connection::Connection;
use crate::mask::Masker;
use crate::operator::BoxError;
use crate::secret::Secret;

pub use environment::EnvironmentSecrets;
pub use files::{FileError, FileSecrets, connections_of_file};
pub use vault::{Rotated, Variable, Vault, VaultError};

/// Another place for connections, variables and settings: a vault, a cloud service, files.
///
/// Every method has a default that finds nothing, so that a backend implements only what it has. An error is logged and
/// the next place is asked.
///
/// ```
/// use airflow_core::connection::Connection;
/// use airflow_core::operator::BoxError;
/// use airflow_core::secrets::SecretsBackend;
///
/// #[derive(Debug)]
/// struct Files(std::path::PathBuf);
///
/// impl SecretsBackend for Files {
///     async fn get_connection(&self, conn_id: &str) -> Result<Option<Connection>, BoxError> {
///         match std::fs::read_to_string(self.0.join(conn_id)) {
///             Ok(text) => Ok(Some(Connection::from_text(conn_id, &text)?)),
///             Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
///             Err(error) => Err(error.into()),
///         }
///     }
/// }
/// # let _ = Files("secrets".into());
/// ```
pub trait SecretsBackend: fmt::Debug + Send + Sync + 'static {
    /// A connection.
    ///
    /// # Errors
    ///
    /// If the place cannot be asked or its answer cannot be read.
    fn get_connection(
        &self,
        conn_id: &str,
    ) -> impl Future<Output = Result<Option<Connection>, BoxError>> + Send {
        let _ = conn_id;
        std::future::ready(Ok(None))
    }

    /// A variable.
    ///
    /// # Errors
    ///
    /// As [`get_connection`](Self::get_connection).
    fn get_variable(&self, key: &str) -> impl Future<Output = Result<Option<String>, BoxError>> + Send {
        let _ = key;
        std::future::ready(Ok(None))
    }

    /// What an option `…_secret` of the configuration names.
    ///
    /// # Errors
    ///
    /// As [`get_connection`](Self::get_connection).
    fn get_config(&self, name: &str) -> impl Future<Output = Result<Option<Secret>, BoxError>> + Send {
        let _ = name;
        std::future::ready(Ok(None))
    }
}

/// A backend of any type.
#[async_trait]
trait AnyBackend: fmt::Debug + Send + Sync {
    async fn connection(&self, conn_id: &str) -> Result<Option<Connection>, BoxError>;
    async fn variable(&self, key: &str) -> Result<Option<String>, BoxError>;
    async fn config(&self, name: &str) -> Result<Option<Secret>, BoxError>;
}

#[async_trait]
impl<B: SecretsBackend> AnyBackend for B {
    async fn connection(&self, conn_id: &str) -> Result<Option<Connection>, BoxError> {
        self.get_connection(conn_id).await
    }

    async fn variable(&self, key: &str) -> Result<Option<String>, BoxError> {
        self.get_variable(key).await
    }

    async fn config(&self, name: &str) -> Result<Option<Secret>, BoxError> {
        self.get_config(name).await
    }
}

/// Backends of the application, in the order in which they are asked. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Backends(Vec<Arc<dyn AnyBackend>>);

impl Backends {
    /// Adds one that is asked after those before it.
    pub fn push(&mut self, backend: impl SecretsBackend) {
        self.0.push(Arc::new(backend));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What an option `…_secret` of the configuration names; the first answer counts.
    pub async fn config(&self, name: &str) -> Option<Secret> {
        for backend in &self.0 {
            match backend.config(name).await {
                Ok(Some(found)) => return Some(found),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(?backend, name, %error, "a secrets backend failed; the next is asked");
                }
            }
        }
        None
    }
}

/// Why a connection or variable cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// The store failed, or what it holds cannot be decrypted.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// It was found nowhere, and some place could not be asked.
    #[error("{what} was not found, and not every place could be asked: {why}")]
    Unknown {
        /// What was looked for.
        what: String,
        /// The errors of the places that failed.
        why: String,
    },
}

/// Finds connections and variables. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Secrets {
    backends: Backends,
    environment: Arc<EnvironmentSecrets>,
    vault: Vault,
    masker: Masker,
}

impl Secrets {
    /// Asks `backends`, then `environment`, then `vault`.
    pub fn new(backends: Backends, environment: EnvironmentSecrets, vault: Vault, masker: Masker) -> Self {
        Self { backends, environment: Arc::new(environment), vault, masker }
    }

    /// The store's part.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// What hides the values that were found.
    pub fn masker(&self) -> &Masker {
        &self.masker
    }

    /// The part of the environment.
    pub fn environment(&self) -> &EnvironmentSecrets {
        &self.environment
    }

    /// A connection; its secrets are hidden from now on.
    ///
    /// # Errors
    ///
    /// [`SecretsError`].
    pub async fn connection(&self, conn_id: &str) -> Result<Option<Connection>, SecretsError> {
        let mut failures = Vec::new();
        for backend in self.outside() {
            match backend.connection(conn_id).await {
                Ok(Some(found)) => return Ok(Some(self.hide(found))),
                Ok(None) => {}
                Err(error) => failures.push(note(backend, &format!("connection `{conn_id}`"), &*error)),
            }
        }
        let found = self.vault.connection(conn_id).await?;
        unknown(found.map(|found| self.hide(found)), &format!("the connection `{conn_id}`"), &failures)
    }

    /// A variable; it is hidden from now on if its key is sensitive.
    ///
    /// # Errors
    ///
    /// [`SecretsError`].
    pub async fn variable(&self, key: &str) -> Result<Option<String>, SecretsError> {
        let mut failures = Vec::new();
        for backend in self.outside() {
            match backend.variable(key).await {
                Ok(Some(found)) => return Ok(Some(self.hide_variable(key, found))),
                Ok(None) => {}
                Err(error) => failures.push(note(backend, &format!("variable `{key}`"), &*error)),
            }
        }
        let found = self.vault.variable(key).await?.map(|found| self.hide_variable(key, found.value));
        unknown(found, &format!("the variable `{key}`"), &failures)
    }

    /// Makes the secrets of a connection known to the masker.
    pub fn hide(&self, connection: Connection) -> Connection {
        hide_connection(&self.masker, &connection);
        connection
    }

    fn hide_variable(&self, key: &str, value: String) -> String {
        self.masker.add_named(key, &value);
        value
    }

    fn outside(&self) -> impl Iterator<Item = &dyn AnyBackend> {
        let environment: &dyn AnyBackend = &*self.environment;
        self.backends.0.iter().map(|backend| &**backend).chain([environment])
    }
}

/// Makes the secrets of a connection known to a masker.
pub fn hide_connection(masker: &Masker, connection: &Connection) {
    if let Some(password) = &connection.password {
        masker.add(password.expose());
    }
    masker.add_json("extra", &connection.extra_json());
}

fn note(backend: &dyn AnyBackend, what: &str, error: &(dyn std::error::Error + Send + Sync)) -> String {
    tracing::warn!(?backend, what, %error, "a secrets backend failed; the next is asked");
    format!("{backend:?}: {error}")
}

fn unknown<T>(found: Option<T>, what: &str, failures: &[String]) -> Result<Option<T>, SecretsError> {
    if found.is_none() && !failures.is_empty() {
        return Err(SecretsError::Unknown { what: what.to_owned(), why: failures.join("; ") });
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
