//! What operators see of the discovery of a cluster.

use crate::topology::Address;

/// Why a node gave no view of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeError {
    /// The node does not answer.
    Unreachable(String),
    /// The node refuses respgate's user, or a command that respgate needs.
    Refused(String),
    /// The server belongs to no cluster.
    NoCluster(String),
}

impl NodeError {
    /// Returns the sentence for the operator.
    pub fn text(&self) -> &str {
        match self {
            Self::Unreachable(text) | Self::Refused(text) | Self::NoCluster(text) => text,
        }
    }
}

/// A node that is asked for its view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedNode {
    /// Its address.
    pub address: Address,
    /// True if it has answered its newest question.
    pub answers: bool,
    /// Why it did not answer, if it failed to.
    pub error: Option<NodeError>,
}

/// The state of discovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterStatus {
    /// The nodes that are asked.
    pub asked: Vec<AskedNode>,
    /// The number of rounds of questions so far.
    pub refreshes: u64,
    /// The number of hints about redirects that were taken in.
    pub redirect_hints: u64,
}
