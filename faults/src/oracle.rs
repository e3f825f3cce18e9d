//! What must hold once everything is at rest, whatever was done in between.

use std::collections::{BTreeMap, BTreeSet};

use airflow_core::state::TaskState;
use airflow_core::store::{EventRow, RunFilter, RunRow, SharedStore};
use serde_json::{Value, json};

use crate::ledger::{Bodies, Body};
use crate::workload::{MOST_OF_EACH, POINTS, POOL, Plan, expected, planned_bodies};

/// What was done to the processes, by their pids, on the clock of the ledger.
#[derive(Debug, Clone, Default)]
pub(crate) struct Strikes {
    /// Ended: when at the latest.
    pub kills: Vec<(u32, u64)>,
    /// Stood still: from when to when.
    pub freezes: Vec<(u32, u64, u64)>,
    /// Times in which no process could renew its lease: it stops its attempts.
    pub outages: Vec<(u64, u64)>,
    /// Times in which one process could not: from when to when.
    pub outages_of: Vec<(u32, u64, u64)>,
}

/// How long before a kill a body may have ended without its end being written.
const UNWRITTEN: u64 = 2_000_000_000;

/// How long a body that stood still with its process may go on before it is stopped.
const WAKING: u64 = 1_000_000_000;

impl Strikes {
    fn kill(&self, pid: u32) -> Option<u64> {
        self.kills.iter().find(|(other, _)| *other == pid).map(|(_, at)| *at)
    }

    /// When a process stood still that did not in the middle of a body.
    fn freeze(&self, body: &Body) -> Option<(u64, u64)> {
        let ended = body.ended.unwrap_or(u64::MAX);
        let hits = |(pid, from, until): &&(u32, u64, u64)| {
            *pid == body.pid
                && (body.started < *until || self.is_awaking(body))
                && ended.saturating_add(UNWRITTEN) > *from
        };
        self.freezes.iter().find(hits).map(|(_, from, until)| (*from, *until))
    }

    /// Whether the body was handed out before its process stood still, began when it woke, and was stopped at once.
    fn is_awaking(&self, body: &Body) -> bool {
        self.freezes.iter().any(|(pid, _, until)| {
            let near = *until..until.saturating_add(WAKING);
            *pid == body.pid && body.stopped && near.contains(&body.started)
        })
    }

    /// Whether the body may have to run once more.
    fn excuse(&self, body: &Body) -> bool {
        let ended = body.ended.unwrap_or(u64::MAX);
        let cut = |at: u64| body.stopped || ended.saturating_add(UNWRITTEN) > at;
        self.kill(body.pid).is_some_and(cut)
            || self.freeze(body).is_some()
            || self.outages_of.iter().any(|(pid, from, until)| {
                *pid == body.pid && body.started < *until && ended.saturating_add(UNWRITTEN) > *from
            })
            || self
                .outages
                .iter()
                .any(|(from, until)| body.started < *until && ended.saturating_add(UNWRITTEN) > *from)
    }

    /// When a body was over for all others, and whether it went on later nevertheless, until when.
    fn over(&self, body: &Body) -> (Option<u64>, Option<(u64, u64)>) {
        let end = [body.ended, self.kill(body.pid)].into_iter().flatten().min();
        match self.freeze(body) {
            Some((from, until)) if end.is_none_or(|end| end > from) => {
                (Some(from.max(body.started)), Some((until, end.unwrap_or(u64::MAX))))
            }
            _ => (end, None),
        }
    }
}

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
    /// Instances with more or fewer tries than the plan asks for: what is lost with its process costs none.
    pub tries: usize,
    /// Bodies that went on for a moment when their process woke, beside the attempt after them; the longest.
    pub wakings: usize,
    pub waking_ms: u64,
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
            self.tries,
        ];
        counts.iter().sum::<usize>() == 0
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "lost": self.lost, "restarts_of_attempts": self.restarts_of_attempts,
            "unexplained_duplicates": self.unexplained, "explained_duplicates": self.explained,
            "overlaps": self.overlaps, "illegal": self.illegal, "limit_violations": self.limit_violations,
            "duplicate_runs": self.duplicate_runs, "residue": self.residue, "tries_not_planned": self.tries,
            "overlaps_admitted": { "count": self.wakings, "longest_ms": self.waking_ms }, "details": self.details,
        })
    }

    fn say(&mut self, text: String) {
        if self.details.len() < MOST_DETAILS {
            self.details.push(text);
        }
    }
}

type Error = Box<dyn std::error::Error>;

/// Looks at everything: the store against the plan, the store against itself, the ledger against both. Without a plan,
/// because users changed things, what must come of it is not known: then only laws are looked at.
pub(crate) async fn look(
    store: &SharedStore,
    bodies: &Bodies,
    strikes: &Strikes,
    plan: Option<Plan>,
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
    match plan {
        Some(plan) => {
            look_at_bodies(bodies, strikes, plan, &mut found);
            look_at_limits(bodies, strikes, &mut found);
        }
        None => {
            look_at_attempts(bodies, &mut found);
            look_at_overlaps_of_changed(bodies, &mut found);
        }
    }
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
    plan: Option<Plan>,
    found: &mut Findings,
) -> Result<(), Error> {
    let rows = store.task_instances(run.pk).await?;
    let tis: BTreeMap<(String, i32), TaskState> =
        rows.iter().map(|ti| ((ti.task_id.to_string(), ti.map_index.0), ti.state)).collect();
    look_at_events(store, run, &tis, found).await?;
    let open = store.attempts(run.pk, None).await?.iter().filter(|row| row.end.is_none()).count();
    found.residue += open;
    if open > 0 {
        found.say(format!("{} {}: {open} attempts have not ended", run.dag_id, run.run_id));
    }
    let Some(plan) = plan else {
        found.lost += usize::from(!run.state.is_finished());
        return Ok(());
    };
    for ti in rows.iter().filter(|ti| matches!(ti.state, TaskState::Success | TaskState::Failed)) {
        let (run, task) = (run.run_id.as_str(), ti.task_id.as_str());
        let planned = planned_bodies(plan, run, task, ti.map_index.0);
        if usize::try_from(ti.data.try_number).ok() != Some(planned) {
            found.tries += 1;
            found.say(format!(
                "{run} {task} {}: {} tries, planned are {planned}",
                ti.map_index.0, ti.data.try_number
            ));
        }
    }
    let (run_state, wanted) = expected(plan, run.dag_id.as_str(), run.run_id.as_str());
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
    Ok(())
}

/// Epochs are 1, 2, 3, …, each step is one that the state machine knows, and the last one leads to what is.
async fn look_at_events(
    store: &SharedStore,
    run: &RunRow,
    tis: &BTreeMap<(String, i32), TaskState>,
    found: &mut Findings,
) -> Result<(), Error> {
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
    Ok(())
}

/// The run, the task and the map index in the name of an instance in the ledger.
pub(crate) fn parts_of(ti: &str) -> (&str, &str, i32) {
    let mut parts = ti.rsplitn(3, '/');
    let map = parts.next().and_then(|map| map.parse().ok()).unwrap_or(-1);
    let task = parts.next().unwrap_or_default();
    let run = parts.next().and_then(|rest| rest.split_once('/')).map_or("", |(_, run)| run);
    (run, task, map)
}

/// The body of an attempt starts once.
fn look_at_attempts(bodies: &Bodies, found: &mut Findings) {
    for (ti, list) in bodies {
        let attempts: BTreeSet<&str> = list.iter().map(|body| body.attempt.as_str()).collect();
        if attempts.len() < list.len() {
            found.restarts_of_attempts += list.len() - attempts.len();
            found.say(format!("{ti}: the body of one attempt started twice"));
        }
    }
}

/// Every body beyond those that the plan asks for needs a killed process before it; none starts before the one before it
/// has ended or its process was killed.
fn look_at_bodies(bodies: &Bodies, strikes: &Strikes, plan: Plan, found: &mut Findings) {
    look_at_attempts(bodies, found);
    for (ti, list) in bodies {
        let (run, task, map) = parts_of(ti);
        let beyond = list.len().saturating_sub(planned_bodies(plan, run, task, map));
        let explained = list.iter().filter(|body| strikes.excuse(body)).count().min(beyond);
        found.explained += explained;
        if beyond > explained {
            found.unexplained += beyond - explained;
            found.say(format!("{ti}: {} bodies, {explained} explained: {list:?}", list.len()));
        }
        let (awaking, awake): (Vec<&Body>, Vec<&Body>) =
            list.iter().partition(|body| strikes.is_awaking(body));
        for body in awaking {
            let time = body.ended.unwrap_or(u64::MAX).saturating_sub(body.started);
            found.waking_ms = found.waking_ms.max(time / 1_000_000);
            found.wakings += 1;
            found.overlaps += usize::from(time > WAKING);
        }
        for pair in awake.windows(2) {
            let (over, again) = strikes.over(pair[0]);
            let next_end = pair[1].ended.unwrap_or(u64::MAX);
            // It woke up and went on: a moment of that is admitted.
            let woken = again
                .map_or(0, |(from, until)| until.min(next_end).saturating_sub(from.max(pair[1].started)));
            found.waking_ms = found.waking_ms.max(woken / 1_000_000);
            found.wakings += usize::from(woken > 0);
            if over.is_none_or(|over| over > pair[1].started) || woken > WAKING {
                found.overlaps += 1;
                found.say(format!("{ti}: {:?} and {:?} overlap", pair[0], pair[1]));
            }
        }
    }
}

/// What people marked may go on for a moment until it is told to stop; then others may have begun.
fn look_at_overlaps_of_changed(bodies: &Bodies, found: &mut Findings) {
    for (ti, list) in bodies {
        for pair in list.windows(2) {
            let both = pair[0].ended.unwrap_or(u64::MAX).saturating_sub(pair[1].started);
            found.wakings += usize::from(both > 0);
            found.waking_ms = found.waking_ms.max(both / 1_000_000);
            if both > WAKING {
                found.overlaps += 1;
                found.say(format!("{ti}: {:?} and {:?} overlap", pair[0], pair[1]));
            }
        }
    }
}

/// At no moment do more bodies run than the pool has slots, or more of a task than it may.
fn look_at_limits(bodies: &Bodies, strikes: &Strikes, found: &mut Findings) {
    look_at_limit(bodies, strikes, "/fan_", POOL.1, found);
    look_at_limit(bodies, strikes, "/each/", i32::try_from(MOST_OF_EACH).unwrap_or(i32::MAX), found);
}

/// At no moment do more bodies run whose names contain this.
fn look_at_limit(bodies: &Bodies, strikes: &Strikes, name: &str, most: i32, found: &mut Findings) {
    let mut steps: Vec<(u64, i32)> = Vec::new();
    for (_, list) in bodies.iter().filter(|(ti, _)| ti.contains(name)) {
        for body in list {
            let (end, _) = strikes.over(body);
            steps.push((body.started, 1));
            steps.extend(end.map(|end| (end.max(body.started), -1)));
        }
    }
    // What ends at the same moment makes room first.
    steps.sort_unstable();
    let mut now = 0;
    for (_, step) in steps {
        now += step;
        if now > most {
            found.limit_violations += 1;
            found.say(format!("{now} of `{name}` at once where {most} may be"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::parse;

    fn of(text: &str, kills: &[(u32, u64)]) -> Findings {
        with(text, &Strikes { kills: kills.to_vec(), ..Strikes::default() })
    }

    fn with(text: &str, strikes: &Strikes) -> Findings {
        let mut found = Findings::default();
        let bodies = parse(text).expect("a sound ledger");
        let plan = Plan {
            seed: (0..100).find(|seed| planned_bodies(Plan { seed: *seed }, "r", "t", -1) == 1).expect("one"),
        };
        look_at_bodies(&bodies, strikes, plan, &mut found);
        look_at_limits(&bodies, strikes, &mut found);
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
    fn a_process_that_wakes_may_go_on_for_a_moment_only() {
        let freeze = Strikes { freezes: vec![(7, 200, 5_000_000_000)], ..Strikes::default() };
        let woke = |end: &str| {
            format!(
                "S a load/r/t/-1 1 7 100\nS b load/r/t/-1 1 8 300\n{end}\nE b load/r/t/-1 1 8 9000000000\n"
            )
        };
        let found = with(&woke("C a load/r/t/-1 1 7 5100000000"), &freeze);
        assert!(found.is_clean() && (found.wakings, found.waking_ms) == (1, 100), "{found:?}");
        assert_eq!(with(&woke("E a load/r/t/-1 1 7 6100000000"), &freeze).overlaps, 1);
    }

    #[test]
    fn a_kill_long_after_a_body_explains_nothing() {
        let ledger = "S a load/r/t/-1 1 7 100\nE a load/r/t/-1 1 7 200\nS b load/r/t/-1 1 8 300\n";
        assert_eq!(of(ledger, &[(7, 9_000_000_000)]).unexplained, 1);
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
