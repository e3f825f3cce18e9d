//! The program under test: two dags, and a home of its own for each test.

use std::convert::Infallible;
use std::path::PathBuf;

use airflow::cli::{Host, run_with};
use airflow::prelude::*;
use airflow::store::SqliteStore;
use serde_json::Value;
use tempfile::TempDir;

/// The logical date of the run that most tests look at.
pub(crate) const RUN: &str = "2026-03-02";

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct SalesParams {
    region: String,
    at_least: i64,
}

impl Default for SalesParams {
    fn default() -> Self {
        Self { region: "north".into(), at_least: 10 }
    }
}

#[task]
async fn orders(cx: &TaskContext) -> Result<Vec<i64>> {
    let params: SalesParams = cx.params()?;
    tracing::info!(region = params.region, "reading orders");
    Ok([12, 7, 30].into_iter().filter(|amount| *amount >= params.at_least).collect())
}

#[task]
async fn price(order: i64) -> Result<i64> {
    Ok(order * 100)
}

#[task]
async fn total(prices: Vec<i64>) -> Result<i64> {
    Ok(prices.iter().sum())
}

#[derive(Operator)]
#[operator(retries = 2)]
struct Report {
    #[template]
    text: String,
    #[input]
    total: In<i64>,
}

impl Execute for Report {
    type Output = String;

    async fn execute(&self, cx: &TaskContext) -> Result<String> {
        Ok(format!("{}: {}", self.text, self.total.get(cx)?))
    }
}

// It begins in the future: no run of the timetable disturbs the tests.
#[dag(schedule = "@daily", start_date = "2099-01-01", tags = ["daily"], params = SalesParams)]
fn sales(d: &Dag) {
    let orders = d.add(orders::call());
    let prices = d.map(orders, price::call);
    let total = d.add(total::call(prices));
    d.add(Report { text: "{{ params.region }} on {{ ds }}".into(), total: total.into_in() });
}

#[task]
async fn fails() -> Result<()> {
    Err(TaskError::fail("the warehouse is closed"))
}

#[task]
pub(crate) async fn after() -> Result<()> {
    Ok(())
}

#[dag]
fn closed(d: &Dag) {
    let _ = d.add(fails::call()) >> d.add(after::call());
}

/// Puts the program together.
pub(crate) async fn make(builder: AirflowBuilder) -> Result<AirflowBuilder, Infallible> {
    Ok(builder.dag(sales()).dag(closed()))
}

/// The program with a home of its own.
pub(crate) struct App {
    home: TempDir,
}

impl App {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) async fn migrated() -> Self {
        let app = Self::new();
        app.ok(&["db", "migrate"]).await;
        app
    }

    pub(crate) fn home(&self) -> String {
        self.home.path().display().to_string()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn env(&self) -> [(&'static str, &str); 2] {
        [("AIRFLOW_HOME", self.home.path().to_str().expect("UTF-8")), ("AIRFLOW__CORE__PARALLELISM", "3")]
    }

    pub(crate) async fn store(&self) -> SqliteStore {
        SqliteStore::open(&self.file("airflow.db").display().to_string()).await.expect("a store")
    }

    /// Runs a command; the answer is its exit code, standard output and standard error.
    pub(crate) async fn run(&self, args: &[&str]) -> (u8, String, String) {
        self.typing("", args).await
    }

    /// As [`run`](Self::run), with something typed by the user.
    pub(crate) async fn typing(&self, input: &str, args: &[&str]) -> (u8, String, String) {
        let (mut host, out, err) = Host::captured(&self.env(), input);
        let code = run_with([&["app"], args].concat(), make, &mut host).await;
        (code, out.take(), err.take())
    }

    /// Runs a command that succeeds; the answer is its standard output.
    pub(crate) async fn ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args).await;
        assert_eq!(code, 0, "{args:?}: {err}");
        out
    }

    /// As [`ok`](Self::ok), for a command that writes JSON.
    pub(crate) async fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(args).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }
}
