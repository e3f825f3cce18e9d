//! What happens between us and the database, and to the database itself.

use std::time::Duration;

use airflow_core::testing::proxy::{Cut, CuttingProxy};
use airflow_core::testing::servers::{OwnServer, Server};
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::ledger::boot_nanos;
use crate::stand::{Error, Options, Stand, Verdict, spread};
use crate::workload::LOAD;

/// How long work may take to go on once the database is back, in milliseconds: the promise.
const CONTINUED: u64 = 10_000;

/// How long a database stays away that is away for longer than a lease.
const OUTAGE: Duration = Duration::from_secs(60);

/// How long after an outage a process may still find out that its lease has ended meanwhile, and stop what it has just
/// begun: one beat. In nanoseconds.
const COMING_BACK: u64 = 5_000_000_000;

/// How often a connection of somebody is ended.
const TERMINATE: Duration = Duration::from_millis(200);

/// F7: connections are cut in the middle of commits, before the server has them and before it answers, in turn.
pub(crate) async fn cuts(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let runs = options.runs(60, 20);
    let wanted = options.pick(200, 40);
    let mut stand = Stand::new(options, 0).await?;
    let database = stand.database.as_ref().ok_or("only servers have connections")?;
    let proxy = CuttingProxy::start(&database.host()).await?;
    stand.setup.store = database.url_by(&proxy.address());
    // Who did it stands in every commit.
    let mark = match options.server() {
        Some(Server::Postgres) => b"scheduler".to_vec(),
        _ => b"scheduler".iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect(),
    };
    let mut fleet = stand.fleet(2)?;
    stand.trigger(LOAD, 0..runs).await?;
    let mut asked = 0;
    while stand.ended().await? < runs && asked < wanted {
        // One at a time, each on the next commit that comes.
        if proxy.cuts() == asked {
            let mark = mark.clone();
            proxy.cut(if asked.is_multiple_of(2) { Cut::Before(mark) } else { Cut::After(mark) });
            asked += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stand.wait(&mut fleet, runs).await?;
    let resolved = fleet.said(&["the database knew what became of it"])?;
    let committed = resolved.iter().filter(|line| line.contains("committed=true")).count();
    let unresolved = fleet.said(&["nothing tells what became of it"])?.len();
    let failed = fleet.said(&["the store failed"])?.len();
    let nemesis = json!({
        "cuts": proxy.cuts(), "resolved_committed": committed, "resolved_undone": resolved.len() - committed,
        "unresolved": unresolved, "turns_of_the_loop_that_failed": failed, "runs": runs,
    });
    let mut wrong = Vec::new();
    if unresolved > 0 {
        wrong.push(format!("of {unresolved} commits nobody knows what became of them"));
    }
    wrong.extend(fleet.ended_by_themselves());
    let hit = proxy.cuts() >= wanted / 4 && committed > 0 && resolved.len() > committed;
    stand.close(fleet, Verdict::new(name, nemesis, hit, wrong)).await
}

/// What a database went through, and how long it took until work went on, in milliseconds.
#[derive(Debug, Default)]
struct Weather {
    terminated: u64,
    restarts: u64,
    read_only: u64,
    waits: Vec<u64>,
    wrong: Vec<String>,
}

/// F6: connections ended, crashes and restarts, read-only times and an outage of a database of our own.
pub(crate) async fn restarts(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let kind = options.server().ok_or("only servers can be restarted")?;
    let server = tokio::task::spawn_blocking(move || OwnServer::start(kind, &[])).await?;
    let server = std::sync::Arc::new(server.ok_or(format!("the programs of {kind:?} are not installed"))?);
    let stand = Stand::on(options, &server).await?;
    let mut fleet = stand.fleet(2)?;
    let mut weather = Weather::default();
    let mut runs = 0;
    let part = options.pick(24, 8);
    let mut next = || {
        runs += part;
        runs - part..runs
    };
    stand.trigger(LOAD, next()).await?;
    terminate(kind, &server, options.pick(40, 10), &mut weather).await?;
    for _ in 0..options.pick(3, 1) {
        stand.trigger(LOAD, next()).await?;
        away(&stand, &server, Duration::ZERO, &mut weather).await?;
    }
    stand.trigger(LOAD, next()).await?;
    read_only(kind, &stand, &server, options.pick(8, 3), &mut weather).await?;
    let promised = stand.bodies()?;
    let lost = crate::stand::beyond_the_plan(&promised, stand.setup.plan);
    if !options.is_quick {
        stand.trigger(LOAD, next()).await?;
        let from = boot_nanos();
        away(&stand, &server, OUTAGE, &mut weather).await?;
        fleet.strikes.outages.push((from, boot_nanos() + COMING_BACK));
    }
    stand.wait(&mut fleet, runs).await?;
    let (p50, p99, max) = spread(weather.waits.clone());
    let mut wrong = weather.wrong;
    if max > CONTINUED {
        wrong.push(format!("work went on after {max} ms; promised are {CONTINUED} ms"));
    }
    if lost > 0 {
        wrong.push(format!("{lost} attempts were lost although no lease ended"));
    }
    wrong.extend(fleet.ended_by_themselves());
    let nemesis = json!({
        "terminated": weather.terminated, "restarts": weather.restarts, "read_only_times": weather.read_only,
        "outage_s": if options.is_quick { 0 } else { OUTAGE.as_secs() }, "runs": runs,
        "continued_ms": { "p50": p50, "p99": p99, "max": max },
        "attempts_lost_within_leases": lost, "turns_of_the_loop_that_failed": fleet.said(&["the store failed"])?.len(),
    });
    let hit = weather.terminated > 0 && weather.restarts > 0 && weather.read_only > 0;
    stand.close(fleet, Verdict::new(name, nemesis, hit, wrong)).await
}

/// Ends a connection of somebody five times a second.
async fn terminate(kind: Server, server: &OwnServer, times: u32, weather: &mut Weather) -> Result<(), Error> {
    for _ in 0..times {
        tokio::time::sleep(TERMINATE).await;
        weather.terminated += match kind {
            Server::Postgres => {
                const ONE: &str =
                    "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
                    WHERE datname LIKE 'af_test%' ORDER BY random() LIMIT 1) one";
                let mut conn = sqlx::PgConnection::connect(server.address()).await?;
                u64::try_from(sqlx::query_scalar::<_, i64>(ONE).fetch_one(&mut conn).await?)?
            }
            Server::Mysql => {
                const ONE: &str = "SELECT id FROM information_schema.processlist
                    WHERE db LIKE 'af_test%' ORDER BY rand() LIMIT 1";
                let mut conn = sqlx::MySqlConnection::connect(server.address()).await?;
                match sqlx::query_scalar::<_, i64>(ONE).fetch_optional(&mut conn).await? {
                    Some(id) => {
                        let kill = sqlx::AssertSqlSafe(format!("KILL {id}"));
                        // It may have gone by itself.
                        u64::from(sqlx::raw_sql(kill).execute(&mut conn).await.is_ok())
                    }
                    None => 0,
                }
            }
        };
    }
    Ok(())
}

/// Lets the server crash, and start again after some time.
async fn away(
    stand: &Stand,
    server: &std::sync::Arc<OwnServer>,
    time: Duration,
    weather: &mut Weather,
) -> Result<(), Error> {
    if stand.next_start(boot_nanos(), Duration::from_secs(20)).await?.is_none() {
        weather.wrong.push("nothing ran when the database was to crash".to_owned());
    }
    let one = std::sync::Arc::clone(server);
    if !tokio::task::spawn_blocking(move || one.crash()).await? {
        return Err("the server cannot be ended".into());
    }
    tokio::time::sleep(time).await;
    let one = std::sync::Arc::clone(server);
    if !tokio::task::spawn_blocking(move || one.again()).await? {
        return Err("the server does not come back".into());
    }
    weather.restarts += 1;
    went_on(stand, weather).await
}

/// Measures how long it takes from now until a body starts.
async fn went_on(stand: &Stand, weather: &mut Weather) -> Result<(), Error> {
    let back = boot_nanos();
    match stand.next_start(back, Duration::from_millis(CONTINUED * 3)).await? {
        Some(at) => weather.waits.push((at - back) / 1_000_000),
        None => weather.wrong.push("nothing started after the database was back".to_owned()),
    }
    Ok(())
}

/// Lets the server refuse to write for some seconds.
async fn read_only(
    kind: Server,
    stand: &Stand,
    server: &OwnServer,
    seconds: u64,
    weather: &mut Weather,
) -> Result<(), Error> {
    let statements = |on: bool| match (kind, on) {
        (Server::Postgres, true) => vec!["ALTER SYSTEM SET default_transaction_read_only = on"],
        (Server::Postgres, false) => vec!["ALTER SYSTEM RESET default_transaction_read_only"],
        (Server::Mysql, true) => vec!["SET GLOBAL read_only = 1"],
        (Server::Mysql, false) => vec!["SET GLOBAL read_only = 0"],
    };
    let reload = || async {
        if kind == Server::Postgres {
            server.run("SELECT pg_reload_conf()").await;
        }
    };
    for sql in statements(true) {
        server.run(sql).await;
    }
    reload().await;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    for sql in statements(false) {
        server.run(sql).await;
    }
    reload().await;
    weather.read_only += 1;
    went_on(stand, weather).await
}
