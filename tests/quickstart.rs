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

/// A terminal that knows what the grid says to it: lines up, a line cleared, colours. Its screen has no colours, and a
/// history that is as long as it needs to be.
#[derive(Default)]
struct Terminal {
    lines: Vec<String>,
    row: usize,
    /// How many lines each jump goes up.
    jumps: Vec<usize>,
}

impl Terminal {
    fn read(&mut self, text: &str) {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if let Some(sequence) = rest.strip_prefix("\u{1b}[") {
                let end = sequence.find(|c: char| c.is_ascii_alphabetic()).expect("a sequence ends");
                self.obey(&sequence[..end], &sequence[end..=end]);
                rest = &sequence[end + 1..];
                continue;
            }
            match first {
                '\n' => self.row += 1,
                '\r' => {}
                other => self.line().push(other),
            }
            rest = &rest[first.len_utf8()..];
        }
    }

    fn obey(&mut self, number: &str, what: &str) {
        match what {
            "A" => {
                let up = number.parse().expect("a number of lines");
                self.jumps.push(up);
                self.row = self.row.checked_sub(up).expect("no higher than the first line");
            }
            "K" => self.line().clear(),
            "m" => {}
            other => panic!("`{number}{other}` is nothing that a grid needs"),
        }
    }

    fn line(&mut self) -> &mut String {
        self.lines.resize(self.lines.len().max(self.row + 1), String::new());
        &mut self.lines[self.row]
    }
}

/// Goal: on a terminal there is one grid, redrawn in its place, which ends as what was done; then comes the table. Method:
/// the program on a pseudo-terminal of `script`, and what it writes on a terminal of ours.
#[cfg(target_os = "linux")]
#[test]
fn on_a_terminal_a_grid_is_redrawn_in_its_place() {
    let home = tempfile::tempdir().unwrap();
    let program = quickstart(home.path());
    let line = format!("stty cols 100 rows 40; exec '{}'", program.get_program().to_str().unwrap());
    let mut script = Command::new("script");
    script.args(["-qefc", &line, "/dev/null"]).env("QUICKSTART_HOME", home.path());
    let output = finished(script.env("TERM", "xterm").env_remove("NO_COLOR").stdin(Stdio::null()));
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{out}");

    let mut terminal = Terminal::default();
    terminal.read(&out);
    let screen: Vec<&str> = terminal.lines.iter().map(|line| line.trim_end()).collect();
    let grid = terminal.jumps[0];
    assert!(terminal.jumps.len() > 3 && terminal.jumps.iter().all(|up| *up == grid), "{:?}", terminal.jumps);
    assert!(screen.iter().all(|line| line.chars().count() <= 80), "nothing wraps: {screen:#?}");
    let begin = screen.iter().position(|line| line.starts_with("weather ")).expect("the grid is there");
    assert_eq!(screen.iter().filter(|line| line.starts_with("weather ")).count(), 1, "{screen:#?}");
    assert_eq!(screen[begin], format!("{:18}2012-01-01 to 2012-01-31", "weather"));
    let row = |task: &str| {
        let found = screen.iter().find(|line| line.trim_start().starts_with(task));
        found.unwrap_or_else(|| panic!("no row of {task}: {screen:#?}")).trim_start()[task.len()..]
            .trim()
            .to_owned()
    };
    for task in ["read_day", "save_city", "look_up", "done"] {
        assert_eq!(row(task), "\u{25a0}".repeat(31), "{task}");
    }
    // It rained on some days and not on the others.
    let (rain, dry) = (row("save_rain"), row("dry_day"));
    let days = rain.chars().zip(dry.chars());
    assert!(
        days.clone().all(|day| matches!(day, ('\u{25a0}', '\u{2013}') | ('\u{2013}', '\u{25a0}'))),
        "{rain} {dry}"
    );
    assert_eq!(days.count(), 31);
    assert!(screen.iter().any(|line| line.ends_with("\u{2013} skipped  \u{2717} failed")), "{screen:#?}");
    assert_eq!(screen[screen.len() - 3..], TABLE);
}
