# What CI runs, step by step. `just ci` is the same as `.ci/run`.

ci:
    .ci/run

fmt:
    cargo fmt --all

lint:
    cargo clippy --workspace --all-targets --all-features -- -D warnings

docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features

test *args:
    scripts/test {{args}}

quickstart:
    cargo run --example quickstart

bench:
    cargo bench --bench workloads --features postgres,redis,rabbitmq -- --table
