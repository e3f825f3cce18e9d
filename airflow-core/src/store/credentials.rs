//! Rows that may hold something encrypted: the store keeps texts and what they are, and never sees a key.

use serde::{Deserialize, Serialize};

/// A connection as it is kept: password and extra may be encrypted.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// Its name, at most 250 characters.
    pub conn_id: String,
    /// What it leads to.
    pub conn_type: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// The host.
    pub host: Option<String>,
    /// The user.
    pub login: Option<String>,
    /// The password, or the token it was encrypted to.
    pub password: Option<String>,
    /// What stands behind the host.
    pub schema: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// Everything else as JSON, or the token it was encrypted to.
    pub extra: Option<String>,
    /// Whether the password is encrypted.
    pub is_encrypted: bool,
    /// Whether the extra is encrypted.
    pub is_extra_encrypted: bool,
}

/// Password and extra are not shown, encrypted or not.
impl std::fmt::Debug for ConnectionRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let marks = (self.is_encrypted, self.is_extra_encrypted);
        f.debug_struct("ConnectionRow")
            .field("conn_id", &self.conn_id)
            .field("conn_type", &self.conn_type)
            .field("host", &self.host)
            .field("encrypted", &marks)
            .finish_non_exhaustive()
    }
}

/// A field that may be encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncryptedField {
    /// The value of the variable with this key.
    Variable(String),
    /// The password of the connection with this id.
    Password(String),
    /// The extra of the connection with this id.
    Extra(String),
}

/// A token to be put in the place of another one.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSwap {
    /// Where it stands.
    pub field: EncryptedField,
    /// What must stand there now; otherwise nothing is changed.
    pub from: String,
    /// What will stand there.
    pub to: String,
}

impl std::fmt::Debug for TokenSwap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSwap").field("field", &self.field).finish_non_exhaustive()
    }
}
