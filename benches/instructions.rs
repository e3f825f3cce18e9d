//! How many instructions the engine's decisions take, and applying them: what `benches/engine.rs` measures in time,
//! counted by valgrind, so that neither neighbours nor caches matter.
//!
//! `cargo bench --bench instructions` counts whole runs. A run of a hundred times as many tasks takes a hundred times
//! as many instructions, and little more: to put what is looked at together in order costs the logarithm of how many
//! they are. Without `--bench`, as `cargo test` calls it, and without the programs that it needs, it says so and ends.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench says why it counts nothing")]

mod steps;

use std::process::Command;

/// The version of the runner, which must be that of the crate.
const RUNNER: &str = "0.20.0";

/// What is counted. A module of its own, because the macros make a `main` that cannot be asked to do nothing.
mod counted {
    use std::time::Duration;

    use gungraun::prelude::*;
    use gungraun::{Callgrind, EntryPoint};

    use super::steps::{Run, Shape, dag};

    /// A run that has just started.
    fn run(shape: Shape, tasks: usize) -> Run {
        Run::new(&dag(shape, tasks))
    }

    /// Counts only inside of these functions of `steps`. They are named in full: were a closure in one of them to fit a
    /// pattern as well, entering it would end the counting.
    fn inside<const N: usize>(functions: [&str; N]) -> LibraryBenchmarkConfig {
        let toggles = functions.map(|function| format!("--toggle-collect=*::steps::{function}"));
        let mut config = LibraryBenchmarkConfig::default();
        config.tool(Callgrind::with_args(toggles).entry_point(EntryPoint::None));
        config
    }

    #[library_benchmark(setup = run)]
    #[bench::line_1000(Shape::Line, 1_000)]
    #[bench::line_100000(Shape::Line, 100_000)]
    #[bench::fanout_1000(Shape::Fanout, 1_000)]
    #[bench::fanout_100000(Shape::Fanout, 100_000)]
    #[bench::random_1000(Shape::Random, 1_000)]
    #[bench::random_100000(Shape::Random, 100_000)]
    fn whole_run(mut run: Run) -> (Run, Duration) {
        let spent = run.finish();
        (run, spent.decide + spent.apply)
    }

    library_benchmark_group!(name = decide, config = inside(["decide"]), benchmarks = whole_run);
    library_benchmark_group!(
        name = apply,
        config = inside(["apply_reports", "apply_decisions"]),
        benchmarks = whole_run
    );
    gungraun::main!(library_benchmark_groups = [decide, apply]);

    /// Counts everything, or, in a process that the runner has started, what it asks for.
    pub(super) fn all() {
        main();
    }
}

/// How to get what is missing on this machine.
fn missing() -> Vec<String> {
    let says = |program: &str, version: &str| {
        let output = Command::new(program).arg("--version").output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(version))
    };
    let mut missing = Vec::new();
    if !says("valgrind", "valgrind") {
        missing.push("valgrind (on Debian: apt-get install valgrind)".to_owned());
    }
    if !says(option_env!("GUNGRAUN_RUNNER").unwrap_or("gungraun-runner"), RUNNER) {
        missing.push(format!(
            "gungraun-runner {RUNNER} (cargo install gungraun-runner --version {RUNNER}), in the PATH"
        ));
    }
    missing
}

fn main() {
    let is_asked_by_runner = std::env::args().nth(1).is_some_and(|arg| arg == "--gungraun-run");
    if is_asked_by_runner {
        return counted::all();
    }
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("instructions are only counted by `cargo bench --bench instructions`");
        return;
    }
    let missing = missing();
    if missing.is_empty() {
        counted::all();
    } else {
        eprintln!("\nNOTHING WAS COUNTED. To count instructions, install:\n  - {}\n", missing.join("\n  - "));
    }
}
