//! Connects to an address: resolves its name, tries each of its IP addresses, and sets the socket's
//! options.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::files;
use crate::net::loopback;
use crate::net::stream::Stream;
use crate::net::tls::client::ClientTls;
use crate::net::tls::handshake_error::{HandshakeError, Peer, Reason, explain};
use crate::topology::Address;

/// Time after which the next IP address of a name is tried while the last one is still connecting
/// (RFC 8305 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

/// Number of addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// Holds the settings of new connections. A clone is cheap.
#[derive(Clone, Debug)]
pub struct Dialer {
    /// Time for the name look-up, the connect and the TLS handshake together.
    pub connect_timeout: Duration,
    /// Idle time after which TCP keepalive probes start.
    pub keepalive_idle: Duration,
    /// Time between keepalive probes.
    pub keepalive_interval: Duration,
    /// Number of unanswered probes after which the connection is lost.
    pub keepalive_probes: u32,
    /// Time for which written bytes may stay unacknowledged before the connection is lost (Linux
    /// only). `None` leaves it to the kernel, which takes about 15 minutes.
    pub user_timeout: Option<Duration>,
    /// TLS settings; `None` speaks plain text. A unix socket never leaves the machine and never
    /// uses TLS.
    pub tls: Option<ClientTls>,
}

impl Default for Dialer {
    /// Detects a vanished peer within 30 s.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            keepalive_idle: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(5),
            keepalive_probes: 3,
            user_timeout: Some(Duration::from_secs(20)),
            tls: None,
        }
    }
}

impl Dialer {
    /// Connects. Every call resolves the name again, because it may have moved. It tries all IP
    /// addresses of the name, starts the next one when the last has failed or has taken 250 ms, and
    /// uses the first that accepts. The TLS handshake must end within the same `connect_timeout`.
    ///
    /// # Errors
    ///
    /// Returns an error if the name has no address, if no address accepts, if TLS fails, or if
    /// `connect_timeout` passes.
    pub async fn dial(&self, address: &Address) -> Result<Stream, DialError> {
        let deadline = Instant::now() + self.connect_timeout;
        let attempt = async {
            match address {
                Address::Unix(path) => {
                    UnixStream::connect(path).await.map(Stream::Unix).map_err(Cause::Connect)
                }
                Address::Tcp { host, port } => {
                    self.dial_any(resolve(host, *port).await?).await.map(Stream::Tcp)
                }
            }
        };
        let stream = timeout_at(deadline, attempt).await.unwrap_or(Err(Cause::Timeout(self.connect_timeout)));
        let secured = match stream {
            Ok(stream) => self.secure(address, stream, deadline).await,
            Err(cause) => Err(cause),
        };
        secured.map_err(|cause| DialError { address: address.clone(), cause })
    }

    /// Does the TLS handshake if TLS is configured.
    async fn secure(&self, address: &Address, stream: Stream, deadline: Instant) -> Result<Stream, Cause> {
        match (&self.tls, stream) {
            (Some(tls), Stream::Tcp(stream)) => {
                match timeout_at(deadline, tls.connect(address, stream)).await {
                    Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream.into()))),
                    Ok(Err(error)) => Err(Cause::Tls(explain(&error, Peer::Server))),
                    Err(_) => Err(Cause::Tls(HandshakeError {
                        reason: Reason::Timeout,
                        text: format!(
                            "did not finish the TLS handshake within {:?}; a port without TLS keeps silent like that",
                            self.connect_timeout
                        ),
                    })),
                }
            }
            (_, stream) => Ok(stream),
        }
    }

    async fn dial_any(&self, mut waiting: VecDeque<SocketAddr>) -> Result<TcpStream, Cause> {
        let mut attempts = JoinSet::new();
        let mut last = Cause::NoAddress;
        loop {
            if let Some(peer) = waiting.pop_front() {
                let dialer = self.clone();
                attempts.spawn(async move { dialer.dial_one(peer).await });
            }
            // The loop starts the next address when an attempt fails or when 250 ms have passed.
            // Earlier attempts go on meanwhile; the first success drops the others.
            let next = Instant::now() + STAGGER;
            tokio::select! {
                ended = attempts.join_next() => match ended {
                    Some(Ok(Ok(stream))) => return Ok(stream),
                    Some(Ok(Err(error))) => last = Cause::Connect(error),
                    Some(Err(error)) => last = Cause::Connect(io::Error::other(error)),
                    None => return Err(last),
                },
                () = sleep_until(next), if !waiting.is_empty() => {}
            }
        }
    }

    async fn dial_one(&self, peer: SocketAddr) -> io::Result<TcpStream> {
        let socket = if peer.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        self.set_options(&socket)?;
        loopback::use_reno(&socket, peer);
        let stream = socket.connect(peer).await?;
        // A connect to a local port without a listener can reach its own socket: TCP's simultaneous
        // open lets a socket connect to its own ephemeral port. No server listens there.
        if stream.local_addr()? == peer {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(stream)
    }

    fn set_options(&self, socket: &TcpSocket) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let options = SockRef::from(socket);
        let keepalive =
            TcpKeepalive::new().with_time(self.keepalive_idle).with_interval(self.keepalive_interval);
        #[cfg(any(target_os = "linux", target_os = "macos"))]
        let keepalive = keepalive.with_retries(self.keepalive_probes);
        options.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        options.set_tcp_user_timeout(self.user_timeout)?;
        Ok(())
    }
}

/// Returns the addresses of a name. The two families alternate, so that a broken family costs one
/// step.
async fn resolve(host: &str, port: u16) -> Result<VecDeque<SocketAddr>, Cause> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(VecDeque::from([SocketAddr::new(ip, port)]));
    }
    Ok(interleave(look_up(host, port).await.map_err(Cause::Resolve)?))
}

/// Asks the system's resolver for the addresses of a name, in the resolver's order.
///
/// # Errors
///
/// Returns the resolver's error.
pub async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host((host, port)).await?.collect())
}

/// Alternates the two families, starting with the resolver's first choice.
fn interleave(found: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let first_is_v4 = found.first().is_some_and(SocketAddr::is_ipv4);
    let (mut preferred, mut other): (VecDeque<_>, VecDeque<_>) =
        found.into_iter().partition(|peer| peer.is_ipv4() == first_is_v4);
    let mut ordered = VecDeque::new();
    while ordered.len() < MAX_ADDRESSES && !(preferred.is_empty() && other.is_empty()) {
        ordered.extend(preferred.pop_front());
        ordered.extend(other.pop_front());
    }
    ordered
}

/// A failed connect: the address, the cause, and what to check.
#[derive(Debug)]
pub struct DialError {
    address: Address,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Resolve(io::Error),
    NoAddress,
    Connect(io::Error),
    Timeout(Duration),
    Tls(HandshakeError),
}

impl DialError {
    /// Returns true if the name led to no address, so that nobody was asked to accept a connection.
    pub fn is_unresolved(&self) -> bool {
        matches!(self.cause, Cause::Resolve(_) | Cause::NoAddress)
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.address;
        match &self.cause {
            Cause::Resolve(error) => {
                write!(f, "cannot resolve {address}: {error}; check the name and this machine's DNS")
            }
            Cause::NoAddress => write!(f, "{address} resolves to no IP address; check its DNS records"),
            Cause::Timeout(after) => write!(
                f,
                "no connection to {address} within {after:?}; check that the host is up and that no firewall \
                 or network policy drops the packets"
            ),
            Cause::Tls(error) => write!(f, "{address} {error}"),
            Cause::Connect(error) => {
                write!(f, "cannot connect to {address}: {error}; {}", remedy(error, address))
            }
        }
    }
}

impl std::error::Error for DialError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Resolve(error) | Cause::Connect(error) => Some(error),
            Cause::Tls(error) => Some(error),
            Cause::NoAddress | Cause::Timeout(_) => None,
        }
    }
}

fn remedy(error: &io::Error, address: &Address) -> &'static str {
    match (error.kind(), address) {
        (io::ErrorKind::ConnectionRefused, Address::Tcp { .. }) => {
            "check that a server listens on that port and is bound to that address"
        }
        (io::ErrorKind::ConnectionRefused, Address::Unix(_)) => {
            "the socket file is there but no server listens; check that the server runs"
        }
        (io::ErrorKind::NotFound, Address::Unix(path)) if !parent_exists(path) => {
            "check the path, and that its folder is mounted here"
        }
        (io::ErrorKind::NotFound, _) => {
            "check the path, and that the server runs with `unixsocket` set to it"
        }
        (io::ErrorKind::PermissionDenied, Address::Unix(_)) => {
            "check the socket's permissions (`unixsocketperm`) against the user respgate runs as"
        }
        _ => "check the route to that host",
    }
}

fn parent_exists(path: &Path) -> bool {
    path.parent().is_none_or(|folder| files::metadata(folder).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};

    async fn echo_once(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        stream.write_all(&byte).await.unwrap();
    }

    async fn round_trip(mut stream: Stream) {
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"x");
        stream.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn dials_literals_names_and_unix_sockets() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            for _ in 0..2 {
                echo_once(listener.accept().await.unwrap().0).await;
            }
        });
        for host in ["127.0.0.1", "localhost"] {
            let stream = Dialer::default().dial(&Address::tcp(host, port)).await.unwrap();
            let Stream::Tcp(tcp) = &stream else { panic!("not TCP") };
            assert!(tcp.nodelay().unwrap());
            assert!(SockRef::from(tcp).keepalive().unwrap());
            assert_eq!(stream.peer(), format!("127.0.0.1:{port}"));
            round_trip(stream).await;
        }
        server.await.unwrap();

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move { echo_once(listener.accept().await.unwrap().0).await });
        let stream = Dialer::default().dial(&Address::Unix(path.clone())).await.unwrap();
        assert_eq!(stream.peer(), format!("unix:{}", path.display()));
        round_trip(stream).await;
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_refused_address_does_not_hide_one_that_accepts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let stream = Dialer::default().dial_any(VecDeque::from([gone, good])).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
    }

    #[tokio::test]
    async fn errors_name_the_address_the_cause_and_a_remedy() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let dialer = Dialer { connect_timeout: Duration::from_secs(5), ..Dialer::default() };
        let text = dialer.dial(&Address::tcp("127.0.0.1", gone.port())).await.unwrap_err().to_string();
        assert!(
            text.contains(&gone.to_string()) && text.contains("refused") && text.contains("listens"),
            "{text}"
        );

        let text = dialer.dial(&Address::Unix("/nonexistent/v.sock".into())).await.unwrap_err().to_string();
        assert!(text.contains("unix:/nonexistent/v.sock") && text.contains("mounted"), "{text}");
    }

    #[tokio::test]
    async fn a_silent_address_ends_at_the_deadline() {
        // A full accept queue drops the handshake, so that a connect hangs.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let peer = listener.local_addr().unwrap();
        let dialer = Dialer { connect_timeout: Duration::from_millis(200), ..Dialer::default() };
        let mut held = Vec::new();
        let error = loop {
            match dialer.dial(&Address::tcp("127.0.0.1", peer.port())).await {
                Ok(stream) => held.push(stream),
                Err(error) => break error.to_string(),
            }
            assert!(held.len() < 16, "the accept queue never fills");
        };
        assert!(error.contains("within 200ms"), "{error}");
    }

    #[test]
    fn families_alternate() {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let found = ["[::1]:1", "[::2]:1", "10.0.0.1:1", "[::3]:1"].map(parse).to_vec();
        let ordered: Vec<_> = interleave(found).into();
        assert_eq!(ordered, ["[::1]:1", "10.0.0.1:1", "[::2]:1", "[::3]:1"].map(parse));
    }
}
