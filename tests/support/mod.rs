//! A context without an engine behind it.

use std::sync::Arc;

use airflow::callback::CallbackContext;
use airflow::id::{AttemptId, MapIndex, RunPk};
use airflow::operator::{
    BoxError, Cancel, ContextParts, Inputs, Resources, RunInfo, TaskContext, TaskServices, TiInfo, XComQuery,
};
use airflow::state::RunType;
use airflow::time::SystemClock;
use airflow::timetable::DataInterval;
use airflow::xcom::{DEFAULT_XCOM_LIMIT, XComValue};
use chrono::{DateTime, Utc};
use serde_json::Value;

struct Nothing;

#[async_trait::async_trait]
impl TaskServices for Nothing {
    async fn xcoms(&self, _: &RunInfo, _: XComQuery) -> Result<Vec<Vec<Arc<XComValue>>>, BoxError> {
        Ok(Vec::new())
    }

    async fn variable(&self, _: &str) -> Result<Option<String>, BoxError> {
        Ok(None)
    }

    async fn set_variable(&self, _: &str, _: &str) -> Result<(), BoxError> {
        Ok(())
    }

    async fn connection(&self, _: &str) -> Result<Option<airflow::connection::Connection>, BoxError> {
        Ok(None)
    }

    fn mask_secret(&self, _: &str) {}
}

/// A context without resources and parameters.
pub(crate) fn context() -> TaskContext {
    context_with(Resources::default(), Value::Null)
}

/// A context of the dag `d`, task `t`.
pub(crate) fn context_with(resources: Resources, params: Value) -> TaskContext {
    let at = DateTime::<Utc>::UNIX_EPOCH;
    let run = RunInfo {
        pk: RunPk(1),
        dag_id: "d".into(),
        run_id: "r".into(),
        run_type: RunType::Manual,
        logical_date: at,
        data_interval: DataInterval { start: at, end: at },
        run_after: at,
        queued_at: at,
        started_at: None,
        conf: None,
    };
    let attempt_id: AttemptId =
        serde_json::from_str("\"00000000-0000-0000-0000-000000000001\"").expect("an id");
    let ti = TiInfo {
        task_id: "t".into(),
        map_index: MapIndex::UNMAPPED,
        try_number: 1,
        max_tries: 1,
        attempt_id,
        epoch: 0,
    };
    TaskContext::new(ContextParts {
        run: Arc::new(run),
        ti,
        params: Arc::new(params),
        inputs: Inputs::default(),
        resources,
        services: Arc::new(Nothing),
        renderer: Box::new(|| unreachable!("these tests render nothing")),
        has_templates: false,
        pushes_result: true,
        xcom_limit: DEFAULT_XCOM_LIMIT,
        log_path: None,
        cancel: Cancel::never(),
        wait: None,
        sensor: None,
        started_at: at,
        clock: Arc::new(SystemClock),
        timezone: chrono_tz::Tz::UTC,
        retries: 0,
        assets: [Arc::default(), Arc::default()],
    })
}

/// Runs a future to its end.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// A callback in a module.
pub(crate) async fn callback(_: CallbackContext) {}
