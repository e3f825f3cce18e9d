//! The example `distributed`: a scheduler and two workers as processes, over each broker.
#![cfg(all(
    feature = "cli",
    feature = "postgres",
    feature = "redis",
    feature = "rabbitmq",
    feature = "macros",
    feature = "testing"
))]

#[path = "support/example.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use airflow::remote::testing::{BrokerServer, PrivateServer};
use airflow::testing::servers::{Server, TestDatabase};
use serde_json::Value;

/// Goal: one program serves all roles on several machines. Method: the script of the example, on a database and a broker
/// that nobody else uses; both workers must have had a part in it.
async fn works_over(kind: BrokerServer, name: &str) {
    let Some(database) = TestDatabase::on(Server::Postgres).await else {
        return;
    };
    let Some(broker) = PrivateServer::start(kind, &[]) else {
        return kind.missing();
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/distributed/run");
    let mut command = Command::new(script);
    command.arg(name).env("PROGRAM", support::example("distributed").get_program());
    command.env("DATABASE_URL", database.url()).env("BROKER_URL", broker.url());
    let output =
        tokio::task::spawn_blocking(move || support::finished(&mut command)).await.expect("no panic");
    let said = String::from_utf8(output.stdout).expect("it prints text");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{errors}", output.status);

    let months: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).expect("a value");
    assert_eq!(months[1]["city"], "Seattle", "{said}");
    assert_eq!((&months[1]["days"], &months[1]["rainy_days"]), (&31.into(), &22.into()), "{said}");
    for worker in ["one", "two"] {
        let line = said.lines().find(|line| line.trim_start().starts_with(worker));
        let claimed = line.and_then(|line| line.split('|').nth(2)?.trim().parse::<u32>().ok());
        assert!(claimed.is_some_and(|claimed| claimed > 0), "the worker {worker} did nothing:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_redis() {
    works_over(BrokerServer::Redis, "redis").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_rabbitmq() {
    works_over(BrokerServer::Rabbitmq, "rabbitmq").await;
}
