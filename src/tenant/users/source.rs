//! Classifies where an AUTH comes from: its source, and the networks that contain the source.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Identifies where password attempts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An IPv4 address, or the /64 of an IPv6 address, because one machine can use every address of its /64.
    Address(IpAddr),
    /// A user at the other end of a unix socket.
    Uid(u32),
    /// Neither an address nor a user is known.
    Unknown,
}

impl Source {
    /// Returns the source of a client with this address or unix user.
    pub fn of(address: Option<IpAddr>, uid: Option<u32>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V6(address)) => Self::Address(v6_prefix(address, 64)),
            Some(address) => Self::Address(address),
            None => uid.map_or(Self::Unknown, Self::Uid),
        }
    }

    /// Returns the site that contains the source: an IPv6 /56, which one customer usually has. `None` for all
    /// other sources.
    pub fn site(&self) -> Option<IpAddr> {
        match self {
            Self::Address(IpAddr::V6(address)) => Some(v6_prefix(*address, 56)),
            _ => None,
        }
    }

    /// Returns the network that contains the source: an IPv6 /48 or an IPv4 /24. `None` for a unix user or an
    /// unknown source.
    pub fn network(&self) -> Option<IpAddr> {
        match self {
            Self::Address(IpAddr::V6(address)) => Some(v6_prefix(*address, 48)),
            Self::Address(IpAddr::V4(address)) => {
                Some(Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << 8)).into())
            }
            Self::Uid(_) | Self::Unknown => None,
        }
    }
}

/// Returns the first `length` bits of an address, 1 to 128.
fn v6_prefix(address: Ipv6Addr, length: u32) -> IpAddr {
    Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - length))).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Source {
        Source::of(Some(text.parse().unwrap()), None)
    }

    #[test]
    fn one_ipv6_network_is_one_source() {
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }

    #[test]
    fn sources_share_sites_and_networks() {
        assert_eq!(of("2001:db8:0:1::1").site(), of("2001:db8:0:ff::1").site());
        assert_ne!(of("2001:db8:0:1::1").site(), of("2001:db8:0:100::1").site());
        assert_eq!(of("2001:db8:0:1::1").network(), of("2001:db8:0:ffff::1").network());
        assert_ne!(of("2001:db8:0:1::1").network(), of("2001:db8:1::1").network());
        assert_eq!(of("192.0.2.1").network(), of("192.0.2.255").network());
        assert_ne!(of("192.0.2.1").network(), of("192.0.3.1").network());
        assert_eq!((of("192.0.2.1").site(), Source::Uid(1).network()), (None, None));
    }
}
