//! Variables, connections, and tokens in the place of others.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, SqlitePool};

use crate::store::{ConnectionRow, EncryptedField, StoreResult, TokenSwap, VariableRow};

use super::errors::failed;

/// Variables, of one key if given.
pub(super) async fn variables(pool: &SqlitePool, key: Option<&str>) -> StoreResult<Vec<VariableRow>> {
    const ALL: &str = "SELECT key, value, description, is_encrypted FROM af_variable ORDER BY key";
    const ONE: &str = "SELECT key, value, description, is_encrypted FROM af_variable WHERE key = ?1";
    let query = key.map_or_else(|| sqlx::query_as(ALL), |key| sqlx::query_as(ONE).bind(key));
    let rows: Vec<(String, String, Option<String>, bool)> = query.fetch_all(pool).await.map_err(failed)?;
    let row = |(key, value, description, is_encrypted)| VariableRow { key, value, description, is_encrypted };
    Ok(rows.into_iter().map(row).collect())
}

/// Creates or replaces a variable.
pub(super) async fn set_variable(conn: &mut SqliteConnection, variable: VariableRow) -> StoreResult<()> {
    const SET: &str = "
        INSERT INTO af_variable (key, value, description, is_encrypted) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO UPDATE SET value = excluded.value, is_encrypted = excluded.is_encrypted,
            description = coalesce(excluded.description, description)";
    let query = sqlx::query(SET)
        .bind(variable.key)
        .bind(variable.value)
        .bind(variable.description)
        .bind(variable.is_encrypted);
    query.execute(conn).await.map_err(failed).map(|_| ())
}

/// Deletes a variable; says whether there was one.
pub(super) async fn delete_variable(conn: &mut SqliteConnection, key: String) -> StoreResult<bool> {
    const DELETE: &str = "DELETE FROM af_variable WHERE key = ?1";
    Ok(sqlx::query(DELETE).bind(key).execute(conn).await.map_err(failed)?.rows_affected() > 0)
}

/// Connections, of one id if given.
pub(super) async fn connections(pool: &SqlitePool, id: Option<&str>) -> StoreResult<Vec<ConnectionRow>> {
    const ALL: &str = "SELECT * FROM af_connection ORDER BY conn_id";
    const ONE: &str = "SELECT * FROM af_connection WHERE conn_id = ?1";
    let query = id.map_or_else(|| sqlx::query(ALL), |id| sqlx::query(ONE).bind(id));
    let rows = query.fetch_all(pool).await.map_err(failed)?;
    rows.iter().map(connection).collect::<Result<_, _>>().map_err(failed)
}

fn connection(row: &SqliteRow) -> Result<ConnectionRow, sqlx::Error> {
    Ok(ConnectionRow {
        conn_id: row.try_get("conn_id")?,
        conn_type: row.try_get("conn_type")?,
        description: row.try_get("description")?,
        host: row.try_get("host")?,
        login: row.try_get("login")?,
        password: row.try_get("password")?,
        schema: row.try_get("schema_name")?,
        port: row.try_get("port")?,
        extra: row.try_get("extra")?,
        is_encrypted: row.try_get("is_encrypted")?,
        is_extra_encrypted: row.try_get("is_extra_encrypted")?,
    })
}

/// Creates or replaces a connection.
pub(super) async fn set_connection(conn: &mut SqliteConnection, row: ConnectionRow) -> StoreResult<()> {
    const SET: &str = "
        INSERT INTO af_connection (conn_id, conn_type, description, host, login, password, schema_name, port, extra,
            is_encrypted, is_extra_encrypted)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
        ON CONFLICT DO UPDATE SET conn_type = excluded.conn_type,
            description = coalesce(excluded.description, description), host = excluded.host,
            login = excluded.login, password = excluded.password, schema_name = excluded.schema_name,
            port = excluded.port, extra = excluded.extra, is_encrypted = excluded.is_encrypted,
            is_extra_encrypted = excluded.is_extra_encrypted";
    let query = sqlx::query(SET)
        .bind(row.conn_id)
        .bind(row.conn_type)
        .bind(row.description)
        .bind(row.host)
        .bind(row.login)
        .bind(row.password)
        .bind(row.schema)
        .bind(row.port)
        .bind(row.extra)
        .bind(row.is_encrypted)
        .bind(row.is_extra_encrypted);
    query.execute(conn).await.map_err(failed).map(|_| ())
}

/// Deletes a connection; says whether there was one.
pub(super) async fn delete_connection(conn: &mut SqliteConnection, id: String) -> StoreResult<bool> {
    const DELETE: &str = "DELETE FROM af_connection WHERE conn_id = ?1";
    Ok(sqlx::query(DELETE).bind(id).execute(conn).await.map_err(failed)?.rows_affected() > 0)
}

/// Puts tokens in the place of those that are still there. Runs in a transaction of the caller.
pub(super) async fn swap_tokens(conn: &mut SqliteConnection, swaps: Vec<TokenSwap>) -> StoreResult<u64> {
    const VARIABLE: &str = "UPDATE af_variable SET value = ?3 WHERE key = ?1 AND value = ?2 AND is_encrypted";
    const PASSWORD: &str =
        "UPDATE af_connection SET password = ?3 WHERE conn_id = ?1 AND password = ?2 AND is_encrypted";
    const EXTRA: &str =
        "UPDATE af_connection SET extra = ?3 WHERE conn_id = ?1 AND extra = ?2 AND is_extra_encrypted";
    let mut changed = 0;
    for swap in swaps {
        let (sql, name) = match swap.field {
            EncryptedField::Variable(key) => (VARIABLE, key),
            EncryptedField::Password(id) => (PASSWORD, id),
            EncryptedField::Extra(id) => (EXTRA, id),
        };
        let query = sqlx::query(sql).bind(name).bind(swap.from).bind(swap.to);
        changed += query.execute(&mut *conn).await.map_err(failed)?.rows_affected();
    }
    Ok(changed)
}
