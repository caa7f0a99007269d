//! Who may have how many file descriptors, so that clients never take the last ones.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// Of the whole process: the standard streams, its runtime and signals, and files and programs that are read.
const PROCESS: usize = 48;
/// Of each worker: its runtime.
const EACH_WORKER: usize = 8;
/// Of each worker at each upstream: connections that live on for a moment beside their replacements, and one lease and
/// one shared connection, which no share takes away.
const EACH_LANE: usize = 6;
/// Of each listener: its socket, and one client that is told that there is no place.
const EACH_LISTENER: usize = 2;
/// Of the admin listener: its socket, its connections, and one that waits for a place.
const ADMIN: usize = 66;
/// Of each upstream: the connections of discovery besides those to Sentinels, and that of shared rates.
const EACH_UPSTREAM: usize = 4;
/// Of each Sentinel: one connection that is subscribed and one that asks.
const EACH_SENTINEL: usize = 2;
/// Upstream connections get at most this part of what is left, so that clients get the others.
const CONNECTIONS_PART: usize = 4;

/// What a configuration asks for.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Worker threads.
    pub workers: usize,
    /// Listeners.
    pub listeners: usize,
    /// Upstreams.
    pub upstreams: usize,
    /// Sentinels, those that are learnt included.
    pub sentinels: usize,
    /// `max-clients` of all listeners together.
    pub clients: usize,
    /// `max-connections` of all upstreams together.
    pub connections: usize,
}

/// How many clients and upstream connections there may be at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Clients of all listeners together.
    pub clients: usize,
    /// Connections to all upstreams together.
    pub connections: usize,
}

impl Demand {
    /// Descriptors that neither clients nor upstream connections may take.
    pub fn reserve(&self) -> usize {
        PROCESS
            + ADMIN
            + EACH_WORKER * self.workers
            + EACH_LANE * self.workers * self.upstreams
            + EACH_LISTENER * self.listeners
            + EACH_UPSTREAM * self.upstreams
            + EACH_SENTINEL * self.sentinels
    }

    /// Divides `limit` descriptors. Together with the reserve, the shares never exceed it. `None`: nothing is left for a
    /// client.
    pub fn share(&self, limit: usize) -> Option<Shares> {
        let left = limit.checked_sub(self.reserve())?;
        if left >= self.clients.saturating_add(self.connections) {
            return Some(Shares { clients: self.clients, connections: self.connections });
        }
        let connections = self.connections.min(left / CONNECTIONS_PART);
        let clients = self.clients.min(left - connections);
        // What clients do not need is for connections again.
        let connections = self.connections.min(left - clients);
        (clients > 0).then_some(Shares { clients, connections })
    }
}

impl Shares {
    /// What of the share is an upstream's that asks for so many shared and leased connections, of `asked` of all upstreams
    /// together: shared and leased ones, at least one each. Shared ones are few, and get a quarter if they need it.
    pub fn connections_of(&self, shared: usize, leased: usize, asked: usize) -> (usize, usize) {
        let scaled = |count: usize| count.saturating_mul(self.connections) / asked.max(1);
        let all = scaled(shared.saturating_add(leased));
        let kept = shared.min(scaled(shared).max(all / 4)).max(1);
        (kept, leased.min(all.saturating_sub(kept)).max(1))
    }
}

/// Counts the clients of all listeners against the share of the process. Clones count together.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// The count.
    pub taken: Arc<AtomicUsize>,
    /// Its limit.
    pub limit: usize,
}

impl Capacity {
    /// For so many clients.
    pub fn new(limit: usize) -> Self {
        Self { taken: Arc::default(), limit }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USUAL: Demand =
        Demand { workers: 4, listeners: 1, upstreams: 1, sentinels: 0, clients: 10_000, connections: 1088 };

    #[test]
    fn what_fits_is_not_touched() {
        assert_eq!(USUAL.share(65_536), Some(Shares { clients: 10_000, connections: 1088 }));
    }

    #[test]
    fn what_does_not_fit_is_divided() {
        let shares = USUAL.share(1024).unwrap();
        assert_eq!(shares.clients + shares.connections + USUAL.reserve(), 1024);
        assert!(shares.connections >= 200 && shares.clients >= 600, "{shares:?}");
        assert_eq!(USUAL.share(USUAL.reserve()), None);
    }

    #[test]
    fn shared_connections_shrink_less() {
        let shares = Shares { clients: 70, connections: 24 };
        assert_eq!(shares.connections_of(64, 1024, 1088), (6, 18));
        assert_eq!(shares.connections_of(2, 22, 24), (2, 22));
        let enough = Shares { clients: 10_000, connections: 1088 };
        assert_eq!(enough.connections_of(64, 1024, 1088), (64, 1024));
    }

    proptest! {
        #[test]
        fn shares_never_exceed_the_limit(
            limit in 0usize..100_000,
            workers in 1usize..64,
            listeners in 1usize..8,
            upstreams in 1usize..8,
            sentinels in 0usize..16,
            clients in 1usize..50_000,
            connections in 1usize..5_000,
        ) {
            let demand = Demand { workers, listeners, upstreams, sentinels, clients, connections };
            if let Some(shares) = demand.share(limit) {
                prop_assert!(shares.clients + shares.connections + demand.reserve() <= limit);
                prop_assert!((1..=clients).contains(&shares.clients));
                prop_assert!((0..=connections).contains(&shares.connections));
            }
        }
    }
}
