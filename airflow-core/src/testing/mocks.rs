//! What stands in for task bodies: answers, failures, and how long an attempt takes on the simulated clock.

use std::any::TypeId;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;

use crate::attempt::Override;
use crate::operator::{AnyOperator, Operator, Result, Returned, TaskContext, TaskError};
use crate::time::{Clock as _, SimClock, wait_until};
use crate::xcom::Data;

use super::setup::complain;

type Answer = Arc<dyn Fn(&TaskContext) -> Result<Returned> + Send + Sync>;

/// Which tasks a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum For {
    /// All that are made from an operator.
    Operator(TypeId, &'static str),
    /// One, by its id.
    Id(String),
}

impl For {
    pub(super) fn operator<O: Operator>() -> Self {
        Self::Operator(TypeId::of::<O>(), O::NAME)
    }

    fn fits(&self, id: &str, operator: &dyn AnyOperator) -> bool {
        match self {
            Self::Operator(of, _) => operator.operator_type() == *of,
            Self::Id(wanted) => id == wanted,
        }
    }
}

#[derive(Default)]
struct Rule {
    answer: Option<Answer>,
    /// The type that the answer has, where the compiler did not see to it.
    answers_with: Option<&'static str>,
    takes: Option<Duration>,
    failing_tries: u32,
    next: VecDeque<TaskError>,
}

/// The rules for all tasks. Those for an id come before those for an operator.
#[derive(Default)]
pub(super) struct Mocks(Mutex<HashMap<For, Rule>>);

impl Mocks {
    fn lock(&self) -> MutexGuard<'_, HashMap<For, Rule>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn answer<T: Data>(
        &self,
        whom: For,
        checked: bool,
        answer: impl Fn(&TaskContext) -> Result<T> + Send + Sync + 'static,
    ) {
        let mut rules = self.lock();
        let rule = rules.entry(whom).or_default();
        rule.answers_with = (!checked).then(std::any::type_name::<T>);
        rule.answer = Some(Arc::new(move |cx| Returned::encode(cx, &answer(cx)?)));
    }

    pub(super) fn takes(&self, whom: For, duration: Duration) {
        self.lock().entry(whom).or_default().takes = Some(duration);
    }

    pub(super) fn failing_tries(&self, whom: For, tries: u32) {
        self.lock().entry(whom).or_default().failing_tries = tries;
    }

    pub(super) fn fail_next(&self, whom: For, errors: impl IntoIterator<Item = TaskError>) {
        self.lock().entry(whom).or_default().next.extend(errors);
    }

    /// Whether the body of a task never runs.
    pub(super) fn replaces(&self, id: &str, operator: &dyn AnyOperator) -> bool {
        self.lock().iter().any(|(whom, rule)| rule.answer.is_some() && whom.fits(id, operator))
    }

    /// Refuses rules that no task is meant by, and answers of the wrong type.
    #[track_caller]
    pub(super) fn check(&self, tasks: &[(&str, &dyn AnyOperator)]) {
        for (whom, rule) in self.lock().iter() {
            let mut of_rule = tasks.iter().filter(|(id, operator)| whom.fits(id, *operator)).peekable();
            if of_rule.peek().is_none() {
                let ids: Vec<&str> = tasks.iter().map(|(id, _)| *id).collect();
                match whom {
                    For::Operator(_, name) => complain(&format!(
                        "the test says something about the operator `{name}`, but no task is made from it"
                    )),
                    For::Id(id) => complain(&format!(
                        "the test says something about the task `{id}`, but there are only: {}",
                        ids.join(", ")
                    )),
                }
            }
            for (id, operator) in of_rule {
                if let Some(answer) = rule.answers_with.filter(|answer| *answer != operator.output_type()) {
                    complain(&format!(
                        "the mock of task `{id}` returns `{answer}`, the task returns `{}`",
                        operator.output_type()
                    ));
                }
            }
        }
    }

    /// The next failure, the duration and the answer for one attempt.
    fn plan(&self, cx: &TaskContext, operator: &dyn AnyOperator) -> Plan {
        let keys =
            [For::Id(cx.task_id().to_string()), For::Operator(operator.operator_type(), operator.name())];
        let mut rules = self.lock();
        let mut plan = Plan::default();
        for key in keys {
            let Some(rule) = rules.get_mut(&key) else { continue };
            plan.takes = plan.takes.or(rule.takes);
            if plan.error.is_none() {
                plan.error = rule.next.pop_front();
            }
            if plan.error.is_none() && cx.try_number() <= rule.failing_tries {
                let (this, all) = (cx.try_number(), rule.failing_tries);
                plan.error = Some(TaskError::msg(format_args!("the test lets try {this} of {all} fail")));
            }
            plan.answer = plan.answer.or_else(|| rule.answer.clone());
        }
        plan
    }
}

#[derive(Default)]
struct Plan {
    takes: Option<Duration>,
    error: Option<TaskError>,
    answer: Option<Answer>,
}

/// Applies the rules to attempts.
pub(super) struct MockedBodies {
    pub(super) mocks: Arc<Mocks>,
    pub(super) clock: SimClock,
}

impl std::fmt::Debug for MockedBodies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MockedBodies").finish_non_exhaustive()
    }
}

#[async_trait]
impl Override for MockedBodies {
    async fn instead(&self, operator: &dyn AnyOperator, cx: &TaskContext) -> Option<Result<Returned>> {
        let plan = self.mocks.plan(cx, operator);
        if let Some(takes) = plan.takes.and_then(|takes| TimeDelta::from_std(takes).ok()) {
            wait_until(&self.clock, self.clock.now() + takes).await;
        }
        if let Some(error) = plan.error {
            return Some(Err(error));
        }
        let answer = plan.answer?;
        // Templates are rendered as ever: a mistake in them is one that the test should find.
        if cx.has_templates() {
            match operator.render(cx.renderer()) {
                Ok(fields) => cx.note_rendered(&fields),
                Err(error) => return Some(Err(error.into())),
            }
        }
        Some(answer(cx))
    }
}
