//! Parses the addresses to listen on and to connect to, as users write them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::topology::Address;

/// Default port of Redis and Valkey.
pub const DEFAULT_PORT: u16 = 6379;

/// Default port of Sentinels.
pub const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// Length of the longest path that fits `sockaddr_un` on Linux, without its final NUL.
const MAX_SOCKET_PATH: usize = 107;

/// The address that a listener binds, as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket's path.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Parses a network such as `10.0.0.0/8`, or a single address.
///
/// # Errors
/// Returns what is wrong and how to write it.
pub fn network(text: &str) -> Result<IpNet, String> {
    let single = text.parse::<IpAddr>().map(IpNet::from);
    match single.or_else(|_| text.parse::<IpNet>().map_err(drop)) {
        Ok(network) if network.trunc() == network => Ok(network),
        Ok(network) => Err(format!("{text:?} has bits set behind its prefix; write {}", network.trunc())),
        Err(()) => {
            Err(format!("{text:?} is not a network; write it like \"10.0.0.0/8\" or \"2001:db8::/32\""))
        }
    }
}

/// Parses `host`, `host:port`, `[ipv6]:port` or `unix:/path`.
///
/// # Errors
/// Returns what is wrong and how to write it.
pub fn address(text: &str, default_port: u16) -> Result<Address, String> {
    match text.strip_prefix("unix:") {
        Some(path) => Ok(Address::Unix(socket_path(path)?)),
        None => tcp(text, default_port),
    }
}

/// Parses `host`, `host:port` or `[ipv6]:port`.
///
/// # Errors
/// Returns what is wrong and how to write it.
pub fn tcp(text: &str, default_port: u16) -> Result<Address, String> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("{text:?} needs brackets: [{text}]:{default_port}"));
    }
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => {
            if host.parse::<Ipv6Addr>().is_err() {
                return Err(format!("{host:?} is not an IPv6 address"));
            }
            match rest {
                "" => (host, None),
                _ => match rest.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None => return Err(format!("{text:?} is not an address; write [{host}]:{default_port}")),
                },
            }
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        None => default_port,
        Some(port) => match port.parse() {
            Ok(0) => return Err("0 is not a port to connect to".into()),
            Ok(number) if port.bytes().all(|byte| byte.is_ascii_digit()) => number,
            _ => return Err(format!("{port:?} is not a port; write a number from 1 to 65535")),
        },
    };
    let named = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte));
    if host.is_empty() || host.len() > 253 || !named {
        return Err(format!(
            "{host:?} is not a host; write a name or an IP address, as in db.example:{port}"
        ));
    }
    Ok(Address::tcp(host, port))
}

/// Parses a listen address: `127.0.0.1:6379`, `[::1]:6379`, `0.0.0.0:6379` or `unix:/path`.
///
/// # Errors
/// Returns what is wrong and how to write it. It refuses names and `:6379`: the configuration
/// alone, and not the machine, must say which interfaces are meant.
pub fn listen(text: &str) -> Result<ListenAddress, String> {
    match text.strip_prefix("unix:") {
        Some(path) => Ok(ListenAddress::Unix(socket_path(path)?)),
        None => socket_address(text, DEFAULT_PORT).map(ListenAddress::Tcp),
    }
}

/// Parses an IP address and port to listen on.
///
/// # Errors
/// Returns what is wrong and how to write it, with `port` as the example.
pub fn socket_address(text: &str, port: u16) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port_only = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port_only.parse::<u16>() {
        return Err(format!(
            "{text:?} does not say which interface; write \"127.0.0.1:{port}\" for this machine only, \
             \"0.0.0.0:{port}\" for all"
        ));
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Err(format!("{text:?} has no port; write {:?}", SocketAddr::new(ip, port).to_string()));
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        return Err(format!("{text:?} is a name; write the address, \"127.0.0.1:{port}\""));
    }
    Err(format!(
        "{text:?} is not an address to listen on; write an IP address and a port, as in \"127.0.0.1:{port}\""
    ))
}

/// Checks the path of a unix socket, with or without the `//` of `unix:///path`.
///
/// # Errors
/// Returns what is wrong.
pub fn socket_path(text: &str) -> Result<PathBuf, String> {
    let text = text.strip_prefix("//").unwrap_or(text);
    if text.is_empty() {
        return Err("names no socket; write unix:/path/to/socket".into());
    }
    if text.len() > MAX_SOCKET_PATH || text.contains('\0') {
        return Err(format!(
            "the socket's path is longer than the {MAX_SOCKET_PATH} bytes that the system allows"
        ));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses() {
        assert_eq!(listen("[::1]:6379"), Ok(ListenAddress::Tcp("[::1]:6379".parse().unwrap())));
        assert_eq!(listen("unix:/run/x.sock"), Ok(ListenAddress::Unix("/run/x.sock".into())));
        for (text, expected) in [
            (":6379", "\"127.0.0.1:6379\" for this machine only"),
            ("6379", "which interface"),
            ("127.0.0.1", "has no port"),
            ("::1", "write \"[::1]:6379\""),
            ("localhost:6379", "write the address"),
            ("db:6379", "is not an address to listen on"),
            ("unix:", "names no socket"),
        ] {
            let error = listen(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(listen(&format!("unix:/{}", "x".repeat(107))).is_err());
    }
}
