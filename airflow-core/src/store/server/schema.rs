//! What holds of the tables on both servers: versions, and who may make them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::store::sql::text::Kind;
use crate::store::sql::{Conn, query};
use crate::store::{Migrated, SchemaStatus, StoreError, StoreResult};

use super::core::Core;

/// The version that this library needs.
pub(in crate::store) const NEEDED: u32 = 1;

/// A version of the tables.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Version<S> {
    /// What leads to it from the one before.
    pub steps: S,
    /// The oldest version that a program may need to work with these tables. A step that only adds leaves this as it is;
    /// one that takes something away makes it the version since which no program uses that.
    pub serves: u32,
}

/// What is known of the tables of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Found {
    /// Their version; 0 if there are none.
    pub version: u32,
    /// The oldest version that a program may need.
    pub serves: u32,
}

impl Found {
    /// Refuses tables that a program cannot work with that needs the version `needed`.
    pub(in crate::store) fn fits(self, needed: u32) -> StoreResult<()> {
        SchemaStatus { version: self.version, needed, serves: self.serves, facts: Vec::new() }.fits()
    }

    /// What there is to do for a program that needs the version `needed`: nothing, if the tables are new enough.
    pub(in crate::store) fn to_migrate(self, needed: u32) -> StoreResult<Option<u32>> {
        if self.version < needed {
            return Ok(Some(self.version));
        }
        self.fits(needed).map(|()| None)
    }
}

/// How long one step of a migration may take: the tables may be large, and another migrator may be at it.
pub(in crate::store) const STEP_DEADLINE: Duration = Duration::from_secs(600);

/// The table of versions.
pub(in crate::store) const VERSIONS: &str = "airflow_schema";

/// All tables, those that refer to others first.
pub(in crate::store) const TABLES: [&str; 31] = [
    "af_watcher",
    "af_log_chunk",
    "af_dead_letter",
    "af_deadline",
    "af_run_asset_event",
    "af_asset_queue",
    "af_asset_event",
    "af_asset_ref",
    "af_asset",
    "af_report",
    "af_worker",
    "af_carried",
    "af_setting",
    "af_connection",
    "af_notice",
    "af_run_owner",
    "af_audit",
    "af_incarnation",
    "af_variable",
    "af_pool",
    "af_slot",
    "af_expansion",
    "af_xcom",
    "af_attempt",
    "af_event",
    "af_ti",
    "af_run",
    "af_dag_version",
    "af_dag",
    "af_commit",
    VERSIONS,
];

/// Refuses a server that is too old, and tables that do not fit.
pub(in crate::store) async fn ready(core: &Core) -> StoreResult<()> {
    if core.ready.load(Ordering::Acquire) {
        return Ok(());
    }
    let mut lease = core.lease().await?;
    let mut conn = lease.conn(&core.dialect);
    fits(&mut conn).await?;
    let found = version(&mut conn, core).await;
    drop(lease.clean());
    found?.fits(core.needed())?;
    core.ready.store(true, Ordering::Release);
    Ok(())
}

/// Refuses a server that cannot do what is needed.
pub(in crate::store) async fn fits(conn: &mut Conn<'_>) -> StoreResult<()> {
    match conn.kind() {
        #[cfg(feature = "sqlite")]
        Kind::Sqlite => Ok(()),
        #[cfg(feature = "postgres")]
        Kind::Postgres => crate::store::postgres::schema::fits(conn).await,
        #[cfg(feature = "mysql")]
        Kind::Mysql => crate::store::mysql::schema::fits(conn).await,
    }
}

/// The version of the tables, and whom they serve.
pub(in crate::store) async fn version(conn: &mut Conn<'_>, core: &Core) -> StoreResult<Found> {
    const VERSION: &str = "SELECT version, serves FROM airflow_schema ORDER BY version DESC LIMIT 1";
    let tables = match conn.kind() {
        #[cfg(feature = "sqlite")]
        Kind::Sqlite => 0,
        #[cfg(feature = "postgres")]
        Kind::Postgres => crate::store::postgres::schema::has_versions(conn, core).await?,
        #[cfg(feature = "mysql")]
        Kind::Mysql => crate::store::mysql::schema::has_versions(conn).await?,
    };
    // Without the feature of PostgreSQL nobody asks where the tables are.
    let _ = core;
    let nothing = Found { version: 0, serves: 0 };
    if tables == 0 {
        return Ok(nothing);
    }
    match query(VERSION).fetch_optional(conn).await? {
        Some(row) => Ok(Found { version: row.num("version")?, serves: row.num("serves")? }),
        None => Ok(nothing),
    }
}

pub(super) async fn migrate(core: &Core) -> StoreResult<Migrated> {
    match core.kind() {
        #[cfg(feature = "sqlite")]
        Kind::Sqlite => Err(StoreError::Refused("a server is needed".to_owned())),
        #[cfg(feature = "postgres")]
        Kind::Postgres => crate::store::postgres::schema::migrate(core, false).await,
        #[cfg(feature = "mysql")]
        Kind::Mysql => crate::store::mysql::schema::migrate(core, false).await,
    }
}

pub(super) async fn reset(core: &Core) -> StoreResult<()> {
    let done = match core.kind() {
        #[cfg(feature = "sqlite")]
        Kind::Sqlite => Err(StoreError::Refused("a server is needed".to_owned())),
        #[cfg(feature = "postgres")]
        Kind::Postgres => crate::store::postgres::schema::migrate(core, true).await,
        #[cfg(feature = "mysql")]
        Kind::Mysql => crate::store::mysql::schema::migrate(core, true).await,
    };
    done.map(|_| ())
}

/// The version of the tables, and facts about the server for people.
pub(super) async fn status(conn: &mut Conn<'_>, core: &Core) -> StoreResult<SchemaStatus> {
    let Found { version, serves } = version(conn, core).await?;
    let facts = match conn.kind() {
        #[cfg(feature = "sqlite")]
        Kind::Sqlite => Vec::new(),
        #[cfg(feature = "postgres")]
        Kind::Postgres => crate::store::postgres::schema::facts(conn).await?,
        #[cfg(feature = "mysql")]
        Kind::Mysql => crate::store::mysql::schema::facts(conn).await?,
    };
    Ok(SchemaStatus { version, needed: core.needed(), serves, facts })
}

/// Refuses a version that is older than `needed`; both as numbers with dots.
pub(in crate::store) fn at_least(server: &'static str, found: &str, needed: &'static str) -> StoreResult<()> {
    let numbers = |text: &str| -> Vec<u32> {
        let plain: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        plain.split('.').map(|part| part.parse().unwrap_or(0)).collect()
    };
    if numbers(found) < numbers(needed) {
        return Err(StoreError::OldServer { server, found: found.to_owned(), needed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an older program works as long as the tables serve it, and is refused by its name for it afterwards.
    #[test]
    fn tables_say_whom_they_serve() {
        let fits =
            |version, serves, needed| Found { version, serves }.fits(needed).map_err(|e| e.to_string());
        assert_eq!(fits(2, 1, 2), Ok(()));
        assert_eq!(fits(3, 1, 2), Ok(()), "what was added disturbs nobody");
        assert_eq!(fits(4, 2, 2), Ok(()));
        let refused = fits(4, 3, 2).unwrap_err();
        assert!(refused.starts_with("the database has schema version 4, this version of airflow knows 2"));
        assert!(fits(1, 1, 2).unwrap_err().contains("run `db migrate`"));
        let todo = |version, serves, needed| Found { version, serves }.to_migrate(needed).ok();
        assert_eq!(
            [todo(1, 1, 2), todo(2, 1, 2), todo(3, 1, 2), todo(4, 3, 2)],
            [Some(Some(1)), Some(None), Some(None), None]
        );
    }
}
