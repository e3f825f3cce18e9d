//! What a worker looks after while others run: what it says of itself, attempts that users took away, claims whose answer
//! was lost, its lease.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use airflow_core::id::AttemptId;
use airflow_core::state::TaskState;
use airflow_core::store::{AttemptState, FoundAttempt, StoreResult};

use crate::remote::notices::{CANCELS, announce_reports, cancels};

use super::{Shared, intake};

/// How many attempts one look at the store is about.
const LOOK: usize = 500;

/// How long it waits after the store failed: at first, and at most.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(5);

/// Stops what schedulers say is to stop, as soon as they say it.
pub(super) async fn listen(shared: Arc<Shared>) {
    let mut notices = shared.transport.subscribe(CANCELS);
    while let Some(notice) = notices.next().await {
        for id in cancels(&shared.signer, &*shared.clock, &notice) {
            shared.desk.cancel(id);
        }
    }
}

/// Tells schedulers that reports wait, once for all that were written meanwhile.
pub(super) async fn announce(shared: Arc<Shared>) {
    loop {
        shared.reported.notified().await;
        announce_reports(&*shared.transport, &shared.signer, &*shared.clock).await;
    }
}

/// Once a beat: says how the worker is, and compares what it runs with what the store says that it runs.
pub(super) async fn look_after(shared: Arc<Shared>, every: Duration) {
    // Attempts that the store says are ours and that were unknown here at the last look.
    let mut strange = BTreeSet::new();
    loop {
        shared.rest(every).await;
        if let Err(error) = shared.say_how_it_is().await {
            tracing::warn!(%error, "the store does not take what this worker says of itself");
            continue;
        }
        if let Err(error) = stop_what_was_taken_away(&shared).await {
            tracing::warn!(%error, "cannot look whether attempts were taken away");
        }
        match find_strangers(&shared, &strange).await {
            Ok(now) => strange = now,
            Err(error) => tracing::warn!(%error, "cannot look for claims without an answer"),
        }
    }
}

/// Stops attempts that users cleared or marked, whose run was ended, or which were given up for lost.
async fn stop_what_was_taken_away(shared: &Shared) -> StoreResult<()> {
    let ids = shared.desk.ids();
    for part in ids.chunks(LOOK) {
        let found = shared.store.find_attempts(part).await?;
        for id in part {
            let is_ours = found.iter().any(|row| {
                row.start.attempt_id == *id
                    && row.ti.state == TaskState::Running
                    && row.ti.data.attempt_id == Some(*id)
            });
            if !is_ours {
                shared.desk.cancel(*id);
            }
        }
    }
    Ok(())
}

/// A claim whose answer was lost may be written after it was looked up. Then the attempt is ours and nobody runs it: what
/// is unknown at two looks in a row is begun now.
async fn find_strangers(
    shared: &Arc<Shared>,
    before: &BTreeSet<AttemptId>,
) -> StoreResult<BTreeSet<AttemptId>> {
    let process = shared.member.id();
    let open = shared.store.open_attempts(process).await?;
    let strange: BTreeSet<AttemptId> = open.into_iter().filter(|id| !shared.desk.has(*id)).collect();
    let lasting: Vec<AttemptId> = strange.intersection(before).copied().collect();
    if lasting.is_empty() || shared.desk.is_closed() {
        return Ok(strange);
    }
    let found = shared.store.find_attempts(&lasting).await?;
    // Their slots are promised to what comes next as long as this worker waits for work, so for once more may run than it has.
    // Left alone they would run never: their process is alive, and nobody else takes them.
    let mut promise = shared.desk.nothing_promised();
    let is_ours = |found: &&FoundAttempt| {
        found.state == AttemptState::Running && found.start.incarnation == Some(process)
    };
    for found in found.iter().filter(is_ours) {
        tracing::info!(attempt = %found.start.attempt_id, "a claim was written after all; it is run now");
        intake::begin(shared, found, process, &mut promise);
    }
    Ok(strange)
}

/// Stops everything when the lease of this process is lost, and comes back.
pub(super) async fn fence(shared: Arc<Shared>) {
    loop {
        shared.member.lost().await;
        let running = shared.desk.stop_all();
        if running > 0 {
            tracing::error!(running, "the lease of this worker is lost; its attempts are stopped");
        }
        let time = shared.member.time_to_stop();
        tokio::select! {
            biased;
            // Their code has ended; whether their reports can be written is another matter.
            () = shared.code_ended() => {}
            () = shared.rest(time) => shared.member.cannot_stop(shared.desk.ids().len()),
        }
        come_back(&shared).await;
    }
}

async fn come_back(shared: &Arc<Shared>) {
    let mut pause = PAUSE_FIRST;
    loop {
        match try_to_come_back(shared).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "cannot come back yet; trying again"),
        }
        shared.rest(pause).await;
        pause = (pause * 2).min(PAUSE_LAST);
    }
}

async fn try_to_come_back(shared: &Arc<Shared>) -> StoreResult<()> {
    if shared.member.rejoin(true).await? {
        shared.introduce().await?;
    }
    shared.say_how_it_is().await?;
    Ok(())
}
