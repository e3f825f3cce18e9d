//! Places at which a test lets this process die, fail or wait. Compiled in with the feature `failpoints` only, and then
//! without effect unless [`VARIABLE`] is set.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::{StoreError, StoreResult};

/// Names a point, the how manieth time it counts, and what happens then: `step.before_commit 2 abort`. Instead of
/// `abort` there are `error`, `sleep` (a second) and `record`, which only writes what is reached.
pub const VARIABLE: &str = "AIRFLOW_FAILPOINT";

/// The file in which it is noted what happened at which point: `fired NAME NUMBER`, or `reached NAME` for each time with
/// `record`.
pub const TRACE: &str = "AIRFLOW_FAILPOINT_TRACE";

/// How long `sleep` takes: longer than a poll, shorter than a lease.
const SLEEP: Duration = Duration::from_secs(1);

/// Where a point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In code that runs on every store.
    Anywhere,
    /// In the store over SQLite.
    Sqlite,
    /// In the stores on servers.
    Servers,
    /// In one of them.
    Postgres,
    /// In the other one.
    Mysql,
}

/// All points, where they are, and whether an error can come from there.
pub const POINTS: &[(&str, Place, bool)] = &[
    ("prepare.registered", Place::Anywhere, true),
    ("prepare.refreshed", Place::Anywhere, true),
    ("poll.begin", Place::Anywhere, true),
    ("reap.begin", Place::Anywhere, true),
    ("reap.ended", Place::Anywhere, true),
    ("reap.orphans", Place::Anywhere, true),
    ("fetch.before_create", Place::Anywhere, true),
    ("fetch.after_create", Place::Anywhere, true),
    ("fetch.before_claim", Place::Anywhere, true),
    ("fetch.after_claim", Place::Anywhere, true),
    ("fetch.loaded", Place::Anywhere, true),
    ("step.before_commit", Place::Anywhere, true),
    ("step.after_commit", Place::Anywhere, true),
    ("step.before_submit", Place::Anywhere, false),
    ("step.after_submit", Place::Anywhere, false),
    ("report.taken", Place::Anywhere, false),
    ("notices.list", Place::Anywhere, true),
    ("notices.before_delete", Place::Anywhere, false),
    ("notices.after_delete", Place::Anywhere, false),
    ("lease.before_beat", Place::Anywhere, false),
    ("lease.after_beat", Place::Anywhere, false),
    ("shutdown.begin", Place::Anywhere, false),
    ("shutdown.stopped", Place::Anywhere, false),
    ("shutdown.goodbye", Place::Anywhere, false),
    ("create.begin", Place::Anywhere, true),
    ("create.end", Place::Anywhere, true),
    ("claim.between", Place::Anywhere, true),
    ("sqlite.before_commit", Place::Sqlite, true),
    ("sqlite.after_commit", Place::Sqlite, true),
    ("sqlite.before_end", Place::Sqlite, true),
    ("sqlite.after_end", Place::Sqlite, true),
    ("server.before_commit", Place::Servers, true),
    ("server.after_commit", Place::Servers, true),
    ("postgres.before_call", Place::Postgres, true),
    ("postgres.after_call", Place::Postgres, false),
    ("migrate.step", Place::Anywhere, true),
    ("migrate.between", Place::Mysql, true),
    ("migrate.done", Place::Anywhere, true),
];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    point: String,
    number: u32,
    action: String,
}

impl Plan {
    fn of(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (point, number, action) = (words.next()?, words.next()?, words.next()?);
        Some(Self { point: point.to_owned(), number: number.parse().ok()?, action: action.to_owned() })
    }
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| Plan::of(&std::env::var(VARIABLE).ok()?)).as_ref()
}

fn note(line: &str) {
    let Some(path) = std::env::var_os(TRACE) else { return };
    if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) {
        // A test that misses the line fails.
        file.write_all(format!("{line}\n").as_bytes()).ok();
    }
}

/// What happens at this point now, if anything: `error`, or nothing more.
async fn happens(point: &'static str) -> Option<StoreError> {
    static REACHED: OnceLock<Mutex<HashMap<&'static str, u32>>> = OnceLock::new();
    debug_assert!(POINTS.iter().any(|(name, ..)| *name == point), "{point} is in the list");
    let plan = plan()?;
    if plan.action == "record" {
        note(&format!("reached {point}"));
        return None;
    }
    if plan.point != point {
        return None;
    }
    let number = {
        let mut reached = REACHED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        let number = reached.entry(point).or_insert(0);
        *number += 1;
        *number
    };
    if number != plan.number {
        return None;
    }
    note(&format!("fired {point} {number}"));
    match plan.action.as_str() {
        "abort" => std::process::abort(),
        "sleep" => tokio::time::sleep(SLEEP).await,
        _ => return Some(StoreError::Database(format!("failpoint {point}").into())),
    }
    None
}

/// A point at which an error can come up.
pub(crate) async fn reach(point: &'static str) -> StoreResult<()> {
    happens(point).await.map_or(Ok(()), Err)
}

/// A point at which there is nobody to tell of an error.
pub(crate) async fn pass(point: &'static str) {
    happens(point).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_three_words() {
        let plan = Plan::of("step.before_commit 2 abort").unwrap();
        assert_eq!(
            (plan.point.as_str(), plan.number, plan.action.as_str()),
            ("step.before_commit", 2, "abort")
        );
        assert_eq!(Plan::of("step.before_commit"), None);
    }

    #[tokio::test]
    async fn nothing_happens_without_a_plan() {
        for (point, ..) in POINTS {
            assert!(reach(point).await.is_ok());
        }
    }
}
