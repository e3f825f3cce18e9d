//! Makes a plan that breaks a law smaller, as long as it breaks the same law.

use std::time::{Duration, Instant};

use super::mutants::Mutant;
use super::plan::{Kind, Plan, What};
use super::world::run;

/// How long smaller plans are tried.
const MOST: Duration = Duration::from_secs(60);

pub(crate) fn shrunk(plan: &Plan, mutant: Option<Mutant>, law: &str) -> Plan {
    let mut best = plan.clone();
    let begun = Instant::now();
    let breaks = |candidate: &Plan| {
        begun.elapsed() < MOST
            && run(candidate, mutant).violation.is_some_and(|violation| violation.law == law)
    };
    loop {
        let before = size(&best);
        for smaller in without_events(&best).chain(smaller(&best)) {
            if size(&smaller) < size(&best) && breaks(&smaller) {
                best = smaller;
            }
        }
        if size(&best) == before {
            return best;
        }
    }
}

fn size(plan: &Plan) -> usize {
    let tasks = plan.dags.iter().map(|dag| dag.tasks.len() * 3 + 2).sum::<usize>();
    let edges = plan.dags.iter().flat_map(|dag| &dag.tasks).map(|task| task.upstream.len()).sum::<usize>();
    let minutes = usize::try_from(plan.minutes).expect("small");
    let kinds = plan.dags.iter().flat_map(|dag| &dag.tasks).filter(|task| task.kind != Kind::Script).count();
    let kinds = kinds + usize::from(plan.local) + usize::from(plan.has_worker()) * 5;
    plan.events.len() * 10 + plan.processes.len() * 10 + tasks + edges + minutes + kinds
}

fn without_events(plan: &Plan) -> impl Iterator<Item = Plan> + use<> {
    let plan = plan.clone();
    let count = plan.events.len();
    let halves = [0..count / 2, count / 2..count].into_iter().filter(|range| range.len() > 1);
    halves.chain((0..count).rev().map(|at| at..at + 1)).filter_map(move |range| {
        let mut smaller = plan.clone();
        (range.end <= smaller.events.len()).then(|| drop(smaller.events.drain(range)))?;
        Some(smaller)
    })
}

fn smaller(plan: &Plan) -> Vec<Plan> {
    let mut all = Vec::new();
    if plan.has_worker() {
        all.push(fitting(plan.without_workers()));
        all.extend(plan.local.then(|| plan.only_workers()));
    }
    let workers = (0..plan.processes.len()).filter(|process| plan.is_worker(*process)).count();
    if workers > 1 || (workers == 0 && plan.processes.len() > 1) {
        let mut smaller = plan.clone();
        smaller.processes.pop();
        all.push(fitting(smaller));
    }
    if workers > 0 && plan.processes.len() - workers > 1 {
        all.push(plan.without_scheduler());
    }
    if plan.dags.len() > 1 {
        let mut smaller = plan.clone();
        smaller.dags.pop();
        let there = smaller.dags.len();
        smaller.events.retain(|event| dag_of(event.what).is_none_or(|dag| dag < there));
        all.push(smaller);
    }
    for dag in 0..plan.dags.len() {
        if plan.dags[dag].tasks.len() > 1 {
            let mut smaller = plan.clone();
            smaller.dags[dag].tasks.pop();
            let there = smaller.dags[dag].tasks.len();
            smaller
                .events
                .retain(|event| task_of(event.what).is_none_or(|(d, task)| d != dag || task < there));
            all.push(smaller);
        }
    }
    for (dag, task) in places(plan) {
        let mut smaller = plan.clone();
        smaller.dags[dag].tasks[task].kind = Kind::Script;
        all.push(smaller);
    }
    if plan.minutes > 1 {
        let mut smaller = plan.clone();
        smaller.minutes -= 1;
        smaller.events.retain(|event| event.at < smaller.minutes * 60_000);
        all.push(smaller);
    }
    all
}

/// Without the events of processes that there are not.
fn fitting(mut plan: Plan) -> Plan {
    let there = plan.processes.len();
    plan.events.retain(|event| event.what.process().is_none_or(|process| process < there));
    plan
}

/// Where something else than a plain task stands.
fn places(plan: &Plan) -> Vec<(usize, usize)> {
    let tasks = plan.dags.iter().enumerate().flat_map(|(number, dag)| {
        dag.tasks.iter().enumerate().map(move |(task, plan)| (number, task, plan.kind))
    });
    tasks.filter(|(_, _, kind)| *kind != Kind::Script).map(|(dag, task, _)| (dag, task)).collect()
}

fn dag_of(what: What) -> Option<usize> {
    match what {
        What::Clear { dag, .. }
        | What::Mark { dag, .. }
        | What::MarkRun { dag, .. }
        | What::Trigger { dag }
        | What::SetValue { dag, .. }
        | What::PauseDag { dag, .. } => Some(dag),
        _ => None,
    }
}

fn task_of(what: What) -> Option<(usize, usize)> {
    match what {
        What::Clear { dag, task: Some(task), .. }
        | What::Mark { dag, task, .. }
        | What::SetValue { dag, task, .. } => Some((dag, task)),
        _ => None,
    }
}
