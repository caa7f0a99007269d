//! Checks whether the TLS handshake succeeds, with a certificate that respgate trusts.

mod certificate;
mod chain;
mod chain_error;

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use self::chain::ChainRejection;
use self::chain_error::Shown;
use super::finding::{Finding, Step};
use super::loopback::is_loopback;
use super::peer::{Duplex, Kind, Peer};
use super::sniff;
use super::words::milliseconds;
use crate::net::connect::Dialer;
use crate::net::stream::Stream;
use crate::net::tls::client::{ClientProfile, ClientSet, ClientTls};
use crate::net::tls::handshake_error::{self, HandshakeError, Reason};
use crate::net::tls::read_ahead::ReadAhead;
use crate::net::tls::server::ServerProfile;
use crate::net::tls::{Loaded, pem};
use crate::topology::Address;

/// Runs the TLS step. `to` is the address of the connection.
pub(super) async fn shake_hands(
    peer: &Peer,
    to: &Address,
    stream: Stream,
) -> (Finding, Option<Box<dyn Duplex>>) {
    match (&peer.tls, stream) {
        (Some(tls), Stream::Tcp(stream)) => encrypt(peer, to, tls, stream).await,
        (_, stream) => {
            let seen = if peer.credentials.is_some() && !is_loopback(to) {
                "none is configured: plain text, the password included"
            } else {
                "none is configured: plain text"
            };
            (Finding::ok(Step::Tls, seen), Some(Box::new(stream)))
        }
    }
}

async fn encrypt(
    peer: &Peer,
    to: &Address,
    tls: &Loaded<ClientProfile, ClientSet>,
    stream: TcpStream,
) -> (Finding, Option<Box<dyn Duplex>>) {
    match handshake(peer, &tls.profile, tls.set.clone(), stream).await {
        Ok(stream) => {
            let (chain, version) = shown_by(&stream);
            let mut finding = chain::explain(&shown(peer, &tls.profile, &chain), &version, None);
            if tls.profile.dangerously_unverified {
                let seen = format!(
                    "{version}, but respgate does not verify the certificate and so does not know the server"
                );
                let remedy = format!(
                    "give {} the authority that signed it, and take tls-dangerously-skip-verification out: as it is, \
                     whoever is on the way can read and change everything",
                    peer.kind.ca_key()
                );
                finding = Finding {
                    details: finding.details,
                    facts: finding.facts,
                    ..Finding::warning(Step::Tls, seen, remedy)
                };
            }
            (finding, Some(Box::new(stream)))
        }
        Err(error) => (failed(peer, to, &tls.profile, &error).await, None),
    }
}

/// Returns why a handshake failed: the port speaks another protocol, or its certificates are wrong.
async fn failed(peer: &Peer, to: &Address, profile: &ClientProfile, error: &io::Error) -> Finding {
    let what = peer.kind.noun();
    if error.kind() == io::ErrorKind::TimedOut || error.get_ref().is_none() || is_not_tls(error) {
        if sniff::speaks_resp(to).await {
            let url = match peer.kind {
                Kind::Server => {
                    "use the server's TLS port (`tls-port`); or, if it has none, redis:// instead of rediss://"
                }
                Kind::Sentinel => {
                    "use the Sentinel's TLS port (`tls-port`); or, if it has none, sentinel-tls = false (redis-sentinel:// \
                     if the servers have none either)"
                }
            };
            return Finding::broken(
                Step::Tls,
                "the port speaks plain text, but respgate is configured to speak TLS",
                url,
            );
        }
        if error.kind() == io::ErrorKind::TimedOut {
            let seen = format!(
                "the {what} did not finish the TLS handshake within {}",
                milliseconds(doctor_limit(peer))
            );
            let remedy = "check that the port speaks TLS, and whether the machine is overloaded or the process stopped";
            return Finding::broken(Step::Tls, seen, remedy);
        }
    }
    let refusal = handshake_error::explain(error, handshake_error::Peer::Server);
    let of_the_certificate = matches!(
        refusal.reason,
        Reason::Expired | Reason::Untrusted | Reason::Revoked | Reason::WrongName | Reason::BadCertificate
    );
    if of_the_certificate && let Some((chain, version)) = fetch_chain(peer, to, profile).await {
        let rejection = ChainRejection { error: &refusal, message: &error.to_string() };
        return chain::explain(&shown(peer, profile, &chain), &version, Some(rejection));
    }
    describe(what, &refusal)
}

/// Returns a finding for a handshake error: first what is wrong, then what to do.
fn describe(what: &str, error: &HandshakeError) -> Finding {
    let (seen, remedy) = error.text.split_once("; ").unwrap_or((&error.text, "look at its log"));
    Finding::broken(Step::Tls, format!("the {what} {seen}"), remedy)
}

/// Returns true if the peer did not answer in TLS.
fn is_not_tls(error: &io::Error) -> bool {
    let reason = handshake_error::explain(error, handshake_error::Peer::Server).reason;
    matches!(reason, Reason::Plaintext | Reason::Protocol | Reason::Closed)
}

fn doctor_limit(peer: &Peer) -> Duration {
    peer.connect_limit.max(Duration::from_secs(3))
}

/// Makes one handshake, as the proxy does.
async fn handshake(
    peer: &Peer,
    profile: &ClientProfile,
    set: ClientSet,
    stream: TcpStream,
) -> io::Result<TlsStream<ReadAhead>> {
    let tls = ClientTls::new(watch::channel(set).1, profile.names.clone());
    let late = |_| Err(io::ErrorKind::TimedOut.into());
    timeout(doctor_limit(peer), tls.connect(&peer.address, stream)).await.unwrap_or_else(late)
}

/// Fetches the chain of a peer whose certificate was refused: makes another handshake that accepts every certificate,
/// and closes the connection. Nothing is sent on it.
async fn fetch_chain(peer: &Peer, to: &Address, profile: &ClientProfile) -> Option<(Vec<Vec<u8>>, String)> {
    let anybody = ClientProfile { dangerously_unverified: true, ..profile.clone() };
    let set = anybody.load().ok()?;
    let Stream::Tcp(stream) = Dialer::default().dial(to).await.ok()? else { return None };
    let stream = handshake(peer, &anybody, set, stream).await.ok()?;
    Some(shown_by(&stream))
}

fn shown_by(stream: &TlsStream<ReadAhead>) -> (Vec<Vec<u8>>, String) {
    let session = stream.get_ref().1;
    let chain = session.peer_certificates().unwrap_or_default();
    let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
    (chain.iter().map(|der| der.to_vec()).collect(), version.replace("TLSv1_", "TLS 1."))
}

fn shown<'a>(peer: &'a Peer, profile: &ClientProfile, chain: &'a [Vec<u8>]) -> Shown<'a> {
    let wanted = profile.names.of(&peer.address).map(|name| name.to_str().into_owned());
    Shown {
        chain,
        wanted: wanted.unwrap_or_else(|| peer.address.to_string()),
        now: now(),
        kind: peer.kind,
        announced: peer.announced.as_ref(),
    }
}

/// Returns the seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Returns the finding about the certificate that a listener shows to clients. The check of the configuration has
/// verified it.
pub(super) fn own(profile: &ServerProfile) -> Finding {
    match pem::chain(&profile.chain) {
        Ok(chain) => {
            let chain: Vec<Vec<u8>> = chain.iter().map(|der| der.to_vec()).collect();
            chain::own(&chain, now())
        }
        Err(why) => Finding::broken(Step::Tls, why, "put a certificate chain in PEM there"),
    }
}
