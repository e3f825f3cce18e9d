//! The files of `deploy/` start the program with commands that it knows.
#![cfg(all(feature = "cli", feature = "redis", feature = "macros"))]

use std::convert::Infallible;
use std::path::Path;

use airflow::cli::{Host, run_with};

/// The commands that a file starts the program with, without the program itself.
fn commands(file: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file);
    let text = std::fs::read_to_string(&path).expect("the file is there");
    text.lines().filter_map(|line| command(line.trim())).collect()
}

/// The command in a line: of a unit, or a list of YAML, of which we write only those that JSON knows too.
fn command(line: &str) -> Option<Vec<String>> {
    let line = line.strip_prefix("exec: { ").unwrap_or(line);
    let (key, value) = line.split_once(['=', ':'])?;
    match key {
        "ExecStart" | "ExecStartPre" => {
            let words = value.split(' ').map(|word| word.replace("%H-%i", "host-1"));
            Some(words.skip(1).collect())
        }
        "args" | "command" | "test" => {
            let list = value.trim().trim_end_matches('}').trim();
            let words: Vec<String> =
                serde_json::from_str(list).unwrap_or_else(|error| panic!("{line}: {error}"));
            let skipped = words.iter().take_while(|word| ["CMD", "my-dags"].contains(&word.as_str())).count();
            let foreign = ["pg_isready", "redis-server", "sh"].contains(&words[skipped].as_str());
            (!foreign).then(|| words[skipped..].to_vec())
        }
        _ => None,
    }
}

async fn is_known(command: &[String]) -> bool {
    let (mut host, _, _) = Host::captured(&[], "");
    let program = ["my-dags".to_owned()];
    let args = program.iter().chain(command).cloned().chain(["--help".to_owned()]);
    run_with(args, async |builder| Ok::<_, Infallible>(builder), &mut host).await == 0
}

/// The commands of the probes in a file that start our program.
fn probes(file: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file);
    let text = std::fs::read_to_string(&path).expect("the file is there");
    let mut found = Vec::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        match line.split(':').next() {
            Some("livenessProbe" | "readinessProbe" | "startupProbe" | "healthcheck") => inside = true,
            Some("exec" | "test") if inside => {
                assert!(!line.contains("\"sh\""), "{file}: nobody looks into a shell: {line}");
                found.extend(command(line));
                inside = false;
            }
            _ => {}
        }
    }
    found
}

/// Goal: a process that stands still is found while others of its kind live. Method: every probe that starts our
/// program asks for its own host only.
#[test]
fn every_probe_looks_at_its_own_process() {
    for (file, kinds) in [
        ("compose.yaml", ["SchedulerJob", "worker"]),
        ("kubernetes/airflow.yaml", ["SchedulerJob", "worker"]),
    ] {
        let probes = probes(file);
        assert_eq!(probes.len(), kinds.len(), "{file}: {probes:?}");
        for (probe, kind) in probes.iter().zip(kinds) {
            assert_eq!(probe.join(" "), format!("jobs check --job-type {kind} --local"), "{file}");
        }
    }
}

#[tokio::test]
async fn every_command_is_known() {
    let files = [
        ("compose.yaml", 4),
        ("kubernetes/airflow.yaml", 4),
        ("systemd/airflow-scheduler.service", 2),
        ("systemd/airflow-worker@.service", 1),
    ];
    for (file, least) in files {
        let commands = commands(file);
        assert!(commands.len() >= least, "{file}: only {commands:?} were found");
        for command in commands {
            assert!(is_known(&command).await, "{file}: the program does not know `{}`", command.join(" "));
        }
    }
    assert!(!is_known(&["worker".into(), "--no-such-option".into()]).await, "a wrong command is seen");
}
