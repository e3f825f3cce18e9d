//! A worker as a process of its own, and the commands that look at it and tell it what to do.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Output};

use airflow::remote::testing::BrokerServer;

use super::app::App;
use super::process::{command, terminate};

/// A deployment with a broker, whose queues have names that nobody else uses.
struct Ground {
    app: App,
    broker: &'static str,
    queue: String,
}

impl Ground {
    fn new() -> Option<Self> {
        let Some(broker) = BrokerServer::Redis.address() else {
            BrokerServer::Redis.missing();
            return None;
        };
        let queue = format!("cli-{}", uuid::Uuid::now_v7().simple());
        let ground = Self { app: App::new(), broker, queue };
        ground.say(&["db", "migrate"]);
        Some(ground)
    }

    fn run(&self, args: &[&str]) -> Output {
        command(&self.app, args).env("AIRFLOW__CELERY__BROKER_URL", self.broker).output().expect("it runs")
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
        let args = [&["worker", "-q", &self.queue], args].concat();
        let mut child = command(&self.app, &args)
            .env("AIRFLOW__CELERY__BROKER_URL", self.broker)
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(lines.any(|line| line.contains("stop with Ctrl-C")), "the worker is ready");
        // It must not have to wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        child
    }
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
