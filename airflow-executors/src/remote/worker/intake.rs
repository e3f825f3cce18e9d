//! From messages to attempts that run: read, claim in the database, then acknowledge, then run.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use airflow_core::id::{AttemptId, IncarnationId};
use airflow_core::operator::Cancel;
use airflow_core::plan::{claim, claimed_attempt};
use airflow_core::store::{AttemptState, FoundAttempt, StoreError, UnitResult};

use crate::process::is_isolated;
use crate::remote::envelope::Envelope;
use crate::remote::transport::{Consumer, Delivery, Message, Settle, Token};

use super::desk::{Promise, Running};
use super::{MOST_AT_ONCE, Shared};

/// How long a worker without a free slot holds its place at the broker, before it gives back what it has fetched.
const LINGER: Duration = Duration::from_millis(50);

/// How long nothing is taken after the store failed.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// How long a worker waits at least before it passes on what it cannot run, so that another one gets it. It is up to twice as
/// long, so that workers which pass messages on to each other do not go in step.
const HOP_PAUSE: Duration = Duration::from_millis(20);

/// Takes messages as long as the worker takes work.
pub(super) async fn run(shared: Arc<Shared>, consumer: Arc<dyn Consumer>) {
    while !shared.desk.is_closed() {
        let Some(promise) = shared.desk.promise(MOST_AT_ONCE) else {
            wait_for_room(&shared, &*consumer).await;
            continue;
        };
        if !shared.member.is_trusted() {
            drop(promise);
            consumer.pause().await;
            shared.rest(STORE_PAUSE).await;
            continue;
        }
        let deliveries = tokio::select! {
            biased;
            () = shared.closing() => break,
            () = shared.member.lost() => continue,
            deliveries = consumer.receive(promise.left()) => deliveries,
        };
        take(&shared, &*consumer, deliveries, promise).await;
    }
    consumer.close().await;
}

async fn wait_for_room(shared: &Shared, consumer: &dyn Consumer) {
    tokio::select! {
        biased;
        () = shared.desk.room() => {}
        () = shared.rest(LINGER) => {
            consumer.pause().await;
            shared.desk.room().await;
        }
    }
}

/// Runs what can be claimed of the deliveries, and settles all.
async fn take(
    shared: &Arc<Shared>,
    consumer: &dyn Consumer,
    deliveries: Vec<Delivery>,
    mut promise: Promise,
) {
    let (mut done, mut back, mut wanted, mut others) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for delivery in deliveries {
        match Envelope::decode(&delivery.body, &shared.signer) {
            Ok(envelope) if !shared.carries(&envelope.dag, &envelope.fingerprint) => {
                shared.desk.count(|counts| counts.put_back += 1);
                if shared.hops.may_go_on(envelope.attempt) {
                    others.push(delivery);
                } else {
                    done.push(delivery.token);
                }
            }
            // A copy in the same batch.
            Ok(envelope) if !seen.insert(envelope.attempt) => done.push(delivery.token),
            Ok(envelope) => wanted.push((envelope, delivery.token)),
            Err(error) => match shared.set_aside(&delivery, &error).await {
                Ok(()) => done.push(delivery.token),
                Err(error) => {
                    tracing::warn!(%error, "a message cannot be set aside; it comes again");
                    back.push(delivery.token);
                }
            },
        }
    }
    pass_on(shared, others, &mut done, &mut back).await;
    if !back.is_empty() {
        shared.rest(HOP_PAUSE).await;
    }
    let ids: Vec<AttemptId> = wanted.iter().map(|(envelope, _)| envelope.attempt).collect();
    let tokens = wanted.into_iter().map(|(_, token)| token);
    let failed = claim_all(shared, &ids, &mut promise).await.is_err();
    if failed { &mut back } else { &mut done }.extend(tokens);
    settle(consumer, done, Settle::Done).await;
    settle(consumer, back, Settle::Back).await;
    if failed {
        consumer.pause().await;
        shared.rest(STORE_PAUSE).await;
    }
}

/// Sends messages of versions that others have to the end of their queues. Given back, they would come first, and many
/// brokers give them to the one that has just given them back: two workers with what the other one wants would never get
/// anywhere.
async fn pass_on(shared: &Shared, others: Vec<Delivery>, done: &mut Vec<Token>, back: &mut Vec<Token>) {
    if others.is_empty() {
        return;
    }
    let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    shared.rest(HOP_PAUSE + HOP_PAUSE * random / 255).await;
    let (messages, tokens): (Vec<_>, Vec<_>) =
        others.into_iter().map(|one| (Message { queue: one.queue, body: one.body }, one.token)).unzip();
    let answers = shared.transport.publish(messages).await;
    for (answer, token) in answers.into_iter().zip(tokens) {
        // What is sent twice is run once.
        if answer.is_ok() { &mut *done } else { &mut *back }.push(token);
    }
}

async fn settle(consumer: &dyn Consumer, tokens: Vec<Token>, how: Settle) {
    if tokens.is_empty() {
        return;
    }
    if let Err(error) = consumer.settle(tokens, how).await {
        // They come again, and what was claimed is not there to be claimed a second time.
        tracing::debug!(%error, "deliveries were not settled");
    }
}

/// Claims what is there to be claimed, and begins it.
async fn claim_all(shared: &Arc<Shared>, ids: &[AttemptId], promise: &mut Promise) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    let process = shared.member.id();
    let found = match shared.store.find_attempts(ids).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "the store cannot be asked about attempts; they go back");
            return Err(error);
        }
    };
    let now = shared.clock.now();
    let claims =
        found.into_iter().filter_map(|found| Some((claim(&found, process, &shared.actor, now)?, found)));
    let (units, found): (Vec<_>, Vec<_>) = claims.unzip();
    let stale = (ids.len() - units.len()) as u64;
    shared.desk.count(|counts| counts.stale += stale);
    if units.is_empty() {
        return Ok(());
    }
    match shared.store.commit(units).await {
        Ok(results) => {
            for (found, result) in found.iter().zip(results) {
                if result == UnitResult::Committed {
                    begin(shared, found, process, promise);
                } else {
                    shared.desk.count(|counts| counts.stale += 1);
                }
            }
            Ok(())
        }
        Err(error) => {
            tracing::warn!(%error, "it is not known whether claims were written; they are looked up");
            look_up(shared, ids, process, promise).await
        }
    }
}

/// After a commit without an answer: what is this worker's is run, what is still queued goes back. What is written later
/// all the same is found by [`super::care`].
async fn look_up(
    shared: &Arc<Shared>,
    ids: &[AttemptId],
    process: IncarnationId,
    promise: &mut Promise,
) -> Result<(), StoreError> {
    let found = shared.store.find_attempts(ids).await?;
    let mut open = false;
    for found in &found {
        match found.state {
            AttemptState::Running if found.start.incarnation == Some(process) => {
                begin(shared, found, process, promise);
            }
            AttemptState::Queued => open = true,
            _ => {}
        }
    }
    if open { Err(StoreError::Refused("claims were not written".into())) } else { Ok(()) }
}

/// Runs an attempt that this worker has claimed.
pub(super) fn begin(
    shared: &Arc<Shared>,
    found: &FoundAttempt,
    process: IncarnationId,
    promise: &mut Promise,
) {
    let id = found.start.attempt_id;
    if shared.desk.has(id) {
        return;
    }
    let attempt = shared.registry.get(&found.run.dag_id).and_then(|dag| claimed_attempt(found, dag));
    let Some(attempt) = attempt else {
        // Its version is the one that was asked for, so the task is there; if not, another worker may do better.
        tracing::error!(task = %found.start.task_id, "the task is not in the dag of this worker");
        return;
    };
    let isolated = is_isolated(&attempt, shared.options.isolation);
    let (sender, cancel) = Cancel::pair();
    let running = Running {
        attempt: attempt.clone(),
        cancel: sender,
        claimed_by: process,
        since: shared.clock.now(),
        is_stopped: false,
        is_given_back: false,
        end: None,
    };
    shared.desk.begin(running, promise);
    let begun = Arc::clone(shared);
    let task = tokio::spawn(async move {
        let report = begun.runner.run(attempt, cancel).await;
        // The receiver lives as long as the worker.
        let _ = begun.finished.send(report);
    });
    if isolated {
        shared.desk.began(id, task.abort_handle());
    }
}
