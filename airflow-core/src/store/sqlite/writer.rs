//! The one connection that writes: how it begins and ends transactions.

use sqlx::SqliteConnection;

use crate::store::points::reach_point;
use crate::store::sql::errors::failed;
use crate::store::sql::group::{Backend, Work, Writer};
use crate::store::sql::{Conn, runs};
use crate::store::{CreatedRun, NewRun, StoreResult, Unit, UnitResult};

use super::commit;

impl Backend for SqliteConnection {
    fn commit<'c>(&'c mut self, units: &'c [Unit]) -> Work<'c, Vec<UnitResult>> {
        Box::pin(commit::commit(self, units))
    }

    fn create<'c>(&'c mut self, new: &'c [NewRun]) -> Work<'c, Vec<CreatedRun>> {
        Box::pin(async move {
            begin(self).await?;
            let result = runs::create(&mut Conn::sqlite(self), new).await;
            finish(self, result).await
        })
    }
}

impl Writer<SqliteConnection> {
    /// Does `work` in a transaction of its own.
    pub(super) async fn write<T, F>(&self, work: F) -> StoreResult<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> Work<'c, T> + Send + 'static,
    {
        self.with(move |conn| {
            Box::pin(async move {
                begin(conn).await?;
                let result = work(conn).await;
                finish(conn, result).await
            })
        })
        .await
    }
}

/// Begins a transaction that writes: waits for other processes here and nowhere else.
async fn begin(conn: &mut SqliteConnection) -> StoreResult<()> {
    sqlx::query("BEGIN IMMEDIATE").execute(conn).await.map_err(failed).map(|_| ())
}

async fn commit_open(conn: &mut SqliteConnection) -> StoreResult<()> {
    reach_point!("sqlite.before_end");
    sqlx::query("COMMIT").execute(&mut *conn).await.map_err(failed)?;
    reach_point!("sqlite.after_end");
    Ok(())
}

/// Ends a transaction: commits what went well, and takes everything back if it did not.
async fn finish<T>(conn: &mut SqliteConnection, result: StoreResult<T>) -> StoreResult<T> {
    let result = match result {
        Ok(value) => commit_open(conn).await.map(|()| value),
        Err(error) => Err(error),
    };
    if result.is_err() {
        // SQLite may have rolled back by itself, then this says so; what matters is that no transaction stays open.
        sqlx::query("ROLLBACK").execute(conn).await.ok();
    }
    result
}
