//! One HTTP request to an admin listener.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The longest answer: a few hundred upstreams have less than a megabyte of metrics.
const LONGEST: usize = 8 * 1024 * 1024;

/// An answer.
pub(super) struct Answer {
    /// Whether the status code is one of success.
    pub(super) ok: bool,
    pub(super) body: String,
}

/// GETs a path.
///
/// # Errors
///
/// Nobody answers, not in time, or not in HTTP.
pub(super) async fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    tokio::time::timeout(PATIENCE, exchange(address, path))
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 3 s")))
}

async fn exchange(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    let (mut requests, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header(hyper::header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = requests.send_request(request).await.map_err(io::Error::other)?;
    let ok = response.status().is_success();
    let body =
        Limited::new(response.into_body(), LONGEST).collect().await.map_err(io::Error::other)?.to_bytes();
    connection.abort();
    Ok(Answer { ok, body: String::from_utf8_lossy(&body).into_owned() })
}
