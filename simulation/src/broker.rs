//! A broker that belongs to the test: it keeps what it promises when all is well, and loses, doubles and holds back
//! messages as the plan says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use airflow_core::id::AttemptId;
use airflow_executors::remote::{
    Delivery, Depth, Envelope, Message, Settle, Subscription, Token, TransportError,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::mutants::Mutant;
use super::oracle::Oracle;
use super::plan::BrokerPlan;
use super::process::{Life, Shared, lock};
use super::random::Random;

/// How long a call waits for a broker that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What stands before the body of a signed message: version, purpose, key.
const HEAD: usize = 10;
/// What stands after it: the MAC.
const TAIL: usize = 32;

/// What the broker does to messages for a while.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bad {
    pub(crate) until: Instant,
    pub(crate) lost: u64,
    pub(crate) refused: u64,
    pub(crate) doubled: u64,
    pub(crate) millis: u64,
}

#[derive(Debug, Clone)]
struct Letter {
    queue: String,
    body: Vec<u8>,
    attempt: AttemptId,
    deliveries: u32,
}

/// A consumer as the broker knows it.
#[derive(Debug)]
struct Holder {
    life: Life,
    queues: Vec<String>,
    prefetch: usize,
    connection: u64,
    number: u64,
    unsettled: BTreeMap<u64, Letter>,
    /// Since when nothing is heard of it.
    silent: Option<Instant>,
    /// Until when it gets nothing.
    cut: Option<Instant>,
}

#[derive(Debug)]
struct Listener {
    topic: String,
    life: Life,
    to: mpsc::Sender<Vec<u8>>,
}

#[derive(Debug)]
struct State {
    plan: BrokerPlan,
    random: Random,
    ready: BTreeMap<String, VecDeque<Letter>>,
    holders: BTreeMap<u64, Holder>,
    next: u64,
    listeners: Vec<Listener>,
    away: Option<(Instant, bool)>,
    bad: Option<Bad>,
    /// Attempts whose message was lost.
    lost: BTreeSet<AttemptId>,
    delivered: BTreeSet<AttemptId>,
}

/// All processes share it.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    state: Shared<State>,
    changed: Arc<Notify>,
    oracle: Shared<Oracle>,
    mutant: Option<Mutant>,
}

impl Broker {
    pub(crate) fn new(plan: BrokerPlan, seed: u64, oracle: Shared<Oracle>, mutant: Option<Mutant>) -> Self {
        let state = State {
            plan,
            random: Random::new(seed, "broker"),
            ready: BTreeMap::new(),
            holders: BTreeMap::new(),
            next: 0,
            listeners: Vec::new(),
            away: None,
            bad: None,
            lost: BTreeSet::new(),
            delivered: BTreeSet::new(),
        };
        Self { state: Arc::new(std::sync::Mutex::new(state)), changed: Arc::default(), oracle, mutant }
    }

    fn seen(&self, what: &'static str) {
        lock(&self.oracle).seen(what);
    }

    /// It cannot be reached for a while: all connections are lost.
    pub(crate) fn goes_away(&self, until: Instant, hang: bool) {
        self.seen("the broker is away");
        let mut state = lock(&self.state);
        state.away = Some((until, hang));
        let all: Vec<u64> = state.holders.keys().copied().collect();
        all.into_iter().for_each(|id| state.cut(id));
    }

    /// It forgets all messages.
    pub(crate) fn forgets(&self) {
        let mut state = lock(&self.state);
        let ready = std::mem::take(&mut state.ready).into_values().flatten();
        let held = state.holders.values_mut().flat_map(|holder| {
            holder.connection += 1;
            std::mem::take(&mut holder.unsettled).into_values()
        });
        let lost: Vec<AttemptId> = ready.chain(held).map(|letter| letter.attempt).collect();
        if !lost.is_empty() {
            self.seen("the broker loses all its data");
        }
        state.lost.extend(lost);
    }

    pub(crate) fn is_bad(&self, bad: Bad) {
        lock(&self.state).bad = Some(bad);
    }

    /// What a process consumes is cancelled, and it gets nothing for a while.
    pub(crate) fn cancels(&self, process: usize, until: Instant) {
        let mut state = lock(&self.state);
        let of_process = state.holders.iter().filter(|(_, holder)| holder.life.number == process);
        for id in of_process.map(|(id, _)| *id).collect::<Vec<_>>() {
            state.cut(id);
            state.holders.get_mut(&id).expect("it was just listed").cut = Some(until);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn heal(&self) {
        let mut state = lock(&self.state);
        (state.away, state.bad) = (None, None);
        state.holders.values_mut().for_each(|holder| holder.cut = None);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Once a second: others get what those hold of whom nothing is heard any more.
    pub(crate) fn tick(&self) {
        let mut state = lock(&self.state);
        let (now, idle) = (Instant::now(), Duration::from_secs(state.plan.idle));
        let mut given_up = Vec::new();
        for (id, holder) in &mut state.holders {
            if !holder.life.gate.is_dead() && !holder.life.gate.is_paused() {
                holder.silent = None;
                continue;
            }
            if holder.life.gate.is_dead() && holder.silent.is_none() {
                let unclaimed =
                    holder.unsettled.values().any(|one| lock(&self.oracle).is_queued(one.attempt));
                if unclaimed {
                    self.seen("a worker is killed before it claims");
                }
            }
            if now.duration_since(*holder.silent.get_or_insert(now)) >= idle {
                given_up.push((*id, holder.life.gate.is_dead()));
            }
        }
        for (id, is_dead) in given_up {
            state.cut(id);
            if is_dead {
                state.holders.remove(&id);
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether it can be reached now, after as long as that takes to find out.
    pub(crate) async fn reach(&self) -> Result<(), TransportError> {
        let away = lock(&self.state).away.filter(|(until, _)| *until > Instant::now());
        let Some((until, hang)) = away else { return Ok(()) };
        if hang {
            tokio::time::sleep_until(until.min(Instant::now() + PATIENCE)).await;
        }
        Err(TransportError::Unreachable { place: "simulated".into(), why: "it does not answer".into() })
    }

    pub(crate) fn is_there(&self) -> bool {
        lock(&self.state).away.is_none_or(|(until, _)| until <= Instant::now())
    }

    /// Takes a message, and says whether it keeps it; it may be wrong.
    pub(crate) fn take(&self, message: Message) -> Result<(), TransportError> {
        let rejected = || TransportError::Rejected { queue: message.queue.clone(), why: "simulated".into() };
        let attempt = attempt_of(&message.body);
        let letter = Letter { queue: message.queue.clone(), body: message.body, attempt, deliveries: 0 };
        let mut state = lock(&self.state);
        let bad = state.bad.filter(|bad| bad.until > Instant::now());
        let is_refused = bad.is_some_and(|bad| state.random.chance(bad.refused));
        // Some of the answers that a publisher does not get were good ones.
        let is_kept = !is_refused || state.random.chance(30);
        let is_lost = bad.is_some_and(|bad| state.random.chance(bad.lost));
        let copies = if bad.is_some_and(|bad| state.random.chance(bad.doubled)) { 2 } else { 1 };
        let most = bad.map_or(state.plan.delay, |bad| bad.millis.max(state.plan.delay));
        let delays: Vec<u64> = (0..copies).map(|_| state.random.below(most + 1)).collect();
        let mut oracle = lock(&self.oracle);
        if is_kept && state.lost.remove(&attempt) {
            oracle.seen("a message is lost and sent again");
        }
        if is_kept {
            oracle.is_sent(attempt);
        }
        if is_refused {
            oracle.seen("a publish fails");
        }
        if is_kept && is_lost {
            oracle.line(&format!("a message for {} is lost", letter.queue));
            state.lost.insert(attempt);
        }
        drop((state, oracle));
        if is_kept && !is_lost {
            delays.into_iter().for_each(|delay| self.arrives(letter.clone(), delay));
        }
        if is_refused { Err(rejected()) } else { Ok(()) }
    }

    /// A message comes into its queue after so many milliseconds.
    fn arrives(&self, letter: Letter, delay: u64) {
        let broker = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            lock(&broker.state).ready.entry(letter.queue.clone()).or_default().push_back(letter);
            broker.changed.notify_waiters();
        });
    }

    pub(crate) fn enter(&self, life: &Life, queues: Vec<String>, prefetch: u16) -> u64 {
        let mut state = lock(&self.state);
        state.next += 1;
        let id = state.next;
        let holder = Holder {
            life: life.clone(),
            queues,
            prefetch: usize::from(prefetch),
            connection: 1,
            number: 0,
            unsettled: BTreeMap::new(),
            silent: None,
            cut: None,
        };
        state.holders.insert(id, holder);
        id
    }

    /// Returns when there is something for a consumer, and gives it out.
    pub(crate) async fn receive(&self, id: u64, room: usize) -> Vec<Delivery> {
        loop {
            let life = lock(&self.state).holders.get(&id).map(|holder| holder.life.clone());
            let Some(life) = life else { return std::future::pending().await };
            life.gate.pass().await;
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let given = self.give(id, room);
            if !given.is_empty() {
                return given;
            }
            changed.await;
        }
    }

    fn give(&self, id: u64, room: usize) -> Vec<Delivery> {
        let is_there = self.is_there();
        let mut state = lock(&self.state);
        let State { ready, holders, delivered, .. } = &mut *state;
        let Some(holder) = holders.get_mut(&id) else { return Vec::new() };
        if !is_there || holder.cut.is_some_and(|until| until > Instant::now()) {
            return Vec::new();
        }
        let mut oracle = lock(&self.oracle);
        let mut given = Vec::new();
        let queues = holder.queues.clone();
        for queue in &queues {
            let Some(queue) = ready.get_mut(queue) else { continue };
            while given.len() < room && holder.unsettled.len() < holder.prefetch {
                let Some(letter) = queue.pop_front() else { break };
                oracle.comes(letter.attempt, !delivered.insert(letter.attempt), holder.life.number);
                holder.number += 1;
                let token = Token { connection: holder.connection, number: holder.number };
                given.push(Delivery {
                    queue: letter.queue.clone(),
                    body: letter.body.clone(),
                    redeliveries: letter.deliveries,
                    token,
                });
                // The mistake: whoever dies with it has lost it.
                if self.mutant != Some(Mutant::AckBeforeClaim) {
                    holder.unsettled.insert(token.number, letter);
                }
            }
        }
        given
    }

    /// Forgets deliveries, or gives them to others.
    pub(crate) fn settle(&self, id: u64, tokens: &[Token], how: Settle) {
        let mut state = lock(&self.state);
        let State { ready, holders, .. } = &mut *state;
        let Some(holder) = holders.get_mut(&id) else { return };
        for token in tokens.iter().filter(|token| token.connection == holder.connection) {
            if let Some(letter) = holder.unsettled.remove(&token.number)
                && how == Settle::Back
            {
                back(ready, letter);
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn set_queues(&self, id: u64, queues: Vec<String>) {
        if let Some(holder) = lock(&self.state).holders.get_mut(&id) {
            holder.queues = queues;
        }
    }

    /// A consumer says goodbye.
    pub(crate) fn leave(&self, id: u64) {
        let mut state = lock(&self.state);
        state.cut(id);
        state.holders.remove(&id);
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn depth(&self, queue: &str) -> Depth {
        let state = lock(&self.state);
        let held = state.holders.values().flat_map(|holder| holder.unsettled.values());
        Depth {
            ready: state.ready.get(queue).map_or(0, VecDeque::len) as u64,
            unsettled: held.filter(|letter| letter.queue == queue).count() as u64,
            consumers: state.holders.values().filter(|one| one.queues.iter().any(|q| q == queue)).count()
                as u64,
            oldest: None,
        }
    }

    /// Tells those who listen, each after a moment; some do not hear it while the broker is bad.
    pub(crate) fn announce(&self, topic: &str, body: &[u8]) {
        let mut state = lock(&self.state);
        let bad = state.bad.filter(|bad| bad.until > Instant::now());
        let State { plan, random, listeners, .. } = &mut *state;
        listeners.retain(|one| !one.to.is_closed() && !one.life.gate.is_dead());
        for listener in listeners.iter().filter(|one| one.topic == topic) {
            let delay = random.below(plan.delay + 1);
            if bad.is_some_and(|bad| random.chance(bad.lost)) {
                self.seen("an announcement is lost");
                continue;
            }
            let (life, to, body) = (listener.life.clone(), listener.to.clone(), body.to_vec());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(delay)).await;
                life.gate.pass().await;
                // Who has too many to read, or has ended, hears nothing.
                let _ = to.try_send(body);
            });
        }
    }

    pub(crate) fn subscribe(&self, topic: &str, life: &Life) -> Subscription {
        let (to, from) = mpsc::channel(Subscription::ROOM);
        lock(&self.state).listeners.push(Listener { topic: topic.to_owned(), life: life.clone(), to });
        Subscription(from)
    }
}

impl State {
    /// The connection of a consumer is lost: its tokens mean nothing any more, and others get what it holds.
    fn cut(&mut self, id: u64) {
        let Some(holder) = self.holders.get_mut(&id) else { return };
        holder.connection += 1;
        for letter in std::mem::take(&mut holder.unsettled).into_values().rev() {
            back(&mut self.ready, letter);
        }
    }
}

/// A delivery comes again, before all others.
fn back(ready: &mut BTreeMap<String, VecDeque<Letter>>, mut letter: Letter) {
    letter.deliveries += 1;
    ready.entry(letter.queue.clone()).or_default().push_front(letter);
}

/// The attempt that a message is about.
fn attempt_of(body: &[u8]) -> AttemptId {
    let inner = body.get(HEAD..body.len() - TAIL).expect("ours are longer");
    Envelope::from_body(inner).expect("only schedulers publish").attempt
}
