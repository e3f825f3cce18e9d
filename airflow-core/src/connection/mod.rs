//! Connections: how to reach a system outside, under a name.
//!
//! [`Connection`] has Airflow's fields and both of its written forms, with all of their oddities: as a URI
//! ([`Connection::from_uri`]) and as JSON ([`Connection::from_json`]). Nothing here fetches or
//! stores anything: that is the work of the module `secrets`.

mod json;
mod kind;
mod uri;

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::secret::{HIDDEN, Secret};

pub use kind::{Conn, ConnectionKind};

/// The longest id of a connection, in characters.
pub const MAX_CONN_ID: usize = 250;

/// Under this name a URI carries an extra that is not a flat object of texts.
const EXTRA_KEY: &str = "__extra__";

/// Why a text is no connection. Messages never repeat the text: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// More than one `://`, in the wrong place.
    #[error(
        "`://` stands where it cannot; write `type://login:password@host:port/schema?key=value`, with `:`, `/` and \
         `@` inside of a part as `%3A`, `%2F` and `%40`"
    )]
    Protocols,
    /// The part between `//` and `/` cannot be read.
    #[error("the host part is wrong: {0}")]
    Host(&'static str),
    /// The port is no number, or too large.
    #[error(
        "the port must be a number from 0 to 65535; if the password holds `/`, `?`, `#` or `:`, write `%2F`, `%3F`, \
         `%23` or `%3A`"
    )]
    Port,
    /// The text begins with `{` but is no JSON.
    #[error("the JSON cannot be read: {0}")]
    Json(String),
    /// The JSON is no object.
    #[error("the JSON is {0}; write an object with the fields of a connection")]
    NotAnObject(&'static str),
    /// A field that a connection does not have.
    #[error("a connection has no field `{0}`; it has {FIELDS}")]
    UnknownField(String),
    /// A field with a value of another type.
    #[error("the field `{0}` must be a text")]
    NotText(String),
    /// A URI beside the fields that it stands for.
    #[error("`uri` cannot stand beside other fields; leave them out")]
    UriAndFields,
    /// The id is empty, too long, or has characters that an id cannot have.
    #[error(
        "`{0}` is no id of a connection; use letters and digits of ASCII and `_ # ! ( ) - . : / \\`, at most \
         {MAX_CONN_ID} characters"
    )]
    BadId(String),
    /// A connection of another type than a task needs.
    #[error("the connection `{conn_id}` is of type `{found}`; a connection of type `{wanted}` is needed")]
    WrongType {
        /// Its id.
        conn_id: String,
        /// Its type.
        found: String,
        /// The types that fit.
        wanted: String,
    },
    /// A field that a task needs is empty.
    #[error("the connection `{conn_id}` has no {field}")]
    Lacks {
        /// Its id.
        conn_id: String,
        /// The field.
        field: &'static str,
    },
}

const FIELDS: &str = "conn_type, description, host, login, password, schema, port, extra, uri";

/// How to reach a system outside. See [`Connection::from_uri`] and [`Connection::new`].
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Connection {
    /// Its name; empty for one that was only read from a text.
    pub conn_id: String,
    /// What it leads to: `postgres`, `http`, …
    pub conn_type: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// The host; with a protocol if it was written `type://protocol://host`.
    pub host: Option<String>,
    /// The user.
    pub login: Option<String>,
    /// The password; never empty.
    pub password: Option<Secret>,
    /// The database, the bucket, the path: whatever stands behind the host.
    pub schema: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// Everything else, as JSON text.
    pub extra: Option<Secret>,
}

impl Connection {
    /// A connection of a type, to be filled in.
    ///
    /// ```
    /// use airflow_core::connection::Connection;
    ///
    /// let conn = Connection::new("warehouse", "postgres").with_host("db").with_port(5432).with_password("p@ss");
    /// assert_eq!(conn.to_uri(), "postgres://:p%40ss@db:5432");
    /// // Secrets are not shown.
    /// assert!(!format!("{conn:?}").contains("p@ss"));
    /// ```
    pub fn new(conn_id: impl Into<String>, conn_type: impl Into<String>) -> Self {
        Self { conn_id: conn_id.into(), conn_type: Some(conn_type.into()), ..Self::default() }
    }

    /// Reads a URI, or JSON if the text begins with `{`: the forms of `AIRFLOW_CONN_…`.
    ///
    /// # Errors
    ///
    /// [`ConnectionError`].
    pub fn from_text(conn_id: impl Into<String>, text: &str) -> Result<Self, ConnectionError> {
        let text = text.trim();
        if text.starts_with('{') { Self::from_json(conn_id, text) } else { Self::from_uri(conn_id, text) }
    }

    /// The host.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::Lacks`] if it is empty.
    pub fn need_host(&self) -> Result<&str, ConnectionError> {
        self.host.as_deref().filter(|host| !host.is_empty()).ok_or_else(|| self.lacks("host"))
    }

    /// The password.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::Lacks`] if there is none.
    pub fn need_password(&self) -> Result<&Secret, ConnectionError> {
        self.password.as_ref().ok_or_else(|| self.lacks("password"))
    }

    fn lacks(&self, field: &'static str) -> ConnectionError {
        ConnectionError::Lacks { conn_id: self.conn_id.clone(), field }
    }

    /// The same with a host.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// The same with a user.
    #[must_use]
    pub fn with_login(mut self, login: impl Into<String>) -> Self {
        self.login = Some(login.into());
        self
    }

    /// The same with a password; an empty one is none.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into()).filter(|text| !text.is_empty()).map(Secret::new);
        self
    }

    /// The same with a schema.
    #[must_use]
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// The same with a port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The same with an extra as JSON text.
    #[must_use]
    pub fn with_extra(mut self, extra: impl Into<String>) -> Self {
        self.extra = Some(Secret::new(extra.into()));
        self
    }

    /// The same with an extra, written as Python writes JSON.
    #[must_use]
    pub fn with_extra_json(self, extra: &Value) -> Self {
        self.with_extra(json::dumps(extra))
    }

    /// The same with a description.
    #[must_use]
    pub fn with_description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// The extra as JSON; an empty object if there is none or it is no JSON.
    pub fn extra_json(&self) -> Value {
        let text = self.extra.as_ref().map_or("", |extra| extra.expose());
        serde_json::from_str(text).unwrap_or_else(|_| Value::Object(serde_json::Map::default()))
    }

    /// The extra as a type of your own.
    ///
    /// ```
    /// use airflow_core::connection::Connection;
    /// use airflow_core::secret::Secret;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Extra {
    ///     timeout: u32,
    ///     token: Secret,
    /// }
    ///
    /// let conn = Connection::from_text("api", r#"{"conn_type": "http", "extra": {"timeout": 5, "token": "t0"}}"#)?;
    /// let extra: Extra = conn.extra_as()?;
    /// assert_eq!((extra.timeout, extra.token.expose().as_str()), (5, "t0"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What serde says of an extra that does not fit.
    pub fn extra_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_value(self.extra_json())
    }

    /// Whether `conn_id` can be the id of a connection.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::BadId`].
    pub fn check_id(conn_id: &str) -> Result<(), ConnectionError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "_#!()-.:/\\".contains(c);
        if conn_id.is_empty() || conn_id.chars().count() > MAX_CONN_ID || !conn_id.chars().all(fits) {
            return Err(ConnectionError::BadId(conn_id.chars().take(MAX_CONN_ID).collect()));
        }
        Ok(())
    }

    /// The variable of the environment that holds a connection: `AIRFLOW_CONN_` and the id in upper case.
    pub fn env_name(conn_id: &str) -> String {
        format!("AIRFLOW_CONN_{}", conn_id.to_uppercase())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("conn_id", &self.conn_id)
            .field("conn_type", &self.conn_type)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("schema", &self.schema)
            .field("login", &self.login)
            .field("password", &self.password.as_ref().map(|_| HIDDEN))
            .field("extra", &self.extra.as_ref().map(|_| HIDDEN))
            .finish_non_exhaustive()
    }
}

/// The type of a connection as it is stored: `postgresql` is `postgres`, `-` is `_`.
fn normalized_type(conn_type: &str) -> String {
    if conn_type == "postgresql" { "postgres".to_owned() } else { conn_type.replace('-', "_") }
}
