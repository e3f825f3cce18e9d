//! F19: a worker that is cut off from everything while its tasks run.

use std::time::Duration;

use airflow_executors::remote::testing::BadLink;
use serde_json::{Value, json};

use crate::app::{BROKER, STORE, WORKER};
use crate::ledger::boot_nanos;
use crate::stand::{Error, Options, Stand, Verdict};
use crate::workload::{LOAD, LONG};

/// How long it is cut off: longer than its lease of 20 s.
const CUT: Duration = Duration::from_secs(60);

/// Within how many nanoseconds it has to have stopped its tasks: its lease.
const LEASE: u64 = 20_000_000_000;

/// How long a worker may take to work again, in milliseconds: the promise.
const REJOINED: u64 = 10_000;

/// What a worker is cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Everything,
    Database,
    Broker,
}

/// Runs it: cut off from everything, then from one of both.
pub(crate) async fn worker(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let stand = Stand::with_broker(options, &[]).await?;
    let database = stand.database.as_ref().ok_or("only servers have connections")?;
    let to_database = BadLink::start(&database.host()).await?;
    let to_broker = BadLink::start(&stand.broker_host()?).await?;
    let broker = stand.setup.broker.clone().ok_or("there is no broker")?;
    let mut fleet = stand.fleet(1)?;
    let victim = fleet.add(vec![
        (WORKER.to_owned(), "cut".to_owned()),
        (STORE.to_owned(), database.url_by(&to_database.address())),
        (BROKER.to_owned(), broker.replace(&stand.broker_host()?, &to_broker.address())),
    ])?;
    let cases: &[From] = options.pick(&[From::Everything, From::Database, From::Broker], &[From::Everything]);
    let (mut runs, mut hits, mut stopped_ms, mut rejoined_ms) = (0, 0, Vec::new(), Vec::new());
    let mut wrong = Vec::new();
    for from in cases {
        // Enough for all workers.
        let part = options.pick(16, 10);
        stand.trigger(LONG, runs..runs + part).await?;
        runs += part;
        let pid = fleet.pids()[victim].ok_or("the worker has ended")?;
        let until = tokio::time::Instant::now() + Duration::from_secs(30);
        while stand.open_bodies()?.get(&pid).copied().unwrap_or(0) < 3 && tokio::time::Instant::now() < until
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (cut, open) = (boot_nanos(), stand.open_bodies()?.get(&pid).copied().unwrap_or(0));
        hits += usize::from(open > 0);
        to_database.swallow(*from != From::Broker);
        to_broker.swallow(*from != From::Database);
        tokio::time::sleep(CUT).await;
        to_database.swallow(false);
        to_broker.swallow(false);
        let healed = boot_nanos();
        if *from != From::Broker {
            fleet.strikes.outages_of.push((pid, cut, healed + REJOINED * 1_000_000));
            let bodies = stand.bodies()?;
            let at_work = bodies.values().flatten().filter(|body| body.pid == pid && body.started < cut);
            for body in at_work.filter(|body| body.ended.is_none_or(|end| end > cut + LEASE)) {
                wrong.push(format!("a task went on longer than the lease: {body:?}"));
            }
            let ends = bodies.values().flatten().filter(|body| body.pid == pid && body.stopped);
            stopped_ms.extend(ends.filter_map(|body| Some(body.ended?.checked_sub(cut)? / 1_000_000)));
        }
        // It works again once there is work.
        stand.trigger(LOAD, runs..runs + part).await?;
        stand.trigger(LONG, runs..runs + part).await?;
        runs += part;
        let until = tokio::time::Instant::now() + Duration::from_secs(30);
        let first = loop {
            let bodies = stand.bodies()?;
            let starts = bodies.values().flatten().filter(|body| body.pid == pid && body.started > healed);
            if let Some(first) = starts.map(|body| body.started).min() {
                break Some(first);
            }
            if tokio::time::Instant::now() > until {
                break None;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        match first.map(|at| (at - healed) / 1_000_000) {
            Some(took) if took <= REJOINED => rejoined_ms.push(took),
            Some(took) => {
                wrong.push(format!("it worked again after {took} ms; promised are {REJOINED} ms ({from:?})"));
            }
            None => wrong.push(format!("it did not work again ({from:?})")),
        }
    }
    let all = stand.asks.store().runs(&airflow_core::store::RunFilter::default()).await?.len();
    stand.wait(&mut fleet, all).await?;
    wrong.extend(fleet.ended_by_themselves());
    let nemesis = json!({
        "cuts": cases.len(), "seconds_each": CUT.as_secs(), "while_bodies_ran": hits, "runs": all,
        "stopped_by_itself_after_ms": stopped_ms, "worked_again_after_ms": rejoined_ms,
    });
    stand.close(fleet, Verdict::new(name, nemesis, hits == cases.len(), wrong)).await
}
