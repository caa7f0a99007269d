//! Accepts clients and hands each to the worker with the fewest sessions.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, SockAddr, SockRef, Socket as RawSocket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::Instant;

use crate::descriptors::Capacity;
use crate::drain::Draining;
use crate::net::loopback;
use crate::net::proxy_protocol::{self, Ends};
use crate::net::source_rate::{Admission, SourceRate, SourceRateConfig};
use crate::net::tls::Loaded;
use crate::net::tls::server::{ServerProfile, ServerSet};
use crate::session::client::Origin;
use crate::session::config::SessionConfig;
use crate::tenant::identity::ClientAttributes;
use crate::worker::{AcceptedClient, CountGuard, Socket, Worker};

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 4096;
/// Pause after an accept that failed for want of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// The same complaint is logged at most this often.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// A TCP address; port 0 picks a free one, which is logged.
    Tcp(SocketAddr),
    /// A unix socket, with its permission bits (default 0o700: this user only).
    Unix {
        /// Where the socket file is made.
        path: PathBuf,
        /// Permission bits of the file.
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

/// One listener.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// For logs and metrics.
    pub name: String,
    /// Where clients connect.
    pub bind: Bind,
    /// The upstream's name.
    pub upstream: String,
    /// The tenant that its clients belong to.
    pub tenant: Option<String>,
    /// Whose word is taken for where clients come from: they must begin with a PROXY header.
    pub proxy_protocol: Vec<IpNet>,
    /// How long a silent client's machine is left alone before the system asks whether it is still there.
    pub keepalive: Duration,
    /// Clients connected at once; one more is told `-ERR max number of clients reached`.
    pub max_clients: usize,
    /// How many connections each source may open.
    pub source_rate: SourceRateConfig,
    /// Bounds of its sessions.
    pub session: SessionConfig,
    /// How it does TLS; `None` speaks plain text.
    pub tls: Option<Loaded<ServerProfile, ServerSet>>,
}

/// A bound socket that accepts no clients yet.
pub struct Listener {
    name: String,
    place: usize,
    max_clients: usize,
    speaks_tls: bool,
    keepalive: Duration,
    /// Who must say where clients come from.
    proxies: Vec<IpNet>,
    complained: Mutex<Option<Instant>>,
    source_rate: Mutex<SourceRate>,
    counts: Arc<SourceCounts>,
    clients: Arc<AtomicUsize>,
    /// Of the process: what its descriptors suffice for.
    capacity: Capacity,
    ids: Arc<AtomicU64>,
    socket: Bound,
    address: String,
}

/// Connections that were more than their sources may open.
#[derive(Debug, Default)]
pub struct SourceCounts {
    /// Served after a wait of at most 1 s.
    pub delayed: AtomicU64,
    /// Closed.
    pub refused: AtomicU64,
    /// Of `refused`, those since the last warning.
    unsaid: AtomicU64,
}

enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A unix socket's file, removed when the listener ends.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An accepted connection, before it is counted.
enum Accepted {
    /// A client's own.
    Client(Client),
    /// One of a trusted proxy, which is yet to say whose.
    Proxied { stream: TcpStream, ends: Ends },
}

/// A client, and where it comes from.
struct Client {
    socket: Socket,
    peer: String,
    local: String,
    known: ClientAttributes,
}

impl Listener {
    /// Binds. `place` is the listener's number in the workers' plan; `ids` numbers clients; `capacity` counts those of all
    /// listeners.
    ///
    /// # Errors
    /// The address is in use, not this machine's, or not permitted.
    pub fn bind(
        config: &ListenerConfig,
        place: usize,
        ids: Arc<AtomicU64>,
        capacity: Capacity,
    ) -> io::Result<Self> {
        let (socket, address) = match &config.bind {
            Bind::Tcp(address) => {
                let socket = bind_tcp(*address)?;
                let address = socket.local_addr()?.to_string();
                (Bound::Tcp(socket), address)
            }
            Bind::Unix { path, mode } => {
                let socket = bind_unix(path, *mode)?;
                (Bound::Unix(socket, SocketFile(path.clone())), format!("unix:{}", path.display()))
            }
        };
        Ok(Self {
            name: config.name.clone(),
            place,
            max_clients: config.max_clients,
            speaks_tls: config.tls.is_some(),
            keepalive: config.keepalive,
            proxies: config.proxy_protocol.clone(),
            complained: Mutex::default(),
            source_rate: Mutex::new(SourceRate::new(&config.source_rate)),
            counts: Arc::default(),
            clients: Arc::default(),
            capacity,
            ids,
            socket,
            address,
        })
    }

    /// Where it listens; a port that was 0 is the real one.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its name, and what its sources' rates have done.
    pub fn counts(&self) -> (String, Arc<SourceCounts>) {
        (self.name.clone(), self.counts.clone())
    }

    /// Accepts until the drain begins. Nothing but the accept is awaited for longer than a worker takes to make
    /// room for one client.
    pub async fn serve(self, workers: Vec<Worker>, mut draining: Draining) {
        let listener = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                biased;
                () = draining.wait() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(accepted) => listener.clone().admit(accepted, &workers).await,
                // One that was gone before it was accepted is no reason to keep others waiting.
                Err(error) if !exhausted(&error) => {
                    tracing::debug!(listener = listener.name, %error, "a client left at once")
                }
                Err(error) => {
                    if listener.may_complain() {
                        tracing::warn!(listener = listener.name, %error, "a client could not be accepted; if descriptors ran out, raise the limit (ulimit -n) or lower max-clients");
                    }
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }

    /// Whether it is time for another complaint.
    fn may_complain(&self) -> bool {
        let mut last = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|at| at.elapsed() > COMPLAINT_PERIOD);
        if due {
            *last = Some(Instant::now());
        }
        due
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            Bound::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new()
                    .with_time(self.keepalive)
                    .with_interval((self.keepalive / 3).max(Duration::from_secs(1)));
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                loopback::spare(&stream, peer);
                let local = stream.local_addr()?;
                let from = peer.ip().to_canonical();
                if self.proxies.iter().any(|network| network.contains(&from)) {
                    return Ok(Accepted::Proxied { stream, ends: Ends { source: peer, destination: local } });
                }
                Ok(Accepted::Client(Client::tcp(stream, Ends { source: peer, destination: local })?))
            }
            Bound::Unix(listener, file) => {
                let (stream, _) = listener.accept().await?;
                // The server prints a unix client's address as its own path and port 0.
                let path = format!("{}:0", file.0.display());
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
        let place = self.take_place();
        match (accepted, place) {
            (Accepted::Client(client), Some(place)) => match self.rate(&client) {
                Admission::Now => self.hand_over(client, place, workers).await,
                Admission::After(wait) => {
                    let workers = workers.to_vec();
                    tokio::spawn(async move {
                        tokio::time::sleep(wait).await;
                        self.hand_over(client, place, &workers).await;
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
            // A proxy that is slow to speak keeps nobody waiting. It has a client's place meanwhile.
            (Accepted::Proxied { mut stream, ends }, Some(place)) => {
                let workers = workers.to_vec();
                tokio::spawn(async move {
                    match proxy_protocol::read(&mut stream).await {
                        Ok(told) => {
                            let Ok(client) = Client::tcp(stream, told.unwrap_or(ends)) else { return };
                            match self.rate(&client) {
                                Admission::Now => {}
                                Admission::After(wait) => tokio::time::sleep(wait).await,
                                Admission::Refused => return self.refuse_source(client),
                            }
                            self.hand_over(client, place, &workers).await;
                        }
                        Err(fault @ proxy_protocol::HeaderError::Nothing) => {
                            tracing::debug!(listener = self.name, from = %ends.source, %fault, "a proxy left");
                        }
                        Err(fault) if self.may_complain() => {
                            tracing::warn!(listener = self.name, from = %ends.source, %fault, "a connection is closed: proxy-protocol trusts its network to say where clients come from");
                        }
                        Err(_) => {}
                    }
                });
            }
        }
    }

    /// A place under `max-clients` and in the capacity of the process. `None`: the client is turned away.
    fn take_place(&self) -> Option<CountGuard> {
        let own = CountGuard::take(&self.clients, self.max_clients)?;
        let of_process = CountGuard::take(&self.capacity.taken, self.capacity.limit);
        if of_process.is_none() && self.may_complain() {
            tracing::warn!(
                listener = self.name,
                clients = self.capacity.limit,
                "clients are turned away: the other file descriptors are kept for upstream connections and the admin listener; raise the limit (ulimit -n, LimitNOFILE=)"
            );
        }
        Some(own.and(of_process?))
    }

    /// Whether the client's source may open one more connection. A unix socket's clients have no source.
    fn rate(&self, client: &Client) -> Admission {
        let Some(address) = client.known.address else { return Admission::Now };
        let mut rate = self.source_rate.lock().unwrap_or_else(PoisonError::into_inner);
        let admission = rate.admit(address, Instant::now());
        if matches!(admission, Admission::After(_)) {
            self.counts.delayed.fetch_add(1, Ordering::Relaxed);
        }
        admission
    }

    /// Closes a connection that is more than its source may open.
    fn refuse_source(&self, client: Client) {
        const TOO_MANY: &[u8] = b"-ERR respgate: too many new connections from this address (connects-per-second); connect again in a second\r\n";
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        let unsaid = self.counts.unsaid.fetch_add(1, Ordering::Relaxed) + 1;
        if self.may_complain() {
            self.counts.unsaid.store(0, Ordering::Relaxed);
            tracing::warn!(
                listener = self.name,
                from = client.peer,
                refused = unsaid,
                "connections are refused: one source opens more than connects-per-second; if many clients share its address, raise that or add it to connects-exempt"
            );
        }
        self.say(client.socket, TOO_MANY);
    }

    /// Says what the server says, if the socket takes it at once, and closes it. Before a TLS handshake there is nothing
    /// that a client would understand.
    fn turn_away(&self, socket: Socket) {
        self.say(socket, b"-ERR max number of clients reached\r\n");
    }

    fn say(&self, socket: Socket, line: &[u8]) {
        if self.speaks_tls {
            return;
        }
        let _ = match socket {
            Socket::Tcp(mut stream) => io::Write::write(&mut stream, line),
            Socket::Unix(mut stream) => io::Write::write(&mut stream, line),
        };
    }

    async fn hand_over(&self, client: Client, place: CountGuard, workers: &[Worker]) {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let origin = Origin { id, peer: client.peer, local: client.local, known: client.known };
        let arrival = AcceptedClient { socket: client.socket, listener: self.place, origin, place };
        if let Some(worker) = workers.iter().min_by_key(|worker| worker.load())
            && !worker.take(arrival).await
        {
            tracing::error!(listener = self.name, "a worker has ended; its clients are turned away");
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

/// Whether the process or the system has run out of something.
fn exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    Errno::from_io_error(error)
        .is_some_and(|errno| [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&errno))
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // [::] means IPv6 only, so that 0.0.0.0 can be bound beside it.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    remove_stale(path)?;
    let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Before anybody can connect.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

/// Removes a socket file that a process left behind when it was killed. One that is in use stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}
