//! Commands that wait for runs, what they show meanwhile, and pictures of dags.

use std::convert::Infallible;

use airflow::cli::{Host, run_with};
use airflow::prelude::*;
use serde_json::{Value, json};

use crate::app::{App, after, make};

/// Fails on the second day.
#[task]
async fn on_good_days(cx: &TaskContext) -> Result<()> {
    if cx.logical_date().format("%d").to_string() == "02" {
        return Err(TaskError::fail("a bad day"));
    }
    Ok(())
}

#[dag(schedule = "@daily", start_date = "2099-01-01")]
fn days_of_work(d: &Dag) {
    d.add(on_good_days::call());
}

/// Has labels with all that its languages mean something by, and a group with a text for people.
fn labelled() -> DagDef {
    DagDef::new("labelled").define(|d| {
        let first = d.add(after::call().id("first"));
        let group = TaskGroup::new("inner").tooltip("what is \"inside\"");
        let (inner, _) = d.add_group(group, |d| d.add(after::call().id("a")));
        let last = d.add(after::call().id("last"));
        d.order(first >> label("on \"success\"") >> inner);
        d.order(inner >> label("then\nthe rest \\o/ | #1;") >> last);
        d.order(first >> last);
    })
}

pub(crate) async fn make_more(builder: AirflowBuilder) -> std::result::Result<AirflowBuilder, Infallible> {
    Ok(make(builder).await?.dag(days_of_work()).dag(labelled()))
}

async fn run(app: &App, args: &[&str]) -> (u8, String, String) {
    let (mut host, out, err) = Host::captured(&app.env(), "");
    let code = run_with([&["app"], args].concat(), make_more, &mut host).await;
    (code, out.take(), err.take())
}

/// How often a scheduler looks for work before what waits for it counts as never ending.
const MOST_TURNS: u32 = 10_000;

/// Runs a command that waits, while schedulers of the same program work in turns.
async fn waited(app: &App, args: &[&str]) -> (u8, String, Vec<String>) {
    let schedulers = Box::pin(async {
        for _ in 0..MOST_TURNS {
            let (code, _, err) = run(app, &["scheduler", "--until-idle"]).await;
            assert_eq!(code, 0, "{err}");
        }
    });
    let (code, out, err) = tokio::select! {
        done = Box::pin(run(app, args)) => done,
        () = schedulers => panic!("{args:?} waits for ever"),
    };
    // Whether a scheduler is there when the command looks is chance.
    let lines = err.lines().filter(|line| !line.starts_with("no scheduler is alive: "));
    (code, out, lines.map(str::to_owned).collect())
}

/// Goal: who waits for a run gets its end as the exit code, and sees how far it is. Method: a run that fails and one that
/// succeeds.
#[tokio::test]
async fn waiting_for_a_run_ends_with_its_end() {
    let app = App::migrated().await;
    for (dag, tasks, state, expected) in [("closed", 2, "failed", 1), ("days_of_work", 1, "success", 0)] {
        let args = ["dags", "trigger", dag, "-l", "2026-03-01", "--wait", "-o", "json"];
        let (code, out, said) = waited(&app, &args).await;
        assert_eq!(code, expected, "{said:?}");
        let rows: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(rows[0]["state"], json!(state), "{rows}");
        assert_eq!(said.last().unwrap(), &format!("{tasks}/{tasks} tasks, run {state}"), "{said:?}");
        let steps = |line: &String| line.contains(&format!("/{tasks} tasks, run "));
        assert!(said.iter().all(steps), "{said:?}");
        let mut once = said.clone();
        once.dedup();
        assert_eq!(once, said, "nothing is said twice");
    }
    let missing = run(&app, &["dags", "trigger", "nobody", "--wait"]).await;
    assert_eq!((missing.0, missing.1.as_str()), (1, ""), "{}", missing.2);
}

/// Goal: who waits for a backfill sees each of its runs, and gets the failures as the exit code. Method: three days, of
/// which one fails, not on a terminal: exact lines; then the one that failed again.
#[tokio::test]
async fn waiting_for_a_backfill_says_which_runs_failed() {
    let app = App::migrated().await;
    let range = ["--start-date", "2026-03-01", "--end-date", "2026-03-03"];
    let backfill = |more: &[&'static str]| [&["dags", "backfill", "days_of_work"], &range[..], more].concat();
    let (code, out, said) = waited(&app, &backfill(&["--wait"])).await;
    let id = |day: u32| format!("backfill__2026-03-0{day}T00:00:00+00:00");
    assert_eq!(
        said,
        [
            format!("0/3 runs, waiting for {}", id(1)),
            format!("1/3 runs, waiting for {}", id(2)),
            format!("2/3 runs, waiting for {}", id(3)),
            "3/3 runs".to_owned(),
            format!("error: 1 of 3 runs failed: {}", id(2)),
        ]
    );
    assert_eq!((code, out.matches("| new").count()), (1, 3), "{out}");

    let (code, out, said) = waited(&app, &backfill(&["--reprocess", "failed", "--wait"])).await;
    assert_eq!((code, out.matches("| left").count(), out.matches("| again").count()), (1, 2, 1), "{out}");
    assert_eq!(said[0], format!("0/1 runs, waiting for {}", id(2)));
    let (code, _, said) = waited(&app, &backfill(&["--wait"])).await;
    assert_eq!((code, said), (0, vec!["0/0 runs".to_owned()]), "there is nothing to wait for");
}

/// Goal: a range of runs is cleared at once, and nothing beyond it. Method: three runs; clear the failed tasks of the last
/// two, then all of the first.
#[tokio::test]
async fn a_range_of_runs_is_cleared() {
    let app = App::migrated().await;
    let days = ["--start-date", "2026-03-01", "--end-date", "2026-03-03"];
    let done = waited(&app, &[&["dags", "backfill", "days_of_work", "--wait"], &days[..]].concat()).await;
    assert_eq!(done.0, 1, "{done:?}");
    let clear = async |args: &[&str]| {
        let (code, out, err) =
            run(&app, &[&["tasks", "clear", "days_of_work", "-y", "-o", "json"], args].concat()).await;
        assert_eq!(code, 0, "{err}");
        let rows: Value = serde_json::from_str(&out).unwrap_or_else(|_| json!(out.trim()));
        let rows = rows.as_array().map(|rows| rows.iter().map(|row| row["run_id"].clone()).collect());
        rows.unwrap_or_else(|| vec![json!(out.trim())])
    };
    let id = |day: u32| json!(format!("backfill__2026-03-0{day}T00:00:00+00:00"));
    let two = ["--start-date", "2026-03-02", "--end-date", "2026-03-03"];
    assert_eq!(clear(&[&two[..], &["--dry-run"]].concat()).await, [id(2), id(3)]);
    assert_eq!(clear(&[&two[..], &["--only-failed"]].concat()).await, [id(2)]);
    assert_eq!(clear(&[&two[..], &["--only-failed"]].concat()).await, [json!("Nothing to clear")]);
    assert_eq!(clear(&["--end-date", "2026-03-01"]).await, [id(1)]);
    let (code, _, err) = run(&app, &["tasks", "clear", "days_of_work", "-y"]).await;
    assert!(
        code == 2 && err.contains("say which runs: `--run`, or `--start-date` and `--end-date`"),
        "{err}"
    );
}

/// Goal: `pools list` shows all pools with what is taken of them, as a table and as JSON. Method: exact output.
#[tokio::test]
async fn pools_are_listed() {
    let app = App::migrated().await;
    app.ok(&["pools", "set", "warehouse", "3", "Few connections", "--include-deferred"]).await;
    app.ok(&["pools", "set", "free", "-1"]).await;
    let pool = |name: &str, slots: i32, description: &str, include_deferred: bool| {
        json!({
            "pool": name, "slots": slots, "used": 0, "deferred": 0, "description": description,
            "include_deferred": include_deferred,
        })
    };
    let listed = app.json(&["pools", "list", "-o", "json"]).await;
    let expected = [
        pool("default_pool", 128, "Default pool", false),
        pool("free", -1, "", false),
        pool("warehouse", 3, "Few connections", true),
    ];
    assert_eq!(listed, json!(expected));
    let table = app.ok(&["pools", "list"]).await;
    assert_eq!(
        table.lines().map(str::trim_end).collect::<Vec<_>>(),
        [
            "pool         | slots | used | deferred | description     | include_deferred",
            "=============+=======+======+==========+=================+=================",
            "default_pool | 128   | 0    | 0        | Default pool    | False",
            "free         | -1    | 0    | 0        |                 | False",
            "warehouse    | 3     | 0    | 0        | Few connections | True",
        ]
    );
}

/// Goal: labels of edges are in both languages of pictures, whatever they hold, and the text of a group is kept with the
/// dag. Method: exact output; the stored version.
#[tokio::test]
async fn labels_are_drawn_and_the_text_of_a_group_is_kept() {
    let app = App::migrated().await;
    let (_, dot, _) = run(&app, &["dags", "show", "labelled", "--format", "dot"]).await;
    let edges: Vec<&str> = dot.lines().filter(|line| line.contains("->")).collect();
    assert_eq!(
        edges,
        [
            r#"  "first" -> "last";"#,
            r#"  "first" -> "inner.a" [label="on \"success\""];"#,
            r#"  "inner.a" -> "last" [label="then\nthe rest \\o/ | #1;"];"#,
        ]
    );
    let (_, mermaid, _) = run(&app, &["dags", "show", "labelled", "--format", "mermaid"]).await;
    let edges: Vec<&str> = mermaid.lines().filter(|line| line.contains("-->")).collect();
    assert_eq!(
        edges,
        [
            "  t0 --> t2",
            r#"  t0 -->|"on #quot;success#quot;"| t1"#,
            r#"  t1 -->|"then<br/>the rest \o/ | #35;1;"| t2"#,
        ]
    );
    run(&app, &["dags", "trigger", "labelled"]).await;
    let versions = airflow::store::Store::dag_versions(&app.store().await, &"labelled".into()).await.unwrap();
    let groups = &versions[0].structure["groups"];
    assert_eq!(*groups, json!([{ "id": "inner", "tooltip": "what is \"inside\"", "mapped": false }]));
}
