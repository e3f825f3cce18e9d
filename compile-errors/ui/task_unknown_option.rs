use airflow::prelude::*;

#[task(retrys = 3, colour = "red", schedule)]
async fn extract() -> Result<i64> {
    Ok(1)
}

#[dag]
fn sales(d: &Dag) {
    d.add(extract::call());
}

fn main() {}
