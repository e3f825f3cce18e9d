use airflow::prelude::*;

struct NotData;

#[task]
async fn extract() -> Result<NotData> {
    Ok(NotData)
}

#[task]
async fn load(from: i64) -> Result<i64> {
    Ok(from)
}

#[dag]
fn sales(d: &Dag) {
    let first = d.add(extract::call());
    d.add(load::call(1)) >> first;
}

fn main() {}
