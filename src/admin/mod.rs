//! The admin listener: health, readiness and metrics over HTTP.

mod connections;
pub mod control;
mod page;
mod process;
mod readiness;
mod histograms;
mod registry;
mod replica_warnings;
mod respond;
mod scrape;
pub mod security;
mod sentinels;
mod sources;
mod status;
mod warning;
mod warnings;
mod worker_sums;
mod tap;

pub use sources::{ListenerView, Sources, UpstreamLimits, View, Views};

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use self::connections::{Activity, Connections, HEADER_TIMEOUT, LIFETIME};
use self::control::access::Via;
use self::control::client_list::LISTS;
use self::control::{AnswerBody, Control};
use self::readiness::Readiness;
use self::respond::{JSON, METRICS, TEXT, respond};
use self::scrape::MetricsEndpoint;
use self::status::StatusEndpoint;
use self::tap::TapEndpoint;
use self::warning::Warning;
use crate::drain::Draining;
use crate::net::listening::{AcceptedStream, InheritedSockets, ListeningSocket, SocketOwner};
use crate::net::tls::plain_acceptor::PlainAcceptor;
use crate::net::unix_socket;
use crate::tenant::users::Users;

const INDEX: &str = "respgate\n\n/livez    the process runs\n/readyz   every upstream has a verified primary, or a shard with one\n/metrics  Prometheus text\n/failovers  the timelines of past failovers, as JSON\n/slow     the newest slow commands, as JSON\n/status  the whole state, as JSON; /status/history the last 5 min; /status/clients 100 clients; /status/schema its JSON Schema\n/  with a browser: the status page\n\nPOST /control/ACTION  reload, log-level, slow-log, tap, pause, resume, reconnect, switch, clients, kill, upstream-clients, drain, upgrade, shutdown (docs/control.md)\nPOST /shutdown  drain and end, if shutdown-endpoint is true\n";

/// The pages that need no token: probes must work without one.
const OPEN_PAGES: [&str; 3] = ["/", "/livez", "/readyz"];

/// The name of the admin listener's socket among inherited ones.
pub const SOCKET_NAME: &str = "admin";
/// The name of the control socket among inherited ones.
pub const CONTROL_SOCKET_NAME: &str = "control";

/// Binds the socket of the admin listener, or takes the inherited one.
///
/// # Errors
/// Returns an error if the address is in use, does not belong to this machine, or is not permitted.
pub fn bind(address: SocketAddr, inherited: &mut InheritedSockets) -> io::Result<Arc<ListeningSocket>> {
    let mut bound = || match inherited.take_tcp(SOCKET_NAME, address)? {
        Some(socket) => Ok(socket),
        None => ListeningSocket::tcp(std::net::TcpListener::bind(address)?, SocketOwner::Respgate),
    };
    let socket = bound().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("the admin address {address} cannot be bound: {error}"))
    })?;
    tracing::info!(address = socket.shown()?, "admin listening");
    Ok(Arc::new(socket))
}

/// Permission bits of the control socket: only respgate's own user, and root, can connect.
const CONTROL_MODE: u32 = 0o600;
/// Connections to the control socket that the kernel completes before respgate accepts them.
const CONTROL_BACKLOG: i32 = 64;

/// Binds the control socket, or takes the inherited one.
///
/// # Errors
/// Returns an error if the path is taken, its folder is missing, or the system does not permit it.
pub fn bind_control(path: &Path, inherited: &mut InheritedSockets) -> io::Result<Arc<ListeningSocket>> {
    let mut bound = || match inherited.take_unix(CONTROL_SOCKET_NAME, path)? {
        Some(socket) => Ok(socket),
        None => {
            let (socket, file) = unix_socket::bind(path, CONTROL_MODE, CONTROL_BACKLOG)?;
            ListeningSocket::unix(socket, file, SocketOwner::Respgate)
        }
    };
    let socket = bound().map_err(|error: io::Error| {
        let text = format!("the control socket {} cannot be bound: {error}", path.display());
        io::Error::new(error.kind(), text)
    })?;
    tracing::info!(path = %path.display(), "control listening");
    Ok(Arc::new(socket))
}

/// Serves the admin listener.
pub struct Admin {
    upstreams: Views,
    users: Option<Arc<Users>>,
    sources: Sources,
    draining: Draining,
    metrics: MetricsEndpoint,
    status: StatusEndpoint,
    control: Control,
    taps: TapEndpoint,
    /// Limits the number of lists of clients that are kept.
    lists: Arc<Semaphore>,
}

impl Admin {
    /// Creates the admin listener's state, and starts to sample the workers.
    pub fn new(upstreams: Views, sources: Sources, draining: Draining, control: Control) -> Self {
        let users = sources.tenants.borrow().users.clone();
        let metrics = MetricsEndpoint::new(upstreams.clone(), sources.clone());
        let status = StatusEndpoint::new(upstreams.clone(), sources.clone(), draining.clone());
        let taps = TapEndpoint::new(sources.workers.clone(), draining.clone());
        let lists = Arc::new(Semaphore::new(LISTS));
        Self { upstreams, users, sources, draining, metrics, status, control, taps, lists }
    }

    /// Answers requests until this process ends, because probes need answers during the drain too. While another process
    /// does, this one keeps the socket and waits: it answers again if that process dies. With `tls`, every TCP connection
    /// speaks TLS.
    pub async fn serve(self: Arc<Self>, socket: Arc<ListeningSocket>, tls: Option<PlainAcceptor>) {
        let mut handed_over = self.draining.clone();
        let mut connections = Connections::default();
        loop {
            let accepted = tokio::select! {
                () = handed_over.handed_over() => match handed_over.taken_back().await {
                    true => continue,
                    false => return,
                },
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok(AcceptedStream::Tcp(stream, peer)) => {
                    let (admin, tls) = (self.clone(), tls.clone());
                    let via = Via::Tcp { peer, encrypted: tls.is_some() };
                    let converse = |activity: Activity| async move {
                        match tls {
                            None => admin.converse(stream, via, activity).await,
                            Some(tls) => match tls.accept(stream).await {
                                Ok(stream) => admin.converse(stream, via, activity).await,
                                Err(error) => {
                                    tracing::debug!(%peer, %error, "a TLS handshake with the admin listener failed")
                                }
                            },
                        }
                    };
                    connections.add(converse).await;
                }
                Ok(AcceptedStream::Unix(stream)) => {
                    let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
                    let converse = |activity| self.clone().converse(stream, Via::Socket(uid), activity);
                    connections.add(converse).await;
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }

    async fn converse<S>(self: Arc<Self>, stream: S, via: Via, activity: Activity)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request| {
            let (admin, via, activity) = (self.clone(), via.clone(), activity.clone());
            async move {
                activity.request(admin.control.time_to_answer(request.uri().path()));
                let answer = match request.uri().path() {
                    tap::PATH => admin.tap(&via, request, &activity).await,
                    path if path.starts_with(control::PREFIX) => {
                        admin.control.answer(&via, request, &activity, &admin.lists).await
                    }
                    _ => admin.answer(&via, request).await.map(Either::Left),
                };
                activity.answered();
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            served = &mut connection => Some(served),
            () = activity.overdue() => None,
            () = tokio::time::sleep(LIFETIME) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    served = &mut connection => Some(served),
                    () = activity.overdue() => None,
                }
            }
        };
        match ended {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(%error, "an admin connection ended early"),
            None => {
                tracing::debug!(
                    "respgate closed an admin connection: the peer did not read an answer in time"
                )
            }
        }
    }

    async fn answer(&self, via: &Via, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() == control::SHUTDOWN_PATH && self.control.shutdown_endpoint {
            return self.control.answer_shutdown(via, &request);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n");
        }
        if !OPEN_PAGES.contains(&request.uri().path())
            && !page::is_file(request.uri().path())
            && let Some(refusal) = self.control.refuse_reading(via, &request)
        {
            return refusal;
        }
        match request.uri().path() {
            "/" if page::wanted(request.headers()) => page::index(),
            "/" => respond(StatusCode::OK, TEXT, INDEX),
            "/livez" => respond(StatusCode::OK, TEXT, "alive\n"),
            "/readyz" => self.readyz(),
            "/status" => self.status(via, request.headers()).await,
            "/status/schema" => respond(StatusCode::OK, JSON, status::SCHEMA),
            "/status/clients" => match status::clients::json(&self.control.clients).await {
                Ok(clients) => respond(StatusCode::OK, JSON, format!("{clients}\n")),
                Err(error) => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{error}\n")),
            },
            "/status/history" => respond(StatusCode::OK, JSON, format!("{}\n", self.status.history())),
            "/failovers" => respond(StatusCode::OK, JSON, self.failovers()),
            "/slow" => self.control.slow_log(via, request.headers()).await,
            "/metrics" => respond(StatusCode::OK, METRICS, self.metrics.text().await),
            path => page::part(path).unwrap_or_else(|| respond(StatusCode::NOT_FOUND, TEXT, INDEX)),
        }
    }

    /// Begins a tap, whose lines are the answer.
    async fn tap(&self, via: &Via, request: Request<Incoming>, activity: &Activity) -> Response<AnswerBody> {
        match self.control.tap(via, request, &self.taps, activity).await {
            Ok(lines) => {
                let mut response = Response::new(Either::Right(Either::Left(lines)));
                response.headers_mut().insert(CONTENT_TYPE, tap::LINES);
                response
            }
            Err(refusal) => refusal.map(Either::Left),
        }
    }

    /// Returns the past failovers of every upstream as JSON, the newest last.
    fn failovers(&self) -> String {
        let upstreams = self.upstreams.borrow();
        let lines: Vec<_> = upstreams
            .iter()
            .flat_map(|view| view.timelines.past().into_iter().map(|line| line.json(&view.name)))
            .collect();
        format!("{:#}\n", serde_json::Value::Array(lines))
    }

    /// Answers 200 if every upstream serves clients and no drain has begun; else 503 with the reasons.
    fn readyz(&self) -> Response<Full<Bytes>> {
        let (ready, body) = self.ready();
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        respond(status, TEXT, body)
    }

    /// Answers with the state as JSON.
    async fn status(&self, via: &Via, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let document = self.status.document(self.control.offer(via, headers), self.ready().0).await;
        respond(StatusCode::OK, JSON, format!("{document}\n"))
    }

    /// Returns true if every upstream serves clients and no drain has begun, and the lines of `/readyz`.
    fn ready(&self) -> (bool, String) {
        let mut ready = true;
        let mut body = String::new();
        if self.draining.announced() {
            ready = false;
            body.push_str("draining\n");
        }
        body.extend(warnings::of_upgrade(&self.sources).as_ref().map(Warning::line));
        for view in &*self.upstreams.borrow() {
            let readiness =
                Readiness::of(&view.name, &view.topology.borrow(), view.cluster.borrow().as_deref());
            ready &= readiness.serves;
            body.extend(readiness.line);
            body.extend(warnings::of_orders(view, None).iter().map(Warning::line));
            body.extend(warnings::of_upstream(view, self.users.as_deref()).iter().map(Warning::line));
        }
        let others = [
            warnings::of_reloads(&self.sources.reloads),
            warnings::of_stores(&self.sources.stores),
            warnings::of_tls(&self.sources.security.borrow()),
        ];
        body.extend(others.iter().flatten().map(Warning::line));
        (ready, body)
    }
}

/// Logs a failed accept, and waits, because descriptors or memory may have run out.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "respgate could not accept an admin connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
