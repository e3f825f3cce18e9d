//! What a worker does on order, and how it grows and shrinks by itself.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::remote::orders::{Autoscale, ORDERS, WorkerOrder, read};

use super::Shared;

/// The largest number of slots that an order makes: far more than a machine can use, and no overflow.
const MOST_SLOTS: usize = 100_000;

/// How often a worker looks whether it may shrink.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long slots must be free before a worker gives them up (Celery's `AUTOSCALE_KEEPALIVE`).
const KEEP: Duration = Duration::from_secs(30);

/// The shortest pause between two times that a worker says how it is because attempts began or ended.
const NEWS_EVERY: Duration = Duration::from_secs(1);

/// Obeys orders as they come.
pub(super) async fn listen(shared: Arc<Shared>) {
    let mut orders = shared.transport.subscribe(ORDERS);
    while let Some(message) = orders.next().await {
        let Some(letter) = read(&shared.signer, &*shared.clock, &message) else { continue };
        if letter.process != shared.member.id() {
            continue;
        }
        let is_new = shared.obeyed.lock().unwrap_or_else(PoisonError::into_inner).is_new(letter.id);
        if is_new {
            tracing::info!(order = ?letter.order, "an order is obeyed");
            obey(&shared, letter.order).await;
        }
        // Whoever gave it waits for this; a copy means that it was not heard.
        if let Err(error) = shared.say_how_it_is().await {
            tracing::warn!(%error, "the store does not take what this worker says of itself");
        }
    }
}

async fn obey(shared: &Shared, order: WorkerOrder) {
    match order {
        WorkerOrder::Shutdown => {
            shared.asked_to_stop.send_replace(true);
        }
        WorkerOrder::Grow(more) => resize(shared, |slots| slots.saturating_add(more)),
        WorkerOrder::Shrink(less) => resize(shared, |slots| slots.saturating_sub(less)),
        WorkerOrder::Autoscale(between) => {
            *shared.autoscale.lock().unwrap_or_else(PoisonError::into_inner) = Some(between);
            shared.desk.set_slots(shared.desk.slots().clamp(between.min, between.max));
            shared.rescaled.notify_one();
        }
        WorkerOrder::AddQueue(queue) => set_queues(shared, |queues| queues.push(queue)).await,
        WorkerOrder::DropQueue(queue) => {
            set_queues(shared, |queues| queues.retain(|one| *one != queue)).await;
        }
    }
}

/// Changes how many attempts run at once; with autoscale the most that may.
fn resize(shared: &Shared, change: impl FnOnce(usize) -> usize) {
    let mut autoscale = shared.autoscale.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *autoscale {
        Some(between) => {
            between.max = change(between.max).clamp(between.min, MOST_SLOTS);
            shared.desk.set_slots(shared.desk.slots().min(between.max));
        }
        None => shared.desk.set_slots(change(shared.desk.slots()).clamp(1, MOST_SLOTS)),
    }
    drop(autoscale);
    shared.rescaled.notify_one();
}

/// Changes the queues; a worker is not left without any.
async fn set_queues(shared: &Shared, change: impl FnOnce(&mut Vec<String>)) {
    let queues = {
        let mut queues = shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = queues.clone();
        change(&mut changed);
        changed.sort_unstable();
        changed.dedup();
        if changed.is_empty() {
            return;
        }
        queues.clone_from(&changed);
        changed
    };
    if let Some(consumer) = shared.consumer.get() {
        consumer.set_queues(queues).await;
    }
}

/// Says how the worker is soon after attempts began or ended, but not for each.
pub(super) async fn tell_news(shared: Arc<Shared>) {
    loop {
        shared.desk.news().await;
        if let Err(error) = shared.say_how_it_is().await {
            tracing::debug!(%error, "the store does not take what this worker says of itself; the next beat tries again");
        }
        shared.rest(NEWS_EVERY).await;
    }
}

/// Grows when all slots are taken, shrinks when some have been free for a while.
pub(super) async fn scale(shared: Arc<Shared>) {
    let mut busy_at = shared.clock.elapsed();
    loop {
        let between = *shared.autoscale.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(between) = between else {
            shared.rescaled.notified().await;
            continue;
        };
        let (slots, running) = (shared.desk.slots(), shared.desk.ids().len());
        if running >= slots {
            busy_at = shared.clock.elapsed();
        }
        let wanted = wanted(between, slots, running, shared.clock.elapsed().saturating_sub(busy_at));
        if wanted != slots {
            shared.desk.set_slots(wanted);
            continue;
        }
        tokio::select! {
            biased;
            () = shared.desk.full(), if slots < between.max => {}
            () = shared.rest(LOOK_EVERY) => {}
            () = shared.rescaled.notified() => {}
        }
    }
}

/// How many slots there should be, when not all were taken for `idle`.
fn wanted(between: Autoscale, slots: usize, running: usize, idle: Duration) -> usize {
    if running >= slots {
        return (running + 1).clamp(between.min, between.max);
    }
    if idle >= KEEP {
        return running.clamp(between.min, between.max).min(slots);
    }
    slots.clamp(between.min, between.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_at_once_and_shrinks_late() {
        let between = Autoscale { max: 4, min: 2 };
        for (slots, running, idle, then) in [
            (2, 2, 0, 3),
            (4, 4, 0, 4),
            (4, 1, 29, 4),
            (4, 3, 30, 3),
            (4, 0, 30, 2),
            (9, 1, 0, 4),
            (1, 0, 0, 2),
        ] {
            assert_eq!(
                wanted(between, slots, running, Duration::from_secs(idle)),
                then,
                "{slots} {running} {idle}"
            );
        }
    }
}
