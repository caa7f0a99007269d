//! The discovery settings of one upstream.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::topology::Address;

/// How discovery finds the primary of one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoveryConfig {
    /// The primary is always at this address.
    Fixed(Address),
    /// Discovery asks these Sentinels.
    Sentinel(SentinelConfig),
    /// Discovery asks the nodes of a cluster.
    Cluster(ClusterConfig),
}

/// The longest time between two look-ups of a fixed address's name, and between two queries to its node on an open
/// connection. Nobody announces that the address leads to another node.
const ADDRESS_WATCH: Duration = Duration::from_millis(500);

impl DiscoveryConfig {
    /// Returns the time between two ROLE queries on an open connection, and between two name look-ups, given the upstream's
    /// `ping-interval`. Zero: neither takes place.
    pub(super) fn watch_interval(&self, ping_interval: Duration) -> Duration {
        match self {
            Self::Fixed(_) => ping_interval.min(ADDRESS_WATCH),
            Self::Sentinel(_) | Self::Cluster(_) => ping_interval,
        }
    }

    /// Returns the name to look up again and again, and its port; `None` if no address with a name is fixed.
    pub(super) fn watched_name(&self) -> Option<(&str, u16)> {
        match self {
            Self::Fixed(Address::Tcp { host, port }) if host.parse::<IpAddr>().is_err() => {
                Some((host, *port))
            }
            Self::Fixed(_) | Self::Sentinel(_) | Self::Cluster(_) => None,
        }
    }
}

/// Which Sentinels decide a switch to another primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SwitchRule {
    /// More than half of the Sentinels must name the new primary.
    #[default]
    Majority,
    /// The Sentinel that leads the failover has chosen the new primary, and that node says itself that it is the
    /// primary. This is faster than `Majority` by up to 1 s: the leader notices the promotion late, and the other
    /// Sentinels later still.
    ///
    /// The risk: the leading Sentinel may be cut off from the majority, or lie. Clients then write to a node that the
    /// majority never confirms. After 5 s discovery moves them back to the former primary, and the writes of these 5 s
    /// are lost.
    Leader,
}

/// The Sentinels of one upstream and the settings for their queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentinelConfig {
    /// The configured Sentinels. Discovery learns the addresses of further Sentinels from these.
    pub seeds: Vec<Address>,
    /// The name under which the Sentinels monitor the primary.
    pub primary_name: String,
    /// Maps an announced address to the address to dial, for NAT and port maps.
    pub nat: HashMap<Address, Address>,
    /// The time between two rounds of queries while no event arrives.
    pub poll_interval: Duration,
    /// How long discovery waits for an answer of one Sentinel.
    pub timeout: Duration,
    /// Which Sentinels decide a switch to another primary.
    pub switch: SwitchRule,
}

impl SentinelConfig {
    /// Returns the settings for these Sentinels and this name, with the default timeouts (poll 1 s, answer 500 ms).
    pub fn new(seeds: Vec<Address>, primary_name: impl Into<String>) -> Self {
        Self {
            seeds,
            primary_name: primary_name.into(),
            nat: HashMap::new(),
            poll_interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            switch: SwitchRule::default(),
        }
    }
}

/// The nodes of a cluster and the settings for the questions to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The configured nodes. Discovery learns all others from these.
    pub seeds: Vec<Address>,
    /// Maps an announced address to the address to dial, for NAT and port maps.
    pub nat: HashMap<Address, Address>,
    /// The time between two rounds of questions while nothing hints at a change.
    pub poll_interval: Duration,
    /// How long discovery waits for an answer of one node.
    pub timeout: Duration,
}

impl ClusterConfig {
    /// Returns the settings for these nodes, with the default timeouts (poll 1 s, answer 1 s). A node that is late delays only what it
    /// says itself.
    pub fn new(seeds: Vec<Address>) -> Self {
        let second = Duration::from_secs(1);
        Self { seeds, nat: HashMap::new(), poll_interval: second, timeout: second }
    }
}
