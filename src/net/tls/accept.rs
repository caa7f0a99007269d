//! Does TLS handshakes with clients, counts them, and logs their failures.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::server::TlsStream;

use super::certificate::{Certificate, CertificateIdentity};
use super::gate::HandshakeGate;
use super::handshake_error::{HandshakeError, Peer, Reason, explain};
use super::read_ahead::ReadAhead;
use super::server::ServerSet;

/// Minimum time between two log lines of the same reason, for each listener and worker.
const LOG_PERIOD: Duration = Duration::from_secs(10);
/// Time that a handshake may take while others wait for a slot. Otherwise clients that send one
/// byte and stop would keep all others out.
const CROWDED_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two checks whether other handshakes wait.
const CROWDED_CHECK: Duration = Duration::from_millis(100);
/// The first byte of every TLS connection: a handshake record.
const HANDSHAKE_RECORD: u8 = 0x16;
/// The reply to a client that speaks plain text, because such a client does not understand a TLS
/// alert.
const SPEAK_TLS: &[u8] =
    b"-ERR respgate: this port speaks TLS; connect with TLS (rediss://, or --tls), or use a port without\r\n";

/// The settings with which a listener speaks TLS. A clone is cheap. Handshakes that begin after a
/// rotation use the new set.
#[derive(Clone)]
pub struct ServerTls {
    set: watch::Receiver<ServerSet>,
    /// Time from the accept to the end of the handshake.
    handshake_timeout: Duration,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("handshake_timeout", &self.handshake_timeout)
            .finish_non_exhaustive()
    }
}

/// A client whose handshake succeeded.
pub struct Welcomed {
    /// The connection.
    pub stream: TlsStream<ReadAhead>,
    /// The identity in the client's verified certificate; `None` if the client showed none.
    pub identity: Option<CertificateIdentity>,
}

impl ServerTls {
    /// Creates the settings. Each handshake uses the newest set of the channel.
    pub fn new(set: watch::Receiver<ServerSet>, handshake_timeout: Duration) -> Self {
        Self { set, handshake_timeout }
    }

    /// Does the handshake with a client, within the handshake timeout.
    ///
    /// # Errors
    /// Returns why the client is not served. The client has got a TLS alert if TLS defines one for
    /// that reason.
    pub async fn accept(
        &self,
        stream: TcpStream,
        log: &HandshakeLog,
        gate: &Rc<HandshakeGate>,
    ) -> Result<Welcomed, HandshakeError> {
        let deadline = Instant::now() + self.handshake_timeout;
        let welcomed = timeout_at(deadline, self.shake_hands(stream, gate)).await.unwrap_or_else(|_| {
            let text = format!("did not finish the TLS handshake within {:?}", self.handshake_timeout);
            Err(HandshakeError { reason: Reason::Timeout, text })
        })?;
        log.succeeded(welcomed.stream.get_ref().1.handshake_kind());
        Ok(welcomed)
    }

    async fn shake_hands(
        &self,
        mut stream: TcpStream,
        gate: &Rc<HandshakeGate>,
    ) -> Result<Welcomed, HandshakeError> {
        let mut first = [0];
        if stream.peek(&mut first).await.unwrap_or(0) == 0 {
            return Err(HandshakeError { reason: Reason::PortCheck, text: "left without a word".into() });
        }
        if first != [HANDSHAKE_RECORD] {
            // A write is tried once: an unknown client must not keep the task waiting.
            let _ = stream.write_all(SPEAK_TLS).await;
            return Err(HandshakeError {
                reason: Reason::Plaintext,
                text: "speaks without TLS to a TLS port; configure the client for TLS (rediss://, --tls)"
                    .into(),
            });
        }
        let _slot = gate.enter().await;
        let config = self.set.borrow().config.clone();
        let handshake = gate.paced(TlsAcceptor::from(config).accept(ReadAhead::new(stream)));
        let stream = tokio::select! {
            stream = handshake => stream.map_err(|error| explain(&error, Peer::Client))?,
            () = crowded_out(gate) => {
                let text = format!("did not finish the TLS handshake within {CROWDED_TIMEOUT:?}, and others wait");
                return Err(HandshakeError { reason: Reason::Timeout, text });
            }
        };
        let identity = identity(&stream)?;
        Ok(Welcomed { stream, identity })
    }
}

/// Waits until the handshake has taken [`CROWDED_TIMEOUT`] and others wait for its slot. It starts
/// with the handshake.
async fn crowded_out(gate: &HandshakeGate) {
    // While slots are free, a slow client costs only its own slot, and may use the whole handshake
    // timeout.
    tokio::time::sleep(CROWDED_TIMEOUT).await;
    while !gate.is_crowded() {
        tokio::time::sleep(CROWDED_CHECK).await;
    }
}

/// Returns the identity in the client's certificate. A resumed session carries the certificate of
/// its first handshake, which may have expired since, so the expiry is checked here.
fn identity(stream: &TlsStream<ReadAhead>) -> Result<Option<CertificateIdentity>, HandshakeError> {
    let Some(own) = stream.get_ref().1.peer_certificates().and_then(<[_]>::first) else { return Ok(None) };
    let certificate = Certificate::read(own).map_err(|why| HandshakeError {
        reason: Reason::BadCertificate,
        text: format!("shows what {why}"),
    })?;
    if certificate.not_after < std::time::SystemTime::now() {
        let text = "resumes a session whose certificate has expired since; renew it".into();
        return Err(HandshakeError { reason: Reason::Expired, text });
    }
    Ok(Some(certificate.identity))
}

/// Counts one listener's handshakes on one worker, and logs failures at a bounded rate.
#[derive(Default)]
pub struct HandshakeLog {
    full: Cell<u64>,
    resumed: Cell<u64>,
    failed: [Cell<u64>; Reason::ALL.len()],
    last_logged: RefCell<[Option<LastLogged>; Reason::ALL.len()]>,
}

#[derive(Clone, Copy)]
struct LastLogged {
    at: Instant,
    /// Failures since, which were not logged.
    suppressed: u64,
}

/// Numbers of handshakes so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// Handshakes with an exchange of certificates.
    pub full: u64,
    /// Handshakes that resumed an earlier TLS session.
    pub resumed: u64,
    /// Failed handshakes, in the order of [`Reason::ALL`].
    pub failed: [u64; Reason::ALL.len()],
}

impl Handshakes {
    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Self) {
        self.full += other.full;
        self.resumed += other.resumed;
        self.failed.iter_mut().zip(other.failed).for_each(|(sum, failed)| *sum += failed);
    }
}

impl HandshakeLog {
    fn succeeded(&self, kind: Option<HandshakeKind>) {
        let count = if kind == Some(HandshakeKind::Resumed) { &self.resumed } else { &self.full };
        count.set(count.get() + 1);
    }

    /// Counts a failed handshake, and logs it unless one with the same reason was logged within the
    /// last 10 s.
    pub fn failed(&self, listener: &str, peer: &str, error: &HandshakeError) {
        if let Some(count) = self.failed.get(index_of(error.reason)) {
            count.set(count.get() + 1);
        }
        self.broken(listener, peer, error);
    }

    /// Logs as [`HandshakeLog::failed`] does, but does not count. It is for errors after the
    /// handshake, which are counted elsewhere.
    pub fn broken(&self, listener: &str, peer: &str, error: &HandshakeError) {
        if error.reason == Reason::PortCheck {
            tracing::debug!(listener, "TLS: {peer} {error}");
            return;
        }
        let index = index_of(error.reason);
        if let Some(suppressed) = self.may_log(index, Instant::now()) {
            tracing::warn!(
                listener,
                reason = error.reason.label(),
                unsaid = suppressed,
                "TLS: {peer} {error}"
            );
        }
    }

    /// Returns the number of unlogged failures of this reason if the next one may be logged now,
    /// else `None`.
    fn may_log(&self, index: usize, now: Instant) -> Option<u64> {
        let mut reasons = self.last_logged.borrow_mut();
        let last = reasons.get_mut(index)?;
        match last {
            Some(last) if now.duration_since(last.at) < LOG_PERIOD => {
                last.suppressed += 1;
                None
            }
            last => last
                .replace(LastLogged { at: now, suppressed: 0 })
                .map_or(Some(0), |last| Some(last.suppressed)),
        }
    }

    /// Returns the numbers of handshakes so far.
    pub fn count(&self) -> Handshakes {
        let mut failed = [0; Reason::ALL.len()];
        failed.iter_mut().zip(&self.failed).for_each(|(sum, count)| *sum = count.get());
        Handshakes { full: self.full.get(), resumed: self.resumed.get(), failed }
    }
}

fn index_of(reason: Reason) -> usize {
    Reason::ALL.iter().position(|other| *other == reason).unwrap_or_default()
}

/// Rewords an error of an established connection: in TLS 1.3, a peer refuses a certificate only
/// after the handshake.
pub(crate) fn reworded(error: io::Error, peer: Peer) -> io::Error {
    match error.get_ref().is_some_and(|inner| inner.is::<tokio_rustls::rustls::Error>()) {
        true => io::Error::new(error.kind(), explain(&error, peer)),
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_failures_is_counted_but_not_logged() {
        let log = HandshakeLog::default();
        assert_eq!(log.may_log(0, Instant::now()), Some(0));
        for _ in 0..100 {
            assert_eq!(log.may_log(0, Instant::now()), None);
        }
        assert_eq!(log.may_log(1, Instant::now()), Some(0));
        tokio::time::advance(LOG_PERIOD).await;
        assert_eq!(log.may_log(0, Instant::now()), Some(100));
        log.failed("main", "10.0.0.7:1", &HandshakeError { reason: Reason::Timeout, text: String::new() });
        assert_eq!(log.count().failed[2], 1);
    }
}
