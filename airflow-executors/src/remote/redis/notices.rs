//! Listens to a topic.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::{RedisError, RedisResult};
use tokio::sync::mpsc;

use super::options::Target;
use crate::remote::pace::Pace;

/// How long a subscription may take to be made.
const BEGIN: Duration = Duration::from_secs(6);
/// How often Redis is asked whether it is still there, when it says nothing.
const PROBE: Duration = Duration::from_secs(10);
/// How long it may take to answer that.
const ANSWER: Duration = Duration::from_secs(5);

/// Listens until nobody reads any more.
pub(super) async fn listen(target: Arc<Target>, channel: String, to: mpsc::Sender<Vec<u8>>) {
    let mut pace = Pace::default();
    loop {
        tokio::select! {
            () = to.closed() => return,
            ended = session(&target, &channel, &to, &mut pace) => {
                let pause = pace.next();
                tracing::debug!(channel, error = ?ended.err(), ?pause, "lost a subscription");
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
    channel: &str,
    to: &mpsc::Sender<Vec<u8>>,
    pace: &mut Pace,
) -> RedisResult<()> {
    let begin = async {
        let mut pubsub = target.client().await?.get_async_pubsub().await?;
        pubsub.subscribe(channel).await?;
        RedisResult::Ok(pubsub)
    };
    let pubsub = tokio::time::timeout(BEGIN, begin).await.unwrap_or_else(|_| Err(silent()))?;
    pace.reset();
    let (mut sink, mut messages) = pubsub.split();
    loop {
        match tokio::time::timeout(PROBE, messages.next()).await {
            // A reader that does not keep up misses notices, and nobody waits for it.
            Ok(Some(message)) => drop(to.try_send(message.get_payload_bytes().to_vec())),
            Ok(None) => return Ok(()),
            Err(_) => {
                let pong = tokio::time::timeout(ANSWER, sink.ping::<redis::Value>()).await;
                pong.unwrap_or_else(|_| Err(silent()))?;
            }
        }
    }
}

fn silent() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "Redis is silent").into()
}
