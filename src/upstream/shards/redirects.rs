//! Finds the lanes for redirected commands.

use super::{Shard, Shards};
use crate::cluster::slot::Slot;
use crate::topology::Address;
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::redirects::{NodeLane, SlotLanes};

impl SlotLanes for Shards {
    fn only(&self, key: &ConnectionKey) -> Option<NodeLane> {
        (!self.is_active()).then(|| node_lane(&self.only, key))
    }

    fn at(&self, address: &Address, key: &ConnectionKey) -> Option<NodeLane> {
        Self::at(self, address).map(|shard| node_lane(&shard, key))
    }

    fn of(&self, slot: Slot, key: &ConnectionKey) -> NodeLane {
        node_lane(&Self::of(self, slot), key)
    }

    fn moved(&self, slot: Slot, to: &Address) {
        if let Some(shard) = Self::at(self, to) {
            Self::moved(self, slot, &shard);
        }
    }

    fn is_on_its_way(&self, slot: Slot) {
        self.meet_moving(slot);
    }
}

fn node_lane(shard: &Shard, key: &ConnectionKey) -> NodeLane {
    NodeLane { lane: shard.lane(key), generation: shard.generation() }
}
