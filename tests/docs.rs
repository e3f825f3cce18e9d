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
    let folders = [
        "src",
        "tests",
        "examples",
        "airflow-core",
        "airflow-macros",
        "airflow-executors",
        "airflow-cli",
        "compile-errors",
        "simulation",
    ];
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

/// What stands in the last column of each row of the table with this head.
fn last_column(page: &str, head: &str) -> Vec<String> {
    let text = read(page);
    let table = text.split(head).nth(1).unwrap_or_else(|| panic!("{page} has no table `{head}`"));
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_end_matches(" |").rsplit("| ").next().unwrap().to_owned()).collect()
}

/// The names F1, F2, … in a text.
fn faults_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| word.strip_prefix('F').is_some_and(|number| number.parse::<u8>().is_ok()))
}

fn in_ticks(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether a promise may name this as what shows it: a test, a file or module of tests, a mistake of the simulation.
fn is_known(name: &str, functions: &BTreeSet<String>, mistakes: &str) -> bool {
    let folders = ["", "airflow-core/src", "airflow-core/src/testing", "airflow-executors/src"];
    let is_file = |folder: &&str| {
        let path = root().join(folder).join(name.replace("::", "/"));
        path.exists() || path.with_extension("rs").exists()
    };
    let is_mistake = || mistakes.contains(&format!("Mutant::{name}"));
    functions.contains(name) || folders.iter().any(is_file) || is_mistake()
}

/// Goal: no guarantee without a test that shows it. Method: look up every test and fault in the last columns of the two
/// tables; each row has one.
#[test]
fn guarantees_name_tests_that_exist() {
    let (functions, faults) = (functions(), read("faults/src/tests.rs"));
    let mut files = Vec::new();
    rust_files(&root().join("simulation/src"), &mut files);
    let mistakes: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    for (page, head) in [
        ("README.md", "| guarantee | test |"),
        ("docs/guarantees.md", "| promise | kept by | limits | shown by |"),
    ] {
        let rows = last_column(page, head);
        assert!(rows.len() > 20, "{page} has only {} rows", rows.len());
        for row in rows {
            for fault in faults_in(&row) {
                let is_known = faults.contains(&format!("test!(\"{fault}\""));
                assert!(is_known, "{page} names the fault {fault}, which does not exist");
            }
            for name in in_ticks(&row).filter(|name| !name.starts_with("scripts/")) {
                assert!(is_known(name, &functions, &mistakes), "{page} names `{name}`, which does not exist");
            }
            assert!(
                in_ticks(&row).chain(faults_in(&row)).next().is_some(),
                "{page} names no test here: {row}"
            );
        }
    }
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
