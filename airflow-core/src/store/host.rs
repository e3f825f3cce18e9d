//! Transactions that belong to the host.
//!
//! A run that a request of the host brings about can be made in the transaction that keeps what the request did: either
//! both are there or neither. Nothing here begins or ends a transaction.

use super::StoreError;
#[cfg(feature = "sqlite")]
use super::sql::errors::failed;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use super::sql::{Conn, Query, admin, runs, text::Dialect};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use super::{AuditEntry, CreatedRun, NewRun, StoreResult};

/// A transaction of the host, borrowed: `&mut sqlx::Transaction` of SQLite, PostgreSQL or MySQL turns into it.
#[derive(Debug)]
pub struct HostTx<'c>(HostConn<'c>);

#[derive(Debug)]
enum HostConn<'c> {
    #[cfg(feature = "sqlite")]
    Sqlite(&'c mut sqlx::SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(&'c mut sqlx::PgConnection),
    #[cfg(feature = "mysql")]
    Mysql(&'c mut sqlx::MySqlConnection),
    /// There is none: no database is compiled in.
    #[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
    #[expect(dead_code, reason = "nobody can make one")]
    None(std::convert::Infallible, std::marker::PhantomData<&'c ()>),
}

#[cfg(feature = "sqlite")]
impl<'c> From<&'c mut sqlx::Transaction<'_, sqlx::Sqlite>> for HostTx<'c> {
    fn from(tx: &'c mut sqlx::Transaction<'_, sqlx::Sqlite>) -> Self {
        Self(HostConn::Sqlite(tx))
    }
}

#[cfg(feature = "postgres")]
impl<'c> From<&'c mut sqlx::Transaction<'_, sqlx::Postgres>> for HostTx<'c> {
    fn from(tx: &'c mut sqlx::Transaction<'_, sqlx::Postgres>) -> Self {
        Self(HostConn::Postgres(tx))
    }
}

#[cfg(feature = "mysql")]
impl<'c> From<&'c mut sqlx::Transaction<'_, sqlx::MySql>> for HostTx<'c> {
    fn from(tx: &'c mut sqlx::Transaction<'_, sqlx::MySql>) -> Self {
        Self(HostConn::Mysql(tx))
    }
}

impl HostTx<'_> {
    /// Which database it is of.
    pub fn kind(&self) -> &'static str {
        match &self.0 {
            #[cfg(feature = "sqlite")]
            HostConn::Sqlite(_) => "sqlite",
            #[cfg(feature = "postgres")]
            HostConn::Postgres(_) => "postgres",
            #[cfg(feature = "mysql")]
            HostConn::Mysql(_) => "mysql",
            #[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
            HostConn::None(never, _) => match *never {},
        }
    }

    /// Why a store of another kind cannot use it.
    pub(super) fn refused(&self, store: &str, place: &str) -> StoreError {
        StoreError::Refused(format!(
            "the transaction is of a database of the kind {}, but the store is of the kind {store} ({place}); a run can \
             be made only in a transaction of the database that the store is in",
            self.kind()
        ))
    }
}

/// Makes a run and its entry in the audit log, if there is no run of that id yet; then runs what a store leaves behind
/// so that other processes notice the change.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(super) async fn create(
    tx: HostTx<'_>,
    (dialect, place): (&Dialect, &str),
    run: NewRun,
    note: AuditEntry,
    mark: Vec<Query<'_>>,
) -> StoreResult<CreatedRun> {
    let mut conn = tx.conn(dialect, place)?;
    let dag = run.dag_id.clone();
    let made = runs::create(&mut conn, &[run]).await.map_err(|error| elsewhere(error, place))?;
    let made = made.into_iter().next().ok_or_else(|| super::rules::no_dag(&dag))?;
    if let CreatedRun::New(_) = &made {
        admin::audit(&mut conn, &note).await?;
        for statement in mark {
            statement.execute(&mut conn).await?;
        }
    }
    Ok(made)
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
impl<'c> HostTx<'c> {
    /// The connection with the words of the store, if both are of one kind.
    fn conn(self, dialect: &'c Dialect, place: &str) -> StoreResult<Conn<'c>> {
        if self.kind() != dialect.kind().name() {
            return Err(self.refused(dialect.kind().name(), place));
        }
        Ok(match self.0 {
            #[cfg(feature = "sqlite")]
            HostConn::Sqlite(conn) => Conn::sqlite(conn),
            #[cfg(feature = "postgres")]
            HostConn::Postgres(conn) => Conn::postgres(conn, dialect),
            #[cfg(feature = "mysql")]
            HostConn::Mysql(conn) => Conn::mysql(conn, dialect),
        })
    }
}

/// Whether a transaction is on this file; a file that cannot be looked at counts as the right one.
#[cfg(feature = "sqlite")]
pub(super) async fn check_file(tx: &mut HostTx<'_>, path: &std::path::Path) -> StoreResult<()> {
    const FILE: &str = "SELECT file FROM pragma_database_list WHERE name = 'main'";
    #[cfg_attr(
        not(any(feature = "postgres", feature = "mysql")),
        expect(irrefutable_let_patterns, reason = "one kind")
    )]
    let HostConn::Sqlite(conn) = &mut tx.0 else { return Ok(()) };
    let file: String = sqlx::query_scalar(FILE).fetch_one(&mut **conn).await.map_err(failed)?;
    let (of_tx, ours) = (std::fs::canonicalize(&file), std::fs::canonicalize(path));
    match (of_tx, ours) {
        (Ok(of_tx), Ok(ours)) if of_tx != ours => Err(not_here(&path.display().to_string())),
        _ => Ok(()),
    }
}

/// The transaction is on another database.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
fn not_here(place: &str) -> StoreError {
    StoreError::Refused(format!(
        "the transaction is not on the database that the store is in ({place}); begin it on a pool of that database"
    ))
}

/// Says what it means if our tables are not where the transaction is.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
fn elsewhere(error: StoreError, place: &str) -> StoreError {
    let StoreError::Database(why) = &error else { return error };
    let Some(said) = why.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error) else {
        return error;
    };
    let missing = match said.code().as_deref() {
        // PostgreSQL: undefined_table, invalid_schema_name. MySQL: no such table.
        Some("42P01" | "3F000" | "42S02") => true,
        _ => said.message().starts_with("no such table"),
    };
    if !missing {
        return error;
    }
    not_here(place)
}
