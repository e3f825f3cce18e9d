//! Tests of dags: of a task, of a whole run, of days of schedule. Nothing waits, nothing is left behind.
//!
//! `cargo test --example 11_testing`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use airflow::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    cents: i64,
}

/// A client of a shop: tests have none.
struct Shop;

#[task(retries = 2, retry_delay = "5m")]
async fn orders(shop: &Shop) -> Result<Vec<Order>> {
    let Shop = shop;
    Err(TaskError::msg("the shop is closed"))
}

#[task]
async fn price(order: Order, percent: i64) -> Result<i64> {
    Ok(order.cents * percent / 100)
}

#[task]
async fn total(prices: Vec<i64>) -> Result<i64> {
    Ok(prices.iter().sum())
}

#[dag(schedule = "0 6 * * *", timezone = "Europe/Paris", start_date = "2026-01-01")]
fn sales(d: &Dag) {
    let orders = d.add(orders::call());
    let prices = d.map(orders, |order| price::call(order, 90));
    d.add(total::call(prices));
}

fn main() {
    println!("run the tests of `{}` with `cargo test --example 11_testing`", sales().id());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task is still a function.
    #[tokio::test]
    async fn a_price_is_reduced() {
        assert_eq!(price(Order { cents: 200 }, 50).await.unwrap(), 100);
    }

    /// One run, with something else in place of the task that needs the shop.
    #[tokio::test]
    async fn a_run_sums_up_the_prices() {
        let test = DagTest::new(sales()).at("2026-03-02T06:00+01:00");
        let run = test.mock::<orders>(|_| Ok(vec![Order { cents: 500 }, Order { cents: 100 }])).run().await;
        run.assert_success();
        assert_eq!(run.outputs::<price>(), [450, 90]);
        assert_eq!(run.output::<total>(), Some(540));
    }

    /// Ten minutes of retries take no time.
    #[tokio::test]
    async fn a_closed_shop_is_asked_three_times() {
        let run = DagTest::new(sales()).resource(Shop).run().await;
        run.assert_failed();
        assert_eq!(run.tries_of::<orders>(), 3);
        assert_eq!(run.state_of::<total>(), TaskState::UpstreamFailed);
    }

    /// Days of schedule: the real scheduler, on a clock that moves by itself.
    #[tokio::test]
    async fn it_runs_at_six_even_when_the_clocks_change() {
        let sim = Sim::new([sales()]).mock::<orders>(|_| Ok(Vec::new())).start("2026-03-27T12:00Z").await;
        sim.advance(days(4)).await;
        // The first one was due six hours before the start; those before it are passed over.
        let times = sim.runs("sales").local_times();
        assert_eq!(times, ["03-27 06:00", "03-28 06:00", "03-29 06:00", "03-30 06:00", "03-31 06:00"]);
    }
}
