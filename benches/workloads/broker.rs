//! The broker of a workload, what it allows, and worker processes behind it.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use airflow::prelude::*;
use airflow::remote::rabbitmq::{RabbitmqOptions, RabbitmqTransport};
use airflow::remote::redis::{RedisOptions, RedisTransport};
use airflow::remote::testing::BrokerServer;
use airflow::remote::{ConsumeOptions, Message, Settle, Transport, Worker, WorkerOptions};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::args::{Args, ExecutorKind};
use crate::dags::{Mark, dags, take_marks};
use crate::place::Place;

/// How many messages are timed.
const MESSAGES: usize = 300;

/// The size of an envelope.
const SIZE: usize = 160;

/// What a broker allows, in microseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct BrokerLimits {
    /// The median of publishing one message until the broker keeps it.
    pub(crate) confirm_us: f64,
    /// The median of the way of one message to a consumer.
    pub(crate) way_us: f64,
}

/// Says to a process that it is a worker, and of what.
pub(crate) const WORKER: &str = "AIRFLOW_BENCH_WORKER";

/// What a worker process has to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Orders {
    args: Args,
    place: Place,
    prefix: String,
    name: String,
}

/// A broker under a prefix of one's own.
pub(crate) fn transport(kind: ExecutorKind, prefix: &str) -> Arc<dyn Transport> {
    let server = if kind == ExecutorKind::Redis { BrokerServer::Redis } else { BrokerServer::Rabbitmq };
    let url =
        server.address().unwrap_or_else(|| panic!("no broker: set {} to its address", server.variable()));
    if kind == ExecutorKind::Redis {
        Arc::new(RedisTransport::new(&RedisOptions::new(url).prefix(prefix)).expect("a broker"))
    } else {
        Arc::new(RabbitmqTransport::new(&RabbitmqOptions::new(url).prefix(prefix)).expect("a broker"))
    }
}

/// Times the way of a message, one after the other.
pub(crate) async fn limits(transport: &dyn Transport) -> BrokerLimits {
    let options = ConsumeOptions { queues: vec!["limits".into()], name: "limits".into(), prefetch: 10 };
    let consumer = transport.consume(options);
    let (mut confirms, mut ways) = (Vec::new(), Vec::new());
    for at in 0..=MESSAGES {
        let begun = Instant::now();
        let message = Message { queue: "limits".into(), body: vec![7; SIZE] };
        let sending = async {
            for result in transport.publish(vec![message]).await {
                result.expect("the broker keeps it");
            }
            begun.elapsed()
        };
        let receiving = async { (consumer.receive(1).await, begun.elapsed()) };
        let (confirm, (deliveries, way)) = tokio::join!(sending, receiving);
        let tokens = deliveries.iter().map(|delivery| delivery.token).collect();
        consumer.settle(tokens, Settle::Done).await.expect("it is settled");
        // The first one waits for connections.
        if at > 0 {
            confirms.push(confirm);
            ways.push(way);
        }
    }
    consumer.close().await;
    BrokerLimits { confirm_us: median_us(confirms), way_us: median_us(ways) }
}

fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// A worker process that takes work.
pub(crate) struct WorkerProcess {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl WorkerProcess {
    /// Returns when it is ready.
    pub(crate) async fn start(args: &Args, place: &Place, prefix: &str, at: usize) -> Self {
        let name = format!("bench-{}-{at}", std::process::id());
        let orders = Orders { args: args.clone(), place: place.clone(), prefix: prefix.to_owned(), name };
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .env(WORKER, serde_json::to_string(&orders).expect("plain data"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a worker");
        let stdin = child.stdin.take().expect("it is piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut ready = String::new();
        stdout.read_line(&mut ready).await.expect("the worker speaks");
        assert_eq!(ready, "ready\n", "the worker did not start");
        Self { child, stdin, stdout }
    }

    /// Ends it; returns what its bodies noted.
    pub(crate) async fn stop(mut self) -> Vec<Mark> {
        drop(self.stdin);
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).await.expect("the worker speaks");
        self.child.wait().await.expect("the worker ends");
        serde_json::from_str(&text).expect("marks")
    }
}

/// The life of a worker process: it works until its input ends.
pub(crate) async fn work(orders: &str) {
    let Orders { args, place, prefix, name } = serde_json::from_str(orders).expect("orders");
    let airflow = Airflow::builder()
        .shared_store(place.open().await.shared())
        .dags(dags(args.workload, args.size()))
        .build()
        .await
        .expect("sound dags");
    let options = WorkerOptions { name: Some(name), slots: args.slots, ..WorkerOptions::default() };
    let worker = Worker::start(&airflow, transport(args.executor, &prefix), options).await.expect("a worker");
    let mut out = tokio::io::stdout();
    out.write_all(b"ready\n").await.expect("somebody listens");
    out.flush().await.expect("somebody listens");
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await.expect("somebody speaks");
    worker.stop(Duration::from_secs(5)).await.expect("a clean end");
    let marks = serde_json::to_vec(&take_marks()).expect("numbers");
    out.write_all(&marks).await.expect("somebody listens");
    out.flush().await.expect("somebody listens");
}
