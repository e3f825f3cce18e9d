use airflow::prelude::*;

#[derive(Clone, Serialize, Deserialize)]
struct Order;

#[task]
async fn extract() -> Result<Vec<Order>> {
    Ok(vec![])
}

#[task]
async fn total(all: Vec<i64>) -> Result<i64> {
    Ok(all.iter().sum())
}

#[dag]
fn sales(d: &Dag) {
    let orders = d.add(extract::call());
    d.add(total::call(orders));
}

fn main() {}
