//! Data between tasks has types: what does not fit does not compile.
//!
//! An owned parameter of a task is data: the result of an upstream task, or a constant. A borrowed parameter is
//! injected: the context of the attempt, the parameters of the run, or a resource that the application registered.
//!
//! `cargo run --example 02_typed_data`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;

use airflow::prelude::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    currency: String,
    amount: f64,
}

/// A resource: made once, borrowed by every task that asks for it.
struct Rates(BTreeMap<&'static str, f64>);

/// The parameters of a run. Their defaults may be overridden when a run is triggered.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
struct Filter {
    /// Orders below this amount are left out.
    at_least: f64,
}

#[task]
async fn orders(filter: &Params<Filter>) -> Result<Vec<Order>> {
    let order = |id, currency: &str, amount| Order { id, currency: currency.into(), amount };
    let all = [order(1, "USD", 10.0), order(2, "GBP", 20.0), order(3, "USD", 0.5)];
    Ok(all.into_iter().filter(|order| order.amount >= filter.at_least).collect())
}

#[task]
async fn total(orders: Vec<Order>, rates: &Rates) -> Result<f64> {
    let mut sum = 0.0;
    for order in orders {
        // An error by `?` or `TaskError::msg` may be tried again; this one will not get better.
        let Some(rate) = rates.0.get(order.currency.as_str()) else {
            return Err(TaskError::fail(format!("order {}: no rate for {}", order.id, order.currency)));
        };
        sum += order.amount * rate;
    }
    Ok(sum)
}

#[task]
async fn report(orders: Vec<Order>, total: f64, currency: String, cx: &TaskContext) -> Result<String> {
    Ok(format!("{}: {} orders, {total:.2} {currency}", cx.dag_id(), orders.len()))
}

#[dag(params = Filter)]
fn sales(d: &Dag) {
    let orders = d.add(orders::call());
    let total = d.add(total::call(orders));
    d.add(report::call(orders, total, "EUR"));
    // d.add(total::call(total));
    //   error: this task input wants `Vec<Order>` but was given `Handle<'_, f64>`
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::default())
        .resource(Rates(BTreeMap::from([("USD", 0.9), ("GBP", 1.2)])))
        .dag(sales())
        .build()
        .await?;
    let running = airflow.start();

    let run = airflow.wait(&airflow.trigger("sales").await?).await?;
    let all: String = airflow.result(&run, "report").await?;

    let run = airflow.trigger("sales").conf(&Filter { at_least: 1.0 }).await?;
    let large: String = airflow.result(&airflow.wait(&run).await?, "report").await?;

    // A conf that does not fit is refused before anything runs.
    let refused = airflow.trigger("sales").conf("everything").await.expect_err("a text is no filter");
    running.stop(secs(5)).await?;

    println!("{all}\n{large}\nrefused: {refused}");
    assert_eq!(all, "sales: 3 orders, 33.45 EUR");
    assert_eq!(large, "sales: 2 orders, 33.00 EUR");
    Ok(())
}
