//! The smallest dag: two tasks, the second one gets what the first one returned.
//!
//! `cargo run --example 01_hello`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use airflow::prelude::*;

/// A task is an async function. It stays one: you can still call it, in a unit test for instance.
#[task]
async fn name() -> Result<String> {
    Ok("world".into())
}

#[task]
async fn greet(name: String) -> Result<String> {
    Ok(format!("Hello, {name}!"))
}

/// `call` makes a task of the function, `add` puts it into the dag. The handle of one task is the input of another.
#[dag]
fn hello(d: &Dag) {
    let name = d.add(name::call());
    d.add(greet::call(name));
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Mistakes in the dags show here, all at once: unknown resources, cycles, bad schedules, ids that exist twice.
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::default())
        .dag(hello())
        .build()
        .await?;

    let running = airflow.start();
    let run = airflow.trigger("hello").await?;
    let run = airflow.wait(&run).await?;
    running.stop(secs(5)).await?;

    let greeting: String = airflow.result(&run, "greet").await?;
    println!("the run ended as {}: {greeting}", run.state);
    assert_eq!(run.state, RunState::Success);
    assert_eq!(greeting, "Hello, world!");
    Ok(())
}
