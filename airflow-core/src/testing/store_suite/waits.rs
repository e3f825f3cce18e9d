//! Deferred task instances: what they wait for, what they count for.

use uuid::Uuid;

use crate::id::AttemptId;
use crate::operator::{Deferred, Wait};
use crate::state::{TaskEvent, TaskState};
use crate::store::{PoolSpec, RunRow, SharedStore, SlotKey, StoreResult, TiChange, TiData, UnitResult};

use super::{at, change, commit, d, one_run, slot, unit};

const COMMITTED: UnitResult = UnitResult::Committed;

fn attempt(id: u128) -> AttemptId {
    AttemptId(Uuid::from_u128(id))
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
