//! Servers for tests: where they are, and a private place on them.
//!
//! A server is looked for in this order: the variable of the environment that names it ([`Server::variable`]), its usual
//! port on this machine, its programs, which are then started for this test process alone and end with it (at once, if the
//! variable says `start`). A test asks
//! for a [`TestDatabase`], which is its own and is dropped with it, so tests run side by side.
//!
//! Without a server a test is skipped, and says so; with `CI=true` it fails.

mod start;

use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::OnceLock;
use std::time::Duration;

use sqlx::Connection as _;
use uuid::Uuid;

/// How long a port may take to answer.
const PROBE: Duration = Duration::from_secs(2);

/// A kind of server that tests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB.
    Mysql,
}

impl Server {
    /// The variable of the environment with its address.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Postgres => "AIRFLOW_TEST_POSTGRES",
            Self::Mysql => "AIRFLOW_TEST_MYSQL",
        }
    }

    fn usual(self) -> (&'static str, &'static str) {
        match self {
            Self::Postgres => ("127.0.0.1:5432", "postgres://postgres@127.0.0.1:5432/postgres"),
            Self::Mysql => ("127.0.0.1:3306", "mysql://root@127.0.0.1:3306/mysql"),
        }
    }

    /// The address of a database on a server that may make others; `None` if there is no such server.
    ///
    /// # Panics
    ///
    /// With `CI=true`, if there is none.
    pub fn address(self) -> Option<&'static str> {
        static POSTGRES: OnceLock<Option<String>> = OnceLock::new();
        static MYSQL: OnceLock<Option<String>> = OnceLock::new();
        let known = match self {
            Self::Postgres => &POSTGRES,
            Self::Mysql => &MYSQL,
        };
        let address = known.get_or_init(|| self.find()).as_deref();
        if address.is_none() {
            let missing = format!("there is no {self:?} server: set {} to its address", self.variable());
            assert!(std::env::var_os("CI").is_none(), "{missing}");
            warn(&missing);
        }
        address
    }

    fn find(self) -> Option<String> {
        let named = std::env::var(self.variable()).ok();
        let (port, address) = self.usual();
        match named.as_deref() {
            Some("start") => {}
            Some(_) => return named,
            None if answers(port) => return Some(address.to_owned()),
            None => {}
        }
        match self {
            Self::Postgres => start::postgres(),
            Self::Mysql => start::mysql(),
        }
    }
}

#[expect(clippy::print_stderr, reason = "whoever runs the tests is to see that some did not run")]
fn warn(missing: &str) {
    eprintln!("\n*** SKIPPED: {missing} ***\n");
}

/// Whether somebody listens there.
fn answers(address: &str) -> bool {
    let Ok(mut addresses) = address.to_socket_addrs() else { return false };
    addresses.any(|address| TcpStream::connect_timeout(&address, PROBE).is_ok())
}

/// A database of a test's own. It is dropped with this.
#[derive(Debug)]
pub struct TestDatabase {
    server: Server,
    admin: String,
    name: String,
}

impl TestDatabase {
    /// Makes an empty database on a server, if there is one.
    ///
    /// # Panics
    ///
    /// If there is one and it refuses.
    pub async fn on(server: Server) -> Option<Self> {
        let address =
            tokio::task::spawn_blocking(move || server.address()).await.expect("it does not panic")?;
        let name = format!("af_test_{}", Uuid::new_v4().simple());
        let database = Self { server, admin: address.to_owned(), name };
        run(server, &database.admin, &format!("CREATE DATABASE {}", database.name)).await;
        if server == Server::Postgres {
            // What a test has written need not survive the machine.
            let sql = format!("ALTER DATABASE {} SET synchronous_commit = off", database.name);
            run(server, &database.admin, &sql).await;
        }
        Some(database)
    }

    /// Its address.
    pub fn url(&self) -> String {
        let (head, options) = self.admin.split_once('?').unwrap_or((&self.admin, ""));
        let host = head.rsplit_once('/').map_or(head, |(host, _)| host);
        let separator = if options.is_empty() { "" } else { "?" };
        format!("{host}/{}{separator}{options}", self.name)
    }

    /// Its address by another host and port, for one who stands between: without TLS, so that it can read along.
    pub fn url_by(&self, host: &str) -> String {
        let url = self.url();
        let (scheme, rest) = url.split_once("://").expect("an address has a scheme");
        let (authority, path) = rest.split_once('/').expect("an address has a path");
        let user = authority.rsplit_once('@').map_or(String::new(), |(user, _)| format!("{user}@"));
        let path = path.split('?').next().unwrap_or_default();
        let plain = match self.server {
            Server::Postgres => "sslmode=disable",
            Server::Mysql => "ssl-mode=DISABLED",
        };
        format!("{scheme}://{user}{host}/{path}?{plain}")
    }

    /// The host and port of the server.
    pub fn host(&self) -> String {
        let rest = self.admin.split_once("://").map_or("", |(_, rest)| rest);
        let authority = rest.split('/').next().unwrap_or_default();
        authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, admin) = (self.server, self.admin.clone());
        let force = if server == Server::Postgres { " WITH (FORCE)" } else { "" };
        let sql = format!("DROP DATABASE IF EXISTS {}{force}", self.name);
        // A runtime of its own: this one may be at its end.
        let dropping = std::thread::spawn(move || {
            if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
                runtime.block_on(run(server, &admin, &sql));
            }
        });
        dropping.join().ok();
    }
}

/// Runs a statement of ours on a connection of its own.
async fn run(server: Server, address: &str, sql: &str) {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    let done = match server {
        #[cfg(feature = "postgres")]
        Server::Postgres => match sqlx::PgConnection::connect(address).await {
            Ok(mut conn) => sqlx::raw_sql(sql).execute(&mut conn).await.map(|_| ()),
            Err(error) => Err(error),
        },
        #[cfg(feature = "mysql")]
        Server::Mysql => match sqlx::MySqlConnection::connect(address).await {
            Ok(mut conn) => sqlx::raw_sql(sql).execute(&mut conn).await.map(|_| ()),
            Err(error) => Err(error),
        },
        #[cfg(not(all(feature = "postgres", feature = "mysql")))]
        _ => panic!("the feature for {server:?} is off"),
    };
    done.unwrap_or_else(|error| panic!("{server:?} at {address}: {error}"));
}
