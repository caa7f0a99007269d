//! The requests that respgate sends by itself to see whether a connection still works.

use crate::rotation::denials::Probe;
use crate::upstream::connection::identities::Identities;
use crate::upstream::connection::identity::Identity;

/// The PING that respgate sends by itself.
pub(in crate::upstream) const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Returns false if the server has denied PING to this identity. Each further PING would be an entry in the server's
/// `ACL LOG`.
pub(in crate::upstream) fn may_ping(identities: &Identities, identity: &Identity) -> bool {
    let own = identities.own().login();
    own.is_none_or(|own| !own.denials().of(&identity.user()).contains(Probe::Ping))
}

/// Returns a request that changes nothing: PING, or HELLO for an identity that the server has denied PING. The server's
/// ACL lets every user send HELLO.
pub(in crate::upstream) fn probe_request(identities: &Identities, identity: &Identity) -> &'static [u8] {
    if may_ping(identities, identity) { PING } else { b"*1\r\n$5\r\nHELLO\r\n" }
}
