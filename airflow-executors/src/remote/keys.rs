//! The key with which schedulers and workers of one deployment sign what they send.

use std::time::Duration;

use airflow_core::fernet::Fernet;
use airflow_core::secret::Secret;
use airflow_core::store::{SharedStore, StoreError};

use super::signer::{KeyError, Signer};

/// The name of the setting that holds it.
const SETTING: &str = "message_key";

/// How long to wait after the store failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Why there is no signer.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// A key that was given cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store does not tell the key of the deployment.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A signer with the keys that were given; without any, with the one that the deployment keeps in its store, and that is
/// made by whoever asks first. Who can read the database can read it.
///
/// # Errors
///
/// [`SignerError`].
pub(super) async fn signer(store: &SharedStore, given: &[Secret]) -> Result<Signer, SignerError> {
    if !given.is_empty() {
        return Ok(Signer::new(given)?);
    }
    let new = Fernet::generate_key().map_err(|error| StoreError::Refused(error.to_string()))?;
    let kept = store.keep_setting(SETTING, &new).await?;
    Ok(Signer::new(&[Secret::new(kept)])?)
}

/// The same, asked until the store answers. `None` if the keys that were given cannot be used.
pub(super) async fn signer_at_last(store: &SharedStore, given: &[Secret]) -> Option<Signer> {
    loop {
        match signer(store, given).await {
            Ok(signer) => return Some(signer),
            Err(SignerError::Key(error)) => {
                tracing::error!(%error, "no message can be signed");
                return None;
            }
            Err(SignerError::Store(error)) => {
                tracing::warn!(%error, "the store does not tell the key for messages; asking again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
