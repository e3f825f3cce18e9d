//! Tables, processes, variables, pools and the audit log.

use uuid::Uuid;

use crate::id::{IncarnationId, MapIndex};
use crate::store::{
    AuditEntry, AuditFilter, ConnectionRow, EncryptedField, NewIncarnation, PoolSpec, SharedStore, SlotKey,
    StoreResult, TokenSwap, UnitResult, VariableRow,
};

use super::{assert_refused, at, commit, fresh, one_run, slot, unit};

/// A migration does nothing the second time; a reset leaves the tables empty.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn tables_are_made_once(store: SharedStore) -> StoreResult<()> {
    let made = store.migrate().await?;
    let again = store.migrate().await?;
    assert_eq!((again.from, again.to), (made.to, made.to));
    let status = store.check().await?;
    assert_eq!((status.version, status.needed), (made.to, made.to));
    one_run(&store).await?;
    store.reset().await?;
    assert_eq!((store.dags().await?, store.pools().await?.len()), (vec![], 1));
    assert!(!store.kind().is_empty() && !store.place().is_empty());
    Ok(())
}

/// A process renews its lease until it ends, and never after.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn incarnations_beat_until_they_end(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    let process = |number: u128, started: i64| NewIncarnation {
        id: IncarnationId(Uuid::from_u128(number)),
        kind: "scheduler".into(),
        host: "here".into(),
        pid: 4_000_000_000,
        birth: "boot/1".into(),
        started_at: at(started),
        lease_until: at(started + 20),
    };
    let (old, new) = (process(2, 0), process(1, 5));
    store.register(new.clone()).await?;
    store.register(old.clone()).await?;
    assert!(store.beat(old.id, at(10), at(30)).await?);
    store.register(old.clone()).await?;
    let alive = store.incarnations().await?;
    assert_eq!(alive.len(), 2);
    assert_eq!((alive[0].process.lease_until, alive[0].beats, alive[0].last_beat), (at(30), 1, at(10)));
    assert_eq!((&alive[1].process, alive[1].beats, alive[1].last_beat), (&new, 0, at(5)));
    store.end_incarnation(old.id, at(11)).await?;
    store.end_incarnation(old.id, at(12)).await?;
    assert!(!store.beat(old.id, at(13), at(40)).await?, "it was declared dead");
    assert!(!store.beat(IncarnationId(Uuid::from_u128(9)), at(13), at(40)).await?, "nobody knows it");
    assert_eq!(store.incarnations().await?.len(), 1);
    Ok(())
}

/// Variables are replaced by key, in order of bytes; a description stays until a new one comes.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn variables_keep_their_description(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    let variable = |key: &str, value: &str, description: Option<&str>| VariableRow {
        key: key.into(),
        value: value.into(),
        description: description.map(Into::into),
        is_encrypted: value == "3",
    };
    store.set_variable(variable("b", "1", Some("what"))).await?;
    store.set_variable(variable("B", "2", None)).await?;
    store.set_variable(variable("b", "3", None)).await?;
    assert_eq!(store.variable("b").await?, Some(variable("b", "3", Some("what"))));
    assert_eq!(store.variables().await?, [variable("B", "2", None), variable("b", "3", Some("what"))]);
    assert!(store.delete_variable("b").await?);
    assert!(!store.delete_variable("b").await?);
    assert_eq!(store.variable("b").await?, None);
    Ok(())
}

/// Connections are replaced by id, in order of bytes; a description stays until a new one comes. A token is replaced
/// only where it still stands and is marked as one.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn connections_keep_every_field_and_swap_tokens_only_where_they_stand(
    store: SharedStore,
) -> StoreResult<()> {
    fresh(&store).await?;
    let full = ConnectionRow {
        conn_id: "b".into(),
        conn_type: Some("postgres".into()),
        description: Some("what".into()),
        host: Some("h\u{f6}st".into()),
        login: Some(String::new()),
        password: Some("token-1".into()),
        schema: Some("s".into()),
        port: Some(65_535),
        extra: Some("{\"a\": 1}".into()),
        is_encrypted: true,
        is_extra_encrypted: false,
    };
    let empty = ConnectionRow { conn_id: "B".into(), ..ConnectionRow::default() };
    store.set_connection(full.clone()).await?;
    store.set_connection(ConnectionRow { description: None, port: Some(0), ..full.clone() }).await?;
    store.set_connection(ConnectionRow { description: None, ..full.clone() }).await?;
    store.set_connection(empty.clone()).await?;
    assert_eq!(store.connection("b").await?, Some(full.clone()));
    assert_eq!(store.connections().await?, [empty, full.clone()]);
    let key = "v".to_owned();
    let marked =
        VariableRow { key: key.clone(), value: "token-2".into(), description: None, is_encrypted: true };
    store.set_variable(marked.clone()).await?;
    let swap = |field: EncryptedField, from: &str| TokenSwap { field, from: from.into(), to: "new".into() };
    let swaps = vec![
        swap(EncryptedField::Password("b".into()), "token-1"),
        swap(EncryptedField::Extra("b".into()), "{\"a\": 1}"),
        swap(EncryptedField::Password("B".into()), "token-1"),
        swap(EncryptedField::Variable(key.clone()), "token-1"),
        swap(EncryptedField::Variable(key), "token-2"),
    ];
    assert_eq!(store.swap_tokens(swaps.clone()).await?, 2, "one is not marked, two are not there");
    assert_eq!(store.swap_tokens(swaps).await?, 0, "they stand there no more");
    let new = ConnectionRow { password: Some("new".into()), ..full };
    assert_eq!(store.connection("b").await?, Some(new));
    assert_eq!(store.variable("v").await?, Some(VariableRow { value: "new".into(), ..marked }));
    assert!(store.delete_connection("b").await?);
    assert!(!store.delete_connection("b").await?);
    assert_eq!(store.connection("b").await?, None);
    Ok(())
}

/// `default_pool` is always there; other pools come and go, and what is taken of them stays known.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn pools_have_a_default_that_stays(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let pools = store.pools().await?;
    assert_eq!((pools.len(), pools[0].spec.name.as_str(), pools[0].spec.slots), (1, "default_pool", 128));
    assert_refused(&store.delete_pool("default_pool").await);
    let pool = PoolSpec { name: "a".into(), slots: 3, description: "x".into(), include_deferred: true };
    store.set_pool(pool.clone()).await?;
    let mut taking = unit(&run);
    taking.slots = vec![slot(SlotKey::Pool("a".into()), 2, None)];
    assert_eq!(commit(&store, taking).await?, UnitResult::Committed);
    let pools = store.pools().await?;
    assert_eq!((&pools[0].spec, pools[0].used, pools.len()), (&pool, 2, 2));
    assert!(store.delete_pool("a").await?);
    assert!(!store.delete_pool("a").await?);
    assert_eq!(store.pools().await?.len(), 1);
    assert_eq!(store.slots().await?, [(SlotKey::Pool("a".into()), 2)]);
    Ok(())
}

/// The audit log is read from its newest entry on; of equal times the one written last comes first.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn audit_entries_come_newest_first(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    let entry = |seconds, event: &str, dag: Option<&str>| AuditEntry {
        at: at(seconds),
        actor: "me".into(),
        event: event.into(),
        dag_id: dag.map(Into::into),
        run_id: Some("r".into()),
        task_id: Some("t".into()),
        map_index: Some(MapIndex(4)),
        extra: Some("{}".into()),
    };
    let entries = [entry(5, "pause", Some("d")), entry(5, "clear", None), entry(4, "pause", Some("e"))];
    for one in &entries {
        store.audit(one.clone()).await?;
    }
    let all = store.audit_log(&AuditFilter::default()).await?;
    assert_eq!(all, [entries[1].clone(), entries[0].clone(), entries[2].clone()]);
    let paused = AuditFilter { event: Some("pause".into()), limit: Some(1), ..AuditFilter::default() };
    assert_eq!(store.audit_log(&paused).await?, [entries[0].clone()]);
    let of_e = AuditFilter { dag_id: Some("e".into()), ..AuditFilter::default() };
    assert_eq!(store.audit_log(&of_e).await?, [entries[2].clone()]);
    Ok(())
}
