//! The engine end to end, on the store in memory and the local executor.

use std::time::Duration;

use airflow::app::ClearOptions;
use airflow::dag::TaskOptions;
use airflow::prelude::*;
use airflow::state::{RunState, TaskState};
use airflow::store::MemoryStore;

#[task]
async fn numbers() -> Result<Vec<i64>> {
    Ok(vec![1, 2, 3, 4])
}
#[task]
async fn double(n: i64) -> Result<i64> {
    Ok(n * 2)
}
#[task]
async fn total(all: Vec<i64>) -> Result<i64> {
    Ok(all.iter().sum())
}
#[derive(Serialize, Deserialize, Branch)]
enum Size {
    Small,
    Large,
}
#[task]
async fn size(total: i64) -> Result<Size> {
    Ok(if total > 10 { Size::Large } else { Size::Small })
}
#[task]
async fn small() -> Result<String> {
    Ok("small".into())
}
#[task]
async fn large() -> Result<String> {
    Ok("large".into())
}
#[task]
async fn join(a: Option<String>, b: Option<String>, sum: i64) -> Result<String> {
    Ok(format!("{a:?} {b:?} {sum}"))
}

#[dag]
fn pipeline(d: &Dag) {
    let numbers = d.add(numbers::call());
    let doubled = d.map(numbers, double::call);
    let sum = d.add(total::call(doubled));
    let size = d.add(size::call(sum));
    let small = d.add(small::call());
    let large = d.add(large::call());
    d.branch(size, |s| match s {
        Size::Small => small.into(),
        Size::Large => large.into(),
    });
    d.add(join::call(small, large, sum).when(TriggerRule::NoneFailedMinOneSuccess));
}

#[tokio::test]
async fn a_pipeline_with_mapping_and_a_branch_runs_to_its_end() {
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::new(4))
        .dag(pipeline())
        .build()
        .await
        .unwrap();
    let running = airflow.start();
    let run = airflow.trigger("pipeline").await.unwrap();
    let run = tokio::time::timeout(Duration::from_secs(5), airflow.wait_for(&run.dag_id, &run.run_id))
        .await
        .expect("ends")
        .unwrap();
    let tis = airflow.store().task_instances(run.pk).await.unwrap();
    for ti in &tis {
        println!("{} {} {} {:?}", ti.task_id, ti.map_index, ti.state, ti.data.reason);
    }
    assert_eq!(run.state, RunState::Success);
    let state = |id: &str| tis.iter().find(|ti| ti.task_id == *id).unwrap().state;
    assert_eq!(state("small"), TaskState::Skipped);
    assert_eq!(state("join"), TaskState::Success);
    let filter =
        airflow::store::XComFilter { run: run.pk, tasks: vec!["join".into()], map_index: None, key: None };
    let value = airflow.store().xcoms(&filter).await.unwrap().remove(0).value;
    assert_eq!(value.decode::<String>().unwrap(), "None Some(\"large\") 20");
    running.stop(Duration::from_secs(5)).await.unwrap();
}

/// Goal: the queue of a run is that of its tasks, but for those that name one themselves, also after a clear.
#[tokio::test]
async fn a_run_may_have_a_queue_of_its_own() {
    let defaults = TaskOptions { queue: Some("daily".into()), ..TaskOptions::default() };
    let dag = DagDef::new("routed").default_args(defaults).define(|d| {
        let plain = d.add(numbers::call().id("plain"));
        d.add(total::call(plain).id("own").queue("big"));
    });
    let builder = Airflow::builder().store(MemoryStore::new()).executor(LocalExecutor::new(2));
    let airflow = builder.dag(dag).build().await.unwrap();
    let running = airflow.start();
    let queues = async |run: &airflow::store::RunRow| -> Vec<String> {
        let attempts = airflow.store().attempts(run.pk, None).await.unwrap();
        attempts.into_iter().map(|one| format!("{} {}", one.start.task_id, one.start.queue)).collect()
    };
    let usual = airflow.trigger("routed").run_id("usual").await.unwrap();
    airflow.wait(&usual).await.unwrap();
    assert_eq!(queues(&usual).await, ["own big", "plain daily"]);
    let run = airflow.trigger("routed").run_id("other").queue("gpu").await.unwrap();
    assert_eq!(airflow.wait(&run).await.unwrap().queue.as_deref(), Some("gpu"));
    assert_eq!(queues(&run).await, ["own big", "plain gpu"]);
    airflow.clear(&run.dag_id, &run.run_id, &ClearOptions::default(), "me").await.unwrap();
    airflow.wait(&run).await.unwrap();
    assert_eq!(queues(&run).await, ["own big", "own big", "plain gpu", "plain gpu"]);
    for (queue, why) in [(String::new(), "must have 1 to 250"), ("q".repeat(251), "must have 1 to 250")] {
        let refused = airflow.trigger("routed").queue(queue).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    running.stop(Duration::ZERO).await.unwrap();
}
