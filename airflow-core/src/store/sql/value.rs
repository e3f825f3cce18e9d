//! What is bound to a statement.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::rules::storable;

use super::written::stored;

/// A value. What is missing still has a type: PostgreSQL wants to know it.
#[derive(Debug, Clone)]
pub(in crate::store) enum Arg<'q> {
    Int(Option<i64>),
    Text(Option<Cow<'q, str>>),
    Flag(bool),
    Time(Option<DateTime<Utc>>),
    Id(Option<Uuid>),
}

/// What is left of one that was taken out to be bound.
impl Default for Arg<'_> {
    fn default() -> Self {
        Self::Flag(false)
    }
}

macro_rules! args {
    ($($from:ty => |$value:ident| $arg:expr),+ $(,)?) => {
        $(impl<'q> From<$from> for Arg<'q> {
            fn from($value: $from) -> Self {
                $arg
            }
        })+
    };
}
args! {
    i64 => |value| Arg::Int(Some(value)),
    i32 => |value| Arg::Int(Some(value.into())),
    u32 => |value| Arg::Int(Some(value.into())),
    Option<i64> => |value| Arg::Int(value),
    Option<i32> => |value| Arg::Int(value.map(Into::into)),
    bool => |value| Arg::Flag(value),
    &'q str => |value| Arg::Text(Some(storable(value))),
    &'q String => |value| Arg::Text(Some(storable(value))),
    String => |value| Arg::Text(Some(Cow::Owned(stored(value)))),
    Cow<'q, str> => |value| match value {
        Cow::Borrowed(text) => text.into(),
        Cow::Owned(text) => text.into(),
    },
    Option<&'q str> => |value| Arg::Text(value.map(storable)),
    Option<String> => |value| Arg::Text(value.map(|text| Cow::Owned(stored(text)))),
    DateTime<Utc> => |value| Arg::Time(Some(value)),
    Option<DateTime<Utc>> => |value| Arg::Time(value),
    Uuid => |value| Arg::Id(Some(value)),
    Option<Uuid> => |value| Arg::Id(value),
}

/// Binds an [`Arg`] to a query of sqlx. SQLite keeps times as microseconds and ids as bytes.
macro_rules! bind {
    ($query:expr, $arg:expr, plain) => {
        match $arg {
            Arg::Int(value) => $query.bind(value),
            Arg::Text(value) => $query.bind(value.map(Cow::into_owned)),
            Arg::Flag(value) => $query.bind(value),
            Arg::Time(value) => $query.bind(value.map(|time| time.timestamp_micros())),
            Arg::Id(value) => $query.bind(value.map(|id| id.as_bytes().to_vec())),
        }
    };
    ($query:expr, $arg:expr, typed) => {
        match $arg {
            Arg::Int(value) => $query.bind(value),
            Arg::Text(value) => $query.bind(value.map(Cow::into_owned)),
            Arg::Flag(value) => $query.bind(value),
            Arg::Time(value) => $query.bind(value.map(crate::store::rules::micros)),
            Arg::Id(value) => $query.bind(value),
        }
    };
    // To MySQL a time with a zone is a TIMESTAMP, which ends in 2038: the columns are DATETIME.
    ($query:expr, $arg:expr, dated) => {
        match $arg {
            Arg::Int(value) => $query.bind(value),
            Arg::Text(value) => $query.bind(value.map(Cow::into_owned)),
            Arg::Flag(value) => $query.bind(value),
            Arg::Time(value) => $query.bind(value.map(|time| crate::store::rules::micros(time).naive_utc())),
            Arg::Id(value) => $query.bind(value),
        }
    };
}
pub(super) use bind;
