//! Sends one HTTP request to an admin listener.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Time that one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Size of the longest accepted answer, in bytes. The metrics of a few hundred upstreams take less
/// than 1 MiB.
const LONGEST: usize = 8 * 1024 * 1024;

/// An HTTP answer.
pub(super) struct Answer {
    /// True if the status code means success.
    pub(super) ok: bool,
    pub(super) body: String,
}

/// Sends a GET request for `path`.
///
/// # Errors
///
/// Returns an error if no answer in HTTP comes in time.
pub(super) async fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    tokio::time::timeout(ANSWER_TIMEOUT, exchange(address, path))
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
