//! The runner itself: what it says of another folder. Each test starts this program again on a folder of its own.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// The tests of two families, and the one that looks for files of nobody.
const FERNET: &str = "families::tokens_are_those_of_airflow";
const TEMPLATES: &str = "families::templates_render_as_in_airflow";
const FILES: &str = "families::every_family_has_its_test_and_every_file_its_family";

/// Whether the test succeeds over the folder, and what it says.
fn held(folder: &Path, test: &str) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--nocapture"]).env("AIRFLOW_CONFORMANCE_DIR", folder);
    let output = command.output().expect("it runs");
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(said.contains("running 1 test"), "there is no test {test}: {said}");
    (output.status.success(), said)
}

/// A recorded case that decrypts a token.
fn a_case() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/fernet.json");
    let text = std::fs::read_to_string(path).expect("the file is there");
    let file: Value = serde_json::from_str(&text).expect("it is JSON");
    let mut cases = file["cases"].as_array().expect("a list of cases").iter();
    cases.find(|case| case["group"] == "decrypt").expect("a case that decrypts").clone()
}

/// A folder with a file.
fn folder_with(name: &str, text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(name), text).expect("the file is written");
    folder
}

fn folder_of(case: &Value) -> tempfile::TempDir {
    folder_with("fernet_more.json", &json!({ "source": "elsewhere", "cases": [case] }).to_string())
}

/// Goal: another folder is read, and a family that it lacks does not look like one that was held.
#[test]
fn another_folder_is_read_and_says_what_it_lacks() {
    let folder = folder_of(&a_case());
    let (well, said) = held(folder.path(), FERNET);
    assert!(well && said.contains("fernet: 1 passed, 0 failed, 0 excluded\n"), "{said}");
    let (well, said) = held(folder.path(), TEMPLATES);
    assert!(well && said.contains("templates: 0 passed, 0 failed, 0 excluded, absent"), "{said}");
    let (well, said) = held(folder.path(), FILES);
    assert!(well, "{said}");
}

/// Goal: what a case says and nobody looks at is named, also where the answer is right.
#[test]
fn a_field_that_nobody_looks_at_is_named() {
    let mut case = a_case();
    case["time_to_live"] = json!(60);
    let (well, said) = held(folder_of(&case).path(), FERNET);
    assert!(well && said.contains("  nobody looks at `time_to_live` (1 times)\n"), "{said}");
}

/// Goal: a case that asks for something that nobody checks fails, as does one with another answer.
#[test]
fn a_case_with_something_unknown_or_wrong_fails() {
    for (field, value, wanted) in [
        ("group", json!("decrypt_twice"), "fernet knows no group \"decrypt_twice\""),
        ("group", json!(7), "fernet knows no group 7"),
        ("expected", json!({"plaintext": "something else"}), "expected"),
    ] {
        let mut case = a_case();
        case[field] = value;
        let (well, said) = held(folder_of(&case).path(), FERNET);
        assert!(!well && said.contains(wanted) && said.contains("0 passed, 1 failed"), "{said}");
    }
}

/// Goal: a file that cannot be read as cases fails by its name.
#[test]
fn a_file_that_holds_no_cases_fails_by_its_name() {
    for (text, wanted) in [
        ("{ \"cases\": [", "fernet_more.json is no JSON"),
        ("{ \"cases\": [] }", "fernet_more.json has no list `cases` with cases in it"),
        ("[]", "fernet_more.json has no list `cases` with cases in it"),
    ] {
        let (well, said) = held(folder_with("fernet_more.json", text).path(), FERNET);
        assert!(!well && said.contains(wanted), "{said}");
    }
    let with_more = json!({ "clock": "2026-01-01", "cases": [a_case()] }).to_string();
    let (well, said) = held(folder_with("fernet_more.json", &with_more).path(), FERNET);
    assert!(well && said.contains("nobody looks at `clock of "), "{said}");
}

/// Goal: a file of no family fails instead of being left aside, and so does a folder without any.
#[test]
fn a_file_of_no_family_fails_by_its_name() {
    let (well, said) = held(folder_with("sensors.json", "{}").path(), FILES);
    assert!(!well && said.contains("sensors.json"), "{said}");
    let (well, said) = held(tempfile::tempdir().expect("a folder").path(), FILES);
    assert!(!well && said.contains("holds no cases"), "{said}");
}
