//! Connections, variables, keys and the configuration on the command line.

use airflow::cli::{Host, run_with};
use airflow::fernet::Fernet;
use airflow::prelude::*;
use airflow::store::Store as _;
use serde_json::json;

use crate::app::{App, make};

async fn with(app: &App, env: &[(&str, &str)], args: &[&str]) -> (u8, String, String) {
    let all: Vec<(&str, &str)> = app.env().into_iter().chain(env.iter().copied()).collect();
    let (mut host, out, err) = Host::captured(&all, "");
    let code = run_with([&["app"], args].concat(), make, &mut host).await;
    (code, out.take(), err.take())
}

fn cfg(app: &App, text: &str) {
    std::fs::write(app.file("airflow.cfg"), text).expect("a file");
}

#[tokio::test]
async fn connections_are_added_listed_without_secrets_and_deleted() {
    let app = App::migrated().await;
    let uri = "postgres://etl:p%40ssword@db:5432/sales?sslmode=require&token=t0ken";
    let (code, out, err) = app.run(&["connections", "add", "warehouse", "--conn-uri", uri]).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "added connection `warehouse`: postgres://etl@db:5432/sales\n"),
        "{err}"
    );
    assert!(err.contains("warning: no key is set"), "{err}");
    let fields =
        ["--conn-type", "http", "--conn-host", "h", "--conn-port", "80", "--conn-extra", "{\"a\": 1}"];
    app.ok(&[&["connections", "add", "api"], &fields[..]].concat()).await;
    let list = app.ok(&["connections", "list", "-o", "json"]).await;
    assert!(!list.contains("p@ssword") && !list.contains("t0ken") && list.contains("require"), "{list}");
    let got = app.json(&["connections", "get", "warehouse", "-o", "json"]).await;
    assert_eq!(
        (&got["password"], &got["port"], &got["uri"]),
        (&json!("p@ssword"), &json!(5432), &json!(uri))
    );
    let (code, _, err) = app.run(&["connections", "add", "api", "--conn-type", "x"]).await;
    assert!(code == 1 && err.contains("`api` exists already"), "{err}");
    app.ok(&["connections", "add", "api", "--conn-type", "x", "--if-exists", "skip"]).await;
    assert_eq!(app.json(&["connections", "get", "api", "-o", "json"]).await["conn_type"], json!("http"));
    app.ok(&["connections", "delete", "api"]).await;
    let (code, _, err) = app.run(&["connections", "delete", "warehose"]).await;
    assert!(code == 1 && err.contains("did you mean `warehouse`?"), "{err}");
    let audit = app.store().await.audit_log(&airflow::store::AuditFilter::default()).await.expect("a log");
    assert!(audit.iter().all(|entry| !format!("{entry:?}").contains("p@ss")), "{audit:?}");
}

#[tokio::test]
async fn bad_connections_are_refused_without_repeating_their_secrets() {
    let app = App::migrated().await;
    for (args, why) in [
        (&["c", "--conn-uri", "x://u:p4ss@h:port"][..], "the port must be a number from 0 to 65535"),
        (&["c", "--conn-uri", "x://u:p4/ss@h"], "if the password holds `/`"),
        (&["c", "--conn-uri", "a://b://u:p4ss@c://d"], "`://` stands where it cannot"),
        (&["c", "--conn-json", "{\"password\": \"p4ss\", \"hots\": 1}"], "a connection has no field `hots`"),
        (&["a b", "--conn-uri", "x://u:p4ss@h"], "`a b` is no id of a connection"),
        (&["c", "--conn-type", "x", "--conn-extra", "p4ss"], "`--conn-extra` must be a JSON object"),
    ] {
        let (code, _, err) = app.run(&[&["connections", "add"], args].concat()).await;
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(why) && !err.contains("p4ss"), "{err}");
    }
}

#[tokio::test]
async fn connections_travel_as_files() {
    let app = App::migrated().await;
    let (json, env) = (app.file("c.json").display().to_string(), app.file("c.env").display().to_string());
    app.ok(&["connections", "add", "a", "--conn-uri", "x://u:secret@h/s?k=v"]).await;
    app.ok(&["connections", "add", "b", "--conn-json", "{\"conn_type\": \"y\", \"extra\": {\"n\": [1]}}"])
        .await;
    let before = app.json(&["connections", "export", "-"]).await;
    for file in [&json, &env] {
        app.ok(&["connections", "export", file]).await;
        app.ok(&["connections", "delete", "b"]).await;
        let out = app.ok(&["connections", "import", file]).await;
        assert_eq!(out, "imported 1 connections, left 1 as they were\n");
    }
    let uris = app.json(&["connections", "export", "-", "--serialization-format", "uri"]).await;
    assert_eq!(uris["a"], json!("x://u:secret@h/s?k=v"));
    assert_eq!(
        app.ok(&["connections", "import", &json, "--overwrite"]).await,
        "imported 2 connections, left 0 as they were\n"
    );
    assert_eq!(app.json(&["connections", "export", "-"]).await["a"], before["a"]);
    std::fs::write(&env, "a=x://h\na=x://i\n").expect("a file");
    let (code, _, err) = app.run(&["connections", "import", &env]).await;
    assert!(code == 1 && err.contains("line 2: `a` stands there twice"), "{err}");
}

#[tokio::test]
async fn a_key_encrypts_and_can_be_rotated() {
    let app = App::migrated().await;
    let generate = || app.ok(&["config", "generate-fernet-key"]);
    let (old, new) = (generate().await.trim().to_owned(), generate().await.trim().to_owned());
    let (code, _, err) = app.run(&["rotate-fernet-key"]).await;
    assert!(code == 1 && err.contains("no key is set"), "{err}");
    app.ok(&["variables", "set", "plain", "text"]).await;
    cfg(&app, &format!("[core]\nfernet_key = {old}\n"));
    app.ok(&["variables", "set", "region", "eu-west-1"]).await;
    let (_, _, err) = app.run(&["connections", "add", "c", "--conn-uri", "x://:pa55word@h"]).await;
    assert_eq!(err, "", "there is a key, so nothing to warn of");
    let stored = app.store().await.variable("region").await.expect("a store").expect("a row");
    assert!(stored.is_encrypted && stored.value != "eu-west-1");
    cfg(&app, &format!("[core]\nfernet_key = {new}\n"));
    let (code, _, err) = app.run(&["variables", "get", "region"]).await;
    assert!(code == 1 && err.contains("the variable `region`: the value cannot be decrypted"), "{err}");
    cfg(&app, &format!("[core]\nfernet_key = {new},{old}\n"));
    let out = app.ok(&["rotate-fernet-key"]).await;
    assert!(out.starts_with("encrypted 2 values") && out.contains("1 are plain text"), "{out}");
    cfg(&app, &format!("[core]\nfernet_key_cmd = printf %%s {new}\n"));
    assert_eq!(app.ok(&["variables", "get", "region"]).await, "eu-west-1\n");
    assert_eq!(app.json(&["connections", "get", "c", "-o", "json"]).await["password"], json!("pa55word"));
}

#[tokio::test]
async fn the_environment_wins_over_the_database() {
    let app = App::migrated().await;
    app.ok(&["variables", "set", "region", "database"]).await;
    let (_, out, _) =
        with(&app, &[("AIRFLOW_VAR_REGION", "environment")], &["variables", "get", "region"]).await;
    assert_eq!(out, "environment\n");
    let env = [("AIRFLOW_CONN_DB", "x://h")];
    let (_, out, _) = with(&app, &env, &["connections", "get", "db", "-o", "json"]).await;
    assert!(out.contains("\"host\": \"h\""), "{out}");
}

#[tokio::test]
async fn settings_show_where_they_come_from_and_hide_keys() {
    let app = App::new();
    let key = app.ok(&["config", "generate-fernet-key"]).await.trim().to_owned();
    cfg(
        &app,
        &format!(
            "[core]\nfernet_key = {key}\nmax_map_length = 5\nparallelism = 9\n[logging]\nlogging_level = info\n"
        ),
    );
    let list = app.json(&["config", "list", "-o", "json", "--changed"]).await;
    let row = |key: &str| list.as_array().unwrap().iter().find(|row| row["option"] == key).unwrap().clone();
    let file = format!("file {}", app.file("airflow.cfg").display());
    assert_eq!(
        (&row("max_map_length")["value"], &row("max_map_length")["source"]),
        (&json!("5"), &json!(file))
    );
    assert_eq!(
        (&row("parallelism")["value"], &row("parallelism")["source"]),
        (&json!("3"), &json!("env AIRFLOW__CORE__PARALLELISM"))
    );
    assert_eq!(row("fernet_key")["value"], json!("***"));
    assert_eq!(app.ok(&["config", "get-value", "core", "fernet_key"]).await, format!("{key}\n"));
    let other = app.file("other.cfg").display().to_string();
    std::fs::write(&other, "[core]\nmax_map_length = 6\n").unwrap();
    let (_, out, _) =
        with(&app, &[("AIRFLOW_CONFIG", &other)], &["config", "get-value", "core", "max_map_length"]).await;
    assert_eq!(out, "6\n");
}

#[tokio::test]
async fn mistakes_in_the_configuration_stop_everything_but_the_lint() {
    let app = App::migrated().await;
    cfg(&app, "[core]\nparalelism = 3\nmax_map_length = many\nload_examples = False\n");
    let (code, _, err) = app.run(&["pools", "list"]).await;
    assert!(
        code == 2 && err.contains("did you mean `parallelism`?") && err.contains("`config lint`"),
        "{err}"
    );
    let (code, out, err) = app.run(&["config", "lint"]).await;
    assert_eq!(code, 1, "{err}");
    assert!(
        out.contains("error: [core] paralelism") && out.contains("warning: [core] load_examples"),
        "{out}"
    );
    assert!(out.contains("`core.max_map_length` (file") && err.contains("2 mistakes"), "{out}{err}");
    cfg(&app, "[core\nparallelism = 3\n");
    let (code, out, _) = app.run(&["config", "lint"]).await;
    assert!(code == 1 && out.contains("airflow.cfg: line 1: `[core`"), "{out}");
    cfg(&app, "[core]\nload_examples = False\n");
    assert_eq!(app.run(&["pools", "list"]).await.2, "", "what has no effect stops nothing");
    assert!(app.ok(&["config", "lint"]).await.ends_with("no mistakes, 1 options without effect\n"));
}

#[derive(Debug)]
struct OurVault(String);

impl airflow::secrets::SecretsBackend for OurVault {
    async fn get_config(&self, name: &str) -> Result<Option<Secret>, airflow::operator::BoxError> {
        Ok((name == "airflow/fernet").then(|| Secret::new(self.0.clone())))
    }
}

/// Goal: the key can come from a backend that the program brings. Method: what is stored opens with that key only.
#[tokio::test]
async fn a_secret_setting_comes_from_a_backend_of_the_program() {
    let app = App::migrated().await;
    let key = Fernet::generate_key().expect("random bytes");
    let home = app.home();
    let env = [("AIRFLOW_HOME", home.as_str()), ("AIRFLOW__CORE__FERNET_KEY_SECRET", "airflow/fernet")];
    let run = async |args: &[&str]| {
        let (mut host, out, err) = Host::captured(&env, "");
        let key = key.clone();
        let make = async move |builder: AirflowBuilder| {
            Ok::<_, std::convert::Infallible>(builder.secrets_backend(OurVault(key)))
        };
        let code = run_with([&["app"], args].concat(), make, &mut host).await;
        assert_eq!(code, 0, "{}", err.take());
        out.take()
    };
    run(&["variables", "set", "region", "eu-west-1"]).await;
    assert_eq!(run(&["variables", "get", "region"]).await, "eu-west-1\n");
    let source = run(&["config", "list", "--changed", "-o", "plain", "--section", "core"]).await;
    assert!(source.contains("env AIRFLOW__CORE__FERNET_KEY_SECRET") && !source.contains(&key), "{source}");
    let row = app.store().await.variable("region").await.expect("a store").expect("a row");
    assert_eq!(Fernet::new(&key).expect("a key").decrypt(&row.value).as_deref(), Ok("eu-west-1"));
}
