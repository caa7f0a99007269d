//! What connections tell discovery: plain values that cross threads.

use crate::cluster::slot::Slot;
use crate::topology::{Address, Generation};

/// What a connection saw and discovery should check. A hint only makes discovery ask again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A connection of this generation failed to connect, or was lost.
    Lost(Generation),
    /// A new connection of this generation leads to another node than the verified one.
    OtherNode(Generation),
    /// A node of this generation refused a command as only a non-primary does (READONLY,
    /// MASTERDOWN, REDIRECT), or did not answer ROLE with `master` on a new connection.
    NotPrimary(Generation),
    /// A node of a cluster said that another node serves this slot (MOVED).
    Moved {
        /// The slot.
        slot: Slot,
        /// The address of that other node.
        to: Address,
    },
    /// The node of this generation, or a replica of it, said that it does not run a command because of the state of its cluster
    /// (CLUSTERDOWN, or ASK and TRYAGAIN while a slot is on its way).
    ClusterDown(Generation),
}
