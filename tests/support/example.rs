//! Where the compiled examples are.

use std::path::PathBuf;
use std::process::Command;

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
