//! The shards of a cluster, as one worker uses them: the connections to each shard's primary, and the shard of each slot.
//!
//! Each shard has [parts](super::parts) of its own, so each holds the commands of its slots only. A slot that no shard serves belongs to
//! a shard without a primary, whose commands wait as those of a lost primary do.
//!
//! A switch may replace the cluster by one primary, and back. In between every slot belongs to that primary, so that what sessions have
//! begun in the cluster goes on there.

mod follow;
mod moving;
mod operate;
mod redirects;
mod shard;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::moving::MovingSlots;
pub use self::shard::Shard;
use super::config::UpstreamConfig;
use super::connection::open::ConnectionKey;
use super::leased::lease::Lease;
use super::parts::{Common, Parts};
use super::redirects::SlotLanes;
use super::replies::Replies;
use super::shared::fair::fair_queue::Share;
use super::tasks::Tasks;
use crate::cluster::ShardNumber;
use crate::cluster::redirect::NamedNode;
use crate::cluster::slot::{SLOTS, Slot};
use crate::cluster::slots::SlotTable;
use crate::hint::Hint;
use crate::metrics::Counters;
use crate::replica::ShardFeeds;
use crate::resp::error_line::ErrorLine;
use crate::topology::Address;

/// The number of shards that are followed at most. A cluster has a thousand nodes at most, as its authors say.
const MAX_SHARDS: usize = 1024;

/// The place of the shard without a primary in the list of shards.
const NOWHERE: u16 = 0;

/// The shards of one worker's side of a cluster.
pub struct Shards {
    common: Rc<Common>,
    /// The shards. The first one has no primary, and gets the commands for slots that no shard serves.
    all: RefCell<Vec<Rc<Shard>>>,
    /// Stands for the primary that gets the commands of all slots while the upstream is no cluster.
    only: Rc<Shard>,
    /// The place in `all` of the shard that gets the commands for each slot.
    places: RefCell<Box<[u16]>>,
    /// The slots of the topology that `places` follows, apart from what nodes have said since then.
    placed: RefCell<Arc<SlotTable>>,
    /// Rises whenever a slot gets another shard.
    version: Cell<u64>,
    fair: Cell<bool>,
    /// Told when a slot gets another shard.
    news: Notify,
    moving: MovingSlots,
    /// What is known of the replicas of each shard.
    feeds: watch::Receiver<Arc<ShardFeeds>>,
}

impl Shards {
    /// Creates the shards of a cluster, which [`Self::adopt`] sets. `home` has the connections for commands without keys, and those to
    /// the primary while the upstream is no cluster. Ends with `tasks`, apart from the tasks of the shards, which [`Self::end`] ends.
    pub(in crate::upstream) fn start(
        common: &Rc<Common>,
        home: &Parts,
        fair: bool,
        feeds: watch::Receiver<Arc<ShardFeeds>>,
        tasks: &Tasks,
    ) -> Rc<Self> {
        let shards = Rc::new(Self {
            common: common.clone(),
            all: RefCell::new(vec![Shard::nowhere(common)]),
            only: Shard::only(home),
            places: RefCell::new(vec![NOWHERE; SLOTS].into_boxed_slice()),
            placed: RefCell::default(),
            version: Cell::new(0),
            fair: Cell::new(fair),
            news: Notify::new(),
            moving: MovingSlots::default(),
            feeds: feeds.clone(),
        });
        tasks.spawn(shards.clone().follow_replicas(feeds));
        let lanes: Rc<dyn SlotLanes> = shards.clone();
        common.redirects.send_by(Rc::downgrade(&lanes));
        tasks.spawn(common.redirects.clone().send_waiting());
        shards
    }

    /// Returns a number that rises whenever a slot gets another shard. Commands that were sent before may be under way on another
    /// connection than those that are sent now.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.get()
    }

    /// Returns true while the upstream is a cluster.
    fn is_active(&self) -> bool {
        self.common.redirects.is_active()
    }

    /// Returns the shard that gets the commands for this slot: the one that serves it, or one without a primary if none does.
    #[inline]
    pub fn of(&self, slot: Slot) -> Rc<Shard> {
        if !self.is_active() {
            return self.only.clone();
        }
        let all = self.all.borrow();
        let place = self.places.borrow().get(usize::from(slot.number())).copied().unwrap_or(NOWHERE);
        match all.get(usize::from(place)).or_else(|| all.first()) {
            Some(shard) => shard.clone(),
            // The first one always exists.
            None => Shard::nowhere(&self.common),
        }
    }

    /// Returns each shard that gets commands, with the lowest of its slots, in the order of these slots. That is the shard without a
    /// primary too if a slot is served by none.
    pub fn serving(&self) -> Vec<(Slot, Rc<Shard>)> {
        if !self.is_active() {
            return Slot::new(0).map(|first| (first, self.only.clone())).into_iter().collect();
        }
        let (all, places) = (self.all.borrow(), self.places.borrow());
        let mut seen = vec![false; all.len()];
        let mut serving = Vec::new();
        for (number, place) in (0..).zip(places.iter()) {
            let place = usize::from(*place);
            if seen.get(place) == Some(&false)
                && let (Some(slot), Some(shard), Some(seen)) =
                    (Slot::new(number), all.get(place), seen.get_mut(place))
            {
                *seen = true;
                serving.push((slot, shard.clone()));
            }
        }
        serving
    }

    /// Returns the shard whose primary has this address.
    pub fn at(&self, address: &Address) -> Option<Rc<Shard>> {
        self.all.borrow().iter().find(|shard| shard.is_at(address)).cloned()
    }

    /// Sends the commands for a slot to `shard` from now on, because a node has said that the shard serves the slot. The next
    /// table of slots of discovery replaces this.
    pub fn moved(&self, slot: Slot, shard: &Rc<Shard>) {
        let place = self.all.borrow().iter().position(|known| Rc::ptr_eq(known, shard));
        if let Some(place) = place.and_then(|place| u16::try_from(place).ok())
            && let Some(known) = self.places.borrow_mut().get_mut(usize::from(slot.number()))
            && *known != place
        {
            *known = place;
            shard.note_gained(Instant::now());
            self.slots_changed();
        }
    }

    /// Returns the shard to which a node has moved a slot, if it is known, and sends the commands for the slot there from now on. Tells
    /// discovery. `asked` is the shard whose node has said so.
    pub(in crate::upstream) fn follow_moved(
        &self,
        slot: Slot,
        to: &NamedNode,
        asked: &Shard,
    ) -> Option<Rc<Shard>> {
        let to = to.address(asked.address().as_ref())?;
        let shard = self.at(&to);
        if let Some(shard) = &shard {
            self.moved(slot, shard);
        }
        asked.parts.dialing.reports.hint(Hint::Moved { slot, to });
        shard
    }

    /// Takes note that a node has redirected a command because its slot is on its way to another node.
    pub fn meet_moving(&self, slot: Slot) {
        self.moving.meet(slot, Instant::now());
    }

    /// Returns true if a slot is on its way from one shard to another, so that only primaries know where its keys are.
    pub fn is_moving(&self, slot: Slot) -> bool {
        self.moving.contains(slot, Instant::now)
    }

    /// Returns true if the cluster still has this shard.
    pub fn has(&self, shard: &Rc<Shard>) -> bool {
        self.all.borrow().iter().any(|known| Rc::ptr_eq(known, shard))
    }

    /// Takes note that a slot has another shard. Wakes the sessions that wait for a lane: their commands may belong to another one.
    fn slots_changed(&self) {
        self.version.set(self.version.get() + 1);
        self.all.borrow().iter().for_each(|shard| shard.wake_waiting());
        self.news.notify_waiters();
    }

    /// Waits until a slot has another shard than `shard`.
    async fn left(&self, slot: Slot, shard: &Rc<Shard>) {
        loop {
            let news = self.news.notified();
            if !Rc::ptr_eq(&self.of(slot), shard) {
                return;
            }
            news.await;
        }
    }

    /// Leases a connection at the shard that serves a slot, as [`Upstream::lease`](super::Upstream::lease) does. Follows the slot to
    /// another shard. Returns the shard too.
    ///
    /// # Errors
    /// Returns the error line for the client.
    pub async fn lease(
        &self,
        slot: Slot,
        key: &ConnectionKey,
        replies: &Rc<Replies>,
        share: Share,
    ) -> Result<(Lease, Rc<Shard>), ErrorLine> {
        loop {
            let shard = self.of(slot);
            tokio::select! {
                lease = shard.lease(key, replies, share) => return Ok((lease?, shard.clone())),
                () = self.left(slot, &shard) => {}
            }
        }
    }

    fn place_of(&self, number: ShardNumber) -> Option<u16> {
        let place = self.all.borrow().iter().position(|shard| shard.number() == Some(number))?;
        u16::try_from(place).ok()
    }

    /// Turns the fair scheduler on or off.
    pub(in crate::upstream) fn set_fair(&self, fair: bool) {
        self.fair.set(fair);
        self.all.borrow().iter().for_each(|shard| shard.parts.lanes.set_fair(fair));
    }

    /// Replaces the number of connections that may be leased at each shard.
    pub(in crate::upstream) fn set_lease_limit(&self, limit: usize) {
        self.all.borrow().iter().for_each(|shard| shard.parts.pool.set_limit(limit));
    }

    /// Returns the upstream's settings.
    pub(in crate::upstream) fn config(&self) -> Rc<UpstreamConfig> {
        self.common.config.get()
    }

    /// Returns the counters of this worker for the upstream.
    pub(in crate::upstream) fn counters(&self) -> &Rc<Counters> {
        &self.common.counters
    }

    /// Starts a task that ends by itself.
    pub(in crate::upstream) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.common.meter.spawn_local(task);
    }

    /// Returns the number of names, and the estimated size in bytes, of the subscriptions that share connections.
    pub(in crate::upstream) fn fan_in_size(&self) -> (usize, usize) {
        let all = self.all.borrow();
        let fans = all.iter().map(|shard| &shard.parts.fans);
        fans.fold((0, 0), |(names, size), fans| (names + fans.names(), size + fans.size()))
    }

    /// Ends every task of every shard, and with them their connections.
    pub(in crate::upstream) fn end(&self) {
        self.all.borrow().iter().for_each(|shard| shard.end());
    }
}
