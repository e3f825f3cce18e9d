//! Listens to a topic: a queue of one's own, which goes with the connection.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::ExchangeKind;
use lapin::options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::mpsc;

use super::link::{connect, explain, step};
use super::options::Target;
use crate::remote::pace::Pace;
use crate::remote::{Subscription, TransportError};

/// How long a pause after the end of a subscription is at least: the broker ends it only if something is wrong.
const SHORTEST: Duration = Duration::from_millis(100);

/// Listens until nobody reads any more.
pub(super) async fn listen(target: Arc<Target>, topic: String, to: mpsc::Sender<Vec<u8>>) {
    let mut pace = Pace::default();
    loop {
        tokio::select! {
            () = to.closed() => return,
            ended = session(&target, &topic, &to, &mut pace) => {
                let pause = pace.next().max(SHORTEST);
                tracing::debug!(topic, error = ?ended.err(), ?pause, "lost a subscription");
                tokio::select! {
                    () = to.closed() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

async fn session(
    target: &Target,
    topic: &str,
    to: &mpsc::Sender<Vec<u8>>,
    pace: &mut Pace,
) -> Result<(), TransportError> {
    let connection = connect(target, "airflow notices").await?;
    let begin = async {
        let channel = connection.create_channel().await?;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let topics = target.topics();
        let nothing = FieldTable::default;
        channel.exchange_declare(topics.as_str().into(), ExchangeKind::Direct, durable, nothing()).await?;
        let mut limits = FieldTable::default();
        let most = i32::try_from(Subscription::ROOM).unwrap_or(i32::MAX);
        limits.insert("x-max-length".into(), AMQPValue::LongInt(most));
        let name = format!("{topics}.{}", uuid::Uuid::new_v4().simple());
        let own =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.as_str().into(), own, limits).await?;
        let bind = QueueBindOptions::default();
        channel.queue_bind(name.as_str().into(), topics.into(), topic.into(), bind, nothing()).await?;
        let all = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        channel.basic_consume(name.into(), "".into(), all, nothing()).await
    };
    let mut notices = step(target, "a subscription", begin).await?;
    pace.reset();
    // A peer that is gone is noticed by its heartbeats, which ends this.
    while let Some(notice) = notices.next().await {
        let notice = notice.map_err(|error| explain(&target.place, &error))?;
        // A reader that does not keep up misses notices, and nobody waits for it.
        drop(to.try_send(notice.data));
    }
    Ok(())
}
