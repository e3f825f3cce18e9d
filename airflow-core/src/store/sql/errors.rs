//! What databases say, in the words of the store.

use crate::store::StoreError;

/// What sqlx reports while rows are read and written.
pub(in crate::store) fn failed(error: sqlx::Error) -> StoreError {
    if is_full(&error) { StoreError::NoRoom(Box::new(error)) } else { StoreError::Database(Box::new(error)) }
}

/// Codes of MySQL and MariaDB that say that there is no room: a full table space, a full disk.
#[cfg(feature = "mysql")]
const MYSQL_FULL: [u16; 2] = [1114, 1021];

/// The codes of PostgreSQL (`disk_full`) and of SQLite (`SQLITE_FULL`) for it.
const FULL: [&str; 2] = ["53100", "13"];

/// Whether the database says that it has no room.
fn is_full(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    #[cfg(feature = "mysql")]
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return MYSQL_FULL.contains(&error.number());
    }
    error.code().is_some_and(|code| FULL.contains(&code.as_ref()))
}

/// What cannot be understood in a row.
pub(in crate::store) fn corrupt(error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(in crate::store) use server::{COMMIT_DEADLINE, STATEMENT_DEADLINE, TooLate, within};

#[cfg(any(feature = "postgres", feature = "mysql"))]
mod server {
    use std::time::Duration;

    use crate::store::{StoreError, StoreResult};

    use super::failed;

    /// How long a statement may take: far longer than any of ours does, short enough that the process still renews its
    /// lease after one that hangs.
    pub(in crate::store) const STATEMENT_DEADLINE: Duration = Duration::from_secs(5);

    /// How long the end of a transaction may take: it may wait for a disk or for another machine.
    pub(in crate::store) const COMMIT_DEADLINE: Duration = Duration::from_secs(10);

    /// The database did not answer in time. Whether it did what it was asked for is not known.
    #[derive(Debug, thiserror::Error)]
    #[error("no answer within {0:?}")]
    pub(in crate::store) struct TooLate(pub(in crate::store) Duration);

    /// What `work` of the driver gives, if it comes in time.
    pub(in crate::store) async fn within<T>(
        deadline: Duration,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> StoreResult<T> {
        match tokio::time::timeout(deadline, work).await {
            Ok(result) => result.map_err(failed),
            Err(_) => Err(StoreError::Database(Box::new(TooLate(deadline)))),
        }
    }
}
