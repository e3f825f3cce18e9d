//! A look at a live database: whether it is as the engine leaves it. Reads only.
//!
//! Start with [`doctor`]. What breaks a rule of the store is found by [`Store::examine`](crate::store::Store::examine); here
//! it gets its place and its cure in words, and what is taken of limits is compared with what is held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::id::{DagId, MapIndex, RunId, RunPk, TaskId};
use crate::scheduler::seems_alive;
use crate::store::{Anomaly, Held, Rows, Rule, SlotCount, SlotKey, Store, StoreResult};
use crate::time::Clock;

use super::Airflow;
use super::waiting::stranded;

/// How many findings of one check are kept; more have one cause.
const MOST: usize = 100;

/// From how far on the clocks of this machine and of the database count as apart: leases are in the time of the database,
/// but schedules are in that of the machine.
const CLOCKS_APART: Duration = Duration::from_secs(2);

/// From how far on they are a fault: runs come a minute early or late.
const CLOCKS_WRONG: Duration = Duration::from_secs(60);

/// How long something may wait for a process that is not there: one that starts says what it has after a moment.
const STRANDED_AFTER: Duration = Duration::from_secs(60);

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It may be on purpose, or passes by itself.
    Warning,
    /// It must not be.
    Error,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which check found it: `schema`, `durability`, `clock`, `watchers_work`, `stranded` or the word of a [`Rule`].
    pub check: &'static str,
    /// Where, for people.
    pub place: String,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub cure: String,
    /// The dag, if it is of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dag_id: Option<DagId>,
    /// The run, if it is of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// The task, if it is of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// The instance of a mapped task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map_index: Option<MapIndex>,
}

/// What [`doctor`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Checkup {
    /// What is not as it should be.
    pub findings: Vec<Finding>,
    /// How many more there are of a check of which enough is said.
    pub more: BTreeMap<&'static str, u64>,
}

impl Checkup {
    /// Whether nothing is wrong; warnings do not count.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Warning)
    }

    fn add(&mut self, finding: Finding) {
        let of_check = self.findings.iter().filter(|other| other.check == finding.check).count();
        if of_check < MOST {
            self.findings.push(finding);
        } else {
            *self.more.entry(finding.check).or_default() += 1;
        }
    }

    fn say(&mut self, severity: Severity, check: &'static str, place: &str, found: String, cure: &str) {
        self.add(Finding {
            severity,
            check,
            place: place.to_owned(),
            found,
            cure: cure.to_owned(),
            dag_id: None,
            run_id: None,
            task_id: None,
            map_index: None,
        });
    }
}

impl Airflow {
    /// Looks whether its database is as the engine leaves it; see [`doctor`].
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn doctor(&self) -> StoreResult<Checkup> {
        doctor(&**self.store(), &**self.clock()).await
    }
}

/// Looks at all rows of a database for what the engine never leaves behind: gaps and illegal steps in the history of task
/// instances, attempts of nobody, limits that are counted wrong, rows that refer to nothing, clocks that are apart. Reads
/// only; the engine may be at work meanwhile. The time it takes grows with the rows, the memory does not.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use airflow_core::app::doctor;
/// use airflow_core::store::SqliteStore;
/// use airflow_core::time::SystemClock;
///
/// let store = SqliteStore::open("airflow.db").await?;
/// let checkup = doctor(&store, &SystemClock).await?;
/// for finding in &checkup.findings {
///     println!("{}: {} ({})", finding.place, finding.found, finding.cure);
/// }
/// assert!(checkup.is_sound());
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// If the store fails, and for the store in memory, which has no rows.
pub async fn doctor(store: &dyn Store, clock: &dyn Clock) -> StoreResult<Checkup> {
    let mut checkup = Checkup::default();
    if !look_at_schema(store, &mut checkup).await? {
        return Ok(checkup);
    }
    let alive = store.incarnations().await?;
    let alive = alive.iter().any(|one| one.process.kind == "scheduler" && seems_alive(one));
    let mut rows = vec![Rows::OfAll, Rows::OfRunsAfter(RunPk(0))];
    while let Some(next) = rows.pop() {
        let examined = store.examine(next).await?;
        examined.anomalies.into_iter().for_each(|anomaly| checkup.add(finding(anomaly, alive)));
        rows.extend(examined.last.map(Rows::OfRunsAfter));
    }
    let before = clock.now();
    let count = store.slot_count().await?;
    look_at_clocks(store, (before, clock.now()), count.now, &mut checkup);
    look_at_slots(&count, &mut checkup);
    look_at_limits(store, &count, &mut checkup).await?;
    look_at_watchers(store, &mut checkup).await?;
    look_at_stranded(store, count.now, &mut checkup).await?;
    Ok(checkup)
}

/// Looks for what waits for processes that are not there.
async fn look_at_stranded(store: &dyn Store, now: DateTime<Utc>, checkup: &mut Checkup) -> StoreResult<()> {
    const CURE: &str = "start such a process; the rest works meanwhile";
    let all = stranded(store, now).await?;
    for stranded in all.into_iter().filter(|one| one.oldest_age >= STRANDED_AFTER.as_secs_f64()) {
        let place = format!("{} `{}`", stranded.kind, stranded.name);
        checkup.say(Severity::Warning, "stranded", &place, stranded.reason, CURE);
    }
    Ok(())
}

/// Looks for watchers of assets that fail.
async fn look_at_watchers(store: &dyn Store, checkup: &mut Checkup) -> StoreResult<()> {
    const CURE: &str = "correct what it says; the watcher is called again by itself";
    for row in store.watchers().await?.iter().filter(|row| row.is_wanted && row.failures > 0) {
        let place = format!("watcher `{}` of asset `{}`", row.key.name, row.asset);
        let error = row.error.as_deref().unwrap_or_default();
        let found = format!("it has failed {} times in a row: {error}", row.failures);
        checkup.say(Severity::Warning, "watchers_work", &place, found, CURE);
    }
    Ok(())
}

/// Looks at the version of the tables and at what keeps commits; says whether the tables can be looked at.
async fn look_at_schema(store: &dyn Store, checkup: &mut Checkup) -> StoreResult<bool> {
    let (status, place) = (store.check().await?, store.place());
    if status.fits().is_err() {
        let found =
            format!("the tables have version {}, this program needs {}", status.version, status.needed);
        let cure = if status.version < status.needed {
            "run `db migrate`"
        } else {
            "update this program, or use the one that made these tables"
        };
        checkup.say(Severity::Error, "schema", &place, found, cure);
        return Ok(false);
    }
    for (fact, value) in &status.facts {
        let wanted = match (fact.as_str(), value.as_str()) {
            ("journal_mode", "wal") => continue,
            ("journal_mode", _) => "`PRAGMA journal_mode = wal`: opening the file with this program sets it",
            ("synchronous", "off") => "set `synchronous` to `normal` or `full`",
            ("fsync", "off") => "set `fsync = on`: a crash of the machine can destroy the database",
            ("synchronous_commit", "off") => "set `synchronous_commit = on`: a crash loses the last commits",
            ("innodb_flush_log_at_trx_commit", "0" | "2") => {
                "set `innodb_flush_log_at_trx_commit = 1`: a crash loses the last commits"
            }
            _ => continue,
        };
        checkup.say(Severity::Warning, "durability", &place, format!("`{fact}` is `{value}`"), wanted);
    }
    Ok(true)
}

fn look_at_clocks(
    store: &dyn Store,
    (before, after): (DateTime<Utc>, DateTime<Utc>),
    there: DateTime<Utc>,
    checkup: &mut Checkup,
) {
    // Somewhere between the two the database read its clock.
    let apart = if there < before {
        before - there
    } else if there > after {
        there - after
    } else {
        TimeDelta::zero()
    };
    let apart = apart.to_std().unwrap_or_default();
    if apart <= CLOCKS_APART {
        return;
    }
    let severity = if apart > CLOCKS_WRONG { Severity::Error } else { Severity::Warning };
    let found = format!(
        "the clock of this machine is {} by {:.1} s against that of the database",
        if there < before { "ahead" } else { "behind" },
        apart.as_secs_f64()
    );
    checkup.say(severity, "clock", &store.place(), found, "let both machines keep their time by NTP");
}

/// Compares what is taken of limits with what is held.
fn look_at_slots(count: &SlotCount, checkup: &mut Checkup) {
    let taken: BTreeMap<&SlotKey, i64> = count.taken.iter().map(|(key, used)| (key, *used)).collect();
    let (held, whole) = held(count);
    let keys: BTreeSet<&SlotKey> = taken.keys().copied().chain(held.keys()).collect();
    for key in keys {
        let (used, held) = (taken.get(key).copied(), held.get(key).copied().unwrap_or(0));
        match key {
            // Counted only where there is such a limit.
            SlotKey::Task(..) if used.is_none() => continue,
            // Some task is unknown, and so is its pool.
            SlotKey::Pool(_) | SlotKey::Deferred(_) if !whole => continue,
            _ => {}
        }
        let used = used.unwrap_or(0);
        if used == held {
            continue;
        }
        let (kind, name, task) = columns(key);
        let cure = format!(
            "rows were changed by hand, or by an older version of this library. Stop all schedulers and let nothing run; \
             then this must be empty, else: DELETE FROM af_slot WHERE kind = {kind} AND name = '{name}' AND task_id = \
             '{task}'"
        );
        let found = format!("{used} are taken, task instances and runs hold {held}");
        checkup.say(Severity::Error, Rule::SlotsCounted.as_str(), &key.to_string(), found, &cure);
    }
}

/// What task instances and runs hold, and whether the pools of all are known.
fn held(count: &SlotCount) -> (BTreeMap<SlotKey, i64>, bool) {
    let mut held: BTreeMap<SlotKey, i64> = BTreeMap::new();
    let mut whole = true;
    let pools: BTreeMap<(&DagId, &TaskId), (&String, i64)> = count
        .dags
        .iter()
        .flat_map(|dag| {
            dag.pools.iter().map(move |(task, pool, slots)| ((&dag.dag_id, task), (pool, *slots)))
        })
        .collect();
    for one in &count.instances {
        // Without a pool, what else is held is known all the same.
        let guess = || {
            let pool = pools.get(&(&one.dag_id, &one.task_id));
            whole &= pool.is_some();
            let (pool, slots) = pool.map_or((String::new(), 0), |(pool, slots)| ((*pool).clone(), *slots));
            Arc::new(Held { pool, slots: u32::try_from(slots).unwrap_or(0), counts_for_task: true })
        };
        let holds = one.holds.clone().unwrap_or_else(guess);
        for (key, slots) in holds.slots(one.state, &one.dag_id, &one.task_id) {
            *held.entry(key).or_default() += one.number * slots;
        }
    }
    held.retain(|_, slots| *slots > 0);
    held.extend(count.runs.iter().map(|(dag, number)| (SlotKey::Runs(dag.clone()), *number)));
    (held, whole)
}

/// A limit as it is stored.
fn columns(key: &SlotKey) -> (u8, String, String) {
    let quoted = |text: &str| text.replace('\'', "''");
    match key {
        SlotKey::Pool(name) => (0, quoted(name), String::new()),
        SlotKey::Dag(dag) => (1, quoted(dag.as_str()), String::new()),
        SlotKey::Task(dag, task) => (2, quoted(dag.as_str()), quoted(task.as_str())),
        SlotKey::Runs(dag) => (3, quoted(dag.as_str()), String::new()),
        SlotKey::Deferred(pool) => (4, quoted(pool), String::new()),
    }
}

/// Compares what is taken with what there is.
async fn look_at_limits(store: &dyn Store, count: &SlotCount, checkup: &mut Checkup) -> StoreResult<()> {
    const CURE: &str = "if the limit was made smaller meanwhile, this passes when what runs has ended";
    let mut limits: Vec<(SlotKey, i64, i64)> = Vec::new();
    for pool in store.pools().await? {
        let (name, slots, occupied) = (pool.spec.name.clone(), i64::from(pool.spec.slots), pool.occupied());
        limits.push((SlotKey::Pool(name), slots, occupied));
    }
    let taken =
        |key: &SlotKey| count.taken.iter().find(|(other, _)| other == key).map_or(0, |(_, used)| *used);
    for dag in &count.dags {
        for (key, limit) in [
            (SlotKey::Dag(dag.dag_id.clone()), dag.max_active_tasks),
            (SlotKey::Runs(dag.dag_id.clone()), dag.max_active_runs),
        ] {
            limits.extend(limit.map(|limit| (key.clone(), limit, taken(&key))));
        }
        for (task, limit) in &dag.tasks {
            let key = SlotKey::Task(dag.dag_id.clone(), task.clone());
            let used = taken(&key);
            limits.push((key, *limit, used));
        }
    }
    for (key, limit, used) in limits.into_iter().filter(|(_, limit, used)| *limit >= 0 && used > limit) {
        let found = format!("{used} are taken, there are {limit}");
        checkup.say(Severity::Warning, Rule::LimitsKept.as_str(), &key.to_string(), found, CURE);
    }
    Ok(())
}

/// What an anomaly means for people.
fn finding(anomaly: Anomaly, alive: bool) -> Finding {
    const CLEAR: &str = "clear the task instance, or mark it: what follows is sound again";
    const FOREIGN: &str = "somebody wrote to the tables past the engine: restore a backup, or delete the run";
    let waits = if alive { Severity::Error } else { Severity::Warning };
    let of_the_dead = if alive {
        "a scheduler is alive and should have seen to it: look at its log, then restart it"
    } else {
        "no scheduler is alive: start one, it takes over"
    };
    let (severity, cure) = match anomaly.rule {
        Rule::EpochsContiguous | Rule::EventsChained | Rule::TransitionsLegal => (Severity::Error, FOREIGN),
        Rule::StateIsLastEvent => (Severity::Error, FOREIGN),
        Rule::OneOpenAttempt | Rule::AttemptsFitStates => (Severity::Error, CLEAR),
        Rule::AttemptsOfTheLiving | Rule::NoticesTold | Rule::OwnersAlive => (waits, of_the_dead),
        Rule::QueuedAreSent => (
            Severity::Warning,
            "a scheduler that has this version of the dag takes the run over within a minute and sends it; if this stays, \
             start one, or clear the task instance",
        ),
        Rule::OneRunPerDate => (Severity::Error, "delete one of the runs"),
        Rule::RunsFitInstances => (Severity::Error, "clear the run, or mark it: then its instances follow"),
        Rule::NoOrphanRows => (Severity::Error, "delete these rows; who deleted what they belonged to?"),
        Rule::SlotsCounted | Rule::LimitsKept => (Severity::Error, FOREIGN),
    };
    let mut place = Vec::new();
    place.extend(anomaly.dag_id.as_ref().map(|dag| format!("dag `{dag}`")));
    place.extend(anomaly.run_id.as_ref().map(|run| format!("run `{run}`")));
    place.extend(anomaly.task_id.as_ref().map(|task| format!("task `{task}`")));
    let map_index = anomaly.map_index.filter(|index| *index != MapIndex::UNMAPPED);
    place.extend(map_index.map(|index| format!("instance {index}")));
    Finding {
        severity,
        check: anomaly.rule.as_str(),
        place: if place.is_empty() { "all rows".to_owned() } else { place.join(", ") },
        found: anomaly.found,
        cure: cure.to_owned(),
        dag_id: anomaly.dag_id,
        run_id: anomaly.run_id,
        task_id: anomaly.task_id,
        map_index,
    }
}
