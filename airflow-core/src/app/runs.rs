//! Runs made on request: triggers and backfills, and waiting for a run.

use std::collections::HashMap;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::decide::deadline::with_deadlines;
use crate::decide::timetable::{check_logical_date, manual_run, run_id};
use crate::id::{DagId, RunId};
use crate::scheduler::Wake;
use crate::state::{RunState, RunType};
use crate::store::{CreatedRun, HostTx, NewRun, RunFilter, RunRow, StoreError};
use crate::timetable::{DagRunInfo, TimeRestriction, TimetableError};

use super::Airflow;
use super::ops::{ClearOptions, OpError};

/// How often a run that another process executes is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How many runs one backfill makes at most: more is a mistake in the dates.
const MOST_BACKFILL_RUNS: usize = 100_000;

/// How many runs of a backfill are made in one transaction: the scheduler begins with them while the next are made.
const RUNS_AT_ONCE: usize = 100;

/// Why a run was not made.
#[derive(Debug, thiserror::Error)]
pub enum TriggerError {
    /// Something is unknown, or the store failed.
    #[error("{0}")]
    Op(#[from] OpError),
    /// `conf` does not fit the parameters of the dag.
    #[error("the conf for dag `{0}` does not fit its params: {1}")]
    Conf(DagId, String),
    /// `conf` is no JSON.
    #[error("the conf cannot be written as JSON: {0}")]
    NotJson(String),
    /// The run id cannot be used.
    #[error("`{0}` cannot be the id of a manual run: {1}")]
    RunId(String, &'static str),
    /// There is a run of this id already.
    #[error("dag `{0}` has a run `{1}` already; choose another run id or logical date, or clear that run")]
    Exists(DagId, RunId),
    /// The timetable has no answer.
    #[error("{0}")]
    Timetable(#[from] TimetableError),
    /// The request makes no sense.
    #[error("{0}")]
    Refused(String),
}

impl From<StoreError> for TriggerError {
    fn from(error: StoreError) -> Self {
        Self::Op(error.into())
    }
}

/// A run about to be made: `airflow.trigger("sales").conf(&order).await?`.
#[derive(Debug)]
#[must_use = "a trigger does nothing until it is awaited"]
pub struct Trigger<'a> {
    airflow: &'a Airflow,
    dag_id: DagId,
    conf: Result<Option<Value>, String>,
    run_id: Option<RunId>,
    logical_date: Option<DateTime<Utc>>,
    queue: Option<String>,
    actor: String,
}

impl<'a> Trigger<'a> {
    /// What the run gets: an object that overrides the parameters of the dag.
    pub fn conf<T: Serialize + ?Sized>(mut self, conf: &T) -> Self {
        self.conf = serde_json::to_value(conf).map(Some).map_err(|error| error.to_string());
        self
    }

    /// The id of the run, instead of one made of the logical date. Repeating a request with the same id makes one
    /// run.
    pub fn run_id(mut self, id: impl Into<RunId>) -> Self {
        self.run_id = Some(id.into());
        self
    }

    /// What the run is about, instead of now.
    pub fn logical_date(mut self, date: DateTime<Utc>) -> Self {
        self.logical_date = Some(date);
        self
    }

    /// The queue of the tasks of this run, instead of the dag's default. A task that names a queue itself stays in it:
    /// it may work nowhere else.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Who asks for it, for the audit log.
    pub fn actor(mut self, actor: impl Into<String>) -> Self {
        self.actor = actor.into();
        self
    }

    /// Checks all that can be checked without the store.
    fn prepare(self) -> Result<(&'a Airflow, NewRun), TriggerError> {
        let dag = self.airflow.dag(&self.dag_id)?;
        let conf = self.conf.map_err(TriggerError::NotJson)?;
        dag.params(conf.as_ref()).map_err(|error| TriggerError::Conf(self.dag_id, error))?;
        if let Some(id) = &self.run_id {
            check_run_id(id)?;
        }
        if let Some(queue) = &self.queue {
            check_queue(queue)?;
        }
        let now = self.airflow.now();
        let date = self.logical_date.unwrap_or(now);
        check_logical_date(date, &self.airflow.store().years())?;
        let run = manual_run(&dag, self.run_id, date, conf, &self.actor, now)?;
        Ok((self.airflow, NewRun { queue: self.queue, ..run }))
    }

    /// Makes the run in a transaction of yours: if you commit it, the run is there and starts at once; if you roll it
    /// back, there never was one. The transaction must be of the database that the store is in; `&mut
    /// sqlx::Transaction` of SQLite, PostgreSQL and MySQL fit. Nothing else of the store waits for it but further runs
    /// of the same dag (on SQLite: all that is written), so commit soon, and do not wait for the run before.
    ///
    /// ```no_run
    /// # #[cfg(feature = "postgres")]
    /// # mod example {
    /// # use airflow_core::app::Airflow;
    /// async fn sign_up(pool: &sqlx::PgPool, airflow: &Airflow, mail: &str) -> Result<(), Box<dyn std::error::Error>> {
    ///     let mut tx = pool.begin().await?;
    ///     let user: i64 = sqlx::query_scalar("INSERT INTO users (mail) VALUES ($1) RETURNING id")
    ///         .bind(mail)
    ///         .fetch_one(&mut *tx)
    ///         .await?;
    ///     airflow.trigger("welcome").run_id(format!("user-{user}")).in_tx(&mut tx).await?;
    ///     tx.commit().await?;
    ///     Ok(())
    /// }
    /// # }
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    ///
    /// As awaiting the trigger; [`TriggerError::Op`] if the transaction is of another database. On a server roll back
    /// after an error of the database; after any other error the transaction is as it was.
    pub async fn in_tx(self, tx: impl Into<HostTx<'_>> + Send) -> Result<RunRow, TriggerError> {
        let tx = tx.into();
        let (airflow, run) = self.prepare()?;
        let (dag_id, run_id) = (run.dag_id.clone(), run.run_id.clone());
        let note = airflow.entry(&run.triggered_by, "trigger", Some(&dag_id), Some(&run_id), None);
        match airflow.store().create_in_tx(tx, run, note).await? {
            CreatedRun::New(row) => {
                if let Some(scheduler) = airflow.scheduler() {
                    scheduler.wake(Wake::Soon);
                }
                Ok(*row)
            }
            CreatedRun::Exists(row) => Err(TriggerError::Exists(dag_id, row.run_id)),
            CreatedRun::Taken => Err(TriggerError::Refused("the run is by assets that are not new".into())),
        }
    }

    async fn send(self) -> Result<RunRow, TriggerError> {
        let (airflow, run) = self.prepare()?;
        let (dag_id, actor) = (run.dag_id.clone(), run.triggered_by.clone());
        let created = airflow.store().create_runs(vec![run]).await?.into_iter().next();
        match created {
            Some(CreatedRun::New(row)) => {
                airflow.note(&actor, "trigger", &dag_id, Some(&row.run_id), None).await?;
                if let Some(scheduler) = airflow.scheduler() {
                    scheduler.wake(Wake::Run(row.clone()));
                }
                Ok(*row)
            }
            Some(CreatedRun::Exists(row)) => Err(TriggerError::Exists(dag_id, row.run_id)),
            Some(CreatedRun::Taken) | None => {
                Err(TriggerError::Refused("the store gave no answer for the run".into()))
            }
        }
    }
}

impl<'a> IntoFuture for Trigger<'a> {
    type Output = Result<RunRow, TriggerError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

fn check_queue(queue: &str) -> Result<(), TriggerError> {
    if queue.is_empty() || queue.chars().count() > crate::id::MAX_ID_CHARS {
        return Err(TriggerError::Refused(format!("the queue `{queue}` must have 1 to 250 characters")));
    }
    Ok(())
}

fn check_run_id(id: &RunId) -> Result<(), TriggerError> {
    let text = id.as_str();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.~:+-".contains(c);
    let refuse = |why| Err(TriggerError::RunId(text.to_owned(), why));
    if text.is_empty() || text.chars().count() > crate::id::MAX_ID_CHARS {
        return refuse("it must have 1 to 250 characters");
    }
    if !text.chars().all(allowed) {
        return refuse("allowed are letters, digits and `_.~:+-`");
    }
    if RunType::of_run_id(text) != RunType::Manual {
        return refuse("it begins like the id of a run of another type");
    }
    Ok(())
}

/// What to do about dates that have a run already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reprocess {
    /// Leave them.
    #[default]
    None,
    /// Run the failed ones again.
    Failed,
    /// Run all finished ones again.
    Completed,
}

/// A backfill: runs for a range of past dates.
#[derive(Debug, Clone)]
pub struct BackfillOptions {
    /// The earliest logical date, inclusive.
    pub from: DateTime<Utc>,
    /// The latest logical date, inclusive.
    pub to: DateTime<Utc>,
    /// What the runs get.
    pub conf: Option<Value>,
    /// Newest first.
    pub run_backwards: bool,
    /// What to do about dates that have a run already.
    pub reprocess: Reprocess,
    /// Make nothing, only tell which runs there would be.
    pub dry_run: bool,
    /// Who asks for it.
    pub actor: String,
}

/// One date of a backfill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackfillOutcome {
    /// A run was made, or would be.
    New(RunId),
    /// The run that was there is run again, or would be.
    Again(RunId),
    /// The run that was there is left as it is.
    Left(RunId),
}

impl Airflow {
    /// Asks for a run of a dag: `airflow.trigger("sales").await?`. Allowed while the dag is paused; the run then waits.
    ///
    /// ```
    /// # use airflow_core::app::Airflow;
    /// # use airflow_core::dag::{DagDef, TaskExt};
    /// # use airflow_core::operator::Empty;
    /// # use airflow_core::store::MemoryStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dag = DagDef::new("sales").define(|d| {
    /// #     d.add(Empty::new().id("work"));
    /// # });
    /// # let airflow = Airflow::builder().store(MemoryStore::new()).dag(dag).build().await?;
    /// let conf = std::collections::BTreeMap::from([("order", 17)]);
    /// let run = airflow.trigger("sales").run_id("order-17").conf(&conf).actor("web").await?;
    /// assert_eq!(run.run_id.as_str(), "order-17");
    ///
    /// // Asked for again, no second run is made.
    /// assert!(airflow.trigger("sales").run_id("order-17").await.is_err());
    /// # Ok(()) }
    /// ```
    pub fn trigger(&self, dag_id: impl Into<DagId>) -> Trigger<'_> {
        Trigger {
            airflow: self,
            dag_id: dag_id.into(),
            conf: Ok(None),
            run_id: None,
            logical_date: None,
            queue: None,
            actor: "api".into(),
        }
    }

    /// Makes runs for a range of past dates, by the timetable of the dag. They are executed by the scheduler, after
    /// other runs of the dag.
    ///
    /// # Errors
    ///
    /// [`TriggerError`] if the dag has no schedule, the range makes no sense, or the store fails.
    pub async fn backfill(
        &self,
        dag_id: &DagId,
        options: &BackfillOptions,
    ) -> Result<Vec<BackfillOutcome>, TriggerError> {
        let dag = self.dag(dag_id)?;
        let now = self.now();
        for end in [options.from, options.to] {
            check_logical_date(end, &self.store().years())?;
        }
        if options.to < options.from {
            return Err(TriggerError::Refused("the end of the range lies before its start".into()));
        }
        if options.run_backwards && dag.looks_back {
            return Err(TriggerError::Refused(
                "a dag with `depends_on_past` cannot be run backwards: each run waits for the one before"
                    .into(),
            ));
        }
        dag.params(options.conf.as_ref()).map_err(|error| TriggerError::Conf(dag_id.clone(), error))?;
        let dates = backfill_dates(&dag, options, now)?;
        let mut outcomes = Vec::with_capacity(dates.len());
        let mut first = true;
        for dates in dates.chunks(RUNS_AT_ONCE) {
            let there = self.timed_runs(dag_id, dates).await?;
            let mut new = Vec::new();
            for info in dates {
                let logical_date = info.data_interval.start;
                if let Some(run) = there.get(&logical_date) {
                    outcomes.push(self.reprocess(dag_id, run, options).await?);
                    continue;
                }
                let id = run_id(RunType::Backfill, &logical_date);
                let run = NewRun {
                    dag_id: dag_id.clone(),
                    run_id: id.clone(),
                    run_type: RunType::Backfill,
                    logical_date,
                    data_interval: info.data_interval,
                    run_after: info.run_after.min(now),
                    queued_at: now,
                    conf: options.conf.clone(),
                    fingerprint: dag.fingerprint.clone(),
                    triggered_by: "backfill".into(),
                    ignores_past: std::mem::take(&mut first),
                    queue: None,
                    advance: None,
                    assets: None,
                    deadlines: Vec::new(),
                };
                new.push(with_deadlines(&dag, run));
                outcomes.push(BackfillOutcome::New(id));
            }
            if options.dry_run || new.is_empty() {
                continue;
            }
            for created in self.store().create_runs(new).await? {
                if let (CreatedRun::New(row), Some(scheduler)) = (created, self.scheduler()) {
                    scheduler.wake(Wake::Run(row));
                }
            }
        }
        if !options.dry_run {
            let extra = serde_json::json!({ "from": options.from, "to": options.to }).to_string();
            self.note(&options.actor, "backfill", dag_id, None, Some(extra)).await?;
        }
        Ok(outcomes)
    }

    /// The runs by timetable or backfill that a dag has at some dates, which are next to each other.
    async fn timed_runs(
        &self,
        dag_id: &DagId,
        dates: &[DagRunInfo],
    ) -> Result<HashMap<DateTime<Utc>, RunRow>, TriggerError> {
        let dates = || dates.iter().map(|info| info.data_interval.start);
        let filter = RunFilter {
            dag_id: Some(dag_id.clone()),
            from: dates().min(),
            to: dates().max(),
            ..RunFilter::default()
        };
        let runs = self.store().runs(&filter).await?.into_iter().filter(|run| run.run_type.is_timed());
        Ok(runs.map(|run| (run.logical_date, run)).collect())
    }

    async fn reprocess(
        &self,
        dag_id: &DagId,
        run: &RunRow,
        options: &BackfillOptions,
    ) -> Result<BackfillOutcome, TriggerError> {
        let again = match options.reprocess {
            Reprocess::None => false,
            Reprocess::Failed => run.state == RunState::Failed,
            Reprocess::Completed => run.state.is_finished(),
        };
        if !again {
            return Ok(BackfillOutcome::Left(run.run_id.clone()));
        }
        if !options.dry_run {
            let clear = ClearOptions {
                only_failed: options.reprocess == Reprocess::Failed,
                ..ClearOptions::default()
            };
            self.clear(dag_id, &run.run_id, &clear, &options.actor).await?;
        }
        Ok(BackfillOutcome::Again(run.run_id.clone()))
    }

    /// Waits until a run has ended, whoever executes it.
    ///
    /// # Errors
    ///
    /// If the run is unknown, or the store fails.
    pub async fn wait_for(&self, dag_id: &DagId, run_id: &RunId) -> Result<RunRow, OpError> {
        let mut ended = self.scheduler().map(|scheduler| scheduler.ended_runs());
        loop {
            let run = self.run(dag_id, run_id).await?;
            if run.state.is_finished() {
                return Ok(run);
            }
            let next = self.now() + chrono::TimeDelta::from_std(LOOK_EVERY).unwrap_or(chrono::TimeDelta::MAX);
            let clock = std::sync::Arc::clone(self.clock());
            match &mut ended {
                Some(ended) => {
                    tokio::select! {
                        _ = ended.recv() => {}
                        () = clock.sleep_until(next) => {}
                    }
                }
                None => clock.sleep_until(next).await,
            }
        }
    }
}

fn backfill_dates(
    dag: &crate::compile::CompiledDag,
    options: &BackfillOptions,
    now: DateTime<Utc>,
) -> Result<Vec<crate::timetable::DagRunInfo>, TriggerError> {
    if !dag.timetable.periodic() {
        return Err(TriggerError::Refused(format!(
            "dag `{}` has the schedule `{}`, which makes no runs for a range of dates",
            dag.id,
            dag.timetable.summary()
        )));
    }
    let restriction =
        TimeRestriction { earliest: Some(options.from), latest: Some(options.to), catchup: true };
    let mut dates = Vec::new();
    let mut last = None;
    while let Some(info) = dag.timetable.next_dagrun_info(last, &restriction, now)? {
        if info.run_after > now || info.data_interval.start > options.to {
            break;
        }
        if dates.len() >= MOST_BACKFILL_RUNS {
            return Err(TriggerError::Refused(format!(
                "the range holds more than {MOST_BACKFILL_RUNS} runs"
            )));
        }
        last = Some(info.data_interval);
        dates.push(info);
    }
    if options.run_backwards {
        dates.reverse();
    }
    Ok(dates)
}
