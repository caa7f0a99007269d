//! One shard of a cluster, as one worker uses it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::cluster::ShardNumber;
use crate::hint::Hint;
use crate::replica::ReplicaFeed;
use crate::resp::error_line::ErrorLine;
use crate::timeline::Timelines;
use crate::topology::{Address, Generation, NodeId, Outage, Topology};
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::credentials;
use crate::upstream::held::Held;
use crate::upstream::housekeeping;
use crate::upstream::leased::lease::Lease;
use crate::upstream::parts::{Common, Parts};
use crate::upstream::replica::reads::ReplicaReads;
use crate::upstream::replies::Replies;
use crate::upstream::shared::drive;
use crate::upstream::shared::fair::fair_queue::Share;
use crate::upstream::shared::fair::scheduler::Asker;
use crate::upstream::shared::lane::{Admission, Lane};

/// Why commands wait whose slot no shard serves.
const UNSERVED: &str = "no shard of the cluster serves the slot of the key";

/// One worker's connections to the primary of one shard.
pub struct Shard {
    /// Its number; `None` for the shard without a primary, to which the slots belong that no shard serves, and for the only primary of
    /// an upstream that is no cluster any more.
    number: Option<ShardNumber>,
    pub(in crate::upstream) parts: Parts,
    /// When it last got a slot.
    gained: Cell<Option<Instant>>,
}

impl Shard {
    /// Starts a shard, whose primary [`Self::adopt`] sets.
    pub(super) fn start(common: &Common, number: ShardNumber, fair: bool) -> Rc<Self> {
        Self::with(common, Some(number), fair)
    }

    /// Creates the shard without a primary.
    pub(super) fn nowhere(common: &Common) -> Rc<Self> {
        Self::with(common, None, false)
    }

    /// Stands for the only primary, whose connections `home` has.
    pub(super) fn only(home: &Parts) -> Rc<Self> {
        Rc::new(Self { number: None, parts: home.clone(), gained: Cell::default() })
    }

    fn with(common: &Common, number: Option<ShardNumber>, fair: bool) -> Rc<Self> {
        // The shard without a primary has no failovers.
        let timelines = number.map_or_else(Timelines::default, |number| common.timelines.of_shard(number));
        let parts = Parts::new(common, timelines, ReplicaFeed::none(), fair);
        let tasks = &parts.dialing.tasks;
        tasks.spawn(housekeeping::keep(parts.clone()));
        tasks.spawn(credentials::follow(parts.clone(), common.access.clone()));
        Rc::new(Self { number, parts, gained: Cell::default() })
    }

    /// Returns its number; `None` for the shard without a primary, and for the only primary of an upstream.
    pub fn number(&self) -> Option<ShardNumber> {
        self.number
    }

    /// Follows the samples of its replicas. Does nothing if it follows this feed already.
    pub(super) fn follow_replicas(&self, feed: &ReplicaFeed) {
        if self.parts.replicas.replace_feed(feed) {
            self.parts.dialing.tasks.spawn(self.parts.replicas.clone().follow());
        }
    }

    /// Returns the replicas of its primary.
    pub fn replicas(&self) -> &Rc<ReplicaReads> {
        &self.parts.replicas
    }

    /// Takes note that it got a slot.
    pub(super) fn note_gained(&self, now: Instant) {
        self.gained.set(Some(now));
    }

    /// Returns when it last got a slot. A replica that has applied what was answered before has all keys of the slot.
    pub fn gained(&self) -> Option<Instant> {
        self.gained.get()
    }

    /// Takes over what discovery says of the shard's primary.
    pub(super) fn adopt(&self, topology: &Topology) {
        self.parts.adopt(topology);
    }

    /// Has commands wait because no shard serves their slots, or ends that wait. Sessions look again where their commands belong.
    pub(super) fn await_slots(&self, unserved: bool) {
        let hold = &self.parts.dialing.hold;
        if unserved {
            hold.note_reason(UNSERVED.to_owned());
            hold.begin();
        } else {
            hold.end();
        }
        hold.notify_changed();
    }

    /// Wakes every session that waits for one of the shard's lanes, or for a replica.
    pub(super) fn wake_waiting(&self) {
        self.parts.lanes.every_lane().iter().for_each(|lane| lane.wake_waiting());
        self.parts.replicas.wake_waiting();
    }

    /// Returns the address of the shard's primary.
    pub fn address(&self) -> Option<Address> {
        self.parts.dialing.hold.primary().map(|primary| primary.address.clone())
    }

    /// Returns true if the shard's primary has this address.
    pub(super) fn is_at(&self, address: &Address) -> bool {
        self.parts.dialing.hold.primary().is_some_and(|primary| primary.address == *address)
    }

    /// Returns the generation of the shard's primary.
    pub fn generation(&self) -> Option<Generation> {
        self.parts.dialing.hold.generation()
    }

    /// Returns the process that is the shard's primary, if it is known.
    pub fn node(&self) -> Option<NodeId> {
        self.parts.dialing.hold.primary()?.node.clone()
    }

    /// Has the shard leave: what waits for its primary goes elsewhere.
    pub(super) fn leave(&self) {
        self.parts.lanes.set_gone();
        self.parts.fans.leave();
        self.adopt(&Topology::Unknown(Arc::new(Outage::Unverified(
            "the shard has left the cluster".to_owned(),
        ))));
        self.wake_waiting();
        self.parts.dialing.reports.timelines.forget_shard();
    }

    /// Ends every task, and with them the connections.
    pub(super) fn end(&self) {
        self.parts.dialing.tasks.end();
    }

    /// Returns the lane for this key. Starts one if there is none.
    pub fn lane(&self, key: &ConnectionKey) -> Rc<Lane> {
        drive::lane(&self.parts.lanes, key)
    }

    /// Returns whether `lane`, which is one of the shard's, takes a request of this client, and if not, why.
    pub fn admission(&self, lane: &Lane, asker: Asker) -> Admission {
        lane.admission(asker, || self.held_until())
    }

    /// Returns true if commands wait for the shard's primary.
    pub fn in_hold(&self) -> bool {
        self.parts.dialing.hold.is_active()
    }

    /// Returns true while a failover is under way, so that no new request may be sent.
    pub fn holding(&self) -> bool {
        self.parts.dialing.hold.is_failing_over()
    }

    /// Returns true if commands wait for the shard's primary, and `more` bytes would exceed `hold-buffer`.
    pub fn hold_full(&self, more: usize) -> bool {
        self.parts.dialing.hold.is_full(more)
    }

    /// Returns the error line, for a command that finds `hold-buffer` full.
    pub fn hold_overflow(&self) -> ErrorLine {
        self.parts.dialing.hold.overflow_error()
    }

    /// Returns the time until which commands may wait for the shard's primary.
    ///
    /// # Errors
    /// Returns the error line, if the hold has lasted longer than `hold-timeout`.
    pub fn held_until(&self) -> Result<Instant, ErrorLine> {
        self.parts.dialing.hold.held_until()
    }

    /// Counts one more client whose commands wait for the shard's primary.
    pub fn client_held(&self) -> Held {
        self.parts.dialing.hold.client_held()
    }

    /// Returns true if a session can have a leased connection without waiting for another to give one back.
    pub fn has_free_lease(&self) -> bool {
        self.parts.pool.has_room()
    }

    /// Leases a connection to the shard's primary, as [`Upstream::lease`](crate::upstream::Upstream::lease) does.
    ///
    /// # Errors
    /// Returns the error line for the client.
    pub async fn lease(
        &self,
        key: &ConnectionKey,
        replies: &Rc<Replies>,
        share: Share,
    ) -> Result<Lease, ErrorLine> {
        self.parts.pool.lease(key, replies, share).await
    }

    /// Tells discovery that the shard's primary says that the cluster is down.
    pub(in crate::upstream) fn hint_cluster_down(&self) {
        if let Some(generation) = self.generation() {
            self.parts.dialing.reports.hint(Hint::ClusterDown(generation));
        }
    }

    /// Counts an error reply, and tells discovery about one that only a node gives that is not the primary.
    pub fn note_error(&self, line: &[u8], generation: Generation) {
        self.parts.dialing.reports.note_error(line, generation);
    }
}
