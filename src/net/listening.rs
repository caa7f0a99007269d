//! Sockets that listen, whoever opened them: this process, systemd, or the respgate that this process replaces.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use listenfd::ListenFd;
use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::unix_socket::SocketFile;

/// Who manages the address of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketOwner {
    /// respgate: the configuration says the address, and respgate removes the file of a unix socket.
    Respgate,
    /// systemd: a socket unit says the address and has a name for it.
    Systemd,
}

/// A socket that listens.
pub struct ListeningSocket {
    kind: Kind,
    owner: SocketOwner,
}

enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A connection that was accepted.
pub enum AcceptedStream {
    /// A TCP connection and the client's address.
    Tcp(TcpStream, SocketAddr),
    /// A connection to a unix socket.
    Unix(UnixStream),
}

impl ListeningSocket {
    /// Registers a TCP socket with the runtime.
    ///
    /// # Errors
    /// Returns an error if the runtime cannot watch it.
    pub fn tcp(listener: std::net::TcpListener, owner: SocketOwner) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { kind: Kind::Tcp(TcpListener::from_std(listener)?), owner })
    }

    /// Registers a unix socket with the runtime.
    ///
    /// # Errors
    /// Returns an error if the runtime cannot watch it.
    pub fn unix(
        listener: std::os::unix::net::UnixListener,
        file: SocketFile,
        owner: SocketOwner,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        if owner == SocketOwner::Systemd {
            file.keep();
        }
        Ok(Self { kind: Kind::Unix(UnixListener::from_std(listener)?, file), owner })
    }

    /// Accepts the next connection.
    ///
    /// # Errors
    /// Fails as the system's `accept` does.
    pub async fn accept(&self) -> io::Result<AcceptedStream> {
        match &self.kind {
            Kind::Tcp(listener) => {
                listener.accept().await.map(|(stream, peer)| AcceptedStream::Tcp(stream, peer))
            }
            Kind::Unix(listener, _) => {
                listener.accept().await.map(|(stream, _)| AcceptedStream::Unix(stream))
            }
        }
    }

    /// Returns the address, as logs show it.
    ///
    /// # Errors
    /// Returns an error if the system does not tell the address.
    pub fn shown(&self) -> io::Result<String> {
        match &self.kind {
            Kind::Tcp(listener) => Ok(listener.local_addr()?.to_string()),
            Kind::Unix(_, file) => Ok(format!("unix:{}", file.path().display())),
        }
    }

    /// Returns the path of a unix socket.
    pub fn path(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Tcp(_) => None,
            Kind::Unix(_, file) => Some(file.path()),
        }
    }

    /// Returns who manages the address.
    pub fn owner(&self) -> SocketOwner {
        self.owner
    }

    /// Returns another descriptor of the same socket, with the same queue of connections.
    ///
    /// # Errors
    /// Returns an error if descriptors have run out.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        match &self.kind {
            Kind::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Kind::Unix(listener, _) => listener.as_fd().try_clone_to_owned(),
        }
    }

    /// Leaves the file of a unix socket in place when the socket is dropped: another process listens on it.
    pub fn keep_file(&self) {
        if let Kind::Unix(_, file) = &self.kind {
            file.keep();
        }
    }

    /// Undoes [`Self::keep_file`]: the other process has died.
    pub fn take_file_back(&self) {
        if let (Kind::Unix(_, file), SocketOwner::Respgate) = (&self.kind, self.owner) {
            file.take_back();
        }
    }

    /// Refuses connections from now on, also through descriptors of the same socket in other processes. systemd's sockets
    /// stay as they are.
    pub fn stop_listening(&self) {
        if self.owner == SocketOwner::Systemd {
            return;
        }
        // It can fail only if the socket does not listen, which is what it is for.
        let _ = match &self.kind {
            Kind::Tcp(listener) => SockRef::from(listener).shutdown(Shutdown::Both),
            Kind::Unix(listener, _) => SockRef::from(listener).shutdown(Shutdown::Both),
        };
    }
}

/// Lists the sockets that listen now, for an upgrade that passes them on. All clones share the list.
#[derive(Clone, Default)]
pub struct OpenSockets(Arc<Mutex<Vec<NamedSocket>>>);

/// A socket under the name of its listener.
type NamedSocket = (String, Weak<ListeningSocket>);

impl OpenSockets {
    /// Adds a socket under the name of its listener, which may have changed. The list does not keep the socket open.
    pub fn add(&self, name: &str, socket: &Arc<ListeningSocket>) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = Arc::downgrade(socket);
        list.retain(|(_, known)| known.strong_count() > 0 && !known.ptr_eq(&socket));
        list.push((name.to_owned(), socket));
    }

    /// Returns the sockets that are still open.
    pub fn all(&self) -> Vec<(String, Arc<ListeningSocket>)> {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().filter_map(|(name, socket)| Some((name.clone(), socket.upgrade()?))).collect()
    }
}

/// Holds the listening sockets that this process was given and has not used yet.
#[derive(Default)]
pub struct InheritedSockets(Vec<InheritedSocket>);

struct InheritedSocket {
    name: String,
    owner: SocketOwner,
    address: LocalAddress,
    socket: Socket,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LocalAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl InheritedSockets {
    /// Takes the sockets of systemd's socket activation: `LISTEN_FDS`, with the names in `LISTEN_FDNAMES`.
    pub fn from_systemd() -> Self {
        let mut sockets = Self::default();
        let mut given = ListenFd::from_env();
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        for index in 0..given.len() {
            let name = names.next().unwrap_or_default().to_owned();
            let socket = match given.take_tcp_listener(index) {
                Ok(socket) => Ok(socket.map(OwnedFd::from)),
                Err(_) => given.take_unix_listener(index).map(|socket| socket.map(OwnedFd::from)),
            };
            let added = socket.and_then(|socket| match socket {
                Some(socket) => sockets.add(name.clone(), SocketOwner::Systemd, socket),
                None => Ok(()),
            });
            if let Err(error) = added {
                tracing::warn!(name, %error, "respgate cannot use a socket that systemd passed: use ListenStream= in the socket unit");
            }
        }
        sockets
    }

    /// Adds a socket.
    ///
    /// # Errors
    /// Returns an error if it does not listen, or has neither an IP address nor a path.
    pub fn add(&mut self, name: String, owner: SocketOwner, socket: OwnedFd) -> io::Result<()> {
        let socket = Socket::from(socket);
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why);
        if !socket.is_listener()? {
            return Err(invalid("the socket does not listen"));
        }
        let address = socket.local_addr()?;
        let tcp = address.as_socket().map(LocalAddress::Tcp);
        let unix = || address.as_pathname().map(|path| LocalAddress::Unix(path.to_owned()));
        let address =
            tcp.or_else(unix).ok_or_else(|| invalid("the socket has neither an IP address nor a path"))?;
        self.0.push(InheritedSocket { name, owner, address, socket });
        Ok(())
    }

    /// Takes the socket for a listener that is to listen on `address`, if there is one. A socket with the address comes
    /// first. Next, one of systemd with the listener's name, whatever its address is. If the port is 0, one with the
    /// name and the IP address fits.
    ///
    /// # Errors
    /// Returns an error if the runtime cannot watch the socket.
    pub fn take_tcp(&mut self, name: &str, address: SocketAddr) -> io::Result<Option<ListeningSocket>> {
        let fits = |socket: &InheritedSocket| match (&socket.address, socket.owner) {
            (LocalAddress::Tcp(_), SocketOwner::Systemd) => true,
            (LocalAddress::Tcp(local), SocketOwner::Respgate) => {
                address.port() == 0 && local.ip() == address.ip()
            }
            (LocalAddress::Unix(_), _) => false,
        };
        let found = self.take(&LocalAddress::Tcp(address), |socket| socket.name == name && fits(socket));
        found.map(|found| ListeningSocket::tcp(found.socket.into(), found.owner)).transpose()
    }

    /// Takes the socket for a listener that is to listen on a unix socket, if there is one: one with the path, else one
    /// of systemd with the listener's name.
    ///
    /// # Errors
    /// Returns an error if the runtime cannot watch the socket.
    pub fn take_unix(&mut self, name: &str, path: &Path) -> io::Result<Option<ListeningSocket>> {
        let found = self.take(&LocalAddress::Unix(path.to_owned()), |socket| {
            socket.name == name
                && socket.owner == SocketOwner::Systemd
                && matches!(socket.address, LocalAddress::Unix(_))
        });
        let listening = found.map(|found| {
            let path = match found.address {
                LocalAddress::Unix(path) => path,
                LocalAddress::Tcp(_) => path.to_owned(),
            };
            ListeningSocket::unix(found.socket.into(), SocketFile::new(path), found.owner)
        });
        listening.transpose()
    }

    fn take(
        &mut self,
        address: &LocalAddress,
        named: impl Fn(&InheritedSocket) -> bool,
    ) -> Option<InheritedSocket> {
        let at = self.0.iter().position(|socket| socket.address == *address);
        let at = at.or_else(|| self.0.iter().position(named))?;
        Some(self.0.swap_remove(at))
    }

    /// Returns the sockets that respgate opened and no listener has taken. Closes those of systemd.
    pub fn into_unused(self) -> UnusedSockets {
        let sockets = self.0.into_iter().filter_map(|unused| {
            let InheritedSocket { name, owner, address, socket } = unused;
            match (owner, address) {
                (SocketOwner::Systemd, address) => {
                    tracing::warn!(name, ?address, "respgate closes a socket that systemd passed: no listener has its address or its name");
                    None
                }
                (SocketOwner::Respgate, LocalAddress::Unix(path)) => {
                    let file = SocketFile::new(path);
                    file.keep();
                    Some((socket, Some(file)))
                }
                (SocketOwner::Respgate, LocalAddress::Tcp(_)) => Some((socket, None)),
            }
        });
        UnusedSockets(sockets.collect())
    }
}

/// Holds sockets of the former process that this one has no listener for. Dropping it leaves them to the former process.
pub struct UnusedSockets(Vec<(Socket, Option<SocketFile>)>);

impl UnusedSockets {
    /// Refuses connections to the sockets, and removes their files. The former process must have handed over: it keeps its
    /// descriptors of them.
    pub fn close(self) {
        for (socket, file) in self.0 {
            // It fails only if the former process has closed the socket in this way already.
            let _ = socket.shutdown(Shutdown::Both);
            file.iter().for_each(SocketFile::take_back);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> (OwnedFd, SocketAddr) {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        (socket.into(), address)
    }

    fn shown(taken: io::Result<Option<ListeningSocket>>) -> Option<String> {
        taken.unwrap().map(|socket| socket.shown().unwrap())
    }

    #[tokio::test]
    async fn a_socket_is_found_by_its_address_then_by_its_name() {
        let mut sockets = InheritedSockets::default();
        let ((first, one), (second, two), (third, three)) = (socket(), socket(), socket());
        sockets.add("a".into(), SocketOwner::Respgate, first).unwrap();
        sockets.add("b".into(), SocketOwner::Systemd, second).unwrap();
        sockets.add("c".into(), SocketOwner::Respgate, third).unwrap();
        let other: SocketAddr = "127.0.0.1:1".parse().unwrap();
        assert_eq!(shown(sockets.take_tcp("a", other)), None, "the configuration has another address now");
        assert_eq!(shown(sockets.take_tcp("renamed", one)), Some(one.to_string()));
        assert_eq!(shown(sockets.take_tcp("b", other)), Some(two.to_string()), "the unit says the address");
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        assert_eq!(shown(sockets.take_tcp("x", any)), None);
        assert_eq!(shown(sockets.take_tcp("c", any)), Some(three.to_string()));
        assert_eq!(shown(sockets.take_tcp("c", any)), None, "taken");
    }

    #[tokio::test]
    async fn the_file_of_a_unix_socket_stays_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut sockets = InheritedSockets::default();
        for (name, owner) in [
            ("app", SocketOwner::Respgate),
            ("passed", SocketOwner::Respgate),
            ("unit", SocketOwner::Systemd),
            ("unused", SocketOwner::Respgate),
        ] {
            let socket = std::os::unix::net::UnixListener::bind(path(name)).unwrap();
            sockets.add(name.into(), owner, socket.into()).unwrap();
        }
        assert!(sockets.take_unix("app", &path("elsewhere")).unwrap().is_none());
        drop(sockets.take_unix("app", &path("app")).unwrap().unwrap());
        let passed = sockets.take_unix("passed", &path("passed")).unwrap().unwrap();
        passed.keep_file();
        passed.take_file_back();
        passed.keep_file();
        drop(passed);
        drop(sockets.take_unix("unit", &path("elsewhere")).unwrap().unwrap());
        let unused = sockets.into_unused();
        assert!(path("unused").exists());
        unused.close();
        let left = ["app", "passed", "unit", "unused"].map(|name| path(name).exists());
        assert_eq!(left, [false, true, true, false]);
    }

    /// A removed listener's address is free at once, also while a former process has a descriptor of its socket.
    #[tokio::test]
    async fn a_socket_stops_listening_in_every_process() {
        let (opened, address) = socket();
        let other = opened.try_clone().unwrap();
        let listening = ListeningSocket::tcp(opened.into(), SocketOwner::Respgate).unwrap();
        assert!(std::net::TcpStream::connect(address).is_ok());
        listening.stop_listening();
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        drop(listening);
        assert!(std::net::TcpListener::bind(address).is_ok());
        drop(other);
    }

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let added = InheritedSockets::default().add("a".into(), SocketOwner::Respgate, socket.into());
        assert_eq!(added.unwrap_err().to_string(), "the socket does not listen");
    }
}
