//! A worker as a process of its own, and the commands that look at it and tell it what to do.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use airflow::remote::testing::BrokerServer;

use super::app::App;
use super::app::RUN;
use super::process::{LINES, QUEUE, command, pid_of_deaf, terminate};

/// A deployment with a broker, whose queues have names that nobody else uses.
struct Ground {
    app: App,
    broker: &'static str,
    queue: String,
    database: Option<String>,
}

/// How long it may take to hear what a process has said.
const HEARD: Duration = Duration::from_secs(60);

/// What a process has said.
#[derive(Clone, Default)]
struct Said(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Said {
    fn add(&self, line: &str) {
        self.0.0.lock().expect("nobody panics with it").push(line.to_owned());
        self.0.1.notify_all();
    }

    fn has(&self, text: &str) -> bool {
        self.0.0.lock().expect("nobody panics with it").iter().any(|line| line.contains(text))
    }

    /// Waits until it says this: what it does is seen before what it says of it is heard.
    fn will_have(&self, text: &str) -> bool {
        let lines = self.0.0.lock().expect("nobody panics with it");
        let is_missing = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(text));
        let waited = self.0.1.wait_timeout_while(lines, HEARD, is_missing).expect("nobody panics with it");
        !waited.1.timed_out()
    }
}

impl Ground {
    fn new() -> Option<Self> {
        let Some(broker) = BrokerServer::Redis.address() else {
            BrokerServer::Redis.missing();
            return None;
        };
        let queue = format!("cli-{}", uuid::Uuid::now_v7().simple());
        let ground = Self { app: App::new(), broker, queue, database: None };
        ground.say(&["db", "migrate"]);
        Some(ground)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(&self.app, args);
        command.env("AIRFLOW__CELERY__BROKER_URL", self.broker).env(QUEUE, &self.queue);
        command.env("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor");
        command.envs(self.database.as_ref().map(|url| ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", url)));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("it runs")
    }

    /// What a command that succeeds writes.
    fn say(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        // The test binary introduces itself.
        let lines = out.lines().skip_while(|line| line.is_empty() || line.starts_with("running "));
        lines.flat_map(|line| [line, "\n"]).collect()
    }

    /// Exit code and standard error of a command that does not.
    fn fail(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.run(args);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Starts a worker, and returns when it is ready.
    fn worker(&self, args: &[&str]) -> Child {
        self.worker_with(args, &[]).0
    }

    /// The same with variables, and what it says.
    fn worker_with(&self, args: &[&str], variables: &[(&str, &str)]) -> (Child, Said) {
        let args = [&["worker", "-q", &self.queue], args].concat();
        let mut child = self.command(&args).envs(variables.iter().copied()).spawn().expect("it starts");
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let said = Said::default();
        let heard = said.clone();
        let mut lines = lines.map_while(Result::ok).inspect(move |line| {
            heard.add(line);
        });
        assert!(lines.any(|line| line.contains("stop with Ctrl-C")), "the worker is ready");
        // It must not have to wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        (child, said)
    }
}

/// Goal: who starts a worker as root hears of it, and nobody else does.
#[test]
fn a_worker_that_runs_as_root_says_so() {
    let Some(ground) = Ground::new() else { return };
    let (mut worker, said) = ground.worker_with(&[], &[]);
    let user = Command::new("id").arg("-u").output().expect("id runs");
    let is_root = String::from_utf8_lossy(&user.stdout).trim() == "0";
    assert_eq!(said.has("warning: this worker runs as root"), is_root);
    terminate(&worker);
    assert_eq!(worker.wait().expect("it ends").code(), Some(0), "it is a warning only");
}

/// Goal: a worker that has lost its lease and whose tasks do not stop ends itself, so that nothing runs twice, and with the code
/// that has it started again. Method: declare it dead while a task runs that hears nothing.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_stop_its_tasks_ends_with_code_75() {
    use airflow::store::{PostgresStore, Store as _};
    use airflow::testing::servers::{Server, TestDatabase};
    let Some(mut ground) = Ground::new() else { return };
    let Some(database) = TestDatabase::on(Server::Postgres).await else { return };
    ground.database = Some(database.url());
    ground.say(&["db", "migrate"]);
    ground.say(&["dags", "trigger", "stubborn", "-l", RUN]);
    let quick = [
        ("AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC", "1"),
        ("AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD", "4"),
    ];
    let (mut worker, said) = ground.worker_with(&["-H", "w1"], &quick);
    let mut scheduler =
        ground.command(&["scheduler"]).stderr(std::process::Stdio::null()).spawn().expect("it starts");
    assert_eq!(pid_of_deaf(&ground.app), worker.id().to_string(), "the task runs in the worker");
    let store = PostgresStore::connect(&database.url()).await.expect("a store");
    let row = store.workers().await.expect("rows").remove(0);
    store.end_incarnation(row.process).await.expect("it is written");
    assert_eq!(worker.wait().expect("it ends").code(), Some(75));
    assert!(said.will_have("attempts still run at the end of this process's lease"));
    terminate(&scheduler);
    assert_eq!(scheduler.wait().expect("it ends").code(), Some(0));
}

/// What a server of logs answers to a request of a stranger: the first line.
#[cfg(feature = "worker-logs")]
fn ask(address: &str, request: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is text");
    answer.lines().next().unwrap_or_default().to_owned()
}

/// Goal: a log is read whole, wherever its parts are: in the database, or on a worker that serves its files. Method: take pieces
/// out of the database, from the middle and the end, then all of them; compare with the file of the worker.
#[cfg(feature = "worker-logs")]
#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_lacks_of_a_log_comes_from_its_worker() {
    use sqlx::Connection as _;
    let Some(ground) = Ground::new() else { return };
    let folder = ground.app.file("logs-of-w1");
    let serves = [
        ("AIRFLOW__LOGGING__BASE_LOG_FOLDER", folder.to_str().expect("a path that is text")),
        ("AIRFLOW__LOGGING__WORKER_LOG_SERVER_HOST", "127.0.0.1"),
        ("AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT", "0"),
        ("AIRFLOW_WORKER_LOG_SERVER", "true"),
    ];
    let (mut worker, said) = ground.worker_with(&["-H", "w1"], &serves);
    ground.say(&["dags", "trigger", "far", "-l", RUN, "-r", "r1"]);
    let scheduler = ground.run(&["scheduler", "--until-idle"]);
    assert!(scheduler.status.success(), "{}", String::from_utf8_lossy(&scheduler.stderr));
    let path = "dag_id=far/run_id=r1/task_id=talks/attempt=1.log";
    let file = std::fs::read_to_string(folder.join(path)).expect("the worker has the file");
    assert!(file.lines().count() > LINES);
    let read = || ground.say(&["tasks", "logs", "far", "talks", RUN]);
    assert!(read() == file, "all of it is in the database");

    let place = sqlx::sqlite::SqliteConnectOptions::new().filename(ground.app.file("airflow.db"));
    let mut database = sqlx::SqliteConnection::connect_with(&place).await.expect("it opens");
    let pieces: i64 =
        sqlx::query_scalar("SELECT count(*) FROM af_log_chunk").fetch_one(&mut database).await.unwrap();
    assert!(pieces > 3, "{pieces} pieces");
    for (chunks, is_left) in [("chunk IN (1, (SELECT max(chunk) FROM af_log_chunk))", true), ("true", false)]
    {
        let sql = format!("DELETE FROM af_log_chunk WHERE {chunks}");
        let gone = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut database).await.unwrap();
        assert!(gone.rows_affected() > 0 && (gone.rows_affected() < 3) == is_left);
        assert!(read() == file, "the worker has the rest");
    }
    assert!(!ground.app.file("logs").exists(), "no file is here");

    let list = ground.say(&["workers", "list", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let address = list[0]["log_server"].as_str().expect("it says where");
    let head = format!("GET /log/{path} HTTP/1.1\r\nHost: w1\r\nRange: bytes=0-\r\n");
    assert_eq!(ask(address, &format!("{head}\r\n")), "HTTP/1.1 403 Forbidden");
    let forged = format!("{head}Authorization: Airflow 0104{}\r\n\r\n", "ab".repeat(200));
    assert_eq!(ask(address, &forged), "HTTP/1.1 403 Forbidden");
    for reason in ["no ticket is shown", "signed with the unknown key"] {
        assert!(said.will_have(reason), "the worker says why: {reason}");
    }

    terminate(&worker);
    assert_eq!(worker.wait().expect("it ends").code(), Some(0));
    let (code, error) = ground.fail(&["tasks", "logs", "far", "talks", RUN]);
    assert!(code == Some(1) && error.contains("there is no log of try 1"), "{error}");
}

/// Goal: the life of a worker, with what people do to it. Method: start it, change it, look at it, shut it down.
#[test]
fn a_worker_is_changed_watched_and_shut_down() {
    let Some(ground) = Ground::new() else { return };
    let pid = ground.app.file("w.pid");
    let pid = pid.to_str().expect("a path that is text");
    let mut worker = ground.worker(&["-H", "w1", "-c", "2", "--pid", pid, "-u", "077"]);
    let written = std::fs::read_to_string(pid).expect("it has written its id");
    assert_eq!(written.trim(), worker.id().to_string());
    let rights =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(pid).expect("a file").permissions());
    assert_eq!(rights & 0o777, 0o600);

    assert_eq!(ground.say(&["workers", "ping", "w1"]), "w1: online\n");
    ground.say(&["workers", "pool-grow", "w1", "3"]);
    ground.say(&["workers", "add-consumer", "w1", "more"]);
    let list = ground.say(&["workers", "list", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!((&list[0]["name"], &list[0]["slots"]), (&"w1".into(), &5.into()), "{list}");
    let queues = format!("{}, more", ground.queue);
    assert_eq!(list[0]["queues"], serde_json::Value::from(queues));
    let versions = list[0]["versions"].as_object().expect("by dag");
    assert_eq!(list[0]["dags"], versions.len(), "{list}");
    let sales = &versions["sales"];
    assert_eq!(
        (&sales["version"], &sales["differs"]),
        (&1.into(), &false.into()),
        "no scheduler has another one"
    );
    let wide = ground.say(&["workers", "versions", "-o", "plain"]);
    let fingerprint = sales["fingerprint"].as_str().expect("it is text");
    assert!(wide.lines().any(|line| line.contains("sales") && line.contains(fingerprint)), "{wide}");
    assert!(!ground.say(&["workers", "list"]).contains(fingerprint), "a table has no room for them");
    ground.say(&["workers", "cancel-consumer", "w1", "more"]);
    ground.say(&["workers", "autoscale", "w1", "7,2"]);
    let queues = ground.say(&["queues", "list", "-o", "json"]);
    let queues: serde_json::Value = serde_json::from_str(&queues).expect("JSON");
    assert_eq!((&queues[0]["queue"], &queues[0]["workers"]), (&ground.queue.clone().into(), &"w1".into()));
    let top = ground.say(&["workers", "top", "--once"]);
    assert!(top.contains("1 online  slots 0/5") && top.contains("0/5 (7,2)"), "{top}");

    let refused = ground.fail(&["workers", "pool-shrink", "w1", "7"]);
    assert_eq!(refused.0, Some(2), "{}", refused.1);
    let unknown = ground.fail(&["workers", "shutdown", "w2"]);
    assert_eq!(unknown.0, Some(1));
    assert!(unknown.1.contains("there is no worker `w2`; did you mean `w1`?"), "{}", unknown.1);

    ground.say(&["workers", "shutdown", "w1"]);
    assert_eq!(worker.wait().expect("it ends").code(), Some(0));
    assert!(!std::path::Path::new(pid).exists(), "the file goes with the worker");
    assert_eq!(ground.fail(&["workers", "ping", "w1"]).0, Some(1));
}

/// Goal: a service manager can tell what became of a worker. Method: each end that the book names.
#[test]
fn exit_codes_tell_a_service_manager_what_happened() {
    let Some(ground) = Ground::new() else { return };
    let mut worker = ground.worker(&["-H", "w1"]);
    let (code, error) = ground.fail(&["worker", "-q", &ground.queue, "-H", "w1"]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("a worker called `w1` is alive"), "{error}");
    terminate(&worker);
    assert_eq!(worker.wait().expect("it ends").code(), Some(0), "it was asked to stop");
    for args in [
        &["worker", "--autoscale", "3,10"][..],
        &["worker", "-c", "3", "--autoscale", "5,1"],
        &["worker", "-u", "9"],
    ] {
        assert_eq!(ground.fail(args).0, Some(2), "{args:?}");
    }
    let nowhere =
        command(&ground.app, &["worker"]).env("AIRFLOW__CELERY__BROKER_URL", "redis://127.0.0.1:1").output();
    assert_eq!(nowhere.expect("it runs").status.code(), Some(1), "the broker is not there");
    let unset = command(&ground.app, &["worker"]).output().expect("it runs");
    assert_eq!(unset.status.code(), Some(2), "no broker is named");
}

/// Goal: probes say what is wrong with the broker of a deployment, as they see it, and nothing if all is well.
#[test]
fn probes_tell_of_a_broker_that_is_not_there() {
    let Some(ground) = Ground::new() else { return };
    let (nowhere, said) = ("redis://127.0.0.1:1", "cannot reach the broker redis://127.0.0.1:1");
    let probe = |args: &[&str], broker: &str| {
        let output =
            ground.command(args).env("AIRFLOW__CELERY__BROKER_URL", broker).output().expect("it runs");
        let [out, error] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (out, error)
    };
    let (_, error) = probe(&["jobs", "check"], nowhere);
    assert!(error.contains(&format!("executor redis: {said}")), "{error}");
    let (_, error) = probe(&["jobs", "check"], ground.broker);
    assert!(!error.contains("executor") && error.contains("no alive jobs found"), "{error}");
    let health = |broker| {
        let (out, _) = probe(&["health"], broker);
        let json = out.find('{').map(|start| &out[start..]).unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(json).unwrap_or_else(|error| panic!("{error}: {out}"))
    };
    let executor = &health(nowhere)["executors"][0];
    assert_eq!(executor["status"], "unhealthy", "{executor}");
    assert!(executor["error"].as_str().is_some_and(|error| error.starts_with(said)), "{executor}");
    assert_eq!(health(ground.broker)["executors"][0]["status"], "healthy");
}

/// Goal: `LocalExecutor,CeleryExecutor` is both: the first runs what says nothing, and a task picks the other one by its name.
#[test]
fn two_executors_of_the_settings_share_a_run() {
    let Some(ground) = Ground::new() else { return };
    let mut worker = ground.worker(&["-H", "w1"]);
    ground.say(&["dags", "trigger", "mixed", "-l", RUN]);
    let mut scheduler = ground.command(&["scheduler", "--until-idle"]);
    scheduler.env("AIRFLOW__CORE__EXECUTOR", "LocalExecutor,CeleryExecutor");
    let scheduler = scheduler.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let own = scheduler.id();
    assert!(scheduler.wait_with_output().expect("it ends").status.success());
    assert_eq!(ground.say(&["dags", "state", "mixed", RUN]), "success\n");
    let ran_in = |task: &str| ground.say(&["xcom", "get", "mixed", RUN, task]).trim().to_owned();
    assert_eq!((ran_in("here"), ran_in("there")), (own.to_string(), worker.id().to_string()));
    terminate(&worker);
    assert_eq!(worker.wait().expect("it ends").code(), Some(0));
}

/// Returns when a process has begun a task of the dag `steady`, and says how long that took.
fn until_begun_in(ground: &Ground, pid: u32, most: Duration) -> Duration {
    let (mark, begun) = (ground.app.file(&format!("begun-in-{pid}")), Instant::now());
    while !mark.exists() {
        assert!(begun.elapsed() < most, "no task begins in it within {most:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    begun.elapsed()
}

/// Goal: a worker that is added takes work at once, and nobody has to be told of it. Method: one worker with far more to do than
/// it can, then a second one; the tasks themselves write down where they run.
#[test]
fn a_worker_that_is_added_takes_work_within_two_seconds() {
    let Some(ground) = Ground::new() else { return };
    ground.say(&["dags", "trigger", "steady", "-l", RUN]);
    let mut first = ground.worker(&["-H", "w1", "-c", "1"]);
    let mut scheduler = ground
        .command(&["scheduler"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    until_begun_in(&ground, first.id(), Duration::from_secs(60));
    let mut second = ground.worker(&["-H", "w2", "-c", "1"]);
    until_begun_in(&ground, second.id(), Duration::from_secs(2));
    assert_eq!(ground.say(&["dags", "state", "steady", RUN]), "running\n", "there was work for both");
    for child in [&mut scheduler, &mut first, &mut second] {
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
}

/// How a worker is.
fn state_of(ground: &Ground, name: &str) -> String {
    let list: serde_json::Value =
        serde_json::from_str(&ground.say(&["workers", "list", "-o", "json"])).expect("JSON");
    let rows = list.as_array().expect("a list");
    let row = rows.iter().find(|row| row["name"] == name).expect("the worker");
    row["state"].as_str().expect("it is text").to_owned()
}

/// Returns when a worker is shown as lost, and says how long that took.
fn until_lost(ground: &Ground, name: &str, most: Duration) -> Duration {
    let begun = Instant::now();
    loop {
        match state_of(ground, name).as_str() {
            "lost" => return begun.elapsed(),
            state => assert!(begun.elapsed() < most, "{name} is {state} after {most:?}"),
        }
    }
}

/// Goal: a worker that is killed, or that stands still, is shown as lost within 30 s, and so it stays when it is declared dead;
/// one that was stopped is not. Method: real processes. The one that is killed is missed in the process table of the machine; the one
/// that stands still is missed by its lease, of 8 s here instead of 20 s (a wait for locks of 5 s and three beats), so within 12 s instead
/// of 30 s.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_is_shown_as_lost() {
    use airflow::store::{PostgresStore, Store as _};
    use airflow::testing::servers::{Server, TestDatabase};
    let Some(mut ground) = Ground::new() else { return };
    let Some(database) = TestDatabase::on(Server::Postgres).await else { return };
    ground.database = Some(database.url());
    ground.say(&["db", "migrate"]);
    let quick = [
        ("AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC", "1"),
        ("AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD", "4"),
    ];
    let start = |name: &str| ground.worker_with(&["-H", name], &quick).0;
    let (mut killed, mut frozen, mut stopped) = (start("killed"), start("frozen"), start("stopped"));
    killed.kill().expect("it runs");
    killed.wait().expect("it ends");
    until_lost(&ground, "killed", Duration::from_secs(30));
    assert_eq!(state_of(&ground, "frozen"), "online");
    let status = Command::new("kill").args(["-STOP", &frozen.id().to_string()]).status().expect("kill runs");
    assert!(status.success());
    until_lost(&ground, "frozen", Duration::from_secs(12));
    terminate(&stopped);
    assert_eq!(stopped.wait().expect("it ends").code(), Some(0));
    assert_eq!(state_of(&ground, "stopped"), "offline");
    // What a scheduler does that finds it dead.
    let store = PostgresStore::connect(&database.url()).await.expect("a store");
    let rows = store.workers().await.expect("rows");
    let row = rows.iter().find(|row| row.name == "killed").expect("the worker");
    store.end_incarnation(row.process).await.expect("it is written");
    assert_eq!(state_of(&ground, "killed"), "lost");
    frozen.kill().expect("it is there");
    frozen.wait().expect("it ends");
}
