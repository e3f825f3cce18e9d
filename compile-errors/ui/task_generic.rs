use airflow::prelude::*;

#[task]
async fn extract<T: Send>(from: T) -> Result<i64> {
    drop(from);
    Ok(1)
}

#[task]
async fn first<const N: usize>() -> Result<i64> {
    Ok(1)
}

#[task]
async fn second<'a>(from: &'a i64) -> Result<i64> {
    Ok(*from)
}

fn main() {}
