//! Follows the topology of a cluster: shards that appear and go, their primaries, and the slots that they serve.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{MAX_SHARDS, NOWHERE, Shard, Shards};
use crate::cluster::slot::{SLOTS, Slot};
use crate::cluster::{ClusterTopology, ShardNumber};
use crate::replica::ShardFeeds;

/// The time between two looks whether a shard that is gone still owes replies.
const DRAIN_CHECK: Duration = Duration::from_secs(1);

impl Shards {
    /// Takes over a newer topology. Cuts every connection to a superseded primary here, before anything else can be written to it.
    pub(in crate::upstream) fn adopt(&self, topology: &ClusterTopology) {
        let mut places_changed = !Arc::ptr_eq(&topology.slots, &self.placed.borrow());
        for shard in topology.shards.iter().take(MAX_SHARDS) {
            match self.place_of(shard.number) {
                Some(_) => {}
                None => {
                    let started = Shard::start(&self.common, shard.number, self.fair.get());
                    if let Some(feed) = self.feeds.borrow().get(&shard.number) {
                        started.follow_replicas(feed);
                    }
                    self.all.borrow_mut().push(started);
                    places_changed = true;
                }
            }
        }
        let known: Vec<Rc<Shard>> = self.all.borrow().clone();
        for shard in &known {
            let Some(number) = shard.number() else { continue };
            match topology.shard(number) {
                Some(newest) => shard.adopt(&newest.topology),
                None => {
                    self.remove(shard, number);
                    places_changed = true;
                }
            }
        }
        self.moving.name(&topology.moving);
        // Nodes may have said since then that slots have moved, and discovery may not have heard that yet.
        if places_changed {
            self.place_slots(topology);
            self.placed.replace(topology.slots.clone());
        }
        self.common.redirects.note_news();
    }

    /// Follows the samples of each shard's replicas until discovery ends.
    pub(super) async fn follow_replicas(self: Rc<Self>, mut feeds: watch::Receiver<Arc<ShardFeeds>>) {
        while feeds.changed().await.is_ok() {
            let newest = feeds.borrow_and_update().clone();
            for shard in self.all.borrow().iter() {
                if let Some(feed) = shard.number().and_then(|number| newest.get(&number)) {
                    shard.follow_replicas(feed);
                }
            }
        }
    }

    /// Takes note that the upstream is no cluster any more: every shard leaves, and its slots belong to the only primary.
    pub(in crate::upstream) fn leave_all(&self) {
        self.adopt(&ClusterTopology::default());
        self.slots_changed();
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
            self.note_gains(&before);
            self.slots_changed();
            self.note_losses(&before);
        }
        let nowhere = self.all.borrow().first().cloned();
        if let Some(nowhere) = nowhere {
            nowhere.await_slots(unserved);
        }
    }

    /// Has each shard take note that it has got a slot. `before` are the places of all slots until now.
    fn note_gains(&self, before: &[u16]) {
        let (now, all) = (Instant::now(), self.all.borrow());
        let mut gains = vec![false; all.len()];
        for (former, place) in before.iter().zip(self.places.borrow().iter()) {
            if former != place
                && let Some(gains) = gains.get_mut(usize::from(*place))
            {
                *gains = true;
            }
        }
        all.iter().zip(gains).filter(|(_, gains)| *gains).for_each(|(shard, _)| shard.note_gained(now));
    }

    /// Has subscribers leave those shards for others that have lost slots to them. `before` are the places of all slots until now.
    fn note_losses(&self, before: &[u16]) {
        let (all, places) = (self.all.borrow(), self.places.borrow());
        let mut loses = vec![false; all.len()];
        for (former, place) in before.iter().zip(places.iter()) {
            if former != place
                && let Some(loses) = loses.get_mut(usize::from(*former))
            {
                *loses = true;
            }
        }
        for (number, shard) in (0_u16..).zip(all.iter()) {
            if loses.get(usize::from(number)) == Some(&true) {
                let leaves = |slot: Slot| places.get(usize::from(slot.number())) != Some(&number);
                shard.parts.fans.slots_left(leaves);
            }
        }
    }

    /// Ends a shard that the cluster has no more, once the commands that are under way there are settled.
    fn remove(&self, shard: &Rc<Shard>, number: ShardNumber) {
        shard.leave();
        // Those of other shards keep their places in the list only by chance, so the places are set anew afterwards.
        self.all.borrow_mut().retain(|known| known.number() != Some(number));
        self.places.borrow_mut().fill(NOWHERE);
        shard.wake_waiting();
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
