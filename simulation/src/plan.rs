//! What happens in one simulation: made from a seed, and plain data, so that it can be made smaller.

use super::random::Random;

/// How the code of a task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Success,
    Fail,
    Skip,
}

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Works for its seconds and ends as planned.
    Script,
    /// Waits until so many seconds after the end of the interval of its run, in true time.
    Sensor { mode: usize, ready: u64, timeout: u64, soft_fail: bool },
    /// Works for its seconds and chooses those of the tasks after it whose bits are set.
    Branch { chosen: u64 },
}

#[derive(Debug, Clone)]
pub(crate) struct TaskPlan {
    pub(crate) kind: Kind,
    /// Whether each of its successes is an event of the asset.
    pub(crate) makes: bool,
    pub(crate) upstream: Vec<usize>,
    pub(crate) rule: usize,
    pub(crate) retries: u32,
    pub(crate) seconds: u64,
    /// Of the first try, the second, and so on; the last one counts for all further ones.
    pub(crate) ends: Vec<End>,
    /// How many instances, if it is mapped.
    pub(crate) mapped: Option<usize>,
    pub(crate) pooled: bool,
    /// With several executors: whether the one in the process of the scheduler runs it.
    pub(crate) here: bool,
    /// Whether it is in the queue that not all workers take work from.
    pub(crate) apart: bool,
    pub(crate) looks_back: bool,
    /// How many instances may execute or be deferred over all runs.
    pub(crate) most: Option<u32>,
    /// The same in each run.
    pub(crate) most_of_run: Option<u32>,
}

#[derive(Debug, Clone)]
pub(crate) struct DagPlan {
    /// Whether it runs by the asset instead of a timetable.
    pub(crate) by_asset: bool,
    pub(crate) every: u64,
    pub(crate) max_active_runs: u32,
    pub(crate) max_active_tasks: u32,
    pub(crate) tasks: Vec<TaskPlan>,
}

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Scheduler,
    Worker {
        /// Whether it takes work from the second queue too.
        apart: bool,
        /// Whether it has the same name in each life; if not, a new one.
        keeps_name: bool,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct ProcessPlan {
    pub(crate) role: Role,
    pub(crate) slots: usize,
    /// By how much its clock is wrong at the start, in milliseconds.
    pub(crate) offset: i64,
    /// How much too fast its clocks run, in millionths.
    pub(crate) drift: i64,
}

/// How the broker is when all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BrokerPlan {
    /// How many attempts may be queued and running at once in each queue.
    pub(crate) parallelism: usize,
    /// The most milliseconds that a message is under way.
    pub(crate) delay: u64,
    /// After how many seconds others get what a consumer holds that does not move any more.
    pub(crate) idle: u64,
}

/// Where a process may die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Point {
    BeforeCommit,
    AfterCommit,
    InSubmit,
    AfterBeat,
    AfterCreate,
    AfterClaim,
    AfterRegister,
    AfterReap,
    BeforeReport,
}

pub(crate) const POINTS: [Point; 9] = [
    Point::BeforeCommit,
    Point::AfterCommit,
    Point::InSubmit,
    Point::AfterBeat,
    Point::AfterCreate,
    Point::AfterClaim,
    Point::AfterRegister,
    Point::AfterReap,
    Point::BeforeReport,
];

/// What becomes of a commit whose answer is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    Written,
    NotWritten,
    /// It is written after so many milliseconds, when its caller has long given up.
    Late(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Kill {
        process: usize,
        down: u64,
    },
    CrashAt {
        process: usize,
        point: Point,
        nth: u32,
        down: u64,
    },
    Stop {
        process: usize,
        down: u64,
    },
    Pause {
        process: usize,
        seconds: u64,
    },
    /// The store cannot be reached: calls fail, or hang until it can again.
    Cut {
        process: usize,
        seconds: u64,
        hang: bool,
    },
    Lost {
        process: usize,
        how: Unknown,
    },
    Errors {
        process: usize,
        seconds: u64,
        percent: u64,
    },
    Slow {
        process: usize,
        seconds: u64,
        millis: u64,
    },
    Jump {
        process: usize,
        seconds: i64,
    },
    /// The clock of the database is set.
    DatabaseJump {
        seconds: i64,
    },
    LateReports {
        process: usize,
        seconds: u64,
        millis: u64,
    },
    DoubleReports {
        process: usize,
        seconds: u64,
    },
    Wakes {
        process: usize,
    },
    Clear {
        dag: usize,
        nth: usize,
        task: Option<usize>,
    },
    Mark {
        dag: usize,
        nth: usize,
        task: usize,
        success: bool,
    },
    MarkRun {
        dag: usize,
        nth: usize,
        success: bool,
    },
    Trigger {
        dag: usize,
    },
    PauseDag {
        dag: usize,
        seconds: u64,
    },
    /// Somebody sets the result of a task.
    SetValue {
        dag: usize,
        nth: usize,
        task: usize,
    },
    /// Somebody says that the asset is new.
    AssetEvent,
    /// The broker cannot be reached: calls fail, or hang until they give up.
    BrokerAway {
        seconds: u64,
        hang: bool,
    },
    /// The broker forgets all messages.
    BrokerWipe,
    /// The broker loses, refuses and doubles so many of a hundred messages, and each may be late.
    BadBroker {
        seconds: u64,
        lost: u64,
        refused: u64,
        doubled: u64,
        millis: u64,
    },
    /// The broker cancels what this process consumes.
    ConsumerCut {
        process: usize,
        seconds: u64,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    /// Milliseconds after the start.
    pub(crate) at: u64,
    pub(crate) what: What,
}

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) minutes: u64,
    pub(crate) pool: i32,
    pub(crate) max_lost: u32,
    /// Whether tasks take the results of others.
    pub(crate) hands_on: bool,
    /// Whether schedulers run attempts themselves.
    pub(crate) local: bool,
    /// If there is one, workers run attempts; the last processes are workers.
    pub(crate) broker: Option<BrokerPlan>,
    pub(crate) processes: Vec<ProcessPlan>,
    pub(crate) dags: Vec<DagPlan>,
    pub(crate) events: Vec<Event>,
}

/// How many modes `Kind::Sensor` chooses from.
pub(crate) const MODES: usize = 3;

/// How many trigger rules `TaskPlan::rule` chooses from.
pub(crate) const RULES: usize = 6;

impl Plan {
    /// The plan of a seed: ten minutes with some faults.
    pub(crate) fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed, "plan");
        let processes = (0..random.between::<u64>(1, 3)).map(|_| process(&mut random)).collect::<Vec<_>>();
        let dags = (0..random.between::<u64>(1, 3)).map(|_| dag(&mut random)).collect::<Vec<_>>();
        let mut plan = Self {
            seed,
            minutes: 10,
            pool: random.between(1, 4),
            max_lost: if random.chance(25) { random.between(1, 3) } else { 1000 },
            hands_on: false,
            local: true,
            broker: None,
            processes,
            dags,
            events: Vec::new(),
        };
        let mut random = Random::new(seed, "faults");
        let count: u64 = random.between(0, 14);
        for _ in 0..count {
            let at = random.between(1_000, plan.minutes * 60_000);
            let what = fault(&mut random, &plan);
            plan.events.push(Event { at, what });
        }
        let mut random = Random::new(seed, "users");
        for _ in 0..random.between::<u64>(0, 8) {
            let at = random.between(1_000, plan.minutes * 60_000);
            let what = user(&mut random, &plan);
            plan.events.push(Event { at, what });
        }
        plan.has_kinds();
        plan.has_limits();
        plan.has_workers();
        plan.has_values();
        plan.events.sort_by_key(|event| event.at);
        plan.waits_for_no_failure();
        plan
    }

    /// Sensors, branches and assets: a stream of their own, so that the rest of a plan is what it was without them.
    fn has_kinds(&mut self) {
        let mut random = Random::new(self.seed, "kinds");
        let minutes = self.minutes;
        let with_assets = self.dags.len() > 1 && random.chance(40);
        if with_assets {
            self.dags.last_mut().expect("there are some").by_asset = true;
            for _ in 0..random.between::<u64>(1, 6) {
                let at = random.between(1_000, minutes * 60_000);
                self.events.push(Event { at, what: What::AssetEvent });
            }
        }
        let all = self.dags.iter_mut().flat_map(|dag| dag.tasks.iter_mut().map(|task| (dag.by_asset, task)));
        for (by_asset, task) in all {
            // A dag that made what it waits for would never come to an end.
            task.makes = random.chance(30) && with_assets && !by_asset;
            let kind = kind(&mut random);
            if task.mapped.is_none() {
                task.kind = kind;
            }
        }
    }

    /// Limits of tasks of their own: a stream of their own as well.
    fn has_limits(&mut self) {
        let mut random = Random::new(self.seed, "limits");
        for task in self.dags.iter_mut().flat_map(|dag| &mut dag.tasks) {
            task.most = random.chance(15).then(|| random.between(1, 3));
            let most_of_run = random.chance(40).then(|| random.between(1, 2));
            task.most_of_run = most_of_run.filter(|_| task.mapped.is_some());
        }
    }

    /// Results that are handed on, and users who set them: a stream of their own.
    fn has_values(&mut self) {
        let mut random = Random::new(self.seed, "values");
        self.hands_on = random.chance(40);
        for _ in 0..random.below::<u64>(if self.hands_on { 5 } else { 1 }) {
            let at = random.between(1_000, self.minutes * 60_000);
            let dag: usize = random.below(self.dags.len() as u64);
            let task = random.below(self.dags[dag].tasks.len() as u64);
            let what = What::SetValue { dag, nth: random.below(2), task };
            self.events.push(Event { at, what });
        }
    }

    /// A task that looks back waits for ever after a failure, as it should; so here only those do that cannot fail.
    fn waits_for_no_failure(&mut self) {
        let user = |what: &What| {
            matches!(
                what,
                What::Clear { .. } | What::Mark { .. } | What::MarkRun { .. } | What::Trigger { .. }
            )
        };
        let may_fail = self.max_lost < 1000 || self.events.iter().any(|event| user(&event.what));
        for task in self.dags.iter_mut().flat_map(|dag| &mut dag.tasks) {
            task.looks_back &= !may_fail && task.kind == Kind::Script;
            if task.looks_back {
                task.upstream.clear();
                task.ends = vec![End::Success];
            }
        }
        self.branches_lead_somewhere();
    }

    pub(crate) fn has_worker(&self) -> bool {
        self.broker.is_some()
    }

    pub(crate) fn is_worker(&self, process: usize) -> bool {
        self.processes.get(process).is_some_and(|process| process.role != Role::Scheduler)
    }

    /// A branch after which nothing comes is no branch.
    fn branches_lead_somewhere(&mut self) {
        for dag in &mut self.dags {
            for number in 0..dag.tasks.len() {
                let leads = dag.tasks.iter().any(|task| task.upstream.contains(&number));
                if !leads && matches!(dag.tasks[number].kind, Kind::Branch { .. }) {
                    dag.tasks[number].kind = Kind::Script;
                }
            }
        }
    }

    /// A day of a larger installation, with a fault now and then.
    pub(crate) fn long(seed: u64, hours: u64, schedulers: usize, workers: usize, dags: usize) -> Self {
        let mut random = Random::new(seed, "long");
        let processes = (0..schedulers).map(|_| process(&mut random)).collect::<Vec<_>>();
        let mut all = Vec::new();
        for _ in 0..dags {
            all.push(DagPlan { every: 30, max_active_runs: 4, max_active_tasks: 16, ..dag(&mut random) });
        }
        let minutes = hours * 60;
        let (events, broker) = (Vec::new(), None);
        let mut plan = Self {
            seed,
            minutes,
            pool: 8,
            max_lost: 1000,
            hands_on: true,
            local: true,
            broker,
            processes,
            dags: all,
            events,
        };
        for _ in 0..hours * 3 {
            let at = random.between(1_000, minutes * 60_000);
            let what = if random.chance(70) { fault(&mut random, &plan) } else { user(&mut random, &plan) };
            plan.events.push(Event { at, what });
        }
        plan.has_kinds();
        plan.has_limits();
        plan.add_workers(&mut Random::new(seed, "workers"), workers, hours * 2);
        plan.events.sort_by_key(|event| event.at);
        plan.waits_for_no_failure();
        plan
    }
}

fn kind(random: &mut Random) -> Kind {
    match random.below::<u64>(10) {
        0 | 1 => Kind::Sensor {
            mode: random.below(MODES as u64),
            ready: random.between(0, 90),
            timeout: random.between(20, 200),
            soft_fail: random.chance(50),
        },
        2 => Kind::Branch { chosen: random.below(64) },
        _ => Kind::Script,
    }
}

pub(crate) fn process(random: &mut Random) -> ProcessPlan {
    ProcessPlan {
        role: Role::Scheduler,
        slots: random.between(1, 6),
        offset: if random.chance(30) { random.signed(60_000) } else { random.signed(50) },
        drift: random.signed(20_000),
    }
}

fn dag(random: &mut Random) -> DagPlan {
    let count: usize = random.between(1, 6);
    DagPlan {
        by_asset: false,
        every: random.between(1, 5),
        max_active_runs: random.between(1, 4),
        max_active_tasks: random.between(1, 8),
        tasks: (0..count).map(|number| task(random, number)).collect(),
    }
}

fn task(random: &mut Random, number: usize) -> TaskPlan {
    let mut upstream = Vec::new();
    for other in 0..number {
        if random.chance(40) {
            upstream.push(other);
        }
    }
    let ends = (0..random.between::<u64>(1, 3)).map(|_| match random.below::<u64>(10) {
        0 | 1 => End::Fail,
        2 => End::Skip,
        _ => End::Success,
    });
    TaskPlan {
        kind: Kind::Script,
        makes: false,
        upstream,
        ends: ends.collect(),
        rule: if random.chance(60) { 0 } else { random.below(RULES as u64) },
        retries: random.between(0, 2),
        seconds: if random.chance(20) { random.between(20, 70) } else { random.between(0, 8) },
        mapped: random.chance(15).then(|| random.between(1, 4)),
        pooled: random.chance(30),
        here: false,
        apart: false,
        looks_back: random.chance(15),
        most: None,
        most_of_run: None,
    }
}

fn fault(random: &mut Random, plan: &Plan) -> What {
    let process: usize = random.below(plan.processes.len() as u64);
    let seconds = random.between(1, 60);
    let down = random.between(0, 40);
    let millis = random.between(10, 4_000);
    match random.below::<u64>(16) {
        0 | 1 => What::Kill { process, down },
        2..=4 => {
            let point = POINTS[random.below::<usize>(POINTS.len() as u64)];
            What::CrashAt { process, point, nth: random.between(1, 6), down }
        }
        5 => What::Stop { process, down },
        6 | 7 => What::Pause { process, seconds },
        8 | 9 => What::Cut { process, seconds, hang: random.chance(50) },
        10 => {
            let how = match random.below::<u64>(3) {
                0 => Unknown::Written,
                1 => Unknown::NotWritten,
                _ => Unknown::Late(random.between(100, 20_000)),
            };
            What::Lost { process, how }
        }
        11 => What::Errors { process, seconds, percent: random.between(5, 60) },
        12 => What::Slow { process, seconds, millis },
        13 => What::Jump { process, seconds: random.signed(900) },
        14 if random.chance(50) => What::DatabaseJump { seconds: random.signed(3_600) },
        14 => What::LateReports { process, seconds, millis },
        _ if random.chance(50) => What::DoubleReports { process, seconds },
        _ => What::Wakes { process },
    }
}

fn user(random: &mut Random, plan: &Plan) -> What {
    let dag: usize = random.below(plan.dags.len() as u64);
    let nth: usize = random.below(6);
    let task: usize = random.below(plan.dags[dag].tasks.len() as u64);
    match random.below::<u64>(8) {
        0 | 1 => What::Clear { dag, nth, task: random.chance(60).then_some(task) },
        2 | 3 => What::Mark { dag, nth, task, success: random.chance(50) },
        4 => What::MarkRun { dag, nth, success: random.chance(50) },
        5 | 6 => What::Trigger { dag },
        _ => What::PauseDag { dag, seconds: random.between(1, 60) },
    }
}
