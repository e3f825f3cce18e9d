//! Connections as URIs, as JSON and in the environment.

use airflow_core::connection::{Connection, ConnectionError};
use airflow_core::secret::Secret;
use airflow_core::secrets::{EnvironmentSecrets, SecretsBackend as _};
use serde_json::{Value, json};

use super::engine::block_on;
use super::report::{field, same};

pub(crate) fn check(case: &Value) -> Result<(), String> {
    let expected = &case["expected"];
    match field(case, "group") {
        "uri_to_fields" => parsed(expected, Connection::from_uri("c", field(case, "uri"))),
        "json_to_fields" => parsed(expected, Connection::from_json("c", field(case, "json"))),
        "environment_variable" => environment(case),
        "fields_to_uri" => to_uri(case),
        "fields_to_json" => match of_fields(&case["fields"]) {
            Ok(conn) => same(&expected["json"], &conn.to_json()),
            Err(error) => raised(expected, &error),
        },
        "conn_id" => {
            let id = field(case, "conn_id");
            same(&expected["conn_id"].as_str(), &Connection::check_id(id).ok().map(|()| id))
        }
        "extra_dejson" => {
            let conn = Connection::new("c", "x").with_extra(case["extra"].as_str().unwrap_or_default());
            same(&expected["extra_dejson"], &conn.extra_json())
        }
        other => Err(format!("no group `{other}`")),
    }
}

fn fields(conn: &Connection) -> Value {
    json!({
        "conn_type": conn.conn_type,
        "host": conn.host,
        "login": conn.login,
        "password": conn.password.as_ref().map(Secret::expose),
        "schema": conn.schema,
        "port": conn.port,
        "extra": conn.extra.as_ref().map(Secret::expose),
    })
}

fn parsed(expected: &Value, result: Result<Connection, ConnectionError>) -> Result<(), String> {
    match result {
        Ok(conn) => same(expected, &fields(&conn)),
        Err(error) => raised(expected, &error),
    }
}

/// The Python exception that stands for an error of ours.
fn raised(expected: &Value, error: &ConnectionError) -> Result<(), String> {
    let class = match error {
        ConnectionError::Protocols | ConnectionError::UriAndFields => "AirflowException",
        ConnectionError::Host(_) | ConnectionError::Port => "ValueError",
        ConnectionError::Json(_) => "JSONDecodeError",
        ConnectionError::NotAnObject("a list")
        | ConnectionError::UnknownField(_)
        | ConnectionError::NotText(_) => "TypeError",
        ConnectionError::NotAnObject(_) => "AttributeError",
        other => return same(&expected["raises"], &json!(other.to_string())),
    };
    same(&expected["raises"], &json!(class))
}

/// A connection of these fields, called `c`.
pub(crate) fn of_fields(fields: &Value) -> Result<Connection, ConnectionError> {
    let text = |name: &str| fields[name].as_str().map(str::to_owned);
    let mut conn = Connection {
        conn_id: "c".into(),
        conn_type: text("conn_type"),
        description: text("description"),
        host: text("host"),
        login: text("login"),
        schema: text("schema"),
        ..Connection::default()
    }
    .with_password(text("password").unwrap_or_default());
    if let Some(port) = fields["port"].as_u64() {
        conn.port = Some(u16::try_from(port).map_err(|_| ConnectionError::Port)?);
    }
    Ok(match &fields["extra"] {
        Value::Null => conn,
        Value::String(extra) => conn.with_extra(extra),
        extra => conn.with_extra_json(extra),
    })
}

fn to_uri(case: &Value) -> Result<(), String> {
    let expected = &case["expected"];
    let conn = match of_fields(&case["fields"]) {
        Ok(conn) => conn,
        Err(error) => return raised(expected, &error),
    };
    let uri = conn.to_uri();
    same(&expected["uri"].as_str(), &Some(uri.as_str()))?;
    parsed(&expected["parsed_back"], Connection::from_uri("c", &uri))
}

/// The variable goes through the secrets backend that reads the environment.
fn environment(case: &Value) -> Result<(), String> {
    let is_variable = |name: &&String| name.starts_with("AIRFLOW_CONN_");
    let variables = case.as_object().expect("an object");
    let name = variables.keys().find(is_variable).expect("a variable");
    let secrets = EnvironmentSecrets::of([(name.clone(), field(case, name).to_owned())]);
    let found = block_on(secrets.get_connection(field(case, "conn_id")));
    match found {
        Ok(Some(conn)) => same(&case["expected"], &fields(&conn)),
        Ok(None) => same(&case["expected"], &Value::Null),
        Err(error) => match error.downcast_ref::<ConnectionError>() {
            Some(error) => raised(&case["expected"], error),
            None => same(&case["expected"], &json!(error.to_string())),
        },
    }
}
