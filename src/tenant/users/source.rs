//! Where an AUTH comes from: a source, and the networks that contain it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where attempts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An address. Of IPv6, the /64 that contains it, because one machine can use every address of its /64.
    Address(IpAddr),
    /// A user at the other end of a unix socket.
    Uid(u32),
    /// Neither is known.
    Unknown,
}

impl Source {
    /// From what is known of a client.
    pub fn of(address: Option<IpAddr>, uid: Option<u32>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V6(address)) => Self::Address(v6_prefix(address, 64)),
            Some(address) => Self::Address(address),
            None => uid.map_or(Self::Unknown, Self::Uid),
        }
    }

    /// The site that contains it: an IPv6 /56, which is what one customer usually has. `None` for all others.
    pub fn site(&self) -> Option<IpAddr> {
        match self {
            Self::Address(IpAddr::V6(address)) => Some(v6_prefix(*address, 56)),
            _ => None,
        }
    }

    /// The network that contains it: an IPv6 /48 or an IPv4 /24. `None` for a unix socket's user.
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

/// The first `length` bits of an address, 1 to 128.
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
