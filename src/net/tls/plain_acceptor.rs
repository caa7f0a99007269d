//! Does TLS handshakes with the few clients of the admin listener. They are neither counted nor paced, unlike those of
//! [`super::accept`].

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::server::ServerSet;

/// The settings of the admin listener's TLS. A clone is cheap. Handshakes that begin after a rotation use the new set.
#[derive(Clone)]
pub struct PlainAcceptor {
    set: watch::Receiver<ServerSet>,
    handshake_timeout: Duration,
}

impl PlainAcceptor {
    /// Creates the settings. Each handshake uses the newest set of the channel.
    pub fn new(set: watch::Receiver<ServerSet>, handshake_timeout: Duration) -> Self {
        Self { set, handshake_timeout }
    }

    /// Does the handshake with a client, within the handshake timeout.
    ///
    /// # Errors
    /// Returns an error if the handshake fails or takes too long.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.set.borrow().config.clone();
        let handshake = TlsAcceptor::from(config).accept(stream);
        timeout(self.handshake_timeout, handshake)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
