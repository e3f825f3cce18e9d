//! Connections to RabbitMQ, and what its errors mean.
//!
//! The library can mend connections by itself; that is off, because what it does not mend (a consumer that the broker
//! cancels) would stay silent.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event, ExchangeKind};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::options::{Target, place};
use crate::remote::TransportError;
use crate::remote::pace::Health;

/// How long one node may take to take a connection.
const CONNECT: Duration = Duration::from_secs(4);
/// How long a step of ours at the broker may take. A quorum queue that elects a leader takes seconds.
pub(super) const STEP: Duration = Duration::from_secs(6);
/// How long a call may take altogether.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// A connection that publishes.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) connection: Connection,
    /// In confirm mode.
    pub(super) channel: Channel,
    /// Queues that were there.
    pub(super) declared: Mutex<BTreeSet<String>>,
    /// Why the broker wants nothing published.
    pub(super) blocked: watch::Receiver<Option<String>>,
    watcher: AbortHandle,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Live {
    pub(super) async fn make(target: &Target, health: &Health) -> Result<Self, TransportError> {
        let connection = connect(target, "airflow publisher").await?;
        let (to, blocked) = watch::channel(None);
        let watcher = {
            let mut events = Box::pin(connection.events_listener());
            let health = health.clone();
            tokio::spawn(async move {
                while let Some(event) = events.next().await {
                    let why = match event {
                        Event::ConnectionBlocked(why) => Some(why),
                        Event::ConnectionUnblocked => None,
                        _ => continue,
                    };
                    health.blocked(why.clone());
                    to.send_replace(why);
                }
            })
            .abort_handle()
        };
        let made = step(target, "confirms", async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            channel
                .exchange_declare(
                    target.topics().into(),
                    ExchangeKind::Direct,
                    ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() },
                    FieldTable::default(),
                )
                .await?;
            Ok(channel)
        });
        match made.await {
            Ok(channel) => Ok(Self { connection, channel, declared: Mutex::default(), blocked, watcher }),
            Err(error) => {
                watcher.abort();
                Err(error)
            }
        }
    }

    /// Makes a queue, unless this connection has seen it.
    pub(super) async fn declare(&self, target: &Target, queue: &str) -> Result<(), TransportError> {
        let known =
            |live: &Self| live.declared.lock().unwrap_or_else(PoisonError::into_inner).contains(queue);
        if known(self) {
            return Ok(());
        }
        declare(target, &self.connection, queue).await?;
        self.declared.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.to_owned());
        Ok(())
    }

    pub(super) fn vanished(&self, queue: &str) {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner).remove(queue);
    }
}

/// Connects to the first node that answers.
pub(super) async fn connect(target: &Target, name: &str) -> Result<Connection, TransportError> {
    let mut refused: Option<TransportError> = None;
    for uri in &target.uris {
        let place = place(uri);
        let options = ConnectionProperties::default().with_connection_name(name.into());
        let tls = OwnedTLSConfig { identity: target.identity(), cert_chain: target.ca() };
        let connecting = async {
            let runtime = lapin::runtime::default_runtime()?;
            Connection::connect_uri_with_config(uri.clone(), options, tls, runtime).await
        };
        let error = match tokio::time::timeout(CONNECT, connecting).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => explain(&place, &error),
            Err(_) => late(&place, "the connection", CONNECT),
        };
        // What people have to mend is said, rather than that the next node is not there either.
        if !matches!(refused, Some(TransportError::Unfit { .. })) {
            refused = Some(error);
        }
    }
    Err(refused.unwrap_or_else(|| TransportError::Invalid("no address of RabbitMQ is given".into())))
}

fn late(place: &str, what: &str, limit: Duration) -> TransportError {
    let why = format!("no answer for {what} within {} s; is a firewall between?", limit.as_secs());
    TransportError::Unreachable { place: place.into(), why }
}

/// Does something at the broker, with a deadline.
pub(super) async fn step<T>(
    target: &Target,
    what: &str,
    doing: impl Future<Output = lapin::Result<T>>,
) -> Result<T, TransportError> {
    match tokio::time::timeout(STEP, doing).await {
        Ok(done) => done.map_err(|error| explain(&target.place, &error)),
        Err(_) => Err(late(&target.place, what, STEP)),
    }
}

/// Makes a queue, and where its messages go that came too often. On channels of its own, as a refusal ends a channel.
pub(super) async fn declare(
    target: &Target,
    connection: &Connection,
    queue: &str,
) -> Result<(), TransportError> {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let name = target.queue(queue);
    let made = step(target, "a queue", async {
        let channel = connection.create_channel().await?;
        let dead = target.dead();
        let exchange = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let nothing = FieldTable::default;
        channel.exchange_declare(dead.as_str().into(), ExchangeKind::Fanout, exchange, nothing()).await?;
        channel.queue_declare(dead.as_str().into(), durable, target.dead_arguments()).await?;
        let bind = QueueBindOptions::default();
        channel.queue_bind(dead.as_str().into(), dead.as_str().into(), "".into(), bind, nothing()).await?;
        channel.queue_declare(name.as_str().into(), durable, target.queue_arguments()).await?;
        channel.close(200, "done".into()).await
    });
    let Err(refused) = made.await else { return Ok(()) };
    if !matches!(&refused, TransportError::Unfit { why, .. } if why.contains("ACCESS_REFUSED")) {
        return Err(refused);
    }
    // Who may not make queues may still use those that others have made.
    let passive = QueueDeclareOptions { passive: true, ..durable };
    let looked = step(target, "a queue", async {
        let channel = connection.create_channel().await?;
        channel.queue_declare(name.as_str().into(), passive, FieldTable::default()).await?;
        channel.close(200, "done".into()).await
    });
    looked.await.map_err(|_| refused)
}

/// How many messages wait in a queue and how many consumers it has; `None` if there is none.
pub(super) async fn look(
    target: &Target,
    connection: &Connection,
    queue: &str,
) -> Result<Option<(u32, u32)>, TransportError> {
    let passive = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
    let name = target.queue(queue);
    step(target, "the size of a queue", async {
        let channel = connection.create_channel().await?;
        match channel.queue_declare(name.as_str().into(), passive, FieldTable::default()).await {
            Ok(found) => {
                channel.close(200, "done".into()).await?;
                Ok(Some((found.message_count(), found.consumer_count())))
            }
            Err(error) if code(&error) == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await
}

/// The number that RabbitMQ gives its refusals.
pub(super) fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// What it means, and the cure.
pub(super) fn explain(place: &str, error: &lapin::Error) -> TransportError {
    let unfit = |cure: &str| {
        let said = match error.kind() {
            ErrorKind::ProtocolError(error) => error.get_message().to_string(),
            _ => error.to_string(),
        };
        TransportError::Unfit { place: place.into(), why: format!("{said}; {cure}") }
    };
    let text = error.to_string();
    match code(error) {
        Some(403) if text.contains("Login was refused") || text.contains("PLAIN") => {
            unfit("correct user and password in the address (`guest` may only connect from the same machine)")
        }
        Some(403) => unfit(
            "allow it: rabbitmqctl set_permissions -p <vhost> <user> '^<prefix>.*' '^(<prefix>.*|amq\\.default)$' \
             '^<prefix>.*'",
        ),
        Some(406) => unfit(
            "it was made with other settings: delete it once it is empty (rabbitmqctl delete_queue <queue>), or \
             configure the ones it has",
        ),
        Some(530) => unfit(
            "make the vhost (rabbitmqctl add_vhost <vhost>) and let the user in (rabbitmqctl set_permissions -p \
             <vhost> ..), or correct it in the address",
        ),
        _ => TransportError::Unreachable { place: place.into(), why: text },
    }
}
