//! What the engine's own work costs, without a store and without executors: a registry of definitions, deciding what
//! follows when tasks end, and applying reports and decisions to the run in memory.
//!
//! `cargo bench --bench engine`. The throughput is in tasks: those of the definition, or those that ended. In a run of
//! a hundred times as many tasks it should be the same, but for what no longer fits in the caches of the processor;
//! `benches/instructions.rs` counts without that. Without `--bench`, as `cargo test` calls it, everything small is run
//! once.

mod steps;

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput};

use steps::{Run, Shape, Spent, dag, registry};

const SHAPES: [(&str, Shape); 3] =
    [("line", Shape::Line), ("fanout", Shape::Fanout), ("random", Shape::Random)];

/// How many tasks definitions have; the first are the small ones.
const DEFINITIONS: [usize; 2] = [100, 10_000];

/// How many tasks runs have.
const RUNS: [usize; 2] = [1_000, 100_000];

/// All of them where it is measured, the small ones in a test.
fn sizes(all: &[usize]) -> &[usize] {
    if std::env::args().any(|arg| arg == "--bench") { all } else { &all[..1] }
}

/// From definitions to a registry.
fn compile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    for (name, shape) in SHAPES {
        for tasks in sizes(&DEFINITIONS) {
            let definitions = [shape.define(*tasks)];
            group.throughput(Throughput::Elements(*tasks as u64));
            group.bench_function(BenchmarkId::new(name, tasks), |bencher| {
                bencher.iter_batched(|| (), |()| registry(&definitions), BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

/// One part of whole runs.
fn runs(criterion: &mut Criterion, part: &str, of: fn(Spent) -> Duration) {
    let mut group = criterion.benchmark_group(part);
    group.sampling_mode(SamplingMode::Flat);
    for (name, shape) in SHAPES {
        for tasks in sizes(&RUNS) {
            let dag = dag(shape, *tasks);
            group.throughput(Throughput::Elements(*tasks as u64));
            group.bench_function(BenchmarkId::new(name, tasks), |bencher| {
                bencher.iter_custom(|runs| (0..runs).map(|_| of(Run::new(&dag).finish())).sum());
            });
        }
    }
    group.finish();
}

fn main() {
    let criterion = Criterion::default().sample_size(10).warm_up_time(Duration::from_secs(1));
    let mut criterion =
        criterion.measurement_time(Duration::from_secs(4)).without_plots().configure_from_args();
    compile(&mut criterion);
    runs(&mut criterion, "decide", |spent| spent.decide);
    runs(&mut criterion, "apply", |spent| spent.apply);
    criterion.final_summary();
}
