//! The broker between schedulers and workers, as the settings name it.
//!
//! What stands there is Airflow's: addresses as Celery has them (several after `;`), `celery.ssl_*`, and of
//! `[celery_broker_transport_options]` what has a meaning here. What Airflow has no name for is in `[broker]`.

use std::sync::Arc;

use airflow_core::config::options::Settings as Options;
use airflow_core::secret::Secret;
use airflow_executors::remote::Transport;

use crate::cx::Cx;
use crate::error::{CliError, failed};

/// The section for what Celery's clients of brokers know.
const TRANSPORT: &str = "celery_broker_transport_options";

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

/// A kind of broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Redis,
    Rabbitmq,
}

/// What the settings say of every kind of broker.
#[derive(Debug)]
struct Wanted {
    kind: Kind,
    /// For Redis one.
    urls: Vec<Secret>,
    /// The certificate of the authority that is trusted.
    ca: Option<String>,
    /// A certificate of ours and its key.
    identity: Option<(String, Secret)>,
}

impl Wanted {
    fn of(all: &Options) -> Result<Self, CliError> {
        let (kind, urls) = addresses(all)?;
        let mut wanted = Self { kind, urls, ca: None, identity: None };
        if all.boolean("celery", "ssl_active") {
            wanted.ca = file(all, "ssl_cacert")?;
            let shown = all.boolean("celery", "ssl_mutual_tls");
            wanted.identity = match (file(all, "ssl_cert")?, file(all, "ssl_key")?) {
                (Some(certificate), Some(key)) if shown => Some((certificate, Secret::new(key))),
                (Some(_), None) | (None, Some(_)) if shown => {
                    let why = "celery.ssl_cert and celery.ssl_key belong together: set both, or none of them";
                    return Err(CliError::Usage(why.to_owned()));
                }
                _ => None,
            };
        }
        Ok(wanted)
    }
}

/// The content of a file that an option of `[celery]` names.
fn file(all: &Options, key: &str) -> Result<Option<String>, CliError> {
    let path = all.text("celery", key);
    if path.is_empty() {
        return Ok(None);
    }
    let read = std::fs::read_to_string(path);
    read.map(Some).map_err(|error| CliError::Usage(format!("celery.{key}: cannot read {path}: {error}")))
}

/// The addresses of `celery.broker_url`, with TLS if `celery.ssl_active` says so.
fn addresses(all: &Options) -> Result<(Kind, Vec<Secret>), CliError> {
    let text = all.text("celery", "broker_url");
    let mut found: Vec<(&str, &str)> = Vec::new();
    for one in text.split(';').map(str::trim).filter(|one| !one.is_empty()) {
        let Some((scheme, rest)) = one.split_once("://") else {
            let why = "celery.broker_url: an address begins with the kind of the broker, such as `redis://` or `amqp://`";
            return Err(CliError::Usage(why.to_owned()));
        };
        found.push((with_tls(scheme, all.boolean("celery", "ssl_active"))?, rest));
    }
    let Some((first, rest)) = found.first().copied() else {
        return Err(CliError::Usage(
            "no broker is set: write `redis://host:6379/0` or `amqp://user:password@host:5672/` into celery.broker_url \
             (AIRFLOW__CELERY__BROKER_URL)"
                .to_owned(),
        ));
    };
    if found.iter().any(|(scheme, _)| *scheme != first) {
        let why = "celery.broker_url: its addresses are of several kinds; all must begin with the same word";
        return Err(CliError::Usage(why.to_owned()));
    }
    if first.starts_with("amqp") {
        let urls = found.iter().map(|(scheme, rest)| Secret::new(format!("{scheme}://{rest}")));
        return Ok((Kind::Rabbitmq, urls.collect()));
    }
    let rest = match (first, found.len()) {
        ("sentinel" | "sentinels", _) => sentinels(all, &found),
        (_, 1) => rest.to_owned(),
        _ => {
            let why = "celery.broker_url: only one Redis can be named; to have another one take over name sentinels, \
                       `sentinel://host:26379;sentinel://host:26379`";
            return Err(CliError::Usage(why.to_owned()));
        }
    };
    Ok((Kind::Redis, vec![Secret::new(format!("{first}://{rest}"))]))
}

/// The scheme as our brokers know it.
fn with_tls(scheme: &str, tls: bool) -> Result<&'static str, CliError> {
    let known = [
        ("redis", "redis", "rediss"),
        ("rediss", "rediss", "rediss"),
        ("sentinel", "sentinel", "sentinels"),
        ("sentinels", "sentinels", "sentinels"),
        ("amqp", "amqp", "amqps"),
        ("pyamqp", "amqp", "amqps"),
        ("amqps", "amqps", "amqps"),
    ];
    let found = known.into_iter().find(|(name, ..)| *name == scheme);
    found.map(|(_, plain, encrypted)| if tls { encrypted } else { plain }).ok_or_else(|| {
        CliError::Usage(format!(
            "celery.broker_url: `{scheme}://` is no broker that this program knows; write `redis://host:6379/0` or \
             `amqp://user:password@host:5672/`"
        ))
    })
}

/// One address of ours for the sentinels that Celery names one by one, and what it says of them elsewhere.
fn sentinels(all: &Options, found: &[(&str, &str)]) -> String {
    let mut hosts = Vec::new();
    let (mut user, mut path) = ("", "");
    for &(_, rest) in found {
        let (authority, after) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        hosts.push(host);
        user = if user.is_empty() { login } else { user };
        path = if path.is_empty() { after } else { path };
    }
    let at = if user.is_empty() { "" } else { "@" };
    let mut text = format!("{user}{at}{}/{path}", hosts.join(","));
    let password = serde_json::from_str::<serde_json::Value>(all.text(TRANSPORT, "sentinel_kwargs")).ok();
    let password = password.as_ref().and_then(|given| given.get("password")?.as_str()).unwrap_or_default();
    for (name, value) in [("master", all.text(TRANSPORT, "master_name")), ("sentinel_password", password)] {
        let query = path.split_once('?').map_or("", |(_, query)| query);
        if !value.is_empty() && !query.contains(&format!("{name}=")) {
            let mark = if text.contains('?') { '&' } else { '?' };
            text = format!("{text}{mark}{name}={}", escaped(value));
        }
    }
    text
}

/// A text as it stands in the query of an address.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let one = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

/// The keys that sign messages; none if the deployment keeps one in its database.
pub(crate) fn signing_keys(cx: &Cx<'_>) -> Vec<Secret> {
    let keys = cx.settings.all.text("broker", "signing_keys").split(',').map(str::trim);
    keys.filter(|key| !key.is_empty()).map(|key| Secret::new(key.to_owned())).collect()
}

/// The broker that the settings name.
pub(crate) fn open(cx: &Cx<'_>) -> Result<Arc<dyn Transport>, CliError> {
    let all = &cx.settings.all;
    let wanted = Wanted::of(all)?;
    match wanted.kind {
        Kind::Redis => redis(all, wanted),
        Kind::Rabbitmq => rabbitmq(all, wanted),
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
fn redis_options(all: &Options, wanted: Wanted) -> airflow_executors::remote::redis::RedisOptions {
    use airflow_executors::remote::redis::RedisOptions;
    let url = wanted.urls.into_iter().next().map(Secret::into_exposed).unwrap_or_default();
    let mut options = RedisOptions::new(url);
    let prefixes = [all.text("broker", "prefix"), all.text(TRANSPORT, "global_keyprefix")];
    if let Some(prefix) = prefixes.into_iter().find(|prefix| !prefix.is_empty()) {
        options = options.prefix(prefix);
    }
    if let Some(ca) = wanted.ca {
        options = options.ca_pem(ca);
    }
    match wanted.identity {
        Some((certificate, key)) => options.client_pem(certificate, key.into_exposed()),
        None => options,
    }
}

#[cfg(feature = "redis")]
fn redis(all: &Options, wanted: Wanted) -> Result<Arc<dyn Transport>, CliError> {
    use airflow_executors::remote::redis::RedisTransport;
    let made = RedisTransport::new(&redis_options(all, wanted));
    Ok(Arc::new(made.map_err(|error| failed(error.to_string()))?))
}

#[cfg(not(feature = "redis"))]
fn redis(_: &Options, wanted: Wanted) -> Result<Arc<dyn Transport>, CliError> {
    Err(without("redis", wanted))
}

#[cfg(feature = "rabbitmq")]
fn rabbitmq_options(all: &Options, wanted: Wanted) -> airflow_executors::remote::rabbitmq::RabbitmqOptions {
    use airflow_executors::remote::rabbitmq::{QueueKind, RabbitmqOptions};
    let mut urls = wanted.urls.into_iter().map(Secret::into_exposed);
    let mut options = RabbitmqOptions::new(urls.next().unwrap_or_default());
    options = urls.fold(options, RabbitmqOptions::or);
    if !all.text("broker", "prefix").is_empty() {
        options = options.prefix(all.text("broker", "prefix"));
    }
    if all.text("broker", "queue_type") == "classic" {
        options = options.queue_kind(QueueKind::Classic);
    }
    if let Some(most) = all.maybe_number("broker", "max_length") {
        options = options.max_length(most);
    }
    options = options.delivery_limit(all.number("broker", "delivery_limit"));
    if let Some(ca) = wanted.ca {
        options = options.ca_pem(ca);
    }
    match wanted.identity {
        Some((certificate, key)) => options.client_pem(certificate, key.into_exposed()),
        None => options,
    }
}

#[cfg(feature = "rabbitmq")]
fn rabbitmq(all: &Options, wanted: Wanted) -> Result<Arc<dyn Transport>, CliError> {
    use airflow_executors::remote::rabbitmq::RabbitmqTransport;
    let made = RabbitmqTransport::new(&rabbitmq_options(all, wanted));
    Ok(Arc::new(made.map_err(|error| failed(error.to_string()))?))
}

#[cfg(not(feature = "rabbitmq"))]
fn rabbitmq(_: &Options, wanted: Wanted) -> Result<Arc<dyn Transport>, CliError> {
    Err(without("rabbitmq", wanted))
}

#[cfg(not(all(feature = "redis", feature = "rabbitmq")))]
fn without(feature: &str, wanted: Wanted) -> CliError {
    drop((wanted.urls, wanted.ca, wanted.identity));
    failed(format!(
        "this program was built without the feature `{feature}` of `airflow`: add it in Cargo.toml"
    ))
}

#[cfg(test)]
#[path = "broker_tests.rs"]
mod tests;
