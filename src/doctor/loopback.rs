//! Addresses of this machine.

use std::net::IpAddr;

use crate::topology::Address;

/// Returns true if an address never leads off the machine.
pub(super) fn is_loopback(address: &Address) -> bool {
    match address {
        Address::Unix(_) => true,
        Address::Tcp { host, .. } => {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
        }
    }
}
