//! Redis as the broker, from 6.2 on.
//!
//! A queue is a stream with one group of consumers: the broker knows who holds what, so what a dead worker held is
//! found. Start with [`RedisTransport`].

mod check;
mod consumer;
mod link;
mod notices;
mod options;
mod reader;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redis::streams::StreamRangeReply;
use redis::{RedisError, Value, cmd, pipe};
use tokio::sync::mpsc;

use self::link::Link;
pub use self::options::RedisOptions;
use self::options::Target;
use self::stream::{BATCH, Keys};
use super::transport::check_queue;
use super::{
    BrokerFacts, ConsumeOptions, Consumer, Depth, Message, Subscription, Transport, TransportError,
    TransportHealth,
};

/// Who was heard of within this time listens: one that waits is heard of every 5 s.
const LISTENS: Duration = Duration::from_secs(15);

/// Redis as the broker.
///
/// ```no_run
/// use airflow_executors::remote::redis::{RedisOptions, RedisTransport};
/// use airflow_executors::remote::{Message, Transport as _};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = RedisTransport::new(&RedisOptions::new("redis://127.0.0.1:6379/0"))?;
/// for warning in redis.check().await?.warnings {
///     println!("{warning}");
/// }
/// let sent = redis.publish(vec![Message { queue: "default".into(), body: b"hello".to_vec() }]).await;
/// assert!(sent[0].is_ok());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct RedisTransport {
    link: Arc<Link>,
    target: Arc<Target>,
    keys: Keys,
    /// Queues that were there.
    known: Mutex<BTreeSet<String>>,
}

impl RedisTransport {
    /// Redis at this place. Connects when it is first needed.
    ///
    /// # Errors
    ///
    /// [`TransportError::Invalid`] if the address or certificate cannot be read.
    pub fn new(options: &RedisOptions) -> Result<Self, TransportError> {
        let target = Arc::new(options.target()?);
        let link = Arc::new(Link::new(Arc::clone(&target)));
        Ok(Self { link, target, keys: Keys { prefix: options.prefix.clone() }, known: Mutex::default() })
    }

    fn explain(&self, error: &RedisError) -> TransportError {
        link::explain(&self.target.place, error)
    }

    /// Channels are common to all databases of a server.
    fn channel(&self, topic: &str) -> String {
        format!("{}topic:{}:{topic}", self.keys.prefix, self.target.db)
    }

    /// Those of these queues to which nothing was sent yet.
    fn fresh<'a>(&self, queues: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        queues.filter(|queue| !known.contains(*queue)).map(str::to_owned).collect()
    }

    /// What became of one message.
    fn answer(&self, queue: &str, answer: Result<Value, RedisError>) -> Result<(), TransportError> {
        match answer {
            Ok(Value::ServerError(error)) => Err(self.refused(queue, &error.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(self.refused(queue, &error)),
        }
    }

    fn refused(&self, queue: &str, error: &RedisError) -> TransportError {
        let rejected = |why: String| TransportError::Rejected { queue: queue.into(), why };
        match error.code() {
            Some("OOM") => rejected("its memory is full; the message is sent again later".into()),
            Some("MISCONF") => rejected(format!("{error}; look at the disk of Redis")),
            Some("WRONGTYPE") => rejected(format!(
                "the key `{}` is no stream; delete it, or choose another prefix",
                self.keys.stream(queue)
            )),
            _ => self.explain(error),
        }
    }
}

#[async_trait]
impl Transport for RedisTransport {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn place(&self) -> String {
        self.target.place.clone()
    }

    async fn check(&self) -> Result<BrokerFacts, TransportError> {
        let late = |_| TransportError::Unreachable {
            place: self.place(),
            why: format!("no answer within {} s; is it running, and does a firewall let us pass?", 8),
        };
        let looking = async {
            // Its own connection: what is looked at is whether one can be made.
            let connecting = link::connect(&self.target, link::ANSWER).await;
            let mut conn = connecting.map_err(|error| self.explain(&error))?;
            check::check(&self.target.place, &self.keys, &mut conn).await
        };
        tokio::time::timeout(link::DEADLINE, looking).await.map_err(late)?
    }

    async fn check_queues(&self, queues: &[String]) -> Result<(), TransportError> {
        queues.iter().try_for_each(|queue| check_queue(queue))?;
        let keys = &self.keys;
        let asked = self.link.ask(|mut conn| async move {
            for queue in queues {
                let key = keys.stream(queue);
                let length: Result<u64, RedisError> = cmd("XLEN").arg(&key).query_async(&mut conn).await;
                match length {
                    Err(error) if error.code() == Some("WRONGTYPE") => return Ok(Some(key)),
                    length => length.map(drop)?,
                }
            }
            Ok(None)
        });
        match asked.await.map_err(|error| self.explain(&error))? {
            None => Ok(()),
            Some(key) => Err(TransportError::Unfit {
                place: self.place(),
                why: format!(
                    "the key `{key}` of a queue is no stream, so somebody else made it: delete it (DEL {key}), or use \
                     another database or prefix"
                ),
            }),
        }
    }

    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<(), TransportError>> {
        let mut answers = BTreeMap::new();
        let mut sound = Vec::with_capacity(messages.len());
        for (at, message) in messages.iter().enumerate() {
            match check_queue(&message.queue) {
                Ok(()) => sound.push((at, message)),
                Err(error) => drop(answers.insert(at, Err(error))),
            }
        }
        for chunk in sound.chunks(BATCH) {
            let mut all = pipe();
            all.ignore_errors();
            // With the first message, as there may be no memory for it later, when somebody wants to read.
            let fresh = self.fresh(chunk.iter().map(|(_, message)| message.queue.as_str()));
            for queue in &fresh {
                all.add_command(stream::create(&self.keys, queue));
            }
            for (_, message) in chunk {
                let key = self.keys.stream(&message.queue);
                all.cmd("XADD").arg(key).arg("*").arg("b").arg(&message.body);
            }
            let all = &all;
            let sent: Result<Vec<Result<Value, RedisError>>, RedisError> =
                self.link.ask(|mut conn| async move { all.query_async(&mut conn).await }).await;
            match sent {
                Ok(each) => {
                    for ((at, message), answer) in chunk.iter().zip(each.into_iter().skip(fresh.len())) {
                        answers.insert(*at, self.answer(&message.queue, answer));
                    }
                    self.known.lock().unwrap_or_else(PoisonError::into_inner).extend(fresh);
                }
                Err(error) => {
                    for (at, message) in chunk {
                        answers.insert(*at, Err(self.refused(&message.queue, &error)));
                    }
                }
            }
        }
        let unanswered = || {
            Err(TransportError::Unreachable {
                place: self.place(),
                why: "it answered to fewer messages".into(),
            })
        };
        (0..messages.len()).map(|at| answers.remove(&at).unwrap_or_else(unanswered)).collect()
    }

    fn consume(&self, options: ConsumeOptions) -> Box<dyn Consumer> {
        Box::new(consumer::RedisConsumer::start(Arc::clone(&self.link), self.keys.clone(), options))
    }

    async fn announce(&self, topic: &str, body: Vec<u8>) -> Result<(), TransportError> {
        let channel = self.channel(topic);
        let (channel, body) = (&channel, &body);
        let said = self.link.ask(|mut conn| async move {
            cmd("PUBLISH").arg(channel).arg(body).query_async::<Value>(&mut conn).await
        });
        said.await.map(|_| ()).map_err(|error| self.explain(&error))
    }

    fn subscribe(&self, topic: &str) -> Subscription {
        let (to, from) = mpsc::channel(Subscription::ROOM);
        tokio::spawn(notices::listen(Arc::clone(&self.target), self.channel(topic), to));
        Subscription(from)
    }

    async fn depth(&self, queue: &str) -> Result<Depth, TransportError> {
        check_queue(queue)?;
        let keys = &self.keys;
        let asked = self.link.ask(|mut conn| async move {
            let conn = &mut conn;
            let key = keys.stream(queue);
            let length: u64 = cmd("XLEN").arg(&key).query_async(conn).await?;
            let Some((unsettled, last)) = stream::group(conn, keys, queue).await? else {
                return Ok((length, 0, 0, None));
            };
            let listening = stream::consumers(conn, keys, queue).await?;
            let consumers = listening.iter().filter(|(_, idle)| *idle < LISTENS).count();
            let mut range = cmd("XRANGE");
            range.arg(&key).arg(format!("({last}")).arg("+").arg("COUNT").arg(1);
            let next: StreamRangeReply = range.query_async(conn).await?;
            let (seconds, micros): (u64, u64) = cmd("TIME").query_async(conn).await?;
            let now = seconds * 1000 + micros / 1000;
            // The id of an entry begins with the time of its arrival.
            let since = next.ids.first().and_then(|entry| entry.id.split('-').next()?.parse::<u64>().ok());
            let oldest = since.map(|since| Duration::from_millis(now.saturating_sub(since)));
            Ok((length, unsettled, u64::try_from(consumers).unwrap_or(u64::MAX), oldest))
        });
        let (length, unsettled, consumers, oldest) = asked.await.map_err(|error| self.explain(&error))?;
        Ok(Depth { ready: length.saturating_sub(unsettled), unsettled, consumers, oldest })
    }

    fn health(&self) -> TransportHealth {
        self.link.slot.health.told()
    }
}
