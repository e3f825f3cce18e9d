//! What somebody needs who keeps a database and its processes going.

use std::convert::Infallible;

use airflow::cli::{Host, run_with};
use airflow::prelude::*;
use airflow::store::{NewIncarnation, Store as _};
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::app::{App, RUN};

#[tokio::test]
async fn the_doctor_says_what_is_wrong_and_ends_with_one() {
    let app = App::migrated().await;
    app.ok(&["dags", "trigger", "sales", "-l", RUN]).await;
    app.ok(&["scheduler", "--until-idle"]).await;
    let healthy = app.ok(&["doctor"]).await;
    assert!(healthy.ends_with("airflow.db is as it should be\n"), "{healthy}");
    assert_eq!(app.json(&["doctor", "-o", "json"]).await, json!([]));
    let url = format!("sqlite:{}", app.file("airflow.db").display());
    let mut conn = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let sql = "UPDATE af_ti SET state = 'failed' WHERE task_id = 'total'";
    sqlx::query(sql).execute(&mut conn).await.unwrap();
    let (code, out, err) = app.run(&["doctor", "-o", "json"]).await;
    assert!(code == 1 && err.contains("1 error was found in"), "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found[0]["check"], json!("state_is_last_event"));
    assert!(found[0]["place"].as_str().unwrap().ends_with("task `total`"), "{found}");
    assert!(found[0]["cure"].as_str().unwrap().contains("restore a backup"), "{found}");
}

const CLEAN: [&str; 4] = ["db", "clean", "--clean-before-timestamp", "2099-01-01"];

fn lines(app: &App, file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(app.file(file)).expect("an archive");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[tokio::test]
async fn what_is_old_is_archived_and_deleted() {
    let app = App::migrated().await;
    for (dag, date) in [("closed", RUN), ("closed", "2026-03-03"), ("sales", RUN), ("sales", "2026-03-03")] {
        app.ok(&["dags", "trigger", dag, "-l", date]).await;
    }
    app.ok(&["scheduler", "--until-idle"]).await;
    let clean = |rest: &[&'static str]| [&CLEAN[..], rest].concat();

    let dry = app.json(&clean(&["--dry-run", "-o", "json"])).await;
    let counts: Vec<_> =
        dry.as_array().unwrap().iter().map(|row| (&row["table"], &row["would_go"])).collect();
    let wanted = [
        ("xcom", 10),
        ("task_log", 0),
        ("dag_run", 2),
        ("dag_version", 0),
        ("asset_event", 0),
        ("asset_watcher", 0),
        ("log", 5),
        ("job", 1),
    ];
    assert_eq!(
        counts,
        wanted.map(|(table, rows)| (json!(table), json!(rows))).each_ref().map(|(a, b)| (a, b))
    );
    assert!(!app.file("archive").exists(), "a rehearsal writes nothing");

    // One dag, one table, one row at a time.
    app.ok(&clean(&["-y", "-t", "dag_run", "--dag-ids", "sales", "--batch-size", "1"])).await;
    let left =
        async |dag: &str| app.json(&["dags", "list-runs", dag, "-o", "json"]).await.as_array().unwrap().len();
    assert_eq!((left("sales").await, left("closed").await), (1, 2));
    let archived = lines(&app, "archive/dag_run.jsonl");
    assert_eq!(archived.len(), 1);
    let run = &archived[0];
    assert_eq!((&run["run"]["dag_id"], &run["run"]["state"]), (&json!("sales"), &json!("success")));
    let count = |part: &str| run[part].as_array().unwrap().len();
    assert_eq!((count("task_instances"), count("attempts"), count("xcoms")), (5, 5, 5));
    assert_eq!(run["events"][0]["event"], json!("launched"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(app.file("archive/dag_run.jsonl")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "values may be secrets");
    }

    // Somewhere else, and without the dag; what was archived before stays.
    let folder = app.file("elsewhere").display().to_string();
    let args =
        [&clean(&["-y", "-t", "dag_run,log", "--exclude-dag-ids", "closed", "--archive"])[..], &[&folder]];
    app.ok(&args.concat()).await;
    assert_eq!(left("closed").await, 2);
    assert!(!app.file("elsewhere/dag_run.jsonl").exists(), "nothing was old");
    let log = lines(&app, "elsewhere/log.jsonl");
    assert!(log.iter().all(|entry| entry["dag_id"] != json!("closed")) && log.len() == 4, "{log:?}");

    app.ok(&clean(&["-y", "--skip-archive"])).await;
    assert_eq!((left("sales").await, left("closed").await), (1, 1));
    assert_eq!(lines(&app, "archive/dag_run.jsonl").len(), 1, "what is skipped is not archived");
    assert_eq!(app.ok(&["doctor", "-o", "plain"]).await.lines().count(), 1);
}

#[tokio::test]
async fn an_archive_that_cannot_be_written_deletes_nothing() {
    let app = App::migrated().await;
    for date in [RUN, "2026-03-03"] {
        app.ok(&["dags", "trigger", "sales", "-l", date]).await;
    }
    app.ok(&["scheduler", "--until-idle"]).await;
    std::fs::write(app.file("archive"), "no folder").unwrap();
    let (code, _, err) = app.run(&[&CLEAN[..], &["-y"]].concat()).await;
    assert!(code == 1 && err.contains("cannot write the archive") && err.contains("/archive"), "{err}");
    assert_eq!(app.json(&["dags", "list-runs", "sales", "-o", "json"]).await.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_cannot_be_cleaned_or_taken_back_says_why() {
    let app = App::migrated().await;
    for (args, wanted) in [
        (&["-t", "runs"][..], "there is no table `runs` that grows old; there are xcom, task_log, dag_run,"),
        (&["-t", "task_instance"], "is deleted with its run: use `dag_run`"),
        (&["--archive", "x", "--skip-archive"], "cannot be used with"),
        (&["--batch-size", "0"], "0 is not in 1.."),
    ] {
        let (code, _, err) = app.run(&[&CLEAN[..], args].concat()).await;
        assert!(code == 2 && err.contains(wanted), "{args:?}: {err}");
    }
    let (code, _, err) = app.run(&["db", "downgrade", "--to-version", "0.0.9", "-y"]).await;
    assert!(
        code == 1 && err.contains("cannot be taken back to 0.0.9") && err.contains("restore the backup"),
        "{err}"
    );
    for command in ["export-archived", "drop-archived"] {
        let (code, _, err) = app.run(&["db", command, "--tables", "dag_run"]).await;
        assert!(code == 1 && err.contains("files of JSON lines"), "{err}");
    }
}

#[tokio::test]
async fn a_probe_finds_the_process_that_it_is_asked_for() {
    let app = App::migrated().await;
    let check = async |args: &[&'static str]| {
        let (code, out, err) = app.run(&[&["jobs", "check"][..], args].concat()).await;
        (code, out + &err)
    };
    let none = (1, "error: no alive jobs found\n".to_owned());
    assert_eq!(check(&[]).await, none);
    let (code, out, _) = app.run(&["health"]).await;
    let health: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &health["metadatabase"]["status"]), (1, &json!("healthy")));
    assert_eq!(health["scheduler"]["status"], json!("unhealthy"));
    let never = json!({ "status": null, "latest_triggerer_heartbeat": null });
    assert_eq!(health["triggerer"], never, "no scheduler was ever heard of");

    let store = app.store().await;
    for (number, host) in [(1, "east"), (2, "west")] {
        let process = NewIncarnation {
            id: serde_json::from_value(json!(format!("00000000-0000-0000-0000-00000000000{number}")))
                .unwrap(),
            kind: "scheduler".into(),
            host: host.into(),
            pid: number,
            // Of no machine that this one knows.
            birth: "elsewhere:1".into(),
            lease: std::time::Duration::from_secs(600),
        };
        store.register(process).await.unwrap();
    }
    let one = (0, "found one alive job\n".to_owned());
    assert_eq!(check(&[]).await, one, "only the last one is looked at");
    assert_eq!(check(&["--hostname", "east", "--limit", "0"]).await, one);
    assert_eq!(check(&["--hostname", "north"]).await, none);
    assert_eq!(check(&["--local"]).await, none);
    assert_eq!(check(&["--job-type", "SchedulerJob"]).await, one);
    assert_eq!(check(&["--job-type", "worker"]).await, none);
    let two = (1, "error: found 2 alive jobs, expected only one\n".to_owned());
    assert_eq!(check(&["--limit", "10"]).await, two);
    let (code, told) = check(&["--limit", "0", "--allow-multiple"]).await;
    assert_eq!((code, told.as_str()), (0, "found 2 alive jobs\n"));
    let (code, told) = check(&["--allow-multiple"]).await;
    assert!(code == 2 && told.contains("needs a `--limit` greater than 1"), "{told}");
    let (code, told) = check(&["--local", "--hostname", "east"]).await;
    assert!(code == 2 && told.contains("cannot be used with"), "{told}");
    let (code, told) = check(&["--job-type", "DagProcessorJob"]).await;
    assert!(code == 2 && told.contains("they are code of the program"), "{told}");
    let listed = app.json(&["jobs", "check", "--hostname", "west", "-o", "json"]).await;
    assert_eq!((&listed[0]["host"], &listed[0]["pid"]), (&json!("west"), &json!(2)));

    // The probe of a deployment: the process of this host stands still, and those that live do not vouch for it.
    let local = ["--job-type", "SchedulerJob", "--local"];
    let spec = airflow::scheduler::IncarnationSpec::of_this_process("scheduler");
    let mine = spec.new_incarnation(std::time::Duration::from_secs(600));
    let id = mine.id;
    store.register(mine).await.unwrap();
    assert_eq!(check(&local).await, one);
    store.end_incarnation(id).await.unwrap();
    assert_eq!(check(&local).await, none);
    assert_eq!(check(&["--job-type", "SchedulerJob"]).await, one);

    let health: Value = serde_json::from_str(&app.ok(&["health"]).await).unwrap();
    let status = |part: &str| health[part]["status"].clone();
    assert_eq!([status("scheduler"), status("triggerer")], [json!("healthy"), json!("healthy")]);
    assert_eq!(status("dag_processor"), Value::Null);
}

#[tokio::test]
async fn messages_that_were_set_aside_are_listed_and_deleted() {
    let app = App::migrated().await;
    let store = app.store().await;
    for id in ["aa", "bb"] {
        let letter = airflow::store::DeadLetter {
            id: id.into(),
            at: "2026-01-02T00:00:00Z".parse().unwrap(),
            queue: "default".into(),
            reason: "wrong_mac".into(),
            error: "it is forged".into(),
            key_id: Some("00ff".into()),
            size: 7,
            head: "\\x01".into(),
            by: "w1".into(),
        };
        assert!(store.keep_dead_letter(letter, 10).await.unwrap());
    }
    let listed = app.json(&["dead-letters", "list", "-o", "json"]).await;
    let seen = [&listed[0]["id"], &listed[0]["reason"], &listed[1]["id"], &listed[1]["by"]];
    assert_eq!(seen, [&json!("aa"), &json!("wrong_mac"), &json!("bb"), &json!("w1")]);
    let (code, _, err) = app.run(&["dead-letters", "delete", "aa", "cc", "-y"]).await;
    assert!(code == 1 && err.contains("1 of 2 messages are not there"), "{err}");
    assert_eq!(app.ok(&["dead-letters", "delete", "--all", "-y"]).await, "forgot 1 messages\n");
    assert_eq!(app.json(&["dead-letters", "list", "-o", "json"]).await, json!([]));
}

/// One command of a program whose only dag has changed since its last version.
async fn changed(app: &App, retries: u32, args: &[&str]) -> String {
    let make = async |builder: AirflowBuilder| {
        let dag = DagDef::new("grows").define(|d| {
            d.add(Empty::new().id("a").retries(retries));
        });
        Ok::<_, Infallible>(builder.dag(dag))
    };
    let (mut host, out, err) = Host::captured(&app.env(), "");
    let code = run_with([&["app"], args].concat(), make, &mut host).await;
    assert_eq!(code, 0, "{args:?}: {}", err.take());
    out.take()
}

/// Goal: people see which version of a dag a run has, also when the dag has moved on.
#[tokio::test]
async fn lists_of_runs_show_the_version_of_each() {
    let app = App::migrated().await;
    for (retries, run) in [(0, "first"), (1, "second"), (0, "third")] {
        let made = changed(&app, retries, &["dags", "trigger", "grows", "-r", run, "-o", "json"]).await;
        let made: Value = serde_json::from_str(&made).unwrap();
        assert_eq!(made[0]["version"], json!(retries + 1), "{made}");
    }
    let list = changed(&app, 1, &["dags", "list-runs", "grows", "-o", "json"]).await;
    let list: Value = serde_json::from_str(&list).unwrap();
    let mut versions: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["run_id"].as_str().unwrap(), row["version"].clone()))
        .collect();
    versions.sort_unstable_by_key(|(run, _)| *run);
    assert_eq!(versions, [("first", json!(1)), ("second", json!(2)), ("third", json!(1))]);
    let table = changed(&app, 1, &["dags", "list-runs", "grows"]).await;
    assert!(table.lines().next().is_some_and(|head| head.contains("| version |")), "{table}");
}
