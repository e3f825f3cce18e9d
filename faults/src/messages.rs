//! What comes through a broker that should not: copies, late ones, and messages of strangers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use airflow_executors::remote::{
    BrokerFacts, ConsumeOptions, Consumer, Depth, Message, Subscription, Transport, TransportError,
    TransportHealth, VERSION,
};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::app::{COPIES, transport};
use crate::brokers::counts;
use crate::fleet::resident_kb;
use crate::stand::{Error, Options, Random, Stand, Verdict};
use crate::workload::LOAD;

/// Publishes each message several times, the copies later and in another order.
pub(crate) struct Repeats {
    inner: Arc<dyn Transport>,
    latest: Duration,
    /// Where it notes how many copies were sent.
    notes: PathBuf,
}

/// How many copies there are of each message.
const EACH: usize = 2;

impl Repeats {
    /// `setting` is the most milliseconds that a copy is late, a blank, and the file for notes.
    pub(crate) fn new(inner: Arc<dyn Transport>, setting: &str) -> Option<Self> {
        let (latest, notes) = setting.split_once(' ')?;
        Some(Self { inner, latest: Duration::from_millis(latest.parse().ok()?), notes: notes.into() })
    }
}

impl fmt::Debug for Repeats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repeats").finish_non_exhaustive()
    }
}

#[async_trait]
impl Transport for Repeats {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn place(&self) -> String {
        self.inner.place()
    }

    async fn check(&self) -> Result<BrokerFacts, TransportError> {
        self.inner.check().await
    }

    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<(), TransportError>> {
        for (number, message) in messages.iter().enumerate() {
            // The messages differ, and so do the delays.
            let mut random = Random(
                message
                    .body
                    .iter()
                    .fold(number as u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte))),
            );
            for _ in 0..EACH {
                let most = u64::try_from(self.latest.as_millis()).unwrap_or(u64::MAX);
                let delay = Duration::from_millis(random.below(most));
                let (inner, copy, notes) = (Arc::clone(&self.inner), message.clone(), self.notes.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    if inner.publish(vec![copy]).await.iter().all(Result::is_ok) {
                        note(&notes);
                    }
                });
            }
        }
        self.inner.publish(messages).await
    }

    fn consume(&self, options: ConsumeOptions) -> Box<dyn Consumer> {
        self.inner.consume(options)
    }

    async fn announce(&self, topic: &str, body: Vec<u8>) -> Result<(), TransportError> {
        self.inner.announce(topic, body).await
    }

    fn subscribe(&self, topic: &str) -> Subscription {
        self.inner.subscribe(topic)
    }

    async fn depth(&self, queue: &str) -> Result<Depth, TransportError> {
        self.inner.depth(queue).await
    }

    fn health(&self) -> TransportHealth {
        self.inner.health()
    }
}

/// One byte for each copy.
fn note(path: &std::path::Path) {
    use std::io::Write as _;
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(b".")).expect("notes can be written");
}

/// F11: each message comes three times, the copies up to a minute late and in another order, also after the attempt has
/// ended, was tried again or cleared.
pub(crate) async fn copies(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let (runs, latest) = (options.runs(170, 14), options.pick(60_u64, 8));
    let stand = Stand::with_broker(options, &[]).await?;
    let notes = stand.folder.path().join("copies");
    let setting = format!("{} {}", latest * 1_000, notes.display());
    let mut fleet = stand.fleet_with(1, &[(COPIES, setting)])?;
    stand.trigger(LOAD, 0..runs).await?;
    stand.wait(&mut fleet, runs).await?;
    // Copies of then come in between what runs now.
    let again = runs / 4;
    stand.trigger(LOAD, runs..runs + again).await?;
    stand.wait(&mut fleet, runs + again).await?;
    // Until the last copy is there, and all have been looked at.
    let sent = || std::fs::metadata(&notes).map_or(0, |file| file.len());
    let until = tokio::time::Instant::now() + Duration::from_secs(latest + 20);
    let mut seen = counts(&stand).await?.stale;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(6)).await;
        let now = counts(&stand).await?.stale;
        if now >= sent() && now == seen {
            break;
        }
        seen = now;
    }
    let sent = sent();
    let mut wrong: Vec<String> = fleet.ended_by_themselves().into_iter().collect();
    // What came in one batch with the original is not counted: it is known without a look at the store.
    if seen * 2 < sent {
        wrong.push(format!("of {sent} copies only {seen} were found to be over"));
    }
    let nemesis =
        json!({ "copies": sent, "seconds_late": latest, "stale_deliveries": seen, "runs": runs + again });
    stand.close(fleet, Verdict::new(name, nemesis, sent > 0, wrong)).await
}

/// How much a worker may grow by messages of strangers, in KiB.
const GROWTH: u64 = 20 * 1024;

/// F12: messages that are none of ours among good ones.
pub(crate) async fn strangers(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let (runs, bad) = (options.runs(60, 12), options.pick(2_000, 200));
    let stand = Stand::with_broker(options, &[]).await?;
    let mut fleet = stand.fleet(1)?;
    let workers: Vec<u32> = fleet.runners().into_iter().filter_map(|index| fleet.pids()[index]).collect();
    stand.trigger(LOAD, 0..runs / 2).await?;
    stand.wait(&mut fleet, runs / 2).await?;
    let before: u64 = workers.iter().map(|pid| resident_kb(*pid)).sum::<Result<u64, _>>()?;
    let broker = stand.setup.broker.as_deref().ok_or("there is no broker")?;
    let stranger = transport(broker)?;
    stand.trigger(LOAD, runs / 2..runs).await?;
    let mut sent: u64 = 0;
    for number in 0..bad {
        let message = Message { queue: "default".to_owned(), body: poison(number, options.seed) };
        let done = stranger.publish(vec![message]).await;
        sent += done.iter().filter(|done| done.is_ok()).count() as u64;
    }
    stand.wait(&mut fleet, runs).await?;
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut counted = counts(&stand).await?.bad;
    while counted < sent && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(500)).await;
        counted = counts(&stand).await?.bad;
    }
    let after: u64 = workers.iter().map(|pid| resident_kb(*pid)).sum::<Result<u64, _>>()?;
    let mut wrong: Vec<String> = fleet.ended_by_themselves().into_iter().collect();
    if counted != sent {
        wrong.push(format!("{sent} bad messages were sent, {counted} were set aside"));
    }
    if after.saturating_sub(before) > GROWTH * workers.len() as u64 {
        wrong.push(format!("the workers grew from {before} to {after} KiB"));
    }
    let mut reasons = BTreeMap::new();
    for letter in stand.asks.store().dead_letters(u32::MAX).await? {
        *reasons.entry(letter.reason).or_insert(0) += 1;
    }
    if reasons.len() < 3 {
        wrong.push(format!("dead letters of only these reasons are kept: {reasons:?}"));
    }
    let nemesis = json!({
        "bad_messages": sent, "set_aside": counted, "dead_letters": reasons, "workers_kib": [before, after],
        "runs": runs,
    });
    stand.close(fleet, Verdict::new(name, nemesis, sent > 0, wrong)).await
}

/// Messages of all kinds that nobody of ours has sent.
fn poison(number: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed.wrapping_add(number as u64));
    let mut bytes = |count: u64| (0..count).map(|_| random.below(256).to_le_bytes()[0]).collect::<Vec<u8>>();
    match number % 8 {
        0 => Vec::new(),
        1 => bytes(200),
        // The head of one of ours with the signature of a stranger; then one with a version that is not there yet.
        2 => [vec![VERSION, 1], bytes(150)].concat(),
        3 => [vec![VERSION + 1, 1], bytes(150)].concat(),
        4 => vec![b'['; 10_000],
        5 if number.is_multiple_of(80) => vec![b'x'; 1 << 20],
        5 => vec![b'x'; 4096],
        6 => vec![0xff, 0xfe, 0x80, 0x80],
        _ => br#"[[], {"task": "load.start"}, {"callbacks": null}]"#.to_vec(),
    }
}
