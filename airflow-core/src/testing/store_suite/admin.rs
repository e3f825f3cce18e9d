//! Tables, processes, variables, pools and the audit log.

use std::time::Duration;

use uuid::Uuid;

use crate::id::{IncarnationId, MapIndex};
use crate::state::RunType;
use crate::store::{
    AttemptState, AuditEntry, AuditFilter, ConnectionRow, EncryptedField, Incarnation, NewIncarnation,
    PoolSpec, SharedStore, SlotKey, StoreResult, TokenSwap, UnitResult, VariableRow,
};

use super::{assert_refused, at, commit, create, end, fresh, new_run, one_run, slot, start, unit};

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
    let process = |number: u128| process(number, Duration::from_secs(3600));
    let (old, new) = (process(2), process(1));
    store.register(old.clone()).await?;
    let first = store.incarnations().await?.remove(0);
    assert_eq!((&first.process, first.beats, first.expired), (&old, 0, false));
    assert_eq!(first.last_beat, first.started_at);
    let lease = |one: &Incarnation| (one.lease_until - one.last_beat).to_std().expect("it ends later");
    assert_eq!(lease(&first), old.lease, "it counts from the store's own time");
    assert!(store.beat(old.id).await?);
    store.register(old.clone()).await?;
    store.register(new.clone()).await?;
    let alive = store.incarnations().await?;
    assert_eq!(alive.len(), 2);
    let beaten = alive.iter().find(|one| one.process.id == old.id).expect("it is alive");
    assert_eq!((beaten.beats, lease(beaten)), (1, old.lease), "made known again it keeps its beats");
    assert!(beaten.last_beat >= first.last_beat && beaten.started_at == first.started_at);
    assert!(!store.expire(old.id, 1).await?, "its lease has not run out");
    store.end_incarnation(old.id).await?;
    store.end_incarnation(old.id).await?;
    assert!(!store.beat(old.id).await?, "it was declared dead");
    assert!(!store.beat(IncarnationId(Uuid::from_u128(9))).await?, "nobody knows it");
    assert_eq!(store.incarnations().await?.len(), 1);
    Ok(())
}

/// A lease that has run out shows, and ends the process only if it has not beaten meanwhile; a beat before that renews
/// it.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn leases_run_out(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    // A lease of nothing runs out with the next tick of the store's clock.
    let short = process(1, Duration::ZERO);
    let long = process(2, Duration::from_secs(3600));
    store.register(short.clone()).await?;
    store.register(long.clone()).await?;
    let found = expired(&store, short.id).await?;
    assert_eq!((found.beats, found.lease_until), (0, found.last_beat));
    assert!(store.beat(short.id).await?, "a late beat renews the lease of a process that nobody has ended");
    assert!(!store.expire(short.id, 0).await?, "it has beaten since somebody looked");
    expired(&store, short.id).await?;
    assert!(!store.expire(long.id, 0).await?, "its lease goes on");
    assert!(store.expire(short.id, 1).await?);
    assert!(!store.expire(short.id, 1).await?, "somebody has ended it");
    assert!(!store.beat(short.id).await?);
    let left: Vec<_> = store.incarnations().await?.into_iter().map(|one| one.process.id).collect();
    assert_eq!(left, [long.id]);
    Ok(())
}

/// How often is looked whether a lease of nothing has run out: it takes one tick of the store's clock.
const MOST_LOOKS: u32 = 1_000_000;

async fn expired(store: &SharedStore, id: IncarnationId) -> StoreResult<Incarnation> {
    for _ in 0..MOST_LOOKS {
        let found = store.incarnations().await?.into_iter().find(|one| one.process.id == id);
        let found = found.expect("nobody has ended it");
        if found.expired {
            return Ok(found);
        }
    }
    panic!("the lease does not run out: the store's clock stands still");
}

/// Processes that ended are deleted after a while, but for those of which an attempt is open.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn ended_processes_are_forgotten(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let known: Vec<NewIncarnation> =
        (1..=3).map(|number| process(number, Duration::from_secs(3600))).collect();
    for one in &known {
        store.register(one.clone()).await?;
    }
    let mut open = unit(&run);
    let mut begun = start(1, "a", 1, AttemptState::Running);
    begun.incarnation = Some(known[1].id);
    open.started = vec![begun];
    assert_eq!(commit(&store, open).await?, UnitResult::Committed);
    store.end_incarnation(known[0].id).await?;
    store.end_incarnation(known[1].id).await?;
    let now = store.incarnations().await?[0].last_beat;
    assert_eq!(store.forget_incarnations(now - chrono::TimeDelta::days(1)).await?, 0, "too early");
    let later = now + chrono::TimeDelta::days(1);
    assert_eq!(store.forget_incarnations(later).await?, 1, "one has not ended, one has an open attempt");
    assert_eq!(store.orphans().await?.len(), 1);
    let mut reaped = unit(&run);
    reaped.ended = vec![end(1, AttemptState::Lost)];
    assert_eq!(commit(&store, reaped).await?, UnitResult::Committed);
    assert_eq!(store.forget_incarnations(later).await?, 1);
    Ok(())
}

/// A run belongs to the process that asked first, until that one ends.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn runs_have_one_owner(store: SharedStore) -> StoreResult<()> {
    let first = one_run(&store).await?.pk;
    let second = create(&store, new_run("r2", RunType::Manual, 2)).await?.pk;
    let (a, b) = (process(1, Duration::from_secs(3600)), process(2, Duration::from_secs(3600)));
    store.register(a.clone()).await?;
    store.register(b.clone()).await?;
    assert_eq!(store.claim_runs(&[second], a.id).await?, [second]);
    assert_eq!(store.claim_runs(&[second, first], b.id).await?, [first], "the other one has an owner");
    assert_eq!(store.claim_runs(&[second, first], a.id).await?, [second], "asked again it is the same");
    assert_eq!(store.claim_runs(&[], a.id).await?, []);
    store.end_incarnation(a.id).await?;
    assert_eq!(store.claim_runs(&[first, second], b.id).await?, [first, second], "its owner has ended");
    assert!(store.delete_run(first).await?);
    assert_eq!(store.claim_runs(&[first, second], b.id).await?, [second], "a run that is gone is nobody's");
    Ok(())
}

fn process(number: u128, lease: Duration) -> NewIncarnation {
    NewIncarnation {
        id: IncarnationId(Uuid::from_u128(number)),
        kind: "scheduler".into(),
        host: "here".into(),
        pid: 4_000_000_000,
        birth: "boot/1".into(),
        lease,
    }
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
