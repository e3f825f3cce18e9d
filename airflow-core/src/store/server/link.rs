//! Pools and connections of either server.

use sqlx::pool::PoolConnection;

use crate::store::sql::Conn;
use crate::store::sql::errors::{failed, within};
use crate::store::sql::text::Dialect;
use crate::store::{StoreError, StoreResult};

/// The connections of a store.
#[derive(Debug, Clone)]
pub(in crate::store) enum Pool {
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgPool),
    #[cfg(feature = "mysql")]
    Mysql(sqlx::MySqlPool),
}

/// One of them, held.
#[derive(Debug)]
pub(in crate::store) enum Link {
    #[cfg(feature = "postgres")]
    Postgres(PoolConnection<sqlx::Postgres>),
    #[cfg(feature = "mysql")]
    Mysql(PoolConnection<sqlx::MySql>),
}

impl Pool {
    pub(super) async fn acquire(&self) -> Result<Link, sqlx::Error> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => pool.acquire().await.map(Link::Postgres),
            #[cfg(feature = "mysql")]
            Self::Mysql(pool) => pool.acquire().await.map(Link::Mysql),
        }
    }

    /// How many connections there may be.
    pub(super) fn size(&self) -> u32 {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => pool.options().get_max_connections(),
            #[cfg(feature = "mysql")]
            Self::Mysql(pool) => pool.options().get_max_connections(),
        }
    }
}

/// A connection that goes back to its pool only if it was said to be clean: one on which a statement was cut off, or a
/// transaction left open, is closed, and the server takes the transaction back.
#[derive(Debug)]
pub(in crate::store) struct Lease {
    link: Option<Link>,
    clean: bool,
}

impl Lease {
    pub(super) fn new(link: Link) -> Self {
        Self { link: Some(link), clean: false }
    }

    pub(in crate::store) fn conn<'a>(&'a mut self, dialect: &'a Dialect) -> Conn<'a> {
        match self.link.as_mut().expect("a lease has its link until it is dropped") {
            #[cfg(feature = "postgres")]
            Link::Postgres(conn) => Conn::postgres(conn, dialect),
            #[cfg(feature = "mysql")]
            Link::Mysql(conn) => Conn::mysql(conn, dialect),
        }
    }

    /// Runs fixed statements, without values.
    pub(in crate::store) async fn raw(
        &mut self,
        sql: &'static str,
        deadline: std::time::Duration,
    ) -> StoreResult<()> {
        match self.link.as_mut().expect("a lease has its link until it is dropped") {
            #[cfg(feature = "postgres")]
            Link::Postgres(conn) => {
                within(deadline, sqlx::raw_sql(sql).execute(&mut **conn)).await.map(|_| ())
            }
            #[cfg(feature = "mysql")]
            Link::Mysql(conn) => within(deadline, sqlx::raw_sql(sql).execute(&mut **conn)).await.map(|_| ()),
        }
    }

    /// The connection of the driver, if it is one to PostgreSQL.
    #[cfg(feature = "postgres")]
    pub(in crate::store) fn postgres(&mut self) -> Option<&mut sqlx::PgConnection> {
        match self.link.as_mut()? {
            Link::Postgres(conn) => Some(conn),
            #[cfg(feature = "mysql")]
            Link::Mysql(_) => None,
        }
    }

    /// The connection of the driver, if it is one to MySQL.
    #[cfg(feature = "mysql")]
    pub(in crate::store) fn mysql(&mut self) -> Option<&mut sqlx::MySqlConnection> {
        match self.link.as_mut()? {
            #[cfg(feature = "postgres")]
            Link::Postgres(_) => None,
            Link::Mysql(conn) => Some(conn),
        }
    }

    /// Nothing is open on the connection.
    pub(in crate::store) fn clean(mut self) -> Link {
        self.clean = true;
        self.link.take().expect("a lease has its link until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.link.take() {
            Some(link) if !self.clean => match link {
                #[cfg(feature = "postgres")]
                Link::Postgres(conn) => drop(conn.detach()),
                #[cfg(feature = "mysql")]
                Link::Mysql(conn) => drop(conn.detach()),
            },
            _ => {}
        }
    }
}

/// Whether there is no encryption because a certificate does not fit. The driver hands on what TLS says as an error of the
/// connection.
fn is_about_certificates(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        sqlx::Error::Io(error) => error.to_string().contains("certificate"),
        _ => false,
    }
}

/// Why there is no connection.
pub(in crate::store) fn unreachable(place: &str, error: sqlx::Error) -> StoreError {
    match error {
        // The server answered: what it says is of use, and its code tells whether trying again is.
        error @ sqlx::Error::Database(_) => failed(error),
        sqlx::Error::PoolTimedOut => {
            let why = "no connection in time; is the server up, and are there enough connections?".to_owned();
            StoreError::Unreachable { place: place.to_owned(), why }
        }
        error if is_about_certificates(&error) => {
            let why = format!(
                "{error}; is the certificate of the server for this name, and of the authority in `sslrootcert` \
                 (PostgreSQL) or `ssl-ca` (MySQL)?"
            );
            StoreError::Unreachable { place: place.to_owned(), why }
        }
        error => StoreError::Unreachable { place: place.to_owned(), why: error.to_string() },
    }
}
