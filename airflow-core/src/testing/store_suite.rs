//! Holds a store to the contract of [`Store`](crate::store::Store).
//!
//! Each check is a function of its own, begins with an empty store, and panics with what it found instead of what the
//! contract says. [`run_all`] does them one after the other. Times are fixed; nothing sleeps.

mod admin;
mod assets;
mod attempts;
mod notices;
mod remote;
mod runs;
mod task_logs;
mod units;
mod waits;
mod watchers;

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::id::{AttemptId, DagId, MapIndex, RunId};
use crate::state::{RunEvent, RunType, TaskEvent, TaskState};
use crate::store::{
    AttemptEnd, AttemptEndData, AttemptStart, AttemptState, CreatedRun, DagRecord, NewRun, RunChange, RunRow,
    SharedStore, SlotChange, SlotKey, StoreError, StoreResult, TiChange, TiData, Unit, UnitResult, XComWrite,
};
use crate::timetable::DataInterval;
use crate::xcom::XComValue;

pub use admin::{
    audit_entries_come_newest_first, connections_keep_every_field_and_swap_tokens_only_where_they_stand,
    ended_processes_are_forgotten, incarnations_beat_until_they_end, leases_run_out,
    pools_have_a_default_that_stays, runs_have_one_owner, tables_are_made_once,
    variables_keep_their_description,
};
pub use assets::{
    asset_events_are_written_with_their_unit, deadlines_are_settled_once, events_of_a_pause_make_no_run,
    queued_events_can_be_taken_away, runs_by_assets_take_what_waits_once,
};
pub use attempts::{
    attempts_never_change_after_their_end, claims_of_one_run_are_judged_one_by_one, lost_attempts_are_found,
    queued_attempts_are_claimed_once, values_are_replaced_cleared_and_deleted,
};
pub use notices::notices_wait_until_they_are_told;
pub use remote::{
    attempts_are_found_by_id, missing_versions_and_queues_are_listed, reports_wait_for_whoever_has_the_run,
    workers_have_a_name_each,
};
pub use runs::{
    a_deleted_run_gives_back_what_it_held, cleaning_keeps_the_newest_run,
    dags_keep_what_users_and_timetables_said, dags_with_running_tasks_stay, deleting_leaves_nothing_behind,
    runs_are_created_once, runs_are_listed_in_order, the_run_before_is_the_latest_earlier_one,
};
pub use task_logs::{dead_letters_are_kept_once_and_bounded, logs_are_kept_in_pieces};
pub use units::{
    a_stale_state_or_epoch_is_refused, a_unit_sees_those_before_it, a_user_change_refuses_older_decisions,
    giving_back_never_fails, limits_are_never_exceeded, pools_limit_by_what_the_store_says,
    rows_appear_with_their_first_change, run_changes_need_the_state_they_start_from,
    units_are_written_whole_or_not_at_all,
};
pub use waits::{deferred_slots_count_where_the_pool_says_so, waits_are_kept_as_given};
pub use watchers::{
    watchers_are_raced_for_by_many, watchers_go_with_their_dags, watchers_have_one_owner,
    watchers_write_an_event_with_its_cursor,
};

/// Runs every check of the suite. Everything in the store is deleted, many times.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not do what the contract says.
pub async fn run_all(store: SharedStore) -> StoreResult<()> {
    macro_rules! run {
        ($($check:ident),+ $(,)?) => {
            $($check(Arc::clone(&store)).await?;)+
        };
    }
    run!(
        tables_are_made_once,
        rows_appear_with_their_first_change,
        a_stale_state_or_epoch_is_refused,
        units_are_written_whole_or_not_at_all,
        a_user_change_refuses_older_decisions,
        run_changes_need_the_state_they_start_from,
        a_unit_sees_those_before_it,
        limits_are_never_exceeded,
        pools_limit_by_what_the_store_says,
        giving_back_never_fails,
        queued_attempts_are_claimed_once,
        claims_of_one_run_are_judged_one_by_one,
        attempts_never_change_after_their_end,
        lost_attempts_are_found,
        attempts_are_found_by_id,
        reports_wait_for_whoever_has_the_run,
        workers_have_a_name_each,
        missing_versions_and_queues_are_listed,
        logs_are_kept_in_pieces,
        dead_letters_are_kept_once_and_bounded,
        waits_are_kept_as_given,
        deferred_slots_count_where_the_pool_says_so,
        notices_wait_until_they_are_told,
        values_are_replaced_cleared_and_deleted,
        asset_events_are_written_with_their_unit,
        runs_by_assets_take_what_waits_once,
        events_of_a_pause_make_no_run,
        deadlines_are_settled_once,
        queued_events_can_be_taken_away,
        watchers_have_one_owner,
        watchers_are_raced_for_by_many,
        watchers_write_an_event_with_its_cursor,
        watchers_go_with_their_dags,
        runs_are_created_once,
        runs_are_listed_in_order,
        the_run_before_is_the_latest_earlier_one,
        dags_keep_what_users_and_timetables_said,
        dags_with_running_tasks_stay,
        deleting_leaves_nothing_behind,
        a_deleted_run_gives_back_what_it_held,
        cleaning_keeps_the_newest_run,
        incarnations_beat_until_they_end,
        leases_run_out,
        ended_processes_are_forgotten,
        runs_have_one_owner,
        variables_keep_their_description,
        connections_keep_every_field_and_swap_tokens_only_where_they_stand,
        pools_have_a_default_that_stays,
        audit_entries_come_newest_first,
    );
    Ok(())
}

/// Empties the store and makes the dag `d` known.
async fn fresh(store: &SharedStore) -> StoreResult<()> {
    store.migrate().await?;
    store.reset().await?;
    store.sync_dags(vec![record("d", "v1")], at(0)).await.map(|_| ())
}

/// `seconds` after a fixed moment, with microseconds, which every store keeps.
fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_700_000_000 + seconds) + TimeDelta::microseconds(123_456)
}

/// What a process says of a dag.
fn record(dag: &str, fingerprint: &str) -> DagRecord {
    DagRecord {
        dag_id: dag.into(),
        fingerprint: fingerprint.into(),
        structure: json!({ "tasks": ["a", "b"], "é": "\"\\\n" }).into(),
        schedule: "@daily".into(),
        description: None,
        owners: "me".into(),
        tags: vec!["x".into(), "y\"z".into()],
        paused_at_creation: true,
        next: None,
        assets: Vec::new(),
    }
}

/// A run of dag `d` with this id, whose logical date is `day` days after the fixed moment.
fn new_run(run_id: &str, run_type: RunType, day: i64) -> NewRun {
    let date = at(day * 86_400);
    NewRun {
        dag_id: "d".into(),
        run_id: run_id.into(),
        run_type,
        logical_date: date,
        data_interval: DataInterval { start: date, end: at((day + 1) * 86_400) },
        run_after: date,
        queued_at: date,
        conf: Some(json!({ "k": [1, null, "v"] })),
        fingerprint: "v1".into(),
        triggered_by: "test".into(),
        ignores_past: false,
        queue: None,
        advance: None,
        assets: None,
        deadlines: Vec::new(),
    }
}

/// Creates one run.
async fn create(store: &SharedStore, run: NewRun) -> StoreResult<RunRow> {
    match store.create_runs(vec![run]).await?.pop() {
        Some(CreatedRun::New(row)) => Ok(*row),
        other => panic!("one new run was expected, not {other:?}"),
    }
}

/// An empty store with dag `d` and one manual run of it.
async fn one_run(store: &SharedStore) -> StoreResult<RunRow> {
    fresh(store).await?;
    create(store, new_run("r1", RunType::Manual, 1)).await
}

/// Commits one unit.
async fn commit(store: &SharedStore, unit: Unit) -> StoreResult<UnitResult> {
    let results = store.commit(vec![unit]).await?;
    assert_eq!(results.len(), 1, "one answer for one unit");
    Ok(results.into_iter().next().expect("there is one"))
}

/// A unit of `run` that changes nothing yet.
fn unit(run: &RunRow) -> Unit {
    Unit::new(run, "scheduler", at(10))
}

/// A change of the only instance of a task.
fn change(task: &str, state: TaskState, event: TaskEvent, epoch: u32) -> TiChange {
    let transition = state.on(event).expect("the suite asks for legal changes only");
    let data = TiData { try_number: 1, max_tries: 2, ..TiData::default() };
    TiChange { task_id: task.into(), map_index: MapIndex::UNMAPPED, transition, epoch, data }
}

/// A change of a run's state.
fn run_change(run: &RunRow, event: RunEvent) -> RunChange {
    let transition = run.state.on(event).expect("the suite asks for legal changes only");
    RunChange { transition, started_at: Some(at(20)), ended_at: None, reason: Some("why".into()) }
}

/// The start of an attempt of the only instance of a task.
fn start(id: u128, task: &str, number: u32, state: AttemptState) -> AttemptStart {
    AttemptStart {
        attempt_id: AttemptId(Uuid::from_u128(id)),
        task_id: task.into(),
        map_index: MapIndex::UNMAPPED,
        number,
        try_number: 1,
        state,
        incarnation: None,
        queue: "default".into(),
        at: at(30),
    }
}

/// The end of an attempt.
fn end(id: u128, state: AttemptState) -> AttemptEnd {
    let data = AttemptEndData {
        at: at(40),
        error: Some("boom \u{1F4A5}".into()),
        rendered: Some(json!({ "f": 1 })),
    };
    AttemptEnd { attempt_id: AttemptId(Uuid::from_u128(id)), state, data }
}

/// A value of the only instance of a task.
fn xcom(task: &str, key: &str, text: &str) -> XComWrite {
    let value = XComValue::from_text(text);
    XComWrite { task_id: task.into(), map_index: MapIndex::UNMAPPED, key: key.into(), value }
}

/// A change of what is taken of a limit.
fn slot(key: SlotKey, delta: i64, limit: Option<i64>) -> SlotChange {
    SlotChange { key, delta, limit }
}

/// Everything that can be seen of a run, as text.
async fn visible(store: &SharedStore, run: &RunRow) -> StoreResult<String> {
    let filter = crate::store::XComFilter { run: run.pk, tasks: vec![], map_index: None, key: None };
    let snapshot = store.load_run(run.pk, None).await?;
    let attempts = store.attempts(run.pk, None).await?;
    let events = store.events(run.pk, None).await?;
    let xcoms = store.xcoms(&filter).await?;
    let slots = store.slots().await?;
    Ok(format!("{snapshot:#?}\n{attempts:#?}\n{events:#?}\n{xcoms:#?}\n{slots:#?}"))
}

/// Panics unless the store says that something does not exist.
fn assert_not_found<T: std::fmt::Debug>(result: &StoreResult<T>) {
    assert!(matches!(result, Err(StoreError::NotFound(_))), "not found was expected, not {result:?}");
}

/// Panics unless the store refuses.
fn assert_refused<T: std::fmt::Debug>(result: &StoreResult<T>) {
    assert!(matches!(result, Err(StoreError::Refused(_))), "a refusal was expected, not {result:?}");
}

/// The dag of the suite.
fn d() -> DagId {
    "d".into()
}

/// The ids of runs.
fn names(runs: &[RunRow]) -> Vec<&str> {
    runs.iter().map(|run| RunId::as_str(&run.run_id)).collect()
}
