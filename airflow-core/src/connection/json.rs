//! A connection as JSON, read and written the way Airflow's Python does it.

use std::io;

use serde::Serialize as _;
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Map, Value};

use super::{Connection, ConnectionError, normalized_type};

impl Connection {
    /// Reads an object with the fields of a connection. `extra` may be a text or JSON itself; `port` may be a text.
    ///
    /// ```
    /// use airflow_core::connection::Connection;
    ///
    /// let conn = Connection::from_json("api", r#"{"conn_type": "http", "host": "h", "port": "80", "extra": {"a": 1}}"#)?;
    /// assert_eq!((conn.port, conn.to_uri()), (Some(80), "http://h:80/?__extra__=%7B%22a%22%3A+1%7D".to_owned()));
    /// # Ok::<(), airflow_core::connection::ConnectionError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConnectionError`] for what is no JSON, no object, or has other fields.
    pub fn from_json(conn_id: impl Into<String>, text: &str) -> Result<Self, ConnectionError> {
        let json = serde_json::from_str(text).map_err(|error| ConnectionError::Json(error.to_string()))?;
        Self::from_value(conn_id, json)
    }

    /// As [`from_json`](Self::from_json), of JSON that has been read.
    ///
    /// # Errors
    ///
    /// As [`from_json`](Self::from_json).
    pub fn from_value(conn_id: impl Into<String>, json: Value) -> Result<Self, ConnectionError> {
        let mut fields = match json {
            Value::Object(fields) => fields,
            Value::Array(_) => return Err(ConnectionError::NotAnObject("a list")),
            Value::Null => return Err(ConnectionError::NotAnObject("null")),
            Value::String(_) => return Err(ConnectionError::NotAnObject("a text")),
            Value::Bool(_) | Value::Number(_) => return Err(ConnectionError::NotAnObject("a number")),
        };
        let extra = fields.shift_remove("extra").filter(is_something);
        let conn_type = fields.shift_remove("conn_type").filter(is_something);
        let port = fields.shift_remove("port").filter(is_something).as_ref().map(port_of).transpose()?;
        let mut take = |name: &str| match fields.shift_remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ConnectionError::NotText(name.to_owned())),
        };
        let uri = take("uri")?.filter(|uri| !uri.is_empty());
        let mut connection = Self {
            conn_id: conn_id.into(),
            description: take("description")?,
            host: take("host")?,
            login: take("login")?,
            schema: take("schema")?,
            ..Self::default()
        }
        .with_password(take("password")?.unwrap_or_default());
        if let Some(unknown) = fields.keys().next() {
            return Err(ConnectionError::UnknownField(unknown.clone()));
        }
        connection.conn_type = match conn_type {
            Some(Value::String(text)) => Some(normalized_type(&text)),
            None => None,
            Some(_) => return Err(ConnectionError::NotText("conn_type".to_owned())),
        };
        connection.port = port;
        let connection = match extra {
            Some(Value::String(text)) => connection.with_extra(text),
            Some(json) => connection.with_extra_json(&json),
            None => connection,
        };
        match uri {
            Some(uri) => from_uri_field(connection, &uri),
            None => Ok(connection),
        }
    }

    /// The fields that are set, without the id. They are not hidden: the password is among them.
    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        put("conn_type", self.conn_type.clone().map(Value::from));
        put("description", self.description.clone().map(Value::from));
        put("host", self.host.clone().map(Value::from));
        put("login", self.login.clone().map(Value::from));
        put("password", self.password.as_ref().map(|password| password.expose().clone().into()));
        put("schema", self.schema.clone().map(Value::from));
        put("port", self.port.map(Value::from));
        put("extra", Some(self.extra_json()).filter(is_something));
        Value::Object(fields)
    }
}

fn from_uri_field(fields: Connection, uri: &str) -> Result<Connection, ConnectionError> {
    let filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let texts = [&fields.conn_type, &fields.host, &fields.login, &fields.schema];
    let others = fields.password.is_some() || fields.port.is_some_and(|p| p != 0) || fields.extra.is_some();
    if others || texts.into_iter().any(filled) {
        return Err(ConnectionError::UriAndFields);
    }
    let connection = Connection::from_uri(fields.conn_id, uri)?;
    Ok(Connection { description: fields.description, ..connection })
}

/// A port as a number or a text, the way Python's `int` reads it: fractions are cut off.
fn port_of(port: &Value) -> Result<u16, ConnectionError> {
    let number = match port {
        Value::Number(number) => match number.as_f64().map(f64::trunc) {
            Some(number) if (0.0..=65535.0).contains(&number) => format!("{}", number.abs()),
            _ => return Err(ConnectionError::Port),
        },
        Value::Bool(yes) => u8::from(*yes).to_string(),
        Value::String(text) => crate::config::python_int(text).ok_or(ConnectionError::Port)?,
        _ => return Err(ConnectionError::NotText("port".to_owned())),
    };
    number.parse().map_err(|_| ConnectionError::Port)
}

/// Whether Python takes a value for true.
fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// Writes JSON as Python's `json.dumps` does: a space behind `,` and `:`, and nothing but ASCII.
pub(super) fn dumps(value: &Value) -> String {
    let mut text = Vec::new();
    // Writing a value into memory cannot fail.
    let _ = value.serialize(&mut Serializer::with_formatter(&mut text, Python));
    String::from_utf8(text).unwrap_or_default()
}

struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        for c in text.chars() {
            if c.is_ascii() && c != '\u{7f}' {
                writer.write_all(&[c as u8])?;
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}
