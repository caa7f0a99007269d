//! Where a listener listens, and its socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use socket2::{Domain, Socket, Type};

use crate::net::listening::{InheritedSockets, ListeningSocket, SocketOwner};
use crate::net::unix_socket;

/// Connections that the kernel completes before respgate accepts them.
const BACKLOG: i32 = 4096;

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

impl Bind {
    /// Returns true if both are the same address. A unix socket's permissions are no part of it.
    pub fn same_address(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(address), Self::Tcp(other)) => address == other,
            (Self::Unix { path, .. }, Self::Unix { path: other, .. }) => path == other,
            _ => false,
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Binds the socket of the listener `name`, which listens from now on. A socket in `inherited` that fits is used instead.
///
/// # Errors
/// Returns an error if the address is in use, does not belong to this machine, or is not permitted.
pub(super) fn open(name: &str, bind: &Bind, inherited: &mut InheritedSockets) -> io::Result<ListeningSocket> {
    let inherited = match bind {
        Bind::Tcp(address) => inherited.take_tcp(name, *address)?,
        Bind::Unix { path, .. } => inherited.take_unix(name, path)?,
    };
    match (inherited, bind) {
        (Some(socket), _) => Ok(socket),
        (None, Bind::Tcp(address)) => ListeningSocket::tcp(bind_tcp(*address)?, SocketOwner::Respgate),
        (None, Bind::Unix { path, mode }) => {
            let (socket, file) = unix_socket::bind(path, *mode, BACKLOG)?;
            ListeningSocket::unix(socket, file, SocketOwner::Respgate)
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // With IPV6_V6ONLY, `[::]` means IPv6 only, so that 0.0.0.0 can be bound beside it.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
