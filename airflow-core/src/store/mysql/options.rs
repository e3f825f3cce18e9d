//! How to reach a MySQL or MariaDB database.

use std::fmt;
use std::str::FromStr;

use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{ConnectOptions as _, Executor as _};

use crate::store::server::{Core, Link, Mysql, Pool, PoolSettings, ServerStore, fits, unreachable};
use crate::store::sql::text::{Dialect, Kind};
use crate::store::{StoreError, StoreResult};

/// Settings of a session: nothing is cut or guessed to fit, nothing stronger than what the statements are made for, no
/// wait for a lock that is longer than a statement may take, times in UTC. MariaDB ends a transaction that stands still: a
/// process that was frozen in the middle of one must not keep rows locked.
const SETTINGS: &str = "
    SET SESSION sql_mode = 'STRICT_ALL_TABLES,STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION',
        innodb_lock_wait_timeout = 4, time_zone = '+00:00' /*M!100300 , idle_transaction_timeout = 5 */;
    SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";

/// How to reach a MySQL (8.0.13 or newer) or MariaDB (10.6 or newer) database.
///
/// ```
/// use airflow_core::store::MysqlOptions;
///
/// # fn main() -> Result<(), airflow_core::store::StoreError> {
/// let options = MysqlOptions::new("mysql://me:secret@db.example.org/airflow?ssl-mode=VERIFY_IDENTITY")?
///     .pool(|pool| pool.max_connections = 20);
/// assert_eq!(options.place(), "mysql://db.example.org:3306/airflow");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MysqlOptions {
    connect: MySqlConnectOptions,
    pool: PoolSettings,
}

impl MysqlOptions {
    /// The usual options for an address such as `mysql://user:password@host:3306/database`. `mariadb://` is the same.
    ///
    /// TLS is part of the address: `ssl-mode=VERIFY_IDENTITY` asks for it and looks at the name in the certificate;
    /// `ssl-ca=ca.pem` names a certificate authority of one's own, `ssl-cert=` and `ssl-key=` a certificate of the client.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreachable`] if the address cannot be read or names no database.
    pub fn new(url: &str) -> StoreResult<Self> {
        let refused = |why: String| StoreError::Unreachable {
            place: crate::store::server::without_secrets(url),
            why: format!("{why}; write `mysql://user:password@host:3306/database`"),
        };
        let connect = MySqlConnectOptions::from_str(url).map_err(|error| refused(error.to_string()))?;
        if connect.get_database().is_none() {
            return Err(refused("no database is named".to_owned()));
        }
        Ok(Self::from_connect_options(connect))
    }

    /// The same for options of the driver.
    pub fn from_connect_options(connect: MySqlConnectOptions) -> Self {
        Self { connect, pool: PoolSettings::default() }
    }

    /// Changes how connections are kept.
    #[must_use]
    pub fn pool(mut self, change: impl FnOnce(&mut PoolSettings)) -> Self {
        change(&mut self.pool);
        self
    }

    /// Where the tables are, without secrets.
    pub fn place(&self) -> String {
        place(&self.connect)
    }
}

impl fmt::Debug for MysqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlOptions")
            .field("place", &self.place())
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

fn place(connect: &MySqlConnectOptions) -> String {
    let host = match connect.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", connect.get_host(), connect.get_port()),
    };
    format!("mysql://{host}/{}", connect.get_database().unwrap_or_default())
}

/// Keeps everything in a MySQL or MariaDB database, in tables whose names begin with `af_`. Clones share the
/// connections.
///
/// ```no_run
/// use airflow_core::store::{MysqlStore, Store};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MysqlStore::connect("mysql://me:secret@localhost/airflow").await?;
/// store.migrate().await?;
/// # Ok(()) }
/// ```
pub type MysqlStore = ServerStore<Mysql>;

impl MysqlStore {
    /// Connects to a database; see [`MysqlOptions::new`] for the address. The tables come with
    /// [`Store::migrate`](crate::store::Store::migrate). Must be called inside a tokio runtime, which the store needs
    /// from then on.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreachable`]; [`StoreError::OldServer`].
    pub async fn connect(url: &str) -> StoreResult<Self> {
        Self::connect_with(MysqlOptions::new(url)?).await
    }

    /// Connects as the options say.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_with(options: MysqlOptions) -> StoreResult<Self> {
        let place = options.place();
        let pool: MySqlPoolOptions = options.pool.options();
        let pool = pool.after_connect(|conn, _| {
            Box::pin(async { conn.execute(sqlx::raw_sql(SETTINGS)).await.map(|_| ()) })
        });
        let connect = options.connect.charset("utf8mb4").disable_statement_logging();
        let pool = pool.connect_with(connect).await.map_err(|error| unreachable(&place, error))?;
        let store = Self::on(pool, place);
        let mut lease = store.core().lease().await?;
        fits(&mut lease.conn(&store.core().dialect)).await?;
        drop::<Link>(lease.clean());
        Ok(store)
    }

    /// Uses the connections of the host, and tables whose names begin with `af_` in its database. The host's own tables
    /// and migrations are not touched. The sessions must be strict (`STRICT_ALL_TABLES` or `STRICT_TRANS_TABLES` in
    /// their `sql_mode`, which is the default of the servers). Must be called inside a tokio runtime.
    pub fn from_pool(pool: sqlx::MySqlPool) -> Self {
        let place = place(&pool.connect_options());
        Self::on(pool, place)
    }

    fn on(pool: sqlx::MySqlPool, place: String) -> Self {
        Self::start(Core::new(Pool::Mysql(pool), Dialect::new(Kind::Mysql, ""), place))
    }
}
