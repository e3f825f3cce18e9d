//! Where the compiled examples are.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// After this an example counts as one that hangs; the slowest takes two seconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(180);

/// A command that runs an example. `cargo test` builds them all; where only one test was asked for, they are built now.
pub(crate) fn example(name: &str) -> Command {
    let test = std::env::current_exe().expect("a test knows its file");
    let profile = test.ancestors().nth(2).expect("tests lie in target/<profile>/deps");
    let file: PathBuf = profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if !file.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--example", name]).status();
        assert!(built.expect("cargo runs").success(), "example {name} does not build");
    }
    Command::new(file)
}

/// Runs a program to its end and returns what it said; fails if it hangs.
pub(crate) fn finished(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let pid = child.id().to_string();
    let (done, ended) = mpsc::channel();
    let wait = std::thread::spawn(move || {
        // If nobody listens any more the test has failed already.
        let _ = done.send(child.wait_with_output());
    });
    let output = ended.recv_timeout(LIMIT).unwrap_or_else(|_| {
        let _ = Command::new("kill").args(["-KILL", &pid]).status();
        panic!("{command:?} has not ended after {LIMIT:?}")
    });
    wait.join().expect("waiting does not fail");
    output.expect("its output can be read")
}
