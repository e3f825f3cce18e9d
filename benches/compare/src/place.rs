//! Makes and removes the places that measurements keep everything in.

use std::path::{Path, PathBuf};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::Fallible;
use crate::args::{Place, StoreKind};

/// Makes an empty folder, and for PostgreSQL an empty database, for the `number`th measurement of this process.
///
/// # Errors
///
/// If the server or the disk refuses.
pub(crate) async fn make(
    store: StoreKind,
    url: &str,
    folder: Option<&Path>,
    number: usize,
) -> Fallible<Place> {
    let name = format!("airflow_compare_{}_{number}", std::process::id());
    let folder = folder.map_or_else(std::env::temp_dir, PathBuf::from).join(&name);
    std::fs::create_dir_all(&folder)?;
    let url = match store {
        StoreKind::Sqlite => None,
        StoreKind::Postgres => {
            ask(url, format!("CREATE DATABASE {name}")).await?;
            Some(beside(url, &name)?)
        }
    };
    Ok(Place { name, url, folder })
}

/// Removes what [`make`] made.
///
/// # Errors
///
/// If the server or the disk refuses.
pub(crate) async fn remove(url: &str, place: &Place) -> Fallible<()> {
    std::fs::remove_dir_all(&place.folder)?;
    if place.url.is_some() {
        // By force: a process that was killed may still be connected.
        ask(url, format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", place.name)).await?;
    }
    Ok(())
}

/// How durable a commit is on this server, in words for people.
///
/// # Errors
///
/// If the server does not answer.
pub(crate) async fn durability(url: &str) -> Fallible<String> {
    let mut server = PgConnection::connect(url).await?;
    let sql = "SELECT 'fsync ' || current_setting('fsync') || ', synchronous_commit ' || \
               current_setting('synchronous_commit') || ', PostgreSQL ' || current_setting('server_version')";
    Ok(sqlx::query_scalar(sql).fetch_one(&mut server).await?)
}

async fn ask(url: &str, sql: String) -> Fallible<()> {
    let mut server = PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut server).await?;
    server.close().await?;
    Ok(())
}

/// The address of another database of the same server.
///
/// Without TLS, which the driver would use if the server offers it: ours never does on this machine, so nobody does.
fn beside(url: &str, database: &str) -> Fallible<String> {
    let address = url.split('?').next().unwrap_or(url);
    let (server, _) = address.rsplit_once('/').ok_or("the address of PostgreSQL names no database")?;
    Ok(format!("{server}/{database}?sslmode=disable"))
}
