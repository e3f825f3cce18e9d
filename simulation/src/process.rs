//! A process in a bad world: its store may fail, its answers get lost, and it dies at named points.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use airflow_core::executor::{AttemptRunner, Executor, ExecutorServices, SubmitError};
use airflow_core::id::{AttemptId, RunPk};
use airflow_core::operator::Cancel;
use airflow_core::plan::{Attempt, Outcome, Report};
use airflow_core::store::{
    CreatedRun, Layer, NewRun, SharedStore, StoreError, StoreResult, Unit, UnitResult,
};
use airflow_core::time::Clock as _;
use airflow_executors::LocalExecutor;
use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::clock::{Gate, ProcessClock};
use super::mutants::Mutant;
use super::oracle::Oracle;
use super::plan::{Point, Unknown};
use super::random::Random;
use super::work::HERE;

/// The number of the process through which users act.
pub(crate) const USER: usize = usize::MAX;

pub(crate) type Shared<T> = Arc<Mutex<T>>;

pub(crate) fn lock<T>(shared: &Shared<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("nobody panics while it holds the lock")
}

type Boxed<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is wrong with one process at the moment. It stays over restarts.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) offset: Arc<AtomicI64>,
    /// Until when, in true time.
    pub(crate) cut: Option<(Instant, bool)>,
    pub(crate) errors: Option<(Instant, u64)>,
    pub(crate) slow: Option<(Instant, u64)>,
    pub(crate) late: Option<(Instant, u64)>,
    pub(crate) double: Option<Instant>,
    pub(crate) lost: Vec<Unknown>,
    /// Where it dies, after how many times, and how long it stays down.
    pub(crate) crashes: Vec<(Point, u32, u64)>,
    pub(crate) random: Random,
}

/// One life of a process.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) number: usize,
    pub(crate) gate: Arc<Gate>,
    pub(crate) clock: ProcessClock,
    pub(crate) trouble: Shared<Trouble>,
    pub(crate) oracle: Shared<Oracle>,
    pub(crate) mutant: Option<Mutant>,
    /// How long it is down once it is dead, in seconds.
    pub(crate) down: Shared<Option<u64>>,
}

impl std::fmt::Debug for Oracle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Oracle").finish_non_exhaustive()
    }
}

impl Life {
    /// Which scheduler it is; none for a user.
    fn caller(&self) -> Option<usize> {
        (self.number != USER).then_some(self.number)
    }

    pub(crate) fn is_worker(&self) -> bool {
        lock(&self.oracle).plan().is_worker(self.number)
    }

    /// Dies here, if it is to.
    async fn point(&self, point: Point) {
        self.point_now(point);
        self.gate.pass().await;
    }

    /// The same where nothing can be waited for.
    pub(crate) fn point_now(&self, point: Point) {
        let mut dies = None;
        for (at, left, down) in &mut lock(&self.trouble).crashes {
            if *at == point && *left > 0 {
                *left -= 1;
                if *left == 0 {
                    dies = Some(*down);
                }
            }
        }
        if let Some(down) = dies {
            self.die(down, name_of(point));
        }
    }

    pub(crate) fn die(&self, down: u64, why: &'static str) {
        if self.gate.is_dead() {
            return;
        }
        let mut oracle = lock(&self.oracle);
        oracle.line(&format!("p{} dies: {why}", self.number));
        oracle.seen(why);
        oracle.dies(self.number, &self.gate);
        drop(oracle);
        *lock(&self.down) = Some(down);
        self.gate.kill();
    }

    /// What the way to the store does; an error is that of the call.
    async fn on_the_way(&self) -> StoreResult<()> {
        self.gate.pass().await;
        if lock(&self.oracle).is_busy() {
            std::future::pending::<()>().await;
        }
        let (cut, slow, fails) = {
            let mut trouble = lock(&self.trouble);
            let now = Instant::now();
            let cut = trouble.cut.filter(|(until, _)| *until > now);
            let most = trouble.slow.filter(|(until, _)| *until > now).map_or(3, |(_, millis)| millis);
            let percent = trouble.errors.filter(|(until, _)| *until > now).map_or(0, |(_, percent)| percent);
            let slow = Duration::from_millis(trouble.random.below::<u64>(most + 1));
            (cut, slow, percent > 0 && trouble.random.chance(percent))
        };
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        match cut {
            Some((until, true)) => {
                lock(&self.oracle).seen("a call hangs");
                tokio::time::sleep_until(until).await;
                self.gate.pass().await;
                Err(unreachable())
            }
            Some(_) => {
                lock(&self.oracle).seen("a call fails");
                Err(unreachable())
            }
            None if fails => Err(unreachable()),
            None => {
                self.gate.pass().await;
                Ok(())
            }
        }
    }
}

fn name_of(point: Point) -> &'static str {
    match point {
        Point::BeforeCommit => "a crash before a commit",
        Point::AfterCommit => "a crash after a commit, before its effects",
        Point::InSubmit => "a crash during a submit",
        Point::AfterBeat => "a crash after a beat",
        Point::AfterCreate => "a crash after runs were made",
        Point::AfterClaim => "a crash after runs were claimed",
        Point::AfterRegister => "a crash at the start",
        Point::AfterReap => "a crash after a death was declared",
        Point::BeforeReport => "a crash before a report",
    }
}

fn unreachable() -> StoreError {
    StoreError::Unreachable { place: "simulated".into(), why: "it does not answer".into() }
}

/// The store as one process sees it.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) life: Life,
    pub(crate) store: SharedStore,
}

impl Way {
    /// After a call on processes: who is alive now.
    async fn look_at_lives(&self, call: &'static str) -> StoreResult<()> {
        let alive = self.store.incarnations().await?;
        let mut oracle = lock(&self.life.oracle);
        if alive.iter().any(|one| one.expired) {
            oracle.seen("a lease has run out");
        }
        oracle.lives_are(&alive, call, &self.life.gate);
        Ok(())
    }
}

impl Layer for Way {
    fn below(&self) -> &SharedStore {
        &self.store
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        call: &'static str,
        work: Boxed<'a, StoreResult<T>>,
    ) -> Boxed<'a, StoreResult<T>> {
        Box::pin(async move {
            if call == "add_reports" {
                self.life.point(Point::BeforeReport).await;
            }
            self.life.on_the_way().await?;
            if call == "incarnations" && self.life.mutant.is_some() {
                super::mutants::reap_wrongly(self).await?;
            }
            lock(&self.life.oracle).caller = self.life.caller();
            let answer = work.await;
            lock(&self.life.oracle).caller = None;
            if matches!(call, "register" | "beat" | "expire" | "end_incarnation") {
                self.look_at_lives(call).await?;
            }
            match call {
                "beat" => self.life.point(Point::AfterBeat).await,
                "register" => self.life.point(Point::AfterRegister).await,
                "claim_runs" => self.life.point(Point::AfterClaim).await,
                "expire" => self.life.point(Point::AfterReap).await,
                _ => {}
            }
            answer
        })
    }

    fn commit(&self, units: Vec<Unit>) -> Boxed<'_, StoreResult<Vec<UnitResult>>> {
        Box::pin(async move {
            self.life.point(Point::BeforeCommit).await;
            self.life.on_the_way().await?;
            let lost = lock(&self.life.trouble).lost.pop();
            let units = super::mutants::changed(self.life.mutant, units);
            if let Some(how @ (Unknown::NotWritten | Unknown::Late(_))) = lost {
                self.write_later(units, how);
                return Err(unreachable());
            }
            if self.life.mutant == Some(Mutant::SubmitBeforeCommit) {
                let all = vec![UnitResult::Committed; units.len()];
                self.write_later(units, Unknown::Late(5));
                return Ok(all);
            }
            let results = write(&self.store, &self.life.oracle, self.life.caller(), units).await?;
            if lost == Some(Unknown::Written) {
                lock(&self.life.oracle).seen("a commit without answer was written");
                if self.life.mutant == Some(Mutant::UnknownIsFailure) {
                    return Ok(vec![UnitResult::Stale; results.len()]);
                }
                return Err(unreachable());
            }
            self.life.point(Point::AfterCommit).await;
            Ok(results)
        })
    }

    fn create_runs(&self, runs: Vec<NewRun>) -> Boxed<'_, StoreResult<Vec<CreatedRun>>> {
        Box::pin(async move {
            self.life.on_the_way().await?;
            let runs = super::mutants::keyed(self.life.mutant, runs, self.life.clock.now());
            let created = self.store.create_runs(runs).await?;
            for run in &created {
                match run {
                    CreatedRun::New(row) => lock(&self.life.oracle).created(row),
                    CreatedRun::Taken => {}
                    CreatedRun::Exists(_) => lock(&self.life.oracle).seen("a run exists already"),
                }
            }
            self.life.point(Point::AfterCreate).await;
            Ok(created)
        })
    }
}

impl Way {
    fn write_later(&self, units: Vec<Unit>, how: Unknown) {
        let (store, oracle) = (Arc::clone(&self.store), Arc::clone(&self.life.oracle));
        let caller = self.life.caller();
        match how {
            Unknown::Late(millis) => {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    lock(&oracle).seen("a commit is written after its caller gave up");
                    let written = write(&store, &oracle, caller, units).await;
                    debug_assert!(written.is_ok(), "the store in memory does not fail");
                });
            }
            _ => lock(&self.life.oracle).seen("a commit without answer was not written"),
        }
    }
}

/// Writes, and compares what is taken of limits afterwards.
async fn write(
    store: &SharedStore,
    oracle: &Shared<Oracle>,
    caller: Option<usize>,
    units: Vec<Unit>,
) -> StoreResult<Vec<UnitResult>> {
    let runs: Vec<RunPk> = units.iter().map(|unit| unit.run).collect();
    lock(oracle).caller = caller;
    let results = store.commit(units).await?;
    let slots = store.slots().await?;
    let mut refused = Vec::new();
    for (run, _) in runs.iter().zip(&results).filter(|(_, result)| **result != UnitResult::Committed) {
        refused.push((*run, store.task_instances(*run).await?));
    }
    let mut oracle = lock(oracle);
    oracle.caller = None;
    for result in &results {
        match result {
            UnitResult::Committed => {}
            UnitResult::Stale => oracle.seen("a stale unit is refused"),
            UnitResult::Full(_) => oracle.seen("a full limit refuses a unit"),
        }
    }
    oracle.slots_are(&slots);
    refused.iter().for_each(|(run, stored)| oracle.is_unchanged(*run, stored));
    Ok(results)
}

/// The real executor, watched.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) life: Life,
    pub(crate) inner: LocalExecutor,
    /// Reports that are on their way to the scheduler.
    pub(crate) pending: Arc<AtomicUsize>,
}

/// Runs attempts and tells the oracle.
pub(crate) struct Runner {
    pub(crate) life: Life,
    pub(crate) inner: Arc<dyn AttemptRunner>,
}

/// Tells the oracle that code has ended, also if it is dropped.
struct Ended(Shared<Oracle>, AttemptId);

impl Drop for Ended {
    fn drop(&mut self) {
        lock(&self.0).ends(self.1);
    }
}

#[async_trait]
impl AttemptRunner for Runner {
    async fn run(&self, attempt: Attempt, cancel: Cancel) -> Report {
        self.life.gate.pass().await;
        let id = attempt.ti.attempt_id;
        let _ended = Ended(Arc::clone(&self.life.oracle), id);
        lock(&self.life.oracle).begins(&attempt, self.life.number, &self.life.gate);
        let is_worker = self.life.is_worker();
        if is_worker && self.life.mutant == Some(Mutant::WorkerIgnoresCancel) {
            return self.inner.run(attempt, Cancel::never()).await;
        }
        let report = self.inner.run(attempt, cancel.clone()).await;
        if is_worker && cancel.is_cancelled() && lock(&self.life.oracle).is_taken_away(id) {
            lock(&self.life.oracle).seen("a cancel reaches a worker");
        }
        report
    }

    fn note_end(&self, attempt: &Attempt, outcome: &Outcome) {
        self.inner.note_end(attempt, outcome);
    }

    fn ships_logs(&self) -> bool {
        self.inner.ships_logs()
    }
}

#[async_trait]
impl Executor for Watched {
    fn name(&self) -> &'static str {
        HERE
    }

    fn slots(&self) -> usize {
        self.inner.slots()
    }

    fn start(&self, services: ExecutorServices) {
        let (to, mut from) = mpsc::unbounded_channel::<Report>();
        let runner = Arc::new(Runner { life: self.life.clone(), inner: services.runner });
        let (life, reports) = (self.life.clone(), services.reports);
        let pending = Arc::clone(&self.pending);
        self.inner.start(ExecutorServices { runner, reports: to, ..services });
        tokio::spawn(async move {
            while let Some(report) = from.recv().await {
                life.point(Point::BeforeReport).await;
                let (late, double) = {
                    let mut trouble = lock(&life.trouble);
                    let now = Instant::now();
                    let most = trouble.late.filter(|(until, _)| *until > now).map_or(0, |(_, most)| most);
                    (trouble.random.below::<u64>(most + 1), trouble.double.is_some_and(|until| until > now))
                };
                if late > 0 {
                    lock(&life.oracle).seen("a report is late");
                    life.clock.sleep(Duration::from_millis(late)).await;
                }
                if double {
                    lock(&life.oracle).seen("a report comes twice");
                    let _ = reports.send(report.clone());
                }
                // A scheduler that has ended takes no reports.
                let _ = reports.send(report);
                pending.fetch_sub(1, Ordering::Relaxed);
            }
        });
    }

    fn submit(&self, mut attempt: Attempt) -> Result<(), SubmitError> {
        if self.life.gate.is_dead() {
            return Ok(());
        }
        if self.life.mutant == Some(Mutant::ReuseAttemptId) {
            attempt.ti.attempt_id = lock(&self.life.oracle).first_attempt(&attempt);
        }
        lock(&self.life.oracle).is_given(&attempt);
        self.inner.submit(attempt)?;
        let out = self.pending.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.life.oracle).are_out(self.life.number, out, self.slots());
        self.life.point_now(Point::InSubmit);
        Ok(())
    }

    fn cancel(&self, attempt: AttemptId) {
        if self.life.mutant != Some(Mutant::IgnoreCancel) {
            self.inner.cancel(attempt);
        }
    }

    async fn stop(&self, grace: Duration) {
        self.inner.stop(grace).await;
        while self.pending.load(Ordering::Relaxed) > 0 {
            self.life.clock.sleep(Duration::from_millis(10)).await;
        }
    }
}
