//! Something that is made before the work and taken down after it, whatever became of the work.
//!
//! `cargo run --example 09_setup_teardown`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use airflow::prelude::*;

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
struct Luck {
    no_cluster: bool,
    bad_query: bool,
}

#[task]
async fn make_cluster(luck: &Params<Luck>) -> Result<String> {
    if luck.no_cluster { Err(TaskError::fail("no machine is free")) } else { Ok("cluster-7".into()) }
}

#[task]
async fn query(cluster: String, luck: &Params<Luck>) -> Result<String> {
    if luck.bad_query { Err(TaskError::fail("syntax error")) } else { Ok(format!("42 rows from {cluster}")) }
}

#[task]
async fn drop_cluster(cluster: String) -> Result<String> {
    Ok(format!("dropped {cluster}"))
}

#[dag(params = Luck)]
fn analysis(d: &Dag) {
    let cluster = d.add(make_cluster::call().setup());
    let rows = d.add(query::call(cluster));
    // Runs once the tasks between are finished, even if they failed, but only if the setup succeeded.
    let dropped = d.add(drop_cluster::call(cluster).teardown_of(cluster));
    rows >> dropped;
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::default())
        .dag(analysis())
        .build()
        .await?;
    let running = airflow.start();
    let mut lines = Vec::new();
    for (no_cluster, bad_query) in [(false, false), (false, true), (true, false)] {
        let run = airflow.trigger("analysis").conf(&Luck { no_cluster, bad_query }).await?;
        let run = airflow.wait(&run).await?;
        let states = airflow.states(&run).await?;
        let states = ["make_cluster", "query", "drop_cluster"].map(|task| format!("{task} {}", states[task]));
        lines.push(format!("{}: {}", run.state, states.join(", ")));
    }
    running.stop(secs(5)).await?;

    println!("{}", lines.join("\n"));
    // A teardown that succeeds hides no failure.
    assert_eq!(lines[0], "success: make_cluster success, query success, drop_cluster success");
    assert_eq!(lines[1], "failed: make_cluster success, query failed, drop_cluster success");
    assert_eq!(lines[2], "failed: make_cluster failed, query upstream_failed, drop_cluster upstream_failed");
    Ok(())
}
