//! F27: a task that says far more than can be kept, beside good ones; a folder that cannot be written; a database that
//! takes no logs; a process that is killed while a task speaks.

use std::io::Write as _;
use std::time::{Duration, Instant};

use airflow_core::attempt::LogReader;
use airflow_core::dag::{DagDef, TaskExt as _, TaskOptions};
use airflow_core::id::{DagId, MapIndex};
use airflow_core::operator::{Description, Operator, Result, TaskContext};
use airflow_core::store::{RunFilter, RunRow};
use airflow_core::testing::servers::Server;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::app::{LOG_QUOTA, LOGS};
use crate::ledger::{Bodies, Ledger, Running, boot_nanos};
use crate::oracle::parts_of;
use crate::stand::{Error, Options, Stand, Verdict};
use crate::workload::LOAD;

/// The dag whose task says a lot, and its task.
pub(crate) const LOUD: &str = "loud";

/// The dag whose task says a little, again and again, and its task.
pub(crate) const TICKS: &str = "ticks";

/// By what its words are told from what the process says.
pub(crate) const TARGET: &str = "faults::loud";

/// The variables that name for how many milliseconds they speak, and where the first one notes how much it has said.
const SPEAKS: &str = "AIRFLOW_FAULTS_SPEAKS";
const NOTES: &str = "AIRFLOW_FAULTS_SAID";

/// How long one line of the loud task is, in bytes.
const LINE: usize = 1_000;

/// How often the other one speaks.
const TICK: Duration = Duration::from_millis(20);

/// How much longer than planned a body beside a loud one may take, in milliseconds: a moment on a machine whose cores are
/// all busy.
const NEIGHBOUR: u64 = 2_000;

/// How much of what a task said may be missing after its process was killed, in milliseconds: the second that is promised, and
/// what a busy database takes to write.
const MISSING: u64 = 1_500;

/// What a log has beside what the task says, at most, in bytes.
const FRAME: u64 = 4_096;

/// The table of the logs, and its name while it is away.
const LOG_TABLE: &str = "af_log_chunk";
const LOG_TABLE_AWAY: &str = "af_log_chunk_away";

/// How long something is waited for that must happen.
const SOON: Duration = Duration::from_secs(30);

fn speaks() -> Duration {
    Duration::from_millis(std::env::var(SPEAKS).ok().and_then(|time| time.parse().ok()).unwrap_or(100))
}

/// Speaks without a pause.
struct Loud;

impl Operator for Loud {
    type Output = u64;
    const NAME: &'static str = "Loud";

    fn describe(&self, description: &mut Description) {
        description.resource::<Ledger>();
    }

    async fn execute(&self, cx: &TaskContext) -> Result<u64> {
        let body = Running::begin(cx.resource_arc::<Ledger>()?, cx);
        let lines = tokio::task::block_in_place(|| {
            let (until, mut lines) = (Instant::now() + speaks(), 0);
            while Instant::now() < until {
                lines += 1;
                tracing::info!(target: TARGET, "{lines:0LINE$}");
            }
            lines
        });
        if let Some(path) = std::env::var_os(NOTES) {
            let mut notes = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
            notes.write_all(format!("{} {lines}\n", cx.run_id()).as_bytes())?;
        }
        body.end();
        Ok(lines)
    }
}

/// Says the time, again and again.
struct Ticks;

impl Operator for Ticks {
    type Output = ();
    const NAME: &'static str = "Ticks";

    fn describe(&self, description: &mut Description) {
        description.resource::<Ledger>();
    }

    async fn execute(&self, cx: &TaskContext) -> Result<()> {
        let body = Running::begin(cx.resource_arc::<Ledger>()?, cx);
        let until = Instant::now() + speaks();
        while Instant::now() < until {
            tracing::info!(target: TARGET, "tick {}", boot_nanos());
            tokio::time::sleep(TICK).await;
        }
        body.end();
        Ok(())
    }
}

fn alone(id: &'static str) -> DagDef {
    DagDef::new(id)
        .max_active_runs(1_000)
        .default_args(TaskOptions::new().retries(2).retry_delay(Duration::from_millis(50)))
}

pub(crate) fn loud() -> DagDef {
    alone(LOUD).define(|d| {
        d.add(Loud.id(LOUD));
    })
}

pub(crate) fn ticks() -> DagDef {
    alone(TICKS).define(|d| {
        d.add(Ticks.id(TICKS));
    })
}

/// What is seen.
#[derive(Debug, Default)]
struct Seen {
    wrong: Vec<String>,
    figures: serde_json::Map<String, Value>,
}

impl Seen {
    fn note(&mut self, what: &str, figure: impl Into<Value>) {
        self.figures.insert(what.to_owned(), figure.into());
    }
}

/// Runs it.
pub(crate) async fn volume(
    name: &'static str,
    options: &Options,
) -> std::result::Result<(Value, bool), Error> {
    let (speaks, runs) = (options.pick(20_000_u64, 4_000), options.runs(60, 8));
    let stand = Stand::new(options, 0).await?;
    let (logs, notes) = (stand.folder.path().join("logs"), stand.folder.path().join("said"));
    let variables = |folder: String| {
        let notes = notes.display().to_string();
        [(LOGS, folder), (NOTES, notes), (SPEAKS, speaks.to_string())]
    };
    let mut fleet = stand.fleet_with(1, &variables(logs.display().to_string()))?;
    let mut seen = Seen::default();

    stand.trigger(LOUD, [0]).await?;
    stand.wait_for_bodies(None, SOON).await?;
    stand.trigger(LOAD, 0..runs).await?;
    stand.wait(&mut fleet, 1 + runs).await?;
    let neighbours = look_at_neighbours(&stand, speaks, &mut seen)?;
    let cut = look_at_log(&stand, &logs, &notes, &mut seen).await?;

    let lost = kill_a_speaker(&stand, &mut fleet, &mut seen).await?;
    stand.wait(&mut fleet, 2 + runs).await?;

    // From now on no log file can be written: where the folder should be, there is a file.
    let nowhere = stand.setup.ledger.join("logs").display().to_string();
    for place in 0..fleet.len() {
        for (name, value) in &mut fleet.environment[place] {
            if name == LOGS {
                value.clone_from(&nowhere);
            }
        }
        fleet.roll(place).await?;
    }
    rename(&stand, options, LOG_TABLE, LOG_TABLE_AWAY).await?;
    stand.trigger(LOUD, [1]).await?;
    stand.wait(&mut fleet, 3 + runs).await?;
    let refused = fleet.said(&["task logs cannot be written to the store"])?.len();
    rename(&stand, options, LOG_TABLE_AWAY, LOG_TABLE).await?;
    let unwritten = fleet.said(&["cannot write the task's log"])?.len();
    let late = wait_for_log(&stand).await?;
    if !late {
        seen.wrong.push("what was said while the database took no logs did not come later".to_owned());
    }
    seen.wrong.extend(fleet.ended_by_themselves());
    seen.note("refused_by_the_database", refused);
    seen.note("files_that_could_not_be_written", unwritten);
    let hit = neighbours > 0 && cut > 0 && lost && refused > 0 && unwritten > 0;
    stand.close(fleet, Verdict::new(name, Value::Object(seen.figures), hit, seen.wrong)).await
}

/// Compares how long bodies took with what they were to take; gives how many ran beside the loud one.
fn look_at_neighbours(stand: &Stand, speaks: u64, seen: &mut Seen) -> std::result::Result<usize, Error> {
    let bodies: Bodies = stand.bodies()?;
    let mut loud = bodies.iter().filter(|(ti, _)| parts_of(ti).1 == LOUD).flat_map(|(_, list)| list);
    let loud = loud.next().ok_or("the loud task did not run")?;
    let end = loud.ended.ok_or("the loud task did not end")?;
    let took = (end - loud.started) / 1_000_000;
    if took * 2 > speaks * 3 {
        seen.wrong.push(format!("the loud task was to take {speaks} ms and took {took} ms"));
    }
    let (mut count, mut slowest) = (0, 0);
    for (ti, list) in bodies.iter().filter(|(ti, _)| parts_of(ti).1 != LOUD) {
        let (run, task, map) = parts_of(ti);
        let planned = u64::try_from(stand.setup.plan.time(run, task, map).as_millis())?;
        for body in list.iter().filter(|body| body.started < end) {
            let took = body.ended.map_or(0, |ended| (ended - body.started) / 1_000_000);
            (count, slowest) = (count + 1, slowest.max(took.saturating_sub(planned)));
        }
    }
    if slowest > NEIGHBOUR {
        seen.wrong.push(format!("a body beside the loud one took {slowest} ms longer than planned"));
    }
    seen.note("loud_ms", took);
    seen.note("bodies_beside", count);
    seen.note("slowest_beside_ms", slowest);
    Ok(count)
}

/// Compares what the loud task said with what its logs have of it and say that they lack. Gives how many lines were cut.
async fn look_at_log(
    stand: &Stand,
    logs: &std::path::Path,
    notes: &std::path::Path,
    seen: &mut Seen,
) -> std::result::Result<u64, Error> {
    let notes = std::fs::read_to_string(notes)?;
    let said: u64 = notes.trim().strip_prefix("r0 ").ok_or("the loud task noted nothing")?.parse()?;
    let path = logs.join(format!("dag_id={LOUD}/run_id=r0/task_id={LOUD}/attempt=1.log"));
    let file = std::fs::read_to_string(path)?;
    let run = run_of(stand, LOUD, "r0").await?;
    let shipped = read(stand, run, LOUD).await?;
    let mut cut = 0;
    for (place, text) in [("the file", &file), ("the database", &shipped)] {
        let kept = text.lines().filter(|line| line.contains("INFO - 0")).count() as u64;
        let missing = missing(text);
        if kept + missing.0 != said || missing.1 < missing.0 * LINE as u64 {
            let (lines, bytes) = missing;
            seen.wrong.push(format!(
                "{place} has {kept} of {said} lines and says that {lines} with {bytes} bytes are missing"
            ));
        }
        if text.len() as u64 > LOG_QUOTA + FRAME {
            seen.wrong.push(format!("{place} has {} bytes, more than the quota", text.len()));
        }
        seen.note(&format!("lines_in_{}", place.trim_start_matches("the ")), kept);
        cut = missing.0;
    }
    seen.note("lines_said", said);
    seen.note("lines_cut", cut);
    Ok(cut)
}

/// How many lines and bytes a log says that it lacks.
fn missing(text: &str) -> (u64, u64) {
    let (mut lines, mut bytes) = (0, 0);
    for line in text.lines().filter(|line| line.contains("left out") || line.contains("are missing here")) {
        let words: Vec<&str> = line.split(' ').collect();
        let number_before = |word: &str| {
            let at = words.iter().position(|one| *one == word)?;
            words.get(at.checked_sub(1)?)?.parse::<u64>().ok()
        };
        if let (Some(some), Some(size)) = (number_before("lines"), number_before("bytes")) {
            (lines, bytes) = (lines + some, bytes + size);
        }
    }
    (lines, bytes)
}

/// Kills the process of a task that speaks, and looks how much of that is in the database. Says whether it was hit.
async fn kill_a_speaker(
    stand: &Stand,
    fleet: &mut crate::fleet::Fleet,
    seen: &mut Seen,
) -> std::result::Result<bool, Error> {
    stand.trigger(TICKS, [0]).await?;
    let open = |bodies: Bodies| {
        let of_ticks = bodies.into_iter().filter(|(ti, _)| parts_of(ti).1 == TICKS);
        of_ticks.flat_map(|(_, list)| list).find(|body| body.ended.is_none())
    };
    let until = Instant::now() + SOON;
    let speaker = loop {
        match open(stand.bodies()?) {
            Some(body) => break body,
            None if Instant::now() > until => return Ok(false),
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    // Long enough that some of it has been sent.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let place = fleet.place_of(speaker.pid).ok_or("the speaker has ended by itself")?;
    let killed = boot_nanos();
    fleet.kill(place).await?;
    let run = run_of(stand, TICKS, "r0").await?;
    let text = read(stand, run, TICKS).await?;
    let ticks = text.lines().filter_map(|line| line.split_once("tick ")?.1.parse::<u64>().ok());
    let last = ticks.filter(|at| *at <= killed).max();
    let missing = last.map_or(u64::MAX, |last| (killed - last) / 1_000_000);
    if missing > MISSING {
        seen.wrong.push(format!("the last {missing} ms of what a killed task said are missing"));
    }
    seen.note("missing_after_kill_ms", missing);
    Ok(speaker.started < killed)
}

async fn run_of(stand: &Stand, dag: &str, run: &str) -> std::result::Result<RunRow, Error> {
    let filter =
        RunFilter { dag_id: Some(DagId::from(dag)), run_id: Some(run.into()), ..RunFilter::default() };
    Ok(stand.asks.store().runs(&filter).await?.pop().ok_or("there is no such run")?)
}

/// What the database has of a log so far.
async fn read(stand: &Stand, run: RunRow, task: &str) -> std::result::Result<String, Error> {
    let store = std::sync::Arc::clone(stand.asks.store());
    let mut log = LogReader::new(store, run, task.into(), MapIndex::UNMAPPED).of_try(1);
    let mut text = String::new();
    loop {
        let part = log.next().await?;
        text += &part.text;
        if part.is_over || part.text.is_empty() {
            return Ok(text);
        }
    }
}

/// Waits for the end of the log that could not be kept at first.
async fn wait_for_log(stand: &Stand) -> std::result::Result<bool, Error> {
    let until = Instant::now() + SOON;
    while Instant::now() < until {
        let run = run_of(stand, LOUD, "r1").await?;
        let text = read(stand, run, LOUD).await?;
        if text.contains("Marking task as SUCCESS") {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(false)
}

/// Takes the table of the logs away from everybody, or brings it back; has SQLite refuse its rows, or take them.
async fn rename(stand: &Stand, options: &Options, from: &str, to: &str) -> std::result::Result<(), Error> {
    let store = &stand.setup.store;
    match options.server() {
        None => {
            // Without the table SQLite would refuse every commit: it reads all that a commit may do.
            let sql = if from == LOG_TABLE {
                format!(
                    "CREATE TRIGGER no_logs BEFORE INSERT ON {from} BEGIN SELECT RAISE(ABORT, 'no logs'); END"
                )
            } else {
                "DROP TRIGGER no_logs".to_owned()
            };
            let place = sqlx::sqlite::SqliteConnectOptions::new().filename(stand.asks.store().place());
            let place = place.busy_timeout(SOON);
            let mut conn = sqlx::SqliteConnection::connect_with(&place).await?;
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await?;
        }
        Some(Server::Postgres) => {
            let sql = format!("ALTER TABLE airflow.{from} RENAME TO {to}");
            let mut conn = sqlx::PgConnection::connect(store).await?;
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await?;
        }
        Some(Server::Mysql) => {
            let sql = format!("ALTER TABLE {from} RENAME TO {to}");
            let mut conn = sqlx::MySqlConnection::connect(store).await?;
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await?;
        }
    }
    Ok(())
}
