//! How fast the brokers are here: the confirm of one message, the way of one message from one process to another, and
//! messages a second in batches of 100.
//!
//! `cargo run --release -p airflow-executors --example broker_speed --features redis,rabbitmq,testing`

#![expect(clippy::print_stdout, reason = "it is for people")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use airflow_executors::remote::rabbitmq::{QueueKind, RabbitmqOptions, RabbitmqTransport};
use airflow_executors::remote::redis::{RedisOptions, RedisTransport};
use airflow_executors::remote::testing::BrokerServer;
use airflow_executors::remote::{ConsumeOptions, Message, Settle, Transport, TransportError};

/// How often one thing is measured.
const TIMES: usize = 1000;
/// How many messages are sent in batches.
const MANY: usize = 20_000;
/// The size of an envelope.
const SIZE: usize = 160;

type Failure = Box<dyn std::error::Error>;

fn messages(count: usize) -> Vec<Message> {
    vec![Message { queue: "speed".into(), body: vec![7; SIZE] }; count]
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!("  {what:<28} p50 {:>9.1?}  p99 {:>9.1?}", at(50), at(99));
}

async fn publish(transport: &dyn Transport, count: usize) -> Result<(), TransportError> {
    transport.publish(messages(count)).await.into_iter().collect()
}

async fn measure(name: &str, transport: Arc<dyn Transport>) -> Result<(), Failure> {
    println!("{name}: {} at {}", transport.check().await?.server, transport.place());
    let options = ConsumeOptions { queues: vec!["speed".into()], name: "speed".into(), prefetch: 200 };
    let consumer = transport.consume(options);
    publish(&*transport, 1).await?;
    let first = consumer.receive(200).await;
    consumer.settle(first.iter().map(|delivery| delivery.token).collect(), Settle::Done).await?;

    let (mut confirms, mut ways) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let begun = Instant::now();
        let sending = async {
            publish(&*transport, 1).await?;
            Ok::<_, TransportError>(begun.elapsed())
        };
        let receiving = async {
            let deliveries = consumer.receive(1).await;
            (begun.elapsed(), deliveries)
        };
        let (confirm, (way, deliveries)) = tokio::join!(sending, receiving);
        confirms.push(confirm?);
        ways.push(way);
        consumer.settle(deliveries.iter().map(|delivery| delivery.token).collect(), Settle::Done).await?;
    }
    show("publish to confirm", confirms);
    show("publish to delivery", ways);

    let begun = Instant::now();
    let sending = async {
        for _ in 0..MANY / 100 {
            publish(&*transport, 100).await?;
        }
        Ok::<_, TransportError>(begun.elapsed())
    };
    let receiving = async {
        let mut count = 0;
        while count < MANY {
            let deliveries = consumer.receive(100).await;
            count += deliveries.len();
            consumer.settle(deliveries.iter().map(|delivery| delivery.token).collect(), Settle::Done).await?;
        }
        Ok::<_, TransportError>(begun.elapsed())
    };
    let (sent, received) = tokio::join!(sending, receiving);
    let rate = |took: Duration| f64::from(u32::try_from(MANY).unwrap_or(u32::MAX)) / took.as_secs_f64();
    println!(
        "  batches of 100               sent {:.0}/s, received and settled {:.0}/s",
        rate(sent?),
        rate(received?)
    );
    consumer.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    // Of its own: others may use the server too. What it leaves there is empty.
    let prefix = "airflow-speed.";
    if let Some(url) = BrokerServer::Redis.address() {
        let redis = RedisTransport::new(&RedisOptions::new(url).prefix(prefix))?;
        measure("redis", Arc::new(redis)).await?;
    }
    if let Some(url) = BrokerServer::Rabbitmq.address() {
        for kind in [QueueKind::Quorum, QueueKind::Classic] {
            let prefix = format!("{prefix}{kind:?}.");
            let options = RabbitmqOptions::new(url).prefix(prefix).queue_kind(kind);
            measure(&format!("rabbitmq, {kind:?}"), Arc::new(RabbitmqTransport::new(&options)?)).await?;
        }
    }
    Ok(())
}
