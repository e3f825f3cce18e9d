//! Reads the cases, leaves out what is excluded, prints what passed.

use std::collections::BTreeMap;
use std::{env, fs, path::PathBuf};

use serde_json::Value;

/// Cases that a compiled Rust library has no place for, by family, with the test for membership and the reason.
pub(crate) type Exclusion = (&'static str, fn(&Value) -> bool, &'static str);

/// The cases of a family.
pub(crate) fn cases(family: &str) -> Vec<Value> {
    let default = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance");
    let folder = env::var_os("AIRFLOW_CONFORMANCE_DIR").map_or(default, PathBuf::from);
    let path = folder.join(format!("{family}.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file: Value = serde_json::from_str(&text).expect("the cases are JSON");
    file["cases"].as_array().expect("cases is a list").clone()
}

/// Runs `check` on every case and fails if one has another answer than Airflow.
pub(crate) fn hold(family: &str, excluded: &[Exclusion], check: impl Fn(&Value) -> Result<(), String>) {
    let (mut passed, mut failures) = (0, Vec::new());
    let mut left_out: BTreeMap<&str, usize> = BTreeMap::new();
    for case in cases(family) {
        if let Some((_, _, why)) = excluded.iter().find(|(of, member, _)| *of == family && member(&case)) {
            *left_out.entry(why).or_default() += 1;
            continue;
        }
        match check(&case) {
            Ok(()) => passed += 1,
            Err(mismatch) => {
                failures.push(format!(
                    "{} ({}): {mismatch}",
                    case["id"],
                    case["name"].as_str().unwrap_or("")
                ));
            }
        }
    }
    let count: usize = left_out.values().sum();
    println!("{family}: {passed} passed, {} failed, {count} excluded", failures.len());
    for (why, count) in left_out {
        println!("  {count} excluded: {why}");
    }
    assert!(passed > 0, "no case of {family} was run");
    assert!(failures.is_empty(), "{} failures of {family}:\n{}", failures.len(), failures.join("\n"));
}
