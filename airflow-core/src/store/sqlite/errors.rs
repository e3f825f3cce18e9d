//! What SQLite and sqlx say, in the words of the store.

use std::path::Path;

use crate::store::{StoreError, StoreResult};

/// The first version in which a checkpoint cannot damage a database that several connections write.
pub(super) const OLDEST_SAFE: &str = "3.51.3";

/// `SQLITE_CONSTRAINT`: the low byte of all codes that say that a constraint or a trigger refused a row.
const CONSTRAINT: i32 = 19;
/// `SQLITE_BUSY`: the low byte of all codes that say that another process holds the lock.
const BUSY: i32 = 5;

fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Whether a constraint or one of our triggers refused what was written.
pub(super) fn is_refused(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(CONSTRAINT)
}

/// Whether another process held the lock for too long.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(BUSY)
}

/// Why `path` cannot be opened, and what helps.
pub(super) fn unreachable(path: &Path, error: &sqlx::Error) -> StoreError {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let cure = match parent {
        _ if path.is_dir() => "it is a directory; name a file in it".to_owned(),
        Some(parent) if !parent.exists() => {
            format!("the directory {} does not exist; create it", parent.display())
        }
        Some(parent) if !parent.is_dir() => format!("{} is not a directory", parent.display()),
        _ if is_busy(error) => "another process keeps it locked; end it or wait".to_owned(),
        _ => "this process must be able to write the file and its directory".to_owned(),
    };
    StoreError::Unreachable { place: path.display().to_string(), why: format!("{error}; {cure}") }
}

/// Refuses a version of SQLite that can damage the database.
pub(super) fn check_version(found: &str) -> StoreResult<()> {
    if numbers(found) < numbers(OLDEST_SAFE) {
        return Err(StoreError::OldSqlite { found: found.to_owned(), needed: OLDEST_SAFE });
    }
    Ok(())
}

/// `3.51.3` as numbers; what is no number counts as 0, so that it is refused rather than trusted.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use sqlx::Connection as _;

    use super::*;
    use crate::store::sql::errors::failed;

    /// Goal: a full disk is named, is nothing to give up for, and work goes on when there is room. Method: a database
    /// that may have few pages.
    #[tokio::test]
    async fn a_full_disk_is_named_and_passes() {
        const WRITE: &str = "INSERT INTO t VALUES (zeroblob(4000))";
        let mut conn = sqlx::SqliteConnection::connect("sqlite::memory:").await.expect("memory");
        sqlx::raw_sql("PRAGMA max_page_count = 20; CREATE TABLE t (x)")
            .execute(&mut conn)
            .await
            .expect("a table");
        let mut said = None;
        for _ in 0..20 {
            said = sqlx::raw_sql(WRITE).execute(&mut conn).await.err().or(said);
        }
        let error = failed(said.expect("twenty pages are few"));
        assert!(matches!(error, StoreError::NoRoom(_)) && !error.is_lasting(), "{error:?}");
        assert!(error.to_string().starts_with("the database has no room to write: "), "{error}");
        sqlx::raw_sql("PRAGMA max_page_count = 1000").execute(&mut conn).await.expect("a setting");
        sqlx::raw_sql(WRITE).execute(&mut conn).await.expect("there is room");
        let other = sqlx::raw_sql("INSERT INTO nowhere VALUES (1)").execute(&mut conn).await.unwrap_err();
        assert!(matches!(failed(other), StoreError::Database(_)));
    }

    #[test]
    fn versions_of_sqlite_that_can_damage_a_database_are_refused() {
        for safe in ["3.51.3", "3.51.10", "3.52.0", "4.0.0", "3.51.3.1"] {
            assert!(check_version(safe).is_ok(), "{safe}");
        }
        for old in ["3.51.2", "3.9.99", "3.40.1", "2.99.0", "", "x"] {
            assert!(matches!(check_version(old), Err(StoreError::OldSqlite { .. })), "{old}");
        }
    }
}
