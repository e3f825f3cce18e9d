//! One run of one dag.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeZone as _, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::asset::{Asset, AssetEvent, AssetEventId, AssetKey};
use crate::compile::CompiledDag;
use crate::dag::{DagDef, When};
use crate::decide::assets::{asset_run, is_due};
use crate::decide::deadline::with_deadlines;
use crate::decide::timetable::{manual_run, run_id};
use crate::scheduler::Wake;
use crate::state::RunType;
use crate::store::{CreatedRun, NewRun, RunRow, SharedStore};
use crate::time::parse_moment;
use crate::timetable::{DagRunInfo, TimeRestriction};

use super::report::TestRun;
use super::setup::{Setup, complain, setup_methods};
use super::world::{World, at_once};

/// How often the clock may move within one run. A sensor that pokes each minute gets a week that way; a run that needs
/// more is waiting for something that never comes.
const MOST_MOVES: usize = 10_000;

/// Runs one dag once, on the real engine, without waiting: `DagTest::new(sales()).run().await`.
///
/// ```
/// use airflow_core::dag::DagDef;
/// use airflow_core::operator::Empty;
/// use airflow_core::testing::DagTest;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let dag = DagDef::new("d").define(|d| { d.add(Empty::new()); });
/// let run = DagTest::new(dag).at("2026-03-02").run().await;
/// run.assert_success();
/// assert_eq!(run.states(), "empty  success          1\n");
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a test does nothing until it is run"]
pub struct DagTest {
    setup: Setup,
    at: Option<When>,
    conf: Option<Value>,
    new_assets: Vec<(Asset, Value)>,
}

impl DagTest {
    /// A test of this dag.
    pub fn new(dag: DagDef) -> Self {
        Self { setup: Setup::new([dag]), at: None, conf: None, new_assets: Vec::new() }
    }

    /// The run is one that this asset makes, together with others that are given so. What its event says is `extra`, an
    /// object or null.
    pub fn asset_event(mut self, asset: impl Into<Asset>, extra: Value) -> Self {
        let extra = if extra.is_null() { Value::Object(serde_json::Map::new()) } else { extra };
        self.new_assets.push((asset.into(), extra));
        self
    }

    /// The logical date of the run: `2026-03-02T06:00+01:00`, or without an offset in the zone of the dag. If the
    /// timetable makes a run of this date, it is that one, with its data interval; else it is one made by hand. Without
    /// it the run is the first that the timetable makes after the start date, or in 2026.
    pub fn at(mut self, logical_date: impl Into<When>) -> Self {
        self.at = Some(logical_date.into());
        self
    }

    /// What the run is triggered with.
    ///
    /// # Panics
    ///
    /// If it cannot be written as JSON.
    pub fn conf<T: Serialize + ?Sized>(mut self, conf: &T) -> Self {
        match serde_json::to_value(conf) {
            Ok(conf) => self.conf = Some(conf),
            Err(error) => complain(&format!("the conf cannot be written as JSON: {error}")),
        }
        self
    }

    setup_methods!();

    /// Runs it to its end. If nothing can happen any more before that, the run is returned as it is.
    ///
    /// # Panics
    ///
    /// If the dag has mistakes, a resource is missing, a mock fits no task, or a task hangs.
    pub async fn run(self) -> TestRun {
        let epoch = Utc.timestamp_nanos(0);
        let mut world = Box::pin(World::new(self.setup, epoch, false)).await;
        let dag = world.stage.airflow.registry().iter().next().expect("there is one dag").clone();
        if let Err(error) = dag.params(self.conf.as_ref()) {
            complain(&format!("the conf for dag `{}` does not fit its params: {error}", dag.id));
        }
        let at = self.at.map(|when| moment(&when, dag.settings.timezone));
        let mut new = new_run(&dag, at, self.conf);
        world.stage.clock.set(new.queued_at);
        let store = world.stage.airflow.store().clone();
        at_once(store.set_paused(&dag.id, false));
        if !self.new_assets.is_empty() {
            new = by_assets(&dag, self.new_assets, new, &store);
        }
        let created = at_once(store.create_runs(vec![new])).pop();
        let run = match created {
            Some(CreatedRun::New(run)) => run,
            Some(CreatedRun::Taken) => complain("the schedule of the dag names none of the new assets"),
            _ => complain("the store is not empty"),
        };
        let scheduler = world.stage.airflow.scheduler().expect("the world has a scheduler");
        scheduler.wake(Wake::Run(run.clone()));
        scheduler.wake(Wake::Refresh);
        finish(&mut world, &run).await;
        TestRun::of(&world.stage, &run)
    }
}

/// The run that new assets make, with what `plain` is given.
fn by_assets(
    dag: &CompiledDag,
    new_assets: Vec<(Asset, Value)>,
    plain: NewRun,
    store: &SharedStore,
) -> NewRun {
    let keys: BTreeSet<AssetKey> = new_assets.iter().map(|(asset, _)| asset.key()).collect();
    let condition = dag.timetable.asset_condition();
    if !condition.is_some_and(|condition| is_due(condition, &keys)) {
        complain(&format!(
            "these assets make no run of dag `{}`: its schedule is `{}`",
            dag.id,
            match condition {
                Some(condition) => condition.to_string(),
                None => dag.timetable.summary(),
            }
        ));
    }
    let at = plain.queued_at;
    let event = |(nth, (asset, extra)): (usize, (Asset, Value))| {
        let id = AssetEventId::from(format!("{nth:032}"));
        AssetEvent { extra, ..AssetEvent::from_outside(id, &asset, at) }
    };
    at_once(store.add_asset_events(new_assets.into_iter().enumerate().map(event).collect()));
    NewRun { conf: plain.conf, ..asset_run(dag, &keys, at) }
}

async fn finish(world: &mut World, run: &RunRow) {
    world.work().await;
    for _ in 0..MOST_MOVES {
        if world.is_over(run.pk) {
            return;
        }
        match world.next_moment() {
            Some(moment) => world.move_to(moment).await,
            None if world.hanging().is_empty() => return,
            None => complain(&format!(
                "{} has not ended and has no timeout: mock it, or give it a `timeout`\n{}",
                world.hanging().join(", "),
                TestRun::of(&world.stage, run)
            )),
        }
    }
    complain(&format!("the run is not over after {MOST_MOVES} events\n{}", TestRun::of(&world.stage, run)));
}

/// A moment of a test.
pub(super) fn moment(when: &When, zone: chrono_tz::Tz) -> DateTime<Utc> {
    match when {
        When::At(at) => *at,
        When::Text(text) => parse_moment(text, zone).unwrap_or_else(|error| complain(&error.to_string())),
    }
}

/// The run that the timetable makes of a date, or one made by hand.
fn new_run(dag: &CompiledDag, at: Option<DateTime<Utc>>, conf: Option<Value>) -> NewRun {
    let new_year = Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).single().expect("a date");
    let earliest = at.or(dag.settings.restriction.earliest).unwrap_or(new_year);
    let restriction = TimeRestriction { earliest: Some(earliest), latest: None, catchup: true };
    let next = dag.timetable.can_be_scheduled().then(|| {
        let next = dag.timetable.next_dagrun_info(None, &restriction, earliest);
        next.unwrap_or_else(|error| complain(&error.to_string()))
    });
    match next.flatten().filter(|info| at.is_none_or(|at| info.logical_date() == at)) {
        Some(info) => scheduled(dag, info, conf),
        None => manual_run(dag, None, earliest, conf, "test", earliest)
            .unwrap_or_else(|error| complain(&error.to_string())),
    }
}

fn scheduled(dag: &CompiledDag, info: DagRunInfo, conf: Option<Value>) -> NewRun {
    let run = NewRun {
        dag_id: dag.id.clone(),
        run_id: run_id(RunType::Scheduled, &info.logical_date()),
        run_type: RunType::Scheduled,
        logical_date: info.logical_date(),
        data_interval: info.data_interval,
        run_after: info.run_after,
        queued_at: info.run_after,
        conf,
        fingerprint: dag.fingerprint.clone(),
        triggered_by: "test".into(),
        ignores_past: false,
        queue: None,
        advance: None,
        assets: None,
        deadlines: Vec::new(),
    };
    with_deadlines(dag, run)
}
