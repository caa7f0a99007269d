//! Who does the peer say that it is, and may that be believed?

mod certificate;
#[cfg_attr(not(test), expect(dead_code, reason = "shown by the handshake"))]
mod chain;

use super::finding::{Finding, Step};
use super::peer::{Duplex, Peer};
use crate::net::stream::Stream;
use crate::topology::Address;

/// The TLS step. `to` is the address that was connected.
pub(super) async fn shake_hands(
    peer: &Peer,
    to: &Address,
    stream: Stream,
) -> (Finding, Option<Box<dyn Duplex>>) {
    let local = match to {
        Address::Unix(_) => true,
        Address::Tcp { host, .. } => host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    };
    let seen = match (&peer.credentials, local) {
        (Some(_), false) => "none is configured: plain text, the password included",
        _ => "none is configured: plain text",
    };
    (Finding::ok(Step::Tls, seen), Some(Box::new(stream)))
}
