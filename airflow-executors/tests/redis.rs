//! Redis as the broker, against real servers.

#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use airflow_executors::remote::redis::{RedisOptions, RedisTransport};
use airflow_executors::remote::testing::BrokerServer;
use airflow_executors::remote::testing::suite::Ground;
use airflow_executors::remote::{Message, Transport, TransportError};
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
    fn transport_by(&self, host: &str) -> Arc<dyn Transport> {
        let url = self.url.replace(host_of(&self.url), host);
        Arc::new(RedisTransport::new(&RedisOptions::new(url).prefix(&self.prefix)).unwrap())
    }

    fn host(&self) -> String {
        host_of(&self.url).to_owned()
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        use redis::streams::StreamInfoGroupsReply;
        let mut conn = redis::Client::open(self.url.as_str()).unwrap().get_connection().unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let keys: Vec<String> =
                redis::cmd("KEYS").arg(format!("{}*", self.prefix)).query(&mut conn).unwrap();
            // Consumers that were dropped give back what they held, and go then.
            let mut listening = |key: &String| {
                let groups: Result<StreamInfoGroupsReply, _> =
                    redis::cmd("XINFO").arg(&["GROUPS", key]).query(&mut conn);
                groups.is_ok_and(|reply| reply.groups.iter().any(|group| group.consumers > 0))
            };
            if keys.iter().any(&mut listening) && Instant::now() < until {
                std::thread::yield_now();
                continue;
            }
            if !keys.is_empty() {
                redis::cmd("DEL").arg(keys).query::<()>(&mut conn).unwrap();
            }
            return;
        }
    }
}

async fn ground() -> Option<Prefix> {
    let url = tokio::task::spawn_blocking(|| BrokerServer::Redis.address()).await.unwrap()?;
    Some(Prefix { url: url.to_owned(), prefix: format!("t-{}:", Uuid::new_v4().simple()) })
}

airflow_executors::transport_suite!(ground);

mod common;
#[path = "redis/faults.rs"]
mod faults;

/// Goal: a key of somebody else in the place of a queue is known before work is waited for in vain.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_no_queue_is_found_at_the_start() {
    let Some(ground) = ground().await else { return };
    let transport = ground.transport_by(&ground.host());
    let queues = ["q".to_owned(), "a".to_owned()];
    transport.check_queues(&queues).await.unwrap();
    let mut conn = redis::Client::open(ground.url.as_str()).unwrap().get_connection().unwrap();
    transport.publish(vec![Message { queue: "a".into(), body: b"x".to_vec() }]).await.remove(0).unwrap();
    transport.check_queues(&queues).await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg(format!("{}*", ground.prefix)).query(&mut conn).unwrap();
    let [key] = &keys[..] else { panic!("{keys:?}") };
    redis::pipe().del(key).set(key, "a text").query::<()>(&mut conn).unwrap();
    match transport.check_queues(&queues).await {
        Err(TransportError::Unfit { why, .. }) => assert!(why.contains(key) && why.contains("DEL"), "{why}"),
        other => panic!("{other:?}"),
    }
}
