//! The command line: each test drives the commands as a user would, on a database of its own.
#![cfg(all(feature = "cli", feature = "sqlite", feature = "macros"))]

#[path = "cli/app.rs"]
mod app;
#[path = "cli/assets.rs"]
mod assets;
#[path = "cli/operating.rs"]
mod operating;
#[path = "cli/process.rs"]
mod process;
#[path = "cli/secrets.rs"]
mod secrets;
#[path = "cli/waiting.rs"]
mod waiting;
#[cfg(all(unix, feature = "redis"))]
#[path = "cli/workers.rs"]
mod workers;

use std::convert::Infallible;

use airflow::cli::{Host, run_with};
use airflow::prelude::*;
use airflow::store::{AuditFilter, SqliteStore, Store as _};
use serde_json::{Value, json};

use app::{App, RUN};

#[tokio::test]
async fn dags_are_listed_in_every_format() {
    let app = App::migrated().await;
    let table = app.ok(&["dags", "list"]).await;
    assert!(table.starts_with("dag_id"), "{table}");
    assert!(table.contains("sales  | @daily"), "{table}");
    let json = app.json(&["dags", "list", "-o", "json"]).await;
    let ids: Vec<&str> = json.as_array().unwrap().iter().map(|dag| dag["dag_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["closed", "sales"]);
    assert_eq!((&json[1]["is_paused"], &json[1]["tags"]), (&json!(false), &json!(["daily"])));
    let yaml = app.ok(&["dags", "list", "-o", "yaml", "--columns", "dag_id,schedule"]).await;
    assert_eq!(yaml, "- dag_id: closed\n  schedule: Never\n- dag_id: sales\n  schedule: \"@daily\"\n");
    let plain = app.ok(&["dags", "list", "-o", "plain", "--columns", "dag_id,tasks"]).await;
    assert_eq!(plain, "dag_id  tasks\nclosed  2\nsales   4\n");
}

#[tokio::test]
async fn a_dag_is_drawn_in_three_languages_without_a_database() {
    let app = App::new();
    assert_eq!(app.ok(&["dags", "show", "sales"]).await, "orders\n  price []\n    total\n      report\n");
    assert!(app.ok(&["dags", "show", "sales", "--format", "dot"]).await.contains("\"orders\" -> \"price\""));
    assert!(app.ok(&["dags", "show", "sales", "--format", "mermaid"]).await.starts_with("flowchart LR\n"));
    assert_eq!(app.ok(&["tasks", "list", "sales", "--tree"]).await, app.ok(&["dags", "show", "sales"]).await);
    let tasks = app.json(&["tasks", "list", "sales", "-o", "json"]).await;
    assert_eq!(tasks[1]["mapped"], json!(true));
    assert_eq!(tasks[3]["retries"], json!(2));
    assert!(!app.file("airflow.db").exists(), "looking at a dag makes no database");
}

#[tokio::test]
async fn a_triggered_run_goes_to_the_queue_that_is_named() {
    let app = App::migrated().await;
    app.ok(&["dags", "trigger", "sales", "-l", RUN, "--queue", "gpu"]).await;
    app.ok(&["dags", "trigger", "sales", "-l", "2026-03-03"]).await;
    let runs = app.json(&["dags", "list-runs", "sales", "-o", "json"]).await;
    let queues: Vec<&Value> = runs.as_array().unwrap().iter().map(|run| &run["queue"]).collect();
    assert!(queues.contains(&&json!("gpu")) && queues.contains(&&Value::Null), "{runs}");
    let (code, _, err) = app.run(&["dags", "trigger", "sales", "--queue", ""]).await;
    assert!(code != 0 && err.contains("must have 1 to 250 characters"), "{code} {err}");
}

#[tokio::test]
async fn a_triggered_run_is_executed_cleared_and_marked() {
    let app = App::migrated().await;
    app.ok(&["dags", "trigger", "sales", "-l", RUN, "--run-id", "mine"]).await;
    assert_eq!(app.ok(&["dags", "state", "sales", "mine"]).await, "queued\n");
    app.ok(&["scheduler", "--until-idle"]).await;
    assert_eq!(app.ok(&["dags", "state", "sales", RUN]).await, "success\n");
    assert_eq!(app.ok(&["tasks", "state", "sales", "price", "mine", "--map-index", "1"]).await, "success\n");
    let states = app.json(&["tasks", "states-for-dag-run", "sales", "mine", "-o", "json"]).await;
    assert_eq!(states.as_array().unwrap().len(), 5, "{states}");

    let dry = app.ok(&["tasks", "clear", "sales", "total", "-d", "--run", "mine", "--dry-run"]).await;
    assert!(dry.contains("total") && dry.contains("report") && !dry.contains("orders"), "{dry}");
    assert_eq!(app.ok(&["tasks", "state", "sales", "total", "mine"]).await, "success\n");
    let (code, _, err) = app.typing("n\n", &["tasks", "clear", "sales", "total", "--run", "mine"]).await;
    assert_eq!(code, 1, "{err}");
    app.ok(&["tasks", "clear", "sales", "-t", "^tot", "--run", "mine", "-y"]).await;
    assert_eq!(app.ok(&["tasks", "state", "sales", "total", "mine"]).await, "none\n");
    assert_eq!(app.ok(&["dags", "state", "sales", "mine"]).await, "queued\n");
    app.ok(&["tasks", "mark", "sales", "mine", "skipped", "total"]).await;
    assert_eq!(app.ok(&["tasks", "state", "sales", "total", "mine"]).await, "skipped\n");
    app.ok(&["dags", "mark", "sales", "mine", "failed"]).await;
    assert_eq!(app.ok(&["dags", "state", "sales", "mine"]).await, "failed (marked_failed)\n");

    let log = app.store().await.audit_log(&AuditFilter::default()).await.unwrap();
    let done: Vec<&str> = log.iter().rev().map(|entry| entry.event.as_str()).collect();
    assert_eq!(done, ["db_migrate", "trigger", "clear", "mark", "mark_run_failed"]);
    assert!(log.iter().all(|entry| entry.actor == "tester"));
}

#[tokio::test]
async fn a_waiting_task_says_why_it_waits() {
    let app = App::migrated().await;
    app.ok(&["dags", "trigger", "sales", "-l", RUN]).await;
    app.ok(&["dags", "pause", "sales"]).await;
    let reasons = app.ok(&["tasks", "failed-deps", "sales", "total", RUN]).await;
    assert_eq!(
        reasons.lines().collect::<Vec<_>>(),
        [
            "no scheduler is alive",
            "the dag is paused",
            "the run is queued: a scheduler starts it with its next step",
            "its trigger rule `all_success` waits: 0 of 1 upstream done; not finished: `price`",
        ]
    );
    let shown = app.ok(&["dags", "show", "sales", "--run", RUN]).await;
    assert!(shown.contains("price: no scheduler is alive; the dag is paused;"), "{shown}");
    app.ok(&["dags", "unpause", "sal.*", "--treat-dag-id-as-regex"]).await;
    let list = app.json(&["dags", "list", "-o", "json"]).await;
    assert_eq!(list[1]["is_paused"], json!(false));
}

#[tokio::test]
async fn one_task_of_a_stored_run_is_run_by_hand_if_nothing_holds_it_back() {
    let app = App::migrated().await;
    app.ok(&["dags", "trigger", "sales", "-l", RUN]).await;
    let (code, _, err) = app.run(&["tasks", "run", "sales", "total", RUN]).await;
    assert_eq!(code, 1);
    assert!(err.contains("not finished: `price`") && err.contains("--ignore-all-dependencies"), "{err}");
    assert_eq!(app.ok(&["tasks", "run", "sales", "orders", RUN]).await, "success, returned [12,30]\n");
    assert_eq!(app.ok(&["tasks", "state", "sales", "orders", RUN]).await, "success\n");
    let (code, _, err) = app.run(&["tasks", "run", "sales", "orders", RUN]).await;
    assert!(code == 1 && err.contains("`tasks clear` runs it again"), "{err}");
    app.ok(&["scheduler", "--until-idle"]).await;
    assert_eq!(app.ok(&["xcom", "get", "sales", RUN, "total"]).await, "4200\n");
    let run = app.store().await.runs(&airflow::store::RunFilter::default()).await.unwrap().remove(0);
    let attempts = app.store().await.attempts(run.pk, None).await.unwrap();
    assert_eq!(attempts.iter().filter(|attempt| attempt.start.task_id == "orders").count(), 1);
}

#[tokio::test]
async fn templates_are_rendered_for_a_date_or_a_run() {
    let app = App::migrated().await;
    let rendered = app.json(&["tasks", "render", "sales", "report", RUN, "-o", "json"]).await;
    assert_eq!(rendered, json!([{ "field": "text", "value": "north on 2026-03-02" }]));
    app.ok(&["dags", "trigger", "sales", "-l", RUN, "-c", r#"{"region":"south"}"#]).await;
    let rendered = app.json(&["tasks", "render", "sales", "report", RUN, "-o", "json"]).await;
    assert_eq!(rendered[0]["value"], json!("south on 2026-03-02"));
}

#[tokio::test]
async fn the_log_of_a_try_is_shown() {
    let app = App::migrated().await;
    app.ok(&["dags", "trigger", "sales", "-l", RUN]).await;
    let (code, _, err) = app.run(&["tasks", "logs", "sales", "report", RUN]).await;
    assert!(code == 1 && err.contains("has not been tried"), "{err}");
    app.ok(&["scheduler", "--until-idle"]).await;
    let log = app.ok(&["tasks", "logs", "sales", "price", RUN, "--map-index", "0"]).await;
    assert!(log.contains("Starting attempt 1 of 1") && log.contains("Marking task as SUCCESS"), "{log}");
    let followed = app.ok(&["tasks", "logs", "sales", "price", RUN, "--map-index", "0", "-f"]).await;
    assert_eq!(followed, log);
    let (code, _, err) = app.run(&["tasks", "logs", "sales", "report", RUN, "--try", "7"]).await;
    assert!(code == 1 && err.contains("no log of try 7"), "{err}");
}

#[tokio::test]
async fn a_task_is_tested_without_leaving_a_trace() {
    let app = App::new();
    let out = app.ok(&["tasks", "test", "sales", "orders", RUN, "-c", r#"{"at_least": 20}"#]).await;
    assert_eq!(out, "success, returned [30]\n");
    let (code, out, err) = app.run(&["tasks", "test", "closed", "fails", RUN]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(err, "error: the task failed: the warehouse is closed\n");
    assert!(!app.file("airflow.db").exists() && !app.file("logs").exists());
}

#[tokio::test]
async fn a_dag_is_tested_in_memory_and_its_end_is_the_exit_code() {
    let app = App::migrated().await;
    let out = app.json(&["dags", "test", "sales", RUN, "-o", "json"]).await;
    assert_eq!(out.as_array().unwrap().len(), 5);
    let (code, out, err) = app.run(&["dags", "test", "closed"]).await;
    assert_eq!(code, 1);
    assert!(
        out.contains("upstream_failed") && err.contains("of dag closed: failed (task_failure)"),
        "{out}{err}"
    );
    assert_eq!(app.ok(&["dags", "list-runs", "sales"]).await, "No data found\n");
}

#[tokio::test]
async fn a_conf_that_breaks_the_schema_leaves_the_database_unchanged() {
    let app = App::new();
    let store = app.store().await;
    store.migrate().await.unwrap();
    let (code, _, err) = app.run(&["dags", "trigger", "sales", "-c", r#"{"at_least":"many"}"#]).await;
    assert_eq!(code, 1);
    assert!(err.starts_with("error: the conf for dag `sales` does not fit its params: "), "{err}");
    assert!(store.dags().await.unwrap().is_empty());
    assert!(store.audit_log(&AuditFilter::default()).await.unwrap().is_empty());
    let (code, _, err) = app.run(&["dags", "trigger", "sales", "-c", "[1]"]).await;
    assert!(code == 2 && err.contains("write a JSON object"), "{err}");
}

#[tokio::test]
async fn a_backfill_makes_each_date_once() {
    let app = App::migrated().await;
    let range = ["--start-date", "2026-03-01", "--end-date", "2026-03-03"];
    let with = |extra: &[&'static str]| [&["dags", "backfill", "sales"], &range[..], extra].concat();
    assert!(app.ok(&with(&["--dry-run"])).await.contains("backfill__2026-03-02T00:00:00+00:00 | new"));
    assert_eq!(app.ok(&["dags", "list-runs", "sales"]).await, "No data found\n");
    app.ok(&with(&["--run-backwards"])).await;
    app.ok(&["scheduler", "--until-idle"]).await;
    let runs = app.json(&["dags", "list-runs", "sales", "--state", "success", "-o", "json"]).await;
    let dates: Vec<&str> =
        runs.as_array().unwrap().iter().map(|r| r["logical_date"].as_str().unwrap()).collect();
    assert_eq!(dates, ["2026-03-03T00:00:00Z", "2026-03-02T00:00:00Z", "2026-03-01T00:00:00Z"]);
    let again = app.json(&with(&["--reprocess", "failed", "-o", "json", "--wait"])).await;
    assert!(again.as_array().unwrap().iter().all(|run| run["what"] == "left"), "{again}");
    assert_eq!(app.ok(&["dags", "list-runs", "sales", "--no-backfill"]).await, "No data found\n");
    let (code, _, err) =
        app.run(&["dags", "backfill", "closed", range[0], range[1], range[2], range[3]]).await;
    assert!(code == 1 && err.contains("makes no runs for a range of dates"), "{err}");
}

#[tokio::test]
async fn the_next_runs_are_foretold() {
    let app = App::new();
    let runs = app.json(&["dags", "next-execution", "sales", "-n", "3", "-o", "json"]).await;
    let runs = runs.as_array().unwrap();
    assert_eq!(runs.len(), 3);
    assert!(runs[0]["run_after"].as_str().unwrap() < runs[1]["run_after"].as_str().unwrap());
    let (code, out, err) = app.run(&["dags", "next-execution", "closed"]).await;
    assert_eq!((code, out.as_str()), (0, "No data found\n"));
    assert!(err.contains("dag `closed` has no further runs"), "{err}");
}

#[tokio::test]
async fn a_dag_is_described_and_deleted() {
    let app = App::migrated().await;
    let details = app.json(&["dags", "details", "sales", "-o", "json"]).await;
    assert_eq!((&details["version"], &details["catchup"]), (&json!(1), &json!(false)));
    assert_eq!(details["params"]["properties"]["region"]["type"], json!("string"));
    let report = app.json(&["dags", "report", "-o", "json"]).await;
    assert_eq!((&report[1]["dag_id"], &report[1]["edges"]), (&json!("sales"), &json!(3)));
    app.ok(&["dags", "trigger", "sales", "-l", RUN]).await;
    let (code, _, _) = app.typing("no\n", &["dags", "delete", "sales"]).await;
    assert_eq!(code, 1);
    assert_eq!(app.ok(&["dags", "delete", "sales", "-y"]).await, "deleted dag `sales` with 1 runs\n");
    let (code, _, err) = app.run(&["dags", "delete", "sales", "-y"]).await;
    assert_eq!((code, err.as_str()), (1, "error: there is no dag `sales`\n"));
}

#[tokio::test]
async fn pools_make_a_round_trip_through_a_file() {
    let app = App::migrated().await;
    app.ok(&["pools", "set", "warehouse", "3", "Few connections", "--include-deferred"]).await;
    app.ok(&["pools", "set", "free", "-1"]).await;
    let file = app.file("pools.json");
    let file = file.to_str().unwrap();
    app.ok(&["pools", "export", file]).await;
    app.ok(&["pools", "delete", "warehouse", "-y"]).await;
    let (code, _, err) = app.run(&["pools", "get", "warehous"]).await;
    assert_eq!((code, err.as_str()), (1, "error: there is no pool `warehous`\n"));
    app.ok(&["pools", "import", file]).await;
    let pools = app.json(&["pools", "get", "warehouse", "-o", "json"]).await;
    let expected = json!([{
        "pool": "warehouse", "slots": 3, "used": 0, "deferred": 0, "description": "Few connections", "include_deferred": true,
    }]);
    assert_eq!(pools, expected);
    let (code, _, err) = app.run(&["pools", "get", "warehouses"]).await;
    assert_eq!(
        (code, err.as_str()),
        (1, "error: there is no pool `warehouses`; did you mean `warehouse`?\n")
    );
    let (code, _, err) = app.run(&["pools", "delete", "default_pool", "-y"]).await;
    assert!(code == 1 && err.contains("cannot be deleted"), "{err}");
    assert_eq!(app.run(&["pools", "set", "bad", "-2"]).await.0, 2);
}

#[tokio::test]
async fn variables_make_a_round_trip_through_a_file() {
    let app = App::migrated().await;
    for (key, value) in [("text", "plain"), ("number", "12"), ("quoted", "\"x\""), ("spaced", "{ \"a\": 1 }")]
    {
        app.ok(&["variables", "set", key, value]).await;
    }
    app.ok(&["variables", "set", "list", "[1,2]", "--json", "--description", "Two numbers"]).await;
    assert_eq!(app.run(&["variables", "set", "list", "[1,", "--json"]).await.0, 2);
    let file = app.file("variables.json");
    let file = file.to_str().unwrap();
    app.ok(&["variables", "export", file]).await;
    let before = app.json(&["variables", "list", "--show-values", "-o", "json"]).await;
    app.ok(&["variables", "set", "text", "changed"]).await;
    app.ok(&["variables", "delete", "number"]).await;
    assert_eq!(app.run(&["variables", "import", file, "-a", "fail"]).await.0, 1);
    app.ok(&["variables", "import", file, "-a", "skip"]).await;
    assert_eq!(app.ok(&["variables", "get", "text"]).await, "changed\n");
    app.ok(&["variables", "import", file]).await;
    assert_eq!(app.json(&["variables", "list", "--show-values", "-o", "json"]).await, before);
    assert_eq!(app.ok(&["variables", "get", "none", "--default", "d"]).await, "d\n");
    assert_eq!(app.ok(&["variables", "get", "spaced", "--json"]).await, "{\"a\":1}\n");
    let (code, _, err) = app.run(&["variables", "get", "numbr"]).await;
    assert_eq!((code, err.as_str()), (1, "error: there is no variable `numbr`; did you mean `number`?\n"));
    let log = app.store().await.audit_log(&AuditFilter::default()).await.unwrap();
    assert!(log.iter().all(|entry| entry.extra.as_deref() != Some("plain")), "values may be secret");
}

#[tokio::test]
async fn values_of_tasks_are_set_read_and_cleared() {
    let app = App::migrated().await;
    app.ok(&["dags", "trigger", "sales", "-l", RUN]).await;
    app.ok(&["xcom", "set", "sales", RUN, "orders", "[5]"]).await;
    app.ok(&["xcom", "set", "sales", RUN, "orders", "free text", "--key", "note"]).await;
    assert_eq!(app.ok(&["xcom", "get", "sales", RUN, "orders"]).await, "[5]\n");
    let list = app.json(&["xcom", "list", "sales", RUN, "--key", "note", "-o", "json"]).await;
    assert_eq!((list.as_array().unwrap().len(), &list[0]["value"]), (1, &json!("free text")));
    let (code, _, err) = app.run(&["xcom", "set", "sales", RUN, "order", "1"]).await;
    assert_eq!((code, err.as_str()), (1, "error: dag `sales` has no task `order`; did you mean `orders`?\n"));
    app.ok(&["xcom", "clear", "sales", RUN, "--task", "orders", "-y"]).await;
    assert_eq!(app.run(&["xcom", "get", "sales", RUN, "orders"]).await.0, 1);
}

#[tokio::test]
async fn the_database_is_made_checked_and_reset() {
    let app = App::new();
    for command in [&["db", "check"][..], &["dags", "list"], &["variables", "list"]] {
        let (code, _, err) = app.run(command).await;
        assert_eq!(code, 1);
        assert!(
            err.starts_with("error: there is no database at ") && err.ends_with("run `app db migrate`\n")
        );
    }
    let made = app.ok(&["db", "init"]).await;
    assert!(
        made.starts_with("created the tables of ") && made.ends_with("2 dags are known to it\n"),
        "{made}"
    );
    assert!(app.ok(&["db", "migrate"]).await.contains("already"));
    let check = app.json(&["db", "check", "-o", "json"]).await;
    assert_eq!(check[0], json!({ "property": "kind", "value": "sqlite" }));
    app.ok(&["dags", "trigger", "closed", "-l", RUN]).await;
    app.ok(&["dags", "trigger", "closed", "-l", "2026-03-03"]).await;
    app.ok(&["scheduler", "--until-idle"]).await;
    assert_eq!(app.typing("", &["db", "reset"]).await.0, 1);
    app.ok(&["db", "reset", "-y"]).await;
    assert_eq!(app.ok(&["dags", "list-runs", "closed"]).await, "No data found\n");
}

#[tokio::test]
async fn an_address_in_the_arguments_wins_over_the_environment() {
    let app = App::new();
    let other = app.file("other/place.db");
    let address = format!("sqlite://{}", other.display());
    app.ok(&["--database", &address, "db", "migrate"]).await;
    assert!(other.exists() && !app.file("airflow.db").exists());
    let config =
        app.json(&["config", "list", "--section", "database", "--database", &address, "-o", "json"]).await;
    assert_eq!(config[0]["source"], json!("argument --database"));
    assert_eq!(app.ok(&["config", "get-value", "core", "parallelism"]).await, "3\n");
    let config = app.json(&["config", "list", "--section", "core", "-o", "json"]).await;
    assert_eq!(config[0]["source"], json!("env AIRFLOW_HOME"));
    let (code, _, err) = app.run(&["--database", "oracle+driver://host/db", "db", "check"]).await;
    assert!(code == 2 && err.contains("cannot open a `oracle` database"), "{err}");
    #[cfg(not(feature = "postgres"))]
    {
        let (code, _, err) =
            app.run(&["--database", "postgresql+psycopg2://me:secret@host/db", "db", "check"]).await;
        assert!(
            code != 0 && err.contains("without the feature `postgres`") && !err.contains("secret"),
            "{err}"
        );
    }
    let address = "mysql://me:secret@host/db";
    let config = app.ok(&["config", "list", "--section", "database", "--database", address]).await;
    assert!(config.contains("mysql://***@host/db"), "{config}");
    assert!(app.ok(&["info"]).await.contains("there is no database at"));
}

#[tokio::test]
async fn unknown_names_suggest_the_nearest() {
    let app = App::migrated().await;
    app.ok(&["dags", "trigger", "sales", "-l", RUN, "--run-id", "mine"]).await;
    for (command, message) in [
        (&["dags", "show", "sale"][..], "there is no dag `sale`; did you mean `sales`?"),
        (&["dags", "trigger", "sale"], "there is no dag `sale`; did you mean `sales`?"),
        (&["dags", "state", "salts", "mine"], "there is no dag `salts`; did you mean `sales`?"),
        (&["dags", "pause", "salex"], "there is no dag `salex`; did you mean `sales`?"),
        (&["dags", "state", "sales", "mime"], "dag `sales` has no run `mime`; did you mean `mine`?"),
        (
            &["tasks", "state", "sales", "totl", "mine"],
            "dag `sales` has no task `totl`; did you mean `total`?",
        ),
        (
            &["tasks", "clear", "sales", "totl", "--run", "mine"],
            "dag `sales` has no task `totl`; did you mean `total`?",
        ),
    ] {
        let (code, out, err) = app.run(command).await;
        assert_eq!(
            (code, out.as_str(), err.as_str()),
            (1, "", format!("error: {message}\n").as_str()),
            "{command:?}"
        );
    }
}

#[tokio::test]
async fn wrong_arguments_end_with_two() {
    let app = App::migrated().await;
    for command in [
        &["dags"][..],
        &["dags", "lst"],
        &["dags", "list", "-o", "xml"],
        &["dags", "list", "--columns", "nothing"],
        &["dags", "trigger", "sales", "-l", "yesterday"],
        &["tasks", "clear", "sales", "-y"],
        &["tasks", "clear", "sales", "-t", "(", "--run", "x"],
        &["scheduler", "--slots", "0"],
    ] {
        let (code, out, err) = app.run(command).await;
        assert_eq!((code, out.as_str()), (2, ""), "{command:?}: {err}");
        assert!(!err.is_empty() && !err.contains("panicked"), "{command:?}");
    }
    let (code, out, _) = app.run(&["--help"]).await;
    assert!(code == 0 && out.contains("Usage: app") && out.contains("AIRFLOW_HOME"), "{out}");
}

#[tokio::test]
async fn mistakes_in_dags_are_all_reported_by_what_needs_the_dags() {
    let app = App::migrated().await;
    let make = async |builder: AirflowBuilder| {
        let circle = DagDef::new("circle").schedule("0 25 * * *").define(|d| {
            let (one, two) = (d.add(app::after::call().id("one")), d.add(app::after::call().id("two")));
            let _ = one >> two;
            let _ = two >> one;
        });
        let bad_name = DagDef::new("bad name").define(|d| {
            d.add(app::after::call());
        });
        Ok::<_, Infallible>(builder.dag(circle).dag(bad_name))
    };
    for command in
        [&["dags", "list"][..], &["dags", "show", "circle"], &["dags", "trigger", "circle"], &["scheduler"]]
    {
        let (mut host, out, err) = Host::captured(&app.env(), "");
        let code = run_with([&["app"], command].concat(), make, &mut host).await;
        let err = err.take();
        assert_eq!((code, out.take().as_str()), (1, ""), "{command:?}");
        assert!(err.starts_with("error: dag `circle`"), "{err}");
        assert!(
            err.contains("has 2 mistakes") && err.contains("in a circle") && err.contains("`bad name`"),
            "{err}"
        );
    }
    let (mut host, _, _) = Host::captured(&app.env(), "");
    assert_eq!(run_with(["app", "pools", "list"], make, &mut host).await, 0, "pools need no dags");
}

#[derive(Operator)]
struct Tried {
    #[template]
    text: String,
}

impl Execute for Tried {
    type Output = ();

    async fn execute(&self, _: &TaskContext) -> Result<()> {
        if self.text == "True" { Ok(()) } else { Err(TaskError::fail(format!("test_mode: {}", self.text))) }
    }
}

/// Goal: templates know whether somebody only tries what a task does. Method: a task that fails unless `test_mode` is true,
/// by both test commands and by a real run.
#[tokio::test]
async fn templates_know_the_test_commands() {
    let app = App::migrated().await;
    let make = async |builder: AirflowBuilder| {
        let dag = DagDef::new("tried").define(|d| {
            d.add(Tried { text: "{{ test_mode }}".into() }.id("try"));
        });
        Ok::<_, Infallible>(builder.dag(dag))
    };
    let run = async |args: &[&str]| {
        let (mut host, out, err) = Host::captured(&app.env(), "");
        let code = run_with([&["app"], args].concat(), make, &mut host).await;
        (code, out.take() + &err.take())
    };
    for args in [&["tasks", "test", "tried", "try", RUN][..], &["dags", "test", "tried", RUN]] {
        let (code, said) = run(args).await;
        assert_eq!(code, 0, "{args:?}: {said}");
    }
    assert_eq!(run(&["dags", "trigger", "tried", "-l", RUN]).await.0, 0);
    assert_eq!(run(&["scheduler", "--until-idle"]).await.0, 0);
    let (code, said) = run(&["dags", "state", "tried", RUN]).await;
    assert!(code == 0 && said.starts_with("failed"), "{said}");
}

#[tokio::test]
async fn states_are_coloured_on_a_terminal_only_and_never_with_no_color() {
    let app = App::migrated().await;
    app.ok(&["dags", "trigger", "closed", "-l", RUN]).await;
    app.ok(&["scheduler", "--until-idle"]).await;
    let home = app.home();
    for (terminal, no_color, coloured) in
        [(true, "", true), (true, "1", false), (false, "", false), (false, "1", false)]
    {
        let (host, out, _) = Host::captured(&[("AIRFLOW_HOME", &home), ("NO_COLOR", no_color)], "");
        let mut host = if terminal { host.as_terminal() } else { host };
        let args = ["app", "tasks", "states-for-dag-run", "closed", RUN];
        assert_eq!(run_with(args, app::make, &mut host).await, 0);
        let out = out.take();
        assert_eq!(out.contains("\u{1b}[31mfailed\u{1b}[0m"), coloured, "{out}");
        assert_eq!(out.contains('\u{1b}'), coloured, "{out}");
    }
}

#[tokio::test]
async fn completions_and_version_ask_for_nothing() {
    for command in
        [&["version"][..], &["completions", "bash"], &["completions", "zsh"], &["completions", "fish"]]
    {
        let (mut host, out, _) = Host::captured(&[], "");
        let make = async |_: AirflowBuilder| Err::<AirflowBuilder, _>("the program was put together");
        assert_eq!(run_with([&["app"], command].concat(), make, &mut host).await, 0);
        assert!(!out.take().is_empty());
    }
    let (mut host, _, err) = Host::captured(&[], "");
    let make = async |_: AirflowBuilder| Err::<AirflowBuilder, _>("no settings file");
    assert_eq!(run_with(["app", "dags", "list"], make, &mut host).await, 1);
    assert_eq!(err.take(), "error: no settings file\n");
}

#[tokio::test]
async fn a_store_of_the_program_is_used_and_cannot_be_overruled() {
    let app = App::new();
    let path = app.file("own.db").display().to_string();
    let make = async |builder: AirflowBuilder| {
        let store = SqliteStore::open(&path).await?;
        Ok::<_, airflow::store::StoreError>(builder.store(store).discovered_dags())
    };
    let run = async |args: &[&str]| {
        let (mut host, out, err) = Host::captured(&[], "");
        let code = run_with([&["app"], args].concat(), make, &mut host).await;
        (code, out.take(), err.take())
    };
    assert_eq!(run(&["db", "migrate"]).await.0, 0);
    let (_, config, _) = run(&["config", "list", "-o", "json"]).await;
    let config: Value = serde_json::from_str(&config).unwrap();
    let database = config.as_array().unwrap().iter().find(|one| one["section"] == "database").unwrap();
    assert_eq!(database["source"], json!("program"));
    let (code, _, err) = run(&["--database", "x.db", "db", "check"]).await;
    assert!(code == 2 && err.contains("brings its own store"), "{err}");
}
