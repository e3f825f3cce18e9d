//! What a broker has to do for us, and no more.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::envelope::MAX_QUEUE;

/// Why a broker did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// It cannot be reached, or does not answer in time.
    #[error("cannot reach the broker {place}: {why}")]
    Unreachable {
        /// Its address, without secrets.
        place: String,
        /// What went wrong, and the cure.
        why: String,
    },
    /// It is there, and is not set up so that it can serve.
    #[error("the broker {place} cannot serve: {why}")]
    Unfit {
        /// Its address, without secrets.
        place: String,
        /// What is wrong, and the cure.
        why: String,
    },
    /// It took a message and did not keep it: its queue is full or gone, or the broker is short of memory or disk.
    #[error("the broker did not keep a message for the queue `{queue}`: {why}")]
    Rejected {
        /// The queue.
        queue: String,
        /// What the broker said.
        why: String,
    },
    /// What was asked for cannot be sent.
    #[error("{0}")]
    Invalid(String),
}

/// Whether a queue can have this name.
#[cfg_attr(not(any(feature = "redis", feature = "rabbitmq")), expect(dead_code, reason = "brokers ask it"))]
pub(super) fn check_queue(queue: &str) -> Result<(), TransportError> {
    match queue.len() {
        1..=MAX_QUEUE => Ok(()),
        0 => Err(TransportError::Invalid("the name of a queue is empty".into())),
        len => Err(TransportError::Invalid(format!(
            "the name of the queue `{}…` has {len} bytes, at most {MAX_QUEUE} are allowed",
            queue.chars().take(40).collect::<String>()
        ))),
    }
}

/// Whether this can be the certificate of an authority: without one nobody would be trusted, and nobody would know why.
#[cfg_attr(not(any(feature = "redis", feature = "rabbitmq")), expect(dead_code, reason = "brokers ask it"))]
pub(super) fn check_authority(pem: &[u8]) -> Result<(), TransportError> {
    const HEAD: &[u8] = b"-----BEGIN CERTIFICATE-----";
    if pem.windows(HEAD.len()).any(|window| window == HEAD) {
        return Ok(());
    }
    let why = "there is no certificate in what is to be the authority for TLS; give it in PEM, which has a line \
               `-----BEGIN CERTIFICATE-----`";
    Err(TransportError::Invalid(why.into()))
}

/// Whether these can be a certificate of ours and its key.
#[cfg_attr(not(any(feature = "redis", feature = "rabbitmq")), expect(dead_code, reason = "brokers ask it"))]
pub(super) fn check_identity(certificate: &str, key: &str) -> Result<(), TransportError> {
    if certificate.contains("-----BEGIN CERTIFICATE-----") && key.contains("PRIVATE KEY-----") {
        return Ok(());
    }
    let why = "the certificate of this program for TLS and its key are to be in PEM, without a password: one has a line \
               `-----BEGIN CERTIFICATE-----`, the other one `-----BEGIN PRIVATE KEY-----`";
    Err(TransportError::Invalid(why.into()))
}

/// A message to a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The queue as tasks name it; made if it does not exist.
    pub queue: String,
    /// At most a few hundred bytes.
    pub body: Vec<u8>,
}

/// Names a delivery to the consumer it came from. One from before a lost connection is known as such, and settling it
/// does nothing: the broker delivers that message again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// Which connection of the consumer.
    pub connection: u64,
    /// Which delivery of it.
    pub number: u64,
}

/// A message that came. It is the receiver's until it is settled or the connection is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The queue.
    pub queue: String,
    /// What was sent, unchecked: anybody who reaches the broker may have sent it.
    pub body: Vec<u8>,
    /// How often it was delivered before, as far as the broker knows.
    pub redeliveries: u32,
    /// Names it.
    pub token: Token,
}

/// What becomes of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// Done with: the broker forgets them.
    Done,
    /// Another consumer is to have them, as soon as possible.
    Back,
}

/// What a consumer wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumeOptions {
    /// The queues, as tasks name them.
    pub queues: Vec<String>,
    /// A name for people who look at the broker; unique among those that live.
    pub name: String,
    /// The most deliveries that may be unsettled at once.
    pub prefetch: u16,
}

/// How full a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Messages that nobody has.
    pub ready: u64,
    /// Messages that were delivered and not settled.
    pub unsettled: u64,
    /// Who listens to it.
    pub consumers: u64,
    /// How long the oldest message has been waiting, if the broker can tell.
    pub oldest: Option<Duration>,
}

/// What a broker is and how it keeps messages, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BrokerFacts {
    /// Name and version, such as `redis 8.2.1`.
    pub server: String,
    /// Settings that matter, as `(name, value)`.
    pub settings: Vec<(String, String)>,
    /// What may lose messages. Harmless, as all are sent again, but slow.
    pub warnings: Vec<String>,
}

/// How the connection to a broker is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TransportHealth {
    /// Whether the last thing that was asked for was done.
    pub is_connected: bool,
    /// Whether the broker wants nothing published for now (an alarm of memory or disk), and why.
    pub blocked: Option<String>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// How often a connection was made again.
    pub reconnects: u64,
}

/// Carries messages from schedulers to workers, and notices between all processes.
///
/// # Contract
///
/// - Nothing here is needed for a correct result: a message may be lost, doubled, late, or come from a stranger.
/// - No call waits for ever: each has a deadline of its own, and gives an error then.
/// - After any error the connection is made anew, with pauses that grow from 100 ms to 1 s, for as long as the
///   transport or the consumer exists. Nobody has to call anything for it.
/// - Cheap to share: connections are made when they are first needed, and one that waits for deliveries is nobody
///   else's.
#[async_trait]
pub trait Transport: Send + Sync + fmt::Debug + 'static {
    /// `redis`, `rabbitmq`.
    fn name(&self) -> &'static str;

    /// Where the broker is, for people; without secrets.
    fn place(&self) -> String;

    /// Reaches the broker and looks whether it can serve: for the start of a process, which should not begin with a
    /// broker that is misconfigured.
    ///
    /// # Errors
    ///
    /// [`TransportError::Unreachable`] or [`TransportError::Unfit`].
    async fn check(&self) -> Result<BrokerFacts, TransportError>;

    /// Looks whether these queues can be used as they are: somebody may have made one of the same name in another way. For
    /// the start of whoever takes work from them.
    ///
    /// # Errors
    ///
    /// [`TransportError::Unfit`] with the name of the queue, or [`TransportError::Unreachable`].
    async fn check_queues(&self, _queues: &[String]) -> Result<(), TransportError> {
        Ok(())
    }

    /// Hands messages over and returns when the broker has said of each whether it keeps it. One answer for each, in
    /// order. Messages of one call may be sent in one go.
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<(), TransportError>>;

    /// Listens to queues. Returns at once; what goes wrong is tried again and stands in [`Consumer::health`].
    fn consume(&self, options: ConsumeOptions) -> Box<dyn Consumer>;

    /// Tells everybody who listens to `topic` at this moment. Nobody may be.
    ///
    /// # Errors
    ///
    /// If it could not be sent.
    async fn announce(&self, topic: &str, body: Vec<u8>) -> Result<(), TransportError>;

    /// Listens to a topic, from now until it is dropped.
    fn subscribe(&self, topic: &str) -> Subscription;

    /// How full a queue is; all zeros if there is none.
    ///
    /// # Errors
    ///
    /// If the broker cannot be asked.
    async fn depth(&self, queue: &str) -> Result<Depth, TransportError>;

    /// How the connection for publishing is. Asks nobody.
    fn health(&self) -> TransportHealth;
}

/// Reaches a broker at the start of whoever takes work from these queues, and says what may be better.
pub(super) async fn reach(transport: &dyn Transport, queues: &[String]) -> Result<(), TransportError> {
    let facts = transport.check().await?;
    facts.warnings.iter().for_each(|warning| tracing::warn!(broker = facts.server, warning));
    transport.check_queues(queues).await
}

/// What is announced under a topic. At most [`Subscription::ROOM`] notices wait to be read; more are dropped.
#[derive(Debug)]
pub struct Subscription(pub tokio::sync::mpsc::Receiver<Vec<u8>>);

impl Subscription {
    /// How many notices may wait.
    pub const ROOM: usize = 1024;

    /// The next one; `None` if the transport is gone.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.0.recv().await
    }
}

/// Takes deliveries of some queues.
///
/// # Contract
///
/// - Never more than `prefetch` deliveries are unsettled, and none is taken from the broker while nobody waits in
///   [`receive`](Self::receive) but for a moment: what a consumer cannot use soon goes back, so that others get it.
/// - Dropping it gives back what was not settled.
#[async_trait]
pub trait Consumer: Send + Sync + fmt::Debug {
    /// Waits until something comes and returns it, at most `room` deliveries. May be dropped at any point: what it had
    /// not returned comes again.
    async fn receive(&self, room: usize) -> Vec<Delivery>;

    /// Settles deliveries. An error means that the connection is lost, and that they come again.
    ///
    /// # Errors
    ///
    /// If the broker could not be told.
    async fn settle(&self, tokens: Vec<Token>, how: Settle) -> Result<(), TransportError>;

    /// Takes nothing more until [`receive`](Self::receive) is called again; what was fetched and not returned goes back
    /// at once.
    async fn pause(&self);

    /// Listens to these queues from now on.
    async fn set_queues(&self, queues: Vec<String>);

    /// How its connection is. Asks nobody.
    fn health(&self) -> TransportHealth;

    /// Gives back what was not settled, and says goodbye to the broker.
    async fn close(&self);
}
