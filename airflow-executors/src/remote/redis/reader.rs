//! The task of a consumer that reads: on a connection of its own, as a read that waits for messages holds up its
//! connection.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd};
use tokio::time::Instant;

use super::consumer::Shared;
use super::link;
use super::stream::{self, Entry};
use crate::remote::pace::Pace;

/// How long one read waits. A dead connection is noticed after [`SILENCE`] at the latest.
const BLOCK: Duration = Duration::from_secs(5);
/// How long an answer to a read that waits may take.
const SILENCE: Duration = Duration::from_secs(8);
/// Messages are held until they are claimed in the database, which takes milliseconds: who has held one for so long is
/// dead, or so slow that another one may try.
const IDLE: Duration = Duration::from_secs(30);
/// How often we look for such.
const LOOK: Duration = Duration::from_secs(10);
/// Who has been silent for so long is gone: a consumer of a full worker is silent for as long as its tasks run.
const GONE: Duration = Duration::from_secs(24 * 3600);
/// How often we look for those.
const CLEAN: Duration = Duration::from_secs(600);
/// How often a read that waits is asked to end: the first time may come before it has begun.
const NUDGE: Duration = Duration::from_millis(50);

/// Reads until the consumer is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut pace = Pace::default();
    let mut clean_at = Instant::now() + CLEAN;
    while let Err(error) = session(&shared, &mut pace, &mut clean_at).await {
        let pause = pace.next();
        tracing::debug!(consumer = %shared.who, %error, ?pause, "lost Redis");
        shared.inbox.health.failed(error.to_string());
        shared.inbox.sleep(pause).await;
        if shared.inbox.is_closed() {
            break;
        }
    }
    shared.say_goodbye().await;
    shared.inbox.follow(u64::MAX);
}

/// One connection.
struct Session<'a> {
    shared: &'a Shared,
    conn: MultiplexedConnection,
    /// By which Redis knows it.
    id: Option<u64>,
    /// Queues of which this connection has seen the group.
    ready: BTreeSet<String>,
    look_at: Instant,
    /// Where the next round over several queues begins.
    turn: usize,
}

/// Reads until the consumer is closed, which is `Ok`, or the connection is lost.
async fn session(shared: &Shared, pace: &mut Pace, clean_at: &mut Instant) -> RedisResult<()> {
    let inbox = &shared.inbox;
    let mut orders = inbox.orders.subscribe();
    let mut conn = link::connect(&shared.link.target, SILENCE).await?;
    // Who may not ask for it waits a little longer when the queues change.
    let id = cmd("CLIENT").arg("ID").query_async(&mut conn).await.ok();
    inbox.health.connected();
    let mut session = Session { shared, conn, id, ready: BTreeSet::new(), look_at: Instant::now(), turn: 0 };
    let mut was_gone = false;
    loop {
        let order = *orders.borrow_and_update();
        let wish = inbox.wish(Instant::now());
        if wish.closed {
            return Ok(());
        }
        session.put_back(&inbox.surplus(&wish.queues, wish.abandoned)).await?;
        inbox.follow(order);
        if wish.count == 0 || wish.queues.is_empty() {
            let until = wish.until.unwrap_or_else(|| Instant::now() + LOOK);
            tokio::select! {
                () = inbox.room.notified() => {}
                _ = orders.changed() => {}
                () = tokio::time::sleep_until(until) => {}
            }
            continue;
        }
        let entries = match session.round(&wish.queues, wish.count, order).await {
            // All data of the broker is gone, groups too.
            Err(error) if error.code() == Some("NOGROUP") && !was_gone => {
                was_gone = true;
                session.ready.clear();
                continue;
            }
            entries => entries?,
        };
        was_gone = false;
        pace.reset();
        inbox.health.worked();
        inbox.arrived(entries, Instant::now());
        if *clean_at <= Instant::now() {
            *clean_at = Instant::now() + CLEAN;
            for queue in &wish.queues {
                stream::clean(&mut session.conn, &shared.keys, queue, GONE).await?;
            }
        }
    }
}

impl Session<'_> {
    async fn put_back(&mut self, entries: &[Entry]) -> RedisResult<()> {
        if entries.is_empty() {
            return Ok(());
        }
        match stream::put_back(&mut self.conn, &self.shared.keys, entries).await {
            // Reading must go on, as it is what makes room. Others take these over in time.
            Err(error) if stream::is_full(&error) => Ok(()),
            told => told,
        }
    }

    /// One look at the queues, which may wait for something to come.
    async fn round(&mut self, queues: &[String], count: usize, order: u64) -> RedisResult<Vec<Entry>> {
        let (shared, keys) = (self.shared, &self.shared.keys);
        for queue in queues {
            if self.ready.contains(queue) {
                continue;
            }
            shared.known.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.clone());
            stream::ensure(&mut self.conn, keys, queue).await?;
            let knows = |id: &str| shared.knows(id);
            stream::return_unknown(&mut self.conn, keys, &shared.who, queue, knows).await?;
            self.ready.insert(queue.clone());
        }
        let mut found = Vec::new();
        if self.look_at <= Instant::now() {
            self.look_at = Instant::now() + LOOK;
            for queue in queues {
                let room = count - found.len();
                let knows = |id: &str| shared.knows(id);
                let limits = (IDLE, room);
                found.extend(
                    stream::take_over(&mut self.conn, keys, &shared.who, queue, limits, knows).await?,
                );
                if found.len() >= count {
                    break;
                }
            }
        }
        if queues.len() > 1 {
            // A read of several queues takes its count from each, which may be more than there is room for.
            self.turn = (self.turn + 1) % queues.len();
            for at in 0..queues.len() {
                let room = count.saturating_sub(found.len());
                if room == 0 {
                    break;
                }
                let queue = std::slice::from_ref(&queues[(self.turn + at) % queues.len()]);
                found.extend(stream::read(&mut self.conn, keys, &shared.who, queue, room, None).await?);
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let each = (count / queues.len()).max(1);
        self.read_waiting(queues, each, order).await
    }

    /// Waits for something to come. A read that was begun is always read to its end: what it brings would be lost.
    async fn read_waiting(&mut self, queues: &[String], count: usize, order: u64) -> RedisResult<Vec<Entry>> {
        let shared = self.shared;
        let mut orders = shared.inbox.orders.subscribe();
        let reading = stream::read(&mut self.conn, &shared.keys, &shared.who, queues, count, Some(BLOCK));
        tokio::pin!(reading);
        tokio::select! {
            entries = &mut reading => return entries,
            _ = orders.wait_for(|now| *now != order) => {}
            () = shared.inbox.abandoned() => {}
        }
        loop {
            let nudge = async {
                if let Some(id) = self.id {
                    let nudged = shared.link.ask(|mut conn| async move {
                        cmd("CLIENT").arg("UNBLOCK").arg(id).query_async::<redis::Value>(&mut conn).await
                    });
                    let _ = nudged.await;
                }
                tokio::time::sleep(NUDGE).await;
            };
            tokio::select! {
                entries = &mut reading => return entries,
                () = nudge => {}
            }
        }
    }
}
