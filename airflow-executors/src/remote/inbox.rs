//! What came and was not asked for yet, what was given out and is not settled, and what the owner of a consumer wants:
//! the part of a consumer that is the same for all brokers.
//!
//! Callers use it through [`Consumer`](super::Consumer); a task reads from the broker and puts here what came. It reads
//! only while somebody waits, and never more than the prefetch leaves room for.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::pace::Health;
use super::transport::{ConsumeOptions, Delivery, Token};

/// How long what nobody waits for is kept: a caller that waits for other things too comes back within milliseconds.
pub(super) const HOLD: Duration = Duration::from_millis(500);
/// How long a caller waits for the reading task to follow an order.
const FOLLOWS: Duration = Duration::from_secs(3);
/// How long it waits for the end.
const ENDS: Duration = Duration::from_secs(8);

/// A message as a broker's own code knows it.
pub(super) trait Item {
    fn queue(&self) -> &str;
    /// What is told to the caller.
    fn delivery(&self, token: Token) -> Delivery;
}

/// What the callers and the reading task share.
pub(super) struct Inbox<I> {
    pub(super) name: String,
    pub(super) health: Health,
    prefetch: usize,
    state: Mutex<State<I>>,
    /// Somebody waits, or does not any more, or something was settled.
    pub(super) room: Notify,
    /// Something came.
    came: Notify,
    /// Grows with each order: other queues, pause, close.
    pub(super) orders: watch::Sender<u64>,
    /// The last order that was followed.
    followed: watch::Sender<u64>,
}

struct State<I> {
    queues: Vec<String>,
    paused: bool,
    closed: bool,
    /// How much those who wait in `receive` could take.
    wanted: usize,
    /// How often it was called.
    calls: u64,
    /// When nobody waited any more.
    idle_since: Instant,
    /// Came, and was not asked for yet.
    ready: VecDeque<I>,
    /// When the oldest of it came.
    ready_since: Option<Instant>,
    unsettled: BTreeMap<u64, I>,
    next: u64,
    connection: u64,
}

/// What is wanted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    /// Nothing more, ever.
    pub(super) closed: bool,
    /// The queues to read; none during a pause.
    pub(super) queues: Vec<String>,
    /// How many deliveries somebody waits for and may have.
    pub(super) count: usize,
    /// Whether nobody has waited for a while.
    pub(super) abandoned: bool,
    /// When to look again, if nothing happens before.
    pub(super) until: Option<Instant>,
}

impl<I> fmt::Debug for Inbox<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<I: Item> Inbox<I> {
    pub(super) fn new(options: ConsumeOptions) -> Self {
        Self {
            name: options.name,
            health: Health::default(),
            prefetch: usize::from(options.prefetch.max(1)),
            state: Mutex::new(State {
                queues: options.queues,
                paused: false,
                closed: false,
                wanted: 0,
                calls: 0,
                idle_since: Instant::now(),
                ready: VecDeque::new(),
                ready_since: None,
                unsettled: BTreeMap::new(),
                next: 0,
                connection: 0,
            }),
            room: Notify::new(),
            came: Notify::new(),
            orders: watch::Sender::new(0),
            followed: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<I>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wanted now.
    pub(super) fn wish(&self, now: Instant) -> Wish {
        let state = self.lock();
        let held = state.unsettled.len() + state.ready.len();
        let room = self.prefetch.saturating_sub(held);
        let idle = (state.wanted == 0).then(|| state.ready_since.unwrap_or(state.idle_since) + HOLD);
        Wish {
            closed: state.closed,
            queues: if state.paused { Vec::new() } else { state.queues.clone() },
            count: state.wanted.saturating_sub(state.ready.len()).min(room),
            abandoned: idle.is_some_and(|end| end <= now),
            until: idle.filter(|end| *end > now),
        }
    }

    /// Takes out what is to go back: what waits here too long, what is of other queues than these, and what there was
    /// no room for.
    pub(super) fn surplus(&self, queues: &[String], abandoned: bool) -> Vec<I> {
        let mut state = self.lock();
        let mut room = self.prefetch.saturating_sub(state.unsettled.len());
        let (kept, back): (VecDeque<I>, VecDeque<I>) = state.ready.drain(..).partition(|item| {
            let keep = !abandoned && room > 0 && queues.iter().any(|queue| queue == item.queue());
            room -= usize::from(keep);
            keep
        });
        state.ready = kept;
        if state.ready.is_empty() {
            state.ready_since = None;
        }
        back.into()
    }

    /// Takes what was read.
    pub(super) fn arrived(&self, items: Vec<I>, now: Instant) {
        if items.is_empty() {
            return;
        }
        let mut state = self.lock();
        state.ready_since.get_or_insert(now);
        state.ready.extend(items);
        drop(state);
        self.came.notify_waiters();
    }

    /// A new connection: tokens of the ones before mean nothing any more, unless the broker knows holders by name.
    #[cfg_attr(not(feature = "rabbitmq"), expect(dead_code, reason = "Redis knows holders by name"))]
    pub(super) fn begin(&self, connection: u64) {
        let mut state = self.lock();
        state.connection = connection;
        state.ready.clear();
        state.ready_since = None;
        state.unsettled.clear();
    }

    fn take(&self, room: usize) -> Vec<Delivery> {
        let mut state = self.lock();
        let count = room.min(state.ready.len()).min(self.prefetch.saturating_sub(state.unsettled.len()));
        let taken: Vec<I> = state.ready.drain(..count).collect();
        if state.ready.is_empty() {
            state.ready_since = None;
        }
        let mut deliveries = Vec::with_capacity(taken.len());
        for item in taken {
            state.next += 1;
            let number = state.next;
            deliveries.push(item.delivery(Token { connection: state.connection, number }));
            state.unsettled.insert(number, item);
        }
        deliveries
    }

    /// Waits for deliveries, at most `room`.
    pub(super) async fn receive(&self, room: usize) -> Vec<Delivery> {
        if room == 0 {
            return Vec::new();
        }
        {
            let mut state = self.lock();
            state.paused = false;
            state.calls += 1;
            state.wanted += room;
        }
        let _wanted = Wanted(self, room);
        loop {
            let came = self.came.notified();
            tokio::pin!(came);
            came.as_mut().enable();
            let deliveries = self.take(room);
            if !deliveries.is_empty() {
                return deliveries;
            }
            self.room.notify_one();
            came.await;
        }
    }

    /// Takes out what these tokens name, if it is still ours.
    pub(super) fn settled(&self, tokens: &[Token]) -> Vec<I> {
        let mut state = self.lock();
        let ours = tokens.iter().filter(|token| token.connection == state.connection);
        let numbers: Vec<u64> = ours.map(|token| token.number).collect();
        let items = numbers.iter().filter_map(|number| state.unsettled.remove(number)).collect();
        drop(state);
        self.room.notify_one();
        items
    }

    /// Takes out everything.
    pub(super) fn drain(&self) -> Vec<I> {
        let mut state = self.lock();
        let mut all: Vec<I> = std::mem::take(&mut state.ready).into();
        state.ready_since = None;
        all.extend(std::mem::take(&mut state.unsettled).into_values());
        all
    }

    /// Whether an item that was not settled, or not given out, is like this.
    pub(super) fn has(&self, is: impl Fn(&I) -> bool) -> bool {
        let state = self.lock();
        state.unsettled.values().chain(&state.ready).any(is)
    }

    /// Returns once nobody has waited in `receive` for a while.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "RabbitMQ sends by itself"))]
    pub(super) async fn abandoned(&self) {
        loop {
            let (wanted, calls) = {
                let state = self.lock();
                (state.wanted, state.calls)
            };
            if wanted > 0 {
                self.room.notified().await;
                continue;
            }
            tokio::time::sleep(HOLD).await;
            let state = self.lock();
            if state.wanted == 0 && state.calls == calls {
                return;
            }
        }
    }

    fn order(&self, change: impl FnOnce(&mut State<I>)) -> u64 {
        change(&mut self.lock());
        let mut number = 0;
        self.orders.send_modify(|orders| {
            *orders += 1;
            number = *orders;
        });
        number
    }

    async fn wait_until_followed(&self, order: u64, limit: Duration) {
        let mut followed = self.followed.subscribe();
        // Whoever cannot reach the broker cannot give back either; the broker gives it to others in time.
        let _ = tokio::time::timeout(limit, followed.wait_for(|done| *done >= order)).await;
    }

    /// The reading task has done all that was ordered up to this.
    pub(super) fn follow(&self, order: u64) {
        self.followed.send_if_modified(|followed| {
            let is_new = *followed < order;
            *followed = order.max(*followed);
            is_new
        });
    }

    /// Takes nothing more until the next `receive`.
    pub(super) async fn pause(&self) {
        let order = self.order(|state| state.paused = true);
        self.wait_until_followed(order, FOLLOWS).await;
    }

    /// Reads these queues from now on.
    pub(super) async fn set_queues(&self, queues: Vec<String>) {
        let order = self.order(|state| state.queues = queues);
        self.wait_until_followed(order, FOLLOWS).await;
    }

    /// Ends the reading task; it gives back what is here.
    pub(super) fn end(&self) -> u64 {
        self.order(|state| state.closed = true)
    }

    /// Ends it and waits for that.
    pub(super) async fn close(&self) {
        let order = self.end();
        self.wait_until_followed(order, ENDS).await;
    }

    /// Waits, but not longer than until the end.
    pub(super) async fn sleep(&self, pause: Duration) {
        let mut orders = self.orders.subscribe();
        let closed = orders.wait_for(|_| self.lock().closed);
        let _ = tokio::time::timeout(pause, closed).await;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

/// Takes back what a caller wanted, however its call ends.
struct Wanted<'a, I: Item>(&'a Inbox<I>, usize);

impl<I: Item> Drop for Wanted<'_, I> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.wanted = state.wanted.saturating_sub(self.1);
        if state.wanted == 0 {
            state.idle_since = Instant::now();
            drop(state);
            self.0.room.notify_one();
        }
    }
}
