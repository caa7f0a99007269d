//! The messages between discovery and upstreams: plain values that cross threads.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The address that a server listens on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host name or an IP address (IPv6 without brackets) and a port. Every connect resolves the
    /// name again.
    Tcp {
        /// Host name or literal IP address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// Path of a unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Creates a TCP address.
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

/// Numbers the primaries that this process has followed, from 1, and only rises. Nothing may be
/// written to a connection whose generation is lower than the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// The `run_id` of a server process: 40 characters that the process chooses at each start. Two
/// addresses with the same id are one node. An address that shows two ids has led to two nodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(pub Arc<str>);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A server process, as its `INFO server` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The id of the process.
    pub id: NodeId,
    /// Time since the process started, in whole seconds.
    pub uptime: Duration,
}

/// What a server says about itself in its reply to HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Server software: `redis` or `valkey`.
    pub server: String,
    /// Server version, for example `8.0.1`.
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
    /// The values that respgate shows when the server refuses HELLO (Redis before 6, or a user
    /// without the permission).
    fn default() -> Self {
        Self { server: "redis".into(), version: "6.0.0".into(), modules: Vec::new(), availability_zone: None }
    }
}

/// A node that was named as primary and confirmed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Primary {
    /// Rises whenever another node takes over: under another address, under the same address, or
    /// when the node was not a primary in between. A restarted server counts as another node. A new
    /// config-epoch alone does not raise it.
    pub generation: Generation,
    /// The address to connect to.
    pub address: Address,
    /// Sentinel's config-epoch; `None` for a fixed address.
    pub config_epoch: Option<u64>,
    /// What the node's HELLO said at verification; `None` if the node demands credentials that
    /// respgate does not have.
    pub server: Option<Arc<ServerInfo>>,
    /// The node that every connection of this generation must lead to; `None` if respgate may not
    /// ask for it, or if the address alternates between nodes.
    pub node: Option<NodeId>,
}

/// Why there is no primary to send to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Discovery has not asked anything yet.
    Starting,
    /// No Sentinel is reachable. The text names the last error of each.
    SentinelsUnreachable(String),
    /// Sentinels answer but do not know the name of the primary.
    UnknownName(String),
    /// Sentinels, or the primary, refuse the credentials.
    Refused(String),
    /// No majority of the Sentinels agrees on a primary.
    NoMajority(String),
    /// A minority of the Sentinels has answered, and the others may still answer within
    /// milliseconds.
    Asking(String),
    /// Sentinels have named a node, and discovery asks it for its role, which takes milliseconds.
    Verifying(String),
    /// The named node is unreachable or does not answer ROLE with `master`.
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

/// Discovery's newest result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// No primary is known. Commands wait within their bounds.
    Unknown(Arc<Outage>),
    /// Commands go to this node.
    Known(Arc<Primary>),
    /// A failover away from this node has begun. Requests already written may finish; nothing new
    /// is sent.
    Failing(Arc<Primary>, Sign),
}

/// Why commands wait although a primary is known: what announced a failover, in the order of a failover's steps, or
/// what an operator has ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// Enough Sentinels, or most nodes of the cluster, consider the primary down.
    Down,
    /// A Sentinel stands for election, or already leads the failover.
    Election,
    /// Sentinel has chosen a replica or is promoting it.
    Promotion,
    /// The node itself says that it is no longer the primary.
    Demotion,
    /// The node is the new primary of a coordinated failover, and the leading Sentinel is about to
    /// close every connection to it.
    Closing,
    /// An operator has paused the upstream. What is under way goes on: blocked commands, subscriptions, transactions.
    Paused,
    /// An operator has paused the upstream at once: every connection is closed too.
    PausedAtOnce,
    /// An operator or a reload switches the upstream to another address.
    Switching,
}

impl Sign {
    /// Returns true if an operator ordered the hold, and false if a failover causes it.
    pub fn is_ordered(self) -> bool {
        matches!(self, Self::Paused | Self::PausedAtOnce | Self::Switching)
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Election => "a Sentinel has begun a failover",
            Self::Promotion => "a replica is being promoted",
            Self::Demotion => "the node says that it is not the primary any more",
            Self::Closing => "the leading Sentinel is about to close every connection to the new primary",
            Self::Down => "the Sentinels, or the nodes of the cluster, find the primary down",
            Self::Paused | Self::PausedAtOnce => "an operator has paused the upstream",
            Self::Switching => "respgate is switching the upstream to another address",
        })
    }
}

impl Topology {
    /// Returns the primary if one is known.
    pub fn primary(&self) -> Option<&Arc<Primary>> {
        match self {
            Self::Known(primary) | Self::Failing(primary, _) => Some(primary),
            Self::Unknown(_) => None,
        }
    }
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
