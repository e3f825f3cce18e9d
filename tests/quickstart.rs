//! The quickstart as a newcomer meets it: run, run again, killed in the middle.

#[path = "support/example.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use airflow::prelude::*;
use airflow::store::{AttemptState, RunFilter, Store as _};
use support::{example, finished};

/// Counted from the CSV by other means (awk).
const TABLE: [&str; 3] = [
    "city        days  rainy  rain mm   max °C   min °C",
    "New York      31      8     55.6     16.1    -10.6",
    "Seattle       31     22    173.3     12.8     -3.3",
];

/// Tasks of class `Empty`: they succeed without an attempt.
const EMPTY: [&str; 2] = ["dry_day", "done"];

fn quickstart(home: &Path) -> Command {
    let mut command = example("quickstart");
    command.env("QUICKSTART_HOME", home);
    command
}

/// Runs it to its end and returns what it said.
fn says(command: &mut Command) -> Vec<String> {
    let output = finished(command);
    let said = String::from_utf8(output.stdout).expect("it prints text");
    assert!(output.status.success(), "{}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    said.lines().map(str::to_owned).collect()
}

fn days_done(said: &[String]) -> usize {
    said.iter().filter(|line| line.starts_with("weather 2012-01-") && line.contains(" success in ")).count()
}

#[test]
fn a_second_start_has_nothing_to_do_and_a_fresh_one_everything() {
    let home = tempfile::tempdir().unwrap();
    let first = says(&mut quickstart(home.path()));
    assert_eq!(days_done(&first), 31, "{first:#?}");
    assert_eq!(first[first.len() - 3..], TABLE);

    let second = says(&mut quickstart(home.path()));
    assert_eq!(second[0], "31 daily runs and the summary are done; nothing to do. Start over with --fresh.");
    assert_eq!(days_done(&second), 0);
    assert_eq!(second[second.len() - 3..], TABLE);

    let fresh = says(quickstart(home.path()).arg("--fresh"));
    assert_eq!(days_done(&fresh), 31, "{fresh:#?}");
    assert_eq!(fresh[fresh.len() - 3..], TABLE);
}

/// Goal: the death of the process loses nothing and repeats nothing but what was running. Method: kill it as soon as the
/// tenth run has ended, start it again, and count the attempts in the store.
#[tokio::test]
async fn killed_in_the_middle_it_goes_on_where_it_was() {
    let home = tempfile::tempdir().unwrap();
    let mut child = quickstart(home.path()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let tenth = lines.map(Result::unwrap).filter(|line| line.starts_with("weather 2012-01-")).nth(9);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(tenth.is_some(), "it ended before its tenth run");

    let said = says(&mut quickstart(home.path()));
    let before: usize = said[0]
        .strip_prefix("going on after ")
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{said:#?}"));
    assert!((10..31).contains(&before), "{before} runs had ended");
    assert_eq!(before + days_done(&said), 31, "{said:#?}");
    assert_eq!(said[said.len() - 3..], TABLE);

    let store = SqliteStore::open(&home.path().join("airflow.db").to_string_lossy()).await.unwrap();
    let runs = store.runs(&RunFilter::default()).await.unwrap();
    assert_eq!(runs.len(), 32);
    for run in runs {
        assert_eq!(run.state, RunState::Success, "{}", run.run_id);
        let mut attempts: BTreeMap<_, Vec<AttemptState>> = BTreeMap::new();
        for attempt in store.attempts(run.pk, None).await.unwrap() {
            attempts.entry((attempt.start.task_id, attempt.start.map_index)).or_default().push(attempt.state);
        }
        for ti in store.task_instances(run.pk).await.unwrap() {
            let states = attempts.remove(&(ti.task_id.clone(), ti.map_index)).unwrap_or_default();
            let count = |state| states.iter().filter(|other| **other == state).count();
            let works = ti.state == TaskState::Success && !EMPTY.contains(&ti.task_id.as_str());
            let place = format!("{} of {}: {states:?}", ti.task_id, run.run_id);
            assert_eq!(count(AttemptState::Success), usize::from(works), "{place}");
            assert!(count(AttemptState::Lost) <= 1, "{place}");
            let others = states.len() - count(AttemptState::Success) - count(AttemptState::Lost);
            assert_eq!(others, count(AttemptState::Rescheduled), "{place}");
        }
        assert!(attempts.is_empty(), "attempts of no task instance: {attempts:?}");
    }
}
