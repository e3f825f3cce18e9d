//! A month of weather, a day at a time: a daily dag makes up for all days of January 2012, and a monthly one sums them up.
//!
//! ```text
//! cargo run --example quickstart
//! ```
//!
//! Everything is kept in `target/quickstart`. Stop it in the middle, with ctrl-c or `kill -9`, and start it again: it
//! goes on where it was. Start at `weather` below; `main` shows how a program carries a scheduler.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod progress;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use airflow::prelude::*;
use airflow::store::{RunFilter, Store as _};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};

const HELP: &str = "\
A month of weather, worked through by two dags.

usage: quickstart [--fresh]

  --fresh   forget what was done and start over

The state is kept in target/quickstart, or in the folder that QUICKSTART_HOME names.";

/// Weather of two cities, 2012 to 2015. See examples/data/README.md.
const CSV: &str = include_str!("../data/weather.csv");

/// How long the source of our data takes to answer: the real one would be a service somewhere.
const SLOW_SOURCE: Duration = Duration::from_millis(150);

/// The weather of a city on a day.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Weather {
    city: String,
    day: NaiveDate,
    /// In mm.
    rain: f64,
    /// In degrees Celsius.
    warmest: f64,
    coldest: f64,
}

impl Weather {
    fn parse(line: &str) -> Result<Self> {
        let [city, day, rain, warmest, coldest, ..] = line.split(',').collect::<Vec<_>>()[..] else {
            return Err(TaskError::fail(format!("`{line}` has too few columns")));
        };
        let (city, day) = (city.into(), day.parse()?);
        Ok(Self { city, day, rain: rain.parse()?, warmest: warmest.parse()?, coldest: coldest.parse()? })
    }
}

/// Reads the rows of the day that the run is about.
#[task(retries = 3, retry_delay = "1s")]
async fn read_day(cx: &TaskContext) -> Result<Vec<Weather>> {
    tokio::time::sleep(SLOW_SOURCE).await;
    let day = format!(",{},", cx.logical_date().date_naive());
    CSV.lines().filter(|line| line.contains(&day)).map(Weather::parse).collect()
}

/// Stores the temperatures of one city.
#[task]
async fn save_city(w: Weather, db: &SqlitePool) -> Result<()> {
    // An attempt that was cut off is made again: what a task writes must be the same after two attempts as after one.
    sqlx::query("INSERT OR REPLACE INTO temperature VALUES (?, ?, ?, ?)")
        .bind(w.city)
        .bind(w.day)
        .bind(w.warmest)
        .bind(w.coldest)
        .execute(db)
        .await?;
    Ok(())
}

/// The two ways that a day can go.
#[derive(Serialize, Deserialize, Branch)]
enum Sky {
    Rain,
    Dry,
}

/// Looks whether it rained anywhere.
#[task]
async fn look_up(day: Vec<Weather>) -> Result<Sky> {
    Ok(if day.iter().any(|w| w.rain > 0.0) { Sky::Rain } else { Sky::Dry })
}

/// Stores how much it rained, where it did.
#[task]
async fn save_rain(day: Vec<Weather>, db: &SqlitePool) -> Result<()> {
    for w in day.into_iter().filter(|w| w.rain > 0.0) {
        sqlx::query("INSERT OR REPLACE INTO rain VALUES (?, ?, ?)")
            .bind(w.city)
            .bind(w.day)
            .bind(w.rain)
            .execute(db)
            .await?;
    }
    Ok(())
}

/// The weather of one day, in every city that the data has.
#[dag(schedule = "@daily", start_date = "2012-01-01", end_date = "2012-01-31", catchup, max_active_runs = 4)]
fn weather(d: &Dag) {
    let day = d.add(read_day::call());
    let cities = d.map(day, save_city::call);

    let rain = d.add(save_rain::call(day));
    let dry = d.add(Empty::new().id("dry_day"));
    d.branch(d.add(look_up::call(day)), |sky| match sky {
        Sky::Rain => rain.into(),
        Sky::Dry => dry.into(),
    });

    let done = d.add(Empty::new().id("done").when(TriggerRule::NoneFailedMinOneSuccess));
    (cities, rain, dry) >> done;
}

/// Waits until `weather` has ended well for every day of the month.
#[task]
async fn wait_for_days(cx: &TaskContext, store: &SqliteStore) -> Result<()> {
    let month = cx.interval();
    let last_day = month.end - days(1);
    let filter = RunFilter { from: Some(month.start), to: Some(last_day), ..RunFilter::of_dag("weather") };
    let runs = store.runs(&filter).await?;
    if let Some(run) = runs.iter().find(|run| run.state == RunState::Failed) {
        return Err(TaskError::fail(format!("{} of weather has failed", run.run_id)));
    }
    let done = runs.iter().filter(|run| run.state == RunState::Success);
    if done.count() == usize::try_from((month.end - month.start).num_days())? {
        return Ok(());
    }
    // Not an error: the task gives its slot back and is asked again later.
    Err(TaskError::Reschedule(Utc::now() + Duration::from_millis(100)))
}

/// What a month was like in a city.
#[derive(Debug, Serialize, Deserialize, sqlx::FromRow)]
struct Month {
    city: String,
    days: u32,
    rainy_days: u32,
    rain: f64,
    warmest: f64,
    coldest: f64,
}

#[task]
async fn summarize(cx: &TaskContext, db: &SqlitePool) -> Result<Vec<Month>> {
    let month = cx.interval();
    let months = sqlx::query_as(
        "SELECT city, count(*) AS days, count(mm) AS rainy_days, total(mm) AS rain, \
         max(warmest) AS warmest, min(coldest) AS coldest \
         FROM temperature LEFT JOIN rain USING (city, day) WHERE day >= ? AND day < ? GROUP BY city ORDER BY city",
    );
    Ok(months.bind(month.start.date_naive()).bind(month.end.date_naive()).fetch_all(db).await?)
}

#[dag(schedule = "@monthly", start_date = "2012-01-01", end_date = "2012-01-31", catchup)]
fn weather_monthly(d: &Dag) {
    d.add(wait_for_days::call()) >> d.add(summarize::call());
}

/// Opens the database with the tables of our own. The engine's is another file.
async fn open_tables(home: &std::path::Path, fresh: bool) -> Result<SqlitePool, sqlx::Error> {
    let file = SqliteConnectOptions::new().filename(home.join("weather.db"));
    let db =
        SqlitePool::connect_with(file.create_if_missing(true).journal_mode(SqliteJournalMode::Wal)).await?;
    if fresh {
        sqlx::raw_sql("DROP TABLE IF EXISTS temperature; DROP TABLE IF EXISTS rain").execute(&db).await?;
    }
    let tables = "
        CREATE TABLE IF NOT EXISTS temperature (city, day, warmest REAL, coldest REAL, PRIMARY KEY (city, day));
        CREATE TABLE IF NOT EXISTS rain (city, day, mm REAL, PRIMARY KEY (city, day))";
    sqlx::raw_sql(tables).execute(&db).await?;
    Ok(db)
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let fresh = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--fresh") => true,
        Some(_) => {
            println!("{HELP}");
            return Ok(ExitCode::from(2));
        }
    };
    let home = std::env::var_os("QUICKSTART_HOME").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/quickstart")),
        PathBuf::from,
    );
    std::fs::create_dir_all(&home)?;

    let db = open_tables(&home, fresh).await?;
    let store = SqliteStore::open(&home.join("airflow.db").to_string_lossy()).await?;
    if fresh {
        store.reset().await?;
    }
    let airflow = Airflow::builder()
        .store(store.clone())
        .executor(LocalExecutor::new(8))
        .resource(store)
        .resource(db)
        .dag(weather())
        .dag(weather_monthly())
        .build()
        .await?;

    let mut summary = airflow.store().runs(&RunFilter::of_dag("weather_monthly")).await?.pop();
    if summary.as_ref().is_some_and(|run| run.state.is_finished()) {
        println!("31 daily runs and the summary are done; nothing to do. Start over with --fresh.");
    } else {
        let running = airflow.start();
        tokio::select! {
            run = progress::watch(&airflow, &running, "weather_monthly") => summary = run?,
            _ = tokio::signal::ctrl_c() => println!("\nStopped. Start again to go on."),
        }
        running.stop(secs(5)).await?;
    }
    let Some(run) = summary.filter(|run| run.state == RunState::Success) else {
        return Ok(ExitCode::FAILURE);
    };
    let months: Vec<Month> = airflow.result(&run, "summarize").await?;
    print_table(&months);
    Ok(ExitCode::SUCCESS)
}

fn print_table(months: &[Month]) {
    println!(
        "\n{:<10} {:>5} {:>6} {:>8} {:>8} {:>8}",
        "city", "days", "rainy", "rain mm", "max °C", "min °C"
    );
    for m in months {
        let (city, days, rainy) = (&m.city, m.days, m.rainy_days);
        println!("{city:<10} {days:>5} {rainy:>6} {:>8.1} {:>8.1} {:>8.1}", m.rain, m.warmest, m.coldest);
    }
}
