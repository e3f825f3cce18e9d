//! Operations of processes: their lives, the runs and attempts they claim, what they report, log and say of themselves.

use std::time::Duration;

use airflow_core::id::{AttemptId, IncarnationId, MapIndex, RunPk};
use airflow_core::plan::claim;
use airflow_core::store::{
    DeadLetter, LogChunk, LogFilter, NewIncarnation, RunSnapshot, SharedStore, StoredReport, Unit,
    VariableRow,
};
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

use super::{DAGS, TASKS, at, attempt, pick};

/// How many processes there are: the third is a worker, the fourth has a lease that is over at once.
const PROCESSES: u8 = 4;

/// How many attempts there are.
const ATTEMPTS: u8 = 12;

/// Longer than the clock of any database takes to move on: of SQLite's that is a millisecond.
const MOMENT: Duration = Duration::from_millis(3);

/// Something that a process does. Numbers pick one of what is possible then.
#[derive(Debug, Clone)]
pub(super) enum ProcessOp {
    Register(u8),
    Beat(u8),
    End(u8),
    /// If it has beaten so often.
    Expire(u8, u64),
    Forget,
    ClaimRuns(u8, Vec<u8>),
    Claim(u8, u8),
    Report(u8, Vec<(u8, bool)>),
    Heard(Vec<u8>),
    Log(Vec<(u8, i64)>),
    TakeNotice(u8, u8, u8),
    Told(u8),
    Work(u8, u8, bool),
    ForgetWorker(u8),
    Carry(u8, u8, u8),
    Move(u8, u8, u8),
    SetAside(u8, u32),
    Replay(Vec<u8>),
    Setting(u8, u8),
    Variable(u8, Option<u8>),
}

pub(super) fn op() -> impl Strategy<Value = ProcessOp> {
    use ProcessOp as P;
    let who = || 0..PROCESSES;
    prop_oneof![
        4 => who().prop_map(P::Register),
        2 => who().prop_map(P::Beat),
        2 => who().prop_map(P::End),
        2 => (who(), 0..2_u64).prop_map(|(who, beats)| P::Expire(who, beats)),
        1 => Just(P::Forget),
        4 => (who(), vec(any::<u8>(), 1..4)).prop_map(|(who, runs)| P::ClaimRuns(who, runs)),
        5 => (who(), any::<u8>()).prop_map(|(who, which)| P::Claim(who, which)),
        4 => (who(), vec((0..ATTEMPTS, any::<bool>()), 1..4)).prop_map(|(who, of)| P::Report(who, of)),
        1 => vec(0..ATTEMPTS, 1..3).prop_map(P::Heard),
        2 => vec((0..ATTEMPTS, 0..3_i64), 1..4).prop_map(P::Log),
        2 => (any::<u8>(), who(), who()).prop_map(|(which, from, to)| P::TakeNotice(which, from, to)),
        1 => any::<u8>().prop_map(P::Told),
        3 => (who(), 0..2_u8, any::<bool>()).prop_map(|(who, name, new)| P::Work(who, name, new)),
        1 => (0..2_u8).prop_map(P::ForgetWorker),
        3 => (who(), 0..2_u8, 0..3_u8).prop_map(|(who, dag, version)| P::Carry(who, dag, version)),
        2 => (any::<u8>(), 0..3_u8, 0..3_u8).prop_map(|(run, from, to)| P::Move(run, from, to)),
        2 => (0..5_u8, 1..4_u32).prop_map(|(id, most)| P::SetAside(id, most)),
        1 => vec(0..5_u8, 1..3).prop_map(P::Replay),
        1 => (0..2_u8, any::<u8>()).prop_map(|(name, value)| P::Setting(name, value)),
        2 => (0..3_u8, prop::option::of(any::<u8>())).prop_map(|(key, value)| P::Variable(key, value)),
    ]
}

pub(super) fn process(number: u8) -> IncarnationId {
    IncarnationId(Uuid::from_u128(100 + u128::from(number)))
}

/// Makes a process known.
pub(super) async fn register(store: &SharedStore, number: u8) -> String {
    let kind = if number == 2 { "worker" } else { "scheduler" };
    let lease = if number == 3 { Duration::ZERO } else { Duration::from_secs(3600) };
    let (host, birth) = ("h".into(), "b".into());
    let new = NewIncarnation { id: process(number), kind: kind.into(), host, pid: 1, birth, lease };
    format!("{:?}", store.register(new).await)
}

fn ids(numbers: impl IntoIterator<Item = u8>) -> Vec<AttemptId> {
    numbers.into_iter().map(attempt).collect()
}

fn chunk(number: u8, chunk: i64) -> LogChunk {
    LogChunk { attempt_id: attempt(number), chunk, at: at(85), text: format!("{chunk}\0\u{e9}\n") }
}

/// What a store answers, as text.
pub(super) async fn apply(store: &SharedStore, op: &ProcessOp, loaded: &[RunSnapshot]) -> String {
    let run = |number: u8| loaded.get(usize::from(number) % loaded.len().max(1)).map(|one| one.run.pk);
    let run = |number: u8| run(number).unwrap_or(RunPk(99));
    match op {
        ProcessOp::Register(who) => register(store, *who).await,
        ProcessOp::Beat(who) => format!("{:?}", store.beat(process(*who)).await),
        ProcessOp::End(who) => format!("{:?}", store.end_incarnation(process(*who)).await),
        ProcessOp::Expire(who, beats) => {
            tokio::time::sleep(MOMENT).await;
            format!("{:?}", store.expire(process(*who), *beats).await)
        }
        ProcessOp::Forget => {
            // All that have ended did so after this, by any clock: none is old enough.
            format!("{:?}", store.forget_incarnations(at(0)).await)
        }
        ProcessOp::ClaimRuns(who, runs) => {
            let mut runs: Vec<RunPk> = runs.iter().map(|number| run(*number)).collect();
            runs.sort_unstable();
            runs.dedup();
            format!("{:?}", store.claim_runs(&runs, process(*who)).await)
        }
        ProcessOp::Claim(who, which) => claim_one(store, *who, *which).await,
        ProcessOp::Report(who, of) => report(store, *who, of).await,
        ProcessOp::Heard(of) => format!("{:?}", store.delete_reports(ids(of.iter().copied())).await),
        ProcessOp::Log(pieces) => {
            let chunks = pieces.iter().map(|(of, number)| chunk(*of, *number)).collect();
            format!("{:?}", store.add_log_chunks(chunks).await)
        }
        ProcessOp::Work(who, name, is_new) => {
            let (name, info) = (format!("w{name}"), serde_json::json!({ "queues": ["q"], "n": who }));
            let done = if *is_new {
                store.register_worker(process(*who), &name, info).await
            } else {
                store.update_worker(process(*who), &name, info).await
            };
            format!("{done:?}")
        }
        ProcessOp::ForgetWorker(name) => format!("{:?}", store.forget_worker(&format!("w{name}")).await),
        ProcessOp::Carry(who, dag, version) => {
            // Only who is known carries anything.
            register(store, *who).await;
            let versions = vec![(pick(&DAGS, *dag).into(), format!("v{version}"))];
            format!("{:?}", store.carry(process(*who), versions).await)
        }
        ProcessOp::Move(number, from, to) => {
            let (from, to) = (format!("v{from}"), format!("v{to}"));
            format!("{:?}", store.move_run(run(*number), &from, &to).await)
        }
        other => keep(store, other).await,
    }
}

/// Operations on what is kept for people and for later.
async fn keep(store: &SharedStore, op: &ProcessOp) -> String {
    let notices = store.notices().await.unwrap();
    let notice = |which: u8| notices.get(usize::from(which) % notices.len().max(1));
    match op {
        ProcessOp::TakeNotice(which, from, to) => {
            let Some(row) = notice(*which) else { return "none".into() };
            format!("{:?}", store.take_notice(&row.key(), process(*from), process(*to)).await)
        }
        ProcessOp::Told(which) => {
            let keys = notice(*which).map(airflow_core::store::NoticeRow::key).into_iter().collect();
            format!("{:?}", store.delete_notices(keys).await)
        }
        ProcessOp::SetAside(id, most) => {
            let letter = DeadLetter {
                id: format!("l{id}"),
                at: at(60 + i64::from(id % 2)),
                queue: "q".into(),
                reason: "forged".into(),
                error: "e".into(),
                key_id: id.is_multiple_of(2).then(|| "00".into()),
                size: u64::from(*id),
                head: String::new(),
                by: "w".into(),
            };
            format!("{:?}", store.keep_dead_letter(letter, *most).await)
        }
        ProcessOp::Replay(letters) => {
            let mut names: Vec<String> = letters.iter().map(|id| format!("l{id}")).collect();
            names.dedup();
            format!("{:?}", store.delete_dead_letters(names).await)
        }
        ProcessOp::Setting(name, value) => {
            format!("{:?}", store.keep_setting(&format!("s{name}"), &format!("{value}")).await)
        }
        ProcessOp::Variable(key, value) => {
            let key = format!("K{key}");
            let Some(value) = value else { return format!("{:?}", store.delete_variable(&key).await) };
            let description = value.is_multiple_of(2).then(|| "d".to_owned());
            let is_encrypted = value.is_multiple_of(3);
            let row = VariableRow { key, value: format!("{value}"), description, is_encrypted };
            format!("{:?}", store.set_variable(row).await)
        }
        _ => unreachable!("the others are done"),
    }
}

/// Claims one of the attempts that wait.
async fn claim_one(store: &SharedStore, who: u8, which: u8) -> String {
    let found = store.find_attempts(&ids(0..ATTEMPTS)).await.unwrap();
    let units = found.iter().filter_map(|one| claim(one, process(who), "worker", at(83)));
    let mut units: Vec<Unit> = units.collect();
    if units.is_empty() {
        return "nothing waits".into();
    }
    let unit = units.swap_remove(usize::from(which) % units.len());
    format!("{:?}", store.commit(vec![unit]).await)
}

async fn report(store: &SharedStore, who: u8, of: &[(u8, bool)]) -> String {
    let found = store.find_attempts(&ids(of.iter().map(|(number, _)| *number))).await.unwrap();
    let mut reports: Vec<StoredReport> = Vec::new();
    for one in &found {
        let Some((number, with_log)) = of.iter().find(|(number, _)| attempt(*number) == one.start.attempt_id)
        else {
            continue;
        };
        if reports.iter().all(|other| other.attempt_id != one.start.attempt_id) {
            reports.push(StoredReport {
                attempt_id: one.start.attempt_id,
                run: one.run.pk,
                task_id: one.start.task_id.clone(),
                map_index: one.start.map_index,
                at: at(84 + i64::from(number % 2)),
                body: format!("{{\"n\": {number}}}"),
                log: with_log.then(|| chunk(*number, 9)),
            });
        }
    }
    format!("{:?}", store.add_reports(process(who), reports).await)
}

/// What is to be seen of processes, but for times that stores take from their own clocks.
pub(super) async fn visible(store: &SharedStore, runs: &[RunSnapshot]) -> Vec<String> {
    let mut alive = store.incarnations().await.unwrap();
    alive.sort_by_key(|one| one.process.id);
    let alive: Vec<_> = alive.iter().map(|one| (&one.process, one.beats)).collect();
    let mut workers = Vec::new();
    for row in store.workers().await.unwrap() {
        workers.push((row.name, row.process, row.info.to_string(), row.has_ended));
    }
    let mut seen = vec![
        format!("{alive:?}"),
        format!("{workers:?}"),
        format!("{:?}", store.find_attempts(&ids(0..ATTEMPTS)).await.unwrap()),
        format!("{:?}", store.queued_attempts().await.unwrap()),
        format!("{:?}", store.missing_versions().await.unwrap()),
        format!("{:?}", store.dead_letters(9).await.unwrap()),
        format!("{:?}", store.variables().await.unwrap()),
    ];
    for who in (0..PROCESSES).map(process) {
        seen.push(format!("{:?}", store.open_attempts(who).await.unwrap()));
        seen.push(format!("{:?}", store.reports(who, 5).await.unwrap()));
    }
    for dag in DAGS {
        seen.push(format!("{:?}", store.carriers(&dag.into()).await.unwrap()));
    }
    for (run, task) in runs.iter().flat_map(|one| TASKS.map(|task| (one.run.pk, task))) {
        let (task_id, map_index) = (task.into(), MapIndex::UNMAPPED);
        let filter = LogFilter { run, task_id, map_index, try_number: 1, after: None, limit: 9 };
        seen.push(format!("{:?}", store.log_chunks(&filter).await.unwrap()));
    }
    seen
}
