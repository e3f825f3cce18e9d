//! Connections and variables in files: JSON, or lines `NAME=VALUE` in a file that ends with `.env`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::SecretsBackend;
use crate::connection::Connection;
use crate::operator::BoxError;

/// Why a file cannot be used. What it says is never repeated: it holds secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub why: String,
}

/// A [`SecretsBackend`] that reads two files once, when it is made.
///
/// ```
/// use airflow_core::secrets::{FileSecrets, SecretsBackend};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # let folder = std::env::temp_dir().join(format!("airflow-files-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let (connections, variables) = (folder.join("connections.json"), folder.join("variables.env"));
/// std::fs::write(&connections, r#"{"db": "postgres://u:p@h/s", "api": {"conn_type": "http", "host": "h"}}"#)?;
/// std::fs::write(&variables, "# where we are\nregion=eu-west-1\n")?;
/// let files = FileSecrets::default().with_connections(&connections)?.with_variables(&variables)?;
/// assert_eq!(files.get_variable("region").await?.as_deref(), Some("eu-west-1"));
/// assert!(files.get_connection("db").await?.is_some());
/// // Airflow::builder().secrets_backend(files)
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct FileSecrets {
    connections: BTreeMap<String, Connection>,
    variables: BTreeMap<String, String>,
}

impl fmt::Debug for FileSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = (self.connections.len(), self.variables.len());
        write!(f, "FileSecrets({} connections, {} variables)", counts.0, counts.1)
    }
}

impl FileSecrets {
    /// The same with the connections of a file: `{"id": "uri", "other": {..}}`, or lines `ID=URI`.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub fn with_connections(mut self, path: impl AsRef<Path>) -> Result<Self, FileError> {
        self.connections = connections_of_file(path.as_ref())?.into_iter().collect();
        Ok(self)
    }

    /// The same with the variables of a file: `{"key": value}`, or lines `KEY=VALUE`. What is no text is kept as JSON.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub fn with_variables(mut self, path: impl AsRef<Path>) -> Result<Self, FileError> {
        let text = |value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let entries = entries_of_file(path.as_ref())?;
        self.variables = entries.into_iter().map(|(key, value)| (key, text(value))).collect();
        Ok(self)
    }
}

impl SecretsBackend for FileSecrets {
    async fn get_connection(&self, conn_id: &str) -> Result<Option<Connection>, BoxError> {
        Ok(self.connections.get(conn_id).cloned())
    }

    async fn get_variable(&self, key: &str) -> Result<Option<String>, BoxError> {
        Ok(self.variables.get(key).cloned())
    }
}

/// The connections of a file, by id, in the order of the file.
///
/// # Errors
///
/// [`FileError`].
pub fn connections_of_file(path: &Path) -> Result<Vec<(String, Connection)>, FileError> {
    let mut all = Vec::new();
    for (id, value) in entries_of_file(path)? {
        let read = match value {
            Value::String(text) => Connection::from_text(&id, &text),
            other => Connection::from_value(&id, other),
        };
        let checked = Connection::check_id(&id).and(read);
        let connection = checked.map_err(|error| FileError {
            path: path.to_owned(),
            why: format!("connection `{id}`: {error}"),
        })?;
        all.push((id, connection));
    }
    Ok(all)
}

fn entries_of_file(path: &Path) -> Result<Vec<(String, Value)>, FileError> {
    let wrong = |why: String| FileError { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if path.extension().is_none_or(|end| end != "env") {
        let json = serde_json::from_str(&text).map_err(|error| wrong(format!("is no JSON: {error}")))?;
        let Value::Object(entries) = json else { return Err(wrong("is no JSON object".to_owned())) };
        return Ok(entries.into_iter().collect());
    }
    let mut all: Vec<(String, Value)> = Vec::new();
    for (at, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) =
            line.split_once('=').ok_or_else(|| wrong(format!("line {}: write `NAME=VALUE`", at + 1)))?;
        if all.iter().any(|(other, _)| other == name) {
            return Err(wrong(format!("line {}: `{name}` stands there twice", at + 1)));
        }
        all.push((name.to_owned(), value.into()));
    }
    Ok(all)
}
