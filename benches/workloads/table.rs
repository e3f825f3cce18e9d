//! All workloads that have a target, measured and written as a table.
//!
//! Where the target is a ratio, it is one to what the same process measured just before: single-row commits through the
//! same driver, and a confirmed message. So the figures of two machines, or of two hours of one, can be compared.

use crate::args::{Args, ExecutorKind, Sync, Workload};
use crate::measure::Measured;
use crate::repeat;

/// What a row is held to.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// The median hop in single-row commits, at most.
    HopInCommits(f64),
    /// The median hop compared with so many commits, so many confirmed messages and half a millisecond, at most 1.
    HopOfParts { commits: f64, confirms: f64 },
    /// Tasks in a second, at least.
    TasksPerSecond(f64),
    /// The time of a task compared with that of one of a run of a thousand, at most.
    TaskOfSmall(f64),
    /// MB at the peak, at most.
    Memory(f64),
    /// CPU seconds a minute, at most.
    CpuPerMinute(f64),
    /// Milliseconds from begin to end, at most.
    Milliseconds(f64),
    /// Tasks in a second as a share of the processes that the machine starts in one, at least.
    OfSpawns(f64),
}

impl Goal {
    /// The number that is compared, of one repetition; `small` is the run of a thousand.
    fn value(self, of: &Measured, small: Option<&Measured>) -> f64 {
        let commit = of.limits.map_or(f64::NAN, |limits| limits.commit_us);
        let hop = of.hop_p50_us.unwrap_or(f64::NAN);
        match self {
            Self::HopInCommits(_) => hop / commit,
            Self::HopOfParts { commits, confirms } => {
                let confirm = of.broker.map_or(f64::NAN, |broker| broker.confirm_us);
                hop / (commits * commit + confirms * confirm + 500.0)
            }
            Self::TasksPerSecond(_) => of.tasks_per_s,
            Self::TaskOfSmall(_) => small.map_or(f64::NAN, |small| small.tasks_per_s / of.tasks_per_s),
            Self::Memory(_) => of.peak_rss_mb,
            Self::CpuPerMinute(_) => of.cpu_s * 60.0 / of.wall_s,
            Self::Milliseconds(_) => of.wall_s * 1e3,
            Self::OfSpawns(_) => of.tasks_per_s / of.spawns_per_s.unwrap_or(f64::NAN),
        }
    }

    fn limit(self) -> f64 {
        match self {
            Self::HopInCommits(limit)
            | Self::TasksPerSecond(limit)
            | Self::TaskOfSmall(limit)
            | Self::Memory(limit)
            | Self::CpuPerMinute(limit)
            | Self::Milliseconds(limit)
            | Self::OfSpawns(limit) => limit,
            Self::HopOfParts { .. } => 1.0,
        }
    }

    /// Whether a value is as wanted, and if not, by how much it is missed.
    fn verdict(self, value: f64) -> String {
        let missed = match self {
            Self::TasksPerSecond(limit) | Self::OfSpawns(limit) => limit / value,
            _ => value / self.limit(),
        };
        if missed <= 1.0 { "yes".into() } else { format!("**no**, by {:.0} %", (missed - 1.0) * 100.0) }
    }

    fn words(self) -> String {
        match self {
            Self::HopInCommits(limit) => format!("hop ≤ {limit} commits"),
            Self::HopOfParts { commits, confirms } if confirms > 0.0 => {
                format!("hop ≤ {commits} commits + {confirms} confirm + 0.5 ms (= 1)")
            }
            Self::HopOfParts { commits, .. } => format!("hop ≤ {commits} commits + 0.5 ms (= 1)"),
            Self::TasksPerSecond(limit) => format!("≥ {limit:.0} tasks/s"),
            Self::TaskOfSmall(limit) => format!("a task ≤ {limit} × that of 1,000"),
            Self::Memory(limit) => format!("≤ {limit:.0} MB"),
            Self::CpuPerMinute(limit) => format!("≤ {limit} CPU s a minute"),
            Self::Milliseconds(limit) => format!("≤ {limit:.0} ms"),
            Self::OfSpawns(limit) => format!("≥ {limit} × processes/s"),
        }
    }
}

/// Where a row is measured.
#[derive(Debug, Clone, Copy)]
enum On {
    Normal,
    Full,
    Processes,
    Postgres,
    Redis,
    Rabbitmq,
}

/// Workload, size, place, workers, goals.
type Row = (Workload, usize, On, usize, &'static [Goal]);

const ROWS: &[Row] = {
    use Goal::{
        CpuPerMinute, HopInCommits, HopOfParts, Memory, Milliseconds, OfSpawns, TaskOfSmall, TasksPerSecond,
    };
    use On::{Full, Normal, Postgres, Processes, Rabbitmq, Redis};
    use Workload::{
        Backfill, Big, Chain, ColdStart, Diamonds, Fanout, ManyDefinitions, Mapped, OneDefinition, WideIdle,
    };
    &[
        (Chain, 1_000, Normal, 0, &[HopInCommits(1.8)]),
        (Chain, 1_000, Full, 0, &[HopInCommits(1.5)]),
        (Fanout, 10_000, Full, 0, &[TasksPerSecond(25_000.0)]),
        (Diamonds, 2_000, Full, 0, &[TasksPerSecond(18_000.0)]),
        (Chain, 1_000, Postgres, 0, &[HopInCommits(1.6)]),
        (Fanout, 10_000, Postgres, 0, &[TasksPerSecond(10_000.0)]),
        (Diamonds, 2_000, Postgres, 0, &[TasksPerSecond(8_000.0)]),
        (Chain, 200, Redis, 1, &[HopOfParts { commits: 3.0, confirms: 0.0 }]),
        (Chain, 200, Rabbitmq, 1, &[HopOfParts { commits: 3.0, confirms: 1.0 }]),
        (Fanout, 10_000, Redis, 2, &[TasksPerSecond(5_000.0)]),
        (Fanout, 10_000, Rabbitmq, 2, &[TasksPerSecond(3_000.0)]),
        (Big, 100_000, Normal, 0, &[TaskOfSmall(1.5), Memory(250.0)]),
        (Mapped, 10_000, Normal, 0, &[TasksPerSecond(20_000.0)]),
        (Backfill, 1_000, Normal, 0, &[TasksPerSecond(15_000.0)]),
        (Fanout, 1_000, Processes, 0, &[OfSpawns(0.6)]),
        (WideIdle, 1_000, Normal, 0, &[CpuPerMinute(0.05), Memory(30.0)]),
        (WideIdle, 10_000, Normal, 0, &[CpuPerMinute(0.2), Memory(120.0)]),
        (OneDefinition, 100_000, Normal, 0, &[Milliseconds(250.0)]),
        (ManyDefinitions, 1_000, Normal, 0, &[Milliseconds(250.0)]),
        (ColdStart, 1, Normal, 0, &[Milliseconds(50.0)]),
        (ColdStart, 1, Postgres, 0, &[Milliseconds(150.0)]),
    ]
};

/// The slots of rows whose tasks are ready many at once, on the local executor: what is measured is the engine.
const MANY_SLOTS: usize = 256;

/// Where PostgreSQL is, unless `--store` says it.
const POSTGRES: &str = "postgres://postgres@127.0.0.1:5432/postgres";

fn args_of(base: &Args, row: &Row) -> Args {
    let (workload, size, on, workers, _) = *row;
    let mut args = base.clone();
    (args.table, args.workload, args.tasks, args.workers) = (false, workload, Some(size), workers);
    let server = if base.store.starts_with("postgres") { base.store.clone() } else { POSTGRES.to_owned() };
    (args.sync, args.executor) = (Sync::Normal, ExecutorKind::Local);
    let are_many =
        matches!(workload, Workload::Fanout | Workload::Mapped | Workload::Backfill | Workload::Big);
    if are_many && matches!(on, On::Normal | On::Full | On::Postgres) {
        args.slots = MANY_SLOTS;
    }
    match on {
        On::Normal => {}
        On::Processes => args.executor = ExecutorKind::Process,
        On::Full => args.sync = Sync::Full,
        On::Postgres => args.store = server,
        On::Redis => (args.store, args.executor) = (server, ExecutorKind::Redis),
        On::Rabbitmq => (args.store, args.executor) = (server, ExecutorKind::Rabbitmq),
    }
    if matches!(on, On::Normal | On::Full | On::Processes) && base.store.starts_with("postgres") {
        "sqlite".clone_into(&mut args.store);
    }
    args
}

/// The median, the smallest and the largest.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

fn shown(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// Measures everything and prints it.
pub(crate) fn print(base: &Args) {
    println!(
        "| workload | store, executor | target | median | min | max | hop p50 (µs) | commit alone (µs) | a task in commits | met |"
    );
    println!("|---|---|---|--:|--:|--:|--:|--:|--:|---|");
    for row in ROWS {
        let args = args_of(base, row);
        let name = format!("{:?} {} {:?}", row.0, row.1, row.2).to_lowercase();
        if !name.contains(&base.only.to_lowercase()) {
            continue;
        }
        let all: Vec<Measured> = repeat(&args).collect();
        let small: Option<Vec<Measured>> =
            (row.0 == Workload::Big).then(|| repeat(&Args { tasks: Some(1_000), ..args.clone() }).collect());
        for goal in row.4 {
            println!("{}", line(row, *goal, &all, small.as_deref()));
        }
    }
}

fn line(row: &Row, goal: Goal, all: &[Measured], small: Option<&[Measured]>) -> String {
    let of = |at: usize| goal.value(&all[at], small.and_then(|small| small.get(at)));
    let (median, min, max) = spread((0..all.len()).map(of).collect());
    let middle = |of: fn(&Measured) -> Option<f64>| {
        let values: Vec<f64> = all.iter().filter_map(of).collect();
        if values.is_empty() { String::new() } else { shown(spread(values).0) }
    };
    let first = &all[0];
    let place = if first.workers > 0 {
        format!("{}, {:?}, {} × {} slots", first.store, first.executor, first.workers, first.slots)
    } else {
        let executor = if first.executor == ExecutorKind::Process { "a process each" } else { "local" };
        format!("{}, {executor}, {} slots", first.store, first.slots)
    };
    let place = if matches!(row.0, Workload::OneDefinition | Workload::ManyDefinitions) {
        "–".into()
    } else {
        place
    };
    format!(
        "| {} {} | {place} | {} | {} | {} | {} | {} | {} | {} | {} |",
        serde_json::to_value(row.0)
            .ok()
            .and_then(|name| name.as_str().map(str::to_owned))
            .unwrap_or_default(),
        row.1,
        goal.words(),
        shown(median),
        shown(min),
        shown(max),
        middle(|measured| measured.hop_p50_us),
        middle(|measured| measured.limits.map(|limits| limits.commit_us)),
        middle(|measured| measured.commits_per_hop),
        goal.verdict(median),
    )
}
