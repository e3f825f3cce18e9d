//! How one process reaches the broker, the executor that sends through it, and the worker behind it.

use std::sync::Arc;
use std::time::Duration;

use airflow_core::executor::{AttemptRunner, Executor, ExecutorServices, SubmitError};
use airflow_core::id::AttemptId;
use airflow_core::plan::Attempt;
use airflow_core::store::Layered;
use airflow_executors::remote::{
    BrokerFacts, ConsumeOptions, Consumer, Delivery, Depth, Message, RemoteExecutor, Settle, Subscription,
    Token, Transport, TransportError, TransportHealth, Worker, WorkerError, WorkerOptions,
};
use async_trait::async_trait;

use super::broker::Broker;
use super::mutants::Mutant;
use super::plan::{Point, Role};
use super::process::{Life, Runner, Way, lock};
use super::work::{APART, REMOTE};
use super::world::World;

/// The broker as one life of a process sees it.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) broker: Broker,
    pub(crate) life: Life,
}

impl Link {
    async fn reach(&self) -> Result<(), TransportError> {
        self.life.gate.pass().await;
        let reached = self.broker.reach().await;
        self.life.gate.pass().await;
        reached
    }
}

#[async_trait]
impl Transport for Link {
    fn name(&self) -> &'static str {
        REMOTE
    }

    fn place(&self) -> String {
        "simulated".into()
    }

    async fn check(&self) -> Result<BrokerFacts, TransportError> {
        self.reach().await.map(|()| BrokerFacts::default())
    }

    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<(), TransportError>> {
        if let Err(error) = self.reach().await {
            return vec![Err(error); messages.len()];
        }
        let answers = messages.into_iter().map(|message| self.broker.take(message)).collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.life.gate.pass().await;
        answers
    }

    fn consume(&self, options: ConsumeOptions) -> Box<dyn Consumer> {
        let id = self.broker.enter(&self.life, options.queues, options.prefetch);
        Box::new(Consuming { link: self.clone(), id })
    }

    async fn announce(&self, topic: &str, body: Vec<u8>) -> Result<(), TransportError> {
        self.reach().await?;
        self.broker.announce(topic, &body);
        Ok(())
    }

    fn subscribe(&self, topic: &str) -> Subscription {
        self.broker.subscribe(topic, &self.life)
    }

    async fn depth(&self, queue: &str) -> Result<Depth, TransportError> {
        self.reach().await?;
        Ok(self.broker.depth(queue))
    }

    fn health(&self) -> TransportHealth {
        TransportHealth { is_connected: self.broker.is_there(), ..TransportHealth::default() }
    }
}

#[derive(Debug)]
struct Consuming {
    link: Link,
    id: u64,
}

#[async_trait]
impl Consumer for Consuming {
    async fn receive(&self, room: usize) -> Vec<Delivery> {
        self.link.broker.receive(self.id, room).await
    }

    async fn settle(&self, tokens: Vec<Token>, how: Settle) -> Result<(), TransportError> {
        self.link.reach().await?;
        self.link.broker.settle(self.id, &tokens, how);
        Ok(())
    }

    /// Nothing is fetched but what is returned.
    async fn pause(&self) {
        self.link.life.gate.pass().await;
    }

    async fn set_queues(&self, queues: Vec<String>) {
        self.link.life.gate.pass().await;
        self.link.broker.set_queues(self.id, queues);
    }

    fn health(&self) -> TransportHealth {
        self.link.health()
    }

    async fn close(&self) {
        self.link.life.gate.pass().await;
        self.link.broker.leave(self.id);
    }
}

impl Drop for Consuming {
    fn drop(&mut self) {
        // Of one that was killed the broker hears nothing.
        if !self.link.life.gate.is_dead() {
            self.link.broker.leave(self.id);
        }
    }
}

/// The real executor for workers, which dies during a submit if it is to.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) life: Life,
    pub(crate) inner: RemoteExecutor,
}

#[async_trait]
impl Executor for Sending {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn slots(&self) -> usize {
        self.inner.slots()
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn start(&self, services: ExecutorServices) {
        self.inner.start(services);
    }

    fn submit(&self, attempt: Attempt) -> Result<(), SubmitError> {
        if self.life.gate.is_dead() {
            return Ok(());
        }
        // The mistake: nothing is sent a second time.
        let is_new = lock(&self.life.oracle).is_submitted(attempt.ti.attempt_id);
        if is_new || self.life.mutant != Some(Mutant::AckBeforeClaim) {
            self.inner.submit(attempt)?;
        }
        self.life.point_now(Point::InSubmit);
        Ok(())
    }

    fn cancel(&self, attempt: AttemptId) {
        self.inner.cancel(attempt);
    }

    async fn stop(&self, grace: Duration) {
        self.inner.stop(grace).await;
    }
}

impl World {
    /// The executor for workers, if there are any.
    pub(crate) fn sending(&self, life: &Life) -> Option<Sending> {
        let (broker, plan) = (self.broker.clone()?, self.plan.broker?);
        let link = Link { broker, life: life.clone() };
        let inner = RemoteExecutor::new(link).parallelism(plan.parallelism);
        Some(Sending { life: life.clone(), inner })
    }

    /// Starts the worker of a process.
    pub(crate) async fn begin_worker(&self, life: &Life, lives: u64) -> Option<Worker> {
        let process = &self.plan.processes[life.number];
        let Role::Worker { apart, keeps_name } = process.role else { return None };
        let way = Way { life: life.clone(), store: Arc::new(self.store.clone()) };
        let airflow = self.builder(life).store(Layered(way)).build().await.ok()?;
        let link = Link { broker: self.broker.clone()?, life: life.clone() };
        let number = life.number;
        let mut queues = vec!["default".to_owned()];
        queues.extend(apart.then(|| APART.to_owned()));
        let options = WorkerOptions {
            name: Some(if keeps_name { format!("w{number}") } else { format!("w{number}-{lives}") }),
            queues,
            slots: process.slots,
            ..WorkerOptions::default()
        };
        let watched = life.clone();
        let around = |inner| Arc::new(Runner { life: watched, inner }) as Arc<dyn AttemptRunner>;
        match Worker::start_around(&airflow, Arc::new(link), options, around).await {
            Ok(worker) => Some(worker),
            Err(WorkerError::NameTaken { .. }) => {
                let mut oracle = lock(&self.oracle);
                oracle.line(&format!("p{number} does not start: its name is taken"));
                oracle.seen("the name of a worker is still taken");
                None
            }
            Err(_) => {
                lock(&self.oracle).line(&format!("p{number} does not start"));
                None
            }
        }
    }
}
