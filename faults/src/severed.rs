//! F19: a worker that is cut off from everything while its tasks run.

use std::time::Duration;

use airflow_executors::remote::testing::BadLink;
use serde_json::{Value, json};

use crate::app::{BROKER, STORE, WORKER};
use crate::fleet::Fleet;
use crate::ledger::boot_nanos;
use crate::stand::{Error, Options, Stand, Verdict};
use crate::workload::{LOAD, LONG};

/// How long it is cut off: longer than its lease of 20 s.
const CUT: Duration = Duration::from_secs(60);

/// Within how many nanoseconds it has to have stopped its tasks: its lease.
const LEASE: u64 = 20_000_000_000;

/// How long a worker may take to work again, in milliseconds: the promise.
const REJOINED: u64 = 10_000;

/// How long something is waited for that must happen.
const SOON: Duration = Duration::from_secs(30);

/// What a worker is cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Everything,
    Database,
    Broker,
}

/// What is seen of the cuts.
#[derive(Debug, Default)]
struct Seen {
    hits: usize,
    stopped_ms: Vec<u64>,
    again_ms: Vec<u64>,
    wrong: Vec<String>,
}

/// A worker behind links that can be broken.
struct Victim {
    to_database: BadLink,
    to_broker: BadLink,
}

/// Runs it: cut off from everything, then from one of both.
pub(crate) async fn worker(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let stand = Stand::with_broker(options, &[]).await?;
    let database = stand.database.as_ref().ok_or("only servers have connections")?;
    let to_database = BadLink::start(&database.host()).await?;
    let to_broker = BadLink::start(&stand.broker_host()?).await?;
    let broker = stand.setup.broker.clone().ok_or("there is no broker")?;
    let mut fleet = stand.fleet(1)?;
    let index = fleet.add(vec![
        (WORKER.to_owned(), "cut".to_owned()),
        (STORE.to_owned(), database.url_by(&to_database.address())),
        (BROKER.to_owned(), broker.replace(&stand.broker_host()?, &to_broker.address())),
    ])?;
    let victim = Victim { to_database, to_broker };
    let cases: &[From] = options.pick(&[From::Everything, From::Database, From::Broker], &[From::Everything]);
    let (mut runs, mut seen) = (0, Seen::default());
    for from in cases {
        // Enough for all workers, before and after.
        let part = options.pick(16, 10);
        stand.trigger(LONG, runs..runs + part).await?;
        let pid = fleet.pids()[index].ok_or("the worker has ended")?;
        let healed = cut(&stand, &mut fleet, &victim, pid, *from, &mut seen).await?;
        runs += part;
        stand.trigger(LOAD, runs..runs + part).await?;
        stand.trigger(LONG, runs..runs + part).await?;
        runs += part;
        match works_again(&stand, pid, healed).await? {
            Some(took) if took <= REJOINED => seen.again_ms.push(took),
            Some(took) => {
                let late = format!("it worked again after {took} ms; promised are {REJOINED} ms ({from:?})");
                seen.wrong.push(late);
            }
            None => seen.wrong.push(format!("it did not work again ({from:?})")),
        }
    }
    let all = stand.asks.store().runs(&airflow_core::store::RunFilter::default()).await?.len();
    stand.wait(&mut fleet, all).await?;
    seen.wrong.extend(fleet.ended_by_themselves());
    let nemesis = json!({
        "cuts": cases.len(), "seconds_each": CUT.as_secs(), "while_bodies_ran": seen.hits, "runs": all,
        "stopped_by_itself_after_ms": seen.stopped_ms, "worked_again_after_ms": seen.again_ms,
    });
    stand.close(fleet, Verdict::new(name, nemesis, seen.hits == cases.len(), seen.wrong)).await
}

/// Cuts the worker off for a time; says when it was over.
async fn cut(
    stand: &Stand,
    fleet: &mut Fleet,
    victim: &Victim,
    pid: u32,
    from: From,
    seen: &mut Seen,
) -> Result<u64, Error> {
    let open = stand.wait_for_bodies(Some(pid), SOON).await?;
    seen.hits += usize::from(open > 0);
    let cut = boot_nanos();
    victim.to_database.swallow(from != From::Broker);
    victim.to_broker.swallow(from != From::Database);
    tokio::time::sleep(CUT).await;
    victim.to_database.swallow(false);
    victim.to_broker.swallow(false);
    let healed = boot_nanos();
    if from != From::Broker {
        fleet.strikes.outages_of.push((pid, cut, healed + REJOINED * 1_000_000));
        let bodies = stand.bodies()?;
        let of_it = || bodies.values().flatten().filter(|body| body.pid == pid);
        for body in of_it().filter(|body| body.started < cut) {
            if body.ended.is_none_or(|end| end > cut + LEASE) {
                seen.wrong.push(format!("a task went on longer than the lease: {body:?}"));
            }
        }
        let stopped = of_it().filter(|body| body.stopped);
        seen.stopped_ms.extend(stopped.filter_map(|body| Some(body.ended?.checked_sub(cut)? / 1_000_000)));
    }
    Ok(healed)
}

/// After how many milliseconds a body starts in it, if one does soon.
async fn works_again(stand: &Stand, pid: u32, healed: u64) -> Result<Option<u64>, Error> {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        let bodies = stand.bodies()?;
        let starts = bodies.values().flatten().filter(|body| body.pid == pid && body.started > healed);
        if let Some(first) = starts.map(|body| body.started).min() {
            return Ok(Some((first - healed) / 1_000_000));
        }
        if tokio::time::Instant::now() > until {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
