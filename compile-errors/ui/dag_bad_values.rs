use airflow::prelude::*;

#[task]
async fn extract() {}

#[dag(tags = "sales", catchup = "no", max_active_runs = 0, schedule = 5, start_date = 2026, dagrun_timeout = "2 hrs")]
fn sales(d: &Dag) {
    d.add(extract::call());
}

fn main() {
    let _ = sales();
}
