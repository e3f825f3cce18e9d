//! Operators that play a script: the outcome of try 1, of try 2, and so on; the last one repeats.

use std::collections::HashMap;
use std::sync::Arc;

use airflow_core::operator::{Description, Operator, Result, TaskContext, TaskError};
use serde_json::{Map, Value};

/// For each run the outcomes of one task.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script(Arc<HashMap<String, Vec<Value>>>);

impl Script {
    /// The part of `task` in the scripts of the runs of a case.
    pub(crate) fn of(task: &str, runs: &[Value]) -> Self {
        let part = |run: &Value| {
            let outcomes = run["script"][task].as_array()?.clone();
            Some((run["run_id"].as_str()?.to_owned(), outcomes))
        };
        Self(Arc::new(runs.iter().filter_map(part).collect()))
    }

    /// What the attempt does: the value it returns, or how it ends.
    pub(crate) fn play(&self, cx: &TaskContext) -> Result<Value> {
        let outcomes = self.0.get(cx.run_id().as_str()).map_or(&[][..], Vec::as_slice);
        play(outcomes, cx.try_number())
    }
}

/// The outcome of a try.
pub(crate) fn play(outcomes: &[Value], try_number: u32) -> Result<Value> {
    let outcome = outcomes.get(try_number as usize - 1).or(outcomes.last());
    match outcome {
        None => Ok(Value::Null),
        Some(Value::String(word)) => match word.as_str() {
            "success" => Ok(Value::Null),
            "fail" => Err(TaskError::msg("the script says so")),
            "skip" => Err(TaskError::skip("the script says so")),
            "fail_without_retry" => Err(TaskError::fail("the script says so")),
            other => panic!("unknown outcome {other}"),
        },
        Some(Value::Object(object)) => Ok(returned(object)),
        Some(other) => panic!("unknown outcome {other}"),
    }
}

fn returned(outcome: &Map<String, Value>) -> Value {
    outcome.values().next().cloned().unwrap_or_default()
}

macro_rules! scripted {
    ($(#[$doc:meta])* $name:ident -> $output:ty, $value:expr) => {
        $(#[$doc])*
        pub(crate) struct $name(pub(crate) Script);

        impl Operator for $name {
            type Output = $output;
            const NAME: &'static str = stringify!($name);

            fn describe(&self, _: &mut Description) {}

            async fn execute(&self, cx: &TaskContext) -> Result<$output> {
                self.0.play(cx).map($value)
            }
        }
    };
}

scripted! {
    /// An ordinary task.
    Scripted -> (), |_| ()
}
scripted! {
    /// Returns the ids that a run follows.
    Chooses -> Vec<String>, |value| match value {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
scripted! {
    /// Returns whether the run goes on.
    Asks -> bool, |value| value.as_bool().unwrap_or(true)
}
