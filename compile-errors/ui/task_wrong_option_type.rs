use airflow::prelude::*;

const RETRIES: &str = "3";

#[task(retries = RETRIES)]
async fn extract() -> Result<i64> {
    Ok(1)
}

fn main() {}
