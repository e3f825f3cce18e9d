//! `assets`: what is known, what has happened, and how a user makes it happen.

use std::convert::Infallible;

use airflow::cli::{Host, run_with};
use airflow::prelude::*;
use serde_json::{Value, json};

#[task(outlets = "s3://lake/orders")]
async fn load() -> Result<()> {
    Ok(())
}

#[dag]
fn loading(d: &Dag) {
    d.add(load::call());
}

#[dag(schedule = Asset::new("s3://lake/orders").named("orders"))]
fn odd(d: &Dag) {
    d.add(Empty::new());
}

#[dag(schedule = Asset::new("s3://lake/orders") | AssetAlias::new("exports"))]
fn reporting(d: &Dag) {
    d.add(Empty::new().id("report"));
}

struct App(tempfile::TempDir);

impl App {
    async fn run(&self, args: &[&str]) -> (u8, String, String) {
        let home = self.0.path().to_str().expect("UTF-8");
        let (mut host, out, err) = Host::captured(&[("AIRFLOW_HOME", home)], "");
        let make =
            async |builder: AirflowBuilder| Ok::<_, Infallible>(builder.dag(loading()).dag(reporting()));
        let code = run_with([&["app"], args].concat(), make, &mut host).await;
        (code, out.take(), err.take())
    }

    async fn json(&self, args: &[&str]) -> Value {
        let (code, out, err) = self.run(&[args, &["-o", "json"]].concat()).await;
        assert_eq!(code, 0, "{args:?}: {err}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }
}

/// Goal: a user sees assets and their events, says that one is new, and has one made. Method: what each command shows
/// after the scheduler has worked.
#[tokio::test]
async fn assets_are_listed_told_and_made() {
    let app = App(tempfile::tempdir().unwrap());
    assert_eq!(app.run(&["db", "migrate"]).await.0, 0);
    let event = app.json(&["assets", "event", "S3://lake/orders/", "-e", r#"{"rows": 5}"#]).await;
    assert_eq!((&event[0]["asset"], &event[0]["extra"]), (&json!("s3://lake/orders"), &json!({ "rows": 5 })));
    let queued = app.json(&["assets", "queued", "s3://lake/orders", "-d", "reporting"]).await;
    assert_eq!((queued.as_array().unwrap().len(), &queued[0]["asset"]), (1, &json!("s3://lake/orders")));
    let run = app.json(&["assets", "materialize", "s3://lake/orders"]).await;
    assert_eq!(run[0]["dag_id"], json!("loading"));
    assert!(run[0]["run_id"].as_str().unwrap().starts_with("asset_materialization__"), "{run}");
    let (code, _, err) = app.run(&["scheduler", "--until-idle"]).await;
    assert_eq!(code, 0, "{err}");

    let listed = app.json(&["assets", "list"]).await;
    assert_eq!(listed[0]["producers"], json!(["loading.load"]));
    assert_eq!((&listed[0]["consumers"], &listed[0]["events"]), (&json!(["reporting"]), &json!(2)));
    assert_eq!(app.json(&["assets", "list", "--alias"]).await[0]["name"], json!("exports"));
    assert_eq!(app.json(&["assets", "show", "s3://lake/orders"]).await, listed);
    let events = app.json(&["assets", "events", "s3://lake/orders"]).await;
    assert_eq!((&events[0]["dag_id"], &events[1]["dag_id"]), (&Value::Null, &json!("loading")));
    assert_eq!(
        app.json(&["assets", "events", "-d", "loading", "--limit", "5"]).await.as_array().unwrap().len(),
        1
    );
    let runs = app.json(&["dags", "list-runs", "reporting"]).await;
    assert!(!runs.as_array().unwrap().is_empty(), "{runs}");
    let dags = app.json(&["dags", "list"]).await;
    assert_eq!(dags[1]["schedule"], json!("Asset"));

    let (code, _, err) = app.run(&["assets", "show", "s3://lake/order"]).await;
    assert_eq!(
        (code, err.as_str()),
        (1, "error: there is no asset `s3://lake/order`; did you mean `s3://lake/orders`?\n")
    );
    let graph = app.run(&["dags", "show", "loading"]).await.1;
    assert_eq!(graph, "load => s3://lake/orders\n");
}

/// Goal: what waits for a dag can be taken away, and makes no run then. Method: an event, taken away; the scheduler.
#[tokio::test]
async fn events_that_wait_can_be_taken_away() {
    let app = App(tempfile::tempdir().unwrap());
    assert_eq!(app.run(&["db", "migrate"]).await.0, 0);
    app.json(&["assets", "event", "s3://lake/orders"]).await;
    assert_eq!(app.run(&["assets", "unqueue"]).await.0, 2, "of which asset or dag has to be said");
    let (code, out, err) = app.run(&["assets", "unqueue", "-d", "reporting", "--yes"]).await;
    assert_eq!((code, out.as_str()), (0, "1 events wait no longer\n"), "{err}");
    assert_eq!(app.json(&["assets", "queued"]).await, json!([]));
    let (code, _, err) = app.run(&["scheduler", "--until-idle"]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(app.json(&["dags", "list-runs", "reporting"]).await, json!([]));
    assert_eq!(app.json(&["assets", "events"]).await.as_array().unwrap().len(), 1, "the event stays");
    assert_eq!(app.json(&["dags", "missed-deadlines"]).await, json!([]));
}

/// Goal: a user sees which watchers there are and whether they run. Method: what is listed before a scheduler runs, and
/// while the dag is paused.
#[tokio::test]
async fn watchers_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().to_str().expect("UTF-8");
    let run = async |args: &[&str]| {
        let (mut host, out, err) = Host::captured(&[("AIRFLOW_HOME", home)], "");
        let make = async |builder: AirflowBuilder| {
            let file = Asset::new("file:///in/a").named("a").watcher("file", FileWatcher::new("/in/a"));
            let dag = DagDef::new("d").schedule(file).define(|d| {
                d.add(Empty::new().id("a"));
            });
            Ok::<_, Infallible>(builder.dag(dag))
        };
        let format: &[&str] = if args[0] == "assets" { &["-o", "json"] } else { &[] };
        let code = run_with([&["app"], args, format].concat(), make, &mut host).await;
        assert_eq!(code, 0, "{args:?}: {}", err.take());
        serde_json::from_str::<Value>(&out.take()).unwrap_or_default()
    };
    run(&["db", "migrate"]).await;
    let listed = run(&["assets", "watchers"]).await;
    let row = |state: &str| {
        json!({
            "asset": "a", "watcher": "file", "state": state, "events": 0, "last_event": null, "cursor": null,
            "failures": 0, "failed_at": null, "error": null, "process": null,
        })
    };
    assert_eq!(listed, json!([row("waiting")]));
    run(&["dags", "pause", "d"]).await;
    assert_eq!(run(&["assets", "watchers"]).await, json!([row("paused")]));
    assert_eq!(run(&["assets", "watchers", "--failing"]).await, json!([]));
}

/// Goal: two names for one place are found when the program is built, in whichever dags they are.
#[test]
fn an_asset_has_one_name_and_one_place() {
    let error =
        airflow::registry::Registry::compile(&[loading(), odd()], &airflow::operator::Resources::default());
    let error = error.unwrap_err().to_string();
    let said =
        "the asset `orders` at `s3://lake/orders` is also called `s3://lake/orders` at `s3://lake/orders`";
    assert!(error.contains(said), "{error}");
    let bad = DagDef::new("bad").schedule(Asset::new("airflow://x")).define(|d| {
        d.add(Empty::new().outlets(["größe"]).id("a"));
    });
    let error = bad.compile().unwrap_err().to_string();
    for part in ["the scheme `airflow` is reserved", "asset `größe`: the URI may have ASCII characters only"]
    {
        assert!(error.contains(part), "{part}\n{error}");
    }
}
