//! Watchers of assets: who runs one, and how far it has come.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::asset::{Asset, AssetEventFilter, AssetEventId, WatcherKey};
use crate::id::IncarnationId;
use crate::store::{
    AssetEvent, AssetRole, DagAsset, DagRecord, NewIncarnation, Old, OldRow, OldTable, QueuedAsset,
    SharedStore, StoreResult, WatchedEvent, WatcherRow,
};

use super::{at, fresh, record};

fn orders() -> Asset {
    Asset::new("s3://lake/orders").named("orders")
}

fn key(name: &str) -> WatcherKey {
    WatcherKey { asset: orders().key(), name: name.into() }
}

/// A dag that is not paused, whose schedule names the asset with these watchers.
fn watching(dag: &str, watchers: &[&str]) -> DagRecord {
    let part =
        |role, task: Option<&str>| DagAsset { asset: orders().into(), role, task_id: task.map(Into::into) };
    let mut assets = vec![part(AssetRole::Schedule, None)];
    assets.extend(watchers.iter().map(|name| part(AssetRole::Watcher, Some(name))));
    DagRecord { paused_at_creation: false, assets, ..record(dag, "v1") }
}

/// Makes processes known.
async fn processes<const N: usize>(store: &SharedStore) -> StoreResult<[IncarnationId; N]> {
    let ids = std::array::from_fn(|number| IncarnationId(Uuid::from_u128(number as u128 + 1)));
    for id in ids {
        let process = NewIncarnation {
            id,
            kind: "scheduler".into(),
            host: "here".into(),
            pid: 4_000_000_000,
            birth: "boot/1".into(),
            lease: Duration::from_secs(3600),
        };
        store.register(process).await?;
    }
    Ok(ids)
}

async fn claim(store: &SharedStore, names: &[&str], process: IncarnationId) -> StoreResult<Vec<String>> {
    let keys = names.iter().map(|name| key(name)).collect();
    let rows = store.claim_watchers(keys, process).await?;
    Ok(rows.into_iter().map(|row| row.key.name).collect())
}

/// An event of the watcher `w`, the one after so many.
fn watched(after: u64, cursor: Value) -> WatchedEvent {
    let at = at(10 + i64::try_from(after).expect("a small number"));
    let id = AssetEventId::from(format!("e{after}-{cursor}"));
    let event = AssetEvent { extra: json!({ "n": after }), ..AssetEvent::from_outside(id, &orders(), at) };
    WatchedEvent { key: key("w"), after, cursor, event }
}

async fn row(store: &SharedStore, name: &str) -> StoreResult<Option<WatcherRow>> {
    Ok(store.watchers().await?.into_iter().find(|row| row.key.name == name))
}

/// A watcher belongs to the process that asked first, until that one ends, and only while a dag that is not paused waits
/// for its asset.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn watchers_have_one_owner(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    store.sync_dags(vec![watching("c", &["w", "ü\""]), watching("e", &["w"])], at(1)).await?;
    let [a, b, c] = processes(&store).await?;
    let seen: Vec<_> = store.watchers().await?;
    let names: Vec<(&str, &str, bool, bool)> = seen
        .iter()
        .map(|row| (row.asset.as_str(), row.key.name.as_str(), row.is_named, row.is_wanted))
        .collect();
    assert_eq!(names, [("orders", "w", true, true), ("orders", "ü\"", true, true)]);
    assert_eq!(store.assets().await?[0].watchers, ["w", "ü\""]);

    assert_eq!(claim(&store, &["w", "unknown"], a).await?, ["w"]);
    assert_eq!(claim(&store, &["w", "ü\""], b).await?, ["ü\""], "the other one has an owner");
    assert_eq!(claim(&store, &["w", "ü\""], a).await?, ["w"], "asked again it is the same");
    assert_eq!(claim(&store, &[], a).await?, [""; 0]);
    assert_eq!(row(&store, "w").await?.and_then(|row| row.owner), Some(a));

    store.set_paused(&"c".into(), true).await?;
    assert_eq!(claim(&store, &["w"], a).await?, ["w"], "another dag waits");
    store.set_paused(&"e".into(), true).await?;
    assert_eq!(claim(&store, &["w"], a).await?, [""; 0], "nobody waits");
    assert!(row(&store, "w").await?.is_some_and(|row| row.is_named && !row.is_wanted));
    store.end_incarnation(a).await?;
    assert_eq!(claim(&store, &["w"], b).await?, [""; 0]);
    store.set_paused(&"c".into(), false).await?;
    assert_eq!(claim(&store, &["w"], a).await?, [""; 0], "it has ended");
    assert_eq!(row(&store, "w").await?.and_then(|row| row.owner), None);
    assert_eq!(claim(&store, &["w"], b).await?, ["w"], "its owner has ended");

    store.end_incarnation(b).await?;
    let both = [a, b, c].map(|process| claim(&store, &["w"], process));
    let won: Vec<Vec<String>> = join_all(both).await.into_iter().collect::<StoreResult<_>>()?;
    assert_eq!(won, [vec![], vec![], vec!["w".to_owned()]]);
    Ok(())
}

/// Of processes that ask at the same time one gets the watcher; of events that are written at the same time after the
/// same one, one is written.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn watchers_are_raced_for_by_many(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    store.sync_dags(vec![watching("c", &["w"])], at(1)).await?;
    let all: [IncarnationId; 6] = processes(&store).await?;
    let claims = all.map(|process| {
        let store = Arc::clone(&store);
        async move { claim(&store, &["w"], process).await }
    });
    let won: Vec<Vec<String>> = join_all(claims).await.into_iter().collect::<StoreResult<_>>()?;
    assert_eq!(won.iter().filter(|won| !won.is_empty()).count(), 1, "{won:?}");
    let owner = row(&store, "w").await?.and_then(|row| row.owner).expect("somebody has it");
    assert!(!won[all.iter().position(|one| *one == owner).expect("one of them")].is_empty(), "and it knows");
    let writes = all.map(|process| {
        let (store, watched) = (Arc::clone(&store), watched(0, json!(process.0.as_u128().to_string())));
        async move {
            [store.add_watched(process, watched.clone()).await, store.add_watched(process, watched).await]
        }
    });
    let written: Vec<bool> = join_all(writes).await.into_iter().flatten().collect::<StoreResult<_>>()?;
    assert_eq!(written.iter().filter(|written| **written).count(), 1, "{written:?}");
    assert_eq!(store.asset_events(&AssetEventFilter::default()).await?.len(), 1);
    Ok(())
}

/// An event of a watcher comes with how far the watcher has come, or not at all: once, from the process that has it.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn watchers_write_an_event_with_its_cursor(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    store.sync_dags(vec![watching("c", &["w"])], at(1)).await?;
    let [a, b] = processes(&store).await?;
    let first = || watched(0, json!({ "é": ["\"", null, 1] }));
    assert!(!store.add_watched(a, first()).await?, "nobody has it");
    assert_eq!(claim(&store, &["w"], a).await?, ["w"]);
    assert!(!store.add_watched(b, first()).await?, "another one has it");
    assert!(!store.add_watched(a, watched(1, json!(9))).await?, "there is none before it");
    assert_eq!(store.asset_events(&AssetEventFilter::default()).await?, []);
    assert!(store.add_watched(a, first()).await?);
    assert!(!store.add_watched(a, first()).await?, "once");
    assert_eq!(store.asset_events(&AssetEventFilter::default()).await?, [first().event]);
    let queued: Vec<(String, u64)> = store
        .asset_queue()
        .await?
        .into_iter()
        .map(|QueuedAsset { dag_id, events, .. }| (dag_id.to_string(), events))
        .collect();
    assert_eq!(queued, [("c".to_owned(), 1)]);

    assert!(store.note_watcher(a, key("w"), Some("bo\0om \u{1F4A5}".into()), at(20)).await?);
    assert!(store.note_watcher(a, key("w"), Some("again".into()), at(21)).await?);
    assert!(!store.note_watcher(b, key("w"), Some("not mine".into()), at(22)).await?);
    assert!(!store.note_watcher(a, key("x"), None, at(22)).await?);
    let seen = row(&store, "w").await?.expect("it is there");
    assert_eq!((seen.cursor, seen.events, seen.last_event), (Some(first().cursor), 1, Some(at(10))));
    assert_eq!((seen.failures, seen.error.as_deref(), seen.failed_at), (2, Some("again"), Some(at(21))));
    assert!(store.note_watcher(a, key("w"), None, at(23)).await?);
    let seen = row(&store, "w").await?.expect("it is there");
    assert_eq!((seen.failures, seen.error.as_deref()), (0, Some("again")), "what it was stays to be seen");
    assert!(store.note_watcher(a, key("w"), Some("bo\0om".into()), at(24)).await?);
    assert!(store.add_watched(a, watched(1, Value::Null)).await?);
    let seen = row(&store, "w").await?.expect("it is there");
    assert_eq!(
        (seen.failures, seen.error.as_deref()),
        (0, Some("bo\u{fffd}om")),
        "an event shows that it works"
    );
    assert_eq!((seen.cursor, seen.events), (Some(Value::Null), 2));

    store.end_incarnation(a).await?;
    assert!(!store.add_watched(a, watched(2, json!(2))).await?, "it has ended");
    let taken = store.claim_watchers(vec![key("w")], b).await?;
    assert_eq!((taken[0].cursor.clone(), taken[0].events), (Some(Value::Null), 2), "where the last one was");
    assert!(!store.add_watched(a, watched(2, json!(2))).await?, "it is another one's");
    assert!(store.add_watched(b, watched(2, json!(2))).await?);
    assert_eq!(store.asset_events(&AssetEventFilter::default()).await?.len(), 3);
    Ok(())
}

/// A watcher that no dag names any more keeps its cursor until it is cleaned away; it goes with the last dag that
/// names it.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn watchers_go_with_their_dags(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    store.sync_dags(vec![watching("c", &["w", "x"]), watching("e", &["w"])], at(1)).await?;
    let [a] = processes(&store).await?;
    assert_eq!(claim(&store, &["w", "x"], a).await?, ["w", "x"]);
    assert!(store.add_watched(a, watched(0, json!(1))).await?);
    let names = async || -> StoreResult<Vec<String>> {
        Ok(store.watchers().await?.into_iter().map(|row| row.key.name).collect())
    };
    store.delete_dag(&"c".into()).await?;
    assert_eq!(names().await?, ["w"], "`x` has gone with the dag, `w` is named elsewhere");

    store.sync_dags(vec![watching("e", &[])], at(5)).await?;
    assert!(
        row(&store, "w").await?.is_some_and(|row| !row.is_named && !row.is_wanted && row.cursor.is_some())
    );
    assert_eq!(claim(&store, &["w"], a).await?, [""; 0], "nobody names it");
    let old =
        |seconds| Old { table: OldTable::Watchers, before: at(seconds), dags: vec![], not_dags: vec![] };
    assert_eq!(store.count_old(&old(10)).await?, 0, "its event was at 10");
    assert_eq!(store.count_old(&old(11)).await?, 1);
    assert_eq!(store.count_old(&Old { dags: vec!["e".into()], ..old(11) }).await?, 0, "it is of no dag");
    let keys: Vec<_> = store.old_rows(&old(11), 9).await?.iter().map(OldRow::key).collect();
    store.sync_dags(vec![watching("e", &["w"])], at(6)).await?;
    assert_eq!(store.delete_old(&old(11), keys.clone()).await?, 0, "it is named again");
    assert_eq!(
        row(&store, "w").await?.and_then(|row| row.cursor),
        Some(json!(1)),
        "and goes on where it was"
    );
    store.sync_dags(vec![watching("e", &[])], at(7)).await?;
    assert_eq!(store.delete_old(&old(11), keys).await?, 1);
    assert_eq!(names().await?, [""; 0]);
    Ok(())
}
