//! RabbitMQ as the broker, against real servers.

#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::sync::Arc;

use airflow_executors::remote::rabbitmq::{RabbitmqOptions, RabbitmqTransport};
use airflow_executors::remote::testing::BrokerServer;
use airflow_executors::remote::testing::suite::{Ground, QUEUES};
use airflow_executors::remote::{Transport, TransportError};
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use uuid::Uuid;

/// A prefix of a test's own.
#[derive(Debug)]
struct Prefix {
    url: String,
    prefix: String,
}

fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

impl Ground for Prefix {
    fn host(&self) -> String {
        host_of(&self.url).to_owned()
    }

    fn transport_by(&self, host: &str) -> Arc<dyn Transport> {
        let url = self.url.replace(host_of(&self.url), host);
        Arc::new(RabbitmqTransport::new(&RabbitmqOptions::new(url).prefix(&self.prefix)).unwrap())
    }
}

/// Takes away what a test has made on a server that others use too.
async fn clean(url: &str, prefix: &str) -> lapin::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let mut queues: Vec<String> = QUEUES.iter().map(|queue| format!("{prefix}queue.{queue}")).collect();
    queues.push(format!("{prefix}dead"));
    for queue in queues {
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
    }
    for exchange in ["dead", "topics"] {
        let name = format!("{prefix}{exchange}");
        channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await?;
    }
    connection.close(200, "done".into()).await
}

impl Drop for Prefix {
    fn drop(&mut self) {
        let (url, prefix) = (self.url.clone(), self.prefix.clone());
        // A runtime of its own: this one may be at its end.
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(clean(&url, &prefix)).ok();
        });
        cleaning.join().ok();
    }
}

async fn ground() -> Option<Prefix> {
    let url = tokio::task::spawn_blocking(|| BrokerServer::Rabbitmq.address()).await.unwrap()?;
    Some(Prefix { url: url.to_owned(), prefix: format!("t-{}.", &Uuid::new_v4().simple().to_string()[..12]) })
}

airflow_executors::transport_suite!(ground);

mod common;
#[path = "rabbitmq/faults.rs"]
mod faults;

/// Goal: a queue that somebody has made in another way is known before work is waited for in vain. Method: make one that is
/// limited, then look at it as one who wants it without limits; the check that knows no queues sees nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_was_made_in_another_way_is_found_at_the_start() {
    let Some(ground) = ground().await else { return };
    let options = RabbitmqOptions::new(&ground.url).prefix(&ground.prefix);
    let limited = RabbitmqTransport::new(&options.clone().max_length(7)).unwrap();
    let plain = RabbitmqTransport::new(&options).unwrap();
    let (queue, other) = (QUEUES[0].to_owned(), QUEUES[1].to_owned());
    limited.check_queues(std::slice::from_ref(&queue)).await.unwrap();
    plain.check().await.unwrap();
    plain.check_queues(std::slice::from_ref(&other)).await.unwrap();
    match plain.check_queues(&[other, queue.clone()]).await {
        Err(TransportError::Unfit { why, .. }) => {
            let name = format!("{}queue.{queue}", ground.prefix);
            assert!(why.contains(&name) && why.contains("x-max-length"), "{why}");
            assert!(why.contains("it was made with other settings"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    limited.check_queues(&[queue]).await.unwrap();
}
