//! Reads the error replies by which a node of a cluster says that it cannot serve a command. No I/O.
//!
//! A node judges these before it runs a command (`getNodeByQuery` in the servers' `cluster.c`), so the command did not run.

use crate::topology::Address;

use super::slot::Slot;

/// The length of the longest host name (RFC 1035), in bytes.
const LONGEST_HOST: usize = 255;

/// The reply of a node that does not run a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// `MOVED`: another node serves the slot.
    Moved {
        /// The slot.
        slot: Slot,
        /// That other node.
        to: NamedNode,
    },
    /// `ASK`: the slot is being moved to another node, which has the key or will create it. The command must follow an ASKING there.
    Ask {
        /// The slot.
        slot: Slot,
        /// That other node.
        to: NamedNode,
    },
    /// `TRYAGAIN`: the slot is being moved, and its old and new node have some keys of the command each.
    TryAgain,
    /// `CLUSTERDOWN`: the node takes no commands now, or no node serves the slot.
    ClusterDown,
}

/// The node that a redirect names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedNode {
    /// It has this address.
    At(Address),
    /// It has the host of the node that redirected, and this port: that node does not know its own host.
    SameHost(u16),
    /// Its host is not known (`cluster-preferred-endpoint-type` demands a host name, and it has none).
    Unknown,
}

impl Redirect {
    /// Reads an error reply, with or without its leading `-` and its CRLF. Returns `None` for any other error, and for one that no
    /// server writes in this way.
    pub fn of(line: &[u8]) -> Option<Self> {
        let line = line.strip_prefix(b"-").unwrap_or(line);
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        let mut words = line.split(|byte| *byte == b' ');
        match words.next()? {
            b"MOVED" => {
                let (slot, to) = target(words)?;
                Some(Self::Moved { slot, to })
            }
            b"ASK" => {
                let (slot, to) = target(words)?;
                Some(Self::Ask { slot, to })
            }
            b"TRYAGAIN" => Some(Self::TryAgain),
            b"CLUSTERDOWN" => Some(Self::ClusterDown),
            _ => None,
        }
    }

    /// Returns the slot, if the reply names it.
    pub fn slot(&self) -> Option<Slot> {
        match self {
            Self::Moved { slot, .. } | Self::Ask { slot, .. } => Some(*slot),
            Self::TryAgain | Self::ClusterDown => None,
        }
    }
}

impl NamedNode {
    /// Returns the node's address, if it is known. `asked` is the address of the node that redirected.
    pub fn address(&self, asked: Option<&Address>) -> Option<Address> {
        match (self, asked) {
            (Self::At(address), _) => Some(address.clone()),
            (Self::SameHost(port), Some(Address::Tcp { host, .. })) => {
                Some(Address::tcp(host.as_str(), *port))
            }
            (Self::SameHost(_) | Self::Unknown, _) => None,
        }
    }
}

/// Reads `<slot> <host>:<port>`.
fn target<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> Option<(Slot, NamedNode)> {
    let (slot, node) = (words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let slot = Slot::new(number(slot)?)?;
    // The host may be an IPv6 address without brackets, so the last colon counts.
    let colon = node.iter().rposition(|byte| *byte == b':')?;
    let (host, port) = (node.get(..colon)?, number(node.get(colon + 1..)?)?);
    if port == 0 || host.len() > LONGEST_HOST {
        return None;
    }
    let node = match host {
        b"" => NamedNode::SameHost(port),
        b"?" => NamedNode::Unknown,
        host if host.iter().all(is_of_host) => {
            NamedNode::At(Address::tcp(std::str::from_utf8(host).ok()?, port))
        }
        _ => return None,
    };
    Some((slot, node))
}

/// Returns true if a host name or an IP address may contain this byte.
fn is_of_host(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'%')
}

/// Reads a decimal number without a sign.
fn number(digits: &[u8]) -> Option<u16> {
    if digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn moved(slot: u16, to: NamedNode) -> Option<Redirect> {
        Some(Redirect::Moved { slot: Slot::new(slot)?, to })
    }

    #[test]
    fn redirects_of_servers_are_read() {
        let at = |host: &str, port| NamedNode::At(Address::tcp(host, port));
        assert_eq!(Redirect::of(b"-MOVED 3999 127.0.0.1:6381\r\n"), moved(3999, at("127.0.0.1", 6381)));
        assert_eq!(Redirect::of(b"MOVED 0 node-1.example:1"), moved(0, at("node-1.example", 1)));
        assert_eq!(Redirect::of(b"-MOVED 16383 2001:db8::7:6379\r\n"), moved(16383, at("2001:db8::7", 6379)));
        assert_eq!(Redirect::of(b"-MOVED 1 :6379\r\n"), moved(1, NamedNode::SameHost(6379)));
        assert_eq!(Redirect::of(b"-MOVED 1 ?:6379\r\n"), moved(1, NamedNode::Unknown));
        let slot = Slot::new(5).unwrap();
        assert_eq!(Redirect::of(b"-ASK 5 a:7\r\n"), Some(Redirect::Ask { slot, to: at("a", 7) }));
        assert_eq!(
            Redirect::of(b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"),
            Some(Redirect::TryAgain)
        );
        assert_eq!(Redirect::of(b"-CLUSTERDOWN Hash slot not served\r\n"), Some(Redirect::ClusterDown));
    }

    #[test]
    fn lines_that_no_server_writes_are_no_redirects() {
        let long = format!("-MOVED 1 {}:1\r\n", "a".repeat(256));
        for line in [
            &b"-MOVED 16384 a:1\r\n"[..],
            b"-MOVED -1 a:1\r\n",
            b"-MOVED +1 a:1\r\n",
            b"-MOVED 1 a:0\r\n",
            b"-MOVED 1 a:65536\r\n",
            b"-MOVED 1 a:1 b\r\n",
            b"-MOVED  1 a:1\r\n",
            b"-MOVED 1 a\r\n",
            b"-MOVED 1\r\n",
            b"-MOVED\r\n",
            b"-MOVED 1 a/b:1\r\n",
            b"-MOVED 1 a\0b:1\r\n",
            b"-MOVEDX 1 a:1\r\n",
            b"-moved 1 a:1\r\n",
            b"-ERR MOVED 1 a:1\r\n",
            b"-CROSSSLOT Keys in request don't hash to the same slot\r\n",
            b"-",
            b"",
            long.as_bytes(),
        ] {
            assert_eq!(Redirect::of(line), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_node_without_a_host_has_that_of_the_node_that_was_asked() {
        let asked = Address::tcp("10.0.0.1", 7000);
        assert_eq!(NamedNode::SameHost(7001).address(Some(&asked)), Some(Address::tcp("10.0.0.1", 7001)));
        assert_eq!(NamedNode::SameHost(7001).address(Some(&Address::Unix("/s".into()))), None);
        assert_eq!(NamedNode::SameHost(7001).address(None), None);
        assert_eq!(NamedNode::Unknown.address(Some(&asked)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(line in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Redirect::of(&line);
        }

        #[test]
        fn what_is_read_is_within_bounds(
            slot in 0..70_000_u32, host in "[a-z0-9.:?-]{0,20}", port in 0..70_000_u32, ask in any::<bool>(),
        ) {
            let code = if ask { "ASK" } else { "MOVED" };
            let read = Redirect::of(format!("-{code} {slot} {host}:{port}\r\n").as_bytes());
            let possible = slot < 16_384 && (1..65_536).contains(&port) && (host == "?" || !host.contains('?'));
            prop_assert_eq!(read.is_some(), possible);
            if let Some(redirect) = read {
                prop_assert_eq!(redirect.slot().map(Slot::number).map(u32::from), Some(slot));
            }
        }
    }
}
