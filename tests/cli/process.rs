//! The command line as a process of its own: signals, the log, standard streams. The process is this test binary, told
//! by its environment to be the program instead.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use airflow::cli::{Host, run_with};
use airflow::prelude::*;

use super::app::{App, RUN};
use super::waiting::make_more;

/// The arguments for the program, one in each line.
const ARGS: &str = "AIRFLOW_TEST_ARGS";

/// How often a state is looked at before it counts as never coming.
const LOOKS: u32 = 1000;

#[task]
async fn endless() -> Result<()> {
    std::future::pending().await
}

#[dag]
fn slow(d: &Dag) {
    d.add(endless::call());
}

#[task]
async fn process_id() -> Result<u32> {
    Ok(std::process::id())
}

#[dag]
fn who(d: &Dag) {
    d.add(process_id::call());
}

/// How many tasks of the dag `steady` there are for one worker: more than it can do while a second one starts.
const STEADY: usize = 100;

/// Takes its time, and writes down in which process it has begun.
#[task]
async fn brief() -> Result<()> {
    let home = std::env::var("AIRFLOW_HOME").unwrap_or_default();
    std::fs::write(std::path::Path::new(&home).join(format!("begun-in-{}", std::process::id())), "")?;
    tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    Ok(())
}

#[dag(max_active_tasks = 1_000)]
fn steady(d: &Dag) {
    let queue = std::env::var(QUEUE).unwrap_or_else(|_| "default".to_owned());
    for n in 0..STEADY {
        d.add(brief::call().id(format!("brief_{n}")).queue(queue.clone()));
    }
}

/// One task for the first executor, and one for that of the broker, which only deployments with workers have.
#[dag]
fn mixed(d: &Dag) {
    let queue = std::env::var(QUEUE).unwrap_or_else(|_| "default".to_owned());
    d.add(process_id::call().id("here"));
    d.add(process_id::call().id("there").executor("redis").queue(queue));
}

/// The queue of the tasks that workers of a test run: brokers are shared.
pub(crate) const QUEUE: &str = "AIRFLOW_TEST_QUEUE";

/// How many lines [`talks`] says: several pieces of a log in the database.
pub(crate) const LINES: usize = 2_500;

#[task]
async fn talks() -> Result<()> {
    for n in 0..LINES {
        tracing::info!("line {n:04} of what is said at length, so that it does not fit into one piece");
    }
    Ok(())
}

/// Does not stop when it is asked to, and writes down where it runs.
#[task]
async fn deaf() -> Result<()> {
    let home = std::env::var("AIRFLOW_HOME").unwrap_or_default();
    std::fs::write(std::path::Path::new(&home).join("deaf.pid"), std::process::id().to_string())?;
    tokio::task::block_in_place(|| {
        loop {
            std::thread::sleep(std::time::Duration::from_secs(3600));
        }
    })
}

#[dag]
fn far(d: &Dag) {
    let queue = std::env::var(QUEUE).unwrap_or_else(|_| "default".to_owned());
    d.add(talks::call().queue(queue));
}

#[dag]
fn stubborn(d: &Dag) {
    let queue = std::env::var(QUEUE).unwrap_or_else(|_| "default".to_owned());
    d.add(deaf::call().queue(queue));
}

async fn make_with_slow(builder: AirflowBuilder) -> Result<AirflowBuilder, std::convert::Infallible> {
    let builder = make_more(builder).await?.dag(slow()).dag(who()).dag(far()).dag(stubborn()).dag(steady());
    Ok(if std::env::var_os(QUEUE).is_some() { builder.dag(mixed()) } else { builder })
}

/// Not a test by itself: the program, if the environment asks for it.
#[test]
fn program() {
    let Ok(args) = std::env::var(ARGS) else { return };
    let args: Vec<String> = args.lines().map(str::to_owned).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let code = runtime.block_on(run_with(args, make_with_slow, &mut Host::process()));
    std::process::exit(i32::from(code));
}

pub(crate) fn command(app: &App, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args(["--exact", "process::program", "--nocapture"]);
    command.env(ARGS, [&["app"], args].concat().join("\n")).env("AIRFLOW_HOME", app.home());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn the_log_of_a_tested_dag_goes_to_standard_output() {
    let app = App::new();
    let output = command(&app, &["dags", "test", "sales", RUN]).output().expect("it runs");
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert!(out.contains("reading orders region=\"north\""), "{out}");
    assert!(!app.file("logs").exists());
}

/// Goal: the usual life of the program. Method: start it, look at it from another process, stop it as a service
/// manager would.
#[cfg(unix)]
#[test]
fn standalone_prepares_everything_and_stops_when_it_is_told_to() {
    let app = App::new();
    let mut child = command(&app, &["standalone", "--slots", "2"]).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
    let ready = lines.by_ref().find(|line| line.contains("stop with Ctrl-C"));
    assert!(ready.is_some(), "it says that it is ready");
    let trigger =
        command(&app, &["dags", "trigger", "sales", "-l", RUN, "--wait"]).output().expect("it runs");
    let told = String::from_utf8_lossy(&trigger.stderr).into_owned();
    assert_eq!(trigger.status.code(), Some(0), "{told}");
    assert!(told.contains("5/5 tasks, run success"), "{told}");
    assert!(!told.contains("no scheduler is alive"), "{told}");
    let log = command(&app, &["tasks", "logs", "sales", "orders", RUN]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&log.stdout).contains("reading orders region=\"north\""));
    let jobs = command(&app, &["jobs", "check"]).output().expect("it runs");
    assert_eq!(jobs.status.code(), Some(0));
    terminate(&child);
    let ended = child.wait().expect("it ends");
    assert_eq!(ended.code(), Some(0));
    let rest: Vec<String> = lines.collect();
    assert!(rest.iter().any(|line| line.starts_with("stopping: ")), "{rest:?}");
    let mut out = String::new();
    child.stdout.take().expect("it is piped").read_to_string(&mut out).expect("it is read");
    let jobs = command(&app, &["jobs", "check"]).output().expect("it runs");
    assert_eq!(jobs.status.code(), Some(1), "it has said goodbye");
}

/// Goal: a scheduler that is told to runs tasks in processes of their own, with the same settings, logs and database.
#[cfg(unix)]
#[test]
fn tasks_have_processes_of_their_own_if_that_is_asked_for() {
    let app = App::new();
    let say = |args: &[&str]| {
        let output = command(&app, args).output().expect("it runs");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    say(&["db", "migrate"]);
    say(&["dags", "trigger", "sales", "-l", RUN]);
    say(&["dags", "trigger", "who", "-l", RUN]);
    let mut scheduler =
        command(&app, &["scheduler", "--isolation", "process", "--until-idle"]).spawn().unwrap();
    let own = scheduler.id();
    assert_eq!(scheduler.wait().expect("it ends").code(), Some(0));
    let state = say(&["dags", "state", "sales", RUN]);
    assert!(state.ends_with("success\n"), "{state}");
    let log = say(&["tasks", "logs", "sales", "orders", RUN]);
    assert!(log.contains("reading orders region=\"north\""), "{log}");
    let id = say(&["xcom", "get", "who", RUN, "process_id"]);
    let id: u32 = id.lines().last().unwrap_or_default().parse().expect("a number");
    assert_ne!(id, own);
}

#[cfg(unix)]
pub(crate) fn terminate(child: &std::process::Child) {
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
}

/// Goal: nobody waits an hour for a task that does not end. Method: ask twice; the task is given back, not failed.
#[cfg(unix)]
#[test]
fn a_second_request_to_stop_gives_running_tasks_back() {
    let app = App::new();
    let mut child = command(&app, &["standalone", "--grace", "1h"]).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
    assert!(lines.by_ref().any(|line| line.contains("stop with Ctrl-C")));
    assert!(command(&app, &["dags", "trigger", "slow", "-l", RUN]).status().expect("it runs").success());
    let state = || {
        let output = command(&app, &["tasks", "state", "slow", "endless", RUN]).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
    };
    // Each look is a process of its own, which takes its time; the scheduler looks around every second.
    assert!((0..LOOKS).any(|_| state() == "running"), "the task starts");
    terminate(&child);
    assert!(lines.by_ref().any(|line| line.starts_with("stopping: ")));
    terminate(&child);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert!(lines.any(|line| line.starts_with("stopping now: ")));
    assert_eq!(state(), "scheduled");
}

/// Whether a process is there.
#[cfg(unix)]
fn is_there(pid: &str) -> bool {
    Command::new("kill").args(["-0", pid]).stderr(Stdio::null()).status().expect("kill runs").success()
}

/// What a task of the dag `stubborn` has written down.
#[cfg(unix)]
pub(crate) fn pid_of_deaf(app: &App) -> String {
    let begun = std::time::Instant::now();
    loop {
        match std::fs::read_to_string(app.file("deaf.pid")) {
            Ok(pid) if !pid.is_empty() => return pid,
            _ => assert!(begun.elapsed() < std::time::Duration::from_secs(60), "the task begins"),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Goal: `core.killed_task_cleanup_time` says how long a task may go on that does not stop. Method: a process that does not,
/// and a time far below the minute that it would have else.
#[cfg(unix)]
#[test]
fn a_task_that_does_not_stop_is_killed_after_the_time_of_the_settings() {
    let app = App::new();
    let args = ["standalone", "--isolation", "process"];
    let mut child =
        command(&app, &args).env("AIRFLOW__CORE__KILLED_TASK_CLEANUP_TIME", "1").spawn().expect("it starts");
    let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line.contains("stop with Ctrl-C")));
    std::thread::spawn(move || lines.for_each(drop));
    assert!(command(&app, &["dags", "trigger", "stubborn", "-l", RUN]).status().expect("it runs").success());
    let pid = pid_of_deaf(&app);
    assert_ne!(pid, child.id().to_string());
    let asked = std::time::Instant::now();
    let mark = command(&app, &["dags", "mark", "stubborn", RUN, "failed"]).output().expect("it runs");
    assert!(mark.status.success(), "{}", String::from_utf8_lossy(&mark.stderr));
    while is_there(&pid) {
        assert!(
            asked.elapsed() < std::time::Duration::from_secs(40),
            "it is killed after a second, not a minute"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(asked.elapsed() >= std::time::Duration::from_secs(1), "it has its second");
    terminate(&child);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

/// Goal: on a terminal a bar shows how far a backfill is, and goes when it is done. Method: the program on a pseudo-terminal
/// of `script`, which passes its exit code on; three runs, one of which fails, by a scheduler beside it.
#[cfg(target_os = "linux")]
#[test]
fn a_backfill_draws_a_bar_on_a_terminal() {
    let app = App::new();
    assert!(command(&app, &["db", "migrate"]).output().expect("it runs").status.success());
    let mut child = command(&app, &["scheduler"]).spawn().expect("it starts");
    drain(&mut child);
    let range = ["--start-date", "2026-03-01", "--end-date", "2026-03-03", "--wait"];
    let own = command(&app, &[&["dags", "backfill", "days_of_work"], &range[..]].concat());
    let line = format!("stty cols 120 rows 30; exec '{}'", own.get_program().to_str().expect("UTF-8"));
    let line = own.get_args().fold(line, |line, arg| format!("{line} '{}'", arg.to_str().expect("UTF-8")));
    let mut script = Command::new("script");
    script
        .args(["-qefc", &line, "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    for (name, value) in own.get_envs() {
        script.env(name, value.expect("it is set"));
    }
    let output = script.output().expect("util-linux is installed");
    terminate(&child);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}");
    let frames: Vec<&str> = out.split('\r').filter(|frame| frame.contains('\u{2591}')).collect();
    assert!(!frames.is_empty(), "a bar that is not full: {out:?}");
    assert!(frames.iter().all(|frame| frame.contains("/3 ")), "{frames:#?}");
    let named = |frame: &&str| frame.contains(" runs, waiting for backfill__2026-03-0");
    assert!(frames.iter().any(named), "{frames:#?}");
    // The bar has no lines of its own: what comes after it begins where it was.
    let last = out.lines().rfind(|line| line.contains("error: ")).expect("it says why");
    let last = last.rsplit('\r').next().unwrap_or_default();
    assert!(last.ends_with("error: 1 of 3 runs failed: backfill__2026-03-02T00:00:00+00:00"), "{last:?}");
    assert!(!last.contains('\u{2591}') && !last.contains('\u{2588}'), "the bar is gone: {last:?}");
}

/// Reads away what a process says, so that it is never held up.
#[cfg(target_os = "linux")]
fn drain(child: &mut std::process::Child) {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    std::thread::spawn(move || out.as_mut().map(|out| std::io::copy(out, &mut std::io::sink())));
    std::thread::spawn(move || err.as_mut().map(|err| std::io::copy(err, &mut std::io::sink())));
}
