//! Follows the topology of a cluster: shards that appear and go, their primaries, and the slots that they serve.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{MAX_SHARDS, NOWHERE, Shard, Shards};
use crate::cluster::slot::SLOTS;
use crate::cluster::{ClusterTopology, ShardNumber};
use crate::topology::{Outage, Topology};

/// The time between two looks whether a shard that is gone still owes replies.
const DRAIN_CHECK: Duration = Duration::from_secs(1);

impl Shards {
    /// Follows the topology until discovery ends.
    pub(super) async fn follow(self: Rc<Self>, mut topology: watch::Receiver<Arc<ClusterTopology>>) {
        loop {
            let newest = topology.borrow_and_update().clone();
            self.adopt(&newest);
            if topology.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes over a newer topology. Cuts every connection to a superseded primary here, before anything else can be written to it.
    fn adopt(&self, topology: &ClusterTopology) {
        for shard in topology.shards.iter().take(MAX_SHARDS) {
            match self.place_of(shard.number) {
                Some(_) => {}
                None => {
                    let started = Shard::start(&self.common, shard.number, self.fair.get());
                    self.all.borrow_mut().push(started);
                }
            }
        }
        let known: Vec<Rc<Shard>> = self.all.borrow().clone();
        for shard in &known {
            let Some(number) = shard.number() else { continue };
            match topology.shard(number) {
                Some(newest) => shard.adopt(&newest.topology),
                None => self.remove(shard, number),
            }
        }
        self.place_slots(topology);
    }

    /// Gives each slot its shard, and tells who waits for a slot that no shard served.
    fn place_slots(&self, topology: &ClusterTopology) {
        let mut places = vec![NOWHERE; SLOTS].into_boxed_slice();
        for (range, number) in topology.slots.ranges() {
            let place = number.and_then(|number| self.place_of(number)).unwrap_or(NOWHERE);
            let range = usize::from(*range.start())..=usize::from(*range.end());
            if let Some(slots) = places.get_mut(range) {
                slots.fill(place);
            }
        }
        let unserved = places.contains(&NOWHERE);
        let before = self.places.replace(places);
        if before != *self.places.borrow() {
            self.slots_changed();
        }
        let nowhere = self.all.borrow().first().cloned();
        if let Some(nowhere) = nowhere {
            nowhere.await_slots(unserved);
        }
        if let Some(redirects) = &self.common.redirects {
            redirects.note_news();
        }
    }

    /// Ends a shard that the cluster has no more, once the commands that are under way there are settled.
    fn remove(&self, shard: &Rc<Shard>, number: ShardNumber) {
        shard.adopt(&Topology::Unknown(Arc::new(Outage::Unverified(
            "the shard has left the cluster".to_owned(),
        ))));
        // Those of other shards keep their places in the list only by chance, so the places are set anew afterwards.
        self.all.borrow_mut().retain(|known| known.number() != Some(number));
        self.places.borrow_mut().fill(NOWHERE);
        let ended = shard.clone();
        self.common.meter.spawn_local(async move {
            let limit = ended.parts.dialing.config.get().hold_timeout * 2;
            let _ = tokio::time::timeout(limit, async {
                while !ended.parts.lanes.are_drained() {
                    tokio::time::sleep(DRAIN_CHECK).await;
                }
            })
            .await;
            ended.end();
        });
    }
}
