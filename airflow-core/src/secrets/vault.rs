//! The store's connections and variables, encrypted at rest.

use std::fmt;

use crate::connection::{Connection, ConnectionError};
use crate::fernet::{Fernet, FernetError};
use crate::secret::Secret;
use crate::store::{ConnectionRow, EncryptedField, SharedStore, StoreError, TokenSwap, VariableRow};

/// Why the vault cannot read or write.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A value cannot be encrypted or decrypted.
    #[error("{what}: {error}")]
    Fernet {
        /// Whose value.
        what: String,
        /// What is wrong.
        error: FernetError,
    },
    /// A value is encrypted, but there is no key.
    #[error("{what} is encrypted, but no key is set; set `core.fernet_key` to the key it was written with")]
    NoKey {
        /// Whose value.
        what: String,
    },
    /// The id of a connection cannot be one.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The key of a variable is empty or too long.
    #[error("a key of a variable has 1 to 250 characters, not {0}")]
    BadKey(usize),
}

/// The longest key of a variable, in characters.
const MAX_KEY: usize = 250;

/// How many tokens are put in the place of others at once: other writers must get their turn.
const ROTATED_AT_ONCE: usize = 500;

/// A variable, readable.
#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What it is for.
    pub description: Option<String>,
    /// Whether it was encrypted in the store.
    pub is_encrypted: bool,
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variable").field("key", &self.key).finish_non_exhaustive()
    }
}

/// What a rotation has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rotated {
    /// How many values were encrypted again.
    pub values: u64,
    /// How many are not encrypted and were left as they are.
    pub plain: u64,
    /// How many somebody else changed meanwhile; they have the current key.
    pub changed: u64,
}

/// The store's connections and variables: encrypted if there is a key, readable here. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault {
    store: SharedStore,
    fernet: Fernet,
}

impl Vault {
    /// Keeps values in `store`, encrypted with `fernet`.
    pub fn new(store: SharedStore, fernet: Fernet) -> Self {
        Self { store, fernet }
    }

    /// Whether what is written is encrypted.
    pub fn is_encrypting(&self) -> bool {
        self.fernet.is_encrypting()
    }

    /// A variable.
    ///
    /// # Errors
    ///
    /// [`VaultError`].
    pub async fn variable(&self, key: &str) -> Result<Option<Variable>, VaultError> {
        self.store.variable(key).await?.map(|row| self.open_variable(row)).transpose()
    }

    /// All variables, by key.
    ///
    /// # Errors
    ///
    /// As [`variable`](Self::variable).
    pub async fn variables(&self) -> Result<Vec<Variable>, VaultError> {
        self.store.variables().await?.into_iter().map(|row| self.open_variable(row)).collect()
    }

    /// Creates or replaces a variable; a description of `None` keeps the old one.
    ///
    /// # Errors
    ///
    /// As [`variable`](Self::variable).
    pub async fn set_variable(
        &self,
        key: &str,
        value: &str,
        description: Option<&str>,
    ) -> Result<(), VaultError> {
        let length = key.chars().count();
        if length == 0 || length > MAX_KEY {
            return Err(VaultError::BadKey(length));
        }
        let (value, is_encrypted) = self.seal(value, || format!("the variable `{key}`"))?;
        let description = description.map(str::to_owned);
        let row = VariableRow { key: key.to_owned(), value, description, is_encrypted };
        Ok(self.store.set_variable(row).await?)
    }

    /// Deletes a variable; `false` if there is none.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn delete_variable(&self, key: &str) -> Result<bool, VaultError> {
        Ok(self.store.delete_variable(key).await?)
    }

    /// A connection.
    ///
    /// # Errors
    ///
    /// [`VaultError`].
    pub async fn connection(&self, conn_id: &str) -> Result<Option<Connection>, VaultError> {
        self.store.connection(conn_id).await?.map(|row| self.open_connection(row)).transpose()
    }

    /// All connections, by id.
    ///
    /// # Errors
    ///
    /// As [`connection`](Self::connection).
    pub async fn connections(&self) -> Result<Vec<Connection>, VaultError> {
        self.store.connections().await?.into_iter().map(|row| self.open_connection(row)).collect()
    }

    /// Creates or replaces a connection; a description of `None` keeps the old one.
    ///
    /// # Errors
    ///
    /// As [`connection`](Self::connection); [`VaultError::Connection`] for an id that cannot be one.
    pub async fn set_connection(&self, connection: &Connection) -> Result<(), VaultError> {
        Connection::check_id(&connection.conn_id)?;
        let what = || format!("the connection `{}`", connection.conn_id);
        let seal = |secret: &Option<Secret>| match secret {
            Some(secret) => self.seal(secret.expose(), what).map(|(text, marked)| (Some(text), marked)),
            None => Ok((None, false)),
        };
        let (password, is_encrypted) = seal(&connection.password)?;
        let (extra, is_extra_encrypted) = seal(&connection.extra)?;
        let row = ConnectionRow {
            conn_id: connection.conn_id.clone(),
            conn_type: connection.conn_type.clone(),
            description: connection.description.clone(),
            host: connection.host.clone(),
            login: connection.login.clone(),
            password,
            schema: connection.schema.clone(),
            port: connection.port,
            extra,
            is_encrypted,
            is_extra_encrypted,
        };
        Ok(self.store.set_connection(row).await?)
    }

    /// Deletes a connection; `false` if there is none.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn delete_connection(&self, conn_id: &str) -> Result<bool, VaultError> {
        Ok(self.store.delete_connection(conn_id).await?)
    }

    /// Encrypts everything that is encrypted again, with the first key. What somebody writes meanwhile stays.
    ///
    /// # Errors
    ///
    /// [`VaultError::Fernet`] if no key fits a value: nothing is changed then.
    pub async fn rotate(&self) -> Result<Rotated, VaultError> {
        let mut done = Rotated::default();
        let mut swaps = Vec::new();
        for row in self.store.variables().await? {
            let what = || format!("the variable `{}`", row.key);
            let field = EncryptedField::Variable(row.key.clone());
            self.swap(&mut done, &mut swaps, field, Some(&row.value), row.is_encrypted, what)?;
        }
        for row in self.store.connections().await? {
            let (id, what) = (&row.conn_id, || format!("the connection `{}`", row.conn_id));
            let password = EncryptedField::Password(id.clone());
            self.swap(&mut done, &mut swaps, password, row.password.as_ref(), row.is_encrypted, what)?;
            let extra = EncryptedField::Extra(id.clone());
            self.swap(&mut done, &mut swaps, extra, row.extra.as_ref(), row.is_extra_encrypted, what)?;
        }
        let all = swaps.len() as u64;
        for batch in swaps.chunks(ROTATED_AT_ONCE) {
            done.values += self.store.swap_tokens(batch.to_vec()).await?;
        }
        done.changed = all - done.values;
        Ok(done)
    }

    fn swap(
        &self,
        done: &mut Rotated,
        swaps: &mut Vec<TokenSwap>,
        field: EncryptedField,
        token: Option<&String>,
        is_encrypted: bool,
        what: impl Fn() -> String,
    ) -> Result<(), VaultError> {
        match token {
            Some(token) if is_encrypted => {
                self.check_key(true, &what)?;
                let to = self.fernet.rotate(token).map_err(|error| fernet(&what, error))?;
                swaps.push(TokenSwap { field, from: token.clone(), to });
            }
            Some(_) => done.plain += 1,
            None => {}
        }
        Ok(())
    }

    fn open_variable(&self, row: VariableRow) -> Result<Variable, VaultError> {
        let value = self.open(&row.value, row.is_encrypted, || format!("the variable `{}`", row.key))?;
        Ok(Variable { key: row.key, value, description: row.description, is_encrypted: row.is_encrypted })
    }

    fn open_connection(&self, row: ConnectionRow) -> Result<Connection, VaultError> {
        let what = || format!("the connection `{}`", row.conn_id);
        let open = |text: &Option<String>, marked| match text {
            Some(text) => self.open(text, marked, what).map(Secret::new).map(Some),
            None => Ok(None),
        };
        let password = open(&row.password, row.is_encrypted)?;
        let extra = open(&row.extra, row.is_extra_encrypted)?;
        Ok(Connection {
            conn_id: row.conn_id,
            conn_type: row.conn_type,
            description: row.description,
            host: row.host,
            login: row.login,
            password,
            schema: row.schema,
            port: row.port,
            extra,
        })
    }

    fn seal(&self, text: &str, what: impl Fn() -> String) -> Result<(String, bool), VaultError> {
        let token = self.fernet.encrypt(text).map_err(|error| fernet(&what, error))?;
        Ok((token, self.is_encrypting()))
    }

    fn open(&self, text: &str, marked: bool, what: impl Fn() -> String) -> Result<String, VaultError> {
        if !marked {
            return Ok(text.to_owned());
        }
        self.check_key(marked, &what)?;
        self.fernet.decrypt(text).map_err(|error| fernet(&what, error))
    }

    fn check_key(&self, marked: bool, what: &impl Fn() -> String) -> Result<(), VaultError> {
        if marked && !self.is_encrypting() { Err(VaultError::NoKey { what: what() }) } else { Ok(()) }
    }
}

fn fernet(what: &impl Fn() -> String, error: FernetError) -> VaultError {
    VaultError::Fernet { what: what(), error }
}
