//! The knowledge of a cluster: plain values that discovery sends to upstreams. A cluster spreads keys over shards by their slot.
//!
//! `slot` computes the slot of a key, and `slots` says which shard serves it. `redirect` reads the replies by which a node refuses a key.

mod number;
pub mod redirect;
pub mod slot;
pub mod slots;

use std::sync::Arc;

pub use self::number::ShardNumber;
use self::slot::Slot;
use self::slots::SlotTable;
use crate::topology::{Address, Topology};

/// One shard: a primary with its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its number.
    pub number: ShardNumber,
    /// Its primary, as a single primary is published. Generations are unique within the cluster: each belongs to one shard.
    pub topology: Topology,
    /// The addresses of its replicas.
    pub replicas: Vec<Address>,
}

/// Discovery's newest result for a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterTopology {
    /// The shards, by number. The first one that serves slots is the home shard: it gets commands that belong to no slot.
    pub shards: Vec<Shard>,
    /// The shard of each slot.
    pub slots: Arc<SlotTable>,
    /// The slots on their way from one shard to another, in order. Their keys may be at either.
    pub moving: Arc<[Slot]>,
    /// The newest epoch that a node has named.
    pub epoch: u64,
}

impl ClusterTopology {
    /// Returns the shard of this number.
    pub fn shard(&self, number: ShardNumber) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.number == number)
    }

    /// Returns the number of slots whose shard has a primary that serves, or would serve if no operator had paused it.
    pub fn slots_with_primary(&self) -> usize {
        let serves = |shard: &Shard| match &shard.topology {
            Topology::Known(_) => true,
            Topology::Failing(_, sign) => sign.is_ordered(),
            Topology::Unknown(_) => false,
        };
        let ranges = self.slots.ranges();
        let served =
            ranges.filter(|(_, owner)| owner.and_then(|number| self.shard(number)).is_some_and(serves));
        served.map(|(range, _)| range.len()).sum()
    }

    /// Returns the home shard: the one of the lowest number that serves slots.
    pub fn home(&self) -> Option<&Shard> {
        self.shards.iter().find(|shard| self.slots.serves(shard.number))
    }
}
