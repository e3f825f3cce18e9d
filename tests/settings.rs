//! What a configuration does to tasks: `conf` in templates, defaults of sensors, a secrets backend; and connections as
//! parameters of task functions.
#![cfg(all(feature = "local", feature = "macros"))]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use airflow::config::{Config, options::Settings};
use airflow::connection::ConnectionError;
use airflow::operator::SensorMode;
use airflow::prelude::*;
use airflow::secrets::EnvironmentSecrets;

/// What a task needs of a chat.
struct Chat {
    host: String,
    token: Secret,
}

impl ConnectionKind for Chat {
    const TYPES: &'static [&'static str] = &["chat"];

    fn read(conn: &Connection) -> std::result::Result<Self, ConnectionError> {
        Ok(Self { host: conn.need_host()?.to_owned(), token: conn.need_password()?.clone() })
    }
}

#[task]
async fn by_name(team_chat: &Conn<Chat>, cx: &TaskContext, suffix: String) -> Result<String> {
    Ok(format!("{}{suffix} {} {}", team_chat.host, team_chat.token.expose().len(), cx.task_id()))
}

#[task]
fn by_id(
    #[conn("ops/chat")] Conn { .. }: &Conn<Chat>,
    #[conn("ops/chat")] chat: &Conn<Chat>,
) -> Result<String> {
    Ok(chat.raw().conn_id.clone())
}

#[task]
async fn not_there(nowhere: &Conn<Chat>) -> Result<()> {
    let _ = nowhere;
    Ok(())
}

#[task]
async fn of_another_kind(database: &Conn<Chat>) -> Result<()> {
    let _ = database;
    Ok(())
}

#[sensor(poke_interval = "1s")]
async fn looked(team_chat: &Conn<Chat>) -> Result<bool> {
    Ok(team_chat.host == "chat.example")
}

#[dag]
fn chats(d: &Dag) {
    d.add(by_name::call("!"));
    d.add(by_id::call());
    d.add(not_there::call());
    d.add(of_another_kind::call());
    d.add(looked::call());
}

fn environment(vars: &[(&str, &str)]) -> EnvironmentSecrets {
    EnvironmentSecrets::of(vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

async fn error_of(airflow: &Airflow, run: &airflow::store::RunRow, task: &str) -> String {
    let rows = airflow.store().attempts(run.pk, None).await.unwrap();
    let row = rows.into_iter().find(|row| row.start.task_id.as_str() == task).unwrap();
    row.end.unwrap().error.unwrap_or_default()
}

/// Goal: a task function gets its connections as parameters. Method: by the name of the parameter, by an id, in a sensor,
/// and what is missing or of another kind.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_function_borrows_its_connections() {
    let environment = environment(&[
        ("AIRFLOW_CONN_TEAM_CHAT", "chat://:t0ken@chat.example"),
        ("AIRFLOW_CONN_OPS/CHAT", "chat://:other@ops.example"),
        ("AIRFLOW_CONN_DATABASE", "postgres://u:p@db"),
    ]);
    let airflow = Airflow::builder().store(MemoryStore::new()).executor(LocalExecutor::new(4)).dag(chats());
    let airflow = airflow.environment(environment).build().await.unwrap();
    let running = airflow.start();
    let run = airflow.trigger("chats").await.unwrap();
    let run = airflow.wait(&run).await.unwrap();
    assert_eq!(airflow.result::<String>(&run, "by_name").await.unwrap(), "chat.example! 5 by_name");
    assert_eq!(airflow.result::<String>(&run, "by_id").await.unwrap(), "ops/chat");
    let states = airflow.states(&run).await.unwrap();
    assert_eq!(states["looked"], TaskState::Success);
    let missing = error_of(&airflow, &run, "not_there").await;
    assert!(missing.contains("`nowhere`") && missing.contains("AIRFLOW_CONN_NOWHERE"), "{missing}");
    let wrong = error_of(&airflow, &run, "of_another_kind").await;
    assert!(wrong.contains("`database` is of type `postgres`") && wrong.contains("`chat`"), "{wrong}");
    running.stop(secs(5)).await.unwrap();
}

/// The function stays a function.
#[tokio::test]
async fn a_connection_is_handed_in_by_a_test() {
    let chat = Conn::new(Connection::from_text("c", "chat://:t@h").unwrap()).unwrap();
    let chat: Conn<Chat> = chat;
    assert_eq!(by_id(&chat, &chat).unwrap(), "c");
}

#[derive(Operator, Clone)]
struct Show {
    #[template]
    text: String,
}

impl Execute for Show {
    type Output = String;

    async fn execute(&self, _: &TaskContext) -> Result<String> {
        Ok(self.text.clone())
    }
}

/// The same, once for each element.
#[derive(Operator, Clone)]
struct ShowOf {
    #[template]
    text: String,
    #[input]
    n: In<i64>,
}

impl Execute for ShowOf {
    type Output = String;

    async fn execute(&self, cx: &TaskContext) -> Result<String> {
        self.n.get(cx)?;
        Ok(self.text.clone())
    }
}

fn settings(text: &str) -> Settings {
    Settings::read(&Config::parse(text).unwrap(), "home").unwrap()
}

const FILE: &str = "
[core]
parallelism = 7
fernet_key = NSDRpGWKmNyPgOrBmkSHBhNkqJzcxvcMPQLk3uDH7Z0=
[shop]
region = eu
api_token = t0ken
limits = 1, 2 ,3
ratio = 0.5
open = yes-no
";

/// Goal: templates read the configuration as in Airflow, and never a secret. Method: each way to ask.
#[tokio::test(flavor = "multi_thread")]
async fn templates_see_the_configuration_but_no_secrets() {
    let good = [
        ("{{ conf.get('core', 'parallelism') }}", "7"),
        ("{{ conf.getint('core', 'parallelism') + 1 }}", "8"),
        ("{{ conf.get('CORE', 'max_map_length') }}", "1024"),
        ("{{ conf.get('shop', 'region') }}", "eu"),
        ("{{ conf.getlist('shop', 'limits') | join('|') }}", "1|2|3"),
        ("{{ conf.getfloat('shop', 'ratio') * 4 }}", "2.0"),
        ("{{ conf.getboolean('core', 'dags_are_paused_at_creation') }}", "False"),
        ("{{ conf.get('shop', 'nothing', fallback='none') }}", "none"),
        ("{{ conf.has_option('shop', 'region') }} {{ conf.has_option('shop', 'city') }}", "True False"),
        ("{{ conf.has_option('shop', 'api_token') }}", "False"),
    ];
    let bad = [
        ("{{ conf.get('core', 'fernet_key') }}", "`core.fernet_key` is secret"),
        ("{{ conf.get('shop', 'api_token', fallback='') }}", "`shop.api_token` is secret"),
        ("{{ conf.get('shop', 'city') }}", "there is no setting `shop.city`"),
        ("{{ conf.getint('shop', 'region') }}", "`shop.region` is `eu`, which is not a whole number"),
        ("{{ conf.getboolean('shop', 'open') }}", "`shop.open` is `yes-no`"),
    ];
    let dag = DagDef::new("show").define(|d| {
        for (n, (text, _)) in good.iter().chain(&bad).enumerate() {
            d.add(Show { text: (*text).to_owned() }.id(format!("t{n}")));
        }
    });
    let airflow = Airflow::builder().settings(&settings(FILE)).store(MemoryStore::new());
    let airflow = airflow.executor(LocalExecutor::new(4)).dag(dag).build().await.unwrap();
    let running = airflow.start();
    let run = airflow.trigger("show").await.unwrap();
    let run = airflow.wait(&run).await.unwrap();
    for (n, (text, wanted)) in good.iter().enumerate() {
        assert_eq!(airflow.result::<String>(&run, &format!("t{n}")).await.unwrap(), *wanted, "{text}");
    }
    for (n, (text, wanted)) in bad.iter().enumerate() {
        let error = error_of(&airflow, &run, &format!("t{}", n + good.len())).await;
        assert!(error.contains(wanted) && !error.contains("t0ken"), "{text}: {error}");
    }
    running.stop(secs(5)).await.unwrap();
}

/// Goal: `ti.log_url` has the form of Airflow, also for an instance of a mapping.
#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_a_log_is_that_of_airflow() {
    let dag = DagDef::new("show").define(|d| {
        d.add(Show { text: "{{ ti.log_url }}".into() }.id("one"));
        d.map(vec![1_i64, 2], |n| {
            let url = ShowOf { text: "{{ ti.log_url }}".into(), n: n.into_in() };
            url.id("many")
        });
    });
    let settings = settings("[webserver]\nbase_url = https://flow.example/a/\n");
    let airflow = Airflow::builder().settings(&settings).store(MemoryStore::new());
    let airflow = airflow.executor(LocalExecutor::new(4)).dag(dag).build().await.unwrap();
    let running = airflow.start();
    let date: DateTime<Utc> = "2026-03-02T05:30:00Z".parse().unwrap();
    let run = airflow.trigger("show").logical_date(date).run_id("a:b+c").await.unwrap();
    let run = airflow.wait(&run).await.unwrap();
    let begin = "https://flow.example/a/dags/show/grid?dag_run_id=a%3Ab%2Bc&task_id=";
    let end = "&base_date=2026-03-02T05%3A30%3A00%2B0000&tab=logs";
    assert_eq!(airflow.result::<String>(&run, "one").await.unwrap(), format!("{begin}one{end}"));
    let many: Vec<String> = airflow.results(&run, "many").await.unwrap();
    assert_eq!(many[1], format!("{begin}many&map_index=1{end}"));
    running.stop(secs(5)).await.unwrap();
}

#[sensor]
async fn never() -> Result<bool> {
    Ok(false)
}

#[task]
async fn plain() -> Result<()> {
    Ok(())
}

/// Goal: the defaults of sensors come from the file, and what a sensor says wins. Method: look at compiled tasks.
#[tokio::test]
async fn sensors_take_their_defaults_from_the_configuration() {
    let dag = || {
        DagDef::new("d").define(|d| {
            d.add(never::call().id("silent"));
            d.add(never::call().id("says").mode(SensorMode::Reschedule).timeout(secs(5)));
            d.add(plain::call());
        })
    };
    let built = async |text: &str| {
        let builder = Airflow::builder().settings(&settings(text)).store(MemoryStore::new());
        let airflow = builder.dag(dag()).build().await.unwrap();
        let dag = airflow.dag(&"d".into()).unwrap();
        let of = |name: &str| dag.task(dag.find(name).unwrap()).settings.clone();
        ["silent", "says", "plain"].map(of)
    };
    let [silent, says, plain] = built(
        "[operators]\ndefault_deferrable = True\n[sensors]\ndefault_timeout = 60\n[core]\ndefault_task_execution_timeout = 30\n",
    )
    .await;
    let sensor = silent.sensor.clone().unwrap();
    assert_eq!((sensor.mode, sensor.timeout), (SensorMode::Deferred, secs(60)));
    assert_eq!(silent.timeout, Some(secs(30)), "that of an attempt");
    let sensor = says.sensor.clone().unwrap();
    assert_eq!((sensor.mode, sensor.timeout), (SensorMode::Reschedule, secs(5)));
    assert!(plain.sensor.is_none() && plain.timeout == Some(secs(30)));
    let [silent, ..] = built("").await;
    let sensor = silent.sensor.clone().unwrap();
    assert_eq!((sensor.mode, sensor.timeout), (SensorMode::Poke, days(7)));
}

/// Goal: a backend that the file names is asked first. Method: by both names; then mistakes.
#[tokio::test]
async fn a_secrets_backend_comes_from_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let (conns, vars) = (folder.path().join("c.json"), folder.path().join("v.env"));
    std::fs::write(&conns, r#"{"db": "postgres://u:p@from-file/s"}"#).unwrap();
    std::fs::write(&vars, "region=from-file\n").unwrap();
    let args = serde_json::json!({ "connections_file_path": conns, "variables_file_path": vars }).to_string();
    let built = async |backend: &str, args: &str| {
        let text = format!("[secrets]\nbackend = {backend}\nbackend_kwargs = {args}\n");
        let builder = Airflow::builder().settings(&settings(&text)).store(MemoryStore::new());
        let environment = environment(&[("AIRFLOW_VAR_REGION", "env"), ("AIRFLOW_VAR_CITY", "env")]);
        builder.environment(environment).build().await
    };
    for backend in ["file", "airflow.secrets.local_filesystem.LocalFilesystemBackend"] {
        let airflow = built(backend, &args).await.unwrap();
        let secrets = airflow.secrets();
        assert_eq!(secrets.variable("region").await.unwrap().as_deref(), Some("from-file"));
        assert_eq!(secrets.variable("city").await.unwrap().as_deref(), Some("env"));
        let found = secrets.connection("db").await.unwrap().unwrap();
        assert_eq!(found.host.as_deref(), Some("from-file"));
    }
    for (args, wanted) in [
        (
            r#"{"connection_file_path": "x"}"#,
            "no argument `connection_file_path`; did you mean `connections_file_path`?",
        ),
        (r#"{"variables_file_path": 5}"#, "`variables_file_path` is no path: 5"),
        (r#"{"variables_file_path": "/not/there.env"}"#, "/not/there.env: cannot be read"),
    ] {
        let error = built("file", args).await.unwrap_err().to_string();
        assert!(error.contains("`secrets.backend_kwargs`") && error.contains(wanted), "{error}");
    }
    for (text, wanted) in [
        ("[secrets]\nbackend = my.Vault\n", "`secrets.backend` (file"),
        ("[secrets]\nbackend = my.Vault\n", "other backends are given in code"),
        ("[secrets]\nbackend = file\nbackend_kwargs = [1]\n", "a JSON object"),
        ("[sensors]\ndefault_timeout = soon\n", "a number of seconds"),
    ] {
        let error = Settings::read(&Config::parse(text).unwrap(), "home").unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

/// What is sensitive by its name, and what is said of it.
#[task]
async fn tells(cx: &TaskContext) -> Result<()> {
    for name in ["api_token", "short_token", "four_token", "region"] {
        tracing::info!("{name} is {}", cx.variable(name).await?.unwrap_or_default());
    }
    let password = cx.connection("db").await?.password;
    tracing::info!("the password is {}", password.as_ref().map_or("", |secret| secret.expose().as_str()));
    Ok(())
}

/// The log of a task that says its secrets, under these settings.
async fn log_under(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let dag = DagDef::new("d").define(|d| {
        d.add(tells::call());
    });
    let environment = environment(&[
        ("AIRFLOW_VAR_API_TOKEN", "very-s3cret"),
        ("AIRFLOW_VAR_SHORT_TOKEN", "12345"),
        ("AIRFLOW_VAR_FOUR_TOKEN", "9876"),
        ("AIRFLOW_VAR_REGION", "north-west"),
        ("AIRFLOW_CONN_DB", "postgres://u:passw0rd@db/s"),
    ]);
    let airflow = Airflow::builder()
        .settings(&settings(text))
        .store(MemoryStore::new())
        .executor(LocalExecutor::new(1))
        .environment(environment)
        .log_folder(folder.path())
        .dag(dag)
        .build()
        .await
        .unwrap();
    let running = airflow.start();
    let run = airflow.trigger("d").run_id("r").await.unwrap();
    assert_eq!(airflow.wait(&run).await.unwrap().state, RunState::Success);
    running.stop(secs(5)).await.unwrap();
    let log = folder.path().join("dag_id=d/run_id=r/task_id=tells/attempt=1.log");
    std::fs::read_to_string(log).unwrap()
}

/// Goal: what is hidden in logs is what the settings say. Method: the same values under each setting; what is hidden of
/// connections whatever their names are stays hidden.
#[tokio::test(flavor = "multi_thread")]
async fn settings_say_what_is_hidden_in_logs() {
    let table = [
        ("", ["***", "***", "9876", "north-west", "***"]),
        (
            "[core]\nhide_sensitive_var_conn_fields = False\n",
            ["very-s3cret", "12345", "9876", "north-west", "***"],
        ),
        ("[core]\nsensitive_var_conn_names = region, zone\n", ["***", "***", "9876", "***", "***"]),
        ("[logging]\nmin_length_masked_secret = 4\n", ["***", "***", "***", "north-west", "***"]),
        ("[logging]\nmin_length_masked_secret = 6\n", ["***", "12345", "9876", "north-west", "***"]),
        ("[logging]\nmin_length_masked_secret = 9\n", ["***", "12345", "9876", "north-west", "passw0rd"]),
    ];
    for (text, [api, short, four, region, password]) in table {
        let log = log_under(text).await;
        for line in [
            format!("api_token is {api}"),
            format!("short_token is {short}"),
            format!("four_token is {four}"),
            format!("region is {region}"),
            format!("the password is {password}"),
        ] {
            let found = log.lines().any(|said| said.ends_with(&line));
            assert!(found, "`{line}` is not in the log under `{text}`:\n{log}");
        }
    }
    let error = Settings::read(&Config::parse("[logging]\nmin_length_masked_secret = 0\n").unwrap(), "home");
    assert!(error.unwrap_err().to_string().contains("min_length_masked_secret"));
}
