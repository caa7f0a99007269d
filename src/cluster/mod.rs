//! What is known of a cluster: plain values that discovery sends to upstreams. A cluster spreads keys over shards by their slot.
//!
//! `slot` computes the slot of a key, and `slots` says which shard serves it. `redirect` reads the replies by which a node refuses a key.

pub mod redirect;
pub mod slot;
pub mod slots;

use std::sync::Arc;

use self::slots::SlotTable;
use crate::topology::{Address, Topology};

/// Numbers a shard. A shard keeps its number for the whole life of the process, also when a failover gives it another primary, and
/// also while it serves no slot. No number is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardNumber(pub u32);

/// One shard: a primary with its replicas.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its number.
    pub number: ShardNumber,
    /// Its primary, as a single primary is published. Generations are unique within the cluster: each belongs to one shard.
    pub topology: Topology,
    /// The addresses of its replicas.
    pub replicas: Vec<Address>,
}

/// Discovery's newest result for a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterTopology {
    /// The shards, by number. The first one that serves slots is the home shard: it gets commands that belong to no slot.
    pub shards: Vec<Shard>,
    /// The shard of each slot.
    pub slots: Arc<SlotTable>,
    /// The newest epoch that a node has named.
    pub epoch: u64,
}

impl ClusterTopology {
    /// Returns the shard of this number.
    pub fn shard(&self, number: ShardNumber) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.number == number)
    }

    /// Returns the home shard: the one of the lowest number that serves slots.
    pub fn home(&self) -> Option<&Shard> {
        self.shards.iter().filter(|shard| self.slots.serves(shard.number)).min_by_key(|shard| shard.number)
    }
}
