//! The room for the connections of discovery to the nodes of a cluster, so that the limit of open files suffices for any number of shards.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The least number of nodes that are asked for their role at the same time.
const LEAST_CHECKS: usize = 4;

/// The part of the room that those have: one in this many. Samplers of replicas have the rest.
const CHECKS_PART: usize = 4;

/// The greatest number of connections that could ever be of use.
const MOST: usize = 1 << 16;

/// The room for connections of discovery. All clones share it.
#[derive(Clone, Debug)]
pub struct DiscoveryRoom {
    /// For questions to primaries for their role.
    checks: Arc<Semaphore>,
    /// The number of free places from which a connection may stay open for the next question.
    kept_from: usize,
    /// For samples of replicas.
    pub(in crate::discovery) samples: Arc<Semaphore>,
}

impl DiscoveryRoom {
    /// Creates room for `limit` connections.
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(MOST);
        let checks = (limit / CHECKS_PART).max(LEAST_CHECKS);
        let samples = limit.saturating_sub(checks).max(1);
        Self {
            checks: Arc::new(Semaphore::new(checks)),
            kept_from: checks / 2,
            samples: Arc::new(Semaphore::new(samples)),
        }
    }

    /// Waits for room to ask a primary for its role.
    pub(in crate::discovery) async fn take_check(&self) -> Option<OwnedSemaphorePermit> {
        self.checks.clone().acquire_owned().await.ok()
    }

    /// Returns true if a connection may stay open for the next question: half of the room is for new ones.
    pub(in crate::discovery) fn keeps(&self) -> bool {
        self.checks.available_permits() >= self.kept_from
    }
}

impl Default for DiscoveryRoom {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn half_of_the_room_is_for_new_connections() {
        let room = DiscoveryRoom::new(80);
        let mut kept = Vec::new();
        while room.keeps() {
            kept.extend(room.take_check().await);
        }
        assert_eq!(
            (kept.len(), room.checks.available_permits(), room.samples.available_permits()),
            (11, 9, 60)
        );
        assert!(!DiscoveryRoom::new(0).checks.is_closed());
        assert_eq!(DiscoveryRoom::new(0).checks.available_permits(), LEAST_CHECKS);
    }
}
