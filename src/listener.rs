//! Accepts clients and hands each to the worker with the fewest sessions.

pub mod set;
mod socket;

pub use socket::Bind;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::descriptors::Capacity;
use crate::drain::Draining;
use crate::net::listening::{AcceptedStream, ListeningSocket};
use crate::net::loopback;
use crate::net::proxy_protocol::{self, Ends};
use crate::net::source_rate::{Admission, SourceRate, SourceRateConfig};
use crate::net::tls::Loaded;
use crate::net::tls::server::{ServerProfile, ServerSet};
use crate::session::client::Origin;
use crate::session::config::SessionConfig;
use crate::tenant::identity::ClientAttributes;
use crate::worker::{AcceptedClient, CountGuard, Socket, Worker};

/// Pause after an accept that failed because descriptors or memory ran out.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// Minimum time between two warnings of one listener.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Settings of one listener.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// The listener's name, for logs and metrics.
    pub name: String,
    /// The address where clients connect.
    pub bind: Bind,
    /// Name of the upstream that serves the listener's clients.
    pub upstream: String,
    /// Name of the tenant that the listener's clients belong to.
    pub tenant: Option<String>,
    /// Networks whose connections must begin with a PROXY header. respgate takes the client's
    /// address from that header.
    pub proxy_protocol: Vec<IpNet>,
    /// The `host:port` that clients are asked to move to when respgate drains.
    pub moving_endpoint: Option<String>,
    /// Idle time after which the kernel sends the first TCP keepalive probe to a client.
    pub keepalive: Duration,
    /// Maximum number of clients connected at once. The next client gets `-ERR max number of
    /// clients reached`.
    pub max_clients: usize,
    /// Limits on the connections that each source may open.
    pub source_rate: SourceRateConfig,
    /// Settings of the listener's sessions.
    pub session: SessionConfig,
    /// TLS settings; `None` speaks plain text.
    pub tls: Option<Loaded<ServerProfile, ServerSet>>,
}

/// Accepts the clients of one listener.
struct Listener {
    name: String,
    number: usize,
    /// The settings in force. The accept loop ends when the sender is dropped.
    settings: watch::Receiver<AcceptSettings>,
    state: ListenerState,
    /// The count of the clients of this number.
    connected: Arc<AtomicUsize>,
    /// The count of clients of the whole process, limited by its file descriptors.
    capacity: Capacity,
    ids: Arc<AtomicU64>,
}

/// The settings of new connections. A reload replaces them.
struct AcceptSettings {
    max_clients: usize,
    speaks_tls: bool,
    keepalive: Duration,
    /// Networks whose connections must begin with a PROXY header.
    proxies: Vec<IpNet>,
}

impl AcceptSettings {
    fn of(config: &ListenerConfig) -> Self {
        Self {
            max_clients: config.max_clients,
            speaks_tls: config.tls.is_some(),
            keepalive: config.keepalive,
            proxies: config.proxy_protocol.clone(),
        }
    }
}

/// What a listener counts. It goes on counting when a reload changes its address.
#[derive(Clone)]
struct ListenerState {
    counts: Arc<ListenerCounts>,
    source_rate: Arc<Mutex<SourceRate>>,
    warned: Arc<Mutex<Option<Instant>>>,
    /// The number of clients that the processes before this one still serve.
    former_clients: Arc<AtomicUsize>,
}

impl ListenerState {
    fn new(config: &SourceRateConfig) -> Self {
        Self {
            counts: Arc::default(),
            source_rate: Arc::new(Mutex::new(SourceRate::new(config))),
            warned: Arc::default(),
            former_clients: Arc::default(),
        }
    }

    /// Takes over new limits; `capacity` is that of the process.
    fn configure(&self, config: &ListenerConfig, capacity: &Capacity) {
        let max_clients = config.max_clients.min(capacity.limit());
        self.counts.max_clients.store(max_clients, Ordering::Relaxed);
        self.source_rate.lock().unwrap_or_else(PoisonError::into_inner).configure(&config.source_rate);
    }
}

/// Counts the clients of one listener, and the connections that it did not serve at once.
#[derive(Debug, Default)]
pub struct ListenerCounts {
    /// Connections that exceeded the rate of their source and were served after a wait of at most 1 s.
    pub delayed: AtomicU64,
    /// Connections that exceeded the rate of their source and were closed.
    pub refused: AtomicU64,
    /// Refused connections since the last warning.
    refused_since_warning: AtomicU64,
    /// Connections closed because `max_clients` was reached.
    pub turned_away: AtomicU64,
    /// Clients connected now.
    pub clients: Arc<AtomicUsize>,
    /// The largest number of clients.
    pub max_clients: AtomicUsize,
}

/// An accepted connection that is not yet counted.
enum Accepted {
    /// A connection that a client opened itself.
    Client(Client),
    /// A connection from a trusted proxy, whose PROXY header is not yet read.
    Proxied { stream: TcpStream, ends: Ends },
}

/// A client's socket and the address that it comes from.
struct Client {
    socket: Socket,
    peer: String,
    local: String,
    known: ClientAttributes,
}

impl Listener {
    /// Accepts clients until the drain begins or a reload removes the listener. While another process accepts them, the loop
    /// keeps the socket open and waits: if that process dies, it goes on. Besides that and the accept, the loop only waits for
    /// a worker's queue to have room for one client.
    async fn serve(self, socket: Arc<ListeningSocket>, workers: Vec<Worker>, mut draining: Draining) {
        let mut settings = self.settings.clone();
        let listener = Arc::new(self);
        // The address of a listener that a reload adds is for the process that accepts.
        if draining.is_handed_over() {
            return;
        }
        loop {
            let accepted = tokio::select! {
                biased;
                () = draining.closed() => {
                    let accepts_again = tokio::select! {
                        again = draining.taken_back() => again,
                        () = removed(&mut settings) => false,
                    };
                    match accepts_again {
                        true => continue,
                        false => return,
                    }
                }
                () = removed(&mut settings) => {
                    // A former process may hold the socket too. Another listener that has taken it over still needs it.
                    if let Some(socket) = Arc::into_inner(socket) {
                        socket.stop_listening();
                    }
                    return;
                }
                accepted = listener.accept(&socket) => accepted,
            };
            match accepted {
                Ok(accepted) => listener.clone().admit(accepted, &workers).await,
                // After a hand-over that was taken back: the other process had removed this listener.
                Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::INVAL) => {
                    tracing::info!(
                        listener = listener.name,
                        "no longer listening: the process that has died had closed the socket"
                    );
                    return;
                }
                // A client that left before the accept is no reason to make others wait.
                Err(error) if !exhausted(&error) => {
                    tracing::debug!(listener = listener.name, %error, "a client closed the connection before respgate served it")
                }
                Err(error) => {
                    if listener.may_warn() {
                        tracing::warn!(listener = listener.name, %error, "respgate could not accept a client; if file descriptors ran out, raise the limit (ulimit -n) or lower max-clients");
                    }
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }

    /// Returns true if the last warning is more than [`WARNING_INTERVAL`] ago, and notes the time
    /// of this one.
    fn may_warn(&self) -> bool {
        let mut last = self.state.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|at| at.elapsed() > WARNING_INTERVAL);
        if due {
            *last = Some(Instant::now());
        }
        due
    }

    async fn accept(&self, socket: &ListeningSocket) -> io::Result<Accepted> {
        match socket.accept().await? {
            AcceptedStream::Tcp(stream, peer) => {
                stream.set_nodelay(true)?;
                let idle = self.settings.borrow().keepalive;
                let keepalive =
                    TcpKeepalive::new().with_time(idle).with_interval((idle / 3).max(Duration::from_secs(1)));
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                loopback::use_reno(&stream, peer);
                let local = stream.local_addr()?;
                let from = peer.ip().to_canonical();
                if self.settings.borrow().proxies.iter().any(|network| network.contains(&from)) {
                    return Ok(Accepted::Proxied { stream, ends: Ends { source: peer, destination: local } });
                }
                Ok(Accepted::Client(Client::tcp(stream, Ends { source: peer, destination: local })?))
            }
            AcceptedStream::Unix(stream) => {
                // The server prints a unix client's address as the socket's own path and port 0.
                let path = format!("{}:0", socket.path().unwrap_or(Path::new("")).display());
                let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
                Ok(Accepted::Client(Client {
                    socket: Socket::Unix(stream.into_std()?),
                    peer: path.clone(),
                    local: path,
                    known: ClientAttributes { uid, ..ClientAttributes::default() },
                }))
            }
        }
    }

    async fn admit(self: Arc<Self>, accepted: Accepted, workers: &[Worker]) {
        let guard = self.count_client();
        match (accepted, guard) {
            (Accepted::Client(client), Some(guard)) => match self.rate(&client) {
                Admission::Now => self.hand_over(client, guard, workers).await,
                Admission::After(wait) => {
                    let workers = workers.to_vec();
                    tokio::spawn(async move {
                        tokio::time::sleep(wait).await;
                        self.hand_over(client, guard, &workers).await;
                    });
                }
                Admission::Refused => self.refuse_source(client),
            },
            (Accepted::Client(client), None) => self.turn_away(client.socket),
            (Accepted::Proxied { stream, .. }, None) => {
                if let Ok(socket) = stream.into_std() {
                    self.turn_away(Socket::Tcp(socket));
                }
            }
            // A task of its own reads the header, so that a slow proxy delays no other client. The
            // connection counts as a client meanwhile.
            (Accepted::Proxied { mut stream, ends }, Some(guard)) => {
                let workers = workers.to_vec();
                tokio::spawn(async move {
                    match proxy_protocol::read(&mut stream).await {
                        Ok(header) => {
                            let Ok(client) = Client::tcp(stream, header.unwrap_or(ends)) else { return };
                            match self.rate(&client) {
                                Admission::Now => {}
                                Admission::After(wait) => tokio::time::sleep(wait).await,
                                Admission::Refused => return self.refuse_source(client),
                            }
                            self.hand_over(client, guard, &workers).await;
                        }
                        Err(error @ proxy_protocol::HeaderError::Nothing) => {
                            tracing::debug!(listener = self.name, from = %ends.source, %error, "a load balancer closed the connection before the PROXY header");
                        }
                        Err(error) if self.may_warn() => {
                            tracing::warn!(listener = self.name, from = %ends.source, %error, "respgate closed a connection without a valid PROXY header: proxy-protocol names its network; make the load balancer send the header, or remove the network from the key");
                        }
                        Err(_) => {}
                    }
                });
            }
        }
    }

    /// Counts one client against `max-clients` and against the capacity of the process. Returns
    /// `None` if either is exhausted; the caller then turns the client away.
    fn count_client(&self) -> Option<CountGuard> {
        // A former process only loses clients, so both together never have more than the limit.
        let former = self.state.former_clients.load(Ordering::Relaxed);
        let max_clients = self.settings.borrow().max_clients.saturating_sub(former);
        let own = CountGuard::take(&self.state.counts.clients, max_clients)?;
        let limit = self.capacity.limit();
        let of_process = CountGuard::take(&self.capacity.taken, limit);
        if of_process.is_none() && self.may_warn() {
            tracing::warn!(
                listener = self.name,
                clients = limit,
                "respgate refuses clients: it keeps the remaining file descriptors for upstream connections and the admin listener; raise the limit (ulimit -n, LimitNOFILE=)"
            );
        }
        // The listener of another number can share the first count, but not this one.
        let of_number = CountGuard::take(&self.connected, usize::MAX);
        Some(own.and(of_process?.and(of_number?)))
    }

    /// Decides whether the client's source may open one more connection. Clients of a unix socket
    /// have no source.
    fn rate(&self, client: &Client) -> Admission {
        let Some(address) = client.known.address else { return Admission::Now };
        let mut rate = self.state.source_rate.lock().unwrap_or_else(PoisonError::into_inner);
        let admission = rate.admit(address, Instant::now());
        if matches!(admission, Admission::After(_)) {
            self.state.counts.delayed.fetch_add(1, Ordering::Relaxed);
        }
        admission
    }

    /// Closes a connection that exceeds the rate of its source.
    fn refuse_source(&self, client: Client) {
        const TOO_MANY: &[u8] = b"-ERR respgate: too many new connections from this address (connects-per-second); connect again in a second\r\n";
        self.state.counts.refused.fetch_add(1, Ordering::Relaxed);
        let refused_since_warning =
            self.state.counts.refused_since_warning.fetch_add(1, Ordering::Relaxed) + 1;
        if self.may_warn() {
            self.state.counts.refused_since_warning.store(0, Ordering::Relaxed);
            tracing::warn!(
                listener = self.name,
                from = client.peer,
                refused = refused_since_warning,
                "respgate refuses connections: one source opens more than connects-per-second; if many clients share its address, raise connects-per-second or add the address to connects-exempt"
            );
        }
        self.send_line(client.socket, TOO_MANY);
    }

    /// Sends the error that the server sends, if the socket takes it at once, and closes the
    /// socket. Sends nothing to a TLS client, which would not understand it before a handshake.
    fn turn_away(&self, socket: Socket) {
        self.state.counts.turned_away.fetch_add(1, Ordering::Relaxed);
        self.send_line(socket, b"-ERR max number of clients reached\r\n");
    }

    fn send_line(&self, socket: Socket, line: &[u8]) {
        if self.settings.borrow().speaks_tls {
            return;
        }
        let _ = match socket {
            Socket::Tcp(mut stream) => io::Write::write(&mut stream, line),
            Socket::Unix(mut stream) => io::Write::write(&mut stream, line),
        };
    }

    async fn hand_over(&self, client: Client, guard: CountGuard, workers: &[Worker]) {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let origin = Origin { id, peer: client.peer, local: client.local, known: client.known };
        let accepted = AcceptedClient { socket: client.socket, listener: self.number, origin, guard };
        // `load` counts clients on their way too, so a burst spreads evenly over the workers.
        if let Some(worker) = workers.iter().min_by_key(|worker| worker.load())
            && !worker.take(accepted).await
        {
            tracing::error!(
                listener = self.name,
                "a worker has ended: respgate refuses its clients; restart respgate, and report this"
            );
        }
    }
}

impl Client {
    fn tcp(stream: TcpStream, ends: Ends) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::Tcp(stream.into_std()?),
            peer: ends.source.to_string(),
            local: ends.destination.to_string(),
            known: ClientAttributes { address: Some(ends.source.ip()), ..ClientAttributes::default() },
        })
    }
}

/// Returns true if the process or the system has run out of descriptors or memory.
fn exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    Errno::from_io_error(error)
        .is_some_and(|errno| [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&errno))
}

/// Completes when a reload has removed the listener.
async fn removed(settings: &mut watch::Receiver<AcceptSettings>) {
    while settings.changed().await.is_ok() {}
}
