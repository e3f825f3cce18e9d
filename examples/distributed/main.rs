//! The month of weather of the quickstart on several machines: one program that is scheduler, worker and command line,
//! over PostgreSQL and Redis or RabbitMQ.
//!
//! ```text
//! examples/distributed/run redis
//! examples/distributed/run rabbitmq
//! ```
//!
//! The script starts a scheduler and two workers, waits for the month, and shows who did what. Where the database and the
//! broker are stands in the environment, as for any deployment:
//!
//! ```text
//! export AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=postgres://airflow:airflow@127.0.0.1:5432/airflow
//! export AIRFLOW__CORE__EXECUTOR=CeleryExecutor
//! export AIRFLOW__CELERY__BROKER_URL=redis://127.0.0.1:6379/0
//! cargo run --features postgres,redis --example distributed -- worker -H one
//! ```

use std::process::ExitCode;
use std::time::Duration;

use airflow::prelude::*;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

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

/// Stores the weather of one city.
#[task(retries = 3, retry_delay = "1s")]
async fn save_city(w: Weather, db: &PgPool) -> Result<()> {
    // An attempt that was cut off is made again, maybe on another machine: what a task writes must be the same after two
    // attempts as after one.
    sqlx::query("INSERT INTO weather VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING")
        .bind(w.city)
        .bind(w.day)
        .bind(w.rain)
        .bind(w.warmest)
        .bind(w.coldest)
        .execute(db)
        .await?;
    Ok(())
}

/// The weather of one day, in every city that the data has.
#[dag(schedule = "@daily", start_date = "2012-01-01", end_date = "2012-01-31", catchup, max_active_runs = 8)]
fn weather(d: &Dag) {
    let day = d.add(read_day::call());
    d.map(day, save_city::call);
}

/// Waits until there is weather for every day of the month.
#[task]
async fn wait_for_days(cx: &TaskContext, db: &PgPool) -> Result<()> {
    let month = cx.interval();
    let days: i64 =
        sqlx::query_scalar("SELECT count(DISTINCT day) FROM weather WHERE day >= $1 AND day < $2")
            .bind(month.start.date_naive())
            .bind(month.end.date_naive())
            .fetch_one(db)
            .await?;
    if days == (month.end - month.start).num_days() {
        return Ok(());
    }
    // Not an error: the task gives its slot back and is asked again later.
    Err(TaskError::Reschedule(Utc::now() + Duration::from_millis(500)))
}

/// What a month was like in a city.
#[derive(Debug, Serialize, Deserialize, sqlx::FromRow)]
struct Month {
    city: String,
    days: i64,
    rainy_days: i64,
    rain: f64,
    warmest: f64,
    coldest: f64,
}

#[task]
async fn summarize(cx: &TaskContext, db: &PgPool) -> Result<Vec<Month>> {
    let month = cx.interval();
    let months = sqlx::query_as(
        "SELECT city, count(*) AS days, count(*) FILTER (WHERE rain > 0) AS rainy_days, sum(rain) AS rain, \
         max(warmest) AS warmest, min(coldest) AS coldest \
         FROM weather WHERE day >= $1 AND day < $2 GROUP BY city ORDER BY city",
    );
    Ok(months.bind(month.start.date_naive()).bind(month.end.date_naive()).fetch_all(db).await?)
}

#[dag(schedule = "@monthly", start_date = "2012-01-01", end_date = "2012-01-31", catchup)]
fn weather_monthly(d: &Dag) {
    d.add(wait_for_days::call()) >> d.add(summarize::call());
}

/// Our own table, beside those of the engine, which have a schema of their own.
async fn open_table(url: &str) -> Result<PgPool, sqlx::Error> {
    let db = PgPoolOptions::new().max_connections(4).connect(url).await?;
    // Processes that start together would make it twice.
    let table = "BEGIN; SELECT pg_advisory_xact_lock(2012);
        CREATE TABLE IF NOT EXISTS weather (city text, day date, rain float8, warmest float8, coldest float8,
            PRIMARY KEY (city, day));
        COMMIT";
    sqlx::raw_sql(table).execute(&db).await?;
    Ok(db)
}

fn main() -> ExitCode {
    airflow::cli_async(async |builder| {
        let variable = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN";
        let url = std::env::var(variable).map_err(|_| format!("{variable} is not set: postgres://…"))?;
        let db = open_table(&url).await.map_err(|error| format!("the table of the weather: {error}"))?;
        Ok::<_, String>(builder.resource(db).dag(weather()).dag(weather_monthly()))
    })
}
