//! The logs of attempts, and messages that were set aside.

use uuid::Uuid;

use crate::id::{AttemptId, MapIndex, RunPk};
use crate::store::{
    AttemptState, DeadLetter, LogChunk, LogFilter, LogPlace, Old, OldKey, OldRow, OldTable, SharedStore,
    StoreResult, UnitResult,
};

use super::{at, commit, end, fresh, one_run, start, unit};

fn chunk(id: u128, number: i64, seconds: i64, text: &str) -> LogChunk {
    let attempt_id = AttemptId(Uuid::from_u128(id));
    LogChunk { attempt_id, chunk: number, at: at(seconds), text: text.into() }
}

fn of(run: RunPk, task: &str) -> LogFilter {
    let (task_id, map_index) = (task.into(), MapIndex::UNMAPPED);
    LogFilter { run, task_id, map_index, try_number: 1, after: None, limit: 100 }
}

/// Pieces of a log come in order, once each, also those of several attempts of one try; they go when they are old, and
/// with their run.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn logs_are_kept_in_pieces(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let mut one = unit(&run);
    let mut again = start(2, "a", 2, AttemptState::Running);
    again.try_number = 1;
    one.started =
        vec![start(1, "a", 1, AttemptState::Running), again, start(3, "b", 1, AttemptState::Running)];
    one.ended = vec![end(1, AttemptState::Deferred)];
    // The last piece comes with the end of the attempt; one that nobody has is passed over.
    one.logs = vec![chunk(1, 1_784_000_000_000_000, 2, "waits\n"), chunk(77, 5, 2, "of nobody")];
    assert_eq!(commit(&store, one).await?, UnitResult::Committed);
    let mut refused = unit(&run);
    refused.generation += 1;
    refused.logs = vec![chunk(2, 7, 2, "never written")];
    assert_eq!(commit(&store, refused).await?, UnitResult::Stale);
    let mut same = unit(&run);
    same.logs = vec![chunk(1, 1_784_000_000_000_000, 8, "not this")];
    assert_eq!(commit(&store, same).await?, UnitResult::Committed);

    let all = vec![
        chunk(2, 0, 3, "after the wait\n"),
        chunk(1, 0, 1, "\"ü\" \\ \u{1f980}\0\n\tnext\n"),
        chunk(3, 0, 9, "b\n"),
        chunk(77, 0, 1, "of nobody"),
    ];
    store.add_log_chunks(all).await?;
    store.add_log_chunks(vec![chunk(1, 0, 5, "another text"), chunk(2, 1, 4, "end\n")]).await?;
    store.add_log_chunks(vec![]).await?;
    let read = store.log_chunks(&of(run.pk, "a")).await?;
    let place = |attempt, chunk| LogPlace { attempt, chunk };
    let expected = [
        (place(1, 0), chunk(1, 0, 1, "\"ü\" \\ \u{1f980}\u{fffd}\n\tnext\n")),
        (place(1, 1_784_000_000_000_000), chunk(1, 1_784_000_000_000_000, 2, "waits\n")),
        (place(2, 0), chunk(2, 0, 3, "after the wait\n")),
        (place(2, 1), chunk(2, 1, 4, "end\n")),
    ];
    assert_eq!(read, expected);
    let rest = LogFilter { after: Some(expected[1].0), limit: 1, ..of(run.pk, "a") };
    assert_eq!(store.log_chunks(&rest).await?, expected[2..3]);
    let none = LogFilter { after: Some(expected[3].0), ..of(run.pk, "a") };
    assert_eq!(store.log_chunks(&none).await?, []);
    assert_eq!(store.log_chunks(&LogFilter { try_number: 2, ..of(run.pk, "a") }).await?, []);

    let old = Old { table: OldTable::TaskLogs, before: at(4), dags: vec![], not_dags: vec![] };
    assert_eq!(store.count_old(&old).await?, 3);
    assert_eq!(store.count_old(&Old { not_dags: vec!["d".into()], ..old.clone() }).await?, 0);
    assert_eq!(store.count_old(&Old { dags: vec!["other".into()], ..old.clone() }).await?, 0);
    let mut keys: Vec<OldKey> = store.old_rows(&old, 2).await?.iter().map(OldRow::key).collect();
    assert_eq!(keys.len(), 2);
    keys.push(OldKey::TaskLog(AttemptId(Uuid::from_u128(3)), 0));
    assert_eq!(store.delete_old(&old, keys).await?, 2, "the last one is not old");
    assert_eq!(store.log_chunks(&of(run.pk, "a")).await?, expected[2..]);
    assert_eq!(store.log_chunks(&of(run.pk, "b")).await?.len(), 1);
    store.delete_run(run.pk).await?;
    let rest = Old { before: at(100), ..old };
    assert_eq!(store.count_old(&rest).await?, 0, "they are gone with the run");
    Ok(())
}

/// A message that was set aside is kept once; the oldest go when there are too many.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn dead_letters_are_kept_once_and_bounded(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    let letter = |id: &str, seconds, key: Option<&str>| DeadLetter {
        id: id.into(),
        at: at(seconds),
        queue: "größe".into(),
        reason: "bad_mac".into(),
        error: "it is \"forged\"".into(),
        key_id: key.map(str::to_owned),
        size: 70_000,
        head: "\\x00ab".into(),
        by: "w".into(),
    };
    assert!(store.keep_dead_letter(letter("a", 1, Some("00ff")), 2).await?);
    assert!(store.keep_dead_letter(letter("b", 2, None), 2).await?);
    assert!(!store.keep_dead_letter(letter("a", 9, None), 2).await?, "it is there");
    assert_eq!(store.dead_letters(9).await?, [letter("b", 2, None), letter("a", 1, Some("00ff"))]);
    assert_eq!(store.dead_letters(1).await?, [letter("b", 2, None)]);
    assert!(store.keep_dead_letter(letter("c", 3, None), 2).await?);
    assert_eq!(store.dead_letters(9).await?, [letter("c", 3, None), letter("b", 2, None)], "the oldest went");
    assert_eq!(store.delete_dead_letters(vec!["b".into(), "a".into()]).await?, 1);
    assert_eq!(store.delete_dead_letters(vec![]).await?, 0);
    assert_eq!(store.dead_letters(9).await?, [letter("c", 3, None)]);
    Ok(())
}
