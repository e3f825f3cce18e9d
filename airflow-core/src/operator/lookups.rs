//! Variables and connections for a task that runs.

use std::any::TypeId;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::connection::{Conn, Connection, ConnectionKind};

use super::Result;
use super::context::TaskContext;
use super::error::TaskError;

impl TaskContext {
    /// Reads a variable; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn variable(&self, key: &str) -> Result<Option<String>> {
        self.services().variable(key).await.map_err(TaskError::Error)
    }

    /// Reads a variable as a type: text as it is, everything else as JSON.
    ///
    /// ```
    /// use airflow_core::operator::{Result, TaskContext};
    ///
    /// async fn notify(cx: &TaskContext) -> Result<()> {
    ///     let limit: u32 = cx.var("order_limit").await?;
    ///     let on_call: Vec<String> = cx.var("on_call").await?; // ["ada", "bob"]
    ///     # let _ = (limit, on_call);
    ///     Ok(())
    /// }
    /// # let _ = notify;
    /// ```
    ///
    /// # Errors
    ///
    /// If there is no such variable, it is no `T`, or it cannot be read.
    pub async fn var<T: DeserializeOwned + 'static>(&self, key: &str) -> Result<T> {
        let text = self.variable(key).await?.ok_or_else(|| {
            let name = key.to_uppercase();
            failure(format!(
                "there is no variable `{key}`; create it with `variables set {key} ..`, or set AIRFLOW_VAR_{name}"
            ))
        })?;
        decode_variable(&text).map_err(|error| {
            let wanted = std::any::type_name::<T>();
            failure(format!("the variable `{key}` cannot be read as `{wanted}`: {error}"))
        })
    }

    /// Reads a connection. Its password and what its extra holds under sensitive names are hidden in logs.
    ///
    /// ```
    /// use airflow_core::operator::{Result, TaskContext};
    ///
    /// async fn load(cx: &TaskContext) -> Result<String> {
    ///     let warehouse = cx.connection("warehouse").await?;
    ///     Ok(warehouse.host.clone().unwrap_or_default())
    /// }
    /// # let _ = load;
    /// ```
    ///
    /// # Errors
    ///
    /// If there is no such connection, or it cannot be read.
    pub async fn connection(&self, conn_id: &str) -> Result<Connection> {
        let found = self.services().connection(conn_id).await.map_err(TaskError::Error)?;
        found.ok_or_else(|| no_connection(conn_id))
    }

    /// Reads a connection as a kind of your own. See [`ConnectionKind`].
    ///
    /// # Errors
    ///
    /// As [`connection`](Self::connection); if the connection is of another type or lacks something.
    pub async fn conn<T: ConnectionKind>(&self, conn_id: &str) -> Result<Conn<T>> {
        Conn::new(self.connection(conn_id).await?).map_err(|error| TaskError::Error(Box::new(error)))
    }

    /// Hides a text in logs, errors and rendered fields from now on, in all the forms it may have there.
    pub fn mask_secret(&self, secret: &str) {
        self.services().mask_secret(secret);
    }

    /// Writes a variable.
    ///
    /// # Errors
    ///
    /// If the store cannot be written.
    pub async fn set_variable(&self, key: &str, value: &str) -> Result<()> {
        self.services().set_variable(key, value).await.map_err(TaskError::Error)
    }
}

/// That there is no such connection, and the cure.
pub(crate) fn no_connection(conn_id: &str) -> TaskError {
    let name = Connection::env_name(conn_id);
    failure(format!(
        "there is no connection `{conn_id}`; create it with `connections add {conn_id} ..`, or set {name}"
    ))
}

/// An error that a later try may not see any more.
fn failure(text: String) -> TaskError {
    TaskError::Error(text.into())
}

/// Text stays text; everything else is JSON, or else a text that serde reads, such as a date.
fn decode_variable<T: DeserializeOwned + 'static>(text: &str) -> Result<T, serde_json::Error> {
    let as_text = || T::deserialize(Value::from(text));
    if TypeId::of::<T>() == TypeId::of::<String>() {
        return as_text();
    }
    serde_json::from_str(text).or_else(|error| as_text().map_err(|_| error))
}
