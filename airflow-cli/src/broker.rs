//! The broker between schedulers and workers, as the settings name it.

use std::sync::Arc;

use airflow_executors::remote::Transport;

use crate::cx::Cx;
use crate::error::{CliError, failed};

/// The executors that `core.executor` may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExecutorKind {
    /// In this process.
    Local,
    /// In this process, one after the other.
    Sequential,
    /// On workers, through the broker.
    Workers,
}

/// Reads `core.executor`: one name, or several with a comma, the first of which runs what says nothing else.
pub(crate) fn executors(text: &str) -> Result<Vec<ExecutorKind>, CliError> {
    let mut kinds = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let kind = match name {
            "LocalExecutor" => ExecutorKind::Local,
            "SequentialExecutor" => ExecutorKind::Sequential,
            "CeleryExecutor" => ExecutorKind::Workers,
            _ => {
                return Err(CliError::Usage(format!(
                    "core.executor: there is no executor `{name}`; write LocalExecutor, SequentialExecutor, or \
                     CeleryExecutor for workers behind celery.broker_url"
                )));
            }
        };
        if kinds.contains(&kind) {
            return Err(CliError::Usage(format!("core.executor: `{name}` stands there twice")));
        }
        kinds.push(kind);
    }
    if kinds.is_empty() {
        kinds.push(ExecutorKind::Local);
    }
    Ok(kinds)
}

/// The broker that `celery.broker_url` names.
pub(crate) fn open(cx: &Cx<'_>) -> Result<Arc<dyn Transport>, CliError> {
    let url = cx.settings.broker();
    let Some((scheme, _)) = url.split_once("://") else {
        return Err(CliError::Usage(
            "no broker is set: write `redis://host:6379/0` or `amqp://user:password@host:5672/` into celery.broker_url \
             (AIRFLOW__CELERY__BROKER_URL)"
                .to_owned(),
        ));
    };
    match scheme {
        "redis" | "rediss" | "sentinel" | "sentinels" => redis(url),
        "amqp" | "amqps" => rabbitmq(url),
        _ => Err(CliError::Usage(format!(
            "celery.broker_url: `{scheme}://` is no broker that this program knows; write `redis://host:6379/0` or \
             `amqp://user:password@host:5672/`"
        ))),
    }
}

/// The same, reached and found to be fit: a process that cannot use its broker does not begin.
pub(crate) async fn checked(cx: &mut Cx<'_>) -> Result<Arc<dyn Transport>, CliError> {
    let transport = open(cx)?;
    let facts = transport.check().await.map_err(|error| failed(error.to_string()))?;
    for warning in facts.warnings {
        cx.host.note(&format!("warning: {warning}"));
    }
    Ok(transport)
}

#[cfg(feature = "redis")]
fn redis(url: &str) -> Result<Arc<dyn Transport>, CliError> {
    use airflow_executors::remote::redis::{RedisOptions, RedisTransport};
    Ok(Arc::new(RedisTransport::new(&RedisOptions::new(url)).map_err(|error| failed(error.to_string()))?))
}

#[cfg(not(feature = "redis"))]
fn redis(_: &str) -> Result<Arc<dyn Transport>, CliError> {
    Err(without("redis"))
}

#[cfg(feature = "rabbitmq")]
fn rabbitmq(url: &str) -> Result<Arc<dyn Transport>, CliError> {
    use airflow_executors::remote::rabbitmq::{RabbitmqOptions, RabbitmqTransport};
    let options = RabbitmqOptions::new(url);
    Ok(Arc::new(RabbitmqTransport::new(&options).map_err(|error| failed(error.to_string()))?))
}

#[cfg(not(feature = "rabbitmq"))]
fn rabbitmq(_: &str) -> Result<Arc<dyn Transport>, CliError> {
    Err(without("rabbitmq"))
}

#[cfg(not(all(feature = "redis", feature = "rabbitmq")))]
fn without(feature: &str) -> CliError {
    failed(format!(
        "this program was built without the feature `{feature}` of `airflow`: add it in Cargo.toml"
    ))
}
