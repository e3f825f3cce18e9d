//! Serves the log files of a worker, to bearers of tickets.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use airflow_core::time::Clock;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT_RANGES, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderName, RANGE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use super::LogServerOptions;
use super::range::{Part, Range, read};
use super::ticket;
use crate::remote::signer::Signer;
use crate::remote::worker::{Serves, WorkerError};

/// How many connections there are at once: readers of logs are few, and each may hold a part of a file in memory.
const MOST_CONNECTIONS: usize = 32;

/// How long a connection may last, from its first byte to the last of the answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most bytes of a head of a request: a ticket has a few hundred.
const HEAD: usize = 64 * 1024;

/// How long to wait after no connection could be taken: there are too many open files, say.
const PAUSE: Duration = Duration::from_millis(100);

/// How many refusals are told of in one minute: whoever can reach the port must not be able to fill the disk with them.
const TOLD: u32 = 30;
const MINUTE: Duration = Duration::from_secs(60);

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(in crate::remote) struct LogServer {
    address: String,
    serving: JoinHandle<()>,
}

struct Shared {
    worker: String,
    folder: PathBuf,
    signer: Signer,
    clock: Arc<dyn Clock>,
    /// Since when refusals are counted, and how many there were.
    refusals: Mutex<(Duration, u32)>,
}

impl LogServer {
    /// Begins to serve.
    pub(in crate::remote) async fn start(
        options: &LogServerOptions,
        what: Serves<'_>,
    ) -> Result<Self, WorkerError> {
        let Some(folder) = what.folder else {
            let why = "the worker is to serve its logs, and writes none: give it a folder for them";
            return Err(WorkerError::Invalid(why.to_owned()));
        };
        let listener = listen(options).await.map_err(|error| {
            let place = format!("{}:{}", options.host, options.port);
            WorkerError::Invalid(format!("the worker cannot serve its logs at {place}: {error}"))
        })?;
        let at = listener.local_addr().map_err(|error| WorkerError::Invalid(error.to_string()))?;
        let address = options.advertised(at, what.machine);
        let shared = Shared {
            worker: what.worker.to_owned(),
            folder: folder.to_owned(),
            signer: what.signer.clone(),
            clock: Arc::clone(what.clock),
            refusals: Mutex::default(),
        };
        tracing::info!(%at, address, "the worker serves its logs");
        Ok(Self { address, serving: tokio::spawn(serve(listener, Arc::new(shared))) })
    }

    /// By which others reach it.
    pub(in crate::remote) fn address(&self) -> String {
        self.address.clone()
    }
}

impl Drop for LogServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn listen(options: &LogServerOptions) -> std::io::Result<TcpListener> {
    if !options.host.is_empty() {
        return TcpListener::bind((options.host.as_str(), options.port)).await;
    }
    // Both kinds of addresses, where there are both.
    match TcpListener::bind(("::", options.port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(("0.0.0.0", options.port)).await,
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    // Dropped with this, and with it all connections.
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let _permit = permit;
                    let _ = tokio::time::timeout(PATIENCE, attend(stream, peer, &shared)).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a reader of logs cannot be let in");
                tokio::time::sleep(PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn attend(stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>) {
    let service = service_fn(|request: Request<Incoming>| {
        let shared = Arc::clone(shared);
        async move { Ok::<_, Infallible>(answer(&shared, peer, &request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false).max_buf_size(HEAD);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%peer, %error, "a reader of logs has broken off");
    }
}

async fn answer(shared: &Shared, peer: SocketAddr, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return said(StatusCode::METHOD_NOT_ALLOWED, "logs are only read");
    }
    let path = request.uri().path().strip_prefix("/log/").map(|path| percent_decode_str(path).decode_utf8());
    let Some(Ok(path)) = path else { return said(StatusCode::NOT_FOUND, "there is only /log/<file>") };
    let head = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let now = shared.clock.now();
    let may = ticket::check(&shared.signer, head(AUTHORIZATION), &shared.worker, &path, now);
    if let Err(refusal) = may {
        shared.tell(peer, &path, &refusal);
        return said(
            StatusCode::FORBIDDEN,
            "no ticket for this file; the log of the worker says what is wrong",
        );
    }
    let Some(Ok(range)) = head(RANGE).map(str::parse::<Range>) else {
        return said(StatusCode::BAD_REQUEST, "say which part: `Range: bytes=0-`");
    };
    let (folder, path) = (shared.folder.clone(), path.into_owned());
    let part = tokio::task::spawn_blocking(move || read(&folder, &path, range)).await;
    match part {
        Ok(Ok(Some(part))) => of_part(part),
        Ok(Ok(None)) => said(StatusCode::NOT_FOUND, "there is no such log"),
        Ok(Err(error)) => said(StatusCode::INTERNAL_SERVER_ERROR, format!("it cannot be read: {error}")),
        Err(_) => said(StatusCode::INTERNAL_SERVER_ERROR, "it cannot be read"),
    }
}

fn of_part(Part { from, length, bytes }: Part) -> Response<Full<Bytes>> {
    let (status, range) = if bytes.is_empty() {
        (StatusCode::RANGE_NOT_SATISFIABLE, format!("bytes */{length}"))
    } else {
        let last = from + bytes.len() as u64 - 1;
        (StatusCode::PARTIAL_CONTENT, format!("bytes {from}-{last}/{}", length.max(last + 1)))
    };
    let answer = Response::builder().status(status).header(CONTENT_RANGE, range);
    let answer = answer.header(ACCEPT_RANGES, "bytes").header(CONTENT_TYPE, "text/plain; charset=utf-8");
    answer.body(Full::from(bytes)).expect("numbers are fit for a header")
}

fn said(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer
}

impl Shared {
    /// Tells of a refusal, unless there were many just now.
    fn tell(&self, peer: SocketAddr, path: &str, refusal: &ticket::Refusal) {
        let now = self.clock.elapsed();
        let count = {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if now >= refusals.0 + MINUTE {
                *refusals = (now, 0);
            }
            refusals.1 += 1;
            refusals.1
        };
        if count <= TOLD {
            // As text in quotes: nobody writes lines of his own into the log of the worker.
            let path: String = path.chars().take(300).collect();
            tracing::warn!(%peer, ?path, reason = %refusal, "a reader of logs was refused");
        }
        if count == TOLD {
            tracing::warn!(
                "there are many refused readers of logs; those of this minute are not told of any more"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use airflow_core::secret::Secret;
    use airflow_core::time::SystemClock;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::{PART, client};
    use super::*;

    const FILE: &str = "dag_id=a/run_id=manual__2026-01-01T00:00:00+00:00/attempt=1.log";

    fn signer(key: &str) -> Signer {
        Signer::new(&[Secret::new(key.to_owned())]).unwrap()
    }

    struct Ground {
        server: LogServer,
        signer: Signer,
        folder: tempfile::TempDir,
    }

    impl Ground {
        async fn new(text: &[u8]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("logs").join(FILE);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, text).unwrap();
            let signer = signer("a key of many bytes");
            let clock: Arc<dyn Clock> = Arc::new(SystemClock);
            let logs = folder.path().join("logs");
            let what =
                Serves { worker: "w", machine: "here", folder: Some(&logs), signer: &signer, clock: &clock };
            let options =
                LogServerOptions { host: "127.0.0.1".into(), port: 0, ..LogServerOptions::default() };
            let server = LogServer::start(&options, what).await.unwrap();
            Self { server, signer, folder }
        }

        fn ticket(&self, worker: &str, path: &str) -> Secret {
            ticket::write(&self.signer, worker, path, SystemClock.now()).unwrap()
        }

        /// Reads a file with a ticket for another one.
        async fn ask(&self, ticket: &Secret, path: &str, from: u64) -> Result<Vec<u8>, String> {
            client::ask(&self.server.address(), ticket, path, from).await
        }

        /// Status and body of the answer to a request with these lines.
        async fn say(&self, first: &str, ticket: &Secret, more: &str) -> (u16, String) {
            let mut stream = TcpStream::connect(self.server.address()).await.unwrap();
            let ticket = ticket.expose();
            let request = format!("{first} HTTP/1.1\r\nHost: w\r\nAuthorization: {ticket}\r\n{more}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
            (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
        }
    }

    /// Goal: a file is read whole, part by part, while it grows, and no other way than with a ticket for it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_is_read_part_by_part() {
        let mut text: Vec<u8> = (0..2 * PART + 100).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect();
        let ground = Ground::new(&text).await;
        let (ticket, mut read) = (ground.ticket("w", FILE), Vec::new());
        loop {
            let part = ground.ask(&ticket, FILE, read.len() as u64).await.unwrap();
            assert!(part.len() as u64 <= PART);
            if part.is_empty() {
                break;
            }
            read.extend(part);
        }
        assert!(read == text);
        text.extend(b"more");
        std::fs::write(ground.folder.path().join("logs").join(FILE), &text).unwrap();
        assert_eq!(ground.ask(&ticket, FILE, read.len() as u64).await.unwrap(), b"more");
        let end = ground.say(&format!("GET /log/{FILE}"), &ticket, "Range: bytes=-6\r\n").await;
        assert_eq!(end, (206, String::from_utf8(text[text.len() - 6..].to_vec()).unwrap()));
    }

    /// Goal: whoever has no ticket for a file gets 403, whatever file there is; with one for a file outside, 404.
    #[tokio::test(flavor = "multi_thread")]
    async fn only_the_bearer_of_a_ticket_reads() {
        let ground = Ground::new(b"the log").await;
        std::fs::write(ground.folder.path().join("secret"), b"secret").unwrap();
        let good = ground.ticket("w", FILE);
        let stale = SystemClock.now() - chrono::TimeDelta::minutes(5);
        let other_key = signer("the key of somebody else");
        let wrong = [
            (Secret::new(String::new()), FILE),
            (ground.ticket("v", FILE), FILE),
            (ground.ticket("w", "dag_id=b.log"), FILE),
            (good.clone(), "dag_id=b.log"),
            (good.clone(), "../secret"),
            (ticket::write(&ground.signer, "w", FILE, stale).unwrap(), FILE),
            (ticket::write(&other_key, "w", FILE, SystemClock.now()).unwrap(), FILE),
        ];
        for (ticket, path) in wrong {
            let refused = ground.ask(&ticket, path, 0).await.unwrap_err();
            assert!(refused.contains("403 Forbidden"), "{path}: {refused}");
        }
        for path in ["../secret", "dag_id=a/../../secret", "/etc/passwd", "dag_id=a", "no.log"] {
            let ticket = ground.ticket("w", path);
            assert_eq!(ground.ask(&ticket, path, 0).await.unwrap(), b"", "{path}");
        }
        for (first, more, status) in [
            (format!("GET /log/{FILE}"), "Range: bytes=0-\r\n", 206),
            (format!("GET /log/{FILE}"), "", 400),
            (format!("GET /log/{FILE}"), "Range: bytes=99-\r\n", 416),
            (format!("POST /log/{FILE}"), "Content-Length: 0\r\n", 405),
            ("GET /".to_owned(), "", 404),
            ("GET /log/%ff".to_owned(), "", 404),
        ] {
            assert_eq!(ground.say(&first, &good, more).await.0, status, "{first} {more}");
        }
        assert_eq!(ground.ask(&good, FILE, 4).await.unwrap(), b"log", "it was good all the time");
    }

    #[tokio::test]
    async fn a_worker_without_logs_serves_none() {
        let (signer, clock): (_, Arc<dyn Clock>) = (signer("a key of many bytes"), Arc::new(SystemClock));
        let what = Serves { worker: "w", machine: "here", folder: None, signer: &signer, clock: &clock };
        let error = LogServer::start(&LogServerOptions::default(), what).await.unwrap_err();
        assert!(error.to_string().contains("give it a folder"), "{error}");
    }
}
