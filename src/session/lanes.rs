//! Holds how a session uses the upstream's lanes while it has no lease.

use std::rc::Rc;

use super::cluster::{ClusterLanes, Gathers};
use super::read_state::ReadState;
use super::scan::Scans;
use crate::upstream::ShardChannels;
use crate::upstream::fanin::subscription::Subscription;
use crate::upstream::shared::lane::Lane;

/// Holds the lanes that a session uses. Its lease, if it has one, is apart.
#[derive(Default)]
pub(super) struct Lanes {
    /// The lane of the client's shared commands, once it is open for the current identity, database and version.
    pub(super) shared: Option<Rc<Lane>>,
    /// The session's fan-in subscriptions, if it has any.
    pub(super) subscription: Option<Box<Subscription>>,
    /// The session's shard channels in front of a cluster, if it has any.
    pub(super) shard_channels: Option<Box<ShardChannels>>,
    /// True if there is one of these two, so that messages may come that do not come by a lease.
    pub(super) get_messages: bool,
    /// How the client's reads are sent, unless all of them go to the primary.
    pub(super) reads: Option<Box<ReadState>>,
    /// The lanes at the shards of a cluster, once the client has used any.
    pub(super) cluster: Option<Box<ClusterLanes>>,
    /// The primaries that the client's SCAN cursors come from.
    pub(super) scans: Scans,
    /// The commands whose parts are under way at several shards of a cluster.
    pub(super) gathers: Gathers,
}

impl Lanes {
    /// Leaves the shared lanes.
    pub(super) fn leave_shared(&mut self, client: u64) {
        if let Some(lane) = self.shared.take() {
            lane.leave(client);
        }
        if let Some(cluster) = &mut self.cluster {
            cluster.leave(client);
        }
        if let Some(reads) = &mut self.reads {
            reads.leave_lanes();
        }
    }

    /// Returns the bytes of the subscriptions that the client has requested and that are not confirmed; `None` if
    /// there are none.
    pub(super) fn requested_subscriptions(&self) -> Option<usize> {
        let by_fan_in = self.subscription.as_ref().and_then(|subscription| subscription.asks());
        by_fan_in.or_else(|| self.shard_channels.as_ref().and_then(|channels| channels.asks()))
    }
}
