//! One way to ask three databases.
//!
//! A statement is written once, in the words that SQLite and PostgreSQL share; [`text`] turns it into what each database
//! wants and remembers the result. [`Query`] binds and runs it on a [`Conn`], [`Row`] reads what comes back. The
//! statements themselves stand in [`admin`], [`dags`], [`runs`] and [`tasks`], one function each, for all databases. What
//! is not here because it differs: tables, commits, connections, locks.

pub(super) mod admin;
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(super) mod apply;
pub(super) mod asset_queue;
pub(super) mod assets;
#[cfg(feature = "mysql")]
mod batch;
pub(super) mod credentials;
pub(super) mod dags;
pub(super) mod deadlines;
pub(super) mod errors;
pub(super) mod examine;
pub(super) mod group;
pub(super) mod json;
pub(super) mod keys;
pub(super) mod load;
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(super) mod lock;
pub(super) mod notices;
pub(super) mod old;
pub(super) mod processes;
pub(super) mod remote;
mod row;
pub(super) mod runs;
pub(super) mod task_logs;
pub(super) mod tasks;
pub(super) mod text;
mod value;
pub(super) mod watchers;
pub(super) mod written;

use std::borrow::Cow;

use sqlx::AssertSqlSafe;

use super::StoreResult;
#[cfg(feature = "sqlite")]
use errors::failed;
use text::{Dialect, Kind, Translated};

pub(super) use row::Row;
pub(super) use value::Arg;

/// A connection to any of the databases.
#[derive(Debug)]
pub(super) struct Conn<'c> {
    raw: Raw<'c>,
    dialect: &'c Dialect,
    /// How long a statement may take, where that is looked at.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    deadline: std::time::Duration,
}

#[derive(Debug)]
enum Raw<'c> {
    #[cfg(feature = "sqlite")]
    Sqlite(&'c mut sqlx::SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(&'c mut sqlx::PgConnection),
    #[cfg(feature = "mysql")]
    Mysql(&'c mut sqlx::MySqlConnection),
}

impl<'c> Conn<'c> {
    fn new(raw: Raw<'c>, dialect: &'c Dialect) -> Self {
        Self {
            raw,
            dialect,
            #[cfg(any(feature = "postgres", feature = "mysql"))]
            deadline: errors::STATEMENT_DEADLINE,
        }
    }

    #[cfg(feature = "sqlite")]
    pub(super) fn sqlite(conn: &'c mut sqlx::SqliteConnection) -> Self {
        Self::new(Raw::Sqlite(conn), Dialect::sqlite())
    }

    #[cfg(feature = "postgres")]
    pub(super) fn postgres(conn: &'c mut sqlx::PgConnection, dialect: &'c Dialect) -> Self {
        Self::new(Raw::Postgres(conn), dialect)
    }

    #[cfg(feature = "mysql")]
    pub(super) fn mysql(conn: &'c mut sqlx::MySqlConnection, dialect: &'c Dialect) -> Self {
        Self::new(Raw::Mysql(conn), dialect)
    }

    /// Which database it is.
    pub(super) fn kind(&self) -> Kind {
        self.dialect.kind()
    }

    /// An empty list of rows in the form that this database reads.
    pub(super) fn rows(&self) -> json::Rows {
        json::Rows::new(self.kind())
    }

    /// The list of one column of texts.
    pub(super) fn list<'t>(&self, texts: impl IntoIterator<Item = &'t str>) -> String {
        let mut rows = self.rows();
        for text in texts {
            rows.row().text(text).end();
        }
        rows.finish().unwrap_or_else(|| "[]".to_owned())
    }
}

/// How many bytes are sent in a second at least.
#[cfg(feature = "mysql")]
const BYTES_A_SECOND: usize = 1024 * 1024;

#[cfg(any(feature = "postgres", feature = "mysql"))]
impl Conn<'_> {
    /// The connection and the words of MySQL, if it is one to it.
    #[cfg(feature = "mysql")]
    fn as_mysql(&mut self) -> Option<(&mut sqlx::MySqlConnection, &Dialect)> {
        match &mut self.raw {
            Raw::Mysql(conn) => Some((conn, self.dialect)),
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            _ => None,
        }
    }

    /// Lets statements take as long as `deadline`.
    pub(super) fn be_patient(&mut self, deadline: std::time::Duration) {
        self.deadline = deadline;
    }

    /// Runs statements one after the other and gives the rows of each. Where the driver can, all go in one message.
    pub(super) async fn batch(&mut self, queries: Vec<Query<'_>>) -> StoreResult<Vec<Vec<Row>>> {
        #[cfg(feature = "mysql")]
        if let Some((conn, dialect)) = self.as_mysql() {
            // Much to send takes its time.
            let size: usize = queries.iter().map(Query::size).sum();
            let sending = std::time::Duration::from_secs((size / BYTES_A_SECOND) as u64);
            let work = batch::run(conn, dialect, queries);
            return errors::within(errors::COMMIT_DEADLINE + sending, work).await;
        }
        let mut answers = Vec::with_capacity(queries.len());
        for query in queries {
            answers.push(query.fetch_all(self).await?);
        }
        Ok(answers)
    }
}

/// A statement with its values.
#[derive(Debug)]
pub(super) struct Query<'q> {
    text: Cow<'static, str>,
    args: Vec<Arg<'q>>,
}

/// A statement in the common words; its values are bound in the order of their numbers.
pub(super) fn query<'q>(text: impl Into<Cow<'static, str>>) -> Query<'q> {
    Query { text: text.into(), args: Vec::new() }
}

/// Binds every value in the order in which the text names it.
macro_rules! bound {
    ($query:expr, $translated:expr, $form:ident) => {{
        let mut sql = sqlx::query(AssertSqlSafe(std::sync::Arc::clone(&$translated.sql)));
        for index in $translated.order($query.args.len()) {
            let arg = &mut $query.args[index];
            // A place without a number may name a value again.
            let arg = if $translated.is_numbered() { std::mem::take(arg) } else { arg.clone() };
            sql = value::bind!(sql, arg, $form);
        }
        sql
    }};
}

/// Runs `$call` of a bound query on whatever connection it is.
macro_rules! on {
    ($query:expr, $conn:expr, $call:ident, |$done:ident, $wrap:ident| $map:expr) => {{
        let mut query = $query;
        let translated: std::sync::Arc<Translated> = $conn.dialect.translate(&query.text);
        match &mut $conn.raw {
            #[cfg(feature = "sqlite")]
            Raw::Sqlite(conn) => {
                let $wrap = Row::Sqlite;
                let $done = bound!(query, translated, plain).$call(&mut **conn).await.map_err(failed)?;
                $map
            }
            #[cfg(feature = "postgres")]
            Raw::Postgres(conn) => {
                let $wrap = Row::Postgres;
                let $done =
                    errors::within($conn.deadline, bound!(query, translated, typed).$call(&mut **conn))
                        .await?;
                $map
            }
            #[cfg(feature = "mysql")]
            Raw::Mysql(conn) => {
                let $wrap = Row::Mysql;
                let $done =
                    errors::within($conn.deadline, bound!(query, translated, dated).$call(&mut **conn))
                        .await?;
                $map
            }
        }
    }};
}

impl<'q> Query<'q> {
    /// How long its texts are.
    #[cfg(feature = "mysql")]
    fn size(&self) -> usize {
        let text = |arg: &Arg<'_>| if let Arg::Text(Some(text)) = arg { text.len() } else { 0 };
        self.args.iter().map(text).sum()
    }

    /// Binds the next value.
    pub(super) fn bind(mut self, value: impl Into<Arg<'q>>) -> Self {
        self.args.push(value.into());
        self
    }

    /// Runs the statement; says how many rows it touched.
    pub(super) async fn execute(self, conn: &mut Conn<'_>) -> StoreResult<u64> {
        Ok(on!(self, conn, execute, |done, _wrap| done.rows_affected()))
    }

    /// All rows of the answer.
    pub(super) async fn fetch_all(self, conn: &mut Conn<'_>) -> StoreResult<Vec<Row>> {
        Ok(on!(self, conn, fetch_all, |rows, wrap| rows.into_iter().map(wrap).collect()))
    }

    /// The only row of the answer.
    pub(super) async fn fetch_one(self, conn: &mut Conn<'_>) -> StoreResult<Row> {
        Ok(on!(self, conn, fetch_one, |row, wrap| wrap(row)))
    }

    /// The only row of the answer, if there is one.
    pub(super) async fn fetch_optional(self, conn: &mut Conn<'_>) -> StoreResult<Option<Row>> {
        Ok(on!(self, conn, fetch_optional, |row, wrap| row.map(wrap)))
    }
}
