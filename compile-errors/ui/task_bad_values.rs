use airflow::prelude::*;

#[task(
    id = "two words",
    retries = -1,
    retry_delay = "5 parsecs",
    max_retry_delay = 30,
    timeout = "90",
    pool = 3,
    pool_slots = 0,
    retry_exponential_backoff = -2.0,
    trigger_rule = "all_don",
    weight_rule = "sideways",
    depends_on_past = "yes",
    priority_weight,
    owner = "me",
    owner = "you",
    setup,
    teardown
)]
async fn extract() -> Result<i64> {
    Ok(1)
}

#[dag]
fn sales(d: &Dag) {
    d.add(extract::call());
}

fn main() {}
