//! How to reach a PostgreSQL database.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::store::server::{Core, Link, Pool, PoolSettings, Postgres, ServerStore, fits, unreachable};
use crate::store::sql::errors::STATEMENT_DEADLINE;
use crate::store::sql::text::{Dialect, Kind};
use crate::store::{StoreError, StoreResult};

use super::function::PLANNING;

/// The schema of our tables, unless another one is named.
const SCHEMA: &str = "airflow";

/// How long the server lets a transaction of ours stand still: a process that was cut off must not keep rows locked.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(10);

/// How to reach a PostgreSQL database.
///
/// ```
/// use airflow_core::store::PostgresOptions;
///
/// # fn main() -> Result<(), airflow_core::store::StoreError> {
/// let options = PostgresOptions::new("postgres://me:secret@db.example.org/work?sslmode=verify-full")?
///     .schema("airflow_production")
///     .pool(|pool| pool.max_connections = 20);
/// assert_eq!(options.place(), "postgres://db.example.org:5432/work, schema airflow_production");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresOptions {
    connect: PgConnectOptions,
    schema: String,
    pool: PoolSettings,
}

impl PostgresOptions {
    /// The usual options for an address such as `postgres://user:password@host:5432/database`. What the address leaves
    /// out comes from the variables `PGHOST`, `PGUSER`, `PGPASSWORD` and so on, as with other programs.
    ///
    /// TLS is part of the address: `sslmode=verify-full` asks for it and looks at the name in the certificate;
    /// `sslrootcert=ca.pem` names a certificate authority of one's own, `sslcert=` and `sslkey=` a certificate of the
    /// client.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreachable`] if the address cannot be read.
    pub fn new(url: &str) -> StoreResult<Self> {
        let connect = PgConnectOptions::from_str(url).map_err(|error| StoreError::Unreachable {
            place: crate::store::server::without_secrets(url),
            why: format!("{error}; write `postgres://user:password@host:5432/database`"),
        })?;
        Ok(Self::from_connect_options(connect))
    }

    /// The same for options of the driver.
    pub fn from_connect_options(connect: PgConnectOptions) -> Self {
        Self { connect, schema: SCHEMA.to_owned(), pool: PoolSettings::default() }
    }

    /// Keeps the tables in another schema; `airflow` unless set. It is made if it is missing.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Changes how connections are kept.
    #[must_use]
    pub fn pool(mut self, change: impl FnOnce(&mut PoolSettings)) -> Self {
        change(&mut self.pool);
        self
    }

    /// Where the tables are, without secrets.
    pub fn place(&self) -> String {
        place(&self.connect, &self.schema)
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("place", &self.place())
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

fn place(connect: &PgConnectOptions, schema: &str) -> String {
    let host = match connect.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", connect.get_host(), connect.get_port()),
    };
    let database = connect.get_database().unwrap_or_else(|| connect.get_username());
    format!("postgres://{host}/{database}, schema {schema}")
}

/// To this machine nothing is encrypted unless the address asks for it. The driver sends what is longer than 16 KiB in
/// several writes when it is encrypted, and leaves Nagle's algorithm on, so the last of them would wait 40 ms for the
/// system's delayed acknowledgement.
fn plain_on_this_machine(connect: PgConnectOptions) -> PgConnectOptions {
    let is_here = ["localhost", "127.0.0.1", "::1", "[::1]"].contains(&connect.get_host());
    match connect.get_ssl_mode() {
        PgSslMode::Prefer if is_here => connect.ssl_mode(PgSslMode::Disable),
        _ => connect,
    }
}

/// Settings of a session: no statement hangs, no transaction stands still, and rows are found by their keys; see
/// [`PLANNING`](super::function::PLANNING).
fn settings(connect: PgConnectOptions) -> PgConnectOptions {
    let millis = |time: Duration| time.as_millis().to_string();
    plain_on_this_machine(connect)
        .application_name("airflow")
        .options([
            ("statement_timeout", millis(STATEMENT_DEADLINE)),
            ("lock_timeout", millis(STATEMENT_DEADLINE)),
            ("idle_in_transaction_session_timeout", millis(IDLE_IN_TRANSACTION)),
        ])
        .options(PLANNING)
        .disable_statement_logging()
}

/// Keeps everything in a schema of a PostgreSQL database, version 13 or newer. Clones share the connections.
///
/// ```no_run
/// use airflow_core::store::{PostgresStore, Store};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = PostgresStore::connect("postgres://me:secret@localhost/work").await?;
/// store.migrate().await?;
/// # Ok(()) }
/// ```
pub type PostgresStore = ServerStore<Postgres>;

impl PostgresStore {
    /// Connects to a database; see [`PostgresOptions::new`] for the address. The tables come with
    /// [`Store::migrate`](crate::store::Store::migrate). Must be called inside a tokio runtime, which the store needs
    /// from then on.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreachable`]; [`StoreError::OldServer`].
    pub async fn connect(url: &str) -> StoreResult<Self> {
        Self::connect_with(PostgresOptions::new(url)?).await
    }

    /// Connects as the options say.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_with(options: PostgresOptions) -> StoreResult<Self> {
        let place = options.place();
        let connecting = options.pool.options().connect_with(settings(options.connect));
        let pool = connecting.await.map_err(|error| unreachable(&place, error))?;
        let store = Self::on(pool, &options.schema, place);
        let mut lease = store.core().lease().await?;
        fits(&mut lease.conn(&store.core().dialect)).await?;
        drop::<Link>(lease.clean());
        Ok(store)
    }

    /// Uses the connections of the host, and the schema `airflow` in its database. The host's own tables and migrations
    /// are not touched. Deadlines of statements then hold on this side of the connection only. Must be called inside a
    /// tokio runtime.
    pub fn from_pool(pool: sqlx::PgPool) -> Self {
        Self::from_pool_in_schema(pool, SCHEMA)
    }

    /// The same in another schema.
    pub fn from_pool_in_schema(pool: sqlx::PgPool, schema: &str) -> Self {
        let place = place(&pool.connect_options(), schema);
        Self::on(pool, schema, place)
    }

    fn on(pool: sqlx::PgPool, schema: &str, place: String) -> Self {
        let dialect = Dialect::new(Kind::Postgres, format!("{}.", super::quoted(schema)));
        Self::start(Core::new(Pool::Postgres(pool), dialect, place).in_schema(schema))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only what is said counts elsewhere and where something is said; to this machine nothing is encrypted.
    #[test]
    fn nothing_is_encrypted_to_this_machine_unless_asked_for() {
        let mode = |url: &str| format!("{:?}", plain_on_this_machine(url.parse().unwrap()).get_ssl_mode());
        assert_eq!(mode("postgres://me@localhost/work"), "Disable");
        assert_eq!(mode("postgres://me@[::1]/work"), "Disable");
        assert_eq!(mode("postgres://me@127.0.0.1/work?sslmode=require"), "Require");
        assert_eq!(mode("postgres://me@db.example.com/work"), "Prefer");
    }
}
