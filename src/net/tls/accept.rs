//! Shakes hands with clients, and keeps account of it.

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
use super::fault::{HandshakeError, Peer, Reason, explain};
use super::gate::HandshakeGate;
use super::read_ahead::ReadAhead;
use super::server::ServerSet;

/// The same kind of fault is logged at most this often for each listener and worker.
const LOG_PERIOD: Duration = Duration::from_secs(10);
/// How long a handshake may take while others wait for a slot. Clients that send a first byte and nothing more would
/// otherwise keep all others out.
const CROWDED_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is looked whether others wait.
const CROWDED_CHECK: Duration = Duration::from_millis(100);
/// The first byte of every TLS connection: a handshake record.
const HANDSHAKE_RECORD: u8 = 0x16;
/// What a client that speaks plain text is told, since it could make nothing of a TLS alert.
const SPEAK_TLS: &[u8] =
    b"-ERR respgate: this port speaks TLS; connect with TLS (rediss://, or --tls), or use a port without\r\n";

/// What a listener needs to speak TLS. Cheap to clone; a rotated set is used from the next handshake on.
#[derive(Clone)]
pub struct ServerTls {
    set: watch::Receiver<ServerSet>,
    /// From the accept to the end of the handshake.
    handshake_timeout: Duration,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("handshake_timeout", &self.handshake_timeout)
            .finish_non_exhaustive()
    }
}

/// A client that has shaken hands.
pub struct Welcomed {
    /// The connection.
    pub stream: TlsStream<ReadAhead>,
    /// Who its certificate says it is, if it showed one. The certificate is verified.
    pub identity: Option<CertificateIdentity>,
}

impl ServerTls {
    /// Handshakes use the set that was sent last.
    pub fn new(set: watch::Receiver<ServerSet>, handshake_timeout: Duration) -> Self {
        Self { set, handshake_timeout }
    }

    /// Shakes hands with a client, within the handshake timeout.
    ///
    /// # Errors
    /// Why the client is not served. It has been told as far as TLS has words for it.
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
            // Best effort: what is said to a stranger must not take long.
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
            () = outstay(gate) => {
                let text = format!("did not finish the TLS handshake within {CROWDED_TIMEOUT:?}, and others wait");
                return Err(HandshakeError { reason: Reason::Timeout, text });
            }
        };
        let identity = identity(&stream)?;
        Ok(Welcomed { stream, identity })
    }
}

/// Ends when a handshake that has just begun has taken [`CROWDED_TIMEOUT`] and others wait for its slot.
async fn outstay(gate: &HandshakeGate) {
    tokio::time::sleep(CROWDED_TIMEOUT).await;
    while !gate.is_crowded() {
        tokio::time::sleep(CROWDED_CHECK).await;
    }
}

/// Whose certificate it is. A session that is resumed brings the certificate of its first handshake along, and that may
/// have expired since.
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

/// One listener's handshakes on one worker: counted, and their faults logged without flooding the log.
#[derive(Default)]
pub struct HandshakeLog {
    full: Cell<u64>,
    resumed: Cell<u64>,
    failed: [Cell<u64>; Reason::ALL.len()],
    said: RefCell<[Option<Said>; Reason::ALL.len()]>,
}

#[derive(Clone, Copy)]
struct Said {
    at: Instant,
    unsaid: u64,
}

/// Handshakes so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// With certificates exchanged.
    pub full: u64,
    /// Of clients that came back.
    pub resumed: u64,
    /// In the order of [`Reason::ALL`].
    pub failed: [u64; Reason::ALL.len()],
}

impl Handshakes {
    /// Adds what another worker has counted.
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

    /// Counts a failed handshake, and logs it unless one of its kind was logged within the last 10 s.
    pub fn failed(&self, listener: &str, peer: &str, fault: &HandshakeError) {
        if let Some(count) = self.failed.get(place(fault.reason)) {
            count.set(count.get() + 1);
        }
        self.broken(listener, peer, fault);
    }

    /// As [`HandshakeLog::failed`], for what is no handshake and is counted elsewhere.
    pub fn broken(&self, listener: &str, peer: &str, fault: &HandshakeError) {
        if fault.reason == Reason::PortCheck {
            tracing::debug!(listener, "TLS: {peer} {fault}");
            return;
        }
        let place = place(fault.reason);
        if let Some(unsaid) = self.due(place, Instant::now()) {
            tracing::warn!(listener, reason = fault.reason.label(), unsaid, "TLS: {peer} {fault}");
        }
    }

    /// How many of the kind have gone unsaid, if it is time to say one.
    fn due(&self, place: usize, now: Instant) -> Option<u64> {
        let mut said = self.said.borrow_mut();
        let said = said.get_mut(place)?;
        match said {
            Some(last) if now.duration_since(last.at) < LOG_PERIOD => {
                last.unsaid += 1;
                None
            }
            last => last.replace(Said { at: now, unsaid: 0 }).map_or(Some(0), |last| Some(last.unsaid)),
        }
    }

    /// The handshakes so far.
    pub fn count(&self) -> Handshakes {
        let mut failed = [0; Reason::ALL.len()];
        failed.iter_mut().zip(&self.failed).for_each(|(sum, count)| *sum = count.get());
        Handshakes { full: self.full.get(), resumed: self.resumed.get(), failed }
    }
}

fn place(reason: Reason) -> usize {
    Reason::ALL.iter().position(|other| *other == reason).unwrap_or_default()
}

/// An error of an established connection, in words: a peer refuses a certificate only after TLS 1.3's handshake.
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
    async fn a_flood_of_faults_is_counted_but_not_logged() {
        let log = HandshakeLog::default();
        assert_eq!(log.due(0, Instant::now()), Some(0));
        for _ in 0..100 {
            assert_eq!(log.due(0, Instant::now()), None);
        }
        assert_eq!(log.due(1, Instant::now()), Some(0));
        tokio::time::advance(LOG_PERIOD).await;
        assert_eq!(log.due(0, Instant::now()), Some(100));
        log.failed("main", "10.0.0.7:1", &HandshakeError { reason: Reason::Timeout, text: String::new() });
        assert_eq!(log.count().failed[2], 1);
    }
}
