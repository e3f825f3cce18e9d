//! F15: wall clocks that are wrong: of a scheduler, and of the database.

use std::path::Path;

use airflow_core::store::RunFilter;
use airflow_core::testing::servers::{OwnServer, Server};
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::stand::{Error, Options, Random, Stand, Verdict};
use crate::workload::LOAD;

/// Where distributions keep the library that sets the clock of one process.
const LIBRARIES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// How far apart times must be that two processes write.
const FAR_APART: TimeDelta = TimeDelta::minutes(50);

/// How wrong clocks are, in the words of the library: ahead, behind, and one that runs too fast.
const WRONG: [&str; 5] = ["+1h", "-1h", "+1d", "-1d", "+0 x1.1"];

/// The environment of a process whose wall clock is another one. The other clocks nobody can set.
fn environment(library: &str, clock: &str) -> Vec<(String, String)> {
    let pairs = [
        ("LD_PRELOAD", library),
        ("FAKETIME", clock),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_DONT_RESET", "1"),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// Runs it.
pub(crate) async fn wrong(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let Some(library) = LIBRARIES.into_iter().find(|path| Path::new(path).exists()) else {
        let why = "*** NOT RUN: libfaketime is not installed (Debian: apt-get install libfaketime) ***";
        let ok = std::env::var_os("CI").is_none();
        return Ok((json!({ "test": name, "ok": ok, "not_run": why }), ok));
    };
    let runs = options.runs(60, 20);
    let clocks: &[&str] = options.pick(&WRONG, &WRONG[2..4]);
    let points = 20;
    let mut servers = Vec::new();
    let (mut lines, mut good, mut hit) = (Vec::new(), true, true);
    for (number, clock) in clocks.iter().enumerate() {
        // A database with another clock is a server of its own; MariaDB's time is that of its host as well.
        let own = match options.server() {
            Some(kind) if number.is_multiple_of(2) => Some(with_clock(kind, library, clock).await?),
            _ => None,
        };
        let (line, ok, seen) = one(name, options, runs, points, library, clock, own.as_ref()).await?;
        servers.extend(own);
        good &= ok;
        hit &= seen;
        lines.push(line);
    }
    let count = |what: &str| lines.iter().filter_map(|line| line[what].as_u64()).sum::<u64>();
    let line = json!({
        "test": name, "store": options.store.as_deref().unwrap_or("sqlite"), "seed": options.seed, "ok": good && hit,
        "clocks": clocks, "servers_with_a_wrong_clock": servers.len(), "lost": count("lost"),
        "unexplained_duplicates": count("unexplained_duplicates"), "explained_duplicates": count("explained_duplicates"),
        "overlaps": count("overlaps"), "limit_violations": count("limit_violations"), "duplicate_runs": count("duplicate_runs"),
        "bodies": count("bodies"), "failed": lines.iter().filter(|line| line["ok"] != json!(true)).collect::<Vec<_>>(),
    });
    Ok((line, good && hit))
}

async fn with_clock(kind: Server, library: &'static str, clock: &str) -> Result<OwnServer, Error> {
    let pairs = environment(library, clock);
    let server = tokio::task::spawn_blocking(move || OwnServer::start_with(kind, &[], &pairs)).await?;
    server.ok_or_else(|| format!("the programs of {kind:?} are not installed").into())
}

/// The time between the first and the last start of an attempt, by the clocks of those who started them.
async fn furthest_apart(stand: &Stand) -> Result<TimeDelta, Error> {
    let mut times = Vec::new();
    for run in stand.asks.store().runs(&RunFilter::default()).await? {
        let attempts = stand.asks.store().attempts(run.pk, None).await?;
        times.extend(attempts.into_iter().map(|attempt| attempt.start.at));
    }
    let (first, last) = (times.iter().min(), times.iter().max());
    Ok(first.zip(last).map_or(TimeDelta::zero(), |(first, last)| *last - *first))
}

/// Two schedulers, one of them with a wrong clock; while they work the clocks of one more differ. Nobody is killed, so
/// nothing may run twice.
async fn one(
    name: &'static str,
    options: &Options,
    runs: usize,
    points: i64,
    library: &str,
    clock: &str,
    server: Option<&OwnServer>,
) -> Result<(Value, bool, bool), Error> {
    let stand = match server {
        Some(server) => Stand::on(options, server).await?,
        None => Stand::new(options, points).await?,
    };
    let all = runs + if server.is_some() { 0 } else { usize::try_from(points)? };
    let places = vec![environment(library, clock), Vec::new()];
    let mut fleet = Fleet::start_in(&stand.setup, places, stand.folder.path())?;
    let mut random = Random(options.seed);
    for part in 0..3 {
        stand.trigger(LOAD, part * runs / 3..(part + 1) * runs / 3).await?;
        // Past a few beats and looks for the dead.
        tokio::time::sleep(std::time::Duration::from_millis(4_000 + random.below(1_000))).await;
    }
    stand.wait(&mut fleet, all).await?;
    let dead = fleet.said(&["declared dead", "has died", "attempt was lost"])?;
    let mut wrong = Vec::new();
    if !dead.is_empty() {
        wrong.push(format!("processes that lived were taken for dead: {}", dead[0]));
    }
    let shares = stand.shares().await?;
    // What such a process writes bears its time; a clock that is only too fast is not far off yet.
    let hit = shares.len() == 2 && (clock.starts_with("+0") || furthest_apart(&stand).await? > FAR_APART);
    let nemesis = json!({ "clock": clock, "of_the_server_too": server.is_some(), "shares": shares });
    let (line, ok) = stand.close(fleet, Verdict::new(name, nemesis, hit, wrong)).await?;
    Ok((line, ok, hit))
}
