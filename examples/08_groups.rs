//! Order without data, and groups of tasks.
//!
//! `cargo run --example 08_groups`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Mutex;

use airflow::dag::TaskOptions;
use airflow::prelude::*;

/// Remembers which tasks ran, in their order.
#[derive(Default)]
struct Diary(Mutex<Vec<String>>);

#[task]
async fn step(cx: &TaskContext, diary: &Diary) -> Result<()> {
    diary.0.lock().expect("nobody panics while writing").push(cx.task_id().to_string());
    Ok(())
}

#[task(trigger_rule = "all_done")]
async fn read_diary(diary: &Diary) -> Result<Vec<String>> {
    Ok(diary.0.lock().expect("nobody panics while writing").clone())
}

#[dag]
fn house(d: &Dag) {
    let plan = d.add(step::call().id("plan"));

    // The id of the group stands in front of the ids of its tasks: `walls.north`. The closure may return handles.
    let (north, south) = d.group("walls", |d| {
        let north = d.add(step::call().id("north"));
        let south = d.add(step::call().id("south"));
        north >> south;
        (north, south)
    });
    plan >> north;

    // With options for its tasks. An edge to the group goes to its first tasks, an edge from it leaves its last ones.
    let roof =
        TaskGroup::new("roof").tooltip("Needs good weather").default_args(TaskOptions::new().retries(3));
    let (roof, ()) = d.add_group(roof, |d| {
        d.add(step::call().id("beams")) >> d.add(step::call().id("tiles"));
    });
    south >> label("dry walls") >> roof >> d.add(read_diary::call());
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::default())
        .resource(Diary::default())
        .dag(house())
        .build()
        .await?;
    let running = airflow.start();
    let run = airflow.wait(&airflow.trigger("house").await?).await?;
    running.stop(secs(5)).await?;

    let diary: Vec<String> = airflow.result(&run, "read_diary").await?;
    println!("{}", diary.join(" > "));
    assert_eq!(diary, ["plan", "walls.north", "walls.south", "roof.beams", "roof.tiles"]);
    Ok(())
}
