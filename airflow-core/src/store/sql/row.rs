//! What comes back from a statement.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use uuid::Uuid;

use crate::store::StoreResult;

use super::errors::{corrupt, failed};

/// One row of any of the databases. A column is asked for by name and by what it means; whole numbers of any width
/// are read.
#[derive(Debug)]
pub(in crate::store) enum Row {
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::sqlite::SqliteRow),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::postgres::PgRow),
    #[cfg(feature = "mysql")]
    Mysql(sqlx::mysql::MySqlRow),
}

/// Reads a column whose type is the same in every driver.
macro_rules! same {
    ($row:expr, $name:expr, $type:ty) => {
        match $row {
            #[cfg(feature = "sqlite")]
            Row::Sqlite(row) => row.try_get::<$type, _>($name),
            #[cfg(feature = "postgres")]
            Row::Postgres(row) => row.try_get::<$type, _>($name),
            #[cfg(feature = "mysql")]
            Row::Mysql(row) => row.try_get::<$type, _>($name),
        }
        .map_err(failed)
    };
}

impl Row {
    /// A text or null.
    pub(in crate::store) fn maybe_str(&self, name: &str) -> StoreResult<Option<&str>> {
        same!(self, name, Option<&str>)
    }

    /// A text.
    pub(in crate::store) fn str(&self, name: &str) -> StoreResult<&str> {
        same!(self, name, &str)
    }

    /// A text of one's own.
    pub(in crate::store) fn text(&self, name: &str) -> StoreResult<String> {
        self.str(name).map(str::to_owned)
    }

    /// A text of one's own, or null.
    pub(in crate::store) fn maybe_text(&self, name: &str) -> StoreResult<Option<String>> {
        Ok(self.maybe_str(name)?.map(str::to_owned))
    }

    /// A word that stands for something.
    pub(in crate::store) fn word<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> StoreResult<T> {
        self.str(name)?.parse().map_err(corrupt)
    }

    /// A JSON text, or null.
    pub(in crate::store) fn maybe_json<T: DeserializeOwned>(&self, name: &str) -> StoreResult<Option<T>> {
        self.maybe_str(name)?.map(serde_json::from_str).transpose().map_err(corrupt)
    }

    /// A JSON text.
    pub(in crate::store) fn json<T: DeserializeOwned>(&self, name: &str) -> StoreResult<T> {
        serde_json::from_str(self.str(name)?).map_err(corrupt)
    }

    /// A whole number, or null.
    pub(in crate::store) fn maybe_num<T>(&self, name: &str) -> StoreResult<Option<T>>
    where
        T: TryFrom<i64, Error: std::fmt::Display>,
    {
        same!(self, name, Option<i64>)?.map(T::try_from).transpose().map_err(corrupt)
    }

    /// A whole number.
    pub(in crate::store) fn num<T>(&self, name: &str) -> StoreResult<T>
    where
        T: TryFrom<i64, Error: std::fmt::Display>,
    {
        same!(self, name, i64)?.try_into().map_err(corrupt)
    }

    /// Yes or no.
    pub(in crate::store) fn flag(&self, name: &str) -> StoreResult<bool> {
        same!(self, name, bool)
    }

    /// A moment, or null.
    pub(in crate::store) fn maybe_time(&self, name: &str) -> StoreResult<Option<DateTime<Utc>>> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(row) => super::json::maybe_time(row.try_get(name).map_err(failed)?),
            #[cfg(feature = "postgres")]
            Self::Postgres(row) => row.try_get(name).map_err(failed),
            #[cfg(feature = "mysql")]
            Self::Mysql(row) => {
                let time: Option<chrono::NaiveDateTime> = row.try_get(name).map_err(failed)?;
                Ok(time.map(|time| time.and_utc()))
            }
        }
    }

    /// A moment.
    pub(in crate::store) fn time(&self, name: &str) -> StoreResult<DateTime<Utc>> {
        self.maybe_time(name)?.ok_or_else(|| corrupt(format!("`{name}` is missing")))
    }

    /// An id of 128 bits, or null.
    pub(in crate::store) fn maybe_id(&self, name: &str) -> StoreResult<Option<Uuid>> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(row) => {
                let bytes: Option<&[u8]> = row.try_get(name).map_err(failed)?;
                bytes.map(Uuid::from_slice).transpose().map_err(corrupt)
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(row) => row.try_get(name).map_err(failed),
            #[cfg(feature = "mysql")]
            Self::Mysql(row) => row.try_get(name).map_err(failed),
        }
    }

    /// An id of 128 bits.
    pub(in crate::store) fn id(&self, name: &str) -> StoreResult<Uuid> {
        self.maybe_id(name)?.ok_or_else(|| corrupt(format!("`{name}` is missing")))
    }
}
