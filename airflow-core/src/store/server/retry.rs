//! What went wrong, and whether trying again helps.

use std::time::Duration;

use uuid::Uuid;

use crate::store::StoreError;
use crate::store::sql::errors::TooLate;

/// How often a transaction is tried. A deadlock or a lost connection passes; what fails so often does not.
const MOST_TRIES: u32 = 6;

/// The pause before the second try at most; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What an error means for the transaction it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Class {
    /// The server took the transaction back, because of another one: a deadlock, a lock that others held for too long.
    Again,
    /// The connection is gone, or nobody knows what it did: it must not be used again.
    Broken,
    /// The request itself: trying again gives the same.
    Other,
}

/// Codes of PostgreSQL after which the transaction is certainly taken back: serialization, deadlock, lock and statement
/// time-outs.
const POSTGRES_AGAIN: [&str; 4] = ["40001", "40P01", "55P03", "57014"];

/// Codes after which the connection is of no use: shutdowns, crashes, too many connections, a server that has become
/// read-only (a failover), outdated statements. So are all that begin with `08`.
const POSTGRES_BROKEN: [&str; 9] =
    ["57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "53300", "25006", OUTDATED];

/// Statements of the connection were prepared before a newer program changed the tables.
const OUTDATED: &str = "0A000";

/// How many such connections are left behind in one call: as many as a pool has, since all may be as old.
const MOST_OUTDATED: u32 = 200;

/// Codes of MySQL and MariaDB after which the transaction can be taken back and tried again: deadlock, lock time-outs, a
/// certification conflict of a cluster.
#[cfg(feature = "mysql")]
const MYSQL_AGAIN: [u16; 5] = [1213, 1205, 3572, 3101, 1020];

/// Codes after which the connection is of no use: too many connections, shutdown, killed, idle for too long, lost, read
/// only.
#[cfg(feature = "mysql")]
const MYSQL_BROKEN: [u16; 12] = [1040, 1053, 1077, 1927, 2006, 2013, 4031, 1290, 1792, 1836, 3169, 1047];

/// Says what `error` means.
pub(in crate::store) fn class(error: &StoreError) -> Class {
    match error {
        StoreError::Unreachable { .. } => Class::Broken,
        StoreError::Database(why) if why.is::<TooLate>() => Class::Broken,
        StoreError::Database(why) => why.downcast_ref::<sqlx::Error>().map_or(Class::Other, class_of),
        // What did not fit was taken back, and may fit in a moment.
        StoreError::NoRoom(_) => Class::Again,
        _ => Class::Other,
    }
}

fn class_of(error: &sqlx::Error) -> Class {
    match error {
        sqlx::Error::Database(error) => class_of_code(&**error),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed => Class::Broken,
        _ => Class::Other,
    }
}

fn class_of_code(error: &dyn sqlx::error::DatabaseError) -> Class {
    #[cfg(feature = "mysql")]
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return class_of_mysql(error.number());
    }
    error.code().map_or(Class::Other, |code| class_of_postgres(&code))
}

#[cfg(feature = "mysql")]
fn class_of_mysql(number: u16) -> Class {
    match number {
        _ if MYSQL_AGAIN.contains(&number) => Class::Again,
        _ if MYSQL_BROKEN.contains(&number) => Class::Broken,
        _ => Class::Other,
    }
}

fn class_of_postgres(code: &str) -> Class {
    match code {
        _ if POSTGRES_AGAIN.contains(&code) => Class::Again,
        _ if POSTGRES_BROKEN.contains(&code) || code.starts_with("08") => Class::Broken,
        _ => Class::Other,
    }
}

/// Whether the database said that a row of this key exists.
pub(in crate::store) fn is_duplicate(error: &StoreError) -> bool {
    code_of(error).is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// What the database said, if it is the one that said it.
pub(in crate::store) fn code_of(error: &StoreError) -> Option<&dyn sqlx::error::DatabaseError> {
    let (StoreError::Database(why) | StoreError::NoRoom(why)) = error else { return None };
    why.downcast_ref::<sqlx::Error>()?.as_database_error()
}

/// The number or code of an error, as the database's manual lists it.
fn number_of(error: &dyn sqlx::error::DatabaseError) -> Option<String> {
    #[cfg(feature = "mysql")]
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return Some(error.number().to_string());
    }
    error.code().map(std::borrow::Cow::into_owned)
}

/// Counts the tries of one call.
#[derive(Debug)]
pub(in crate::store) struct Tries {
    done: u32,
    most: u32,
    outdated: u32,
}

impl Tries {
    pub(in crate::store) fn new() -> Self {
        Self::at_most(MOST_TRIES)
    }

    /// As many as `most`.
    pub(in crate::store) fn at_most(most: u32) -> Self {
        Self { done: 0, most, outdated: 0 }
    }

    /// Waits before the next try; `false` if there is none. The pause is a random part of what it may be, so that those
    /// who met each other do not meet again.
    pub(in crate::store) async fn again(&mut self, error: &StoreError) -> bool {
        let code = code_of(error).and_then(number_of);
        if code.as_deref() == Some(OUTDATED) && self.outdated < MOST_OUTDATED {
            self.outdated += 1;
            return true;
        }
        self.done += 1;
        tracing::info!(code, tried = self.done, %error, "a call of the database failed");
        if self.done >= self.most {
            return false;
        }
        let most = FIRST_PAUSE.saturating_mul(1 << self.done.min(16)).min(LONGEST_PAUSE);
        tokio::time::sleep(part_of(most)).await;
        true
    }
}

/// A random part of a time.
fn part_of(most: Duration) -> Duration {
    let (random, _) = Uuid::new_v4().as_u64_pair();
    let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
    Duration::from_micros(random % micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_parts_of_what_they_may_be_and_not_the_same() {
        let parts: Vec<Duration> = (0..50).map(|_| part_of(Duration::from_millis(10))).collect();
        assert!(parts.iter().all(|part| *part < Duration::from_millis(10)));
        assert!(parts.iter().collect::<std::collections::BTreeSet<_>>().len() > 25);
    }

    #[test]
    fn a_lost_connection_is_told_from_a_mistake() {
        let of = |error: sqlx::Error| class(&StoreError::Database(Box::new(error)));
        assert_eq!(of(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())), Class::Broken);
        assert_eq!(of(sqlx::Error::PoolTimedOut), Class::Broken);
        assert_eq!(of(sqlx::Error::RowNotFound), Class::Other);
        assert_eq!(class(&StoreError::Database(Box::new(TooLate(Duration::ZERO)))), Class::Broken);
        assert_eq!(class(&StoreError::NotFound("x".into())), Class::Other);
        assert_eq!(class(&StoreError::NoRoom("x".into())), Class::Again);
    }

    /// Goal: what passes is tried again, on the same connection only if it is of use. Method: the numbers of the manuals.
    #[test]
    fn codes_are_of_the_class_that_helps() {
        for (code, class) in [
            // serialization_failure, deadlock_detected, lock_not_available, query_canceled by a time-out
            ("40001", Class::Again),
            ("40P01", Class::Again),
            ("55P03", Class::Again),
            ("57014", Class::Again),
            // too_many_connections, admin_shutdown, crash_shutdown, cannot_connect_now, read only, connection_failure
            ("53300", Class::Broken),
            ("57P01", Class::Broken),
            ("57P02", Class::Broken),
            ("57P03", Class::Broken),
            ("25006", Class::Broken),
            ("08006", Class::Broken),
            ("0A000", Class::Broken),
            // unique_violation, undefined_table, and what nobody knows
            ("23505", Class::Other),
            ("42P01", Class::Other),
            ("", Class::Other),
        ] {
            assert_eq!(class_of_postgres(code), class, "{code}");
        }
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn numbers_are_of_the_class_that_helps() {
        for (number, class) in [
            // lock wait time-out, deadlock, NOWAIT, certification of a cluster
            (1205, Class::Again),
            (1213, Class::Again),
            (3572, Class::Again),
            (3101, Class::Again),
            // too many connections, shutdown, killed, gone away, lost, read only
            (1040, Class::Broken),
            (1053, Class::Broken),
            (1927, Class::Broken),
            (2006, Class::Broken),
            (2013, Class::Broken),
            (1290, Class::Broken),
            // duplicate key, no such table
            (1062, Class::Other),
            (1146, Class::Other),
        ] {
            assert_eq!(class_of_mysql(number), class, "{number}");
        }
    }
}
