//! Asks a worker for a part of a log.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, RANGE};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::TcpStream;

use super::PART;
use airflow_core::secret::Secret;

/// How long a worker may take to answer; Airflow's `log_fetch_timeout_sec`.
const PATIENCE: Duration = Duration::from_secs(5);

/// What stands in a path as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'_').remove(b'-').remove(b'~');

/// The bytes of a file from this one on; none if there are no more, or no such file.
pub(super) async fn ask(address: &str, ticket: &Secret, path: &str, from: u64) -> Result<Vec<u8>, String> {
    let asked = tokio::time::timeout(PATIENCE, exchange(address, ticket, path, from)).await;
    match asked {
        Ok(Ok((StatusCode::PARTIAL_CONTENT, bytes))) => Ok(bytes),
        Ok(Ok((StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE, _))) => Ok(Vec::new()),
        Ok(Ok((status, said))) => {
            Err(format!("{address} answers {status}: {:.300}", String::from_utf8_lossy(&said)))
        }
        Ok(Err(why)) => Err(format!("{address}: {why}")),
        Err(_) => Err(format!("{address} does not answer within {} s", PATIENCE.as_secs())),
    }
}

async fn exchange(
    address: &str,
    ticket: &Secret,
    path: &str,
    from: u64,
) -> Result<(StatusCode, Vec<u8>), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(format!("/log/{}", utf8_percent_encode(path, PLAIN)))
        .header(HOST, address)
        .header(AUTHORIZATION, ticket.expose())
        .header(RANGE, format!("bytes={from}-"))
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let limit = usize::try_from(PART).unwrap_or(usize::MAX);
        let body = Limited::new(body, limit).collect().await?;
        Ok((head.status, body.to_bytes().to_vec()))
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // It ends with its last byte, which may still be on its way to the answer.
        _ = connection => answer.await,
    }
}
