//! The lanes of one replica.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tokio::time::Instant;

use super::lane::ReplicaLane;
use super::server::ReplicaServer;
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::shared::lane::Order;

/// One replica, with its lanes.
pub(super) struct ReplicaNode {
    pub(super) server: Rc<ReplicaServer>,
    lanes: RefCell<HashMap<ConnectionKey, Rc<ReplicaLane>>>,
}

impl ReplicaNode {
    pub(super) fn new(server: Rc<ReplicaServer>) -> Rc<Self> {
        let node = Rc::new(Self { server, lanes: RefCell::default() });
        let weak = Rc::downgrade(&node);
        node.server.room.on_close_unused(move || weak.upgrade().is_some_and(|node| node.close_unused()));
        node
    }

    /// Has every lane look whether it may still serve.
    pub(super) fn wake_drivers(&self) {
        self.lanes.borrow().values().for_each(|lane| lane.lane.wake_driver());
    }

    /// Returns the number of sessions that read from the replica.
    pub(super) fn sessions(&self) -> usize {
        // Two references are the map's and the driver's.
        self.lanes.borrow().values().map(|lane| Rc::strong_count(lane).saturating_sub(2)).sum()
    }

    /// Returns every lane.
    pub(super) fn every_lane(&self) -> Vec<Rc<ReplicaLane>> {
        self.lanes.borrow().values().cloned().collect()
    }

    /// Returns the lane for this key, and true if it is new: the caller then drives it.
    pub(super) fn lane(&self, key: &ConnectionKey, now: Instant) -> (Rc<ReplicaLane>, bool) {
        let mut lanes = self.lanes.borrow_mut();
        if let Some(lane) = lanes.get(key)
            && !lane.may_be_replaced(now)
        {
            return (lane.clone(), false);
        }
        // Lanes for keys that the server refuses must not pile up.
        lanes.retain(|_, lane| !lane.may_be_replaced(now));
        let lane = ReplicaLane::new(self.server.clone(), key);
        lanes.insert(key.clone(), lane.clone());
        (lane, true)
    }

    /// Closes the connection that has been unused for longest. Returns false if all are in use.
    fn close_unused(&self) -> bool {
        let lanes = self.lanes.borrow();
        // One reference is the map's, one the driver's.
        let unused = lanes.values().filter(|lane| Rc::strong_count(lane) <= 2 && lane.lane.is_idle());
        let oldest = unused.min_by_key(|lane| lane.lane.unused_since());
        oldest.inspect(|lane| lane.lane.order(Order::Retire)).is_some()
    }
}
