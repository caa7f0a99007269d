//! What is known of the replicas that may serve reads: plain values that discovery sends to upstreams.

pub mod answered_writes;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::answered_writes::AnsweredWrites;
use crate::cluster::ShardNumber;
use crate::topology::{Address, Generation, NodeId};

/// The nodes from which the reads of a client are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// The primary.
    #[default]
    Primary,
    /// The primary, until the client asks for replicas with READONLY.
    OnRequest,
    /// A replica; the primary while no replica can serve.
    PreferReplica,
    /// A replica. Reads wait while no replica can serve.
    Replica,
}

/// The newest samples of the replicas of one upstream.
#[derive(Clone, Debug, Default)]
pub struct ReplicaSet {
    /// The primary whose history the replicas are compared with; `None` before the first sample.
    pub generation: Option<Generation>,
    /// When respgate sent the newest question that the primary has answered; `None` before its first answer.
    pub primary_answered: Option<Instant>,
    /// True if the connection on which the primary is asked was lost, and no other is open yet.
    pub primary_lost: bool,
    /// The replicas, by address.
    pub replicas: Vec<ReplicaState>,
}

/// The newest sample of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    /// The replica's address.
    pub address: Address,
    /// The process that was asked; `None` if respgate may not ask for its id.
    pub node: Option<NodeId>,
    /// The availability zone that it names; `None` if it names none.
    pub zone: Option<Arc<str>>,
    /// True if its link to the primary is up.
    pub linked: bool,
    /// When the replica was asked.
    pub asked: Instant,
    /// What the replica has applied.
    pub applied: Applied,
}

/// What a replica has applied of its primary's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The replica has applied every write that the primary had run before this moment.
    pub until: Instant,
    /// The bytes of the primary's history that the replica lacked.
    pub lag_bytes: u64,
}

/// The greatest distance between a replica that serves reads and its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LagBound {
    /// The age of the oldest write that the replica may lack.
    pub time: Duration,
    /// The bytes that the replica may lack.
    pub bytes: u64,
}

impl Applied {
    /// Returns true if a read at `now` misses no write that is older than the bound. An old sample proves nothing, so time alone ends
    /// this.
    pub fn is_within(&self, bound: LagBound, now: Instant) -> bool {
        self.lag_bytes <= bound.bytes && now.saturating_duration_since(self.until) < bound.time
    }

    /// Returns true if the replica has applied everything that the primary had answered before `moment`.
    pub fn covers(&self, moment: Instant) -> bool {
        self.until >= moment
    }
}

/// A worker's connection to the sampler of the replicas of one primary.
#[derive(Clone, Debug)]
pub struct ReplicaFeed {
    /// The newest samples.
    pub newest: watch::Receiver<ReplicaSet>,
    /// Asks for a new sample soon, and keeps the sampler at work. A message that finds another one waiting adds nothing.
    pub demand: mpsc::Sender<()>,
    /// When the newest write of the clients without a tenant was answered. All workers share it.
    pub answered: Arc<AnsweredWrites>,
}

/// The feeds of the shards of a cluster.
pub type ShardFeeds = HashMap<ShardNumber, ReplicaFeed>;

impl ReplicaFeed {
    /// Returns the feed of an upstream without replicas.
    pub fn none() -> Self {
        Self {
            newest: watch::channel(ReplicaSet::default()).1,
            demand: mpsc::channel(1).0,
            answered: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_bytes_bound_the_lag() {
        let start = Instant::now();
        let bound = LagBound { time: Duration::from_secs(2), bytes: 100 };
        let applied = |lag_bytes| Applied { until: start, lag_bytes };
        let at = |millis| start + Duration::from_millis(millis);
        assert!(applied(100).is_within(bound, at(1999)));
        assert!(!applied(100).is_within(bound, at(2000)), "the sample is too old");
        assert!(!applied(101).is_within(bound, at(0)));
        assert!(applied(0).is_within(bound, start - Duration::from_secs(1)), "another thread's later sample");
        assert!(applied(0).covers(start) && !applied(0).covers(at(1)));
    }
}
