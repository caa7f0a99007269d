//! Sends HTTP requests to the admin listener or the control socket of a running respgate.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

use crate::net::tls::client::{ClientProfile, ClientTls};
use crate::net::tls::names::{Names, server_name};
use crate::net::tls::trust::Trust;
use crate::secret::Secret;
use crate::topology::Address;

/// Size of the longest accepted answer, in bytes. The list of 10,000 clients takes about 8 MiB, and the metrics of a
/// few hundred upstreams less than 1 MiB.
const LONGEST: usize = 128 * 1024 * 1024;

/// Where a running respgate answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The admin listener.
    Admin(SocketAddr),
    /// The control socket.
    Socket(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin(address) => address.fmt(f),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    /// The body. Bytes that are not UTF-8 are replaced.
    pub body: String,
}

/// How to reach a running respgate.
#[derive(Clone, Debug)]
pub struct AdminClient {
    /// Where it answers.
    pub endpoint: Endpoint,
    /// The token that each request carries.
    pub token: Option<Secret>,
    /// How to speak TLS with the admin listener; `None` speaks plain HTTP.
    pub tls: Option<ClientTls>,
}

impl AdminClient {
    /// Sends a GET request for `path`.
    ///
    /// # Errors
    /// Returns an error if no answer in HTTP comes within `limit`, or if the token has bytes that no header can hold.
    pub async fn get(&self, path: &str, limit: Duration) -> io::Result<Answer> {
        let request = self.request(Method::GET, path, String::new())?;
        within(limit, async { collect(self.respond(request).await?).await }).await
    }

    /// Sends a POST request with a JSON body.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post(&self, path: &str, body: String, limit: Duration) -> io::Result<Answer> {
        let request = self.request(Method::POST, path, body)?;
        within(limit, async { collect(self.respond(request).await?).await }).await
    }

    /// As [`Self::post`], but calls `use_line` with each line of a good answer as it comes, until the answer ends or `use_line`
    /// returns false. The head of the answer must come within `limit`; the answer then holds no body.
    ///
    /// # Errors
    /// As [`Self::post`], and if the connection breaks.
    pub async fn post_for_lines(
        &self,
        path: &str,
        body: String,
        limit: Duration,
        mut use_line: impl FnMut(&str) -> bool,
    ) -> io::Result<Answer> {
        let request = self.request(Method::POST, path, body)?;
        let mut response = within(limit, self.respond(request)).await?;
        let status = response.status();
        if status != StatusCode::OK {
            return within(limit, collect(response)).await;
        }
        let mut rest = Vec::new();
        while let Some(frame) = response.frame().await {
            rest.extend_from_slice(
                frame.map_err(io::Error::other)?.data_ref().map_or(&[][..], AsRef::as_ref),
            );
            while let Some(end) = memchr::memchr(b'\n', &rest) {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if !use_line(String::from_utf8_lossy(&line).trim_end()) {
                    return Ok(Answer { status, body: String::new() });
                }
            }
            if rest.len() > LONGEST {
                return Err(io::Error::other("the answer has a line that is too long"));
            }
        }
        Ok(Answer { status, body: String::new() })
    }

    fn request(&self, method: Method, path: &str, body: String) -> io::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .body(Full::new(Bytes::from(body)))
            .map_err(io::Error::other)?;
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_bytes(&[b"Bearer ", token.expose()].concat())
                .map_err(|_| io::Error::other("the token has bytes that an HTTP header cannot hold"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// Sends a request, and returns the answer, whose body comes later.
    async fn respond(&self, request: Request<Full<Bytes>>) -> io::Result<Response<Incoming>> {
        match &self.endpoint {
            Endpoint::Admin(address) => {
                let (stream, host) = (TcpStream::connect(address).await?, address.to_string());
                match &self.tls {
                    None => exchange(stream, &host, request).await,
                    Some(tls) => {
                        let name = Address::tcp(address.ip().to_string(), address.port());
                        exchange(tls.connect(&name, stream).await?, &host, request).await
                    }
                }
            }
            Endpoint::Socket(path) => exchange(UnixStream::connect(path).await?, "localhost", request).await,
        }
    }
}

/// Returns the TLS settings for an admin listener whose certificate these authorities have signed. It must contain `name`, or
/// the IP address that is dialled.
///
/// # Errors
/// Returns the reason why the file or the name cannot be used.
pub fn admin_tls(ca: PathBuf, name: Option<&str>) -> Result<ClientTls, String> {
    let all = match name {
        Some(name) => Some(server_name(name).ok_or_else(|| format!("{name:?} is no name of a certificate"))?),
        None => None,
    };
    let names = Names { all, ..Names::default() };
    let trust = Trust { paths: vec![ca], ..Trust::default() };
    let profile = ClientProfile { trust, names: names.clone(), ..ClientProfile::default() };
    let set = profile.load().map_err(|error| error.text)?;
    Ok(ClientTls::new(watch::channel(set).1, names))
}

async fn within<T>(limit: Duration, exchange: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", limit.as_secs())))
    })
}

async fn exchange<S>(
    stream: S,
    host: &str,
    mut request: Request<Full<Bytes>>,
) -> io::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut requests, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // The task ends with the answer, or when the answer is dropped.
    tokio::spawn(connection);
    request.headers_mut().insert(HOST, HeaderValue::from_str(host).map_err(io::Error::other)?);
    requests.send_request(request).await.map_err(io::Error::other)
}

async fn collect(response: Response<Incoming>) -> io::Result<Answer> {
    let status = response.status();
    let body =
        Limited::new(response.into_body(), LONGEST).collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}
