//! The life of a scheduler: it makes itself known, works, looks for changes and for the dead, keeps its lease, stops
//! what it runs if it loses it, and says goodbye.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tokio::sync::watch;

use crate::executor::LeaseWatch;
use crate::id::{DagId, IncarnationId};
use crate::plan::Outcome;
use crate::registry::Registry;
use crate::state::RunState;
use crate::store::points::{pass_point, reach_point};
use crate::store::{Incarnation, RunFilter, StoreResult};

use super::core::Core;
use super::lease::OnLeaseLoss;
use super::process::Death;
use super::{MOST_DONE_REPORTS, Scheduler, core_config};

/// How long the loop waits after the store failed: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// How long a stop waits for callbacks: what tells somebody of a failure should get out.
const LAST_CALLBACKS: Duration = Duration::from_secs(5);

/// For how many leases the loop may be without a full turn before it counts as stuck: longer than any call of the store
/// may take.
const STUCK_LEASES: u32 = 3;

/// How often processes that ended long ago are deleted.
const SWEEP: Duration = Duration::from_secs(3600);

/// How long a process that ended stays known, for people who look what happened.
const KEPT: TimeDelta = TimeDelta::days(1);

impl Scheduler {
    /// For executors: when attempts that run outside of this process must be dead, if it stands still.
    pub fn lease_watch(&self) -> LeaseWatch {
        self.lease.watch()
    }

    /// Makes itself known, takes over from processes that died, and reads what is going on.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn prepare(&mut self) -> StoreResult<()> {
        self.store.register(self.process.new_incarnation(self.lease.length())).await?;
        self.carry().await?;
        reach_point!("prepare.registered");
        self.refresh().await?;
        reach_point!("prepare.refreshed");
        self.reap().await
    }

    /// Says which versions of dags this process has, before it looks at runs.
    async fn carry(&self) -> StoreResult<()> {
        self.store.carry(self.process.id, versions(&self.registry)).await
    }

    /// Takes over runs of versions that nobody alive has, if it is to.
    async fn adopt_runs(&mut self) -> StoreResult<()> {
        if !self.config.adopt_runs {
            return Ok(());
        }
        for other in self.core.others() {
            if self.store.move_run(other.run, &other.from, &other.to).await? {
                tracing::warn!(
                    dag = %other.dag_id, run = %other.run, from = other.from, to = other.to,
                    "the run goes on with another version of its dag: no scheduler has its own"
                );
                let run = self.store.load_run(other.run, None).await?;
                if let Some(loaded) = run {
                    self.core.know_run(loaded.run, self.clock.now());
                }
            }
        }
        Ok(())
    }

    /// Ends processes that are dead; their attempts are lost.
    async fn reap(&mut self) -> StoreResult<()> {
        reach_point!("reap.begin");
        let all = self.store.incarnations().await?;
        let gap = self.config.beat * 2;
        let dead = self.watch.look(&all, self.process.id, self.clock.elapsed(), gap);
        for (id, death) in dead {
            let ended = match death {
                Death::Gone => self.store.end_incarnation(id).await.map(|()| true)?,
                Death::Expired(beats) => self.store.expire(id, beats).await?,
            };
            if ended {
                tracing::info!(process = %id, ?death, "a process of ours has died");
                reach_point!("reap.ended");
            }
        }
        if self.core.know_others(self.other_schedulers(&all)) {
            self.look_again();
        }
        reach_point!("reap.orphans");
        for orphan in self.store.orphans().await? {
            // Schedulers of the version of its run see to it.
            if orphan.start.incarnation != Some(self.process.id) && !self.core.is_of_others(orphan.run) {
                tracing::warn!(task = %orphan.start.task_id, attempt = %orphan.start.attempt_id, "the attempt was lost");
                self.core.orphan(orphan);
            }
        }
        self.take_over_notices().await
    }

    fn other_schedulers(&self, all: &[Incarnation]) -> Vec<IncarnationId> {
        let processes = all.iter().map(|one| &one.process);
        let others = processes.filter(|one| one.id != self.process.id && one.kind == "scheduler");
        others.map(|one| one.id).collect()
    }

    /// Reads what other processes may have changed.
    pub(super) async fn refresh(&mut self) -> StoreResult<()> {
        let now = self.clock.now();
        let token = self.store.change_token().await?;
        let processes = self.store.incarnations().await?;
        self.core.meet_others(self.other_schedulers(&processes));
        let dags = self.store.dags().await?;
        self.core.know_dags(dags, &self.registry, now);
        let active = RunFilter { states: vec![RunState::Queued, RunState::Running], ..RunFilter::default() };
        let active = self.store.runs(&active).await?;
        self.core.know_active(active, now);
        self.adopt_runs().await?;
        self.read_limits().await?;
        self.read_asset_queue().await?;
        self.read_next_deadline().await?;
        self.tend_watchers().await?;
        self.seen = Some(token);
        Ok(())
    }

    /// Works until `stop` says so, then waits up to the grace time for attempts that run, and says goodbye.
    ///
    /// # Errors
    ///
    /// If its tables are of another version or cannot be read when it starts; what may pass is tried again.
    pub async fn run(mut self, mut stop: watch::Receiver<Option<Duration>>) -> StoreResult<()> {
        self.begin(&mut stop).await?;
        self.warn_of_missing_pools();
        let (progress, most) = (self.progress.clone(), self.lease.length() * STUCK_LEASES);
        let is_stuck = move || progress.progress().loop_age.is_some_and(|age| age > most);
        let keep = self.lease.clone().keep(Arc::clone(&self.store), self.config.beat, is_stuck);
        let beat = tokio::spawn(keep);
        let lease = self.lease.clone();
        while stop.borrow_and_update().is_none() {
            let lost = tokio::select! {
                biased;
                () = lease.lost() => true,
                () = self.work(&mut stop) => false,
            };
            if lost {
                self.stop_attempts().await;
                self.rejoin(&mut stop, true).await;
            }
        }
        let grace = stop.borrow().unwrap_or_default();
        self.shut_down(grace).await;
        beat.abort();
        Ok(())
    }

    /// Makes itself known and reads what is going on, however often it takes.
    async fn begin(&mut self, stop: &mut watch::Receiver<Option<Duration>>) -> StoreResult<()> {
        let begun = self.clock.elapsed();
        match self.prepare().await {
            Ok(()) => self.lease.begin(self.process.id, begun),
            Err(error) if error.is_lasting() => return Err(error),
            Err(error) => {
                tracing::error!(%error, "the store failed at the start; trying again");
                self.progress.failed(&error);
                // What was done of it may be a process that is known and carries nothing: it begins anew.
                self.rejoin(stop, false).await;
            }
        }
        Ok(())
    }

    /// Works until it is told to stop. May be dropped at any point: what was on its way is looked up.
    async fn work(&mut self, stop: &mut watch::Receiver<Option<Duration>>) {
        let mut pause = RETRY_FIRST;
        while stop.borrow_and_update().is_none() {
            if let Err(error) = self.turn().await {
                tracing::error!(%error, "the store failed; trying again");
                // What was to be written may be written or not; all that is remembered of it is read again.
                self.look_again();
                self.progress.failed(&error);
                tokio::select! {
                    biased;
                    () = self.clock.sleep(pause) => {}
                    () = asked(stop) => {}
                }
                pause = (pause * 2).min(RETRY_LAST);
                continue;
            }
            pause = RETRY_FIRST;
            self.wait(stop).await;
        }
    }

    /// Looks for changes if it is time, then works until nothing is left to decide.
    async fn turn(&mut self) -> StoreResult<()> {
        if self.next_poll <= self.clock.elapsed() {
            self.poll().await?;
        }
        if std::mem::take(&mut self.workers_reported)
            && let Err(error) = self.hear_workers().await
        {
            self.workers_reported = true;
            return Err(error);
        }
        self.step().await?;
        self.progress.completed();
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
        self.forget_reports(MOST_DONE_REPORTS).await;
        let clock = Arc::clone(&self.clock);
        let poll = self.next_poll.saturating_sub(clock.elapsed());
        let due = self.core.next_wake();
        let due = async {
            match due {
                Some(due) => clock.sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            report = self.reports.recv() => if let Some(report) = report {
                pass_point!("report.taken");
                self.core.report(report);
            },
            wake = self.wakes.recv() => if let Some(wake) = wake {
                self.woken(wake, clock.now());
            },
            () = self.reports_wait.notified() => self.workers_reported = true,
            () = self.telling.next(), if self.telling.is_busy() => {}
            () = due => {}
            () = clock.sleep(poll) => {}
            () = asked(stop) => {}
        }
    }

    /// Looks for what other processes changed.
    pub(super) async fn poll(&mut self) -> StoreResult<()> {
        reach_point!("poll.begin");
        let now = self.clock.elapsed();
        let token = self.store.change_token().await?;
        if self.seen != Some(token) {
            self.refresh().await?;
            self.workers_reported = true;
        }
        self.forget_reports(1).await;
        self.next_poll = now + self.config.poll_interval.min(self.pace);
        self.pace = self.pace.saturating_mul(2);
        self.progress.waits(self.core.waits_since());
        // A process dies without writing anything, so its death is looked for whether or not there is news.
        if self.next_reap <= now {
            self.reap().await?;
            self.tend_watchers().await?;
            self.next_reap = now + self.config.beat;
        }
        if self.next_sweep <= now {
            self.next_sweep = now + SWEEP;
            self.store.forget_incarnations(self.clock.now() - KEPT).await?;
        }
        Ok(())
    }

    /// The lease is lost or about to end: stops what runs, and waits for it as long as nobody can have taken over.
    async fn stop_attempts(&mut self) {
        self.watchers.stop();
        // The step that was dropped may have been in the middle of a commit.
        self.core.commit_unknown();
        self.look_again();
        self.progress.fenced();
        let out = self.core.attempts_here();
        if !out.is_empty() {
            tracing::error!(
                attempts = out.len(),
                "the lease of this process is lost; its attempts are stopped"
            );
        }
        out.iter().for_each(|(id, place)| self.executors.get(*place).cancel(*id));
        let clock = Arc::clone(&self.clock);
        // Declared dead while it still trusted itself: it has no time left, and takes what is needed to stop.
        let end = self.lease.end().max(clock.elapsed() + self.lease.margin());
        while self.core.running_attempts() > 0 {
            let report = tokio::select! {
                biased;
                report = self.reports.recv() => report,
                () = clock.sleep(end.saturating_sub(clock.elapsed())) => break,
            };
            let Some(mut report) = report else { break };
            // It did not stop by itself, so it costs no retry.
            if matches!(report.outcome, Outcome::Cancelled) {
                report.outcome = Outcome::HandedBack;
            }
            self.core.report(report);
        }
        if self.core.running_attempts() > 0 {
            let act = self.config.on_lease_loss.clone().unwrap_or(OnLeaseLoss::KeepRunning);
            act.act(self.core.running_attempts());
        }
    }

    /// Goes on, if it `may` and nobody declared this process dead, else begins a new life. Tries until the store answers.
    async fn rejoin(&mut self, stop: &mut watch::Receiver<Option<Duration>>, may: bool) {
        let mut pause = RETRY_FIRST;
        while stop.borrow_and_update().is_none() {
            match self.try_rejoin(may).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot come back yet; trying again");
                    self.progress.failed(&error);
                }
            }
            tokio::select! {
                biased;
                () = self.clock.sleep(pause) => {}
                () = asked(stop) => {}
            }
            pause = (pause * 2).min(RETRY_LAST);
        }
    }

    async fn try_rejoin(&mut self, may: bool) -> StoreResult<()> {
        let begun = self.clock.elapsed();
        // An attempt that did not stop keeps the old life from going on: its result would come too late.
        let whole = may && self.core.running_attempts() == 0;
        if whole && self.store.beat(self.process.id).await? {
            tracing::info!("the lease goes on");
            self.lease.begin(self.process.id, begun);
        } else {
            self.store.end_incarnation(self.process.id).await?;
            let process = self.process.again();
            let begun = self.clock.elapsed();
            self.store.register(process.new_incarnation(self.lease.length())).await?;
            self.store.carry(process.id, versions(&self.registry)).await?;
            tracing::warn!(old = %self.process.id, new = %process.id, "this process begins anew");
            let strays = self.core.attempts_here();
            self.process = process;
            self.core = Core::new(core_config(&self.config, &self.process, &self.executors));
            self.core.keep_strays(strays);
            if let Some(waiter) = &self.waiter {
                // They begin again with their runs.
                waiter.stop();
                self.core.set_wait_capacity(waiter.capacity());
            }
            self.lease.begin(self.process.id, begun);
        }
        self.next_reap = self.clock.elapsed();
        self.look_again();
        Ok(())
    }

    async fn shut_down(&mut self, grace: Duration) {
        pass_point!("shutdown.begin");
        self.watchers.stop();
        if let Some(waiter) = &self.waiter {
            waiter.stop();
            self.core.set_wait_capacity(0);
        }
        let executors = self.executors.clone();
        let mut stopping = tokio::spawn(async move {
            futures_util::future::join_all(executors.iter().map(|executor| executor.stop(grace))).await;
        });
        let mut stopped = false;
        let lease = self.lease.clone();
        let mut fenced = false;
        // Reports still come in; what becomes ready is refused by the executor and waits for the next start. Asking
        // the task twice whether it has finished, here and below, could wait for a report that never comes.
        while !stopped || !self.reports.is_empty() {
            tokio::select! {
                biased;
                report = self.reports.recv() => if let Some(report) = report {
                    self.core.report(report);
                },
                _ = &mut stopping, if !stopped => stopped = true,
                () = lease.lost(), if !fenced => {
                    fenced = true;
                    for (id, place) in self.core.attempts_here() {
                        self.executors.get(place).cancel(id);
                    }
                }
            }
            self.core.close();
            let mut result = self.step().await;
            if result.is_err() && self.core.keeps_logs_apart() {
                result = self.step().await;
            }
            if let Err(error) = result {
                tracing::error!(%error, "cannot write the last reports; their attempts count as lost");
                break;
            }
        }
        pass_point!("shutdown.stopped");
        let clock = Arc::clone(&self.clock);
        tokio::select! {
            biased;
            () = self.callbacks_done() => {}
            () = clock.sleep(LAST_CALLBACKS) => {
                tracing::warn!("callbacks still run after {LAST_CALLBACKS:?}; they are not waited for");
            }
        }
        self.late_logs.sent().await;
        if let Err(error) = self.store.end_incarnation(self.process.id).await {
            tracing::warn!(%error, "cannot say goodbye; the lease runs out by itself");
        }
        pass_point!("shutdown.goodbye");
    }
}

/// What a process with these dags carries.
fn versions(registry: &Registry) -> Vec<(DagId, String)> {
    registry.iter().map(|dag| (dag.id.clone(), dag.fingerprint.clone())).collect()
}

/// Returns when somebody asks for a stop; never, if nobody is left who could.
async fn asked(stop: &mut watch::Receiver<Option<Duration>>) {
    if stop.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
