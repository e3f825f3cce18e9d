use airflow::prelude::*;

#[dag]
fn nothing() {}

#[dag]
fn other(_: Dag) {}

#[dag]
async fn waits(_: &Dag) {}

#[dag]
fn returns(_: &Dag) -> i64 {
    1
}

fn main() {}
