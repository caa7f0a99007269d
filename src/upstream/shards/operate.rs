//! What operators see of the shards, and order.

use super::Shards;
use crate::topology::Address;
use crate::upstream::activity::{IdentityUse, UpstreamActivity};
use crate::upstream::replica::counters::ReplicaCounts;

impl Shards {
    /// Returns the number of idle leased connections, and of sessions that wait for one.
    pub(in crate::upstream) fn idle_and_waiting(&self) -> (usize, usize) {
        let all = self.all.borrow();
        let pools = all.iter().map(|shard| &shard.parts.pool);
        pools.fold((0, 0), |(idle, waiting), pool| (idle + pool.idle(), waiting + pool.waiting()))
    }

    /// Adds what this worker does at the shards to what it does at the `home` shard for commands without keys.
    pub(in crate::upstream) fn activity(&self, home: UpstreamActivity) -> UpstreamActivity {
        let mut sum = home;
        for shard in self.all.borrow().iter().filter(|shard| shard.number().is_some()) {
            let activity = shard.parts.activity();
            sum.holds &= activity.holds || activity.generation.is_none();
            sum.unanswered += activity.unanswered;
            sum.former += activity.former;
            // Idle connections and those to replicas are counted for each shard, and all others for the upstream.
            sum.connections += shard.parts.pool.idle() as u64 + shard.parts.replicas.connections().0;
        }
        sum
    }

    /// Adds the identities that sessions use at the shards.
    pub(in crate::upstream) fn add_identities_in_use(&self, uses: &mut Vec<IdentityUse>) {
        for used in self.all.borrow().iter().flat_map(|shard| shard.parts.identities_in_use()) {
            let same = uses.iter_mut().find(|known| {
                known.is_own == used.is_own
                    && match (&known.credentials, &used.credentials) {
                        (Some(one), Some(other)) => std::sync::Arc::ptr_eq(one, other),
                        (one, other) => one.is_none() && other.is_none(),
                    }
            });
            match same {
                Some(known) => {
                    known.databases.extend(used.databases);
                    known.resp3 |= used.resp3;
                }
                None => uses.push(used),
            }
        }
    }

    /// Returns what was counted for each replica.
    pub(in crate::upstream) fn replica_counts(&self) -> Vec<(Address, ReplicaCounts)> {
        self.all.borrow().iter().flat_map(|shard| shard.parts.replicas.counts()).collect()
    }

    /// Opens new connections to the same primaries, and retires the present ones.
    pub(in crate::upstream) fn reconnect(&self) {
        self.all.borrow().iter().for_each(|shard| shard.parts.reconnect());
    }
}
