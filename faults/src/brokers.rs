//! What happens to brokers: restarts, lost data, no patience, and no room.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use airflow_executors::remote::testing::{BrokerServer, PrivateServer};
use airflow_executors::remote::{Counts, WorkerInfo};
use serde_json::{Value, json};

use crate::app::{MAX_LENGTH, QUORUM};
use crate::fleet::{Fleet, resident_kb};
use crate::ledger::boot_nanos;
use crate::stand::{Error, Options, Random, Stand, Verdict, spread};
use crate::workload::{LASTING, LOAD, LONG, WIDE, WIDE_TASKS};

/// How long work may take to go on once the broker is back, in milliseconds: the promise.
const CONTINUED: u64 = 10_000;

/// How long a worker is waited for that should hear of work.
const DEAF: Duration = Duration::from_secs(30);

/// How a broker goes away.
#[derive(Debug, Clone, Copy)]
enum How {
    /// It is asked to, and brings its messages back.
    Asked,
    /// It is killed, and brings back what it has kept.
    Killed,
    /// It is killed, and its data is gone.
    Emptied,
}

fn go_and_come_back(server: &mut PrivateServer, how: How) {
    if matches!(how, How::Asked) {
        server.shut_down();
    }
    server.restart(!matches!(how, How::Emptied));
}

/// F5: the broker restarts in all ways in the middle of the work. With RabbitMQ once more with quorum queues, but for the
/// kill: those of a single node may stay without a leader after it.
pub(crate) async fn restarts(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let all = [How::Asked, How::Killed, How::Emptied];
    let (mut line, mut ok) = restarts_of(name, options, &all, &[]).await?;
    if options.broker == Some(BrokerServer::Rabbitmq) {
        let quorum = (QUORUM, "1".to_owned());
        let (other, is_well) = restarts_of(name, options, &[How::Asked, How::Emptied], &[quorum]).await?;
        ok &= is_well;
        (line["ok"], line["with_quorum_queues"]) = (json!(ok), other);
    }
    Ok((line, ok))
}

async fn restarts_of(
    name: &'static str,
    options: &Options,
    ways: &[How],
    variables: &[(&str, String)],
) -> Result<(Value, bool), Error> {
    let (rounds, planned) = (options.pick(3, 1) * ways.len(), options.runs(186, 18));
    let stand = Stand::with_broker(options, &[]).await?;
    let mut fleet = stand.fleet_with(1, variables)?;
    let mut random = Random(options.seed);
    let (mut numbers, mut waits, mut wrong) = (0.., Vec::new(), Vec::new());
    let part = planned.div_ceil(rounds * 2);
    for round in 0..rounds {
        stand.trigger(LOAD, numbers.by_ref().take(part)).await?;
        if stand.next_start(boot_nanos(), DEAF).await?.is_none() {
            wrong.push("nothing ran when the broker was to go".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(random.below(300))).await;
        let how = ways[round % ways.len()];
        stand.strike_broker(move |server| go_and_come_back(server, how)).await?;
        let back = boot_nanos();
        stand.trigger(LOAD, numbers.by_ref().take(part)).await?;
        match stand.next_start(back, DEAF).await? {
            Some(at) => waits.push((at - back) / 1_000_000),
            None => wrong.push(format!("nothing started after the broker was back ({how:?})")),
        }
        wrong.extend(deaf(&stand, &fleet, back, &mut numbers).await?);
        fleet.revive()?;
    }
    let runs = numbers.start;
    stand.wait(&mut fleet, runs).await?;
    let (p50, p99, max) = spread(waits);
    if max > CONTINUED {
        wrong.push(format!("work went on after {max} ms; promised are {CONTINUED} ms"));
    }
    wrong.extend(fleet.ended_by_themselves());
    let again = fleet.said(&["it is sent again"])?.len();
    let nemesis = json!({
        "restarts": rounds, "continued_ms": { "p50": p50, "p99": p99, "max": max }, "runs": runs,
        "sent_again": again, "stale_deliveries": counts(&stand).await?.stale,
    });
    stand.close(fleet, Verdict::new(name, nemesis, true, wrong)).await
}

/// Words on each worker that starts nothing, although there is work; `more` makes more of it.
async fn deaf(
    stand: &Stand,
    fleet: &Fleet,
    since: u64,
    more: &mut impl Iterator<Item = usize>,
) -> Result<Vec<String>, Error> {
    let until = Instant::now() + DEAF;
    let pids = fleet.pids();
    let mut waiting: Vec<u32> = fleet.runners().into_iter().filter_map(|index| pids[index]).collect();
    while !waiting.is_empty() && Instant::now() < until {
        let bodies = stand.bodies()?;
        let started =
            |pid: &u32| bodies.values().flatten().any(|body| body.pid == *pid && body.started > since);
        waiting.retain(|pid| !started(pid));
        if !waiting.is_empty() && stand.open_bodies()?.is_empty() {
            // All work is done, or the others were quicker.
            stand.trigger(LOAD, more.take(1)).await?;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(waiting.into_iter().map(|pid| format!("the worker {pid} hears nothing")).collect())
}

/// What all workers that are known have counted.
pub(crate) async fn counts(stand: &Stand) -> Result<Counts, Error> {
    let mut sum = Counts::default();
    for row in stand.asks.store().workers().await? {
        let info: WorkerInfo = serde_json::from_value(row.info)?;
        sum.stale += info.counts.stale;
        sum.bad += info.counts.bad;
    }
    Ok(sum)
}

/// F21: tasks that take longer than a broker waits for the acknowledgement of a message.
pub(crate) async fn long_tasks(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let (patience, lasting) = options.pick((60, 180), (10, 25));
    let runs = options.pick(3, 2);
    let timeout = format!("consumer_timeout = {patience}000");
    let settings: &[&str] = match options.broker {
        Some(BrokerServer::Rabbitmq) => &[&timeout],
        _ => &[],
    };
    let stand = Stand::with_broker(options, settings).await?;
    let mut fleet = stand.fleet_with(1, &[(LASTING, lasting.to_string())])?;
    stand.trigger(LONG, 0..runs).await?;
    stand.wait(&mut fleet, runs).await?;
    let counts = counts(&stand).await?;
    let mut wrong: Vec<String> = fleet.ended_by_themselves().into_iter().collect();
    if counts.stale > 0 {
        wrong.push(format!("{} messages were delivered again", counts.stale));
    }
    let nemesis =
        json!({ "broker_waits_s": patience, "tasks_take_s": lasting, "runs": runs, "stale": counts.stale });
    stand.close(fleet, Verdict::new(name, nemesis, true, wrong)).await
}

/// How many messages a queue may hold that is too small.
const TOO_SMALL: u32 = 100;

/// How much a scheduler may grow while more and more work waits, in KiB.
const GROWTH: u64 = 30 * 1024;

/// F25: nobody takes the work, and the broker has no room for all of it.
pub(crate) async fn no_room(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let (runs, seconds) = options.pick((20, 60), (3, 8));
    // RabbitMQ refuses by the length of a queue, which our processes ask for.
    let limits: &[&str] = match options.broker {
        Some(BrokerServer::Redis) => &["--maxmemory", "8mb", "--maxmemory-policy", "noeviction"],
        _ => &[],
    };
    let stand = Stand::with_broker(options, limits).await?;
    let mut fleet = stand.fleet_with(1, &[(MAX_LENGTH, TOO_SMALL.to_string())])?;
    for index in fleet.runners() {
        fleet.end(index).await?;
    }
    let ballast = match options.broker {
        Some(BrokerServer::Redis) => {
            let host = stand.broker_host()?;
            Some(tokio::task::spawn_blocking(move || fill(&host)).await??)
        }
        _ => None,
    };
    stand.trigger(WIDE, 0..runs).await?;
    tokio::time::sleep(Duration::from_secs(seconds / 4)).await;
    let scheduler = fleet.pids()[0].ok_or("the scheduler has ended")?;
    let before = resident_kb(scheduler)?;
    tokio::time::sleep(Duration::from_secs(seconds * 3 / 4)).await;
    let after = resident_kb(scheduler)?;
    let refused = fleet.said(&["the broker did not keep messages"])?.len();
    for index in fleet.runners() {
        fleet.again(index)?;
    }
    stand.wait(&mut fleet, runs).await?;
    let mut wrong: Vec<String> = fleet.ended_by_themselves().into_iter().collect();
    if after.saturating_sub(before) > GROWTH {
        wrong.push(format!("the scheduler grew from {before} to {after} KiB"));
    }
    let nemesis = json!({
        "tasks": runs * WIDE_TASKS, "seconds_without_workers": seconds, "refusals": refused,
        "scheduler_kib": [before, after], "ballast_values": ballast,
    });
    stand.close(fleet, Verdict::new(name, nemesis, refused > 0, wrong)).await
}

/// Fills a Redis until it takes nothing more, then makes room for some messages, beside what the connections of workers take
/// there. Says with how many values.
fn fill(host: &str) -> std::io::Result<usize> {
    const VALUE: usize = 64 << 10;
    const ROOM: usize = 8;
    let mut client = TcpStream::connect(host)?;
    let mut ask = |request: &[u8]| -> std::io::Result<bool> {
        client.write_all(request)?;
        let mut answer = [0_u8; 256];
        let length = client.read(&mut answer)?;
        Ok(length > 0 && answer[0] != b'-')
    };
    let mut values = 0;
    loop {
        let key = format!("ballast{values}");
        let mut request = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${VALUE}\r\n", key.len()).into_bytes();
        request.extend(std::iter::repeat_n(b'x', VALUE));
        request.extend(b"\r\n");
        if !ask(&request)? {
            break;
        }
        values += 1;
    }
    for value in 0..ROOM {
        ask(format!("*2\r\n$3\r\nDEL\r\n$8\r\nballast{value}\r\n").as_bytes())?;
    }
    Ok(values)
}
