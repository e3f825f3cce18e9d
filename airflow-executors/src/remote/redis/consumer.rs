//! Takes deliveries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::link::{Link, explain};
use super::reader;
use super::stream::{self, Entry, Keys};
use crate::remote::inbox::{Inbox, Item};
use crate::remote::{ConsumeOptions, Consumer, Delivery, Settle, Token, TransportError, TransportHealth};

/// How long giving back may take at the end.
const GOODBYE: Duration = Duration::from_secs(5);

/// A consumer of streams.
#[derive(Debug)]
pub(super) struct RedisConsumer {
    shared: Arc<Shared>,
}

/// What the callers and the reading task share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) inbox: Inbox<Entry>,
    pub(super) link: Arc<Link>,
    pub(super) keys: Keys,
    pub(super) who: String,
    /// All queues that were ever read: we have a name there.
    pub(super) known: Mutex<BTreeSet<String>>,
}

impl Item for Entry {
    fn queue(&self) -> &str {
        &self.queue
    }

    fn delivery(&self, token: Token) -> Delivery {
        let (queue, body) = (self.queue.clone(), self.body.clone());
        Delivery { queue, body, redeliveries: self.redeliveries, token }
    }
}

impl Shared {
    pub(super) fn knows(&self, id: &str) -> bool {
        self.inbox.has(|entry| entry.id == id)
    }

    /// Gives back all that was not settled, and takes our name off the lists.
    pub(super) async fn say_goodbye(&self) {
        let back = self.inbox.drain();
        let known = std::mem::take(&mut *self.known.lock().unwrap_or_else(PoisonError::into_inner));
        let leave = self.link.ask(|mut conn| {
            let (back, known) = (&back, &known);
            async move {
                stream::put_back(&mut conn, &self.keys, back).await?;
                for queue in known {
                    // What came on a connection that broke is nowhere but in the broker's books.
                    stream::return_unknown(&mut conn, &self.keys, &self.who, queue, |_| false).await?;
                    stream::remove_if_idle(&mut conn, &self.keys, queue, &self.who).await?;
                }
                Ok(())
            }
        });
        if let Ok(Err(error)) = tokio::time::timeout(GOODBYE, leave).await {
            tracing::debug!(consumer = %self.who, %error, "could not give back; others take it over in time");
        }
    }
}

impl RedisConsumer {
    pub(super) fn start(link: Arc<Link>, keys: Keys, options: ConsumeOptions) -> Self {
        // Two lives of one name must not share what is held.
        let life = uuid::Uuid::new_v4().simple().to_string();
        let who = format!("{}:{}", options.name, &life[..12]);
        let shared =
            Arc::new(Shared { inbox: Inbox::new(options), link, keys, who, known: Mutex::default() });
        tokio::spawn(reader::run(Arc::clone(&shared)));
        Self { shared }
    }
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn receive(&self, room: usize) -> Vec<Delivery> {
        self.shared.inbox.receive(room).await
    }

    async fn settle(&self, tokens: Vec<Token>, how: Settle) -> Result<(), TransportError> {
        let shared = &*self.shared;
        let mut queues: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for entry in shared.inbox.settled(&tokens) {
            queues.entry(entry.queue.clone()).or_default().push(entry);
        }
        for (queue, entries) in &queues {
            let told = shared.link.ask(|mut conn| async move {
                match how {
                    Settle::Back => stream::put_back(&mut conn, &shared.keys, entries).await,
                    Settle::Done => {
                        let ids: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
                        stream::done(&mut conn, &shared.keys, queue, &ids).await
                    }
                }
            });
            told.await.map_err(|error| explain(&shared.link.target.place, &error))?;
        }
        Ok(())
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

impl Drop for RedisConsumer {
    fn drop(&mut self) {
        self.shared.inbox.end();
    }
}
