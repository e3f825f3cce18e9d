use airflow::prelude::*;

#[sensor]
async fn arrived() -> Result<u64> {
    Ok(1)
}

fn main() {}
