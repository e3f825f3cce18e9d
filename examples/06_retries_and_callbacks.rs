//! What happens to a task that fails, and who hears of it.
//!
//! `cargo run --example 06_retries_and_callbacks`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::future::ready;
use std::time::Duration;

use airflow::callback::IntoCallback;
use airflow::prelude::*;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Any error is tried again while retries are left.
#[task(retries = 3, retry_delay = "10ms")]
async fn flaky(cx: &TaskContext) -> Result<()> {
    match cx.try_number() {
        1 => Err(TaskError::msg("the server is busy")),
        // As above, but the task knows better how long to wait.
        2 => Err(TaskError::retry(Duration::from_millis(1), "the server said: in a moment")),
        _ => Ok(()),
    }
}

/// An error that no retry can heal.
#[task(retries = 3)]
async fn hopeless() -> Result<()> {
    Err(TaskError::fail("no such table"))
}

/// Not an error: there is nothing to do.
#[task]
async fn idle() -> Result<()> {
    Err(TaskError::skip("no new rows"))
}

/// Stopped when its time is over.
#[task(timeout = "20ms")]
async fn endless() -> Result<()> {
    std::future::pending().await
}

/// A callback: any `async fn(CallbackContext)`, or a closure like this one.
fn tell(to: &UnboundedSender<String>) -> impl IntoCallback + use<> {
    let to = to.clone();
    move |cx: CallbackContext| {
        let who =
            cx.task_id.map_or(format!("dag {}", cx.dag_id), |task| format!("{task} (try {})", cx.try_number));
        // Nobody may be listening any more.
        let _ = to.send(format!("{} of {who}: {}", cx.event, cx.reason.as_deref().unwrap_or("-")));
        ready(())
    }
}

#[dag(on_failure = tell(to))]
fn deliveries(d: &Dag, to: &UnboundedSender<String>) {
    d.add(flaky::call().on_retry(tell(to)).on_success(tell(to)));
    d.add(hopeless::call().on_failure(tell(to)));
    d.add(idle::call().on_skipped(tell(to)));
    d.add(endless::call().on_failure(tell(to)));
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (to, mut told) = unbounded_channel();
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::default())
        .dag(deliveries(&to))
        .build()
        .await?;
    let running = airflow.start();
    let run = airflow.wait(&airflow.trigger("deliveries").await?).await?;
    running.stop(secs(5)).await?;

    let mut events = Vec::new();
    while events.len() < 7 {
        events.extend(told.recv().await);
    }
    // Tasks run side by side, so their callbacks come in any order.
    events.sort();
    println!("{}\nthe run ended as {}", events.join("\n"), run.state);
    assert_eq!(run.state, RunState::Failed);
    assert_eq!(airflow.states(&run).await?["flaky"], TaskState::Success);
    Ok(())
}
