//! Keeps the code in its layers and its files small. What is listed as an exception may only shrink.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `airflow-core`, lowest first. A module uses only modules of its own or a lower layer.
const LAYERS: &[(&str, &[&str])] = &[
    ("words", &["id", "time", "hash", "host", "map", "secret", "mask", "fernet"]),
    ("states", &["state"]),
    (
        "definitions",
        &[
            "asset",
            "dag",
            "timetable",
            "trigger_rule",
            "retry",
            "xcom",
            "operator",
            "builtin",
            "callback",
            "template",
            "connection",
            "config",
        ],
    ),
    ("compilation", &["compile", "registry", "discovery"]),
    ("store contract", &["store", "secrets", "shipping"]),
    ("plans", &["plan"]),
    ("decisions", &["decide"]),
    ("executor contract", &["executor"]),
    (
        "shell",
        &[
            "store/memory",
            "store/sql",
            "store/server",
            "store/postgres",
            "store/mysql",
            "store/sqlite",
            "store/judge",
            "store/rules",
            "scheduler",
            "attempt",
        ],
    ),
    ("application", &["app"]),
    ("test kit", &["testing"]),
];

/// Modules of the shell that must not import each other.
const SHELL: &[&str] = &["scheduler", "attempt"];

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;

/// Files over the limit, with the most lines they may have.
const LONG_FILES: &[(&str, usize)] = &[];

/// Functions over the limit.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != ".git" && name != "ui" {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    rust_files(&root(), &mut files);
    files.sort();
    let relative =
        |path: &Path| path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
    files.iter().map(|path| (relative(path), fs::read_to_string(path).expect("a text file"))).collect()
}

/// The code of a file without its tests, which come last.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

fn layer_of(module: &str) -> Option<usize> {
    // The longest name wins: `store/sqlite` is not `store`.
    let fits = |name: &&&str| module == **name || module.starts_with(&format!("{name}/"));
    let candidates = LAYERS
        .iter()
        .enumerate()
        .flat_map(|(layer, (_, names))| names.iter().filter(fits).map(move |name| (name.len(), layer)));
    candidates.max().map(|(_, layer)| layer)
}

/// Goal: dependencies go one way. Method: every `crate::module` in a file of the core must name a module of the same
/// or a lower layer.
#[test]
fn modules_use_only_what_stands_below_them() {
    let mut wrong = Vec::new();
    for (path, text) in all_files() {
        let Some(inside) = path.strip_prefix("airflow-core/src/") else { continue };
        let module = inside.trim_end_matches(".rs").trim_end_matches("/mod");
        if module == "lib" {
            continue;
        }
        let Some(own) = layer_of(module) else {
            wrong.push(format!("{path}: the module `{module}` is in no layer"));
            continue;
        };
        let own_name = module.split('/').next().unwrap_or(module);
        for used in without_tests(&text).split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let Some(layer) = layer_of(&used) else { continue };
            if layer > own && used != own_name {
                wrong.push(format!("{path}: uses `{used}`, which stands above `{module}`"));
            }
            if SHELL.contains(&own_name) && SHELL.contains(&used.as_str()) && used != own_name {
                wrong.push(format!("{path}: `{own_name}` must not know `{used}`"));
            }
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn crates_depend_one_way() {
    let allowed: &[(&str, &[&str])] = &[
        ("airflow-core", &[]),
        ("airflow-macros", &[]),
        ("airflow-executors", &["airflow-core"]),
        ("airflow-cli", &["airflow-core", "airflow-executors"]),
    ];
    for (name, allowed) in allowed {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("a manifest");
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        for line in dependencies.lines().filter(|line| line.starts_with("airflow-")) {
            let used = line.split(['.', ' ', '=']).next().unwrap_or_default();
            assert!(allowed.contains(&used), "{name} must not depend on {used}");
        }
    }
}

#[test]
fn files_stay_small() {
    let mut wrong = Vec::new();
    for (path, text) in all_files() {
        let is_test = path.contains("/tests/") || path.starts_with("tests/") || path.ends_with("/tests.rs");
        let lines = without_tests(&text).lines().count();
        let limit =
            LONG_FILES.iter().find(|(file, _)| *file == path).map_or(MAX_FILE_LINES, |(_, lines)| *lines);
        if !is_test && lines > limit {
            wrong.push(format!("{path}: {lines} lines, {limit} are allowed"));
        }
    }
    for (path, _) in LONG_FILES {
        assert!(root().join(path).exists(), "{path} is gone: take it off the list");
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn functions_stay_small() {
    let mut wrong = Vec::new();
    for (path, text) in all_files() {
        let lines: Vec<&str> = without_tests(&text).lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let head = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            let head = head
                .trim_start_matches("pub(super) ")
                .trim_start_matches("const ")
                .trim_start_matches("async ");
            let Some(name) = head.strip_prefix("fn ") else { continue };
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let end = format!("{}}}", " ".repeat(indent));
            let Some(length) = lines[at..].iter().position(|line| *line == end) else { continue };
            let excepted = LONG_FUNCTIONS.iter().any(|(file, function)| *file == path && *function == name);
            if length + 1 > MAX_FUNCTION_LINES && !excepted {
                wrong.push(format!("{path}:{}: `{name}` has {} lines", at + 1, length + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Goal: no unfinished work and no silenced lint without a reason reaches a user.
#[test]
fn nothing_is_left_unfinished_or_silenced() {
    let marks = ["todo", "unimplemented"].map(|word| format!("{word}!("));
    let silenced = ["#[allow(", "#![allow("];
    let mut wrong = Vec::new();
    for (path, text) in all_files() {
        for (at, line) in text.lines().enumerate() {
            let generated = path.starts_with("airflow-macros/");
            let unfinished = marks.iter().any(|mark| line.contains(mark.as_str()));
            let silent =
                !generated && path != "tests/tidy.rs" && silenced.iter().any(|s| line.trim().starts_with(s));
            if unfinished || silent {
                wrong.push(format!("{path}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Goal: what `deny.toml` bans stays out, also where `cargo deny` is not installed. Method: the lock file names every
/// crate of every feature.
#[test]
fn no_banned_crate_is_in_the_lock_file() {
    let read = |name: &str| fs::read_to_string(root().join(name)).expect("a text file");
    let (deny, lock) = (read("deny.toml"), read("Cargo.lock"));
    let banned: Vec<&str> =
        deny.split("crate = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(banned.len() > 2, "{banned:?}");
    let found: Vec<&&str> =
        banned.iter().filter(|name| lock.contains(&format!("\nname = \"{name}\"\n"))).collect();
    assert!(found.is_empty(), "banned crates in Cargo.lock: {found:?}");
}
