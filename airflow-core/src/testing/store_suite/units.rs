//! What becomes of units.

use crate::id::MapIndex;
use crate::state::{RunEvent, RunState, RunType, TaskEvent, TaskState};
use crate::store::{
    AttemptState, Expansion, PoolSpec, SharedStore, SlotKey, StoreResult, TiChange, UnitResult, XComFilter,
};

use super::{change, commit, create, d, end, new_run, one_run, run_change, slot, start, unit, visible, xcom};

const STALE: UnitResult = UnitResult::Stale;
const COMMITTED: UnitResult = UnitResult::Committed;

/// A task instance has no row before its first change, and epoch 1 after it.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn rows_appear_with_their_first_change(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    assert_eq!(store.task_instances(run.pk).await?, vec![]);
    let mut first = unit(&run);
    first.tis = vec![
        change("b", TaskState::None, TaskEvent::Ready, 0),
        TiChange { map_index: MapIndex(3), ..change("a", TaskState::None, TaskEvent::Launched, 0) },
        change("a", TaskState::None, TaskEvent::Removed, 0),
    ];
    first.expansions = vec![Expansion { owner: "a".into(), length: 4 }];
    assert_eq!(commit(&store, first.clone()).await?, COMMITTED);
    let rows = store.task_instances(run.pk).await?;
    let seen: Vec<_> =
        rows.iter().map(|ti| (ti.task_id.as_str(), ti.map_index.0, ti.state, ti.epoch)).collect();
    let expected = [
        ("a", -1, TaskState::Removed, 1),
        ("a", 3, TaskState::Running, 1),
        ("b", -1, TaskState::Scheduled, 1),
    ];
    assert_eq!(seen, expected);
    assert_eq!(rows[2].data, first.tis[0].data);
    let events = store.events(run.pk, None).await?;
    assert_eq!(events.len(), 3);
    assert_eq!(
        (events[1].from, events[1].to, events[1].event),
        (TaskState::None, TaskState::Running, TaskEvent::Launched)
    );
    assert_eq!((events[1].epoch, events[1].actor.as_str(), events[1].at), (1, "scheduler", first.at));
    let loaded = store.load_run(run.pk, None).await?.expect("the run exists");
    assert_eq!((loaded.tis, loaded.expansions, loaded.past), (rows, first.expansions, None));
    Ok(())
}

/// Of two decisions on the same view one wins; so does none on a view that never was.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn a_stale_state_or_epoch_is_refused(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let ready = |epoch| {
        let mut one = unit(&run);
        one.tis = vec![change("a", TaskState::None, TaskEvent::Ready, epoch)];
        one
    };
    assert_eq!(commit(&store, ready(1)).await?, STALE, "a row that is missing has epoch 0");
    assert_eq!(commit(&store, ready(0)).await?, COMMITTED);
    let before = visible(&store, &run).await?;
    assert_eq!(commit(&store, ready(0)).await?, STALE, "the same decision again");
    for (state, event, epoch) in [
        (TaskState::Scheduled, TaskEvent::Launched, 0),
        (TaskState::Scheduled, TaskEvent::Launched, 2),
        (TaskState::Queued, TaskEvent::Claimed, 1),
        (TaskState::None, TaskEvent::Ready, 1),
    ] {
        let mut one = unit(&run);
        one.tis = vec![change("a", state, event, epoch)];
        assert_eq!(commit(&store, one).await?, STALE, "{state} {event} {epoch}");
    }
    let mut twice = unit(&run);
    let launched = change("a", TaskState::Scheduled, TaskEvent::Launched, 1);
    twice.tis = vec![launched.clone(), launched];
    assert_eq!(commit(&store, twice).await?, STALE, "an instance changes at most once in a unit");
    assert_eq!(visible(&store, &run).await?, before);
    let mut gone = unit(&run);
    gone.run.0 += 1000;
    assert_eq!(commit(&store, gone).await?, STALE, "no such run");
    Ok(())
}

/// If one change of a unit does not hold, nothing of it is written; other units of the call are.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn units_are_written_whole_or_not_at_all(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let before = visible(&store, &run).await?;
    let mut whole = unit(&run);
    whole.by_user = true;
    whole.run_change = Some(run_change(&run, RunEvent::Started));
    whole.tis = vec![
        change("a", TaskState::None, TaskEvent::Launched, 0),
        change("b", TaskState::Running, TaskEvent::Succeeded, 4),
    ];
    whole.expansions = vec![Expansion { owner: "m".into(), length: 2 }];
    whole.xcoms = vec![xcom("a", "k", "1")];
    whole.started = vec![start(1, "a", 1, AttemptState::Running)];
    whole.slots = vec![slot(SlotKey::Dag(d()), 1, Some(16))];
    assert_eq!(commit(&store, whole.clone()).await?, STALE);
    assert_eq!(visible(&store, &run).await?, before);
    whole.tis.pop();
    let mut other = unit(&run);
    other.generation = 1;
    other.tis = vec![change("c", TaskState::None, TaskEvent::Ready, 0)];
    let mut stale = other.clone();
    stale.tis[0].epoch = 7;
    let results = store.commit(vec![stale, whole, other]).await?;
    assert_eq!(results, [STALE, COMMITTED, COMMITTED], "each unit for itself");
    let loaded = store.load_run(run.pk, None).await?.expect("the run exists");
    assert_eq!((loaded.run.state, loaded.run.generation), (RunState::Running, 1));
    assert_eq!((loaded.tis.len(), loaded.expansions.len()), (2, 1));
    assert_eq!(store.slots().await?, [(SlotKey::Dag(d()), 1)]);
    assert_eq!(store.commit(vec![]).await?, []);
    Ok(())
}

/// A change by a user makes all decisions on the view before it stale.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn a_user_change_refuses_older_decisions(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let mut user = unit(&run);
    user.by_user = true;
    assert_eq!(commit(&store, user.clone()).await?, COMMITTED);
    let mut late = unit(&run);
    late.tis = vec![change("a", TaskState::None, TaskEvent::Ready, 0)];
    assert_eq!(commit(&store, late.clone()).await?, STALE);
    assert_eq!(commit(&store, user).await?, STALE, "two users with one view");
    late.generation = 1;
    assert_eq!(commit(&store, late).await?, COMMITTED);
    let loaded = store.load_run(run.pk, None).await?.expect("the run exists");
    assert_eq!(loaded.run.generation, 1, "only users raise the generation");
    Ok(())
}

/// A run changes only from the state that was seen; a run that is queued again says when.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn run_changes_need_the_state_they_start_from(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let mut started = unit(&run);
    started.run_change = Some(run_change(&run, RunEvent::Started));
    assert_eq!(commit(&store, started.clone()).await?, COMMITTED);
    assert_eq!(commit(&store, started.clone()).await?, STALE);
    let running = store.load_run(run.pk, None).await?.expect("the run exists").run;
    let change = started.run_change.expect("it was set above");
    assert_eq!((running.state, running.started_at), (RunState::Running, change.started_at));
    assert_eq!((running.ended_at, &running.reason), (None, &change.reason));
    assert_eq!(running.queued_at, run.queued_at);
    let mut cleared = unit(&running);
    cleared.run_change = Some(run_change(&running, RunEvent::Cleared));
    assert_eq!(commit(&store, cleared.clone()).await?, COMMITTED);
    let queued = store.load_run(run.pk, None).await?.expect("the run exists").run;
    assert_eq!((queued.state, queued.queued_at), (RunState::Queued, cleared.at));
    Ok(())
}

/// The units of one call are judged and written in order, even if they touch the same rows.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn a_unit_sees_those_before_it(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let mut first = unit(&run);
    first.tis = vec![change("a", TaskState::None, TaskEvent::Launched, 0)];
    first.started = vec![start(1, "a", 1, AttemptState::Running)];
    first.xcoms = vec![xcom("a", "k", "1"), xcom("a", "other", "2")];
    let mut second = unit(&run);
    second.tis = vec![change("a", TaskState::Running, TaskEvent::Succeeded, 1)];
    second.ended = vec![end(1, AttemptState::Success)];
    second.xcom_clears = vec![("a".into(), MapIndex::UNMAPPED)];
    second.xcoms = vec![xcom("a", "k", "3")];
    let same_again = second.clone();
    let mut user = unit(&run);
    user.by_user = true;
    let too_late = unit(&run);
    let results = store.commit(vec![first, second, same_again, user, too_late]).await?;
    assert_eq!(results, [COMMITTED, COMMITTED, STALE, COMMITTED, STALE]);
    let tis = store.task_instances(run.pk).await?;
    assert_eq!((tis.len(), tis[0].state, tis[0].epoch), (1, TaskState::Success, 2));
    let epochs: Vec<u32> = store.events(run.pk, None).await?.iter().map(|event| event.epoch).collect();
    assert_eq!(epochs, [1, 2], "epochs have no gaps");
    let filter = XComFilter { run: run.pk, tasks: vec![], map_index: None, key: None };
    let xcoms = store.xcoms(&filter).await?;
    assert_eq!((xcoms.len(), xcoms[0].value.text()), (1, "3"));
    assert_eq!(store.attempts(run.pk, None).await?[0].state, AttemptState::Success);
    let run = create(&store, new_run("r2", RunType::Manual, 2)).await?;
    let mut value = unit(&run);
    value.xcoms = vec![xcom("b", "k", "1")];
    let mut ready = unit(&run);
    ready.tis = vec![change("b", TaskState::None, TaskEvent::Ready, 0)];
    let mut launched = unit(&run);
    launched.tis = vec![change("b", TaskState::Scheduled, TaskEvent::Launched, 1)];
    launched.xcom_clears = vec![("b".into(), MapIndex::UNMAPPED)];
    let mut stale = ready.clone();
    stale.xcoms = vec![xcom("b", "k", "2")];
    let results = store.commit(vec![value, ready, launched, stale]).await?;
    assert_eq!(results, [COMMITTED, COMMITTED, COMMITTED, STALE]);
    assert_eq!(store.xcoms(&XComFilter { run: run.pk, ..filter }).await?.len(), 0);
    Ok(())
}

/// What is taken of a limit never exceeds it, and comes with the unit or not at all.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn limits_are_never_exceeded(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let key = SlotKey::Task(d(), "a".into());
    let take = |task: &str, delta| {
        let mut one = unit(&run);
        one.tis = vec![change(task, TaskState::None, TaskEvent::Launched, 0)];
        one.slots = vec![slot(SlotKey::Dag(d()), delta, None), slot(key.clone(), delta, Some(2))];
        one
    };
    assert_eq!(commit(&store, take("a", 3)).await?, UnitResult::Full(key.clone()));
    assert_eq!(store.slots().await?, [], "nothing of a refused unit is taken");
    assert_eq!(commit(&store, take("a", 1)).await?, COMMITTED);
    let results = store.commit(vec![take("b", 1), take("c", 1)]).await?;
    assert!(results.contains(&UnitResult::Full(key.clone())), "two do not fit: {results:?}");
    let taken =
        1 + i64::try_from(results.iter().filter(|result| **result == COMMITTED).count()).expect("small");
    assert_eq!(store.slots().await?, [(SlotKey::Dag(d()), taken), (key.clone(), taken)]);
    // A unit that gives back and takes again needs no room.
    let mut exchange = unit(&run);
    exchange.tis = vec![change("z", TaskState::None, TaskEvent::Launched, 0)];
    exchange.slots = vec![slot(key.clone(), 1, Some(0)), slot(key.clone(), -1, None)];
    assert_eq!(commit(&store, exchange).await?, COMMITTED);
    let mut stale = take("a", 9);
    stale.tis[0].epoch = 5;
    assert_eq!(commit(&store, stale).await?, STALE, "stale comes before full");
    Ok(())
}

/// The size of a pool is what the store says, whatever the unit says.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn pools_limit_by_what_the_store_says(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let key = SlotKey::Pool("p".into());
    let take = |delta| {
        let mut one = unit(&run);
        one.slots = vec![slot(key.clone(), delta, Some(1_000_000))];
        one
    };
    let sized = |slots| PoolSpec { name: "p".into(), slots, description: "x".into(), include_deferred: true };
    assert_eq!(commit(&store, take(1)).await?, UnitResult::Full(key.clone()), "an unknown pool has no room");
    for (slots, delta, fits) in [(0, 1, false), (2, 2, true), (2, 1, false), (3, 1, true), (-1, 500, true)] {
        store.set_pool(sized(slots)).await?;
        let expected = if fits { COMMITTED } else { UnitResult::Full(key.clone()) };
        assert_eq!(commit(&store, take(delta)).await?, expected, "{delta} of {slots}");
    }
    let pools = store.pools().await?;
    let pool = pools.iter().find(|pool| pool.spec.name == "p").expect("it was set");
    assert_eq!((pool.used, &pool.spec), (503, &sized(-1)));
    Ok(())
}

/// Giving back never fails, neither above the limit nor below zero, nor for a pool that is gone.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn giving_back_never_fails(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let with = |key: &SlotKey, delta, limit| {
        let mut one = unit(&run);
        one.slots = vec![slot(key.clone(), delta, limit)];
        one
    };
    let (runs, pool) = (SlotKey::Runs(d()), SlotKey::Pool("gone".into()));
    assert_eq!(commit(&store, with(&runs, 5, Some(5))).await?, COMMITTED);
    assert_eq!(commit(&store, with(&runs, -1, Some(2))).await?, COMMITTED, "above the limit");
    assert_eq!(store.slots().await?, [(runs.clone(), 4)]);
    assert_eq!(commit(&store, with(&runs, -10, None)).await?, COMMITTED, "below zero");
    assert_eq!(commit(&store, with(&pool, -1, None)).await?, COMMITTED, "a pool that is gone");
    assert_eq!(store.slots().await?, []);
    let results = store.commit(vec![with(&runs, -1, None), with(&runs, 2, Some(2))]).await?;
    assert_eq!(results, [COMMITTED, COMMITTED]);
    assert_eq!(store.slots().await?, [(runs, 2)], "what was given back too much does not count later");
    Ok(())
}
