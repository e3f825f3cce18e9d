//! Assets, their events, the runs they make; deadlines.

use serde_json::json;
use uuid::Uuid;

use crate::asset::{Asset, AssetAlias, AssetEventId, AssetRef, EventSource};
use crate::id::{DagId, IncarnationId, MapIndex};
use crate::state::{RunType, TaskEvent, TaskState};
use crate::store::{
    AssetEvent, AssetEventFilter, AssetRole, AssetTrigger, CreatedRun, DagAsset, DagRecord, DeadlineKey,
    NewDeadline, NewRun, Notice, Old, OldKey, OldRow, OldTable, QueueFilter, QueuedAsset, QueuedEvent,
    RunRow, Settlement, SharedStore, StoreResult, UnitResult,
};
use crate::timetable::DataInterval;

use super::{at, change, commit, create, d, fresh, new_run, one_run, record, unit};

fn asset(name: &str) -> Asset {
    Asset::new(format!("s3://lake/{name}")).named(name).group("lake")
}

fn named(asset: impl Into<AssetRef>, role: AssetRole, task: Option<&str>) -> DagAsset {
    DagAsset { asset: asset.into(), role, task_id: task.map(Into::into) }
}

/// A dag that is not paused, whose schedule names these.
fn consumer(dag: &str, refs: impl IntoIterator<Item = AssetRef>) -> DagRecord {
    let assets = refs.into_iter().map(|one| named_ref(one, AssetRole::Schedule)).collect();
    DagRecord { paused_at_creation: false, assets, ..record(dag, "v1") }
}

fn named_ref(asset: AssetRef, role: AssetRole) -> DagAsset {
    DagAsset { asset, role, task_id: None }
}

/// An event from outside, `seconds` after the fixed moment.
fn event(id: &str, asset: &Asset, seconds: i64) -> AssetEvent {
    AssetEvent::from_outside(AssetEventId::from(id.to_owned()), asset, at(seconds))
}

/// The same, made by the run.
fn made_by(run: &RunRow, event: AssetEvent) -> AssetEvent {
    let source = EventSource {
        dag_id: run.dag_id.clone(),
        run_id: run.run_id.clone(),
        task_id: "a".into(),
        map_index: MapIndex(3),
        data_interval: run.data_interval,
    };
    AssetEvent { source: Some(source), extra: json!({ "rows": 5, "é": "\"" }), ..event }
}

fn by_assets(dag: &str, needs: &[&Asset]) -> NewRun {
    let trigger = AssetTrigger { needs: needs.iter().map(|asset| asset.key()).collect() };
    NewRun { dag_id: dag.into(), assets: Some(trigger), ..new_run("given", RunType::AssetTriggered, 9) }
}

async fn waiting(store: &SharedStore) -> StoreResult<Vec<(DagId, u64)>> {
    let queue = store.asset_queue().await?;
    Ok(queue.into_iter().map(|QueuedAsset { dag_id, events, .. }| (dag_id, events)).collect())
}

async fn ids(store: &SharedStore, filter: AssetEventFilter) -> StoreResult<Vec<String>> {
    let events = store.asset_events(&filter).await?;
    Ok(events.into_iter().map(|event| event.id.as_str().to_owned()).collect())
}

/// Events come with the unit they are written with or not at all, are written once, and are queued for the dags whose
/// schedules name them.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn asset_events_are_written_with_their_unit(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let (orders, other) = (asset("orders"), asset("other"));
    let alias = AssetAlias::new("any %_!\"x");
    store.sync_dags(vec![consumer("c", [(&orders).into()]), consumer("e", [(&alias).into()])], at(1)).await?;

    let mut success = unit(&run);
    success.tis = vec![change("a", TaskState::None, TaskEvent::Launched, 0)];
    let plain = made_by(&run, event("1", &orders, 10));
    let under = AssetEvent { aliases: vec![alias.name().into()], ..made_by(&run, event("2", &other, 11)) };
    success.asset_events = vec![plain.clone(), under.clone()];
    assert_eq!(commit(&store, success.clone()).await?, UnitResult::Committed);
    assert_eq!(store.asset_events(&AssetEventFilter::default()).await?, [plain.clone(), under.clone()]);
    assert_eq!(waiting(&store).await?, [("c".into(), 1), ("e".into(), 1)]);

    success.asset_events = vec![event("3", &orders, 12)];
    assert_eq!(commit(&store, success).await?, UnitResult::Stale);
    store.add_asset_events(vec![event("1", &orders, 99)]).await?;
    assert_eq!(
        ids(&store, AssetEventFilter::default()).await?,
        ["1", "2"],
        "not of a refused unit, not twice"
    );
    assert_eq!(waiting(&store).await?, [("c".into(), 1), ("e".into(), 1)]);

    let all = AssetEventFilter::default;
    for (filter, found) in [
        (AssetEventFilter::of(&orders), &["1"][..]),
        (AssetEventFilter { alias: Some(alias.name().into()), ..all() }, &["2"]),
        (AssetEventFilter { alias: Some("any".into()), ..all() }, &[]),
        (AssetEventFilter { dag_id: Some(d()), newest_first: true, ..all() }, &["2", "1"]),
        (AssetEventFilter { run_id: Some("r1".into()), task_id: Some("a".into()), ..all() }, &["1", "2"]),
        (AssetEventFilter { map_index: Some(MapIndex(2)), ..all() }, &[]),
        (AssetEventFilter { from: Some(at(11)), ..all() }, &["2"]),
        (AssetEventFilter { to: Some(at(10)), ..all() }, &["1"]),
        (AssetEventFilter { limit: Some(1), ..all() }, &["1"]),
    ] {
        assert_eq!(ids(&store, filter.clone()).await?, found, "{filter:?}");
    }
    let known = store.assets().await?;
    let seen: Vec<(&str, u64, bool)> =
        known.iter().map(|row| (row.name.as_str(), row.events, row.is_active())).collect();
    assert_eq!(seen, [("any %_!\"x", 0, true), ("orders", 1, true), ("other", 1, false)]);
    assert_eq!((&*known[2].group, known[2].last_event), ("lake", Some(at(11))));
    Ok(())
}

/// A run by assets takes all that waits for its dag, once; its dates and its id are those of the events.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn runs_by_assets_take_what_waits_once(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let (a, b) = (asset("a"), asset("b"));
    let both = || [AssetRef::from(&a), AssetRef::from(&b)];
    store.sync_dags(vec![consumer("c", both()), consumer("e", both())], at(1)).await?;
    store.add_asset_events(vec![made_by(&run, event("1", &a, 10))]).await?;
    let too_early = store.create_runs(vec![by_assets("c", &[&a, &b])]).await?;
    assert_eq!(too_early, [CreatedRun::Taken], "there is no event of `b`");

    store.add_asset_events(vec![event("2", &b, 500_000), event("3", &b, 20)]).await?;
    // Of two in one call, for one dag, the first takes all.
    let wanted = || vec![by_assets("c", &[&a, &b]), by_assets("c", &[&b]), by_assets("e", &[&a, &b])];
    let made = store.create_runs(wanted()).await?;
    let [CreatedRun::New(first), CreatedRun::Taken, CreatedRun::New(second)] = &made[..] else {
        panic!("{made:?}");
    };
    let whole = DataInterval { start: at(20).min(run.data_interval.start), end: at(500_000) };
    assert_eq!((first.logical_date, first.data_interval), (at(500_000), whole));
    let (dated, suffix) = first.run_id.as_str().split_at(first.run_id.as_str().len() - 9);
    assert_eq!(dated, crate::decide::timetable::run_id(RunType::AssetTriggered, &at(500_000)).as_str());
    assert!(suffix.starts_with('_'), "{suffix}");
    assert_eq!(ids(&store, AssetEventFilter::that_made(first.pk)).await?, ["1", "3", "2"]);
    assert_eq!(ids(&store, AssetEventFilter::that_made(second.pk)).await?.len(), 3);
    assert_eq!(waiting(&store).await?, []);
    assert_eq!(store.create_runs(wanted()).await?, [CreatedRun::Taken, CreatedRun::Taken, CreatedRun::Taken]);

    // A second run of the same moment is another one.
    store.add_asset_events(vec![event("4", &a, 500_000), event("5", &b, 500_000)]).await?;
    let again = create(&store, by_assets("c", &[&a, &b])).await?;
    assert_eq!(again.logical_date, first.logical_date);
    assert_ne!(again.run_id, first.run_id);
    Ok(())
}

/// What comes while a dag is paused makes no run of it and becomes part of the next one; what its schedule no longer
/// names is forgotten.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn events_of_a_pause_make_no_run(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    let (a, b) = (asset("a"), asset("b"));
    store.sync_dags(vec![consumer("c", [(&a).into(), (&b).into()])], at(1)).await?;
    assert!(store.set_paused(&"c".into(), true).await?);
    store.add_asset_events(vec![event("1", &a, 1)]).await?;
    assert!(store.set_paused(&"c".into(), false).await?);
    assert_eq!(store.create_runs(vec![by_assets("c", &[&a])]).await?, [CreatedRun::Taken]);
    assert_eq!(waiting(&store).await?, []);
    store.add_asset_events(vec![event("2", &a, 2)]).await?;
    let made = create(&store, by_assets("c", &[&a])).await?;
    assert_eq!(ids(&store, AssetEventFilter::that_made(made.pk)).await?, ["1", "2"]);

    store.add_asset_events(vec![event("3", &a, 3), event("4", &b, 4)]).await?;
    let reads = named(&a, AssetRole::Inlet, Some("t"));
    let mut narrower = consumer("c", [(&b).into()]);
    narrower.assets.push(reads);
    store.sync_dags(vec![narrower], at(5)).await?;
    assert_eq!(waiting(&store).await?, [("c".into(), 1)]);
    let known = store.assets().await?;
    assert_eq!((known[0].consumers.len(), &known[0].readers[..]), (0, &[("c".into(), "t".into())][..]));

    let old = Old { table: OldTable::AssetEvents, before: at(100), dags: vec![], not_dags: vec![] };
    assert_eq!(store.count_old(&old).await?, 1, "`4` waits, `1` and `2` made a run");
    store.delete_dag(&"c".into()).await?;
    assert_eq!(waiting(&store).await?, []);
    let keys: Vec<OldKey> = store.old_rows(&old, 10).await?.iter().map(OldRow::key).collect();
    let of_dag = Old { dags: vec!["c".into()], ..old.clone() };
    assert_eq!(store.count_old(&of_dag).await?, 0, "they are from outside");
    assert_eq!(store.delete_old(&old, keys).await?, 4);
    assert!(store.assets().await?.iter().all(|row| !row.is_active() && row.events == 0));
    Ok(())
}

/// A deadline is settled once, and only as it was seen; a notice is written with it.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn deadlines_are_settled_once(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    let deadline = |name: &str, seconds| NewDeadline { name: name.into(), due: at(seconds) };
    let two = vec![deadline("soon", 5), deadline("late", 50)];
    let run = create(&store, NewRun { deadlines: two, ..new_run("r1", RunType::Manual, 1) }).await?;
    let names =
        |rows: Vec<crate::store::DeadlineRow>| rows.into_iter().map(|row| row.name).collect::<Vec<_>>();
    assert_eq!(names(store.deadlines(&[d()], None, 9).await?), ["soon", "late"]);
    assert_eq!(names(store.deadlines(&[d()], Some(at(5)), 9).await?), ["soon"]);
    assert_eq!(names(store.deadlines(&[d()], None, 1).await?), ["soon"]);
    assert_eq!(names(store.deadlines(&["x".into()], None, 9).await?), [""; 0]);

    let seen = |name: &str, seconds| DeadlineKey { run: run.pk, name: name.into(), due: at(seconds) };
    assert!(store.settle_deadline(&seen("soon", 5), Settlement::Later(at(60))).await?);
    assert!(!store.settle_deadline(&seen("soon", 5), Settlement::Met).await?, "it was seen before it moved");
    assert!(store.settle_deadline(&seen("late", 50), Settlement::Met).await?);
    let notice = Notice {
        task_id: None,
        map_index: MapIndex(-2),
        epoch: 0,
        event: "deadline:soon".into(),
        try_number: 0,
        reason: Some("why".into()),
        at: at(61),
        owner: IncarnationId(Uuid::from_u128(1)),
    };
    let missed = || Settlement::Missed(Box::new(notice.clone()));
    assert!(store.settle_deadline(&seen("soon", 60), missed()).await?);
    assert!(!store.settle_deadline(&seen("soon", 60), missed()).await?, "once");
    let told: Vec<Notice> = store.notices().await?.into_iter().map(|row| row.notice).collect();
    assert_eq!(told, [notice]);
    assert_eq!(names(store.deadlines(&[d()], None, 9).await?), [""; 0]);

    let missed = store.missed_deadlines(None, 9).await?;
    assert_eq!(missed.len(), 1, "what was met is forgotten");
    let row = &missed[0];
    assert_eq!(
        (row.run.pk, row.name.as_str(), row.due, row.missed_at),
        (run.pk, "soon", at(60), Some(at(61)))
    );
    assert_eq!(store.missed_deadlines(Some(&d()), 9).await?, missed);
    assert_eq!(store.missed_deadlines(Some(&"x".into()), 9).await?, []);
    assert_eq!(store.missed_deadlines(None, 0).await?, []);
    store.delete_run(run.pk).await?;
    assert_eq!(store.missed_deadlines(None, 9).await?, [], "it goes with its run");
    Ok(())
}

/// What waits for dags can be looked at one by one, and taken from the queue; no run is made of it then.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn queued_events_can_be_taken_away(store: SharedStore) -> StoreResult<()> {
    fresh(&store).await?;
    let (orders, stock) = (asset("orders"), asset("stock"));
    let both = [orders.clone().into(), stock.clone().into()];
    store.sync_dags(vec![consumer("e", both.clone()), consumer("f", both)], at(0)).await?;
    store.add_asset_events(vec![event("e1", &orders, 1), event("e2", &orders, 2)]).await?;
    store.set_paused(&"f".into(), true).await?;
    store.add_asset_events(vec![event("e3", &stock, 3)]).await?;

    let waits = async |filter: QueueFilter| -> StoreResult<Vec<String>> {
        let all = store.queued_events(&filter).await?;
        let seconds = |one: &QueuedEvent| (one.at - at(0)).num_seconds();
        Ok(all
            .iter()
            .map(|one| format!("{} {} {} {}", one.dag_id, one.event.as_str(), seconds(one), one.counts))
            .collect())
    };
    let of = |dag: &str| QueueFilter { dag_id: Some(dag.into()), ..QueueFilter::default() };
    let of_stock = QueueFilter { asset: Some(stock.key()), ..QueueFilter::default() };
    assert_eq!(waits(of_stock.clone()).await?, ["e e3 3 true", "f e3 3 false"]);
    assert_eq!(waits(QueueFilter::default()).await?.len(), 6);
    let early = QueueFilter { until: Some(at(1)), ..of("e") };
    assert_eq!(waits(early.clone()).await?, ["e e1 1 true"]);

    assert_eq!(store.unqueue_events(&early).await?, 1);
    assert_eq!(store.unqueue_events(&early).await?, 0, "they are gone");
    assert_eq!(store.unqueue_events(&of("unknown")).await?, 0);
    assert_eq!(store.unqueue_events(&of_stock).await?, 2);
    assert_eq!(waits(of("e")).await?, ["e e2 2 true"]);
    assert_eq!(waits(of("f")).await?, ["f e1 1 true", "f e2 2 true"]);
    let needs_stock = store.create_runs(vec![by_assets("e", &[&orders, &stock])]).await?;
    assert!(matches!(needs_stock[..], [CreatedRun::Taken]), "{needs_stock:?}");
    let made = store.create_runs(vec![by_assets("e", &[&orders])]).await?;
    let [CreatedRun::New(run)] = &made[..] else { panic!("{made:?}") };
    let taken = AssetEventFilter { triggered: Some(run.pk), ..AssetEventFilter::default() };
    assert_eq!(ids(&store, taken).await?, ["e2"]);
    assert_eq!(ids(&store, AssetEventFilter::default()).await?, ["e1", "e2", "e3"], "events stay");
    Ok(())
}
