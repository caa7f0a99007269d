//! The primaries of a switch's target, as its discovery has found them. Pure.

use std::sync::Arc;

use crate::cluster::ClusterTopology;
use crate::cluster::slot::SLOTS;
use crate::topology::{NodeId, Primary, Topology};

/// Returns the primaries that commands go to: the only one, or those of all shards that serve slots, the home shard's first.
///
/// # Errors
/// Returns why the target cannot take commands now.
pub(super) fn of(
    topology: &Topology,
    cluster: Option<&ClusterTopology>,
) -> Result<Vec<Arc<Primary>>, String> {
    let Some(cluster) = cluster.filter(|cluster| cluster.home().is_some()) else {
        return known(topology).map(|primary| vec![primary]);
    };
    let mut primaries = Vec::new();
    for shard in cluster.shards.iter().filter(|shard| cluster.slots.serves(shard.number)) {
        let primary = known(&shard.topology);
        primaries.push(primary.map_err(|why| format!("shard {} has no primary: {why}", shard.number.0))?);
    }
    match SLOTS - cluster.slots_with_primary() {
        0 => Ok(primaries),
        unserved => Err(format!("{unserved} of its {SLOTS} slots have no primary")),
    }
}

fn known(topology: &Topology) -> Result<Arc<Primary>, String> {
    match topology {
        Topology::Known(primary) => Ok(primary.clone()),
        Topology::Unknown(outage) => Err(outage.to_string()),
        Topology::Failing(_, sign) => Err(format!("a failover is under way there ({sign})")),
    }
}

/// Returns true if both lead to the same processes: for each slot, where there are slots.
pub(super) fn are_same_nodes(
    present: (&Topology, Option<&ClusterTopology>),
    target: (&Topology, Option<&ClusterTopology>),
) -> bool {
    let (present, target) = (nodes(present), nodes(target));
    present == target && present.iter().all(Option::is_some)
}

/// Returns the process that serves each slot, as far as it is known.
fn nodes((topology, cluster): (&Topology, Option<&ClusterTopology>)) -> Vec<Option<NodeId>> {
    let node = |topology: &Topology| topology.primary().and_then(|primary| primary.node.clone());
    let Some(cluster) = cluster else { return vec![node(topology); SLOTS] };
    let ranges = cluster.slots.ranges().map(|(slots, owner)| {
        let shard = owner.and_then(|number| cluster.shard(number));
        vec![shard.and_then(|shard| node(&shard.topology)); slots.len()]
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::slot::Slot;
    use crate::cluster::slots::SlotTable;
    use crate::cluster::{Shard, ShardNumber};
    use crate::topology::{Address, Generation, Outage, Sign};

    fn primary(number: u32) -> Topology {
        Topology::Known(Arc::new(Primary {
            generation: Generation(1),
            address: Address::tcp("10.0.0.1", u16::try_from(number).unwrap()),
            config_epoch: None,
            server: None,
            node: Some(NodeId(number.to_string().into())),
        }))
    }

    /// Returns a cluster in which each shard serves the slots up to the next one's first.
    fn cluster(firsts: &[(u32, u16)], end: u16) -> ClusterTopology {
        let mut slots = SlotTable::default();
        for (number, first) in firsts {
            (*first..end)
                .filter_map(Slot::new)
                .for_each(|slot| slots.assign(slot, Some(ShardNumber(*number))));
        }
        let shard = |(number, _): &(u32, u16)| Shard {
            number: ShardNumber(*number),
            topology: primary(*number),
            replicas: Vec::new(),
        };
        ClusterTopology {
            shards: firsts.iter().map(shard).collect(),
            slots: Arc::new(slots),
            ..ClusterTopology::default()
        }
    }

    fn ports(found: &Result<Vec<Arc<Primary>>, String>) -> Vec<String> {
        found.as_ref().unwrap().iter().map(|primary| primary.address.to_string()).collect()
    }

    #[test]
    fn every_slot_of_a_cluster_must_have_a_primary() {
        let mut whole = cluster(&[(1, 0), (2, 8_000)], 16_384);
        assert_eq!(ports(&of(&primary(1), Some(&whole))), ["10.0.0.1:1", "10.0.0.1:2"]);
        assert_eq!(
            of(&primary(1), Some(&cluster(&[(1, 0)], 16_000))),
            Err("384 of its 16384 slots have no primary".into())
        );
        let Topology::Known(second) = primary(2) else { unreachable!() };
        whole.shards[1].topology = Topology::Failing(second, Sign::Down);
        assert!(of(&primary(1), Some(&whole)).unwrap_err().starts_with("shard 2 has no primary: a failover"));
    }

    #[test]
    fn a_shard_without_slots_is_not_asked() {
        let mut whole = cluster(&[(1, 0), (2, 8_000)], 16_384);
        let idle = Topology::Unknown(Arc::new(Outage::Starting));
        whole.shards.push(Shard { number: ShardNumber(3), topology: idle, replicas: Vec::new() });
        assert_eq!(ports(&of(&primary(1), Some(&whole))).len(), 2);
    }

    #[test]
    fn one_primary_or_an_unknown_cluster_is_what_discovery_says() {
        assert_eq!(ports(&of(&primary(7), None)), ["10.0.0.1:7"]);
        let refused = Topology::Unknown(Arc::new(Outage::Refused("no".into())));
        assert_eq!(of(&refused, Some(&ClusterTopology::default())), Err("no".into()));
    }

    #[test]
    fn the_same_nodes_serve_the_same_slots() {
        let (one, two) = (cluster(&[(1, 0)], 16_384), cluster(&[(1, 0), (2, 8_000)], 16_384));
        assert!(are_same_nodes((&primary(1), None), (&primary(1), None)));
        assert!(!are_same_nodes((&primary(1), None), (&primary(2), None)));
        assert!(are_same_nodes((&primary(1), None), (&primary(1), Some(&one))));
        assert!(are_same_nodes((&primary(1), Some(&two)), (&primary(1), Some(&two))));
        assert!(!are_same_nodes((&primary(1), Some(&two)), (&primary(1), Some(&one))));
        assert!(!are_same_nodes((&primary(1), None), (&primary(1), Some(&two))));
        let unserved = cluster(&[(1, 0)], 16_000);
        assert!(!are_same_nodes((&primary(1), Some(&unserved)), (&primary(1), Some(&unserved))));
    }
}
