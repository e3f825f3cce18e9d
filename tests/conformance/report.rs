//! Reads the cases, leaves out what is excluded, says what passed.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{env, fs, path::PathBuf};

use serde_json::Value;

use super::exclusions::EXCLUDED;
use super::known::{check_group, unread_field, unread_in_file};
use super::{Check, FAMILIES};

/// How much of a family may be excluded, in percent, and where more.
const MOST_EXCLUDED: usize = 5;
const MORE_EXCLUDED: (&[&str], usize) = (&["templates", "config_env"], 15);

/// The folder with the cases, and whether it is another one than ours.
fn folder() -> (PathBuf, bool) {
    match env::var_os("AIRFLOW_CONFORMANCE_DIR") {
        Some(other) => (PathBuf::from(other), true),
        None => (PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance"), false),
    }
}

/// The files of cases, by name.
fn files() -> Vec<PathBuf> {
    let (folder, _) = folder();
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("AIRFLOW_CONFORMANCE_DIR: {}: {error}", folder.display()));
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.expect("an entry of the folder").path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "json"));
    files.sort();
    files
}

/// The family of a file: the one with the longest name that the file's name begins with.
fn family_of(path: &std::path::Path) -> Option<&'static str> {
    let stem = path.file_stem()?.to_str()?;
    FAMILIES.iter().copied().filter(|name| stem.starts_with(name)).max_by_key(|name| name.len())
}

fn read(path: &std::path::Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{} is no JSON: {error}", path.display()))
}

/// The cases of a file: at least one.
fn cases<'f>(path: &std::path::Path, file: &'f Value) -> &'f [Value] {
    let cases = file["cases"].as_array().map_or(&[][..], Vec::as_slice);
    assert!(!cases.is_empty(), "{} has no list `cases` with cases in it", path.display());
    cases
}

/// Fails if there is a file that nobody looks at, or none at all.
pub(crate) fn every_file_is_known() {
    let files = files();
    assert!(!files.is_empty(), "{} holds no cases", folder().0.display());
    let unknown: Vec<_> = files.iter().filter(|path| family_of(path).is_none()).collect();
    assert!(unknown.is_empty(), "no family has a name that these files begin with: {unknown:?}");
}

/// Runs every case of a family, says how many passed, and fails if one has another answer than Airflow.
pub(crate) fn hold(family: &str, check: Check) {
    let (mut passed, mut failures) = (0, Vec::new());
    let mut unread: BTreeMap<String, usize> = BTreeMap::new();
    let mut left_out: BTreeMap<&str, usize> = BTreeMap::new();
    let files: Vec<_> = files().into_iter().filter(|path| family_of(path) == Some(family)).collect();
    for path in &files {
        let file = read(path);
        unread.extend(unread_in_file(&file).map(|field| (format!("{field} of {}", path.display()), 1)));
        for case in cases(path, &file) {
            if let Err(why) = check_group(family, case) {
                failures.push(format!("{} in {}: {why}", case["id"], path.display()));
                continue;
            }
            if let Some(field) = unread_field(family, case) {
                *unread.entry(field).or_default() += 1;
            }
            if let Some((_, _, why)) = EXCLUDED.iter().find(|(of, member, _)| *of == family && member(case)) {
                *left_out.entry(why).or_default() += 1;
                continue;
            }
            // A case that is not as expected must not hide the others.
            let answer = catch_unwind(AssertUnwindSafe(|| check(&file, case)))
                .unwrap_or_else(|panic| Err(format!("panicked: {}", text(&*panic))));
            match answer {
                Ok(()) => passed += 1,
                Err(mismatch) => {
                    let name = case["name"].as_str().or(case["group"].as_str()).unwrap_or_default();
                    failures.push(format!("{} ({name}): {mismatch}", case["id"]));
                }
            }
        }
    }
    let count: usize = left_out.values().sum();
    let absent = if files.is_empty() { ", absent: the folder has no file of it" } else { "" };
    say(&format!("{family}: {passed} passed, {} failed, {count} excluded{absent}", failures.len()));
    left_out.iter().for_each(|(why, count)| say(&format!("  {count} excluded: {why}")));
    unread.iter().for_each(|(field, count)| say(&format!("  nobody looks at `{field}` ({count} times)")));
    failures.iter().for_each(|failure| say(&format!("  {failure}")));
    let (_, is_other) = folder();
    assert!(is_other || unread.is_empty(), "{family} has fields that nobody looks at: {unread:?}");
    assert!(is_other || passed > 0, "there is no case of {family}");
    let most = if MORE_EXCLUDED.0.contains(&family) { MORE_EXCLUDED.1 } else { MOST_EXCLUDED };
    let all = passed + failures.len() + count;
    assert!(is_other || count * 100 < all * most, "{count} of {all} cases of {family} are excluded");
    assert!(failures.is_empty(), "{} failures of {family}:\n{}", failures.len(), failures.join("\n"));
}

/// Whether what the library says is what Airflow said.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(expected: &T, got: &T) -> Result<(), String> {
    if expected == got { Ok(()) } else { Err(format!("expected {expected:?}, got {got:?}")) }
}

/// A field of a case that is a text.
pub(crate) fn field<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap_or_else(|| panic!("`{name}` is a text in {case}"))
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

#[expect(clippy::print_stdout, reason = "the summary is what a reader of the test's output looks for")]
fn say(line: &str) {
    println!("{line}");
}
