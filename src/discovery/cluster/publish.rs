//! Tells whether a cluster differs from the one that was published last. Pure.

use crate::cluster::{ClusterTopology, Shard};
use crate::topology::{Primary, Topology};

/// Returns true if both tell subscribers the same.
pub(super) fn same_cluster(one: &ClusterTopology, other: &ClusterTopology) -> bool {
    let same_shard = |(one, other): (&Shard, &Shard)| {
        one.number == other.number
            && one.replicas == other.replicas
            && same_topology(&one.topology, &other.topology)
    };
    one.epoch == other.epoch
        && one.shards.len() == other.shards.len()
        && one.shards.iter().zip(&other.shards).all(same_shard)
        && one.slots == other.slots
}

/// Returns true if both topologies tell subscribers the same.
pub(super) fn same_topology(one: &Topology, other: &Topology) -> bool {
    match (one, other) {
        (Topology::Unknown(one), Topology::Unknown(other)) => one == other,
        (Topology::Known(one), Topology::Known(other)) => same_primary(one, other),
        (Topology::Failing(one, sign), Topology::Failing(other, also)) => {
            sign == also && same_primary(one, other)
        }
        _ => false,
    }
}

fn same_primary(one: &Primary, other: &Primary) -> bool {
    one.generation == other.generation
        && one.address == other.address
        && one.config_epoch == other.config_epoch
        && one.server == other.server
        && one.node == other.node
}
