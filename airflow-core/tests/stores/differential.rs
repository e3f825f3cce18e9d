//! The same operations on the memory store and on another one give the same answers and leave the same to see.

#[path = "processes.rs"]
mod processes;
#[path = "seeds.rs"]
mod seeds;

use std::sync::Arc;

use airflow_core::app::{CleanOptions, clean};
use airflow_core::asset::{Asset, AssetAlias, AssetRef, EventSource};
use airflow_core::id::{AttemptId, IncarnationId, MapIndex, RunPk, TaskId};
use airflow_core::operator::Wait;
use airflow_core::state::{RunEvent, RunType, TaskEvent, TaskState};
use airflow_core::store::{
    Advance, AssetEvent, AssetEventFilter, AssetRole, AssetTrigger, AttemptEnd, AttemptEndData, AttemptStart,
    AttemptState, DagAsset, DagRecord, Expansion, Held, MemoryStore, NewDeadline, NewRun, NextRun, Notice,
    PastQuery, PoolSpec, QueueFilter, RunChange, RunFilter, RunRow, RunSnapshot, Settlement, SharedStore,
    SlotChange, SlotKey, TiChange, TiData, Unit, WatchedEvent, XComFilter, XComWrite,
};
use airflow_core::timetable::DataInterval;
use airflow_core::xcom::{SKIP_KEY, XComValue};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::collection::vec;
use proptest::prop_assert_eq;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use uuid::Uuid;

use processes::process;
use seeds::{Op, RunSeed, UnitSeed, WatchSeed, op};

const DAGS: [&str; 2] = ["d", "e"];
const TASKS: [&str; 3] = ["a", "b", "ü\"\\"];
const POOLS: [&str; 3] = ["default_pool", "p", "unknown"];

fn pick<T: Copy>(all: &[T], number: u8) -> T {
    all[usize::from(number) % all.len()]
}

/// With nanoseconds, which no store keeps.
fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds) + TimeDelta::nanoseconds(1_234_567)
}

fn next(day: i64) -> NextRun {
    NextRun { data_interval: DataInterval { start: at(day), end: at(day + 1) }, run_after: at(day + 1) }
}

fn record(dag: u8, version: u8, next_day: Option<i64>) -> DagRecord {
    DagRecord {
        dag_id: pick(&DAGS, dag).into(),
        fingerprint: format!("v{version}"),
        structure: serde_json::json!({ "b": version, "a": null }).into(),
        schedule: "@daily".into(),
        description: (version == 1).then(|| "one".into()),
        owners: "me".into(),
        tags: vec!["t\u{1}".into()],
        paused_at_creation: version == 2,
        next: next_day.map(next),
        assets: (0..=version).map(|number| dag_asset(dag, version, number)).collect(),
    }
}

/// What a version of a dag says of its assets: of each version something else.
fn dag_asset(dag: u8, version: u8, number: u8) -> DagAsset {
    let role = pick(AssetRole::ALL, dag + version + number);
    let group = format!("g{version}");
    let one: AssetRef =
        if number == 2 { alias().group(group).into() } else { asset(number).group(group).into() };
    let task_id = (role != AssetRole::Schedule).then(|| pick(&TASKS, number).into());
    DagAsset { asset: one, role, task_id }
}

fn asset(number: u8) -> Asset {
    let asset = Asset::new(format!("s3://lake/{number}"));
    if number == 1 { asset.named("one").extra(serde_json::json!({ "a": "\u{e9}" })) } else { asset }
}

fn alias() -> AssetAlias {
    AssetAlias::new("a_b%")
}

fn asset_event((id, number, under_alias): (u8, u8, bool), source: Option<&RunRow>) -> AssetEvent {
    let event =
        AssetEvent::from_outside(format!("e{id}").into(), &asset(number), at(100 - i64::from(id % 3)));
    let source = source.map(|run| EventSource {
        dag_id: run.dag_id.clone(),
        run_id: run.run_id.clone(),
        task_id: pick(&TASKS, id).into(),
        map_index: MapIndex(i32::from(id)),
        data_interval: run.data_interval,
    });
    let aliases = under_alias.then(|| alias().name().to_owned()).into_iter().collect();
    AssetEvent { source, aliases, extra: serde_json::json!({ "n": id }), ..event }
}

fn new_run(seed: RunSeed) -> NewRun {
    let RunSeed { dag, name, kind, day, advances, next: next_day } = seed;
    let date = at(i64::from(day));
    NewRun {
        dag_id: pick(&DAGS, dag).into(),
        run_id: format!("r{name}").into(),
        run_type: pick(RunType::ALL, kind),
        logical_date: date,
        data_interval: DataInterval { start: date, end: at(i64::from(day) + 1) },
        run_after: date,
        queued_at: at(9),
        conf: (name == 1).then(|| serde_json::json!({ "k": "\"" })),
        fingerprint: "v1".into(),
        triggered_by: "test".into(),
        ignores_past: kind == 0,
        queue: (kind == 1).then(|| "gpu".to_owned()),
        advance: advances.then(|| Advance {
            last_interval: next_day.filter(|day| *day > 2).map(|day| next(day).data_interval),
            next: next_day.map(next),
        }),
        assets: (pick(RunType::ALL, kind) == RunType::AssetTriggered)
            .then(|| AssetTrigger { needs: vec![asset(day % 2).key()] }),
        deadlines: (0..name % 3)
            .map(|number| NewDeadline { name: format!("n{number}"), due: at(90 + i64::from(day)) })
            .collect(),
    }
}

fn slot_key(number: u8) -> SlotKey {
    match number {
        0..=2 => SlotKey::Pool(POOLS[usize::from(number)].into()),
        3 => SlotKey::Dag("d".into()),
        4 => SlotKey::Task("d".into(), "a".into()),
        5 => SlotKey::Runs("d".into()),
        6..=7 => SlotKey::Deferred(POOLS[usize::from(number - 6)].into()),
        _ => SlotKey::Dag("e".into()),
    }
}

fn attempt(number: u8) -> AttemptId {
    AttemptId(Uuid::from_u128(u128::from(number)))
}

fn xcom(task: u8, value: u8) -> XComWrite {
    let key = if value.is_multiple_of(3) { SKIP_KEY } else { "k" };
    let text =
        if value.is_multiple_of(2) { r#"{"skipped":["a"]}"#.to_owned() } else { format!("\"{value}\\n\"") };
    XComWrite {
        task_id: pick(&TASKS, task).into(),
        map_index: MapIndex::UNMAPPED,
        key: key.into(),
        value: XComValue::from_text(text),
    }
}

/// A unit that mostly fits what is stored.
fn unit(seed: &UnitSeed, loaded: &[RunSnapshot]) -> Option<Unit> {
    let snapshot = loaded.get(usize::from(seed.run) % loaded.len().max(1))?;
    let mut unit = Unit::new(&snapshot.run, "someone", at(50 + i64::from(seed.run)));
    unit.generation += seed.generation;
    unit.by_user = seed.by_user;
    let events = seed.run_event.map(|number| pick(RunEvent::ALL, number));
    unit.run_change =
        events.and_then(|event| snapshot.run.state.on(event).ok()).map(|transition| RunChange {
            transition,
            started_at: Some(at(60)),
            ended_at: transition.to().is_finished().then(|| at(61)),
            reason: seed.by_user.then(|| "why".into()),
        });
    for (task, map_index, event, off) in &seed.tis {
        let (task_id, map_index) = (TaskId::new(pick(&TASKS, *task)), MapIndex(i32::from(*map_index)));
        let known = snapshot.tis.iter().find(|ti| (&ti.task_id, ti.map_index) == (&task_id, map_index));
        let (state, epoch) = known.map_or((TaskState::None, 0), |ti| (ti.state, ti.epoch));
        let legal: Vec<_> = TaskEvent::ALL.iter().filter_map(|event| state.on(*event).ok()).collect();
        let data = TiData {
            try_number: u32::from(*event),
            attempt_id: event.is_multiple_of(2).then(|| attempt(*event)),
            next_try_at: event.is_multiple_of(3).then(|| at(70)),
            has_result: event.is_multiple_of(5),
            map_length: event.is_multiple_of(7).then_some(3),
            reason: event.is_multiple_of(4).then(|| "r\0\u{7f}é".into()),
            wait: event
                .is_multiple_of(3)
                .then(|| Box::new(Wait { pokes: u32::from(*event), ..Wait::default() })),
            holds: event.is_multiple_of(2).then(|| {
                let (pool, slots) = (pick(&POOLS, *event).to_owned(), u32::from(*event % 3));
                Arc::new(Held { pool, slots, counts_for_task: event.is_multiple_of(4) })
            }),
            ..TiData::default()
        };
        unit.tis.push(TiChange {
            task_id,
            map_index,
            transition: pick(&legal, *event),
            epoch: epoch + off,
            data,
        });
    }
    let owner = || TaskId::new("g");
    unit.expansions = seed.expansion.into_iter().map(|length| Expansion { owner: owner(), length }).collect();
    if seed.clear {
        unit.xcom_clears = vec![(TASKS[0].into(), MapIndex::UNMAPPED)];
    }
    unit.xcoms = seed.xcoms.iter().map(|(task, value)| xcom(*task, *value)).collect();
    unit.started =
        seed.starts.iter().map(|(id, task, number, queued)| start(*id, *task, *number, *queued)).collect();
    unit.notices = seed.notices.iter().flat_map(|owner| notices(&unit, *owner)).collect();
    unit.ended = seed.ends.iter().map(|(id, state)| end(*id, *state)).collect();
    unit.slots = seed.slots.iter().map(|(key, delta, limit)| slot(*key, *delta, *limit)).collect();
    unit.asset_events =
        seed.asset_events.iter().map(|seed| asset_event(*seed, Some(&snapshot.run))).collect();
    Some(unit)
}

/// What callbacks are to be told of the changes of instances.
fn notices(unit: &Unit, owner: u8) -> Vec<Notice> {
    let of = |change: &TiChange| Notice {
        task_id: Some(change.task_id.clone()),
        map_index: change.map_index,
        epoch: change.epoch + 1,
        event: "success".into(),
        try_number: 1,
        reason: owner.is_multiple_of(2).then(|| "r".into()),
        at: at(82),
        owner: process(owner),
    };
    unit.tis.iter().map(of).collect()
}

fn start(id: u8, task: u8, number: u8, queued: bool) -> AttemptStart {
    AttemptStart {
        attempt_id: attempt(id),
        task_id: pick(&TASKS, task).into(),
        map_index: MapIndex::UNMAPPED,
        number: u32::from(number),
        try_number: 1,
        state: if queued { AttemptState::Queued } else { AttemptState::Running },
        incarnation: (!queued).then(|| process(id % 4)),
        queue: pick(&["q", "default"], id).into(),
        at: at(80),
    }
}

fn end(id: u8, state: u8) -> AttemptEnd {
    let states: Vec<_> = AttemptState::ALL.iter().copied().filter(|state| state.is_ended()).collect();
    let data =
        AttemptEndData { at: at(81), error: state.is_multiple_of(2).then(|| "e".into()), rendered: None };
    AttemptEnd { attempt_id: attempt(id), state: pick(&states, state), data }
}

fn slot(key: u8, delta: i64, limit: Option<i64>) -> SlotChange {
    SlotChange { key: slot_key(key), delta, limit }
}

/// What a store answers, and what is to be seen in it afterwards, as text.
async fn apply(store: &SharedStore, op: &Op, loaded: &[RunSnapshot]) -> String {
    let run = |number: u8| -> RunPk {
        let known: Vec<RunPk> = loaded.iter().map(|snapshot| snapshot.run.pk).collect();
        if known.is_empty() { RunPk(99) } else { pick(&known, number) }
    };
    match op {
        Op::Sync { dag, version, next } => {
            let records = vec![record(*dag, *version, *next), record(*dag, version + 1, None)];
            format!("{:?}", store.sync_dags(records, at(1)).await)
        }
        Op::Create(runs) => {
            format!("{:?}", store.create_runs(runs.iter().copied().map(new_run).collect()).await)
        }
        Op::Commit(seeds) => {
            let units = seeds.iter().filter_map(|seed| unit(seed, loaded)).collect();
            format!("{:?}", store.commit(units).await)
        }
        Op::Pool { pool, slots, include_deferred } => {
            let name = pick(&POOLS, *pool).to_owned();
            let spec = PoolSpec {
                name,
                slots: *slots,
                description: String::new(),
                include_deferred: *include_deferred,
            };
            format!("{:?}", store.set_pool(spec).await)
        }
        Op::DropPool(pool) => format!("{:?}", store.delete_pool(pick(&POOLS, *pool)).await),
        Op::SetXCom(number, value) => {
            format!("{:?}", store.set_xcom(run(*number), xcom(*value, *value), at(2)).await)
        }
        Op::DropXComs(number, task) => {
            let tasks = task.iter().map(|task| pick(&TASKS, *task).into()).collect();
            let filter = XComFilter { run: run(*number), tasks, map_index: None, key: None };
            format!("{:?}", store.delete_xcoms(&filter).await)
        }
        Op::DropRun(number) => format!("{:?}", store.delete_run(run(*number)).await),
        Op::DropDag(dag) => format!("{:?}", store.delete_dag(&pick(&DAGS, *dag).into()).await),
        Op::Pause(dag, paused) => {
            format!("{:?}", store.set_paused(&pick(&DAGS, *dag).into(), *paused).await)
        }
        Op::AssetEvents(seeds) => {
            let events = seeds.iter().map(|seed| asset_event(*seed, None)).collect();
            format!("{:?}", store.add_asset_events(events).await)
        }
        Op::Settle(number, how) => settle(store, *number, *how).await,
        Op::Unqueue(dag, of, until) => {
            let filter = QueueFilter {
                dag_id: dag.map(|dag| pick(&DAGS, dag).into()),
                asset: of.map(|number| asset(number).key()),
                until: until.map(at),
            };
            format!("{:?}", store.unqueue_events(&filter).await)
        }
        Op::Watch(number, seed) => watch(store, *number, *seed).await,
        Op::Process(op) => processes::apply(store, op, loaded).await,
        Op::Clean { seconds, dry_run } => {
            let mut options = CleanOptions::before(at(*seconds));
            options.dry_run = *dry_run;
            // One by one: the order shows, too.
            options.batch = Some(1);
            format!("{:?}", clean(&**store, &options).await)
        }
    }
}

async fn watch(store: &SharedStore, number: u8, seed: WatchSeed) -> String {
    let process = process(number);
    let rows = store.watchers().await.unwrap();
    let row = |which: u8| rows.get(usize::from(which) % rows.len().max(1));
    match seed {
        WatchSeed::Claim => {
            processes::register(store, number).await;
            let keys = rows.iter().map(|row| row.key.clone()).collect();
            format!("{:?}", store.claim_watchers(keys, process).await)
        }
        WatchSeed::Write(which, more) => {
            let Some(row) = row(which) else { return "none".into() };
            let after = row.events + more;
            let event = asset_event((which, which % 2, false), None);
            let cursor = serde_json::json!({ "n": after, "é": which });
            let watched = WatchedEvent { key: row.key.clone(), after, cursor, event };
            format!("{:?}", store.add_watched(process, watched).await)
        }
        WatchSeed::Note(which, fails) => {
            let Some(row) = row(which) else { return "none".into() };
            let error = fails.then(|| format!("e\0{which}"));
            format!("{:?}", store.note_watcher(process, row.key.clone(), error, at(70)).await)
        }
        WatchSeed::End => format!("{:?}", store.end_incarnation(process).await),
    }
}

async fn settle(store: &SharedStore, number: u8, how: u8) -> String {
    let open = store.deadlines(&DAGS.map(Into::into), Some(at(92)), 3).await.unwrap();
    let Some(row) = open.get(usize::from(number) % open.len().max(1)) else { return "none".into() };
    let notice = Notice {
        task_id: None,
        map_index: MapIndex(-2 - i32::from(number)),
        epoch: 0,
        event: format!("deadline:{}", row.name),
        try_number: 0,
        reason: None,
        at: at(95),
        owner: IncarnationId(Uuid::from_u128(1)),
    };
    let settlement = match how {
        0 => Settlement::Met,
        1 => Settlement::Later(at(200)),
        _ => Settlement::Missed(Box::new(notice)),
    };
    let answer = store.settle_deadline(&row.key(), settlement.clone()).await;
    format!("{answer:?} {:?}", store.settle_deadline(&row.key(), settlement).await)
}

async fn snapshots(store: &SharedStore) -> Vec<RunSnapshot> {
    let runs: Vec<RunRow> = store.runs(&RunFilter::default()).await.unwrap();
    let mut all = Vec::new();
    for (run, scheduled_only) in runs.iter().zip([true, false].into_iter().cycle()) {
        all.extend(store.load_run(run.pk, Some(&PastQuery { scheduled_only })).await.unwrap());
    }
    all
}

async fn visible(store: &SharedStore) -> Vec<String> {
    let mut seen = vec![
        format!("{:?}", store.dags().await.unwrap()),
        format!("{:?}", store.pools().await.unwrap()),
        format!("{:?}", store.slots().await.unwrap()),
        format!("{:?}", store.orphans().await.unwrap()),
        format!("{:?}", store.notices().await.unwrap()),
        format!("{:?}", store.assets().await.unwrap()),
        format!("{:?}", store.watchers().await.unwrap()),
        format!("{:?}", store.asset_queue().await.unwrap()),
        format!("{:?}", store.queued_events(&QueueFilter::default()).await.unwrap()),
        format!("{:?}", store.missed_deadlines(None, 9).await.unwrap()),
        format!(
            "{:?}",
            store.runs(&RunFilter { ended_by: Some(at(50)), ..RunFilter::default() }).await.unwrap()
        ),
        format!("{:?}", store.deadlines(&DAGS.map(Into::into), None, 100).await.unwrap()),
    ];
    for newest_first in [false, true] {
        let filter = AssetEventFilter {
            alias: newest_first.then(|| alias().name().to_owned()),
            newest_first,
            ..AssetEventFilter::default()
        };
        seen.push(format!("{:?}", store.asset_events(&filter).await.unwrap()));
    }
    for dag in DAGS {
        seen.push(format!("{:?}", store.dag_versions(&dag.into()).await.unwrap()));
    }
    let snapshots = snapshots(store).await;
    seen.extend(processes::visible(store, &snapshots).await);
    for snapshot in snapshots {
        let run = snapshot.run.pk;
        let filter = XComFilter { run, tasks: vec![], map_index: None, key: None };
        let xcoms = store.xcoms(&filter).await.unwrap();
        let xcoms: Vec<_> =
            xcoms.iter().map(|row| (&row.task_id, &row.key, row.value.text(), row.at)).collect();
        seen.push(format!("{snapshot:?}"));
        seen.push(format!("{xcoms:?}"));
        seen.push(format!("{:?}", store.attempts(run, None).await.unwrap()));
        seen.push(format!("{:?}", store.events(run, None).await.unwrap()));
        let made_by = store.asset_events(&AssetEventFilter::that_made(run)).await.unwrap();
        seen.push(format!("{made_by:?}"));
    }
    seen
}

/// The variable of the environment that says how many lists of operations are tried, instead of as many as take a few
/// seconds; then they are others each time, and what fails says from which seed it was made.
const LISTS: &str = "AIRFLOW_TEST_LISTS";

/// How many lists to try, and the seed that they are made from.
fn extent(usual: u32) -> (u32, [u8; 32]) {
    let Some(lists) = std::env::var(LISTS).ok() else { return (usual, [7; 32]) };
    let lists = lists.parse().unwrap_or_else(|_| panic!("{LISTS} is no number: {lists}"));
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(one.as_bytes());
    seed[16..].copy_from_slice(other.as_bytes());
    (lists, seed)
}

/// Tries `lists` lists of operations over few names, so that they meet each other, made from a fixed seed, unless
/// [`LISTS`] says otherwise. `empty` takes everything out of the store.
pub(crate) fn same_as_memory(
    runtime: &tokio::runtime::Runtime,
    other: &SharedStore,
    lists: u32,
    empty: impl AsyncFn(),
) {
    let memory: SharedStore = Arc::new(MemoryStore::new());
    runtime.block_on(other.migrate()).unwrap();
    let (lists, seed) = extent(lists);
    let config =
        Config { cases: lists, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let result = runner.run(&vec(op(), 1..30), |ops| {
        runtime.block_on(async {
            memory.reset().await.unwrap();
            empty().await;
            for store in [&memory, other] {
                store.sync_dags(vec![record(0, 0, None)], at(0)).await.unwrap();
            }
            for op in &ops {
                let loaded = snapshots(&memory).await;
                let answer = apply(&memory, op, &loaded).await;
                prop_assert_eq!(&apply(other, op, &loaded).await, &answer, "{:?}", op);
                prop_assert_eq!(visible(other).await, visible(&memory).await, "after {:?}", op);
            }
            Ok(())
        })
    });
    if let Err(error) = result {
        panic!("of {lists} lists made from the seed {seed:?}: {error}");
    }
}
