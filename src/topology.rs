//! What discovery knows and upstreams follow: plain values that cross threads.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host name or an IP address (IPv6 without brackets) and a port. Names are resolved on every dial.
    Tcp {
        /// Name or literal address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// A unix socket's path.
    Unix(PathBuf),
}

impl Address {
    /// A TCP address.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::Tcp { host: host.into(), port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) => {
                write!(f, "[{host}]:{port}")
            }
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Counts the primaries that this process has followed, from 1. It only rises; a connection that belongs to a
/// lower generation than the current one must not be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// A server process's `run_id`: 40 characters that it chooses anew at each start. Two addresses with the same id are
/// one node; one address with two ids has led to two.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(pub Arc<str>);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A server process, by its own word (`INFO server`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Which process it is.
    pub id: NodeId,
    /// How long it has run, in whole seconds.
    pub uptime: Duration,
}

/// What a server says of itself in its reply to HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// `redis` or `valkey`.
    pub server: String,
    /// For example `8.0.1`.
    pub version: String,
    /// The loaded modules.
    pub modules: Vec<ModuleInfo>,
    /// The availability zone, where one is configured (Valkey 8.1 and later).
    pub availability_zone: Option<String>,
}

/// What a server says of a module in its reply to HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleInfo {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: i64,
    /// Its file and the arguments that it was loaded with (Valkey 9 and Redis 8).
    pub origin: Option<(String, Vec<String>)>,
}

impl Default for ServerInfo {
    /// What is answered when the server refuses HELLO (Redis before 6, or a user without the permission).
    fn default() -> Self {
        Self { server: "redis".into(), version: "6.0.0".into(), modules: Vec::new(), availability_zone: None }
    }
}

/// A node that was named as primary and said so itself.
#[derive(Clone, Debug)]
pub struct Primary {
    /// Rises whenever another node takes over: under another address, under the same one, or because the node was not
    /// a primary in between. A restarted server counts as another node. A new epoch alone keeps it.
    pub generation: Generation,
    /// Where to dial.
    pub address: Address,
    /// Sentinel's config-epoch; `None` for a fixed address.
    pub config_epoch: Option<u64>,
    /// From the verification; `None` if the node wants credentials that respgate does not hold.
    pub server: Option<Arc<ServerInfo>>,
    /// The node that every connection of this generation must lead to; `None` if it may not be asked, or if the address
    /// alternates between nodes.
    pub node: Option<NodeId>,
}

/// Why there is no primary to send to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Nothing has been asked yet.
    Starting,
    /// No Sentinel could be reached; the text names the last fault of each.
    SentinelsUnreachable(String),
    /// Sentinels answer but do not know the name.
    UnknownName(String),
    /// Sentinels, or the primary, refuse the credentials.
    Refused(String),
    /// Sentinels do not agree by majority.
    NoMajority(String),
    /// A minority of the Sentinels has answered, and the others may still: a matter of milliseconds.
    Asking(String),
    /// A node is named and is being asked for its role: a matter of milliseconds.
    Verifying(String),
    /// The named node cannot be reached or does not say ROLE master.
    Unverified(String),
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("the primary has not been looked up yet"),
            Self::SentinelsUnreachable(why)
            | Self::UnknownName(why)
            | Self::Refused(why)
            | Self::NoMajority(why)
            | Self::Asking(why)
            | Self::Verifying(why)
            | Self::Unverified(why) => f.write_str(why),
        }
    }
}

/// Discovery's newest answer.
#[derive(Clone, Debug)]
pub enum Topology {
    /// No primary is known; commands wait within their bounds.
    Unknown(Arc<Outage>),
    /// Send to this node.
    Known(Arc<Primary>),
    /// A failover away from this node has begun: what is under way may finish, nothing new is sent.
    Failing(Arc<Primary>, Sign),
}

/// What announced a failover, in the order in which it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// Enough Sentinels find the primary down.
    Down,
    /// A Sentinel stands for election, or leads already.
    Election,
    /// A replica has been chosen or is being promoted.
    Promotion,
    /// The node itself says that it is not the primary any more.
    Demotion,
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Election => "a Sentinel has begun a failover",
            Self::Promotion => "a replica is being promoted",
            Self::Demotion => "the node says that it is not the primary any more",
            Self::Down => "the Sentinels find the primary down",
        })
    }
}

impl Topology {
    /// The primary, if one is known.
    pub fn primary(&self) -> Option<&Arc<Primary>> {
        match self {
            Self::Known(primary) | Self::Failing(primary, _) => Some(primary),
            Self::Unknown(_) => None,
        }
    }
}

/// Upward news: what a connection saw that discovery should look into. Only ever a trigger to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A connection of this generation could not be made, or was lost.
    Lost(Generation),
    /// A new connection of this generation leads to another node than the one that was verified.
    OtherNode(Generation),
    /// A node of this generation refused a command as only a non-primary does (READONLY, MASTERDOWN, REDIRECT),
    /// or a new connection to it did not say ROLE master.
    NotPrimary(Generation),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_they_are_typed() {
        assert_eq!(Address::tcp("db.example", 6379).to_string(), "db.example:6379");
        assert_eq!(Address::tcp("::1", 6379).to_string(), "[::1]:6379");
        assert_eq!(Address::Unix("/run/v.sock".into()).to_string(), "unix:/run/v.sock");
    }
}
