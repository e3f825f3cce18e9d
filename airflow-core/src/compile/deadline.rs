//! The deadlines of a dag: those of its runs, and the `sla` of its tasks.

use std::sync::Arc;

use chrono_tz::Tz;

use crate::dag::{DagDef, DeadlineReference, Problem, ProblemKind, TaskSettings, When};

use super::{CompiledDeadline, DeadlineStart};

/// What the name of a deadline begins with that is the `sla` of a task; the id of the task follows.
pub(crate) const SLA: &str = "sla:";

/// The longest name of a deadline, in characters: the name of its event is stored.
const MAX_DEADLINE_CHARS: usize = 200;

/// What the tasks should keep, as deadlines; what is wrong with them.
pub(super) fn of_tasks(
    def: &DagDef,
    tasks: &[Arc<TaskSettings>],
    problems: &mut Vec<Problem>,
) -> Vec<CompiledDeadline> {
    let mut all = Vec::new();
    for (task, settings) in def.definition.tasks.iter().zip(tasks) {
        let Some(sla) = settings.sla.filter(|_| def.options.inherited().check_slas != Some(false)) else {
            continue;
        };
        if sla.is_zero() {
            let why = "zero is over before the run begins; leave it out for none".to_owned();
            let kind = ProblemKind::BadOption { option: "sla", of: format!("task `{}`", task.id), why };
            problems.push(Problem { kind, place: task.place });
        }
        all.push(CompiledDeadline {
            name: format!("{SLA}{}", task.id),
            task: Some(task.id.clone()),
            start: DeadlineStart::IntervalEnd,
            after: sla,
            callbacks: def.options.on_sla_miss.clone(),
        });
    }
    all
}

/// The deadlines with their names and moments.
pub(super) fn of_runs(def: &DagDef, zone: Tz, report: &mut impl FnMut(ProblemKind)) -> Vec<CompiledDeadline> {
    let mut all: Vec<CompiledDeadline> = Vec::new();
    for (nth, alert) in (1..).zip(&def.options.deadlines) {
        let name = alert.name.clone().unwrap_or_else(|| format!("deadline_{nth}"));
        let mut wrong = |why: String| {
            let of = format!("dag `{}`", def.id);
            report(ProblemKind::BadOption { option: "deadline", of, why });
        };
        let start = match &alert.reference {
            DeadlineReference::QueuedAt => DeadlineStart::QueuedAt,
            DeadlineReference::LogicalDate => DeadlineStart::LogicalDate,
            DeadlineReference::AverageRuntime { max_runs, min_runs } => {
                if *min_runs == 0 || max_runs < min_runs {
                    wrong(format!(
                        "`{name}` takes the average of {min_runs} to {max_runs} runs; write 1 or more"
                    ));
                }
                DeadlineStart::AverageRuntime { max_runs: *max_runs, min_runs: *min_runs }
            }
            DeadlineReference::Fixed(When::At(at)) => DeadlineStart::Fixed(*at),
            DeadlineReference::Fixed(When::Text(text)) => match crate::time::parse_moment(text, zone) {
                Ok(at) => DeadlineStart::Fixed(at),
                Err(error) => {
                    wrong(format!("`{name}`: {error}"));
                    continue;
                }
            },
        };
        if alert.callbacks.is_empty() {
            wrong(format!("`{name}` tells nobody; add `.call(..)`"));
        }
        if start == DeadlineStart::QueuedAt && alert.after.is_zero() {
            wrong(format!("`{name}` is over before the run begins; write a longer time"));
        }
        if name.is_empty() || name.chars().count() > MAX_DEADLINE_CHARS {
            wrong(format!("the name `{name}` must have 1 to {MAX_DEADLINE_CHARS} characters"));
        }
        if name.starts_with(SLA) {
            wrong(format!(
                "the name `{name}` begins as that of the `sla` of a task does; choose another one"
            ));
        }
        if all.iter().any(|other| other.name == name) {
            wrong(format!("two are called `{name}`; give one of them another `.named(..)`"));
        }
        let callbacks = alert.callbacks.clone();
        all.push(CompiledDeadline { name, task: None, start, after: alert.after, callbacks });
    }
    all
}
