//! Attempts and values.

use std::sync::Arc;

use uuid::Uuid;

use crate::id::{AttemptId, IncarnationId, MapIndex};
use crate::state::{TaskEvent, TaskState};
use crate::store::{
    AttemptState, NewIncarnation, RunRow, SharedStore, SkipRecord, StoreResult, Unit, UnitResult, XComFilter,
    XComWrite,
};
use crate::xcom::SKIP_KEY;

use super::{assert_not_found, at, change, commit, end, one_run, start, unit, visible, xcom};

/// A queued attempt is claimed by one process; every other start under a known id or number is stale.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn queued_attempts_are_claimed_once(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let mut queued = unit(&run);
    queued.tis = vec![change("a", TaskState::None, TaskEvent::Enqueued, 0)];
    queued.started = vec![start(1, "a", 1, AttemptState::Queued)];
    assert_eq!(commit(&store, queued.clone()).await?, UnitResult::Committed);
    let started = |id, number, state| {
        let mut one = unit(&run);
        one.started = vec![start(id, "a", number, state)];
        one.started[0].incarnation = Some(IncarnationId(Uuid::from_u128(9)));
        one
    };
    for (id, number, state) in [
        (1, 1, AttemptState::Queued),
        (1, 2, AttemptState::Running),
        (2, 1, AttemptState::Running),
        (2, 1, AttemptState::Queued),
    ] {
        let result = commit(&store, started(id, number, state)).await?;
        assert_eq!(result, UnitResult::Stale, "id {id}, number {number}, {state}");
    }
    let mut claim = started(1, 1, AttemptState::Running);
    claim.tis = vec![change("a", TaskState::Queued, TaskEvent::Claimed, 1)];
    claim.started[0].at = at(99);
    assert_eq!(commit(&store, claim.clone()).await?, UnitResult::Committed);
    claim.tis.clear();
    assert_eq!(commit(&store, claim).await?, UnitResult::Stale, "claimed twice");
    let attempts = store.attempts(run.pk, None).await?;
    assert_eq!((attempts.len(), attempts[0].state, &attempts[0].end), (1, AttemptState::Running, &None));
    let stored = &attempts[0].start;
    assert_eq!((stored.state, stored.at), (AttemptState::Running, queued.started[0].at));
    assert_eq!(stored.incarnation, Some(IncarnationId(Uuid::from_u128(9))));
    Ok(())
}

/// The tasks whose attempts are claimed.
const TASKS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// A run with a queued attempt of each task.
async fn enqueued(store: &SharedStore) -> StoreResult<RunRow> {
    let run = one_run(store).await?;
    let mut queued = unit(&run);
    for (id, task) in (1..).zip(TASKS) {
        queued.tis.push(change(task, TaskState::None, TaskEvent::Enqueued, 0));
        queued.started.push(start(id, task, 1, AttemptState::Queued));
    }
    assert_eq!(commit(store, queued).await?, UnitResult::Committed);
    Ok(run)
}

/// A claim of the attempt of one task.
fn claim(run: &RunRow, which: usize, process: u128) -> Unit {
    let mut one = unit(run);
    one.tis = vec![change(TASKS[which], TaskState::Queued, TaskEvent::Claimed, 1)];
    one.started = vec![start(which as u128 + 1, TASKS[which], 1, AttemptState::Running)];
    one.started[0].incarnation = Some(IncarnationId(Uuid::from_u128(process)));
    one
}

/// Who has the attempt of each task.
async fn owners(store: &SharedStore, run: &RunRow) -> StoreResult<Vec<Option<u128>>> {
    let attempts = store.attempts(run.pk, None).await?;
    let states = store.task_instances(run.pk).await?;
    for (attempt, ti) in attempts.iter().zip(&states) {
        let claimed = attempt.start.incarnation.is_some();
        assert_eq!(attempt.state == AttemptState::Running, claimed, "{attempt:?}");
        assert_eq!((ti.state == TaskState::Running, ti.epoch), (claimed, 1 + u32::from(claimed)), "{ti:?}");
    }
    Ok(attempts.iter().map(|one| one.start.incarnation.map(|id| id.0.as_u128())).collect())
}

/// Of claims of one run in one call each gets its own answer: those that hold are written, whatever becomes of the others.
/// Of two that ask for the same attempt the first one gets it; of two calls at the same time one gets each.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn claims_of_one_run_are_judged_one_by_one(store: SharedStore) -> StoreResult<()> {
    use UnitResult::{Committed, Stale};
    // All hold.
    let run = enqueued(&store).await?;
    let all = (0..TASKS.len()).map(|which| claim(&run, which, 9)).collect();
    assert_eq!(store.commit(all).await?, vec![Committed; TASKS.len()]);
    assert_eq!(owners(&store, &run).await?, [Some(9); TASKS.len()]);

    // Some do not.
    let run = enqueued(&store).await?;
    assert_eq!(commit(&store, claim(&run, 0, 7)).await?, Committed);
    let mut old_epoch = claim(&run, 3, 9);
    old_epoch.tis[0].epoch = 0;
    let mut old_generation = claim(&run, 4, 9);
    old_generation.generation += 1;
    let mut other_attempt = claim(&run, 5, 9);
    other_attempt.started[0].attempt_id = AttemptId(Uuid::from_u128(99));
    let units = vec![
        claim(&run, 0, 9), // somebody has it
        claim(&run, 1, 9),
        claim(&run, 1, 8), // the one before it has it
        claim(&run, 2, 8),
        old_epoch,
        old_generation,
        other_attempt,
        claim(&run, 6, 9),
    ];
    let wanted = [Stale, Committed, Stale, Committed, Stale, Stale, Stale, Committed];
    assert_eq!(store.commit(units).await?, wanted);
    let wanted = [Some(7), Some(9), Some(8), None, None, None, Some(9), None];
    assert_eq!(owners(&store, &run).await?, wanted);

    // Two claims of one attempt and nothing else; then two calls at once, which want all in other orders.
    assert_eq!(store.commit(vec![claim(&run, 3, 8), claim(&run, 3, 9)]).await?, [Committed, Stale]);
    assert_eq!(owners(&store, &run).await?[3], Some(8));
    let run = enqueued(&store).await?;
    let calls = [8_u128, 9].map(|process| {
        let mut which: Vec<usize> = (0..TASKS.len()).collect();
        if process == 9 {
            which.reverse();
        }
        let units = which.iter().map(|which| claim(&run, *which, process)).collect();
        let store = Arc::clone(&store);
        async move { StoreResult::Ok((process, which, store.commit(units).await?)) }
    });
    let answers = futures_util::future::join_all(calls).await.into_iter().collect::<StoreResult<Vec<_>>>()?;
    let owners = owners(&store, &run).await?;
    for (process, which, results) in answers {
        for (which, result) in which.into_iter().zip(results) {
            assert_eq!(owners[which] == Some(process), result == Committed, "{process}: {}", TASKS[which]);
        }
    }
    assert!(owners.iter().all(Option::is_some), "{owners:?}");
    Ok(())
}

/// The first end of an attempt stays; later ones, and those of other runs' attempts, change nothing.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn attempts_never_change_after_their_end(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let other = super::create(&store, super::new_run("r2", crate::state::RunType::Manual, 2)).await?;
    let mut one = unit(&run);
    one.started = vec![start(1, "a", 1, AttemptState::Running), start(2, "a", 2, AttemptState::Running)];
    one.ended = vec![end(2, AttemptState::Lost), end(77, AttemptState::Failed)];
    assert_eq!(commit(&store, one.clone()).await?, UnitResult::Committed);
    let rows = store.attempts(run.pk, Some((&"a".into(), MapIndex::UNMAPPED))).await?;
    assert_eq!((rows[0].state, &rows[0].end), (AttemptState::Running, &None));
    assert_eq!((rows[1].state, rows[1].end.as_ref()), (AttemptState::Lost, Some(&one.ended[0].data)));
    assert_eq!(rows[1].start, one.started[1]);
    let before = visible(&store, &run).await?;
    let mut again = unit(&run);
    again.ended = vec![end(2, AttemptState::Success)];
    again.ended[0].data.error = None;
    assert_eq!(commit(&store, again).await?, UnitResult::Committed);
    let mut foreign = unit(&other);
    foreign.ended = vec![end(1, AttemptState::Success)];
    assert_eq!(commit(&store, foreign).await?, UnitResult::Committed);
    assert_eq!(visible(&store, &run).await?, before);
    assert_eq!(store.attempts(run.pk, Some((&"b".into(), MapIndex::UNMAPPED))).await?, []);
    Ok(())
}

/// An attempt is an orphan if it has not ended and its process has.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn lost_attempts_are_found(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let id = |number| IncarnationId(Uuid::from_u128(number));
    for number in [1, 2] {
        let process = NewIncarnation {
            id: id(number),
            kind: "worker".into(),
            host: "here".into(),
            pid: 7,
            birth: "boot".into(),
            lease: std::time::Duration::from_secs(20),
        };
        store.register(process).await?;
    }
    let mut one = unit(&run);
    for (attempt, task, process) in [(1, "c", Some(1)), (2, "a", Some(1)), (3, "b", Some(2)), (4, "d", None)]
    {
        let mut begun = start(attempt, task, 1, AttemptState::Running);
        begun.incarnation = process.map(id);
        one.started.push(begun);
    }
    let mut done = start(5, "e", 1, AttemptState::Running);
    done.incarnation = Some(id(1));
    one.started.push(done);
    one.ended = vec![end(5, AttemptState::Success)];
    assert_eq!(commit(&store, one).await?, UnitResult::Committed);
    assert_eq!(store.orphans().await?, []);
    store.end_incarnation(id(1)).await?;
    let orphans = store.orphans().await?;
    let tasks: Vec<&str> = orphans.iter().map(|row| row.start.task_id.as_str()).collect();
    assert_eq!(tasks, ["a", "c"]);
    let mut reaped = unit(&run);
    reaped.ended = vec![end(1, AttemptState::Lost), end(2, AttemptState::Lost)];
    assert_eq!(commit(&store, reaped).await?, UnitResult::Committed);
    assert_eq!(store.orphans().await?, []);
    Ok(())
}

/// Values are replaced key by key, cleared by instance, deleted by filter; branches are read back.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn values_are_replaced_cleared_and_deleted(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let mapped = XComWrite { map_index: MapIndex(2), ..xcom("a", "k", "\"ünï\\u0041\"") };
    let mut one = unit(&run);
    one.xcoms = vec![
        xcom("b", "k", "[1,  2]"),
        xcom("a", "k", "1"),
        mapped,
        xcom("a", SKIP_KEY, r#"{"followed":["x"]}"#),
        xcom("b", SKIP_KEY, "no record"),
    ];
    assert_eq!(commit(&store, one).await?, UnitResult::Committed);
    store.set_xcom(run.pk, xcom("a", "k", "2"), at(50)).await?;
    let all = XComFilter { run: run.pk, tasks: vec![], map_index: None, key: None };
    let rows = store.xcoms(&all).await?;
    let seen: Vec<_> = rows
        .iter()
        .map(|row| (row.task_id.as_str(), row.map_index.0, row.key.as_str(), row.value.text()))
        .collect();
    let expected = [
        ("a", -1, "k", "2"),
        ("a", -1, SKIP_KEY, r#"{"followed":["x"]}"#),
        ("a", 2, "k", "\"ünï\\u0041\""),
        ("b", -1, "k", "[1,  2]"),
        ("b", -1, SKIP_KEY, "no record"),
    ];
    assert_eq!(seen, expected, "the text is kept as it is");
    assert_eq!((rows[0].run, rows[0].at, rows[3].at), (run.pk, at(50), at(10)));
    let loaded = store.load_run(run.pk, None).await?.expect("the run exists");
    assert_eq!(loaded.skips, [("a".into(), MapIndex::UNMAPPED, SkipRecord::Followed(vec!["x".into()]))]);
    let narrow =
        XComFilter { tasks: vec!["a".into(), "q".into()], map_index: Some(MapIndex(2)), ..all.clone() };
    assert_eq!(store.xcoms(&narrow).await?.len(), 1);
    let by_key = XComFilter { key: Some("k".into()), ..all.clone() };
    assert_eq!(store.xcoms(&by_key).await?.len(), 3);
    let mut clear = unit(&run);
    clear.xcom_clears = vec![("a".into(), MapIndex::UNMAPPED)];
    clear.xcoms = vec![xcom("a", "new", "null")];
    assert_eq!(commit(&store, clear.clone()).await?, UnitResult::Stale, "the value was set from outside");
    clear.generation += 1;
    assert_eq!(commit(&store, clear).await?, UnitResult::Committed);
    assert_eq!(store.xcoms(&all).await?.len(), 4, "the old two of `a` went before the new one came");
    assert_eq!(store.delete_xcoms(&by_key).await?, 2);
    assert_eq!(store.delete_xcoms(&all).await?, 2);
    assert_eq!(store.delete_xcoms(&all).await?, 0);
    let known = store.load_run(run.pk, None).await?.expect("the run exists").run.generation;
    assert!(known > loaded.run.generation, "who remembers values of the run learns that they are gone");
    let mut nowhere = run.pk;
    nowhere.0 += 1000;
    assert_not_found(&store.set_xcom(nowhere, xcom("a", "k", "1"), at(1)).await);
    Ok(())
}
