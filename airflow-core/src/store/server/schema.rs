//! What holds of the tables on both servers: versions, and who may make them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::store::sql::text::Kind;
use crate::store::sql::{Conn, query};
use crate::store::{Migrated, SchemaStatus, StoreError, StoreResult};

use super::core::Core;

/// The version that this library needs.
pub(in crate::store) const NEEDED: u32 = 1;

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
    match found? {
        NEEDED => {}
        found if found > NEEDED => return Err(StoreError::Newer { found, known: NEEDED }),
        found => return Err(StoreError::NotMigrated { found, needed: NEEDED }),
    }
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

/// The version of the tables; 0 if there are none.
pub(in crate::store) async fn version(conn: &mut Conn<'_>, core: &Core) -> StoreResult<u32> {
    const VERSION: &str = "SELECT coalesce(max(version), 0) AS version FROM airflow_schema";
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
    if tables == 0 { Ok(0) } else { query(VERSION).fetch_one(conn).await?.num("version") }
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
    let version = version(conn, core).await?;
    let facts = match conn.kind() {
        #[cfg(feature = "sqlite")]
        Kind::Sqlite => Vec::new(),
        #[cfg(feature = "postgres")]
        Kind::Postgres => crate::store::postgres::schema::facts(conn).await?,
        #[cfg(feature = "mysql")]
        Kind::Mysql => crate::store::mysql::schema::facts(conn).await?,
    };
    Ok(SchemaStatus { version, needed: NEEDED, facts })
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
