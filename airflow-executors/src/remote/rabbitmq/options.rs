//! Where RabbitMQ is, and how its queues are made.

use std::time::Duration;

use airflow_core::secret::Secret;
use lapin::tcp::OwnedIdentity;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::{AMQPScheme, AMQPUri};

use crate::remote::TransportError;
use crate::remote::transport::{check_authority, check_identity};

/// A peer that says nothing for twice this is gone.
const HEARTBEAT: u16 = 10;
/// The longest prefix, in bytes: with the longest name of a queue it must fit into 255.
const MAX_PREFIX: usize = 40;
/// What is set aside stays for a week, and not more than so many: people look at it, and nobody else.
const DEAD: (Duration, i32) = (Duration::from_secs(7 * 24 * 3600), 10_000);

/// How queues are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum QueueKind {
    /// On several nodes, which agree on each message.
    #[default]
    Quorum,
    /// On one node: for development, and where the loss of queued messages may be cured by sending them again.
    Classic,
}

impl QueueKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
        }
    }
}

/// Where RabbitMQ is and what our queues are like.
///
/// Addresses are `amqp://user:password@host:port/vhost`, with TLS `amqps://`; without a vhost it is `/`. Several are
/// tried in their order.
///
/// ```
/// use airflow_executors::remote::rabbitmq::{RabbitmqOptions, RabbitmqTransport};
/// use airflow_executors::remote::Transport as _;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options = RabbitmqOptions::new("amqp://airflow:pa55@one/jobs").or("amqp://airflow:pa55@two/jobs");
/// let transport = RabbitmqTransport::new(&options)?;
/// assert_eq!(transport.place(), "amqp://one:5672/jobs, amqp://two:5672/jobs");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct RabbitmqOptions {
    urls: Vec<Secret>,
    prefix: String,
    kind: QueueKind,
    max_length: Option<u32>,
    delivery_limit: u32,
    ca: Option<String>,
    identity: Option<(String, Secret)>,
}

impl RabbitmqOptions {
    /// RabbitMQ at this address, with the prefix `airflow.` and quorum queues.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            urls: vec![Secret::new(url.into())],
            prefix: "airflow.".into(),
            kind: QueueKind::default(),
            max_length: None,
            // Workers give back what they have no code for, and each time counts. Five workers have ten turns then.
            delivery_limit: 50,
            ca: None,
            identity: None,
        }
    }

    /// Another node, which is tried if those before do not answer.
    #[must_use]
    pub fn or(mut self, url: impl Into<String>) -> Self {
        self.urls.push(Secret::new(url.into()));
        self
    }

    /// What all queues and exchanges begin with. Two installations on one vhost need different ones.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How queues are kept. A queue that exists keeps its kind: delete it first.
    #[must_use]
    pub fn queue_kind(mut self, kind: QueueKind) -> Self {
        self.kind = kind;
        self
    }

    /// The most messages of a queue. What is more is refused, and sent again later. Without, the database limits what is
    /// queued.
    #[must_use]
    pub fn max_length(mut self, messages: u32) -> Self {
        self.max_length = Some(messages);
        self
    }

    /// How often a message may come back, as when its workers die or have no code for it, until it is set aside. Only
    /// quorum queues count. Default 50.
    #[must_use]
    pub fn delivery_limit(mut self, times: u32) -> Self {
        self.delivery_limit = times;
        self
    }

    /// The certificate of an authority to trust for `amqps://` beside public ones, in PEM.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<String>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// A certificate of ours and its key (PKCS #8), in PEM, for a broker that wants to know who connects.
    #[must_use]
    pub fn client_pem(mut self, certificate: impl Into<String>, key: impl Into<String>) -> Self {
        self.identity = Some((certificate.into(), Secret::new(key.into())));
        self
    }

    pub(super) fn target(&self) -> Result<Target, TransportError> {
        if self.prefix.len() > MAX_PREFIX {
            return Err(TransportError::Invalid(format!(
                "the prefix `{}` of queues has {} bytes, at most {MAX_PREFIX} are allowed",
                self.prefix,
                self.prefix.len()
            )));
        }
        self.ca.as_deref().map_or(Ok(()), |ca| check_authority(ca.as_bytes()))?;
        if let Some((certificate, key)) = &self.identity {
            check_identity(certificate, key.expose())?;
        }
        let uris = self.urls.iter().map(uri).collect::<Result<Vec<_>, _>>()?;
        if uris.iter().any(|uri| uri.scheme == AMQPScheme::AMQPS) {
            // A program that links several providers of cryptography has to say which; if it did, this does nothing.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let places: Vec<String> = uris.iter().map(place).collect();
        Ok(Target { place: places.join(", "), uris, options: self.clone() })
    }
}

fn uri(url: &Secret) -> Result<AMQPUri, TransportError> {
    let invalid = |problem: &str| {
        TransportError::Invalid(format!(
            "the address of RabbitMQ cannot be used: {problem}; write amqp://user:password@host:5672/vhost"
        ))
    };
    let text = url.expose();
    // What the parser says may quote the address, and with it the password.
    let parsed = url::Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
    if !matches!(parsed.scheme(), "amqp" | "amqps") {
        return Err(invalid("its scheme is none of amqp, amqps"));
    }
    if parsed.host_str().is_none_or(str::is_empty) {
        return Err(invalid("it names no host"));
    }
    let mut uri: AMQPUri = text.parse().map_err(|_| invalid("it cannot be read"))?;
    if parsed.path() == "/" {
        // That would be the vhost without a name, which nobody means.
        uri.vhost = "/".into();
    }
    uri.query.heartbeat = uri.query.heartbeat.or(Some(HEARTBEAT));
    Ok(uri)
}

pub(super) fn place(uri: &AMQPUri) -> String {
    let vhost = uri.vhost.trim_start_matches('/');
    format!("{}://{}:{}/{vhost}", uri.scheme, uri.authority.host, uri.authority.port)
}

/// Places to connect to.
#[derive(Debug)]
pub(super) struct Target {
    /// For people.
    pub(super) place: String,
    pub(super) uris: Vec<AMQPUri>,
    options: RabbitmqOptions,
}

impl Target {
    pub(super) fn ca(&self) -> Option<String> {
        self.options.ca.clone()
    }

    pub(super) fn identity(&self) -> Option<OwnedIdentity> {
        let (certificate, key) = self.options.identity.as_ref()?;
        Some(OwnedIdentity::PKCS8 { pem: certificate.clone().into(), key: key.expose().clone().into() })
    }

    pub(super) fn kind(&self) -> QueueKind {
        self.options.kind
    }

    pub(super) fn limits(&self) -> (Option<u32>, u32) {
        (self.options.max_length, self.options.delivery_limit)
    }

    pub(super) fn queue(&self, queue: &str) -> String {
        format!("{}queue.{queue}", self.options.prefix)
    }

    /// Both the exchange and the queue for what came too often.
    pub(super) fn dead(&self) -> String {
        format!("{}dead", self.options.prefix)
    }

    /// The exchange for notices.
    pub(super) fn topics(&self) -> String {
        format!("{}topics", self.options.prefix)
    }

    /// What a queue is declared with. Another process with other settings is refused by the broker.
    pub(super) fn queue_arguments(&self) -> FieldTable {
        let mut table = FieldTable::default();
        let text = |text: &str| AMQPValue::LongString(text.into());
        table.insert("x-queue-type".into(), text(self.options.kind.name()));
        // The other way is to drop the oldest, without a word.
        table.insert("x-overflow".into(), text("reject-publish"));
        table.insert("x-dead-letter-exchange".into(), text(&self.dead()));
        if let Some(most) = self.options.max_length {
            table.insert("x-max-length".into(), AMQPValue::LongLongInt(most.into()));
        }
        if self.options.kind == QueueKind::Quorum {
            table.insert(
                "x-delivery-limit".into(),
                AMQPValue::LongLongInt(self.options.delivery_limit.into()),
            );
        }
        table
    }

    pub(super) fn dead_arguments(&self) -> FieldTable {
        let mut table = FieldTable::default();
        let keep = i64::try_from(DEAD.0.as_millis()).expect("a week");
        table.insert("x-queue-type".into(), AMQPValue::LongString(self.options.kind.name().into()));
        table.insert("x-message-ttl".into(), AMQPValue::LongLongInt(keep));
        table.insert("x-max-length".into(), AMQPValue::LongInt(DEAD.1));
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Result<String, String> {
        RabbitmqOptions::new(url).target().map(|target| target.place).map_err(|error| error.to_string())
    }

    #[test]
    fn places_show_no_secrets() {
        for (url, shown) in [
            ("amqp://h", "amqp://h:5672/"),
            ("amqp://h/", "amqp://h:5672/"),
            ("amqp://u:pa55@h:7/%2f", "amqp://h:7/"),
            ("amqps://u:pa55@h/jobs", "amqps://h:5671/jobs"),
        ] {
            assert_eq!(place(url).as_deref(), Ok(shown), "{url}");
        }
        assert_eq!(RabbitmqOptions::new("amqp://h/").target().unwrap().uris[0].vhost, "/");
        assert!(
            !format!("{:?}", RabbitmqOptions::new("amqp://u:pa55@h").or("amqp://u:pa55@g")).contains("pa55")
        );
    }

    #[test]
    fn what_cannot_be_used_says_why_and_shows_no_password() {
        for (url, why) in [
            ("h:5672", "scheme"),
            ("redis://h", "none of amqp"),
            ("amqp://u:pa55@:7/", "host"),
            ("amqp://u:pa55@h:port", "port"),
            ("amqp://u:pa55@h?heartbeat=often", "cannot be read"),
        ] {
            let refused = place(url).unwrap_err();
            assert!(refused.contains(why) && !refused.contains("pa55"), "{url}: {refused}");
        }
        let long = RabbitmqOptions::new("amqp://h").prefix("p".repeat(41)).target();
        let no_pem = RabbitmqOptions::new("amqps://h").ca_pem("no certificate").target();
        assert!(no_pem.unwrap_err().to_string().contains("BEGIN CERTIFICATE"));
        assert!(long.unwrap_err().to_string().contains("41 bytes"));
    }
}
