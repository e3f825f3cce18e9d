//! Connections as types: [`Conn`].

use std::ops::Deref;

use super::{Connection, ConnectionError};

/// A kind of connection as a type: what it needs, read out of a [`Connection`] once.
///
/// ```
/// use airflow_core::connection::{Conn, Connection, ConnectionError, ConnectionKind};
/// use airflow_core::secret::Secret;
///
/// struct Slack {
///     url: String,
///     token: Secret,
/// }
///
/// impl ConnectionKind for Slack {
///     const TYPES: &'static [&'static str] = &["slack", "http"];
///
///     fn read(conn: &Connection) -> Result<Self, ConnectionError> {
///         Ok(Slack { url: format!("https://{}", conn.need_host()?), token: conn.need_password()?.clone() })
///     }
/// }
///
/// let slack: Conn<Slack> = Conn::new(Connection::from_text("team", "slack://:t0ken@chat.example.org")?)?;
/// assert_eq!((slack.url.as_str(), slack.token.expose().as_str()), ("https://chat.example.org", "t0ken"));
///
/// let wrong = Conn::<Slack>::new(Connection::new("db", "postgres"));
/// assert!(wrong.err().unwrap().to_string().contains("`db` is of type `postgres`"));
/// # Ok::<(), ConnectionError>(())
/// ```
///
/// In a task: `let slack = cx.conn::<Slack>("team").await?;`, or as a parameter of the function: `team: &Conn<Slack>` is
/// the connection `team`, `#[conn("team")] slack: &Conn<Slack>` says the id.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no kind of connection",
    label = "`Conn<..>` needs a type that says how a connection is read",
    note = "implement `ConnectionKind` for it, or take the connection as it is: `cx.connection(\"id\").await?`"
)]
pub trait ConnectionKind: Sized + Send + 'static {
    /// The types of connections that fit; any if empty.
    const TYPES: &'static [&'static str];

    /// Reads what it needs.
    ///
    /// # Errors
    ///
    /// [`ConnectionError`] if something is missing or wrong.
    fn read(connection: &Connection) -> Result<Self, ConnectionError>;
}

/// A connection of a kind. It is used like the kind itself.
#[derive(Debug, Clone)]
pub struct Conn<T> {
    raw: Connection,
    kind: T,
}

impl<T: ConnectionKind> Conn<T> {
    /// Reads a connection as this kind.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::WrongType`], or what the kind says.
    pub fn new(connection: Connection) -> Result<Self, ConnectionError> {
        let conn_type = connection.conn_type.as_deref().unwrap_or_default();
        if !T::TYPES.is_empty() && !T::TYPES.contains(&conn_type) {
            return Err(ConnectionError::WrongType {
                conn_id: connection.conn_id.clone(),
                found: conn_type.to_owned(),
                wanted: T::TYPES.join("`, `"),
            });
        }
        let kind = T::read(&connection)?;
        Ok(Self { raw: connection, kind })
    }
}

impl<T> Conn<T> {
    /// The connection that it was read from.
    pub fn raw(&self) -> &Connection {
        &self.raw
    }

    /// The kind itself.
    pub fn into_inner(self) -> T {
        self.kind
    }
}

impl<T> Deref for Conn<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.kind
    }
}
