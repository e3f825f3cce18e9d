//! Connections, variables and settings as tasks meet them: on a real store, with the local executor and log files.
#![cfg(all(feature = "sqlite", feature = "local", feature = "macros"))]

use std::path::Path;

use airflow::config::{Config, options::Settings};
use airflow::connection::ConnectionError;
use airflow::fernet::Fernet;
use airflow::prelude::*;
use airflow::secrets::EnvironmentSecrets;
use airflow::store::AttemptState;

type TestResult = std::result::Result<(), Box<dyn std::error::Error>>;

const PASSWORD: &str = "p@ss/w\u{f6}rd \"1\"";

/// What a task needs of a warehouse.
struct Warehouse {
    host: String,
    password: Secret,
}

impl ConnectionKind for Warehouse {
    const TYPES: &'static [&'static str] = &["postgres"];

    fn read(conn: &Connection) -> std::result::Result<Self, ConnectionError> {
        Ok(Self { host: conn.need_host()?.to_owned(), password: conn.need_password()?.clone() })
    }
}

/// Says its secrets in every way that programs do, and fails with them.
#[task]
async fn careless(cx: &TaskContext) -> Result<()> {
    let warehouse = cx.conn::<Warehouse>("warehouse").await?;
    let password = warehouse.password.expose();
    tracing::info!("plain {password}");
    tracing::info!(%password, "as a field");
    tracing::info!(?password, "as Rust shows it");
    tracing::info!("as a URI {}", warehouse.raw().to_uri());
    tracing::info!("host {} hidden {} {:?}", warehouse.host, warehouse.password, warehouse.raw());
    let token: String = cx.var("api_token").await?;
    tracing::info!("a variable {token}");
    cx.mask_secret("of my own");
    tracing::info!("this is of my own");
    Err(TaskError::fail(format_args!("cannot log in with {password} and {token}")))
}

#[derive(Operator, Clone)]
struct Query {
    #[template]
    sql: String,
    #[template]
    password: String,
}

impl Execute for Query {
    type Output = String;

    async fn execute(&self, _: &TaskContext) -> Result<String> {
        Ok(format!("{}|{}", self.sql, self.password.len()))
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Typed {
    limit: u32,
    names: Vec<String>,
    text: String,
    day: NaiveDate,
}

#[task]
async fn typed(cx: &TaskContext) -> Result<Typed> {
    Ok(Typed {
        limit: cx.var("limit").await?,
        names: cx.var("names").await?,
        text: cx.var("limit").await?,
        day: cx.var("day").await?,
    })
}

#[task]
async fn without(cx: &TaskContext) -> Result<()> {
    cx.connection("missing").await.map(drop)
}

#[dag]
fn secret(d: &Dag) {
    d.add(careless::call());
    let sql = "{{ var.value.region }} {{ conn.warehouse.host }} {{ conn.warehouse.password }} {{ conn['api'].port }}";
    d.add(Query { sql: sql.into(), password: "{{ ds }}".into() }.id("query"));
    d.add(typed::call());
    d.add(without::call());
}

fn warehouse() -> Connection {
    Connection::new("warehouse", "postgres").with_host("db.example").with_password(PASSWORD)
}

fn logs_below(folder: &Path, all: &mut String) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        match std::fs::read_to_string(entry.path()) {
            Ok(text) => *all += &text,
            Err(_) => logs_below(&entry.path(), all),
        }
    }
}

/// Goal: no secret leaves a task through a log, an error or a rendered field, and everything else does. Method: tasks
/// that say them in all forms; then read every file and row.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_stay_out_of_logs_errors_and_rendered_fields() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(&folder.path().join("airflow.db").display().to_string()).await?;
    let env = [
        ("AIRFLOW_VAR_API_TOKEN", "t0ken-of-the-api"),
        ("AIRFLOW_CONN_API", "http://u:another-pa55@api.example:8080"),
        ("AIRFLOW_VAR_LIMIT", "7"),
    ];
    let environment = EnvironmentSecrets::of(env.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let airflow = Airflow::builder()
        .store(store)
        .executor(LocalExecutor::new(4))
        .log_folder(folder.path().join("logs"))
        .fernet_key(Fernet::generate_key()?)
        .environment(environment)
        .dag(secret())
        .build()
        .await?;
    let vault = airflow.secrets().vault();
    vault.set_connection(&warehouse()).await?;
    for (key, value) in [("region", "eu-west-1"), ("names", "[\"ada\"]"), ("day", "2026-01-02")] {
        vault.set_variable(key, value, None).await?;
    }
    let running = airflow.start();
    let run = airflow.trigger("secret").await?;
    let run = airflow.wait(&run).await?;
    running.stop(secs(5)).await?;

    let result: String = airflow.result(&run, "query").await?;
    let length = run.logical_date.format("%Y-%m-%d").to_string().len();
    assert_eq!(result, format!("eu-west-1 db.example {PASSWORD} 8080|{length}"));
    let typed: Typed = airflow.result(&run, "typed").await?;
    let day = NaiveDate::from_ymd_opt(2026, 1, 2).ok_or("a date")?;
    assert_eq!(typed, Typed { limit: 7, names: vec!["ada".into()], text: "7".into(), day });

    let attempts = airflow.store().attempts(run.pk, None).await?;
    let of = |task: &str| attempts.iter().find(|attempt| attempt.start.task_id.as_str() == task);
    let careless = of("careless").ok_or("an attempt")?;
    assert_eq!(careless.state, AttemptState::Failed);
    let error = careless.end.as_ref().and_then(|end| end.error.as_deref());
    assert_eq!(error, Some("cannot log in with *** and ***"));
    let missing = of("without").and_then(|attempt| attempt.end.as_ref()?.error.clone()).unwrap_or_default();
    assert!(
        missing.contains("no connection `missing`; create it") && missing.contains("AIRFLOW_CONN_MISSING")
    );
    let rendered = of("query").and_then(|attempt| attempt.end.as_ref()?.rendered.clone());
    // The second is hidden because of its name, whatever it holds.
    let shown = serde_json::json!({ "sql": "eu-west-1 db.example *** 8080", "password": "***" });
    assert_eq!(rendered, Some(shown));

    let mut logs = String::new();
    logs_below(&folder.path().join("logs"), &mut logs);
    for line in
        ["plain ***", "as a URI postgres://:***@db.example", "a variable ***", "this is ***", "hidden ***"]
    {
        assert!(logs.contains(line), "{line}: {logs}");
    }
    for part in ["p@ss", "p%40ss", "rd \\\"1", "t0ken", "of my own", "another-pa55"] {
        assert!(!logs.contains(part), "{part}: {logs}");
    }
    Ok(())
}

#[task]
async fn flaky(cx: &TaskContext) -> Result<u32> {
    match cx.try_number() {
        3 => Ok(3),
        _ => Err(TaskError::msg("not yet")),
    }
}

#[dag(schedule = "0 6 * * *", start_date = "2026-01-01")]
fn plain(d: &Dag) {
    d.add(flaky::call());
}

#[dag(schedule = "0 6 * * *", start_date = "2026-01-01", timezone = "UTC", max_active_runs = 2)]
fn own(d: &Dag) {
    d.add(flaky::call().retries(0));
}

/// Goal: settings hold for dags that say nothing, and for no others.
#[tokio::test(flavor = "multi_thread")]
async fn settings_are_defaults_of_dags_and_tasks() -> TestResult {
    let config = Config::parse(
        "[core]\ndefault_task_retries = 2\ndefault_task_retry_delay = 0\ndefault_timezone = Europe/Berlin\n\
         max_active_runs_per_dag = 5\nmax_active_tasks_per_dag = 6\ndefault_pool_task_slot_count = 7\n\
         [logging]\nlog_filename_template = {{ ti.dag_id }}/{{ try_number }}.txt\n",
    )?
    .with_env([("AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG", "9")]);
    let folder = tempfile::tempdir()?;
    let airflow = Airflow::builder()
        .settings(&Settings::read(&config, folder.path())?)
        .store(MemoryStore::new())
        .executor(LocalExecutor::new(4))
        .log_folder(folder.path())
        .dag(plain())
        .dag(own())
        .build()
        .await?;
    let plain = airflow.registry().get(&"plain".into()).ok_or("a dag")?;
    let own = airflow.registry().get(&"own".into()).ok_or("a dag")?;
    let limits = |dag: &airflow::compile::CompiledDag| {
        (dag.settings.timezone.name(), dag.settings.max_active_runs, dag.settings.max_active_tasks)
    };
    assert_eq!(limits(plain), ("Europe/Berlin", 5, 9));
    assert_eq!(limits(own), ("UTC", 2, 9));
    assert_eq!(own.tasks[0].settings.retry.retries, 0);
    let running = airflow.start();
    let run = airflow.trigger("plain").await?;
    assert_eq!(airflow.wait(&run).await?.state, RunState::Success);
    running.stop(secs(5)).await?;
    assert!(folder.path().join("plain/3.txt").exists(), "the third try has its log where the template says");
    Ok(())
}

#[test]
fn a_builder_does_not_show_its_keys() -> TestResult {
    let key = Fernet::generate_key()?;
    let builder = Airflow::builder().fernet_key(&key).masker(airflow::mask::Masker::default());
    assert!(!format!("{builder:?}").contains(&key));
    let settings =
        Settings::read(&Config::default().with_env([("AIRFLOW__CORE__FERNET_KEY", &key)]), "home")?;
    assert!(!format!("{:?}", Airflow::builder().settings(&settings)).contains(&key));
    Ok(())
}

/// Goal: a test says its connections itself and sees none of the machine.
#[tokio::test]
async fn a_test_brings_its_own_connections() {
    let run = DagTest::new(secret())
        .connection(warehouse())
        .connection(Connection::new("api", "http").with_port(1))
        .variable("region", "eu")
        .variable("limit", "1")
        .variable("names", "[]")
        .variable("day", "2026-01-02")
        .variable("api_token", "a-long-token")
        .run()
        .await;
    assert_eq!(run.state_of::<typed>(), TaskState::Success);
    assert_eq!(run.state_of::<careless>(), TaskState::Failed);
}
