//! What must hold once everything is at rest, whatever was done in between.

use std::collections::{BTreeMap, BTreeSet};

use airflow_core::state::TaskState;
use airflow_core::store::{EventRow, RunFilter, RunRow, SharedStore};
use serde_json::{Value, json};

use crate::ledger::Bodies;
use crate::workload::{LOAD, POINTS, POOL, Plan, expected, planned_bodies};

/// A process that was ended from outside: its pid, and when, on the clock of the ledger.
pub(crate) type Kill = (u32, u64);

/// What was found. All of these must be zero, but for what is explained.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub lost: usize,
    pub restarts_of_attempts: usize,
    pub unexplained: usize,
    pub explained: usize,
    pub overlaps: usize,
    pub illegal: usize,
    pub limit_violations: usize,
    pub duplicate_runs: usize,
    pub residue: usize,
    /// Words on the first few of them.
    pub details: Vec<String>,
}

/// More than this many words help nobody.
const MOST_DETAILS: usize = 20;

impl Findings {
    pub(crate) fn is_clean(&self) -> bool {
        let counts = [
            self.lost,
            self.restarts_of_attempts,
            self.unexplained,
            self.overlaps,
            self.illegal,
            self.limit_violations,
            self.duplicate_runs,
            self.residue,
        ];
        counts.iter().sum::<usize>() == 0
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "lost": self.lost, "restarts_of_attempts": self.restarts_of_attempts,
            "unexplained_duplicates": self.unexplained, "explained_duplicates": self.explained,
            "overlaps": self.overlaps, "illegal": self.illegal, "limit_violations": self.limit_violations,
            "duplicate_runs": self.duplicate_runs, "residue": self.residue, "details": self.details,
        })
    }

    fn say(&mut self, text: String) {
        if self.details.len() < MOST_DETAILS {
            self.details.push(text);
        }
    }
}

type Error = Box<dyn std::error::Error>;

/// Looks at everything: the store against the plan, the store against itself, the ledger against both.
pub(crate) async fn look(
    store: &SharedStore,
    bodies: &Bodies,
    kills: &[Kill],
    plan: Plan,
) -> Result<Findings, Error> {
    let mut found = Findings::default();
    let runs = store.runs(&RunFilter::default()).await?;
    let mut dates = BTreeSet::new();
    for run in &runs {
        if run.dag_id == *POINTS && !dates.insert(run.logical_date) {
            found.duplicate_runs += 1;
            found.say(format!("two runs of {} for {}", run.dag_id, run.logical_date));
        }
        look_at_run(store, run, plan, &mut found).await?;
    }
    look_at_bodies(bodies, kills, plan, &mut found);
    look_at_pool(bodies, kills, &mut found);
    for (key, used) in store.slots().await?.into_iter().filter(|(_, used)| *used != 0) {
        found.residue += 1;
        found.say(format!("{used} still taken of {key}"));
    }
    let untold = store.notices().await?.len();
    found.residue += untold;
    if untold > 0 {
        found.say(format!("{untold} notices were not told"));
    }
    Ok(found)
}

async fn look_at_run(
    store: &SharedStore,
    run: &RunRow,
    plan: Plan,
    found: &mut Findings,
) -> Result<(), Error> {
    let tis: BTreeMap<(String, i32), TaskState> = store
        .task_instances(run.pk)
        .await?
        .into_iter()
        .map(|ti| ((ti.task_id.to_string(), ti.map_index.0), ti.state))
        .collect();
    let (run_state, wanted) = if run.dag_id == *LOAD {
        expected(plan, run.run_id.as_str())
    } else {
        let success = BTreeMap::from([(("point".to_owned(), -1), TaskState::Success)]);
        (airflow_core::state::RunState::Success, success)
    };
    if run.state != run_state {
        found.lost += 1;
        found.say(format!("{} {}: expected {run_state}, is {}", run.dag_id, run.run_id, run.state));
    }
    for (ti, state) in &wanted {
        let is = tis.get(ti).copied().unwrap_or(TaskState::None);
        if is != *state {
            found.lost += 1;
            found.say(format!("{} {} {ti:?}: expected {state}, is {is}", run.dag_id, run.run_id));
        }
    }
    let mut last: BTreeMap<(String, i32), EventRow> = BTreeMap::new();
    for event in store.events(run.pk, None).await? {
        let ti = (event.task_id.to_string(), event.map_index.0);
        let (epoch, from) = last.get(&ti).map_or((0, TaskState::None), |last| (last.epoch, last.to));
        let legal = event.from.on(event.event).is_ok_and(|transition| transition.to() == event.to);
        if event.epoch != epoch + 1 || event.from != from || !legal {
            found.illegal += 1;
            found.say(format!(
                "{} {} {ti:?}: after epoch {epoch} ({from}) comes {event:?}",
                run.dag_id, run.run_id
            ));
        }
        last.insert(ti, event);
    }
    for (ti, event) in last {
        if tis.get(&ti) != Some(&event.to) {
            found.illegal += 1;
            found.say(format!("{} {} {ti:?}: is not what its last event says", run.dag_id, run.run_id));
        }
    }
    let open = store.attempts(run.pk, None).await?.iter().filter(|row| row.end.is_none()).count();
    found.residue += open;
    if open > 0 {
        found.say(format!("{} {}: {open} attempts have not ended", run.dag_id, run.run_id));
    }
    Ok(())
}

/// Every body beyond those that the plan asks for needs a killed process before it; none starts before the one before it
/// has ended or its process was killed.
fn look_at_bodies(bodies: &Bodies, kills: &[Kill], plan: Plan, found: &mut Findings) {
    let killed = |pid: u32| kills.iter().find(|(other, _)| *other == pid).map(|(_, at)| *at);
    for (ti, list) in bodies {
        let mut parts = ti.rsplitn(3, '/');
        let map = parts.next().and_then(|map| map.parse().ok()).unwrap_or(-1);
        let task = parts.next().unwrap_or_default();
        let run = parts.next().and_then(|rest| rest.split_once('/')).map_or("", |(_, run)| run);
        let attempts: BTreeSet<&str> = list.iter().map(|body| body.attempt.as_str()).collect();
        if attempts.len() < list.len() {
            found.restarts_of_attempts += list.len() - attempts.len();
            found.say(format!("{ti}: the body of one attempt started twice"));
        }
        let beyond = list.len().saturating_sub(planned_bodies(plan, run, task, map));
        let explained = list.iter().filter(|body| killed(body.pid).is_some()).count().min(beyond);
        found.explained += explained;
        if beyond > explained {
            found.unexplained += beyond - explained;
            found.say(format!("{ti}: {} bodies, {} kills of their processes", list.len(), explained));
        }
        for pair in list.windows(2) {
            let over = [pair[0].ended, killed(pair[0].pid)].into_iter().flatten().min();
            if over.is_none_or(|over| over > pair[1].started) {
                found.overlaps += 1;
                found.say(format!("{ti}: {:?} and {:?} overlap", pair[0], pair[1]));
            }
        }
    }
}

/// At no moment do more bodies run than the pool has slots.
fn look_at_pool(bodies: &Bodies, kills: &[Kill], found: &mut Findings) {
    let mut steps: Vec<(u64, i32)> = Vec::new();
    for (_, list) in bodies.iter().filter(|(ti, _)| ti.contains("/fan_")) {
        for body in list {
            let killed = kills.iter().find(|(pid, _)| *pid == body.pid).map(|(_, at)| *at);
            let end = [body.ended, killed].into_iter().flatten().min();
            steps.push((body.started, 1));
            steps.extend(end.map(|end| (end.max(body.started), -1)));
        }
    }
    // What ends at the same moment makes room first.
    steps.sort_unstable();
    let mut now = 0;
    for (_, step) in steps {
        now += step;
        if now > POOL.1 {
            found.limit_violations += 1;
            found.say(format!("{now} tasks at once in a pool of {}", POOL.1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::parse;

    fn of(text: &str, kills: &[Kill]) -> Findings {
        let mut found = Findings::default();
        let bodies = parse(text).expect("a sound ledger");
        let plan = Plan {
            seed: (0..100).find(|seed| planned_bodies(Plan { seed: *seed }, "r", "t", -1) == 1).expect("one"),
        };
        look_at_bodies(&bodies, kills, plan, &mut found);
        look_at_pool(&bodies, kills, &mut found);
        found
    }

    #[test]
    fn a_second_body_needs_a_kill() {
        let ledger = "S a load/r/t/-1 1 7 100\nS b load/r/t/-1 1 8 300\nE b load/r/t/-1 1 8 400\n";
        let found = of(ledger, &[(7, 200)]);
        assert!(found.is_clean() && found.explained == 1, "{found:?}");
        let found = of(ledger, &[]);
        assert_eq!((found.unexplained, found.overlaps), (1, 1));
    }

    #[test]
    fn an_attempt_that_starts_twice_and_an_overlap_are_seen() {
        let twice = "S a load/r/t/-1 1 7 100\nS a load/r/t/-1 1 8 300\nE a load/r/t/-1 1 8 400\n";
        assert_eq!(of(twice, &[(7, 200)]).restarts_of_attempts, 1);
        let early = "S a load/r/t/-1 1 7 100\nS b load/r/t/-1 1 8 150\nE b load/r/t/-1 1 8 400\n";
        assert_eq!(of(early, &[(7, 200)]).overlaps, 1);
    }

    #[test]
    fn a_pool_that_is_too_full_is_seen() {
        let starts = |count: i32| -> String {
            let lines: Vec<String> =
                (0..count).map(|i| format!("S a{i} load/r/fan_{i}/-1 1 7 {i}\n")).collect();
            lines.concat()
        };
        assert_eq!(of(&starts(POOL.1), &[]).limit_violations, 0);
        assert_eq!(of(&starts(POOL.1 + 1), &[]).limit_violations, 1);
    }
}
