//! Workers and a broker in a plan, and what goes wrong with them.

use std::time::Duration;

use super::plan::{BrokerPlan, Event, Plan, Point, ProcessPlan, Role, Unknown, What, process};
use super::random::Random;

/// Where workers die: the other points are those of schedulers.
const POINTS: [Point; 5] =
    [Point::BeforeCommit, Point::AfterCommit, Point::AfterBeat, Point::AfterRegister, Point::BeforeReport];

impl Plan {
    /// Workers for some seeds: a stream of their own, so that the others are what they were without them.
    pub(crate) fn has_workers(&mut self) {
        let mut random = Random::new(self.seed, "workers");
        let kind: u64 = random.below(10);
        if kind < 4 {
            return;
        }
        let (workers, faults) = (random.between(1, 4), random.between(0, 10));
        self.add_workers(&mut random, workers, faults);
        // Else both: the queue of the workers and the slots of the schedulers.
        if kind < 8 {
            self.local = false;
            let tasks = self.dags.iter_mut().flat_map(|dag| &mut dag.tasks);
            tasks.for_each(|task| task.here = false);
        }
    }

    /// So many workers, behind a broker, and so many faults of theirs.
    pub(crate) fn add_workers(&mut self, random: &mut Random, workers: usize, faults: u64) {
        let parallelism = if random.chance(30) { random.between(1, 4) } else { 64 };
        self.broker =
            Some(BrokerPlan { parallelism, delay: random.between(0, 40), idle: random.between(0, 40) });
        let first = self.processes.len();
        for number in 0..workers {
            // The first one takes all, so that each queue is served however small the plan is made.
            let role =
                Role::Worker { apart: number == 0 || random.chance(50), keeps_name: random.chance(30) };
            self.processes.push(ProcessPlan { role, ..process(random) });
        }
        for task in self.dags.iter_mut().flat_map(|dag| &mut dag.tasks) {
            (task.here, task.apart) = (random.chance(30), random.chance(25));
        }
        for _ in 0..faults {
            let at = random.between(1_000, self.minutes * 60_000);
            let what = if random.chance(60) {
                let process = first + random.below::<usize>(workers as u64);
                of_worker(random, process)
            } else {
                of_broker(random)
            };
            self.events.push(Event { at, what });
        }
    }

    /// The same without its broker and the workers behind it.
    pub(crate) fn without_workers(&self) -> Self {
        let mut plan = self.clone();
        plan.processes.retain(|process| process.role == Role::Scheduler);
        (plan.local, plan.broker) = (true, None);
        for task in plan.dags.iter_mut().flat_map(|dag| &mut dag.tasks) {
            (task.here, task.apart) = (false, false);
        }
        plan.events.retain(|event| !event.what.is_of_broker());
        plan
    }
}

impl Plan {
    /// The same without executors in schedulers.
    pub(crate) fn only_workers(&self) -> Self {
        let mut plan = self.clone();
        plan.local = false;
        plan.dags.iter_mut().flat_map(|dag| &mut dag.tasks).for_each(|task| task.here = false);
        plan
    }

    /// The same without the first scheduler.
    pub(crate) fn without_scheduler(&self) -> Self {
        let mut plan = self.clone();
        plan.processes.remove(0);
        plan.events.retain(|event| event.what.process() != Some(0));
        for event in &mut plan.events {
            if let Some(process) = event.what.process_mut() {
                *process -= 1;
            }
        }
        plan
    }
}

impl What {
    /// The process that it is about.
    pub(crate) fn process(mut self) -> Option<usize> {
        self.process_mut().copied()
    }

    fn process_mut(&mut self) -> Option<&mut usize> {
        match self {
            Self::Kill { process, .. }
            | Self::CrashAt { process, .. }
            | Self::Stop { process, .. }
            | Self::Pause { process, .. }
            | Self::Cut { process, .. }
            | Self::Lost { process, .. }
            | Self::Errors { process, .. }
            | Self::Slow { process, .. }
            | Self::Jump { process, .. }
            | Self::LateReports { process, .. }
            | Self::DoubleReports { process, .. }
            | Self::ConsumerCut { process, .. }
            | Self::Wakes { process } => Some(process),
            _ => None,
        }
    }

    /// For how long something is wrong with a process after this; it takes a while to come back.
    pub(crate) fn disturbs(self) -> Option<(usize, Duration)> {
        let seconds = match self {
            Self::Pause { seconds, .. }
            | Self::Cut { seconds, .. }
            | Self::Errors { seconds, .. }
            | Self::Slow { seconds, .. }
            | Self::LateReports { seconds, .. } => seconds,
            Self::Lost { how: Unknown::Late(millis), .. } => millis / 1_000,
            _ => 0,
        };
        Some((self.process()?, Duration::from_secs(seconds + 25)))
    }

    /// Whether it is about the broker.
    pub(crate) fn is_of_broker(&self) -> bool {
        matches!(
            self,
            Self::BrokerAway { .. } | Self::BrokerWipe | Self::BadBroker { .. } | Self::ConsumerCut { .. }
        )
    }
}

fn of_worker(random: &mut Random, process: usize) -> What {
    let (seconds, down) = (random.between(1, 60), random.between(0, 40));
    match random.below::<u64>(14) {
        0 | 1 => What::Kill { process, down },
        2 | 3 => {
            let point = POINTS[random.below::<usize>(POINTS.len() as u64)];
            What::CrashAt { process, point, nth: random.between(1, 4), down }
        }
        4 | 5 => What::Stop { process, down },
        6 | 7 => What::Pause { process, seconds },
        8 => What::Cut { process, seconds, hang: random.chance(50) },
        9 => What::ConsumerCut { process, seconds },
        10 | 11 => {
            let how = match random.below::<u64>(3) {
                0 => Unknown::Written,
                1 => Unknown::NotWritten,
                _ => Unknown::Late(random.between(100, 20_000)),
            };
            What::Lost { process, how }
        }
        12 if random.chance(50) => What::Errors { process, seconds, percent: random.between(5, 60) },
        12 => What::Slow { process, seconds, millis: random.between(10, 4_000) },
        _ => What::Jump { process, seconds: random.signed(900) },
    }
}

fn of_broker(random: &mut Random) -> What {
    let seconds = random.between(1, 60);
    match random.below::<u64>(6) {
        0 | 1 => What::BrokerAway { seconds, hang: random.chance(50) },
        2 => What::BrokerWipe,
        _ => What::BadBroker {
            seconds: seconds * 2,
            lost: if random.chance(60) { random.between(5, 100) } else { 0 },
            refused: if random.chance(40) { random.between(5, 60) } else { 0 },
            doubled: if random.chance(60) { random.between(5, 100) } else { 0 },
            millis: if random.chance(60) { random.between(10, 90_000) } else { 0 },
        },
    }
}
