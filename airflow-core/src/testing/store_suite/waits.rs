//! Deferred task instances: what they wait for, who waits in their stead, what they count for.

use uuid::Uuid;

use crate::id::{AttemptId, IncarnationId, RunPk};
use crate::operator::{Deferred, Wait};
use crate::state::{RunType, TaskEvent, TaskState};
use crate::store::{
    NewIncarnation, PoolSpec, RunRow, SharedStore, SlotKey, StoreResult, TiChange, TiData, UnitResult,
};

use super::{at, change, commit, create, d, fresh, new_run, one_run, record, slot, unit};

const COMMITTED: UnitResult = UnitResult::Committed;

fn attempt(id: u128) -> AttemptId {
    AttemptId(Uuid::from_u128(id))
}

fn process(id: u128) -> IncarnationId {
    IncarnationId(Uuid::from_u128(id))
}

async fn register(store: &SharedStore, id: u128) -> StoreResult<()> {
    store
        .register(NewIncarnation {
            id: process(id),
            kind: "scheduler".into(),
            host: "h".into(),
            pid: 1,
            birth: "b".into(),
            started_at: at(0),
            lease_until: at(60),
        })
        .await
}

fn wait() -> Wait {
    let deferred = Deferred {
        kind: "k\"\\é".into(),
        args: serde_json::json!({ "nothing\u{0}": [null, 1.5, "\u{1F4A5}"] }),
        method: "m".into(),
        kwargs: serde_json::Value::Null,
        at: at(1),
        until: Some(at(2)),
    };
    Wait { since: Some(at(0)), pokes: 7, deferred: Some(deferred), resumed: None }
}

/// Changes of a task up to the state `deferred`.
async fn defer(store: &SharedStore, run: &RunRow, task: &str, id: u128) -> StoreResult<()> {
    let mut starts = unit(run);
    starts.tis = vec![change(task, TaskState::None, TaskEvent::Launched, 0)];
    assert_eq!(commit(store, starts).await?, COMMITTED);
    let mut defers = unit(run);
    let data = TiData { attempt_id: Some(attempt(id)), wait: Some(Box::new(wait())), ..TiData::default() };
    defers.tis = vec![TiChange { data, ..change(task, TaskState::Running, TaskEvent::Deferred, 1) }];
    assert_eq!(commit(store, defers).await?, COMMITTED);
    Ok(())
}

async fn claim(
    store: &SharedStore,
    by: u128,
    dags: &[&str],
    limit: u32,
) -> StoreResult<Vec<(RunPk, AttemptId)>> {
    let dags: Vec<_> = dags.iter().map(|dag| (*dag).into()).collect();
    store.claim_waits(process(by), &dags, limit).await
}

/// What an instance waits for is kept as it was given, and goes with the change that drops it.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn waits_are_kept_as_given(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    defer(&store, &run, "a", 1).await?;
    let stored = store.task_instances(run.pk).await?;
    assert_eq!(stored[0].data.wait.as_deref(), Some(&wait()));
    let loaded = store.load_run(run.pk, None).await?.expect("the run exists");
    assert_eq!(loaded.tis, stored);
    let mut fires = unit(&run);
    fires.tis = vec![change("a", TaskState::Deferred, TaskEvent::Ready, 2)];
    assert_eq!(commit(&store, fires).await?, COMMITTED);
    assert_eq!(store.task_instances(run.pk).await?[0].data.wait, None);
    Ok(())
}

/// A wait belongs to one process; after its death, or a further change of the instance, to nobody.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn waits_are_claimed_by_one_process(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    store.sync_dags(vec![record("e", "v1")], at(0)).await?;
    let run = create(&store, new_run("r1", RunType::Manual, 1)).await?;
    let other_dag = crate::store::NewRun { dag_id: "e".into(), ..new_run("r1", RunType::Manual, 1) };
    let other = create(&store, other_dag).await?;
    for (run, task, id) in [(&run, "b", 2), (&run, "a", 1), (&other, "c", 3)] {
        defer(&store, run, task, id).await?;
    }
    register(&store, 1).await?;
    register(&store, 2).await?;
    assert_eq!(claim(&store, 1, &[], 9).await?, []);
    assert_eq!(claim(&store, 1, &["d"], 1).await?, [(run.pk, attempt(1))], "by task, up to the limit");
    assert_eq!(claim(&store, 2, &["d", "e"], 9).await?, [(run.pk, attempt(2)), (other.pk, attempt(3))]);
    assert_eq!(claim(&store, 1, &["d", "e"], 9).await?, [], "each belongs to somebody");
    store.end_incarnation(process(2), at(5)).await?;
    assert_eq!(claim(&store, 1, &["d"], 9).await?, [(run.pk, attempt(2))], "that process is gone");
    let mut clears = unit(&run);
    clears.tis = vec![change("a", TaskState::Deferred, TaskEvent::Cleared, 2)];
    assert_eq!(commit(&store, clears).await?, COMMITTED);
    let mut again = unit(&run);
    again.tis = vec![change("a", TaskState::None, TaskEvent::Launched, 3)];
    assert_eq!(commit(&store, again).await?, COMMITTED);
    let mut defers = unit(&run);
    let data = TiData { attempt_id: Some(attempt(4)), ..TiData::default() };
    defers.tis = vec![TiChange { data, ..change("a", TaskState::Running, TaskEvent::Deferred, 4) }];
    assert_eq!(commit(&store, defers).await?, COMMITTED);
    assert_eq!(claim(&store, 1, &["d"], 9).await?, [(run.pk, attempt(4))], "a new wait is nobody's");
    assert_eq!(claim(&store, 3, &["e"], 9).await?, [(other.pk, attempt(3))]);
    assert_eq!(claim(&store, 1, &["e"], 9).await?, [(other.pk, attempt(3))], "process 3 is unknown");
    Ok(())
}

/// What is deferred counts in a pool that says so, also inside of one commit; and it keeps its dag from being deleted.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn deferred_slots_count_where_the_pool_says_so(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let (pool, deferred) = (SlotKey::Pool("p".into()), SlotKey::Deferred("p".into()));
    let sized = |include_deferred| PoolSpec {
        name: "p".into(),
        slots: 2,
        description: String::new(),
        include_deferred,
    };
    let taking = |pools: i64, waits: i64| {
        let mut one = unit(&run);
        one.slots = vec![slot(pool.clone(), pools, None), slot(deferred.clone(), waits, None)];
        one
    };
    store.set_pool(sized(true)).await?;
    assert_eq!(commit(&store, taking(2, 0)).await?, COMMITTED);
    assert_eq!(commit(&store, taking(-1, 1)).await?, COMMITTED, "one of two is deferred");
    let full = UnitResult::Full(pool.clone());
    assert_eq!(commit(&store, taking(1, 0)).await?, full);
    assert_eq!(commit(&store, taking(1, -1)).await?, COMMITTED, "it gives back what it takes");
    assert_eq!(store.commit(vec![taking(-1, 1), taking(1, 0)]).await?, [COMMITTED, full.clone()]);
    let row = store.pools().await?.pop().expect("there are two");
    assert_eq!((row.used, row.deferred, row.occupied()), (1, 1, 2));
    store.set_pool(sized(false)).await?;
    assert_eq!(commit(&store, taking(1, 0)).await?, COMMITTED, "now it does not count");
    assert_eq!(commit(&store, taking(1, 0)).await?, full);
    let row = store.pools().await?.pop().expect("there are two");
    assert_eq!((row.used, row.deferred, row.occupied()), (2, 1, 2));
    assert_eq!(store.slots().await?, [(pool.clone(), 2), (deferred.clone(), 1)]);
    assert_eq!(commit(&store, taking(-2, -1)).await?, COMMITTED);
    assert_eq!(store.slots().await?, []);
    defer(&store, &run, "a", 1).await?;
    super::assert_refused(&store.delete_dag(&d()).await);
    Ok(())
}
