//! Hands messages over, and knows of each whether the broker keeps it.
//!
//! The broker confirms each message once it is on disk (of most nodes, for a quorum queue). It also confirms what it
//! throws away because there is no queue; so messages are `mandatory`, and what is returned counts as failed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Confirmation};

use super::link::{DEADLINE, Live, explain};
use super::options::Target;
use crate::remote::slot::Slot;
use crate::remote::transport::check_queue;
use crate::remote::{Message, TransportError};

/// How a message is kept: on disk.
const PERSISTENT: u8 = 2;
/// How many messages wait for their confirms at once.
const WINDOW: usize = 500;
/// How much longer than one message a window may take: a quorum queue on a slow disk takes a thousand in a second.
const EACH_WINDOW: Duration = Duration::from_secs(1);

type Answers = BTreeMap<usize, Result<(), TransportError>>;

#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) target: Arc<Target>,
    pub(super) slot: Slot<Arc<Live>>,
}

/// Why the round over all messages cannot go on.
enum Stop {
    /// The connection is of no more use. What was sent over it may be kept or not.
    Broken(TransportError),
    /// The broker takes nothing for now.
    Blocked(String),
}

impl Publisher {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { target, slot: Slot::default() }
    }

    /// The connection, with its number.
    pub(super) async fn live(&self) -> Result<(u64, Arc<Live>), TransportError> {
        let make = async { Live::make(&self.target, &self.slot.health).await.map(Arc::new) };
        self.slot.get(make).await
    }

    /// Does something on the connection, with a deadline; once more if the connection was dead before we knew.
    pub(super) async fn ask<T, F>(&self, ask: impl Fn(Arc<Live>) -> F) -> Result<T, TransportError>
    where
        F: Future<Output = Result<T, TransportError>>,
    {
        let asked = tokio::time::timeout(DEADLINE, async {
            for is_last in [false, true] {
                let (made, live) = self.live().await?;
                let answer = ask(Arc::clone(&live)).await;
                if answer.is_err() && (is_last || live.connection.status().connected()) {
                    // It may be silent, which is found out by a new one.
                    if matches!(answer, Err(TransportError::Unreachable { .. })) {
                        self.slot.forget(made).await;
                    }
                    return answer;
                }
                if answer.is_ok() {
                    return answer;
                }
                self.slot.forget(made).await;
            }
            Err(self.late())
        });
        let answer = asked.await.unwrap_or_else(|_| Err(self.late()));
        match &answer {
            Ok(_) => self.slot.health.worked(),
            Err(error) => self.slot.health.failed(error.to_string()),
        }
        answer
    }

    fn late(&self) -> TransportError {
        let why = format!("no answer within {} s", DEADLINE.as_secs());
        TransportError::Unreachable { place: self.target.place.clone(), why }
    }

    /// Publishes all of them; one answer for each, in order.
    pub(super) async fn publish(&self, messages: &[Message]) -> Vec<Result<(), TransportError>> {
        let mut answers: Answers = BTreeMap::new();
        for (at, message) in messages.iter().enumerate() {
            if let Err(error) = check_queue(&message.queue) {
                answers.insert(at, Err(error));
            }
        }
        let mut open: Vec<usize> = (0..messages.len()).filter(|at| !answers.contains_key(at)).collect();
        let mut stop = None;
        let all = async {
            // Twice: the connection may have been dead before we knew.
            for _ in 0..2 {
                open.retain(|at| !answers.contains_key(at));
                if open.is_empty() {
                    break;
                }
                stop = self.round(messages, &open, &mut answers).await.err();
                match &stop {
                    Some(Stop::Broken(TransportError::Unreachable { .. })) => {}
                    _ => break,
                }
            }
        };
        let windows = u32::try_from(messages.len() / WINDOW).unwrap_or(u32::MAX);
        let deadline = DEADLINE + EACH_WINDOW.saturating_mul(windows);
        if tokio::time::timeout(deadline, all).await.is_err() {
            // Whether it is the broker or the network: a new connection is a new chance.
            if let Ok(Ok((made, _))) = tokio::time::timeout(DEADLINE / 10, self.live()).await {
                self.slot.forget(made).await;
            }
        }
        let rest = |at: usize| match &stop {
            Some(Stop::Broken(error)) => error.clone(),
            Some(Stop::Blocked(why)) => TransportError::Rejected {
                queue: messages[at].queue.clone(),
                why: format!("RabbitMQ takes nothing for now: {why}"),
            },
            None => self.late(),
        };
        let answers: Vec<_> =
            (0..messages.len()).map(|at| answers.remove(&at).unwrap_or_else(|| Err(rest(at)))).collect();
        match answers.iter().find_map(|answer| answer.as_ref().err()) {
            None => self.slot.health.worked(),
            Some(TransportError::Invalid(_)) => {}
            Some(error) => self.slot.health.failed(error.to_string()),
        }
        answers
    }

    /// One try for messages, on one connection.
    async fn round(&self, messages: &[Message], open: &[usize], answers: &mut Answers) -> Result<(), Stop> {
        let (made, live) = self.live().await.map_err(Stop::Broken)?;
        let sent = async {
            for window in open.chunks(WINDOW) {
                let returned = self.send(&live, messages, window, answers, false).await?;
                // Somebody has deleted the queue since we saw it: once more.
                for at in &returned {
                    live.vanished(&messages[*at].queue);
                }
                self.send(&live, messages, &returned, answers, true).await?;
            }
            Ok(())
        };
        let mut blocked = live.blocked.clone();
        let sent = tokio::select! {
            sent = sent => sent,
            Ok(why) = blocked.wait_for(Option::is_some) => Err(Stop::Blocked(why.clone().unwrap_or_default())),
        };
        if matches!(sent, Err(Stop::Broken(_))) || !live.connection.status().connected() {
            self.slot.forget(made).await;
        }
        sent
    }

    /// Sends a window of messages and waits for the confirms; gives those that have come back.
    async fn send(
        &self,
        live: &Live,
        messages: &[Message],
        window: &[usize],
        answers: &mut Answers,
        is_again: bool,
    ) -> Result<Vec<usize>, Stop> {
        let broken = |error: lapin::Error| Stop::Broken(explain(&self.target.place, &error));
        let mut refused: BTreeMap<&str, TransportError> = BTreeMap::new();
        let queues: BTreeSet<&str> = window.iter().map(|at| messages[*at].queue.as_str()).collect();
        for queue in queues {
            match live.declare(&self.target, queue).await {
                Err(error @ TransportError::Unfit { .. }) => drop(refused.insert(queue, error)),
                declared => declared.map_err(Stop::Broken)?,
            }
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let mut confirms = Vec::with_capacity(window.len());
        for at in window {
            let message = &messages[*at];
            if let Some(error) = refused.get(message.queue.as_str()) {
                answers.insert(*at, Err(error.clone()));
                continue;
            }
            let kept = BasicProperties::default().with_delivery_mode(PERSISTENT);
            let key = self.target.queue(&message.queue);
            let sent = live.channel.basic_publish("".into(), key.into(), options, &message.body, kept);
            confirms.push((*at, sent.await.map_err(broken)?));
        }
        let mut returned = Vec::new();
        for (at, confirm) in confirms {
            let rejected = |why: &str| {
                Err(TransportError::Rejected { queue: messages[at].queue.clone(), why: why.to_owned() })
            };
            let answer = match confirm.await.map_err(broken)? {
                Confirmation::Ack(None) => Ok(()),
                Confirmation::Ack(Some(_)) if !is_again => {
                    returned.push(at);
                    continue;
                }
                Confirmation::Ack(Some(_)) => rejected("it is deleted again and again; who does that?"),
                Confirmation::Nack(_) => rejected("it is full; the message is sent again later"),
                Confirmation::NotRequested => rejected("the broker was not asked for confirms"),
            };
            answers.insert(at, answer);
        }
        Ok(returned)
    }

    /// Sends to an exchange, and waits for the confirm.
    pub(super) async fn tell(&self, exchange: &str, key: &str, body: &[u8]) -> Result<(), TransportError> {
        self.ask(|live| async move {
            let told = |error: lapin::Error| explain(&self.target.place, &error);
            let options = BasicPublishOptions::default();
            let sent = live.channel.basic_publish(
                exchange.into(),
                key.into(),
                options,
                body,
                BasicProperties::default(),
            );
            sent.await.map_err(told)?.await.map_err(told).map(|_| ())
        })
        .await
    }
}
