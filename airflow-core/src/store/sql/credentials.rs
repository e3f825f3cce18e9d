//! Variables, connections, and tokens in the place of others.

use crate::store::{ConnectionRow, EncryptedField, StoreResult, TokenSwap, VariableRow};

use super::{Conn, Row, query};

/// Variables, of one key if given.
pub(in crate::store) async fn variables(
    conn: &mut Conn<'_>,
    key: Option<&str>,
) -> StoreResult<Vec<VariableRow>> {
    const ALL: &str = "SELECT \"key\", value, description, is_encrypted FROM af_variable ORDER BY \"key\"";
    const ONE: &str = "SELECT \"key\", value, description, is_encrypted FROM af_variable WHERE \"key\" = ?1";
    let query = key.map_or_else(|| query(ALL), |key| query(ONE).bind(key));
    let variable = |row: &Row| {
        Ok(VariableRow {
            key: row.text("key")?,
            value: row.text("value")?,
            description: row.maybe_text("description")?,
            is_encrypted: row.flag("is_encrypted")?,
        })
    };
    query.fetch_all(conn).await?.iter().map(variable).collect()
}

/// Creates or replaces a variable.
pub(in crate::store) async fn set_variable(conn: &mut Conn<'_>, variable: &VariableRow) -> StoreResult<()> {
    const SET: &str = "
        INSERT INTO af_variable (\"key\", value, description, is_encrypted) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (\"key\") DO UPDATE SET value = excluded.value, is_encrypted = excluded.is_encrypted,
            description = coalesce(excluded.description, af_variable.description)";
    let query = query(SET).bind(&variable.key).bind(&variable.value).bind(variable.description.as_deref());
    query.bind(variable.is_encrypted).execute(conn).await.map(|_| ())
}

/// Deletes a variable; says whether there was one.
pub(in crate::store) async fn delete_variable(conn: &mut Conn<'_>, key: &str) -> StoreResult<bool> {
    const DELETE: &str = "DELETE FROM af_variable WHERE \"key\" = ?1";
    Ok(query(DELETE).bind(key).execute(conn).await? > 0)
}

/// Connections, of one id if given.
pub(in crate::store) async fn connections(
    conn: &mut Conn<'_>,
    id: Option<&str>,
) -> StoreResult<Vec<ConnectionRow>> {
    const ALL: &str = "SELECT * FROM af_connection ORDER BY conn_id";
    const ONE: &str = "SELECT * FROM af_connection WHERE conn_id = ?1";
    let query = id.map_or_else(|| query(ALL), |id| query(ONE).bind(id));
    query.fetch_all(conn).await?.iter().map(connection).collect()
}

fn connection(row: &Row) -> StoreResult<ConnectionRow> {
    Ok(ConnectionRow {
        conn_id: row.text("conn_id")?,
        conn_type: row.maybe_text("conn_type")?,
        description: row.maybe_text("description")?,
        host: row.maybe_text("host")?,
        login: row.maybe_text("login")?,
        password: row.maybe_text("password")?,
        schema: row.maybe_text("schema_name")?,
        port: row.maybe_num("port")?,
        extra: row.maybe_text("extra")?,
        is_encrypted: row.flag("is_encrypted")?,
        is_extra_encrypted: row.flag("is_extra_encrypted")?,
    })
}

/// Creates or replaces a connection.
pub(in crate::store) async fn set_connection(conn: &mut Conn<'_>, row: &ConnectionRow) -> StoreResult<()> {
    const SET: &str = "
        INSERT INTO af_connection (conn_id, conn_type, description, host, login, password, schema_name, port, extra,
            is_encrypted, is_extra_encrypted)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
        ON CONFLICT (conn_id) DO UPDATE SET conn_type = excluded.conn_type,
            description = coalesce(excluded.description, af_connection.description), host = excluded.host,
            login = excluded.login, password = excluded.password, schema_name = excluded.schema_name,
            port = excluded.port, extra = excluded.extra, is_encrypted = excluded.is_encrypted,
            is_extra_encrypted = excluded.is_extra_encrypted";
    let query = query(SET)
        .bind(&row.conn_id)
        .bind(row.conn_type.as_deref())
        .bind(row.description.as_deref())
        .bind(row.host.as_deref())
        .bind(row.login.as_deref())
        .bind(row.password.as_deref())
        .bind(row.schema.as_deref())
        .bind(row.port.map(i32::from))
        .bind(row.extra.as_deref())
        .bind(row.is_encrypted)
        .bind(row.is_extra_encrypted);
    query.execute(conn).await.map(|_| ())
}

/// Deletes a connection; says whether there was one.
pub(in crate::store) async fn delete_connection(conn: &mut Conn<'_>, id: &str) -> StoreResult<bool> {
    const DELETE: &str = "DELETE FROM af_connection WHERE conn_id = ?1";
    Ok(query(DELETE).bind(id).execute(conn).await? > 0)
}

/// Puts tokens in the place of those that are still there. Runs in a transaction of the caller.
pub(in crate::store) async fn swap_tokens(conn: &mut Conn<'_>, swaps: &[TokenSwap]) -> StoreResult<u64> {
    const VARIABLE: &str =
        "UPDATE af_variable SET value = ?3 WHERE \"key\" = ?1 AND value = ?2 AND is_encrypted";
    const PASSWORD: &str =
        "UPDATE af_connection SET password = ?3 WHERE conn_id = ?1 AND password = ?2 AND is_encrypted";
    const EXTRA: &str =
        "UPDATE af_connection SET extra = ?3 WHERE conn_id = ?1 AND extra = ?2 AND is_extra_encrypted";
    let mut changed = 0;
    for swap in swaps {
        let (sql, name) = match &swap.field {
            EncryptedField::Variable(key) => (VARIABLE, key),
            EncryptedField::Password(id) => (PASSWORD, id),
            EncryptedField::Extra(id) => (EXTRA, id),
        };
        changed += query(sql).bind(name).bind(&swap.from).bind(&swap.to).execute(conn).await?;
    }
    Ok(changed)
}
