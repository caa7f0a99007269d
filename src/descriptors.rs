//! Divides the file descriptors between clients and upstream connections, so that clients never
//! take the last ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Descriptors of the process: standard streams, runtime and signals, and the files and programs
/// that it reads.
const PROCESS: usize = 48;
/// Descriptors of each worker: its runtime.
const EACH_WORKER: usize = 8;
/// Descriptors of each worker at each upstream: the connections that briefly live on beside their
/// replacements, and one leased and one shared connection, which every worker has whatever its
/// share is.
const EACH_LANE: usize = 6;
/// Descriptors of each listener: its socket, and one client that is being told that no slot is
/// free.
const EACH_LISTENER: usize = 2;
/// Descriptors of the admin listener: its socket, its 64 connections, and one that waits for a
/// slot.
const ADMIN: usize = 66;
/// Descriptors of each upstream: the connections of discovery besides those to Sentinels, the
/// connection for shared rates, and the one that samples the primary's replication.
const EACH_UPSTREAM: usize = 5;
/// Discovery gets one descriptor in this many for the connections to the nodes of each cluster, besides those to the nodes that it asks
/// for slots: it asks each primary for its role, and samples replicas.
const CLUSTER_PART: usize = 32;
/// The least and the greatest number of these: 512 shards with 16 replicas each.
const CLUSTER_LEAST: usize = 8;
const CLUSTER_MOST: usize = 512 * 18;
/// The same for an upstream that a switch may make a cluster, and the connections to the nodes that are asked for slots. They come from
/// the upstream's share, which one primary does not need.
const SWITCHED: usize = 64;
/// Descriptors of each Sentinel: one connection that subscribes and one that sends queries.
const EACH_SENTINEL: usize = 2;
/// If descriptors are short, upstream connections get at most one in this many of what the reserve
/// leaves. Clients get the rest.
const CONNECTIONS_PART: usize = 4;

/// Holds the numbers that the configuration asks for.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Number of worker threads.
    pub workers: usize,
    /// Number of listeners.
    pub listeners: usize,
    /// Number of upstreams.
    pub upstreams: usize,
    /// Number of Sentinels, learned ones included.
    pub sentinels: usize,
    /// Number of connections that sample replicas, or ask Sentinels for them, and of those to replicas that every worker has
    /// whatever its share is.
    pub replicas: usize,
    /// Number of upstreams that are clusters.
    pub clusters: usize,
    /// Sum of `max-clients` over all listeners.
    pub clients: usize,
    /// Sum of `max-connections` over all upstreams, and of the shared connections to the replicas that serve reads.
    pub connections: usize,
}

/// Returns the number of connections that the workers need at `shards` shards of a cluster: each a shared and a leased one at each shard, and
/// as many for commands without keys.
pub fn needed(shards: usize, workers: usize) -> usize {
    2 * workers * (shards + 1)
}

/// Holds the numbers of clients and upstream connections that may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Clients of all listeners together.
    pub clients: usize,
    /// Connections to all upstreams together.
    pub connections: usize,
    /// Descriptors that nobody asked for. The connections to a cluster may take them: the number of its shards is not known yet.
    pub spare: usize,
}

/// Holds the numbers of connections to all nodes of one upstream, if it is a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterShare {
    /// Those of all workers together.
    pub workers: usize,
    /// Those of discovery, besides those to the nodes that it asks for slots.
    pub discovery: usize,
}

/// Returns the number of discovery's connections to the nodes of a cluster, if `limit` files may be open.
fn of_discovery(limit: usize) -> usize {
    (limit / CLUSTER_PART).clamp(CLUSTER_LEAST, CLUSTER_MOST)
}

impl Demand {
    /// Returns the number of descriptors that neither clients nor upstream connections may take.
    /// `limit` files may be open.
    pub fn reserve(&self, limit: usize) -> usize {
        PROCESS
            + ADMIN
            + EACH_WORKER * self.workers
            + EACH_LANE * self.workers * self.upstreams
            + EACH_LISTENER * self.listeners
            + EACH_UPSTREAM * self.upstreams
            + EACH_SENTINEL * self.sentinels
            + self.replicas
            + self.clusters * of_discovery(limit)
    }

    /// Divides `limit` descriptors. The reserve and the shares together never exceed `limit`.
    /// Returns `None` if nothing is left for a client.
    pub fn share(&self, limit: usize) -> Option<Shares> {
        let left = limit.checked_sub(self.reserve(limit))?;
        if left >= self.clients.saturating_add(self.connections) {
            let spare = left - self.clients - self.connections;
            return Some(Shares { clients: self.clients, connections: self.connections, spare });
        }
        let connections = self.connections.min(left / CONNECTIONS_PART);
        let clients = self.clients.min(left - connections);
        // Connections take back what clients do not need.
        let connections = self.connections.min(left - clients);
        (clients > 0).then_some(Shares { clients, connections, spare: 0 })
    }
}

impl Shares {
    /// Returns one upstream's part of the share, as its shared and its leased connections. The
    /// upstream asks for `shared` connections to each of `nodes` nodes, the primary and the replicas that
    /// serve reads, and for `leased` ones to the primary; all upstreams together ask for `asked`.
    /// Each upstream gets at least one of each kind. Shared connections are few, so they get a
    /// quarter of the upstream's part if they need it.
    pub fn connections_of(&self, shared: usize, leased: usize, nodes: usize, asked: usize) -> (usize, usize) {
        let scaled = |count: usize| count.saturating_mul(self.connections) / asked.max(1);
        let all = scaled(shared.saturating_mul(nodes).saturating_add(leased));
        // Scaled down alone, a few shared connections would round to almost none beside many leased
        // ones.
        let shared_part = shared.min(scaled(shared).max(all / nodes.max(1) / 4)).max(1);
        (shared_part, leased.min(all.saturating_sub(shared_part.saturating_mul(nodes))).max(1))
    }
}

impl Shares {
    /// Returns the part of an upstream whose limits allow `connections`, as one of `upstreams`. `limit` files may be open, and
    /// `is_cluster` is true if the configuration names a cluster.
    pub fn cluster(
        &self,
        connections: usize,
        upstreams: usize,
        limit: usize,
        is_cluster: bool,
    ) -> ClusterShare {
        let all = connections.saturating_add(self.spare / upstreams.max(1));
        if is_cluster {
            return ClusterShare { workers: all, discovery: of_discovery(limit) };
        }
        let discovery = SWITCHED.min(all / 4);
        ClusterShare { workers: all - 2 * discovery, discovery }
    }
}

/// Counts the clients of all listeners against the share of the process. All clones share one
/// count.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// The number of clients connected now.
    pub taken: Arc<AtomicUsize>,
    limit: Arc<AtomicUsize>,
}

impl Capacity {
    /// Creates a count of at most `limit` clients.
    pub fn new(limit: usize) -> Self {
        Self { taken: Arc::default(), limit: Arc::new(limit.into()) }
    }

    /// Returns the largest number of clients.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Replaces the largest number of clients. Clients above it stay.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USUAL: Demand = Demand {
        workers: 4,
        listeners: 1,
        upstreams: 1,
        sentinels: 0,
        replicas: 0,
        clusters: 0,
        clients: 10_000,
        connections: 1088,
    };

    #[test]
    fn demands_that_fit_are_granted() {
        assert_eq!(
            USUAL.share(65_536),
            Some(Shares {
                clients: 10_000,
                connections: 1088,
                spare: 65_536 - 11_088 - USUAL.reserve(65_536)
            })
        );
    }

    #[test]
    fn demands_that_do_not_fit_are_divided() {
        let shares = USUAL.share(1024).unwrap();
        assert_eq!(shares.clients + shares.connections + USUAL.reserve(1024), 1024);
        assert!(shares.connections >= 200 && shares.clients >= 600, "{shares:?}");
        assert_eq!(USUAL.share(USUAL.reserve(0)), None);
    }

    #[test]
    fn shared_connections_shrink_less() {
        let shares = Shares { clients: 70, connections: 24, spare: 0 };
        assert_eq!(shares.connections_of(64, 1024, 1, 1088), (6, 18));
        assert_eq!(shares.connections_of(2, 22, 1, 24), (2, 22));
        let enough = Shares { clients: 10_000, connections: 1088, spare: 0 };
        assert_eq!(enough.connections_of(64, 1024, 1, 1088), (64, 1024));
        let enough = Shares { clients: 10_000, connections: 64 * 3 + 1024, spare: 0 };
        assert_eq!(enough.connections_of(64, 1024, 3, 64 * 3 + 1024), (64, 1024));
    }

    proptest! {
        /// Each worker has one connection of each kind at each node whatever its share is: the reserve counts these.
        #[test]
        fn connections_to_all_nodes_fit_into_the_share(
            shared in 1usize..200,
            leased in 1usize..2000,
            nodes in 1usize..18,
            granted in 0usize..5_000,
        ) {
            let asked = shared * nodes + leased;
            let shares = Shares { clients: 1, connections: granted.min(asked), spare: 0 };
            let (shared_part, leased_part) = shares.connections_of(shared, leased, nodes, asked);
            prop_assert!(shared_part <= shared && leased_part <= leased);
            prop_assert!(shared_part * nodes + leased_part <= shares.connections + nodes + 1);
        }

        #[test]
        fn shares_never_exceed_the_limit(
            limit in 0usize..100_000,
            workers in 1usize..64,
            listeners in 1usize..8,
            upstreams in 1usize..8,
            sentinels in 0usize..16,
            replicas in 0usize..40,
            clients in 1usize..50_000,
            connections in 1usize..5_000,
            clusters in 0usize..8,
        ) {
            let clusters = clusters.min(upstreams);
            let demand =
                Demand { workers, listeners, upstreams, sentinels, replicas, clusters, clients, connections };
            if let Some(shares) = demand.share(limit) {
                let reserve = demand.reserve(limit);
                prop_assert!(shares.clients + shares.connections + shares.spare + reserve <= limit);
                let part = shares.connections / upstreams;
                let open = |at| {
                    let ClusterShare { workers, discovery } = shares.cluster(part, upstreams, limit, at < clusters);
                    // The reserve counts those of discovery at a cluster of the configuration.
                    workers + if at < clusters { 0 } else { discovery + SWITCHED.min(discovery) }
                };
                prop_assert!((0..upstreams).map(open).sum::<usize>() <= shares.connections + shares.spare);
                prop_assert!((1..=clients).contains(&shares.clients));
                prop_assert!((0..=connections).contains(&shares.connections));
            }
        }
    }
}
