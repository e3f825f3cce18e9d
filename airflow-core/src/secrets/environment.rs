//! Connections and variables in the environment of the process.

use std::collections::BTreeMap;
use std::fmt;

use super::SecretsBackend;
use crate::connection::Connection;
use crate::operator::BoxError;

const VARIABLE: &str = "AIRFLOW_VAR_";

/// Connections in `AIRFLOW_CONN_<ID>` and variables in `AIRFLOW_VAR_<KEY>`, names in upper case.
#[derive(Clone, Default)]
pub struct EnvironmentSecrets(BTreeMap<String, String>);

impl fmt::Debug for EnvironmentSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("environment")
    }
}

impl EnvironmentSecrets {
    /// The environment of this process as it is now.
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::of(std::env::vars_os().filter_map(text))
    }

    /// An environment of one's own.
    pub fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours =
            |(name, _): &(String, String)| name.starts_with("AIRFLOW_CONN_") || name.starts_with(VARIABLE);
        Self(variables.into_iter().filter(ours).collect())
    }

    /// The variable of the environment that a key is looked for in.
    pub fn variable_name(key: &str) -> String {
        format!("{VARIABLE}{}", key.to_uppercase())
    }

    /// Whether it holds a variable or a connection, by the name it would have in the environment.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The keys of all variables, in lower case: which case they had is not known.
    pub fn variable_keys(&self) -> impl Iterator<Item = String> {
        self.0.keys().filter_map(|name| name.strip_prefix(VARIABLE)).map(str::to_lowercase)
    }

    /// The ids of all connections, in lower case: which case they had is not known.
    pub fn conn_ids(&self) -> impl Iterator<Item = String> {
        self.0.keys().filter_map(|name| name.strip_prefix("AIRFLOW_CONN_")).map(str::to_lowercase)
    }
}

impl SecretsBackend for EnvironmentSecrets {
    async fn get_connection(&self, conn_id: &str) -> Result<Option<Connection>, BoxError> {
        let name = Connection::env_name(conn_id);
        let Some(text) = self.0.get(&name).filter(|text| !text.is_empty()) else { return Ok(None) };
        Ok(Some(Connection::from_text(conn_id, text)?))
    }

    async fn get_variable(&self, key: &str) -> Result<Option<String>, BoxError> {
        Ok(self.0.get(&Self::variable_name(key)).cloned())
    }
}
