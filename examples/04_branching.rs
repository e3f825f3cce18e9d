//! Tasks that decide which tasks run.
//!
//! A task returns an enum; `d.branch` says where each variant leads, and the compiler proves that none is forgotten.
//!
//! `cargo run --example 04_branching`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use airflow::prelude::*;

#[derive(Debug, Serialize, Deserialize, JsonSchema, Default)]
struct Delivery {
    rows: u32,
    holiday: bool,
}

#[derive(Serialize, Deserialize, Branch)]
enum Load {
    Full,
    Incremental,
    Nothing,
}

#[task]
async fn choose(delivery: &Params<Delivery>) -> Result<Load> {
    Ok(match delivery.rows {
        0 => Load::Nothing,
        1..1000 => Load::Incremental,
        _ => Load::Full,
    })
}

#[task]
async fn load_all() -> Result<String> {
    Ok("all rows".into())
}

#[task]
async fn load_new() -> Result<String> {
    Ok("the new rows".into())
}

/// A task that was skipped left nothing: `Option` says that this one can live with it.
#[task(trigger_rule = "none_failed_min_one_success")]
async fn publish(all: Option<String>, new: Option<String>) -> Result<String> {
    Ok(all.or(new).unwrap_or_default())
}

#[task]
async fn is_workday(delivery: &Params<Delivery>) -> Result<bool> {
    Ok(!delivery.holiday)
}

#[task]
async fn ring_the_bell() -> Result<()> {
    Ok(())
}

#[dag(params = Delivery)]
fn nightly(d: &Dag) {
    let (all, new) = (d.add(load_all::call()), d.add(load_new::call()));
    d.branch(d.add(choose::call()), |load| match load {
        Load::Full => all.into(),
        Load::Incremental => new.into(),
        Load::Nothing => Nodes::none(),
    });
    let published = d.add(publish::call(all, new));

    // For a plain yes or no: everything after it is skipped if it returns `false`.
    let workday = d.short_circuit(d.add(is_workday::call()));
    [published.node(), workday.node()] >> d.add(ring_the_bell::call());
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::default())
        .dag(nightly())
        .build()
        .await?;
    let running = airflow.start();

    let mut seen = Vec::new();
    for (rows, holiday) in [(5000, false), (10, true), (0, false)] {
        let run = airflow.trigger("nightly").conf(&Delivery { rows, holiday }).await?;
        let run = airflow.wait(&run).await?;
        let states = airflow.states(&run).await?;
        let ran = ["load_all", "load_new", "publish", "ring_the_bell"]
            .map(|task| if states[task] == TaskState::Success { task } else { "-" });
        println!("{rows:>4} rows, holiday {holiday:<5}: {}", ran.join(" "));
        assert_eq!(run.state, RunState::Success);
        seen.push(ran);
    }
    running.stop(secs(5)).await?;

    assert_eq!(seen[0], ["load_all", "-", "publish", "ring_the_bell"]);
    assert_eq!(seen[1], ["-", "load_new", "publish", "-"]);
    assert_eq!(seen[2], ["-", "-", "-", "-"]);
    Ok(())
}
