//! The waits of deferred task instances: triggers, and sensors that poke without a slot.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use futures_util::FutureExt as _;
use tracing::Instrument as _;

use crate::callback::panic_text;
use crate::compile::CompiledTask;
use crate::executor::WaitRunner;
use crate::operator::{BoxError, Cancel, Deferred, POKES, TaskContext, TaskError, TriggerKind};
use crate::plan::{Attempt, Outcome, Report};

use super::log::AttemptLog;
use super::{Runner, failed, masked, on_kill, shown};

/// How often the context of a wait is asked for before the wait fails: a store may be away for a while.
const CONTEXT_TRIES: u32 = 10;

/// The pause between two of these tries.
const CONTEXT_PAUSE: Duration = Duration::from_secs(3);

/// What a task body that did not succeed means; a deferral to something unknown is a mistake that shows at once.
pub(super) fn checked(task: &CompiledTask, error: TaskError) -> Outcome {
    let TaskError::Defer(deferral) = &error else { return Outcome::from(error) };
    if knows(task, &deferral.kind) {
        return Outcome::from(error);
    }
    let why = format!(
        "the task defers to the trigger `{}`, which it does not announce; write `triggers(..)` with its type in the \
         attribute of the task or operator",
        deferral.kind
    );
    failed(why, false)
}

/// What the end of `execution_timeout` means: a sensor that is not to fail is skipped.
pub(super) fn took_too_long(task: &CompiledTask, why: String) -> Outcome {
    match &task.settings.sensor {
        Some(sensor) if sensor.soft_fail || sensor.never_fail => Outcome::Skipped(why),
        _ => failed(why, true),
    }
}

fn knows(task: &CompiledTask, kind: &str) -> bool {
    (kind == POKES && task.operator.is_sensor()) || find(task, kind).is_some()
}

fn find(task: &CompiledTask, kind: &str) -> Option<TriggerKind> {
    let mut kinds = task.operator.description().triggers;
    kinds.extend(crate::operator::builtin_triggers());
    kinds.into_iter().find(|known| known.kind == kind)
}

impl Runner {
    async fn wait_logged(
        &self,
        attempt: &Attempt,
        cancel: Cancel,
        log: &AttemptLog,
    ) -> (Outcome, Option<TaskContext>) {
        let Some(deferred) = attempt.wait.as_ref().and_then(|wait| wait.deferred.as_ref()) else {
            return (failed("the task instance does not say what it waits for".into(), true), None);
        };
        log.waits(&deferred.kind);
        let dag = match self.dag_of(attempt) {
            Ok(dag) => dag,
            Err(error) => return (failed(error, false), None),
        };
        let task = dag.task(attempt.task);
        let cx = match self.patient_context(&dag, attempt, &cancel, log).await {
            Ok(cx) => cx,
            Err(error) => return (failed(format!("cannot prepare the wait: {error}"), true), None),
        };
        let outcome = self.wait_for(task, deferred, &cx, &cancel).await;
        (outcome, Some(cx))
    }

    /// The context, asked for again if the store is away.
    async fn patient_context(
        &self,
        dag: &Arc<crate::compile::CompiledDag>,
        attempt: &Attempt,
        cancel: &Cancel,
        log: &AttemptLog,
    ) -> Result<TaskContext, BoxError> {
        let mut tries = 0;
        loop {
            match self.context(dag, attempt, cancel.clone(), log.path().cloned()).await {
                Err(error) if tries < CONTEXT_TRIES => {
                    tries += 1;
                    tracing::warn!(%error, "cannot prepare the wait; trying again");
                    let pause = TimeDelta::from_std(CONTEXT_PAUSE).unwrap_or(TimeDelta::MAX);
                    self.clock.sleep_until(self.clock.now() + pause).await;
                }
                result => return result,
            }
        }
    }

    async fn wait_for(
        &self,
        task: &CompiledTask,
        deferred: &Deferred,
        cx: &TaskContext,
        cancel: &Cancel,
    ) -> Outcome {
        let pokes = deferred.kind == POKES;
        let work = async {
            if pokes {
                return task.operator.watch(cx).await.map(|done| Outcome::Success(done.value));
            }
            match find(task, &deferred.kind) {
                Some(trigger) => trigger.wait(&deferred.args, cx).await.map(Outcome::Fired),
                None => Err(TaskError::fail(format_args!(
                    "code_missing: the task knows no trigger `{}` here",
                    deferred.kind
                ))),
            }
        };
        let deadline = match &task.settings.sensor {
            Some(sensor) if pokes => {
                let timeout = TimeDelta::from_std(sensor.timeout).ok();
                timeout.and_then(|timeout| cx.waits_since().checked_add_signed(timeout))
            }
            _ => deferred.until,
        };
        let time_is_up = async {
            match deadline {
                Some(deadline) => self.clock.sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            biased;
            result = AssertUnwindSafe(work).catch_unwind() => return match result {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(TaskError::Reschedule(_) | TaskError::Defer(_))) => {
                    failed("a wait can neither be rescheduled nor deferred".into(), false)
                }
                Ok(Err(error)) => Outcome::from(error),
                Err(panic) => failed(format!("the wait panicked: {}", panic_text(&*panic)), true),
            },
            () = cancel.cancelled() => Outcome::Cancelled,
            () = time_is_up => match &task.settings.sensor {
                Some(sensor) if pokes => return Outcome::from(sensor.timed_out()),
                _ => failed(format!("the wait for `{}` took longer than its timeout", deferred.kind), true),
            }
        };
        on_kill(task, cx).await;
        outcome
    }
}

#[async_trait]
impl WaitRunner for Runner {
    async fn wait(&self, attempt: Attempt, cancel: Cancel) -> Report {
        let log = self.open_log(&attempt, true);
        let work = AssertUnwindSafe(self.wait_logged(&attempt, cancel, &log)).catch_unwind();
        let (outcome, cx) = match work.instrument(log.span(&attempt)).await {
            Ok(done) => done,
            Err(panic) => (failed(format!("the wait panicked: {}", panic_text(&*panic)), true), None),
        };
        let outcome = masked(self.masker(), outcome);
        log.footer(&attempt, &outcome);
        let last = log.close(&outcome).await;
        let (pushed, asset_events, rendered) = cx.map(|cx| cx.take_notes()).unwrap_or_default();
        let rendered = shown(self.masker(), rendered);
        let ends = matches!(outcome, Outcome::Success(_) | Outcome::Skipped(_));
        let (key, attempt_id) = (attempt.key(), attempt.ti.attempt_id);
        let pushed = if ends { pushed } else { Vec::new() };
        let (run, at) = (attempt.run.pk, self.clock.now());
        Report { run, key, attempt_id, outcome, pushed, asset_events, rendered, log: last, at }
    }
}
