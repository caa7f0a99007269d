//! The shared lanes of one worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use crate::upstream::cluster_room::{NodeConnections, Spare};
use crate::upstream::connection::identity::Identity;
use crate::upstream::connection::open::{ConnectionKey, Dialing};
use crate::upstream::hold::Hold;
use crate::upstream::leased::pool::LeasePool;
use crate::upstream::redirects::Redirects;
use crate::upstream::replies::Replies;
use crate::upstream::reports::Reports;
use crate::upstream::room::SharedRoom;
use crate::upstream::shared::lane::{Lane, Order, Phase};

/// The shared lanes of one worker to one upstream, and what serves them.
pub(in crate::upstream) struct Lanes {
    pub(in crate::upstream) dialing: Rc<Dialing>,
    // Copies of what `dialing` holds, because each read and write uses them.
    pub(in crate::upstream) hold: Rc<Hold>,
    pub(in crate::upstream) reports: Rc<Reports>,
    pub(in crate::upstream) pool: Rc<LeasePool>,
    pub(in crate::upstream) room: Rc<SharedRoom>,
    lanes: RefCell<HashMap<ConnectionKey, Rc<Lane>>>,
    /// Lanes that carry the last requests of clients whose replies a shared connection could not carry.
    side_lanes: RefCell<Vec<Rc<Lane>>>,
    /// True if tenants share the lanes, so that the fair scheduler is in use.
    fair: Cell<bool>,
    /// Follows the redirects of the node while it belongs to a cluster.
    redirects: Option<Rc<Redirects>>,
    /// True if the shard is gone, so that what waits for it goes elsewhere.
    gone: Cell<bool>,
    /// True if the node is a replica. Its refusals say nothing about the primary, and it serves no client alone.
    of_replica: bool,
}

impl Lanes {
    pub(in crate::upstream) fn new(pool: Rc<LeasePool>, room: Rc<SharedRoom>, fair: bool) -> Self {
        let dialing = pool.dialing.clone();
        Self {
            hold: dialing.hold.clone(),
            reports: dialing.reports.clone(),
            dialing,
            pool,
            room,
            lanes: RefCell::default(),
            side_lanes: RefCell::default(),
            fair: Cell::new(fair),
            redirects: None,
            gone: Cell::default(),
            of_replica: false,
        }
    }

    /// Returns the same lanes, whose redirects `redirects` follows while the node belongs to a cluster.
    pub(in crate::upstream) fn redirected_by(self, redirects: Rc<Redirects>) -> Self {
        Self { redirects: Some(redirects), ..self }
    }

    /// Returns the same lanes, whose redirects are followed as those of `other`.
    pub(in crate::upstream) fn redirected_as(self, other: &Self) -> Self {
        Self { redirects: other.redirects.clone(), ..self }
    }

    /// Returns what follows the redirects of the node; `None` while it belongs to no cluster.
    pub(in crate::upstream) fn redirects(&self) -> Option<&Rc<Redirects>> {
        self.redirects.as_ref().filter(|redirects| redirects.is_active())
    }

    /// Takes note that the shard is gone: its lanes get no connection any more.
    pub(in crate::upstream) fn set_gone(&self) {
        self.gone.set(true);
    }

    /// Has the requests of a lane sent elsewhere if the shard is gone. The lane has no connection.
    pub(in crate::upstream) fn hand_over(&self, lane: &Rc<Lane>) {
        if let Some(redirects) = self.redirects.as_ref().filter(|_| self.gone.get()) {
            redirects.take_over(lane);
            lane.enter(Phase::Idle);
        }
    }

    /// Creates what serves the lanes of a replica, which are driven and kept elsewhere.
    pub(in crate::upstream) fn of_replica(pool: Rc<LeasePool>, room: Rc<SharedRoom>) -> Self {
        Self { of_replica: true, ..Self::new(pool, room, false) }
    }

    /// Returns true if the node is a replica.
    pub(in crate::upstream) fn is_of_replica(&self) -> bool {
        self.of_replica
    }

    /// Returns the lane for this key, if there is one.
    pub(in crate::upstream) fn get(&self, key: &ConnectionKey) -> Option<Rc<Lane>> {
        self.lanes.borrow().get(key).cloned()
    }

    /// Adds the lane for this key. The caller drives it.
    pub(in crate::upstream) fn add(&self, key: &ConnectionKey) -> Rc<Lane> {
        let lane = Lane::new(key.clone(), self.fair.get());
        lane.close_gate(self.hold.is_failing_over());
        self.lanes.borrow_mut().insert(key.clone(), lane.clone());
        lane
    }

    /// Adds a side lane.
    pub(in crate::upstream) fn add_side(&self, lane: &Rc<Lane>) {
        self.side_lanes.borrow_mut().push(lane.clone());
    }

    /// Removes a side lane.
    pub(in crate::upstream) fn remove_side(&self, lane: &Rc<Lane>) {
        self.side_lanes.borrow_mut().retain(|other| !Rc::ptr_eq(other, lane));
    }

    /// Returns every lane, side lanes included.
    pub(in crate::upstream) fn every_lane(&self) -> Vec<Rc<Lane>> {
        self.lanes.borrow().values().chain(self.side_lanes.borrow().iter()).cloned().collect()
    }

    /// Turns the fair scheduler on or off: it is needed while tenants share the connections.
    pub(in crate::upstream) fn set_fair(&self, fair: bool) {
        if self.fair.replace(fair) != fair {
            self.lanes.borrow().values().for_each(|lane| lane.set_fair(fair));
        }
    }

    /// Closes the gate of every lane, so that no new request is sent, or opens it again.
    pub(in crate::upstream) fn close_gates(&self, closed: bool) {
        self.every_lane().iter().for_each(|lane| lane.close_gate(closed));
    }

    /// Cuts every lane's connection.
    pub(in crate::upstream) fn cut(&self) {
        self.every_lane().iter().for_each(|lane| lane.order(Order::Cut));
    }

    /// Has every connection closed as soon as its queue is empty.
    pub(in crate::upstream) fn vacate(&self) {
        self.every_lane().iter().for_each(|lane| lane.order(Order::Vacate));
    }

    /// Takes back the order of [`Self::vacate`].
    pub(in crate::upstream) fn stay(&self) {
        self.every_lane().iter().for_each(|lane| lane.cancel(Order::Vacate));
    }

    /// Returns true if every shared connection is open and has answered everything.
    pub(in crate::upstream) fn are_drained(&self) -> bool {
        self.every_lane().iter().all(|lane| lane.is_drained())
    }

    /// Has the connections of one identity (`None`: of all) replaced, each at a time that `at` returns.
    pub(in crate::upstream) fn retire_by(
        &self,
        identity: Option<&Identity>,
        at: impl Fn() -> tokio::time::Instant,
    ) {
        let applies =
            |lane: &&Rc<Lane>| identity.is_none_or(|identity| lane.key().identity.id() == identity.id());
        self.lanes.borrow().values().filter(applies).for_each(|lane| lane.retire_by(at()));
    }

    /// Has every open connection replaced now.
    pub(in crate::upstream) fn replace_all(&self) {
        for lane in self.lanes.borrow().values() {
            lane.retire_by(tokio::time::Instant::now());
            if lane.is_connected() && lane.ordered().is_none() {
                lane.order(Order::Replace);
            }
        }
    }

    /// Removes the lane if only its driver still holds it. Returns true if it did.
    pub(in crate::upstream) fn forget_unused(&self, lane: &Rc<Lane>) -> bool {
        let mut lanes = self.lanes.borrow_mut();
        // One reference is the map's, one the driver's.
        let unused = Rc::strong_count(lane) <= 2;
        if unused {
            lanes.remove(lane.key());
        }
        unused
    }

    /// Closes the connection that has been unused for longest. Returns false if all are in use.
    pub(in crate::upstream) fn close_unused(&self) -> bool {
        let lanes = self.lanes.borrow();
        let unused = lanes.values().filter(|lane| Rc::strong_count(lane) <= 2 && lane.is_idle());
        let oldest = unused.min_by_key(|lane| lane.unused_since());
        oldest.inspect(|lane| lane.order(Order::Retire)).is_some()
    }

    /// Returns the receiver of replies that no client waits for. It drops them.
    pub(in crate::upstream) fn nobody(&self) -> Rc<Replies> {
        Replies::nobody(&self.dialing.buffers)
    }
}

impl NodeConnections for Lanes {
    fn close_spare(&self, kind: Spare) -> bool {
        match kind {
            Spare::Idle => self.pool.close_idle(),
            Spare::Unused => self.room.close_unused(),
            Spare::Replica => false,
            Spare::Quiet => {
                let lanes = self.lanes.borrow();
                let quiet = lanes.values().find(|lane| lane.is_idle() && lane.ordered().is_none());
                quiet.inspect(|lane| lane.order(Order::Vacate)).is_some()
            }
        }
    }

    fn serve_waiting(&self) -> bool {
        self.pool.serve_waiting()
    }

    fn waits_for_room(&self) -> bool {
        self.pool.waits_for_room()
    }
}
