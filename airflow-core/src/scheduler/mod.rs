//! The loop around the decisions: fetches, commits, submits, waits.
//!
//! [`Scheduler::step`] works until nothing is left to decide; [`Scheduler::run`] does so whenever there is news: a
//! report, a wake-up from this process, a time that has come, a change by another process. There is no polling on the
//! hot path; the slow poll finds what other processes changed.

mod backlog;
mod core;
mod deadlines;
mod effects;
mod lease;
mod limits;
mod member;
mod process;
mod progress;
mod routes;
mod run;
mod telling;
mod watchers;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, broadcast, mpsc};
use uuid::Uuid;

use crate::compile::CompiledDag;
use crate::decide::outcome::{DEFAULT_MAX_MAP_LENGTH, MAX_LOST_ATTEMPTS};
use crate::executor::Waiter;
use crate::id::{AttemptId, DagId, IncarnationId, RunId};
use crate::map::HashSet;
use crate::plan::Report;
use crate::registry::Registry;
use crate::shipping::LateLogs;
use crate::state::RunState;
use crate::store::points::{pass_point, reach_point};
use crate::store::{
    AuditEntry, Deadline, RunFilter, RunRow, SharedStore, Store, StoreResult, Unit, UnitResult,
};
use crate::time::Clock;

use self::core::{Core, CoreConfig};
use self::effects::Effects;
use self::lease::Lease;
use self::process::Watch;
use self::progress::Notes;
use self::telling::Telling;
use self::watchers::Watchers;

pub use crate::host::host_name;
pub use lease::OnLeaseLoss;
pub use member::Member;
pub use process::{IncarnationSpec, is_gone, seems_alive};
pub use progress::Progress;
pub use routes::Executors;
pub use watchers::WatchServices;

/// How many finished runs a listener may be behind before it misses some.
const ENDED_BUFFER: usize = 1024;

/// How long a call of the store may take, beside what the store says it may wait for others: a database that does not
/// answer must not hold up the loop, and half of this is slow already.
const STORE_DEADLINE: Duration = Duration::from_secs(10);

/// How many waits of deferred task instances a process runs: each costs a few kilobytes.
const DEFAULT_MAX_WAITS: usize = 10_000;

/// How many reports of workers are read at once: each may carry a value of a megabyte.
const MOST_REPORTS: u32 = 256;

/// How many reports that were taken in may wait to be deleted before the next poll: they are read again until then.
const MOST_DONE_REPORTS: usize = 32;

/// How soon a change that was announced is looked for: about as long as the rest of a transaction takes.
const LOOK_FIRST: Duration = Duration::from_millis(5);

/// How a scheduler works.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// How often changes by other processes are looked for.
    pub poll_interval: Duration,
    /// How long this process counts as alive after its last beat. A store on which writers wait for each other needs a
    /// longer one, and gets it: [`SchedulerConfig::lease_on`].
    pub lease: Duration,
    /// How often it renews its lease; at most a third of the lease.
    pub beat: Duration,
    /// How many instances a mapping may have.
    pub max_map_length: usize,
    /// Whether timetables make runs.
    pub use_schedules: bool,
    /// Whether dags that say nothing about it begin paused.
    pub paused_at_creation: bool,
    /// Whether this process runs watchers of assets. Default true.
    pub run_watchers: bool,
    /// How many waits of deferred task instances this process runs at most.
    pub max_waits: usize,
    /// After how many lost attempts of one try a task is given up: it may be what kills its processes.
    pub max_lost_attempts: u32,
    /// Whether this scheduler goes on with runs of other versions of its dags once no scheduler that is alive has them.
    /// Otherwise they wait for one, and say so. Default true.
    pub adopt_runs: bool,
    /// What is done if attempts still run when the lease of this process ends. `None` leaves it to the role: those of
    /// the command line end the process, a scheduler inside of a program of yours lets them run.
    pub on_lease_loss: Option<OnLeaseLoss>,
}

impl SchedulerConfig {
    /// The lease that a process takes on this store: long enough that neither a few late beats nor a wait for others
    /// that write look like its death.
    pub fn lease_on(&self, store: &dyn Store) -> Duration {
        let wait = store.longest_wait();
        if wait.is_zero() { self.lease } else { self.lease.max(wait + self.beat * 3) }
    }
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
            run_watchers: true,
            max_waits: DEFAULT_MAX_WAITS,
            max_lost_attempts: MAX_LOST_ATTEMPTS,
            adopt_runs: true,
            on_lease_loss: None,
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
    /// A watcher of this process has written an event of an asset.
    Assets,
    /// Somebody in this process is about to commit a change: look for it often for a while.
    Soon,
}

/// Wakes a scheduler of this process, and hears of runs that end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SchedulerHandle {
    wakes: mpsc::UnboundedSender<Wake>,
    ended: broadcast::Sender<EndedRun>,
    progress: Notes,
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

    /// How far its loop has got.
    pub fn progress(&self) -> Progress {
        self.progress.progress()
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
    executors: Executors,
    waiter: Option<Arc<dyn Waiter>>,
    registry: Registry,
    clock: Arc<dyn Clock>,
    config: SchedulerConfig,
    process: IncarnationSpec,
    lease: Lease,
    watch: Watch,
    core: Core,
    progress: Notes,
    reports: mpsc::UnboundedReceiver<Report>,
    wakes: mpsc::UnboundedReceiver<Wake>,
    handle: SchedulerHandle,
    /// When to look for changes and for deaths next, by the clock that nobody can set.
    next_poll: Duration,
    /// How long after a look the next one comes while a change is expected.
    pace: Duration,
    next_reap: Duration,
    next_sweep: Duration,
    /// Told when workers may have left reports in the store.
    reports_wait: Arc<Notify>,
    /// They are read with the next turn.
    workers_reported: bool,
    /// What the store's change token was; `None` if everything must be read again.
    seen: Option<u64>,
    telling: Telling,
    watchers: Watchers,
    late_logs: LateLogs,
}

impl Scheduler {
    /// A scheduler for the dags of `registry`, and the sender that the executor reports through.
    pub fn new(
        store: SharedStore,
        executors: Executors,
        registry: Registry,
        clock: Arc<dyn Clock>,
        config: SchedulerConfig,
    ) -> (Self, mpsc::UnboundedSender<Report>) {
        let (report_to, reports) = mpsc::unbounded_channel();
        let (wake_to, wakes) = mpsc::unbounded_channel();
        let process = IncarnationSpec::of_this_process("scheduler");
        let lease = Lease::new(Arc::clone(&clock), process.id, config.lease_on(&*store));
        let store = Deadline::around(store, Arc::clone(&clock), STORE_DEADLINE);
        let core = Core::new(core_config(&config, &process, &executors));
        let progress = Notes::new(Arc::clone(&clock), lease.clone());
        let ended = broadcast::channel(ENDED_BUFFER).0;
        let handle = SchedulerHandle { wakes: wake_to, ended, progress: progress.clone() };
        let next_poll = clock.elapsed();
        let late_logs = LateLogs::new(Arc::clone(&store), Arc::clone(&clock));
        let scheduler = Self {
            store,
            executors,
            waiter: None,
            registry,
            clock,
            config,
            process,
            lease,
            watch: Watch::default(),
            core,
            progress,
            reports,
            wakes,
            handle,
            next_poll,
            pace: Duration::MAX,
            next_reap: next_poll,
            next_sweep: next_poll,
            reports_wait: Arc::default(),
            workers_reported: true,
            seen: None,
            telling: Telling::default(),
            watchers: Watchers::default(),
            late_logs,
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

    /// For executors: to be told when reports may wait in the store for this scheduler.
    pub fn reports_wait(&self) -> Arc<Notify> {
        Arc::clone(&self.reports_wait)
    }

    /// Reads what workers have reported.
    async fn hear_workers(&mut self) -> StoreResult<()> {
        if !self.executors.iter().any(|executor| executor.is_remote()) {
            return Ok(());
        }
        let reports = self.store.reports(self.process.id, MOST_REPORTS).await?;
        if reports.len() == MOST_REPORTS as usize {
            self.reports_wait.notify_one();
        }
        self.core.stored(reports);
        Ok(())
    }

    /// Deletes reports that were taken in, if there are at least so many.
    async fn forget_reports(&mut self, least: usize) {
        if self.core.done_reports() < least.max(1) {
            return;
        }
        let ids = self.core.take_done_reports();
        let result = self.store.delete_reports(ids.clone()).await;
        if let Err(error) = &result {
            tracing::warn!(%error, "cannot delete reports that were taken in; trying again later");
        }
        self.core.reports_deleted(ids, result.is_ok());
    }

    /// Begins and stops waits.
    fn tend_waits(&mut self) {
        let orders = self.core.take_waits();
        if let Some(waiter) = &self.waiter {
            orders.stop.into_iter().for_each(|id| waiter.forget(id));
            orders.leave.into_iter().for_each(|id| waiter.leave(id));
            orders.begin.into_iter().for_each(|attempt| waiter.watch(attempt));
        }
    }

    /// Wakes it from elsewhere.
    pub fn handle(&self) -> SchedulerHandle {
        self.handle.clone()
    }

    async fn read_limits(&mut self) -> StoreResult<()> {
        let (pools, slots) = (self.store.pools().await?, self.store.slots().await?);
        self.core.know_limits(pools, slots);
        Ok(())
    }

    async fn read_asset_queue(&mut self) -> StoreResult<()> {
        if self.core.has_consumers() {
            self.core.know_asset_queue(self.store.asset_queue().await?);
        }
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
            let late = self.core.take_late_logs();
            if !late.is_empty() {
                self.late_logs.send(late);
            }
            let wrote = !units.is_empty();
            if wrote {
                match self.write(units).await {
                    Ok(results) => {
                        self.core.write_logs_with_ends(!self.late_logs.is_waiting());
                        let effects = self.core.committed(&results, self.clock.now());
                        self.carry_out(effects).await?;
                    }
                    Err(error) => {
                        self.core.commit_unknown();
                        return Err(error);
                    }
                }
            }
            self.tend_waits();
            if !fetched && !wrote && self.reports.is_empty() && self.wakes.is_empty() {
                return Ok(());
            }
        }
    }

    async fn write(&self, units: Vec<Unit>) -> StoreResult<Vec<UnitResult>> {
        reach_point!("step.before_commit");
        let results = self.store.commit(units).await?;
        reach_point!("step.after_commit");
        Ok(results)
    }

    fn take_news(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            self.core.report(report);
        }
        let now = self.clock.now();
        while let Ok(wake) = self.wakes.try_recv() {
            self.woken(wake, now);
        }
    }

    fn woken(&mut self, wake: Wake, now: DateTime<Utc>) {
        match wake {
            Wake::Run(row) => self.core.know_new_run(*row, now),
            Wake::Refresh => self.look_again(),
            Wake::Assets => self.core.forget_asset_queue(),
            Wake::Soon => self.look_soon(),
        }
    }

    /// Looks for changes often, then less and less, up to the usual pace: each look is one cheap question.
    fn look_soon(&mut self) {
        self.pace = LOOK_FIRST;
        self.next_poll = self.next_poll.min(self.clock.elapsed() + self.pace);
    }

    /// Everything is read again with the next poll. The change token does not tell: it leaves out what was written by
    /// this process, which may have been an operation beside this loop.
    fn look_again(&mut self) {
        self.next_poll = self.clock.elapsed();
        self.seen = None;
    }

    async fn fetch(&mut self, wants: core::Wants) -> StoreResult<()> {
        if wants.limits {
            self.read_limits().await?;
        }
        for (dag_id, advance) in wants.advance {
            self.store.advance_dag(&dag_id, advance).await?;
        }
        if wants.asset_queue {
            self.read_asset_queue().await?;
        }
        if wants.deadlines {
            self.settle_deadlines().await?;
        }
        if !wants.create.is_empty() {
            reach_point!("fetch.before_create");
            let created = self.store.create_runs(wants.create).await?;
            reach_point!("fetch.after_create");
            self.core.created(created, self.clock.now());
        }
        if !wants.claim.is_empty() {
            reach_point!("fetch.before_claim");
            let mine = self.store.claim_runs(&wants.claim, self.process.id).await?;
            reach_point!("fetch.after_claim");
            self.core.claimed(&wants.claim, &mine);
        }
        if !wants.look_up.is_empty() {
            let found = self.store.find_attempts(&wants.look_up).await?;
            let effects = self.core.found(&wants.look_up, &found, self.clock.now());
            self.carry_out(effects).await?;
        }
        for (pk, past) in wants.load {
            let snapshot = self.store.load_run(pk, past.as_ref()).await?;
            reach_point!("fetch.loaded");
            let effects = self.core.loaded(pk, snapshot, self.clock.now());
            self.carry_out(effects).await?;
        }
        Ok(())
    }

    async fn carry_out(&mut self, effects: Effects) -> StoreResult<()> {
        for (place, attempt) in effects.submit {
            // What a process does outside is its own only while nobody may have taken over.
            if !self.lease.is_trusted() {
                self.core.not_submitted(&attempt, self.clock.now());
                continue;
            }
            pass_point!("step.before_submit");
            if let Err(error) = self.executors.get(place).submit(attempt.clone()) {
                tracing::warn!(%error, task = %attempt.ti.task_id, "the attempt was not taken; it waits again");
                self.core.not_submitted(&attempt, self.clock.now());
            }
            pass_point!("step.after_submit");
        }
        effects.cancel.into_iter().for_each(|(place, id)| self.executors.get(place).cancel(id));
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

    /// The process as the store knows it.
    pub fn incarnation(&self) -> IncarnationId {
        self.process.id
    }

    /// Returns when the callbacks that were called so far are done.
    pub async fn callbacks_done(&mut self) {
        while self.telling.is_busy() {
            self.telling.next().await;
        }
        self.forget_told().await;
    }

    /// Tells what was left untold by processes that are gone, or by a commit whose answer was lost.
    async fn take_over_notices(&mut self) -> StoreResult<()> {
        reach_point!("notices.list");
        let waiting = self.store.notices().await?;
        if waiting.is_empty() {
            return Ok(());
        }
        let alive: HashSet<IncarnationId> =
            self.store.incarnations().await?.iter().map(|one| one.process.id).collect();
        for row in waiting {
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
        pass_point!("notices.before_delete");
        match self.store.delete_notices(told.clone()).await {
            Ok(()) => self.telling.forget(&told),
            Err(error) => tracing::warn!(%error, "cannot note that callbacks were called"),
        }
        pass_point!("notices.after_delete");
    }

    /// Reads everything again if somebody asked for it; says whether somebody had. [`run`](Self::run) does so by
    /// itself.
    pub async fn refresh_if_asked(&mut self) -> bool {
        let asked = self.seen.is_none();
        if asked && let Err(error) = self.poll().await {
            tracing::warn!(%error, "cannot look for changes");
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
}

fn core_config(config: &SchedulerConfig, process: &IncarnationSpec, executors: &Executors) -> CoreConfig {
    CoreConfig {
        incarnation: process.id,
        routes: executors.routes(),
        max_map_length: config.max_map_length,
        max_lost: config.max_lost_attempts,
        new_id: || AttemptId(Uuid::now_v7()),
        use_schedules: config.use_schedules,
    }
}
