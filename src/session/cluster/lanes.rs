//! The lanes that a session uses in a cluster.

use std::rc::Rc;

use tokio::time::Instant;

use super::lease::UnplacedTransaction;
use crate::cluster::slot::Slot;
use crate::session::Session;
use crate::session::by_shard::ByShard;
use crate::upstream::shards::Shard;
use crate::upstream::shared::lane::Lane;

/// One shard, and the session's lane there.
#[derive(Clone)]
pub(in crate::session) struct ShardLane {
    pub(in crate::session) shard: Rc<Shard>,
    pub(in crate::session) lane: Rc<Lane>,
}

/// The lanes of a session, apart from that for commands without keys.
#[derive(Default)]
pub(in crate::session) struct ClusterLanes {
    /// The lanes that the session has used.
    known: ByShard<ShardLane>,
    /// The version of the shards' slots under which the commands under way were sent.
    version: u64,
    /// The lane that the session waits for; `None` while it waits for the lane of commands without keys, or for none.
    waits_for: Option<ShardLane>,
    /// The transaction whose MULTI was answered and not sent.
    pub(in crate::session) transaction: Option<UnplacedTransaction>,
}

impl ClusterLanes {
    /// Leaves every lane. No command may be under way.
    pub(in crate::session) fn leave(&mut self, client: u64) {
        self.waits_for = None;
        self.known.drain().for_each(|known| known.lane.leave(client));
    }

    /// Takes note of the lane that the session waits for.
    pub(in crate::session) fn wait_for(&mut self, lane: Option<ShardLane>) {
        self.waits_for = lane;
    }

    /// Returns the lane that the session waits for.
    pub(in crate::session) fn waits_for(&self) -> Option<&ShardLane> {
        self.waits_for.as_ref()
    }
}

impl Session {
    /// Returns the lane for the commands of a slot; `None` before the client has authenticated. [`Self::follows_slots`] must have
    /// returned true.
    pub(in crate::session) fn slot_lane(&mut self, slot: Slot) -> Option<ShardLane> {
        let shard = self.ctx.upstream.shards()?.of(slot);
        self.shard_lane(shard)
    }

    /// Returns the session's lane at a shard; `None` before the client has authenticated.
    pub(in crate::session) fn shard_lane(&mut self, shard: Rc<Shard>) -> Option<ShardLane> {
        let number = shard.number();
        if let Some(lanes) = &mut self.lanes.cluster
            && let Some(place) = lanes.known.find(number, |known| Rc::ptr_eq(&known.shard, &shard))
        {
            return lanes.known.get(place).cloned();
        }
        let lane = shard.lane(&self.key()?);
        let known = ShardLane { shard, lane };
        self.lanes.cluster.get_or_insert_default().known.add(number, known.clone());
        Some(known)
    }

    /// Leaves the lanes at the shards of a cluster, which one primary has replaced, once no command is under way there.
    pub(in crate::session) fn leave_cluster(&mut self) {
        let idle = self.output.awaited() == 0;
        let Some(lanes) = &mut self.lanes.cluster else { return };
        lanes.wait_for(None);
        if idle && lanes.transaction.is_none() {
            lanes.leave(self.client.id);
            self.lanes.cluster = None;
        }
    }

    /// Takes over the newest slots of the shards. Returns false if replies must come first: commands under way may have gone to other
    /// shards, and a command must not overtake an earlier one of its slot.
    pub(in crate::session) fn follows_slots(&mut self) -> bool {
        let Some(shards) = self.ctx.upstream.shards() else { return true };
        let (version, awaited) = (shards.version(), self.output.awaited());
        let lanes = self.lanes.cluster.get_or_insert_default();
        if lanes.version != version {
            if awaited > 0 {
                return false;
            }
            lanes.leave(self.client.id);
            lanes.version = version;
            if let Some(reads) = &mut self.lanes.reads {
                reads.slots_changed(|shard| shards.has(shard), Instant::now());
            }
        }
        true
    }
}
