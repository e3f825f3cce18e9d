//! Dags and runs.

use serde_json::json;

use crate::id::RunPk;
use crate::state::{RunEvent, RunState, RunType, TaskEvent, TaskState};
use crate::store::{
    Advance, AttemptState, AuditEntry, AuditFilter, CreatedRun, Held, NewRun, NextRun, Old, OldRow, OldTable,
    PastQuery, PoolSpec, RunFilter, RunRow, SharedStore, SlotKey, StoreResult, TiChange, TiData, UnitResult,
    XComFilter,
};
use crate::timetable::DataInterval;

use super::{
    assert_not_found, assert_refused, at, change, commit, create, d, fresh, names, new_run, one_run, record,
    run_change, slot, start, unit, xcom,
};

fn next(day: i64) -> NextRun {
    let data_interval = DataInterval { start: at(day * 86_400), end: at((day + 1) * 86_400) };
    NextRun { data_interval, run_after: data_interval.end }
}

/// A run exists once by id, and once by logical date unless it is manual; the timetable moves on all the same.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn runs_are_created_once(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    let first = NewRun {
        advance: Some(Advance { last_interval: Some(next(1).data_interval), next: Some(next(2)) }),
        queue: Some("gpu".to_owned()),
        ..new_run("s1", RunType::Scheduled, 1)
    };
    let row = create(&store, first.clone()).await?;
    assert_eq!(row.queue.as_deref(), Some("gpu"));
    assert_eq!((row.state, row.generation, row.conf.clone()), (RunState::Queued, 0, first.conf.clone()));
    assert_eq!((row.logical_date, row.data_interval), (first.logical_date, first.data_interval));
    assert_eq!((row.started_at, row.ended_at, &row.reason), (None, None, &None));
    assert_eq!(store.load_run(row.pk, None).await?.map(|loaded| loaded.run), Some(row.clone()));
    let again =
        NewRun { advance: Some(Advance { last_interval: None, next: Some(next(3)) }), ..first.clone() };
    let batch = vec![
        again,
        NewRun { conf: None, ..new_run("s1-other", RunType::Scheduled, 1) },
        new_run("b1", RunType::Backfill, 1),
        new_run("m1", RunType::Manual, 1),
        new_run("m2", RunType::Manual, 1),
        new_run("m2", RunType::Manual, 7),
        new_run("s2", RunType::Scheduled, 2),
        new_run("s2-other", RunType::Backfill, 2),
        new_run("a2", RunType::AssetTriggered, 2),
    ];
    let created = store.create_runs(batch).await?;
    let seen: Vec<(bool, &str)> = created
        .iter()
        .map(|created| match created {
            CreatedRun::New(row) => (true, row.run_id.as_str()),
            CreatedRun::Exists(row) => (false, row.run_id.as_str()),
            CreatedRun::Taken => unreachable!("no run is by assets"),
        })
        .collect();
    let expected = [
        (false, "s1"),
        (false, "s1"),
        (false, "s1"),
        (true, "m1"),
        (true, "m2"),
        (false, "m2"),
        (true, "s2"),
        (false, "s2"),
        (true, "a2"),
    ];
    assert_eq!(seen, expected);
    let dag = store.dag(&d()).await?.expect("it was synced");
    assert_eq!((dag.last_interval, dag.next), (Some(next(1).data_interval), Some(next(3))));
    let unknown = NewRun { dag_id: "unknown".into(), ..new_run("x", RunType::Manual, 1) };
    assert_not_found(&store.create_runs(vec![new_run("y", RunType::Manual, 1), unknown]).await);
    assert_eq!(store.runs(&RunFilter::default()).await?.len(), 5, "nothing of a refused call is created");
    Ok(())
}

/// Lists are in order of date and number, and every part of the filter counts.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn runs_are_listed_in_order(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    store.sync_dags(vec![record("e", "v1")], at(0)).await?;
    let other = NewRun { dag_id: "e".into(), ..new_run("o", RunType::Backfill, 2) };
    let runs = vec![
        new_run("c", RunType::Manual, 3),
        new_run("a", RunType::Manual, 1),
        new_run("b", RunType::Manual, 1),
        other,
    ];
    store.create_runs(runs).await?;
    let list =
        async |filter: RunFilter| -> StoreResult<String> { Ok(names(&store.runs(&filter).await?).join(" ")) };
    let all = RunFilter::default;
    let only_d = || RunFilter { dag_id: Some(d()), ..all() };
    assert_eq!(list(all()).await?, "a b o c");
    assert_eq!(list(RunFilter { newest_first: true, ..all() }).await?, "c o b a");
    assert_eq!(list(only_d()).await?, "a b c");
    assert_eq!(list(RunFilter { run_id: Some("b".into()), ..only_d() }).await?, "b");
    assert_eq!(list(RunFilter { limit: Some(2), offset: 1, ..all() }).await?, "b o");
    assert_eq!(list(RunFilter { offset: 3, ..all() }).await?, "c");
    assert_eq!(list(RunFilter { limit: Some(0), ..all() }).await?, "");
    let day = 86_400;
    assert_eq!(list(RunFilter { from: Some(at(2 * day)), to: Some(at(3 * day)), ..all() }).await?, "o c");
    assert_eq!(list(RunFilter { types: vec![RunType::Backfill, RunType::Scheduled], ..all() }).await?, "o");
    let b = store.runs(&RunFilter { run_id: Some("b".into()), ..all() }).await?.remove(0);
    let mut started = unit(&b);
    started.run_change = Some(run_change(&b, RunEvent::Started));
    assert_eq!(commit(&store, started).await?, UnitResult::Committed);
    assert_eq!(list(RunFilter { states: vec![RunState::Running], ..all() }).await?, "b");
    assert_eq!(
        list(RunFilter { states: vec![RunState::Running, RunState::Queued], ..only_d() }).await?,
        "a b c"
    );
    assert_eq!(
        list(RunFilter { states: vec![RunState::Failed, RunState::Queued], ..only_d() }).await?,
        "a c"
    );
    Ok(())
}

/// The run before is the one with the latest earlier date; manual runs count only if all do.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn the_run_before_is_the_latest_earlier_one(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    let s1 = create(&store, new_run("s1", RunType::Scheduled, 1)).await?;
    let m2 = create(&store, new_run("m2", RunType::Manual, 2)).await?;
    let m2b = create(&store, new_run("m2b", RunType::Manual, 2)).await?;
    let s3 = create(&store, new_run("s3", RunType::Scheduled, 3)).await?;
    let b0 = create(&store, new_run("b0", RunType::Backfill, 0)).await?;
    let mut one = unit(&m2b);
    one.tis = vec![change("a", TaskState::None, TaskEvent::MarkedSuccess, 0)];
    assert_eq!(commit(&store, one).await?, UnitResult::Committed);
    let before = async |run: &RunRow, scheduled_only| -> StoreResult<Option<(RunPk, usize)>> {
        let loaded =
            store.load_run(run.pk, Some(&PastQuery { scheduled_only })).await?.expect("the run exists");
        Ok(loaded.past.map(|past| (past.pk, past.tis.len())))
    };
    assert_eq!(before(&s3, false).await?, Some((m2b.pk, 1)), "of equal dates the highest number");
    assert_eq!(before(&s3, true).await?, Some((s1.pk, 0)));
    assert_eq!(before(&m2, false).await?, Some((s1.pk, 0)), "an equal date is not earlier");
    assert_eq!(before(&s1, true).await?, Some((b0.pk, 0)), "later by number, earlier by date");
    assert_eq!(before(&b0, false).await?, None);
    assert_eq!(store.load_run(RunPk(s3.pk.0 + 1000), None).await?, None);
    Ok(())
}

/// Syncing a dag keeps its pause, its next run and its old versions.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn dags_keep_what_users_and_timetables_said(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    assert!(store.dag(&d()).await?.expect("it was synced").is_paused);
    assert!(store.set_paused(&d(), false).await?);
    assert!(!store.set_paused(&"unknown".into(), false).await?);
    let mut second = record("d", "v2");
    second.next = Some(next(1));
    second.structure = json!([2]).into();
    second.description = Some("more".into());
    let mut new = record("a", "x");
    new.paused_at_creation = false;
    let rows = store.sync_dags(vec![second.clone(), new, second.clone()], at(5)).await?;
    let seen: Vec<_> = rows.iter().map(|row| (row.dag_id.as_str(), row.is_paused, row.version)).collect();
    assert_eq!(seen, [("d", false, 2), ("a", false, 1), ("d", false, 2)], "in the order given");
    assert_eq!((rows[0].next, rows[0].last_seen), (Some(next(1)), at(5)), "it had no next run");
    assert_eq!((&rows[0].description, &rows[0].tags), (&second.description, &second.tags));
    second.next = Some(next(9));
    second.fingerprint = "v1".into();
    let rows = store.sync_dags(vec![second], at(6)).await?;
    assert_eq!((rows[0].next, rows[0].version), (Some(next(1)), 1), "it has a next run, and v1 is version 1");
    let versions = store.dag_versions(&d()).await?;
    let seen: Vec<_> =
        versions.iter().map(|version| (version.number, version.fingerprint.as_str())).collect();
    assert_eq!(seen, [(2, "v2"), (1, "v1")]);
    assert_eq!((&versions[0].structure, versions[0].created_at), (&json!([2]), at(5)));
    let advance = Advance { last_interval: Some(next(1).data_interval), next: None };
    store.advance_dag(&d(), advance).await?;
    store.advance_dag(&d(), Advance { last_interval: None, next: Some(next(4)) }).await?;
    let row = store.dag(&d()).await?.expect("it was synced");
    assert_eq!((row.last_interval, row.next), (advance.last_interval, Some(next(4))));
    assert_not_found(&store.advance_dag(&"unknown".into(), advance).await);
    let ids: Vec<String> = store.dags().await?.iter().map(|row| row.dag_id.to_string()).collect();
    assert_eq!(ids, ["a", "d"]);
    Ok(())
}

/// A dag is not deleted while an attempt of it may be executing.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn dags_with_running_tasks_stay(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let mut launched = unit(&run);
    launched.tis = vec![change("a", TaskState::None, TaskEvent::Launched, 0)];
    assert_eq!(commit(&store, launched).await?, UnitResult::Committed);
    assert_refused(&store.delete_dag(&d()).await);
    let mut done = unit(&run);
    done.tis = vec![change("a", TaskState::Running, TaskEvent::Succeeded, 1)];
    assert_eq!(commit(&store, done).await?, UnitResult::Committed);
    assert_eq!(store.delete_dag(&d()).await?, 1);
    assert_not_found(&store.delete_dag(&d()).await);
    Ok(())
}

/// Fills every table with something of a run.
async fn fill(store: &SharedStore, run: &RunRow, attempt: u128) -> StoreResult<()> {
    let mut one = unit(run);
    one.tis = vec![change("a", TaskState::None, TaskEvent::MarkedSuccess, 0)];
    one.expansions = vec![crate::store::Expansion { owner: "m".into(), length: 1 }];
    one.xcoms = vec![xcom("a", "k", "1")];
    one.started = vec![start(attempt, "a", 1, AttemptState::Running)];
    one.slots = vec![slot(SlotKey::Dag(d()), 1, None), slot(SlotKey::Pool("default_pool".into()), 1, None)];
    assert_eq!(commit(store, one).await?, UnitResult::Committed);
    Ok(())
}

/// Deleting a run or a dag takes all that belongs to it, but not the audit log, and not what is alike.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn deleting_leaves_nothing_behind(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let kept = create(&store, new_run("r2", RunType::Manual, 2)).await?;
    fill(&store, &run, 1).await?;
    fill(&store, &kept, 2).await?;
    let entry = AuditEntry {
        at: at(1),
        actor: "me".into(),
        event: "trigger".into(),
        dag_id: Some(d()),
        run_id: None,
        task_id: None,
        map_index: None,
        extra: None,
    };
    store.audit(entry).await?;
    assert!(store.delete_run(run.pk).await?);
    assert!(!store.delete_run(run.pk).await?);
    let filter = XComFilter { run: run.pk, tasks: vec![], map_index: None, key: None };
    assert_eq!(store.load_run(run.pk, None).await?, None);
    assert_eq!(store.task_instances(run.pk).await?, []);
    assert_eq!(store.attempts(run.pk, None).await?, []);
    assert_eq!(store.events(run.pk, None).await?, []);
    assert_eq!(store.xcoms(&filter).await?.len(), 0);
    let snapshot = store.load_run(kept.pk, None).await?.expect("it was not deleted");
    assert_eq!((snapshot.tis.len(), snapshot.expansions.len()), (1, 1));
    let again = create(&store, new_run("r1", RunType::Manual, 1)).await?;
    assert!(again.pk > kept.pk, "a number is never used again");
    fill(&store, &again, 1).await?;
    assert_eq!(store.delete_dag(&d()).await?, 2);
    assert_eq!((store.runs(&RunFilter::default()).await?, store.dag_versions(&d()).await?), (vec![], vec![]));
    let default_pool = (SlotKey::Pool("default_pool".into()), 3);
    assert_eq!(store.slots().await?, [default_pool], "the limits of the dag went with it");
    assert_eq!(store.audit_log(&AuditFilter::default()).await?.len(), 1);
    Ok(())
}

/// A run that is deleted while its instances execute or are deferred gives back what they have taken, and its own place.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn a_deleted_run_gives_back_what_it_held(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let holds = |pool: &str, slots, counts_for_task| {
        Some(std::sync::Arc::new(Held { pool: pool.into(), slots, counts_for_task }))
    };
    let mut start = unit(&run);
    start.run_change = Some(run_change(&run, RunEvent::Started));
    for (task, held) in [("a", holds("big", 3, true)), ("b", holds("default_pool", 1, false)), ("c", None)] {
        let launched = change(task, TaskState::None, TaskEvent::Launched, 0);
        let holds = held.clone();
        start.tis.push(TiChange { data: TiData { holds, ..launched.data.clone() }, ..launched });
    }
    let (big, default) = (SlotKey::Pool("big".into()), SlotKey::Pool("default_pool".into()));
    store
        .set_pool(PoolSpec {
            name: "big".into(),
            slots: 9,
            description: String::new(),
            include_deferred: false,
        })
        .await?;
    start.slots = vec![
        slot(SlotKey::Runs(d()), 1, None),
        slot(SlotKey::Dag(d()), 2, None),
        slot(SlotKey::Task(d(), "a".into()), 1, None),
        slot(big.clone(), 4, None),
        slot(default, 1, None),
    ];
    assert_eq!(commit(&store, start).await?, UnitResult::Committed);
    let stored = store.task_instances(run.pk).await?;
    assert_eq!(stored[0].data.holds, holds("big", 3, true), "what is held is kept");
    assert_eq!((&stored[1].data.holds, &stored[2].data.holds), (&holds("default_pool", 1, false), &None));
    let mut wait = unit(&run);
    let deferred = change("b", TaskState::Running, TaskEvent::Deferred, 1);
    let data = TiData { holds: holds("default_pool", 1, false), ..deferred.data.clone() };
    wait.tis = vec![TiChange { data, ..deferred }];
    wait.slots = vec![
        slot(SlotKey::Pool("default_pool".into()), -1, None),
        slot(SlotKey::Dag(d()), -1, None),
        slot(SlotKey::Deferred("default_pool".into()), 1, None),
    ];
    assert_eq!(commit(&store, wait).await?, UnitResult::Committed);
    assert!(store.delete_run(run.pk).await?);
    assert_eq!(store.slots().await?, [(big, 1)], "the one slot that another run has taken is still so");
    Ok(())
}

/// Cleaning deletes finished runs that ended before, but never the newest of a dag.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn cleaning_keeps_the_newest_run(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    for (number, day) in [(1_u32, 1_i64), (2, 2), (3, 3), (4, 4)] {
        let run = create(&store, new_run(&format!("r{number}"), RunType::Manual, day)).await?;
        fill(&store, &run, u128::from(number)).await?;
        if number != 2 {
            let mut ended = unit(&run);
            let mut change = run_change(&run, RunEvent::MarkedFailed);
            change.ended_at = Some(at(day));
            ended.run_change = Some(change);
            assert_eq!(commit(&store, ended).await?, UnitResult::Committed);
        }
    }
    let entry = |seconds| AuditEntry {
        at: at(seconds),
        actor: "me".into(),
        event: "e".into(),
        dag_id: None,
        run_id: None,
        task_id: None,
        map_index: None,
        extra: None,
    };
    for seconds in [0, 2, 3, 9] {
        store.audit(entry(seconds)).await?;
    }
    let left = async || StoreResult::Ok(names(&store.runs(&RunFilter::default()).await?).join(" "));
    let old = |table, seconds| Old { table, before: at(seconds), dags: vec![], not_dags: vec![] };
    let keys = async |old: &Old| {
        let rows = store.old_rows(old, 10).await?;
        assert_eq!(rows.len() as u64, store.count_old(old).await?);
        StoreResult::Ok(rows.iter().map(OldRow::key).collect::<Vec<_>>())
    };
    let early = old(OldTable::Runs, 3);
    let first = keys(&early).await?;
    assert_eq!(first.len(), 1, "r3 ended at that moment, not before");
    assert_eq!(left().await?, "r1 r2 r3 r4", "looking deletes nothing");
    assert_eq!(store.delete_old(&early, first.clone()).await?, 1);
    assert_eq!(left().await?, "r2 r3 r4");
    assert_eq!(store.delete_old(&early, first).await?, 0);
    let late = old(OldTable::Runs, 100);
    let second = keys(&late).await?;
    assert_eq!(store.delete_old(&early, second.clone()).await?, 0, "it is not old by that moment");
    assert_eq!(store.delete_old(&late, second).await?, 1);
    assert_eq!(left().await?, "r2 r4", "r2 has not ended, r4 is the newest");
    assert_eq!(keys(&late).await?, []);

    let values = old(OldTable::XComs, 100);
    let others = Old { not_dags: vec!["d".into()], ..values.clone() };
    assert_eq!(keys(&others).await?, []);
    let other = Old { dags: vec!["other".into()], ..values.clone() };
    assert_eq!(keys(&other).await?, []);
    let of_r4 = keys(&Old { dags: vec!["d".into()], ..values.clone() }).await?;
    assert_eq!(of_r4.len(), 1, "r2 has not ended");
    assert_eq!(store.delete_old(&values, of_r4).await?, 1);

    let entries = old(OldTable::Audit, 3);
    let old_entries = keys(&entries).await?;
    assert_eq!(old_entries.len(), 2);
    assert_eq!(store.delete_old(&entries, old_entries).await?, 2);
    assert_eq!(store.audit_log(&AuditFilter::default()).await?.len(), 2);
    let of_dag = Old { dags: vec!["d".into()], ..old(OldTable::Audit, 100) };
    assert_eq!(keys(&of_dag).await?, [], "these entries are of no dag");
    old_versions(&store).await
}

/// Versions go that are neither current nor of a run.
async fn old_versions(store: &SharedStore) -> StoreResult<()> {
    let newer = |number: u32| record("d", &format!("v{number}"));
    for number in [90, 91, 92] {
        store.sync_dags(vec![newer(number)], at(50)).await?;
    }
    let old = Old { table: OldTable::Versions, before: at(51), dags: vec![], not_dags: vec![] };
    let rows = store.old_rows(&old, 10).await?;
    let fingerprints: Vec<&str> = rows
        .iter()
        .filter_map(|row| if let OldRow::Version(_, v) = row { Some(v.fingerprint.as_str()) } else { None })
        .collect();
    assert_eq!(fingerprints, ["v90", "v91"], "v92 is current, the first one is of runs");
    let before = Old { before: at(50), ..old.clone() };
    assert_eq!(store.count_old(&before).await?, 0);
    assert_eq!(store.delete_old(&old, rows.iter().map(OldRow::key).collect()).await?, 2);
    assert_eq!(store.dag_versions(&"d".into()).await?.len(), 2);
    Ok(())
}
