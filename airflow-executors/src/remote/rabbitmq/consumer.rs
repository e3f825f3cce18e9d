//! Takes deliveries.
//!
//! The broker sends by itself, to whoever has said that it consumes. So a consumer that has no room, or that nobody waits
//! for, says that it does not any more, and gives back what is on its way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, SelectAll, StreamExt as _};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, Event};
use tokio::time::Instant;

use super::link::{self, STEP, step};
use super::options::Target;
use crate::remote::inbox::{Inbox, Item, Wish};
use crate::remote::pace::Pace;
use crate::remote::{ConsumeOptions, Consumer, Delivery, Settle, Token, TransportError, TransportHealth};

/// How often a broker that sends nothing is asked whether there is something to send. A queue that is deleted and made
/// again within a moment may keep a consumer on its books and send it nothing (seen with quorum queues of 3.10).
const PROBE: Duration = Duration::from_secs(4);
/// How long to sleep at most when there is nothing to do.
const LOOK: Duration = Duration::from_secs(60);

/// A message that is ours until it is settled or the connection is lost.
#[derive(Debug)]
pub(super) struct Held {
    queue: String,
    body: Vec<u8>,
    redeliveries: u32,
    tag: u64,
}

impl Item for Held {
    fn queue(&self) -> &str {
        &self.queue
    }

    fn delivery(&self, token: Token) -> Delivery {
        let (queue, body) = (self.queue.clone(), self.body.clone());
        Delivery { queue, body, redeliveries: self.redeliveries, token }
    }
}

/// How often a message was delivered before: quorum queues count, others say whether.
fn redeliveries(delivery: &lapin::message::Delivery) -> u32 {
    let headers = delivery.properties.headers().as_ref().map(FieldTable::inner);
    let count = match headers.and_then(|headers| headers.get("x-delivery-count")) {
        Some(AMQPValue::LongLongInt(count)) => u32::try_from(*count).unwrap_or(0),
        Some(AMQPValue::LongInt(count)) => u32::try_from(*count).unwrap_or(0),
        Some(AMQPValue::LongUInt(count)) => *count,
        Some(AMQPValue::ShortInt(count)) => u32::try_from(*count).unwrap_or(0),
        Some(AMQPValue::ShortShortInt(count)) => u32::try_from(*count).unwrap_or(0),
        Some(AMQPValue::ShortShortUInt(count)) => u32::from(*count),
        _ => 0,
    };
    count.max(u32::from(delivery.redelivered))
}

/// A consumer of queues.
#[derive(Debug)]
pub(super) struct RabbitmqConsumer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inbox: Inbox<Held>,
    target: Arc<Target>,
    /// What is settled is settled where it came from.
    channel: Mutex<Option<Channel>>,
}

impl Shared {
    fn channel(&self) -> Option<Channel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn tell(target: &Target, channel: &Channel, items: &[Held], how: Settle) -> Result<(), TransportError> {
    step(target, "settling", async {
        for item in items {
            match how {
                Settle::Done => channel.basic_ack(item.tag, BasicAckOptions::default()).await?,
                Settle::Back => {
                    let again = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                    channel.basic_nack(item.tag, again).await?;
                }
            }
        }
        Ok(())
    })
    .await
}

impl RabbitmqConsumer {
    pub(super) fn start(target: Arc<Target>, options: ConsumeOptions) -> Self {
        let shared = Arc::new(Shared { inbox: Inbox::new(options), target, channel: Mutex::default() });
        tokio::spawn(run(Arc::clone(&shared)));
        Self { shared }
    }
}

#[async_trait]
impl Consumer for RabbitmqConsumer {
    async fn receive(&self, room: usize) -> Vec<Delivery> {
        self.shared.inbox.receive(room).await
    }

    async fn settle(&self, tokens: Vec<Token>, how: Settle) -> Result<(), TransportError> {
        let channel = self.shared.channel();
        let items = self.shared.inbox.settled(&tokens);
        match channel {
            Some(channel) if !items.is_empty() => tell(&self.shared.target, &channel, &items, how).await,
            _ => Ok(()),
        }
    }

    async fn pause(&self) {
        self.shared.inbox.pause().await;
    }

    async fn set_queues(&self, queues: Vec<String>) {
        self.shared.inbox.set_queues(queues).await;
    }

    fn health(&self) -> TransportHealth {
        self.shared.inbox.health.told()
    }

    async fn close(&self) {
        self.shared.inbox.close().await;
    }
}

impl Drop for RabbitmqConsumer {
    fn drop(&mut self) {
        self.shared.inbox.end();
    }
}

/// Consumes until the consumer is closed.
async fn run(shared: Arc<Shared>) {
    let inbox = &shared.inbox;
    let mut pace = Pace::default();
    let mut connections = 0;
    while !inbox.is_closed() {
        connections += 1;
        let ended = session(&shared, connections, &mut pace).await;
        *shared.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let Err(error) = ended else { break };
        let pause = pace.next();
        tracing::debug!(consumer = %inbox.name, %error, ?pause, "lost RabbitMQ");
        inbox.health.failed(error.to_string());
        inbox.sleep(pause).await;
    }
    inbox.follow(u64::MAX);
}

/// What came from a queue; nothing at the end of what it sends.
type Came = (String, Option<lapin::Result<lapin::message::Delivery>>);

/// One connection.
struct Session<'a> {
    shared: &'a Shared,
    connection: Connection,
    channel: Channel,
    streams: SelectAll<BoxStream<'static, Came>>,
    /// What we consume, if we do.
    active: Option<Active>,
}

struct Active {
    queues: Vec<String>,
    tags: Vec<ShortString>,
    /// How many may be on their way from each queue.
    each: usize,
}

/// Consumes until the consumer is closed, which is `Ok`, or the connection is lost.
async fn session(shared: &Shared, number: u64, pace: &mut Pace) -> Result<(), TransportError> {
    let inbox = &shared.inbox;
    let connection = link::connect(&shared.target, &format!("airflow {}", inbox.name)).await?;
    let mut events = Box::pin(connection.events_listener());
    let channel = step(&shared.target, "a channel", connection.create_channel()).await?;
    inbox.begin(number);
    *shared.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel.clone());
    inbox.health.connected();
    let mut session = Session { shared, connection, channel, streams: SelectAll::new(), active: None };
    let mut orders = inbox.orders.subscribe();
    let (mut probe_at, mut suspicious) = (Instant::now() + PROBE, false);
    loop {
        let order = *orders.borrow_and_update();
        let wish = inbox.wish(Instant::now());
        if wish.closed {
            return session.leave().await;
        }
        session.adapt(&wish).await?;
        inbox.follow(order);
        // Who holds something may have no more to come.
        let is_hungry = wish.count > 0 && session.active.is_some() && !inbox.has(|_| true);
        if is_hungry && probe_at <= Instant::now() {
            suspicious = session.probe(suspicious).await?;
            probe_at = Instant::now() + PROBE;
        }
        let asleep = Instant::now() + LOOK;
        let until = wish.until.unwrap_or(asleep).min(if is_hungry { probe_at } else { asleep });
        tokio::select! {
            Some(came) = session.streams.next() => {
                (probe_at, suspicious) = (Instant::now() + PROBE, false);
                pace.reset();
                inbox.health.worked();
                inbox.arrived(vec![session.held(came)?], Instant::now());
            }
            Some(event) = events.next() => session.heed(event)?,
            () = inbox.room.notified() => {}
            _ = orders.changed() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

impl Session<'_> {
    fn lost(&self, why: impl Into<String>) -> TransportError {
        TransportError::Unreachable { place: self.shared.target.place.clone(), why: why.into() }
    }

    fn heed(&self, event: Event) -> Result<(), TransportError> {
        match event {
            Event::Error(error) => Err(link::explain(&self.shared.target.place, &error)),
            _ => Ok(()),
        }
    }

    fn held(&self, (queue, delivery): Came) -> Result<Held, TransportError> {
        match delivery {
            Some(Ok(delivery)) => Ok(Held {
                redeliveries: redeliveries(&delivery),
                tag: delivery.delivery_tag,
                queue,
                body: delivery.data,
            }),
            Some(Err(error)) => Err(link::explain(&self.shared.target.place, &error)),
            None => Err(self.lost(format!("it does not send from the queue `{queue}` any more"))),
        }
    }

    /// Consumes what is wanted, and nothing else.
    async fn adapt(&mut self, wish: &Wish) -> Result<(), TransportError> {
        let inbox = &self.shared.inbox;
        let is_over = self.active.as_ref().is_some_and(|active| {
            let size = active.each * active.queues.len();
            // It began when there was less room.
            let is_small = wish.count > 2 * size;
            active.queues != wish.queues || wish.abandoned || is_small
        });
        let surplus = inbox.surplus(&wish.queues, wish.abandoned);
        if is_over || !surplus.is_empty() {
            self.stop().await?;
            let mut back = surplus;
            back.extend(inbox.surplus(&wish.queues, wish.abandoned));
            tell(&self.shared.target, &self.channel, &back, Settle::Back).await?;
        }
        if self.active.is_none() && wish.count > 0 && !wish.queues.is_empty() {
            self.begin(wish).await?;
        }
        Ok(())
    }

    /// Lets the broker send.
    async fn begin(&mut self, wish: &Wish) -> Result<(), TransportError> {
        let target = &*self.shared.target;
        let each = (wish.count / wish.queues.len()).max(1);
        let mut active = Active { queues: wish.queues.clone(), tags: Vec::new(), each };
        let most = u16::try_from(each).unwrap_or(u16::MAX);
        // For each consumer that begins after it on this channel.
        step(target, "the prefetch", self.channel.basic_qos(most, BasicQosOptions::default())).await?;
        for queue in &wish.queues {
            link::declare(target, &self.connection, queue).await?;
            let consumer = step(
                target,
                "a consumer",
                self.channel.basic_consume(
                    target.queue(queue).into(),
                    "".into(),
                    BasicConsumeOptions::default(),
                    FieldTable::default(),
                ),
            )
            .await?;
            active.tags.push(consumer.tag());
            let (name, last) = (queue.clone(), queue.clone());
            let came = consumer.map(move |delivery| (name.clone(), Some(delivery)));
            self.streams.push(came.chain(stream::iter([(last, None)])).boxed());
        }
        self.active = Some(active);
        Ok(())
    }

    /// Asks whether messages wait that are not sent to us, although we wait for them. That may be so for a moment; if it
    /// was so the last time already, the connection is given up.
    async fn probe(&mut self, suspicious: bool) -> Result<bool, TransportError> {
        let queues = self.active.as_ref().map(|active| active.queues.clone()).unwrap_or_default();
        for queue in &queues {
            let found = link::look(&self.shared.target, &self.connection, queue).await?;
            match found {
                Some((0, consumers)) if consumers > 0 => {}
                _ if suspicious => {
                    return Err(self
                        .lost(format!("it sends nothing from the queue `{queue}`, where something waits")));
                }
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Lets the broker send nothing more; what is on its way arrives.
    async fn stop(&mut self) -> Result<(), TransportError> {
        let Some(active) = self.active.take() else { return Ok(()) };
        for tag in active.tags {
            let cancel = self.channel.basic_cancel(tag, BasicCancelOptions::default());
            step(&self.shared.target, "the end of a consumer", cancel).await?;
        }
        let mut held = Vec::new();
        let drain = async {
            while let Some(came) = self.streams.next().await {
                if came.1.is_some() {
                    held.push(came);
                }
            }
        };
        if tokio::time::timeout(STEP, drain).await.is_err() {
            return Err(self.lost("it does not end a consumer"));
        }
        let held = held.into_iter().map(|came| self.held(came)).collect::<Result<Vec<_>, _>>()?;
        self.shared.inbox.arrived(held, Instant::now());
        Ok(())
    }

    /// Gives back all that was not settled.
    async fn leave(&mut self) -> Result<(), TransportError> {
        self.stop().await?;
        let back = self.shared.inbox.drain();
        tell(&self.shared.target, &self.channel, &back, Settle::Back).await?;
        let close = self.connection.close(200, "done".into());
        step(&self.shared.target, "the end of the connection", close).await
    }
}
