//! How the primary of one upstream is found.

use std::collections::HashMap;
use std::time::Duration;

use crate::topology::Address;

/// How the primary of one upstream is found.
#[derive(Clone, Debug)]
pub enum DiscoveryConfig {
    /// Always this address.
    Fixed(Address),
    /// Ask Sentinels.
    Sentinel(SentinelConfig),
}

/// Whose word a switch to another primary takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SwitchRule {
    /// More than half of the Sentinels name it.
    #[default]
    Majority,
    /// The Sentinel that leads the failover has chosen it, and it says itself that it is the primary. Faster by up to
    /// a second: the leader notices the promotion late, and the others later still.
    ///
    /// The risk: that Sentinel may be cut off from the majority, or lie. Clients then write to a node that the
    /// majority never confirms, and after 5 s of that they are moved back to the former primary; what they wrote in
    /// between is lost.
    Leader,
}

/// Sentinels, and how to ask them.
#[derive(Clone, Debug)]
pub struct SentinelConfig {
    /// The configured Sentinels; others are learnt from these.
    pub seeds: Vec<Address>,
    /// The name they monitor the primary under.
    pub primary_name: String,
    /// Announced address -> address to dial (NAT, port maps).
    pub nat: HashMap<Address, Address>,
    /// How often to ask when no event came.
    pub poll_interval: Duration,
    /// How long one Sentinel may take to answer.
    pub timeout: Duration,
    /// Whose word a switch takes.
    pub switch: SwitchRule,
}

impl SentinelConfig {
    /// The defaults.
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
