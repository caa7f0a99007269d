//! One type for every kind of byte stream: TCP, unix socket, TLS.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use crate::net::tls::accept::reworded;
use crate::net::tls::handshake_error::Peer;
use crate::net::tls::read_ahead::ReadAhead;

/// A connected byte stream. Reads and writes call tokio's own types directly. A short read or write
/// thus clears their readiness, and the next poll makes no system call.
#[derive(Debug)]
pub enum Stream {
    /// TCP, with Nagle's algorithm off.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS over TCP. Written bytes may wait in it until a flush. It is boxed so that the other
    /// variants stay small.
    Tls(Box<TlsStream<ReadAhead>>),
}

impl Stream {
    /// Returns the other end, for logs: an IP address and port, or a unix socket's path.
    pub fn peer(&self) -> String {
        match self {
            Self::Tcp(stream) => tcp_peer(stream),
            Self::Tls(stream) => tcp_peer(stream.get_ref().0.get_ref()),
            Self::Unix(stream) => stream
                .peer_addr()
                .ok()
                .and_then(|peer| peer.as_pathname().map(|path| format!("unix:{}", path.display())))
                .unwrap_or_else(|| "a unix socket".into()),
        }
    }

    /// Returns true if no written byte waits in the stream.
    pub fn is_flushed(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Tls(stream) => !stream.get_ref().1.wants_write(),
        }
    }

    /// Returns true if the system has told that the peer closed its sending side. Bytes that it sent before may be unread.
    pub fn is_half_closed(&self) -> bool {
        match self {
            Self::Tcp(stream) => says_closed(stream.ready(Interest::READABLE)),
            Self::Unix(stream) => says_closed(stream.ready(Interest::READABLE)),
            Self::Tls(stream) => says_closed(stream.get_ref().0.get_ref().ready(Interest::READABLE)),
        }
    }

    /// Sends TLS's `close_notify` if that takes no wait. A TLS peer tells an orderly end from a cut
    /// connection by it.
    pub fn close(&mut self) {
        if let Self::Tls(stream) = self {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut **stream).poll_shutdown(&mut cx);
        }
    }
}

/// Looks at a readiness once, without waiting for it.
fn says_closed(ready: impl Future<Output = io::Result<Ready>>) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    matches!(pin!(ready).poll(&mut cx), Poll::Ready(Ok(ready)) if ready.is_read_closed())
}

fn tcp_peer(stream: &TcpStream) -> String {
    stream.peer_addr().map_or_else(|_| "a closed TCP connection".into(), |peer| peer.to_string())
}

fn peer_of(stream: &TlsStream<ReadAhead>) -> Peer {
    match stream {
        TlsStream::Client(_) => Peer::Server,
        TlsStream::Server(_) => Peer::Client,
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => {
                let peer = peer_of(stream);
                Pin::new(&mut **stream).poll_read(cx, buf).map_err(|error| reworded(error, peer))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
