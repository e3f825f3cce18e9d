//! Attempts that run in other processes, and the workers that run them.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::id::{AttemptId, IncarnationId, MapIndex};
use crate::state::{TaskEvent, TaskState};
use crate::store::{
    AttemptState, Carrier, LogChunk, LogFilter, MissingVersion, NewIncarnation, QueuedAttempts, SharedStore,
    StoreResult, StoredReport, UnitResult,
};

use super::{at, change, commit, d, end, fresh, one_run, start, unit};

fn process(number: u128) -> IncarnationId {
    IncarnationId(Uuid::from_u128(number))
}

async fn register(store: &SharedStore, number: u128, kind: &str) -> StoreResult<()> {
    let process = NewIncarnation {
        id: process(number),
        kind: kind.into(),
        host: "here".into(),
        pid: 7,
        birth: "boot".into(),
        lease: Duration::from_secs(20),
    };
    store.register(process).await
}

fn attempt(id: u128) -> AttemptId {
    AttemptId(Uuid::from_u128(id))
}

/// Attempts are found by id with what they belong to, in the order asked for.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn attempts_are_found_by_id(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let mut one = unit(&run);
    one.tis = vec![
        change("a", TaskState::None, TaskEvent::Enqueued, 0),
        change("b", TaskState::None, TaskEvent::Launched, 0),
    ];
    one.tis[0].data.attempt_id = Some(attempt(1));
    one.tis[0].data.started_at = Some(at(5));
    one.tis[0].data.reason = Some("a \"reason\"".into());
    one.started = vec![start(1, "a", 1, AttemptState::Queued), start(2, "b", 1, AttemptState::Running)];
    assert_eq!(commit(&store, one.clone()).await?, UnitResult::Committed);
    let (queue, oldest) = (one.started[0].queue.clone(), one.started[0].at);
    let queued = store.queued_attempts().await?;
    assert_eq!(queued, [QueuedAttempts { queue, count: 1, oldest }], "those that run do not wait");
    let found = store.find_attempts(&[attempt(2), attempt(99), attempt(1)]).await?;
    let [b, a] = found.as_slice() else { panic!("two attempts were expected, not {found:?}") };
    assert_eq!((&a.run, &b.run), (&run, &run));
    assert_eq!((&a.start, a.state), (&one.started[0], AttemptState::Queued));
    assert_eq!((&b.start, b.state), (&one.started[1], AttemptState::Running));
    assert_eq!((a.ti.state, a.ti.epoch, &a.ti.data), (TaskState::Queued, 1, &one.tis[0].data));
    assert_eq!((b.ti.task_id.as_str(), b.ti.map_index), ("b", MapIndex::UNMAPPED));
    assert_eq!(store.find_attempts(&[]).await?, []);
    Ok(())
}

/// A report is written only by the process whose attempt it is, while both are open, and waits for whoever has the run.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn reports_wait_for_whoever_has_the_run(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    for number in [1, 2, 3] {
        register(&store, number, "worker").await?;
    }
    let mut one = unit(&run);
    for (id, task, by) in [(1, "a", 1), (2, "b", 1), (3, "c", 2), (4, "d", 1)] {
        let mut begun = start(id, task, 1, AttemptState::Running);
        begun.incarnation = Some(process(by));
        one.started.push(begun);
    }
    one.ended = vec![end(4, AttemptState::Cancelled)];
    assert_eq!(commit(&store, one).await?, UnitResult::Committed);
    assert_eq!(store.open_attempts(process(1)).await?, [attempt(1), attempt(2)]);
    let report = |id: u128, task: &str, seconds| StoredReport {
        log: None,
        attempt_id: attempt(id),
        run: run.pk,
        task_id: task.into(),
        map_index: MapIndex::UNMAPPED,
        at: at(seconds),
        body: format!("{{\"ü\": \"\\\"{id}\"}}"),
    };
    let log =
        |id, text: &str| Some(LogChunk { attempt_id: attempt(id), chunk: 3, at: at(9), text: text.into() });
    let first = StoredReport { log: log(1, "the end\n"), ..report(1, "somewhere else", 9) };
    let said = vec![first, report(3, "c", 8), report(4, "d", 7), report(77, "e", 6)];
    let written = store.add_reports(process(1), said).await?;
    assert_eq!(written, [true, false, false, false], "another's, an ended one, and one that nobody knows");
    assert!(store.add_reports(process(1), vec![]).await?.is_empty());
    let again = StoredReport { body: "other".into(), log: log(1, "other\n"), ..report(1, "a", 10) };
    assert_eq!(store.add_reports(process(1), vec![again]).await?, [true], "it is there");
    assert_eq!(store.add_reports(process(2), vec![report(3, "c", 8)]).await?, [true]);

    assert_eq!(store.open_attempts(process(1)).await?, [attempt(2)], "the other one is reported");
    let (task_id, map_index) = ("a".into(), MapIndex::UNMAPPED);
    let of_a = LogFilter { run: run.pk, task_id, map_index, try_number: 1, after: None, limit: 9 };
    let logs: Vec<_> = store.log_chunks(&of_a).await?.into_iter().map(|(_, chunk)| chunk.text).collect();
    assert_eq!(logs, ["the end\n"], "the end of the log came with the report");
    assert_eq!(store.reports(process(3), 10).await?, [], "nobody has the run");
    assert_eq!(store.claim_runs(&[run.pk], process(3)).await?, [run.pk]);
    assert_eq!(store.reports(process(3), 10).await?, [report(3, "c", 8), report(1, "a", 9)]);
    assert_eq!(store.reports(process(3), 1).await?, [report(3, "c", 8)]);
    assert_eq!(store.reports(process(1), 10).await?, []);

    store.end_incarnation(process(1)).await?;
    assert_eq!(store.add_reports(process(1), vec![report(2, "b", 9)]).await?, [false], "it has ended");
    let lost: Vec<AttemptId> = store.orphans().await?.iter().map(|row| row.start.attempt_id).collect();
    assert_eq!(lost, [attempt(2)], "what left a report is not lost");
    store.delete_reports(vec![attempt(1), attempt(88)]).await?;
    assert_eq!(store.reports(process(3), 10).await?, [report(3, "c", 8)]);
    let lost: Vec<AttemptId> = store.orphans().await?.iter().map(|row| row.start.attempt_id).collect();
    assert_eq!(lost, [attempt(1), attempt(2)]);
    store.delete_run(run.pk).await?;
    assert_eq!(store.reports(process(3), 10).await?, []);
    Ok(())
}

/// Of two workers that live one has a name; versions and settings are kept for all.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn workers_have_a_name_each(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    register(&store, 1, "worker").await?;
    register(&store, 2, "worker").await?;
    assert!(store.register_worker(process(1), "w@é", json!({ "slots": 4 })).await?);
    assert!(!store.register_worker(process(2), "w@é", json!({})).await?, "the name is taken");
    assert!(store.register_worker(process(1), "w@é", json!({ "slots": 5 })).await?, "by itself");
    assert!(store.register_worker(process(2), "W@é", json!([])).await?);
    assert!(store.update_worker(process(1), "w@é", json!({ "running": 2 })).await?);
    assert!(!store.update_worker(process(2), "w@é", json!({})).await?);
    let workers = store.workers().await?;
    let seen: Vec<_> =
        workers.iter().map(|w| (w.name.as_str(), w.process, w.has_ended, w.info.clone())).collect();
    let expected =
        [("W@é", process(2), false, json!([])), ("w@é", process(1), false, json!({ "running": 2 }))];
    assert_eq!(seen, expected);

    assert!(!store.forget_worker("w@é").await?, "it lives");
    store.end_incarnation(process(1)).await?;
    assert!(store.workers().await?[1].has_ended);
    assert!(store.register_worker(process(2), "w@é", json!({})).await?, "the name is free again");
    assert!(!store.update_worker(process(1), "w@é", json!({})).await?);
    store.end_incarnation(process(2)).await?;
    assert!(store.forget_worker("w@é").await?);
    assert!(!store.forget_worker("w@é").await?);
    assert_eq!(store.workers().await?.len(), 1);

    register(&store, 3, "scheduler").await?;
    register(&store, 4, "worker").await?;
    let both = vec![("d".into(), "v1".to_owned()), ("x".into(), "v1".to_owned())];
    store.carry(process(3), both.clone()).await?;
    store.carry(process(3), both).await?;
    store.carry(process(4), vec![("d".into(), "v0".to_owned())]).await?;
    let carrier = |fingerprint: &str, number, kind: &str| Carrier {
        dag_id: d(),
        fingerprint: fingerprint.into(),
        process: process(number),
        kind: kind.into(),
    };
    let all = [carrier("v0", 4, "worker"), carrier("v1", 3, "scheduler")];
    assert_eq!(store.carriers(&d()).await?, all);
    store.end_incarnation(process(4)).await?;
    assert_eq!(store.carriers(&d()).await?, all[1..]);

    assert_eq!(store.keep_setting("key", "one").await?, "one");
    assert_eq!(store.keep_setting("key", "two").await?, "one", "the first stays");
    Ok(())
}

/// What waits for queues and for versions is counted, as long as no process that lives has the version; a run moves to
/// another one only then.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn missing_versions_and_queues_are_listed(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    assert_eq!(store.queued_attempts().await?, []);
    let mut one = unit(&run);
    for (id, task, queue, seconds, state) in [
        (1, "a", "gpu", 5, AttemptState::Queued),
        (2, "b", "big", 7, AttemptState::Queued),
        (3, "c", "gpu", 4, AttemptState::Queued),
        (4, "d", "gpu", 1, AttemptState::Running),
        (5, "e", "gpu", 2, AttemptState::Queued),
    ] {
        let mut begun = start(id, task, 1, state);
        (begun.queue, begun.at) = (queue.into(), at(seconds));
        begun.incarnation = (state == AttemptState::Running).then(|| process(1));
        one.started.push(begun);
    }
    one.ended = vec![end(5, AttemptState::Cancelled)];
    assert_eq!(commit(&store, one).await?, UnitResult::Committed);
    let queue =
        |queue: &str, count, seconds| QueuedAttempts { queue: queue.into(), count, oldest: at(seconds) };
    assert_eq!(store.queued_attempts().await?, [queue("big", 1, 7), queue("gpu", 2, 4)]);

    let missing = |kind: &str, waiting, since| MissingVersion {
        kind: kind.into(),
        dag_id: d(),
        fingerprint: run.fingerprint.clone(),
        waiting,
        since,
    };
    let (of_runs, of_attempts) = (missing("scheduler", 1, run.queued_at), missing("worker", 3, at(4)));
    assert_eq!(store.missing_versions().await?, [of_runs.clone(), of_attempts.clone()]);
    let carried = |fingerprint: &str| vec![(d(), fingerprint.to_owned())];
    register(&store, 1, "worker").await?;
    store.carry(process(1), carried("another")).await?;
    assert_eq!(store.missing_versions().await?, [of_runs.clone(), of_attempts]);
    store.carry(process(1), carried(&run.fingerprint)).await?;
    assert_eq!(store.missing_versions().await?, [of_runs]);
    register(&store, 2, "scheduler").await?;
    store.carry(process(2), carried(&run.fingerprint)).await?;
    assert_eq!(store.missing_versions().await?, []);

    assert!(!store.move_run(run.pk, &run.fingerprint, "v2").await?, "a scheduler has its version");
    store.end_incarnation(process(2)).await?;
    assert!(!store.move_run(run.pk, "another", "v2").await?, "it is of another version");
    assert!(store.move_run(run.pk, &run.fingerprint, "v2").await?);
    let moved = store.load_run(run.pk, None).await?.map(|loaded| loaded.run);
    let moved = moved.map(|moved| (moved.fingerprint, moved.generation));
    assert_eq!(moved, Some(("v2".to_owned(), run.generation + 1)));
    Ok(())
}
