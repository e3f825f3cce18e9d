//! The loop around the decisions: fetches, commits, submits, waits.
//!
//! [`Scheduler::step`] works until nothing is left to decide; [`Scheduler::run`] does so whenever there is news: a
//! report, a wake-up from this process, a time that has come, a change by another process. There is no polling on the
//! hot path; the slow poll finds what other processes changed.

mod backlog;
mod core;
mod effects;
mod limits;
mod process;
mod telling;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{broadcast, mpsc, watch};
use uuid::Uuid;

use crate::compile::CompiledDag;
use crate::decide::outcome::DEFAULT_MAX_MAP_LENGTH;
use crate::executor::{Executor, Waiter};
use crate::id::{AttemptId, DagId, IncarnationId, RunId};
use crate::plan::Report;
use crate::registry::Registry;
use crate::state::RunState;
use crate::store::{AuditEntry, RunFilter, RunRow, SharedStore, StoreError, StoreResult};
use crate::time::Clock;

use self::core::{Core, CoreConfig};
use self::effects::Effects;
use self::telling::Telling;

pub use process::{IncarnationSpec, is_dead};

/// How many finished runs a listener may be behind before it misses some.
const ENDED_BUFFER: usize = 1024;

/// How long the loop waits after the store failed: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// How long a stop waits for callbacks: what tells somebody of a failure should get out.
const LAST_CALLBACKS: Duration = Duration::from_secs(5);

/// How many waits of deferred task instances a process runs: each costs a few kilobytes.
const DEFAULT_MAX_WAITS: usize = 10_000;

/// How a scheduler works.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// How often changes by other processes are looked for.
    pub poll_interval: Duration,
    /// How long this process counts as alive after its last beat.
    pub lease: Duration,
    /// How often it renews its lease; at most a third of the lease.
    pub beat: Duration,
    /// How many instances a mapping may have.
    pub max_map_length: usize,
    /// Whether timetables make runs.
    pub use_schedules: bool,
    /// Whether dags that say nothing about it begin paused.
    pub paused_at_creation: bool,
    /// How many waits of deferred task instances this process runs at most.
    pub max_waits: usize,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_secs(1),
            lease: Duration::from_secs(20),
            beat: Duration::from_secs(5),
            max_map_length: DEFAULT_MAX_MAP_LENGTH,
            use_schedules: true,
            paused_at_creation: false,
            max_waits: DEFAULT_MAX_WAITS,
        }
    }
}

/// News from this process.
#[derive(Debug)]
pub enum Wake {
    /// A run was created or changed.
    Run(Box<RunRow>),
    /// Something changed: look at everything.
    Refresh,
}

/// Wakes a scheduler of this process, and hears of runs that end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SchedulerHandle {
    wakes: mpsc::UnboundedSender<Wake>,
    ended: broadcast::Sender<EndedRun>,
}

/// A run that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedRun {
    /// The dag.
    pub dag_id: DagId,
    /// The run.
    pub run_id: RunId,
    /// How it ended.
    pub state: RunState,
}

impl SchedulerHandle {
    /// Tells the scheduler of a change. Does nothing if it has stopped: the next one reads the store.
    pub fn wake(&self, wake: Wake) {
        let _ = self.wakes.send(wake);
    }

    /// Runs that end from now on. What ended between `start` and this call is not among them: ask the store for that.
    pub fn ended_runs(&self) -> broadcast::Receiver<EndedRun> {
        self.ended.subscribe()
    }
}

/// Makes runs, starts attempts, takes reports.
#[derive(Debug)]
pub struct Scheduler {
    store: SharedStore,
    executor: Arc<dyn Executor>,
    waiter: Option<Arc<dyn Waiter>>,
    registry: Registry,
    clock: Arc<dyn Clock>,
    config: SchedulerConfig,
    process: IncarnationSpec,
    core: Core,
    reports: mpsc::UnboundedReceiver<Report>,
    wakes: mpsc::UnboundedReceiver<Wake>,
    handle: SchedulerHandle,
    next_poll: DateTime<Utc>,
    next_reap: DateTime<Utc>,
    /// What the store's change token was; `None` if everything must be read again.
    seen: Option<u64>,
    telling: Telling,
}

impl Scheduler {
    /// A scheduler for the dags of `registry`, and the sender that the executor reports through.
    pub fn new(
        store: SharedStore,
        executor: Arc<dyn Executor>,
        registry: Registry,
        clock: Arc<dyn Clock>,
        config: SchedulerConfig,
    ) -> (Self, mpsc::UnboundedSender<Report>) {
        let (report_to, reports) = mpsc::unbounded_channel();
        let (wake_to, wakes) = mpsc::unbounded_channel();
        let handle = SchedulerHandle { wakes: wake_to, ended: broadcast::channel(ENDED_BUFFER).0 };
        let process = IncarnationSpec::of_this_process("scheduler");
        let core = Core::new(CoreConfig {
            incarnation: process.id,
            slots: executor.slots(),
            max_map_length: config.max_map_length,
            new_id: || AttemptId(Uuid::now_v7()),
            use_schedules: config.use_schedules,
        });
        let next_poll = clock.now();
        let scheduler = Self {
            store,
            executor,
            waiter: None,
            registry,
            clock,
            config,
            process,
            core,
            reports,
            wakes,
            handle,
            next_poll,
            next_reap: next_poll,
            seen: None,
            telling: Telling::default(),
        };
        (scheduler, report_to)
    }

    /// The same, running the waits of deferred task instances too.
    #[must_use]
    pub fn with_waiter(mut self, waiter: Arc<dyn Waiter>) -> Self {
        self.core.set_wait_capacity(waiter.capacity());
        self.waiter = Some(waiter);
        self
    }

    /// Wakes it from elsewhere.
    pub fn handle(&self) -> SchedulerHandle {
        self.handle.clone()
    }

    /// Makes itself known, takes over from processes that died, and reads what is going on.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn prepare(&mut self) -> StoreResult<()> {
        let now = self.clock.now();
        let lease = TimeDelta::from_std(self.config.lease).unwrap_or(TimeDelta::MAX);
        self.store.register(self.process.new_incarnation(now, now + lease)).await?;
        self.refresh().await?;
        self.reap().await
    }

    /// Ends processes that are dead; their attempts are lost.
    async fn reap(&mut self) -> StoreResult<()> {
        let now = self.clock.now();
        let mut alive = HashSet::new();
        for other in self.store.incarnations().await? {
            if other.process.id != self.process.id && is_dead(&other, now) {
                tracing::info!(process = %other.process.id, pid = other.process.pid, "a process of ours has died");
                self.store.end_incarnation(other.process.id, now).await?;
            } else {
                alive.insert(other.process.id);
            }
        }
        for orphan in self.store.orphans().await? {
            if orphan.start.incarnation != Some(self.process.id) {
                tracing::warn!(task = %orphan.start.task_id, attempt = %orphan.start.attempt_id, "the attempt was lost");
                self.core.orphan(orphan);
            }
        }
        self.core.look_for_waits();
        self.take_over_notices(&alive).await
    }

    /// Reads what other processes may have changed.
    async fn refresh(&mut self) -> StoreResult<()> {
        let now = self.clock.now();
        self.seen = Some(self.store.change_token().await?);
        let dags = self.store.dags().await?;
        self.core.know_dags(dags, &self.registry, now);
        let active = RunFilter { states: vec![RunState::Queued, RunState::Running], ..RunFilter::default() };
        let active = self.store.runs(&active).await?;
        self.core.know_active(active, now);
        self.read_limits().await
    }

    async fn read_limits(&mut self) -> StoreResult<()> {
        let (pools, slots) = (self.store.pools().await?, self.store.slots().await?);
        self.core.know_limits(pools, slots);
        Ok(())
    }

    /// Works until nothing is left to decide now.
    ///
    /// # Errors
    ///
    /// If the store fails: what was decided is loaded again, nothing is lost.
    pub async fn step(&mut self) -> StoreResult<()> {
        loop {
            self.take_news();
            let now = self.clock.now();
            self.core.tick(now);
            let wants = self.core.wants(now);
            let fetched = !wants.is_empty();
            self.fetch(wants).await?;
            let now = self.clock.now();
            let units = self.core.plan(now);
            let wrote = !units.is_empty();
            if wrote {
                match self.store.commit(units).await {
                    Ok(results) => {
                        let effects = self.core.committed(&results, self.clock.now());
                        self.carry_out(effects).await?;
                    }
                    Err(error) => {
                        self.core.commit_unknown();
                        return Err(error);
                    }
                }
            }
            if !fetched && !wrote && self.reports.is_empty() && self.wakes.is_empty() {
                return Ok(());
            }
        }
    }

    fn take_news(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            self.core.report(report);
        }
        let now = self.clock.now();
        while let Ok(wake) = self.wakes.try_recv() {
            match wake {
                Wake::Run(row) => self.core.know_run(*row, now),
                Wake::Refresh => self.look_again(now),
            }
        }
    }

    /// Everything is read again with the next poll. The change token does not tell: it leaves out what was written by
    /// this process, which may have been an operation beside this loop.
    fn look_again(&mut self, now: DateTime<Utc>) {
        self.next_poll = now;
        self.seen = None;
    }

    async fn fetch(&mut self, wants: core::Wants) -> StoreResult<()> {
        if wants.limits {
            self.read_limits().await?;
        }
        for (dag_id, advance) in wants.advance {
            self.store.advance_dag(&dag_id, advance).await?;
        }
        if !wants.create.is_empty() {
            let created = self.store.create_runs(wants.create).await?;
            self.core.created(created, self.clock.now());
        }
        if let Some(wanted) = wants.waits {
            let claimed = self.store.claim_waits(self.process.id, &wanted.dags, wanted.limit).await?;
            let effects = self.core.claimed(claimed);
            self.carry_out(effects).await?;
        }
        for (pk, past) in wants.load {
            let snapshot = self.store.load_run(pk, past.as_ref()).await?;
            let effects = self.core.loaded(pk, snapshot, self.clock.now());
            self.carry_out(effects).await?;
        }
        Ok(())
    }

    async fn carry_out(&mut self, effects: Effects) -> StoreResult<()> {
        for attempt in effects.submit {
            if let Err(error) = self.executor.submit(attempt.clone()) {
                tracing::warn!(%error, task = %attempt.ti.task_id, "the attempt was not taken; it waits again");
                self.core.not_submitted(&attempt, self.clock.now());
            }
        }
        effects.cancel.into_iter().for_each(|id| self.executor.cancel(id));
        if let Some(waiter) = &self.waiter {
            effects.watch.into_iter().for_each(|attempt| waiter.watch(attempt));
            effects.forget.into_iter().for_each(|id| waiter.forget(id));
        }
        effects.notices.into_iter().for_each(|notice| self.telling.tell(&self.registry, notice));
        for (dag_id, run_id, state) in effects.ended {
            // Nobody may be listening.
            let _ = self.handle.ended.send(EndedRun { dag_id, run_id, state });
        }
        for dag in effects.failed {
            self.pause_if_failing(&dag).await?;
        }
        Ok(())
    }

    /// Pauses a dag whose newest runs all failed (`max_consecutive_failed_dag_runs`).
    async fn pause_if_failing(&mut self, dag: &CompiledDag) -> StoreResult<()> {
        let limit = dag.settings.max_consecutive_failed_dag_runs;
        let filter = RunFilter {
            dag_id: Some(dag.id.clone()),
            newest_first: true,
            limit: Some(limit),
            ..RunFilter::default()
        };
        let newest = self.store.runs(&filter).await?;
        if newest.len() == limit as usize && newest.iter().all(|run| run.state == RunState::Failed) {
            tracing::warn!(dag = %dag.id, "paused: its newest {limit} runs all failed");
            self.store.set_paused(&dag.id, true).await?;
            self.core.set_paused(&dag.id, true);
            self.store
                .audit(AuditEntry {
                    at: self.clock.now(),
                    actor: "scheduler".into(),
                    event: "paused".into(),
                    dag_id: Some(dag.id.clone()),
                    run_id: None,
                    task_id: None,
                    map_index: None,
                    extra: Some(format!("its newest {limit} runs all failed")),
                })
                .await?;
        }
        Ok(())
    }

    /// Returns when the callbacks that were called so far are done.
    pub async fn callbacks_done(&mut self) {
        while self.telling.is_busy() {
            self.telling.next().await;
        }
        self.forget_told().await;
    }

    /// Tells what was left untold by processes that are gone, or by a commit whose answer was lost.
    async fn take_over_notices(&mut self, alive: &HashSet<IncarnationId>) -> StoreResult<()> {
        for row in self.store.notices().await? {
            let owner = row.notice.owner;
            let is_mine = owner == self.process.id
                || (!alive.contains(&owner)
                    && self.registry.get(&row.dag_id).is_some()
                    && self.store.take_notice(&row.key(), owner, self.process.id).await?);
            if is_mine {
                self.telling.tell(&self.registry, row);
            }
        }
        Ok(())
    }

    /// Deletes the notices whose callbacks have returned; what cannot be deleted now is tried again later.
    async fn forget_told(&mut self) {
        let told = self.telling.told();
        if told.is_empty() {
            return;
        }
        match self.store.delete_notices(told.clone()).await {
            Ok(()) => self.telling.forget(&told),
            Err(error) => tracing::warn!(%error, "cannot note that callbacks were called"),
        }
    }

    /// Reads everything again if somebody asked for it; says whether somebody had. [`run`](Self::run) does so by
    /// itself.
    pub async fn refresh_if_asked(&mut self) -> bool {
        let asked = self.seen.is_none();
        if asked {
            self.poll().await;
        }
        asked
    }

    /// When something is due next, without news.
    pub fn next_wake(&self) -> Option<DateTime<Utc>> {
        self.core.next_wake()
    }

    /// The runs as it sees them, for tests that compare them with the store.
    #[doc(hidden)]
    pub fn views(&self) -> impl Iterator<Item = &crate::plan::RunView> {
        self.core.views()
    }

    /// How many attempts are running.
    pub fn running_attempts(&self) -> usize {
        self.core.running_attempts()
    }

    /// Works until `stop` says so, then waits up to the grace time for attempts that run, and says goodbye.
    ///
    /// # Errors
    ///
    /// If the store fails while it starts; later failures are retried.
    pub async fn run(mut self, mut stop: watch::Receiver<Option<Duration>>) -> StoreResult<()> {
        self.prepare().await?;
        self.warn_of_missing_pools();
        let beat = tokio::spawn(beat(
            Arc::clone(&self.store),
            Arc::clone(&self.clock),
            self.process.id,
            self.config.beat,
            self.config.lease,
        ));
        let mut pause = RETRY_FIRST;
        while stop.borrow_and_update().is_none() {
            match self.step().await {
                Ok(()) => pause = RETRY_FIRST,
                Err(error) => {
                    tracing::error!(%error, "the store failed; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LAST);
                    continue;
                }
            }
            self.wait(&mut stop).await;
        }
        let grace = stop.borrow().unwrap_or_default();
        self.shut_down(grace).await;
        beat.abort();
        Ok(())
    }

    fn warn_of_missing_pools(&self) {
        for dag in self.registry.iter() {
            for task in dag.tasks.iter().filter(|task| !self.core.pool_exists(&task.settings.pool)) {
                tracing::warn!(
                    dag = %dag.id, task = %task.id, pool = task.settings.pool,
                    "the task will not start: its pool does not exist; create it with `pools set`"
                );
            }
        }
    }

    /// Returns when there is news.
    async fn wait(&mut self, stop: &mut watch::Receiver<Option<Duration>>) {
        self.forget_told().await;
        let now = self.clock.now();
        if self.next_poll <= now {
            self.poll().await;
            if self.core.has_work() {
                return;
            }
        }
        let due = self.core.next_wake().map_or(self.next_poll, |at| at.min(self.next_poll));
        let clock = Arc::clone(&self.clock);
        tokio::select! {
            report = self.reports.recv() => if let Some(report) = report {
                self.core.report(report);
            },
            wake = self.wakes.recv() => match wake {
                Some(Wake::Run(row)) => self.core.know_run(*row, clock.now()),
                Some(Wake::Refresh) => self.look_again(clock.now()),
                None => {}
            },
            () = self.telling.next(), if self.telling.is_busy() => {}
            () = clock.sleep_until(due) => {}
            _ = stop.changed() => {}
        }
    }

    /// Looks for what other processes changed.
    async fn poll(&mut self) {
        let interval = TimeDelta::from_std(self.config.poll_interval).unwrap_or(TimeDelta::MAX);
        self.next_poll = self.clock.now() + interval;
        let polled = async {
            let token = self.store.change_token().await?;
            if self.seen != Some(token) {
                self.refresh().await?;
            }
            // A process dies without writing anything, so its death is looked for whether or not there is news.
            if self.next_reap <= self.clock.now() {
                self.next_reap =
                    self.clock.now() + TimeDelta::from_std(self.config.beat).unwrap_or(TimeDelta::MAX);
                self.reap().await?;
            }
            Ok::<(), StoreError>(())
        };
        if let Err(error) = polled.await {
            tracing::warn!(%error, "cannot look for changes");
        }
    }

    async fn shut_down(&mut self, grace: Duration) {
        if let Some(waiter) = &self.waiter {
            waiter.stop();
        }
        let executor = Arc::clone(&self.executor);
        let mut stopping = tokio::spawn(async move { executor.stop(grace).await });
        let mut stopped = false;
        // Reports still come in; what becomes ready is refused by the executor and waits for the next start. Asking
        // the task twice whether it has finished, here and below, could wait for a report that never comes.
        while !stopped || !self.reports.is_empty() {
            tokio::select! {
                report = self.reports.recv() => if let Some(report) = report {
                    self.core.report(report);
                },
                _ = &mut stopping, if !stopped => stopped = true,
            }
            self.core.close();
            if let Err(error) = self.step().await {
                tracing::error!(%error, "cannot write the last reports; their attempts count as lost");
                break;
            }
        }
        if tokio::time::timeout(LAST_CALLBACKS, self.callbacks_done()).await.is_err() {
            tracing::warn!("callbacks still run after {LAST_CALLBACKS:?}; they are not waited for");
        }
        if let Err(error) = self.store.end_incarnation(self.process.id, self.clock.now()).await {
            tracing::warn!(%error, "cannot say goodbye; the lease runs out by itself");
        }
    }

    /// The process as the store knows it.
    pub fn incarnation(&self) -> IncarnationId {
        self.process.id
    }
}

/// Renews the lease of this process.
async fn beat(
    store: SharedStore,
    clock: Arc<dyn Clock>,
    id: IncarnationId,
    every: Duration,
    lease: Duration,
) {
    let every = TimeDelta::from_std(every).unwrap_or(TimeDelta::MAX);
    let lease = TimeDelta::from_std(lease).unwrap_or(TimeDelta::MAX);
    loop {
        let now = clock.now();
        clock.sleep_until(now + every).await;
        let now = clock.now();
        match store.beat(id, now, now + lease).await {
            Ok(true) => {}
            Ok(false) => tracing::error!("this process was declared dead; its attempts count as lost"),
            Err(error) => tracing::warn!(%error, "cannot renew the lease"),
        }
    }
}
