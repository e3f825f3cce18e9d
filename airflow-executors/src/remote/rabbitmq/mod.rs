//! RabbitMQ as the broker, from 3.10 on.
//!
//! A queue is a durable quorum queue; what it was given it has confirmed. Start with [`RabbitmqTransport`].

mod check;
mod consumer;
mod link;
mod notices;
mod options;
mod publisher;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use self::options::Target;
pub use self::options::{QueueKind, RabbitmqOptions};
use self::publisher::Publisher;
use super::transport::check_queue;
use super::{
    BrokerFacts, ConsumeOptions, Consumer, Depth, Message, Subscription, Transport, TransportError,
    TransportHealth,
};

/// RabbitMQ as the broker.
///
/// ```no_run
/// use airflow_executors::remote::rabbitmq::{RabbitmqOptions, RabbitmqTransport};
/// use airflow_executors::remote::{Message, Transport as _};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rabbitmq = RabbitmqTransport::new(&RabbitmqOptions::new("amqp://guest:guest@127.0.0.1:5672/"))?;
/// for warning in rabbitmq.check().await?.warnings {
///     println!("{warning}");
/// }
/// let sent = rabbitmq.publish(vec![Message { queue: "default".into(), body: b"hello".to_vec() }]).await;
/// assert!(sent[0].is_ok());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct RabbitmqTransport {
    publisher: Publisher,
    target: Arc<Target>,
}

impl RabbitmqTransport {
    /// RabbitMQ at this place. Connects when it is first needed.
    ///
    /// # Errors
    ///
    /// [`TransportError::Invalid`] if an address or the prefix cannot be used.
    pub fn new(options: &RabbitmqOptions) -> Result<Self, TransportError> {
        let target = Arc::new(options.target()?);
        Ok(Self { publisher: Publisher::new(Arc::clone(&target)), target })
    }
}

#[async_trait]
impl Transport for RabbitmqTransport {
    fn name(&self) -> &'static str {
        "rabbitmq"
    }

    fn place(&self) -> String {
        self.target.place.clone()
    }

    async fn check(&self) -> Result<BrokerFacts, TransportError> {
        let late = |_| TransportError::Unreachable {
            place: self.place(),
            why: format!(
                "no answer within {} s; is it running, and is a firewall between?",
                link::DEADLINE.as_secs()
            ),
        };
        tokio::time::timeout(link::DEADLINE, check::check(&self.target)).await.map_err(late)?
    }

    async fn check_queues(&self, queues: &[String]) -> Result<(), TransportError> {
        queues.iter().try_for_each(|queue| check_queue(queue))?;
        self.publisher
            .ask(|live| async move {
                for queue in queues {
                    link::declare(&self.target, &live.connection, queue).await?;
                }
                Ok(())
            })
            .await
    }

    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<(), TransportError>> {
        self.publisher.publish(&messages).await
    }

    fn consume(&self, options: ConsumeOptions) -> Box<dyn Consumer> {
        Box::new(consumer::RabbitmqConsumer::start(Arc::clone(&self.target), options))
    }

    async fn announce(&self, topic: &str, body: Vec<u8>) -> Result<(), TransportError> {
        check_queue(topic)?;
        self.publisher.tell(&self.target.topics(), topic, &body).await
    }

    fn subscribe(&self, topic: &str) -> Subscription {
        let (to, from) = mpsc::channel(Subscription::ROOM);
        tokio::spawn(notices::listen(Arc::clone(&self.target), topic.to_owned(), to));
        Subscription(from)
    }

    async fn depth(&self, queue: &str) -> Result<Depth, TransportError> {
        check_queue(queue)?;
        let looked =
            self.publisher.ask(|live| async move { link::look(&self.target, &live.connection, queue).await });
        let (ready, consumers) = looked.await?.unwrap_or_default();
        // What was delivered is counted for its management only, not for clients.
        Ok(Depth { ready: ready.into(), consumers: consumers.into(), ..Depth::default() })
    }

    fn health(&self) -> TransportHealth {
        self.publisher.slot.health.told()
    }
}
