//! What all tests stand on: a database of a test's own, what is asked of it, and how a test ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use airflow_core::app::{Airflow, Severity};
use airflow_core::id::DagId;
use airflow_core::state::RunState;
use airflow_core::store::RunFilter;
use airflow_core::testing::servers::{OwnServer, Server, TestDatabase};
use airflow_executors::remote::testing::{BrokerServer, PrivateServer};
use serde_json::{Value, json};

use crate::app::{Setup, WORKER};
use crate::fleet::Fleet;
use crate::ledger::{self, Bodies};
use crate::oracle::{self, Strikes};
use crate::workload::{LOAD, OLD, POINTS, Plan, WIDE};

pub(crate) type Error = Box<dyn std::error::Error>;

/// What the command line says.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub store: Option<String>,
    /// What workers hear of their work through; without, schedulers run it themselves.
    pub broker: Option<BrokerServer>,
    pub seed: u64,
    /// Runs of the load; 0 for what the test says.
    pub runs: usize,
    /// Fewer faults than in the whole suite.
    pub is_quick: bool,
    pub names: Vec<String>,
}

impl Options {
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }

    pub(crate) fn server(&self) -> Option<Server> {
        match self.store.as_deref() {
            Some("postgres") => Some(Server::Postgres),
            Some("mysql") => Some(Server::Mysql),
            _ => None,
        }
    }

    /// The broker, for people.
    pub(crate) fn broker_name(&self) -> &'static str {
        match self.broker {
            None => "none",
            Some(BrokerServer::Redis) => "redis",
            Some(BrokerServer::Rabbitmq) => "rabbitmq",
        }
    }

    /// How many runs of the load there are, in the whole suite and in the quick one.
    pub(crate) fn runs(&self, usual: usize, quick: usize) -> usize {
        match self.runs {
            0 => self.pick(usual, quick),
            runs => runs,
        }
    }

    /// The first number, or the second one if it should be quick.
    pub(crate) fn pick<T>(&self, usual: T, quick: T) -> T {
        if self.is_quick { quick } else { usual }
    }
}

/// How often the database is looked at for the end.
const LOOK: Duration = Duration::from_millis(100);

/// After this long in which no body starts or ends a test has failed.
const LIMIT: Duration = Duration::from_secs(240);

/// Attempts at once of one process.
const SLOTS: usize = 12;

/// How many workers there are if there is a broker.
pub(crate) const WORKERS: usize = 2;

/// How brokers are set up, beside what a test asks for: they keep what they can over a restart.
const REDIS: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "everysec"];

/// A database, the plan, and one who asks.
pub(crate) struct Stand {
    pub folder: tempfile::TempDir,
    /// A database on a server that others use too, gone with this.
    pub database: Option<TestDatabase>,
    /// The broker that only this test uses.
    pub broker: Option<Arc<Mutex<PrivateServer>>>,
    pub setup: Setup,
    pub asks: Airflow,
    pub began: Instant,
}

/// What a test says of itself at its end.
pub(crate) struct Verdict {
    pub name: &'static str,
    /// What its nemesis did, and figures of its own.
    pub nemesis: Value,
    /// Whether the faults happened and hit somebody.
    pub hit: bool,
    /// What went wrong beside what everybody looks for.
    pub wrong: Vec<String>,
    /// Users changed things: what must come of it is not known beforehand.
    pub is_changed: bool,
}

impl Verdict {
    pub(crate) fn new(name: &'static str, nemesis: Value, hit: bool, wrong: Vec<String>) -> Self {
        Self { name, nemesis, hit, wrong, is_changed: false }
    }
}

impl Stand {
    /// On a database of its own, on the usual server.
    pub(crate) async fn new(options: &Options, points: i64) -> Result<Self, Error> {
        let database = match options.server() {
            Some(server) => Some(TestDatabase::on(server).await.ok_or("there is no such server")?),
            None => None,
        };
        let address = database.as_ref().map(TestDatabase::url);
        Self::at(options, points, address, database, &[]).await
    }

    /// The same, with a broker that is set up in another way.
    pub(crate) async fn with_broker(options: &Options, settings: &[&str]) -> Result<Self, Error> {
        let server = options.server().ok_or("tests of brokers want a database server")?;
        let database = TestDatabase::on(server).await.ok_or("there is no such server")?;
        Self::at(options, 0, Some(database.url()), Some(database), settings).await
    }

    /// On a server of its own, with nothing in its database yet.
    pub(crate) async fn on(options: &Options, server: &OwnServer) -> Result<Self, Error> {
        Self::at(options, 0, Some(server.database().await), None, &[]).await
    }

    async fn at(
        options: &Options,
        points: i64,
        address: Option<String>,
        database: Option<TestDatabase>,
        settings: &[&str],
    ) -> Result<Self, Error> {
        let broker = match options.broker {
            Some(kind) => Some(Arc::new(Mutex::new(start_broker(kind, settings).await?))),
            None => None,
        };
        let folder = tempfile::tempdir()?;
        let file = || format!("sqlite://{}", folder.path().join("airflow.db").display());
        let setup = Setup {
            store: address.unwrap_or_else(file),
            ledger: folder.path().join("ledger"),
            plan: Plan { seed: options.seed },
            slots: SLOTS,
            points,
            version: OLD,
            broker: broker.as_ref().map(|broker| lock(broker).url()),
        };
        let asks = setup.build(0).await?;
        Ok(Self { folder, database, broker, setup, asks, began: Instant::now() })
    }

    /// Starts so many schedulers over the database, and workers if there is a broker.
    pub(crate) fn fleet(&self, schedulers: usize) -> Result<Fleet, Error> {
        self.fleet_with(schedulers, &[])
    }

    /// The same, with variables of the environment of all of them.
    pub(crate) fn fleet_with(&self, schedulers: usize, variables: &[(&str, String)]) -> Result<Fleet, Error> {
        let mut members = vec![Vec::new(); schedulers];
        if self.setup.broker.is_some() {
            members.extend((0..WORKERS).map(|number| vec![(WORKER.to_owned(), format!("w{number}"))]));
        }
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        members.iter_mut().for_each(|member| member.extend(variables.clone()));
        Fleet::start_in(&self.setup, members, self.folder.path())
    }

    fn broker_name(&self) -> &'static str {
        match self.setup.broker.as_deref() {
            None => "none",
            Some(url) if url.starts_with("amqp") => "rabbitmq",
            Some(_) => "redis",
        }
    }

    /// The host and port of the broker.
    pub(crate) fn broker_host(&self) -> Result<String, Error> {
        Ok(lock(self.broker.as_ref().ok_or("there is no broker")?).host())
    }

    /// Does something to the broker that may take a while.
    pub(crate) async fn strike_broker(
        &self,
        what: impl FnOnce(&mut PrivateServer) + Send + 'static,
    ) -> Result<(), Error> {
        let broker = Arc::clone(self.broker.as_ref().ok_or("there is no broker")?);
        Ok(tokio::task::spawn_blocking(move || what(&mut lock(&broker))).await?)
    }

    /// Asks for runs.
    pub(crate) async fn trigger(
        &self,
        dag: &str,
        numbers: impl IntoIterator<Item = usize>,
    ) -> Result<(), Error> {
        for number in numbers {
            self.asks.trigger(dag).run_id(format!("r{number}")).await?;
        }
        Ok(())
    }

    /// What bodies have done so far.
    pub(crate) fn bodies(&self) -> Result<Bodies, Error> {
        Ok(ledger::read(&self.setup.ledger)?)
    }

    /// How many bodies are running in each process now.
    pub(crate) fn open_bodies(&self) -> Result<BTreeMap<u32, usize>, Error> {
        let mut open = BTreeMap::new();
        for body in self.bodies()?.values().flatten().filter(|body| body.ended.is_none()) {
            *open.entry(body.pid).or_insert(0) += 1;
        }
        Ok(open)
    }

    /// Returns when bodies run, in this process or in any, or when it is no use to wait any longer. Says how many.
    pub(crate) async fn wait_for_bodies(&self, pid: Option<u32>, within: Duration) -> Result<usize, Error> {
        let until = Instant::now() + within;
        loop {
            let open = self.open_bodies()?;
            let count = pid.map_or(open.values().sum(), |pid| open.get(&pid).copied().unwrap_or(0));
            if count > 0 || Instant::now() > until {
                return Ok(count);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns the moment at which a body starts after this one, if one does in time.
    pub(crate) async fn next_start(&self, after: u64, within: Duration) -> Result<Option<u64>, Error> {
        let until = Instant::now() + within;
        while Instant::now() < until {
            let starts = self.bodies()?.into_values().flatten().map(|body| body.started);
            if let Some(first) = starts.filter(|at| *at > after).min() {
                return Ok(Some(first));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(None)
    }

    /// How many runs have ended.
    pub(crate) async fn ended(&self) -> Result<usize, Error> {
        let filter = RunFilter { states: vec![RunState::Success, RunState::Failed], ..RunFilter::default() };
        Ok(self.asks.store().runs(&filter).await?.len())
    }

    /// Returns once so many runs have ended. Processes that end by themselves are started again.
    pub(crate) async fn wait(&self, fleet: &mut Fleet, runs: usize) -> Result<(), Error> {
        let (mut until, mut written) = (Instant::now() + LIMIT, 0);
        while self.ended().await? < runs {
            let ledger = std::fs::metadata(&self.setup.ledger).map_or(0, |file| file.len());
            if ledger > written {
                (until, written) = (Instant::now() + LIMIT, ledger);
            }
            if Instant::now() > until {
                return Err(format!("nothing moved for {LIMIT:?}; {}", self.standing().await?).into());
            }
            fleet.revive()?;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Where it stands, for a test that does not end.
    pub(crate) async fn standing(&self) -> Result<String, Error> {
        let mut counts = BTreeMap::new();
        for run in self.asks.store().runs(&RunFilter::default()).await? {
            *counts.entry(format!("{} {}", run.dag_id, run.state)).or_insert(0) += 1;
            if !run.state.is_finished() {
                for ti in self.asks.store().task_instances(run.pk).await? {
                    let kind = ti.task_id.as_str().trim_end_matches(|c: char| c.is_ascii_digit());
                    *counts.entry(format!("{kind} {}", ti.state)).or_insert(0) += 1;
                }
            }
        }
        Ok(format!("{counts:?}"))
    }

    /// How many attempts each process started, of runs of the load, of the schedule and of the wide dag, and how many runs
    /// that were.
    pub(crate) async fn shares(&self) -> Result<Vec<[usize; 4]>, Error> {
        let mut counts = BTreeMap::new();
        for (place, dag) in [LOAD, POINTS, WIDE].into_iter().enumerate() {
            let filter = RunFilter { dag_id: Some(DagId::from(dag)), ..RunFilter::default() };
            for run in self.asks.store().runs(&filter).await? {
                let mut of = BTreeSet::new();
                for attempt in self.asks.store().attempts(run.pk, None).await? {
                    counts.entry(attempt.start.incarnation).or_insert([0; 4])[place] += 1;
                    of.insert(attempt.start.incarnation);
                }
                of.into_iter().for_each(|process| counts.entry(process).or_insert([0; 4])[3] += 1);
            }
        }
        Ok(counts.into_values().collect())
    }

    /// Bodies that ended in a process after it had stood still, and whose end counted for nothing.
    pub(crate) async fn refused_ends(&self, strikes: &Strikes) -> Result<usize, Error> {
        let mut late = BTreeSet::new();
        for body in self.bodies()?.values().flatten() {
            let woke = |(pid, from, until): &(u32, u64, u64)| {
                *pid == body.pid && body.started < *from && body.ended.is_some_and(|end| end > *until)
            };
            if strikes.freezes.iter().any(woke) {
                late.insert(body.attempt.clone());
            }
        }
        let mut refused = 0;
        for run in self.asks.store().runs(&RunFilter::default()).await? {
            let attempts = self.asks.store().attempts(run.pk, None).await?;
            let lost = attempts.iter().filter(|attempt| attempt.state.to_string() == "lost");
            refused += lost.filter(|attempt| late.contains(&attempt.start.attempt_id.to_string())).count();
        }
        Ok(refused)
    }

    /// What the doctor finds wrong. Clocks are set on purpose.
    async fn diagnosis(&self) -> Result<Vec<String>, Error> {
        let findings = self.asks.doctor().await?.findings.into_iter();
        let wrong = findings.filter(|one| one.severity == Severity::Error && one.check != "clock");
        Ok(wrong.map(|one| format!("{}: {}: {}", one.check, one.place, one.found)).collect())
    }

    /// Stops the processes, looks at everything, and makes the line of the test.
    pub(crate) async fn close(self, mut fleet: Fleet, verdict: Verdict) -> Result<(Value, bool), Error> {
        let took = self.began.elapsed();
        let strikes = fleet.stop().await?;
        let panics = fleet.said(&["panicked at"])?;
        let bodies = self.bodies()?;
        let plan = (!verdict.is_changed).then_some(self.setup.plan);
        let found = oracle::look(self.asks.store(), &bodies, &strikes, plan).await?;
        let (p50, p99, max) = recovery(&bodies, &strikes);
        let sick = self.diagnosis().await?;
        let words = [&verdict.wrong, &panics, &sick];
        let ok = found.is_clean() && verdict.hit && words.iter().all(|words| words.is_empty());
        let mut result = json!({
            "test": verdict.name, "store": self.asks.store().kind(), "broker": self.broker_name(), "seed": self.setup.plan.seed, "ok": ok,
            "nemesis": verdict.nemesis, "nemesis_hit": verdict.hit, "processes": fleet.len(),
            "bodies": bodies.values().map(Vec::len).sum::<usize>(), "seconds": took.as_secs_f64(),
            "recovery_ms": { "p50": p50, "p99": p99, "max": max }, "panics": panics, "wrong": verdict.wrong, "doctor": sick,
        });
        if let (Value::Object(all), Value::Object(more)) = (&mut result, found.to_json()) {
            all.extend(more);
        }
        if !ok && let Some(place) = std::env::var_os("AIRFLOW_FAULTS_KEEP") {
            // For whoever wants to see what happened.
            std::fs::rename(self.folder.path(), place)?;
        }
        Ok((result, ok))
    }
}

/// Starts a broker of a test's own.
async fn start_broker(kind: BrokerServer, settings: &[&str]) -> Result<PrivateServer, Error> {
    let mut all: Vec<String> = match kind {
        BrokerServer::Redis => REDIS.map(str::to_owned).to_vec(),
        BrokerServer::Rabbitmq => Vec::new(),
    };
    all.extend(settings.iter().map(|setting| (*setting).to_owned()));
    let start = move || PrivateServer::start(kind, &all.iter().map(String::as_str).collect::<Vec<_>>());
    let server = tokio::task::spawn_blocking(start).await?;
    Ok(server.ok_or(format!("the program of {kind:?} is not installed"))?)
}

fn lock(broker: &Mutex<PrivateServer>) -> MutexGuard<'_, PrivateServer> {
    broker.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From each kill, freeze or outage to the start of the next body of each instance that was cut by it, in milliseconds:
/// median, 99 of 100, longest.
pub(crate) fn recovery(bodies: &Bodies, strikes: &Strikes) -> (u64, u64, u64) {
    let kills = strikes.kills.iter().map(|(pid, at)| (*pid, *at));
    let freezes = strikes.freezes.iter().map(|(pid, from, _)| (*pid, *from));
    let mut waits: Vec<u64> = Vec::new();
    for (pid, at) in kills.chain(freezes) {
        for list in bodies.values() {
            let cut = list.iter().position(|body| {
                body.pid == pid && body.started < at && body.ended.is_none_or(|ended| ended > at)
            });
            let next = cut.and_then(|index| list.get(index + 1));
            waits.extend(next.map(|body| body.started.saturating_sub(at) / 1_000_000));
        }
    }
    spread(waits)
}

/// How many bodies there were beyond those that the plan asks for.
pub(crate) fn beyond_the_plan(bodies: &Bodies, plan: Plan) -> usize {
    let planned = |ti: &str| {
        let (run, task, map) = oracle::parts_of(ti);
        crate::workload::planned_bodies(plan, run, task, map)
    };
    bodies.iter().map(|(ti, list)| list.len().saturating_sub(planned(ti))).sum()
}

/// The median of some numbers, what 99 of 100 are not above, and the largest.
pub(crate) fn spread(mut numbers: Vec<u64>) -> (u64, u64, u64) {
    numbers.sort_unstable();
    let last = numbers.last().copied().unwrap_or(0);
    let of = |hundredth: usize| numbers.get(numbers.len() * hundredth / 100).copied().unwrap_or(last);
    (of(50), of(99), last)
}

/// Numbers from a seed, by the method `SplitMix64`.
#[derive(Debug)]
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % most.max(1)
    }
}
