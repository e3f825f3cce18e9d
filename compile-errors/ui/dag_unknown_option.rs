use airflow::prelude::*;

#[task]
async fn extract() {}

#[dag(schedule_interval = "@daily", catch_up = false, retries = 3)]
fn sales(d: &Dag) {
    d.add(extract::call());
}

fn main() {
    let _ = sales();
}
