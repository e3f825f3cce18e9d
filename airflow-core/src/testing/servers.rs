//! Servers for tests: where they are, and a private place on them.
//!
//! A server is looked for in this order: the variable of the environment that names it ([`Server::variable`]), its usual
//! port on this machine, its programs, which are then started for this test process alone and end with it (at once, if the
//! variable says `start`). A test asks
//! for a [`TestDatabase`], which is its own and is dropped with it, so tests run side by side.
//!
//! Without a server a test is skipped, and says so; with `CI=true` it fails.

mod start;
mod tls;

use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sqlx::Connection as _;
use uuid::Uuid;

pub use tls::TlsServer;

/// How long a port may take to answer.
const PROBE: Duration = Duration::from_secs(2);

/// How long a server may take from its first answer to its first statement, and the pause between two looks.
const STARTUP: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(50);

/// What PostgreSQL says while it starts.
const STARTS: &str = "57P03";

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
        OwnServer::start(self, &[]).map(|server| server.address)
    }
}

/// A server that is started for this process alone, and can be ended and started again. It ends with the process.
#[derive(Debug)]
pub struct OwnServer {
    server: Server,
    started: start::Started,
    address: String,
}

impl OwnServer {
    /// Starts one with more settings on its command line, if its programs are installed.
    pub fn start(server: Server, settings: &[&str]) -> Option<Self> {
        Self::start_with(server, settings, &[])
    }

    /// The same with variables of its environment.
    pub fn start_with(server: Server, settings: &[&str], environment: &[(String, String)]) -> Option<Self> {
        let (mut started, user) = match server {
            Server::Postgres => (start::postgres(settings)?, "postgres://postgres"),
            Server::Mysql => (start::mysql(settings)?, "mysql://root"),
        };
        started.put_in(environment);
        started.start()?;
        let name = if server == Server::Postgres { "postgres" } else { "mysql" };
        let address = format!("{user}@127.0.0.1:{}/{name}", started.port());
        Some(Self { server, started, address })
    }

    /// The address of a database on it that may make others.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Makes a new database on it; says its address, for a user that may do everything in it and nothing beside.
    ///
    /// # Panics
    ///
    /// If the server refuses.
    pub async fn database(&self) -> String {
        let name = format!("af_test_{}", Uuid::new_v4().simple());
        self.run(&format!("CREATE DATABASE {name}")).await;
        let host = self.address.rsplit_once('/').map_or("", |(host, _)| host);
        if self.server == Server::Postgres {
            return format!("{host}/{name}");
        }
        // `root` may write even where writing is switched off.
        self.run(&format!("CREATE USER af_test; GRANT ALL ON {name}.* TO af_test")).await;
        format!("{}/{name}", host.replace("root@", "af_test@"))
    }

    /// Runs a statement on it, on a connection of its own.
    ///
    /// # Panics
    ///
    /// If the server refuses.
    pub async fn run(&self, sql: &str) {
        run(self.server, &self.address, sql).await;
    }

    /// Ends it at once, as a crash does: it says goodbye to nobody and finishes nothing. Says whether it is gone.
    pub fn crash(&self) -> bool {
        let signal = if self.server == Server::Postgres { "-QUIT" } else { "-KILL" };
        self.started.end(signal).is_some()
    }

    /// Starts it again, with all that was committed; says whether it answers.
    pub fn again(&self) -> bool {
        self.started.start().is_some()
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
    let until = Instant::now() + STARTUP;
    while let Err(error) = try_run(server, address, sql).await {
        // It answers before it is ready.
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        assert!(
            code.as_deref() == Some(STARTS) && Instant::now() < until,
            "{server:?} at {address}: {error}"
        );
        tokio::time::sleep(AGAIN).await;
    }
}

async fn try_run(server: Server, address: &str, sql: &str) -> Result<(), sqlx::Error> {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    match server {
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
    }
}
