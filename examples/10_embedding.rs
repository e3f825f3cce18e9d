//! A web service that carries the scheduler: no other process, no other service.
//!
//! `POST /orders` triggers a run, `GET /runs/{id}` shows how far it is. Without an address this example starts on a free
//! port, sends itself a few requests and stops.
//!
//! `cargo run --example 10_embedding -- 127.0.0.1:8080`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use airflow::prelude::*;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
struct Order {
    id: u64,
    articles: Vec<String>,
}

#[task]
async fn check(order: &Params<Order>) -> Result<Vec<String>> {
    if order.articles.is_empty() {
        return Err(TaskError::fail(format!("order {} is empty", order.id)));
    }
    Ok(order.articles.clone())
}

#[task(retries = 5, retry_delay = "1s")]
async fn pack(article: String) -> Result<usize> {
    Ok(article.len())
}

#[task]
async fn ship(weights: Vec<usize>, order: &Params<Order>) -> Result<String> {
    Ok(format!("order {}: {} kg", order.id, weights.iter().sum::<usize>()))
}

#[dag(params = Order)]
fn fulfil(d: &Dag) {
    let articles = d.add(check::call());
    let packed = d.map(articles, pack::call);
    d.add(ship::call(packed));
}

type Answer<T> = Result<Json<T>, (StatusCode, String)>;

fn refuse(status: StatusCode) -> impl Fn(&dyn std::fmt::Display) -> (StatusCode, String) {
    move |error| (status, error.to_string())
}

/// The id of the order names the run: an order that is sent twice is fulfilled once.
async fn place_order(State(airflow): State<Airflow>, Json(order): Json<Order>) -> Answer<String> {
    let run = airflow.trigger("fulfil").run_id(format!("order-{}", order.id)).conf(&order);
    let run = run.await.map_err(|error| refuse(StatusCode::CONFLICT)(&error))?;
    Ok(Json(run.run_id.to_string()))
}

#[derive(Serialize)]
struct Progress {
    state: RunState,
    tasks: BTreeMap<String, TaskState>,
}

async fn progress(State(airflow): State<Airflow>, Path(id): Path<String>) -> Answer<Progress> {
    let run = airflow.run(&"fulfil".into(), &id.into()).await;
    let run = run.map_err(|error| refuse(StatusCode::NOT_FOUND)(&error))?;
    let tasks = airflow.states(&run).await;
    let tasks = tasks.map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR)(&error))?;
    Ok(Json(Progress { state: run.state, tasks }))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let airflow = Airflow::builder()
        // `SqliteStore::open("orders.db").await?` in a real service: orders survive a restart.
        .store(MemoryStore::new())
        .executor(LocalExecutor::default())
        .dag(fulfil())
        .build()
        .await?;
    let running = airflow.start();

    let routes = Router::new().route("/orders", post(place_order)).route("/runs/{id}", get(progress));
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:0")).await?;
    let (at, host) = (listener.local_addr()?, airflow.clone());
    let (tell, told) = oneshot::channel();
    axum::serve(listener, routes.with_state(airflow))
        .with_graceful_shutdown(async move {
            let end = match address {
                Some(_) => tokio::signal::ctrl_c().await,
                None => visit(at, &host).await,
            };
            let _ = tell.send(end);
        })
        .await?;
    // First no more requests, then no more attempts: those that run get ten seconds to end.
    running.stop(secs(10)).await?;
    Ok(told.await??)
}

/// Plays a customer.
async fn visit(at: SocketAddr, airflow: &Airflow) -> std::io::Result<()> {
    let order = r#"{"id": 7, "articles": ["tea", "cup"]}"#;
    let placed = request(at, "POST", "/orders", order).await?;
    let again = request(at, "POST", "/orders", order).await?;
    let ended = airflow.wait_for(&"fulfil".into(), &"order-7".into()).await.map_err(std::io::Error::other)?;
    let shown = request(at, "GET", "/runs/order-7", "").await?;
    println!("{placed}\n{again}\n{shown}");

    assert_eq!(placed, "200 \"order-7\"");
    assert!(again.starts_with("409 "), "{again}");
    assert_eq!(ended.state, RunState::Success);
    let tasks = r#"{"check":"success","pack[0]":"success","pack[1]":"success","ship":"success"}"#;
    assert_eq!(shown, format!(r#"200 {{"state":"success","tasks":{tasks}}}"#));
    Ok(())
}

/// The least that can be called an HTTP client: the status and the body of the answer.
async fn request(at: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at).await?;
    let head = "host: shop\r\nconnection: close\r\ncontent-type: application/json";
    let text = format!("{method} {path} HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    Ok(format!("{status} {}", answer.split("\r\n\r\n").nth(1).unwrap_or_default()))
}
