//! Accepts clients and hands each to the worker with the fewest sessions.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, SockRef, Socket as RawSocket, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::descriptors::Capacity;
use crate::drain::{ClientCounts, Draining};
use crate::net::listening::{AcceptedStream, InheritedSockets, ListeningSocket, SocketOwner};
use crate::net::loopback;
use crate::net::proxy_protocol::{self, Ends};
use crate::net::source_rate::{Admission, SourceRate, SourceRateConfig};
use crate::net::tls::Loaded;
use crate::net::tls::server::{ServerProfile, ServerSet};
use crate::net::unix_socket;
use crate::session::client::Origin;
use crate::session::config::SessionConfig;
use crate::tenant::identity::ClientAttributes;
use crate::worker::{AcceptedClient, CountGuard, Socket, Worker};

/// Connections that the kernel completes before respgate accepts them.
const BACKLOG: i32 = 4096;
/// Pause after an accept that failed because descriptors or memory ran out.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// Minimum time between two warnings of one listener.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// The address where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// A TCP address. Port 0 picks a free port, which respgate logs.
    Tcp(SocketAddr),
    /// A unix socket and its permission bits (default 0o700: only this user).
    Unix {
        /// Path of the socket file.
        path: PathBuf,
        /// Permission bits of the socket file.
        mode: u32,
    },
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

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

/// A bound socket that accepts no clients yet.
pub struct Listener {
    name: String,
    index: usize,
    max_clients: usize,
    speaks_tls: bool,
    keepalive: Duration,
    /// Networks whose connections must begin with a PROXY header.
    proxies: Vec<IpNet>,
    warned: Mutex<Option<Instant>>,
    source_rate: Mutex<SourceRate>,
    counts: Arc<ListenerCounts>,
    /// The count of clients of the whole process, limited by its file descriptors.
    capacity: Capacity,
    ids: Arc<AtomicU64>,
    socket: Arc<ListeningSocket>,
    /// The number of clients that the processes before this one still serve.
    former_clients: Arc<AtomicUsize>,
    address: String,
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
    /// Binds the listener's socket. `index` is the listener's index in the workers' plan, `ids`
    /// numbers the clients, and `capacity` counts the clients of all listeners. A socket in
    /// `inherited` that fits is used instead.
    ///
    /// # Errors
    /// Returns an error if the address is in use, does not belong to this machine, or is not
    /// permitted.
    pub fn bind(
        config: &ListenerConfig,
        index: usize,
        ids: Arc<AtomicU64>,
        capacity: Capacity,
        inherited: &mut InheritedSockets,
    ) -> io::Result<Self> {
        let inherited = match &config.bind {
            Bind::Tcp(address) => inherited.take_tcp(&config.name, *address)?,
            Bind::Unix { path, .. } => inherited.take_unix(&config.name, path)?,
        };
        let socket = match (inherited, &config.bind) {
            (Some(socket), _) => socket,
            (None, Bind::Tcp(address)) => ListeningSocket::tcp(bind_tcp(*address)?, SocketOwner::Respgate)?,
            (None, Bind::Unix { path, mode }) => {
                let (socket, file) = unix_socket::bind(path, *mode, BACKLOG)?;
                ListeningSocket::unix(socket, file, SocketOwner::Respgate)?
            }
        };
        let address = socket.shown()?;
        Ok(Self {
            name: config.name.clone(),
            index,
            max_clients: config.max_clients,
            speaks_tls: config.tls.is_some(),
            keepalive: config.keepalive,
            proxies: config.proxy_protocol.clone(),
            warned: Mutex::default(),
            source_rate: Mutex::new(SourceRate::new(&config.source_rate)),
            counts: Arc::new(ListenerCounts {
                max_clients: config.max_clients.min(capacity.limit).into(),
                ..ListenerCounts::default()
            }),
            capacity,
            ids,
            socket: Arc::new(socket),
            former_clients: Arc::default(),
            address,
        })
    }

    /// Returns the address that the socket listens on, with the real port if the configured one was
    /// 0.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the listener's name and its counts.
    pub fn counts(&self) -> (String, Arc<ListenerCounts>) {
        (self.name.clone(), self.counts.clone())
    }

    /// Returns the listener's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the socket, for an upgrade to pass on.
    pub fn socket(&self) -> &Arc<ListeningSocket> {
        &self.socket
    }

    /// Returns the counts of the listener's clients in this process and in former ones.
    pub fn client_counts(&self) -> ClientCounts {
        ClientCounts {
            listener: self.name.clone(),
            own: self.counts.clients.clone(),
            former: self.former_clients.clone(),
        }
    }

    /// Accepts clients until the drain begins or another process accepts them. Besides the accept, the loop only waits for a
    /// worker's queue to have room for one client.
    pub async fn serve(self, workers: Vec<Worker>, mut draining: Draining) {
        let listener = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                biased;
                () = draining.closed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(accepted) => listener.clone().admit(accepted, &workers).await,
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
        let mut last = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|at| at.elapsed() > WARNING_INTERVAL);
        if due {
            *last = Some(Instant::now());
        }
        due
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self.socket.accept().await? {
            AcceptedStream::Tcp(stream, peer) => {
                stream.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new()
                    .with_time(self.keepalive)
                    .with_interval((self.keepalive / 3).max(Duration::from_secs(1)));
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                loopback::use_reno(&stream, peer);
                let local = stream.local_addr()?;
                let from = peer.ip().to_canonical();
                if self.proxies.iter().any(|network| network.contains(&from)) {
                    return Ok(Accepted::Proxied { stream, ends: Ends { source: peer, destination: local } });
                }
                Ok(Accepted::Client(Client::tcp(stream, Ends { source: peer, destination: local })?))
            }
            AcceptedStream::Unix(stream) => {
                // The server prints a unix client's address as the socket's own path and port 0.
                let path = format!("{}:0", self.socket.path().unwrap_or(Path::new("")).display());
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
        let former = self.former_clients.load(Ordering::Relaxed);
        let own = CountGuard::take(&self.counts.clients, self.max_clients.saturating_sub(former))?;
        let of_process = CountGuard::take(&self.capacity.taken, self.capacity.limit);
        if of_process.is_none() && self.may_warn() {
            tracing::warn!(
                listener = self.name,
                clients = self.capacity.limit,
                "respgate refuses clients: it keeps the remaining file descriptors for upstream connections and the admin listener; raise the limit (ulimit -n, LimitNOFILE=)"
            );
        }
        Some(own.and(of_process?))
    }

    /// Decides whether the client's source may open one more connection. Clients of a unix socket
    /// have no source.
    fn rate(&self, client: &Client) -> Admission {
        let Some(address) = client.known.address else { return Admission::Now };
        let mut rate = self.source_rate.lock().unwrap_or_else(PoisonError::into_inner);
        let admission = rate.admit(address, Instant::now());
        if matches!(admission, Admission::After(_)) {
            self.counts.delayed.fetch_add(1, Ordering::Relaxed);
        }
        admission
    }

    /// Closes a connection that exceeds the rate of its source.
    fn refuse_source(&self, client: Client) {
        const TOO_MANY: &[u8] = b"-ERR respgate: too many new connections from this address (connects-per-second); connect again in a second\r\n";
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        let refused_since_warning = self.counts.refused_since_warning.fetch_add(1, Ordering::Relaxed) + 1;
        if self.may_warn() {
            self.counts.refused_since_warning.store(0, Ordering::Relaxed);
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
        self.counts.turned_away.fetch_add(1, Ordering::Relaxed);
        self.send_line(socket, b"-ERR max number of clients reached\r\n");
    }

    fn send_line(&self, socket: Socket, line: &[u8]) {
        if self.speaks_tls {
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
        let accepted = AcceptedClient { socket: client.socket, listener: self.index, origin, guard };
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

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // With IPV6_V6ONLY, `[::]` means IPv6 only, so that 0.0.0.0 can be bound beside it.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
