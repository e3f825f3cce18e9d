//! What fuzzing began with and what it found stays harmless: every file of `fuzz/corpus/` through its target.

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the fuzzers, in a crate of their own, use it too")]
mod targets;

use std::path::Path;

fn run(target: &str, function: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files: Vec<_> = std::fs::read_dir(&folder).expect("the corpus is there").collect();
    assert!(files.len() > 5, "the corpus of {target} has {} files", files.len());
    for file in files {
        let path = file.expect("a file").path();
        let data = std::fs::read(&path).expect("it can be read");
        assert!(
            std::panic::catch_unwind(|| function(&data)).is_ok(),
            "{target} panics on {}",
            path.display()
        );
    }
}

#[test]
fn cron() {
    run("cron", targets::cron);
}

#[test]
fn templates() {
    run("template", targets::template);
}

#[test]
fn connections() {
    run("connection", targets::connection);
}

#[test]
fn configurations() {
    run("config", targets::config);
}

#[test]
fn envelopes() {
    run("envelope", targets::envelope);
}
