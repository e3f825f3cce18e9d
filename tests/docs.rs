//! What the README and the book say about the code is looked up in the code.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use airflow::state::{TaskEvent, TaskState};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names of all functions in the folders with code.
fn functions() -> BTreeSet<String> {
    let folders =
        ["src", "tests", "examples", "airflow-core", "airflow-macros", "airflow-executors", "airflow-cli"];
    let mut files = Vec::new();
    folders.iter().for_each(|folder| rust_files(&root().join(folder), &mut files));
    let mut names = BTreeSet::new();
    for file in files {
        for after in fs::read_to_string(file).unwrap().split("fn ").skip(1) {
            names.insert(after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

/// Goal: no guarantee without a test that shows it. Method: every name in the last column of the table is a function.
#[test]
fn guarantees_name_tests_that_exist() {
    let readme = read("README.md");
    let table = readme.split("| guarantee | test |").nth(1).expect("the table of guarantees");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let functions = functions();
    let mut named = 0;
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for test in tests.split('`').skip(1).step_by(2) {
            assert!(functions.contains(test), "the README names the test `{test}`, which does not exist");
            named += 1;
        }
    }
    assert!(named > 10, "only {named} tests are named");
}

/// Goal: the page on task states shows the table of the state machine. Method: write the rows from the machine.
#[test]
fn the_page_on_task_states_shows_every_transition() {
    let page = read("docs/book/task-states.md");
    for state in TaskState::ALL {
        let mut to: Vec<String> = Vec::new();
        for event in TaskEvent::ALL {
            if let Ok(change) = state.on(*event) {
                to.push(format!("{event} → `{}`", change.to()));
            }
        }
        let row = format!("| `{state}` | {} |", to.join(", "));
        assert!(page.contains(&row), "docs/book/task-states.md lacks this row:\n{row}");
    }
}

/// Goal: no page of the book is forgotten, neither in its contents nor among those whose code is compiled.
#[test]
fn every_page_of_the_book_is_listed_and_compiled() {
    let (summary, compiled) = (read("docs/book/SUMMARY.md"), read("src/book.rs"));
    for entry in fs::read_dir(root().join("docs/book")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != "SUMMARY.md" {
            assert!(summary.contains(&format!("({name})")), "SUMMARY.md does not list {name}");
            assert!(compiled.contains(&format!("/{name}\"")), "src/book.rs does not include {name}");
        }
    }
}

/// Goal: links between our own pages lead somewhere. Method: look at each link that is no address.
#[test]
fn links_between_pages_lead_to_files() {
    let mut pages =
        vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned(), "docs/architecture.md".to_owned()];
    for folder in ["docs/book", "docs/decisions"] {
        let names = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        pages.extend(names.map(|name| format!("{folder}/{}", name.into_string().unwrap())));
    }
    for page in pages {
        let text = read(&page);
        let folder = root().join(Path::new(&page).parent().unwrap());
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if link.is_empty() || link.contains("://") || link.contains(' ') {
                continue;
            }
            assert!(folder.join(link).exists(), "{page} links to {link}, which does not exist");
        }
    }
}
