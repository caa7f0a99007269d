//! Says whether an upstream serves clients, and the line of `/readyz` about it. No I/O.

use crate::cluster::slot::SLOTS;
use crate::cluster::{ClusterTopology, Shard};
use crate::topology::Topology;

/// Whether an upstream serves clients.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    /// True if there is a node to which commands go, or would go if no operator had paused the upstream.
    pub(super) serves: bool,
    /// The line that names the nodes or shards that serve; `None` if a warning says all.
    pub(super) line: Option<String>,
}

impl Readiness {
    /// Returns the readiness of an upstream. `cluster`: its shards, if it is a cluster.
    ///
    /// A cluster serves as long as any of its shards has a primary: if it did not, one lost shard would have an orchestrator stop the traffic
    /// to all others.
    pub(super) fn of(name: &str, topology: &Topology, cluster: Option<&ClusterTopology>) -> Self {
        let order = match topology {
            Topology::Failing(_, sign) if sign.is_ordered() => format!(": {sign}"),
            _ => String::new(),
        };
        if let Some(cluster) = cluster.filter(|cluster| cluster.home().is_some()) {
            let serving: Vec<&Shard> =
                cluster.shards.iter().filter(|shard| cluster.slots.serves(shard.number)).collect();
            let known = serving.iter().filter(|shard| shard.topology.primary().is_some()).count();
            let (all, slots) = (serving.len(), cluster.slots_with_primary());
            let line = format!(
                "upstream {name}: cluster, {known} of {all} shards have a primary, {slots} of {SLOTS} slots served{order}\n"
            );
            return Self { serves: known > 0, line: Some(line) };
        }
        let line = match topology {
            Topology::Failing(_, sign) if !sign.is_ordered() => None,
            topology => topology
                .primary()
                .map(|primary| format!("upstream {name}: primary {}{order}\n", primary.address)),
        };
        Self { serves: topology.primary().is_some(), line }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::ShardNumber;
    use crate::cluster::slot::Slot;
    use crate::cluster::slots::SlotTable;
    use crate::topology::{Address, Generation, Outage, Primary, Sign};

    fn primary(port: u16) -> Arc<Primary> {
        let (generation, address) = (Generation(u64::from(port)), Address::tcp("n", port));
        Arc::new(Primary { generation, address, config_epoch: None, server: None, node: None })
    }

    fn unknown() -> Topology {
        Topology::Unknown(Arc::new(Outage::Unverified("n:1: refused".into())))
    }

    /// A cluster of two shards with a slot each, and one without slots.
    fn cluster(first: Topology, second: Topology) -> ClusterTopology {
        let mut slots = SlotTable::default();
        let mut shards = Vec::new();
        for (number, topology) in [(1, first), (2, second), (3, unknown())] {
            let number = ShardNumber(number);
            shards.push(Shard { number, topology, replicas: Vec::new() });
            if number.0 < 3 {
                slots.assign(Slot::new(number.0 as u16).unwrap(), Some(number));
            }
        }
        ClusterTopology { shards, slots: Arc::new(slots), ..ClusterTopology::default() }
    }

    fn said(topology: &Topology, cluster: Option<&ClusterTopology>) -> (bool, String) {
        let readiness = Readiness::of("main", topology, cluster);
        (readiness.serves, readiness.line.unwrap_or_default())
    }

    #[test]
    fn one_primary_serves_until_it_is_lost() {
        let line = "upstream main: primary n:1\n";
        assert_eq!(said(&Topology::Known(primary(1)), None), (true, line.into()));
        assert_eq!(said(&unknown(), None), (false, String::new()));
        assert_eq!(said(&Topology::Failing(primary(1), Sign::Down), None), (true, String::new()));
        let paused = Topology::Failing(primary(1), Sign::Paused);
        assert_eq!(said(&paused, None), (true, format!("upstream main: primary n:1: {}\n", Sign::Paused)));
    }

    #[test]
    fn a_cluster_serves_while_any_shard_has_a_primary() {
        let both = cluster(Topology::Known(primary(1)), Topology::Known(primary(2)));
        let line = "upstream main: cluster, 2 of 2 shards have a primary, 2 of 16384 slots served\n";
        assert_eq!(said(&Topology::Known(primary(1)), Some(&both)), (true, line.into()));
        let without_home = cluster(unknown(), Topology::Known(primary(2)));
        let line = "upstream main: cluster, 1 of 2 shards have a primary, 1 of 16384 slots served\n";
        assert_eq!(said(&unknown(), Some(&without_home)), (true, line.into()));
        assert!(!said(&unknown(), Some(&cluster(unknown(), unknown()))).0);
        assert_eq!(said(&unknown(), Some(&ClusterTopology::default())), (false, String::new()));
    }
}
