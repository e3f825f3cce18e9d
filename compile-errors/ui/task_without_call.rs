use airflow::prelude::*;

#[task]
async fn noop() {}

#[dag]
fn sales(d: &Dag) {
    d.add(noop);
    d.add(noop());
}

fn main() {}
