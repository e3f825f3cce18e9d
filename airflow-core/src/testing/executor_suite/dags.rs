//! The dags of the suite. Their tasks say what they do by their ids, so every process that carries them agrees.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::dag::{DagDef, TaskExt as _};
use crate::operator::{
    Deferral, Description, In, IntoIn as _, Operator, Result, Resumed, TaskContext, TaskError, Trigger,
};
use crate::template::{Renderer, Template as _, TemplateError};

/// How long the large value is.
pub(super) const LARGE: usize = 700_000;

/// How many tasks there are that take a while.
pub(super) const BUSY: usize = 24;

/// How long each of them takes.
const BUSY_TIME: Duration = Duration::from_millis(40);

/// How long after the beginning of its run the task that reschedules itself goes on.
const PAUSE: TimeDelta = TimeDelta::seconds(2);

/// Longer than any check waits.
const FOR_EVER: Duration = Duration::from_secs(600);

/// Happens at once.
#[derive(Debug, Serialize, Deserialize)]
struct AtOnce;

impl Trigger for AtOnce {
    type Event = u32;
    const KIND: &'static str = "executor_suite_at_once";

    async fn wait(&self, _: &TaskContext) -> Result<u32> {
        Ok(7)
    }
}

/// Does what its id says.
struct Does {
    what: String,
}

fn does() -> Does {
    Does { what: "of {{ ti.task_id }}".to_owned() }
}

impl Operator for Does {
    type Output = Value;
    const NAME: &'static str = "Does";

    fn describe(&self, description: &mut Description) {
        description.template("what", &self.what);
        description.trigger::<AtOnce>();
    }

    fn rendered(&self, renderer: &Renderer) -> Result<Option<Self>, TemplateError> {
        Ok(Some(Self { what: self.what.render(renderer)? }))
    }

    async fn execute(&self, cx: &TaskContext) -> Result<Value> {
        match cx.task_id().as_str() {
            "reads" => {
                let result: i64 = cx.result_of("returns").await?.unwrap_or_default();
                let pushed: Option<String> = cx.xcom_pull("returns", "beside").await?;
                let number = if result == 7 { "seven" } else { "not seven" };
                Ok(json!(format!("{number} and {}", pushed.unwrap_or_default())))
            }
            "large" => Ok(json!("x".repeat(LARGE))),
            "fails" => Err(TaskError::fail("on purpose")),
            "fails_once" if cx.try_number() == 1 => Err(TaskError::msg("on purpose")),
            "skips" => Err(TaskError::skip("nothing to do")),
            // Each change of the instance counts; the second attempt comes after the pause.
            "reschedules" if cx.now() < cx.run().queued_at + PAUSE => {
                Err(TaskError::Reschedule(cx.run().queued_at + PAUSE))
            }
            "defers" => Err(Deferral::until(AtOnce).into()),
            "panics" => panic!("out of luck"),
            "takes_too_long" => {
                cx.sleep(FOR_EVER).await;
                Ok(Value::Null)
            }
            "sleeps_at_first" if cx.try_number() == 1 => {
                cx.sleep(FOR_EVER).await;
                Ok(Value::Null)
            }
            _ => Ok(Value::Null),
        }
    }

    async fn resume(&self, _: &TaskContext, _: &Resumed) -> Result<Value> {
        Ok(json!("resumed"))
    }
}

/// Takes a while, and says from when to when, in microseconds of the machine.
struct Busy {
    input: In<i64>,
}

impl Operator for Busy {
    type Output = (i64, i64);
    const NAME: &'static str = "Busy";

    fn describe(&self, description: &mut Description) {
        description.input(&self.input);
    }

    async fn execute(&self, cx: &TaskContext) -> Result<(i64, i64)> {
        let start = micros();
        cx.sleep(BUSY_TIME).await;
        Ok((start, micros()))
    }
}

fn micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A list to map over.
struct Numbers;

impl Operator for Numbers {
    type Output = Vec<i64>;
    const NAME: &'static str = "Numbers";

    fn describe(&self, _: &mut Description) {}

    async fn execute(&self, _: &TaskContext) -> Result<Vec<i64>> {
        Ok((0i64..).take(BUSY).collect())
    }
}

/// The result that is read, and a value beside it.
struct Returns {
    what: String,
}

impl Operator for Returns {
    type Output = i64;
    const NAME: &'static str = "Returns";

    fn describe(&self, description: &mut Description) {
        description.template("what", &self.what);
    }

    fn rendered(&self, renderer: &Renderer) -> Result<Option<Self>, TemplateError> {
        Ok(Some(Self { what: self.what.render(renderer)? }))
    }

    async fn execute(&self, cx: &TaskContext) -> Result<i64> {
        cx.xcom_push("beside", "a pushed value")?;
        Ok(7)
    }
}

/// The dags that whatever runs attempts for the suite must carry.
pub fn dags() -> Vec<DagDef> {
    let ends = DagDef::new("suite_ends").max_active_tasks(100).define(|d| {
        let returns = d.add(Returns { what: "of {{ ti.task_id }}".to_owned() }.id("returns")).node();
        let reads = d.add(does().id("reads")).node();
        d.order(returns >> reads);
        for id in ["large", "fails", "skips", "reschedules", "defers", "panics"] {
            d.add(does().id(id));
        }
        d.add(does().id("fails_once").retries(1).retry_delay(Duration::from_millis(10)));
        d.add(does().id("takes_too_long").timeout(Duration::from_millis(200)));
    });
    let busy = DagDef::new("suite_busy").max_active_tasks(100).define(|d| {
        let numbers = d.add(Numbers.id("numbers"));
        d.map(numbers, |number| Busy { input: number.into_in() }.id("busy"));
    });
    let long = DagDef::new("suite_long").define(|d| {
        d.add(does().id("sleeps_at_first"));
    });
    vec![ends, busy, long]
}
